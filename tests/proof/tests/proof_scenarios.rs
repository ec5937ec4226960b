//! The scenarios of the failover design by their numbers, over the shipped core and the shipped gate machine.
//!
//! Each runs once per seed: three, or `BCP_SEEDS=FROM..TO`. Hours are played in steps of 250 ms. Not here: 14 (a frozen
//! virtual machine needs an actuator outside of it), 18 and 19 (the log's own store), certificates of 25 (the listeners).

use bcp_core::failover::{Guard, TicketCommand};
use bcp_core::policy::{TicketPolicy, Timing};
use bcp_proof::invariants::i15;
use bcp_proof::world::{World, at, passive, policy, rx};
use bcp_wire::Site::{self, A, B, W};
use bcp_wire::control::{Phase, StepKind, StepOutcome};

const STEP_MS: u64 = 50;
const LONG_STEP_MS: u64 = 250;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("BCP_SEEDS") else { return 1..4 };
    let ends: Vec<u64> = text.split("..").filter_map(|end| end.parse().ok()).collect();
    match ends.as_slice() {
        [from, to] if from < to => *from..*to,
        _ => panic!("BCP_SEEDS is FROM..TO, not {text}"),
    }
}

/// Plays it for every seed; what must hold at every step is checked at every step.
fn each(scenario: impl Fn(&mut World)) {
    play(seeds(), STEP_MS, Timing::METRO, scenario);
}

/// The same for a scenario that lasts hours: one seed, unless told otherwise.
fn each_long(scenario: impl Fn(&mut World)) {
    let seeds = if std::env::var("BCP_SEEDS").is_ok() { seeds() } else { 1..2 };
    play(seeds, LONG_STEP_MS, Timing::METRO, scenario);
}

fn play(seeds: std::ops::Range<u64>, step_ms: u64, timing: Timing, scenario: impl Fn(&mut World)) {
    for seed in seeds {
        let mut world = World::settled(policy(timing, &[("rx", passive())]), step_ms, seed, None);
        assert_eq!((world.active(&rx()), world.in_sync()), (vec![A], Some(true)), "seed {seed}: {}", world.story());
        world.stops = 0;
        scenario(&mut world);
        assert!(world.invariants.breaches.is_empty(), "seed {seed}: {}", world.story());
        let ticks = &world.journal.as_ref().expect("it is written down").ticks;
        assert_eq!(i15::replays(ticks, &world.replica), Ok(()), "seed {seed}");
    }
}

fn counter(world: &World) -> u64 {
    world.ticket().expect("it is there").epoch.counter
}

fn quiet(world: &mut World, ms: u64) {
    world.run(ms);
    assert_eq!((world.stops, counter(world), world.active(&rx())), (0, 1, vec![A]), "{}", world.story());
}

fn effective_at(world: &World, site: Site) -> bool {
    world.ticket().is_some_and(|ticket| ticket.holder == Some(site) && ticket.phase == Phase::Held)
}

#[test]
fn s01_a_loses_power_in_sync_exactly_one_move_in_time() {
    each(|world| {
        world.power_off(A);
        let effective = world.run_until(30_000, |world| effective_at(world, B));
        assert!(effective.is_some_and(|ms| ms <= 16_000), "{effective:?} {}", world.story());
        let served = world.run_until(10_000, |world| world.active(&rx()) == [B]);
        assert!(served.zip(effective).is_some_and(|(one, two)| one + two <= 20_000), "{served:?} {}", world.story());
        world.run(60_000);
        world.power_on(A);
        world.run(120_000);
        assert_eq!((world.active(&rx()), counter(world)), (vec![B], 2), "{}", world.story());
    });
}

#[test]
fn s02_the_same_with_b_latched_stale_no_move_and_an_alarm_with_its_reason() {
    each(|world| {
        world.cut(A, B);
        world.run(20_000);
        assert_eq!(world.in_sync(), Some(false), "{}", world.story());
        world.power_off(A);
        world.heal();
        world.run(180_000);
        assert_eq!((world.active(&rx()), counter(world)), (vec![], 1), "{}", world.story());
        assert!(world.told("the copy at site b lacks acknowledged data") >= 1, "{}", world.story());
        assert!(world.replica.conditions.contains("ticket-free/rx"));
        world.power_on(A);
        let back = world.run_until(30_000, |world| world.active(&rx()) == [A]);
        assert!(back.is_some(), "{}", world.story());
    });
}

