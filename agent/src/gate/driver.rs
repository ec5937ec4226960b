//! Carries out what the machines decide: files, processes, requests.
//!
//! One loop for all tickets of the gate. For every event of a ticket it holds the ticket's lock, takes over what the warden
//! wrote, steps the machine and begins the actions in order. What is begun under the lock can be found and killed by the
//! warden; a gate that is stopped in the middle of it is killed by the warden.

mod deeds;
mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bcp_identity::{Credentials, Identity};
use bcp_wire::control::{GateAnswer, PromiseAnswer, PromiseAsk, PromiseVerdict, ServiceFacts};
use bcp_wire::force::{ForceOrder, ForceOutcome};
use bcp_wire::{Epoch, Id};
use reqwest::dns::Resolve;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::ask::{Collectors, Target};
use super::config::{Loss, TicketConfig};
use super::force::Operators;
use super::listener::{self, Asked};
use super::machine::{Event, FoundDeadline, Machine, Peer, Terms, TicketFigures};
use super::record::{BootMs, Record};
use super::script::{Ended, Script, succeeded};
use super::service::{self, Word};
use super::setup::{GateError, GateSetup};
use super::store::{ProcessMark, StopMark, Store, StoreError, Version};
use super::{boot_id, boot_ms, watchdog};
use crate::publish::incarnation;
use crate::resolver::Resolver;
use crate::source::checks::Trust;
use requests::Request;

/// Grain of the machine's clock. The loss action begins two of these before the deadline.
const TICK: Duration = Duration::from_millis(100);
/// Least time between two requests, so that a quick succession of steps is one request.
const SYNC_GAP: Duration = Duration::from_millis(50);
/// Requests of this gate that one collector may leave unanswered before it is left out.
const UNANSWERED_MAX: usize = 4;
/// Events of a ticket that wait while the warden holds its lock.
const PENDING_MAX: usize = 64;
/// Inputs that wait for the loop: some for every ticket.
const INPUTS: usize = 2_048;
const FACTS_LIMIT: Duration = Duration::from_millis(800);
/// Running steps get this long to end when the gate is stopped; then they go on without it and are repeated by order.
const DRAIN_LIMIT: Duration = Duration::from_millis(2_000);

/// What reaches the loop.
#[derive(Debug)]
pub enum Input {
    Answer { nonce: u64, answer: GateAnswer },
    StepEnded { ticket: Id, run: u64, key: String, ended: Ended },
    StopEnded { ticket: Id, run: u64, ended: Ended },
    Promise { ticket: Id, peer: Peer, nonce: u64, answer: Result<PromiseAnswer, String> },
    PromiseAsked { ask: PromiseAsk, answer: oneshot::Sender<PromiseAnswer> },
    Forced { order: ForceOrder, answer: oneshot::Sender<ForceOutcome> },
    Facts { ticket: Id, facts: Option<ServiceFacts> },
    Told { ticket: Id, word: Word, accepted: bool },
}

/// Whoever asked, and waits for what is on the disk.
#[derive(Debug)]
pub enum Asker {
    Gate(oneshot::Sender<PromiseAnswer>),
    Operator(oneshot::Sender<ForceOutcome>),
}

/// Figures of the gate, for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// The warden's word that was taken note of.
    stop_mark: Option<StopMark>,
    pending: VecDeque<Event>,
    facts: Option<(BootMs, ServiceFacts)>,
    facts_asked: bool,
    /// What the service took last, and whether something is on its way to it.
    told: Option<Word>,
    telling: bool,
}

