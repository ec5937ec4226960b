//! The running agent: sources, publisher, status listener and its own figures, joined and taken apart again.
//!
//! Tasks: those of [`crate::source`], the publisher, the status listener, and one that reports about the agent itself
//! and watches the wall clock.

mod gate_thread;

use std::sync::Arc;
use std::time::Duration;

use bcp_wire::envelope::EventKind;
use bcp_wire::{ClockState, CommandVerb};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::gate::{GateError, GateSetup};
use crate::outbound::{Outbound, QUEUE};
use crate::publish::{CommandRequest, PublishError, Publisher, PublisherSetup};
use crate::self_stats::{Board, SELF_INTERVAL, SelfDevice};
use crate::source::checks::CheckError;
use crate::source::traps::authority::Authority;
use crate::source::traps::{Listener, Outlets};
use crate::source::{self, Clock, PollNow, wall_ms};
use crate::status;
use gate_thread::GateThread;

/// Commands that wait for this loop.
const COMMANDS: usize = 16;
/// Time for sources to end their polls when stopping.
const SOURCES_GRACE: Duration = Duration::from_millis(300);
/// A wall clock that moved by more than this against the monotonic one was stepped.
const CLOCK_STEP_MS: i64 = 500;
const CLOCK_LOOK: Duration = Duration::from_secs(1);

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

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// It could not start, or cannot go on.
pub async fn run(config: Config, set_log_level: SetLogLevel) -> Result<(), RunError> {
    let path = config.state_dir.display().to_string();
    std::fs::create_dir_all(&config.state_dir).map_err(|source| RunError::StateDir { path, source })?;
    let (stop, shutdown) = watch::channel(false);
    let board = Arc::new(Board::new(Clock::start()));
    let (outbound, from_sources) = mpsc::channel(QUEUE);
    let (commands, mut asked) = mpsc::channel::<CommandRequest>(COMMANDS);
    // The gate first: it is what others may be waiting for.
    let mut gate = match gate_setup(&config) {
        Some(setup) => Some(GateThread::start(setup).await?),
        None => None,
    };
    // Nothing here tells how good the host's clock is; steps are seen and told.
    let (_clock, clock_state) = watch::channel(ClockState::Unknown);

    let publisher = Publisher::open(
        PublisherSetup {
            site: config.site,
            agent: config.agent.clone(),
            mqtt: config.mqtt.clone(),
            spool: config.spool.clone(),
            state_dir: config.state_dir.clone(),
            config_hash: config.hash.clone(),
        },
        clock_state,
    );
    let traps = match &config.traps {
        Some(traps) => {
            let devices: Vec<_> = config.devices.iter().cloned().map(Arc::new).collect();
            let listener = Listener::bind(traps, &devices, Authority::open(&config.state_dir)).await;
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
    let groups = source::groups(&config).map_err(RunError::Check)?;
    tracing::info!(
        site = %config.site, agent = %config.agent, incarnation = publisher.incarnation(),
        devices = config.devices.len(), checks = config.checks.len(), "running"
    );
    let sources = source::spawn(groups, &outbound, &board, &shutdown);
    if let Some(traps) = traps {
        let outlets = Outlets { outbound: outbound.clone(), poll_now: sources.poll_now(), figures: traps.figures() };
        tokio::spawn(traps.run(outlets, shutdown.clone()));
    }
    let own = tokio::spawn(report_self(config, Arc::clone(&board), outbound, shutdown.clone()));
    let poll_now = sources.poll_now();
    let (publisher_stop, publisher_shutdown) = watch::channel(false);
    let mut publisher = tokio::spawn(publisher.run(from_sources, commands, publisher_shutdown));

    let (mut term, mut int) = (
        signal(SignalKind::terminate()).map_err(RunError::Signals)?,
        signal(SignalKind::interrupt()).map_err(RunError::Signals)?,
    );
    let ended = loop {
        tokio::select! {
            _ = term.recv() => break None,
            _ = int.recv() => break None,
            ended = &mut publisher => break Some(ended.map_err(RunError::Task)?.map_err(RunError::Publish)),
            ended = ended(&mut gate) => break Some(ended),
            Some(request) = asked.recv() => obey(request, &poll_now, &set_log_level),
        }
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    sources.drain(SOURCES_GRACE).await;
    own.abort();
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
    Some(GateSetup { site: config.site, gate: config.agent.clone(), config: gate, state_dir: config.state_dir.clone() })
}

/// Carries out a command that the configuration allows. An answer that nobody waits for any more is no fault.
fn obey(request: CommandRequest, poll_now: &PollNow, set_log_level: &SetLogLevel) {
    let done = match &request.verb {
        CommandVerb::PollNow { device } if poll_now.ask(device) => Ok(()),
        CommandVerb::PollNow { device } => Err(format!("no device `{device}`, or it is being polled already")),
        CommandVerb::LogLevel { level } => set_log_level(level),
        // The publisher does this itself.
        CommandVerb::Rebirth => Ok(()),
        CommandVerb::Reload => Err("restart the agent to load a new configuration".to_owned()),
    };
    let _ = request.answer.send(done);
}

/// Publishes the agent's own figures and clock steps.
async fn report_self(
    config: Config,
    board: Arc<Board>,
    outbound: mpsc::Sender<Outbound>,
    mut shutdown: watch::Receiver<bool>,
) {
    let id = config.agent;
    let mut own = SelfDevice::new(id.clone(), &board);
    let mut told = Vec::new();
    let mut look = tokio::time::interval(CLOCK_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let drift = || wall_ms() - i64::try_from(board.clock().now().0 / 1_000).unwrap_or(0);
    let mut before = drift();
    let mut looks: u64 = 0;
    loop {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            _ = look.tick() => {}
        }
        let now = drift();
        let step_ms = now - std::mem::replace(&mut before, now);
        if step_ms.abs() > CLOCK_STEP_MS {
            tracing::warn!(step_ms, "the wall clock was stepped");
            let kind = EventKind::ClockStep { step_ms };
            let event = Outbound::Event { device: id.clone(), t_ms: wall_ms(), kind };
            if outbound.send(event).await.is_err() {
                return;
            }
        }
        // The first report comes soon, so that a new agent is complete at a glance; then at the interval.
        let due = looks % (SELF_INTERVAL.as_secs() / CLOCK_LOOK.as_secs()).max(1) == 2;
        looks += 1;
        if !due {
            continue;
        }
        let points = own.samples(&board);
        let names: Vec<_> = points.iter().map(|(name, _, _)| name.clone()).collect();
        if names != told {
            told = names;
            if outbound.send(Outbound::Meta(Box::new(own.meta(&points)))).await.is_err() {
                return;
            }
        }
        let batch = Outbound::Batch { device: id.clone(), t_ms: wall_ms(), points };
        if outbound.send(batch).await.is_err() {
            return;
        }
    }
}
