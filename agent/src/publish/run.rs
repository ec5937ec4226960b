//! The publisher's loop: waits for one thing, stores, decides, hands over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::topic::Leaf;
use bcp_wire::{
    AgentState, AgentStatus, ClockState, CommandReply, CommandVerb, Id, MAX_PAYLOAD_BYTES, Site, Topic, WIRE_VERSION,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rumqttc::{AsyncClient, EventLoop};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::compose::Composer;
use super::delivery::Sent;
use super::outbox::{Outbox, OutboxConfig};
use super::probe::{self, Predecessor};
use super::session::{self, AbortOnDrop, FromBroker, SessionError};
use super::{AllowedVerb, MqttConfig, incarnation};
use crate::clock::wall_ms;
use crate::outbound::Outbound;
use crate::spool::{Durability, Spool, SpoolConfig, SpoolFigures};

/// How often due work is looked for; the grain of pacing.
const TICK: Duration = Duration::from_millis(100);
/// Messages of sources taken in one turn before the broker gets its turn.
const INTAKE_PER_TURN: usize = 256;
/// Time to deliver what is left when stopping.
const DRAIN_LIMIT: Duration = Duration::from_millis(1_500);
/// Time for the last state to reach the broker.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);

/// Everything the publisher must be told.
#[derive(Debug, Clone)]
pub struct PublisherSetup {
    pub site: Site,
    pub agent: Id,
    /// Holds `incarnation` and `spool/`.
    pub state_dir: PathBuf,
    pub settings: Settings,
}

/// What may change while the publisher runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub mqtt: MqttConfig,
    pub spool: SpoolConfig,
    /// Commands that are obeyed; all others are denied.
    pub allow: Vec<AllowedVerb>,
    /// First 16 hexadecimal digits of the SHA-256 of the configuration.
    pub config_hash: String,
}

/// Why the publisher ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("failed to set up the session with {broker}")]
    Session { broker: String, source: SessionError },
    #[error(
        "another agent runs under the id {site}/{agent} (its session {session}, start {incarnation}); stop one of them or rename it"
    )]
    SecondAgent { site: Site, agent: Id, session: String, incarnation: u64 },
    #[error(
        "this agent's start counter was lost: it says {ours}, but {site}/{agent} has been at {seen}; the counter is set, start again"
    )]
    CounterLost { site: Site, agent: Id, ours: u64, seen: u64 },
}

/// A command that the configuration allows, for the application to carry out.
#[derive(Debug)]
pub struct CommandRequest {
    pub verb: CommandVerb,
    /// Dropped without an answer, it counts as refused.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Figures of the publisher, for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PublishFigures {
    pub connected: bool,
    pub sessions: u64,
    pub last_error: Option<String>,
    pub incarnation: u64,
    pub unsent: u64,
    pub in_flight: u64,
    pub handed_over: u64,
    pub committed: u64,
    pub spool: SpoolFigures,
}

pub(super) type Notice = Pin<Box<dyn Future<Output = (Sent, Result<(), String>)> + Send>>;
pub(super) type Reply = Pin<Box<dyn Future<Output = CommandReply> + Send>>;

/// See the module. `open` reads the spool, `run` works until shutdown.
#[allow(missing_debug_implementations, reason = "holds futures")]
pub struct Publisher {
    pub(super) setup: PublisherSetup,
    settings: watch::Receiver<Settings>,
    settings_in: watch::Sender<Settings>,
    pub(super) session: String,
    pub(super) composer: Composer,
    pub(super) spool: Spool,
    pub(super) outbox: Outbox,
    /// Descriptions as they are published.
    pub(super) metas: BTreeMap<Id, Box<[u8]>>,
    pub(super) dirty_metas: BTreeSet<Id>,
    pub(super) metas_in_flight: usize,
    pub(super) status: AgentStatus,
    pub(super) state_due_ms: u64,
    pub(super) connected: bool,
    /// Until then the retained state may still tell of another agent.
    pub(super) greeting_until_ms: u64,
    pub(super) max_payload_bytes: usize,
    pub(super) notices: FuturesUnordered<Notice>,
    pub(super) working: FuturesUnordered<Reply>,
    pub(super) replies: VecDeque<CommandReply>,
    pub(super) sync: Option<JoinHandle<std::io::Result<()>>>,
    pub(super) sync_due_ms: u64,
    pub(super) said_in_memory: bool,
    pub(super) figures: PublishFigures,
    pub(super) figures_out: watch::Sender<PublishFigures>,
    pub(super) clock: watch::Receiver<ClockState>,
    pub(super) started: Instant,
}

