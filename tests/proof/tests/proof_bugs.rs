//! Seeded bugs: each one is caught, by name, by one of the invariants that it breaks.
//!
//! The test fails where a bug is not caught, and where one is caught by something that has nothing to do with it.

use std::time::Instant;

use bcp_proof::bug::Bug;
use bcp_proof::drill::Caught;
use bcp_proof::invariants::Breach;
use bcp_proof::{drill, sim};

/// Bug, and the invariants that may catch it. 0: liveness.
const TABLE: [(Bug, &[u8]); 45] = [
    (Bug::MarginZero, &[1, 6]),
    (Bug::LeaseFromReceipt, &[1, 16]),
    (Bug::NoWarden, &[1, 16]),
    (Bug::WardenTakesItAll, &[1, 16]),
    (Bug::EpochFromTerm, &[3, 4]),
    (Bug::RestartLengthensLease, &[1, 17]),
    (Bug::NoWaitOut, &[1, 6]),
    (Bug::WaitOfAcquireAfterOnly, &[1, 6, 7]),
    (Bug::FreshnessAskedAfter, &[8, 9]),
    (Bug::PromoteBeforeSeal, &[1, 10, 16]),
    (Bug::LowerEpochAccepted, &[2]),
    (Bug::ClosedEpochReopened, &[2]),
    (Bug::FreezeEndsRenewals, &[13]),
    (Bug::BudgetNotCounted, &[14]),
    (Bug::BudgetNotReset, &[0]),
    (Bug::ExpiredObservationCounted, &[21]),
    (Bug::FreshObserverCounted, &[21]),
    (Bug::LogTimeFromWall, &[20]),
    (Bug::ReelectedLeaderCounts, &[20]),
    (Bug::RenewalStampedBeforeTick, &[1, 6]),
    (Bug::AnsweredBeforeLogged, &[16]),
    (Bug::MissingReportTakenClean, &[1, 6]),
    (Bug::UnstoredIsTold, &[6]),
    (Bug::DrainLeavesOpen, &[2]),
    (Bug::LossLeavesStep, &[1, 16]),
    (Bug::PromiseOfOneMissing, &[1, 16]),
    (Bug::PromisesAddUp, &[1, 16]),
    (Bug::PromiseForgotten, &[1, 16]),
    (Bug::OneVoteIsEnough, &[21]),
    (Bug::EpochReused, &[3, 4]),
    (Bug::DependencyIgnored, &[12]),
    (Bug::ObserveActs, &[19]),
    (Bug::OldWordCounted, &[21]),
    (Bug::OrdersDoNotCompare, &[22]),
    (Bug::PolicyTakesAway, &[23]),
    (Bug::ForceByOne, &[8]),
    (Bug::ForceWithoutWait, &[1, 6]),
    (Bug::UntoldLease, &[16]),
    (Bug::WardenUnseen, &[24]),
    (Bug::WardenWaitsForDisk, &[1, 16]),
    (Bug::WardenWritesBlindly, &[2]),
    (Bug::UnsavedIsRenewed, &[7]),
    (Bug::UnsavedIsUntold, &[24]),
    (Bug::LostRecordIsNew, &[1, 16]),
    (Bug::UnstoppedWaitedOut, &[1]),
];
/// Random runs tried where no drill of its own catches a bug.
const SEEDS: u64 = 60;
const FAULTS: u64 = 24;

#[test]
fn every_seeded_bug_is_caught() {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let parts: Vec<Vec<_>> = (0..threads).map(|n| TABLE.into_iter().skip(n).step_by(threads).collect()).collect();
    let workers: Vec<_> = parts
        .into_iter()
        .map(|part| std::thread::spawn(move || part.into_iter().map(hunt).collect::<Vec<_>>()))
        .collect();
    let found: Vec<(String, bool)> =
        workers.into_iter().flat_map(|worker| worker.join().expect("a hunt panicked")).collect();
    for (line, _) in &found {
        println!("{line}");
    }
    let missed: Vec<_> = found.iter().filter(|(_, caught)| !caught).map(|(line, _)| line).collect();
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!(found.len(), Bug::ALL.len());
}

fn hunt((bug, by): (Bug, &'static [u8])) -> (String, bool) {
    let began = Instant::now();
    if let Some(caught) = drill::catches(bug) {
        let Caught { story, breach: Breach { number, at, what } } = caught;
        let (after, took) = (at / 1_000, began.elapsed().as_secs_f64());
        let line =
            format!("{bug:?} | {} in \"{story}\": {what} | after {after} s simulated, {took:.1} s", name(number));
        return (line, by.contains(&number));
    }
    for seed in 1..=SEEDS {
        let outcome = sim::run(seed, FAULTS, Some(bug));
        let number = match (&outcome.breach, &outcome.stands_still) {
            (Some(breach), _) => breach.number,
            (None, Some(_)) => 0,
            (None, None) => continue,
        };
        let what = outcome.breach.map_or_else(String::new, |breach| breach.what);
        let took = began.elapsed().as_secs_f64();
        let line =
            format!("{bug:?} | {} in seed {seed}: {what} | after {} faults, {took:.1} s", name(number), outcome.faults);
        return (line, by.contains(&number));
    }
    (format!("{bug:?} | not caught in {SEEDS} seeds, {:.1} s", began.elapsed().as_secs_f64()), false)
}

fn name(number: u8) -> String {
    if number == 0 { "liveness".to_owned() } else { format!("I{number}") }
}

/// The drills themselves find nothing in the shipped code.
#[test]
fn without_a_bug_the_drills_find_nothing() {
    for bug in Bug::ALL {
        let (story, breach, world) = drill::run(bug, None);
        assert!(breach.is_none(), "\"{story}\" ({bug:?}): {}", world.story());
    }
}
