//! PURE: what a gate does about one ticket.
//!
//! Knows: epoch, holder, lease, steps, promises. Refuses to know: clocks, files, processes, HTTP. `now` is a value and
//! every effect is an [`Action`] for the driver, to be carried out in order.
//!
//! Invariants (each has a test that tries to break it):
//! * a lower epoch is refused for ever, a closed one is never opened again;
//! * a promotion starts only under a lease of the same epoch, confirmed in this life of the gate and still running, with no
//!   promise outstanding, and after the record that says "may run" was stored;
//! * where the service may run there is a lease that has not run out, or a stop is under way;
//! * a lease counts from the sending of the request that was confirmed, and only a confirmed answer or the promises of all
//!   peers to one nonce lengthen it;
//! * a lease counts no longer than the warden was told, and an epoch is renewed only once it is on the disk;
//! * what cannot be known (a record that is gone, a ticket at which the warden works) is taken for running and closed.

mod failsafe;
mod forced;
mod keeping;
mod orders;
mod silence;
mod terms;

use std::collections::BTreeSet;

use bcp_wire::control::{ServiceFacts, StepKind, StepOrder, StepOutcome, StepReport, TicketAnswer, TicketSync};
use bcp_wire::{Epoch, Site};

use super::record::{BootMs, Record};
use keeping::Faults;
pub use terms::{Action, Event, FoundDeadline, Peer, Terms, TicketFigures};

/// The loss action begins this long before the deadline: two grains of the driver's clock.
const LOSS_LEAD_MS: u64 = 200;
/// Wait between two attempts to stop. Stopping is retried for ever: the alternative is two active sides.
const STOP_RETRY_MS: u64 = 500;
/// Finished keys remembered. A collector repeats an order only until it is confirmed, so a few would do.
const DONE_MAX: usize = 32;
/// Unconfirmed reports kept; a ticket has one order at a time.
const REPORTS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    epoch: Epoch,
    deadline: BootMs,
    /// Confirmed since this gate started. A lease read from the file only says when to stop.
    confirmed: bool,
}

/// What is being carried out; every state carries what an operator wants to read.
#[derive(Debug, Clone, PartialEq, Hash)]
enum Job {
    Idle,
    Step {
        order: StepOrder,
    },
    Stopping {
        reason: String,
        then: Option<StepOrder>,
        began: BootMs,
        ran: bool,
    },
    /// A stop was not verified.
    StopFailed {
        reason: String,
        then: Option<StepOrder>,
        began: BootMs,
        ran: bool,
        again_at: BootMs,
    },
}

/// A lease that counts once the warden knows of it, and the order that came with it.
#[derive(Debug, Clone, Hash)]
struct Noting {
    lease: Lease,
    order: Option<StepOrder>,
}

#[derive(Debug, Clone, Hash)]
struct Round {
    nonce: u64,
    sent: BootMs,
    epoch: Epoch,
    missing: BTreeSet<Peer>,
}

/// See the module.
#[derive(Debug, Clone, Hash)]
pub struct Machine {
    terms: Terms,
    record: Record,
    /// As last handed out to be stored.
    stored: Record,
    /// As it is on the disk for certain.
    durable: Record,
    lease: Option<Lease>,
    noting: Option<Noting>,
    job: Job,
    round: Option<Round>,
    confirmed_at: BootMs,
    asked_at: BootMs,
    last_index: u64,
    trouble: Option<String>,
    faults: Faults,
    /// A promotion that waits for the watchdog to be armed.
    awaiting: Option<StepOrder>,
    /// A stop was tried, and the service may run all the same.
    unstopped: bool,
    /// Of the order of two operators, where there is one.
    pace: forced::Pace,
    /// A drill: nothing is said or heard until then.
    silent_until: Option<BootMs>,
}

