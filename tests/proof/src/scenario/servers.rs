//! Scenarios in which agents fall silent or servers are lost: nothing moves, and servers that stand by are started where they
//! are really missed.

use bcp_core::failover::TicketEvent;
use bcp_core::ledger::LedgerEvent;
use bcp_wire::Id;
use bcp_wire::Site::{A, B, W};
use bcp_wire::control::Phase;

use super::{Scenario, Verdict, is_quiet, must, quiet};
use crate::world::{World, carried, id, pooled, rx};

/// Of these ten agents of a; the last two stand by.
const AGENTS: u32 = 10;
const SERVING: u32 = 8;
const NEEDED: usize = 4;
const RESTORED_MS: u64 = 60_000;

const fn of_pool(name: &'static str, expected: &'static str, play: fn(&mut World) -> Verdict) -> Scenario {
    Scenario { policy: |timing| pooled(timing, &[("rx", carried())]), ..Scenario::new(24, name, expected, play) }
}

pub const ALL: &[Scenario] = &[
    of_pool("60 % of a's agents silent for one observer", "no failover, nothing started", unheard_by_one),
    of_pool("the same, half silent for another, then as many", "the guard holds until the second agrees", guarded),
    of_pool("60 % of a's agents silent for all, servers run", "no failover; capacity <= 60 s", unheard_by_all),
    of_pool("60 % of a's servers lost for good", "no failover; capacity <= 60 s", lost),
    of_pool("servers crash, their agents say so; repaired later", "no failover; capacity <= 60 s", crashed),
    of_pool("servers flap, each time shorter than the fall time", "no failover, nothing started", flapping),
    of_pool("more servers lost than stand by", "each started once; alarm; no failover", too_many_lost),
    of_pool("a server does not start", "the next one instead; capacity <= 60 s", one_does_not_start),
    of_pool(
        "servers lost at a while the site itself fails",
        "one move; nothing started for a since",
        site_lost_meanwhile,
    ),
];

/// So many of the serving servers of a, chosen by the seed.
fn some(world: &mut World, count: usize) -> Vec<Id> {
    let mut all: Vec<Id> = (1..=SERVING).map(|n| id(&format!("app-a{n}"))).collect();
    while all.len() > count {
        let n = usize::try_from(world.play.roll() % all.len() as u64).unwrap_or(0);
        all.remove(n);
    }
    all
}

fn sixty_percent(world: &mut World) -> Vec<Id> {
    some(world, (AGENTS * 60 / 100) as usize)
}

/// Servers that were ordered, in order.
fn ordered(world: &World) -> Vec<Id> {
    let entries = world.journal.iter().flat_map(|journal| &journal.entries);
    entries
        .filter_map(|entry| match &entry.what {
            LedgerEvent::Ticket { event: TicketEvent::CapacityOrdered { server, .. } } => Some(server.clone()),
            _ => None,
        })
        .collect()
}

/// Enough run at a, and two observers say so.
fn restored(world: &World) -> bool {
    let now = world.replica.log_time;
    let board = &world.replica.failover.board;
    let says = |observer| {
        let word = board.site_words(observer, now).and_then(|sites| sites.get(&A)?.pools.get(&id("app")));
        word.is_some_and(|word| word.up as usize >= NEEDED)
    };
    world.servers_running(A) >= NEEDED && [A, B, W].into_iter().filter(|observer| says(*observer)).count() >= 2
}

fn capacity_in_time(world: &mut World) -> Verdict {
    let took = world.run_until(RESTORED_MS * 2, restored);
    must!(world, took.is_some_and(|ms| ms <= RESTORED_MS), "capacity is back after {took:?} ms");
    Ok(())
}

fn nothing_started(world: &mut World, ms: u64) -> Verdict {
    quiet(world, ms)?;
    must!(world, ordered(world).is_empty(), "servers were started: {:?}", ordered(world));
    Ok(())
}

fn unheard_by_one(world: &mut World) -> Verdict {
    let silent = sixty_percent(world);
    let observer = [A, B, W][usize::try_from(world.play.roll() % 3).unwrap_or(0)];
    world.deafen(observer, &silent);
    nothing_started(world, 300_000)?;
    world.deafen(observer, &[]);
    nothing_started(world, 60_000)
}