/// Break-glass of the second scenario: two people, once.
#[test]
fn s02_two_operators_force_it_and_one_alone_does_not() {
    each(|world| {
        world.cut(A, B);
        world.run(20_000);
        world.power_off(A);
        world.heal();
        world.run(60_000);
        let force = |world: &mut World, operator: &str| {
            let reason = format!("{operator} decided");
            let order = TicketCommand::Force { to: B, guard: Guard::Freshness, reason, expect: None };
            world.command_by(operator, "rx", order);
            world.run(20_000);
        };
        force(world, "op-1");
        assert_eq!((world.active(&rx()), world.told("another operator has to ask")), (vec![], 1), "{}", world.story());
        assert!(world.replica.conditions.contains("ticket-force/rx"));
        force(world, "op-1");
        assert_eq!((world.active(&rx()), counter(world)), (vec![], 1), "{}", world.story());
        force(world, "op-2");
        assert_eq!((world.active(&rx()), counter(world)), (vec![B], 2), "{}", world.story());
        world.power_on(A);
        world.run(60_000);
        assert_eq!((world.active(&rx()), counter(world)), (vec![B], 2), "{}", world.story());
        assert!(!world.replica.conditions.contains("ticket-force/rx"));
    });
}

#[test]
fn s03_the_cut_of_a_and_b_for_an_hour_moves_and_stops_nothing() {
    each_long(|world| {
        world.cut(A, B);
        quiet(world, 3_600_000);
        assert_eq!(world.in_sync(), Some(false), "b is marked stale");
        world.heal();
        quiet(world, 60_000);
        assert!(world.replica.conditions.is_empty(), "{:?}", world.replica.conditions);
    });
}

#[test]
fn s04_the_same_one_way() {
    each_long(|world| {
        world.cut_one_way(A, B);
        quiet(world, 3_600_000);
        world.heal();
        quiet(world, 60_000);
        assert!(world.replica.conditions.is_empty(), "{:?}", world.replica.conditions);
    });
}

#[test]
fn s05_a_isolated_but_powered_stops_in_time_and_its_late_commands_are_rejected() {
    each(|world| {
        world.isolate(A);
        let stopped = world.run_until(30_000, |world| !world.active(&rx()).contains(&A));
        assert!(stopped.is_some_and(|ms| ms <= 14_000 + STEP_MS), "{stopped:?} {}", world.story());
        assert!(world.run_until(30_000, |world| world.active(&rx()) == [B]).is_some(), "{}", world.story());
        world.command(
            "rx",
            TicketCommand::Move {
                to: A,
                reason: "an old page".into(),
                expect: Some((bcp_wire::Epoch::NONE.next(), 1)),
            },
        );
        world.heal();
        world.run(60_000);
        assert_eq!((world.active(&rx()), world.told("changed meanwhile")), (vec![B], 1), "{}", world.story());
        assert!(world.told("step seal of epoch 1.2") >= 1, "{}", world.story());
    });
}

#[test]
fn s06_a_sends_but_cannot_receive_and_stops_w_in_its_place_loses_the_lead_and_stops_nothing() {
    each(|world| {
        world.cut_one_way(B, A);
        world.cut_one_way(W, A);
        // Nothing comes back to it: no lease, no promise.
        let stopped = world.run_until(40_000, |world| !world.active(&rx()).contains(&A));
        assert!(stopped.is_some(), "{}", world.story());
    });
    each(|world| {
        world.cut_one_way(A, W);
        world.cut_one_way(B, W);
        quiet(world, 120_000);
        assert_ne!(world.leader, Some(W), "{}", world.story());
    });
}

#[test]
fn s07_the_cut_of_a_and_w_moves_and_stops_nothing() {
    each(|world| {
        world.cut(A, W);
        quiet(world, 600_000);
    });
}

/// Two hours stand for the week.
#[test]
fn s08_w_dead_moves_and_stops_nothing_and_says_that_nothing_could_move() {
    each_long(|world| {
        world.stop_decider(W);
        quiet(world, 7_200_000);
        let can = world.replica.ticket_views()[0].can_failover_now.clone();
        assert!(!can.ok && can.reasons[0].contains("1 of the 2 other observers"), "{can:?}");
        assert!(world.replica.conditions.contains("ticket-no-failover/rx"));
        world.power_off(A);
        world.run(600_000);
        assert_eq!((world.active(&rx()), counter(world)), (vec![], 1), "{}", world.story());
    });
}

