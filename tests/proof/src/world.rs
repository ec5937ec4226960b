//! Two sites, a witness, three deciders, gates with their wardens: one state that a model explores and a simulation runs.
//!
//! The decision log is the shipped core, the gates are the shipped machine. Messages are lost, delayed, held back and
//! repeated; leaders change; clocks run at rates of their own. What is checked is in [`crate::invariants`].

use std::collections::{BTreeMap, BTreeSet};

use bcp_agent::gate::machine::Event;
use bcp_core::failover::{Observation, Sight, Ticket, TicketCommand};
use bcp_core::ledger::LedgerEntry;
use bcp_core::policy::{LossPolicy, Mode, MoveWhen, Policy, Rpo, ServicePolicy, TicketKind, TicketPolicy, Timing};
use bcp_core::replica::{CommandResult, CommandVerb, Item, OperatorCommand, Replica, Tick};
use bcp_core::status::{ServiceSight, ServiceStatus, ServiceVotes};
use bcp_core::time::Wall;
use bcp_wire::control::{PromiseAnswer, PromiseAsk, PromiseVerdict, TicketAnswer};
use bcp_wire::{Id, Site};

use crate::bug::Bug;
use crate::dice::Dice;
use crate::host::{Host, Note, Play, Wishes};
use crate::invariants::{Applied, Invariants, Moment, Noted};
use crate::spoil;

/// No leader for this long: a new one.
const ELECT_MS: u64 = 1_500;
/// w leads again after this long in touch with both.
const RETURN_MS: u64 = 30_000;
/// Older submissions have lost their caller.
const INBOX_MS: u64 = 2_000;

/// # Panics
/// Never with the names used here.
#[must_use]
pub fn id(text: &str) -> Id {
    text.parse().unwrap_or_else(|error| unreachable!("{text} is a name: {error}"))
}

#[must_use]
pub fn rx() -> Id {
    id("rx")
}

#[must_use]
pub const fn at(site: Site) -> usize {
    match site {
        Site::A => 0,
        Site::B => 1,
        Site::W => 2,
    }
}

/// An active-passive ticket with one gate at each site.
#[must_use]
pub fn passive() -> TicketPolicy {
    TicketPolicy {
        service: rx(),
        kind: TicketKind::ActivePassive,
        mode: Mode::Auto,
        sites: vec![Site::A, Site::B],
        preferred: Some(Site::A),
        rpo: Rpo::Zero,
        depends_on: Vec::new(),
        move_when: vec![MoveWhen::SiteLost, MoveWhen::ServiceDown { for_ms: 30_000 }],
        loss: LossPolicy::Stop,
        gates: BTreeMap::from([(Site::A, vec![id("host-a")]), (Site::B, vec![id("host-b")])]),
        accept_unfenced: true,
        confirm_within_ms: 60_000,
        cooldown_ms: 3_600_000,
        move_budget: 2,
        stable_for_ms: 1_800_000,
    }
}

/// The same with two gates at each site: every one has to report.
#[must_use]
pub fn two_gates() -> TicketPolicy {
    let gates = |site: Site| vec![id(&format!("host-{site}")), id(&format!("more-{site}"))];
    TicketPolicy { gates: [Site::A, Site::B].map(|site| (site, gates(site))).into_iter().collect(), ..passive() }
}

#[must_use]
pub fn policy(timing: Timing, tickets: &[(&str, TicketPolicy)]) -> Policy {
    Policy {
        timing,
        tickets: tickets.iter().map(|(name, ticket)| (id(name), ticket.clone())).collect(),
        services: BTreeMap::from([(rx(), ServicePolicy::default())]),
    }
}

#[derive(Debug, Clone)]
pub enum Message {
    Item { to: Site, item: Item },
    Answer { to: usize, nonce: u64, index: u64, tickets: Vec<TicketAnswer> },
    Ask { to: usize, from: usize, ask: PromiseAsk },
    Promise { to: usize, from: usize, answer: PromiseAnswer },
}

impl Message {
    /// The gate it comes from or goes to.
    fn gate(&self, hosts: &[Host]) -> Option<usize> {
        match self {
            Message::Item { item: Item::Gate(sync), .. } => {
                hosts.iter().position(|host| host.site == sync.site && host.gate == sync.gate)
            }
            Message::Item { .. } => None,
            Message::Answer { to, .. } | Message::Ask { to, .. } | Message::Promise { to, .. } => Some(*to),
        }
    }
}

