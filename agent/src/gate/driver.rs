//! Carries out what the machines decide: files, processes, requests.
//!
//! One loop for all tickets of the gate. For every event of a ticket it holds the ticket's lock, takes over what the warden
//! wrote, steps the machine and begins the actions in order. What is begun under the lock can be found and killed by the
//! warden; a gate that is stopped in the middle of it is killed by the warden.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_identity::{Credentials, Identity, IdentityError};
use bcp_wire::control::{
    GateAnswer, GateSync, PromiseAnswer, PromiseAsk, PromiseVerdict, ServiceFacts, StepOrder, StepOutcome, SyncOutcome,
    TicketAnswer,
};
use bcp_wire::{Epoch, Id, Site};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::ask::{Collectors, Target, facts, post};
use super::config::{GateConfig, TicketConfig};
use super::listener::{self, Asked};
use super::machine::{Action, Event, FoundDeadline, Machine, Peer, Terms, TicketFigures};
use super::record::BootMs;
use super::script::{Call, Ended, Script, succeeded};
use super::service::{self, Word};
use super::store::{DeadlineFile, ProcessMark, Store, StoreError, Version};
use super::{boot_id, boot_ms};
use crate::publish::incarnation;

/// Grain of the machine's clock. The loss action begins two of these before the deadline.
const TICK: Duration = Duration::from_millis(100);
/// Least time between two requests, so that a quick succession of steps is one request.
const SYNC_GAP: Duration = Duration::from_millis(50);
/// Requests remembered by nonce; an answer older than this many requests extends nothing.
const REQUESTS_MAX: usize = 64;
/// Requests of this gate that one collector may leave unanswered before it is left out.
const UNANSWERED_MAX: usize = 4;
/// Events of a ticket that wait while the warden holds its lock.
const PENDING_MAX: usize = 64;
/// Inputs that wait for the loop: some for every ticket.
const INPUTS: usize = 2_048;
const FACTS_LIMIT: Duration = Duration::from_millis(800);
/// Facts older than this many renew intervals are not passed on.
const FACTS_FRESH_RENEWALS: u64 = 3;
/// Running steps get this long to end when the gate is stopped; then they go on without it and are repeated by order.
const DRAIN_LIMIT: Duration = Duration::from_millis(2_000);
/// A refusing collector is said this often.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Everything the gate must be told.
#[derive(Debug, Clone)]
pub struct GateSetup {
    pub site: Site,
    /// Id of the agent that the gate is part of.
    pub gate: Id,
    pub config: GateConfig,
    /// The agent's state directory; the gate's files are in `gate/` under it.
    pub state_dir: PathBuf,
}

impl GateSetup {
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.state_dir.join("gate")
    }

    #[must_use]
    pub fn script(&self, ticket: &TicketConfig, store: &Store) -> Script {
        Script { argv: ticket.script.clone(), ticket: ticket.id.clone(), site: self.site, log: store.step_log() }
    }
}

