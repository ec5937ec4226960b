//! An order of two operators, without any collector.

use bcp_wire::force::ForceOutcome;
use bcp_wire::{Epoch, Site};

use super::super::{Action, Event};
use super::{GateTiming, TTL, World, answer, ask, epoch, promised};
use crate::gate::record::{BootMs, Record};
use bcp_wire::control::StepOutcome;

const WAIT: u64 = GateTiming::METRO.promise_ms();

fn anew(incarnation: u32) -> Epoch {
    Epoch { incarnation, counter: 1 }
}

fn force(world: &mut World, incarnation: u32, to: Site) -> ForceOutcome {
    let actions = world.event(Event::Forced { epoch: anew(incarnation), to });
    let found = actions.into_iter().find_map(|action| match action {
        Action::AnswerForce(outcome) => Some(outcome),
        _ => None,
    });
    found.unwrap()
}

/// Ticks until then, as the driver does.
fn run_until(world: &mut World, until: u64) {
    while world.now < until {
        let next = (world.now + 100).min(until);
        world.at(next);
    }
}

#[test]
fn a_forced_site_waits_one_promise_length_and_then_goes_on_alone() {
    let mut world = World::new(100_000);
    world.answered(answer(3, Site::B, false, None));
    assert_eq!(force(&mut world, 9, Site::A), ForceOutcome::WillPromote { after_ms: WAIT });
    assert_eq!(world.disk.epoch, anew(9));
    run_until(&mut world, 100_000 + WAIT - 100);
    assert!(world.running.is_none() && world.promoted.is_empty(), "not before the wait is over");
    run_until(&mut world, 100_000 + WAIT + 2_000);
    assert_eq!(world.promoted, [anew(9)]);
    world.step_ends(StepOutcome::Done);
    let later = world.now + 2_000;
    run_until(&mut world, later);
    assert_eq!(world.running.as_ref().map(|order| order.kind.as_str()), Some("publish"));
    world.step_ends(StepOutcome::Done);
    // No collector ever answers, and it goes on.
    let on = world.now + 10 * TTL;
    run_until(&mut world, on);
    assert!(world.disk.may_run && !world.stopping && world.running.is_none());
    assert!(world.disk.forced.as_ref().is_some_and(|forced| forced.published));
    let told = world.machine.sync_part(None);
    assert!(told.forced && told.renew.is_none() && told.seen == anew(9));
}

#[test]
fn what_failed_is_tried_again_later() {
    let mut world = World::new(100_000);
    force(&mut world, 9, Site::A);
    run_until(&mut world, 100_000 + WAIT + 1_000);
    world.step_ends(StepOutcome::Failed);
    assert!(world.running.is_none());
    let later = world.now + 10_000;
    run_until(&mut world, later);
    assert_eq!(world.promoted.len(), 2);
}

#[test]
fn a_standing_promise_is_kept_and_no_other_one_given() {
    let mut world = World::new(100_000);
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(1)))), Some(true));
    world.at(104_000);
    assert_eq!(force(&mut world, 9, Site::A), ForceOutcome::WillPromote { after_ms: WAIT });
    assert_eq!(promised(&world.event(Event::PromiseAsked(ask(1)))), Some(false));
    run_until(&mut world, 104_000 + WAIT - 100);
    assert!(world.promoted.is_empty());
    // One that lasts longer than the wait, as of a timing that was longer before.
    let mut world = World::new(100_000);
    world.event(Event::PromiseAsked(ask(1)));
    let mut record = world.disk.clone();
    record.promise.as_mut().unwrap().until = BootMs(200_000);
    let mut world = World::with(record, None, 101_000);
    assert_eq!(force(&mut world, 9, Site::A), ForceOutcome::WillPromote { after_ms: 99_000 });
    run_until(&mut world, 199_900);
    assert!(world.promoted.is_empty());
    run_until(&mut world, 202_000);
    assert_eq!(world.promoted, [anew(9)]);
}

#[test]
fn an_incarnation_that_was_seen_is_refused() {
    let mut world = World::active(100_000);
    assert!(matches!(force(&mut world, 1, Site::B), ForceOutcome::Refused { .. }));
    assert!(!world.stopping && world.disk.epoch == epoch(1));
    assert_eq!(force(&mut world, 9, Site::B), ForceOutcome::Yielded);
    assert!(world.stopping, "the other site was given it");
    assert_eq!(force(&mut world, 9, Site::B), ForceOutcome::Yielded, "said twice");
    assert!(matches!(force(&mut world, 9, Site::A), ForceOutcome::Refused { .. }), "an epoch has one holder");
    assert!(matches!(force(&mut world, 8, Site::A), ForceOutcome::Refused { .. }));
}

#[test]
fn collectors_from_before_are_not_obeyed_and_later_ones_take_over_without_a_stop() {
    let mut world = World::new(100_000);
    force(&mut world, 9, Site::A);
    run_until(&mut world, 100_000 + WAIT + 1_000);
    world.step_ends(StepOutcome::Done);
    world.answered(answer(7, Site::B, false, None));
    assert!(world.disk.epoch == anew(9) && !world.stopping);
    let mut readmitted = answer(2, Site::A, false, None);
    readmitted.epoch = Epoch { incarnation: 9, counter: 2 };
    world.answered(readmitted.clone());
    assert!(world.disk.may_run && !world.stopping && world.disk.forced.is_none());
    readmitted.renewed = true;
    world.answered(readmitted);
    assert!(world.disk.may_run && world.machine.sync_part(None).renew.is_some());
}

#[test]
fn a_boot_begins_the_wait_anew_and_what_was_closed_stays_closed() {
    let mut world = World::new(100_000);
    force(&mut world, 9, Site::A);
    let mut record: Record = world.disk.clone();
    record.forced.as_mut().unwrap().boot_id = "boot-0".to_owned();
    let mut again = World::with(record, None, 5_000);
    run_until(&mut again, 5_000 + WAIT - 100);
    assert!(again.promoted.is_empty());
    run_until(&mut again, 5_000 + WAIT + 1_000);
    assert_eq!(again.promoted, [anew(9)]);
    again.step_ends(StepOutcome::Done);
    // The host went down while it ran: what was promoted then is stopped, and only another order begins it again.
    let mut after = World::with(again.disk.clone(), None, 7_000);
    after.at(7_100);
    assert!(after.stopping && after.disk.closed);
    after.stop_ends(true);
    run_until(&mut after, 60_000);
    assert!(after.promoted.is_empty());
}
