//! The publisher's loop: waits for one thing, stores, decides, hands over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::topic::Leaf;
use bcp_wire::{AgentState, AgentStatus, ClockState, CommandReply, Id, MAX_PAYLOAD_BYTES, Topic, WIRE_VERSION};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::compose::Composer;
use super::delivery::Notices;
use super::outbox::{Outbox, OutboxConfig};
use super::probe::{Look, Predecessor};
use super::session::{self, FromBroker, Link, SessionError};
use super::setup::{CommandRequest, PublishError, PublishFigures, PublisherSetup, Settings};
use super::{MqttConfig, incarnation};
use crate::clock::wall_ms;
use crate::outbound::Outbound;
use crate::spool::{Durability, PackDone, PackJob, Spool};

/// How often due work is looked for; the grain of pacing.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// What the devices of one turn say comes within this: one write to the disk and one to the broker serve all of it.
const GATHER: Duration = Duration::from_millis(5);
/// Messages of sources taken in one turn before the broker gets its turn.
const INTAKE_PER_TURN: usize = 256;
/// No topic of a payload is longer: two ids of 32 and what is between them.
const TOPIC_BYTES: usize = 96;
/// How often certificates, key and password are looked at: a changed one makes another session.
const FILES_LOOK_MS: u64 = 30_000;

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
    /// Payloads that the broker takes before it has acknowledged one.
    pub(super) receive_max: usize,
    pub(super) window_full: bool,
    pub(super) notices: Notices,
    pub(super) working: FuturesUnordered<Reply>,
    /// Commands that are carried out and not answered yet.
    pub(super) at_work: BTreeSet<Id>,
    pub(super) replies: VecDeque<CommandReply>,
    pub(super) sync: Option<JoinHandle<std::io::Result<()>>>,
    pub(super) sync_due_ms: u64,
    packing: Option<JoinHandle<Vec<PackDone>>>,
    pub(super) said_in_memory: bool,
    pub(super) figures: PublishFigures,
    pub(super) figures_out: watch::Sender<PublishFigures>,
    pub(super) clock: watch::Receiver<ClockState>,
    pub(super) started: Instant,
    /// The files that the present session was set up with.
    files: session::Stamps,
    files_due_ms: u64,
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
        for (range, class) in spool.owed() {
            outbox.restore(range, class);
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
            receive_max: usize::from(u16::MAX),
            window_full: false,
            notices: Notices::default(),
            working: FuturesUnordered::new(),
            at_work: BTreeSet::new(),
            replies: VecDeque::new(),
            sync: None,
            packing: None,
            sync_due_ms: 0,
            said_in_memory: false,
            figures_out: watch::Sender::new(figures.clone()),
            figures,
            clock,
            started: Instant::now(),
            files: session::stamps(&setup.settings.mqtt),
            files_due_ms: FILES_LOOK_MS,
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
        let mut link = self.link()?;
        let mut look = self.look();
        let mut settings = self.settings.clone();
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
                        tokio::time::sleep(GATHER).await;
                        for _ in 1..INTAKE_PER_TURN {
                            match outbound.try_recv() {
                                Ok(message) => self.take(message),
                                Err(_) => break,
                            }
                        }
                    }
                },
                found = &mut look.task.0, if !link.is_driven() => {
                    self.succeed(found)?;
                    link.drive();
                }
                Ok(()) = look.trouble.changed() => {
                    let reason = look.trouble.borrow_and_update().clone();
                    self.hear(&link.client, &commands, FromBroker::Lost { reason })?;
                }
                news = link.news.recv() => match news {
                    Some(news) => self.hear(&link.client, &commands, news)?,
                    None => return Err(PublishError::BrokeOff { broker: self.setup.settings.mqtt.broker.clone() }),
                },
                Ok(()) = settings.changed() => {
                    let next = settings.borrow_and_update().clone();
                    if self.resettle(next) {
                        self.connect_anew(&mut link, &mut look).await;
                    }
                }
                Some((sent, result)) = self.notices.next(), if !self.notices.is_empty() => {
                    self.settle(&sent, result);
                    // The broker acknowledges many at once: all of them in one turn.
                    while let Some(Some((sent, result))) = self.notices.next().now_or_never() {
                        self.settle(&sent, result);
                    }
                }
                Some(reply) = self.working.next(), if !self.working.is_empty() => self.reply(&link.client, reply),
                _ = ticker.tick() => {
                    self.tick().await;
                    if self.files_changed() {
                        self.connect_anew(&mut link, &mut look).await;
                    }
                }
            }
            self.hand_over(&link.client);
        }
        self.drain(&mut link, &commands, &mut outbound).await
    }

    fn client_id(&self) -> String {
        format!("bcp-{}-{}", self.setup.site, self.setup.agent)
    }

    /// A session as the settings have it, not begun yet.
    fn link(&mut self) -> Result<Link, PublishError> {
        let mqtt = &self.setup.settings.mqtt;
        let files = session::stamps(mqtt);
        let will = session::last_will(&self.topic(Leaf::State), self.state(AgentStatus::Lost).to_json());
        let link = Link::new(mqtt, &self.setup.resolver, &self.client_id(), will)
            .map_err(|source| PublishError::Session { broker: mqtt.broker.clone(), source })?;
        self.files = files;
        Ok(link)
    }

    fn look(&self) -> Look {
        let id = format!("{}-look-{}", self.client_id(), self.session);
        Look::begin(self.setup.settings.mqtt.clone(), self.setup.resolver.clone(), id, self.topic(Leaf::State))
    }

    /// Another session in place of this one; before the first session, another look as well.
    async fn connect_anew(&mut self, link: &mut Link, look: &mut Look) {
        match self.link() {
            Ok(next) if link.is_driven() => {
                self.leave(link).await;
                *link = next;
                link.drive();
            }
            Ok(next) => {
                *look = self.look();
                *link = next;
            }
            Err(error) => tracing::error!(error = %session::chain(&error), "the present session goes on"),
        }
    }

    /// True where a file of the session is not what it was; looked at now and then.
    fn files_changed(&mut self) -> bool {
        let now_ms = self.now_ms();
        if now_ms < self.files_due_ms {
            return false;
        }
        self.files_due_ms = now_ms + FILES_LOOK_MS;
        session::stamps(&self.setup.settings.mqtt) != self.files
    }

    /// Takes new settings over. True where they, or the files they name, need another session.
    fn resettle(&mut self, next: Settings) -> bool {
        let anew = next.mqtt != self.setup.settings.mqtt || session::stamps(&next.mqtt) != self.files;
        self.outbox.resettle(outbox_config(&next.mqtt));
        self.spool.resettle(next.spool.clone());
        self.setup.settings = next;
        self.state_due_ms = 0;
        anew
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
        let mut text = String::with_capacity(TOPIC_BYTES);
        // A text takes everything.
        let _ = write!(text, "{}", Topic::new(self.setup.site, self.setup.agent.clone(), leaf));
        text
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

    pub(super) async fn tick(&mut self) {
        let now_ms = self.now_ms();
        self.outbox.advance(now_ms);
        self.notices.look();
        if self.clock.has_changed().unwrap_or(false) {
            self.clock.mark_unchanged();
            self.state_due_ms = 0;
        }
        self.sync_spool(now_ms).await;
        self.pack_spool(now_ms).await;
        self.look_for_late(now_ms);
        let figures = PublishFigures {
            connected: self.connected,
            unsent: self.outbox.unsent(),
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

    /// One job at a time, on a thread that may wait for the disk.
    async fn pack_spool(&mut self, now_ms: u64) {
        if self.packing.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(done) = self.packing.take()
        {
            match done.await {
                Ok(done) => self.spool.packed(done, now_ms),
                Err(error) => tracing::error!(%error, "packing broke off; its segments stay as they are"),
            }
        }
        if self.packing.is_none() {
            let jobs = self.spool.take_packing(now_ms);
            if !jobs.is_empty() {
                let work = || jobs.into_iter().map(PackJob::run).collect();
                self.packing = Some(tokio::task::spawn_blocking(work));
            }
        }
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
}

fn outbox_config(mqtt: &MqttConfig) -> OutboxConfig {
    OutboxConfig {
        window: usize::from(mqtt.in_flight),
        backlog_per_s: mqtt.backlog_per_s,
        resend_after_ms: mqtt.resend_after.as_millis(),
    }
}

pub(super) fn sync_all(files: &[Arc<File>]) -> std::io::Result<()> {
    files.iter().try_for_each(|file| file.sync_data())
}
