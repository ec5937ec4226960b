//! PostgreSQL as a guarded service, with real servers: a short form of `benches/postgres.rs`, and a switchover.

#[path = "../benches/postgres/scene.rs"]
mod scene;

use anyhow::{Result, bail, ensure};
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
    let scene = Scene::begin(26000, "metro").await?;
    scene.move_to(Site::B).await?;
    let loss = scene.lose(Site::B).await?;
    println!("writable after {:?}; {} rows, {} looks", loss.to_writable, loss.acknowledged, loss.looks);
    ensure!(loss.lost == 0 && loss.two_writable == 0, "{loss:?}");
    // It comes back as the standby of the other, without the tail that nobody was told is safe.
    scene.fleet.cli(&["start", "b"])?;
    bcp_tests::wait_for("b to follow a and have everything", scene::LIMIT, async || {
        let said = scene.fleet.text(scene.fleet.port(Site::A, 16), "/facts").await.ok()?;
        said.contains("\"peer_in_sync\":true").then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stale_copy_is_not_promoted() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let scene = Scene::begin(26000, "metro").await?;
    let said = scene.stale().await?;
    println!("{said}");
    Ok(())
}
