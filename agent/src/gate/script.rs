//! Actuator: a program that carries out one step.
//!
//! Called with `BCP_TICKET BCP_EPOCH BCP_STEP BCP_SITE BCP_HOLDER BCP_DEADLINE BCP_PARAMS BCP_KEY BCP_LIMIT` in its
//! environment, in a process group of its own. Exit 0 done, 10 nothing had to be done, 20 refused for good, anything else failed. Steps: `stop
//! seal promote publish follow weigh verify-stopped`, and with `loss = "demote"` `demote verify-demoted` in place of `stop
//! verify-stopped`. `BCP_DEADLINE`: end of the lease, milliseconds of CLOCK_BOOTTIME; empty
//! where none is needed. `BCP_KEY`: idempotency key of the order; empty for stops. `BCP_LIMIT`: milliseconds that
//! the step may take. The program is the operator's, or this one
//! ([`crate::act`]).
//!
//! A started program waits at a gate of its own (a line on its standard input) until its process group is known to the
//! warden and the lease was looked at once more. If this process dies before that, the line never comes and the program
//! ends without having begun.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bcp_wire::control::StepOutcome;
use bcp_wire::{Epoch, Id, Site};

use super::config::Loss;
use super::record::BootMs;
use super::store::ProcessMark;

const DONE: i32 = 0;
const ALREADY: i32 = 10;
const VETO: i32 = 20;
/// Waits for the line; then the program takes the shell's place, so the group has one leader throughout.
const WAIT_FOR_GO: &str = r#"read -r go && [ "$go" = go ] || exit 111; exec "$@""#;
const POLL: Duration = Duration::from_millis(10);
/// Most of a step's last line of output that a report carries, in bytes.
const DETAIL_MAX: usize = 200;

/// The program of one ticket.
#[derive(Debug, Clone)]
pub struct Script {
    pub argv: Vec<String>,
    pub ticket: Id,
    pub site: Site,
    /// Which steps a stop is.
    pub loss: Loss,
    pub log: PathBuf,
    /// What stops say; not on a disk.
    pub stop_log: PathBuf,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    pub step: &'static str,
    pub epoch: Epoch,
    pub holder: Option<Site>,
    pub deadline: Option<BootMs>,
    /// JSON object.
    pub params: String,
    /// Of the order; stops that nobody ordered have none.
    pub key: String,
}

/// A program that waits for [`Running::go`] or runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    go: Option<ChildStdin>,
    mark: ProcessMark,
    began: Instant,
    /// What it says, where a disk takes it.
    log: Option<PathBuf>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub outcome: StepOutcome,
    pub detail: Option<String>,
    pub took_ms: u64,
}

impl Script {
    /// Starts the program up to its gate.
    ///
    /// # Errors
    /// It cannot be started at all.
    pub fn start(&self, call: &Call, limit: Duration) -> io::Result<Running> {
        // A service must be stopped also where no disk takes a word: then what the program says is lost, and no more.
        let (log, stdout, stderr) = match self.output() {
            Ok((stdout, stderr)) => (Some(self.log.clone()), stdout, stderr),
            Err(error) => {
                tracing::warn!(%error, ticket = %self.ticket, step = call.step, "what this step says is not kept");
                (None, Stdio::null(), Stdio::null())
            }
        };
        let holder = call.holder.map(|site| site.to_string()).unwrap_or_default();
        let deadline = call.deadline.map(|deadline| deadline.0.to_string()).unwrap_or_default();
        let mut child = Command::new("/bin/sh")
            .args(["-c", WAIT_FOR_GO, "step"])
            .args(&self.argv)
            .env("BCP_TICKET", self.ticket.as_str())
            .env("BCP_EPOCH", call.epoch.to_string())
            .env("BCP_STEP", call.step)
            .env("BCP_SITE", self.site.as_str())
            .env("BCP_HOLDER", holder)
            .env("BCP_DEADLINE", deadline)
            .env("BCP_PARAMS", &call.params)
            .env("BCP_KEY", &call.key)
            .env("BCP_LIMIT", limit.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()?;
        let go = child.stdin.take();
        let mark = i32::try_from(child.id()).ok().and_then(ProcessMark::of);
        let Some(mark) = mark else {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other("the step's process cannot be identified"));
        };
        Ok(Running { child, go, mark, began: Instant::now(), log })
    }

    fn output(&self) -> io::Result<(Stdio, Stdio)> {
        let mut log = OpenOptions::new().create(true).write(true).truncate(true).open(&self.log)?;
        // A full disk opens a file all the same, and then fails the program's first word.
        log.write_all(b"\n")?;
        Ok((log.try_clone()?.into(), log.into()))
    }