/// Why a gate cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("failed to read the boot id")]
    BootId(#[source] std::io::Error),
    #[error("failed to use the files of ticket {ticket}")]
    Store { ticket: Id, source: StoreError },
    #[error("failed to set up requests to {to}")]
    Client { to: String, source: IdentityError },
    #[error("failed to set up requests to the service")]
    Plain(#[source] reqwest::Error),
    #[error("failed to listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("failed to serve other gates")]
    Serve(#[source] IdentityError),
}

/// What reaches the loop.
#[derive(Debug)]
pub enum Input {
    Answer { nonce: u64, answer: GateAnswer },
    StepEnded { ticket: Id, run: u64, key: String, ended: Ended },
    StopEnded { ticket: Id, run: u64, ended: Ended },
    Promise { ticket: Id, peer: Peer, nonce: u64, answer: Result<PromiseAnswer, String> },
    PromiseAsked { ask: PromiseAsk, answer: oneshot::Sender<PromiseAnswer> },
    Facts { ticket: Id, facts: Option<ServiceFacts> },
    Told { ticket: Id, word: Word, accepted: bool },
}

/// Figures of the gate, for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct GateFigures {
    /// CLOCK_BOOTTIME of the last request that a collector confirmed.
    pub confirmed_at: Option<BootMs>,
    pub requests: u64,
    pub confirmed: u64,
    pub tickets: Vec<TicketFigures>,
}

/// One ticket and what belongs to it.
#[derive(Debug)]
struct Post {
    config: TicketConfig,
    machine: Machine,
    store: Store,
    version: Version,
    script: Script,
    /// The run whose end counts; ends of killed ones do not.
    run: u64,
    step: Option<ProcessMark>,
    deadline: Option<(Epoch, BootMs)>,
    pending: VecDeque<Event>,
    facts: Option<(BootMs, ServiceFacts)>,
    facts_asked: bool,
    /// What the service took last, and whether something is on its way to it.
    told: Option<Word>,
    telling: bool,
}

#[derive(Debug)]
struct Request {
    nonce: u64,
    sent: BootMs,
    reported: BTreeMap<Id, Vec<String>>,
    /// Wishes to go on alone that its facts carried.
    wishes: BTreeMap<Id, u64>,
    confirmed: bool,
}

/// A gate that is bound and ready to run.
#[derive(Debug)]
pub struct Gate {
    setup: GateSetup,
    boot_id: String,
    own: Option<ProcessMark>,
    listener: Option<TcpListener>,
    credentials: Credentials,
    collectors: Collectors,
    siblings: Vec<Target>,
    peers: BTreeMap<Peer, Target>,
    plain: reqwest::Client,
    posts: BTreeMap<Id, Post>,
    requests: VecDeque<Request>,
    /// Order of the requests across restarts: the start counter in the upper half, a count in the lower.
    seq: u64,
    sync_wanted: bool,
    synced_at: Option<Instant>,
    said_refused: Option<Instant>,
    figures: GateFigures,
    figures_out: watch::Sender<GateFigures>,
    inputs: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
}

impl Gate {
    /// Reads what is stored, kills a step that a former life left behind, binds the listener.
    ///
    /// # Errors
    /// Something the gate cannot do without is missing; nothing was changed.
    pub async fn build(setup: GateSetup) -> Result<Gate, GateError> {
        // Requests to the service are plain HTTP, but the client wants a provider all the same. Losing the race to
        // install one is as good as winning it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let boot_id = boot_id().map_err(GateError::BootId)?;
        let timing = setup.config.timing.resolve();
        let files = &setup.config.credentials;
        let credentials = Credentials { ca: files.ca.clone(), cert: files.cert.clone(), key: files.key.clone() };
        let limit = Duration::from_millis((timing.ttl_holder_ms / 2).max(500));
        let target = |identity: Identity, url: &str, path: &str| {
            let client = bcp_identity::http_client(&credentials, &identity, limit)
                .map_err(|source| GateError::Client { to: identity.to_string(), source })?;
            let url = format!("{}{path}", url.trim_end_matches('/'));
            let slots = Arc::new(Semaphore::new(UNANSWERED_MAX));
            Ok::<Target, GateError>(Target { name: identity.to_string(), url, client, slots })
        };
        let mut collectors = Vec::new();
        for (site, url) in &setup.config.collectors {
            collectors.push(target(Identity::Collector { site: *site }, url, "/control/v1/sync")?);
        }
        let mut siblings = Vec::new();
        for sibling in &setup.config.siblings {
            let identity = Identity::Agent { site: setup.site, id: sibling.id.clone() };
            siblings.push(target(identity, &sibling.url, "/gate/v1/relay")?);
        }
        let mut peers = BTreeMap::new();
        for peer in &setup.config.peers {
            let identity = Identity::Agent { site: peer.site, id: peer.id.clone() };
            peers.insert((peer.site, peer.id.clone()), target(identity, &peer.url, "/gate/v1/promise")?);
        }
        let plain = reqwest::Client::builder().timeout(FACTS_LIMIT).no_proxy().build().map_err(GateError::Plain)?;
        let address = setup.config.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| GateError::Listen { address, source })?;
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let starts = incarnation::take(&setup.dir().join("starts"), 0);
        if let Some(trouble) = &starts.trouble {
            tracing::warn!(%trouble, "the gate's start counter is not kept");
        }
        let mut gate = Gate {
            boot_id,
            own: ProcessMark::own(),
            listener: Some(listener),
            credentials,
            collectors: Collectors(Arc::new(collectors)),
            siblings,
            peers,
            plain,
            posts: BTreeMap::new(),
            requests: VecDeque::new(),
            seq: starts.number << 32,
            sync_wanted: true,
            synced_at: None,
            said_refused: None,
            figures: GateFigures::default(),
            figures_out: watch::Sender::new(GateFigures::default()),
            inputs,
            inbox,
            setup,
        };
        for ticket in gate.setup.config.tickets.clone() {
            let id = ticket.id.clone();
            gate.open_post(ticket).map_err(|source| GateError::Store { ticket: id, source })?;
        }
        Ok(gate)
    }

    fn open_post(&mut self, ticket: TicketConfig) -> Result<(), StoreError> {
        let store = Store::open(&self.setup.dir(), &ticket.id)?;
        let script = self.setup.script(&ticket, &store);
        let terms = Terms {
            site: self.setup.site,
            gate: self.setup.gate.clone(),
            ticket: ticket.id.clone(),
            timing: self.setup.config.timing.resolve(),
            failsafe: ticket.failsafe,
            peers: self.peers.keys().cloned().collect::<BTreeSet<Peer>>(),
            boot_id: self.boot_id.clone(),
        };
        let version = store.version();
        let record = store.read()?;
        let file = store.read_deadline(&self.boot_id);
        if let Some(step) = file.as_ref().and_then(|file| file.step) {
            // Its end would never be heard of. The order is repeated where it still stands.
            step.kill_group();
        }
        let found = file.as_ref().map(|file| FoundDeadline { epoch: file.epoch, deadline: file.deadline });
        let machine = Machine::new(terms, record, found, boot_ms());
        let id = ticket.id.clone();
        let post = Post {
            config: ticket,
            machine,
            store,
            version,
            script,
            run: 0,
            step: None,
            deadline: found.map(|found| (found.epoch, found.deadline)),
            pending: VecDeque::new(),
            facts: None,
            facts_asked: false,
            told: None,
            telling: false,
        };
        self.posts.insert(id, post);
        Ok(())
    }

    #[must_use]
    pub fn figures(&self) -> watch::Receiver<GateFigures> {
        self.figures_out.subscribe()
    }

    /// Address of the listener, where the configuration left the port open.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Renews, acts and answers until `shutdown`. Stopping the gate stops no service: the warden keeps the deadline.
    ///
    /// # Errors
    /// The listener cannot serve.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<(), GateError> {
        let asked = Asked {
            site: self.setup.site,
            peers: self.peers.keys().cloned().collect(),
            siblings: self.setup.config.siblings.iter().map(|sibling| sibling.id.clone()).collect(),
            collectors: self.collectors.clone(),
            inputs: self.inputs.clone(),
        };
        let (listener, mut stopping) = (self.listener.take(), shutdown.clone());
        let credentials = self.credentials.clone();
        let server = async move {
            let Some(listener) = listener else { return Ok(()) };
            let stopped = async move {
                // A closed channel means that the application is gone: stop as well.
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            bcp_identity::serve(listener, &credentials, listener::router(asked), stopped).await
        };
        let mut server = AbortOnDrop(tokio::spawn(server));
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let renew = Duration::from_millis(self.setup.config.timing.resolve().renew_ms.max(50));
        let mut renewal = tokio::time::interval(renew);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                changed = shutdown.changed() => if changed.is_err() || *shutdown.borrow() { break },
                // Before the inputs: however many there are, the loss action is in time.
                _ = ticker.tick() => self.tick(),
                _ = renewal.tick() => {
                    self.ask_services();
                    self.sync_wanted = true;
                    self.synced_at = None;
                }
                Some(input) = self.inbox.recv() => self.take(input),
                ended = &mut server.0 => {
                    return match ended {
                        Ok(Err(error)) => Err(GateError::Serve(error)),
                        Ok(Ok(())) | Err(_) => Ok(()),
                    };
                }
            }
            if self.sync_wanted && self.synced_at.is_none_or(|at| at.elapsed() >= SYNC_GAP) {
                self.sync();
            }
            self.show();
        }
        self.drain().await;
        Ok(())
    }

    async fn drain(&mut self) {
        let until = tokio::time::Instant::now() + DRAIN_LIMIT;
        while self.posts.values().any(|post| post.step.is_some()) {
            match tokio::time::timeout_at(until, self.inbox.recv()).await {
                Ok(Some(input)) => self.take(input),
                Ok(None) | Err(_) => break,
            }
        }
        tracing::info!("gate stopped; services go on until their deadlines");
    }

    fn show(&mut self) {
        self.figures.tickets = self.posts.values().map(|post| post.machine.figures()).collect();
        let figures = &self.figures;
        self.figures_out.send_if_modified(|known| {
            let changed = known != figures;
            if changed {
                known.clone_from(figures);
            }
            changed
        });
    }

    fn tick(&mut self) {
        let ids: Vec<Id> = self.posts.keys().cloned().collect();
        for id in ids {
            self.feed(&id, Event::Ticked { dice: rand::random() }, None);
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Answer { nonce, answer } => self.hear(nonce, answer),
            Input::StepEnded { ticket, run, key, ended } => {
                if let Some(post) = self.posts.get_mut(&ticket).filter(|post| post.run == run) {
                    post.step = None;
                    let Ended { outcome, detail, took_ms } = ended;
                    tracing::info!(%ticket, %key, ?outcome, detail = detail.as_deref().unwrap_or(""), took_ms, "step ended");
                    self.feed(&ticket, Event::StepEnded { key, outcome, detail, took_ms }, None);
                }
            }
            Input::StopEnded { ticket, run, ended } => {
                if self.posts.get(&ticket).is_some_and(|post| post.run == run) {
                    let verified = succeeded(ended.outcome);
                    if !verified {
                        tracing::error!(%ticket, detail = ended.detail.as_deref().unwrap_or(""), "a stop is not verified; it is tried again");
                    }
                    self.feed(&ticket, Event::StopEnded { verified, detail: ended.detail }, None);
                }
            }
            Input::Promise { ticket, peer, nonce, answer } => {
                let event = match answer.map(|answer| answer.verdict) {
                    Ok(PromiseVerdict::Promised { for_ms }) => Event::PromiseGiven { peer, nonce, for_ms },
                    Ok(PromiseVerdict::Refused { seen, reason }) => {
                        Event::PromiseDenied { peer, nonce, reason: format!("{reason} (has seen {seen})") }
                    }
                    Err(reason) => Event::PromiseDenied { peer, nonce, reason },
                };
                self.feed(&ticket, event, None);
            }
            Input::PromiseAsked { ask, answer } => {
                let ticket = ask.ticket.clone();
                self.feed(&ticket, Event::PromiseAsked(ask), Some(answer));
            }
            Input::Facts { ticket, facts } => {
                if let Some(post) = self.posts.get_mut(&ticket) {
                    post.facts_asked = false;
                    if let Some(facts) = facts {
                        post.facts = Some((boot_ms(), facts));
                    }
                }
            }
            Input::Told { ticket, word, accepted } => {
                if let Some(post) = self.posts.get_mut(&ticket) {
                    post.telling = false;
                    if accepted {
                        post.told = Some(word);
                    }
                }
            }
        }
    }

    /// One event of one ticket, under its lock.
    fn feed(&mut self, id: &Id, event: Event, mut answer: Option<oneshot::Sender<PromiseAnswer>>) {
        let Some(post) = self.posts.get_mut(id) else { return };
        let Some(lock) = post.store.lock(Duration::ZERO) else {
            // The warden is at work. What happened waits; time comes again, and promises are not given meanwhile.
            if !matches!(event, Event::Ticked { .. } | Event::PromiseAsked(_)) && post.pending.len() < PENDING_MAX {
                post.pending.push_back(event);
            }
            return;
        };
        let mut events = std::mem::take(&mut post.pending);
        let version = post.store.version();
        if version != post.version {
            match post.store.read() {
                Ok(record) => {
                    post.version = version;
                    if record != *post.machine.stored() {
                        tracing::warn!(ticket = %id, epoch = %record.epoch, closed = record.closed, may_run = record.may_run, "the stored record was changed by the warden");
                        events.push_front(Event::RecordFound(Box::new(record)));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, ticket = %id, "the gate does not act on what it cannot read");
                    return;
                }
            }
        }
        events.push_back(event);
        while let Some(event) = events.pop_front() {
            let Some(post) = self.posts.get_mut(id) else { return };
            let actions = post.machine.step(boot_ms(), event);
            events.extend(self.perform(id, actions, &mut answer));
        }
        drop(lock);
    }

    /// Carries out actions in order. Where the record cannot be stored, only what makes things safer is done.
    fn perform(
        &mut self,
        id: &Id,
        actions: Vec<Action>,
        answer: &mut Option<oneshot::Sender<PromiseAnswer>>,
    ) -> Vec<Event> {
        let mut stored = true;
        let mut follow = Vec::new();
        for action in actions {
            let Some(post) = self.posts.get_mut(id) else { break };
            match action {
                Action::Persist(record) => {
                    if let Err(error) = post.store.write(&record) {
                        tracing::error!(%error, ticket = %id, "the record cannot be stored; nothing is begun on it");
                        post.machine.not_stored();
                        stored = false;
                    }
                    post.version = post.store.version();
                }
                Action::NoteDeadline { epoch, deadline } => {
                    post.deadline = Some((epoch, deadline));
                    self.write_deadline(id);
                }
                Action::ForgetDeadline => {
                    post.deadline = None;
                    if let Err(error) = post.store.forget_deadline() {
                        tracing::warn!(%error, ticket = %id, "an old deadline file stays");
                    }
                }
                Action::NoteActive { epoch, active, reason } => {
                    tracing::info!(ticket = %id, %epoch, active, %reason, "activity");
                    post.store.log(boot_ms(), epoch, active, &reason);
                }
                Action::KillStep => {
                    post.run += 1;
                    if let Some(step) = post.step.take() {
                        tracing::warn!(ticket = %id, pgid = step.pid, "a running step is killed");
                        step.kill_group();
                    }
                }
                Action::RunStep { order, deadline } => {
                    let key = order.key.clone();
                    let begun = if stored {
                        self.begin_step(id, order, deadline)
                    } else {
                        Err((StepOutcome::Failed, "the gate cannot store its state".to_owned()))
                    };
                    if let Err((outcome, detail)) = begun {
                        follow.push(Event::StepEnded { key, outcome, detail: Some(detail), took_ms: 0 });
                    }
                }
                Action::RunStop { epoch, holder } => self.begin_stop(id, epoch, holder),
                Action::SyncNow => self.sync_wanted = true,
                Action::AskPeers { epoch, nonce } => self.ask_peers(id, epoch, nonce),
                Action::AnswerPromise(verdict) => {
                    // Without storing there is no promise: the asker hears nothing.
                    if let Some(answer) = answer.take().filter(|_| stored) {
                        tracing::info!(ticket = %id, epoch = %verdict.epoch, verdict = ?verdict.verdict, "asked for a promise");
                        // An asker that has gone away keeps what was promised: it only makes us wait.
                        let _ = answer.send(verdict);
                    }
                }
            }
        }
        follow
    }

    fn write_deadline(&mut self, id: &Id) {
        let (Some(post), Some(own)) = (self.posts.get_mut(id), self.own) else { return };
        let Some((epoch, deadline)) = post.deadline else { return };
        let file = DeadlineFile {
            boot_id: self.boot_id.clone(),
            ticket: id.clone(),
            epoch,
            deadline,
            gate: own,
            step: post.step,
        };
        if let Err(error) = post.store.write_deadline(&file) {
            tracing::error!(%error, ticket = %id, "the deadline cannot be written: the warden will stop the service at the old one");
        }
    }

    /// Starts a step up to its gate, tells the warden, looks at the lease once more, lets go.
    fn begin_step(&mut self, id: &Id, order: StepOrder, deadline: Option<BootMs>) -> Result<(), (StepOutcome, String)> {
        let failed = |error: std::io::Error| (StepOutcome::Failed, format!("cannot be started: {error}"));
        let Some(post) = self.posts.get_mut(id) else { return Ok(()) };
        tracing::info!(ticket = %id, step = order.kind.as_str(), epoch = %order.epoch, key = %order.key, "step begins");
        let call = Call {
            step: order.kind.as_str(),
            epoch: order.epoch,
            holder: Some(order.holder),
            deadline,
            params: serde_json::to_string(&order.params).unwrap_or_else(|_| "{}".to_owned()),
        };
        let mut running = post.script.start(&call).map_err(failed)?;
        post.run += 1;
        post.step = Some(running.mark());
        let (run, limit) = (post.run, post.config.step_timeout.get());
        self.write_deadline(id);
        let Some(post) = self.posts.get_mut(id) else { return Ok(()) };
        if deadline.is_some_and(|deadline| boot_ms() >= deadline) {
            running.kill();
            post.step = None;
            return Err((StepOutcome::Rejected, "the lease ran out before the step began".to_owned()));
        }
        if let Err(error) = running.go() {
            running.kill();
            post.step = None;
            return Err(failed(error));
        }
        let (inputs, ticket, key) = (self.inputs.clone(), id.clone(), order.key);
        tokio::task::spawn_blocking(move || {
            let ended = running.wait(limit);
            // The loop is gone only when the gate stops; the order is then repeated to its next life.
            let _ = inputs.blocking_send(Input::StepEnded { ticket, run, key, ended });
        });
        Ok(())
    }

    fn begin_stop(&mut self, id: &Id, epoch: Epoch, holder: Option<Site>) {
        let Some(post) = self.posts.get_mut(id) else { return };
        tracing::warn!(ticket = %id, %epoch, "stopping the service");
        post.run += 1;
        let (run, script, limit) = (post.run, post.script.clone(), post.config.step_timeout.get());
        let (inputs, ticket) = (self.inputs.clone(), id.clone());
        tokio::task::spawn_blocking(move || {
            let ended = script.stop_and_verify(epoch, holder, limit);
            // As above; the warden finishes what a gate leaves behind.
            let _ = inputs.blocking_send(Input::StopEnded { ticket, run, ended });
        });
    }

    fn ask_peers(&self, id: &Id, epoch: Epoch, nonce: u64) {
        tracing::warn!(ticket = %id, %epoch, "no collector answers; asking the other gates to wait");
        for (peer, target) in &self.peers {
            let ask =
                PromiseAsk { site: self.setup.site, gate: self.setup.gate.clone(), ticket: id.clone(), epoch, nonce };
            let (client, url, peer) = (target.client.clone(), target.url.clone(), peer.clone());
            let (inputs, ticket) = (self.inputs.clone(), id.clone());
            let Ok(slot) = Arc::clone(&target.slots).try_acquire_owned() else { continue };
            tokio::spawn(async move {
                let answer = post::<_, PromiseAnswer>(&client, &url, &ask).await.and_then(|answer| {
                    let same = (answer.site, &answer.gate) == (peer.0, &peer.1)
                        && (&answer.ticket, answer.epoch, answer.nonce) == (&ask.ticket, ask.epoch, ask.nonce);
                    if same { Ok(answer) } else { Err("answers another question".to_owned()) }
                });
                drop(slot);
                // The loop is gone: so is the lease.
                let _ = inputs.send(Input::Promise { ticket, peer, nonce, answer }).await;
            });
        }
    }

    /// One request for all tickets, to all collectors at once.
    fn sync(&mut self) {
        self.sync_wanted = false;
        self.synced_at = Some(Instant::now());
        let timing = self.setup.config.timing.resolve();
        let nonce = rand::random();
        self.seq += 1;
        // Read before anything is sent: the lease counts from here.
        let sent = boot_ms();
        let fresh_ms = timing.renew_ms.saturating_mul(FACTS_FRESH_RENEWALS);
        let (mut reported, mut wishes) = (BTreeMap::new(), BTreeMap::new());
        let mut tickets = Vec::with_capacity(self.posts.len());
        for (id, post) in &self.posts {
            let facts =
                post.facts.as_ref().filter(|(at, _)| sent.since(*at) <= fresh_ms).map(|(_, facts)| facts.clone());
            if let Some(wish) = facts.as_ref().and_then(service::wish) {
                wishes.insert(id.clone(), wish);
            }
            let part = post.machine.sync_part(facts);
            reported.insert(id.clone(), part.reports.iter().map(|report| report.key.clone()).collect());
            tickets.push(part);
        }
        let sync = GateSync { site: self.setup.site, gate: self.setup.gate.clone(), nonce, seq: self.seq, tickets };
        self.figures.requests += 1;
        self.requests.push_back(Request { nonce, sent, reported, wishes, confirmed: false });
        if self.requests.len() > REQUESTS_MAX {
            self.requests.pop_front();
        }
        let mut answers = self.collectors.ask_all(&sync);
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            while let Some(answer) = answers.recv().await {
                match answer {
                    Ok(answer) => {
                        // The loop is gone: the gate stops.
                        let _ = inputs.send(Input::Answer { nonce, answer }).await;
                    }
                    Err(reason) => tracing::debug!(%reason, "a collector does not answer"),
                }
            }
        });
        let alone = self.figures.confirmed_at.is_none_or(|at| sent.since(at) > 2 * timing.renew_ms);
        if alone {
            self.sync_through_siblings(&sync);
        }
    }

    fn sync_through_siblings(&self, sync: &GateSync) {
        for sibling in &self.siblings {
            let Ok(slot) = Arc::clone(&sibling.slots).try_acquire_owned() else { continue };
            let (client, url, sync) = (sibling.client.clone(), sibling.url.clone(), sync.clone());
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                match post::<_, GateAnswer>(&client, &url, &sync).await {
                    Ok(answer) => {
                        // The loop is gone: the gate stops.
                        let _ = inputs.send(Input::Answer { nonce: sync.nonce, answer }).await;
                    }
                    Err(reason) => tracing::debug!(%reason, "a sibling does not pass the request on"),
                }
                drop(slot);
            });
        }
    }

    fn hear(&mut self, nonce: u64, answer: GateAnswer) {
        let Some(request) = self.requests.iter_mut().find(|request| request.nonce == nonce) else { return };
        if answer.nonce != nonce {
            tracing::warn!(collector = %answer.collector, "an answer to another request");
            return;
        }
        match answer.outcome {
            SyncOutcome::Confirmed { index, tickets } => {
                if std::mem::replace(&mut request.confirmed, true) {
                    return;
                }
                let (sent, reported, wishes) = (request.sent, request.reported.clone(), request.wishes.clone());
                self.figures.confirmed += 1;
                self.figures.confirmed_at = self.figures.confirmed_at.max(Some(sent));
                for ticket in tickets {
                    let id = ticket.ticket.clone();
                    self.tell_service(&ticket, wishes.get(&id).copied());
                    let reported = reported.get(&id).cloned().unwrap_or_default();
                    self.feed(&id, Event::Answered { sent, index, reported, answer: Box::new(ticket) }, None);
                }
            }
            SyncOutcome::NoLeader { reason } => {
                tracing::debug!(collector = %answer.collector, %reason, "no leader");
            }
            SyncOutcome::Refused { reason } => {
                if self.said_refused.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                    self.said_refused = Some(Instant::now());
                    tracing::error!(collector = %answer.collector, %reason, "a collector refuses this gate's requests");
                }
            }
        }
    }

    /// Asks every service about its copy of the data.
    fn ask_services(&mut self) {
        for (id, post) in &mut self.posts {
            let Some(url) = post.config.facts_url.clone() else { continue };
            if std::mem::replace(&mut post.facts_asked, true) {
                continue;
            }
            let (plain, inputs, ticket) = (self.plain.clone(), self.inputs.clone(), id.clone());
            tokio::spawn(async move {
                let facts = match facts(&plain, &url).await {
                    Ok(facts) => Some(facts),
                    Err(reason) => {
                        tracing::debug!(%ticket, %reason, "the service does not say how it is");
                        None
                    }
                };
                // The loop is gone: the gate stops.
                let _ = inputs.send(Input::Facts { ticket, facts }).await;
            });
        }
    }

    /// Tells the active copy what is agreed about its standby, once it is in the log.
    fn tell_service(&mut self, answer: &TicketAnswer, wish: Option<u64>) {
        let Some(post) = self.posts.get_mut(&answer.ticket) else { return };
        let Some(url) = post.config.sync_url.clone().filter(|_| !post.telling) else { return };
        let Some(word) = service::word(self.setup.site, answer, wish, post.told) else { return };
        post.telling = true;
        let (plain, inputs, ticket) = (self.plain.clone(), self.inputs.clone(), answer.ticket.clone());
        tokio::spawn(async move {
            let response = plain.post(&url).json(&word).send().await;
            let accepted = response.is_ok_and(|response| response.status().is_success());
            if !accepted {
                tracing::debug!(%ticket, "the service did not take the state of its standby; it is told again");
            }
            // The loop is gone: the gate stops.
            let _ = inputs.send(Input::Told { ticket, word, accepted }).await;
        });
    }
}

#[derive(Debug)]
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