/// To w it looks like the loss of single servers, too many of them; to b like the network. That is one vote.
fn guarded(world: &mut World) -> Verdict {
    let silent = sixty_percent(world);
    world.deafen(B, &silent);
    world.deafen(W, &silent[1..]);
    nothing_started(world, 120_000)?;
    world.deafen(W, &[]);
    nothing_started(world, 20_000)?;
    world.deafen(W, &silent);
    let agreed = world.run_until(RESTORED_MS, |world| ordered(world).len() == 2);
    must!(world, agreed.is_some_and(|ms| ms <= 20_000), "two observers agree, and nothing is started: {agreed:?}");
    quiet(world, 120_000)?;
    world.deafen(B, &[]);
    world.deafen(W, &[]);
    quiet(world, 60_000)?;
    must!(world, ordered(world).len() == 2, "started again: {:?}", ordered(world));
    Ok(())
}

fn unheard_by_all(world: &mut World) -> Verdict {
    let silent = sixty_percent(world);
    world.each_server(A, &silent, |server| server.has_agent = false);
    capacity_in_time(world)?;
    quiet(world, 120_000)?;
    must!(world, ordered(world).len() == 2, "started: {:?}", ordered(world));
    world.each_server(A, &silent, |server| server.has_agent = true);
    quiet(world, 120_000)
}

fn lose(world: &mut World, count: usize) {
    let gone = some(world, count);
    world.each_server(A, &gone, |server| (server.runs, server.has_agent) = (false, false));
}

fn lost(world: &mut World) -> Verdict {
    lose(world, (AGENTS * 60 / 100) as usize);
    capacity_in_time(world)?;
    quiet(world, 300_000)?;
    must!(world, ordered(world) == [id("app-a9"), id("app-a10")], "started: {:?}", ordered(world));
    Ok(())
}

fn crashed(world: &mut World) -> Verdict {
    let gone = some(world, 5);
    world.each_server(A, &gone, |server| server.runs = false);
    capacity_in_time(world)?;
    must!(world, ordered(world) == [id("app-a9")], "one was missing: {:?}", ordered(world));
    world.each_server(A, &gone, |server| server.runs = true);
    quiet(world, 60_000)?;
    // The next shortage is one of its own.
    world.each_server(A, &[id("app-a9")], |server| server.runs = false);
    quiet(world, 30_000)?;
    let again = some(world, 5);
    world.each_server(A, &again, |server| server.runs = false);
    capacity_in_time(world)?;
    must!(world, ordered(world) == [id("app-a9"), id("app-a9")], "started: {:?}", ordered(world));
    Ok(())
}

fn flapping(world: &mut World) -> Verdict {
    for _ in 0..20 {
        let gone = some(world, 7);
        world.each_server(A, &gone, |server| server.runs = false);
        quiet(world, 4_000)?;
        world.each_server(A, &gone, |server| server.runs = true);
        quiet(world, 6_000)?;
    }
    nothing_started(world, 30_000)
}

fn too_many_lost(world: &mut World) -> Verdict {
    lose(world, 7);
    quiet(world, 120_000)?;
    must!(world, ordered(world) == [id("app-a9"), id("app-a10")], "started: {:?}", ordered(world));
    must!(world, world.servers_running(A) == 3, "{} run", world.servers_running(A));
    must!(world, world.replica.conditions.contains("pool-short/rx"), "no alarm");
    must!(world, world.told("none stands by (2 were started)") == 1, "not told once");
    Ok(())
}

/// Its program fails for a while: the first one is given up after its tries.
fn one_does_not_start(world: &mut World) -> Verdict {
    use bcp_wire::control::{StepKind, StepOutcome};
    world.each_host(A, |host, _| {
        for post in host.posts.values_mut() {
            post.force.insert(StepKind::Capacity, StepOutcome::Vetoed);
        }
    });
    let gone = some(world, 5);
    world.each_server(A, &gone, |server| server.runs = false);
    let refused = world.run_until(30_000, |world| ordered(world).len() == 2);
    must!(world, refused.is_some(), "the second one is not tried");
    world.each_host(A, |host, _| {
        for post in host.posts.values_mut() {
            post.force.clear();
        }
    });
    capacity_in_time(world)?;
    quiet(world, 60_000)
}

fn site_lost_meanwhile(world: &mut World) -> Verdict {
    lose(world, 6);
    let after = world.play.roll() % 20_000;
    world.run(after - after % super::STEP_MS);
    must!(world, is_quiet(world), "it moved for its servers");
    world.power_off(A);
    let held = |world: &World| world.ticket().is_some_and(|ticket| ticket.phase == Phase::Held);
    let served = world.run_until(60_000, |world| world.active(&rx()) == [B] && held(world));
    must!(world, served.is_some(), "b does not serve");
    let before = ordered(world).len();
    world.run(120_000);
    must!(world, ordered(world).len() == before && world.active(&rx()) == [B], "started: {:?}", ordered(world));
    Ok(())
}
