//! Every placement of a bounded number of faults: nothing that must hold is broken.

use std::time::Instant;

use bcp_proof::model::{Bounds, Failover};
use stateright::{Checker, Model};

/// `BCP_MODEL=FAULTS,STEPS`, or small bounds.
fn bounds() -> Bounds {
    let usual = Bounds { faults: 1, steps: 24 };
    let Ok(text) = std::env::var("BCP_MODEL") else { return usual };
    match text.split_once(',').map(|(faults, steps)| (faults.parse(), steps.parse())) {
        Some((Ok(faults), Ok(steps))) => Bounds { faults, steps },
        _ => panic!("BCP_MODEL is FAULTS,STEPS, not {text}"),
    }
}

#[test]
fn whatever_goes_wrong_the_invariants_hold() {
    let (began, bounds) = (Instant::now(), bounds());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let checker = Failover { bounds, bug: None }.checker().threads(threads).spawn_dfs().join();
    println!(
        "model: {bounds:?}: {} unique states of {}, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    for (name, path) in checker.discoveries() {
        if name.starts_with('I') {
            let breaches = path.last_state().world.invariants.breaches.clone();
            panic!("{name}: {breaches:#?}\nby {:?}", path.into_actions());
        }
    }
    // Sometimes: the search has been where it matters.
    checker.assert_any_discovery("the other side takes over");
    checker.assert_any_discovery("the failsafe keeps a service");
    checker.assert_any_discovery("the loss action stops a service");
    // One fault makes it stale, and to force it is the other.
    if bounds.faults >= 2 {
        checker.assert_any_discovery("two people force a stale side");
    }
}
