//! Drills on a fleet of real processes: the switchover there and back, the rehearsed loss, and what their reports are worth.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bcp_tests::{Fleet, Options, gatelog, wait_for};
use bcp_wire::Site;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);
const TICKET: &str = "prescriptions";

async fn up(base_port: u16) -> Result<Fleet> {
    let fleet = Fleet::up(Options { base_port, ..Options::default() }).await?;
    wait_for("a drill to be possible", 90 * SECOND, async || {
        let plans: Value = serde_json::from_str(&fleet.cli(&["ctl", "drill", "plan", TICKET, "--json"]).ok()?).ok()?;
        let kinds = plans[0]["kinds"].as_array()?;
        (kinds.len() == 2 && kinds.iter().all(|kind| kind["may_begin"] == true)).then_some(())
    })
    .await?;
    Ok(fleet)
}

/// Runs a drill to its end; its report as it says it, and what it told on the way.
fn play(fleet: &Fleet, args: &[&str]) -> Result<Value> {
    let output = fleet.cli_output(&[&["ctl", "drill"][..], args, &["--json"]].concat())?;
    let told = String::from_utf8_lossy(&output.stderr);
    println!("{told}");
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("no report; it said: {told}"))?;
    ensure!(output.status.success(), "not passed: {said:#}");
    ensure!(said["fault"].is_null() && said["report"]["verdict"]["outcome"] == "passed", "{said:#}");
    ensure!(told.contains("was granted to site b"), "its steps are told on the way");
    Ok(said["report"].clone())
}

fn at_site(fleet: &Fleet, site: Site, args: &[&str]) -> Result<Value> {
    let url = format!("https://127.0.0.1:{}", fleet.port(site, 2));
    Ok(serde_json::from_str(&fleet.cli(&[&["ctl", "--url", &url, "--json"][..], args].concat())?)?)
}

/// The same report at every site, assembled there from its own ledger; the same answers at the indices it names.
async fn is_the_same_everywhere(fleet: &Fleet, report: &Value) -> Result<()> {
    let drill = report["drill"].as_str().context("a name")?;
    for site in Site::ALL {
        let found = at_site(fleet, site, &["drill", "report", drill])?;
        ensure!(found["fault"].is_null() && found["report"] == *report, "at {site}: {found:#}");
    }
    let steps = report["steps"].as_array().context("steps")?;
    let indices = steps.iter().filter_map(|step| step["index"].as_u64()).collect::<std::collections::BTreeSet<_>>();
    ensure!(indices.len() >= 5, "{indices:?}");
    for index in indices.iter().step_by(indices.len().div_ceil(6)) {
        let replayed = |site| at_site(fleet, site, &["explain", TICKET, "--at", &index.to_string()]);
        let at_w = replayed(Site::W)?;
        ensure!(at_w["ticket"] == TICKET, "{at_w:#}");
        for site in [Site::A, Site::B] {
            ensure!(replayed(site)? == at_w, "index {index} is explained differently at {site}");
        }
    }
    let list = at_site(fleet, Site::B, &["drill", "list"])?;
    let listed = list["past"].as_array().is_some_and(|past| past.iter().any(|past| past["drill"] == drill));
    ensure!(listed && list["running"].as_object().is_some_and(serde_json::Map::is_empty), "{list:#}");
    Ok(())
}

fn page_stands_alone(fleet: &Fleet, report: &Value) -> Result<()> {
    let file = fleet.data_dir().join("report.html");
    let (drill, path) = (report["drill"].as_str().context("a name")?, file.to_str().context("a path")?);
    fleet.cli(&["ctl", "drill", "report", drill, "--html", path])?;
    let page = std::fs::read_to_string(&file)?;
    for part in
        ["BCP test report", drill, "What it was to show", report["evidence"]["hash_after"].as_str().unwrap_or("?")]
    {
        ensure!(page.contains(part), "the page lacks {part}");
    }
    for foreign in ["<script", "src=", "http://", "https://", "@import", "url("] {
        ensure!(!page.contains(foreign), "the page needs {foreign}");
    }
    Ok(())
}

