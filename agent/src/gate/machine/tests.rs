#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use bcp_wire::control::{Phase, PromiseAsk, PromiseVerdict, StepKind, StepOrder, StepOutcome, TicketAnswer};
use bcp_wire::{Epoch, Site};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::{Action, Event, FoundDeadline, Machine, Peer, Terms};
use crate::gate::config::GateTiming;
use crate::gate::record::{BootMs, Record};

const TTL: u64 = GateTiming::METRO.ttl_holder_ms;

fn terms() -> Terms {
    Terms {
        site: Site::A,
        gate: "host-a".parse().unwrap(),
        ticket: "rx".parse().unwrap(),
        timing: GateTiming::METRO,
        failsafe: true,
        peers: BTreeSet::from([peer("host-b"), peer("host-b2")]),
        boot_id: "boot-1".to_owned(),
    }
}

fn peer(id: &str) -> Peer {
    (Site::B, id.parse().unwrap())
}

fn epoch(counter: u64) -> Epoch {
    Epoch { incarnation: 1, counter }
}

fn order(kind: StepKind, counter: u64, holder: Site) -> StepOrder {
    StepOrder {
        key: format!("{}-{counter}", kind.as_str()),
        kind,
        epoch: epoch(counter),
        revision: 1,
        holder,
        params: std::collections::BTreeMap::new(),
    }
}

fn answer(counter: u64, holder: Site, renewed: bool, order: Option<StepOrder>) -> TicketAnswer {
    TicketAnswer {
        ticket: "rx".parse().unwrap(),
        holder: Some(holder),
        epoch: epoch(counter),
        revision: 1,
        phase: Phase::Held,
        renewed,
        ttl_holder_ms: TTL,
        order,
        peer_in_sync: None,
    }
}

fn answered(sent: u64, index: u64, answer: TicketAnswer) -> Event {
    Event::Answered { sent: BootMs(sent), index, reported: Vec::new(), answer: Box::new(answer) }
}

/// A machine and the world around it: carries out actions, remembers what was effective when.
struct World {
    machine: Machine,
    now: u64,
    index: u64,
    disk: Record,
    deadline: Option<FoundDeadline>,
    running: Option<StepOrder>,
    stopping: bool,
    /// Deadline under which a promotion was last begun or the lease extended.
    believed: Option<u64>,
    promoted: Vec<Epoch>,
    log: Vec<String>,
}

impl World {
    fn new(now: u64) -> World {
        World::with(Record::default(), None, now)
    }

    fn with(record: Record, found: Option<FoundDeadline>, now: u64) -> World {
        let machine = Machine::new(terms(), record.clone(), found, BootMs(now));
        World {
            machine,
            now,
            index: 0,
            disk: record,
            deadline: found,
            running: None,
            stopping: false,
            believed: found.map(|found| found.deadline.0),
            promoted: Vec::new(),
            log: Vec::new(),
        }
    }

