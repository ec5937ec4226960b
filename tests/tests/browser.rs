//! The pages of a running fleet in a real browser: `tests/browser/check.mjs` does the looking.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bcp_tests::{Fleet, Options, wait_for};
use bcp_wire::Site;

#[tokio::test]
async fn pages_are_accessible_and_work_without_javascript() -> Result<()> {
    let fleet = Fleet::up(Options { base_port: 31000, ..Options::default() }).await?;
    // An alarm, so that the console has something to show.
    fleet.cli(&["device", "ups-b1", "event", "mains-fail"])?;
    wait_for("an alarm", Duration::from_secs(60), async || {
        fleet.active_alarms(Site::A, "on-battery/ups-b1").await.is_ok_and(|n| n == 1).then_some(())
    })
    .await?;
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/check.mjs");
    let status = tokio::process::Command::new("node")
        .arg(check)
        .args(["--public", &format!("http://127.0.0.1:{}", fleet.port(Site::W, 0))])
        .args(["--console", &format!("http://127.0.0.1:{}", fleet.port(Site::W, 1))])
        .status()
        .await?;
    ensure!(status.success(), "the browser check found faults (see above)");
    Ok(())
}
