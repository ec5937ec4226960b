//! `proof`: plays one seed or one story and prints what happened; sweeps seeds; explores the model.

use std::process::ExitCode;
use std::time::Instant;

use bcp_proof::bug::Bug;
use bcp_proof::model::{Bounds, Failover};
use bcp_proof::{drill, sim};
use stateright::{Checker, Model};

const USAGE: &str = "usage: proof seed N [FAULTS] | sweep FROM TO [FAULTS] | story BUG [with] | model FAULTS STEPS";
const FAULTS: u64 = 24;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    match (words.first().copied(), number(1), number(2)) {
        (Some("seed"), Some(seed), faults) => told(&sim::run(seed, faults.unwrap_or(FAULTS), None), true),
        (Some("sweep"), Some(from), Some(to)) => sweep(from, to, number(3).unwrap_or(FAULTS)),
        (Some("model"), Some(faults), Some(steps)) => explore(faults, steps),
        (Some("story"), None, _) => story(words.get(1).copied().unwrap_or(""), words.get(2) == Some(&"with")),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

fn told(outcome: &sim::Outcome, lines: bool) -> ExitCode {
    if lines {
        println!("{}", outcome.lines.join("\n"));
    }
    println!(
        "seed {}: {} s simulated, {} faults, {:?}",
        outcome.seed,
        outcome.simulated_ms / 1_000,
        outcome.faults,
        outcome.seen
    );
    match (&outcome.breach, &outcome.stands_still) {
        (None, None) => ExitCode::SUCCESS,
        (breach, still) => {
            println!("{breach:?} {}", still.as_deref().unwrap_or(""));
            ExitCode::FAILURE
        }
    }
}

fn sweep(from: u64, to: u64, faults: u64) -> ExitCode {
    let began = Instant::now();
    let (fine, failed) = sim::sweep(from..to, faults, None);
    let seconds: u64 = fine.iter().map(|outcome| outcome.simulated_ms / 1_000).sum();
    println!("{} seeds, {} h simulated, {:.1} s", fine.len(), seconds / 3_600, began.elapsed().as_secs_f64());
    failed.map_or(ExitCode::SUCCESS, |outcome| told(&outcome, true))
}

fn story(name: &str, with: bool) -> ExitCode {
    let Some(bug) = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name) else {
        eprintln!("bugs: {:?}", Bug::ALL);
        return ExitCode::from(64);
    };
    let (story, breach, world) = drill::run(bug, with.then_some(bug));
    println!("{story}\n{}", world.story());
    if breach.is_some() == with { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn explore(faults: u64, steps: u64) -> ExitCode {
    let (Ok(faults), Ok(steps)) = (u8::try_from(faults), u16::try_from(steps)) else { return ExitCode::from(64) };
    let (began, bounds) = (Instant::now(), Bounds { faults, steps });
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let checker = Failover { bounds, bug: None }.checker().threads(threads).spawn_dfs().join();
    println!(
        "{bounds:?}: {} unique states of {}, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    let mut broken = 0;
    for (name, path) in checker.discoveries() {
        println!("{name}");
        if name.starts_with('I') {
            broken += 1;
            println!("{:#?}", path.last_state().world.invariants.breaches);
            println!("by {:?}", path.into_actions());
        }
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
