//! Scenarios in which a site, a machine or a clock is what goes wrong.

use bcp_core::failover::{Guard, TicketCommand};
use bcp_wire::Epoch;
use bcp_wire::Site::{A, B, W};
use bcp_wire::control::{StepKind, StepOutcome};

use super::{STEP_MS, Scenario, Verdict, counter, effective_at, gate, must, quiet, serves};
use crate::world::{World, rx};

pub const ALL: &[Scenario] = &[
    Scenario::new(1, "a loses power, b in sync", "one move, effective <= 16 s, served <= 20 s", power_lost),
    Scenario::new(2, "a loses power, b latched stale, rpo zero", "no move; the alarm says why", power_lost_when_stale),
    Scenario::new(2, "the same, forced: one operator, then two", "no move by one; one move by two", forced_by_two),
    Scenario::new(5, "a isolated but powered", "a stops <= 14 s; one move; late orders refused", isolated),
    Scenario::new(10, "43 s of isolation of a", "one move at most, no failback", isolated_for_43_s),
    Scenario::new(
        13,
        "gate and decide of b paused 60 s, promotion on its way",
        "rejected afterwards; one side",
        paused,
    ),
    Scenario::new(14, "a's whole machine frozen for 45 s", "one move; what it does on waking has no effect", frozen),
    Scenario::new(15, "wall clocks jump an hour ahead and back", "0 moves, 0 stops", wall_clock),
    Scenario::new(16, "1 % drift: gates slow, log fast; a isolated", "one active side, one move", slow_gates),
    Scenario::new(16, "1 % drift: gates fast, log slow; a isolated", "one active side, one move", fast_gates),
    Scenario::new(16, "clocks drift by 5 %; a isolated", "one move", drift_of_5_percent),
    Scenario::new(20, "crash loop of a in the minority", "the lease is not lengthened; one move", crash_loop),
    Scenario::new(22, "a step fails while leaders die", "the move ends in a service or frozen", failing_step),
    Scenario::new(23, "b's copy has a history of its own", "no move; stops for a human", forked_copy),
    Scenario::new(25, "rolling restart of everything during a failover", "one move, served", rolling_upgrade),
];

fn power_lost(world: &mut World) -> Verdict {
    world.power_off(A);
    let effective = world.run_until(30_000, |world| effective_at(world, B));
    must!(world, effective.is_some_and(|ms| ms <= 16_000), "effective after {effective:?} ms");
    let served = world.run_until(10_000, |world| world.active(&rx()) == [B]);
    must!(world, served.zip(effective).is_some_and(|(one, two)| one + two <= 20_000), "served {served:?} ms later");
    world.run(60_000);
    world.power_on(A);
    world.run(120_000);
    must!(world, serves(world, B, 2), "it did not stay at b");
    Ok(())
}

fn lose_when_stale(world: &mut World) -> Verdict {
    world.cut(A, B);
    world.run(20_000);
    must!(world, world.in_sync() == Some(false), "b is not latched stale");
    world.power_off(A);
    world.heal();
    Ok(())
}

fn power_lost_when_stale(world: &mut World) -> Verdict {
    lose_when_stale(world)?;
    world.run(180_000);
    must!(world, world.active(&rx()).is_empty() && counter(world) == 1, "it moved");
    must!(world, world.told("the copy at site b lacks acknowledged data") >= 1, "nobody said why");
    must!(world, world.replica.conditions.contains("ticket-free/rx"), "no alarm");
    world.power_on(A);
    let back = world.run_until(30_000, |world| world.active(&rx()) == [A]);
    must!(world, back.is_some(), "a does not serve again");
    Ok(())
}

fn force(world: &mut World, operator: &str) {
    let reason = format!("{operator} decided");
    let order = TicketCommand::Force { to: B, guard: Guard::Freshness, reason, expect: None };
    world.command_by(operator, "rx", order);
    world.run(20_000);
}

fn forced_by_two(world: &mut World) -> Verdict {
    lose_when_stale(world)?;
    world.run(60_000);
    force(world, "op-1");
    must!(world, world.active(&rx()).is_empty(), "one operator was enough");
    must!(world, world.told("another operator has to ask") == 1, "nobody was asked");
    must!(world, world.replica.conditions.contains("ticket-force/rx"), "no alarm");
    force(world, "op-1");
    must!(world, world.active(&rx()).is_empty() && counter(world) == 1, "one operator counted twice");
    force(world, "op-2");
    must!(world, serves(world, B, 2), "two operators were not enough");
    world.power_on(A);
    world.run(60_000);
    must!(world, serves(world, B, 2), "it did not stay");
    must!(world, !world.replica.conditions.contains("ticket-force/rx"), "the alarm stays");
    Ok(())
}

fn isolated(world: &mut World) -> Verdict {
    world.isolate(A);
    let stopped = world.run_until(30_000, |world| !world.active(&rx()).contains(&A));
    must!(world, stopped.is_some_and(|ms| ms <= 14_000 + STEP_MS), "stopped after {stopped:?} ms");
    must!(world, world.run_until(30_000, |world| world.active(&rx()) == [B]).is_some(), "b does not serve");
    let old_page = Some((Epoch::NONE.next(), 1));
    world.command("rx", TicketCommand::Move { to: A, reason: "an old page".to_owned(), expect: old_page });
    world.heal();
    world.run(60_000);
    must!(world, serves(world, B, 2) && world.told("changed meanwhile") == 1, "an old order was not refused");
    must!(world, world.told("step seal of epoch 1.2") >= 1, "a was not sealed");
    Ok(())
}

