//! What this gate does not have to itself: the disk, the warden and what the warden wrote.
//!
//! Knows: what is on the disk for certain, what the warden was told, what is wrong with either. Refuses to know: how a file
//! is written. Invariant: whatever cannot be known makes a lease shorter and a service stop, never the other way round.

use bcp_wire::Epoch;
use bcp_wire::control::StepOutcome;

use super::{Action, Job, Machine};
use crate::gate::config::Loss;
use crate::gate::record::{BootMs, Record};
use crate::gate::watchdog::Fence;

/// A record that was lost is said for this long: enough for the ledger and an alarm. A gate with trouble is given no ticket.
const LOST_SHOWN_MS: u64 = 5_000;

/// What is wrong around the machine, each for as long as it is.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Faults {
    /// Of the disk.
    store: Option<String>,
    /// Of the file that the warden reads.
    note: Option<String>,
    /// The ticket's files cannot be looked at now.
    blind: Option<String>,
    /// And what the warden stops meanwhile is not verified.
    unstopped: bool,
    /// Until when it is said.
    lost: Option<(BootMs, String)>,
    /// What the warden says of the watchdog, where one is needed.
    fence: Option<Fence>,
}

impl Faults {
    pub(super) fn new(loss: Loss) -> Faults {
        let unknown = || Fence::Unusable { reason: "its warden was not heard of yet".to_owned() };
        Faults { fence: (loss == Loss::Fence).then(unknown), ..Faults::default() }
    }

    /// Why nothing may be promoted, where a watchdog is needed.
    pub(super) fn unfenced(&self) -> Option<String> {
        match self.fence.as_ref()? {
            Fence::Armed => None,
            Fence::Ready => Some("the watchdog is being armed".to_owned()),
            Fence::Unusable { reason } => Some(reason.clone()),
        }
    }

    fn no_fence(&self) -> Option<String> {
        match self.fence.as_ref()? {
            Fence::Armed | Fence::Ready => None,
            Fence::Unusable { reason } => Some(format!("it has no watchdog: {reason}")),
        }
    }

    /// The files were looked at: this machine is stepped.
    pub(super) fn looked(&mut self, now: BootMs) {
        (self.blind, self.unstopped) = (None, false);
        self.lost.take_if(|(until, _)| now >= *until);
    }

    pub(super) const fn is_blind(&self) -> bool {
        self.blind.is_some()
    }

    pub(super) const fn is_unstopped(&self) -> bool {
        self.unstopped
    }
}

impl Machine {
    /// For the operator: what is wrong around this gate before what is wrong with its service.
    pub(super) fn trouble(&self) -> Option<String> {
        let Faults { store, note, blind, unstopped: _, lost, fence: _ } = &self.faults;
        let lost = lost.as_ref().map(|(_, what)| what);
        blind
            .as_ref()
            .or(store.as_ref())
            .or(note.as_ref())
            .or(lost)
            .cloned()
            .or_else(|| self.faults.no_fence())
            .or_else(|| self.trouble.clone())
    }

    /// What the warden says of the watchdog; told where this ticket needs one.
    pub fn fence_heard(&mut self, fence: Fence) {
        self.faults.fence = Some(fence);
    }

    /// No lease, and none on its way.
    pub(super) fn let_go(&mut self) {
        (self.lease, self.noting, self.round, self.awaiting) = (None, None, None, None);
    }

    /// This record is on the disk.
    pub fn saved(&mut self, record: &Record) {
        self.durable = record.clone();
        self.faults.store = None;
    }

    /// The last record could not be stored; the next step hands it out again.
    pub fn not_stored(&mut self, reason: &str) {
        self.stored.writes = u64::MAX;
        self.faults.store = Some(format!("its disk does not take its state: {reason}"));
    }

    /// The files cannot be looked at: this machine is not stepped, and says nothing that they could belie. `unstopped`: the
    /// warden stops the service and has not verified it.
    pub fn blinded(&mut self, reason: &str, unstopped: bool) {
        (self.faults.blind, self.faults.unstopped) = (Some(reason.to_owned()), unstopped);
    }

    /// The warden could not be told of a deadline.
    #[must_use]
    pub const fn is_unheard(&self) -> bool {
        self.faults.note.is_some()
    }

    /// It could be told now.
    pub fn can_be_heard(&mut self) {
        self.faults.note = None;
    }

    /// The lease counts from here on, and what was ordered with it can be begun: the warden knows when to stop it.
    pub(super) fn deadline_noted(
        &mut self,
        now: BootMs,
        noted: (Epoch, BootMs),
        fault: Option<String>,
        out: &mut Vec<Action>,
    ) {
        let Some(noting) = self.noting.take_if(|noting| (noting.lease.epoch, noting.lease.deadline) == noted) else {
            return;
        };
        self.faults.note = fault.map(|reason| format!("its warden cannot be told how long the lease runs: {reason}"));
        if self.faults.note.is_none() && self.holds() && !self.is_stopping() {
            self.lease = Some(noting.lease);
        }
        self.judge(now, out);
        if let Some(order) = noting.order {
            self.consider(now, order, out);
        }
    }

    /// Someone else wrote the record: it counts, not what this machine believes.
    pub(super) fn record_found(&mut self, now: BootMs, record: Record, out: &mut Vec<Action>) {
        let stopped = self.record.may_run && !record.may_run;
        self.stored = record.clone();
        self.durable = record.clone();
        let known = std::mem::replace(&mut self.record, record);
        // What ran, ran under what the disk knows.
        if self.record.closed {
            self.let_go();
            if let Job::Step { order } = std::mem::replace(&mut self.job, Job::Idle) {
                out.push(Action::KillStep);
                self.report(&order, StepOutcome::Rejected, Some("the epoch was closed meanwhile".to_owned()), 0);
            }
        }
        // What the disk did not take is not forgotten: neither an epoch nor that it was closed.
        if known.epoch > self.record.epoch {
            (self.record.epoch, self.record.holder) = (known.epoch, known.holder);
            (self.record.closed, self.record.lost) = (known.closed, known.lost);
        } else if known.epoch == self.record.epoch {
            self.record.closed |= known.closed;
        }
        if self.record.closed {
            self.let_go();
        }
        if stopped {
            self.job = Job::Idle;
            self.unstopped = false;
            self.trouble = Some("the warden stopped the service: this gate was late".to_owned());
            out.push(Action::ForgetDeadline);
        }
        self.judge(now, out);
        out.push(Action::SyncNow);
    }

    /// The record is gone, or is no record any more. What it said last is known here, but for what the warden may have written:
    /// that it closed and stopped. So do we.
    pub(super) fn record_lost(&mut self, now: BootMs, reason: String, out: &mut Vec<Action>) {
        self.durable = Record::default();
        self.stored.writes = u64::MAX;
        self.faults.lost = Some((now.plus(LOST_SHOWN_MS), format!("its record was lost: {reason}")));
        self.let_go();
        if self.holds() {
            self.record.closed = true;
        }
        self.judge(now, out);
        out.push(Action::SyncNow);
    }

    /// The warden stopped the service, or tried to, and its word may not have reached the disk: stopped once more, and looked at.
    pub(super) fn warden_stopped(&mut self, now: BootMs, out: &mut Vec<Action>) {
        self.let_go();
        if self.record.may_run && !self.is_stopping() {
            self.begin_stop(now, "the warden stopped the service: this gate was late".to_owned(), None, out);
        } else if !self.record.may_run {
            out.push(Action::ForgetDeadline);
        }
    }
}
