//! Scenarios with their expected result, over the shipped core and modelled gates. Timing profile: metro.
#![allow(clippy::unwrap_used)]

mod world;

use bcp_core::failover::{Sight, TicketCommand};
use bcp_core::policy::{Mode, Rpo};
use bcp_wire::Site;
use bcp_wire::control::{Phase, StepKind, StepOutcome};
use world::{World, invariants, passive, policy};

fn settled() -> World {
    let mut world = World::settled(policy(passive()), 7);
    world.watch.rpo_zero = true;
    world.run(5_000);
    world
}

fn end(world: &World) {
    invariants::replays(&world.ticks, &world.replica);
}

#[test]
fn s01_a_loses_power_in_sync_one_move_within_20_s() {
    let mut world = settled();
    world.kill(Site::A);
    let effective = world.run_until(30_000, |w| w.ticket().holder == Some(Site::B) && w.ticket().phase == Phase::Held);
    assert!(effective.is_some_and(|ms| ms <= 16_000), "{effective:?} {:#?}", world.story());
    let served = world.run_until(10_000, |w| w.active() == [Site::B]);
    assert!(served.is_some_and(|ms| ms <= 4_000), "{served:?}");
    world.run(60_000);
    assert_eq!(world.told("was granted to site b"), 1);
    world.start(Site::A);
    world.run(120_000);
    assert_eq!(world.active(), [Site::B], "nothing moves back by itself");
    assert_eq!(world.told("step follow of epoch 1.2 at gate host-a"), 1, "{:#?}", world.story());
    end(&world);
}

#[test]
fn s02_a_dies_while_b_is_latched_stale_no_move_and_an_alarm() {
    let mut world = settled();
    world.cut(Site::A, Site::B);
    world.run(10_000);
    assert_eq!(world.ticket().latch.as_ref().and_then(|l| l.in_sync), Some(false));
    world.kill(Site::A);
    world.heal();
    world.run(300_000);
    assert_eq!(world.active(), []);
    assert_eq!(world.told("was granted to site b"), 0);
    assert_eq!(world.told("not moved although site a is lost: the copy at site b lacks acknowledged data"), 1);
    assert!(world.replica.conditions.contains("ticket-free/rx"));
    world.start(Site::A);
    let back = world.run_until(30_000, |w| w.active() == [Site::A]);
    assert!(back.is_some(), "L1: it resumes where it was: {:#?}", world.story());
    end(&world);
}

#[test]
fn s03_a_b_cut_for_an_hour_moves_and_stops_nothing() {
    for one_way in [false, true] {
        let mut world = settled();
        if one_way {
            world.cut_one_way(Site::A, Site::B)
        } else {
            world.cut(Site::A, Site::B)
        }
        for _ in 0..3_600 {
            world.run(1_000);
            assert_eq!(world.active(), [Site::A]);
        }
        assert_eq!(world.ticket().epoch.counter, 1);
        assert_eq!(world.ticket().latch.as_ref().and_then(|l| l.in_sync), Some(false), "b is marked stale");
        world.heal();
        world.run(10_000);
        assert_eq!(world.ticket().latch.as_ref().and_then(|l| l.in_sync), Some(true));
        assert!(world.replica.conditions.is_empty(), "{:?}", world.replica.conditions);
        end(&world);
    }
}

#[test]
fn s05_a_isolated_but_powered_stops_in_time_and_stays_out() {
    let mut world = settled();
    world.isolate(Site::A);
    let stopped = world.run_until(30_000, |w| w.active() != [Site::A]);
    assert!(stopped.is_some_and(|ms| ms <= 14_000), "{stopped:?}");
    let served = world.run_until(30_000, |w| w.active() == [Site::B]);
    assert!(served.is_some(), "{:#?}", world.story());
    world.heal();
    world.run(60_000);
    assert_eq!(world.active(), [Site::B]);
    assert_eq!(world.told("step seal of epoch 1.2 at gate host-a"), 1);
    end(&world);
}

#[test]
fn s07_a_w_cut_moves_and_stops_nothing() {
    let mut world = settled();
    world.cut(Site::A, Site::W);
    for _ in 0..600 {
        world.run(1_000);
        assert_eq!(world.active(), [Site::A]);
    }
    assert_eq!(world.ticket().epoch.counter, 1);
    end(&world);
}

#[test]
fn s08_w_dead_stops_nothing_but_warns_and_then_no_automatic_move() {
    let mut world = settled();
    world.stop_decider(Site::W);
    for _ in 0..1_800 {
        world.run(1_000);
        assert_eq!(world.active(), [Site::A]);
    }
    let view = &world.replica.ticket_views()[0];
    assert!(!view.can_failover_now.ok);
    assert!(view.can_failover_now.reasons[0].contains("1 of the 2 other observers"), "{:?}", view.can_failover_now);
    assert!(world.replica.conditions.contains("ticket-no-failover/rx"));
    world.kill(Site::A);
    world.run(600_000);
    assert_eq!(world.ticket().epoch.counter, 1, "no quorum, no move");
    assert_eq!(world.active(), []);
    end(&world);
}

