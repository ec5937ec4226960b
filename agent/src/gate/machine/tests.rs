#![allow(clippy::unwrap_used)]

mod disk;
mod failsafe;
mod forced;
mod loss;
mod random;
mod silence;
mod world;

use std::collections::BTreeSet;

use bcp_wire::control::{
    Phase, PromiseAsk, PromiseVerdict, StepKind, StepOrder, StepOutcome, TicketAnswer, TicketSync,
};
use bcp_wire::force::ForceOutcome;
use bcp_wire::{Epoch, Site};

use super::{Action, Event, FoundDeadline, Machine, Peer, Terms};
use crate::gate::config::{GateTiming, Loss};
use crate::gate::record::{BootMs, Record};
use world::World;

const TTL: u64 = GateTiming::METRO.ttl_holder_ms;

fn terms() -> Terms {
    Terms {
        site: Site::A,
        gate: "host-a".parse().unwrap(),
        ticket: "rx".parse().unwrap(),
        timing: GateTiming::METRO,
        loss: Loss::Stop,
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
        silent_ms: None,
        peer_in_sync: None,
    }
}

fn answered(sent: u64, index: u64, answer: TicketAnswer) -> Event {
    Event::Answered { sent: BootMs(sent), index, reported: Vec::new(), answer: Box::new(answer) }
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
