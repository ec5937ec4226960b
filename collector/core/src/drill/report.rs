//! The BCP test report: what a drill did, how long it took, what it proves, and what went other than planned.
//!
//! Invariant: [`assemble`] is a function of the entries alone, so that whoever has the ledger gets the same report, and one
//! that was changed afterwards is found out.

use serde::{Deserialize, Serialize};

use bcp_wire::control::{StepKind, StepOutcome};
use bcp_wire::{Epoch, Id, Site};

use super::legs;
pub use super::legs::{Leg, LegEnd, Moment};
use super::{Began, DrillEvent, DrillKind, Gathered, Goals, Standing, judge};
use crate::failover::TicketEvent;
use crate::ledger::{LedgerEntry, LedgerEvent};
use crate::policy::Rpo;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub drill: String,
    pub ticket: Id,
    pub service: Id,
    pub kind: DrillKind,
    pub from: Site,
    pub to: Site,
    /// It was to be moved back.
    pub back: bool,
    pub asked_by: String,
    pub reason: String,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
    pub began: Moment,
    pub ended: Moment,
    pub goals: Goals,
    /// Recovery time: from the order, or from the last renewal before the loss, until clients were served at the other site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// Until the service was active there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_after_ms: Option<u64>,
    pub rpo: RpoFound,
    pub verdict: Verdict,
    pub checks: Vec<Check>,
    pub legs: Vec<Leg>,
    pub steps: Vec<Step>,
    /// What went other than planned, each with the ledger entry that tells it.
    pub deviations: Vec<Deviation>,
    pub evidence: Evidence,
}

/// What could have been lost, as it was known before the move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpoFound {
    /// The copy at the other site was latched in sync; absent: unknown.
    pub in_sync: Option<bool>,
    /// Age of the oldest write that the other copy may lack; absent: unknown.
    pub unsynced_ms: Option<u64>,
    /// Positions that it was behind; bytes where the copy counts bytes; absent: unknown.
    pub unsynced_positions: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Failed,
    /// Nothing failed, and something that was to be shown is unknown.
    Inconclusive,
    /// Nothing was moved.
    NotDone,
}

impl Outcome {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Inconclusive => "inconclusive",
            Outcome::NotDone => "not done",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub outcome: Outcome,
    pub sentence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Met {
    Met,
    Missed,
    Unknown,
    /// The policy asks for nothing here.
    NoGoal,
}

impl Met {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Met::Met => "met",
            Met::Missed => "missed",
            Met::Unknown => "unknown",
            Met::NoGoal => "no goal set",
        }
    }
}

/// One thing that the drill was to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub what: String,
    pub goal: String,
    pub found: String,
    pub met: Met,
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    #[serde(flatten)]
    pub at: Moment,
    /// Log time since the drill began.
    pub after_ms: u64,
    pub author: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// The ledger entry that tells it; absent: what should have come did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub text: String,
}

/// What the report can be checked against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Of the log, for `bcpctl explain TICKET --at INDEX`.
    pub first_index: u64,
    pub last_index: u64,
    /// Of the ledger.
    pub first_seq: u64,
    pub last_seq: u64,
    /// Hash of the chain before the drill's first entry, and with its last one.
    pub hash_before: String,
    pub hash_after: String,
    pub entries: usize,
    pub left_out: u64,
    pub policy_hash: String,
    /// Every epoch of the ticket in this time.
    pub epochs: Vec<Epoch>,
    pub gates: Vec<GateSaid>,
    pub before: Standing,
    pub after: Standing,
}

/// What a gate reported of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateSaid {
    pub seq: u64,
    pub site: Site,
    pub gate: Id,
    pub step: StepKind,
    pub epoch: Epoch,
    pub outcome: StepOutcome,
    /// Absent where it failed: the next attempt tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// The report of the entries from a drill's beginning to its end; none where one of both is missing.
#[must_use]
pub fn assemble(gathered: &Gathered) -> Option<Report> {
    let began = &gathered.began;
    let (first, last) = (gathered.entries.first()?, gathered.entries.last()?);
    let LedgerEvent::Drill { event: DrillEvent::Ended { note, standing, .. } } = &last.what else { return None };
    let legs = legs::read(gathered);
    let out = out_leg(began, &legs);
    let rpo = rpo(began, out);
    let checks = judge::checks(began, &legs, &rpo, standing);
    let verdict = judge::verdict(began, &legs, &checks, note.as_deref());
    Some(Report {
        drill: began.drill.clone(),
        ticket: began.ticket.clone(),
        service: began.service.clone(),
        kind: began.kind,
        from: began.from,
        to: began.to,
        back: began.back,
        asked_by: began.operator.clone(),
        reason: began.reason.clone(),
        given_up: note.clone(),
        began: Moment::of(first),
        ended: Moment::of(last),
        goals: began.goals,
        rto_ms: out.and_then(Leg::served_after_ms),
        active_after_ms: out.and_then(Leg::active_after_ms),
        rpo,
        verdict,
        checks,
        steps: gathered.entries.iter().map(|entry| step(first, entry)).collect(),
        deviations: judge::deviations(gathered, &legs, standing),
        evidence: evidence(gathered, first, last, standing),
        legs,
    })
}

