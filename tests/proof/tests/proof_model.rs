//! Every placement of a bounded number of faults: nothing that must hold is broken.

use bcp_proof::model::{self, Bounds, Failover};

/// `BCP_MODEL=FAULTS,STEPS`, or what the normal run has time for.
fn bounds() -> Bounds {
    let usual = Bounds { faults: 2, steps: 25 };
    let Ok(text) = std::env::var("BCP_MODEL") else { return usual };
    match text.split_once(',').map(|(faults, steps)| (faults.parse(), steps.parse())) {
        Some((Ok(faults), Ok(steps))) => Bounds { faults, steps },
        _ => panic!("BCP_MODEL is FAULTS,STEPS, not {text}"),
    }
}

#[test]
fn whatever_goes_wrong_the_invariants_hold() {
    let bounds = bounds();
    let found = model::explore(Failover { bounds, bug: None });
    println!("{found}");
    assert!(found.broken.is_empty(), "{:#?}", found.broken);
    // Sometimes: the search has been where it matters.
    let mut sometimes = vec![
        "the other side takes over",
        "the failsafe keeps a service",
        "the loss action stops a service",
        "a gate rejects an order",
    ];
    // One fault makes it stale, and to force it is the other.
    if bounds.faults >= 2 {
        sometimes.push("two people force a stale side");
    }
    for what in sometimes {
        assert!(found.seen.contains(&what), "{what}: never");
    }
}
