//! Two sites, a witness, three deciders and a gate per site, in one process and in steps of 50 ms.
//!
//! The decision log is the shipped core. Gates keep their leases by their own clocks; messages are lost, delayed and
//! overtake each other; leaders change with nothing elapsed. What the gates really run is compared with the promises.

// Each test file uses a part of this, and a test may unwrap.
#![allow(dead_code, clippy::unwrap_used)]

pub mod gate;
pub mod invariants;
#[path = "../sample/mod.rs"]
pub mod sample;

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::failover::{Observation, Sight, TicketCommand};
use bcp_core::ledger::LedgerEntry;
use bcp_core::policy::{Policy, ServicePolicy, TicketPolicy, Timing};
use bcp_core::replica::{CommandResult, CommandVerb, Item, OperatorCommand, Replica, Tick};
use bcp_core::status::{ServiceSight, ServiceStatus, ServiceVotes};
use bcp_core::time::Wall;
use bcp_wire::Site;
use bcp_wire::control::{GateSync, TicketAnswer};

use gate::Gate;
use invariants::Watch;
pub use sample::{passive, rx};

pub const STEP_MS: u64 = 50;
/// A decider hears nothing of a site for this long before it calls it silent.
const SILENT_MS: u64 = 3_900;
const ELECT_MS: u64 = 1_500;

pub fn policy(ticket: TicketPolicy) -> Policy {
    Policy {
        timing: Timing::METRO,
        tickets: BTreeMap::from([(rx(), ticket)]),
        services: BTreeMap::from([(rx(), ServicePolicy::default())]),
        sites: BTreeMap::new(),
        pools: BTreeMap::new(),
    }
}

/// Small, fast, the same everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

#[derive(Debug, Clone)]
enum Message {
    Item { to: Site, item: Item },
    Answer { to: Site, nonce: u64, tickets: Vec<TicketAnswer> },
}

#[derive(Debug)]
pub struct World {
    pub now: u64,
    pub replica: Replica,
    pub entries: Vec<LedgerEntry>,
    pub ticks: Vec<(u64, Tick)>,
    pub gates: BTreeMap<Site, Gate>,
    pub watch: Watch,
    pub policy: Policy,
    pub leader: Option<Site>,
    pub loss_percent: u64,
    pub max_delay_ms: u64,
    cut: BTreeSet<(Site, Site)>,
    decider_down: BTreeSet<Site>,
    started: BTreeMap<Site, u64>,
    heard: BTreeMap<(Site, Site), u64>,
    queue: Vec<(u64, Message)>,
    inbox: Vec<(u64, Item)>,
    term: u64,
    last_tick: Option<u64>,
    no_quorum_since: Option<u64>,
    commands: u64,
    dice: Dice,
}

impl World {
    pub fn new(policy: Policy, seed: u64) -> Self {
        let gates = [Site::A, Site::B].map(|site| (site, Gate::new(site, &format!("host-{site}"))));
        World {
            now: 0,
            replica: Replica::default(),
            entries: Vec::new(),
            ticks: Vec::new(),
            gates: gates.into_iter().collect(),
            watch: Watch::default(),
            policy,
            leader: None,
            loss_percent: 0,
            max_delay_ms: 40,
            cut: BTreeSet::new(),
            decider_down: BTreeSet::new(),
            started: Site::ALL.map(|site| (site, 0)).into_iter().collect(),
            heard: BTreeMap::new(),
            queue: Vec::new(),
            inbox: Vec::new(),
            term: 0,
            last_tick: None,
            no_quorum_since: Some(0),
            commands: 0,
            dice: Dice::new(seed),
        }
    }

    /// A world in which `rx` is active at a and the standby is in sync.
    pub fn settled(policy: Policy, seed: u64) -> Self {
        let mut world = World::new(policy, seed);
        world.run(20_000);
        assert_eq!(world.active(), vec![Site::A], "{:#?}", world.story());
        world
    }

    // Faults.

    pub fn cut(&mut self, one: Site, other: Site) {
        self.cut.insert((one, other));
        self.cut.insert((other, one));
    }
    pub fn cut_one_way(&mut self, from: Site, to: Site) {
        self.cut.insert((from, to));
    }
    pub fn heal(&mut self) {
        self.cut.clear();
    }
    pub fn isolate(&mut self, site: Site) {
        for other in site.others() {
            self.cut(site, other);
        }
    }
    pub fn stop_decider(&mut self, site: Site) {
        self.decider_down.insert(site);
    }
    pub fn start_decider(&mut self, site: Site) {
        if self.decider_down.remove(&site) {
            self.started.insert(site, self.now);
        }
    }
    /// Power off: gate, decider and agents.
    pub fn kill(&mut self, site: Site) {
        self.stop_decider(site);
        if let Some(gate) = self.gates.get_mut(&site) {
            gate.power_off();
        }
    }
    pub fn start(&mut self, site: Site) {
        self.start_decider(site);
        let now = self.now;
        if let Some(gate) = self.gates.get_mut(&site) {
            gate.power_on(now);
        }
    }
    pub fn change_leader(&mut self) {
        self.leader = None;
        self.no_quorum_since = Some(self.now.saturating_sub(ELECT_MS));
    }

