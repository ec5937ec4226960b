//! The processes of the fleet: started, watched and restarted as an init system would.
//!
//! Knows: what to start, what is up, what shall be up. Refuses to know: what the processes do.
//! Tasks: one per unit, which owns its child process.
//! Invariants: at most one process per unit; a child dies with the fleet (the kernel sees to it); a unit that shall be
//! down is not restarted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bcp_wire::Site;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// From a death to the next start; doubles with every death in quick succession.
const RESTART_AFTER: Duration = Duration::from_millis(300);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(5);
/// A process that lived this long was well: the next restart is quick again.
const WELL_AFTER: Duration = Duration::from_secs(20);
/// From SIGTERM to SIGKILL. Everything drains within 3 s.
const GRACE: Duration = Duration::from_millis(3_500);

/// What starts a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(String, OsString)>,
    /// Another user's and group's number, where it has no need of root's rights.
    pub user: Option<(u32, u32)>,
}

/// How a unit is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    /// SIGTERM, and SIGKILL where that does not help.
    Gently,
    /// As a power cut would.
    Killed,
}

#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Up(Start),
    Down(Down),
}

/// What a unit is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    #[default]
    Down,
    Running,
    Paused,
    /// Died, and is about to be started again.
    Restarting,
}

#[derive(Debug, Clone, Default)]
struct Now {
    health: Health,
    pid: Option<u32>,
    restarts: u32,
}

/// One process that is kept up.
#[derive(Debug)]
pub struct Unit {
    pub name: String,
    pub site: Site,
    log: PathBuf,
    wanted: watch::Sender<Wanted>,
    now: Mutex<Now>,
    /// Changes with every change of `now`.
    changed: watch::Sender<u64>,
}

/// One line of `fleet ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub site: Site,
    pub state: Health,
    pub pid: Option<u32>,
    pub restarts: u32,
}

impl Unit {
    /// A unit that is down; its task runs until the fleet ends.
    #[must_use]
    pub fn new(name: String, site: Site, log: PathBuf) -> Arc<Unit> {
        let unit = Arc::new(Unit {
            name,
            site,
            log,
            wanted: watch::channel(Wanted::Down(Down::Gently)).0,
            now: Mutex::default(),
            changed: watch::channel(0).0,
        });
        tokio::spawn(Arc::clone(&unit).keep());
        unit
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Now)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Shall run, as `start` says. A process started otherwise is replaced, gently or not.
    pub fn up(&self, start: Start) {
        self.wanted.send_if_modified(|wanted| {
            let next = Wanted::Up(start);
            let is_new = *wanted != next;
            *wanted = next;
            is_new
        });
    }

    pub fn down(&self) {
        self.wanted.send_replace(Wanted::Down(Down::Gently));
    }

    pub fn kill_and_stay_down(&self) {
        self.wanted.send_replace(Wanted::Down(Down::Killed));
    }

    /// True where exactly this start is wanted now.
    #[must_use]
    pub fn is_wanted(&self, start: &Start) -> bool {
        matches!(&*self.wanted.borrow(), Wanted::Up(wanted) if wanted == start)
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().pid
    }

    #[must_use]
    pub fn process(&self) -> Process {
        let now = self.lock().clone();
        Process { name: self.name.clone(), site: self.site, state: now.health, pid: now.pid, restarts: now.restarts }
    }

    pub fn mark_paused(&self, is_paused: bool) {
        self.set(|now| match (now.health, is_paused) {
            (Health::Running, true) => now.health = Health::Paused,
            (Health::Paused, false) => now.health = Health::Running,
            _ => {}
        });
    }

