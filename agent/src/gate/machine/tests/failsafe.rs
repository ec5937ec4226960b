//! Promises: what is asked for, what is given, and what they are worth.

use super::*;

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
