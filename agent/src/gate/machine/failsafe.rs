//! Failsafe: where no collector answers, the gates of other sites promise not to promote, and this one promises to them.

use bcp_wire::control::{PromiseAnswer, PromiseAsk, PromiseVerdict};

use super::{Action, Machine, Peer, Round};
use crate::gate::record::{BootMs, Promise};

impl Machine {
    /// Failsafe: no collector for half a lease, and a service to keep.
    pub(super) fn seek_promises(&mut self, now: BootMs, dice: u64, out: &mut Vec<Action>) {
        let timing = self.terms.timing;
        let Some(lease) = self.lease_now(now) else { return };
        let silent = now.since(self.confirmed_at) >= timing.ttl_holder_ms / 2;
        let due = now.since(self.asked_at) >= timing.renew_ms;
        let may = self.terms.failsafe && !self.terms.peers.is_empty() && self.holds() && self.record.may_run;
        let may = may && !self.is_forced() && !self.is_silent(now);
        if !(silent && due && may) || lease.epoch != self.record.epoch || self.is_stopping() {
            return;
        }
        self.asked_at = now;
        self.round =
            Some(Round { nonce: dice, sent: now, epoch: self.record.epoch, missing: self.terms.peers.clone() });
        out.push(Action::AskPeers { epoch: self.record.epoch, nonce: dice });
    }

    pub(super) fn promise_given(&mut self, now: BootMs, peer: &Peer, nonce: u64, for_ms: u64, out: &mut Vec<Action>) {
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

    pub(super) fn promise_denied(&mut self, peer: &Peer, nonce: u64, reason: &str) {
        if self.round.as_ref().is_some_and(|round| round.nonce == nonce) {
            self.round = None;
            self.trouble = Some(format!("{}/{} does not promise: {reason}", peer.0, peer.1));
        }
    }

    pub(super) fn promise_asked(&mut self, now: BootMs, ask: &PromiseAsk, out: &mut Vec<Action>) {
        let refusal = if ask.site == self.terms.site {
            Some("a gate of the same site")
        } else if self.record.lost {
            Some("which epochs this gate has seen is lost")
        } else if self.is_forced() {
            Some("two operators gave this site the ticket")
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

    pub(super) fn promised_until(&self, now: BootMs) -> Option<BootMs> {
        self.record.promise.as_ref().map(|promise| promise.until).filter(|until| now < *until)
    }
}
