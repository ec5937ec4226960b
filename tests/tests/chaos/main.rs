//! Chaos: everything between a meter and the store is killed, cut, filled and stepped, and in the end it comes out even.
//!
//! `tests/run chaos --minutes N --seed S`. The seed gives the faults and their times; the processes are real. Without
//! libfaketime, or without the right to a mount namespace, the clock is not stepped and the disk not filled, by name.
#![allow(clippy::unwrap_used)]

mod account;
mod device;
mod link;
mod rig;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bcp_tests::wait_for;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rig::{Broker, Rig};

const DEFAULT_SEED: u64 = 1;
/// The short form: every fault about three times.
const DEFAULT_LENGTH: Duration = Duration::from_secs(60);
/// A round is one fault of each kind, in an order of its own.
const ROUND: Duration = Duration::from_secs(20);
/// From the last fault on everything is well again; then all that was kept is delivered.
const DELIVERED_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const READY_WITHIN: Duration = Duration::from_secs(40);
/// A step from wherever the plan has left the clock.
const NEVER_PLANNED: i64 = 7_200;
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillAgent { tear: bool },
    KillBroker,
    KillServe,
    FillDisk,
    Cut,
    Stall,
    StepClock { seconds: i64 },
    // Ends of the above.
    StartAgent,
    StartBroker,
    StartServe,
    FreeDisk,
    Open,
}

const KINDS: [Fault; 8] = [
    Fault::KillAgent { tear: false },
    Fault::KillAgent { tear: true },
    Fault::KillBroker,
    Fault::KillServe,
    Fault::FillDisk,
    Fault::Cut,
    Fault::Stall,
    Fault::StepClock { seconds: 3_600 },
];

/// What happens when, in milliseconds from the start. The same seed gives the same plan.
fn plan(seed: u64, length: Duration) -> BTreeMap<u64, Fault> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut plan = BTreeMap::new();
    // Two faults of one kind do not overlap: each ends before its next round begins.
    let mut enter = |at: u64, fault: Fault| {
        let mut at = at;
        while plan.contains_key(&at) {
            at += 1;
        }
        plan.insert(at, fault);
    };
    let mut clock = 0;
    let rounds = (length.as_millis() / ROUND.as_millis()).max(1) as u64;
    let round_ms = ROUND.as_millis() as u64;
    for round in 0..rounds {
        let mut kinds = KINDS;
        kinds.shuffle(&mut dice);
        let slot = round_ms / kinds.len() as u64;
        for (n, kind) in kinds.into_iter().enumerate() {
            let at = round * round_ms + n as u64 * slot + dice.random_range(0..slot / 2);
            let short = at + dice.random_range(100..1_000);
            let long = at + dice.random_range(1_000..4_000);
            match kind {
                Fault::KillAgent { .. } => enter(short, Fault::StartAgent),
                Fault::KillBroker => enter(short, Fault::StartBroker),
                Fault::KillServe => enter(short, Fault::StartServe),
                Fault::FillDisk => enter(long, Fault::FreeDisk),
                Fault::Cut | Fault::Stall => enter(long, Fault::Open),
                _ => {}
            }
            let kind = match kind {
                Fault::StepClock { .. } => {
                    let others: Vec<i64> = [3_600, -3_600, 0].into_iter().filter(|seconds| *seconds != clock).collect();
                    clock = others[dice.random_range(0..others.len())];
                    Fault::StepClock { seconds: NEVER_PLANNED }
                }
                other => other,
            };
            enter(at, kind);
        }
    }
    plan
}

