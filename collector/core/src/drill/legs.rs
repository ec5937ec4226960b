//! The moves of a drill, read from its entries.
//!
//! Knows: which entry begins and ends a move, and what lies between. Each move is read as it was, whoever or whatever
//! caused it: that it was not the one the drill wanted is for `judge` to say.

use serde::{Deserialize, Serialize};

use bcp_wire::control::StepKind;
use bcp_wire::{Epoch, Id, Site};

use super::Gathered;
use crate::failover::TicketEvent;
use crate::ledger::{LedgerEntry, LedgerEvent};
use crate::time::{LogTime, Wall};

/// Where in the log something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Ledger entry.
    pub seq: u64,
    pub index: u64,
    pub log_time: LogTime,
    pub wall: Wall,
}

impl Moment {
    #[must_use]
    pub const fn of(entry: &LedgerEntry) -> Moment {
        Moment { seq: entry.seq, index: entry.index, log_time: entry.log_time, wall: entry.wall }
    }
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum LegEnd {
    /// Promoted and published.
    Finished,
    Stuck {
        reason: String,
    },
    /// Given up before anything had stopped.
    Cancelled {
        reason: String,
    },
    /// The drill was over before.
    Unfinished,
}

/// One move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    pub from: Site,
    /// Where it was to go; absent while nothing was granted after a lease ran out.
    pub wanted: Option<Site>,
    /// Where it was granted last.
    pub to: Option<Site>,
    pub cause: Option<String>,
    /// The holder was asked to stop; else its lease ran out.
    pub planned: bool,
    pub epoch_before: Epoch,
    pub epoch_after: Option<Epoch>,
    /// The stop was asked, or the lease had run out.
    pub began: Moment,
    /// From here its time counts: the order, or the last renewal of the lease that ran out.
    pub fault: LogTime,
    /// Every gate reported the stop: no waiting was needed.
    pub released: Option<Moment>,
    pub granted: Option<Moment>,
    pub effective: Option<Moment>,
    /// The last promotion was reported.
    pub promoted: Option<Moment>,
    /// Clients were pointed there.
    pub published: Option<Moment>,
    /// Latched for the epoch before, when the next one was granted.
    pub in_sync: Option<bool>,
    /// Gates that could not be sealed: the time waited out covers them.
    pub covered_by_time: Vec<Id>,
    #[serde(flatten)]
    pub end: LegEnd,
}

impl Leg {
    /// From the order or the fault until the service was active there, in log time.
    #[must_use]
    pub fn active_after_ms(&self) -> Option<u64> {
        self.promoted.map(|moment| moment.log_time.since(self.fault))
    }

    /// Until clients were served there: the recovery time.
    #[must_use]
    pub fn served_after_ms(&self) -> Option<u64> {
        self.published.map(|moment| moment.log_time.since(self.fault))
    }

    /// It was free until the other side's lease had run out and the wait was over, or that side had released it.
    #[must_use]
    pub fn waited(&self, acquire_after_ms: u64) -> Option<bool> {
        let effective = self.effective?;
        let out = self.released.is_some() || effective.log_time.since(self.began.log_time) >= acquire_after_ms;
        Some(out)
    }
}

/// What is read while going through the entries.
struct Reader<'a> {
    gathered: &'a Gathered,
    legs: Vec<Leg>,
    open: Option<Leg>,
    latch: (Epoch, Option<bool>),
}

/// The moves, in their order.
pub(super) fn read(gathered: &Gathered) -> Vec<Leg> {
    let standing = &gathered.began.standing;
    let latch = (standing.epoch, standing.in_sync);
    let mut reader = Reader { gathered, legs: Vec::new(), open: None, latch };
    for entry in &gathered.entries {
        if let LedgerEvent::Ticket { event } = &entry.what {
            reader.take(event, Moment::of(entry));
        }
    }
    reader.close(LegEnd::Unfinished);
    reader.legs
}

