//! PostgreSQL as a guarded service, with real servers: a short form of `benches/postgres.rs`, and a switchover.

#[path = "../benches/postgres/scene.rs"]
mod scene;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bcp_agent::resolver::Resolver;
use bcp_fleet::layout::{Layout, Timing};
use bcp_fleet::reference::SERVICE_NAME;
use bcp_wire::Site;
use scene::Scene;

/// False where the packages are missing and may be.
fn can_run() -> Result<bool> {
    match bcp_fleet::reference::Programs::find() {
        Ok(_) => Ok(true),
        Err(fault) if std::env::var("BCP_STRICT").as_deref() == Ok("1") => bail!("{fault}"),
        Err(fault) => {
            println!("skipped: {fault}");
            Ok(false)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_row_is_lost_with_a_site() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let scene = Scene::begin(31000, "metro").await?;
    names_the_site(&scene, Site::A).await?;
    scene.move_to(Site::B).await?;
    names_the_site(&scene, Site::B).await?;
    let loss = scene.lose(Site::B).await?;
    println!("writable after {:?}; {} rows, {} looks", loss.to_writable, loss.acknowledged, loss.looks);
    ensure!(loss.lost == 0 && loss.two_writable == 0, "{loss:?}");
    names_the_site(&scene, Site::A).await?;
    // It comes back as the standby of the other, without the tail that nobody was told is safe.
    scene.fleet.cli(&["start", "b"])?;
    bcp_tests::wait_for("b to follow a and have everything", scene::LIMIT, async || {
        let said = scene.fleet.text(scene.fleet.port(Site::A, 16), "/facts").await.ok()?;
        said.contains("\"peer_in_sync\":true").then_some(())
    })
    .await?;
    a_restarted_door_leads_to_the_active_server(&scene).await?;
    nothing_outlives_a_fleet_that_is_killed(&scene).await
}

/// The name of the service, as BIND says it: each site's door has an address of its own.
async fn names_the_site(scene: &Scene, site: Site) -> Result<()> {
    let server = ([127, 0, 0, 1], scene.fleet.port(Site::A, 0) + 913).into();
    let wanted = bcp_fleet::reference::address(site);
    let named = async || {
        // One that knows nothing yet: it would keep the old answer for its time to live.
        let resolver = Resolver::new(vec![server]);
        let found = resolver.lookup(SERVICE_NAME).await.ok()?;
        (found == [wanted]).then_some(())
    };
    bcp_tests::wait_for(&format!("{SERVICE_NAME} to be {wanted}"), scene::LIMIT, named).await?;
    Ok(())
}

/// Nobody has told it anything since: it asks the sidecars.
async fn a_restarted_door_leads_to_the_active_server(scene: &Scene) -> Result<()> {
    let process = || -> Result<serde_json::Value> {
        let said: serde_json::Value = serde_json::from_str(&scene.fleet.cli(&["ls", "--json"])?)?;
        let all = said["beside"].as_array().context("ls --json has beside")?;
        let door = all.iter().find(|process| process["name"] == "registry-db/door").context("there is a door")?;
        Ok(door["pid"].clone())
    };
    let before = process()?;
    scene.fleet.cli(&["kill", "registry-db/door"])?;
    let anew = async || process().ok().filter(|pid| pid.is_u64() && *pid != before);
    bcp_tests::wait_for("another HAProxy", scene::LIMIT, anew).await?;
    let writer = scene.write().await?;
    writer.end();
    ensure!(scene.audit(&writer).await? == 0, "rows are gone");
    Ok(())
}

/// Not even PostgreSQL, HAProxy and BIND, which know nothing of their parent.
async fn nothing_outlives_a_fleet_that_is_killed(scene: &Scene) -> Result<()> {
    let data_dir = scene.fleet.data_dir().to_owned();
    ensure!(left_of(&data_dir).iter().any(|line| line.contains("postgres")), "{:?}", left_of(&data_dir));
    let fleet = rustix::process::Pid::from_raw(scene.fleet.pid().cast_signed()).context("a fleet has a number")?;
    rustix::process::kill_process(fleet, rustix::process::Signal::KILL)?;
    let gone = async || left_of(&data_dir).is_empty().then_some(());
    let ended = bcp_tests::wait_for("the end of every process", scene::LIMIT, gone).await;
    ended.with_context(|| format!("{:?}", left_of(&data_dir)))?;
    Ok(())
}

/// Command lines of processes that work in a directory, or name it.
fn left_of(data_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let works_there = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(data_dir));
        if works_there || line.contains(&*data_dir.to_string_lossy()) {
            found.push(line);
        }
    }
    found
}

#[test]
fn the_name_servers_configuration_is_one() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let Some(check) =
        ["/usr/bin/named-checkconf", "/usr/sbin/named-checkconf"].into_iter().find(|p| Path::new(p).exists())
    else {
        println!("skipped: named-checkconf is not installed");
        return Ok(());
    };
    bcp_fleet::install_crypto();
    let data_dir = std::env::temp_dir().join(format!("bcp-name-{}", std::process::id()));
    let layout = Layout {
        data_dir: data_dir.clone(),
        base: "27000".parse()?,
        executable: "/usr/bin/true".into(),
        mosquitto: None,
        timing: Timing::Metro,
        reference: Some(bcp_fleet::reference::Programs::find()?),
        with_servers: false,
    };
    layout.prepare()?;
    let said = Command::new(check).arg("-z").arg(layout.named_config()).output()?;
    std::fs::remove_dir_all(&data_dir)?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    ensure!(String::from_utf8_lossy(&said.stdout).contains("zone registry.test/IN: loaded"), "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stale_copy_is_not_promoted() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let scene = Scene::begin(31000, "metro").await?;
    let said = scene.stale().await?;
    println!("{said}");
    Ok(())
}