#[test]
fn s09_links_that_flap_for_an_hour_are_one_move_at_most() {
    each_long(|world| {
        for _ in 0..360 {
            world.isolate(A);
            world.run(5_000);
            world.heal();
            world.run(5_000);
        }
        assert!(counter(world) <= 2, "{}", world.story());
    });
}

#[test]
fn s10_43_s_of_isolation_are_one_move_at_most_and_no_failback() {
    each(|world| {
        world.isolate(A);
        world.run(43_000);
        world.heal();
        world.run(600_000);
        assert_eq!((world.active(&rx()), counter(world)), (vec![B], 2), "{}", world.story());
    });
}

#[test]
fn s11_a_blip_of_all_links_moves_and_stops_nothing() {
    each(|world| {
        for site in Site::ALL {
            world.isolate(site);
        }
        quiet(world, 4_000);
        world.heal();
        quiet(world, 60_000);
    });
}

#[test]
fn s12_a_bad_network_for_an_hour_moves_and_stops_nothing_with_the_wide_timing() {
    let seeds = if std::env::var("BCP_SEEDS").is_ok() { seeds() } else { 1..2 };
    play(seeds, LONG_STEP_MS, Timing::WIDE, |world| {
        (world.loss_percent, world.repeat_percent, world.max_delay_ms) = (30, 10, 150);
        quiet(world, 3_600_000);
    });
}

#[test]
fn s13_everything_paused_with_a_promotion_on_its_way_is_rejected_afterwards() {
    each(|world| {
        world.command("rx", TicketCommand::Move { to: B, reason: "drill".into(), expect: None });
        let promoting = |world: &World| {
            world
                .ticket()
                .and_then(|ticket| ticket.moving.as_ref())
                .is_some_and(|moving| moving.stage.as_str() == "promoting")
        };
        assert!(world.run_until(30_000, promoting).is_some(), "{}", world.story());
        let b = world.hosts.iter().position(|host| host.site == B).expect("b has a gate");
        let begun = world.hosts[b].posts[&rx()].step.is_some();
        world.hold_back(b, true);
        world.pause_agents(B, true);
        world.freeze_decider(B);
        world.run(60_000);
        world.pause_agents(B, false);
        world.thaw_decider(B);
        world.release(0, false);
        world.run(60_000);
        assert!(
            begun || world.told("step promote of epoch 1.2 at gate host-b of site b: done") == 0,
            "{}",
            world.story()
        );
        assert_eq!(world.active(&rx()).len(), 1, "{}", world.story());
    });
}

#[test]
fn s15_the_wall_clock_jumps_and_nothing_happens() {
    each(|world| {
        for offset in [3_600_000, -3_600_000, 0] {
            world.wall_offset_ms = offset;
            quiet(world, 60_000);
        }
    });
}

#[test]
fn s16_clocks_that_drift_by_one_percent_keep_to_one_active_side() {
    for (gates, log) in [(990, 1_010), (1_010, 990)] {
        each(|world| {
            let now = world.now();
            for host in &mut world.hosts {
                host.run_at(gates, now);
                host.slow_stops = true;
            }
            for decider in &mut world.deciders {
                decider.rate = log;
            }
            world.run(60_000);
            world.isolate(A);
            assert!(world.run_until(60_000, |world| world.active(&rx()) == [B]).is_some(), "{}", world.story());
        });
    }
}

#[test]
fn s17_a_hung_disk_of_the_leader_and_then_of_the_holders_decide_stops_nothing() {
    each(|world| {
        world.freeze_decider(W);
        quiet(world, 60_000);
        assert_ne!(world.leader, Some(W));
        world.thaw_decider(W);
        quiet(world, 60_000);
        assert_eq!(world.leader, Some(W), "L2");
        world.freeze_decider(A);
        quiet(world, 60_000);
    });
}