    /// Starts, lets go and waits. For stops, which need no lease.
    #[must_use]
    pub fn run(&self, call: &Call, limit: Duration) -> Ended {
        let begun = self.start(call, limit).and_then(|mut running| running.go().map(|()| running));
        match begun {
            Ok(running) => running.wait(limit),
            Err(error) => {
                Ended { outcome: StepOutcome::Failed, detail: Some(format!("cannot be started: {error}")), took_ms: 0 }
            }
        }
    }

    /// Stops and looks whether it is stopped, both within `limit`: the lease arithmetic counts with one `stop_max`.
    /// A stop that hangs is killed while there is time left to look, for the service may be stopped all the same.
    #[must_use]
    pub fn stop_and_verify(&self, epoch: Epoch, holder: Option<Site>, limit: Duration) -> Ended {
        let call = |step| Call { step, epoch, holder, deadline: None, params: "{}".to_owned(), key: String::new() };
        let (stop, verify) = takedown(self.loss);
        let script = Script { log: self.stop_log.clone(), ..self.clone() };
        let began = Instant::now();
        let stopped = script.run(&call(stop), limit / 4 * 3);
        let mut verified = script.run(&call(verify), limit.saturating_sub(began.elapsed()));
        if !succeeded(verified.outcome) && !succeeded(stopped.outcome) {
            verified.detail = stopped.detail.or(verified.detail);
        }
        verified
    }
}

/// The step that takes a service down, and the one that looks whether it is down.
const fn takedown(loss: Loss) -> (&'static str, &'static str) {
    match loss {
        Loss::Demote => ("demote", "verify-demoted"),
        Loss::Stop | Loss::Fence | Loss::Freeze => ("stop", "verify-stopped"),
    }
}

/// Done, or nothing had to be done.
#[must_use]
pub const fn succeeded(outcome: StepOutcome) -> bool {
    matches!(outcome, StepOutcome::Done | StepOutcome::Already)
}

impl Running {
    #[must_use]
    pub const fn mark(&self) -> ProcessMark {
        self.mark
    }

    /// Lets the program begin.
    ///
    /// # Errors
    /// It is gone already.
    pub fn go(&mut self) -> io::Result<()> {
        let mut pipe = self.go.take().ok_or_else(|| io::Error::other("begun before"))?;
        pipe.write_all(b"go\n")
    }

