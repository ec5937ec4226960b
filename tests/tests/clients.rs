//! The public files: the same from all three sites, read by other people's programs, checked by `bcpctl snapshot verify`,
//! with what an operator says in them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bcp_tests::{Fleet, Options, wait_for};
use bcp_wire::Site;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);
const SERVICES: [&str; 2] = ["patient-portal", "prescriptions"];

/// A time from now, as `bcpctl` takes it.
fn hours_from_now(hours: u32) -> Result<String> {
    let at = time::OffsetDateTime::from(SystemTime::now() + SECOND * (hours * 3_600));
    Ok(at.format(&time::format_description::well_known::Rfc3339)?)
}

fn plan(fleet: &Fleet, service: &str, from: u32, title: &str) -> Result<String> {
    let (from, to) = (hours_from_now(from)?, hours_from_now(from + 3)?);
    let (title, text) = (format!("en={title}"), "en=We replace disks; it may be slow, for \"some\" seconds.");
    let times = ["--from", &from, "--to", &to];
    let words = ["--title", &title, "--text", text, "--fallback", "en"];
    fleet.cli(&[&["ctl", "work", "plan", "--service", service][..], &times, &words].concat())
}

async fn public(fleet: &Fleet, site: Site, path: &str) -> Option<Value> {
    serde_json::from_str(&fleet.text(fleet.port(site, 0), path).await.ok()?).ok()
}

#[tokio::test]
async fn what_operators_say_reaches_every_copy_and_other_programs() -> Result<()> {
    let fleet = Fleet::up(Options { base_port: 26000, ..Options::default() }).await?;
    for service in SERVICES {
        wait_for("the services to be known", 60 * SECOND, async || {
            let all = fleet.api(Site::W, "services").await.ok()?;
            let found = all["services"].as_array()?.iter().find(|found| found["id"] == service)?["status"] == "up";
            found.then_some(())
        })
        .await?;
    }
    println!("{}", plan(&fleet, SERVICES[0], 0, "Portal work")?.trim());
    println!("{}", plan(&fleet, SERVICES[1], 30, "New disks")?.trim());
    for site in Site::ALL {
        let (_, took) = wait_for("both works to be public", 60 * SECOND, async || {
            let summary = public(&fleet, site, "/api/v2/summary.json").await?;
            let works = summary["scheduled_maintenances"].as_array()?;
            (works.len() == 2 && works[0]["status"] == "in_progress").then_some(())
        })
        .await?;
        println!("public at {site} after {took:?} more");
    }
    an_operator_speaks_in_place_of_the_automatic_notice(&fleet).await?;
    the_same_sequence_has_the_same_bytes(&fleet).await?;
    every_copy_can_be_checked(&fleet).await?;
    other_programs_read_it(&fleet)
}

/// The first words of a person take the place of the machine's, at the same time of the page.
async fn an_operator_speaks_in_place_of_the_automatic_notice(fleet: &Fleet) -> Result<()> {
    fleet.cli(&["pause", "a/prescriptions"])?;
    let incident = async || {
        let all = public(fleet, Site::W, "/api/v2/incidents/unresolved.json").await?;
        all["incidents"].as_array()?.first().cloned()
    };
    let (found, _) = wait_for("an incident", 120 * SECOND, incident).await?;
    let id = found["id"].as_str().context("an id")?.to_owned();
    let updates = |incident: &Value| incident["incident_updates"].as_array().map_or(0, Vec::len);
    let before = (updates(&found), found["incident_updates"][0]["created_at"].clone());
    fleet.cli(&["ctl", "incident", "update", &id, "--text", "en=We know the cause.", "--fallback", "en"])?;
    let (told, _) = wait_for("the operator's words", 60 * SECOND, async || {
        let found = incident().await?;
        (found["incident_updates"][0]["body"] == "We know the cause.").then_some(found)
    })
    .await?;
    let first = &told["incident_updates"][0];
    ensure!(before == (updates(&told), first["created_at"].clone()), "not in place: {found} then {told}");
    ensure!(first["updated_at"].as_str() > first["created_at"].as_str(), "{first}");
    let page = fleet.text(fleet.port(Site::W, 0), &format!("/nl/incident/{id}/")).await?;
    ensure!(page.contains("We know the cause.") && page.contains("in het Engels"), "the stand-in is not labelled");
    let ledger = fleet.api(Site::W, "ledger?limit=200").await?;
    let by =
        |entry: &Value| entry["author"] == "operator:op-1" && entry["subject"] == format!("incident:{id}").as_str();
    ensure!(ledger["ledger"].as_array().context("entries")?.iter().any(by), "the ledger does not say who spoke");
    fleet.cli(&["resume", "a/prescriptions"])?;
    Ok(())
}

