//! The scenarios of the failover design by their numbers, over the shipped core and the shipped gate machine.
//!
//! Knows: what happens in each, and what has to come of it. Each is played for many seeds: the seed decides when messages
//! arrive and how long programs take. What must hold at every step is checked at every step, and the log of every run but
//! the hours-long ones is applied anew. Not here, because they need the log's own store and listeners:
//!
//! | scenario | expected | proven in |
//! |---|---|---|
//! | 18 torn write on the vote or the log, a disk that takes no more | recovers or refuses | `collector/tests/decide_disk.rs` |
//! | 19 disk wiped, same id | refused until an operator admits it | `collector/tests/decide.rs` |
//! | 25 what the listeners refuse: other identities, forged senders | rejected | `collector/tests/decide.rs` |

mod links;
mod parts;
mod servers;
mod sites;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bcp_core::policy::{Policy, Timing};
use bcp_wire::Site::{self, A};
use bcp_wire::control::Phase;
use serde::Serialize;

use crate::invariants::i15;
use crate::world::{World, passive, policy, rx};

const STEP_MS: u64 = 50;
/// Hours are played in longer steps.
const LONG_STEP_MS: u64 = 250;
/// Seeds of one that lasts hours, for each hundred of the others.
const LONG_SEEDS_PERCENT: u64 = 1;

fn usual(timing: Timing) -> Policy {
    policy(timing, &[("rx", passive())])
}

/// Why a scenario did not end as it should.
pub type Verdict = Result<(), String>;

/// Ends a scenario with the story of its world where something is not as it should be.
macro_rules! must {
    ($world:expr, $holds:expr, $($told:tt)+) => {
        if !$holds {
            return Err(format!("{}\n{}", format_args!($($told)+), $world.story()));
        }
    };
}
use must;

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub number: u8,
    pub name: &'static str,
    pub expected: &'static str,
    /// It lasts an hour or more.
    is_long: bool,
    timing: Timing,
    policy: fn(Timing) -> Policy,
    play: fn(&mut World) -> Verdict,
}

impl Scenario {
    const fn new(number: u8, name: &'static str, expected: &'static str, play: fn(&mut World) -> Verdict) -> Scenario {
        Scenario { number, name, expected, is_long: false, timing: Timing::METRO, policy: usual, play }
    }

    const fn long(self) -> Scenario {
        Scenario { is_long: true, ..self }
    }

    const fn wide(self) -> Scenario {
        Scenario { timing: Timing::WIDE, ..self }
    }

    /// Plays it once.
    #[must_use]
    pub fn play(&self, seed: u64) -> Played {
        let step_ms = if self.is_long { LONG_STEP_MS } else { STEP_MS };
        let mut world = World::settled((self.policy)(self.timing), step_ms, seed, None);
        let began = world.now();
        (world.stops, world.moves) = (0, 0);
        if let Some(journal) = &mut world.journal {
            // The ticks of a week are too many to keep.
            journal.keep_ticks = !self.is_long;
        }
        let fault = self.judge(&mut world).err();
        Played { moves: world.moves, stops: world.stops, simulated_ms: world.now() - began, fault }
    }

    fn judge(&self, world: &mut World) -> Verdict {
        must!(world, world.active(&rx()) == [A] && world.in_sync() == Some(true), "it does not begin well");
        let verdict = (self.play)(world);
        must!(world, world.invariants.breaches.is_empty(), "{}", verdict.err().unwrap_or_default());
        verdict?;
        let Some(journal) = world.journal.as_ref().filter(|journal| journal.keep_ticks) else { return Ok(()) };
        i15::replays(&journal.ticks, &world.replica)
    }

    fn seeds(&self, seeds: &Range<u64>) -> Range<u64> {
        let few = ((seeds.end - seeds.start) * LONG_SEEDS_PERCENT / 100).max(1);
        if self.is_long { seeds.start..seeds.start + few } else { seeds.clone() }
    }
}

/// What came of one run.
#[derive(Debug)]
pub struct Played {
    pub moves: u64,
    pub stops: u64,
    pub simulated_ms: u64,
    pub fault: Option<String>,
}

