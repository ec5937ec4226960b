//! A drill: a gate that is asked to be silent does what one that is cut off does, and nothing else.

use super::*;

const SILENT_MS: u64 = 60_000;

fn silenced() -> (World, u64) {
    let mut world = World::active(100_000);
    world.at(101_000).answered(answer(1, Site::A, true, None));
    let deadline = 100_990 + TTL;
    assert_eq!(world.believed, Some(deadline));
    world.at(102_000).answered(TicketAnswer { silent_ms: Some(SILENT_MS), ..answer(1, Site::A, true, None) });
    (world, deadline)
}

#[test]
fn a_silent_gate_stops_at_its_deadline_and_asks_nobody_for_a_promise() {
    let (mut world, deadline) = silenced();
    assert!(world.machine.is_silent(BootMs(102_000)) && world.machine.is_silent(BootMs(161_999)));
    assert!(!world.machine.is_silent(BootMs(162_000)), "it ends by itself");
    // What was on its way is not heard either.
    world.at(103_000).answered(answer(1, Site::A, true, None));
    assert_eq!(world.believed, Some(deadline), "no lease is made longer");
    for at in (103_000..deadline - 200).step_by(100) {
        world.now = at;
        let actions = world.event(Event::Ticked { dice: at });
        assert!(
            !actions.iter().any(|action| matches!(action, Action::AskPeers { .. })),
            "one that is cut off reaches none"
        );
        assert!(!world.stopping);
    }
    world.at(deadline - 200);
    assert!(world.stopping && world.disk.closed);
    world.stop_ends(true);
    // Speaking again, it hears that another site has it.
    world.at(162_000).answered(answer(2, Site::B, false, None));
    assert_eq!((world.disk.epoch, world.disk.holder), (epoch(2), Some(Site::B)));
    assert!(!world.disk.may_run);
}

#[test]
fn nobody_is_silent_about_what_another_site_holds_nor_for_ever() {
    let mut world = World::new(100_000);
    world.answered(TicketAnswer { silent_ms: Some(SILENT_MS), ..answer(1, Site::B, false, None) });
    assert!(!world.machine.is_silent(BootMs(100_000)));
    let mut world = World::active(100_000);
    world.answered(TicketAnswer { silent_ms: Some(u64::MAX), ..answer(1, Site::A, true, None) });
    assert!(world.machine.is_silent(BootMs(399_999)) && !world.machine.is_silent(BootMs(400_000)));
    // An order about a later epoch is not silenced by a word about this one.
    let mut world = World::active(100_000);
    world.answered(TicketAnswer { silent_ms: Some(SILENT_MS), ..answer(2, Site::A, false, None) });
    assert!(!world.machine.is_silent(BootMs(100_000)));
    assert_eq!(world.disk.epoch, epoch(2));
}
