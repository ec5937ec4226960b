//! `run`: starts the processes of a site and restarts what dies.
//!
//! Knows: which processes there are and how long a restart waits. Refuses to know: what they do. One task per process,
//! each owning its child; all end within [`STOP_LIMIT`] of a shutdown.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::{Config, Shutdown};

/// A first restart is quick: a crash must cost less than a lease.
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
/// A process that cannot start is tried this often for ever: the cause may go away (a full disk, a port in use).
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// After running this long the next restart is quick again.
const STEADY: Duration = Duration::from_secs(30);
/// Children get this long to drain before they are killed; the whole of `run` ends within 3 s.
const STOP_LIMIT: Duration = Duration::from_millis(2_000);

/// Leading arguments of the own executable before the process name, set by a program that has this one inside.
pub const SELF_ARGS: &str = "BCP_SELF_ARGS";
/// Set for children: they die when their parent does.
pub const DIE_WITH_PARENT: &str = "BCP_DIE_WITH_PARENT";

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("failed to find the own executable")]
    Executable(#[source] std::io::Error),
}

/// Runs decide, serve, mirror and, where configured, the broker, until `shutdown`.
pub async fn run(config: Arc<Config>, shutdown: Shutdown) -> Result<(), SuperviseError> {
    let program = Arc::new(Program::own(&config)?);
    let mut names = vec!["decide", "serve", "mirror"];
    if config.mqtt.embedded.is_some() {
        names.insert(0, "broker");
    }
    // Polled here, on the thread that outlives all children: the kernel ties a child's parent-death signal to the thread
    // that started it.
    let children = names.into_iter().map(|name| keep_running(Arc::clone(&program), name, shutdown.clone()));
    futures::future::join_all(children).await;
    Ok(())
}

#[derive(Debug)]
struct Program {
    executable: PathBuf,
    leading: Vec<OsString>,
    config: PathBuf,
}

impl Program {
    fn own(config: &Config) -> Result<Program, SuperviseError> {
        let executable = std::env::current_exe().map_err(SuperviseError::Executable)?;
        let leading = std::env::var(SELF_ARGS).unwrap_or_default();
        let leading = leading.split_whitespace().map(OsString::from).collect();
        Ok(Program { executable, leading, config: config.file.clone() })
    }

    fn start(&self, name: &str) -> std::io::Result<Child> {
        Command::new(&self.executable)
            .args(&self.leading)
            .arg(name)
            .arg("--config")
            .arg(&self.config)
            .env(DIE_WITH_PARENT, "1")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
    }
}

async fn keep_running(program: Arc<Program>, name: &'static str, mut shutdown: Shutdown) {
    let mut back_off = BACK_OFF_MIN;
    while !shutdown.is_requested() {
        let started = Instant::now();
        match program.start(name) {
            Ok(mut child) => {
                tokio::select! {
                    ended = child.wait() => report(name, ended, started.elapsed()),
                    () = shutdown.wait() => return stop(name, child).await,
                }
            }
            Err(cause) => tracing::error!(process = name, %cause, "cannot be started"),
        }
        back_off = if started.elapsed() >= STEADY { BACK_OFF_MIN } else { (back_off * 2).min(BACK_OFF_MAX) };
        tokio::select! {
            () = tokio::time::sleep(back_off) => {}
            () = shutdown.wait() => {}
        }
    }
}

fn report(name: &str, ended: std::io::Result<ExitStatus>, ran: Duration) {
    let ran_ms = ran.as_millis();
    match ended {
        Ok(status) => tracing::error!(process = name, %status, ran_ms, "ended by itself and is started again"),
        Err(cause) => tracing::error!(process = name, %cause, ran_ms, "lost sight of it; it is started again"),
    }
}

async fn stop(name: &str, mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_LIMIT, child.wait()).await.is_err() {
        tracing::warn!(process = name, limit = ?STOP_LIMIT, "did not stop in time and is killed");
        let _ = child.kill().await;
    }
}