impl Machine {
    /// Takes up where the last life ended. `found` is the deadline file, if it is of this boot. What follows from it comes
    /// with the first event.
    #[must_use]
    pub fn new(terms: Terms, record: Record, found: Option<FoundDeadline>, now: BootMs) -> Machine {
        let lease = found.filter(|_| record.may_run && !record.closed).map(|found| Lease {
            epoch: found.epoch,
            deadline: found.deadline,
            confirmed: false,
        });
        let mut machine = Machine {
            lease,
            noting: None,
            job: Job::Idle,
            round: None,
            confirmed_at: now,
            asked_at: BootMs(0),
            last_index: 0,
            trouble: None,
            faults: Faults::new(terms.loss),
            awaiting: None,
            pace: forced::Pace::default(),
            silent_until: None,
            unstopped: record.may_run && record.closed,
            stored: record.clone(),
            durable: record.clone(),
            record,
            terms,
        };
        if let Some(promise) = &mut machine.record.promise
            && promise.boot_id != machine.terms.boot_id
        {
            promise.boot_id.clone_from(&machine.terms.boot_id);
            promise.until = now.plus(promise.for_ms);
        }
        machine.wait_anew(now);
        machine
    }

    /// One event. The actions are to be carried out in order.
    pub fn step(&mut self, now: BootMs, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.faults.looked(now);
        // What time did comes first: no event may find a lease that has run out. Save for another's record: what this machine
        // believes counts no more, and acting on it would overwrite the record before it is looked at. And save for the
        // warden's having been told: its file was written in time, however long a disk took meanwhile.
        if !matches!(event, Event::DeadlineNoted { .. }) {
            self.noting = None;
            if !matches!(event, Event::RecordFound(_)) {
                self.judge(now, &mut out);
            }
        }
        match event {
            Event::Ticked { dice } => self.ticked(now, dice, &mut out),
            Event::RecordFound(record) => self.record_found(now, *record, &mut out),
            Event::RecordLost { reason } => self.record_lost(now, reason, &mut out),
            Event::WardenStopped => self.warden_stopped(now, &mut out),
            Event::DeadlineNoted { epoch, deadline, fault } => {
                self.deadline_noted(now, (epoch, deadline), fault, &mut out);
            }
            Event::Answered { sent, index, reported, answer } => {
                self.answered(now, sent, index, &reported, *answer, &mut out);
            }
            Event::StepEnded { key, outcome, detail, took_ms } => {
                self.step_ended(&key, outcome, detail, took_ms, &mut out);
            }
            Event::StopEnded { verified, detail } => self.stop_ended(now, verified, detail, &mut out),
            Event::Forced { epoch, to } => self.forced(now, epoch, to, &mut out),
            Event::PromiseAsked(ask) => self.promise_asked(now, &ask, &mut out),
            Event::PromiseGiven { peer, nonce, for_ms } => self.promise_given(now, &peer, nonce, for_ms, &mut out),
            Event::PromiseDenied { peer, nonce, reason } => self.promise_denied(&peer, nonce, &reason),
        }
        self.judge(now, &mut out);
        self.commit(&mut out);
        out
    }

    fn commit(&mut self, out: &mut Vec<Action>) {
        if self.record != self.stored {
            self.record.writes += 1;
            self.stored = self.record.clone();
            out.push(Action::Persist(Box::new(self.record.clone())));
        }
    }

    fn holds(&self) -> bool {
        self.record.holder == Some(self.terms.site) && !self.record.closed
    }

    const fn is_stopping(&self) -> bool {
        matches!(self.job, Job::Stopping { .. } | Job::StopFailed { .. })
    }

    /// The lease, where it allows to act now.
    fn lease_now(&self, now: BootMs) -> Option<Lease> {
        self.lease.filter(|lease| now.plus(LOSS_LEAD_MS) < lease.deadline)
    }

    /// The loss action is due where the service may run and no lease is left.
    fn judge(&mut self, now: BootMs, out: &mut Vec<Action>) {
        if self.lease.is_some() && self.lease_now(now).is_none() {
            self.lease = None;
            self.round = None;
        }
        if self.record.may_run && self.lease.is_none() && !self.is_stopping() {
            let reason = match (self.record.closed, self.record.holder == Some(self.terms.site)) {
                (true, _) => "the epoch is closed",
                (false, true) => "the lease has run out",
                (false, false) => "another site holds the ticket",
            };
            self.begin_stop(now, reason.to_owned(), None, out);
        }
    }