    fn at(&mut self, now: u64) -> &mut World {
        self.now = now;
        self.event(Event::Ticked { dice: now });
        self
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let actions = self.machine.step(BootMs(self.now), event);
        for action in &actions {
            self.carry_out(action);
        }
        self.check();
        actions
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Persist(record) => {
                assert!(record.epoch >= self.disk.epoch, "epochs never fall");
                assert!(record.epoch > self.disk.epoch || !self.disk.closed || record.closed, "closed stays closed");
                assert!(record.writes > self.disk.writes);
                self.disk = (**record).clone();
            }
            Action::NoteDeadline { epoch, deadline } => {
                assert_eq!(*epoch, self.disk.epoch, "a lease only of the stored epoch");
                self.deadline = Some(FoundDeadline { epoch: *epoch, deadline: *deadline });
                self.believed = Some(deadline.0);
            }
            Action::ForgetDeadline => self.deadline = None,
            Action::NoteActive { epoch, active, .. } => {
                self.log.push(format!("{active} {epoch}"));
                if *active {
                    assert!(self.disk.may_run, "stored before it is so");
                }
            }
            Action::KillStep => self.running = None,
            Action::RunStep { order, deadline } => {
                assert!(self.running.is_none() && !self.stopping, "one thing at a time");
                assert_eq!(order.epoch, self.disk.epoch, "nothing of another epoch");
                let last = self.disk.last_step.as_ref().unwrap();
                assert_eq!(last.key, order.key, "stored before it is begun");
                if matches!(order.kind, StepKind::Promote | StepKind::Publish) {
                    let deadline = deadline.unwrap().0;
                    assert_eq!(Some(deadline), self.believed, "the warden knows the same deadline");
                    assert!(self.now < deadline, "the lease runs");
                    assert!(!self.disk.closed && self.disk.may_run && self.disk.holder == Some(Site::A));
                    let promise = self.disk.promise.as_ref();
                    assert!(promise.is_none_or(|promise| promise.until.0 <= self.now), "promised not to");
                    self.promoted.push(order.epoch);
                }
                self.running = Some(order.clone());
            }
            Action::RunStop { .. } => {
                assert!(self.running.is_none(), "the step is killed first");
                // What runs under an epoch is stopped after that epoch was closed or left behind.
                let current = self.promoted.last() == Some(&self.disk.epoch) && self.disk.may_run;
                assert!(self.disk.closed || !current, "closed before it is stopped");
                self.stopping = true;
            }
            Action::AnswerPromise(answer) => {
                if let PromiseVerdict::Promised { for_ms } = &answer.verdict {
                    let promise = self.disk.promise.as_ref().expect("stored before it is given");
                    assert!(promise.until.0 >= self.now + for_ms);
                    assert!(!self.disk.may_run && answer.epoch >= self.disk.epoch);
                }
            }
            Action::SyncNow | Action::AskPeers { .. } => {}
        }
    }

    /// What must hold whenever the machine has just been looked after.
    fn check(&self) {
        assert_eq!(&self.disk, self.machine.stored(), "what the machine believes is on disk");
        assert_eq!(&self.disk, self.machine.record());
        if self.disk.may_run && !self.stopping {
            let covered = self.believed.is_some_and(|deadline| self.now < deadline);
            assert!(covered || self.machine.figures().doing.starts_with("stopping"), "may run without a lease");
        }
        let part = self.machine.sync_part(None);
        if part.closed {
            assert!(!self.disk.may_run && !self.stopping, "closed is said only when nothing runs");
            assert!(part.renew.is_none());
        }
        if let Some(renew) = part.renew {
            assert!(renew == self.disk.epoch && !self.disk.closed && self.disk.holder == Some(Site::A));
        }
    }

    fn answered(&mut self, answer: TicketAnswer) -> Vec<Action> {
        self.index += 1;
        let (sent, index) = (self.now.saturating_sub(10), self.index);
        self.event(answered(sent, index, answer))
    }

    fn step_ends(&mut self, outcome: StepOutcome) -> Vec<Action> {
        let Some(order) = self.running.take() else { return Vec::new() };
        self.event(Event::StepEnded { key: order.key, outcome, detail: None, took_ms: 5 })
    }

    fn stop_ends(&mut self, verified: bool) -> Vec<Action> {
        if !std::mem::take(&mut self.stopping) {
            return Vec::new();
        }
        self.event(Event::StopEnded { verified, detail: None })
    }

    /// Granted, renewed, promoted.
    fn active(now: u64) -> World {
        let mut world = World::new(now);
        world.answered(answer(1, Site::A, false, None));
        world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
        assert!(world.running.is_some());
        world.step_ends(StepOutcome::Done);
        assert_eq!(world.machine.figures().doing, "active");
        world
    }

    fn outcome_of(&self, key: &str) -> Option<StepOutcome> {
        self.disk.reports.iter().find(|report| report.key == key).map(|report| report.outcome)
    }
}