fn isolated_for_43_s(world: &mut World) -> Verdict {
    world.isolate(A);
    world.run(43_000);
    world.heal();
    world.run(600_000);
    must!(world, serves(world, B, 2), "not one move without a way back");
    Ok(())
}

fn paused(world: &mut World) -> Verdict {
    world.command("rx", TicketCommand::Move { to: B, reason: "drill".to_owned(), expect: None });
    let promoting = |world: &World| {
        let moving = world.ticket().and_then(|ticket| ticket.moving.as_ref());
        moving.is_some_and(|moving| moving.stage.as_str() == "promoting")
    };
    must!(world, world.run_until(30_000, promoting).is_some(), "no promotion was ordered");
    let b = gate(world, B);
    let begun = world.hosts[b].posts.get(&rx()).is_some_and(|post| post.step.is_some());
    world.hold_back(b, true);
    world.pause_agents(B, true);
    world.freeze_decider(B);
    world.run(60_000);
    world.pause_agents(B, false);
    world.thaw_decider(B);
    world.release(0, false);
    world.run(60_000);
    let late = world.told("step promote of epoch 1.2 at gate host-b of site b: done");
    must!(world, begun || late == 0, "a promotion that waited was carried out");
    must!(world, world.active(&rx()).len() == 1, "not one side");
    Ok(())
}

/// Half of the seeds: its clock stood still, as clocks of virtual machines do. The actuator is outside of it.
fn frozen(world: &mut World) -> Verdict {
    world.has_outside_actuator();
    let clock_stands = world.play.roll().is_multiple_of(2);
    world.freeze_machine(A);
    world.run(45_000);
    must!(world, serves(world, B, 2), "b did not take over");
    world.thaw_machine(A, clock_stands);
    let a = gate(world, A);
    let knows = |world: &World| world.hosts[a].posts.get(&rx()).is_some_and(|post| post.disk.epoch.counter == 2);
    must!(world, world.run_until(15_000, knows).is_some(), "a hears nothing of the new epoch");
    world.run(60_000);
    must!(world, serves(world, B, 2), "a's old epoch is still at work");
    Ok(())
}

fn wall_clock(world: &mut World) -> Verdict {
    for offset in [3_600_000, -3_600_000, 0] {
        world.wall_offset_ms = offset;
        quiet(world, 60_000)?;
    }
    Ok(())
}

fn drift(world: &mut World, gates: u64, log: u64) -> Verdict {
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
    must!(world, world.run_until(60_000, |world| world.active(&rx()) == [B]).is_some(), "b does not serve");
    Ok(())
}

fn slow_gates(world: &mut World) -> Verdict {
    drift(world, 990, 1_010)
}

fn fast_gates(world: &mut World) -> Verdict {
    drift(world, 1_010, 990)
}

/// Beyond what the leases are made for, and in the harmless direction: the other one is what the alarm of drift is for.
fn drift_of_5_percent(world: &mut World) -> Verdict {
    drift(world, 1_050, 950)
}

fn crash_loop(world: &mut World) -> Verdict {
    world.isolate(A);
    let begin = world.now();
    while world.now() - begin < 40_000 && world.invariants.breaches.is_empty() {
        world.stop_decider(A);
        world.kill_agents(A);
        world.run(500);
        world.start_decider(A);
        world.start_agents(A);
        world.run(500);
    }
    must!(world, world.active(&rx()) == [B], "b does not serve");
    Ok(())
}

fn failing_step(world: &mut World) -> Verdict {
    let b = gate(world, B);
    world.power_off(A);
    must!(world, world.run_until(30_000, |world| effective_at(world, B)).is_some(), "no grant");
    if let Some(post) = world.hosts[b].posts.get_mut(&rx()) {
        post.force.insert(StepKind::Promote, StepOutcome::Failed);
    }
    world.run(1_000);
    world.change_leader();
    world.run(3_000);
    world.change_leader();
    world.run(60_000);
    let (ended, frozen) = world.ticket().map_or((false, false), |t| (t.moving.is_none(), t.frozen.is_some()));
    must!(world, ended, "L3: the move has no end");
    must!(world, frozen || world.active(&rx()) == [B], "neither a service nor a frozen ticket");
    Ok(())
}

fn forked_copy(world: &mut World) -> Verdict {
    world.each_host(B, |host, _| {
        for post in host.posts.values_mut() {
            post.copy.lineage = 7;
        }
    });
    world.run(5_000);
    world.power_off(A);
    world.run(120_000);
    must!(world, counter(world) == 1, "it moved to a fork");
    must!(world, world.told("the copy at site b has a history of its own") >= 1, "nobody said why");
    Ok(())
}

/// Whatever the failover has come to, the next process is replaced.
fn rolling_upgrade(world: &mut World) -> Verdict {
    world.power_off(A);
    let first = world.play.roll() % 15_000;
    world.run(first - first % STEP_MS);
    for site in [B, W] {
        world.stop_decider(site);
        world.run(1_500);
        world.start_decider(site);
        world.kill_agents(site);
        world.run(500);
        world.start_agents(site);
        world.run(4_000);
    }
    let served = world.run_until(60_000, |world| world.active(&rx()) == [B]);
    must!(world, served.is_some(), "b does not serve");
    world.power_on(A);
    world.run(60_000);
    must!(world, world.active(&rx()) == [B], "it did not stay at b");
    Ok(())
}