#[tokio::test]
async fn a_switchover_there_and_back_leaves_the_same_report_at_every_site() -> Result<()> {
    let fleet = up(23000).await?;
    let report = play(&fleet, &["move", TICKET, "--back", "--reason", "test"])?;
    println!("{} served after {} ms", report["verdict"]["sentence"], report["rto_ms"]);
    let legs = report["legs"].as_array().context("legs")?;
    ensure!(legs.len() == 2 && legs.iter().all(|leg| leg["end"] == "finished" && leg["planned"] == true), "{legs:#?}");
    ensure!(report["rpo"]["in_sync"] == true && report["evidence"]["left_out"] == 0, "{report:#}");
    ensure!(report["evidence"]["epochs"].as_array().is_some_and(|epochs| epochs.len() == 3), "{report:#}");
    is_the_same_everywhere(&fleet, &report).await?;
    page_stands_alone(&fleet, &report)?;

    // Nobody typed the ticket's name: nothing is begun.
    let before = fleet.ticket(Site::W, TICKET).await?;
    let asked = fleet.cli_output(&["ctl", "drill", "isolate", TICKET])?;
    let said = String::from_utf8_lossy(&asked.stderr);
    ensure!(asked.status.code() == Some(1) && said.contains("nothing was begun"), "{said}");
    // The other side is not there: refused, whoever says yes.
    fleet.cli(&["stop", "b/host"])?;
    wait_for("the gate at b to be missed", 30 * SECOND, async || {
        let plans = at_site(&fleet, Site::W, &["drill", "plan", TICKET]).ok()?;
        plans[0]["kinds"].as_array()?.iter().all(|kind| kind["may_begin"] == false).then_some(())
    })
    .await?;
    let refused = fleet.cli_output(&["ctl", "drill", "isolate", TICKET, "--yes"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && said.contains("gate host-b of site b is not heard"), "{said}");
    let now = fleet.ticket(Site::W, TICKET).await?;
    ensure!(now["holder"] == "a" && now["epoch"] == before["epoch"], "{now:#}");
    Ok(())
}

/// The lease is waited out by real gates, and they keep silent for a minute: with `BCP_LONG=1`.
#[tokio::test]
async fn a_rehearsed_loss_is_taken_over_after_the_lease_and_the_wait() -> Result<()> {
    if std::env::var("BCP_LONG").as_deref() != Ok("1") {
        println!("skipped: needs BCP_LONG=1");
        return Ok(());
    }
    let fleet = up(23000).await?;
    let report = play(&fleet, &["isolate", TICKET, "--yes", "--back", "--reason", "test"])?;
    println!("{} served after {} ms", report["verdict"]["sentence"], report["rto_ms"]);
    let rto_ms = report["rto_ms"].as_u64().context("a recovery time")?;
    ensure!((15_000..30_000).contains(&rto_ms), "lease and wait are 15 s: {rto_ms} ms");
    let legs = report["legs"].as_array().context("legs")?;
    ensure!(legs.len() == 2, "{legs:#?}");
    ensure!(legs[0]["planned"] == false && legs[0]["released"].is_null(), "{:#}", legs[0]);
    ensure!(legs[0]["covered_by_time"][0] == "host-a", "{:#}", legs[0]);
    is_the_same_everywhere(&fleet, &report).await?;
    page_stands_alone(&fleet, &report)?;
    let mut all = Vec::new();
    for site in [Site::A, Site::B] {
        let file = fleet.data_dir().join(format!("{site}/host-{site}/gate/gate.log.jsonl"));
        all.extend(gatelog::intervals(site.as_str(), &file, TICKET, gatelog::boot_ms())?);
    }
    ensure!(all.len() >= 3, "a, then b, then a: {all:?}");
    gatelog::never_two_at_once(all)
}
