//! What the gates themselves wrote down about when their side was active.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// One line of a gate's own log.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// Milliseconds of the machine's boot clock: one clock for all gates of a fleet on one machine.
    pub boot_ms: u64,
    pub ticket: String,
    pub epoch: bcp_wire::Epoch,
    pub active: bool,
}

/// A time during which one gate held its side active.
#[derive(Debug, Clone)]
pub struct Interval {
    pub gate: String,
    pub epoch: bcp_wire::Epoch,
    pub from: u64,
    pub until: u64,
}

/// Reads the intervals of a ticket from one gate's log. An open interval ends at `open_until`.
///
/// # Errors
/// Where the file is missing or a line is not the gate's.
pub fn intervals(gate: &str, file: &Path, ticket: &str, open_until: u64) -> Result<Vec<Interval>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no gate log {}", file.display()))?;
    let mut found: Vec<Interval> = Vec::new();
    let mut open: Option<(bcp_wire::Epoch, u64)> = None;
    for (number, row) in text.lines().enumerate() {
        let line: Line =
            serde_json::from_str(row).with_context(|| format!("{} line {}", file.display(), number + 1))?;
        if line.ticket != ticket {
            continue;
        }
        match (open, line.active) {
            (None, true) => open = Some((line.epoch, line.boot_ms)),
            (Some((epoch, from)), false) => {
                found.push(Interval { gate: gate.to_owned(), epoch, from, until: line.boot_ms });
                open = None;
            }
            (Some(_), true) | (None, false) => {}
        }
    }
    if let Some((epoch, from)) = open {
        found.push(Interval { gate: gate.to_owned(), epoch, from, until: open_until });
    }
    Ok(found)
}

/// # Errors
/// Names two intervals of different gates that overlap.
pub fn never_two_at_once(mut all: Vec<Interval>) -> Result<()> {
    all.sort_by_key(|interval| interval.from);
    for pair in all.windows(2) {
        if pair[0].gate != pair[1].gate && pair[1].from < pair[0].until {
            bail!("two active sides: {:?} and {:?}", pair[0], pair[1]);
        }
        if pair[1].epoch < pair[0].epoch {
            bail!("epoch went back: {:?} then {:?}", pair[0], pair[1]);
        }
    }
    Ok(())
}

/// Now, on the same clock as the gates' logs.
#[must_use]
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(gate: &str, counter: u64, from: u64, until: u64) -> Interval {
        Interval { gate: gate.into(), epoch: bcp_wire::Epoch { incarnation: 1, counter }, from, until }
    }

    #[test]
    fn an_overlap_is_found() {
        assert!(never_two_at_once(vec![interval("a", 1, 0, 10), interval("b", 2, 9, 20)]).is_err());
        assert!(never_two_at_once(vec![interval("a", 1, 0, 10), interval("b", 2, 10, 20)]).is_ok());
        assert!(never_two_at_once(vec![interval("a", 3, 0, 10), interval("b", 2, 10, 20)]).is_err());
    }
}
