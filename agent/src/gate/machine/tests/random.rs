//! Random lives of a gate: whatever happens, the invariants of the world hold.

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;

#[derive(Debug, Clone)]
enum Deed {
    Wait(u64),
    Answer {
        counter: u64,
        renewed: bool,
        order: Option<(StepKind, u64, u64)>,
        late_ms: u64,
    },
    StepEnds(StepOutcome),
    StopEnds(bool),
    Ask(u64),
    Promises {
        nonce_shift: u64,
        all: bool,
        short: bool,
    },
    Restart {
        same_boot: bool,
    },
    WardenActs,
    /// From here on the warden can be told of a deadline, or not.
    Told(bool),
    RecordVanishes,
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
        1 => prop::bool::weighted(0.7).prop_map(Deed::Told),
        1 => Just(Deed::RecordVanishes),
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
            Deed::Told(told) => world.unheard = !told,
            Deed::RecordVanishes => {
                // What was closed stays so, and the number of the write goes on: both are checked against what was there.
                world.event(Event::RecordLost { reason: "gone".to_owned() });
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