fn ask(counter: u64) -> PromiseAsk {
    PromiseAsk {
        site: Site::B,
        gate: "host-b".parse().unwrap(),
        ticket: "rx".parse().unwrap(),
        epoch: epoch(counter),
        nonce: 9,
    }
}

fn promised(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|action| match action {
        Action::AnswerPromise(answer) => Some(matches!(answer.verdict, PromiseVerdict::Promised { .. })),
        _ => None,
    })
}

#[test]
fn a_grant_leads_to_a_promotion_and_a_lost_lease_to_a_stop() {
    let mut world = World::active(100_000);
    world.at(105_000).answered(answer(1, Site::A, true, None));
    let deadline = 104_990 + TTL;
    world.at(deadline - 300);
    assert!(!world.stopping, "the lease counts from sending, and runs");
    world.at(deadline - 200);
    assert!(world.stopping && world.disk.closed);
    world.stop_ends(false);
    assert!(world.disk.may_run, "not stopped before it is verified");
    world.at(deadline + 400);
    assert!(world.stopping, "tried again");
    world.stop_ends(true);
    assert_eq!(world.log, ["true 1.1", "false 1.1"]);
    // What was queued finds the epoch closed.
    world.answered(answer(
        1,
        Site::A,
        true,
        Some(StepOrder { key: "again".to_owned(), ..order(StepKind::Promote, 1, Site::A) }),
    ));
    assert_eq!(world.outcome_of("again"), Some(StepOutcome::Rejected));
    // Only a new epoch opens it.
    world.answered(answer(2, Site::A, false, None));
    world.answered(answer(2, Site::A, true, Some(order(StepKind::Promote, 2, Site::A))));
    assert_eq!(world.running.as_ref().map(|order| order.epoch), Some(epoch(2)));
}

#[test]
fn a_promotion_needs_a_confirmed_lease() {
    let mut world = World::new(100_000);
    world.answered(answer(1, Site::A, false, Some(order(StepKind::Promote, 1, Site::A))));
    assert!(world.running.is_none(), "granted, but nothing renewed yet");
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
    assert!(world.running.is_some());
    // An answer to an old request is worth what is left of it: nothing.
    let mut late = World::new(100_000);
    late.answered(answer(1, Site::A, false, None));
    let stale = answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A)));
    late.event(answered(100_000 - TTL, 2, stale));
    assert!(late.running.is_none());
}

#[test]
fn lower_and_foreign_epochs_are_refused() {
    let mut world = World::new(100_000);
    world.answered(answer(5, Site::B, false, None));
    world.answered(answer(5, Site::B, false, Some(order(StepKind::Promote, 4, Site::A))));
    assert_eq!(world.outcome_of("promote-4"), Some(StepOutcome::Rejected));
    world.answered(answer(5, Site::B, false, Some(order(StepKind::Promote, 5, Site::B))));
    assert_eq!(world.outcome_of("promote-5"), Some(StepOutcome::Rejected));
    world.answered(answer(3, Site::A, true, Some(order(StepKind::Promote, 3, Site::A))));
    assert!(world.running.is_none() && world.disk.epoch == epoch(5), "collectors from a backup");
    assert!(world.machine.figures().trouble.unwrap().contains("backup"));
    world.answered(answer(5, Site::A, true, None));
    assert_eq!(world.disk.holder, Some(Site::B), "an epoch has one holder for ever");
}

#[test]
fn a_superseded_side_stops_and_can_then_follow() {
    let mut world = World::active(100_000);
    world.answered(answer(2, Site::B, false, Some(order(StepKind::Seal, 2, Site::B))));
    assert!(world.stopping && world.disk.epoch == epoch(2));
    world.stop_ends(true);
    assert_eq!(world.running.as_ref().map(|order| order.kind), Some(StepKind::Seal));
    world.step_ends(StepOutcome::Done);
    assert_eq!(world.outcome_of("seal-2"), Some(StepOutcome::Done));
    world.answered(answer(2, Site::B, false, Some(order(StepKind::Follow, 2, Site::B))));
    world.step_ends(StepOutcome::Done);
    assert_eq!(world.outcome_of("follow-2"), Some(StepOutcome::Done));
    assert_eq!(world.log, ["true 1.1", "false 1.1".replace("1.1", "1.2").as_str()]);
}

