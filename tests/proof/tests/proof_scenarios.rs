//! The scenarios by their numbers, for a few seeds: three, or `BCP_SCENARIOS=FROM..TO`.

use bcp_core::policy::{TicketPolicy, Timing};
use bcp_proof::scenario;
use bcp_proof::seeds;
use bcp_proof::world::{World, id, passive, policy, rx};
use bcp_wire::Site::{A, B};

#[test]
fn every_scenario_ends_as_it_should() {
    let seeds = seeds::from_env("BCP_SCENARIOS", 1..4);
    let rows = scenario::sweep(&scenario::named(&[]), &seeds);
    println!("{}", scenario::table(&rows));
    let bad: Vec<_> = rows.iter().filter_map(|row| row.first.as_ref().map(|first| (row.scenario, first))).collect();
    for (name, (seed, story)) in &bad {
        println!("\"{name}\", seed {seed}: {story}");
    }
    assert!(bad.is_empty(), "{:?}", bad.iter().map(|(name, (seed, _))| (name, seed)).collect::<Vec<_>>());
}

fn usual() -> World {
    World::settled(policy(Timing::METRO, &[("rx", passive())]), 50, 1, None)
}

#[test]
fn a_service_that_is_down_for_30_s_moves_through_a_drain() {
    let mut world = usual();
    world.each_host(A, |host, _| host.service_dies());
    world.run(25_000);
    assert_eq!(world.ticket().and_then(|ticket| ticket.holder), Some(A), "not before its time");
    assert!(world.run_until(30_000, |world| world.active(&rx()) == [B]).is_some(), "{}", world.story());
    assert!(world.invariants.breaches.is_empty(), "{}", world.story());
}

/// What depends on another ticket leaves a lost site after it.
#[test]
fn dependent_tickets_leave_a_lost_site_in_their_order() {
    let zz = id("zz");
    let then = TicketPolicy { depends_on: vec![zz.clone()], ..passive() };
    let mut world = World::settled(policy(Timing::METRO, &[("rx", then), ("zz", passive())]), 50, 1, None);
    world.power_off(A);
    assert!(world.run_until(40_000, |world| world.active(&zz) == [B]).is_some(), "{}", world.story());
    assert_eq!(world.active(&rx()), []);
    assert!(world.run_until(40_000, |world| world.active(&rx()) == [B]).is_some(), "{}", world.story());
    assert!(world.invariants.breaches.is_empty(), "{}", world.story());
}
