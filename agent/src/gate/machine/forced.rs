//! Two operators order without any collector: this machine follows them alone, and waits before it does.
//!
//! Invariants: the incarnation grows; nothing is promoted before one promise length has passed since the order and every
//! promise that stands has run out; from then on no older epoch is obeyed, and no promise is given for one.

use bcp_wire::control::{StepKind, StepOrder, StepOutcome};
use bcp_wire::force::ForceOutcome;
use bcp_wire::{Epoch, Site};

use super::{Action, Lease, Machine, Noting};
use crate::gate::record::{BootMs, Forced};

/// Pause before a step that failed is tried again: doubles up to the second figure.
const RETRY_FIRST_MS: u64 = 2_000;
const RETRY_MOST_MS: u64 = 60_000;

/// What a restart may forget.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(super) struct Pace {
    renewed_at: Option<BootMs>,
    retry_at: BootMs,
}

impl Machine {
    pub(super) fn forced(&mut self, now: BootMs, epoch: Epoch, to: Site, out: &mut Vec<Action>) {
        let outcome = self.take_order(now, epoch, to, out);
        out.push(Action::AnswerForce(outcome));
    }

    fn take_order(&mut self, now: BootMs, epoch: Epoch, to: Site, out: &mut Vec<Action>) -> ForceOutcome {
        let seen = self.record.epoch;
        let is_repeated = epoch == seen && self.record.holder == Some(to);
        if !is_repeated && epoch.incarnation <= seen.incarnation {
            let reason = format!("epoch {seen} was seen here: an incarnation above {} is needed", seen.incarnation);
            return ForceOutcome::Refused { reason };
        }
        if is_repeated {
            let Some(forced) = self.record.forced.as_ref().filter(|_| to == self.terms.site) else {
                return ForceOutcome::Yielded;
            };
            return ForceOutcome::WillPromote { after_ms: forced.wait_until.since(now) };
        }
        // Of this incarnation nothing was ever closed here, whatever else this gate may have forgotten.
        self.record.lost = false;
        self.adopt(now, epoch, Some(to), out);
        if to != self.terms.site {
            return ForceOutcome::Yielded;
        }
        let for_ms = self.terms.timing.promise_ms();
        let wait_until = now.plus(for_ms).max(self.promised_until(now).unwrap_or_default());
        let boot_id = self.terms.boot_id.clone();
        self.record.forced = Some(Forced { epoch, boot_id, wait_until, for_ms, attempt: 0, published: false });
        self.pace = Pace::default();
        self.commit(out);
        ForceOutcome::WillPromote { after_ms: wait_until.since(now) }
    }

    /// The order of two operators is what counts here.
    pub(super) fn is_forced(&self) -> bool {
        self.record.forced.as_ref().is_some_and(|forced| forced.epoch == self.record.epoch) && self.holds()
    }

    /// After another boot the whole wait counts again.
    pub(super) fn wait_anew(&mut self, now: BootMs) {
        if let Some(forced) = &mut self.record.forced
            && forced.boot_id != self.terms.boot_id
        {
            forced.boot_id.clone_from(&self.terms.boot_id);
            forced.wait_until = now.plus(forced.for_ms);
        }
    }

    /// Nobody renews a forced epoch but its own gate: as often, and as long at a time, as collectors would, so that a warden
    /// still stops the service of a gate that is dead or paused.
    pub(super) fn go_on_forced(&mut self, now: BootMs, out: &mut Vec<Action>) {
        if !self.is_forced() || self.is_stopping() {
            return;
        }
        let waits = self.forced_wait(now);
        if let Some(until) = waits {
            self.trouble = Some(format!("forced by two operators: nothing is promoted before {until}"));
        }
        if waits.is_some() && !self.record.may_run {
            return;
        }
        let timing = self.terms.timing;
        if self.pace.renewed_at.is_some_and(|at| now.since(at) < timing.renew_ms) {
            return;
        }
        self.pace.renewed_at = Some(now);
        let order = if waits.is_some() { None } else { self.forced_order(now) };
        let (epoch, deadline) = (self.record.epoch, now.plus(timing.ttl_holder_ms));
        self.commit(out);
        self.noting = Some(Noting { lease: Lease { epoch, deadline, confirmed: true }, order });
        out.push(Action::NoteDeadline { epoch, deadline });
    }

    /// Until when nothing is promoted, while that is in force.
    fn forced_wait(&self, now: BootMs) -> Option<BootMs> {
        let wait = self.record.forced.as_ref().map(|forced| forced.wait_until).filter(|until| now < *until);
        wait.max(self.promised_until(now))
    }

    /// Promote, then publish; each until it is done.
    fn forced_order(&mut self, now: BootMs) -> Option<StepOrder> {
        let epoch = self.record.epoch;
        let kind = if self.record.promoted == Some(epoch) { StepKind::Publish } else { StepKind::Promote };
        let key = self.forced_key(kind)?;
        match self.knows(&key).map(|report| report.outcome) {
            Some(StepOutcome::Done | StepOutcome::Already) => {
                if let Some(forced) = self.record.forced.as_mut().filter(|_| kind == StepKind::Publish) {
                    forced.published = true;
                    self.trouble = Some("runs by order of two operators, without any collector".to_owned());
                }
                return None;
            }
            Some(StepOutcome::Vetoed | StepOutcome::Failed | StepOutcome::Rejected) => {
                let forced = self.record.forced.as_mut()?;
                let pause = RETRY_FIRST_MS.saturating_mul(1 << forced.attempt.min(6)).min(RETRY_MOST_MS);
                forced.attempt = forced.attempt.saturating_add(1);
                self.pace.retry_at = now.plus(pause);
                return None;
            }
            None if now < self.pace.retry_at => return None,
            None => {}
        }
        if self.record.forced.as_ref().is_some_and(|forced| forced.published) {
            return None;
        }
        let holder = self.terms.site;
        Some(StepOrder { key, kind, epoch, revision: 0, holder, params: std::collections::BTreeMap::new() })
    }

    fn forced_key(&self, kind: StepKind) -> Option<String> {
        let forced = self.record.forced.as_ref()?;
        Some(format!("forced:{}:{}:{}:{}", self.terms.ticket, forced.epoch, kind.as_str(), forced.attempt))
    }
}
