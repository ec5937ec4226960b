//! Command line of the collector.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::ConfigError;
use crate::{Config, Shutdown, broker, decide, mirror, rules, serve, supervise};

/// sysexits.h EX_USAGE: the configuration or the command line is at fault.
pub const EXIT_CONFIG: u8 = 64;
/// Two cores serve a site: a collector shares its machine.
const WORKER_THREADS: usize = 2;
/// SQLite and file work run beside the workers; more at once than this only queues on the disk.
const BLOCKING_THREADS: usize = 16;

/// Collector of one site: ingests, judges, takes part in the quorum, feeds console and status page.
#[derive(Debug, Parser)]
#[command(name = "bcp-collector", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    process: Process,
}

#[derive(Debug, Subcommand)]
enum Process {
    /// Start all processes of this site and restart what dies
    Run(ConfigFile),
    /// Quorum, tickets and the control port
    Decide(DecideArgs),
    /// Ingest, history, rules, alarms, console and API
    Serve(ConfigFile),
    /// The public page, from exported files
    Mirror(ConfigFile),
    /// The embedded MQTT broker (loopback only)
    Broker(ConfigFile),
    /// Check the configuration and the policy, and say everything that is wrong
    Check(ConfigFile),
    /// Replay timelines against the rules of the configuration
    #[command(subcommand)]
    Rules(Rules),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
enum Rules {
    /// `at 0s set crac-a1 supply.air.temperature 35`, `at 31s want alarm supply-air-hot/crac-a1`
    Test {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(required = true, value_name = "TIMELINE")]
        timelines: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct DecideArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Make this site's decide database from a backup of `bcpctl backup`, and end. The two other sites begin with empty ones
    #[arg(long, value_name = "BACKUP")]
    restore: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command line (`args` starts with the program name) and returns the exit code: 0 after a clean stop, 1 if it
/// could not start or go on, 64 for a fault in the configuration or the command line.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_CONFIG } else { 0 });
        }
    };
    let file = match &cli.process {
        Process::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "bcp-collector", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        Process::Run(file)
        | Process::Decide(DecideArgs { file, .. })
        | Process::Serve(file)
        | Process::Mirror(file)
        | Process::Broker(file)
        | Process::Check(file)
        | Process::Rules(Rules::Test { file, .. }) => &file.config,
    };
    let config = match Config::load(file) {
        Ok(config) => Arc::new(config),
        Err(error @ ConfigError::Faults(_)) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(error) => {
            eprintln!("{:#}", anyhow::Error::from(error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match &cli.process {
        Process::Check(_) => {
            if checked_rules(&config).is_none() {
                return ExitCode::from(EXIT_CONFIG);
            }
            println!("{}: no faults", file.display());
            return ExitCode::SUCCESS;
        }
        Process::Rules(Rules::Test { timelines, .. }) => return test_rules(&config, timelines),
        Process::Decide(DecideArgs { restore: Some(backup), .. }) => return restore(&config, backup),
        Process::Run(_)
        | Process::Decide(_)
        | Process::Serve(_)
        | Process::Mirror(_)
        | Process::Broker(_)
        | Process::Completions { .. } => {}
    }
    start_log();
    match run(&cli.process, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn restore(config: &Config, backup: &std::path::Path) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bcp-collector: {error}");
            return ExitCode::FAILURE;
        }
    };
    let now = decide::tick::wall_now();
    match runtime.block_on(decide::restore::restore(config.site, &config.decide_dir(), backup, now)) {
        Ok(incarnation) => {
            println!(
                "restored as incarnation {incarnation}. Start this collector, and the two others with empty decide databases.\n\
                 No ticket has a known holder; nothing is granted before every earlier lease has run out."
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bcp-collector: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

/// The rules, or their faults on standard error.
fn checked_rules(config: &Config) -> Option<bcp_core::rules::RuleSet> {
    match rules::rule_set(config) {
        Ok(rules) => Some(rules),
        Err(faults) => {
            eprintln!("{}", ConfigError::Faults(faults));
            None
        }
    }
}

fn test_rules(config: &Config, timelines: &[PathBuf]) -> ExitCode {
    let Some(rules) = checked_rules(config) else { return ExitCode::from(EXIT_CONFIG) };
    let mut failed = false;
    for path in timelines {
        match rules::test(config, &rules, path) {
            Ok(met) => println!("{}: {met} met", path.display()),
            Err(error) => {
                failed = true;
                eprintln!("{:#}", anyhow::Error::from(error));
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(process: &Process, config: Arc<Config>) -> anyhow::Result<()> {
    if std::env::var_os(supervise::DIE_WITH_PARENT).is_some() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        match process {
            Process::Run(_) => Ok(supervise::run(config, shutdown).await?),
            Process::Decide(_) => Ok(decide::run(config, shutdown).await?),
            Process::Serve(_) => serve::run(config, shutdown).await,
            Process::Mirror(_) => mirror::run(config, shutdown).await,
            Process::Broker(_) => Ok(broker::run(config, shutdown).await?),
            Process::Check(_) | Process::Rules(_) | Process::Completions { .. } => Ok(()),
        }
    });
    // Whatever still waits on a disk or a socket must not hold up the end of the process.
    runtime.shutdown_background();
    result
}

/// Logs go to standard error; `BCP_LOG` filters them as `info,openraft=warn`.
pub(crate) fn start_log() {
    let filter =
        EnvFilter::try_from_env("BCP_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error,rumqttd=warn"));
    // An error means that the program around this one has set up logging already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