impl Publisher {
    /// Takes the start counter and reads the spool. Neither can fail: what is damaged is recorded and stepped over.
    #[must_use]
    pub fn open(setup: PublisherSetup, clock: watch::Receiver<ClockState>) -> Publisher {
        let (settings_in, settings) = watch::channel(setup.settings.clone());
        let opened = Spool::open(&setup.state_dir.join("spool"), setup.settings.spool.clone(), 0);
        let spool = opened.spool;
        let taken = incarnation::take(&setup.state_dir.join("incarnation"), spool.highest_incarnation());
        let mut outbox = Outbox::new(outbox_config(&setup.settings.mqtt), 0);
        for (key, class) in spool.keys() {
            outbox.restore(key, class);
        }
        let figures = PublishFigures { incarnation: taken.number, ..PublishFigures::default() };
        let mut publisher = Publisher {
            session: format!("{:016x}", rand::random::<u64>()),
            composer: Composer::new(taken.number),
            spool,
            outbox,
            metas: BTreeMap::new(),
            dirty_metas: BTreeSet::new(),
            metas_in_flight: 0,
            status: AgentStatus::Online,
            state_due_ms: 0,
            connected: false,
            greeting_until_ms: 0,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            notices: FuturesUnordered::new(),
            working: FuturesUnordered::new(),
            replies: VecDeque::new(),
            sync: None,
            sync_due_ms: 0,
            said_in_memory: false,
            figures_out: watch::Sender::new(figures.clone()),
            figures,
            clock,
            started: Instant::now(),
            settings,
            settings_in,
            setup,
        };
        for note in opened.notes.into_iter().chain(taken.trouble) {
            tracing::warn!(%note, "spool opened with faults");
            publisher.notice(note);
        }
        publisher.record_gaps(opened.gaps);
        publisher
    }

