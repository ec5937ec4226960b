//! Two sites, a witness, three deciders, gates with their wardens: one state that a model explores and a simulation runs.
//!
//! The decision log is the shipped core, the gates are the shipped machine. Messages are lost, delayed, held back and
//! repeated; leaders change; clocks run at rates of their own. What is checked is in [`crate::invariants`].

mod data;
mod faults;
mod log;
mod servers;
mod setting;
mod watch;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use bcp_core::failover::Ticket;
use bcp_core::ledger::LedgerEntry;
use bcp_core::policy::Policy;
use bcp_core::replica::{CommandResult, Item, Replica, Tick};
use bcp_wire::{Epoch, Id, Site};

use crate::bug::Bug;
use crate::dice::Dice;
use crate::digest;
use crate::host::{Host, Play, Wishes};
use crate::invariants::{Invariants, Moment};
pub use servers::{Glimpse, Server, Servers};
pub use setting::{at, carried, id, passive, policy, pooled, rx, two_gates};
pub use wires::Message;

/// One decide process, and the serve beside it.
#[derive(Debug, Clone, Hash)]
pub struct Decider {
    pub up: bool,
    /// Frozen (SIGSTOP): says and hears nothing; knows afterwards that it was.
    pub frozen: bool,
    pub serve_up: bool,
    /// Takes part in the log, but its observations do not get through.
    pub mute: bool,
    /// Of its clock, in parts per thousand.
    pub rate: u64,
    started: u64,
    session: u64,
    heard: [u64; 3],
    own_last: Option<u64>,
}

/// What is written down in a simulation and not in a model.
#[derive(Debug, Default)]
pub struct Journal {
    pub entries: Vec<LedgerEntry>,
    pub ticks: Vec<(u64, Tick)>,
    pub keep_ticks: bool,
    pub lines: Vec<String>,
}

#[derive(Debug)]
pub struct World {
    pub play: Play,
    pub policy: Policy,
    /// What the operators believe is in force; a seeded bug may have another one at work.
    pub believed: Policy,
    pub replica: Replica,
    pub hosts: Vec<Host>,
    pub deciders: [Decider; 3],
    pub cut: [[bool; 3]; 3],
    pub leader: Option<Site>,
    pub invariants: Invariants,
    pub acknowledged: BTreeMap<Id, u64>,
    pub loss_percent: u64,
    pub repeat_percent: u64,
    pub max_delay_ms: u64,
    /// The leader proposes nothing until then.
    pub stalled_until: u64,
    pub wall_offset_ms: i64,
    /// The next message from this gate (false) or to it (true) is held back, with all its copies. Since when.
    pub hold: BTreeMap<(usize, bool), Option<u64>>,
    pub held: Vec<Message>,
    pub journal: Option<Journal>,
    /// Ends of services that ran, for "nothing stopped".
    pub stops: u64,
    pub seen: BTreeMap<&'static str, u64>,
    pub failsafe_used: bool,
    /// A gate refused what it was told to do.
    pub rejected: bool,
    /// Grants of `rx` that took effect at another site than the one before.
    pub moves: u64,
    served_at: Option<Site>,
    /// Actuators outside of all machines that compare epochs: what each ticket's knows. Absent: there are none.
    pub outside: Option<BTreeMap<Id, Epoch>>,
    /// Servers of pools, where the policy names any. A model plays none.
    pub servers: Option<Servers>,
    queue: Vec<(u64, Message)>,
    inbox: Vec<(u64, Item)>,
    term: u64,
    index: u64,
    last_tick: Option<u64>,
    no_leader_since: Option<u64>,
    whole_since: u64,
    commands: u64,
    sessions: u64,
    /// The last question about promises of each gate.
    asked: BTreeMap<(usize, Id), u64>,
}

