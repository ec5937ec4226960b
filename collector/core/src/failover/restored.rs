//! A ticket that was restored from a backup.
//!
//! Knows: how far the backup goes. Refuses to know: whether its disk was the last one. Invariants: the incarnation is above
//! every one the backup knows; no holder is believed, no renewal taken and nothing granted before every lease that could have
//! been given since has run out and its holder stopped; meanwhile its gates are told nothing, so that a holder with the
//! promises of all others goes on. Where they say that it moved since, and not clearly where to, people are asked.

use serde::{Deserialize, Serialize};

use bcp_wire::control::{CopyRole, Phase};
use bcp_wire::{Epoch, Site};

use super::decide::Facts;
use super::event::Happened;
use super::intake::gate_fresh_ms;
use super::lease::Lease;
use super::progress;
use super::ticket::{GateRecord, Latch, Ticket};
use crate::policy::Timing;
use crate::time::LogTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The last epoch that the backup knows.
    pub upto: Epoch,
    /// Nothing is granted before.
    pub until: LogTime,
    /// People were asked where it goes.
    pub asked: bool,
}

impl Ticket {
    /// As it is when its log begins anew under this incarnation.
    pub(crate) fn restore(&mut self, incarnation: u32, now: LogTime, timing: &Timing) {
        let (upto, last) = (self.epoch.max(self.floor), self.holder_or_last());
        let wait_ms = timing.ttl_ms.saturating_add(timing.acquire_after_ms).saturating_add(timing.tick_ms);
        self.restored = Some(Restored { upto, until: now.plus(wait_ms), asked: false });
        self.epoch = Epoch { incarnation, counter: 0 };
        (self.phase, self.holder) = (Phase::Free, None);
        (self.moving, self.force, self.pending) = (None, None, None);
        self.lease = last.map(|site| Lease::start(site, upto, now, timing));
        if let Some(latch) = &mut self.latch {
            latch.in_sync = None;
        }
        self.copies.clear();
        self.weights.clear();
        for gate in self.gates.values_mut().flat_map(|gates| gates.values_mut()) {
            *gate = GateRecord { listed: gate.listed, ..GateRecord::new() };
        }
        (self.noted, self.lapsed) = (None, false);
        self.changed();
    }
}

/// True: nothing is decided about it yet.
pub(super) fn waits(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) -> bool {
    let Some(restored) = ticket.restored else { return false };
    if facts.now < restored.until || (restored.asked && ticket.frozen.is_some()) {
        return true;
    }
    let mut gates = ticket.gates.values().flat_map(|gates| gates.values());
    let epoch = ticket.epoch;
    let went_on = gates.any(|gate| gate.seen > restored.upto && gate.seen.incarnation < epoch.incarnation);
    match active_copy(ticket, facts) {
        _ if !went_on || restored.asked => {}
        Some(site) => {
            let (epoch, at) = (restored.upto, facts.now);
            ticket.lease = Some(Lease::start(site, epoch, at, facts.timing));
            ticket.latch = Some(Latch { active: site, epoch, in_sync: None, lineage: None, position: 0, at });
        }
        None => {
            let reason = "it moved after the backup from which it was restored: say where it goes".to_owned();
            progress::freeze(ticket, reason, facts.scene(), out);
            ticket.restored = Some(Restored { asked: true, ..restored });
            return true;
        }
    }
    ticket.restored = None;
    ticket.changed();
    false
}

/// The one site whose copy says that it is the active one.
fn active_copy(ticket: &Ticket, facts: Facts<'_>) -> Option<Site> {
    let fresh_ms = gate_fresh_ms(facts.timing);
    let active =
        |copy: &super::ticket::CopyRecord| copy.facts.role == CopyRole::Active && facts.now.since(copy.at) <= fresh_ms;
    let mut sites = ticket.copies.iter().filter(|(_, copy)| active(copy)).map(|(site, _)| *site);
    let first = sites.next();
    first.filter(|_| sites.next().is_none())
}
