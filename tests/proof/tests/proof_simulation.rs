//! Seeded simulation: the same seed is the same run; no invariant breaks; the interesting things do happen.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use bcp_proof::sim;

/// Faults per run.
const FAULTS: u64 = 24;

/// `BCP_SEEDS=FROM..TO`, or a few.
fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("BCP_SEEDS") else { return usual };
    let ends: Vec<u64> = text.split("..").filter_map(|end| end.parse().ok()).collect();
    match ends.as_slice() {
        [from, to] if from < to => *from..*to,
        _ => panic!("BCP_SEEDS is FROM..TO, not {text}"),
    }
}

#[test]
fn no_invariant_breaks_and_somebody_serves_in_the_end() {
    let (began, range) = (Instant::now(), seeds(1..401));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            let range = range.clone();
            std::thread::spawn(move || {
                let mut fine = Vec::new();
                for seed in range.filter(|seed| seed % threads == worker) {
                    let (mut ran, failed) = sim::sweep(seed..seed + 1, FAULTS, None);
                    if let Some(outcome) = failed {
                        panic!(
                            "seed {seed}: {:?} {:?}\n{}",
                            outcome.breach,
                            outcome.stands_still,
                            outcome.lines.join("\n")
                        );
                    }
                    fine.append(&mut ran);
                }
                fine
            })
        })
        .collect();
    let outcomes: Vec<_> = workers.into_iter().flat_map(|worker| worker.join().expect("a seed failed")).collect();
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in outcomes.iter().flat_map(|outcome| &outcome.seen) {
        *seen.entry(what).or_default() += count;
    }
    let hours = outcomes.iter().map(|outcome| outcome.simulated_ms).sum::<u64>() / 3_600_000;
    let faults: u64 = outcomes.iter().map(|outcome| outcome.faults).sum();
    println!(
        "simulation: {} seeds, {hours} simulated hours, {faults} faults, 0 violations, {:.1} s; {seen:?}",
        outcomes.len(),
        began.elapsed().as_secs_f64()
    );
    for what in [
        "takeover",
        "refused as stale",
        "clean release",
        "covered by time",
        "failsafe used",
        "leader changed",
        "service stopped",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "`{what}` never happened: {seen:?}");
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