impl Clone for World {
    fn clone(&self) -> World {
        World {
            play: Play {
                now: self.play.now,
                step_ms: self.play.step_ms,
                dice: self.play.dice.clone(),
                bug: self.play.bug,
                wishes: Wishes::default(),
            },
            policy: self.policy.clone(),
            believed: self.believed.clone(),
            replica: self.replica.clone(),
            hosts: self.hosts.clone(),
            deciders: self.deciders.clone(),
            cut: self.cut,
            leader: self.leader,
            invariants: self.invariants.clone(),
            acknowledged: self.acknowledged.clone(),
            loss_percent: self.loss_percent,
            repeat_percent: self.repeat_percent,
            max_delay_ms: self.max_delay_ms,
            stalled_until: self.stalled_until,
            wall_offset_ms: self.wall_offset_ms,
            hold: self.hold.clone(),
            held: self.held.clone(),
            journal: None,
            stops: self.stops,
            seen: BTreeMap::new(),
            failsafe_used: self.failsafe_used,
            rejected: self.rejected,
            moves: self.moves,
            served_at: self.served_at,
            outside: self.outside.clone(),
            servers: self.servers.clone(),
            queue: self.queue.clone(),
            inbox: self.inbox.clone(),
            term: self.term,
            index: self.index,
            last_tick: self.last_tick,
            no_leader_since: self.no_leader_since,
            whole_since: self.whole_since,
            commands: self.commands,
            sessions: self.sessions,
            asked: self.asked.clone(),
        }
    }
}

impl World {
    #[must_use]
    pub fn new(policy: Policy, step_ms: u64, seed: Option<u64>, bug: Option<Bug>) -> World {
        let mut play = Play { now: 0, step_ms, dice: seed.map(Dice::new), bug, wishes: Wishes::default() };
        let mut gates: Vec<(Site, Id)> = Vec::new();
        for site in [Site::A, Site::B] {
            let all: BTreeSet<Id> =
                policy.tickets.values().filter_map(|rule| rule.gates.get(&site)).flatten().cloned().collect();
            gates.extend(all.into_iter().map(|gate| (site, gate)));
        }
        let tickets: Vec<Id> = policy.tickets.keys().cloned().collect();
        let mut hosts = Vec::new();
        for own in &gates {
            let peers = gates.iter().filter(|peer| peer.0 != own.0).cloned().collect();
            let first = gates.iter().find(|gate| gate.0 == own.0) == Some(own);
            let mark = u8::try_from(hosts.len() * 2).unwrap_or(0) + u8::from(!first);
            hosts.push(Host::new(mark, own, &tickets, peers, policy.timing, &mut play));
        }
        let servers = (!policy.pools.is_empty()).then(|| Servers::of(&policy));
        let decider = || Decider {
            up: true,
            frozen: false,
            serve_up: true,
            mute: false,
            rate: 1_000,
            started: 0,
            session: 0,
            heard: [0; 3],
            own_last: None,
        };
        World {
            play,
            believed: policy.clone(),
            policy,
            replica: Replica::default(),
            hosts,
            deciders: [decider(), decider(), decider()],
            cut: [[false; 3]; 3],
            leader: None,
            invariants: Invariants::default(),
            acknowledged: BTreeMap::new(),
            loss_percent: 0,
            repeat_percent: 0,
            max_delay_ms: 0,
            stalled_until: 0,
            wall_offset_ms: 0,
            hold: BTreeMap::new(),
            held: Vec::new(),
            journal: None,
            stops: 0,
            seen: BTreeMap::new(),
            failsafe_used: false,
            rejected: false,
            moves: 0,
            served_at: None,
            outside: None,
            servers,
            queue: Vec::new(),
            inbox: Vec::new(),
            term: 0,
            index: 0,
            last_tick: None,
            no_leader_since: Some(0),
            whole_since: 0,
            commands: 0,
            sessions: 0,
            asked: BTreeMap::new(),
        }
    }

    /// A world that is written down, in which `rx` is active at a and its standby is in sync.
    #[must_use]
    pub fn settled(policy: Policy, step_ms: u64, seed: u64, bug: Option<Bug>) -> World {
        let mut world = World::new(policy, step_ms, Some(seed), bug);
        world.journal = Some(Journal { keep_ticks: true, ..Journal::default() });
        world.max_delay_ms = 40;
        world.run_until(60_000, |world| world.active(&rx()) == [Site::A] && world.in_sync() == Some(true));
        // Deciders have listened for a whole period, moves have come to rest.
        world.run(15_000);
        world
    }

