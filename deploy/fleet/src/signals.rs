//! When a process is asked to end, and whose death it does not outlive.

use tokio::signal::unix::{SignalKind, signal};

/// Set for every process that must die with its parent.
pub const DIE_WITH_PARENT: &str = "BCP_DIE_WITH_PARENT";

/// Completes at the first SIGTERM or SIGINT.
pub async fn stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // Without handlers the default action ends the process, which is as good.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Asks the kernel to kill this process when its parent dies. A parent that died before it could be asked is noticed
/// too: every process of a fleet is started by one of the same program, and an orphan is not.
pub fn die_with_parent() {
    if std::env::var_os(DIE_WITH_PARENT).is_none_or(|value| value != "1") {
        return;
    }
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    let is_ours = parent.is_some_and(|parent| program(&parent).is_some() && program(&parent) == program("self"));
    if !is_ours {
        std::process::exit(1);
    }
}
