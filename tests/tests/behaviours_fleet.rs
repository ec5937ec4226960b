//! Behaviours that need an agent and a collector: 13, and the collector's half of 19, as real processes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bcp_tests::{Fleet, Options, hold_for, wait_for};
use bcp_wire::Site;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);
/// The port of the gateway's own status, from a site's first port.
const GATEWAY_STATUS: u16 = 14;

async fn up() -> Result<Fleet> {
    let fleet = Fleet::up(Options { base_port: 28000, ..Options::default() }).await?;
    wait_for("a first good reading", 60 * SECOND, async || quality(&fleet).await.filter(|word| word == "good")).await?;
    Ok(fleet)
}

async fn quality(fleet: &Fleet) -> Option<String> {
    Some(fleet.point(Site::A, "ups-a1", "ups.status").await.ok()?["quality"].as_str()?.to_owned())
}

/// What the gateway of a tells of itself.
async fn gateway(fleet: &Fleet) -> Option<Value> {
    serde_json::from_str(&fleet.text(fleet.port(Site::A, GATEWAY_STATUS), "/status").await.ok()?).ok()
}

/// What the gateway of a tells of a device.
async fn device(fleet: &Fleet, id: &str) -> Option<Value> {
    gateway(fleet).await?["devices"].as_array()?.iter().find(|device| device["id"] == id).cloned()
}

async fn owed(fleet: &Fleet) -> Option<u64> {
    gateway(fleet).await?["delivery"]["spool"]["payloads"].as_u64()
}

/// Values of a text point in the history of the last ten minutes.
async fn words(fleet: &Fleet, point: &str) -> Option<Vec<String>> {
    let found = fleet.api(Site::A, &format!("history?device=ups-a1&point={point}&from=-10m")).await.ok()?;
    let samples = found["samples"].as_array()?.iter();
    Some(samples.filter_map(|sample| sample["value"].as_str()).map(str::to_owned).collect())
}

async fn on_battery(fleet: &Fleet) -> Result<usize> {
    fleet.active_alarms(Site::A, "on-battery/ups-a1").await
}

/// 13: a device that falls silent is unknown at both ends: the agent says since when, the collector shows no value as good.
#[tokio::test]
async fn behaviour_13_silence_is_unknown_at_both_ends() -> Result<()> {
    let fleet = up().await?;
    fleet.cli(&["pause", "a/devices"])?;
    let (_, took) = wait_for("no good value at the collector", 20 * SECOND, async || {
        quality(&fleet).await.filter(|word| word != "good")
    })
    .await?;
    println!("not good any more after {took:?}");
    let (told, _) = wait_for("the agent to say so", 30 * SECOND, async || {
        device(&fleet, "ups-a1").await.filter(|ups| ups["reachable"] == "no")
    })
    .await?;
    ensure!(told["error"] == "timeout", "{told}");
    ensure!(told["last_good_ago_ms"].as_u64() >= told["interval_ms"].as_u64().map(|ms| ms * 5 / 2), "{told}");
    let since = told["last_good_ms"].clone();
    // Whatever is asked of it meanwhile: nothing is good again, and the last good value stays where it was.
    hold_for(6 * SECOND, async || {
        let word = quality(&fleet).await.context("the console answers")?;
        ensure!(word != "good", "a silent device is shown as good");
        Ok(())
    })
    .await?;
    let still = device(&fleet, "ups-a1").await.context("status")?;
    ensure!(still["last_good_ms"] == since, "{still} was {since}");
    fleet.cli(&["resume", "a/devices"])?;
    wait_for("good again", 120 * SECOND, async || quality(&fleet).await.filter(|word| word == "good")).await?;
    Ok(())
}

/// 19: a mains failure that came and went while the broker was away is in the history and raises no alarm; one that happens
/// now does.
#[tokio::test]
async fn behaviour_19_rules_do_not_fire_on_history() -> Result<()> {
    let fleet = up().await?;
    fleet.cli(&["pause", "a/broker"])?;
    let grown = async |by: u64| -> Result<()> {
        let (before, _) = wait_for("the gateway's status", 20 * SECOND, async || owed(&fleet).await).await?;
        let more = async || owed(&fleet).await.filter(|now| *now >= before + by);
        wait_for("readings in the spool", 60 * SECOND, more).await?;
        Ok(())
    };
    grown(10).await?;
    fleet.cli(&["device", "ups-a1", "event", "mains-fail"])?;
    // Every device of the gateway is read each second: so many payloads are at least ten readings of this one.
    let devices = gateway(&fleet).await.and_then(|told| Some(told["devices"].as_array()?.len())).context("devices")?;
    grown(devices as u64 * 10).await?;
    fleet.cli(&["device", "ups-a1", "event", "mains-back"])?;
    grown(devices as u64 * 8).await?;
    fleet.cli(&["resume", "a/broker"])?;

    let delivered = async || {
        ensure!(on_battery(&fleet).await? == 0, "an alarm for what is over");
        Ok::<_, anyhow::Error>(
            words(&fleet, "ups.status").await.is_some_and(|all| all.iter().any(|word| word.contains("OB"))),
        )
    };
    let began = std::time::Instant::now();
    while !delivered().await? {
        ensure!(began.elapsed() < 120 * SECOND, "the backlog does not arrive");
        tokio::time::sleep(SECOND / 5).await;
    }
    println!("in the history after {:?}", began.elapsed());
    hold_for(5 * SECOND, async || {
        ensure!(on_battery(&fleet).await? == 0, "an alarm for what is over");
        Ok(())
    })
    .await?;
    wait_for("good again", 60 * SECOND, async || quality(&fleet).await.filter(|word| word == "good")).await?;
    // The rule is awake all the same.
    fleet.cli(&["device", "ups-a1", "event", "mains-fail"])?;
    wait_for("the alarm", 60 * SECOND, async || on_battery(&fleet).await.ok().filter(|alarms| *alarms == 1)).await?;
    Ok(())
}