fn act(rig: &mut Rig, fault: Fault) -> Result<()> {
    match fault {
        Fault::KillAgent { tear } => rig.kill_agent(tear)?,
        Fault::StartAgent => rig.start_agent()?,
        Fault::KillBroker => rig.kill_broker(),
        Fault::StartBroker => rig.start_broker()?,
        Fault::KillServe => rig.kill_serve(),
        Fault::StartServe => rig.start_serve()?,
        Fault::FillDisk if rig.has_disk() => rig.fill_disk()?,
        Fault::FreeDisk if rig.has_disk() => rig.free_disk()?,
        Fault::StepClock { seconds } if rig.has_clock() => rig.step_clock(seconds)?,
        Fault::FillDisk | Fault::FreeDisk | Fault::StepClock { .. } => {}
        Fault::Cut => rig.link.cut(),
        Fault::Stall => rig.link.stall(),
        Fault::Open => rig.link.open(),
    }
    Ok(())
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn chaos(name: &str, broker: Broker) -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let seed = setting("BCP_CHAOS_SEED").unwrap_or(DEFAULT_SEED);
    let length = setting("BCP_CHAOS_MINUTES").map_or(DEFAULT_LENGTH, |minutes| Duration::from_secs(60 * minutes));
    let mut rig = Rig::start(name, broker)?;
    // A package can be installed, a right of the system not.
    let strict = std::env::var("BCP_STRICT").is_ok_and(|value| value == "1");
    ensure!(rig.has_clock() || !strict, "without libfaketime: the clock is not stepped");
    if !rig.has_disk() {
        println!("skipped: this system gives no mount namespace; the disk is not filled");
    }
    if !rig.has_clock() {
        println!("skipped: libfaketime is not installed; the clock is not stepped");
    }
    first_commit(&mut rig).await.with_context(|| logs(&rig))?;

    let plan = plan(seed, length);
    println!("seed {seed}, {length:?}, {broker:?}: {} faults and their ends", plan.len());
    let began = Instant::now();
    for (at, fault) in plan {
        let due = began + Duration::from_millis(at);
        tokio::time::sleep_until(due.into()).await;
        rig.see_to_agent()?;
        act(&mut rig, fault).with_context(|| format!("{fault:?} at {at} ms"))?;
    }

    all_noticed(&mut rig).await.with_context(|| logs(&rig))?;
    rig.stop_reading()?;
    if let Err(fault) = drain(&mut rig).await {
        let (status, ingest) = (rig.agent_status().await, rig.ingest().await);
        return Err(fault).with_context(|| format!("{status:?}\n{ingest:?}\n{}", logs(&rig)));
    }
    rig.stop()?;
    let kept = rig.note_produced()?;
    // What was said at the goodbye may be committed while the agent no longer hears it.
    println!("delivered {:?} after the start; {kept} payloads still in the outbox", began.elapsed());
    account::check(&rig).with_context(|| logs(&rig))
}

/// Waits until something of the agent is in the store.
async fn first_commit(rig: &mut Rig) -> Result<()> {
    let began = Instant::now();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        rig.all_run()?;
        let ingest = rig.ingest().await.unwrap_or_default();
        if ingest["samples"].as_u64() > Some(0) {
            return Ok(());
        }
        ensure!(began.elapsed() < READY_WITHIN, "nothing was committed within {READY_WITHIN:?}: {ingest}");
    }
}

/// Waits until the agent's outbox is empty.
async fn drain(rig: &mut Rig) -> Result<()> {
    let began = Instant::now();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        rig.see_to_agent()?;
        let status = rig.agent_status().await.unwrap_or_default();
        if status.pointer("/delivery/spool/payloads").and_then(serde_json::Value::as_u64) == Some(0) {
            return Ok(());
        }
        ensure!(began.elapsed() < DELIVERED_WITHIN, "the agent still keeps payloads after {DELIVERED_WITHIN:?}");
    }
}

/// How often a process said so.
fn said(rig: &Rig, name: &str, what: &str) -> usize {
    let text = std::fs::read_to_string(rig.dir.join(format!("{name}.log"))).unwrap_or_default();
    text.matches(what).count()
}

/// A fault that nobody noticed proves nothing: where chance had it that a process was away each time, it comes once more,
/// alone, until it is noticed.
async fn all_noticed(rig: &mut Rig) -> Result<()> {
    let faults = [
        (rig.has_disk(), Fault::FillDisk, Some(Fault::FreeDisk), "serve", "the store takes nothing"),
        (rig.has_clock(), Fault::StepClock { seconds: NEVER_PLANNED }, None, "agent", "the wall clock was stepped"),
        (true, Fault::KillBroker, Some(Fault::StartBroker), "serve", "not connected"),
    ];
    for (_, fault, end, name, words) in faults.into_iter().filter(|fault| fault.0) {
        let by_chance = said(rig, name, words);
        if by_chance == 0 {
            act(rig, fault)?;
            wait_for(words, NOTICED_WITHIN, async || (said(rig, name, words) > 0).then_some(())).await?;
            end.map_or(Ok(()), |end| act(rig, end))?;
        }
        println!("{fault:?} was noticed {by_chance} times{}", if by_chance == 0 { ", and once alone" } else { "" });
    }
    Ok(())
}

fn logs(rig: &Rig) -> String {
    let tail = |name: &str| {
        let text = std::fs::read_to_string(rig.dir.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{name}:\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
    };
    ["agent", "serve", "broker"].map(tail).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn comes_out_even_with_the_embedded_broker() -> Result<()> {
    chaos("embedded", Broker::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn comes_out_even_with_mosquitto() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|dir| dir.join("mosquitto").is_file());
    if !is_there {
        ensure!(std::env::var_os("BCP_STRICT").is_none_or(|v| v != "1"), "mosquitto is not installed");
        println!("skipped: mosquitto is not installed");
        return Ok(());
    }
    chaos("mosquitto", Broker::Mosquitto).await
}

#[test]
fn a_seed_is_a_plan() {
    let length = Duration::from_secs(600);
    assert_eq!(plan(7, length), plan(7, length));
    assert_ne!(plan(7, length), plan(8, length));
    assert_eq!(plan(7, length).values().filter(|fault| **fault == Fault::KillServe).count(), 30);
}
