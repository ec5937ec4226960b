//! What has to come out even in the end.
//!
//! Two independent counts. By numbers: what the agent's outbox gave a number to, against what the store has committed and
//! the gaps it was told of. By values: each read that a meter answered, against the samples in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bcp_collector::store::journal::{self, Journal, Record};
use bcp_wire::presence::AgentRef;
use bcp_wire::{Event, EventKind, Gap, Site};

use super::rig::{AGENT, Rig};

/// A read that was answered this long before the agent's end may have had no number yet.
const UNDER_WAY: Duration = Duration::from_millis(1_500);
/// After a step of its clock the agent calls its samples bad for five seconds, and notices within one.
const DOUBT: Duration = Duration::from_millis(7_000);

/// What the store's journals hold, frame by frame: nothing sorted out, nothing merged.
#[derive(Debug, Default)]
struct Held {
    /// By start of the agent, committed ranges.
    marks: BTreeMap<u64, Vec<(u64, u64)>>,
    gaps: Vec<Gap>,
    /// By device: numbers read, as often as they are there.
    values: BTreeMap<String, Vec<u32>>,
    /// Samples with no value, of meters.
    bad: u64,
    damaged: u64,
}

fn read_journals(dir: &Path) -> Result<Held> {
    let agent = AgentRef { site: Site::A, agent: AGENT.parse()? };
    let mut held = Held::default();
    let mut series = BTreeMap::new();
    let numbers = journal::list(dir)?;
    ensure!(numbers.first() == Some(&0), "the first journal was sealed: this run is too long to be counted raw");
    for number in numbers {
        let (_, damaged) = Journal::open(dir, number, |record| match record {
            Record::Series { id, device, .. } => drop(series.insert(id, device.to_string())),
            Record::Samples(samples) => {
                for (id, sample) in samples {
                    let Some(device) = series.get(&id).filter(|device| device.starts_with("meter-")) else { continue };
                    if sample.v.is_nan() {
                        held.bad += 1;
                    } else {
                        held.values.entry(device.clone()).or_default().push(sample.v as u32);
                    }
                }
            }
            Record::Mark { agent: of, incarnation, first, last } if of == agent => {
                held.marks.entry(incarnation).or_default().push((first, last));
            }
            Record::Event(json) => {
                let event = serde_json::from_str::<serde_json::Value>(&json).ok();
                let event = event.and_then(|event| serde_json::from_value::<Event>(event["event"].clone()).ok());
                if let Some(Event { kind: EventKind::Gap(gap), .. }) = event {
                    held.gaps.push(gap);
                }
            }
            Record::Mark { .. } | Record::Text { .. } => {}
        })?;
        held.damaged += damaged;
    }
    Ok(held)
}

/// Checks both counts and says them.
pub fn check(rig: &Rig) -> Result<()> {
    // A copy: the store's file system goes with its process.
    let copy = rig.dir.join("store-copy");
    std::fs::create_dir_all(&copy)?;
    for entry in std::fs::read_dir(rig.store())? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::copy(&path, copy.join(path.file_name().context("a file has a name")?))?;
        }
    }
    let held = read_journals(&copy)?;
    ensure!(held.damaged == 0, "{} damaged places in the journals", held.damaged);
    by_numbers(rig, &held)?;
    by_values(rig, &held)
}

fn by_numbers(rig: &Rig, held: &Held) -> Result<()> {
    let mut told: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for gap in &held.gaps {
        told.entry(gap.incarnation).or_default().extend(gap.from..=gap.through);
    }
    let (mut produced, mut committed, mut gaps, mut twice) = (0u64, 0u64, 0u64, 0u64);
    let starts: BTreeSet<u64> = rig.produced.keys().chain(held.marks.keys()).copied().collect();
    for start in &starts {
        let lost = told.get(start).cloned().unwrap_or_default();
        let mut seen = BTreeSet::new();
        let mut known_lost = BTreeSet::new();
        for (first, last) in held.marks.get(start).into_iter().flatten() {
            for seq in *first..=*last {
                // A gap is marked as a range of its own: it will never come.
                if lost.contains(&seq) && known_lost.insert(seq) {
                    continue;
                }
                twice += u64::from(!seen.insert(seq));
            }
        }
        let highest = rig.produced.get(start).copied().unwrap_or(0).max(seen.last().copied().unwrap_or(0));
        let missing: Vec<u64> =
            (1..=highest).filter(|seq| !seen.contains(seq) && !lost.contains(seq)).take(10).collect();
        ensure!(missing.is_empty(), "start {start}: payloads {missing:?} of {highest} are neither committed nor a gap");
        let only_lost = lost.iter().filter(|seq| !seen.contains(seq)).count() as u64;
        produced += highest;
        committed += seen.len() as u64;
        gaps += only_lost;
    }
    println!(
        "payloads: {produced} produced in {} starts = {committed} committed + {gaps} in {} recorded gaps; {twice} committed twice",
        starts.len(),
        held.gaps.len()
    );
    ensure!(produced == committed + gaps, "{produced} produced, {committed} committed, {gaps} in gaps");
    ensure!(twice == 0, "{twice} payloads were committed twice");
    Ok(())
}

fn by_values(rig: &Rig, held: &Held) -> Result<()> {
    let (mut answered, mut stored, mut under_way, mut doubtful) = (0, 0, 0, 0);
    let mut unexplained = Vec::new();
    for (n, meter) in rig.meters.iter().enumerate() {
        let device = format!("meter-{n}");
        let times = meter.answered();
        let mut values = held.values.get(&device).cloned().unwrap_or_default();
        stored += values.len();
        answered += times.len();
        values.sort_unstable();
        if let Some(pair) = values.windows(2).find(|pair| pair[0] == pair[1]) {
            anyhow::bail!("{device}: reading {} is in the store twice", pair[0]);
        }
        for (at, time) in times.iter().enumerate() {
            let number = u32::try_from(at + 1)?;
            if values.binary_search(&number).is_ok() {
                continue;
            }
            let before_end = |end: &&std::time::Instant| **end >= *time && end.duration_since(*time) <= UNDER_WAY;
            let after_step = |step: &&std::time::Instant| {
                *time + UNDER_WAY >= **step && time.saturating_duration_since(**step) <= DOUBT
            };
            if rig.agent_ended.iter().any(|end| before_end(&end)) {
                under_way += 1;
            } else if rig.stepped.iter().any(|step| after_step(&step)) {
                doubtful += 1;
            } else {
                unexplained.push(format!("{device} {number}"));
            }
        }
    }
    let lost: u64 = held.gaps.iter().map(|gap| gap.through.saturating_sub(gap.from) + 1).sum();
    println!(
        "readings: {answered} answered, {stored} stored, each once; {under_way} under way when the agent was killed, \
         {doubtful} bad while its clock was in doubt ({} bad samples in all), {} in {lost} lost payloads",
        held.bad,
        unexplained.len()
    );
    ensure!(unexplained.len() as u64 <= lost, "lost without a word: {:?}", &unexplained[..unexplained.len().min(20)]);
    ensure!(stored > 0, "nothing was stored, so this says nothing");
    Ok(())
}
