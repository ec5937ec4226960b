//! What must hold at every step, each as a function of what was seen. Numbers as in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::failover::{State, Ticket, TicketEvent};
use bcp_core::ledger::{Head, LedgerEntry, LedgerEvent, verify};
use bcp_core::policy::{Mode, Rpo};
use bcp_core::replica::{Item, Replica, Tick};
use bcp_wire::control::{Phase, StepKind};
use bcp_wire::{Epoch, Id, Site};

#[derive(Debug, Default)]
pub struct Watch {
    /// Highest write that was acknowledged to a client.
    pub acknowledged: u64,
    pub rpo_zero: bool,
    holders: BTreeMap<(Id, Epoch), Site>,
    highest: BTreeMap<Id, Epoch>,
    done: BTreeSet<(Id, Epoch, StepKind, Site, Id)>,
    effective: BTreeSet<(Id, Epoch)>,
    settled_seals: BTreeSet<(Id, Epoch, Site, Id)>,
    automatic: BTreeMap<Id, Vec<u64>>,
    released: BTreeSet<(Id, Epoch)>,
    /// Log time of the last renewal, and the wait that the timing of that moment asks for.
    last_renewal: BTreeMap<(Id, Site), (u64, u64)>,
    renewed_epoch: BTreeMap<(Id, Site), Epoch>,
    head: Head,
    start: Option<(u64, u64)>,
    /// How often each thing happened, so that the checks are not vacuous.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Watch {
    /// I1: at most one site's service really runs.
    pub fn running(&mut self, now: u64, active: &[Site]) {
        assert!(active.len() <= 1, "I1: two active sides at {now} ms: {active:?}");
    }

    /// I8 and I9 in effect: a promoted copy of an rpo-zero ticket has everything that was acknowledged.
    pub fn promoted(&mut self, site: Site, position: u64, newest: u64) {
        *self.seen.entry("promote").or_default() += 1;
        if self.rpo_zero {
            assert!(position >= newest, "I8/I9: site {site} promoted at {position}, acknowledged up to {newest}");
        }
    }

    pub fn applied(&mut self, now: u64, before: &Replica, tick: &Tick, entries: &[LedgerEntry], after: &Replica) {
        self.log_time(now, before, after);
        self.head = verify(&self.head, entries).unwrap_or_else(|fault| panic!("I15: {fault}"));
        assert_eq!(self.head, after.ledger, "I15: the head is the last entry");
        for (id, ticket) in &after.failover.tickets {
            self.renewals(id, &before.failover, ticket, tick, after);
            assert_ne!(ticket.holder, Some(Site::W), "I5: w never holds {id}");
            assert_eq!(ticket.holder.is_none(), ticket.phase == Phase::Free || !ticket.weights.is_empty(), "{id}");
        }
        for entry in entries {
            if let LedgerEvent::Ticket { event } = &entry.what {
                self.event(event, &entry.author, before, after);
            }
        }
    }

    /// I20: log time never runs faster than real time.
    fn log_time(&mut self, now: u64, before: &Replica, after: &Replica) {
        assert!(after.log_time >= before.log_time, "log time never goes back");
        let (real, log) = *self.start.get_or_insert((now, after.log_time.0));
        assert!(after.log_time.0 - log <= now - real, "I20: log time ran ahead of real time");
    }

    /// I7: a lease is renewed only by an open gate of its holder, under the present epoch.
    fn renewals(&mut self, id: &Id, before: &State, ticket: &Ticket, tick: &Tick, after: &Replica) {
        let Some(lease) = ticket.lease else { return };
        let old = before.tickets.get(id).and_then(|t| t.lease);
        if old.is_some_and(|old| old.epoch == lease.epoch && old.renewed != lease.renewed) {
            let by_right = tick.items.iter().any(|item| match item {
                Item::Gate(sync) if sync.site == lease.site => sync.tickets.iter().any(|said| {
                    said.ticket == *id
                        && said.renew == Some(lease.epoch)
                        && !(said.closed && said.seen >= lease.epoch)
                        && said.seen <= lease.epoch
                }),
                _ => false,
            });
            assert!(by_right, "I7: {id} was renewed by nobody with a right to: {lease:?}");
            *self.seen.entry("renewal").or_default() += 1;
        }
        let key = (id.clone(), lease.site);
        if self.last_renewal.get(&key).is_none_or(|(at, _)| *at != lease.renewed.0) {
            let wait_ms = after.policy.as_ref().map_or(0, |policy| policy.timing.starts_at_ms());
            self.last_renewal.insert(key, (lease.renewed.0, wait_ms));
        }
        self.renewed_epoch.insert((id.clone(), lease.site), lease.epoch);
        assert!(lease.renewed <= after.log_time);
    }

