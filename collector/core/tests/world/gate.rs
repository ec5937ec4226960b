//! A gate with its warden and its service: keeps leases by its own clock, refuses older epochs, runs steps.

use std::collections::{BTreeMap, VecDeque};

use bcp_core::policy::Timing;
use bcp_wire::control::{
    CopyRole, GateSync, Phase, ServiceFacts, StepKind, StepOrder, StepOutcome, StepReport, TicketAnswer, TicketSync,
};
use bcp_wire::{Epoch, Id, Site};

use super::invariants::Watch;
use super::{Dice, STEP_MS, rx};

#[derive(Debug)]
pub struct Gate {
    pub site: Site,
    pub id: Id,
    pub powered: bool,
    /// Agent process paused: says and does nothing, but its warden still stops the service.
    pub paused: bool,
    /// Clock rate in parts per thousand: 990 to 1010.
    pub rate: u64,
    pub seen: Epoch,
    pub closed: bool,
    /// The epoch under which the service really runs.
    pub running: Option<Epoch>,
    pub position: u64,
    pub in_sync: bool,
    /// Outcome forced on a step, to play faults.
    pub force: BTreeMap<StepKind, StepOutcome>,
    clock: u64,
    deadline: Option<u64>,
    stop_at: Option<u64>,
    step: Option<(StepOrder, u64)>,
    done: BTreeMap<String, StepOutcome>,
    reports: Vec<StepReport>,
    sent: VecDeque<(u64, u64, Option<Epoch>, bool)>,
    next_sync: u64,
    seq: u64,
    wants_alone: bool,
    alone: bool,
    timing: Timing,
}

impl Gate {
    pub fn new(site: Site, id: &str) -> Self {
        Gate {
            site,
            id: id.parse().unwrap(),
            powered: true,
            paused: false,
            rate: 1_000,
            seen: Epoch::NONE,
            closed: false,
            running: None,
            position: 0,
            in_sync: false,
            force: BTreeMap::new(),
            clock: 0,
            deadline: None,
            stop_at: None,
            step: None,
            done: BTreeMap::new(),
            reports: Vec::new(),
            sent: VecDeque::new(),
            next_sync: 0,
            seq: 0,
            wants_alone: false,
            alone: false,
            timing: Timing::METRO,
        }
    }

    pub fn power_off(&mut self) {
        self.powered = false;
        (self.running, self.deadline, self.stop_at, self.step) = (None, None, None, None);
        self.reports.clear();
        self.sent.clear();
    }

    /// What was persisted stays: epoch, closed, finished steps, request number. The lease is gone.
    pub fn power_on(&mut self, _now: u64) {
        self.powered = true;
        (self.in_sync, self.alone, self.wants_alone) = (false, false, false);
    }

    /// The copy is there and follows.
    pub fn copies(&self) -> bool {
        self.powered && self.running.is_none()
    }

    fn leased(&self) -> bool {
        self.deadline.is_some_and(|deadline| self.clock < deadline)
    }

    pub fn act(&mut self, now: u64, dice: &mut Dice, timing: Timing) -> Option<GateSync> {
        self.timing = timing;
        if !self.powered {
            return None;
        }
        self.clock += STEP_MS * self.rate / 1_000;
        self.warden(dice);
        if self.paused {
            return None;
        }
        self.work();
        if now < self.next_sync {
            return None;
        }
        self.next_sync = now + timing.renew_ms;
        Some(self.sync(dice))
    }

    /// Past the deadline: close the epoch, kill the step, stop. Stopping takes up to stop_max.
    fn warden(&mut self, dice: &mut Dice) {
        if self.deadline.is_some_and(|deadline| self.clock >= deadline) {
            self.deadline = None;
            self.closed = true;
            self.step = None;
            if self.running.is_some() {
                self.stop_at = Some(self.clock + dice.below(self.timing.stop_max_ms));
            }
        }
        if self.stop_at.is_some_and(|at| self.clock >= at) {
            (self.stop_at, self.running) = (None, None);
        }
    }

    fn work(&mut self) {
        let Some((order, at)) = self.step.clone() else { return };
        if self.clock < at {
            return;
        }
        self.step = None;
        let mine = order.holder == self.site && order.epoch == self.seen;
        let forced = self.force.get(&order.kind).copied();
        let outcome = match (order.kind, forced) {
            (_, Some(forced)) => forced,
            (StepKind::Stop | StepKind::Seal, None) => {
                (self.running, self.stop_at, self.deadline) = (None, None, None);
                StepOutcome::Done
            }
            // The lease is checked again right before it takes effect.
            (StepKind::Promote, None) if mine && !self.closed && self.leased() => {
                self.running = Some(order.epoch);
                (self.in_sync, self.alone, self.wants_alone) = (false, false, true);
                StepOutcome::Done
            }
            (StepKind::Promote, None) => StepOutcome::Rejected,
            (StepKind::Publish | StepKind::Follow | StepKind::Weigh | StepKind::Capacity, None) => StepOutcome::Done,
        };
        self.done.insert(order.key.clone(), outcome);
        self.report(&order, outcome);
    }

