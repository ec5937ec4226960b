//! The command line: `fleet up`, orders to a running fleet, and every process of the fleet as a hidden subcommand.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bcp_wire::{Epoch, Site};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::api::{Action, Client, Done, LinkOrder, Refusal, Status, TargetOrder};
use crate::devices::{Addressed, Order};
use crate::fleet::{Fleet, UpError};
use crate::layout::{self, Layout};
use crate::ports::{BasePort, DEFAULT_BASE};
use crate::service::step::{Orders, Step};
use crate::service::{self, Service, Want};
use crate::units::Health;
use crate::{devices, signals};

/// sysexits.h EX_USAGE.
const EXIT_USAGE: u8 = 64;
/// A service that was told to be active under a superseded epoch.
const EXIT_VETO: u8 = 20;
/// After this long `up` says what it still waits for, and goes on.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(100);
/// Two cores run about thirty processes: one fleet process needs no more.
const WORKER_THREADS: usize = 2;

const EXAMPLES: &str = "\
Examples:
  fleet                                   start three sites and wait for Ctrl-C
  fleet ls                                what runs, links, last gap seen by a visitor
  fleet kill a                            lose datacenter a, as in a power cut
  fleet start a                           bring it back
  fleet cut a-b                           cut the link between the datacenters
  fleet cut a-w --one-way                 nothing gets from a to w; w to a is open
  fleet delay a-b 40 --jitter 10          a long way, 40 to 50 ms per direction
  fleet heal                              open all links
  fleet pause a/host                      freeze one process (SIGSTOP)
  fleet device ups-a1 event mains-fail    the UPS runs on its battery
  fleet device crac-a1 set supply.air.temperature 35
  fleet device crac-a1 clear              let go of what was set
  fleet --base-port 19000                 a second fleet beside the first";

/// Three sites with collectors, agents, gates, simulated devices and two services, on this machine.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    /// First port of the fleet; it takes the 1,000 from here on
    #[arg(long, global = true, value_name = "PORT", default_value_t = Base::default(), env = "BCP_FLEET_BASE_PORT")]
    base_port: Base,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: UpArgs,
}

/// [`BasePort`] with its default.
#[derive(Debug, Clone, Copy)]
struct Base(BasePort);

impl Default for Base {
    fn default() -> Base {
        Base(DEFAULT_BASE.to_string().parse().expect("the default base port is in range"))
    }
}

impl FromStr for Base {
    type Err = crate::ports::BasePortError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Base)
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, Args)]
struct UpArgs {
    /// Where files, logs and certificates are kept [default: a directory below /tmp, emptied at every start]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Use this mosquitto as the three brokers instead of the embedded ones
    #[arg(long, value_name = "PATH")]
    mosquitto: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the fleet and keep it until Ctrl-C (this is also what `fleet` alone does)
    Up(UpArgs),
    /// Show processes, links, routes and what a visitor has seen
    Ls,
    /// Cut a link: bytes wait, nothing is reset
    Cut {
        /// Two sites, as a-b
        link: Pair,
        /// Only from the first site to the second
        #[arg(long)]
        one_way: bool,
    },
    /// Open a link again and take its delay away; all links where none is named
    Heal {
        /// Two sites, as a-b
        link: Option<Pair>,
    },
    /// Make a link slow
    Delay {
        /// Two sites, as a-b
        link: Pair,
        /// Milliseconds per direction
        ms: u64,
        /// Up to this many milliseconds more, at random
        #[arg(long, value_name = "MS", default_value_t = 0)]
        jitter: u64,
        /// Only from the first site to the second
        #[arg(long)]
        one_way: bool,
    },
    /// Kill a site (it stays dark) or one process (it is restarted): a, a/decide, a/host ...
    Kill { target: String },
    /// Start a site that was killed, or a process that was stopped
    Start { target: String },
    /// Freeze a site or one process
    Pause { target: String },
    /// Let it go on
    Resume { target: String },
    /// Give an order to a simulated device
    Device {
        /// As crac-a1, ups-b2, meter-a1, nas-w1
        name: String,
        #[command(subcommand)]
        order: DeviceCommand,
    },
    /// Run the agent: the same as bcp-agent
    #[command(disable_help_flag = true)]
    Agent(Passed),
    /// Run the collector: the same as bcp-collector
    #[command(disable_help_flag = true)]
    Collector(Passed),
    /// Talk to the collectors as an operator: the same as bcpctl
    #[command(disable_help_flag = true)]
    Ctl(Passed),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// The simulated devices of a site
    #[command(hide = true)]
    Devices {
        #[arg(long)]
        site: Site,
    },
    /// One demo service of a site
    #[command(hide = true)]
    Service {
        #[arg(long)]
        service: Service,
        #[arg(long)]
        site: Site,
        #[arg(long = "as")]
        role: Role,
        #[arg(long)]
        epoch: Epoch,
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// The actuator of a demo service, called by a gate
    #[command(hide = true)]
    ServiceStep {
        #[arg(long)]
        service: Service,
        #[arg(long)]
        site: Site,
        #[arg(long)]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// Pin a point to a value, by its name of the contract
    Set {
        point: String,
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Let go of a point, or of all
    Clear { point: Option<String> },
    /// UPS: mains-fail, mains-back; cooling unit: stop, start
    Event { event: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Standby,
    Active,
}

#[derive(Debug, Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// A link, as `a-b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair(Site, Site);

impl FromStr for Pair {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let pair = text.split_once('-').and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)));
        match pair {
            Some((one, other)) if one != other => Ok(Pair(one, other)),
            _ => Err("a link is two different sites: a-b, a-w or b-w".to_owned()),
        }
    }
}