/// One decide process, and the serve beside it.
#[derive(Debug, Clone)]
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

    // Faults.

    #[must_use]
    pub fn reaches(&self, from: Site, to: Site) -> bool {
        from == to || !self.cut[at(from)][at(to)]
    }
    fn both_ways(&self, one: Site, other: Site) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }
    pub fn cut(&mut self, one: Site, other: Site) {
        (self.cut[at(one)][at(other)], self.cut[at(other)][at(one)]) = (true, true);
    }
    pub fn cut_one_way(&mut self, from: Site, to: Site) {
        self.cut[at(from)][at(to)] = true;
    }
    pub fn isolate(&mut self, site: Site) {
        for other in site.others() {
            self.cut(site, other);
        }
    }
    pub fn heal(&mut self) {
        self.cut = [[false; 3]; 3];
    }
    /// A site's machines have power.
    #[must_use]
    pub fn powered(&self, site: Site) -> bool {
        self.hosts.iter().find(|host| host.site == site).is_none_or(|host| host.powered)
    }
    #[must_use]
    pub fn decides(&self, site: Site) -> bool {
        let decider = &self.deciders[at(site)];
        decider.up && !decider.frozen && self.powered(site)
    }
    pub fn stop_decider(&mut self, site: Site) {
        self.deciders[at(site)].up = false;
    }
    pub fn start_decider(&mut self, site: Site) {
        if !self.deciders[at(site)].up {
            self.listens_anew(site, true);
        }
    }
    fn listens_anew(&mut self, site: Site, new_session: bool) {
        self.sessions += u64::from(new_session);
        let (now, session) = (self.now(), self.sessions);
        let decider = &mut self.deciders[at(site)];
        (decider.up, decider.frozen, decider.started, decider.heard) = (true, false, now, [now; 3]);
        if new_session {
            decider.session = session;
        }
    }
    pub fn freeze_decider(&mut self, site: Site) {
        self.deciders[at(site)].frozen = true;
    }
    pub fn thaw_decider(&mut self, site: Site) {
        if self.deciders[at(site)].frozen {
            self.listens_anew(site, false);
        }
    }
    /// The leader is deposed; its last proposal is lost.
    pub fn change_leader(&mut self) {
        self.leader = None;
        self.inbox.clear();
        self.no_leader_since = Some(self.now().saturating_sub(ELECT_MS));
    }
    pub fn each_host(&mut self, site: Site, mut act: impl FnMut(&mut Host, &mut Play)) {
        for n in 0..self.hosts.len() {
            if self.hosts[n].site == site {
                act(&mut self.hosts[n], &mut self.play);
                self.judge_notes(n);
            }
        }
    }
    pub fn power_off(&mut self, site: Site) {
        self.stop_decider(site);
        let running = self.active(&rx()).contains(&site);
        self.each_host(site, |host, _| host.power_off());
        self.stops += u64::from(running);
    }
    pub fn power_on(&mut self, site: Site) {
        self.each_host(site, |host, play| host.power_on(play));
        self.start_decider(site);
    }
    pub fn kill_agents(&mut self, site: Site) {
        self.each_host(site, |host, _| host.kill_agent());
    }
    pub fn start_agents(&mut self, site: Site) {
        self.each_host(site, |host, play| host.start_agent(play));
    }
    pub fn pause_agents(&mut self, site: Site, paused: bool) {
        self.each_host(site, |host, _| host.paused = paused);
    }

    pub fn command(&mut self, ticket: &str, command: TicketCommand) -> String {
        self.command_by("op-1", ticket, command)
    }
    pub fn command_by(&mut self, operator: &str, ticket: &str, command: TicketCommand) -> String {
        self.commands += 1;
        let key = format!("key-{}", self.commands);
        let verb = CommandVerb::Ticket { ticket: id(ticket), command };
        let command = OperatorCommand { key: key.clone(), operator: operator.to_owned(), verb };
        self.inbox.push((self.now(), Item::Command(command)));
        key
    }

    /// Something reaches the leader once more, or late.
    pub fn propose(&mut self, item: Item) {
        self.inbox.push((self.now(), item));
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
        };
        self.invariants.moment(&seen);
    }

    fn listen(&mut self) {
        let now = self.now();
        for observer in Site::ALL {
            for about in Site::ALL {
                if self.powered(about) && self.reaches(about, observer) {
                    self.deciders[at(observer)].heard[at(about)] = now;
                }
            }
        }
    }

    fn sight(&self, observer: Site, about: Site) -> Sight {
        let decider = &self.deciders[at(observer)];
        let period = self.policy.timing.ttl_ms * 3 / 4;
        let listening = self.now() - decider.started;
        let silent_for = self.now() - decider.heard[at(about)].max(decider.started);
        let settled = listening > period || self.play.bug == Some(Bug::FreshObserverCounted);
        match silent_for > period || self.play.bug == Some(Bug::FreshObserverCounted) && silent_for > 1_000 {
            false => Sight::Seen,
            true if settled => Sight::Silent,
            true => Sight::Unknown,
        }
    }

    fn observe(&mut self) {
        for observer in Site::ALL {
            if !self.decides(observer) || self.deciders[at(observer)].mute {
                continue;
            }
            let sights: BTreeMap<Site, Sight> =
                Site::ALL.into_iter().map(|about| (about, self.sight(observer, about))).collect();
            let serve_up = self.deciders[at(observer)].serve_up;
            let agents = sights.iter().map(|(site, sight)| (*site, if serve_up { *sight } else { Sight::Unknown }));
            let seen = Observation {
                observer,
                session: self.deciders[at(observer)].session,
                // Grows across restarts, as the shipped one takes it up from the agreed state.
                seq: self.now(),
                policy_hash: String::new(),
                control: sights.clone(),
                agents: agents.collect(),
            };
            self.relay(observer, Item::Observation(seen));
            if serve_up {
                let votes = self.service_votes(observer, &sights);
                self.relay(observer, Item::ServiceVotes(votes));
            }
        }
    }

    fn service_votes(&self, observer: Site, sights: &BTreeMap<Site, Sight>) -> ServiceVotes {
        let mut services = BTreeMap::new();
        for (ticket, rule) in &self.policy.tickets {
            let active = self.active(ticket);
            let status = |site: Site| match sights.get(&site) {
                Some(Sight::Seen) if active.contains(&site) => ServiceStatus::Up,
                Some(Sight::Seen) => ServiceStatus::Down,
                _ => ServiceStatus::Unknown,
            };
            let by_site = [Site::A, Site::B].map(|site| (site, status(site))).into_iter().collect();
            let sight = ServiceSight { status: ServiceStatus::Unknown, by_site, explain: String::new() };
            services.entry(rule.service.clone()).or_insert(sight);
        }
        ServiceVotes { observer, session: 1, seq: self.now(), services }
    }

    /// A collector passes an item on to the leader, if it reaches it.
    fn relay(&mut self, via: Site, item: Item) -> bool {
        let Some(leader) = self.leader else { return false };
        let way = self.decides(via) && self.reaches(via, leader);
        if way {
            self.send(Message::Item { to: leader, item });
        }
        way
    }

    fn send(&mut self, message: Message) {
        if let Some(gate) = message.gate(&self.hosts) {
            let answer = matches!(message, Message::Answer { .. } | Message::Promise { .. });
            let now = self.now();
            match self.hold.get_mut(&(gate, answer)) {
                Some(since) if since.is_none_or(|since| since == now) => {
                    *since = Some(now);
                    self.held.push(message);
                    return;
                }
                Some(_) => {
                    self.hold.remove(&(gate, answer));
                }
                None => {}
            }
        }
        let now = self.now();
        let Some(dice) = &mut self.play.dice else {
            self.queue.push((now, message));
            return;
        };
        let copies = 1 + usize::from(dice.percent(self.repeat_percent));
        for _ in 0..copies {
            if !dice.percent(self.loss_percent) {
                let at = now + 5 + dice.below(self.max_delay_ms + 1);
                self.queue.push((at, message.clone()));
            }
        }
    }

    /// Holds back the next message from a gate, or to it.
    pub fn hold_back(&mut self, gate: usize, answer: bool) {
        self.hold.insert((gate, answer), None);
    }

    /// A message that was held back arrives after all; `again`: and will once more.
    pub fn release(&mut self, n: usize, again: bool) {
        if n < self.held.len() {
            let message = if again { self.held[n].clone() } else { self.held.remove(n) };
            let now = self.now();
            self.queue.push((now, message));
        }
    }

    fn send_requests(&mut self) {
        for n in 0..self.hosts.len() {
            let Some(sync) = self.hosts[n].sync(&mut self.play) else { continue };
            let site = self.hosts[n].site;
            for collector in Site::ALL {
                let sent = self.reaches(site, collector) && self.relay(collector, Item::Gate(sync.clone()));
                // Without dice nothing is lost on the way, so one copy will do.
                if sent && self.play.dice.is_none() {
                    break;
                }
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(|(at, _)| *at <= now);
        self.queue = later;
        for (_, message) in due {
            match message {
                Message::Item { to, item } => self.submit(to, item),
                Message::Answer { to, nonce, index, tickets } => {
                    self.hosts[to].answered(nonce, index, &tickets, &mut self.play);
                    self.judge_notes(to);
                }
                Message::Ask { to, from, ask } => {
                    let ticket = ask.ticket.clone();
                    self.hosts[to].feed(&ticket, Event::PromiseAsked(ask), None, &mut self.play);
                    let answers = std::mem::take(&mut self.play.wishes.promises);
                    self.judge_notes(to);
                    for answer in answers {
                        if self.reaches(self.hosts[to].site, self.hosts[from].site) {
                            self.send(Message::Promise { to: from, from: to, answer });
                        }
                    }
                }
                Message::Promise { to, from, answer } => self.promised(to, from, answer),
            }
        }
    }

    fn submit(&mut self, to: Site, item: Item) {
        if self.leader != Some(to) || !self.decides(to) {
            return;
        }
        if let (Some(Bug::AnsweredBeforeLogged), Item::Gate(sync)) = (self.play.bug, &item) {
            let mut ahead = self.replica.clone();
            let tick = Tick { leader: to, term: self.term, elapsed_ms: 0, wall: Wall(0), items: vec![item.clone()] };
            ahead.apply(self.index + 1, &tick);
            self.answer(to, sync, &ahead);
        }
        self.inbox.push((self.now(), item));
    }

    fn promised(&mut self, to: usize, from: usize, answer: PromiseAnswer) {
        let peer = (self.hosts[from].site, self.hosts[from].gate.clone());
        let mut nonce = answer.nonce;
        if self.play.bug == Some(Bug::PromisesAddUp)
            && let Some(asked) = self.asked.get(&(to, answer.ticket.clone()))
        {
            nonce = *asked;
        }
        let event = match answer.verdict {
            PromiseVerdict::Promised { for_ms } => Event::PromiseGiven { peer, nonce, for_ms },
            PromiseVerdict::Refused { reason, .. } => Event::PromiseDenied { peer, nonce, reason },
        };
        self.hosts[to].feed(&answer.ticket, event, None, &mut self.play);
        self.judge_notes(to);
    }

    /// What a gate asked for is sent, what it did is judged.
    fn judge_notes(&mut self, n: usize) {
        let notes = std::mem::take(&mut self.play.wishes.notes);
        for note in &notes {
            match note {
                Note::ServiceStopped { .. } => {
                    self.stops += 1;
                    *self.seen.entry("service stopped").or_default() += 1;
                }
                Note::Extended { nonce: None, .. } => {
                    self.failsafe_used = true;
                    *self.seen.entry("failsafe used").or_default() += 1;
                }
                _ => {}
            }
            if let Note::Began { ticket, order } = note {
                let (site, gate) = (self.hosts[n].site, self.hosts[n].gate.clone());
                self.say(&format!("gate {site}/{gate} {ticket}: {} of {} begins", order.kind.as_str(), order.epoch));
            }
            let seen = Noted {
                now: self.play.now,
                policy: &self.believed,
                host: &self.hosts[n],
                hosts: &self.hosts,
                note,
                heard_by_machine: self.hosts[n].agent_runs(),
                acknowledged: &self.acknowledged,
            };
            self.invariants.note(&seen);
        }
        let asks = std::mem::take(&mut self.play.wishes.asks);
        for (ticket, epoch, nonce) in &asks {
            self.asked.insert((n, ticket.clone()), *nonce);
            let (site, gate) = (self.hosts[n].site, self.hosts[n].gate.clone());
            for to in 0..self.hosts.len() {
                let peer = (self.hosts[to].site, self.hosts[to].gate.clone());
                if self.hosts[n].peers().contains(&peer) && self.reaches(site, peer.0) {
                    let ask =
                        PromiseAsk { site, gate: gate.clone(), ticket: ticket.clone(), epoch: *epoch, nonce: *nonce };
                    self.send(Message::Ask { to, from: n, ask });
                }
            }
        }
    }

    // For the model.

    /// Histories that are shown and decide nothing would make every way to a state another state.
    pub fn forget_what_is_only_told(&mut self) {
        self.replica.ledger = bcp_core::ledger::Head::default();
        self.invariants.forget_chain();
        (self.replica.alarms, self.replica.services) = Default::default();
        self.replica.results.clear();
        (self.replica.changed_at, self.replica.publication) = Default::default();
        for ticket in self.replica.failover.tickets.values_mut() {
            (ticket.last_entry, ticket.noted_at) = (None, bcp_core::time::LogTime::default());
        }
    }

    /// Everything that later behaviour depends on, as text.
    ///
    /// # Panics
    /// Never: a hasher takes every text.
    pub fn digest(&self, out: &mut impl std::fmt::Write) {
        let agreed = &self.replica;
        let parts = write!(
            out,
            "{:?}{:?}{:?}{:?}",
            agreed.failover.tickets, agreed.failover.board, agreed.term, agreed.log_time
        )
        .and_then(|()| write!(out, "{:?}{:?}{:?}", self.hosts, self.deciders, self.invariants))
        .and_then(|()| write!(out, "{:?}{:?}{:?}{:?}", self.cut, self.leader, self.hold, self.held))
        .and_then(|()| write!(out, "{:?}{:?}{:?}", self.queue, self.inbox, self.acknowledged))
        .and_then(|()| write!(out, "{:?}{:?}{:?}", self.last_tick, self.no_leader_since, self.stalled_until))
        .and_then(|()| write!(out, "{:?}{:?}{}", self.play.now, self.play.wishes, self.stops > 0));
        debug_assert!(parts.is_ok(), "a hasher takes every text");
    }

    // The log.

    fn quorum(&self, leader: Site) -> bool {
        self.decides(leader)
            && leader.others().iter().any(|other| self.decides(*other) && self.both_ways(leader, *other))
    }

    fn lead(&mut self) {
        let now = self.now();
        let whole = Site::W.others().iter().all(|other| self.decides(*other) && self.both_ways(Site::W, *other));
        if !whole || !self.decides(Site::W) {
            self.whole_since = now;
        }
        let Some(leader) = self.leader.filter(|leader| self.quorum(*leader)) else {
            let since = *self.no_leader_since.get_or_insert(now);
            let next = [Site::W, Site::A, Site::B].into_iter().find(|site| self.quorum(*site));
            if let Some(next) = next.filter(|_| now - since >= ELECT_MS) {
                self.takes_over(next);
            }
            return;
        };
        self.no_leader_since = None;
        if leader != Site::W && now - self.whole_since >= RETURN_MS {
            self.takes_over(Site::W);
            return;
        }
        if now < self.stalled_until || self.last_tick.is_some_and(|last| now - last < self.policy.timing.tick_ms) {
            return;
        }
        self.tick(leader);
    }

    fn takes_over(&mut self, next: Site) {
        self.leader = Some(next);
        self.term += 1;
        (self.last_tick, self.no_leader_since) = (None, None);
        self.inbox.retain(|(_, item)| matches!(item, Item::Command(_)));
        self.say(&format!("the collector of {next} leads"));
        *self.seen.entry("leader changed").or_default() += 1;
    }

    fn tick(&mut self, leader: Site) {
        let now = self.now();
        let decider = &mut self.deciders[at(leader)];
        let mut last = self.last_tick;
        if self.play.bug == Some(Bug::ReelectedLeaderCounts) && last.is_none() {
            last = decider.own_last;
        }
        let elapsed = last.map_or(0, |last| (now - last) * decider.rate / 1_000);
        decider.own_last = Some(now);
        self.last_tick = Some(now);
        let mut items: Vec<Item> =
            self.inbox.drain(..).filter(|(at, _)| now - at <= INBOX_MS).map(|(_, item)| item).collect();
        if self.replica.policy.as_ref() != Some(&self.policy) {
            items.insert(0, Item::Policy(Box::new(self.policy.clone())));
        }
        let label = 1_700_000_000_000 + i64::try_from(now).unwrap_or(0) + self.wall_offset_ms;
        let elapsed_ms = match self.play.bug {
            Some(Bug::LogTimeFromWall) => {
                u64::try_from(label - self.replica.wall.0).unwrap_or(0).min(bcp_core::replica::MAX_ELAPSED_MS)
            }
            _ => elapsed,
        };
        self.commit(Tick { leader, term: self.term, elapsed_ms, wall: Wall(label), items });
    }

    fn commit(&mut self, tick: Tick) {
        self.index += 1;
        let before = self.replica.clone();
        let entries = spoil::apply(&mut self.replica, self.index, &tick, &mut self.policy, self.play.bug);
        let seen = Applied {
            now: self.play.now,
            policy: &self.believed,
            before: &before,
            after: &self.replica,
            tick: &tick,
            entries: &entries,
            hosts: &self.hosts,
        };
        self.invariants.tick(&seen);
        self.count(&entries);
        for item in &tick.items {
            if let Item::Gate(sync) = item
                && self.play.bug != Some(Bug::AnsweredBeforeLogged)
            {
                let replica = std::mem::take(&mut self.replica);
                self.answer(tick.leader, sync, &replica);
                self.replica = replica;
            }
        }
        spoil::gates(&mut self.hosts, &self.replica, &mut self.play);
        for n in 0..self.hosts.len() {
            self.judge_notes(n);
        }
        if let Some(journal) = &mut self.journal {
            let now = self.play.now;
            journal.lines.extend(entries.iter().map(|entry| format!("{now:>9} {} {}", entry.log_time, entry.text)));
            journal.entries.extend(entries);
            if journal.keep_ticks {
                journal.ticks.push((self.index, tick));
            }
        }
    }

    fn answer(&mut self, leader: Site, sync: &bcp_wire::control::GateSync, replica: &Replica) {
        let Some(to) = self.hosts.iter().position(|host| host.site == sync.site && host.gate == sync.gate) else {
            return;
        };
        let mut tickets = replica.failover.answer(sync.site, &sync.gate, sync);
        spoil::answers(&mut tickets, sync, replica, self.play.bug);
        let ways = Site::ALL
            .into_iter()
            .filter(|via| self.decides(*via) && self.reaches(leader, *via) && self.reaches(*via, sync.site));
        // The first confirmed answer wins; without dice nothing is lost on the way.
        let ways = ways.take(if self.play.dice.is_some() { 3 } else { 1 }).count();
        for _ in 0..ways {
            self.send(Message::Answer { to, nonce: sync.nonce, index: self.index, tickets: tickets.clone() });
        }
    }

    fn count(&mut self, entries: &[LedgerEntry]) {
        use bcp_core::failover::TicketEvent as E;
        for entry in entries {
            let bcp_core::ledger::LedgerEvent::Ticket { event } = &entry.what else { continue };
            let what = match event {
                E::Granted { cause, .. } if cause.automatic() => "takeover",
                E::Granted { .. } => "grant",
                E::Released { .. } => "clean release",
                E::CoveredByTime { .. } => "covered by time",
                E::Withheld { reasons, .. } if reasons.iter().any(|reason| reason.contains("lacks acknowledged")) => {
                    "refused as stale"
                }
                E::Withheld { .. } => "withheld",
                E::Expired { .. } => "expired",
                E::StepFailed { outcome: bcp_wire::control::StepOutcome::Rejected, .. } => "gate rejected",
                E::Compensating { .. } => "compensated",
                E::MoveStuck { .. } => "stuck",
                _ => continue,
            };
            *self.seen.entry(what).or_default() += 1;
        }
    }

    // The service.

    /// Every running service writes: to both copies, or alone once the log knows it.
    fn write_data(&mut self) {
        let tickets: Vec<Id> = self.policy.tickets.keys().cloned().collect();
        let now = self.now();
        for id in &tickets {
            for site in [Site::A, Site::B] {
                let peer = if site == Site::A { Site::B } else { Site::A };
                let copies = |host: &&Host| host.site == peer && host.powered && !host.runs(id, now);
                let together = self.both_ways(site, peer) && self.hosts.iter().find(copies).is_some();
                let runs = self.active(id).contains(&site);
                let carrier = |host: &&mut Host| host.posts.get(id).is_some_and(|post| post.carries_data);
                let Some(host) = self.hosts.iter_mut().filter(carrier).find(|host| host.site == site) else { continue };
                let Some(post) = host.posts.get_mut(id).filter(|_| runs) else { continue };
                let wrote = post.write(together);
                let (position, in_sync) = (post.copy.position, post.copy.in_sync);
                if together && in_sync {
                    for other in self.hosts.iter_mut().filter(|host| host.site == peer) {
                        if let Some(post) = other.posts.get_mut(id) {
                            post.copy.position = post.copy.position.max(position);
                        }
                    }
                }
                if wrote {
                    let known = self.acknowledged.entry(id.clone()).or_default();
                    *known = (*known).max(position);
                }
            }
        }
    }
}
