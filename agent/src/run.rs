//! The running agent: sources, publisher, status listener and its own figures, joined and taken apart again.
//!
//! Tasks: those of [`crate::source`], the publisher, the status listener, and one that reports about the agent itself
//! and watches the wall clock. The gate has a thread of its own. The service manager's sign of life comes from the loop
//! that all the others share a thread with, so it stops when any of them hangs.

mod gate_thread;
mod own;
mod reload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::CommandVerb;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::config::Config;
use crate::gate::{GateError, GateSetup};
use crate::outbound::QUEUE;
use crate::publish::{CommandRequest, PublishError, Publisher, PublisherSetup};
use crate::resolver::Resolver;
use crate::self_stats::Board;
use crate::service_manager::ServiceManager;
use crate::source::Clock;
use crate::source::checks::CheckError;
use crate::source::tasks::Sources;
use crate::source::traps::authority::Authority;
use crate::source::traps::{Listener, Outlets};
use crate::status;
use gate_thread::GateThread;
use reload::Reloader;

/// Commands that wait for this loop.
const COMMANDS: usize = 16;
/// How often the loop turns where no service manager wants to hear of it.
const IDLE: Duration = Duration::from_secs(3_600);
/// Levels a command may set. Filters of single modules are for the environment of a process, not for a command.
const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Changes the level of the log while running.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// Why the agent could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("failed to create the state directory {path}")]
    StateDir { path: String, source: std::io::Error },
    #[error("failed to listen on {address} for status")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("failed to set up the checks")]
    Check(#[source] CheckError),
    #[error("failed to listen on {address} for traps")]
    ListenTraps { address: std::net::SocketAddr, source: std::io::Error },
    #[error("failed to watch signals")]
    Signals(#[source] std::io::Error),
    #[error("failed to start the gate")]
    GateStart(#[source] GateError),
    #[error("failed to start the gate's thread")]
    GateThread(#[source] std::io::Error),
    #[error("the gate's thread broke off")]
    GateBrokeOff,
    #[error("the gate stopped")]
    Gate(#[source] GateError),
    #[error("the publisher stopped")]
    Publish(#[source] PublishError),
    #[error("a task broke off")]
    Task(#[source] tokio::task::JoinError),
}

/// Runs until SIGTERM or SIGINT, then drains. SIGHUP reads `path` again.
///
/// # Errors
/// It could not start, or cannot go on.
pub async fn run(path: PathBuf, config: Config, set_log_level: SetLogLevel) -> Result<(), RunError> {
    let manager = ServiceManager::of_environment();
    raise_open_files();
    let state_dir = config.state_dir.display().to_string();
    std::fs::create_dir_all(&config.state_dir).map_err(|source| RunError::StateDir { path: state_dir, source })?;
    let mut signals = Signals::watch().map_err(RunError::Signals)?;
    let (stop, shutdown) = watch::channel(false);
    let board = Arc::new(Board::new(Clock::start()));
    let (outbound, from_sources) = mpsc::channel(QUEUE);
    let (commands, mut asked) = mpsc::channel::<CommandRequest>(COMMANDS);
    // The gate first: it is what others may be waiting for.
    let mut gate = match gate_setup(&config) {
        Some(setup) => Some(GateThread::start(setup).await?),
        None => None,
    };
    let (clock_in, clock_state) = watch::channel(clock::kernel_state());
    let resolver = Resolver::new(config.resolver.clone());
    let publisher = Publisher::open(
        PublisherSetup {
            site: config.site,
            agent: config.agent.clone(),
            state_dir: config.state_dir.clone(),
            settings: reload::settings(&config),
            resolver: resolver.clone(),
        },
        clock_state,
    );
    let traps = match &config.traps {
        Some(traps) => {
            let listener = Listener::bind(traps, &reload::devices(&config), Authority::open(&config.state_dir)).await;
            Some(listener.map_err(|source| RunError::ListenTraps { address: traps.listen, source })?)
        }
        None => None,
    };
    if let Some(address) = config.status_listen {
        let listener = TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
        let shown = status::Shown {
            board: Arc::clone(&board),
            publisher: publisher.figures(),
            gate: gate.as_ref().map(|gate| gate.figures.clone()),
            traps: traps.as_ref().map(Listener::figures),
        };
        let mut stopped = shutdown.clone();
        tokio::spawn(status::serve(listener, shown, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
    }
    tracing::info!(
        site = %config.site, agent = %config.agent, incarnation = publisher.incarnation(),
        devices = config.devices.len(), checks = config.checks.len(), "running"
    );
    let mut sources = Sources::new(outbound.clone(), Arc::clone(&board), resolver.clone());
    sources.apply(&config).await.map_err(RunError::Check)?;
    let (devices, devices_out) = watch::channel(reload::devices(&config));
    if let Some(traps) = traps {
        let outlets = Outlets { outbound: outbound.clone(), poll_now: sources.poll_now(), figures: traps.figures() };
        tokio::spawn(traps.asking(resolver.clone()).following(devices_out).run(outlets, shutdown.clone()));
    }
    let own = own::Report {
        id: config.agent.clone(),
        credentials: config.credentials(),
        board: Arc::clone(&board),
        publisher: publisher.figures(),
        clock: clock_in,
        outbound: outbound.clone(),
    };
    let own = tokio::spawn(own.run(shutdown.clone()));
    let settings = publisher.settings();
    let (publisher_stop, publisher_shutdown) = watch::channel(false);
    let mut publisher = tokio::spawn(publisher.run(from_sources, commands, publisher_shutdown));
    let mut reloader = Reloader { path, config, settings, devices, outbound, resolver };
    manager.ready(&reloader.summary());
    let mut alive = tokio::time::interval(manager.sign_of_life_every().unwrap_or(IDLE));
    let ended = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => break None,
                Signal::Reload => {
                    manager.reloading();
                    // Told by the log and as an event already.
                    let _ = reloader.reload(&mut sources).await;
                    manager.ready(&reloader.summary());
                }
            },
            ended = &mut publisher => break Some(ended.map_err(RunError::Task)?.map_err(RunError::Publish)),
            ended = ended(&mut gate) => break Some(ended),
            Some(request) = asked.recv() => {
                let done = match request.verb {
                    CommandVerb::Reload => {
                        manager.reloading();
                        let done = reloader.reload(&mut sources).await;
                        manager.ready(&reloader.summary());
                        done
                    }
                    verb => obey(&verb, &sources, &set_log_level),
                };
                // An answer that nobody waits for any more is no fault.
                let _ = request.answer.send(done);
            }
            _ = alive.tick() => manager.alive(),
        }
    };
    tracing::info!("stopping");
    manager.stopping();
    stop.send_replace(true);
    sources.stop().await;
    own.abort();
    drop(reloader);
    publisher_stop.send_replace(true);
    // A task that has ended already is not waited for again.
    let publisher_rest = async { if publisher.is_finished() { Ok(Ok(())) } else { publisher.await } };
    let gate_rest = async {
        match gate.take() {
            Some(gate) => gate.stop().await,
            None => Ok(()),
        }
    };
    let (publisher_end, gate_end) = tokio::join!(publisher_rest, gate_rest);
    if let Some(ended) = ended {
        return ended;
    }
    publisher_end.map_err(RunError::Task)?.map_err(RunError::Publish)?;
    gate_end
}

/// A connection for each of many devices takes more files than the usual 1,024. What is not granted is not needed yet.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// The signals that matter.
struct Signals {
    term: unix::Signal,
    int: unix::Signal,
    hup: unix::Signal,
}

enum Signal {
    Stop,
    Reload,
}

impl Signals {
    fn watch() -> std::io::Result<Signals> {
        Ok(Signals {
            term: unix::signal(SignalKind::terminate())?,
            int: unix::signal(SignalKind::interrupt())?,
            hup: unix::signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Stop,
            _ = self.int.recv() => Signal::Stop,
            _ = self.hup.recv() => Signal::Reload,
        }
    }
}

/// Waits until the gate has ended; without one, for ever.
async fn ended(gate: &mut Option<GateThread>) -> Result<(), RunError> {
    match gate {
        Some(running) => {
            let ended = running.ended().await;
            *gate = None;
            ended
        }
        None => std::future::pending().await,
    }
}

/// What the gate and its warden are told; `None` without a gate.
#[must_use]
pub fn gate_setup(config: &Config) -> Option<GateSetup> {
    let gate = config.gate.clone()?;
    Some(GateSetup {
        site: config.site,
        gate: config.agent.clone(),
        config: gate,
        state_dir: config.state_dir.clone(),
        resolver: config.resolver.clone(),
    })
}

/// Carries out a command that the configuration allows.
fn obey(verb: &CommandVerb, sources: &Sources, set_log_level: &SetLogLevel) -> Result<(), String> {
    match verb {
        CommandVerb::PollNow { device } if sources.poll_now().ask(device) => Ok(()),
        CommandVerb::PollNow { device } => Err(format!("no device `{device}`, or it is being polled already")),
        CommandVerb::LogLevel { level } if LOG_LEVELS.contains(&level.as_str()) => set_log_level(level),
        CommandVerb::LogLevel { .. } => Err(format!("levels are {}", LOG_LEVELS.join(", "))),
        // The publisher does the first itself, and the loop above the other.
        CommandVerb::Rebirth | CommandVerb::Reload => Ok(()),
    }
}
