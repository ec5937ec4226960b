//! Drills: exercises that leave a BCP test report.
//!
//! Knows: which drill is under way, which ledger entries tell of it, and what they add up to. Refuses to know: how a ticket
//! moves (a drill gives the orders that exist already, and reads what came of them) and who sits at the terminal. Invariants:
//! one drill per ticket; every drill ends, by its operator or by its limit; its report is a function of ledger entries alone.

mod judge;
mod legs;
pub mod plan;
pub mod report;
mod standing;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Epoch, Id, Site};

pub use plan::Plan;
pub use report::Report;
pub use standing::{CopySeen, Standing};

use crate::ledger::{LedgerEntry, LedgerEvent};
use crate::policy::{Rpo, Timing};
use crate::time::{LogTime, Wall};

/// Ledger entries that one drill keeps: a move there and back with every step tried three times, ten times over.
pub const MAX_ENTRIES: usize = 400;
/// A drill that nobody ends ends by itself.
pub const LIMIT_MS: u64 = 3_600_000;
/// Drills that are over and still listed; the ledger has them all.
pub const MAX_PAST: usize = 64;
/// What a gate is asked to keep silent for on top of the lease and the wait: time to promote, publish and look.
pub const SILENT_MORE_MS: u64 = 45_000;
/// Nobody keeps a gate silent for longer; gates themselves agree to no more.
pub const SILENT_MOST_MS: u64 = 300_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillKind {
    /// A planned switchover, in order.
    Move,
    /// The holder's gates fall silent, as if they were cut off: the lease is waited out.
    Isolate,
}

impl DrillKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DrillKind::Move => "move",
            DrillKind::Isolate => "isolate",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum DrillCommand {
    /// From here on what happens to the ticket belongs to the drill. The move itself is an order of its own.
    Begin {
        ticket: Id,
        kind: DrillKind,
        to: Site,
        /// It is to be moved back afterwards.
        back: bool,
        reason: String,
        expect: Option<(Epoch, u64)>,
    },
    /// The report is written. `note`: why it was given up; absent where it went as far as it should.
    End {
        drill: String,
        #[serde(default)]
        note: Option<String>,
    },
}

/// What the policy asks of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goals {
    #[serde(flatten)]
    pub rpo: Rpo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
}

/// How a drill began: everything that its report needs and that no later entry tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Began {
    pub drill: String,
    pub ticket: Id,
    pub service: Id,
    pub kind: DrillKind,
    pub from: Site,
    pub to: Site,
    pub back: bool,
    /// Who asked.
    pub operator: String,
    pub reason: String,
    pub timing: Timing,
    pub goals: Goals,
    pub policy_hash: String,
    /// How long the gates of `from` were asked to keep silent; 0 where they were not.
    pub silent_ms: u64,
    pub standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DrillEvent {
    Began {
        began: Box<Began>,
    },
    Ended {
        drill: String,
        ticket: Id,
        /// Why it was given up.
        note: Option<String>,
        standing: Box<Standing>,
    },
    Reported {
        report: Box<Report>,
    },
}

impl DrillEvent {
    #[must_use]
    pub fn drill(&self) -> &str {
        match self {
            DrillEvent::Began { began } => &began.drill,
            DrillEvent::Ended { drill, .. } => drill,
            DrillEvent::Reported { report } => &report.drill,
        }
    }

    /// One English sentence, complete without context.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            DrillEvent::Began { began } => {
                let Began { drill, ticket, kind, from, to, operator, reason, .. } = &**began;
                let what = match kind {
                    DrillKind::Move => format!("{ticket} is to move from site {from} to site {to}"),
                    DrillKind::Isolate => {
                        format!("the gates of site {from} fall silent about {ticket}, and site {to} is to take it over")
                    }
                };
                format!("Drill {drill} began: {what} (asked by {operator}: {reason}).")
            }
            DrillEvent::Ended { drill, ticket, note: None, .. } => format!("Drill {drill} of {ticket} is over."),
            DrillEvent::Ended { drill, ticket, note: Some(note), .. } => {
                format!("Drill {drill} of {ticket} was given up: {note}.")
            }
            DrillEvent::Reported { report } => {
                format!("Report of drill {}: {}", report.drill, report.verdict.sentence)
            }
        }
    }
}

