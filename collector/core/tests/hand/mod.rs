//! The core fed by hand: one tick after the other, with exactly the messages a test names.

// Each test file uses a part of this, and a test may unwrap.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../sample/mod.rs"]
mod sample;

use std::collections::BTreeMap;

use bcp_core::failover::{Explanation, Observation, Sight, Ticket, TicketCommand};
use bcp_core::ledger::LedgerEntry;
use bcp_core::policy::{Policy, ServicePolicy, TicketKind, TicketPolicy, Timing};
use bcp_core::replica::{CommandVerb, Item, OperatorCommand, Replica, Tick};
use bcp_core::site::{SiteVotes, SiteWord};
use bcp_core::status::{ServiceSight, ServiceStatus, ServiceVotes};
use bcp_core::time::Wall;
use bcp_wire::control::{
    CopyRole, GateSync, ServiceFacts, StepOrder, StepOutcome, StepReport, TicketAnswer, TicketSync,
};
use bcp_wire::{Epoch, Id, Site};
pub use sample::{id, passive};

pub fn ticket(kind: TicketKind) -> TicketPolicy {
    TicketPolicy { kind, ..passive() }
}

pub fn policy(tickets: &[(&str, TicketPolicy)]) -> Policy {
    Policy {
        sites: Default::default(),
        pools: Default::default(),
        timing: Timing::METRO,
        tickets: tickets.iter().map(|(name, ticket)| (id(name), ticket.clone())).collect(),
        services: BTreeMap::from([(id("rx"), ServicePolicy::default())]),
    }
}

#[derive(Debug, Default)]
pub struct Hand {
    pub replica: Replica,
    pub entries: Vec<LedgerEntry>,
    /// Gates of these sites say that they are there, and renew what they hold, with every tick.
    pub there: Vec<Site>,
    /// The standby is in sync, says the active copy.
    pub in_sync: bool,
    /// Sites that every observer calls silent, and where every observer calls the service down or up.
    pub silent: Vec<Site>,
    pub down: Vec<Site>,
    pub up: Vec<Site>,
    /// What each observer says of the sites.
    pub words: BTreeMap<Site, BTreeMap<Site, SiteWord>>,
    pub term: u64,
    /// Where it is recorded: every tick, and what the ticket's explanation was after it.
    pub ticks: Vec<(u64, Tick)>,
    pub answers: BTreeMap<u64, Option<Explanation>>,
    records: bool,
    nonce: u64,
    index: u64,
}

impl Hand {
    pub fn new(policy: Policy) -> Self {
        let mut hand = Hand { there: vec![Site::A, Site::B], in_sync: true, term: 1, ..Hand::default() };
        hand.tick(0, vec![Item::Policy(Box::new(policy))]);
        hand
    }

    /// The same, and every tick is kept.
    pub fn recording(policy: Policy) -> Self {
        let mut hand = Hand { there: vec![Site::A, Site::B], in_sync: true, term: 1, records: true, ..Hand::default() };
        hand.tick(0, vec![Item::Policy(Box::new(policy))]);
        hand
    }

    /// A log that goes on from this state, with both gates there.
    pub fn from(replica: Replica) -> Self {
        Hand { replica, there: vec![Site::A, Site::B], in_sync: true, term: 9, ..Hand::default() }
    }

    pub fn ticket(&self, name: &str) -> &Ticket {
        &self.replica.failover.tickets[name]
    }

    pub fn tick(&mut self, elapsed_ms: u64, items: Vec<Item>) {
        self.index += 1;
        let tick = Tick { leader: Site::W, term: self.term, elapsed_ms, wall: Wall(0), items };
        self.entries.extend(self.replica.apply(self.index, &tick));
        if self.records {
            self.answers.insert(self.index, self.replica.explain(&id("rx")));
            self.ticks.push((self.index, tick));
        }
    }

