//! Scenarios in which the network is what goes wrong.

use bcp_wire::Site::{self, A, B, W};

use super::{Scenario, Verdict, counter, gate, is_quiet, must, quiet, serves};
use crate::world::{World, rx};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

pub const ALL: &[Scenario] = &[
    Scenario::new(3, "a-b cut for 1 h", "0 moves, 0 stops; b stale; no alarm after heal", cut_ab).long(),
    Scenario::new(4, "a->b cut one way for 1 h", "0 moves, 0 stops; no alarm after heal", cut_a_to_b).long(),
    Scenario::new(6, "a sends but cannot receive", "a stops", a_is_deaf),
    Scenario::new(6, "w, leading, sends but cannot receive", "the lead moves; 0 moves, 0 stops", w_is_deaf),
    Scenario::new(6, "w, leading, receives but cannot send", "the lead moves; 0 moves, 0 stops", w_is_mute),
    Scenario::new(7, "a-w cut for 10 min", "0 moves, 0 stops", cut_aw),
    Scenario::new(9, "links of a flap 5 s / 5 s for 1 h", "one move at most", flapping).long(),
    Scenario::new(11, "4 s blip of all links", "0 moves, 0 stops", blip),
    Scenario::new(12, "(wide) 30 % loss, delays, repeats for 1 h", "0 moves, 0 stops", bad_network).long().wide(),
    Scenario::new(21, "a split off for 24 h, and its return", "one move; old messages rejected", split_for_a_day)
        .long(),
];

fn no_alarm(world: &World) -> Verdict {
    must!(world, world.replica.conditions.is_empty(), "alarms stay: {:?}", world.replica.conditions);
    Ok(())
}

fn cut_ab(world: &mut World) -> Verdict {
    world.cut(A, B);
    quiet(world, HOUR_MS)?;
    must!(world, world.in_sync() == Some(false), "b is not marked stale");
    world.heal();
    quiet(world, 60_000)?;
    no_alarm(world)
}

fn cut_a_to_b(world: &mut World) -> Verdict {
    world.cut_one_way(A, B);
    quiet(world, HOUR_MS)?;
    world.heal();
    quiet(world, 60_000)?;
    no_alarm(world)
}

/// Nothing comes back to it: no lease, no promise.
fn a_is_deaf(world: &mut World) -> Verdict {
    world.cut_one_way(B, A);
    world.cut_one_way(W, A);
    let stopped = world.run_until(40_000, |world| !world.active(&rx()).contains(&A));
    must!(world, stopped.is_some(), "a goes on");
    Ok(())
}

fn w_is_deaf(world: &mut World) -> Verdict {
    world.cut_one_way(A, W);
    world.cut_one_way(B, W);
    quiet(world, 120_000)?;
    must!(world, world.leader != Some(W), "w still leads");
    Ok(())
}

fn w_is_mute(world: &mut World) -> Verdict {
    world.cut_one_way(W, A);
    world.cut_one_way(W, B);
    quiet(world, 120_000)?;
    must!(world, world.leader != Some(W), "w still leads");
    world.heal();
    quiet(world, 60_000)?;
    must!(world, world.leader == Some(W), "L2: w does not lead again");
    Ok(())
}

fn cut_aw(world: &mut World) -> Verdict {
    world.cut(A, W);
    quiet(world, 600_000)
}

fn flapping(world: &mut World) -> Verdict {
    for _ in 0..360 {
        world.isolate(A);
        world.run(5_000);
        world.heal();
        world.run(5_000);
        must!(world, world.invariants.breaches.is_empty() && counter(world) <= 2, "more than one move");
    }
    Ok(())
}

fn blip(world: &mut World) -> Verdict {
    for site in Site::ALL {
        world.isolate(site);
    }
    quiet(world, 4_000)?;
    world.heal();
    quiet(world, 60_000)
}

fn bad_network(world: &mut World) -> Verdict {
    (world.loss_percent, world.repeat_percent, world.max_delay_ms) = (30, 10, 150);
    quiet(world, HOUR_MS)
}

fn split_for_a_day(world: &mut World) -> Verdict {
    must!(world, is_quiet(world), "it does not begin well");
    world.isolate(A);
    let a = gate(world, A);
    world.hold_back(a, true);
    world.run(DAY_MS);
    world.heal();
    world.release(0, true);
    world.run(60_000);
    world.release(0, false);
    world.run(60_000);
    must!(world, serves(world, B, 2), "not one move");
    must!(world, world.told("step follow of epoch 1.2 at gate host-a") >= 1, "a does not follow");
    Ok(())
}
