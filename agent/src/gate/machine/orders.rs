//! Steps that the collectors order: which are begun, which are refused, and what their end means.

use bcp_wire::control::{StepKind, StepOrder, StepOutcome, StepReport};

use super::{Action, Job, Machine, REPORTS_MAX, STOP_RETRY_MS};
use crate::gate::config::Loss;
use crate::gate::record::{BootMs, LastStep};

impl Machine {
    pub(super) fn knows(&self, key: &str) -> Option<&StepReport> {
        self.record.reports.iter().chain(&self.record.done).find(|report| report.key == key)
    }

    pub(super) fn consider(&mut self, now: BootMs, order: StepOrder, out: &mut Vec<Action>) {
        self.awaiting = None;
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
        if self.terms.loss == Loss::Freeze && matches!(order.kind, StepKind::Promote | StepKind::Publish) {
            self.reject(&order, "this gate is set to loss = freeze: it could not stop what it promotes", out);
            return;
        }
        match order.kind {
            StepKind::Stop => self.begin_stop(now, "ordered".to_owned(), Some(order), out),
            StepKind::Seal | StepKind::Follow => self.yield_to(now, order, out),
            StepKind::Promote => self.consider_promotion(now, order, out),
            StepKind::Publish => self.consider_publication(now, order, out),
            StepKind::Weigh => self.run(order, None, out),
            StepKind::Capacity => self.consider_capacity(now, order, out),
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
                Some(lease) => match self.faults.unfenced() {
                    Some(reason) => {
                        self.trouble = Some(format!("waiting for its fence: {reason}"));
                        self.awaiting = Some(order);
                    }
                    None => self.promote(order, lease.deadline, out),
                },
            }
        }
    }

    /// Stored as running before it begins.
    fn promote(&mut self, order: StepOrder, deadline: BootMs, out: &mut Vec<Action>) {
        let was = self.record.may_run;
        self.record.may_run = true;
        self.record.promise = None;
        self.record.last_step = Some(LastStep { key: order.key.clone(), kind: order.kind, epoch: order.epoch });
        self.commit(out);
        if !was {
            let (epoch, reason) = (order.epoch, "promotion begins".to_owned());
            out.push(Action::NoteActive { epoch, active: true, reason });
        }
        self.run(order, Some(deadline), out);
    }

    /// The watchdog is armed meanwhile: what waited for it need not wait for the next answer.
    pub(super) fn go_on_fenced(&mut self, now: BootMs, out: &mut Vec<Action>) {
        if self.faults.unfenced().is_none()
            && let Some(order) = self.awaiting.take()
            && order.epoch == self.record.epoch
        {
            self.trouble = None;
            self.consider(now, order, out);
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

    /// A server that stands by: where the ticket has a lease, only under it.
    fn consider_capacity(&mut self, now: BootMs, order: StepOrder, out: &mut Vec<Action>) {
        if self.record.holder.is_none() {
            self.run(order, None, out);
        } else if !self.holds() {
            self.reject(&order, "this site does not hold the ticket", out);
        } else if let Some(lease) = self.lease_now(now).filter(|lease| lease.confirmed && lease.epoch == order.epoch) {
            self.run(order, Some(lease.deadline), out);
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

    pub(super) fn report(&mut self, order: &StepOrder, outcome: StepOutcome, detail: Option<String>, took_ms: u64) {
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

    pub(super) fn step_ended(
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

    pub(super) fn stop_ended(&mut self, now: BootMs, verified: bool, detail: Option<String>, out: &mut Vec<Action>) {
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
            self.unstopped = self.record.may_run;
            self.job = Job::StopFailed { reason, then, began, ran, again_at: now.plus(STOP_RETRY_MS) };
            return;
        }
        self.record.may_run = false;
        self.record.promoted = None;
        self.unstopped = false;
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
}