#[test]
fn s20_a_crash_loop_in_the_minority_does_not_lengthen_the_lease() {
    each(|world| {
        world.isolate(A);
        let begin = world.now();
        while world.now() - begin < 40_000 {
            world.stop_decider(A);
            world.kill_agents(A);
            world.run(500);
            world.start_decider(A);
            world.start_agents(A);
            world.run(500);
        }
        assert_eq!(world.active(&rx()), [B], "{}", world.story());
    });
}

/// Two hours stand for the day.
#[test]
fn s21_a_long_split_and_a_return_leave_the_service_where_it_is() {
    each_long(|world| {
        world.isolate(A);
        let a = world.hosts.iter().position(|host| host.site == A).expect("a has a gate");
        world.hold_back(a, true);
        world.run(7_200_000);
        world.heal();
        world.release(0, true);
        world.run(60_000);
        world.release(0, false);
        world.run(60_000);
        assert_eq!((world.active(&rx()), counter(world)), (vec![B], 2), "{}", world.story());
        assert!(world.told("step follow of epoch 1.2 at gate host-a") >= 1, "{}", world.story());
    });
}

#[test]
fn s22_a_step_that_fails_while_the_leader_dies_ends_in_a_service_or_in_a_frozen_ticket() {
    each(|world| {
        let b = world.hosts.iter().position(|host| host.site == B).expect("b has a gate");
        world.power_off(A);
        assert!(world.run_until(30_000, |world| effective_at(world, B)).is_some());
        if let Some(post) = world.hosts[b].posts.get_mut(&rx()) {
            post.force.insert(StepKind::Promote, StepOutcome::Failed);
        }
        world.run(1_000);
        world.change_leader();
        world.run(3_000);
        world.change_leader();
        world.run(60_000);
        let ticket = world.ticket().expect("it is there");
        assert!(ticket.moving.is_none(), "L3: {}", world.story());
        assert!(ticket.frozen.is_some() || world.active(&rx()) == [B], "{}", world.story());
    });
}

#[test]
fn s23_a_copy_with_a_history_of_its_own_stops_for_a_human() {
    each(|world| {
        world.each_host(B, |host, _| {
            for post in host.posts.values_mut() {
                post.copy.lineage = 7;
            }
        });
        world.run(5_000);
        world.power_off(A);
        world.run(120_000);
        assert_eq!(counter(world), 1, "{}", world.story());
        assert!(world.told("the copy at site b has a history of its own") >= 1, "{}", world.story());
    });
}

#[test]
fn s25_repeated_messages_and_all_collectors_killed_stop_nothing() {
    each(|world| {
        (world.repeat_percent, world.max_delay_ms) = (100, 2_000);
        quiet(world, 120_000);
        (world.repeat_percent, world.max_delay_ms) = (0, 40);
        for site in Site::ALL {
            world.stop_decider(site);
        }
        quiet(world, 600_000);
        assert!(world.failsafe_used);
        for site in Site::ALL {
            world.start_decider(site);
        }
        quiet(world, 120_000);
        assert!(world.deciders[at(A)].up);
    });
}

#[test]
fn a_service_that_is_down_for_30_s_moves_through_a_drain() {
    each(|world| {
        world.each_host(A, |host, _| {
            if let Some(post) = host.posts.get_mut(&rx()) {
                post.running = None;
            }
        });
        world.run(25_000);
        assert!(effective_at(world, A), "not before its time");
        assert!(world.run_until(30_000, |world| world.active(&rx()) == [B]).is_some(), "{}", world.story());
    });
}

/// What depends on another ticket leaves a lost site after it.
#[test]
fn dependent_tickets_leave_a_lost_site_in_their_order() {
    let first = TicketPolicy { depends_on: Vec::new(), ..passive() };
    let then = TicketPolicy { depends_on: vec![bcp_proof::world::id("zz")], ..passive() };
    let mut world = World::settled(policy(Timing::METRO, &[("rx", then), ("zz", first)]), STEP_MS, 1, None);
    world.power_off(A);
    let zz = bcp_proof::world::id("zz");
    assert!(world.run_until(40_000, |world| world.active(&zz) == [B]).is_some(), "{}", world.story());
    assert_eq!(world.active(&rx()), []);
    assert!(world.run_until(40_000, |world| world.active(&rx()) == [B]).is_some(), "{}", world.story());
    assert!(world.invariants.breaches.is_empty(), "{}", world.story());
}
