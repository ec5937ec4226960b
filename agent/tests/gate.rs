//! Gates and wardens as real processes, against a collector that says what the test wants.
#![allow(clippy::unwrap_used)]

mod support {
    pub mod gate_world;
}

use std::path::Path;
use std::time::{Duration, Instant};

use bcp_wire::Site;
use bcp_wire::control::{StepKind, StepOutcome};
use rustix::process::Signal;
use support::gate_world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_stops_the_service_and_only_a_new_epoch_starts_it() {
    let world = World::new("lease").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (_gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    throughout(2 * TTL, "renewed, it goes on", || site.serves()).await;
    world.silence(true);
    let silent = Instant::now();
    within(TTL + Duration::from_millis(1_000), "the stop", &site.dir, || !site.serves()).await;
    assert!(silent.elapsed() > TTL / 2, "not before the lease ran out: {:?}", silent.elapsed());
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    assert!(site.record().closed && !site.record().may_run);
    world.silence(false);
    world.order("p1-again", StepKind::Promote, Site::A);
    within(LIMIT, "refusal", &site.dir, || world.outcome("p1-again") == Some(StepOutcome::Rejected)).await;
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(!site.serves());
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "the new epoch", &site.dir, || site.serves() && world.outcome("p2") == Some(StepOutcome::Done)).await;
    world.order("s2", StepKind::Stop, Site::A);
    within(LIMIT, "an ordered stop", &site.dir, || world.outcome("s2") == Some(StepOutcome::Done)).await;
    assert!(!site.serves());
    assert_eq!(site.active(), [true, false, true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_stops_nothing_and_a_death_keeps_nothing_alive() {
    let world = World::new("restart").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    drop(gate);
    let gate = site.start("run");
    throughout(2 * TTL, "a restart stops nothing", || site.serves()).await;
    drop(gate);
    within(TTL + Duration::from_millis(1_500), "the warden stops it", &site.dir, || !site.serves()).await;
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    assert!(site.lines()[1].reason.contains("warden"));
    let _gate = site.start("run");
    world.order("p1-again", StepKind::Promote, Site::A);
    within(LIMIT, "refusal", &site.dir, || world.outcome("p1-again") == Some(StepOutcome::Rejected)).await;
    assert!(!site.serves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_gate_wakes_up_to_a_closed_epoch() {
    let world = World::new("pause").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    gate.pause_at_rest(&site).await;
    world.order("queued", StepKind::Promote, Site::A);
    within(TTL + Duration::from_millis(1_500), "the warden stops it", &site.dir, || !site.serves()).await;
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    gate.signal(Signal::CONT);
    within(LIMIT, "refusal", &site.dir, || world.outcome("queued") == Some(StepOutcome::Rejected)).await;
    throughout(TTL / 2, "it stays down", || !site.serves()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_promotion_does_not_outlive_its_gate() {
    let world = World::new("hang").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    std::fs::write(site.dir.join("service.slow"), "").unwrap();
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    world.grant(1, Site::A);
    world.order("p1", StepKind::Promote, Site::A);
    within(LIMIT, "the promotion begins", &site.dir, || site.active() == [true]).await;
    gate.signal(Signal::STOP);
    // Told on its disk, which may be slow; that the stop is in time is tested where nothing waits for one.
    within(LIMIT, "the warden acts", &site.dir, || site.active() == [true, false]).await;
    let record = site.record();
    assert!(record.closed && !record.may_run);
    gate.signal(Signal::CONT);
    throughout(TTL, "the killed promotion starts nothing", || !site.serves()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_collector_the_sites_keep_each_other_alive() {
    let world = World::new("failsafe").await;
    let (port_a, port_b) = (free_port(), free_port());
    let peer = |site: &str, port: u16| {
        format!(r#"{{ site = "{site}", id = "host-{site}", url = "https://127.0.0.1:{port}" }}"#)
    };
    let a = Host::new(&world, Site::A, port_a, &peer("b", port_b));
    let b = Host::new(&world, Site::B, port_b, &peer("a", port_a));
    let (_gate_a, _warden_a) = (a.start("run"), a.start("warden"));
    let _gate_b = b.start("run");
    active_at_a(&world, &a).await;
    world.silence(true);
    throughout(4 * TTL, "all collectors are gone, and nothing stops", || a.serves()).await;
    let promise = b.record().promise.expect("stored");
    assert_eq!((promise.to.as_str(), promise.epoch), ("a/host-a", epoch(1)));
    // The collectors come back and, wrongly informed, grant b: it waits until its promise has ended.
    world.grant(2, Site::B);
    world.order("p2", StepKind::Promote, Site::B);
    world.silence(false);
    within(LIMIT, "a is superseded", &a.dir, || !a.serves()).await;
    within(LIMIT, "b promotes", &b.dir, || b.serves()).await;
    let began = b.lines()[0].boot_ms;
    assert!(began >= promise.until, "not before the promise ended: {began} {}", promise.until);
    let stopped = a.lines().last().unwrap().clone();
    assert!(!stopped.active && stopped.boot_ms <= began, "never both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_silent_peer_is_enough_to_stop() {
    let world = World::new("silent-peer").await;
    let (port_a, port_b) = (free_port(), free_port());
    let peer = format!(r#"{{ site = "b", id = "host-b", url = "https://127.0.0.1:{port_b}" }}"#);
    let a = Host::new(&world, Site::A, port_a, &peer);
    let _gate = a.start("run");
    active_at_a(&world, &a).await;
    world.silence(true);
    within(TTL + Duration::from_millis(1_000), "the stop", &a.dir, || !a.serves()).await;
}

/// A file of this name that is a directory: writes fail, as on a full disk.
fn refuse_writes(file: &Path, refuse: bool) {
    match refuse {
        true => std::fs::create_dir(file).unwrap(),
        false => std::fs::remove_dir(file).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_where_the_warden_was_told_although_it_is_renewed() {
    let world = World::new("untold").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (_gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    let runtime = site.dir.join("run/host-a/rx.deadline.new");
    refuse_writes(&runtime, true);
    within(LIMIT, "trouble", &site.dir, || world.says("its warden cannot be told")).await;
    within(LIMIT, "the stop", &site.dir, || !site.serves()).await;
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(!world.agreed.lock().unwrap().renews, "no false picture");
    refuse_writes(&runtime, false);
    within(LIMIT, "no trouble", &site.dir, || world.agreed.lock().unwrap().trouble.is_none()).await;
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "the next epoch", &site.dir, || site.serves() && world.outcome("p2") == Some(StepOutcome::Done))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_warden_stopped_beside_a_full_disk_is_not_called_active() {
    let world = World::new("full").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    gate.pause_at_rest(&site).await;
    refuse_writes(&site.dir.join("gate/rx.json.new"), true);
    within(LIMIT, "the warden stops it", &site.dir, || !site.serves()).await;
    within(LIMIT, "the log", &site.dir, || site.active() == [true, false]).await;
    assert!(site.record().may_run, "the disk does not know of it");
    gate.signal(Signal::CONT);
    within(LIMIT, "trouble", &site.dir, || world.says("its disk does not take its state")).await;
    assert!(!world.agreed.lock().unwrap().renews && world.agreed.lock().unwrap().closed.is_empty());
    refuse_writes(&site.dir.join("gate/rx.json.new"), false);
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(site.record().closed && !site.record().may_run && !site.serves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_vanishes_stops_the_service_and_closes_its_epoch() {
    let world = World::new("vanish").await;
    let site = Host::new(&world, Site::A, free_port(), "");
    let gate = site.start("run");
    active_at_a(&world, &site).await;
    // Until then it has something to write, and a record that it writes again was not lost.
    within(LIMIT, "the report is confirmed", &site.dir, || site.record().reports.is_empty()).await;
    std::fs::remove_file(site.dir.join("gate/rx.json")).unwrap();
    within(LIMIT, "the stop", &site.dir, || !site.serves()).await;
    within(LIMIT, "closed is said", &site.dir, || world.agreed.lock().unwrap().closed.contains(&Site::A)).await;
    assert!(world.says("its record was lost"));
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "the next epoch", &site.dir, || site.serves()).await;
    // While no gate is there: what it closed and promised is unknown to the next one.
    drop(gate);
    std::fs::remove_file(site.dir.join("gate/rx.json")).unwrap();
    let _gate = site.start("run");
    within(LIMIT, "the stop", &site.dir, || !site.serves()).await;
    within(LIMIT, "closed is said", &site.dir, || {
        site.record().epoch == epoch(2) && world.agreed.lock().unwrap().closed.contains(&Site::A)
    })
    .await;
}
