//! Tickets: who may run a service, under which epoch, and why.
//!
//! Knows: leases, observations, freshness and moves, all in log time. Refuses to know: clocks, sockets, and whether a gate
//! obeys (a gate that does not is bounded by its lease and by the epoch its actuator checks).
//!
//! Invariants: nothing expires unless log time passed; a grant to another site takes effect only after a clean release or
//! the full wait; `w` holds only what two people sent there; frozen, off and observe change nothing by themselves; every state has an exit.

mod answer;
mod block;
mod cause;
mod change;
pub mod chart;
mod command;
mod conditions;
pub mod decide;
pub mod event;
pub mod explain;
pub mod force;
pub mod freshness;
mod intake;
mod judge;
pub mod lease;
pub mod observe;
mod progress;
mod readmit;
mod require;
pub mod restored;
pub mod saga;
pub mod servers;
mod show;
pub mod silence;
pub mod ticket;
pub mod untold;
pub mod view;
mod weigh;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Epoch, Id, Site};

pub use command::Refusal;
pub use event::TicketEvent;
pub use force::Guard;
pub(crate) use intake::clip;
pub use intake::gate_fresh_ms;
pub use ticket::Ticket;
pub use view::{CanFailover, Explanation, TicketView};

use crate::alarms::Priority;
use crate::policy::Timing;
use crate::time::LogTime;

/// What one decide process sees of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sight {
    Seen,
    Silent,
    /// Not listened long enough, or the part that would know is not running. Never a vote.
    Unknown,
}

/// Report of one decide process, every second; expires after 3 s of log time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    pub observer: Site,
    /// Random per process start.
    pub session: u64,
    /// Order of this observer's words, growing across its restarts: one that was overtaken, or comes twice, is ignored.
    /// 0: of a release that did not number them; taken only where none with a number is fresh.
    #[serde(default)]
    pub seq: u64,
    pub policy_hash: String,
    /// Its control plane: the other collector, or any gate of the site, was heard within the site_lost period.
    pub control: BTreeMap<Site, Sight>,
    /// Any agent of the site published fresh data.
    pub agents: BTreeMap<Site, Sight>,
}

/// What an operator may do to a ticket. `expect` is the epoch and revision that were seen: where the ticket has another one
/// by now, nothing is done. Absent only where an operator said so on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum TicketCommand {
    Move {
        to: Site,
        reason: String,
        expect: Option<(Epoch, u64)>,
    },
    Abort {
        reason: String,
        #[serde(default)]
        expect: Option<(Epoch, u64)>,
    },
    Freeze {
        reason: String,
        for_ms: u64,
        #[serde(default)]
        expect: Option<(Epoch, u64)>,
    },
    Unfreeze {
        reason: String,
        #[serde(default)]
        expect: Option<(Epoch, u64)>,
    },
    /// `epoch` is of the question that is answered.
    Confirm {
        epoch: Epoch,
        #[serde(default)]
        expect: Option<(Epoch, u64)>,
    },
    /// Goes around one guard. Asks when it comes from the first operator; done when another one asks the same in time.
    Force {
        to: Site,
        guard: Guard,
        reason: String,
        #[serde(default)]
        expect: Option<(Epoch, u64)>,
    },
    /// Lets the collectors decide again what was decided without them. `holder`: the site that runs it; absent: nobody does.
    Readmit {
        holder: Option<Site>,
        reason: String,
        #[serde(default)]
        expect: Option<(Epoch, u64)>,
    },
}

impl TicketCommand {
    /// The epoch and revision that the operator saw.
    #[must_use]
    pub const fn expect(&self) -> Option<(Epoch, u64)> {
        match self {
            TicketCommand::Move { expect, .. }
            | TicketCommand::Abort { expect, .. }
            | TicketCommand::Freeze { expect, .. }
            | TicketCommand::Unfreeze { expect, .. }
            | TicketCommand::Confirm { expect, .. }
            | TicketCommand::Force { expect, .. }
            | TicketCommand::Readmit { expect, .. } => *expect,
        }
    }
}

/// A state of tickets that an operator must see as an alarm, agreed by construction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// Alarm key, as `ticket-frozen/prescriptions`.
    pub key: String,
    pub priority: Priority,
    pub site: Option<Site>,
    pub ticket: Option<Id>,
    /// By language: nl, fr, de, en.
    pub title: BTreeMap<String, String>,
    /// English, a sentence without its full stop.
    pub explain: String,
    /// Sites whose loss explains it.
    pub needs: Vec<Site>,
    /// It explains what stands or falls with its site.
    pub causal: bool,
    /// Wanted, and nothing an operator could mend: listed, and nobody is called.
    pub by_design: bool,
    /// What to do, a file below `runbooks`.
    pub runbook: Option<&'static str>,
}

/// The agreed state of all tickets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// Log time of the last tick.
    pub now: LogTime,
    pub timing: Option<Timing>,
    /// Of the agreed policy; observers that name another one run another configuration.
    pub policy_hash: String,
    /// The agreed policy is in force since.
    #[serde(default)]
    pub policy_since: LogTime,
    /// Hash of the policy that was refused last, and why.
    #[serde(default)]
    pub refused_policy: Option<(String, String)>,
    pub tickets: BTreeMap<Id, Ticket>,
    pub board: observe::Board,
    /// Since when nobody can say how long a supply of the site lasts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub untold_since: BTreeMap<Site, LogTime>,
}