/// What came of all runs of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub number: u8,
    pub scenario: &'static str,
    pub expected: &'static str,
    pub seeds: u64,
    pub moves: (u64, u64),
    pub stops: (u64, u64),
    pub simulated_s: u64,
    pub violations: u64,
    /// The first of them: its seed and its story.
    pub first: Option<(u64, String)>,
}

impl Row {
    fn new(scenario: &Scenario) -> Row {
        Row {
            number: scenario.number,
            scenario: scenario.name,
            expected: scenario.expected,
            seeds: 0,
            moves: (u64::MAX, 0),
            stops: (u64::MAX, 0),
            simulated_s: 0,
            violations: 0,
            first: None,
        }
    }

    fn add(&mut self, seed: u64, played: Played) {
        let wider = |(least, most): (u64, u64), n: u64| (least.min(n), most.max(n));
        self.seeds += 1;
        (self.moves, self.stops) = (wider(self.moves, played.moves), wider(self.stops, played.stops));
        self.simulated_s += played.simulated_ms / 1_000;
        if let Some(fault) = played.fault {
            self.violations += 1;
            self.first = self.first.take().filter(|(known, _)| *known < seed).or(Some((seed, fault)));
        }
    }
}

/// Those with these numbers, or all.
#[must_use]
pub fn named(numbers: &[u8]) -> Vec<Scenario> {
    let mut all: Vec<Scenario> = [sites::ALL, links::ALL, parts::ALL, servers::ALL].concat();
    all.sort_by_key(|scenario| scenario.number);
    all.retain(|scenario| numbers.is_empty() || numbers.contains(&scenario.number));
    all
}

/// Plays all of them for all seeds, on all processors.
#[must_use]
pub fn sweep(scenarios: &[Scenario], seeds: &Range<u64>) -> Vec<Row> {
    // The long ones first: no processor waits for the last of them.
    let mut jobs: Vec<(usize, u64)> = scenarios
        .iter()
        .enumerate()
        .flat_map(|(at, scenario)| scenario.seeds(seeds).map(move |seed| (at, seed)))
        .collect();
    jobs.sort_by_key(|(at, _)| !scenarios[*at].is_long);
    let rows: Vec<Mutex<Row>> = scenarios.iter().map(|scenario| Mutex::new(Row::new(scenario))).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some((at, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = scenarios[*at].play(*seed);
                    rows[*at].lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(*seed, played);
                }
            });
        }
    });
    rows.into_iter().map(|row| row.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)).collect()
}

/// The rows for people.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let span = |(least, most): (u64, u64)| if least == most { least.to_string() } else { format!("{least}-{most}") };
    let mut text = format!(
        "{:>2}  {:<62} {:<52} {:>5} {:>5} {:>5} {:>8} {:>4}\n",
        "", "scenario", "expected", "moves", "stops", "seeds", "played", "bad"
    );
    for row in rows {
        let played = format!("{}.{} h", row.simulated_s / 3_600, row.simulated_s % 3_600 / 360);
        text.push_str(&format!(
            "{:>2}  {:<62} {:<52} {:>5} {:>5} {:>5} {played:>8} {:>4}\n",
            row.number,
            row.scenario,
            row.expected,
            span(row.moves),
            span(row.stops),
            row.seeds,
            row.violations
        ));
    }
    text
}

// What several of them ask.

fn counter(world: &World) -> u64 {
    world.ticket().map_or(0, |ticket| ticket.epoch.counter)
}

fn is_quiet(world: &World) -> bool {
    (world.stops, counter(world)) == (0, 1) && world.active(&rx()) == [A]
}

/// Nothing moves and nothing stops for so long.
fn quiet(world: &mut World, ms: u64) -> Verdict {
    world.run(ms);
    must!(world, is_quiet(world), "something moved or stopped");
    Ok(())
}

fn effective_at(world: &World, site: Site) -> bool {
    world.ticket().is_some_and(|ticket| ticket.holder == Some(site) && ticket.phase == Phase::Held)
}

/// The service is at `site` alone, under the `nth` epoch.
fn serves(world: &World, site: Site, nth: u64) -> bool {
    world.active(&rx()) == [site] && counter(world) == nth
}

fn gate(world: &World, site: Site) -> usize {
    world.hosts.iter().position(|host| host.site == site).unwrap_or(0)
}
