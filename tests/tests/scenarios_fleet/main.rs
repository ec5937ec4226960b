//! The scenarios of the failover design with real processes, by their numbers. Each has a fleet of its own; two run at a time.
//!
//! With `BCP_LONG=1` only: half an hour. `BCP_FLEET_SCENARIOS=3,5` plays these, `BCP_FLEETS=1` one at a time. Those that last an
//! hour or more in the design are shortened here; the simulation plays their length (`tests/proof/src/scenario.rs`). Not here:
//! 14 to 16, 18, 19 and 23, which need clocks, disks or data to be spoiled, and what of 25 the listeners refuse
//! (`collector/tests/decide.rs`).

mod links;
mod parts;
mod sites;
mod stage;
mod table;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bcp_tests::disk;
use bcp_wire::Site;

use stage::{Ended, Stage};
use table::Row;

/// First port of each fleet that runs at the same time.
const BASE_PORTS: [u16; 2] = [28_000, 29_000];

/// Says what was seen.
type Play = for<'a> fn(&'a Stage) -> Pin<Box<dyn Future<Output = Result<String>> + 'a>>;

/// One of the table.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    number: u8,
    name: &'static str,
    expected: &'static str,
    /// Further arguments of `fleet up`.
    args: &'static [&'static str],
    /// Sites whose `decide` has a disk of its own.
    disks: &'static [(Site, disk::Kind)],
    play: Play,
}

impl Scenario {
    const fn new(number: u8, name: &'static str, expected: &'static str, play: Play) -> Scenario {
        Scenario { number, name, expected, args: &[], disks: &[], play }
    }

    const fn up_with(self, args: &'static [&'static str]) -> Scenario {
        Scenario { args, ..self }
    }

    const fn on_disks(self, disks: &'static [(Site, disk::Kind)]) -> Scenario {
        Scenario { disks, ..self }
    }

    async fn run(&self, base_port: u16) -> Row {
        let began = Instant::now();
        let stage = match Stage::set(self, base_port).await {
            Ok(stage) => stage,
            Err(fault) => return Row::of(self, began.elapsed(), None, Err(fault)),
        };
        let Some(stage) = stage else { return Row::skipped(self) };
        let began = Instant::now();
        let seen = (self.play)(&stage).await;
        let took = began.elapsed();
        let ended = stage.ended();
        // Whatever it expects, these hold always.
        let seen = match (seen, &ended) {
            (Ok(seen), Ok(Ended { fault: None, .. })) => Ok(seen),
            (Ok(_), Ok(Ended { fault: Some(fault), .. })) => Err(anyhow!("{fault}")),
            (Ok(_), Err(fault)) => Err(anyhow!("{fault:#}")),
            (Err(fault), _) => Err(fault),
        };
        Row::of(self, took, ended.ok(), seen)
    }
}

/// A play as a function that can stand in a table.
macro_rules! play {
    ($name:path) => {
        |stage| Box::pin($name(stage))
    };
}
use play;

fn wanted() -> Result<Vec<Scenario>> {
    let mut all: Vec<Scenario> = [sites::ALL, links::ALL, parts::ALL].concat();
    all.sort_by_key(|scenario| scenario.number);
    if let Ok(text) = std::env::var("BCP_FLEET_SCENARIOS") {
        let numbers: Vec<u8> = text
            .split(',')
            .map(|number| {
                number.trim().parse().with_context(|| format!("BCP_FLEET_SCENARIOS: `{number}` is no number"))
            })
            .collect::<Result<_>>()?;
        all.retain(|scenario| numbers.contains(&scenario.number));
    }
    ensure!(!all.is_empty(), "no such scenario");
    Ok(all)
}

/// Each lane takes the next one, and has a thread of its own.
fn play_all(scenarios: &[Scenario], base_ports: &[u16]) -> Result<Vec<Row>> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let lane = |base_port: u16| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let row = runtime.block_on(scenario.run(base_port));
            println!("{}", table::line(&row));
            rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lane = &lane;
        let lanes: Vec<_> = base_ports.iter().map(|port| scope.spawn(move || lane(*port))).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| anyhow!("a lane panicked"))?)
    })?;
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|row: &Row| row.number);
    Ok(rows)
}

#[test]
fn the_scenarios_of_the_design_with_real_processes() -> Result<()> {
    if std::env::var("BCP_LONG").as_deref() != Ok("1") {
        println!("skipped: half an hour; BCP_LONG=1 runs it");
        return Ok(());
    }
    let fleets =
        std::env::var("BCP_FLEETS").ok().map(|text| text.parse::<usize>().context("BCP_FLEETS")).transpose()?;
    let fleets = fleets.unwrap_or(BASE_PORTS.len()).clamp(1, BASE_PORTS.len());
    let rows = play_all(&wanted()?, &BASE_PORTS[..fleets])?;
    println!("\n{}\n{}", table::text(&rows), serde_json::to_string(&rows)?);
    let bad: Vec<String> = rows.iter().filter(|row| !row.is_good()).map(|row| row.number.to_string()).collect();
    if !bad.is_empty() {
        bail!("not as expected: {}", bad.join(", "));
    }
    Ok(())
}
