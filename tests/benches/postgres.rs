//! PostgreSQL through the loss of a site: what is lost, who takes writes, and when they go on.
//!
//! `cargo bench -p bcp-tests --bench postgres -- [--runs 20] [--timing metro|fast]`
//!
//! Every run has a fleet of its own (after an automatic move a ticket stays where it is for an hour), with two PostgreSQL 15
//! servers and HAProxy. Four connections write through HAProxy; then the site of the active server is killed, a and b in turns.
//! At last one run with a stale copy: nothing may be promoted, and `explain` says why. Wants `cargo build --release` (or
//! `BCP_FLEET_BIN`) and Debian's postgresql-15 and haproxy.

#[path = "postgres/scene.rs"]
mod scene;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bcp_wire::Site;
use scene::{Loss, Scene};

const BASE_PORT: u16 = 24_000;

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(all()));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

async fn all() -> Result<bool> {
    let runs: usize = argument("--runs").map_or(Ok(20), |text| text.parse()).context("--runs takes a number")?;
    let timing = argument("--timing").unwrap_or_else(|| "metro".to_owned());
    ensure!(["metro", "fast"].contains(&timing.as_str()), "--timing takes metro or fast");
    println!("{runs} losses of a site under write load, timing {timing}");
    let (mut losses, mut failed) = (Vec::new(), 0);
    for run in 1..=runs {
        let site = if run % 2 == 1 { Site::A } else { Site::B };
        match one(site, &timing).await {
            Ok(loss) => {
                println!(
                    "run {run:>3}: {site} lost, writable after {:.2} s; of {} acknowledged rows {} lost; two writable at {} of {} looks",
                    loss.to_writable.as_secs_f64(),
                    loss.acknowledged,
                    loss.lost,
                    loss.two_writable,
                    loss.looks
                );
                losses.push(loss);
            }
            Err(fault) => {
                failed += 1;
                println!("run {run:>3}: FAILED: {fault:#}");
            }
        }
    }
    let is_clean = print(&losses);
    let stale = Scene::begin(BASE_PORT, &timing).await?.stale().await;
    match &stale {
        Ok(said) => println!("stale copy, then a lost: no promotion; explain says:\n{}", indented(said)),
        Err(fault) => println!("stale copy, then a lost: FAILED: {fault:#}"),
    }
    println!("{failed} of {runs} runs failed");
    Ok(is_clean && failed == 0 && stale.is_ok())
}

async fn one(site: Site, timing: &str) -> Result<Loss> {
    let scene = Scene::begin(BASE_PORT, timing).await?;
    if site == Site::B {
        scene.move_to(Site::B).await.context("the move before")?;
    }
    scene.lose(site).await
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// True where nothing was lost and never two took writes.
fn print(losses: &[Loss]) -> bool {
    let mut times: Vec<Duration> = losses.iter().map(|loss| loss.to_writable).collect();
    times.sort_unstable();
    // Of few runs the 99th percentile is the longest.
    let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
    let seconds = |time: Option<&Duration>| time.map_or("-".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()));
    println!(
        "writable through HAProxy after: min {}, median {}, p99 {}",
        seconds(times.first()),
        seconds(at(50)),
        seconds(at(99))
    );
    let sum = |of: fn(&Loss) -> u64| losses.iter().map(of).sum::<u64>();
    let (rows, lost, two, looks) =
        (sum(|l| l.acknowledged), sum(|l| l.lost), sum(|l| l.two_writable), sum(|l| l.looks));
    println!("acknowledged rows {rows}, lost {lost}; two writable servers at {two} of {looks} looks");
    lost == 0 && two == 0
}
