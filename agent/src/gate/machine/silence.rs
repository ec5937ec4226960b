//! A drill: this gate says nothing about the ticket for a time, and hears nothing, as if it were cut off.
//!
//! Invariants: it makes no lease longer and no stop later; it ends by itself, and with this life of the gate.

use bcp_wire::control::TicketAnswer;

use super::Machine;
use crate::gate::record::BootMs;

/// No gate agrees to be silent for longer, whatever it is asked.
const SILENT_MOST_MS: u64 = 300_000;

impl Machine {
    #[must_use]
    pub fn is_silent(&self, now: BootMs) -> bool {
        self.silent_until.is_some_and(|until| now < until)
    }

    /// Asked to be silent about the epoch that this gate's site holds; false where nothing is asked, or it is not about that.
    pub(super) fn falls_silent(&mut self, now: BootMs, answer: &TicketAnswer) -> bool {
        let Some(for_ms) = answer.silent_ms else { return false };
        let is_mine = answer.holder == Some(self.terms.site) && answer.epoch == self.record.epoch && self.holds();
        if !is_mine || self.is_stopping() || self.is_forced() {
            return false;
        }
        self.silent_until = Some(now.plus(for_ms.min(SILENT_MOST_MS)));
        self.round = None;
        true
    }
}
