#![allow(clippy::unwrap_used)]

mod failsafe;
mod random;

use std::collections::BTreeSet;

use bcp_wire::control::{
    Phase, PromiseAsk, PromiseVerdict, StepKind, StepOrder, StepOutcome, TicketAnswer, TicketSync,
};
use bcp_wire::{Epoch, Site};

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
    /// The warden cannot be told of a deadline.
    unheard: bool,
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
            unheard: false,
        }
    }

    fn at(&mut self, now: u64) -> &mut World {
        self.now = now;
        self.event(Event::Ticked { dice: now });
        self
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.machine.step(BootMs(self.now), event);
        for at in 0.. {
            let Some(action) = actions.get(at).cloned() else { break };
            self.carry_out(&action);
            if let Action::NoteDeadline { epoch, deadline } = action {
                let fault = self.unheard.then(|| "no room".to_owned());
                let noted = Event::DeadlineNoted { epoch, deadline, fault };
                let follow = self.machine.step(BootMs(self.now), noted);
                actions.extend(follow);
            }
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
                self.machine.saved(record);
            }
            Action::NoteDeadline { epoch, deadline } => {
                assert_eq!(*epoch, self.disk.epoch, "a lease only of the stored epoch");
                if !self.unheard {
                    self.deadline = Some(FoundDeadline { epoch: *epoch, deadline: *deadline });
                    self.believed = Some(deadline.0);
                }
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
        if let (Some(lease), Some(told)) = (self.machine.figures().deadline, self.believed) {
            assert!(lease.0 <= told, "no longer than the warden was told");
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
    world.machine.not_stored("no room");
    let actions = world.machine.step(BootMs(100_100), Event::Ticked { dice: 1 });
    assert!(matches!(actions.first(), Some(Action::Persist(_))));
}

#[test]
fn a_record_that_was_found_counts_before_time_does() {
    let mut world = World::active(100_000);
    let on_disk = world.disk.clone();
    // Its disk takes nothing: epoch 2 is adopted in memory alone.
    let mut unsaved = world.machine.clone();
    unsaved.step(BootMs(100_100), answered(100_050, u64::MAX, answer(2, Site::A, true, None)));
    unsaved.not_stored("no room");
    // Paused until after its lease; meanwhile the warden closed what the disk knows.
    world.now = 100_100 + 2 * TTL;
    world.machine = unsaved;
    let found = closed_by_the_warden(on_disk);
    world.disk = found.clone();
    world.event(Event::RecordFound(Box::new(found)));
    assert_eq!(world.machine.record(), &world.disk, "what is on the disk is what the machine knows");
    world.answered(answer(2, Site::A, false, None));
    world.answered(answer(1, Site::A, false, None));
    assert!(world.disk.epoch == epoch(2));
}

fn closed_by_the_warden(record: Record) -> Record {
    Record { writes: record.writes + 1, closed: true, may_run: false, promoted: None, ..record }
}

#[test]
fn what_is_not_on_the_disk_frees_nobody() {
    let world = World::active(100_000);
    let mut unsaved = world.machine.clone();
    let counter = unsaved.record().epoch.counter;
    let stop = order(StepKind::Stop, counter, Site::A);
    unsaved.step(BootMs(100_100), answered(100_050, u64::MAX, answer(counter, Site::A, false, Some(stop))));
    unsaved.step(BootMs(100_200), Event::StopEnded { verified: true, detail: None });
    let told = unsaved.sync_part(None);
    let stops = |told: &TicketSync| told.reports.iter().filter(|report| report.kind == StepKind::Stop).count();
    assert!(!told.closed && stops(&told) == 0 && told.renew.is_none(), "{told:?}");
    let kept = unsaved.record().clone();
    unsaved.saved(&kept);
    let told = unsaved.sync_part(None);
    assert!(told.closed && stops(&told) == 1, "{told:?}");
}

/// Its disk takes nothing: another epoch is known to memory alone.
fn unsaved(mut machine: Machine, now: u64, told: TicketAnswer) -> Machine {
    machine.step(BootMs(now), answered(now - 50, u64::MAX, told));
    machine.not_stored("no room");
    machine
}

#[test]
fn an_epoch_that_the_disk_did_not_take_is_not_renewed() {
    let world = World::active(100_000);
    assert_eq!(world.machine.sync_part(None).renew, Some(epoch(1)));
    let unsaved = unsaved(world.machine.clone(), 100_100, answer(2, Site::A, false, None));
    assert_eq!(unsaved.record().epoch, epoch(2));
    assert_eq!(unsaved.sync_part(None).renew, None, "a gate that starts anew would not know epoch 2");
}

#[test]
fn a_gate_that_cannot_store_says_so_until_it_can() {
    let world = World::active(100_000);
    let mut unsaved = unsaved(world.machine.clone(), 100_100, answer(2, Site::A, false, None));
    unsaved.step(BootMs(100_200), answered(100_150, u64::MAX, answer(2, Site::A, false, None)));
    assert!(unsaved.sync_part(None).trouble.is_some() && unsaved.figures().trouble.is_some());
}

#[test]
fn what_only_memory_knew_is_not_forgotten_for_a_record_that_was_found() {
    let world = World::active(100_000);
    let on_disk = world.disk.clone();
    let mut unsaved = unsaved(world.machine.clone(), 100_100, answer(2, Site::A, false, None));
    let stop = order(StepKind::Stop, 2, Site::A);
    unsaved.step(BootMs(100_200), answered(100_150, u64::MAX, answer(2, Site::A, false, Some(stop))));
    unsaved.not_stored("no room");
    assert!(unsaved.record().epoch == epoch(2) && unsaved.record().closed);
    unsaved.step(BootMs(100_300), Event::RecordFound(Box::new(closed_by_the_warden(on_disk))));
    assert!(unsaved.record().epoch == epoch(2) && unsaved.record().closed, "{:?}", unsaved.record());
    unsaved.step(BootMs(100_400), answered(100_350, u64::MAX, answer(2, Site::A, false, None)));
    assert!(unsaved.record().closed, "opened again");
}

#[test]
fn a_lease_lasts_no_longer_than_the_warden_was_told() {
    let mut world = World::active(100_000);
    world.unheard = true;
    for now in [103_000, 106_000, 109_000] {
        world.now = now;
        world.answered(answer(1, Site::A, true, None));
        assert!(world.machine.figures().trouble.unwrap().contains("warden"), "said");
    }
    world.at(100_000 - 10 + TTL - 200);
    assert!(world.stopping && world.disk.closed, "renewed thrice, and the warden knows of none of it");
    // Nothing begins on such a lease either.
    let mut world = World::new(100_000);
    world.unheard = true;
    world.answered(answer(1, Site::A, false, None));
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
    assert!(world.running.is_none() && !world.disk.may_run);
    world.unheard = false;
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
    assert!(world.running.is_some(), "begun with the answer that the warden heard of");
    assert!(world.machine.figures().trouble.is_none());
}

#[test]
fn what_the_warden_stopped_is_not_called_active() {
    let mut world = World::active(100_000);
    world.event(Event::WardenStopped);
    assert!(world.stopping && world.disk.closed && world.machine.sync_part(None).renew.is_none());
    assert!(world.machine.figures().doing.contains("the warden stopped"), "{}", world.machine.figures().doing);
    world.stop_ends(true);
    assert!(world.machine.sync_part(None).closed);
}

#[test]
fn a_gate_beside_a_warden_at_work_renews_nothing() {
    let mut world = World::active(100_000);
    world.machine.blinded("the warden is at work", true);
    assert!(world.machine.sync_part(None).unstopped);
    assert!(world.machine.sync_part(None).renew.is_none() && world.machine.sync_part(None).trouble.is_some());
    assert_ne!(world.machine.figures().doing, "active");
    world.at(100_100);
    let part = world.machine.sync_part(None);
    assert!(part.renew.is_some() && !part.unstopped, "it was nothing");
}

#[test]
fn a_stop_that_is_not_verified_is_told_until_it_is() {
    let mut world = World::active(100_000);
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Stop, 1, Site::A))));
    assert!(!world.machine.sync_part(None).unstopped, "it may yet stop");
    world.stop_ends(false);
    assert!(world.machine.sync_part(None).unstopped);
    world.at(101_000);
    assert!(world.stopping && world.machine.sync_part(None).unstopped, "tried again");
    let again = Machine::new(terms(), world.disk.clone(), world.deadline, BootMs(101_100));
    assert!(again.sync_part(None).unstopped, "a new life knows no better");
    world.stop_ends(true);
    assert!(!world.machine.sync_part(None).unstopped);
}

