//! Loss policies: what is promoted only under a watchdog, and what is never promoted.

use super::*;
use crate::gate::watchdog::Fence;

fn world(loss: Loss) -> World {
    let mut world = World::new(100_000);
    world.machine = Machine::new(Terms { loss, ..terms() }, Record::default(), None, BootMs(100_000));
    world
}

fn unusable() -> Fence {
    Fence::Unusable { reason: "no such device".to_owned() }
}

fn ordered(world: &mut World) {
    world.answered(answer(1, Site::A, false, None));
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
}

#[test]
fn nothing_is_promoted_before_the_watchdog_is_armed() {
    let mut world = world(Loss::Fence);
    world.machine.fence_heard(Fence::Ready);
    ordered(&mut world);
    assert!(world.running.is_none() && !world.disk.may_run);
    assert!(world.machine.figures().trouble.unwrap().contains("the watchdog is being armed"));
    world.at(100_100);
    assert!(world.running.is_none(), "not armed yet");
    world.machine.fence_heard(Fence::Armed);
    world.at(100_200);
    assert!(world.running.is_some() && world.disk.may_run, "it waits for no other answer");
    assert_eq!(world.machine.figures().trouble, None);
}

#[test]
fn a_site_without_its_watchdog_never_becomes_active_and_says_so() {
    let mut world = world(Loss::Fence);
    assert!(world.machine.sync_part(None).trouble.unwrap().contains("not heard of yet"), "before the first word");
    world.machine.fence_heard(unusable());
    ordered(&mut world);
    for at in 1..90 {
        world.at(100_000 + at * 100);
    }
    assert!(world.running.is_none() && !world.disk.may_run);
    assert!(world.machine.sync_part(None).trouble.unwrap().contains("no such device"));
}

#[test]
fn what_waited_for_a_watchdog_is_not_begun_after_its_lease() {
    let mut world = world(Loss::Fence);
    world.machine.fence_heard(unusable());
    ordered(&mut world);
    world.at(100_000 + TTL);
    world.machine.fence_heard(Fence::Armed);
    world.at(100_100 + TTL);
    assert!(world.running.is_none() && !world.disk.may_run);
}

#[test]
fn what_waited_for_a_watchdog_is_not_begun_under_a_later_epoch() {
    let mut world = world(Loss::Fence);
    world.machine.fence_heard(unusable());
    ordered(&mut world);
    world.answered(answer(2, Site::B, false, None));
    world.machine.fence_heard(Fence::Armed);
    world.at(100_100);
    assert!(world.running.is_none() && !world.disk.may_run);
}

#[test]
fn a_watchdog_that_is_lost_stops_nothing_that_runs() {
    let mut world = world(Loss::Fence);
    world.machine.fence_heard(Fence::Armed);
    ordered(&mut world);
    world.step_ends(StepOutcome::Done);
    world.machine.fence_heard(unusable());
    world.at(100_100);
    assert!(!world.stopping && world.machine.sync_part(None).trouble.is_some());
}

#[test]
fn frozen_services_are_not_promoted_by_a_gate_that_would_not_stop_them() {
    let mut world = world(Loss::Freeze);
    ordered(&mut world);
    assert_eq!(world.outcome_of("promote-1"), Some(StepOutcome::Rejected));
    assert!(!world.disk.may_run);
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Weigh, 1, Site::A))));
    assert!(world.running.is_some(), "weights are what it is for");
}