    /// What is latched about the standby.
    #[must_use]
    pub fn in_sync(&self) -> Option<bool> {
        self.ticket()?.latch.as_ref()?.in_sync
    }

    #[must_use]
    pub const fn now(&self) -> u64 {
        self.play.now
    }

    // What is going on.

    /// Sites at which the service of a ticket runs, or may.
    #[must_use]
    pub fn active(&self, ticket: &Id) -> Vec<Site> {
        let mut sites: Vec<Site> =
            self.hosts.iter().filter(|host| host.runs(ticket, self.now())).map(|host| host.site).collect();
        sites.dedup();
        sites
    }

    #[must_use]
    pub fn ticket(&self) -> Option<&Ticket> {
        self.replica.failover.tickets.get(&rx())
    }

    #[must_use]
    pub fn told(&self, part: &str) -> usize {
        self.journal
            .as_ref()
            .map_or(0, |journal| journal.entries.iter().filter(|entry| entry.text.contains(part)).count())
    }

    #[must_use]
    pub fn story(&self) -> String {
        let lines = self.journal.as_ref().map(|journal| journal.lines.join("\n")).unwrap_or_default();
        format!("{lines}\nbreaches: {:#?}", self.invariants.breaches)
    }

    #[must_use]
    pub fn result(&self, key: &str) -> Option<&CommandResult> {
        self.replica.result_of(key)
    }

    pub fn say(&mut self, line: &str) {
        let now = self.now();
        if let Some(journal) = &mut self.journal {
            journal.lines.push(format!("{now:>9} {line}"));
        }
    }

    // Time.

    /// Passes time, and stops at the first breach.
    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / self.play.step_ms {
            self.step();
            if !self.invariants.breaches.is_empty() {
                return;
            }
        }
    }

    pub fn run_until(&mut self, limit_ms: u64, reached: impl Fn(&World) -> bool) -> Option<u64> {
        let begin = self.now();
        while self.now() - begin < limit_ms && self.invariants.breaches.is_empty() {
            if reached(self) {
                return Some(self.now() - begin);
            }
            self.step();
        }
        None
    }

    pub fn step(&mut self) {
        self.play.now += self.play.step_ms;
        self.listen();
        self.boot();
        for n in 0..self.hosts.len() {
            self.hosts[n].advance(&mut self.play);
            self.judge_notes(n);
        }
        self.send_requests();
        self.deliver();
        if self.now().is_multiple_of(1_000) {
            self.observe();
            self.deliver();
        }
        self.lead();
        self.write_data();
        let seen = Moment {
            now: self.play.now,
            step_ms: self.play.step_ms,
            policy: &self.believed,
            hosts: &self.hosts,
            replica: &self.replica,
            acknowledged: &self.acknowledged,
            outside: self.outside.as_ref(),
            servers: self.servers.as_ref(),
        };
        self.invariants.moment(&seen);
    }

    // For the model.

    /// Histories that are shown and decide nothing would make every way to a state another state.
    pub fn forget_what_is_only_told(&mut self) {
        self.invariants.forget_chain();
        self.replica.results.clear();
        for ticket in self.replica.failover.tickets.values_mut() {
            (ticket.last_entry, ticket.noted_at) = (None, bcp_core::time::LogTime::default());
        }
    }

    /// Everything that later behaviour depends on. Counters that only make names are left out, and what is empty between two
    /// moments.
    pub fn digest<H: Hasher>(&self, state: &mut H) {
        debug_assert!(self.play.wishes.is_empty(), "what a gate wants is seen to at once");
        debug_assert!(self.servers.is_none(), "a model plays no pools");
        let agreed = &self.replica;
        digest::feed(state, &agreed.failover.tickets);
        digest::feed(state, &agreed.failover.board);
        (agreed.term, agreed.log_time).hash(state);
        (&self.hosts, &self.deciders, &self.invariants).hash(state);
        (&self.cut, self.leader, &self.hold, &self.held, &self.queue).hash(state);
        digest::feed(state, &self.inbox);
        (&self.acknowledged, self.last_tick, self.no_leader_since, self.stalled_until).hash(state);
        (self.play.now, self.stops > 0).hash(state);
    }
}