impl Reader<'_> {
    fn take(&mut self, event: &TicketEvent, at: Moment) {
        use TicketEvent as E;
        match event {
            E::DrainStarted { from, to, epoch, cause, .. } => {
                self.close(LegEnd::Unfinished);
                let mut leg = leg(*from, *epoch, at, at.log_time, true);
                (leg.wanted, leg.cause) = (Some(*to), Some(cause.to_string()));
                self.open = Some(leg);
            }
            E::Expired { holder, epoch, .. } => {
                let renewed = LogTime(at.log_time.0.saturating_sub(self.gathered.began.timing.ttl_ms));
                self.lost(*holder, *epoch, at, renewed);
            }
            E::Closed { holder, epoch, .. } => self.lost(*holder, *epoch, at, at.log_time),
            E::Granted { holder, epoch, cause, .. } => self.granted(*holder, *epoch, cause.to_string(), at),
            E::Latched { epoch, in_sync, .. } => self.latch = (*epoch, Some(*in_sync)),
            E::MoveStuck { reason, .. } => self.close(LegEnd::Stuck { reason: reason.clone() }),
            E::DrainCancelled { reason, .. } => self.close(LegEnd::Cancelled { reason: reason.clone() }),
            E::MoveFinished { .. } => {
                if let Some(leg) = &mut self.open {
                    leg.published = Some(at);
                }
                self.close(LegEnd::Finished);
            }
            E::Released { .. }
            | E::Effective { .. }
            | E::CoveredByTime { .. }
            | E::StepDone { step: StepKind::Promote, .. } => self.note(event, at),
            E::StepDone { .. }
            | E::StepFailed { .. }
            | E::Lapsing { .. }
            | E::Compensating { .. }
            | E::Frozen { .. }
            | E::Unfrozen { .. }
            | E::ConfirmationAsked { .. }
            | E::ConfirmationLapsed { .. }
            | E::ConfirmationWithdrawn { .. }
            | E::ForceAsked { .. }
            | E::ForceLapsed { .. }
            | E::WouldMove { .. }
            | E::Withheld { .. }
            | E::Weighed { .. }
            | E::CapacityOrdered { .. }
            | E::CapacityExhausted { .. }
            | E::RulesChanged { .. }
            | E::Overruled { .. }
            | E::Readmitted { .. }
            | E::Retired { .. } => {}
        }
    }

    /// A lease that runs out within a move belongs to that move.
    fn lost(&mut self, holder: Site, epoch: Epoch, at: Moment, fault: LogTime) {
        let draining = self.open.as_ref().is_some_and(|leg| leg.granted.is_none());
        if !draining {
            self.close(LegEnd::Unfinished);
            self.open = Some(leg(holder, epoch, at, fault, false));
        }
    }

    fn granted(&mut self, to: Site, epoch: Epoch, cause: String, at: Moment) {
        let before = self.latch;
        let from = self.gathered.began.from;
        let leg = self.open.get_or_insert_with(|| leg(from, before.0, at, at.log_time, false));
        leg.wanted.get_or_insert(to);
        leg.cause.get_or_insert(cause);
        (leg.to, leg.epoch_after, leg.granted) = (Some(to), Some(epoch), Some(at));
        // What was latched for the epoch that ended; a later word is about another copy.
        leg.in_sync = before.1.filter(|_| before.0 == leg.epoch_before);
    }

    fn note(&mut self, event: &TicketEvent, at: Moment) {
        let Some(leg) = &mut self.open else { return };
        if let TicketEvent::CoveredByTime { gate, .. } = event {
            leg.covered_by_time.push(gate.clone());
        } else if matches!(event, TicketEvent::Released { .. }) {
            leg.released = Some(at);
        } else if matches!(event, TicketEvent::Effective { .. }) {
            leg.effective = Some(at);
        } else {
            leg.promoted = Some(at);
        }
    }

    fn close(&mut self, end: LegEnd) {
        if let Some(leg) = self.open.take() {
            self.legs.push(Leg { end, ..leg });
        }
    }
}

fn leg(from: Site, epoch_before: Epoch, began: Moment, fault: LogTime, planned: bool) -> Leg {
    Leg {
        from,
        wanted: None,
        to: None,
        cause: None,
        planned,
        epoch_before,
        epoch_after: None,
        began,
        fault,
        released: None,
        granted: None,
        effective: None,
        promoted: None,
        published: None,
        in_sync: None,
        covered_by_time: Vec::new(),
        end: LegEnd::Unfinished,
    }
}
