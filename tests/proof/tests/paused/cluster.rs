//! Three decide processes and two gates on a simulated clock.
//!
//! The processes are the shipped ones, consensus library and all; their databases are SQLite in memory, which outlive a crash.
//! The gates are the shipped machine as [`bcp_proof::host`] plays it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bcp_collector::Shutdown;
use bcp_collector::decide::lead::TAKE_BACK_AFTER;
use bcp_collector::decide::link::{Call, Contacts};
use bcp_collector::decide::log::{DecisionLog, Leadership};
use bcp_collector::decide::sight::silence_period;
use bcp_collector::decide::store::Store;
use bcp_collector::decide::{Parts, Process, control};
use bcp_collector::shutdown::ShutdownTrigger;
use bcp_core::failover::Sight;
use bcp_core::policy::{Policy, Rpo, TicketPolicy, Timing};
use bcp_core::replica::Item;
use bcp_core::status::{ServiceSight, ServiceStatus, ServiceVotes};
use bcp_identity::Identity;
use bcp_proof::dice::Dice;
use bcp_proof::host::{Host, Note, Play, Wishes};
use bcp_proof::world::{id, passive, policy, rx};
use bcp_wire::control::{GateAnswer, GateSync, SyncOutcome};
use bcp_wire::{Id, Site};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::wires::{Links, Wires};

/// Gates and checks look this often.
pub const STEP_MS: u64 = 100;
/// A gate that hears nothing asks elsewhere by then.
const SYNC_LIMIT: Duration = Duration::from_millis(2_500);
/// Two gates ask three collectors, and every step takes in what came: a hundredth of this is never there.
const ANSWERS_MAX: usize = 1_024;

/// The ticket moves as often as it must: what is looked for is not its budget.
pub fn restless(timing: Timing) -> Policy {
    let rule = TicketPolicy { rpo: Rpo::Availability, cooldown_ms: 0, move_budget: 100_000, ..passive() };
    policy(timing, &[("rx", rule)])
}

struct Running {
    process: Process,
    /// Dropped, it would ask for the end.
    _trigger: ShutdownTrigger,
    since: Instant,
    heard: BTreeMap<Site, Instant>,
}

struct Answer {
    to: usize,
    nonce: u64,
    answer: GateAnswer,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub simulated_ms: u64,
    pub faults: u64,
    pub elections: u64,
    pub moves: u64,
    pub stops: u64,
    pub checks: u64,
}

pub struct Cluster {
    pub wires: Wires,
    pub figures: Figures,
    timing: Timing,
    policy: Policy,
    began: Instant,
    stores: BTreeMap<Site, Store>,
    running: BTreeMap<Site, Running>,
    hosts: Vec<Host>,
    play: Play,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    /// Who led which term.
    leaders: BTreeMap<u64, Site>,
    terms: BTreeMap<Site, u64>,
    compared: u64,
    served: Option<Site>,
}

