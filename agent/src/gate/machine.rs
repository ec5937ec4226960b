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
//!   peers to one nonce lengthen it.

use std::collections::BTreeSet;

use bcp_wire::control::{
    PromiseAnswer, PromiseAsk, PromiseVerdict, ServiceFacts, StepKind, StepOrder, StepOutcome, StepReport,
    TicketAnswer, TicketSync,
};
use bcp_wire::{Epoch, Id, Site};

use super::config::GateTiming;
use super::record::{BootMs, LastStep, Promise, Record};

/// The loss action begins this long before the deadline: two grains of the driver's clock.
const LOSS_LEAD_MS: u64 = 200;
/// Wait between two attempts to stop. Stopping is retried for ever: the alternative is two active sides.
const STOP_RETRY_MS: u64 = 500;
/// Finished keys remembered. A collector repeats an order only until it is confirmed, so a few would do.
const DONE_MAX: usize = 32;
/// Unconfirmed reports kept; a ticket has one order at a time.
const REPORTS_MAX: usize = 32;

/// A gate of another site.
pub type Peer = (Site, Id);

/// What does not change while the gate runs.
#[derive(Debug, Clone)]
pub struct Terms {
    pub site: Site,
    pub gate: Id,
    pub ticket: Id,
    pub timing: GateTiming,
    pub failsafe: bool,
    /// All that must promise. Empty: no failsafe.
    pub peers: BTreeSet<Peer>,
    pub boot_id: String,
}

