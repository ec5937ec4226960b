//! `fleet up`: starts everything and waits for Ctrl-C.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::args::UpArgs;
use super::{json, print, refuse, show};
use crate::api::Refusal;
use crate::fleet::{Fleet, UpError};
use crate::layout::{self, Layout};
use crate::ports::BasePort;
use crate::reference::{NotInstalled, Programs};
use crate::signals;

/// After this long `up` says what it still waits for, and goes on.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(100);

pub(super) async fn up(base: BasePort, args: UpArgs, is_json: bool) -> ExitCode {
    let is_fresh = args.data_dir.is_none();
    let data_dir = args.data_dir.unwrap_or_else(|| layout::throwaway_dir(base));
    let Ok(data_dir) = std::path::absolute(&data_dir) else {
        return refuse(&Refusal::new("the data directory has no name", "name one with --data-dir"));
    };
    let Ok(executable) = std::env::current_exe() else {
        return refuse(&Refusal::new("cannot find this program's own file", "is /proc mounted?"));
    };
    if let Some(mosquitto) = args.mosquitto.as_deref().filter(|path| !path.is_file()) {
        return refuse(&Refusal::new(
            format!("{} is not a program", mosquitto.display()),
            "Debian installs it as /usr/sbin/mosquitto",
        ));
    }
    let reference = match args.with_postgres.then(Programs::find).transpose() {
        Ok(reference) => reference,
        Err(fault) => return refuse(&Refusal::new(fault.to_string(), NotInstalled::HELP)),
    };
    // Handlers first: a Ctrl-C during the start must end what has been started.
    let stop = signals::stop();
    tokio::pin!(stop);
    let layout = Layout {
        data_dir: data_dir.clone(),
        base,
        executable,
        mosquitto: args.mosquitto,
        timing: args.timing.unwrap_or_default(),
        reference,
        with_servers: args.with_servers,
    };
    let fleet = match Fleet::up(layout, is_fresh).await {
        Ok(fleet) => fleet,
        Err(fault) => {
            let help = match &fault {
                UpError::Running { .. } => {
                    format!("`fleet ls --base-port {base}` shows it; --base-port starts another one beside it")
                }
                UpError::Port { .. } | UpError::Listen { .. } => "--base-port moves the whole fleet".to_owned(),
                UpError::Layout { .. } => "name a directory of your own with --data-dir".to_owned(),
                UpError::Http(_) => "is this a complete build?".to_owned(),
            };
            return refuse(&Refusal::new(format!("{:#}", anyhow::Error::from(fault)), help));
        }
    };
    if !is_json {
        print(&format!("starting three sites; files and logs in {}", data_dir.display()));
    }
    let is_ready = tokio::select! {
        () = &mut stop => false,
        () = wait_ready(&fleet, is_json) => true,
    };
    if is_ready {
        stop.await;
    }
    if !is_json {
        print("\nending all processes");
    }
    fleet.end().await;
    ExitCode::SUCCESS
}

async fn wait_ready(fleet: &Fleet, is_json: bool) {
    let begun = Instant::now();
    let mut has_complained = false;
    loop {
        let waiting = fleet.not_ready().await;
        if waiting.is_empty() {
            break;
        }
        if begun.elapsed() > READY_PATIENCE && !has_complained {
            has_complained = true;
            eprintln!(
                "warning: still waiting for {}\n  help: see {}",
                waiting.join(", "),
                fleet.layout().data_dir.join("logs").display()
            );
        }
        tokio::time::sleep(READY_POLL).await;
    }
    let took = fleet.note_ready();
    let status = fleet.status().await;
    if is_json {
        print(&json(&status));
    } else {
        print(&show::welcome(&status, took));
    }
}