#[test]
fn a_record_that_vanishes_stops_and_closes() {
    let mut world = World::active(100_000);
    world.disk = Record::default();
    world.event(Event::RecordLost { reason: "gone".to_owned() });
    assert!(
        world.stopping && world.disk.closed && world.disk.may_run && world.disk.epoch == epoch(1),
        "{:?}",
        world.disk
    );
    world.stop_ends(true);
    let part = world.machine.sync_part(None);
    assert!(part.closed && part.trouble.is_some_and(|what| what.contains("lost")));
    world.at(100_000 + 61_000);
    assert!(
        world.machine.sync_part(None).trouble.is_none(),
        "a gate with trouble for ever is given no ticket for ever"
    );
}

/// Found gone at a start: what was closed is unknown, so the first epoch heard of counts as closed.
#[test]
fn a_gate_without_its_record_waits_for_a_later_epoch() {
    let lost = Record::lost("boot-1", BootMs(100_000), GateTiming::METRO.promise_ms());
    let mut world = World::with(lost, None, 100_000);
    world.event(Event::RecordLost { reason: "gone".to_owned() });
    assert!(world.stopping, "anything may run");
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(3)))), Some(false));
    world.answered(answer(3, Site::A, false, None));
    world.stop_ends(true);
    world.answered(answer(3, Site::A, false, Some(order(StepKind::Promote, 3, Site::A))));
    assert_eq!(world.outcome_of("promote-3"), Some(StepOutcome::Rejected));
    assert!(world.machine.sync_part(None).closed && world.disk.epoch == epoch(3) && !world.disk.lost);
    world.now = 101_000;
    world.answered(answer(4, Site::A, false, None));
    world.answered(answer(4, Site::A, true, Some(order(StepKind::Promote, 4, Site::A))));
    assert!(world.running.is_none(), "it may have promised");
    world.now = 100_000 + GateTiming::METRO.promise_ms();
    world.answered(answer(4, Site::A, true, Some(order(StepKind::Promote, 4, Site::A))));
    assert!(world.running.is_some());
}