#[test]
fn an_ordered_stop_closes_verifies_and_reports() {
    let mut world = World::active(100_000);
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Stop, 1, Site::A))));
    assert!(world.disk.closed && world.stopping);
    assert!(!world.machine.sync_part(None).closed, "not before it is verified");
    world.stop_ends(true);
    assert_eq!(world.outcome_of("stop-1"), Some(StepOutcome::Done));
    assert!(world.machine.sync_part(None).closed);
    // The same order again is answered from memory.
    let reported = Event::Answered {
        sent: BootMs(world.now),
        index: 50,
        reported: vec!["stop-1".to_owned()],
        answer: Box::new(answer(1, Site::A, false, None)),
    };
    world.event(reported);
    assert!(world.disk.reports.iter().all(|report| report.key != "stop-1"), "confirmed");
    world.index = 50;
    world.answered(answer(1, Site::A, false, Some(order(StepKind::Stop, 1, Site::A))));
    assert!(!world.stopping);
    assert_eq!(world.outcome_of("stop-1"), Some(StepOutcome::Done), "said again");
}

#[test]
fn a_stop_does_not_wait_for_a_hanging_promotion() {
    let mut world = World::new(100_000);
    world.answered(answer(1, Site::A, false, None));
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
    let actions = world.answered(answer(1, Site::A, true, Some(order(StepKind::Stop, 1, Site::A))));
    assert!(actions.contains(&Action::KillStep) && world.stopping);
    assert_eq!(world.outcome_of("promote-1"), Some(StepOutcome::Failed));
}

#[test]
fn publication_comes_after_promotion() {
    let mut world = World::new(100_000);
    world.answered(answer(1, Site::A, false, None));
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Publish, 1, Site::A))));
    assert_eq!(world.outcome_of("publish-1"), Some(StepOutcome::Rejected));
    let mut world = World::active(100_000);
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Publish, 1, Site::A))));
    assert_eq!(world.running.as_ref().map(|order| order.kind), Some(StepKind::Publish));
}

#[test]
fn the_same_site_goes_on_under_a_new_epoch() {
    let mut world = World::active(100_000);
    world.answered(answer(2, Site::A, false, None));
    assert!(!world.stopping && world.disk.may_run, "nobody else could have been active");
    world.answered(answer(2, Site::A, true, Some(order(StepKind::Promote, 2, Site::A))));
    assert_eq!(world.running.as_ref().map(|order| order.epoch), Some(epoch(2)));
    // Not renewed under the new one, the old deadline holds.
    let mut world = World::active(100_000);
    world.answered(answer(2, Site::A, false, None));
    world.at(100_000 - 10 + TTL - 200);
    assert!(world.stopping);
}

#[test]
fn failsafe_needs_every_promise_to_one_question() {
    let mut world = World::active(100_000);
    let actions = {
        world.now = 105_100;
        world.event(Event::Ticked { dice: 77 })
    };
    assert!(actions.contains(&Action::AskPeers { epoch: epoch(1), nonce: 77 }));
    let given = |id: &str, nonce| Event::PromiseGiven { peer: peer(id), nonce, for_ms: GateTiming::METRO.promise_ms() };
    let before = world.believed;
    world.event(given("host-b", 77));
    world.event(given("host-b", 77));
    assert_eq!(world.believed, before, "one of two");
    world.now = 106_200;
    world.event(Event::Ticked { dice: 78 });
    world.event(given("host-b2", 77));
    world.event(given("host-b2", 78));
    assert_eq!(world.believed, before, "promises of two rounds do not add up");
    world.event(given("host-b", 78));
    assert_eq!(world.believed, Some(106_200 + TTL), "counted from the asking");
    // A promise that is too short, or a refusal, is none.
    world.now = 107_300;
    world.event(Event::Ticked { dice: 79 });
    world.event(Event::PromiseGiven { peer: peer("host-b"), nonce: 79, for_ms: 14_000 });
    world.event(given("host-b2", 79));
    world.event(Event::PromiseDenied { peer: peer("host-b"), nonce: 79, reason: "no".to_owned() });
    assert_eq!(world.believed, Some(106_200 + TTL));
    world.at(106_200 + TTL);
    assert!(world.stopping);
}