    fn begin_stop(&mut self, now: BootMs, reason: String, then: Option<StepOrder>, out: &mut Vec<Action>) {
        let job = std::mem::replace(&mut self.job, Job::Idle);
        self.job = match job {
            Job::Stopping { reason, then: known, began, ran } => {
                self.job = Job::Stopping { reason, then: then.or(known), began, ran };
                return;
            }
            Job::StopFailed { reason, then: known, began, ran, again_at } => {
                self.job = Job::StopFailed { reason, then: then.or(known), began, ran, again_at };
                return;
            }
            Job::Step { order } => {
                out.push(Action::KillStep);
                let detail = format!("killed: {reason}");
                self.report(&order, StepOutcome::Failed, Some(detail), 0);
                Job::Idle
            }
            Job::Idle => Job::Idle,
        };
        if self.holds() {
            self.record.closed = true;
        }
        self.let_go();
        let ran = self.record.may_run;
        self.job = Job::Stopping { reason, then, began: now, ran };
        self.commit(out);
        out.push(Action::RunStop { epoch: self.record.epoch, holder: self.record.holder });
        out.push(Action::SyncNow);
    }

    fn ticked(&mut self, now: BootMs, dice: u64, out: &mut Vec<Action>) {
        if let Job::StopFailed { again_at, .. } = &self.job
            && now >= *again_at
            && let Job::StopFailed { reason, then, began, ran, .. } = std::mem::replace(&mut self.job, Job::Idle)
        {
            self.job = Job::Stopping { reason, then, began, ran };
            out.push(Action::RunStop { epoch: self.record.epoch, holder: self.record.holder });
        }
        self.go_on_fenced(now, out);
        self.go_on_forced(now, out);
        self.seek_promises(now, dice, out);
    }

    fn extend(&mut self, now: BootMs, epoch: Epoch, sent: BootMs, confirmed: bool, out: &mut Vec<Action>) {
        let deadline = sent.plus(self.terms.timing.ttl_holder_ms);
        // What reaches no further than the lease changes nothing of it: an old answer does not confirm what rests on promises.
        let known = self.lease_now(now).is_some_and(|lease| lease.epoch == epoch && lease.deadline >= deadline);
        if now.plus(LOSS_LEAD_MS) >= deadline || known {
            return;
        }
        self.commit(out);
        self.noting = Some(Noting { lease: Lease { epoch, deadline, confirmed }, order: None });
        out.push(Action::NoteDeadline { epoch, deadline });
    }

    fn answered(
        &mut self,
        now: BootMs,
        sent: BootMs,
        index: u64,
        reported: &[String],
        answer: TicketAnswer,
        out: &mut Vec<Action>,
    ) {
        if self.is_silent(now) || self.falls_silent(now, &answer) {
            return;
        }
        self.confirmed_at = self.confirmed_at.max(sent);
        self.confirm_reports(reported);
        if answer.epoch < self.record.epoch {
            let why = if self.is_forced() { "until they are readmitted" } else { "restored from a backup?" };
            self.trouble = Some(format!(
                "the collectors are at epoch {}, this gate has seen {}: {why}",
                answer.epoch, self.record.epoch
            ));
            return;
        }
        let adopted = answer.epoch > self.record.epoch;
        if adopted {
            self.adopt(now, answer.epoch, answer.holder, out);
        } else if self.record.holder.is_none() {
            self.record.holder = answer.holder;
        } else if answer.holder.is_some() && answer.holder != self.record.holder {
            self.trouble = Some(format!("epoch {} is said to have another holder now", answer.epoch));
            return;
        }
        if answer.ttl_holder_ms != self.terms.timing.ttl_holder_ms {
            self.trouble = Some(format!(
                "timing differs: the collectors lease for {} ms, this gate is set to {} ms",
                answer.ttl_holder_ms, self.terms.timing.ttl_holder_ms
            ));
            if answer.ttl_holder_ms < self.terms.timing.ttl_holder_ms {
                return;
            }
        } else if !self.is_stopping() {
            self.trouble = None;
        }
        let mine = answer.holder == Some(self.terms.site);
        // An epoch heard of just now is not the one that the request asked to renew.
        if answer.renewed && !adopted && mine && self.holds() && !self.is_stopping() {
            self.extend(now, answer.epoch, sent, true, out);
        }
        if index >= self.last_index {
            self.last_index = index;
            match (answer.order, &mut self.noting) {
                (Some(order), Some(noting)) => noting.order = Some(order),
                (Some(order), None) => self.consider(now, order, out),
                (None, _) => {}
            }
        }
    }