#[test]
fn s11_a_blip_of_all_links_moves_and_stops_nothing() {
    let mut world = settled();
    for site in Site::ALL {
        world.isolate(site);
    }
    for _ in 0..4 {
        world.run(1_000);
        assert_eq!(world.active(), [Site::A]);
    }
    world.heal();
    for _ in 0..60 {
        world.run(1_000);
        assert_eq!(world.active(), [Site::A]);
    }
    assert_eq!(world.ticket().epoch.counter, 1);
    end(&world);
}

#[test]
fn s20_a_crash_loop_in_the_minority_does_not_lengthen_the_lease() {
    let mut world = settled();
    world.isolate(Site::A);
    let begin = world.now;
    while world.now - begin < 40_000 {
        world.stop_decider(Site::A);
        world.run(500);
        world.start_decider(Site::A);
        world.run(500);
    }
    assert_eq!(world.active(), [Site::B], "{:#?}", world.story());
    end(&world);
}

#[test]
fn s10_43_s_of_isolation_is_one_move_and_no_failback() {
    let mut world = settled();
    world.isolate(Site::A);
    world.run(43_000);
    world.heal();
    world.run(600_000);
    assert_eq!(world.active(), [Site::B]);
    assert_eq!(world.ticket().epoch.counter, 2);
    end(&world);
}

#[test]
fn a_planned_move_skips_the_wait_and_goes_through_every_step_in_order() {
    let mut world = settled();
    let key = world.command(TicketCommand::Move { to: Site::B, reason: "drill".into(), expect: None });
    let took = world.run_until(30_000, |w| w.active() == [Site::B]);
    assert!(world.result(&key).is_some_and(|r| r.ok));
    assert!(took.is_some_and(|ms| ms <= 6_000), "{took:?} {:#?}", world.story());
    world.run(10_000);
    let story = world.story().join("\n");
    let parts = [
        "site a was asked to stop epoch 1.1",
        "step stop of epoch 1.1",
        "Site a released rx",
        "granted to site b as epoch 1.2",
        "step seal of epoch 1.2",
        "epoch 1.2 is in effect",
        "step promote of epoch 1.2",
        "step publish of epoch 1.2",
        "rx moved from site a to site b",
        "step follow of epoch 1.2 at gate host-a",
    ];
    let mut from = 0;
    for part in parts {
        from += story[from..].find(part).unwrap_or_else(|| panic!("`{part}` is missing or out of order in\n{story}"));
    }
    end(&world);
}

#[test]
fn a_refused_promotion_brings_a_planned_move_back() {
    let mut world = settled();
    world.gates.get_mut(&Site::B).unwrap().force.insert(StepKind::Promote, StepOutcome::Vetoed);
    world.command(TicketCommand::Move { to: Site::B, reason: "drill".into(), expect: None });
    world.run(30_000);
    assert_eq!(world.active(), [Site::A], "{:#?}", world.story());
    assert_eq!(world.ticket().epoch.counter, 3, "back as e+2");
    assert_eq!(world.told("is undone, back to site a"), 1);
    end(&world);
}

#[test]
fn a_stop_that_fails_leaves_the_service_where_it_is() {
    let mut world = settled();
    world.gates.get_mut(&Site::A).unwrap().force.insert(StepKind::Stop, StepOutcome::Failed);
    world.command(TicketCommand::Move { to: Site::B, reason: "drill".into(), expect: None });
    world.run(60_000);
    assert_eq!(world.active(), [Site::A]);
    assert_eq!(world.ticket().epoch.counter, 1);
    assert_eq!(world.told("the planned move was given up"), 1, "{:#?}", world.story());
    end(&world);
}

#[test]
fn an_unplanned_promotion_that_fails_freezes_and_pages() {
    let mut world = settled();
    world.gates.get_mut(&Site::B).unwrap().force.insert(StepKind::Promote, StepOutcome::Failed);
    world.kill(Site::A);
    world.run(60_000);
    assert!(world.ticket().frozen.is_some(), "{:#?}", world.story());
    assert!(
        world.replica.conditions.contains("ticket-stuck/rx") && world.replica.conditions.contains("ticket-frozen/rx")
    );
    assert_eq!(world.told("failed (attempt 3)"), 1);
    end(&world);
}

#[test]
fn service_down_for_30_s_moves_through_a_drain() {
    let mut world = settled();
    world.gates.get_mut(&Site::A).unwrap().running = None;
    world.run(25_000);
    assert_eq!(world.ticket().holder, Some(Site::A), "not before its time");
    let served = world.run_until(30_000, |w| w.active() == [Site::B]);
    assert!(served.is_some(), "{:#?}", world.story());
    assert!(world.ticket().cooldown_until.is_some());
    end(&world);
}

