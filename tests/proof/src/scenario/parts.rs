//! Scenarios in which single processes, disks and messages are what goes wrong.

use bcp_wire::Site::{self, A, B, W};

use super::{Scenario, Verdict, counter, must, quiet};
use crate::world::{World, at, rx};

const WEEK_MS: u64 = 7 * 24 * 3_600_000;

pub const ALL: &[Scenario] = &[
    Scenario::new(8, "w dead for a week; then a dies", "0 moves, 0 stops but a's own; an alarm all along", w_dead)
        .long(),
    Scenario::new(17, "disk hangs: w leading, then decide of the holder", "others go on; 0 moves, 0 stops", disk_hangs),
    Scenario::new(25, "every message twice and up to 2 s late", "0 moves, 0 stops", repeated),
    Scenario::new(25, "all three collectors killed for 10 min", "0 moves, 0 stops by promises", no_collectors),
];

fn w_dead(world: &mut World) -> Verdict {
    world.stop_decider(W);
    quiet(world, WEEK_MS)?;
    let can = world.replica.ticket_views().first().map(|view| view.can_failover_now.clone());
    let says_why = can.is_some_and(|can| !can.ok && can.reasons[0].contains("1 of the 2 other observers"));
    must!(world, says_why, "nobody says that it could not move");
    must!(world, world.replica.conditions.contains("ticket-no-failover/rx"), "no alarm");
    world.power_off(A);
    world.run(600_000);
    must!(world, world.active(&rx()).is_empty() && counter(world) == 1, "it moved");
    Ok(())
}

fn disk_hangs(world: &mut World) -> Verdict {
    world.freeze_decider(W);
    quiet(world, 60_000)?;
    must!(world, world.leader != Some(W), "w still leads");
    world.thaw_decider(W);
    quiet(world, 60_000)?;
    must!(world, world.leader == Some(W), "L2: w does not lead again");
    world.freeze_decider(A);
    quiet(world, 60_000)
}

fn repeated(world: &mut World) -> Verdict {
    (world.repeat_percent, world.max_delay_ms) = (100, 2_000);
    quiet(world, 120_000)
}

fn no_collectors(world: &mut World) -> Verdict {
    for site in Site::ALL {
        world.stop_decider(site);
    }
    quiet(world, 600_000)?;
    must!(world, world.failsafe_used, "nobody promised anything");
    for site in Site::ALL {
        world.start_decider(site);
    }
    quiet(world, 120_000)?;
    must!(world, world.deciders[at(A)].up && world.deciders[at(B)].up, "the collectors are not back");
    Ok(())
}
