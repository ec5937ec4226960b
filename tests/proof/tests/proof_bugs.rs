//! Seeded bugs: each one is caught, by name, by one of the invariants that it breaks.
//!
//! The test fails where a bug is not caught, and where one is caught by something that has nothing to do with it.

use bcp_proof::bug::Bug;
use bcp_proof::{drill, hunt};

#[test]
fn every_seeded_bug_is_caught() {
    let rows = hunt::all();
    println!("{}", hunt::table(&rows));
    let missed: Vec<_> = rows.iter().filter(|row| !row.caught).collect();
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!(rows.len(), Bug::ALL.len());
}

/// The drills themselves find nothing in the shipped code.
#[test]
fn without_a_bug_the_drills_find_nothing() {
    for bug in Bug::ALL {
        let (story, breach, world) = drill::run(bug, None);
        assert!(breach.is_none(), "\"{story}\" ({bug:?}): {}", world.story());
    }
}