impl Post {
    /// Keeps what happened until the record can be used again; time comes again, and promises are not given meanwhile.
    fn postpone(&mut self, event: Event) {
        if matches!(event, Event::Ticked { .. } | Event::PromiseAsked(_) | Event::Forced { .. }) {
            return;
        }
        // The next answer says what an old one said; that a step ended is said once.
        if self.pending.len() >= PENDING_MAX
            && let Some(answer) = self.pending.iter().position(|event| matches!(event, Event::Answered { .. }))
        {
            self.pending.remove(answer);
        }
        if self.pending.len() < PENDING_MAX {
            self.pending.push_back(event);
        }
    }
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
        let credentials = setup.config.credentials.clone();
        let limit = Duration::from_millis((timing.ttl_holder_ms / 2).max(500));
        let resolver: Arc<dyn Resolve> = Arc::new(Resolver::new(setup.resolver.clone()));
        let target = |identity: Identity, url: &str, path: &str| {
            let client = bcp_identity::http_client_with(&credentials, &identity, limit, Some(Arc::clone(&resolver)))
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
        // Without https no authorities are needed, and a host may have none.
        let (tls, _) = Trust::default().client(setup.config.asks_by_https(), None).map_err(GateError::Trust)?;
        let plain = reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(FACTS_LIMIT).no_proxy();
        let plain = plain.dns_resolver(resolver);
        let plain = plain.build().map_err(GateError::Plain)?;
        let address = setup.config.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| GateError::Listen { address, source })?;
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let starts = incarnation::take(&setup.dir().join("starts"), first_start(&setup.dir().join("starts")));
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
        let store = self.setup.store(&ticket.id)?;
        if !store.is_in_memory() {
            tracing::warn!(dir = %self.setup.runtime_dir().display(), "the runtime directory is on a disk; a stop may have to wait for it");
        }
        let script = self.setup.script(&ticket, &store);
        let terms = Terms {
            site: self.setup.site,
            gate: self.setup.gate.clone(),
            ticket: ticket.id.clone(),
            timing: self.setup.config.timing.resolve(),
            loss: ticket.loss,
            failsafe: ticket.failsafe,
            peers: self.peers.keys().cloned().collect::<BTreeSet<Peer>>(),
            boot_id: self.boot_id.clone(),
        };
        let (record, lost) = match store.read() {
            Ok(record) => (record, None),
            Err(error @ (StoreError::Gone { .. } | StoreError::Damaged { .. })) => {
                tracing::error!(%error, ticket = %ticket.id, "stopped and closed until a later epoch is granted");
                store.set_aside();
                (Record::lost(&self.boot_id, boot_ms(), terms.timing.promise_ms()), Some(error))
            }
            Err(error) => return Err(error),
        };
        let version = store.version();
        let file = store.read_deadline(&self.boot_id);
        let stop_mark = store.stop_mark(&self.boot_id);
        if let Some(step) = file.as_ref().and_then(|file| file.step) {
            // Its end would never be heard of. The order is repeated where it still stands.
            step.kill_group();
        }
        if !record.may_run
            && let Err(error) = store.forget_deadline(&self.boot_id)
        {
            tracing::warn!(%error, ticket = %ticket.id, "an old deadline file stays");
        }
        // What was stopped since has no lease, whether the disk took that or not.
        let is_stopped =
            stop_mark.is_some() || file.as_ref().and_then(|file| file.brief).is_some_and(|brief| !brief.may_run);
        let found = file.as_ref().filter(|_| !is_stopped);
        let found = found.map(|file| FoundDeadline { epoch: file.epoch, deadline: file.deadline });
        let machine = Machine::new(terms, record, found, boot_ms());
        let pending = lost.map(|error| Event::RecordLost { reason: error.to_string() });
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
            stop_mark,
            pending: pending.into_iter().collect(),
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
            operators: Operators::new(&self.setup.config.operators),
            gate: self.setup.gate.clone(),
            figures: self.figures_out.subscribe(),
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
        let is_fenced = self.setup.config.watchdog.is_some();
        let fence = is_fenced.then(|| watchdog::hear(&self.setup.runtime_dir(), &self.boot_id));
        for id in ids {
            if let (Some(fence), Some(post)) = (&fence, self.posts.get_mut(&id))
                && post.config.loss == Loss::Fence
            {
                post.machine.fence_heard(fence.clone());
            }
            if let Some(post) = self.posts.get_mut(&id)
                && post.machine.is_unheard()
                && post.store.try_runtime().is_ok()
            {
                post.machine.can_be_heard();
            }
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
                self.feed(&ticket, Event::PromiseAsked(ask), Some(Asker::Gate(answer)));
            }
            Input::Forced { order, answer } => {
                let ForceOrder { ticket, to, epoch, .. } = order;
                self.feed(&ticket, Event::Forced { epoch, to }, Some(Asker::Operator(answer)));
            }
            Input::Facts { ticket, facts } => {
                if let Some(post) = self.posts.get_mut(&ticket) {
                    post.facts_asked = false;
                    if let Some(facts) = facts {
                        // Writers may wait for what the log says to it.
                        let before = post.facts.as_ref().map(|(_, facts)| facts);
                        self.sync_wanted |= service::is_urgent(before, &facts);
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
}

/// Where the start counter begins: a gate that is installed anew must not count from one, for its requests would be taken
/// for old ones.
fn first_start(path: &std::path::Path) -> u64 {
    let now_s = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if path.exists() { 0 } else { now_s() }
}

#[derive(Debug)]
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
