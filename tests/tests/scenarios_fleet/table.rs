//! What came of the scenarios, for people and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::Scenario;
use super::stage::Ended;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Failed,
    /// This machine does not let it happen.
    Skipped,
}

/// One scenario as it was played.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub number: u8,
    scenario: &'static str,
    expected: &'static str,
    /// From the fleet being ready to the end.
    length_s: u64,
    moves: Option<usize>,
    stops: Option<usize>,
    /// Longest time without an answer for the users of the service.
    longest_gap_ms: Option<u64>,
    verdict: Verdict,
    /// What was seen, or what is wrong.
    seen: String,
}

impl Row {
    pub fn of(scenario: &Scenario, took: Duration, ended: Option<Ended>, seen: Result<String>) -> Row {
        let (verdict, seen) = match seen {
            Ok(seen) => (Verdict::Ok, seen),
            Err(fault) => (Verdict::Failed, format!("{fault:#}")),
        };
        Row {
            number: scenario.number,
            scenario: scenario.name,
            expected: scenario.expected,
            length_s: took.as_secs(),
            moves: ended.as_ref().map(|ended| ended.account.moves),
            stops: ended.as_ref().map(|ended| ended.account.stops),
            longest_gap_ms: ended.and_then(|ended| ended.longest_gap_ms),
            verdict,
            seen,
        }
    }

    pub fn skipped(scenario: &Scenario) -> Row {
        let row = Row::of(scenario, Duration::ZERO, None, Ok("the mount was refused".to_owned()));
        Row { verdict: Verdict::Skipped, ..row }
    }

    pub fn is_good(&self) -> bool {
        self.verdict != Verdict::Failed
    }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// One row.
pub fn line(row: &Row) -> String {
    let verdict = match row.verdict {
        Verdict::Ok => "ok",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    };
    format!(
        "{:>2}  {:<69} {:<58} {:>5} s {:>5} {:>5} {:>8}  {verdict:<7} {}",
        row.number,
        row.scenario,
        row.expected,
        row.length_s,
        or_dash(row.moves),
        or_dash(row.stops),
        or_dash(row.longest_gap_ms),
        row.seen
    )
}

/// All rows under a head.
pub fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:>2}  {:<69} {:<58} {:>7} {:>5} {:>5} {:>8}  {:<7} {}\n",
        "", "scenario", "expected", "length", "moves", "stops", "gap ms", "", "seen"
    );
    for row in rows {
        let _ = writeln!(text, "{}", line(row));
    }
    text
}
