//! The command line: `fleet up`, orders to a running fleet, and every process of the fleet as a hidden subcommand.

mod args;
mod show;
mod up;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use bcp_wire::Site;
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use self::args::{Base, Cli, Command, DeviceCommand, Role, UpArgs};
use self::up::up;
use crate::api::{Action, Client, Done, LinkOrder, Refusal, TargetOrder};
use crate::devices::{Addressed, Order};
use crate::fleet::application::mourn;
use crate::layout::{self, Layout, OPERATORS, Timing};
use crate::ports::BasePort;
use crate::service::step::{Orders, Step};
use crate::service::{self, Want};
use crate::{devices, signals};

/// sysexits.h EX_USAGE.
const EXIT_USAGE: u8 = 64;
/// A service that was told to be active under a superseded epoch.
const EXIT_VETO: u8 = 20;
/// Two cores run about thirty processes: one fleet process needs no more.
const WORKER_THREADS: usize = 2;

/// Runs the command line and returns its exit code: 0 done, 1 could not, 64 not understood.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    // A step belongs to its gate and warden, which end it themselves; the thread that started it may be gone by then.
    if args.get(1).is_none_or(|first| first != "service-step" && first != "act") {
        signals::die_with_parent();
    }
    // Handed on as they are: these have command lines of their own.
    let (base, rest) = without_base_port(&args);
    let passed = rest.first().and_then(|first| first.to_str()).unwrap_or("").to_owned();
    if matches!(passed.as_str(), "agent" | "act" | "collector" | "ctl") {
        let name: &str = match passed.as_str() {
            "agent" | "act" => "bcp-agent",
            "collector" => "bcp-collector",
            _ => "bcpctl",
        };
        // A gate runs the steps of built-in actuators by its own program, which is this one: `fleet act ...`.
        let given = if passed == "act" { rest.clone() } else { rest[1..].to_vec() };
        let rest = std::iter::once(OsString::from(name)).chain(given.clone());
        return match passed.as_str() {
            "agent" | "act" => bcp_agent::cli::main(rest),
            "collector" => bcp_collector::cli::main(rest),
            _ => bcp_collector::ctl::main(rest.chain(operator_defaults(base, &given))),
        };
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(fault) => {
            let _ = fault.print();
            return ExitCode::from(if fault.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    crate::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(fault) => refuse(&Refusal::new(format!("cannot start: {fault}"), "are there threads and memory left?")),
    }
}

/// `fleet ctl` talks to a running fleet as its first operator, unless told otherwise.
fn operator_defaults(base: Option<Base>, given: &[OsString]) -> Vec<OsString> {
    let says = |names: &[&str]| {
        given
            .iter()
            .filter_map(|argument| argument.to_str())
            .any(|argument| names.iter().any(|name| argument == *name || argument.starts_with(&format!("{name}="))))
    };
    let is_set = |name: &str| std::env::var_os(name).is_some();
    // Without an order bcpctl prints its help.
    if given.is_empty() || says(&["--help", "-h", "--version", "-V", "help", "completions"]) {
        return Vec::new();
    }
    let from_env = || std::env::var("BCP_FLEET_BASE_PORT").ok().and_then(|text| text.parse().ok());
    let base = base.or_else(from_env).unwrap_or_default().0;
    let mut more = Vec::new();
    if !says(&["--url"]) && !is_set("BCPCTL_URL") {
        let port = base.site(Site::W, crate::ports::Port::Control);
        more.extend(["--url".into(), format!("https://127.0.0.1:{port}").into()]);
    }
    if !says(&["--credentials", "--ca"]) && !is_set("BCPCTL_CREDENTIALS") {
        more.extend(["--credentials".into(), running_dir(base).join("pki").into_os_string()]);
        if !says(&["--operator"]) {
            more.extend(["--operator".into(), OPERATORS[0].into()]);
        }
    }
    more
}

/// Directory of the fleet that runs on this base port; where none answers, the one it would have.
fn running_dir(base: BasePort) -> PathBuf {
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build().ok().and_then(|runtime| {
        let client = Client::new(base).ok()?;
        runtime.block_on(client.status()).ok()
    });
    asked.map_or_else(|| layout::throwaway_dir(base), |status| PathBuf::from(status.data_dir))
}

/// The arguments behind the program's name without `--base-port`, and its value.
fn without_base_port(args: &[OsString]) -> (Option<Base>, Vec<OsString>) {
    let mut base = None;
    let mut rest = Vec::new();
    let mut left = args.iter().skip(1);
    while let Some(argument) = left.next() {
        let text = argument.to_str().unwrap_or("");
        if text == "--base-port" {
            base = left.next().and_then(|value| value.to_str()?.parse().ok()).or(base);
        } else if let Some(value) = text.strip_prefix("--base-port=") {
            base = value.parse().ok().or(base);
        } else {
            rest.push(argument.clone());
        }
    }
    (base, rest)
}

fn refuse(refusal: &Refusal) -> ExitCode {
    eprintln!("error: {}\n  help: {}", refusal.error, refusal.help);
    ExitCode::FAILURE
}

fn start_log() {
    let filter = EnvFilter::try_from_env("BCP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}

async fn run(cli: Cli) -> ExitCode {
    let base = cli.base_port.0;
    let done = match cli.command {
        None => return up(base, cli.up, cli.json).await,
        Some(Command::Up(args)) => {
            let args = UpArgs {
                data_dir: args.data_dir.or(cli.up.data_dir),
                mosquitto: args.mosquitto.or(cli.up.mosquitto),
                with_postgres: args.with_postgres || cli.up.with_postgres,
                with_servers: args.with_servers || cli.up.with_servers,
                timing: args.timing.or(cli.up.timing),
            };
            return up(base, args, cli.json).await;
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "fleet", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        Some(Command::Devices { site }) => return serve_devices(site, base).await,
        Some(Command::Service { service, site, role, epoch, data_dir }) => {
            let want = match role {
                Role::Standby => Want::Standby,
                Role::Active => Want::Active,
            };
            return serve_service(service::Start { service, site, base, data_dir, want, epoch }).await;
        }
        Some(Command::ServiceStep { service, site, data_dir }) => {
            let step = Step { service, site, base, data_dir };
            return match Orders::from_env(std::env::vars()) {
                Ok(orders) => step.run(&orders).await.report(),
                Err(fault) => refuse(&Refusal::new(fault, "this command is for gates")),
            };
        }
        Some(Command::Mourn { data_dir }) => {
            let (executable, timing) = (PathBuf::new(), Timing::default());
            let layout =
                Layout { data_dir, base, executable, mosquitto: None, timing, reference: None, with_servers: false };
            mourn(&layout);
            return ExitCode::SUCCESS;
        }
        Some(Command::Ls) => list(base, cli.json).await,
        Some(Command::Cut { link, one_way }) => {
            ask(base, "link", &LinkOrder::Cut { from: link.0, to: link.1, one_way }, cli.json).await
        }
        Some(Command::Heal { link }) => {
            ask(base, "link", &LinkOrder::Heal { link: link.map(|link| (link.0, link.1)) }, cli.json).await
        }
        Some(Command::Delay { link, ms, jitter, one_way }) => {
            let order = LinkOrder::Delay { from: link.0, to: link.1, ms, jitter_ms: jitter, one_way };
            ask(base, "link", &order, cli.json).await
        }
        Some(Command::Lose { link, percent, one_way }) => {
            let order = LinkOrder::Lose { from: link.0, to: link.1, percent, one_way };
            ask(base, "link", &order, cli.json).await
        }
        Some(Command::Kill { target }) => aim(base, Action::Kill, target, cli.json).await,
        Some(Command::Stop { target }) => aim(base, Action::Stop, target, cli.json).await,
        Some(Command::Hang { target }) => aim(base, Action::Hang, target, cli.json).await,
        Some(Command::Start { target }) => aim(base, Action::Start, target, cli.json).await,
        Some(Command::Pause { target }) => aim(base, Action::Pause, target, cli.json).await,
        Some(Command::Resume { target }) => aim(base, Action::Resume, target, cli.json).await,
        Some(Command::Device { name, order }) => {
            let order = match order {
                DeviceCommand::Set { point, value } => Order::Set { point, value },
                DeviceCommand::Clear { point } => Order::Clear { point },
                DeviceCommand::Event { event } => Order::Event { event },
                DeviceCommand::Fault { fault } => Order::Fault { fault },
            };
            ask(base, "device", &Addressed { device: name, order }, cli.json).await
        }
        Some(Command::Agent(_) | Command::Collector(_) | Command::Ctl(_)) => Err(Refusal::new(
            "agent, collector and ctl must come first on the command line",
            "as in `fleet collector check --config FILE`",
        )),
    };
    match done {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(refusal) => refuse(&refusal),
    }
}

/// A closed pipe (`fleet ls | head`) is no fault.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end());
    let _ = out.flush();
}

async fn ask<B: serde::Serialize>(base: BasePort, what: &str, order: &B, is_json: bool) -> Result<String, Refusal> {
    let done: Done = Client::new(base)?.ask(what, order).await?;
    Ok(if is_json { json(&done) } else { done.message })
}

async fn aim(base: BasePort, action: Action, target: String, is_json: bool) -> Result<String, Refusal> {
    ask(base, "target", &TargetOrder { action, target }, is_json).await
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

async fn list(base: BasePort, is_json: bool) -> Result<String, Refusal> {
    let status = Client::new(base)?.status().await?;
    Ok(if is_json { json(&status) } else { show::table(&status) })
}

async fn serve_devices(site: Site, base: BasePort) -> ExitCode {
    start_log();
    match devices::run(site, base).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            tracing::error!("{:#}", anyhow::Error::from(fault));
            ExitCode::FAILURE
        }
    }
}

async fn serve_service(start: service::Start) -> ExitCode {
    start_log();
    match service::run(start).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            let code = if matches!(fault, service::ServiceError::Superseded { .. }) {
                ExitCode::from(EXIT_VETO)
            } else {
                ExitCode::FAILURE
            };
            tracing::error!("{:#}", anyhow::Error::from(fault));
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::args::Pair;
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_base_port_goes_before_or_after_the_subcommand() {
        for line in [
            &["fleet", "--base-port", "19000", "kill", "a"][..],
            &["fleet", "kill", "a", "--base-port", "19000"],
            &["fleet", "device", "ups-a1", "event", "mains-fail", "--base-port", "19000"],
            &["fleet", "up", "--base-port", "19000", "--data-dir", "/tmp/x"],
            &["fleet", "--base-port", "19000"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.base_port.to_string(), "19000", "{line:?}");
        }
    }

    #[test]
    fn what_is_handed_on_loses_the_base_port_only() {
        let args = ["fleet", "--base-port", "19000", "ctl", "move", "x", "--base-port=19001"].map(OsString::from);
        let (base, rest) = without_base_port(&args);
        assert_eq!(base.unwrap().to_string(), "19001");
        assert_eq!(rest, ["ctl", "move", "x"].map(OsString::from));
        let more = operator_defaults(base, &rest[1..]);
        assert_eq!(more[..2], ["--url", "https://127.0.0.1:19203"].map(OsString::from));
        assert_eq!(more[4..], ["--operator", "op-1"].map(OsString::from));
        let second = operator_defaults(base, &["tickets".into(), "--operator".into(), "op-2".into()]);
        assert_eq!(second.len(), 4, "{second:?}");
        assert!(operator_defaults(base, &["--help".into()]).is_empty());
    }

    #[test]
    fn links_and_values_are_read() {
        assert_eq!("a-b".parse(), Ok(Pair(Site::A, Site::B)));
        assert!("a-a".parse::<Pair>().is_err());
        assert!("a".parse::<Pair>().is_err());
        let cli = Cli::try_parse_from(["fleet", "device", "crac-a1", "set", "supply.air.temperature", "-5"]).unwrap();
        let Some(Command::Device { order: DeviceCommand::Set { value, .. }, .. }) = cli.command else { panic!() };
        assert_eq!(value, "-5");
    }
}
