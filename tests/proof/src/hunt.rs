//! The hunt for seeded bugs: each is to be caught, by name, by one of the invariants that it breaks.
//!
//! First the bug's own story is played, then random runs. A bug that is caught by something that has nothing to do with it
//! counts as missed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::bug::Bug;
use crate::drill::{self, Caught};
use crate::sim;

/// Bug, and the invariants that may catch it. 0: liveness.
pub const TABLE: [(Bug, &[u8]); 52] = [
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
    (Bug::FoundRecordIgnored, &[2]),
    (Bug::OldDeadlineRead, &[17]),
    (Bug::SilenceGuardRemoved, &[25]),
    (Bug::CapacityWithoutCap, &[25]),
    (Bug::CapacityStepsNumberedAnew, &[25]),
    (Bug::FallTimeIgnored, &[26]),
    (Bug::ForceOutlivesEpoch, &[8, 27]),
];
/// Random runs tried where no story of its own catches a bug.
const SEEDS: u64 = 60;
const FAULTS: u64 = 24;

/// Where a bug showed itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "in", rename_all = "lowercase")]
pub enum Found {
    Story { name: &'static str, after_s: u64 },
    Seed { seed: u64, faults: u64 },
    Nowhere { seeds: u64 },
}

#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(serialize_with = "by_name")]
    pub bug: Bug,
    pub found: Found,
    /// `I` and the number of the invariant, or `liveness`.
    pub by: String,
    pub what: String,
    pub took_s: f64,
    /// By something that has to do with it.
    pub caught: bool,
}

fn by_name<S: serde::Serializer>(bug: &Bug, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{bug:?}"))
}

fn name(number: u8) -> String {
    if number == 0 { "liveness".to_owned() } else { format!("I{number}") }
}

fn hunt((bug, by): (Bug, &'static [u8])) -> Row {
    let began = Instant::now();
    let row = |found, number: u8, what| Row {
        bug,
        found,
        by: name(number),
        what,
        took_s: began.elapsed().as_secs_f64(),
        caught: by.contains(&number),
    };
    if let Some(Caught { story, breach }) = drill::catches(bug) {
        return row(Found::Story { name: story, after_s: breach.at / 1_000 }, breach.number, breach.what);
    }
    for seed in 1..=SEEDS {
        let outcome = sim::run(seed, FAULTS, Some(bug));
        let found = Found::Seed { seed, faults: outcome.faults };
        match (outcome.breach, outcome.stands_still) {
            (Some(breach), _) => return row(found, breach.number, breach.what),
            (None, Some(what)) => return row(found, drill::LIVENESS, what),
            (None, None) => {}
        }
    }
    Row { caught: false, by: String::new(), ..row(Found::Nowhere { seeds: SEEDS }, u8::MAX, String::new()) }
}

/// Hunts all of them, on all processors.
#[must_use]
pub fn all() -> Vec<Row> {
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = TABLE.get(at) else { return };
                    let row = hunt(*one);
                    rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The rows for people.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<26} {:<9} {:<58} {:<20} {:>8}\n", "bug", "caught by", "in", "after", "took");
    for row in rows {
        let (place, after) = match &row.found {
            Found::Story { name, after_s } => (format!("\"{name}\""), format!("{after_s} s simulated")),
            Found::Seed { seed, faults } => {
                (format!("random runs, seed {seed}"), format!("{seed} seeds, {faults} faults"))
            }
            Found::Nowhere { seeds } => ("NOWHERE".to_owned(), format!("{seeds} seeds")),
        };
        let by = if row.caught { row.by.clone() } else { format!("({})", row.by) };
        text.push_str(&format!(
            "{:<26} {by:<9} {place:<58} {after:<20} {:>6.2} s\n",
            format!("{:?}", row.bug),
            row.took_s
        ));
    }
    let caught = rows.iter().filter(|row| row.caught).count();
    text.push_str(&format!("{caught} of {} caught\n", rows.len()));
    text
}
