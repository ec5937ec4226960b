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

/// Asks the kernel to kill this process when its parent dies; ends at once where the parent is dead already.
pub fn die_with_parent() {
    if std::env::var_os(DIE_WITH_PARENT).is_none_or(|value| value != "1") {
        return;
    }
    let parent_before = rustix::process::getppid();
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if rustix::process::getppid() != parent_before {
        std::process::exit(1);
    }
}