    /// Ticks of 250 ms in which everybody does its part.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            let mut items = self.voices();
            for site in self.there.clone() {
                items.push(Item::Gate(self.sync(site, |_, _| {})));
            }
            self.tick(250, items);
        }
    }

    fn voices(&self) -> Vec<Item> {
        let sights: BTreeMap<Site, Sight> = Site::ALL
            .into_iter()
            .map(|site| (site, if self.silent.contains(&site) { Sight::Silent } else { Sight::Seen }))
            .collect();
        let status = |site: &Site| match (self.down.contains(site), self.up.contains(site)) {
            (true, _) => ServiceStatus::Down,
            (false, true) => ServiceStatus::Up,
            (false, false) => ServiceStatus::Unknown,
        };
        let by_site: BTreeMap<Site, ServiceStatus> = Site::ALL.iter().map(|site| (*site, status(site))).collect();
        let observers = Site::ALL.into_iter().filter(|site| !self.silent.contains(site));
        observers
            .flat_map(|observer| {
                let seen = Observation {
                    observer,
                    session: 1,
                    seq: self.index + 1,
                    policy_hash: String::new(),
                    control: sights.clone(),
                    agents: sights.clone(),
                };
                let sight =
                    ServiceSight { status: ServiceStatus::Unknown, by_site: by_site.clone(), explain: String::new() };
                let votes = ServiceVotes {
                    observer,
                    session: 1,
                    seq: self.index + 1,
                    services: BTreeMap::from([(id("rx"), sight)]),
                };
                let sites = self.words.get(&observer).cloned().unwrap_or_default();
                let words = SiteVotes { observer, session: 1, seq: self.index + 1, sites };
                [Item::Observation(seen), Item::ServiceVotes(votes), Item::SiteVotes(words)]
            })
            .collect()
    }

    /// What the gate of a site says: it has seen the present epoch, and renews it if its site holds it.
    pub fn sync(&mut self, site: Site, change: impl Fn(&Id, &mut TicketSync)) -> GateSync {
        self.nonce += 1;
        let tickets = self.replica.failover.tickets.iter().map(|(name, agreed)| {
            let holds = agreed.holder == Some(site);
            let facts = ServiceFacts {
                lineage: "l1".into(),
                position: 1,
                role: if holds { CopyRole::Active } else { CopyRole::Standby },
                peer_in_sync: self.in_sync,
                wants_alone: !self.in_sync,
                wish: 0,
            };
            let closed =
                agreed.gate(site, &id(&format!("host-{site}"))).is_some_and(|g| g.seen == agreed.epoch && g.closed);
            let mut said = TicketSync {
                ticket: name.clone(),
                seen: agreed.epoch,
                closed,
                renew: (holds && !closed).then_some(agreed.epoch),
                reports: Vec::new(),
                facts: Some(facts),
                trouble: None,
                unstopped: false,
                loss: None,
                forced: false,
            };
            change(name, &mut said);
            said
        });
        let tickets = tickets.collect();
        GateSync { site, gate: id(&format!("host-{site}")), nonce: self.nonce, seq: self.nonce, tickets }
    }

    /// One request of one gate, in a tick of its own; the answers.
    pub fn say(&mut self, site: Site, change: impl Fn(&Id, &mut TicketSync)) -> Vec<TicketAnswer> {
        let sync = self.sync(site, change);
        self.tick(0, vec![Item::Gate(sync.clone())]);
        self.replica.failover.answer(site, &sync.gate, &sync)
    }

    pub fn order(&self, name: &str, site: Site) -> Option<StepOrder> {
        let said = TicketSync {
            ticket: id(name),
            seen: Epoch::NONE,
            closed: false,
            renew: None,
            reports: Vec::new(),
            facts: None,
            trouble: None,
            unstopped: false,
            loss: None,
            forced: false,
        };
        let gate = id(&format!("host-{site}"));
        let sync = GateSync { site, gate: gate.clone(), nonce: 0, seq: 0, tickets: vec![said] };
        self.replica.failover.answer(site, &gate, &sync).pop()?.order
    }

    /// The gate reports on the order it has now.
    pub fn report(&mut self, name: &str, site: Site, outcome: StepOutcome) -> bool {
        let Some(order) = self.order(name, site) else { return false };
        let report = StepReport {
            key: order.key,
            epoch: order.epoch,
            revision: order.revision,
            kind: order.kind,
            outcome,
            detail: Some("said so".into()),
            took_ms: 10,
        };
        let name = id(name);
        self.say(site, |ticket, said| {
            if *ticket == name {
                said.reports = vec![report.clone()];
            }
        });
        true
    }

    /// Every gate that is there does whatever it is ordered, until nothing is left to do.
    pub fn obey(&mut self, name: &str) {
        for _ in 0..20 {
            let mut worked = false;
            for site in self.there.clone() {
                worked |= self.report(name, site, StepOutcome::Done);
            }
            if !worked {
                self.pass(250);
            }
        }
    }

    pub fn command(&mut self, name: &str, command: TicketCommand) -> bool {
        self.command_by("op-1", name, command)
    }

    pub fn command_by(&mut self, operator: &str, name: &str, command: TicketCommand) -> bool {
        self.nonce += 1;
        let key = format!("k{}", self.nonce);
        let verb = CommandVerb::Ticket { ticket: id(name), command };
        self.tick(0, vec![Item::Command(OperatorCommand { key: key.clone(), operator: operator.into(), verb })]);
        self.replica.result_of(&key).is_some_and(|result| result.ok)
    }

    pub fn told(&self, part: &str) -> usize {
        self.entries.iter().filter(|entry| entry.text.contains(part)).count()
    }
    pub fn story(&self) -> Vec<String> {
        self.entries.iter().map(|entry| format!("{} {}", entry.log_time, entry.text)).collect()
    }
}