    fn event(&mut self, event: &TicketEvent, author: &str, before: &Replica, after: &Replica) {
        let id = event.ticket().clone();
        let policy = after.policy.as_ref().expect("events follow a policy");
        let rule = &policy.tickets[&id];
        match event {
            TicketEvent::Granted { holder, epoch, cause, .. } => {
                let known = self.highest.insert(id.clone(), *epoch);
                assert!(known.is_none_or(|known| *epoch > known), "I3: epoch {epoch} after {known:?}");
                let other = self.holders.insert((id.clone(), *epoch), *holder);
                assert!(other.is_none(), "I4: epoch {epoch} was granted twice");
                assert!(rule.sites.contains(holder) && *holder != Site::W, "I5: {holder}");
                self.freshness(&id, *holder, rule.rpo, before, after);
                self.no_change_when_told_not_to(&id, author, rule.mode, before, after);
                if cause.automatic() {
                    self.budget(&id, rule.move_budget, after.log_time.0);
                }
                *self.seen.entry("grant").or_default() += 1;
            }
            TicketEvent::DrainStarted { .. } => {
                self.no_change_when_told_not_to(&id, author, rule.mode, before, after);
            }
            TicketEvent::Released { epoch, .. } => {
                self.released.insert((id, *epoch));
                *self.seen.entry("release").or_default() += 1;
            }
            TicketEvent::Effective { holder, epoch, .. } => {
                self.wait_out(&id, *holder, after.log_time.0);
                self.effective.insert((id, *epoch));
            }
            TicketEvent::StepDone { step, epoch, site, gate, .. } => self.step_done(&id, *step, *epoch, *site, gate),
            TicketEvent::CoveredByTime { epoch, site, gate, .. } => {
                assert!(!self.effective.contains(&(id.clone(), *epoch)), "I10: covered after it took effect");
                self.settled_seals.insert((id, *epoch, *site, gate.clone()));
                *self.seen.entry("covered by time").or_default() += 1;
            }
            TicketEvent::Unfrozen { .. } if author.starts_with("operator:") => {
                let freeze = before.failover.tickets.get(&id).and_then(|ticket| ticket.frozen.as_ref());
                if freeze.is_some_and(|freeze| freeze.owner == "system") {
                    self.automatic.remove(&id);
                }
            }
            TicketEvent::Withheld { .. } => *self.seen.entry("withheld").or_default() += 1,
            TicketEvent::Expired { .. } => *self.seen.entry("expired").or_default() += 1,
            TicketEvent::Compensating { .. } => *self.seen.entry("compensated").or_default() += 1,
            _ => {}
        }
    }

    /// I6: no grant to another site takes effect without a clean release or the full wait since the last renewal.
    fn wait_out(&mut self, id: &Id, holder: Site, now: u64) {
        for site in Site::ALL.into_iter().filter(|site| *site != holder) {
            let key = (id.clone(), site);
            let (Some((renewed, wait_ms)), Some(epoch)) = (self.last_renewal.get(&key), self.renewed_epoch.get(&key))
            else {
                continue;
            };
            let clean = self.released.contains(&(id.clone(), *epoch));
            assert!(
                clean || now - renewed >= *wait_ms,
                "I6: {id} in effect at {holder} {} ms after {site}",
                now - renewed
            );
        }
    }

    /// I8: with rpo zero only to the last writer itself or to a copy latched in sync.
    fn freshness(&self, id: &Id, to: Site, rpo: Rpo, before: &Replica, after: &Replica) {
        // The latch of either moment: the grant may have restored it in the same tick.
        let good = [before, after].iter().any(|replica| {
            replica
                .failover
                .tickets
                .get(id)
                .and_then(|t| t.latch.as_ref())
                .is_none_or(|l| l.active == to || l.in_sync == Some(true))
        });
        assert!(rpo != Rpo::Zero || good, "I8: {id} granted to {to}, which is not latched in sync");
    }

    /// I13: frozen or off, nothing changes by itself. A move under way goes to its end.
    fn no_change_when_told_not_to(&self, id: &Id, author: &str, mode: Mode, before: &Replica, after: &Replica) {
        let Some(old) = before.failover.tickets.get(id) else { return };
        let new = &after.failover.tickets[id];
        let asked =
            new.moving.as_ref().is_some_and(|m| matches!(m.cause, bcp_core::failover::decide::Cause::Operator { .. }));
        if author.starts_with("operator:") || asked || old.moving.is_some() {
            return;
        }
        let still_frozen = old.frozen.is_some() && new.frozen.is_some();
        assert!(!still_frozen, "I13: {id} was changed while frozen");
        assert!(!matches!(mode, Mode::Off | Mode::Observe), "I13/I19: {id} was changed in mode {mode:?}");
    }

    /// I14: no more automatic moves in 24 h than the budget.
    fn budget(&mut self, id: &Id, budget: u32, now: u64) {
        let moves = self.automatic.entry(id.clone()).or_default();
        moves.retain(|at| now - at < 24 * 3_600_000);
        moves.push(now);
        assert!(moves.len() <= budget as usize, "I14: {} automatic moves of {id} in 24 h", moves.len());
        *self.seen.entry("automatic move").or_default() += 1;
    }

    /// I10: promoted only in effect, after the seals. I11: once per ticket, epoch and gate.
    fn step_done(&mut self, id: &Id, step: StepKind, epoch: Epoch, site: Site, gate: &Id) {
        assert!(
            self.done.insert((id.clone(), epoch, step, site, gate.clone())),
            "I11: {step:?} of {epoch} twice at {gate}"
        );
        match step {
            StepKind::Promote => {
                assert!(self.effective.contains(&(id.clone(), epoch)), "I10: promoted before it was in effect");
            }
            StepKind::Publish => {
                let promoted = self.done.contains(&(id.clone(), epoch, StepKind::Promote, site, gate.clone()));
                assert!(promoted, "I10: published before it was promoted");
            }
            StepKind::Stop | StepKind::Seal | StepKind::Follow | StepKind::Weigh | StepKind::Capacity => {}
        }
    }
}

/// I15: the same log gives the same state and the same chain, from the beginning and from any snapshot.
pub fn replays(ticks: &[(u64, Tick)], want: &Replica) {
    let mut replica = Replica::default();
    for (n, (index, tick)) in ticks.iter().enumerate() {
        replica.apply(*index, tick);
        if n == ticks.len() / 2 {
            let json = serde_json::to_string(&replica).unwrap();
            replica = serde_json::from_str(&json).unwrap();
        }
    }
    assert_eq!(&replica, want, "I15: a replay gives the same state");
}