    /// Waits until the unit has no process.
    pub async fn wait_down(&self) {
        let mut changed = self.changed.subscribe();
        while self.pid().is_some() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn keep(self: Arc<Self>) {
        let mut wanted = self.wanted.subscribe();
        let mut pause = RESTART_AFTER;
        loop {
            let start = match &*wanted.borrow_and_update() {
                Wanted::Up(start) => Some(start.clone()),
                Wanted::Down(_) => None,
            };
            let Some(start) = start else {
                self.set(|now| (now.health, now.pid) = (Health::Down, None));
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let begun = Instant::now();
            match self.spawn(&start) {
                Ok(mut child) => {
                    let pid = child.id();
                    self.set(|now| (now.health, now.pid) = (Health::Running, pid));
                    tokio::select! {
                        status = child.wait() => {
                            tracing::warn!(unit = self.name, ?status, "ended by itself; see {}", self.log.display());
                        }
                        _ = wanted.changed() => {
                            let how = match &*wanted.borrow() {
                                Wanted::Down(how) => *how,
                                Wanted::Up(_) => Down::Gently,
                            };
                            end(&mut child, how).await;
                            self.set(|now| (now.health, now.pid) = (Health::Down, None));
                            pause = RESTART_AFTER;
                            continue;
                        }
                    }
                }
                Err(fault) => tracing::error!(unit = self.name, %fault, "cannot be started"),
            }
            self.set(|now| {
                (now.health, now.pid) = (Health::Restarting, None);
                now.restarts = now.restarts.saturating_add(1);
            });
            if begun.elapsed() > WELL_AFTER {
                pause = RESTART_AFTER;
            }
            let _ = tokio::time::timeout(pause, wanted.changed()).await;
            pause = (pause * 2).min(RESTART_AFTER_MAX);
        }
    }

    fn spawn(&self, start: &Start) -> std::io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&start.program);
        if let Some((uid, gid)) = start.user {
            command.uid(uid).gid(gid);
        }
        command
            .args(&start.args)
            .envs(start.env.iter().map(|(key, value)| (key, value)))
            .env(crate::signals::DIE_WITH_PARENT, "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C goes to the fleet alone, which then ends its units in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

async fn end(child: &mut Child, how: Down) {
    if how == Down::Gently {
        if let Some(pid) = child.id() {
            signal(pid, Signal::TERM);
            // A stopped process takes SIGTERM only when it goes on.
            signal(pid, Signal::CONT);
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_ok() {
            return;
        }
    }
    let _ = child.kill().await;
}

/// Sends a signal to one process; a process that is gone is no fault.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// All processes below these, by what the kernel says now, parents first.
#[must_use]
pub fn descendants(roots: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in parentheses may itself hold any character; the parent is the second field after it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found: Vec<u32> = roots.to_vec();
    let mut at = 0;
    while at < found.len() {
        found.extend(children.get(&found[at]).into_iter().flatten());
        at += 1;
    }
    found.split_off(roots.len())
}

/// Arguments of a process.
#[must_use]
pub fn arguments(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Start {
        Start { program: "sleep".into(), args: vec!["600".into()], env: Vec::new(), user: None }
    }

    async fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_killed_process_is_restarted_and_a_stopped_unit_is_not() {
        let log = std::env::temp_dir().join(format!("bcp-fleet-unit-{}.log", std::process::id()));
        let unit = Unit::new("a/test".to_owned(), Site::A, log.clone());
        unit.up(sleeper());
        let first = wait_for("a process", || unit.pid()).await;
        assert!(descendants(&[std::process::id()]).contains(&first));
        // It has its own only once it has become the program.
        let argument =
            wait_for("its argument", || arguments(first).get(1).cloned().filter(|text| !text.is_empty())).await;
        assert_eq!(argument, "600");
        signal(first, Signal::KILL);
        let second = wait_for("another process", || unit.pid().filter(|pid| *pid != first)).await;
        assert_eq!(unit.process().restarts, 1);
        unit.kill_and_stay_down();
        unit.wait_down().await;
        tokio::time::sleep(RESTART_AFTER * 2).await;
        assert_eq!(unit.process().state, Health::Down);
        assert!(!std::path::Path::new(&format!("/proc/{second}")).exists());
        let _ = std::fs::remove_file(log);
    }
}