#[test]
fn without_peers_there_is_no_failsafe() {
    let mut terms = terms();
    terms.peers.clear();
    let mut machine = Machine::new(terms, Record::default(), None, BootMs(1_000));
    machine.step(BootMs(1_000), answered(1_000, 1, answer(1, Site::A, false, None)));
    machine
        .step(BootMs(1_000), answered(1_000, 2, answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A)))));
    let actions = machine.step(BootMs(7_000), Event::Ticked { dice: 1 });
    assert!(!actions.iter().any(|action| matches!(action, Action::AskPeers { .. })));
}

#[test]
fn a_promise_outlives_a_restart_and_blocks_a_promotion() {
    let mut world = World::new(100_000);
    world.answered(answer(1, Site::B, false, None));
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(1)))), Some(true));
    let until = world.disk.promise.clone().unwrap().until.0;
    assert_eq!(until, 100_000 + GateTiming::METRO.promise_ms());
    for (boot, until) in [("boot-1", until), ("boot-0", 101_000 + GateTiming::METRO.promise_ms())] {
        let mut record = world.disk.clone();
        record.promise.as_mut().unwrap().boot_id = boot.to_owned();
        let mut again = World::with(record, None, 101_000);
        again.at(101_001).answered(answer(2, Site::A, false, None));
        again.answered(answer(2, Site::A, true, Some(order(StepKind::Promote, 2, Site::A))));
        assert!(again.running.is_none());
        again.at(until - 1).answered(answer(2, Site::A, true, Some(order(StepKind::Promote, 2, Site::A))));
        assert!(again.running.is_none(), "{boot}");
        again.at(until).answered(answer(2, Site::A, true, Some(order(StepKind::Promote, 2, Site::A))));
        assert!(again.running.is_some(), "{boot}");
    }
}

#[test]
fn what_is_not_promised() {
    let mut world = World::new(100_000);
    world.answered(answer(3, Site::B, false, None));
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(2)))), Some(false), "a higher epoch is known");
    assert_eq!(promised(&world.event(Event::PromiseAsked(PromiseAsk { site: Site::A, ..ask(3) }))), Some(false));
    assert_eq!(promised(&world.event(Event::PromiseAsked(PromiseAsk { site: Site::W, ..ask(3) }))), Some(false));
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(3)))), Some(true));
    let mut world = World::active(100_000);
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(1)))), Some(false));
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(2)))), Some(false), "it runs here");
}

#[test]
fn a_restart_learns_only_when_to_stop() {
    let active = World::active(100_000);
    let (record, found) = (active.disk.clone(), active.deadline);
    let mut again = World::with(record.clone(), found, 101_000);
    again.at(101_000);
    assert!(!again.stopping, "a restart stops nothing");
    let publish = order(StepKind::Publish, 1, Site::A);
    again.answered(answer(1, Site::A, false, Some(publish.clone())));
    assert!(again.running.is_none(), "a lease from a file lets nothing begin");
    again.at(found.unwrap().deadline.0 - 200);
    assert!(again.stopping, "and lasts no longer than before");
    // It may renew the same epoch while it is held.
    let mut again = World::with(record.clone(), found, 101_000);
    again.answered(answer(1, Site::A, true, Some(publish)));
    assert!(again.running.is_some());
    // After another boot, or without the file, nobody knows: stop.
    let mut again = World::with(record, None, 101_000);
    again.at(101_000);
    assert!(again.stopping && again.disk.closed);
}