/// The entries that tell of one drill, in their order; its beginning first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gathered {
    pub began: Began,
    pub entries: Vec<LedgerEntry>,
    /// Past [`MAX_ENTRIES`].
    pub left_out: u64,
}

impl Gathered {
    /// Of the entry with which a drill begins.
    #[must_use]
    pub fn from_first(entry: &LedgerEntry) -> Option<Gathered> {
        let LedgerEvent::Drill { event: DrillEvent::Began { began } } = &entry.what else { return None };
        Some(Gathered { began: (**began).clone(), entries: vec![entry.clone()], left_out: 0 })
    }

    /// Takes an entry in where it is about the drill. The last one is always kept.
    pub fn hear(&mut self, entry: &LedgerEntry) {
        if !concerns(&self.began, entry) {
            return;
        }
        let is_last = matches!(&entry.what, LedgerEvent::Drill { event: DrillEvent::Ended { .. } });
        if self.entries.len() >= MAX_ENTRIES && !is_last {
            self.left_out = self.left_out.saturating_add(1);
        } else {
            self.entries.push(entry.clone());
        }
    }
}

fn concerns(began: &Began, entry: &LedgerEntry) -> bool {
    match &entry.what {
        LedgerEvent::Ticket { event } => *event.ticket() == began.ticket,
        LedgerEvent::Service { .. } => entry.subject == format!("service:{}", began.service),
        LedgerEvent::Leader { .. } | LedgerEvent::Policy { .. } => true,
        LedgerEvent::Command { key, .. } => key.strip_prefix(&began.drill).is_some_and(|rest| rest.starts_with('-')),
        LedgerEvent::Drill { event: DrillEvent::Reported { .. } } => false,
        LedgerEvent::Drill { event } => event.drill() == began.drill,
        LedgerEvent::PolicyRefused { .. }
        | LedgerEvent::Alarm { .. }
        | LedgerEvent::Incident { .. }
        | LedgerEvent::Intervention { .. } => false,
    }
}

/// Drills under way, by ticket, and the last ones that are over.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    pub running: BTreeMap<Id, Running>,
    pub past: Vec<Past>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub at: LogTime,
    pub gathered: Gathered,
}

/// A drill that is over, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    pub drill: String,
    pub ticket: Id,
    pub kind: DrillKind,
    pub from: Site,
    pub to: Site,
    pub operator: String,
    pub began: Wall,
    pub ended: Wall,
    pub verdict: report::Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// Ledger entry that carries the report.
    pub seq: u64,
}

impl State {
    /// Every entry that is written passes here.
    pub(crate) fn hear(&mut self, entry: &LedgerEntry) {
        for running in self.running.values_mut() {
            running.gathered.hear(entry);
        }
    }

    #[must_use]
    pub fn running_named(&self, drill: &str) -> Option<&Running> {
        self.running.values().find(|running| running.gathered.began.drill == drill)
    }

    /// Those that nobody has ended in time.
    pub(crate) fn overdue(&self, now: LogTime) -> Vec<String> {
        let over = self.running.values().filter(|running| now.since(running.at) >= LIMIT_MS);
        over.map(|running| running.gathered.began.drill.clone()).collect()
    }

    pub(crate) fn keep(&mut self, past: Past) {
        if self.past.len() >= MAX_PAST {
            self.past.remove(0);
        }
        self.past.push(past);
    }
}

/// Name of the drill whose order is the ledger entry with this number.
#[must_use]
pub fn name_of(seq: u64) -> String {
    format!("drl-{seq:06}")
}

/// The ledger entry that a drill's name tells; its first entry follows it.
#[must_use]
pub fn seq_of(drill: &str) -> Option<u64> {
    drill.strip_prefix("drl-")?.parse().ok()
}