impl Cluster {
    pub async fn start(seed: u64, timing: Timing) -> Cluster {
        let dice = Dice::new(seed ^ 0x5EED);
        let mut play = Play { now: 0, step_ms: STEP_MS, dice: Some(dice), bug: None, wishes: Wishes::default() };
        let mut hosts = Vec::new();
        for (mark, site) in [(0, Site::A), (2, Site::B)] {
            let mut host =
                Host::new(mark, &(site, id(&format!("host-{site}"))), &[rx()], BTreeSet::new(), timing, &mut play);
            // Its collectors are what is looked at; without promises a gate stops when they are gone.
            host.failsafe = false;
            host.kill_agent();
            host.start_agent(&mut play);
            hosts.push(host);
        }
        let mut cluster = Cluster {
            wires: Wires::new(seed),
            figures: Figures::default(),
            timing,
            policy: restless(timing),
            began: Instant::now(),
            stores: Site::ALL.map(|site| (site, Store::in_memory().expect("memory"))).into(),
            running: BTreeMap::new(),
            hosts,
            play,
            answers: mpsc::channel(ANSWERS_MAX),
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            compared: 0,
            served: None,
        };
        for site in Site::ALL {
            cluster.begin(site).await;
        }
        cluster
    }

    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("not that long")
    }

    /// Starts a collector that does not run.
    pub async fn begin(&mut self, site: Site) {
        if self.running.contains_key(&site) {
            return;
        }
        let contacts = Arc::new(Contacts::default());
        let peers = Arc::new(Links { site, wires: self.wires.clone(), contacts: Arc::clone(&contacts) });
        let parts = Parts { store: self.stores[&site].clone(), peers, contacts };
        let (trigger, shutdown) = Shutdown::manual();
        let process = Process::start(site, self.policy.clone(), TAKE_BACK_AFTER, parts, shutdown).await;
        let process = process.expect("its database is whole");
        self.wires.serves(site, Some(control::router(Arc::clone(&process.node))));
        let since = Instant::now();
        self.running.insert(site, Running { process, _trigger: trigger, since, heard: BTreeMap::new() });
    }

    /// A collector is gone from one moment to the next.
    pub async fn crash(&mut self, site: Site) {
        self.wires.serves(site, None);
        if let Some(running) = self.running.remove(&site) {
            running.process.stop().await;
        }
    }

    pub async fn power(&mut self, site: Site, on: bool) {
        if on {
            self.begin(site).await;
        } else {
            self.crash(site).await;
        }
        for host in self.hosts.iter_mut().filter(|host| host.site == site) {
            if on {
                host.power_on(&mut self.play);
            } else {
                host.power_off();
            }
        }
    }

    pub fn restart_gate(&mut self, site: Site) {
        for host in self.hosts.iter_mut().filter(|host| host.site == site) {
            host.kill_agent();
            host.start_agent(&mut self.play);
        }
    }

    /// Sites at which the service runs, or may.
    pub fn active(&self) -> Vec<Site> {
        let runs = |host: &&Host| host.runs(&rx(), self.play.now);
        self.hosts.iter().filter(runs).map(|host| host.site).collect()
    }

    /// Every running collector follows w, which leads.
    pub fn w_leads(&self) -> bool {
        self.running.values().all(|running| match *running.process.node.log.leadership().borrow() {
            Leadership::Leader { .. } => running.process.node.site == Site::W,
            Leadership::Follower { leader, .. } => leader == Site::W,
            Leadership::Nobody { .. } => false,
        })
    }

    /// How it stands, as each collector knows it.
    pub fn story(&self) -> String {
        let of = |running: &Running| {
            let log = &running.process.node.log;
            let leadership = *log.leadership().borrow();
            log.applied().read(|replica| {
                let explained = replica.explain(&rx()).map(|said| (said.decision, said.did.first().cloned()));
                format!("{leadership:?} at index {}, log time {}: {explained:?}", replica.index, replica.log_time.0)
            })
        };
        let told: Vec<String> = self.running.iter().map(|(site, running)| format!("{site}: {}", of(running))).collect();
        format!("after {} s, active at {:?}; {}", self.play.now / 1_000, self.active(), told.join("; "))
    }

    pub fn term(&self) -> u64 {
        self.terms.values().copied().max().unwrap_or(0)
    }

    /// The holder, as the collector that is furthest knows it.
    pub fn holder(&self) -> Option<Site> {
        let replicas = self.running.values().map(|running| running.process.node.log.applied());
        let seen = replicas.map(|agreed| {
            agreed.read(|replica| (replica.index, replica.failover.tickets.get(&rx()).and_then(|ticket| ticket.holder)))
        });
        seen.max_by_key(|(index, _)| *index).and_then(|(_, holder)| holder)
    }

    /// Passes time; stops at the first thing that must not be.
    pub async fn pass(&mut self, ms: u64) -> Result<(), String> {
        for _ in 0..ms.div_ceil(STEP_MS) {
            tokio::time::sleep(Duration::from_millis(STEP_MS)).await;
            self.step()?;
        }
        Ok(())
    }

    /// Until it is so; false where it does not come about in time.
    pub async fn until(&mut self, limit_ms: u64, so: impl Fn(&Cluster) -> bool) -> Result<bool, String> {
        for _ in 0..limit_ms.div_ceil(STEP_MS) {
            if so(self) {
                return Ok(true);
            }
            self.pass(STEP_MS).await?;
        }
        Ok(so(self))
    }

    fn step(&mut self) -> Result<(), String> {
        self.play.now = self.now_ms();
        self.figures.simulated_ms = self.play.now;
        while let Ok(Answer { to, nonce, answer }) = self.answers.1.try_recv() {
            if let SyncOutcome::Confirmed { index, tickets } = answer.outcome {
                self.hosts[to].answered(nonce, index, &tickets, &mut self.play);
            }
        }
        for n in 0..self.hosts.len() {
            self.hosts[n].advance(&mut self.play);
            if let Some(sync) = self.hosts[n].sync(&mut self.play) {
                self.send(n, &sync);
            }
        }
        let notes = std::mem::take(&mut self.play.wishes).notes;
        self.figures.stops += notes.iter().filter(|note| matches!(note, Note::ServiceStopped { .. })).count() as u64;
        if self.play.now % 1_000 < STEP_MS {
            self.tell_of_agents();
            self.compare()?;
        }
        self.judge()
    }

    /// To all collectors at once; the first confirmed answer wins.
    fn send(&self, n: usize, sync: &GateSync) {
        let (site, gate): (Site, Id) = (sync.site, sync.gate.clone());
        let body = Bytes::from(serde_json::to_vec(sync).expect("a request is text"));
        for collector in Site::ALL {
            let (wires, answers, nonce) = (self.wires.clone(), self.answers.0.clone(), sync.nonce);
            let who = Identity::Agent { site, id: gate.clone() };
            let call = Call { path: control::SYNC.to_owned(), body: body.clone(), on_behalf: None, limit: SYNC_LIMIT };
            tokio::spawn(async move {
                let asked = tokio::time::timeout(SYNC_LIMIT, wires.ask(site, collector, who, &call)).await;
                if let Ok(Some((200, body))) = asked
                    && let Ok(answer) = serde_json::from_slice::<GateAnswer>(&body)
                {
                    // Full or gone: lost on the way, as any answer may be.
                    let _ = answers.try_send(Answer { to: n, nonce, answer });
                }
            });
        }
    }

    /// What each serve would say of the agents of all sites.
    fn tell_of_agents(&mut self) {
        let (now, period) = (Instant::now(), silence_period(&self.timing));
        let powered: Vec<Site> = self.hosts.iter().filter(|host| host.powered).map(|host| host.site).collect();
        let (active, seq) = (self.active(), self.now_ms().max(1));
        let mut told = Vec::new();
        for (observer, running) in &mut self.running {
            let mut agents = BTreeMap::new();
            for about in Site::ALL {
                if (powered.contains(&about) || about == Site::W) && self.wires.reaches(about, *observer) {
                    running.heard.insert(about, now);
                }
                let last = running.heard.get(&about).copied().unwrap_or(running.since);
                let sight = match now.duration_since(last) > period {
                    false if running.heard.contains_key(&about) => Sight::Seen,
                    false => Sight::Unknown,
                    true => Sight::Silent,
                };
                agents.insert(about, sight);
            }
            told.push(services(&self.policy, *observer, seq, &active, &agents));
            running.process.node.watchman.agents_seen(agents);
        }
        for votes in told {
            self.tell_of_services(&votes);
        }
    }

    /// As serve hands it to the collector beside it, which passes it on to the one that leads.
    fn tell_of_services(&self, votes: &ServiceVotes) {
        let site = votes.observer;
        let items = [Item::ServiceVotes(votes.clone())];
        let body = Bytes::from(serde_json::to_vec(&items).expect("items are text"));
        let call = Call { path: control::PROPOSE.to_owned(), body, on_behalf: None, limit: SYNC_LIMIT };
        let wires = self.wires.clone();
        tokio::spawn(async move {
            let who = Identity::Collector { site };
            // Its successor follows in a second.
            let _ = tokio::time::timeout(SYNC_LIMIT, wires.ask(site, site, who, &call)).await;
        });
    }

    /// I15: what is applied at the same index is the same.
    fn compare(&mut self) -> Result<(), String> {
        let mut seen: BTreeMap<u64, (Site, String)> = BTreeMap::new();
        for (site, running) in &self.running {
            let agreed = running.process.node.log.applied();
            let index = agreed.read(|replica| replica.index);
            if index == self.compared && seen.is_empty() {
                continue;
            }
            let state = agreed.read(serde_json::to_string).map_err(|error| error.to_string())?;
            match seen.get(&index) {
                None => drop(seen.insert(index, (*site, state))),
                Some((other, known)) if *known == state => {
                    self.figures.checks += 1;
                    let _ = other;
                }
                Some((other, known)) => {
                    return Err(format!("I15: at index {index} {other} has {known} and {site} has {state}"));
                }
            }
        }
        self.compared = seen.keys().next_back().copied().unwrap_or(self.compared);
        Ok(())
    }

    fn judge(&mut self) -> Result<(), String> {
        let active = self.active();
        if active.len() > 1 {
            return Err(format!("I1: active at {active:?}"));
        }
        if let Some(site) = active.first()
            && self.served.replace(*site).is_some_and(|before| before != *site)
        {
            self.figures.moves += 1;
        }
        for (site, running) in &self.running {
            let log = &running.process.node.log;
            let leadership = *log.leadership().borrow();
            let log_time = log.applied().read(|replica| replica.log_time.0);
            if log_time > self.play.now {
                return Err(format!("I20: log time {log_time} at {site} after {} ms", self.play.now));
            }
            let term = self.terms.entry(*site).or_default();
            if leadership.term() < *term && leadership.term() > 0 {
                return Err(format!("the term of {site} falls from {term} to {}", leadership.term()));
            }
            *term = leadership.term().max(*term);
            if let Leadership::Leader { term } = leadership {
                let first = *self.leaders.entry(term).or_insert(*site);
                if first != *site {
                    return Err(format!("{first} and {site} lead in term {term}"));
                }
            }
        }
        self.figures.elections = self.leaders.len() as u64;
        Ok(())
    }
}

/// What an observer's checks say of the service, where they reach it.
fn services(
    policy: &Policy,
    observer: Site,
    seq: u64,
    active: &[Site],
    agents: &BTreeMap<Site, Sight>,
) -> ServiceVotes {
    let status = |site: Site| match agents.get(&site) {
        Some(Sight::Seen) if active.contains(&site) => ServiceStatus::Up,
        Some(Sight::Seen) => ServiceStatus::Down,
        Some(Sight::Silent | Sight::Unknown) | None => ServiceStatus::Unknown,
    };
    let by_site: BTreeMap<Site, ServiceStatus> = [Site::A, Site::B].map(|site| (site, status(site))).into();
    let sight = ServiceSight { status: ServiceStatus::Unknown, by_site, explain: String::new() };
    let services = policy.tickets.values().map(|rule| (rule.service.clone(), sight.clone())).collect();
    ServiceVotes { observer, session: 1, seq, services }
}