#[test]
fn what_the_warden_wrote_counts() {
    let mut world = World::new(100_000);
    world.answered(answer(1, Site::A, false, None));
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
    // Paused for a minute with the promotion running; the warden closed and stopped.
    let record = Record { closed: true, may_run: false, writes: world.disk.writes + 2, ..world.disk.clone() };
    world.disk = record.clone();
    world.now = 160_000;
    world.machine.lease = world.machine.lease.map(|lease| super::Lease { deadline: BootMs(u64::MAX), ..lease });
    let actions = world.event(Event::RecordFound(Box::new(record)));
    assert!(actions.contains(&Action::KillStep));
    assert_eq!(world.outcome_of("promote-1"), Some(StepOutcome::Rejected));
    world.answered(answer(
        1,
        Site::A,
        true,
        Some(StepOrder { key: "queued".to_owned(), ..order(StepKind::Promote, 1, Site::A) }),
    ));
    assert_eq!(world.outcome_of("queued"), Some(StepOutcome::Rejected));
    assert!(world.running.is_none());
}

#[test]
fn a_record_that_was_not_stored_is_handed_out_again() {
    let mut world = World::active(100_000);
    world.machine.not_stored();
    let actions = world.machine.step(BootMs(100_100), Event::Ticked { dice: 1 });
    assert!(matches!(actions.first(), Some(Action::Persist(_))));
}

#[derive(Debug, Clone)]
enum Deed {
    Wait(u64),
    Answer { counter: u64, renewed: bool, order: Option<(StepKind, u64, u64)>, late_ms: u64 },
    StepEnds(StepOutcome),
    StopEnds(bool),
    Ask(u64),
    Promises { nonce_shift: u64, all: bool, short: bool },
    Restart { same_boot: bool },
    WardenActs,
}

/// One holder per epoch, as the collectors guarantee.
fn holder_of(counter: u64) -> Site {
    if counter % 3 == 2 { Site::B } else { Site::A }
}

fn deed() -> impl Strategy<Value = Deed> {
    let kind = prop_oneof![
        4 => Just(StepKind::Promote),
        2 => Just(StepKind::Stop),
        1 => Just(StepKind::Seal),
        1 => Just(StepKind::Publish),
        1 => Just(StepKind::Follow),
    ];
    let outcome = prop_oneof![Just(StepOutcome::Done), Just(StepOutcome::Failed), Just(StepOutcome::Vetoed)];
    prop_oneof![
        5 => prop_oneof![4 => 50_u64..2_000, 1 => 5_000_u64..40_000].prop_map(Deed::Wait),
        10 => (0_u64..3, any::<bool>(), prop::option::of((kind, 0_u64..2, 0_u64..4)), 0_u64..12_000).prop_map(
            |(up, renewed, order, late_ms)| Deed::Answer {
                counter: up, renewed, order, late_ms: if late_ms > 9_000 { late_ms } else { late_ms / 50 }
            }
        ),
        4 => outcome.prop_map(Deed::StepEnds),
        4 => prop::bool::weighted(0.8).prop_map(Deed::StopEnds),
        1 => (0_u64..3).prop_map(Deed::Ask),
        2 => (0_u64..2, prop::bool::weighted(0.7), prop::bool::weighted(0.1))
            .prop_map(|(nonce_shift, all, short)| Deed::Promises { nonce_shift, all, short }),
        1 => any::<bool>().prop_map(|same_boot| Deed::Restart { same_boot }),
        1 => Just(Deed::WardenActs),
    ]
}