    pub fn command(&mut self, command: TicketCommand) -> String {
        self.commands += 1;
        let key = format!("key-{}", self.commands);
        let verb = CommandVerb::Ticket { ticket: rx(), command };
        self.inbox
            .push((self.now, Item::Command(OperatorCommand { key: key.clone(), operator: "op-1".to_owned(), verb })));
        key
    }
    pub fn result(&self, key: &str) -> Option<CommandResult> {
        self.replica.result_of(key).cloned()
    }

    // What is going on.

    /// Sites whose service really runs.
    pub fn active(&self) -> Vec<Site> {
        self.gates.values().filter(|gate| gate.running.is_some()).map(|gate| gate.site).collect()
    }
    pub fn story(&self) -> Vec<String> {
        self.entries.iter().map(|entry| format!("{} {}", entry.log_time, entry.text)).collect()
    }
    pub fn told(&self, part: &str) -> usize {
        self.entries.iter().filter(|entry| entry.text.contains(part)).count()
    }
    pub fn ticket(&self) -> &bcp_core::failover::Ticket {
        &self.replica.failover.tickets[&rx()]
    }
    fn powered(&self, site: Site) -> bool {
        self.gates.get(&site).is_none_or(|gate| gate.powered)
    }
    fn reaches(&self, from: Site, to: Site) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }
    fn both_ways(&self, one: Site, other: Site) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }
    fn decider(&self, site: Site) -> bool {
        !self.decider_down.contains(&site) && self.powered(site)
    }

    // Time.

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.step();
        }
    }

    pub fn run_until(&mut self, limit_ms: u64, reached: impl Fn(&World) -> bool) -> Option<u64> {
        let begin = self.now;
        while self.now - begin < limit_ms {
            if reached(self) {
                return Some(self.now - begin);
            }
            self.step();
        }
        None
    }

    pub fn step(&mut self) {
        self.now += STEP_MS;
        self.listen();
        self.gates_act();
        self.deliver();
        if self.now.is_multiple_of(1_000) {
            self.observe();
        }
        self.lead();
        let active = self.active();
        self.watch.running(self.now, &active);
        self.replicate();
    }

    fn listen(&mut self) {
        for observer in Site::ALL {
            for about in Site::ALL {
                if self.powered(about) && self.reaches(about, observer) {
                    self.heard.insert((observer, about), self.now);
                }
            }
        }
    }

    fn sight(&self, observer: Site, about: Site) -> Sight {
        let listening = self.now - self.started[&observer];
        let silent_for =
            self.now - self.heard.get(&(observer, about)).copied().unwrap_or(0).max(self.started[&observer]);
        match silent_for > SILENT_MS {
            false => Sight::Seen,
            true if listening > SILENT_MS => Sight::Silent,
            true => Sight::Unknown,
        }
    }

    fn observe(&mut self) {
        for observer in Site::ALL {
            if !self.decider(observer) {
                continue;
            }
            let sights: BTreeMap<Site, Sight> =
                Site::ALL.into_iter().map(|about| (about, self.sight(observer, about))).collect();
            let seen = Observation {
                observer,
                session: self.started[&observer],
                seq: self.now,
                policy_hash: String::new(),
                control: sights.clone(),
                agents: sights.clone(),
            };
            self.relay(observer, Item::Observation(seen));
            let status = |site: Site| match sights.get(&site) {
                Some(Sight::Seen) if self.gates[&site].running.is_some() => ServiceStatus::Up,
                Some(Sight::Seen) => ServiceStatus::Down,
                _ => ServiceStatus::Unknown,
            };
            let by_site = [Site::A, Site::B].map(|site| (site, status(site))).into_iter().collect();
            let sight = ServiceSight { status: ServiceStatus::Unknown, by_site, explain: String::new() };
            let votes = ServiceVotes { observer, session: 1, seq: self.now, services: BTreeMap::from([(rx(), sight)]) };
            self.relay(observer, Item::ServiceVotes(votes));
        }
    }

    /// A collector passes an item on to the leader, if it reaches it.
    fn relay(&mut self, via: Site, item: Item) {
        let Some(leader) = self.leader else { return };
        if self.decider(via) && self.reaches(via, leader) {
            self.send(Message::Item { to: leader, item });
        }
    }

    fn send(&mut self, message: Message) {
        if self.dice.below(100) < self.loss_percent {
            return;
        }
        let at = self.now + 5 + self.dice.below(self.max_delay_ms);
        self.queue.push((at, message));
    }

    fn gates_act(&mut self) {
        let peers: BTreeMap<Site, bool> = [(Site::A, Site::B), (Site::B, Site::A)]
            .into_iter()
            .map(|(site, peer)| (site, self.both_ways(site, peer) && self.gates[&peer].copies()))
            .collect();
        let now = self.now;
        let mut syncs: Vec<(Site, GateSync)> = Vec::new();
        for (site, gate) in &mut self.gates {
            syncs.extend(gate.act(now, &mut self.dice, self.policy.timing).map(|sync| (*site, sync)));
        }
        self.write_data(&peers);
        for (site, sync) in syncs {
            for collector in Site::ALL {
                if self.reaches(site, collector) {
                    self.relay(collector, Item::Gate(sync.clone()));
                }
            }
        }
    }

    /// The service writes: to both copies, or alone once the log knows it.
    fn write_data(&mut self, peers: &BTreeMap<Site, bool>) {
        for site in [Site::A, Site::B] {
            let peer = if site == Site::A { Site::B } else { Site::A };
            let together = peers[&site];
            let Some(gate) = self.gates.get_mut(&site) else { continue };
            if gate.running.is_none() {
                continue;
            }
            let wrote = gate.write(together);
            let (position, in_sync) = (gate.position, gate.in_sync);
            if let (Some(copy), true) = (self.gates.get_mut(&peer), together && in_sync) {
                copy.position = copy.position.max(position);
            }
            if wrote {
                self.watch.acknowledged = self.watch.acknowledged.max(position);
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = self.queue.drain(..).partition(|(at, _)| *at <= now);
        self.queue = later;
        for (_, message) in due {
            match message {
                Message::Item { to, item } if self.leader == Some(to) => self.inbox.push((now, item)),
                Message::Item { .. } => {}
                Message::Answer { to, nonce, tickets } => {
                    if let Some(gate) = self.gates.get_mut(&to) {
                        let newest = self.watch.acknowledged;
                        gate.answered(now, nonce, &tickets, newest, &mut self.watch);
                    }
                }
            }
        }
    }

    fn quorum(&self, leader: Site) -> bool {
        self.decider(leader) && leader.others().iter().any(|o| self.decider(*o) && self.both_ways(leader, *o))
    }

    fn lead(&mut self) {
        let leading = self.leader.filter(|leader| self.quorum(*leader));
        if leading.is_none() {
            let since = *self.no_quorum_since.get_or_insert(self.now);
            if self.now - since >= ELECT_MS
                && let Some(next) = [Site::W, Site::A, Site::B].into_iter().find(|site| self.quorum(*site))
            {
                self.leader = Some(next);
                self.term += 1;
                (self.last_tick, self.no_quorum_since) = (None, None);
                self.inbox.retain(|(_, item)| matches!(item, Item::Command(_)));
            }
            return;
        }
        self.no_quorum_since = None;
        let Some(leader) = leading else { return };
        if self.last_tick.is_some_and(|last| self.now - last < self.policy.timing.tick_ms) {
            return;
        }
        let elapsed_ms = self.last_tick.map_or(0, |last| self.now - last);
        self.last_tick = Some(self.now);
        let now = self.now;
        let mut items: Vec<Item> =
            self.inbox.drain(..).filter(|(at, _)| now - at <= ELECT_MS).map(|(_, item)| item).collect();
        if self.replica.policy.as_ref() != Some(&self.policy) {
            items.insert(0, Item::Policy(Box::new(self.policy.clone())));
        }
        let wall = Wall(1_700_000_000_000 + i64::try_from(now).unwrap());
        self.commit(Tick { leader, term: self.term, elapsed_ms, wall, items });
    }

    fn commit(&mut self, tick: Tick) {
        let index = self.ticks.len() as u64 + 1;
        let before = self.replica.clone();
        let entries = self.replica.apply(index, &tick);
        self.watch.applied(self.now, &before, &tick, &entries, &self.replica);
        self.entries.extend(entries);
        for item in &tick.items {
            let Item::Gate(sync) = item else { continue };
            let tickets = self.replica.failover.answer(sync.site, &sync.gate, sync);
            // The answer takes any one of the ways back.
            let way = Site::ALL
                .into_iter()
                .any(|via| self.decider(via) && self.reaches(tick.leader, via) && self.reaches(via, sync.site));
            if way {
                self.send(Message::Answer { to: sync.site, nonce: sync.nonce, tickets });
            }
        }
        self.ticks.push((index, tick));
    }

    /// A crashed collector reads its snapshot back: nothing may differ.
    fn replicate(&mut self) {
        if self.now.is_multiple_of(60_000) {
            let json = serde_json::to_string(&self.replica).unwrap();
            let back: Replica = serde_json::from_str(&json).unwrap();
            assert_eq!(back, self.replica, "a snapshot brings back the same state");
            self.replica = back;
        }
    }
}