    /// Number of this start.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.figures.incarnation
    }

    #[must_use]
    pub fn figures(&self) -> watch::Receiver<PublishFigures> {
        self.figures_out.subscribe()
    }

    /// Where new settings go while the publisher runs.
    #[must_use]
    pub fn settings(&self) -> watch::Sender<Settings> {
        self.settings_in.clone()
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Publishes until `shutdown` turns true or every source is gone, then delivers what it can and says goodbye.
    ///
    /// # Errors
    /// The session cannot be set up, or a second agent has this id.
    pub async fn run(
        mut self,
        mut outbound: mpsc::Receiver<Outbound>,
        commands: mpsc::Sender<CommandRequest>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), PublishError> {
        let (mut client, event_loop) = self.connect()?;
        let (mut inbox, mut news) = mpsc::channel(session::INBOX);
        let mut event_loop = Some(event_loop);
        let mut driver = None;
        let mut settings = self.settings.clone();
        let look_id = format!("{}-look-{}", self.client_id(), self.session);
        let look = probe::ask(self.setup.settings.mqtt.clone(), look_id, self.topic(Leaf::State));
        let mut look = AbortOnDrop(tokio::spawn(look));
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        while open {
            tokio::select! {
                changed = shutdown.changed() => open = changed.is_ok() && !*shutdown.borrow(),
                message = outbound.recv() => match message {
                    None => open = false,
                    Some(message) => {
                        self.take(message);
                        for _ in 1..INTAKE_PER_TURN {
                            match outbound.try_recv() {
                                Ok(message) => self.take(message),
                                Err(_) => break,
                            }
                        }
                    }
                },
                found = &mut look.0, if driver.is_none() => {
                    self.succeed(found)?;
                    driver = event_loop.take().map(|event_loop| {
                        AbortOnDrop(tokio::spawn(session::drive(event_loop, inbox.clone())))
                    });
                }
                Some(news) = news.recv() => self.hear(&client, &commands, news)?,
                Ok(()) = settings.changed() => {
                    let next = settings.borrow_and_update().clone();
                    if self.resettle(next) && driver.is_some() {
                        match self.connect() {
                            Ok((next, event_loop)) => {
                                self.leave(&client, &mut news).await;
                                client = next;
                                (inbox, news) = mpsc::channel(session::INBOX);
                                driver = Some(AbortOnDrop(tokio::spawn(session::drive(event_loop, inbox.clone()))));
                            }
                            Err(error) => tracing::error!(%error, "the present session goes on"),
                        }
                    }
                }
                Some((sent, result)) = self.notices.next(), if !self.notices.is_empty() => self.settle(&sent, result),
                Some(reply) = self.working.next(), if !self.working.is_empty() => self.reply(&client, reply),
                _ = ticker.tick() => self.tick().await,
            }
            self.hand_over(&client);
        }
        self.drain(&client, &commands, &mut outbound, &mut news).await?;
        drop(driver);
        Ok(())
    }

    fn client_id(&self) -> String {
        format!("bcp-{}-{}", self.setup.site, self.setup.agent)
    }

    fn connect(&self) -> Result<(AsyncClient, EventLoop), PublishError> {
        let mqtt = &self.setup.settings.mqtt;
        let will = session::last_will(&self.topic(Leaf::State), self.state(AgentStatus::Lost).to_json());
        session::build(mqtt, &self.client_id(), Some(will))
            .map_err(|source| PublishError::Session { broker: mqtt.broker.clone(), source })
    }

    /// Takes new settings over. True where they need another session.
    fn resettle(&mut self, next: Settings) -> bool {
        let anew = next.mqtt != self.setup.settings.mqtt;
        self.outbox.resettle(outbox_config(&next.mqtt));
        self.spool.resettle(next.spool.clone());
        self.setup.settings = next;
        self.state_due_ms = 0;
        anew
    }

    /// Ends a session in order, so that its will is not published.
    async fn leave(&mut self, client: &AsyncClient, news: &mut mpsc::Receiver<FromBroker>) {
        if self.connected && client.disconnect_now().await.is_ok() {
            // Its task ends when the broker has been told, and closes this channel with it.
            let rest = async { while news.recv().await.is_some() {} };
            let _ = tokio::time::timeout(FAREWELL_LIMIT, rest).await;
        }
        self.connected = false;
        tracing::info!(broker = %self.setup.settings.mqtt.broker, "new settings: another session");
    }

    /// Judges what was found under our id before we began.
    fn succeed(
        &self,
        found: Result<Result<Predecessor, SessionError>, tokio::task::JoinError>,
    ) -> Result<(), PublishError> {
        let ours = self.figures.incarnation;
        let (site, agent) = (self.setup.site, self.setup.agent.clone());
        match found {
            Ok(Ok(Predecessor::Alive(other))) => {
                Err(PublishError::SecondAgent { site, agent, session: other.session, incarnation: other.i })
            }
            Ok(Ok(Predecessor::Ended(other))) if other.i >= ours => {
                let path = self.setup.state_dir.join("incarnation");
                if let Err(error) = incarnation::keep(&path, other.i) {
                    tracing::error!(%error, "the start counter cannot be written");
                }
                Err(PublishError::CounterLost { site, agent, ours, seen: other.i })
            }
            Ok(Ok(Predecessor::Ended(_) | Predecessor::None)) => Ok(()),
            Ok(Err(source)) => Err(PublishError::Session { broker: self.setup.settings.mqtt.broker.clone(), source }),
            Err(error) => {
                tracing::error!(%error, "the look for a second agent broke off");
                Ok(())
            }
        }
    }

    pub(super) fn topic(&self, leaf: Leaf) -> String {
        Topic::new(self.setup.site, self.setup.agent.clone(), leaf).to_string()
    }

    pub(super) fn state(&self, status: AgentStatus) -> AgentState {
        AgentState {
            v: WIRE_VERSION,
            i: self.figures.incarnation,
            status,
            t: wall_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: self.setup.settings.config_hash.clone(),
            clock: *self.clock.borrow(),
            next_within_ms: self.setup.settings.mqtt.state_interval.as_millis(),
            session: self.session.clone(),
        }
    }

    async fn tick(&mut self) {
        let now_ms = self.now_ms();
        self.outbox.advance(now_ms);
        if self.clock.has_changed().unwrap_or(false) {
            self.clock.mark_unchanged();
            self.state_due_ms = 0;
        }
        self.sync_spool(now_ms).await;
        let figures = PublishFigures {
            connected: self.connected,
            unsent: self.outbox.unsent() as u64,
            in_flight: self.outbox.in_flight() as u64,
            spool: self.spool.figures(),
            ..self.figures.clone()
        };
        self.figures = figures.clone();
        self.figures_out.send_if_modified(|known| {
            let changed = *known != figures;
            *known = figures;
            changed
        });
    }

    /// One fsync at a time, on a thread that may wait for the disk.
    async fn sync_spool(&mut self, now_ms: u64) {
        if self.sync.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(done) = self.sync.take()
        {
            match done.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.spool.sync_failed(&error, now_ms),
                Err(error) => self.spool.sync_failed(&std::io::Error::other(error), now_ms),
            }
        }
        if self.sync.is_none() && now_ms >= self.sync_due_ms {
            self.sync_due_ms = now_ms + self.setup.settings.spool.fsync.as_millis().saturating_sub(50);
            let files = self.spool.take_unsynced();
            if !files.is_empty() {
                self.sync = Some(tokio::task::spawn_blocking(move || sync_all(&files)));
            }
        }
        match self.spool.durability() {
            Durability::Memory { reason, .. } if !self.said_in_memory => {
                let text = format!("the spool is in memory only: {reason}");
                tracing::error!(%reason, "the spool's disk refuses; payloads are in memory only");
                self.said_in_memory = true;
                self.notice(text);
            }
            Durability::Disk if self.said_in_memory => {
                tracing::info!("the spool is on disk again");
                self.said_in_memory = false;
                self.notice("the spool is on disk again".to_owned());
            }
            Durability::Memory { .. } | Durability::Disk => {}
        }
    }

    async fn drain(
        &mut self,
        client: &AsyncClient,
        commands: &mpsc::Sender<CommandRequest>,
        outbound: &mut mpsc::Receiver<Outbound>,
        news: &mut mpsc::Receiver<FromBroker>,
    ) -> Result<(), PublishError> {
        self.status = AgentStatus::Draining;
        self.state_due_ms = 0;
        outbound.close();
        while let Ok(message) = outbound.try_recv() {
            self.take(message);
        }
        let deadline = tokio::time::Instant::now() + DRAIN_LIMIT;
        let mut ticker = tokio::time::interval(TICK);
        self.hand_over(client);
        while self.connected && self.outbox.unsent() + self.outbox.in_flight() + self.metas_in_flight > 0 {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => break,
                Some(news) = news.recv() => self.hear(client, commands, news)?,
                Some((sent, result)) = self.notices.next(), if !self.notices.is_empty() => self.settle(&sent, result),
                _ = ticker.tick() => self.tick().await,
            }
            self.hand_over(client);
        }
        if self.connected {
            let payload = self.state(AgentStatus::Offline).to_json();
            self.publish(client, Sent::State, self.topic(Leaf::State), payload, true);
            let farewell = async {
                while let Some((sent, result)) = self.notices.next().await {
                    self.settle(&sent, result);
                }
            };
            if tokio::time::timeout(FAREWELL_LIMIT, farewell).await.is_err() {
                tracing::warn!("the broker did not acknowledge everything before the end; it stays in the spool");
            }
            if client.disconnect_now().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        self.spool.flush(self.now_ms());
        if let Err(error) = sync_all(&self.spool.take_unsynced()) {
            tracing::error!(%error, "the spool was not synced at the end");
        }
        tracing::info!(left = self.spool.figures().payloads, "publisher stopped");
        Ok(())
    }
}

fn outbox_config(mqtt: &MqttConfig) -> OutboxConfig {
    OutboxConfig {
        window: usize::from(mqtt.in_flight),
        backlog_per_s: mqtt.backlog_per_s,
        resend_after_ms: mqtt.resend_after.as_millis(),
    }
}

fn sync_all(files: &[Arc<File>]) -> std::io::Result<()> {
    files.iter().try_for_each(|file| file.sync_data())
}
