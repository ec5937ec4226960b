//! The shipped decide processes with the real consensus library on a simulated clock: hours of faults in seconds.
//!
//! What must hold: one active side (I1), one state at an index (I15), log time within real time (I20), one leader of a term;
//! once faults stop, a holder (L1) and w leading (L2); a cut between a and b moves and stops nothing (L5).
//! `cargo test --profile ci -p bcp-proof --features paused --test decide_paused -- --nocapture`; `BCP_PAUSED=FROM..TO` chooses
//! seeds, each of [`HOURS`] simulated hours; with `BCP_TOTALS=FILE` what they come to adds up. The library rolls dice of its own,
//! so a seed does not play the same twice.
//!
//! Not part of `tests/run` yet, for it shows a fault: where w's log is the shortest and the leader is lost, w asks for votes that
//! it cannot get, and the one that could get them stays a term behind and loses the tie (votes are ordered by term, then by
//! node). Nobody leads for minutes, in about one seed of ten.
#![allow(clippy::unwrap_used)]

#[path = "paused/cluster.rs"]
mod cluster;
#[path = "paused/wires.rs"]
mod wires;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bcp_core::failover::decide::RESUME_MOST_MS;
use bcp_core::policy::Timing;
use bcp_proof::dice::Dice;
use bcp_proof::{seeds, totals};
use bcp_wire::Site::{self, A, B, W};
use cluster::{Cluster, Figures};

/// Simulated hours of one seed.
const HOURS: u64 = 2;
/// Elections after everything was repaired, while which log time stands still, a service that is found down (30 s), the
/// promotion itself, and the longest pause before a site that stopped again and again is tried anew.
const SLACK_MS: u64 = 60_000 + RESUME_MOST_MS;
/// A stop that began before everything was repaired has ended by then, and the leases that hold were renewed since.
const STEADY_MS: u64 = 60_000;
/// Everything whole, it is steady within this time.
const STEADY_WITHIN_MS: u64 = 300_000;
const L2_MS: u64 = 60_000;

fn any(dice: &mut Dice) -> (Site, Site) {
    let site = Site::ALL[usize::try_from(dice.below(3)).unwrap()];
    (site, site.others()[usize::try_from(dice.below(2)).unwrap()])
}

async fn strike(cluster: &mut Cluster, dice: &mut Dice) {
    let (site, other) = any(dice);
    match dice.below(14) {
        0..=1 => {
            cluster.wires.cut(site, other);
            cluster.wires.cut(other, site);
        }
        2 => cluster.wires.cut(site, other),
        3..=4 => {
            for other in site.others() {
                cluster.wires.cut(site, other);
                cluster.wires.cut(other, site);
            }
        }
        5..=6 => cluster.wires.heal(),
        7 => cluster.crash(site).await,
        8..=9 => cluster.begin(site).await,
        10 => {
            let most = [20, 150, 600][usize::try_from(dice.below(3)).unwrap()];
            cluster.wires.trouble(dice.below(35), (0, most));
        }
        11 => cluster.power(if dice.percent(50) { A } else { B }, false).await,
        12 => cluster.power(if dice.percent(50) { A } else { B }, true).await,
        _ => cluster.restart_gate(if dice.percent(50) { A } else { B }),
    }
    cluster.figures.faults += 1;
}

/// Faults stop: L1 and L2.
async fn repair(cluster: &mut Cluster, timing: &Timing) -> Result<(), String> {
    cluster.wires.heal();
    for site in [A, B] {
        cluster.power(site, true).await;
    }
    cluster.begin(W).await;
    let began = cluster.now_ms();
    let limit_ms = timing.ttl_ms + timing.acquire_after_ms + SLACK_MS;
    if !cluster.until(limit_ms, |cluster| cluster.holder().is_some() && cluster.active().len() == 1).await? {
        return Err(format!("L1: nobody serves {limit_ms} ms after everything was repaired: {}", cluster.story()));
    }
    let rest_ms = L2_MS.saturating_sub(cluster.now_ms() - began);
    if !cluster.until(rest_ms, Cluster::w_leads).await? {
        return Err("L2: w does not lead a minute after everything was repaired".to_owned());
    }
    Ok(())
}

