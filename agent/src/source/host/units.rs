//! systemd units, as `systemctl` tells them.
//!
//! Knows: which units are watched, and what their states are called. Refuses to know: which should run.
//!
//! A program of its own is asked, so that a manager that hangs costs a child process that is killed in time.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Figure, MAX_ROWS};
use crate::profile::row_id;

/// Time for one question.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Where systemd has its directory while it is the first process (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Most of an answer that is read.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// What the manager writes where it keeps no account.
const NOT_SET: u64 = u64::MAX;

/// Why units cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum UnitsError {
    #[error("systemctl cannot be run: {0}")]
    Run(#[source] std::io::Error),
    #[error("systemctl does not answer within {TIMEOUT:?}")]
    Timeout,
    #[error("systemctl failed: {0}")]
    Failed(String),
}

/// True where systemd runs this host.
#[must_use]
pub fn present() -> bool {
    std::path::Path::new(BOOTED).is_dir()
}

/// Figures of these units, and how many units of the host have failed.
///
/// # Errors
/// The manager does not answer.
pub async fn read(watched: &[String]) -> Result<Vec<Figure>, UnitsError> {
    let mut figures = Vec::new();
    let failed = ask(&["list-units", "--failed", "--plain", "--no-legend", "--no-pager"], &[]).await?;
    let failed = failed.lines().filter(|line| !line.trim().is_empty()).count();
    figures.push(Figure::new("host.units.failed".to_owned(), Ok((failed as f64).into())));
    if !watched.is_empty() {
        let shown = ask(
            &["show", "--no-pager", "--property=Id,LoadState,ActiveState,NRestarts,MemoryCurrent,TasksCurrent", "--"],
            watched,
        );
        figures.extend(units(watched, &shown.await?));
    }
    Ok(figures)
}

async fn ask(arguments: &[&str], more: &[String]) -> Result<String, UnitsError> {
    let child = Command::new("systemctl")
        .args(arguments)
        .args(more)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIMEOUT, child).await.map_err(|_| UnitsError::Timeout)?;
    let output = output.map_err(UnitsError::Run)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.get(..MAX_ANSWER_BYTES).unwrap_or(bytes)).into_owned();
    if !output.status.success() {
        let line = text(&output.stderr).lines().next().unwrap_or_default().chars().take(160).collect();
        return Err(UnitsError::Failed(line));
    }
    Ok(text(&output.stdout))
}

/// Blocks of `key=value` in the order asked, an empty line between.
fn units(watched: &[String], text: &str) -> Vec<Figure> {
    let mut taken = BTreeSet::new();
    let mut figures = Vec::new();
    let mut blocks = text.split("\n\n");
    for unit in watched.iter().take(MAX_ROWS) {
        let block = blocks.next().unwrap_or_default();
        let id = row_id(unit.strip_suffix(".service").unwrap_or(unit), &mut taken);
        let of = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let state = match (of("LoadState"), of("ActiveState")) {
            (Some("not-found"), _) => "missing",
            (Some("masked"), _) => "masked",
            (_, Some(state @ ("active" | "inactive" | "failed" | "activating" | "deactivating" | "reloading"))) => {
                state
            }
            _ => "unknown",
        };
        figures.push(Figure::new(format!("host.unit.{id}.state"), Ok(state.into())));
        for (key, what) in [("NRestarts", "restarts"), ("MemoryCurrent", "memory"), ("TasksCurrent", "tasks")] {
            let number = of(key).and_then(|number| number.parse::<u64>().ok()).filter(|number| *number != NOT_SET);
            if let Some(number) = number.filter(|_| state != "missing") {
                figures.push(Figure::new(format!("host.unit.{id}.{what}"), Ok((number as f64).into())));
            }
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_systemctl_is_understood() {
        let text = "Id=nginx.service\nLoadState=loaded\nActiveState=active\nNRestarts=2\nMemoryCurrent=5242880\n\
                    TasksCurrent=5\n\nId=gone.service\nLoadState=not-found\nActiveState=inactive\nNRestarts=0\n\
                    MemoryCurrent=18446744073709551615\n\nId=db.socket\nLoadState=loaded\nActiveState=failed\n\
                    MemoryCurrent=[not set]\n";
        let watched = ["nginx.service", "gone.service", "db.socket"].map(str::to_owned);
        let told: Vec<(String, String)> =
            units(&watched, text).into_iter().map(|f| (f.name, f.value.unwrap().to_string())).collect();
        let want = [
            ("host.unit.nginx.state", "active"),
            ("host.unit.nginx.restarts", "2"),
            ("host.unit.nginx.memory", "5242880"),
            ("host.unit.nginx.tasks", "5"),
            ("host.unit.gone.state", "missing"),
            ("host.unit.db-socket.state", "failed"),
        ];
        assert_eq!(told, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(units(&watched, "").len(), 3, "whatever comes, each is told");
    }
}