/// Whoever renders a publication makes the same files: only issuer, signature and lag differ.
async fn the_same_sequence_has_the_same_bytes(fleet: &Fleet) -> Result<()> {
    let seen: RefCell<BTreeMap<u64, BTreeMap<Site, Value>>> = RefCell::default();
    let (compared, _) = wait_for("five publications of all three sites", 240 * SECOND, async || {
        for site in Site::ALL {
            if let Some(found) = public(fleet, site, "/manifest.json").await
                && let Some(sequence) = found["manifest"]["sequence"].as_u64()
                && found["manifest"]["issuer"] == site.as_str()
            {
                seen.borrow_mut().entry(sequence).or_default().insert(site, found["manifest"]["files"].clone());
            }
        }
        let whole: Vec<_> = seen.borrow().values().filter(|by_site| by_site.len() == 3).cloned().collect();
        (whole.len() >= 5).then_some(whole)
    })
    .await?;
    for by_site in &compared {
        let mut files = by_site.values();
        let first = files.next().context("a site")?;
        ensure!(first.as_object().is_some_and(|files| files.len() > 60) && files.all(|other| other == first));
    }
    println!("{} publications are the same from all three sites", compared.len());
    Ok(())
}

/// Each site's own, a copy in a folder; and what was changed in it is named.
async fn every_copy_can_be_checked(fleet: &Fleet) -> Result<()> {
    let config = fleet.data_dir().join("w/collector.toml");
    let config = config.to_str().context("a path in UTF-8")?;
    let verify = |place: &str| fleet.cli_output(&["ctl", "snapshot", "verify", place, "--config", config]);
    for site in Site::ALL {
        let url = format!("http://127.0.0.1:{}", fleet.port(site, 0));
        // A publication that is being replaced may be gone before its last file is fetched.
        let genuine = async || verify(&url).is_ok_and(|output| output.status.success()).then_some(());
        wait_for("a genuine publication", 60 * SECOND, genuine).await.with_context(|| url.clone())?;
    }
    let copy = fleet.data_dir().join("copy");
    let place = copy.to_str().context("a path in UTF-8")?;
    let whole = async || {
        let _ = std::fs::remove_dir_all(&copy);
        copy_tree(&fleet.data_dir().join("w/collector/export/current"), &copy).ok()?;
        verify(place).ok().filter(|output| output.status.success())
    };
    let (said, _) = wait_for("a whole copy", 60 * SECOND, whole).await?;
    println!("{}", String::from_utf8_lossy(&said.stdout).trim());
    let page = copy.join("nl/index.html");
    std::fs::write(&page, std::fs::read_to_string(&page)?.replacen("</h1>", "!</h1>", 1))?;
    let refused = verify(place)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("nl/index.html"), "{said}");
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn other_programs_read_it(fleet: &Fleet) -> Result<()> {
    let python = std::env::var("BCP_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let modules = "import feedparser, icalendar, jsonfeed, statuspage_prometheus_exporter";
    let there = std::process::Command::new(&python).args(["-c", modules]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        if std::env::var("BCP_STRICT").as_deref() == Ok("1") {
            bail!("{python} lacks one of: {modules}");
        }
        println!("skipped: {python} lacks one of: {modules}");
        return Ok(());
    }
    let url = format!("http://127.0.0.1:{}", fleet.port(Site::B, 0));
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/check.py");
    let output = std::process::Command::new(&python).arg(check).arg(url).output()?;
    println!("{}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