    fn report(&mut self, order: &StepOrder, outcome: StepOutcome) {
        self.reports.retain(|report| report.key != order.key);
        self.reports.push(StepReport {
            key: order.key.clone(),
            epoch: order.epoch,
            revision: order.revision,
            kind: order.kind,
            outcome,
            detail: None,
            took_ms: 1,
        });
        self.next_sync = 0;
    }

    fn sync(&mut self, dice: &mut Dice) -> GateSync {
        self.seq += 1;
        let nonce = dice.below(u64::MAX);
        let renew = (!self.closed && self.seen != Epoch::NONE && self.stop_at.is_none()).then_some(self.seen);
        self.sent.push_back((nonce, self.clock, renew, self.wants_alone));
        if self.sent.len() > 8 {
            self.sent.pop_front();
        }
        let role = if self.running.is_some() { CopyRole::Active } else { CopyRole::Standby };
        let facts = ServiceFacts {
            lineage: "l1".to_owned(),
            position: self.position,
            role,
            peer_in_sync: self.in_sync && !self.wants_alone,
            wants_alone: self.wants_alone,
            wish: 0,
        };
        let ticket = TicketSync {
            ticket: rx(),
            seen: self.seen,
            closed: self.closed,
            renew,
            reports: self.reports.clone(),
            facts: Some(facts),
            trouble: None,
            unstopped: false,
            loss: None,
            forced: false,
        };
        GateSync { site: self.site, gate: self.id.clone(), nonce, seq: self.seq, tickets: vec![ticket] }
    }

    pub fn answered(&mut self, _now: u64, nonce: u64, tickets: &[TicketAnswer], newest: u64, watch: &mut Watch) {
        if !self.powered || self.paused {
            return;
        }
        let Some((_, sent_at, renew, asked_alone)) = self.sent.iter().find(|(n, ..)| *n == nonce).copied() else {
            return;
        };
        for answer in tickets {
            self.reports.retain(|_| false);
            if answer.epoch < self.seen {
                continue;
            }
            if answer.epoch > self.seen && answer.phase != Phase::Free && self.running.is_none() {
                (self.seen, self.closed, self.step) = (answer.epoch, false, None);
                self.deadline = None;
            }
            if answer.renewed && renew == Some(self.seen) && answer.epoch == self.seen && !self.closed {
                let deadline = sent_at + answer.ttl_holder_ms;
                self.deadline = Some(self.deadline.map_or(deadline, |known| known.max(deadline)));
            }
            if answer.peer_in_sync == Some(false) && asked_alone && self.running == Some(answer.epoch) {
                self.alone = true;
            }
            if let Some(order) = &answer.order {
                self.ordered(order, newest, watch);
            }
        }
    }

    fn ordered(&mut self, order: &StepOrder, newest: u64, watch: &mut Watch) {
        if let Some(outcome) = self.done.get(&order.key).copied() {
            self.report(order, outcome);
            return;
        }
        if self.step.is_some() || order.epoch < self.seen {
            return;
        }
        match order.kind {
            StepKind::Stop if order.epoch == self.seen && !self.force.contains_key(&StepKind::Stop) => {
                self.closed = true
            }
            StepKind::Seal => (self.seen, self.closed) = (order.epoch, false),
            StepKind::Promote
                if order.holder != self.site || self.closed || !self.leased() || order.epoch != self.seen =>
            {
                return;
            }
            StepKind::Promote => watch.promoted(self.site, self.position, newest),
            StepKind::Stop | StepKind::Publish | StepKind::Follow | StepKind::Weigh | StepKind::Capacity => {}
        }
        self.step = Some((order.clone(), self.clock + 200));
    }

    /// One write. With the peer: to both. Without: blocked until the log knows that this copy goes on alone.
    pub fn write(&mut self, together: bool) -> bool {
        if together {
            (self.in_sync, self.wants_alone, self.alone) = (true, false, false);
        } else {
            if !self.alone {
                self.wants_alone = true;
                return false;
            }
            self.in_sync = false;
        }
        self.position += 1;
        true
    }
}
