//! Command line of the agent.
//!
//! Exit codes: 0 done, 1 could not start or a device did not answer, 64 a faulty configuration or command line.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bcp_wire::Id;
use clap::{Args, CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{self, Config};
use crate::discover::spec::{ModbusSpec, SnmpSpec};
use crate::reading_table::{self, DeviceRows};
use crate::resolver::Resolver;
use crate::run::{self, SetLogLevel};
use crate::span::Span;
use crate::{act, clock, discover, gate, postgres, source, status, warden};

/// sysexits.h EX_USAGE.
const EXIT_CONFIG: u8 = 64;
const EXIT_FAILED: u8 = 1;
/// Host figures and file work.
const BLOCKING_THREADS: usize = 8;
/// Time for a running agent to tell its status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// Polls hosts, cooling units and UPSs, publishes over MQTT, runs failover gates.
#[derive(Debug, Parser)]
#[command(name = "bcp-agent", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Poll, publish and guard until SIGTERM
    Run(ConfigFile),
    /// Stop services whose lease has run out, whatever became of the gate
    Warden(ConfigFile),
    /// Tell every fault of the configuration and its profiles, and what would be asked of each device
    Check(ConfigFile),
    /// Read everything once and print it
    Once {
        #[command(flatten)]
        file: ConfigFile,
        /// One JSON object per line: device, point, value, unit, quality, reason, source
        #[arg(long)]
        json: bool,
        /// Only these devices, checks or hosts
        #[arg(value_name = "DEVICE")]
        only: Vec<Id>,
    },
    /// Read one device and show its bytes beside what they mean
    Probe {
        #[command(flatten)]
        file: ConfigFile,
        device: Id,
    },
    /// Look at addresses and propose devices with their profiles; only reads, and writes no file
    Discover(Discover),
    /// Ask a running agent how it is
    Status {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long)]
        json: bool,
    },
    /// Carry out one step of a gate by the built-in actuators of a ticket; gate and warden call it, with BCP_STEP and the
    /// others set. Exit 0 done, 10 nothing had to be done, 20 refused for good, else failed
    Act {
        #[command(flatten)]
        given: act::Given,
        #[arg(long, value_name = "ID")]
        ticket: Id,
    },
    /// Tell the gate how the data of this site's PostgreSQL are, until SIGTERM: `facts_url` and `sync_url` of the ticket
    PostgresCopy {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long, value_name = "ID")]
        ticket: Id,
    },
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
struct Discover {
    /// 10.0.0.0/24, 10.0.0.5-10.0.0.9, or one address
    #[arg(required = true, value_name = "ADDRESSES")]
    targets: Vec<String>,
    /// Ask in SNMP: community=public or user=op,auth=sha256,auth_key_file=FILE,priv=aes128,priv_key_file=FILE;
    /// also version=, context=, port=. May be given several times: the first that works is proposed
    #[arg(long, value_name = "KEY=VALUE,...")]
    snmp: Vec<SnmpSpec>,
    /// Ask in Modbus TCP: port=502,units=1+2
    #[arg(long, value_name = "KEY=VALUE,...", num_args = 0..=1, default_missing_value = "")]
    modbus: Vec<ModbusSpec>,
    /// Directory of profiles beside the built-in ones
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// Time to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "1s")]
    timeout: Span,
    /// Addresses asked at one time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    at_once: u16,
    /// Addresses asked a second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    per_second: u32,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command line; `args` starts with the program name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_CONFIG } else { 0 });
        }
    };
    // A step belongs to its gate and warden, which end it themselves; the thread that started it may be gone by then.
    if !matches!(cli.command, Command::Act { .. }) {
        die_with_parent();
    }
    let set_log_level = start_log();
    // The only provider there is: a second installation is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command {
        Command::Run(file) => with_config(&file.config, |config| async {
            run::run(file.config.clone(), config, set_log_level).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Warden(file) => watch_leases(&file.config),
        Command::Check(file) => with_config(&file.config, |config| async move {
            let stdout = format!("{}configuration is sound\n", reading_table::plans(&config));
            print(&stdout)
        }),
        Command::Once { file, json, only } => with_config(&file.config, |config| once(config, json, only)),
        Command::Probe { file, device } => with_config(&file.config, |config| probe(config, device)),
        Command::Discover(wanted) => in_runtime(discover(wanted)),
        Command::Status { file, json } => with_config(&file.config, |config| show_status(config, json)),
        Command::Act { given, ticket } => act::main(&ticket, &given),
        Command::PostgresCopy { file, ticket } => with_config(&file.config, |config| copy_postgres(config, ticket)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bcp-agent", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}

/// Loads the configuration, and runs `work` in a runtime of its own.
fn with_config<W, F>(path: &Path, work: W) -> ExitCode
where
    W: FnOnce(Config) -> F,
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let config = match config::load(path) {
        Ok(config) => config,
        Err(faults) => {
            eprint!("{faults}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    in_runtime(work(config))
}

fn in_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    // One thread: polling waits for the network, and waking another thread costs more than the work it would do.
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(BLOCKING_THREADS).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(work);
            // A reading that hangs in the kernel must not keep the process.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(EXIT_FAILED)
    })
}

/// The warden needs no runtime of its own; only its signals do, on a thread beside it.
fn watch_leases(path: &Path) -> ExitCode {
    let setup = match config::load(path).map(|config| run::gate_setup(&config)) {
        Ok(Some(setup)) => setup,
        Ok(None) => {
            eprintln!("error: a warden needs a gate\n  at {} gate\n  help: add a `[gate]` section", path.display());
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(faults) => {
            eprint!("{faults}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    if let Err(error) = stop_on_signals(Arc::clone(&stop)) {
        eprintln!("error: failed to watch signals: {error}");
        return ExitCode::from(EXIT_FAILED);
    }
    match warden::run(&setup, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn stop_on_signals(stop: Arc<AtomicBool>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut term, mut int) = runtime.block_on(async {
        Ok::<_, std::io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        });
        stop.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

async fn copy_postgres(config: Config, ticket: Id) -> anyhow::Result<ExitCode> {
    let tickets = config.gate.map(|gate| gate.tickets).unwrap_or_default();
    let found = tickets.into_iter().find(|found| found.id == ticket);
    let found = found.ok_or_else(|| anyhow::anyhow!("there is no ticket `{ticket}` under [gate]"))?;
    let postgres = found.actuators.into_iter().find_map(|actuator| match actuator {
        act::Actuator::Postgres(postgres) => Some(*postgres),
        _ => None,
    });
    let postgres = postgres.ok_or_else(|| anyhow::anyhow!("ticket `{ticket}` has no actuator of kind postgres"))?;
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        // The sidecar may have ended by itself.
        let _ = stop.send(true);
    });
    postgres::copy::run(postgres, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Output that nobody reads any more (`| head`) is no fault.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

async fn once(config: Config, json: bool, only: Vec<Id>) -> anyhow::Result<ExitCode> {
    let mut chosen = config;
    if !only.is_empty() {
        chosen.devices.retain(|device| only.contains(&device.id));
        chosen.checks.retain(|check| only.contains(&check.id));
        chosen.host = chosen.host.filter(|host| only.contains(&host.id));
        let found = chosen.devices.len() + chosen.checks.len() + usize::from(chosen.host.is_some());
        anyhow::ensure!(found == only.len(), "only {found} of {} named devices are in the configuration", only.len());
    }
    let devices = reading_table::read_all(source::groups(&chosen, &Resolver::new(chosen.resolver.clone()))?).await;
    let text = if json {
        devices
            .iter()
            .flat_map(|device| &device.rows)
            .try_fold(String::new(), |text, row| serde_json::to_string(row).map(|line| text + &line + "\n"))?
    } else {
        reading_table::table(&devices)
    };
    print(&text)?;
    for silent in devices.iter().filter(|device| !device.answered) {
        eprintln!("error: {} does not answer: {}", silent.device, silent.trouble.as_deref().unwrap_or("no reason"));
    }
    Ok(answered(&devices))
}

fn answered(devices: &[DeviceRows]) -> ExitCode {
    if devices.iter().all(|device| device.answered) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }
}

async fn probe(config: Config, device: Id) -> anyhow::Result<ExitCode> {
    let Some(found) = reading_table::probe(&config, &device).await else {
        let known: Vec<&str> = config.devices.iter().map(|device| device.id.as_str()).collect();
        anyhow::bail!("no device `{device}` in the configuration; there are {}", known.join(", "));
    };
    let devices = [found];
    print(&reading_table::table(&devices))?;
    Ok(answered(&devices))
}

async fn discover(wanted: Discover) -> anyhow::Result<ExitCode> {
    let mut addresses = Vec::new();
    for target in &wanted.targets {
        addresses.extend(discover::target::addresses(target)?);
    }
    anyhow::ensure!(
        addresses.len() <= discover::target::MAX_ADDRESSES,
        "{} addresses; at most {} are looked at",
        addresses.len(),
        discover::target::MAX_ADDRESSES
    );
    anyhow::ensure!(
        !wanted.snmp.is_empty() || !wanted.modbus.is_empty(),
        "nothing to ask with: add --snmp 'community=public', --modbus, or both"
    );
    let search = discover::Search {
        addresses,
        snmp: wanted.snmp,
        modbus: wanted.modbus,
        timeout: wanted.timeout.get(),
        at_once: usize::from(wanted.at_once),
        per_second: wanted.per_second,
    };
    let proposals = discover::search(&search, &discover::profiles(wanted.profiles.as_deref())).await;
    if !wanted.json {
        return print(&discover::text(&proposals, search.addresses.len()));
    }
    let mut text = String::new();
    for proposal in &proposals {
        text += &serde_json::to_string(proposal)?;
        text.push('\n');
    }
    print(&text)
}

async fn show_status(config: Config, json: bool) -> anyhow::Result<ExitCode> {
    let Some(address) = config.status_listen else {
        anyhow::bail!("the configuration has no `status_listen`: the agent cannot be asked");
    };
    // Plain HTTP to this host: it works where there are no authorities to trust.
    let (tls, _) = source::checks::Trust::default().client(false, None)?;
    let client =
        reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().timeout(STATUS_TIMEOUT).build()?;
    let answer = client.get(format!("http://{address}/status")).send().await?.error_for_status()?;
    if json {
        return print(&(answer.text().await? + "\n"));
    }
    let status: status::Status = answer.json().await?;
    print(&status::table::text(&status, clock::wall_ms(), gate::boot_ms()))
}

/// Log to stderr; `BCP_LOG` sets the level. The result changes it later.
fn start_log() -> SetLogLevel {
    let filter = EnvFilter::try_from_env("BCP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first log.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Box::new(move |level| {
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    })
}

/// A child of a supervisor ends with it, at once: the next one needs its ports.
fn die_with_parent() {
    if std::env::var_os("BCP_DIE_WITH_PARENT").is_some_and(|value| value == "1") {
        let signal = Some(rustix::process::Signal::KILL);
        if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
            eprintln!("warning: this process will not end with its parent: {error}");
        }
    }
}