    /// Waits until it ends or `limit` has passed since its start; then its whole group is killed.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Ended {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return self.ended(status),
                Ok(None) if self.began.elapsed() < limit => std::thread::sleep(POLL),
                Ok(None) => {
                    self.kill();
                    let detail = format!("killed after {} ms", limit.as_millis());
                    return Ended { outcome: StepOutcome::Failed, detail: Some(detail), took_ms: self.took_ms() };
                }
                Err(error) => {
                    self.kill();
                    let detail = Some(error.to_string());
                    return Ended { outcome: StepOutcome::Failed, detail, took_ms: self.took_ms() };
                }
            }
        }
    }

    /// Kills the whole group.
    pub fn kill(&mut self) {
        self.mark.kill_group();
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "a killed step cannot be reaped");
        }
    }

    fn took_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        let outcome = match status.code() {
            Some(DONE) => StepOutcome::Done,
            Some(ALREADY) => StepOutcome::Already,
            Some(VETO) => StepOutcome::Vetoed,
            Some(_) | None => StepOutcome::Failed,
        };
        let detail = if succeeded(outcome) { None } else { Some(self.explain(status)) };
        Ended { outcome, detail, took_ms: self.took_ms() }
    }

    fn explain(&self, status: ExitStatus) -> String {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let output = self.log.as_ref().and_then(|log| std::fs::read(log).ok()).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        let last: String = output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").chars().collect();
        let mut end = last.len().min(DETAIL_MAX);
        while !last.is_char_boundary(end) {
            end -= 1;
        }
        if end == 0 { how } else { format!("{how}: {}", &last[..end]) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use bcp_wire::control::StepOutcome;

    use super::{Call, Loss, Script};
    use crate::gate::record::BootMs;

    fn script(name: &str, text: &str) -> Script {
        let log = std::env::temp_dir().join(format!("bcp-script-{name}-{}", std::process::id()));
        let argv = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        let stop_log = log.with_extension("stop");
        Script { argv, ticket: "rx".parse().unwrap(), site: bcp_wire::Site::A, loss: Loss::Stop, log, stop_log }
    }

    fn call() -> Call {
        let epoch = "1.4".parse().unwrap();
        Call {
            step: "promote",
            epoch,
            holder: None,
            deadline: Some(BootMs(7)),
            params: "{}".to_owned(),
            key: "k".to_owned(),
        }
    }

    #[test]
    fn exits_and_environment() {
        let limit = Duration::from_secs(5);
        for (text, outcome) in [
            ("[ $BCP_STEP-$BCP_EPOCH-$BCP_SITE-$BCP_DEADLINE-$BCP_LIMIT = promote-1.4-a-7-5000 ]", StepOutcome::Done),
            ("exit 10", StepOutcome::Already),
            ("exit 20", StepOutcome::Vetoed),
            ("echo no such thing >&2; exit 3", StepOutcome::Failed),
        ] {
            let ended = script("exits", text).run(&call(), limit);
            assert_eq!(ended.outcome, outcome, "{text}: {ended:?}");
            if outcome == StepOutcome::Failed {
                assert_eq!(ended.detail.as_deref(), Some("exit 3: no such thing"));
            }
        }
    }

    #[test]
    fn a_demotion_is_verified_as_one() {
        let mut script = script("demote", "[ $BCP_STEP = demote -o $BCP_STEP = verify-demoted ]");
        let stop = || script.stop_and_verify("1.4".parse().unwrap(), None, Duration::from_secs(5)).outcome;
        assert_eq!(stop(), StepOutcome::Failed);
        script.loss = Loss::Demote;
        let ended = script.stop_and_verify("1.4".parse().unwrap(), None, Duration::from_secs(5));
        assert_eq!(ended.outcome, StepOutcome::Done, "{ended:?}");
    }

    #[test]
    fn a_stop_needs_no_disk() {
        let mut script = script("no-disk", "echo stopping && [ $BCP_STEP = stop -o $BCP_STEP = verify-stopped ]");
        // A disk that hangs: whoever opens this for writing waits for ever.
        let hangs = script.log.with_extension("fifo");
        let _ = std::fs::remove_file(&hangs);
        assert!(std::process::Command::new("mkfifo").arg(&hangs).status().unwrap().success());
        script.log = hangs.clone();
        let ended = script.stop_and_verify("1.4".parse().unwrap(), None, Duration::from_secs(5));
        assert_eq!(ended.outcome, StepOutcome::Done, "{ended:?}");
        std::fs::remove_file(hangs).unwrap();
        script.stop_log = "/proc/self/no-such-place/log".into();
        let ended = script.stop_and_verify("1.4".parse().unwrap(), None, Duration::from_secs(5));
        assert_eq!(ended.outcome, StepOutcome::Done, "{ended:?}");
        script.stop_log = "/dev/full".into();
        let ended = script.stop_and_verify("1.4".parse().unwrap(), None, Duration::from_secs(5));
        assert_eq!(ended.outcome, StepOutcome::Done, "{ended:?}");
    }

    #[test]
    fn nothing_begins_before_go() {
        let mark = std::env::temp_dir().join(format!("bcp-script-began-{}", std::process::id()));
        let script = script("go", &format!("touch {}", mark.display()));
        let running = script.start(&call(), Duration::from_secs(5)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(!mark.exists());
        // As when the gate dies: the pipe closes.
        let super::Running { mut child, go, .. } = running;
        drop(go);
        assert_eq!(child.wait().unwrap().code(), Some(111));
        assert!(!mark.exists());
    }

    #[test]
    fn a_stop_that_hangs_leaves_time_to_look() {
        let limit = Duration::from_secs(4);
        let stop = |verify: &str| {
            let text = format!("[ $BCP_STEP = stop ] && exec sleep 60; {verify}");
            script("hangs", &text).stop_and_verify("1.4".parse().unwrap(), None, limit)
        };
        assert_eq!(stop("exit 0").outcome, StepOutcome::Done);
        let ended = stop("exec sleep 60");
        assert_eq!((ended.outcome, ended.detail.as_deref()), (StepOutcome::Failed, Some("killed after 3000 ms")));
        assert!(u128::from(ended.took_ms) < limit.as_millis() / 2, "looking had the rest, not all of it: {ended:?}");
    }

    #[test]
    fn a_timeout_kills_the_whole_group() {
        let pid_file = std::env::temp_dir().join(format!("bcp-script-pid-{}", std::process::id()));
        let script = script("timeout", &format!("sleep 60 & echo $! > {}; wait", pid_file.display()));
        let ended = script.run(&call(), Duration::from_secs(2));
        assert_eq!(ended.outcome, StepOutcome::Failed);
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            state().is_empty() || state().contains(" Z ")
        });
        assert!(gone, "the grandchild lives");
    }
}