/// The move that the drill is about.
pub(super) fn out_leg<'a>(began: &Began, legs: &'a [Leg]) -> Option<&'a Leg> {
    legs.iter().find(|leg| leg.from == began.from && leg.wanted == Some(began.to))
}

fn rpo(began: &Began, out: Option<&Leg>) -> RpoFound {
    let in_sync = match out.filter(|leg| leg.granted.is_some()) {
        Some(leg) => leg.in_sync,
        None => began.standing.in_sync,
    };
    match in_sync {
        Some(true) => RpoFound { in_sync, unsynced_ms: Some(0), unsynced_positions: Some(0) },
        Some(false) | None => RpoFound {
            in_sync,
            // Since it was latched so; a write before that is at both.
            unsynced_ms: began.standing.latched_ago_ms.filter(|_| began.standing.in_sync == Some(false)),
            unsynced_positions: began.standing.behind(began.from, began.to),
        },
    }
}

impl RpoFound {
    /// In words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let seconds = self.unsynced_ms.map_or_else(
            || "for how long is unknown".to_owned(),
            |ms| format!("writes of the last {} s may be missing", ms / 1_000),
        );
        let positions = self.unsynced_positions.map_or_else(
            || "how much is unknown".to_owned(),
            |behind| format!("{behind} positions (bytes, where the copy counts bytes) behind when the drill began"),
        );
        match self.in_sync {
            Some(true) => "nothing: the other copy was latched in sync before".to_owned(),
            Some(false) => format!("the other copy was latched as lacking data: {seconds}, {positions}"),
            None => format!("unknown: nothing was latched about the other copy; {positions}"),
        }
    }
}

/// A policy's rpo in words.
#[must_use]
pub fn rpo_goal(rpo: Rpo) -> String {
    match rpo {
        Rpo::Zero => "nothing is lost".to_owned(),
        Rpo::Bounded { positions } => format!("at most {positions} positions are lost"),
        Rpo::Availability => "any copy of the same history will do".to_owned(),
    }
}

fn step(first: &LedgerEntry, entry: &LedgerEntry) -> Step {
    Step {
        at: Moment::of(entry),
        after_ms: entry.log_time.since(first.log_time),
        author: entry.author.clone(),
        text: entry.text.clone(),
    }
}

fn evidence(gathered: &Gathered, first: &LedgerEntry, last: &LedgerEntry, after: &Standing) -> Evidence {
    let before = &gathered.began.standing;
    let mut epochs = vec![before.epoch];
    let mut gates = Vec::new();
    for entry in &gathered.entries {
        let LedgerEvent::Ticket { event } = &entry.what else { continue };
        if let TicketEvent::Granted { epoch, .. } = event {
            epochs.push(*epoch);
        }
        gates.extend(gate_said(entry.seq, event));
    }
    Evidence {
        first_index: first.index,
        last_index: last.index,
        first_seq: first.seq,
        last_seq: last.seq,
        hash_before: first.prev.clone(),
        hash_after: last.hash.clone(),
        entries: gathered.entries.len(),
        left_out: gathered.left_out,
        policy_hash: gathered.began.policy_hash.clone(),
        epochs,
        gates,
        before: before.clone(),
        after: after.clone(),
    }
}

fn gate_said(seq: u64, event: &TicketEvent) -> Option<GateSaid> {
    let (site, gate, step, epoch, outcome, took_ms) = match event {
        TicketEvent::StepDone { site, gate, step, epoch, outcome, took_ms, .. } => {
            (site, gate, step, epoch, outcome, Some(*took_ms))
        }
        TicketEvent::StepFailed { site, gate, step, epoch, outcome, .. } => (site, gate, step, epoch, outcome, None),
        _ => return None,
    };
    Some(GateSaid { seq, site: *site, gate: gate.clone(), step: *step, epoch: *epoch, outcome: *outcome, took_ms })
}
