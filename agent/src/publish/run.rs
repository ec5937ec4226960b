//! The publisher's loop: waits for one thing, stores, decides, hands over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bcp_wire::topic::Leaf;
use bcp_wire::{
    AgentState, AgentStatus, ClockState, Command, CommandReply, CommandVerb, DeviceMeta, EventKind, Gap, Id, Lane,
    MAX_PAYLOAD_BYTES, Site, Topic, WIRE_VERSION, Watermark, envelope,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rumqttc::{AsyncClient, PublishOptions, QoS};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::compose::Composer;
use super::outbox::{Outbox, OutboxConfig};
use super::probe::{self, Predecessor};
use super::session::{self, AbortOnDrop, FromBroker, SessionError};
use super::{AllowedVerb, MqttConfig, incarnation};
use crate::outbound::Outbound;
use crate::spool::{Durability, Key, Record, Spool, SpoolConfig, SpoolFigures};

/// How often due work is looked for; the grain of pacing.
const TICK: Duration = Duration::from_millis(100);
/// Messages of sources taken in one turn before the broker gets its turn.
const INTAKE_PER_TURN: usize = 256;
/// Time to deliver what is left when stopping.
const DRAIN_LIMIT: Duration = Duration::from_millis(1_500);
/// Time for the last state to reach the broker.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);
/// Devices described by one agent; more is a fault of the configuration.
const METAS_MAX: usize = 4_096;
/// Replies remembered, so that a repeated command is answered and not obeyed twice.
const REPLIES_MAX: usize = 64;
/// Gap events one turn may write; writing a gap can itself drop a segment.
const GAPS_PER_TURN: usize = 64;
/// Longest wait for the application to answer a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// In a new session nothing is written before the retained state was seen, or this long where there is none.
const GREETING_MS: u64 = 300;
/// Room in an MQTT packet for topic and properties.
const PACKET_OVERHEAD: usize = 512;

/// Everything the publisher must be told.
#[derive(Debug, Clone)]
pub struct PublisherSetup {
    pub site: Site,
    pub agent: Id,
    pub mqtt: MqttConfig,
    pub spool: SpoolConfig,
    /// Holds `incarnation` and `spool/`.
    pub state_dir: PathBuf,
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

type Notice = Pin<Box<dyn Future<Output = (Sent, Result<(), String>)> + Send>>;
type Reply = Pin<Box<dyn Future<Output = CommandReply> + Send>>;

#[derive(Debug, Clone)]
enum Sent {
    Payload(Key),
    Meta(Id),
    State,
}

/// See the module. `open` reads the spool, `run` works until shutdown.
#[allow(missing_debug_implementations, reason = "holds futures")]
pub struct Publisher {
    setup: PublisherSetup,
    session: String,
    composer: Composer,
    spool: Spool,
    outbox: Outbox,
    metas: BTreeMap<Id, DeviceMeta>,
    dirty_metas: BTreeSet<Id>,
    metas_in_flight: usize,
    status: AgentStatus,
    state_due_ms: u64,
    connected: bool,
    /// Until then the retained state may still tell of another agent.
    greeting_until_ms: u64,
    max_payload_bytes: usize,
    notices: FuturesUnordered<Notice>,
    working: FuturesUnordered<Reply>,
    replies: VecDeque<CommandReply>,
    sync: Option<JoinHandle<std::io::Result<()>>>,
    sync_due_ms: u64,
    said_in_memory: bool,
    figures: PublishFigures,
    figures_out: watch::Sender<PublishFigures>,
    clock: watch::Receiver<ClockState>,
    started: Instant,
}

impl Publisher {
    /// Takes the start counter and reads the spool. Neither can fail: what is damaged is recorded and stepped over.
    #[must_use]
    pub fn open(setup: PublisherSetup, clock: watch::Receiver<ClockState>) -> Publisher {
        let opened = Spool::open(&setup.state_dir.join("spool"), setup.spool.clone(), 0);
        let spool = opened.spool;
        let taken = incarnation::take(&setup.state_dir.join("incarnation"), spool.highest_incarnation());
        let mut outbox = Outbox::new(
            OutboxConfig {
                window: usize::from(setup.mqtt.in_flight),
                backlog_per_s: setup.mqtt.backlog_per_s,
                resend_after_ms: setup.mqtt.resend_after.as_millis(),
            },
            0,
        );
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

    fn now_ms(&self) -> u64 {
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
        let broker = self.setup.mqtt.broker.clone();
        let will = session::last_will(&self.topic(Leaf::State), self.state(AgentStatus::Lost).to_json());
        let client_id = format!("bcp-{}-{}", self.setup.site, self.setup.agent);
        let (client, event_loop) = session::build(&self.setup.mqtt, &client_id, Some(will))
            .map_err(|source| PublishError::Session { broker, source })?;
        let (inbox, mut news) = mpsc::channel(session::INBOX);
        let mut event_loop = Some(event_loop);
        let mut driver = None;
        let look =
            probe::ask(self.setup.mqtt.clone(), format!("{client_id}-look-{}", self.session), self.topic(Leaf::State));
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
            Ok(Err(source)) => Err(PublishError::Session { broker: self.setup.mqtt.broker.clone(), source }),
            Err(error) => {
                tracing::error!(%error, "the look for a second agent broke off");
                Ok(())
            }
        }
    }

    fn take(&mut self, message: Outbound) {
        match message {
            Outbound::Batch { device, t_ms, points } => {
                for record in self.composer.batch(&device, t_ms, &points) {
                    self.store(&record);
                }
            }
            Outbound::Event { device, t_ms, kind } => {
                let record = self.composer.event(&device, t_ms, kind);
                self.store(&record);
            }
            Outbound::Meta(meta) => {
                let device = meta.device.clone();
                if self.metas.len() >= METAS_MAX && !self.metas.contains_key(&device) {
                    tracing::error!(%device, limit = METAS_MAX, "device is not described: too many devices");
                    return;
                }
                let meta = DeviceMeta { v: WIRE_VERSION, i: self.figures.incarnation, ..*meta };
                if self.metas.insert(device.clone(), meta.clone()).as_ref() != Some(&meta) {
                    self.dirty_metas.insert(device);
                }
            }
        }
    }

    fn store(&mut self, record: &Record) {
        let gaps = self.append(record);
        self.record_gaps(gaps);
    }

    fn append(&mut self, record: &Record) -> Vec<Gap> {
        let now_ms = self.now_ms();
        let gaps = self.spool.append(record, now_ms, wall_ms());
        self.outbox.accept(record.key, record.class, now_ms);
        for gap in &gaps {
            for seq in gap.from..=gap.through {
                let key = Key { incarnation: gap.incarnation, seq };
                if !self.spool.contains(key) {
                    self.outbox.forget(key);
                }
            }
        }
        gaps
    }

    fn record_gaps(&mut self, gaps: Vec<Gap>) {
        let mut todo = VecDeque::from(gaps);
        let mut written = 0;
        while let Some(gap) = todo.pop_front() {
            tracing::warn!(incarnation = gap.incarnation, from = gap.from, through = gap.through, reason = %gap.reason, "payloads are lost");
            let device = envelope::self_device(&self.setup.agent);
            let record = self.composer.event(&device, wall_ms(), EventKind::Gap(gap));
            let more = self.append(&record);
            written += 1;
            if written >= GAPS_PER_TURN && !more.is_empty() {
                tracing::error!(
                    left = todo.len() + more.len(),
                    "gaps are not recorded: the spool holds nothing any more"
                );
                return;
            }
            todo.extend(more);
        }
    }

    fn notice(&mut self, text: String) {
        let device = envelope::self_device(&self.setup.agent);
        let record = self.composer.event(&device, wall_ms(), EventKind::Notice { text });
        self.store(&record);
    }

    fn topic(&self, leaf: Leaf) -> String {
        Topic::new(self.setup.site, self.setup.agent.clone(), leaf).to_string()
    }

    fn state(&self, status: AgentStatus) -> AgentState {
        AgentState {
            v: WIRE_VERSION,
            i: self.figures.incarnation,
            status,
            t: wall_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: self.setup.config_hash.clone(),
            clock: *self.clock.borrow(),
            next_within_ms: self.setup.mqtt.state_interval.as_millis(),
            session: self.session.clone(),
        }
    }

    fn hear(
        &mut self,
        client: &AsyncClient,
        commands: &mpsc::Sender<CommandRequest>,
        news: FromBroker,
    ) -> Result<(), PublishError> {
        match news {
            FromBroker::Connected { max_packet_bytes } => self.welcome(client, max_packet_bytes),
            FromBroker::Lost { reason } => {
                if self.connected || self.figures.last_error.as_ref() != Some(&reason) {
                    tracing::warn!(broker = %self.setup.mqtt.broker, %reason, "no session with the broker; payloads stay in the spool");
                }
                self.connected = false;
                self.figures.last_error = Some(reason);
            }
            FromBroker::Message { topic, retained, payload } => {
                let Ok(topic) = topic.parse::<Topic>() else { return Ok(()) };
                if topic.site != self.setup.site || topic.agent != self.setup.agent {
                    return Ok(());
                }
                match topic.leaf {
                    Leaf::Ack { collector } if collector == self.setup.site => self.commit(&payload),
                    Leaf::State => {
                        self.greeting_until_ms = 0;
                        return self.compare(&payload);
                    }
                    Leaf::Command if !retained => self.obey(client, commands, &payload),
                    Leaf::Ack { .. }
                    | Leaf::Command
                    | Leaf::Meta { .. }
                    | Leaf::Batch { .. }
                    | Leaf::CommandReply { .. } => {}
                }
            }
        }
        Ok(())
    }

    fn welcome(&mut self, client: &AsyncClient, max_packet_bytes: Option<u32>) {
        tracing::info!(broker = %self.setup.mqtt.broker, incarnation = self.figures.incarnation, "session with the broker");
        self.connected = true;
        self.figures.sessions += 1;
        self.figures.last_error = None;
        let packet = max_packet_bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        self.max_payload_bytes = packet.saturating_sub(PACKET_OVERHEAD);
        let filters = Topic::agent_filters(self.setup.site, &self.setup.agent);
        for filter in filters.into_iter().chain([self.topic(Leaf::State)]) {
            if let Err(error) = client.try_subscribe(filter, QoS::AtLeastOnce) {
                tracing::warn!(%error, "subscription did not fit the queue; the next session repeats it");
            }
        }
        self.outbox.reconnected(self.now_ms());
        self.dirty_metas = self.metas.keys().cloned().collect();
        self.state_due_ms = 0;
        self.greeting_until_ms = if self.figures.sessions > 1 { self.now_ms() + GREETING_MS } else { 0 };
    }

    fn commit(&mut self, payload: &[u8]) {
        let mark = match Watermark::from_json(payload) {
            Ok(mark) if mark.collector == self.setup.site => mark,
            Ok(mark) => {
                tracing::warn!(collector = %mark.collector, "watermark of another collector on our collector's topic");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "unreadable watermark");
                return;
            }
        };
        let freed = self.spool.commit(&mark);
        self.figures.committed += freed.len() as u64;
        for key in freed {
            self.outbox.forget(key);
        }
        self.outbox.passed_over(&mark, self.now_ms());
    }

    /// Another session under our id with our number or a higher one: somebody else is this agent.
    fn compare(&mut self, payload: &[u8]) -> Result<(), PublishError> {
        let Ok(other) = AgentState::from_json(payload) else { return Ok(()) };
        if other.session == self.session || other.i < self.figures.incarnation {
            return Ok(());
        }
        Err(PublishError::SecondAgent {
            site: self.setup.site,
            agent: self.setup.agent.clone(),
            session: other.session,
            incarnation: other.i,
        })
    }

    fn obey(&mut self, client: &AsyncClient, commands: &mpsc::Sender<CommandRequest>, payload: &[u8]) {
        let command = match Command::from_json(payload) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%error, "unreadable command");
                return;
            }
        };
        if let Some(known) = self.replies.iter().find(|reply| reply.id == command.id).cloned() {
            self.reply(client, known);
            return;
        }
        let wanted = match &command.verb {
            CommandVerb::Rebirth => AllowedVerb::Rebirth,
            CommandVerb::PollNow { .. } => AllowedVerb::PollNow,
            CommandVerb::Reload => AllowedVerb::Reload,
            CommandVerb::LogLevel { .. } => AllowedVerb::LogLevel,
        };
        let answer =
            |ok: bool, error: Option<String>| CommandReply { v: WIRE_VERSION, id: command.id.clone(), ok, error };
        if !self.setup.mqtt.allow.contains(&wanted) {
            tracing::warn!(id = %command.id, verb = ?command.verb, "command is not allowed here");
            let refusal = answer(false, Some("not allowed by this agent's configuration".to_owned()));
            self.reply(client, refusal);
            return;
        }
        tracing::info!(id = %command.id, verb = ?command.verb, "command");
        if command.verb == CommandVerb::Rebirth {
            self.dirty_metas = self.metas.keys().cloned().collect();
            self.state_due_ms = 0;
            self.reply(client, answer(true, None));
            return;
        }
        let (sender, receiver) = oneshot::channel();
        match commands.try_send(CommandRequest { verb: command.verb.clone(), answer: sender }) {
            Err(_) => self.reply(client, answer(false, Some("busy".to_owned()))),
            Ok(()) => {
                let id = command.id;
                self.working.push(Box::pin(async move {
                    let result = match tokio::time::timeout(COMMAND_LIMIT, receiver).await {
                        Ok(Ok(result)) => result,
                        Ok(Err(_)) => Err("not carried out".to_owned()),
                        Err(_) => Err("no answer in time".to_owned()),
                    };
                    CommandReply { v: WIRE_VERSION, id, ok: result.is_ok(), error: result.err() }
                }));
            }
        }
    }

    fn reply(&mut self, client: &AsyncClient, reply: CommandReply) {
        let topic = self.topic(Leaf::CommandReply { id: reply.id.clone() });
        if let Err(error) = client.try_publish(topic, reply.to_json(), PublishOptions::at_least_once()) {
            tracing::warn!(%error, id = %reply.id, "reply did not fit the queue");
        }
        if !self.replies.iter().any(|known| known.id == reply.id) {
            self.replies.push_back(reply);
            if self.replies.len() > REPLIES_MAX {
                self.replies.pop_front();
            }
        }
    }

    fn settle(&mut self, sent: &Sent, result: Result<(), String>) {
        match (sent, result) {
            (Sent::Payload(key), Ok(())) => {
                let now_ms = self.now_ms();
                self.outbox.delivered(*key, now_ms);
            }
            (Sent::Payload(key), Err(reason)) => {
                tracing::debug!(?key, %reason, "payload goes back to the backlog");
                self.outbox.failed(*key);
            }
            (Sent::Meta(device), result) => {
                self.metas_in_flight = self.metas_in_flight.saturating_sub(1);
                if let Err(reason) = result {
                    tracing::debug!(%device, %reason, "description goes again");
                    self.dirty_metas.insert(device.clone());
                }
            }
            (Sent::State, Ok(())) => {}
            (Sent::State, Err(reason)) => tracing::debug!(%reason, "a state was not delivered"),
        }
    }

    async fn tick(&mut self) {
        let now_ms = self.now_ms();
        self.outbox.advance(now_ms);
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
            self.sync_due_ms = now_ms + self.setup.spool.fsync.as_millis().saturating_sub(50);
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

    /// Hands over what fits the window: state, descriptions, then payloads.
    fn hand_over(&mut self, client: &AsyncClient) {
        let now_ms = self.now_ms();
        self.spool.flush(now_ms);
        if !self.connected || now_ms < self.greeting_until_ms {
            return;
        }
        if now_ms >= self.state_due_ms {
            // Half a second early: the promise of `next_within_ms` includes the way.
            let next = self.setup.mqtt.state_interval.as_millis().saturating_sub(500);
            self.state_due_ms = now_ms + next;
            let payload = self.state(self.status).to_json();
            self.publish(client, Sent::State, self.topic(Leaf::State), payload, true);
        }
        let window = usize::from(self.setup.mqtt.in_flight);
        while self.metas_in_flight + self.outbox.in_flight() < window
            && let Some(device) = self.dirty_metas.pop_first()
        {
            let Some(payload) = self.metas.get(&device).map(DeviceMeta::to_json) else { continue };
            if payload.len() > self.max_payload_bytes.min(MAX_PAYLOAD_BYTES) {
                tracing::error!(%device, bytes = payload.len(), "description is larger than the broker takes");
                continue;
            }
            self.metas_in_flight += 1;
            let topic = self.topic(Leaf::Meta { device: device.clone() });
            self.publish(client, Sent::Meta(device), topic, payload, true);
        }
        while self.metas_in_flight + self.outbox.in_flight() < window
            && let Some((key, _, lane)) = self.outbox.next()
        {
            self.hand_over_payload(client, key, lane);
        }
    }

    fn hand_over_payload(&mut self, client: &AsyncClient, key: Key, lane: Lane) {
        let record = match self.spool.read(key) {
            Ok(record) => record,
            Err(gap) => {
                self.outbox.forget(key);
                self.record_gaps(gap.into_iter().collect());
                return;
            }
        };
        if record.payload.len() > self.max_payload_bytes {
            tracing::error!(device = %record.device, bytes = record.payload.len(), limit = self.max_payload_bytes, "payload is larger than the broker takes");
            let gap = self.spool.give_up(key, "larger than the broker takes");
            self.outbox.forget(key);
            self.record_gaps(gap.into_iter().collect());
            return;
        }
        let topic = self.topic(Leaf::Batch { lane, device: record.device });
        self.figures.handed_over += 1;
        self.publish(client, Sent::Payload(key), topic, record.payload, false);
    }

    fn publish(&mut self, client: &AsyncClient, sent: Sent, topic: String, payload: Vec<u8>, retain: bool) {
        let options = PublishOptions::at_least_once().retain(retain);
        match client.try_publish_tracked(topic, payload, options) {
            Ok(notice) => self.notices.push(Box::pin(async move {
                let result = notice.wait_completion_async().await;
                (sent, result.map_err(|error| error.to_string()))
            })),
            Err(error) => self.settle(&sent, Err(error.to_string())),
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

fn sync_all(files: &[Arc<File>]) -> std::io::Result<()> {
    files.iter().try_for_each(|file| file.sync_data())
}

fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
