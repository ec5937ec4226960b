//! What is not the machine's alone: the disk, the warden and what the warden wrote.

use super::*;

#[test]
fn what_the_warden_wrote_counts() {
    let mut world = World::new(100_000);
    world.answered(answer(1, Site::A, false, None));
    world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
    // Paused for a minute with the promotion running; the warden closed and stopped.
    let record = Record { closed: true, may_run: false, writes: world.disk.writes + 2, ..world.disk.clone() };
    world.disk = record.clone();
    world.now = 160_000;
    world.machine.lease = world.machine.lease.map(|lease| super::super::Lease { deadline: BootMs(u64::MAX), ..lease });
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