    fn confirm_reports(&mut self, reported: &[String]) {
        let (confirmed, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.record.reports).into_iter().partition(|report| reported.contains(&report.key));
        self.record.reports = open;
        self.record.done.extend(confirmed);
        let surplus = self.record.done.len().saturating_sub(DONE_MAX);
        self.record.done.drain(..surplus);
    }

    /// A higher epoch: stored at once, and whatever ran under a lower one goes, unless the same site goes on.
    fn adopt(&mut self, now: BootMs, epoch: Epoch, holder: Option<Site>, out: &mut Vec<Action>) {
        let goes_on = self.holds() && holder == Some(self.terms.site) && !self.is_stopping();
        self.record.epoch = epoch;
        self.record.holder = holder;
        self.record.forced = None;
        // Of a gate that lost its record nobody knows whether it closed this one; only a later one is open for certain.
        self.record.closed = std::mem::take(&mut self.record.lost);
        self.round = None;
        if matches!(self.job, Job::Step { .. })
            && let Job::Step { order } = std::mem::replace(&mut self.job, Job::Idle)
        {
            out.push(Action::KillStep);
            let detail = format!("superseded by epoch {epoch}");
            self.report(&order, StepOutcome::Rejected, Some(detail), 0);
        }
        if !goes_on || self.record.closed {
            // A lease of an older epoch is worth nothing now; judge() stops what may still run.
            self.let_go();
        }
        self.commit(out);
        self.judge(now, out);
        out.push(Action::SyncNow);
    }

    /// This ticket's part of the next request. What another site would begin upon is told once it is on the disk: a gate
    /// that says "closed" and starts anew must still know it.
    #[must_use]
    pub fn sync_part(&self, facts: Option<ServiceFacts>) -> TicketSync {
        let (record, durable) = (&self.record, &self.durable);
        let knows_epoch = durable.epoch == record.epoch && durable.holder == record.holder;
        let is_kept = durable.epoch == record.epoch && durable.closed && !durable.may_run;
        let may_renew =
            self.holds() && !self.is_stopping() && knows_epoch && !durable.closed && !self.faults.is_blind();
        let may_be_told = |report: &&StepReport| {
            let frees = matches!(report.kind, StepKind::Stop | StepKind::Seal)
                && matches!(report.outcome, StepOutcome::Done | StepOutcome::Already);
            !frees || durable.reports.iter().chain(&durable.done).any(|kept| kept.key == report.key)
        };
        TicketSync {
            ticket: self.terms.ticket.clone(),
            seen: durable.epoch,
            closed: is_kept && record.closed && !record.may_run && !self.is_stopping(),
            // What the collectors did not grant they cannot renew.
            renew: (may_renew && record.forced.is_none()).then_some(record.epoch),
            reports: record.reports.iter().filter(may_be_told).cloned().collect(),
            facts,
            trouble: self.trouble(),
            unstopped: self.unstopped || self.faults.is_unstopped(),
            loss: Some(self.terms.loss),
            forced: knows_epoch && self.is_forced(),
        }
    }

    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The record as it was last handed out to be stored.
    #[must_use]
    pub const fn stored(&self) -> &Record {
        &self.stored
    }

    #[must_use]
    pub fn figures(&self) -> TicketFigures {
        let doing = match &self.job {
            _ if self.faults.is_blind() => "waiting".to_owned(),
            Job::Idle if self.record.may_run => "active".to_owned(),
            Job::Idle => "idle".to_owned(),
            Job::Step { order } => format!("step {}", order.kind.as_str()),
            Job::Stopping { reason, .. } => format!("stopping: {reason}"),
            Job::StopFailed { reason, .. } => format!("stopping again: {reason}"),
        };
        TicketFigures {
            ticket: self.terms.ticket.clone(),
            epoch: self.record.epoch,
            holder: self.record.holder,
            closed: self.record.closed,
            active: self.record.may_run,
            doing,
            deadline: self.lease.map(|lease| lease.deadline),
            promised_until: self.record.promise.as_ref().map(|promise| promise.until),
            trouble: self.trouble(),
        }
    }
}

#[cfg(test)]
mod tests;
