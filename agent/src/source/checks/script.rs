//! A program as a check: exit 0 up, 1 degraded, anything else down, as monitoring plugins have it. The first line it
//! writes is the reason.
//!
//! It runs in a process group of its own, which is killed whole at the time limit or when the agent lets go of it.

use std::process::Stdio;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{Tried, cause};
use crate::config::ScriptProbe;

/// Most output that is read; more is thrown away.
const MAX_OUTPUT_BYTES: u64 = 4 * 1024;
/// Most of its first line that is told.
const MAX_REASON_CHARS: usize = 160;

/// Kills the whole group unless it ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

pub async fn try_once(probe: &ScriptProbe) -> Tried {
    let start = Instant::now();
    let Some((program, arguments)) = probe.command.split_first() else {
        return Tried::down("there is no program".to_owned());
    };
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Tried::down(format!("cannot be started: {}", cause(&error))),
    };
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut group = Group(pid);
    let stdout = child.stdout.take();
    let run = async {
        let mut output = Vec::new();
        if let Some(mut stdout) = stdout {
            (&mut stdout).take(MAX_OUTPUT_BYTES).read_to_end(&mut output).await?;
            // Somebody has to read the rest, or the program waits for ever.
            tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, output))
    };
    let (status, output) = match tokio::time::timeout(probe.timeout, run).await {
        Err(_) => return Tried::down(format!("killed after {:?}", probe.timeout)),
        Ok(Err(error)) => return Tried::down(cause(&error)),
        Ok(Ok(ended)) => ended,
    };
    group.0 = None;
    let latency = Some(start.elapsed());
    let text = String::from_utf8_lossy(&output);
    let line: String =
        text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect();
    let reason = |how: String| if line.is_empty() { how } else { format!("{how}: {line}") };
    let mut tried = match status.code() {
        Some(0 | 1) => Tried::up(),
        Some(code) => Tried::down(reason(format!("exit {code}"))),
        None => Tried::down(reason("ended by a signal".to_owned())),
    };
    if status.code() == Some(1) {
        tried.degrade(reason("exit 1".to_owned()));
    }
    Tried { latency, ..tried }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn shell(text: &str) -> Tried {
        let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
        try_once(&ScriptProbe { command, timeout: Duration::from_secs(2) }).await
    }

    #[tokio::test]
    async fn exit_codes_are_states() {
        let up = shell("echo fine").await;
        assert_eq!((up.state(), up.trouble), ("up", None));
        let degraded = shell("echo slow; exit 1").await;
        assert_eq!((degraded.state(), degraded.trouble.as_deref()), ("degraded", Some("exit 1: slow")));
        let down = shell("printf 'no\\tdisk\\nmore'; exit 2").await;
        assert_eq!((down.state(), down.trouble.as_deref()), ("down", Some("exit 2: nodisk")));
        let command = vec!["/no/such/program".to_owned()];
        let none = try_once(&ScriptProbe { command, timeout: Duration::from_secs(1) }).await;
        assert!(none.trouble.unwrap().contains("cannot be started"));
    }

    #[tokio::test]
    async fn a_flood_and_a_hang_end() {
        assert_eq!(shell("yes | head -c 1000000").await.state(), "up");
        let start = Instant::now();
        let command = ["/bin/sh", "-c", "sleep 30 & sleep 30"].map(str::to_owned).to_vec();
        let hung = try_once(&ScriptProbe { command, timeout: Duration::from_millis(200) }).await;
        assert!(hung.trouble.unwrap().contains("killed after"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
