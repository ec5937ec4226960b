//! For each seeded bug the story in which it would do its harm. Without the bug every one of them ends well.

use bcp_core::failover::{Guard, Observation, TicketCommand};
use bcp_core::policy::{Mode, Rpo, TicketPolicy, Timing};
use bcp_core::replica::Item;
use bcp_wire::Site::{self, A, B, W};

use crate::bug::Bug;
use crate::host::Disk;
use crate::invariants::Breach;
use crate::sim::STEP_MS;
use crate::world::{World, at, carried, id, passive, policy, pooled, rx, two_gates};

/// A name, who takes part, and what happens.
type Story = (&'static str, fn(Option<Bug>) -> World, fn(&mut World));

/// Number of "it does not go on" among the breaches.
pub const LIVENESS: u8 = 0;

fn one(rule: TicketPolicy, bug: Option<Bug>) -> World {
    World::settled(policy(Timing::METRO, &[("rx", rule)]), STEP_MS, 11, bug)
}

fn usual(bug: Option<Bug>) -> World {
    one(passive(), bug)
}

fn pairs(bug: Option<Bug>) -> World {
    one(two_gates(), bug)
}

fn restless(bug: Option<Bug>) -> World {
    one(TicketPolicy { cooldown_ms: 0, rpo: Rpo::Availability, ..passive() }, bug)
}

fn dependent(bug: Option<Bug>) -> World {
    let then = TicketPolicy { depends_on: vec![id("zz")], ..passive() };
    World::settled(policy(Timing::METRO, &[("rx", then), ("zz", passive())]), STEP_MS, 11, bug)
}

fn observed(bug: Option<Bug>) -> World {
    let mut world = usual(bug);
    for rules in [&mut world.policy, &mut world.believed] {
        for rule in rules.tickets.values_mut() {
            rule.mode = Mode::Observe;
        }
    }
    world.run(1_000);
    world
}

/// The holder's clock as slow, the log's as fast as they may be; every stop takes as long as it may.
fn far_apart(world: &mut World) {
    let now = world.now();
    for host in &mut world.hosts {
        host.run_at(990, now);
        host.slow_stops = true;
    }
    for decider in &mut world.deciders {
        decider.rate = 1_010;
    }
    world.run(20_000);
}

fn gate(world: &World, site: Site) -> usize {
    world.hosts.iter().position(|host| host.site == site).unwrap_or(0)
}

fn move_to(world: &mut World, to: Site) {
    world.command("rx", TicketCommand::Move { to, reason: "drill".to_owned(), expect: None });
}

fn isolated(world: &mut World) {
    far_apart(world);
    world.isolate(A);
    world.run(40_000);
}

fn isolated_with_late_answers(world: &mut World) {
    far_apart(world);
    world.max_delay_ms = 2_500;
    world.run(20_000);
    world.isolate(A);
    world.run(40_000);
}

fn isolated_and_paused(world: &mut World) {
    far_apart(world);
    world.isolate(A);
    world.pause_agents(A, true);
    world.run(40_000);
}

/// The gate closes its epoch in time and dies; its stop never began, and the warden's hangs.
fn isolated_and_killed(world: &mut World) {
    far_apart(world);
    world.isolate(A);
    world.run_until(20_000, |world| world.hosts[gate(world, A)].posts[&rx()].disk.closed);
    world.each_host(A, |host, _| {
        for post in host.posts.values_mut() {
            post.stop = None;
        }
    });
    world.kill_agents(A);
    world.run(40_000);
}

fn isolated_and_restarted(world: &mut World) {
    far_apart(world);
    world.isolate(A);
    world.run(5_000);
    world.kill_agents(A);
    world.start_agents(A);
    world.run(40_000);
}

fn isolated_in_a_stall(world: &mut World) {
    far_apart(world);
    world.stalled_until = world.now() + 1_900;
    world.run(1_700);
    world.isolate(A);
    world.run(40_000);
}

fn lost_when_stale(world: &mut World) {
    world.cut(A, B);
    world.run(20_000);
    world.power_off(A);
    world.heal();
    world.run(60_000);
}

fn force(world: &mut World, operator: &str) {
    let order = TicketCommand::Force { to: B, guard: Guard::Freshness, reason: "drill".to_owned(), expect: None };
    world.command_by(operator, "rx", order);
}

fn forced_by_one(world: &mut World) {
    lost_when_stale(world);
    for _ in 0..2 {
        force(world, "op-1");
        world.run(2_000);
    }
    world.run(30_000);
}

/// The holder is cut off and still serves; two people want the stale standby at once.
fn forced_while_held(world: &mut World) {
    far_apart(world);
    world.cut(A, B);
    world.run(20_000);
    world.isolate(A);
    world.run(1_000);
    force(world, "op-1");
    force(world, "op-2");
    world.run(40_000);
}

fn there_and_back(world: &mut World) {
    move_to(world, B);
    world.run(30_000);
    move_to(world, A);
    world.run(30_000);
}

fn an_old_answer(world: &mut World) {
    let a = gate(world, A);
    world.hold_back(a, true);
    move_to(world, B);
    world.run_until(20_000, |world| world.hosts[gate(world, A)].posts[&rx()].disk.epoch.counter == 2);
    world.release(0, false);
    world.run(20_000);
}

fn one_gate_of_two_stops(world: &mut World) {
    world.hosts[1].paused = true;
    world.run(500);
    move_to(world, B);
    world.run(40_000);
}

fn moved_with_a_full_disk(world: &mut World) {
    world.hosts[0].disk = Disk::Full;
    move_to(world, B);
    world.run(40_000);
}

/// From here on the warden of a cannot be told of any lease; then a is paused.
fn renewed_without_telling(world: &mut World) {
    let a = gate(world, A);
    world.hosts[a].runtime_full = true;
    world.run(3_000);
    world.pause_agents(A, true);
    world.run(40_000);
}

/// The warden has to stop the service, and its disk does not take that.
fn stopped_beside_a_full_disk(world: &mut World) {
    far_apart(world);
    let a = gate(world, A);
    world.pause_agents(A, true);
    world.hosts[a].disk = Disk::Full;
    world.run_until(20_000, |world| world.hosts[gate(world, A)].posts[&rx()].warden.is_some());
    world.pause_agents(A, false);
    world.run(40_000);
}

fn isolated_with_a_disk_that_hangs(world: &mut World) {
    far_apart(world);
    let a = gate(world, A);
    world.hosts[a].disk = Disk::Hung;
    world.isolate(A);
    world.run(40_000);
}

fn stopped_beside_a_disk_that_cannot_be_read(world: &mut World) {
    let a = gate(world, A);
    world.hosts[a].disk = Disk::Unreadable;
    there_and_back(world);
    world.pause_agents(A, true);
    world.run(40_000);
}

fn moved_to_a_full_disk(world: &mut World) {
    let b = gate(world, B);
    world.hosts[b].disk = Disk::Full;
    move_to(world, B);
    world.run(40_000);
}

fn a_promising_gate_loses_its_record(world: &mut World) {
    for site in Site::ALL {
        world.stop_decider(site);
    }
    world.run(15_000);
    world.kill_agents(B);
    world.each_host(B, |host, _| host.lose_record(&rx()));
    world.start_agents(B);
    world.isolate(A);
    for site in Site::ALL {
        world.start_decider(site);
    }
    world.run(60_000);
}

/// What people ordered must not rest on time where the holder says that it could not stop.
fn moved_from_what_cannot_be_stopped(world: &mut World) {
    world.each_host(A, |host, _| host.stops_fail = true);
    move_to(world, B);
    world.run(60_000);
}

fn frozen(world: &mut World) {
    world.command("rx", TicketCommand::Freeze { reason: "drill".to_owned(), for_ms: 60_000, expect: None });
    world.run(30_000);
}

fn lost_three_times(world: &mut World) {
    for (down, up) in [(A, B), (B, A), (A, B)] {
        world.power_off(down);
        world.run(40_000);
        if down == A && up == B && world.ticket().is_some_and(|ticket| ticket.frozen.is_some()) {
            break;
        }
        world.power_on(down);
        world.run(30_000);
    }
}

/// A human lifts the freeze: the ticket must go on.
fn lifted(world: &mut World) {
    lost_three_times(world);
    world.command("rx", TicketCommand::Unfreeze { reason: "drill".to_owned(), expect: None });
    let served = world.run_until(60_000, |world| world.active(&rx()) == [B]);
    if served.is_none() && world.invariants.breaches.is_empty() {
        let what = "nobody can move it although a human lifted its freeze".to_owned();
        let at = world.now();
        world.invariants.breaches.push(Breach { number: LIVENESS, at, what });
    }
}

/// b saw a lost once; its observations get lost since, and a is lost in earnest now.
fn an_old_word(world: &mut World) {
    world.cut(A, B);
    world.run(15_000);
    world.deciders[at(B)].mute = true;
    world.heal();
    world.run(20_000);
    world.power_off(A);
    world.run(60_000);
}

/// b saw nothing of a once. It does now, but what it said then comes again and again, when w sees nothing of a either.
fn an_old_word_comes_again(world: &mut World) {
    world.cut(A, B);
    world.run(15_000);
    let said = world.replica.failover.board.sights.get(&B).cloned();
    world.heal();
    world.run(10_000);
    let Some(said) = said else { return };
    world.cut(A, W);
    world.kill_agents(A);
    for _ in 0..20 {
        let old = Observation {
            observer: B,
            session: said.session,
            seq: said.seq,
            policy_hash: said.policy_hash.clone(),
            control: said.control.clone(),
            agents: said.agents.clone(),
        };
        world.run(500);
        world.propose(Item::Observation(old));
        world.run(500);
    }
}

/// The operator looked before the ticket was frozen.
fn an_old_page(world: &mut World) {
    let seen = world.ticket().map(|ticket| (ticket.epoch, ticket.revision));
    frozen(world);
    world.command("rx", TicketCommand::Unfreeze { reason: "drill".to_owned(), expect: seen });
    world.run(5_000);
}

/// A policy that names b alone, while a holds the ticket.
fn a_policy_without_the_holder(world: &mut World) {
    for rule in world.policy.tickets.values_mut() {
        (rule.sites, rule.preferred) = (vec![B], Some(B));
        rule.gates.remove(&A);
    }
    world.run(30_000);
}

fn one_mute_observer(world: &mut World) {
    world.deciders[at(B)].mute = true;
    world.run(5_000);
    world.power_off(A);
    world.run(60_000);
}

fn a_fresh_observer(world: &mut World) {
    world.power_off(A);
    world.run(9_500);
    world.stop_decider(W);
    world.start_decider(W);
    world.run(60_000);
}

fn the_wall_clock_jumps(world: &mut World) {
    world.wall_offset_ms += 3_600_000;
    world.run(20_000);
}

fn led_by_another_meanwhile(world: &mut World) {
    world.stop_decider(W);
    world.run(20_000);
    world.start_decider(W);
    world.run(60_000);
}

/// The target is cut off while its promotion takes long.
fn cut_off_while_promoting(world: &mut World) {
    for host in &mut world.hosts {
        host.step_takes_ms = Some(200);
    }
    let b = gate(world, B);
    world.hosts[b].step_takes_ms = Some(20_000);
    move_to(world, B);
    world.run_until(30_000, |world| {
        world.hosts[gate(world, B)].posts[&rx()].step.as_ref().is_some_and(|step| step.order.kind.as_str() == "promote")
    });
    world.isolate(B);
    world.run(60_000);
}

fn no_collectors(world: &mut World) {
    for site in Site::ALL {
        world.stop_decider(site);
    }
    world.run(30_000);
}

fn promises_one_by_one(world: &mut World) {
    for site in Site::ALL {
        world.stop_decider(site);
    }
    // The last of the round's promises is late, and its gate hears of no later question.
    world.run(3_000);
    let a = gate(world, A);
    world.hold_back(a, true);
    world.run_until(10_000, |world| !world.held.is_empty());
    for host in world.hosts.iter_mut().filter(|host| host.site == B) {
        host.paused = true;
    }
    world.run(1_500);
    let late = world.held.first().and_then(|message| match message {
        crate::world::Message::Promise { from, .. } => Some(*from),
        _ => None,
    });
    for n in 0..world.hosts.len() {
        if world.hosts[n].site == B && Some(n) != late {
            world.hosts[n].paused = false;
        }
    }
    world.run(1_500);
    world.release(0, false);
    world.run(5_000);
}

fn a_promising_gate_restarts(world: &mut World) {
    for site in Site::ALL {
        world.stop_decider(site);
    }
    world.run(15_000);
    world.kill_agents(B);
    world.start_agents(B);
    world.isolate(A);
    for site in Site::ALL {
        world.start_decider(site);
    }
    world.run(60_000);
}

/// The warden stops the service and writes that down; the gate, which only was late, goes on.
fn late_and_woken(world: &mut World) {
    far_apart(world);
    world.pause_agents(A, true);
    world.run_until(30_000, |world| world.hosts[gate(world, A)].posts[&rx()].disk.closed);
    world.run(1_000);
    world.pause_agents(A, false);
    world.run(40_000);
}

fn rebooted(world: &mut World) {
    world.power_off(A);
    world.run(3_000);
    world.power_on(A);
    world.run(40_000);
}

fn of_pool(bug: Option<Bug>) -> World {
    World::settled(pooled(Timing::METRO, &[("rx", carried())]), STEP_MS, 11, bug)
}

fn servers_of_a(count: u32) -> Vec<bcp_wire::Id> {
    (1..=count).map(|n| id(&format!("app-a{n}"))).collect()
}

/// To b it looks like the network, to w like the loss of single servers.
fn many_agents_unheard(world: &mut World) {
    world.deafen(B, &servers_of_a(6));
    world.deafen(W, &servers_of_a(5));
    world.run(60_000);
}

/// More than stand by.
fn servers_lost(world: &mut World) {
    world.each_server(A, &servers_of_a(7), |server| (server.runs, server.has_agent) = (false, false));
    world.run(120_000);
}

/// And repaired, and lost again.
fn servers_lost_twice(world: &mut World) {
    for _ in 0..2 {
        world.each_server(A, &servers_of_a(5), |server| server.runs = false);
        world.run(60_000);
        world.each_server(A, &servers_of_a(5), |server| server.runs = true);
        world.run(20_000);
        world.each_server(A, &[id("app-a9"), id("app-a10")], |server| server.runs = false);
        world.run(20_000);
    }
}

fn servers_flap(world: &mut World) {
    world.each_server(A, &servers_of_a(6), |server| server.runs = false);
    world.run(3_000);
    world.each_server(A, &servers_of_a(6), |server| server.runs = true);
    world.run(10_000);
}

/// One operator wants to force what is lost; it comes back by itself and is lost once more, and another operator asks.
fn forced_in_two_epochs(world: &mut World) {
    lost_when_stale(world);
    force(world, "op-1");
    world.run(2_000);
    world.power_on(A);
    world.run(60_000);
    world.command("rx", TicketCommand::Move { to: B, reason: "drill".to_owned(), expect: None });
    world.run(60_000);
    world.command("rx", TicketCommand::Move { to: A, reason: "drill".to_owned(), expect: None });
    world.run(60_000);
    lost_when_stale(world);
    force(world, "op-2");
    world.run(40_000);
}

fn lost(world: &mut World) {
    world.power_off(A);
    world.run(60_000);
}

const fn story(bug: Bug) -> Story {
    match bug {
        Bug::MarginZero
        | Bug::NoWaitOut
        | Bug::WaitOfAcquireAfterOnly
        | Bug::EpochFromTerm
        | Bug::EpochReused
        | Bug::PromoteBeforeSeal
        | Bug::ClosedEpochReopened => ("isolated, clocks far apart", usual, isolated),
        Bug::LeaseFromReceipt => ("late answers", usual, isolated_with_late_answers),
        Bug::WardenTakesItAll => ("isolated and killed after it closed the epoch", usual, isolated_and_killed),
        Bug::NoWarden => ("isolated and paused", usual, isolated_and_paused),
        Bug::RestartLengthensLease => ("isolated and restarted", usual, isolated_and_restarted),
        Bug::RenewalStampedBeforeTick => ("isolated in a stall of the leader", usual, isolated_in_a_stall),
        Bug::FreshnessAskedAfter => ("lost when the standby is stale", usual, lost_when_stale),
        Bug::LowerEpochAccepted => ("an old answer", usual, an_old_answer),
        Bug::DrainLeavesOpen => ("there and back", usual, there_and_back),
        Bug::MissingReportTakenClean => ("one gate of two stops", pairs, one_gate_of_two_stops),
        Bug::UnstoredIsTold => ("moved while the holder's disk is full", usual, moved_with_a_full_disk),
        Bug::FreezeEndsRenewals => ("frozen", usual, frozen),
        Bug::BudgetNotCounted => ("lost three times", restless, lost_three_times),
        Bug::BudgetNotReset => ("a budget used up, its freeze lifted", restless, lifted),
        Bug::ExpiredObservationCounted => ("an old word", usual, an_old_word),
        Bug::OneVoteIsEnough => ("one mute observer", usual, one_mute_observer),
        Bug::FreshObserverCounted => ("an observer that has just started", usual, a_fresh_observer),
        Bug::LogTimeFromWall => ("the wall clock jumps", usual, the_wall_clock_jumps),
        Bug::ReelectedLeaderCounts => ("led by another meanwhile", usual, led_by_another_meanwhile),
        Bug::AnsweredBeforeLogged => ("lost", usual, lost),
        Bug::OldWordCounted => ("an old word comes again", usual, an_old_word_comes_again),
        Bug::OrdersDoNotCompare => ("an old page", usual, an_old_page),
        Bug::PolicyTakesAway => ("a policy without the holder's site", usual, a_policy_without_the_holder),
        Bug::ForceByOne => ("lost when the standby is stale, forced by one", usual, forced_by_one),
        Bug::ForceWithoutWait => ("forced while the holder is cut off", usual, forced_while_held),
        Bug::UntoldLease => ("a warden that cannot be told", usual, renewed_without_telling),
        Bug::WardenUnseen => ("a warden beside a full disk", usual, stopped_beside_a_full_disk),
        Bug::WardenWaitsForDisk => ("isolated with a disk that hangs", usual, isolated_with_a_disk_that_hangs),
        Bug::WardenWritesBlindly => {
            ("a warden beside a disk that cannot be read", restless, stopped_beside_a_disk_that_cannot_be_read)
        }
        Bug::UnsavedIsRenewed | Bug::UnsavedIsUntold => ("moved to a full disk", usual, moved_to_a_full_disk),
        Bug::LostRecordIsNew => ("a promising gate loses its record", usual, a_promising_gate_loses_its_record),
        Bug::UnstoppedWaitedOut => ("moved from what cannot be stopped", usual, moved_from_what_cannot_be_stopped),
        Bug::FoundRecordIgnored => ("late, stopped by its warden, and woken", usual, late_and_woken),
        Bug::OldDeadlineRead => ("rebooted", usual, rebooted),
        Bug::ObserveActs => ("lost, in mode observe", observed, lost),
        Bug::LossLeavesStep => ("cut off while promoting", usual, cut_off_while_promoting),
        Bug::PromiseOfOneMissing => ("no collectors", pairs, no_collectors),
        Bug::PromisesAddUp => ("promises one by one", pairs, promises_one_by_one),
        Bug::PromiseForgotten => ("a promising gate restarts", usual, a_promising_gate_restarts),
        Bug::SilenceGuardRemoved => ("many agents unheard by one observer", of_pool, many_agents_unheard),
        Bug::CapacityWithoutCap => ("servers lost", of_pool, servers_lost),
        Bug::CapacityStepsNumberedAnew => ("servers lost, repaired and lost again", of_pool, servers_lost_twice),
        Bug::FallTimeIgnored => ("servers flap", of_pool, servers_flap),
        Bug::ForceOutlivesEpoch => ("forced by two, in two epochs", usual, forced_in_two_epochs),
        Bug::DependencyIgnored => ("a lost site with dependent tickets", dependent, lost),
    }
}

/// Plays the story of `of` with `bug` at work, or with none.
#[must_use]
pub fn run(of: Bug, bug: Option<Bug>) -> (&'static str, Option<Breach>, World) {
    let (name, setting, happens) = story(of);
    let mut world = setting(bug);
    if world.invariants.breaches.is_empty() {
        happens(&mut world);
    }
    (name, world.invariants.breaches.first().cloned(), world)
}

/// What caught it.
#[derive(Debug)]
pub struct Caught {
    pub story: &'static str,
    pub breach: Breach,
}

#[must_use]
pub fn catches(bug: Bug) -> Option<Caught> {
    let (story, breach, _) = run(bug, Some(bug));
    breach.map(|breach| Caught { story, breach })
}