fn live(deeds: Vec<Deed>) -> (usize, usize) {
    let mut world = World::new(50_000);
    let mut top = 1_u64;
    let mut asked = 0;
    let mut stops = 0;
    for deed in deeds {
        match deed {
            Deed::Wait(ms) => {
                // The driver ticks every 100 ms; a pause of the process is a wait with one tick after it.
                let until = world.now + ms;
                while ms < 5_000 && world.now + 100 < until {
                    let next = world.now + 100;
                    let before = world.stopping;
                    world.at(next);
                    stops += usize::from(world.stopping && !before);
                }
                world.now = until;
                // Between pause and first event the warden would act; the machine must do so by itself as well.
                let actions = world.event(Event::Ticked { dice: until });
                asked = actions
                    .iter()
                    .find_map(|action| match action {
                        Action::AskPeers { nonce, .. } => Some(*nonce),
                        _ => None,
                    })
                    .unwrap_or(asked);
            }
            Deed::Answer { counter, renewed, order: kind, late_ms } => {
                // Mostly the present epoch, sometimes the next or an old one.
                let counter = match counter {
                    0 => top,
                    1 if renewed => top,
                    1 => {
                        top += 1;
                        top
                    }
                    _ => top.saturating_sub(1).max(1),
                };
                let holder = holder_of(counter);
                let order = kind.map(|(kind, back, key)| {
                    let counter = counter.saturating_sub(back).max(1);
                    StepOrder {
                        key: format!("{}-{counter}-{key}", kind.as_str()),
                        ..order(kind, counter, holder_of(counter))
                    }
                });
                let renewed =
                    renewed && holder == Site::A && world.machine.sync_part(None).renew == Some(epoch(counter));
                world.index += 1;
                let event =
                    answered(world.now.saturating_sub(late_ms), world.index, answer(counter, holder, renewed, order));
                world.event(event);
            }
            Deed::StepEnds(outcome) => {
                world.step_ends(outcome);
            }
            Deed::StopEnds(verified) => {
                world.stop_ends(verified);
            }
            Deed::Ask(up) => {
                let counter = (top + up).saturating_sub(1).max(1);
                if holder_of(counter) == Site::B {
                    world.event(Event::PromiseAsked(ask(counter)));
                }
            }
            Deed::Promises { nonce_shift, all, short } => {
                let for_ms = if short { 14_000 } else { GateTiming::METRO.promise_ms() };
                let nonce = asked + nonce_shift;
                world.event(Event::PromiseGiven { peer: peer("host-b"), nonce, for_ms });
                if all {
                    world.event(Event::PromiseGiven { peer: peer("host-b2"), nonce, for_ms });
                }
            }
            Deed::Restart { same_boot } => {
                let found = world.deadline.filter(|_| same_boot);
                let (promoted, log, index) = (world.promoted.clone(), world.log.clone(), world.index);
                let believed = found.map(|found| found.deadline.0);
                let mut record = world.disk.clone();
                if !same_boot && let Some(promise) = &mut record.promise {
                    promise.boot_id = "boot-0".to_owned();
                }
                world = World { promoted, log, index, believed, ..World::with(record, found, world.now) };
                let now = world.now;
                world.at(now);
            }
            Deed::WardenActs => {
                // It acts only where the deadline has passed.
                let late = world.disk.may_run && world.deadline.is_none_or(|found| world.now >= found.deadline.0);
                if late {
                    let closed = world.disk.closed || world.disk.holder == Some(Site::A);
                    world.disk = Record {
                        closed,
                        may_run: false,
                        promoted: None,
                        writes: world.disk.writes + 2,
                        ..world.disk.clone()
                    };
                    world.stopping = false;
                    let record = world.disk.clone();
                    world.event(Event::RecordFound(Box::new(record)));
                }
            }
        }
    }
    (world.promoted.len(), stops)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_invariants_hold(deeds in prop::collection::vec(deed(), 1..120)) {
        live(deeds);
    }
}

/// The sequences above are not vacuous: promotions and stops happen in them.
#[test]
fn random_lives_promote_and_stop() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut promoted, mut stopped) = (0, 0);
    for _ in 0..300 {
        let deeds = prop::collection::vec(deed(), 60..120).new_tree(&mut runner).unwrap().current();
        let (promotions, stops) = live(deeds);
        promoted += promotions;
        stopped += stops;
    }
    assert!(promoted > 100 && stopped > 30, "{promoted} promotions, {stopped} stops");
}
