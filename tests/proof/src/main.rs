//! `proof`: plays one seed or one story and prints what happened; sweeps seeds; plays the scenarios; hunts the seeded bugs;
//! explores the model.

use std::process::ExitCode;
use std::time::Instant;

use bcp_proof::bug::Bug;
use bcp_proof::model::{Bounds, Failover};
use bcp_proof::{drill, hunt, model, scenario, seeds, sim};

const USAGE: &str = "usage: proof seed N [FAULTS]             one random run, line by line; the same bytes every time
       proof sweep FROM..TO [FAULTS]     random runs
       proof scenarios [NUMBER ...] [--seeds FROM..TO] [--json]
       proof bugs [--json]               the table of seeded bugs
       proof story BUG [with]            one bug's story, with it or without
       proof model FAULTS STEPS          the exhaustive search";
const FAULTS: u64 = 24;
const MISUSE: u8 = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["seed", seed, rest @ ..] => play(seed, rest),
        ["sweep", range, rest @ ..] => sweep(range, rest),
        ["scenarios", rest @ ..] => scenarios(rest),
        ["bugs", rest @ ..] => bugs(rest),
        ["story", bug, rest @ ..] => story(bug, rest),
        ["model", faults, steps] => explore(faults, steps),
        _ => None,
    };
    match done {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(MISUSE)
        }
    }
}

/// Faults per run.
fn faults(rest: &[&str]) -> Option<u64> {
    match rest {
        [] => Some(FAULTS),
        [number] => number.parse().ok(),
        _ => None,
    }
}

fn play(seed: &str, rest: &[&str]) -> Option<bool> {
    let outcome = sim::run(seed.parse().ok()?, faults(rest)?, None);
    Some(told(&outcome))
}

fn told(outcome: &sim::Outcome) -> bool {
    println!("{}", outcome.lines.join("\n"));
    let (seed, seconds, faults) = (outcome.seed, outcome.simulated_ms / 1_000, outcome.faults);
    println!("seed {seed}: {seconds} s simulated, {faults} faults, {} moves, {:?}", outcome.moves, outcome.seen);
    let fine = outcome.breach.is_none() && outcome.stands_still.is_none();
    if !fine {
        println!("{:?} {}", outcome.breach, outcome.stands_still.as_deref().unwrap_or(""));
    }
    fine
}

fn sweep(range: &str, rest: &[&str]) -> Option<bool> {
    let (began, range, faults) = (Instant::now(), seeds::parse(range)?, faults(rest)?);
    let (fine, failed) = sim::sweep(&range, faults);
    let (figures, kinds, seen) = sim::summary(&fine);
    println!("{figures}, {:.1} s\nfaults: {kinds:#?}\nseen: {seen:#?}", began.elapsed().as_secs_f64());
    Some(failed.is_none_or(|outcome| told(&outcome)))
}

fn scenarios(rest: &[&str]) -> Option<bool> {
    let (mut numbers, mut range, mut json) = (Vec::new(), 1..11, false);
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seeds" => range = seeds::parse(words.next()?)?,
            "--json" => json = true,
            number => numbers.push(number.parse().ok()?),
        }
    }
    let began = Instant::now();
    let rows = scenario::sweep(&scenario::named(&numbers), &range);
    if json {
        println!("{}", serde_json::to_string_pretty(&rows).ok()?);
    } else {
        print!("{}", scenario::table(&rows));
        println!(
            "{:.1} s; 18: collector/tests/decide_disk.rs; 19: collector/tests/decide.rs",
            began.elapsed().as_secs_f64()
        );
        for (row, (seed, story)) in rows.iter().filter_map(|row| Some((row, row.first.as_ref()?))) {
            println!("\nscenario {} \"{}\", seed {seed}: {story}", row.number, row.scenario);
        }
    }
    Some(rows.iter().all(|row| row.violations == 0))
}

fn bugs(rest: &[&str]) -> Option<bool> {
    let rows = hunt::all();
    match rest {
        [] => print!("{}", hunt::table(&rows)),
        ["--json"] => println!("{}", serde_json::to_string_pretty(&rows).ok()?),
        _ => return None,
    }
    Some(rows.iter().all(|row| row.caught))
}

fn story(name: &str, rest: &[&str]) -> Option<bool> {
    let with = match rest {
        [] => false,
        ["with"] => true,
        _ => return None,
    };
    let Some(bug) = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name) else {
        eprintln!("bugs: {:?}", Bug::ALL);
        return None;
    };
    let (story, breach, world) = drill::run(bug, with.then_some(bug));
    println!("{story}\n{}", world.story());
    Some(breach.is_some() == with)
}

fn explore(faults: &str, steps: &str) -> Option<bool> {
    let bounds = Bounds { faults: faults.parse().ok()?, steps: steps.parse().ok()? };
    let found = model::explore(Failover { bounds, bug: None });
    println!("{found}");
    Some(found.broken.is_empty())
}