/// What the deadline file of this boot said at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundDeadline {
    pub epoch: Epoch,
    pub deadline: BootMs,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed. `dice` is random, for the nonce of a failsafe round.
    Ticked {
        dice: u64,
    },
    /// The stored record is not what this machine wrote: the warden has acted, or a write failed.
    RecordFound(Box<Record>),
    /// A collector confirmed the request that was sent at `sent` and carried the reports `reported`.
    Answered {
        sent: BootMs,
        index: u64,
        reported: Vec<String>,
        answer: Box<TicketAnswer>,
    },
    StepEnded {
        key: String,
        outcome: StepOutcome,
        detail: Option<String>,
        took_ms: u64,
    },
    StopEnded {
        verified: bool,
        detail: Option<String>,
    },
    PromiseAsked(PromiseAsk),
    PromiseGiven {
        peer: Peer,
        nonce: u64,
        for_ms: u64,
    },
    PromiseDenied {
        peer: Peer,
        nonce: u64,
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// To be on disk before the next action is begun.
    Persist(Box<Record>),
    /// To be in the warden's file before the next action is begun.
    NoteDeadline {
        epoch: Epoch,
        deadline: BootMs,
    },
    ForgetDeadline,
    /// For the gate's log.
    NoteActive {
        epoch: Epoch,
        active: bool,
        reason: String,
    },
    KillStep,
    /// `deadline` is absent for steps that need no lease.
    RunStep {
        order: StepOrder,
        deadline: Option<BootMs>,
    },
    /// Run `stop`, then `verify-stopped`.
    RunStop {
        epoch: Epoch,
        holder: Option<Site>,
    },
    SyncNow,
    AskPeers {
        epoch: Epoch,
        nonce: u64,
    },
    AnswerPromise(PromiseAnswer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    epoch: Epoch,
    deadline: BootMs,
    /// Confirmed since this gate started. A lease read from the file only says when to stop.
    confirmed: bool,
}

/// What is being carried out; every state carries what an operator wants to read.
#[derive(Debug, Clone, PartialEq)]
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

#[derive(Debug, Clone)]
struct Round {
    nonce: u64,
    sent: BootMs,
    epoch: Epoch,
    missing: BTreeSet<Peer>,
}

/// One line of status.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TicketFigures {
    pub ticket: Id,
    pub epoch: Epoch,
    pub holder: Option<Site>,
    pub closed: bool,
    /// The service may be running here.
    pub active: bool,
    pub doing: String,
    /// Milliseconds of CLOCK_BOOTTIME.
    pub deadline: Option<BootMs>,
    pub promised_until: Option<BootMs>,
    pub trouble: Option<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Machine {
    terms: Terms,
    record: Record,
    stored: Record,
    lease: Option<Lease>,
    job: Job,
    round: Option<Round>,
    confirmed_at: BootMs,
    asked_at: BootMs,
    last_index: u64,
    trouble: Option<String>,
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
            stored: record.clone(),
            record,
            lease,
            job: Job::Idle,
            round: None,
            confirmed_at: now,
            asked_at: BootMs(0),
            last_index: 0,
            trouble: None,
            terms,
        };
        if let Some(promise) = &mut machine.record.promise
            && promise.boot_id != machine.terms.boot_id
        {
            promise.boot_id.clone_from(&machine.terms.boot_id);
            promise.until = now.plus(promise.for_ms);
        }
        machine
    }

    /// One event. The actions are to be carried out in order.
    pub fn step(&mut self, now: BootMs, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        // What time did comes first: no event may find a lease that has run out.
        self.judge(now, &mut out);
        match event {
            Event::Ticked { dice } => self.ticked(now, dice, &mut out),
            Event::RecordFound(record) => self.record_found(now, *record, &mut out),
            Event::Answered { sent, index, reported, answer } => {
                self.answered(now, sent, index, &reported, *answer, &mut out);
            }
            Event::StepEnded { key, outcome, detail, took_ms } => {
                self.step_ended(&key, outcome, detail, took_ms, &mut out);
            }
            Event::StopEnded { verified, detail } => self.stop_ended(now, verified, detail, &mut out),
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
        self.lease = None;
        self.round = None;
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
        self.seek_promises(now, dice, out);
    }

    /// Failsafe: no collector for half a lease, and a service to keep.
    fn seek_promises(&mut self, now: BootMs, dice: u64, out: &mut Vec<Action>) {
        let timing = self.terms.timing;
        let Some(lease) = self.lease_now(now) else { return };
        let silent = now.since(self.confirmed_at) >= timing.ttl_holder_ms / 2;
        let due = now.since(self.asked_at) >= timing.renew_ms;
        let may = self.terms.failsafe && !self.terms.peers.is_empty() && self.holds() && self.record.may_run;
        if !(silent && due && may) || lease.epoch != self.record.epoch || self.is_stopping() {
            return;
        }
        self.asked_at = now;
        self.round =
            Some(Round { nonce: dice, sent: now, epoch: self.record.epoch, missing: self.terms.peers.clone() });
        out.push(Action::AskPeers { epoch: self.record.epoch, nonce: dice });
    }

    fn promise_given(&mut self, now: BootMs, peer: &Peer, nonce: u64, for_ms: u64, out: &mut Vec<Action>) {
        let timing = self.terms.timing;
        let Some(round) = self.round.as_mut().filter(|round| round.nonce == nonce) else { return };
        if for_ms < timing.promise_ms() {
            self.trouble = Some(format!("the promise of {}/{} is too short: other timing?", peer.0, peer.1));
            return;
        }
        round.missing.remove(peer);
        if !round.missing.is_empty() {
            return;
        }
        let (sent, epoch) = (round.sent, round.epoch);
        self.round = None;
        let Some(lease) = self.lease_now(now) else { return };
        if epoch != self.record.epoch || lease.epoch != epoch || !self.holds() || self.is_stopping() {
            return;
        }
        self.extend(now, epoch, sent, lease.confirmed, out);
        self.trouble = Some("no collector answers; all other gates have promised to wait".to_owned());
    }

    fn promise_denied(&mut self, peer: &Peer, nonce: u64, reason: &str) {
        if self.round.as_ref().is_some_and(|round| round.nonce == nonce) {
            self.round = None;
            self.trouble = Some(format!("{}/{} does not promise: {reason}", peer.0, peer.1));
        }
    }

    fn extend(&mut self, now: BootMs, epoch: Epoch, sent: BootMs, confirmed: bool, out: &mut Vec<Action>) {
        let mut deadline = sent.plus(self.terms.timing.ttl_holder_ms);
        if let Some(lease) = self.lease_now(now).filter(|lease| lease.epoch == epoch) {
            deadline = deadline.max(lease.deadline);
        }
        let lease = Lease { epoch, deadline, confirmed };
        if now.plus(LOSS_LEAD_MS) >= deadline || self.lease == Some(lease) {
            return;
        }
        self.lease = Some(lease);
        self.commit(out);
        out.push(Action::NoteDeadline { epoch, deadline });
    }

    fn promise_asked(&mut self, now: BootMs, ask: &PromiseAsk, out: &mut Vec<Action>) {
        let refusal = if ask.site == self.terms.site {
            Some("a gate of the same site")
        } else if ask.epoch < self.record.epoch {
            Some("a higher epoch is known here")
        } else if self.record.may_run || self.is_stopping() {
            Some("the service may be running here")
        } else if self.record.holder == Some(self.terms.site) && ask.epoch == self.record.epoch {
            Some("this site holds that epoch")
        } else if ask.epoch == self.record.epoch && self.record.holder.is_some_and(|holder| holder != ask.site) {
            Some("another site holds that epoch")
        } else {
            None
        };
        let verdict = match refusal {
            Some(reason) => PromiseVerdict::Refused { seen: self.record.epoch, reason: reason.to_owned() },
            None => {
                let for_ms = self.terms.timing.promise_ms();
                let until = now.plus(for_ms).max(self.promised_until(now).unwrap_or_default());
                let to = format!("{}/{}", ask.site, ask.gate);
                let boot_id = self.terms.boot_id.clone();
                self.record.promise = Some(Promise { to, epoch: ask.epoch, boot_id, until, for_ms });
                self.commit(out);
                PromiseVerdict::Promised { for_ms }
            }
        };
        out.push(Action::AnswerPromise(PromiseAnswer {
            site: self.terms.site,
            gate: self.terms.gate.clone(),
            ticket: ask.ticket.clone(),
            epoch: ask.epoch,
            nonce: ask.nonce,
            verdict,
        }));
    }

    fn promised_until(&self, now: BootMs) -> Option<BootMs> {
        self.record.promise.as_ref().map(|promise| promise.until).filter(|until| now < *until)
    }

    /// Someone else wrote the record: it counts, not what this machine believes.
    fn record_found(&mut self, now: BootMs, record: Record, out: &mut Vec<Action>) {
        let stopped = self.record.may_run && !record.may_run;
        self.stored = record.clone();
        self.record = record;
        if self.record.closed {
            self.lease = None;
            self.round = None;
            if let Job::Step { order } = std::mem::replace(&mut self.job, Job::Idle) {
                out.push(Action::KillStep);
                self.report(&order, StepOutcome::Rejected, Some("the epoch was closed meanwhile".to_owned()), 0);
            }
        }
        if stopped {
            self.job = Job::Idle;
            self.trouble = Some("the warden stopped the service: this gate was late".to_owned());
            out.push(Action::ForgetDeadline);
        }
        self.judge(now, out);
        out.push(Action::SyncNow);
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
        self.confirmed_at = self.confirmed_at.max(sent);
        self.confirm_reports(reported);
        if answer.epoch < self.record.epoch {
            self.trouble = Some(format!(
                "the collectors are at epoch {}, this gate has seen {}: restored from a backup?",
                answer.epoch, self.record.epoch
            ));
            return;
        }
        let adopted = answer.epoch > self.record.epoch;
        if adopted {
            self.adopt(now, &answer, out);
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
            if let Some(order) = answer.order {
                self.consider(now, order, out);
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
    fn adopt(&mut self, now: BootMs, answer: &TicketAnswer, out: &mut Vec<Action>) {
        let goes_on = self.holds() && answer.holder == Some(self.terms.site) && !self.is_stopping();
        self.record.epoch = answer.epoch;
        self.record.holder = answer.holder;
        self.record.closed = false;
        self.round = None;
        if matches!(self.job, Job::Step { .. })
            && let Job::Step { order } = std::mem::replace(&mut self.job, Job::Idle)
        {
            out.push(Action::KillStep);
            let detail = format!("superseded by epoch {}", answer.epoch);
            self.report(&order, StepOutcome::Rejected, Some(detail), 0);
        }
        if !goes_on {
            // A lease of an older epoch is worth nothing now; judge() stops what may still run.
            self.lease = None;
        }
        self.commit(out);
        self.judge(now, out);
        out.push(Action::SyncNow);
    }

    fn knows(&self, key: &str) -> Option<&StepReport> {
        self.record.reports.iter().chain(&self.record.done).find(|report| report.key == key)
    }

    fn consider(&mut self, now: BootMs, order: StepOrder, out: &mut Vec<Action>) {
        if let Some(report) = self.knows(&order.key).cloned() {
            // Asked again: the collector has not got the report. It goes with the next renewal.
            if !self.record.reports.contains(&report) {
                self.record.done.retain(|known| known.key != report.key);
                self.record.reports.push(report);
            }
            return;
        }
        if order.epoch != self.record.epoch {
            let detail = format!("epoch {} is not {}", order.epoch, self.record.epoch);
            self.report(&order, StepOutcome::Rejected, Some(detail), 0);
            out.push(Action::SyncNow);
            return;
        }
        let busy_with = match &self.job {
            Job::Idle => None,
            Job::Step { order } => Some(order),
            Job::Stopping { then, .. } | Job::StopFailed { then, .. } => match then {
                Some(then) => Some(then),
                // A stop that began by itself takes up the order to stop, and no other.
                None if matches!(order.kind, StepKind::Stop | StepKind::Seal) => {
                    self.begin_stop(now, "ordered".to_owned(), Some(order), out);
                    return;
                }
                None => return,
            },
        };
        if let Some(running) = busy_with {
            // A stop does not wait for a step that may hang.
            let urgent = matches!(order.kind, StepKind::Stop | StepKind::Seal) && matches!(self.job, Job::Step { .. });
            if running.key == order.key || !urgent {
                return;
            }
        }
        match order.kind {
            StepKind::Stop => self.begin_stop(now, "ordered".to_owned(), Some(order), out),
            StepKind::Seal | StepKind::Follow => self.yield_to(now, order, out),
            StepKind::Promote => self.consider_promotion(now, order, out),
            StepKind::Publish => self.consider_publication(now, order, out),
            StepKind::Weigh => self.run(order, None, out),
        }
    }

    fn yield_to(&mut self, now: BootMs, order: StepOrder, out: &mut Vec<Action>) {
        if self.record.holder == Some(self.terms.site) {
            let (outcome, detail) = match order.kind {
                StepKind::Seal => (StepOutcome::Already, "this site holds the epoch itself"),
                _ => (StepOutcome::Rejected, "the holder follows nobody"),
            };
            self.report(&order, outcome, Some(detail.to_owned()), 0);
            out.push(Action::SyncNow);
        } else if self.record.may_run || order.kind == StepKind::Seal {
            self.begin_stop(now, format!("ordered to {}", order.kind.as_str()), Some(order), out);
        } else {
            self.run(order, None, out);
        }
    }

    fn consider_promotion(&mut self, now: BootMs, order: StepOrder, out: &mut Vec<Action>) {
        if order.holder != self.terms.site || self.record.holder != Some(self.terms.site) {
            self.reject(&order, "this site does not hold the ticket", out);
        } else if self.record.closed {
            self.reject(&order, "the epoch is closed here", out);
        } else if let Some(until) = self.promised_until(now) {
            let to = self.record.promise.as_ref().map_or("", |promise| promise.to.as_str());
            self.trouble = Some(format!("waiting: promised {to} not to promote before {until}"));
        } else {
            match self.lease_now(now).filter(|lease| lease.confirmed && lease.epoch == order.epoch) {
                None => {
                    // The next renewal is at most one interval away, and the order is repeated with its answer.
                    self.trouble = Some("waiting for a confirmed lease before promoting".to_owned());
                }
                Some(lease) => {
                    let was = self.record.may_run;
                    self.record.may_run = true;
                    self.record.promise = None;
                    self.record.last_step =
                        Some(LastStep { key: order.key.clone(), kind: order.kind, epoch: order.epoch });
                    self.commit(out);
                    if !was {
                        let (epoch, reason) = (order.epoch, "promotion begins".to_owned());
                        out.push(Action::NoteActive { epoch, active: true, reason });
                    }
                    self.run(order, Some(lease.deadline), out);
                }
            }
        }
    }

    fn consider_publication(&mut self, now: BootMs, order: StepOrder, out: &mut Vec<Action>) {
        let lease = self.lease_now(now).filter(|lease| lease.confirmed && lease.epoch == order.epoch);
        if !self.holds() {
            self.reject(&order, "this site does not hold the ticket", out);
        } else if self.record.promoted != Some(order.epoch) {
            self.reject(&order, "not promoted under this epoch", out);
        } else if let Some(lease) = lease {
            self.run(order, Some(lease.deadline), out);
        } else {
            self.trouble = Some("waiting for a confirmed lease before publishing".to_owned());
        }
    }

    fn reject(&mut self, order: &StepOrder, detail: &str, out: &mut Vec<Action>) {
        self.report(order, StepOutcome::Rejected, Some(detail.to_owned()), 0);
        out.push(Action::SyncNow);
    }

    fn run(&mut self, order: StepOrder, deadline: Option<BootMs>, out: &mut Vec<Action>) {
        self.record.last_step = Some(LastStep { key: order.key.clone(), kind: order.kind, epoch: order.epoch });
        self.commit(out);
        self.job = Job::Step { order: order.clone() };
        out.push(Action::RunStep { order, deadline });
    }

    fn report(&mut self, order: &StepOrder, outcome: StepOutcome, detail: Option<String>, took_ms: u64) {
        self.record.reports.retain(|report| report.key != order.key);
        self.record.reports.push(StepReport {
            key: order.key.clone(),
            epoch: order.epoch,
            revision: order.revision,
            kind: order.kind,
            outcome,
            detail,
            took_ms,
        });
        let surplus = self.record.reports.len().saturating_sub(REPORTS_MAX);
        self.record.reports.drain(..surplus);
    }

    fn step_ended(
        &mut self,
        key: &str,
        outcome: StepOutcome,
        detail: Option<String>,
        took_ms: u64,
        out: &mut Vec<Action>,
    ) {
        // A step that was killed meanwhile has been reported already.
        if !matches!(&self.job, Job::Step { order } if order.key == key) {
            return;
        }
        let Job::Step { order } = std::mem::replace(&mut self.job, Job::Idle) else { return };
        let succeeded = matches!(outcome, StepOutcome::Done | StepOutcome::Already);
        if order.kind == StepKind::Promote && succeeded {
            self.record.promoted = Some(order.epoch);
        }
        if !succeeded {
            self.trouble = Some(format!(
                "{} {}: {}",
                order.kind.as_str(),
                if outcome == StepOutcome::Vetoed { "was refused by the service" } else { "failed" },
                detail.as_deref().unwrap_or("no reason given")
            ));
        }
        self.report(&order, outcome, detail, took_ms);
        self.commit(out);
        out.push(Action::SyncNow);
    }

    fn stop_ended(&mut self, now: BootMs, verified: bool, detail: Option<String>, out: &mut Vec<Action>) {
        let (reason, then, began, ran) = match std::mem::replace(&mut self.job, Job::Idle) {
            Job::Stopping { reason, then, began, ran } => (reason, then, began, ran),
            other @ (Job::Idle | Job::Step { .. } | Job::StopFailed { .. }) => {
                self.job = other;
                return;
            }
        };
        if !verified {
            self.trouble =
                Some(format!("the stop is not verified: {}", detail.as_deref().unwrap_or("no reason given")));
            self.job = Job::StopFailed { reason, then, began, ran, again_at: now.plus(STOP_RETRY_MS) };
            return;
        }
        self.record.may_run = false;
        self.record.promoted = None;
        self.trouble = None;
        if let Some(order) = &then
            && order.kind == StepKind::Stop
        {
            let outcome = if ran { StepOutcome::Done } else { StepOutcome::Already };
            self.report(order, outcome, None, now.since(began));
        }
        self.commit(out);
        if ran {
            out.push(Action::NoteActive { epoch: self.record.epoch, active: false, reason });
        }
        out.push(Action::ForgetDeadline);
        match then {
            Some(order) if order.kind != StepKind::Stop && order.epoch == self.record.epoch => {
                self.run(order, None, out);
            }
            Some(order) if order.kind != StepKind::Stop => {
                self.reject(&order, "a higher epoch came meanwhile", out);
            }
            Some(_) | None => out.push(Action::SyncNow),
        }
    }

    /// This ticket's part of the next request.
    #[must_use]
    pub fn sync_part(&self, facts: Option<ServiceFacts>) -> TicketSync {
        TicketSync {
            ticket: self.terms.ticket.clone(),
            seen: self.record.epoch,
            closed: self.record.closed && !self.record.may_run && !self.is_stopping(),
            renew: (self.holds() && !self.is_stopping()).then_some(self.record.epoch),
            reports: self.record.reports.clone(),
            facts,
            trouble: self.trouble.clone(),
        }
    }

    /// The last record could not be stored; the next step hands it out again.
    pub const fn not_stored(&mut self) {
        self.stored.writes = u64::MAX;
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
            trouble: self.trouble.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
