//! A systemd unit of this host: started where the site is promoted, stopped where it is not.
//!
//! Knows: `systemctl start`, `stop`, `kill` and `show` (systemctl(1); properties of org.freedesktop.systemd1(5)). Refuses to
//! know: any unit but its own.
//!
//! A stop that systemd does not finish in time is finished with SIGKILL: `TimeoutStopSec` is 90 s by default, and a lease is
//! not that long.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::{ActError, Effect, Step, StepName};

/// systemd's own limit, UNIT_NAME_MAX.
const NAME_MAX: usize = 255;
/// How often a unit that is stopping is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Most of what systemctl says that a report carries, in bytes.
const WORDS_MAX: usize = 120;

/// As configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Systemd {
    /// `prescriptions.service`
    pub unit: String,
    #[serde(default = "default_systemctl")]
    pub systemctl: PathBuf,
}

fn default_systemctl() -> PathBuf {
    PathBuf::from("/usr/bin/systemctl")
}

/// Why a unit did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    #[error("{program} cannot be run", program = program.display())]
    Run { program: PathBuf, source: std::io::Error },
    #[error("systemctl {verb} failed ({status}): {words}")]
    Refused { verb: &'static str, status: String, words: String },
    #[error("systemctl show does not tell {property}")]
    NotTold { property: &'static str },
    #[error("it is {state} with main process {main_pid}, not stopped")]
    NotStopped { state: String, main_pid: u64 },
    #[error("it is {state} after the start, not active")]
    NotStarted { state: String },
}

/// What systemd says of the unit.
#[derive(Debug, PartialEq, Eq)]
struct State {
    active: String,
    main_pid: u64,
    control_pid: u64,
}

impl State {
    /// A unit that failed has no process any more either; systemd killed what was left.
    fn is_stopped(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed") && self.main_pid == 0 && self.control_pid == 0
    }

    fn not_stopped(self) -> SystemdError {
        SystemdError::NotStopped { state: self.active, main_pid: self.main_pid }
    }
}

impl Systemd {
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if let Some(reason) = name_fault(&self.unit) {
            faults.push(("unit".to_owned(), reason));
        }
        if !self.systemctl.is_absolute() {
            let reason = format!("{} is not an absolute path", self.systemctl.display());
            faults.push(("systemctl".to_owned(), reason));
        }
        faults
    }

    pub(super) async fn carry_out(&self, step: &Step, limit: Duration) -> Result<Effect, ActError> {
        match step.name {
            StepName::Promote => self.start(step).await,
            // A unit cannot be half stopped: it answers no reads either.
            StepName::Stop | StepName::Seal | StepName::Demote => self.stop(limit).await,
            StepName::VerifyStopped | StepName::VerifyDemoted => {
                let state = self.state().await?;
                if state.is_stopped() { Ok(done("it is stopped")) } else { Err(state.not_stopped().into()) }
            }
            StepName::Publish | StepName::Follow | StepName::Weigh => Ok(Effect::not_concerned()),
        }
    }

    async fn start(&self, step: &Step) -> Result<Effect, ActError> {
        if self.state().await?.active == "active" {
            return Ok(Effect::Already("it is active".to_owned()));
        }
        step.may_act()?;
        self.run("start", &[]).await?;
        let state = self.state().await?;
        if state.active == "active" {
            Ok(done("started"))
        } else {
            Err(SystemdError::NotStarted { state: state.active }.into())
        }
    }

    async fn stop(&self, limit: Duration) -> Result<Effect, ActError> {
        let began = Instant::now();
        if self.state().await?.is_stopped() {
            return Ok(Effect::Already("it is stopped".to_owned()));
        }
        self.run("stop", &["--no-block"]).await?;
        let mut killed = false;
        loop {
            let state = self.state().await?;
            if state.is_stopped() {
                return Ok(done(if killed { "killed" } else { "stopped" }));
            }
            if !killed && began.elapsed() >= limit / 2 {
                killed = true;
                // It may have ended by itself just now; what counts is how it is found.
                if let Err(error) = self.run("kill", &["--signal=SIGKILL"]).await {
                    tracing::warn!(%error, unit = self.unit, "cannot be killed");
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn state(&self) -> Result<State, SystemdError> {
        let text = self.run("show", &["--property=ActiveState", "--property=MainPID", "--property=ControlPID"]).await?;
        parse(&text)
    }

    async fn run(&self, verb: &'static str, options: &[&str]) -> Result<String, SystemdError> {
        let output = Command::new(&self.systemctl)
            .args(["--no-pager", "--no-ask-password", verb])
            .args(options)
            .args(["--", &self.unit])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| SystemdError::Run { program: self.systemctl.clone(), source })?;
        if !output.status.success() {
            let words: String = String::from_utf8_lossy(&output.stderr).chars().take(WORDS_MAX).collect();
            let (status, words) = (output.status.to_string(), words.trim().to_owned());
            return Err(SystemdError::Refused { verb, status, words });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn done(what: &str) -> Effect {
    Effect::Done(what.to_owned())
}

fn parse(text: &str) -> Result<State, SystemdError> {
    let find = |property: &'static str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(name, _)| *name == property).map(|(_, value)| value.trim());
        found.filter(|value| !value.is_empty()).ok_or(SystemdError::NotTold { property })
    };
    let pid = |property| find(property)?.parse().map_err(|_| SystemdError::NotTold { property });
    Ok(State {
        active: find("ActiveState")?.to_owned(),
        main_pid: pid("MainPID")?,
        // Absent of units that are not loaded.
        control_pid: pid("ControlPID").unwrap_or(0),
    })
}

/// systemd.unit(5), and services only: other units have no main process to look for.
fn name_fault(unit: &str) -> Option<String> {
    let Some(stem) = unit.strip_suffix(".service") else {
        return Some(format!("`{unit}` is not a service unit, as prescriptions.service"));
    };
    if unit.len() > NAME_MAX || stem.is_empty() {
        return Some(format!("`{unit}` is not a unit's name: 1 to {NAME_MAX} characters"));
    }
    if stem.starts_with(['-', '.']) || !stem.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c)) {
        return Some(format!("`{unit}` is not a unit's name: letters, digits and : - _ . \\ @ only"));
    }
    if stem.ends_with('@') {
        return Some(format!("`{unit}` is a template; name an instance of it, as {stem}1.service"));
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{State, Systemd, name_fault, parse};

    #[test]
    fn what_systemd_says_is_understood() {
        let state = |text: &str| parse(text).unwrap();
        let running = state("ActiveState=active\nMainPID=412\nControlPID=0\n");
        assert_eq!(running, State { active: "active".to_owned(), main_pid: 412, control_pid: 0 });
        for (text, stopped) in [
            ("ActiveState=inactive\nMainPID=0\nControlPID=0\n", true),
            ("ActiveState=failed\nMainPID=0\nControlPID=0\n", true),
            ("ActiveState=deactivating\nMainPID=0\nControlPID=0\n", false),
            ("ActiveState=inactive\nMainPID=412\nControlPID=0\n", false),
            ("ActiveState=failed\nMainPID=0\nControlPID=413\n", false),
            ("ActiveState=activating\nMainPID=0\nControlPID=0\n", false),
        ] {
            assert_eq!(state(text).is_stopped(), stopped, "{text}");
        }
        for text in ["", "ActiveState=inactive\n", "ActiveState=\nMainPID=0\n", "MainPID=none\nActiveState=inactive\n"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_units_are_checked() {
        for unit in ["rx.service", "postgresql@15-main.service", "a\\x2db.service"] {
            assert_eq!(name_fault(unit), None);
        }
        for unit in ["", ".service", "rx", "rx.target", "-H.service", "r x.service", "rx@.service", "a/b.service"] {
            assert!(name_fault(unit).is_some(), "{unit}");
        }
        assert!(name_fault(&format!("{}.service", "x".repeat(NAME)).to_owned()).is_some());
        let systemd = Systemd { unit: "rx".to_owned(), systemctl: "systemctl".into() };
        assert_eq!(systemd.faults().len(), 2);
    }

    const NAME: usize = super::NAME_MAX;
}
