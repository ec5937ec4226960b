//! Figures of simulations that were run one after the other, added up in a file of one line each.
//!
//! Invariant: a seed counts once, however often it is run. Only runs without a violation are written down, and only those of
//! the same version of the program are comparable; whoever wants to begin anew deletes the file.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// What one run, or all of them, came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub seeds: u64,
    pub simulated_ms: u64,
    pub faults: u64,
    pub moves: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated_ms / 3_600_000;
        let Figures { seeds, faults, moves, .. } = self;
        write!(f, "{seeds} seeds, {hours} simulated hours, {faults} faults, {moves} moves, 0 violations")
    }
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Figures) {
        self.seeds += other.seeds;
        self.simulated_ms += other.simulated_ms;
        self.faults += other.faults;
        self.moves += other.moves;
    }
}

fn line(text: &str) -> Option<(Range<u64>, Figures)> {
    let numbers: Vec<u64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [from, to, seeds, simulated_ms, faults, moves] = numbers.try_into().ok()?;
    Some((from..to, Figures { seeds, simulated_ms, faults, moves }))
}

/// Adds a run to the file. Returns what was added (`None`: some of its seeds were counted before) and the sum of all of it.
///
/// # Errors
/// The file cannot be read or written.
pub fn add(file: &Path, seeds: &Range<u64>, figures: Figures) -> std::io::Result<(Option<Figures>, Figures)> {
    let known = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let lines: Vec<_> = known.lines().filter_map(line).collect();
    let mut sum = Figures::default();
    for (_, known) in &lines {
        sum += *known;
    }
    if lines.iter().any(|(known, _)| known.start < seeds.end && seeds.start < known.end) {
        return Ok((None, sum));
    }
    let Figures { seeds: count, simulated_ms, faults, moves } = figures;
    let mut to = OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(to, "{} {} {count} {simulated_ms} {faults} {moves}", seeds.start, seeds.end)?;
    sum += figures;
    Ok((Some(figures), sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up_and_a_seed_counts_once() {
        let file = std::env::temp_dir().join(format!("bcp-proof-totals-{}", std::process::id()));
        let _ = fs::remove_file(&file);
        let run = |n: u64| Figures { seeds: n, simulated_ms: n * 1_000, faults: 24 * n, moves: n };
        assert_eq!(add(&file, &(1..11), run(10)).expect("written"), (Some(run(10)), run(10)));
        assert_eq!(add(&file, &(5..7), run(2)).expect("read"), (None, run(10)), "counted before");
        assert_eq!(add(&file, &(11..16), run(5)).expect("written"), (Some(run(5)), run(15)));
        fs::remove_file(&file).expect("it is there");
    }
}