/// Runs the command line and returns its exit code: 0 done, 1 could not, 64 not understood.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    // A step belongs to its gate and warden, which end it themselves; the thread that started it may be gone by then.
    if args.get(1).is_none_or(|first| first != "service-step") {
        signals::die_with_parent();
    }
    // Handed on as they are: these have command lines of their own.
    let (base, rest) = without_base_port(&args);
    let passed = rest.first().and_then(|first| first.to_str()).unwrap_or("").to_owned();
    if matches!(passed.as_str(), "agent" | "collector" | "ctl") {
        let name: &str = match passed.as_str() {
            "agent" => "bcp-agent",
            "collector" => "bcp-collector",
            _ => "bcpctl",
        };
        let given = rest[1..].to_vec();
        let rest = std::iter::once(OsString::from(name)).chain(given.clone());
        return match passed.as_str() {
            "agent" => bcp_agent::cli::main(rest),
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

/// `fleet ctl` talks to a running fleet as its operator, unless told otherwise.
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
            let args =
                UpArgs { data_dir: args.data_dir.or(cli.up.data_dir), mosquitto: args.mosquitto.or(cli.up.mosquitto) };
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
        Some(Command::Kill { target }) => aim(base, Action::Kill, target, cli.json).await,
        Some(Command::Start { target }) => aim(base, Action::Start, target, cli.json).await,
        Some(Command::Pause { target }) => aim(base, Action::Pause, target, cli.json).await,
        Some(Command::Resume { target }) => aim(base, Action::Resume, target, cli.json).await,
        Some(Command::Device { name, order }) => {
            let order = match order {
                DeviceCommand::Set { point, value } => Order::Set { point, value },
                DeviceCommand::Clear { point } => Order::Clear { point },
                DeviceCommand::Event { event } => Order::Event { event },
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
    Ok(if is_json { json(&status) } else { table(&status) })
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "fleet on base port {}, files in {}", status.base_port, status.data_dir);
    for site in Site::ALL {
        let _ = writeln!(text, "\nsite {site}");
        for process in status.processes.iter().filter(|process| process.site == site) {
            let state = match process.state {
                Health::Down => "down",
                Health::Running => "running",
                Health::Paused => "PAUSED",
                Health::Restarting => "restarting",
            };
            let pid = process.pid.map_or("-".to_owned(), |pid| pid.to_string());
            let restarts =
                if process.restarts > 0 { format!("  restarted {}x", process.restarts) } else { String::new() };
            let _ = writeln!(text, "  {:<18} {state:<10} {pid:>8}{restarts}", process.name);
        }
    }
    let _ = writeln!(text, "\nlinks");
    let mut is_any = false;
    for link in &status.links {
        let mut what = Vec::new();
        if link.cut {
            what.push("CUT".to_owned());
        }
        if link.delay_ms + link.jitter_ms > 0 {
            what.push(format!("{} ms and up to {} ms more", link.delay_ms, link.jitter_ms));
        }
        if !what.is_empty() {
            is_any = true;
            let _ = writeln!(text, "  {} to {}: {}", link.from, link.to, what.join(", "));
        }
    }
    if !is_any {
        let _ = writeln!(text, "  all open, without delay");
    }
    let _ = writeln!(text, "\ntickets");
    if status.tickets.is_empty() {
        let _ = writeln!(text, "  no console answers");
    }
    for ticket in &status.tickets {
        let get = |key: &str| ticket[key].as_str().unwrap_or("-");
        let can = &ticket["can_failover_now"];
        let reasons: Vec<String> = can["reasons"].as_array().into_iter().flatten().map(reason_text).collect();
        let can = match can["ok"].as_bool() {
            Some(true) => "can fail over now".to_owned(),
            _ => format!("cannot fail over now: {}", reasons.join("; ")),
        };
        let shares = ticket["weights"].as_object().into_iter().flatten();
        let shares: Vec<String> = shares.map(|(site, share)| format!("{site} {share} %")).collect();
        let carried_by = ticket["holder"].as_str().map_or(shares.join(", "), str::to_owned);
        let _ = writeln!(text, "  {:<18} {} at {carried_by}, epoch {}; {can}", get("id"), get("phase"), get("epoch"));
    }
    let _ = writeln!(text, "\nfront doors");
    for (service, route) in &status.front {
        let weights: Vec<String> = route.weights.iter().map(|(site, weight)| format!("{site}:{weight}")).collect();
        let _ = writeln!(text, "  {service:<18} epoch {}  {}", route.epoch, weights.join(" "));
    }
    let seen = &status.visitor;
    let ago = |ms: Option<u64>| ms.map_or(String::new(), |ms| format!(", {} s ago", ms / 1_000));
    let last = seen.last_gap_ms.map_or("none".to_owned(), |ms| format!("{ms} ms{}", ago(seen.last_gap_ended_ms_ago)));
    let open = seen.open_gap_ms.map_or(String::new(), |ms| format!("; NO ANSWER for {ms} ms now"));
    let _ = writeln!(
        text,
        "\nvisitor of prescriptions\n  {} answers, last gap {last}, longest {} ms{open}\n  {} writes acknowledged, {} refused, {} lost, longest gap {} ms",
        seen.answered,
        seen.longest_gap_ms,
        seen.writes_acknowledged,
        seen.writes_refused,
        seen.writes_lost,
        seen.longest_write_gap_ms
    );
    text
}

fn reason_text(reason: &serde_json::Value) -> String {
    reason.as_str().map_or_else(|| reason.to_string(), str::to_owned)
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

async fn up(base: BasePort, args: UpArgs, is_json: bool) -> ExitCode {
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
    // Handlers first: a Ctrl-C during the start must end what has been started.
    let stop = signals::stop();
    tokio::pin!(stop);
    let layout = Layout { data_dir: data_dir.clone(), base, executable, mosquitto: args.mosquitto };
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
        print(&welcome(&status, took));
    }
}

fn welcome(status: &Status, took: Duration) -> String {
    let mut text = format!("ready after {:.1} s\n\n", took.as_secs_f64());
    let get = |name: &str| status.urls.get(name).cloned().unwrap_or_default();
    let _ = writeln!(text, "  {:<16} {:<26} {:<26}", "", "console and API", "public page");
    for site in Site::ALL {
        let name = match site {
            Site::A => "datacenter a",
            Site::B => "datacenter b",
            Site::W => "witness w",
        };
        let (console, public) = (get(&format!("{site} console")), get(&format!("{site} public page")));
        let _ = writeln!(text, "  {name:<16} {console:<26} {public:<26}");
    }
    let _ = writeln!(text, "  {:<16} {}", "prescriptions", get("prescriptions"));
    let _ = writeln!(text, "  {:<16} {}", "patient-portal", get("patient-portal"));
    let port =
        if status.base_port == DEFAULT_BASE { String::new() } else { format!(" --base-port {}", status.base_port) };
    let _ = write!(
        text,
        "\nTry, in another terminal:  fleet kill a{port}   and watch prescriptions move to b on the console of w.\n\
         `fleet --help` has more; with cargo: `cargo run --release -- kill a{port}`. Ctrl-C here ends everything."
    );
    text
}

#[cfg(test)]
mod tests {
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