/// One site serves and w leads, for a while.
async fn steady(cluster: &mut Cluster) -> Result<(), String> {
    let (mut since, began) = (cluster.now_ms(), cluster.now_ms());
    while cluster.now_ms() - since < STEADY_MS {
        cluster.pass(1_000).await?;
        let is_well = cluster.w_leads() && cluster.holder().is_some() && cluster.active().len() == 1;
        if !is_well {
            since = cluster.now_ms();
        }
        if cluster.now_ms() - began > STEADY_WITHIN_MS {
            return Err(format!("not steady {STEADY_WITHIN_MS} ms after everything was repaired: {}", cluster.story()));
        }
    }
    Ok(())
}

/// L5.
async fn a_and_b_are_cut(cluster: &mut Cluster, dice: &mut Dice) -> Result<(), String> {
    steady(cluster).await?;
    let before = (cluster.active(), cluster.figures.stops, cluster.figures.moves, cluster.term());
    cluster.wires.cut(A, B);
    if dice.percent(60) {
        cluster.wires.cut(B, A);
    }
    cluster.figures.faults += 1;
    cluster.pass(30_000 + dice.below(300_000)).await?;
    cluster.wires.heal();
    cluster.pass(10_000).await?;
    let after = (cluster.active(), cluster.figures.stops, cluster.figures.moves, cluster.term());
    if before == after { Ok(()) } else { Err(format!("L5: a cut between a and b changed {before:?} to {after:?}")) }
}

async fn play(seed: u64) -> Result<Figures, String> {
    let mut dice = Dice::new(seed);
    let timing = if dice.percent(50) { Timing::METRO } else { Timing::WIDE };
    let mut cluster = Cluster::start(seed, timing).await;
    repair(&mut cluster, &timing).await?;
    while cluster.now_ms() < HOURS * 3_600_000 {
        for _ in 0..=dice.below(8) {
            strike(&mut cluster, &mut dice).await;
            cluster.pass(500 + dice.below(40_000)).await?;
        }
        repair(&mut cluster, &timing).await?;
        if dice.percent(40) {
            a_and_b_are_cut(&mut cluster, &mut dice).await?;
        }
    }
    for site in Site::ALL {
        cluster.crash(site).await;
    }
    Ok(cluster.figures)
}

#[test]
fn hours_of_faults_under_the_real_consensus_break_nothing() {
    let range = seeds::from_env("BCP_PAUSED", 1..7);
    let (began, next) = (std::time::Instant::now(), AtomicU64::new(range.start));
    let all: Mutex<Vec<(u64, Result<Figures, String>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= range.end {
                        return;
                    }
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
                    let played = runtime.unwrap().block_on(play(seed));
                    all.lock().unwrap().push((seed, played));
                }
            });
        }
    });
    let (mut sum, mut bad) = (Figures::default(), Vec::new());
    for (seed, played) in all.into_inner().unwrap() {
        match played {
            Ok(one) => {
                sum.simulated_ms += one.simulated_ms;
                sum.faults += one.faults;
                sum.elections += one.elections;
                sum.moves += one.moves;
                sum.stops += one.stops;
                sum.checks += one.checks;
            }
            Err(what) => bad.push((seed, what)),
        }
    }
    println!(
        "real consensus on a simulated clock: seeds {range:?}: {:.1} simulated hours, {} faults, {} elections, {} moves, {} stops, {} states compared, {} violations, {:.1} s",
        sum.simulated_ms as f64 / 3_600_000.0,
        sum.faults,
        sum.elections,
        sum.moves,
        sum.stops,
        sum.checks,
        bad.len(),
        began.elapsed().as_secs_f64()
    );
    assert!(bad.is_empty(), "{bad:#?}");
    if let Ok(file) = std::env::var("BCP_TOTALS") {
        let added = totals::Figures {
            seeds: range.end - range.start,
            simulated_ms: sum.simulated_ms,
            faults: sum.faults,
            moves: sum.moves,
        };
        let (added, sum) = totals::add(format!("{file}-paused").as_ref(), &range, added).expect("the file of totals");
        let note = if added.is_some() { "" } else { " (some of these seeds were counted before: not added)" };
        println!("  all runs so far: {sum}{note}");
    }
    assert!(sum.elections > 0 && sum.moves > 0 && sum.checks > 0, "too little happened");
}
