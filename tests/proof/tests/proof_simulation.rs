//! Seeded simulation: the same seed is the same run; no invariant breaks; the interesting things do happen.

use std::time::Instant;

use bcp_proof::{seeds, sim, totals};

/// Faults per run.
const FAULTS: u64 = 24;

/// `BCP_SEEDS=FROM..TO`, or a few; with `BCP_TOTALS=FILE` they are added to what earlier runs came to.
#[test]
fn no_invariant_breaks_and_somebody_serves_in_the_end() {
    let (began, range) = (Instant::now(), seeds::from_env("BCP_SEEDS", 1..401));
    let (fine, failed) = sim::sweep(&range, FAULTS);
    if let Some(outcome) = failed {
        let (seed, breach, still) = (outcome.seed, outcome.breach, outcome.stands_still);
        panic!("seed {seed}: {breach:?} {still:?}\n{}", outcome.lines.join("\n"));
    }
    let (figures, kinds, seen) = sim::summary(&fine);
    println!("simulation: seeds {range:?}: {figures}, {:.1} s", began.elapsed().as_secs_f64());
    println!("  faults: {kinds:?}");
    println!("  seen: {seen:?}");
    assert!(!kinds.contains_key("other"), "a kind of fault has no name");
    for what in [
        "takeover",
        "refused as stale",
        "gate rejected",
        "clean release",
        "covered by time",
        "failsafe used",
        "leader changed",
        "service stopped",
        "forced",
        "answered before it stopped",
        "stopped before it was answered",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "`{what}` never happened: {seen:?}");
    }
    if let Ok(file) = std::env::var("BCP_TOTALS") {
        let (added, sum) = totals::add(file.as_ref(), &range, figures).expect("the file of totals");
        let note = if added.is_some() { "" } else { " (some of these seeds were counted before: not added)" };
        println!("  all runs so far: {sum}{note}");
    }
}

#[test]
fn the_same_seed_gives_the_same_log_byte_for_byte() {
    for seed in [1, 7, 4_711] {
        let (one, two) = (sim::run(seed, FAULTS, None), sim::run(seed, FAULTS, None));
        assert!(one.lines.len() > 50, "seed {seed}: a run worth comparing");
        assert_eq!(one.lines.join("\n"), two.lines.join("\n"), "seed {seed}");
    }
}