#[test]
fn a_frozen_ticket_neither_moves_nor_stops() {
    let mut world = settled();
    let key = world.command(TicketCommand::Freeze { reason: "maintenance".into(), for_ms: 3_600_000, expect: None });
    world.run(120_000);
    assert!(world.result(&key).is_some_and(|r| r.ok));
    assert_eq!(world.active(), [Site::A], "the holder keeps renewing");
    world.kill(Site::A);
    world.run(120_000);
    assert_eq!(world.ticket().epoch.counter, 1);
    assert!((1..=2).contains(&world.told("it is frozen by operator:op-1: maintenance")), "{:#?}", world.story());
    world.command(TicketCommand::Unfreeze { reason: "done".into(), expect: None });
    let served = world.run_until(30_000, |w| w.active() == [Site::B]);
    assert!(served.is_some(), "{:#?}", world.story());
    end(&world);
}

#[test]
fn confirm_waits_for_a_human_and_gives_up_asking() {
    let ticket = bcp_core::policy::TicketPolicy { mode: Mode::Confirm, ..passive() };
    let mut world = World::settled(policy(ticket.clone()), 3);
    world.kill(Site::A);
    world.run(30_000);
    assert!(world.replica.conditions.contains("ticket-confirm/rx"));
    let epoch = world.ticket().epoch;
    let key = world.command(TicketCommand::Confirm { epoch, expect: None });
    let served = world.run_until(30_000, |w| w.active() == [Site::B]);
    assert!(served.is_some() && world.result(&key).is_some_and(|r| r.ok), "{:#?}", world.story());

    let mut world = World::settled(policy(ticket), 3);
    world.kill(Site::A);
    world.run(200_000);
    assert_eq!((world.active(), world.told("Nobody confirmed in time")), (vec![], 1));
    let key = world.command(TicketCommand::Confirm { epoch: world.ticket().epoch, expect: None });
    world.run(1_000);
    assert!(world.result(&key).is_some_and(|r| !r.ok), "too late");
    let key = world.command(TicketCommand::Move { to: Site::B, reason: "by hand".into(), expect: None });
    world.run(30_000);
    assert_eq!(world.active(), [Site::B], "{:?}", world.result(&key));
    end(&world);
}

#[test]
fn observe_decides_logs_and_does_nothing() {
    let mut world = World::settled(policy(passive()), 3);
    world.policy = policy(bcp_core::policy::TicketPolicy { mode: Mode::Observe, ..passive() });
    world.run(5_000);
    world.kill(Site::A);
    world.run(120_000);
    assert_eq!((world.active(), world.told("would have moved to site b")), (vec![], 1));
    assert_eq!(world.ticket().epoch.counter, 1);
    end(&world);
}

#[test]
fn two_automatic_moves_a_day_and_then_a_human() {
    let ticket = bcp_core::policy::TicketPolicy { cooldown_ms: 0, rpo: Rpo::Availability, ..passive() };
    let mut world = World::settled(policy(ticket), 3);
    for (down, up) in [(Site::A, Site::B), (Site::B, Site::A)] {
        world.kill(down);
        world.run(40_000);
        assert_eq!(world.active(), [up]);
        world.start(down);
        world.run(20_000);
    }
    world.kill(Site::A);
    world.run(60_000);
    assert_eq!(world.active(), []);
    assert!(world.ticket().frozen.as_ref().is_some_and(|f| f.owner == "system"), "{:#?}", world.story());
    end(&world);
}

#[test]
fn three_deciders_that_restart_together_do_not_call_everybody_lost() {
    let mut world = settled();
    for site in Site::ALL {
        world.stop_decider(site);
    }
    world.run(2_000);
    for site in Site::ALL {
        world.start_decider(site);
    }
    for _ in 0..60 {
        world.run(1_000);
        assert_eq!(world.active(), [Site::A]);
    }
    let board = &world.replica.failover.board;
    assert!(board.sights.values().all(|s| s.control.values().all(|sight| *sight == Sight::Seen)));
    end(&world);
}

#[test]
fn a_command_is_applied_once_by_key_and_compares_revision() {
    let mut world = settled();
    let stale = (world.ticket().epoch, world.ticket().revision.wrapping_sub(1));
    let key = world.command(TicketCommand::Move { to: Site::B, reason: "old page".into(), expect: Some(stale) });
    world.run(1_000);
    let result = world.result(&key).expect("answered");
    assert!(!result.ok && result.message.contains("changed meanwhile"), "{result:?}");
    assert_eq!(world.ticket().phase, Phase::Held);
    end(&world);
}

#[test]
fn every_state_explains_itself() {
    let mut world = settled();
    world.cut(Site::A, Site::B);
    world.run(10_000);
    let explained = world.replica.explain(&world::rx()).expect("explained");
    assert_eq!(explained.decision, "rx stays at site a under epoch 1.1.");
    assert!(explained.did_not.iter().any(|text| text.contains("site_lost(holder)")), "{explained:#?}");
    assert!(!explained.can_failover_now.ok);
    world.kill(Site::A);
    world.run(60_000);
    let explained = world.replica.explain(&world::rx()).expect("explained");
    assert!(explained.did_not[0].contains("although site a is lost"), "{explained:#?}");
    serde_json::to_string(&world.replica.ticket_views()).expect("views are JSON");
    end(&world);
}
