//! One gate with its warden, its disk and its service.
//!
//! The machine is the shipped one. What its driver does with actions, what the warden does with the files, and how long a
//! program runs is played here, in the order of `agent/src/gate/driver.rs` and `agent/src/warden.rs`. Times of the world are
//! real milliseconds; the machine sees only its own clock, which runs at a rate of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bcp_agent::gate::budget::{Budget, POLL_MS, Verdict};
use bcp_agent::gate::config::GateTiming;
use bcp_agent::gate::machine::{Action, Event, FoundDeadline, Machine, Peer, Terms};
use bcp_agent::gate::record::{BootMs, Record};
use bcp_core::policy::Timing;
use bcp_wire::control::{
    CopyRole, GateSync, PromiseAnswer, ServiceFacts, StepKind, StepOrder, StepOutcome, TicketAnswer,
};
use bcp_wire::{Epoch, Id, Site};

use crate::bug::Bug;
use crate::dice::Dice;

/// Requests whose answers still count, as in the driver.
const REQUESTS_MAX: usize = 16;
/// A script that has nothing to wait for.
const STEP_MS: u64 = 200;

/// A program that carries out a step. It outlives its gate's process.
#[derive(Debug, Clone)]
pub struct Running {
    pub order: StepOrder,
    pub ends: u64,
}

#[derive(Debug, Clone)]
struct Request {
    nonce: u64,
    sent: BootMs,
    sent_real: u64,
    reported: BTreeMap<Id, Vec<String>>,
    asked_alone: bool,
    confirmed: bool,
}

/// The data of the service at this site.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    pub position: u64,
    pub in_sync: bool,
    pub wants_alone: bool,
    pub alone: bool,
    pub lineage: u64,
}

/// What the machine wants of others.
#[derive(Debug, Default)]
pub struct Wishes {
    pub asks: Vec<(Id, Epoch, u64)>,
    pub promises: Vec<PromiseAnswer>,
    pub notes: Vec<Note>,
}

/// What the world lends to its parts.
#[derive(Debug)]
pub struct Play {
    pub now: u64,
    /// Nobody looks at a clock in between.
    pub step_ms: u64,
    /// Absent in the model: everything takes its usual time.
    pub dice: Option<Dice>,
    pub bug: Option<Bug>,
    pub wishes: Wishes,
}

impl Play {
    pub fn roll(&mut self) -> u64 {
        let now = self.now;
        self.dice.as_mut().map_or(now, Dice::next)
    }
}

/// What a gate did, for those who judge it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The record on disk is another one.
    Stored {
        ticket: Id,
        before: Box<Record>,
        after: Box<Record>,
    },
    /// The lease now ends at this moment of the gate's clock. `nonce`: of the answer that said so.
    Extended {
        ticket: Id,
        epoch: Epoch,
        deadline: BootMs,
        nonce: Option<u64>,
        sent: BootMs,
    },
    Began {
        ticket: Id,
        order: StepOrder,
    },
    Ended {
        ticket: Id,
        order: StepOrder,
        outcome: StepOutcome,
    },
    /// A promise was given that holds until then (real time, at the slowest clock).
    Promised {
        ticket: Id,
        epoch: Epoch,
        until: u64,
    },
    /// A new life: what the file said of the lease, and what the machine makes of it.
    Started {
        ticket: Id,
        found: Option<BootMs>,
        taken: Option<BootMs>,
    },
    ServiceStopped {
        ticket: Id,
    },
}

/// One ticket's gate.
#[derive(Debug, Clone)]
pub struct Post {
    pub machine: Option<Machine>,
    pub disk: Record,
    pub file: Option<FoundDeadline>,
    pub step: Option<Running>,
    /// The gate's own stop ends then.
    pub stop: Option<u64>,
    /// The warden's stop ends then.
    pub warden: Option<u64>,
    noticed: Option<BootMs>,
    /// The epoch under which the service runs, or may.
    pub running: Option<Epoch>,
    pub copy: Copy,
    /// One gate of a site speaks for its copy of the data.
    pub carries_data: bool,
    /// What waits while nobody can take it, each with the nonce of its answer.
    pending: VecDeque<(Event, Option<u64>)>,
    /// Outcome forced on a step, to play faults.
    pub force: BTreeMap<StepKind, StepOutcome>,
}

#[derive(Debug, Clone)]
pub struct Host {
    pub site: Site,
    pub gate: Id,
    /// Tells its nonces from those of others where there are no dice.
    mark: u8,
    /// Parts per thousand: 990 to 1010 is what the design allows.
    pub rate: u64,
    pub powered: bool,
    /// Agent process stopped (SIGSTOP): its warden and its programs go on.
    pub paused: bool,
    pub disk_full: bool,
    /// Every stop hangs, and takes as long as it may.
    pub slow_stops: bool,
    /// What a step takes, where it is not a matter of chance.
    pub step_takes_ms: Option<u64>,
    pub posts: BTreeMap<Id, Post>,
    peers: BTreeSet<Peer>,
    pub timing: Timing,
    pub failsafe: bool,
    booted_at: u64,
    boots: u32,
    requests: VecDeque<Request>,
    next_sync: u64,
    sync_now: bool,
    seq: u64,
}

fn gate_timing(timing: &Timing) -> GateTiming {
    GateTiming {
        tick_ms: timing.tick_ms,
        renew_ms: timing.renew_ms,
        ttl_holder_ms: timing.ttl_holder_ms,
        ttl_ms: timing.ttl_ms,
        acquire_after_ms: timing.acquire_after_ms,
        stop_max_ms: timing.stop_max_ms,
    }
}

impl Host {
    #[must_use]
    pub fn new(mark: u8, own: &Peer, tickets: &[Id], peers: BTreeSet<Peer>, timing: Timing, play: &mut Play) -> Host {
        let (site, gate) = own;
        let first_of_site = mark.is_multiple_of(2);
        let mut host = Host {
            site: *site,
            gate: gate.clone(),
            mark,
            rate: 1_000,
            powered: true,
            paused: false,
            disk_full: false,
            slow_stops: false,
            step_takes_ms: None,
            posts: BTreeMap::new(),
            peers,
            timing,
            failsafe: true,
            booted_at: 0,
            boots: 1,
            requests: VecDeque::new(),
            next_sync: 0,
            sync_now: false,
            seq: 0,
        };
        if play.bug == Some(Bug::PromiseOfOneMissing) {
            host.peers.pop_last();
        }
        for ticket in tickets {
            let post = Post {
                machine: None,
                disk: Record::default(),
                file: None,
                step: None,
                stop: None,
                warden: None,
                noticed: None,
                running: None,
                copy: Copy::default(),
                carries_data: first_of_site,
                pending: VecDeque::new(),
                force: BTreeMap::new(),
            };
            host.posts.insert(ticket.clone(), post);
        }
        host.start_agent(play);
        host
    }

    #[must_use]
    pub fn clock(&self, real: u64) -> BootMs {
        BootMs(real.saturating_sub(self.booted_at) * self.rate / 1_000 + 1)
    }

    /// The first real moment at which the clock shows `local`.
    #[must_use]
    pub fn real_of(&self, local: BootMs) -> u64 {
        self.booted_at + (local.0.saturating_sub(1) * 1_000).div_ceil(self.rate)
    }

    #[must_use]
    pub fn peers(&self) -> &BTreeSet<Peer> {
        &self.peers
    }

    #[must_use]
    pub fn agent_runs(&self) -> bool {
        self.powered && self.posts.values().any(|post| post.machine.is_some())
    }

    fn terms(&self, ticket: &Id) -> Terms {
        Terms {
            site: self.site,
            gate: self.gate.clone(),
            ticket: ticket.clone(),
            timing: gate_timing(&self.timing),
            failsafe: self.failsafe,
            peers: self.peers.clone(),
            boot_id: format!("boot-{}", self.boots),
        }
    }

    /// The service runs at `now`, or may.
    #[must_use]
    pub fn runs(&self, ticket: &Id, now: u64) -> bool {
        let Some(post) = self.posts.get(ticket) else { return false };
        let over = |ends: Option<u64>| ends.is_some_and(|at| at <= now);
        post.running.is_some() && !over(post.stop) && !over(post.warden)
    }

    // Faults.

    pub fn kill_agent(&mut self) {
        for post in self.posts.values_mut() {
            post.machine = None;
            post.pending.clear();
        }
        self.requests.clear();
        self.paused = false;
    }

    pub fn start_agent(&mut self, play: &mut Play) {
        let (now, clock) = (play.now, self.clock(play.now));
        let tickets: Vec<Id> = self.posts.keys().cloned().collect();
        for id in tickets {
            let terms = self.terms(&id);
            let ttl = self.timing.ttl_holder_ms;
            let Some(post) = self.posts.get_mut(&id) else { continue };
            if !self.powered || post.machine.is_some() {
                continue;
            }
            // The file names the program that a former life left behind.
            post.step = None;
            if play.bug == Some(Bug::PromiseForgotten) {
                post.disk.promise = None;
            }
            let mut found = post.file;
            if play.bug == Some(Bug::RestartLengthensLease) {
                found = found.map(|file| FoundDeadline { deadline: clock.plus(ttl), ..file });
            }
            let machine = Machine::new(terms, post.disk.clone(), found, clock);
            let (found, taken) = (post.file.map(|file| file.deadline), machine.figures().deadline);
            play.wishes.notes.push(Note::Started { ticket: id, found, taken });
            post.machine = Some(machine);
        }
        // Gates do not ask in step.
        let after = play.dice.as_mut().map_or(0, |dice| dice.below(self.timing.renew_ms));
        self.next_sync = now + after;
    }

    pub fn power_off(&mut self) {
        self.kill_agent();
        self.powered = false;
        for post in self.posts.values_mut() {
            (post.running, post.file, post.step, post.stop, post.warden) = (None, None, None, None, None);
            post.noticed = None;
        }
    }

    pub fn power_on(&mut self, play: &mut Play) {
        if self.powered {
            return;
        }
        (self.powered, self.booted_at) = (true, play.now);
        self.boots += 1;
        for post in self.posts.values_mut() {
            (post.copy.in_sync, post.copy.alone, post.copy.wants_alone) = (false, false, false);
        }
        self.start_agent(play);
    }

    // Time.

    /// Programs end, the warden looks, the machine hears that time passed.
    pub fn advance(&mut self, play: &mut Play) {
        if !self.powered {
            return;
        }
        let tickets: Vec<Id> = self.posts.keys().cloned().collect();
        for id in &tickets {
            self.programs_end(id, play);
            if play.bug != Some(Bug::NoWarden) {
                self.warden_looks(id, play);
            }
            let roll = play.roll();
            self.feed(id, Event::Ticked { dice: roll }, None, play);
        }
    }

    fn programs_end(&mut self, id: &Id, play: &mut Play) {
        let now = play.now;
        let Some(post) = self.posts.get_mut(id) else { return };
        if let Some(step) = post.step.take_if(|step| step.ends <= now) {
            let outcome = post.force.get(&step.order.kind).copied().unwrap_or(StepOutcome::Done);
            if step.order.kind == StepKind::Promote && matches!(outcome, StepOutcome::Done | StepOutcome::Already) {
                post.running = Some(step.order.epoch);
                (post.copy.in_sync, post.copy.alone, post.copy.wants_alone) = (false, false, true);
            }
            let key = step.order.key.clone();
            play.wishes.notes.push(Note::Ended { ticket: id.clone(), order: step.order, outcome });
            self.feed(id, Event::StepEnded { key, outcome, detail: None, took_ms: STEP_MS }, None, play);
        }
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.stop.take_if(|ends| *ends <= now).is_some() {
            let verified = !post.force.contains_key(&StepKind::Stop);
            if verified && post.running.take().is_some() {
                play.wishes.notes.push(Note::ServiceStopped { ticket: id.clone() });
            }
            self.feed(id, Event::StopEnded { verified, detail: None }, None, play);
        }
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.warden.take_if(|ends| *ends <= now).is_some() {
            if post.running.take().is_some() {
                play.wishes.notes.push(Note::ServiceStopped { ticket: id.clone() });
            }
            let before = post.disk.clone();
            (post.disk.may_run, post.disk.promoted, post.file) = (false, None, None);
            post.disk.writes += 1;
            let after = Box::new(post.disk.clone());
            play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
        }
    }

    fn budget(&self) -> Budget {
        gate_timing(&self.timing).budget()
    }

    /// Real milliseconds in which the clock goes on by so many.
    fn lasts(&self, local_ms: u64) -> u64 {
        (local_ms * 1_000).div_ceil(self.rate)
    }

    /// At most until `latest`, and so long where everything hangs.
    fn ends(&self, latest: u64, play: &mut Play) -> u64 {
        let latest = latest.max(play.now);
        match &mut play.dice {
            Some(dice) if !self.slow_stops => play.now + dice.below(latest - play.now + 1),
            Some(_) | None => latest,
        }
    }

    /// When the gate's stop ends that begins now. Its machine begins by the deadline, however coarse the steps are here.
    fn gate_stop_ends(&self, file: Option<FoundDeadline>, play: &mut Play) -> u64 {
        let begins = file.map_or(play.now, |file| self.real_of(file.deadline).min(play.now));
        self.ends(begins + self.lasts(self.budget().stop_ms()), play)
    }

    /// When the warden's loss action ends that is due at `due`: its look, the lock, a kill, then stop and verify.
    fn warden_ends(&self, deadline: Option<BootMs>, due: BootMs, play: &mut Play) -> u64 {
        let (budget, clock) = (self.budget(), self.clock(play.now));
        // The real one looks more often than the steps here.
        let seen = due.max(BootMs(clock.0.saturating_sub(play.step_ms * self.rate / 1_000))).plus(POLL_MS);
        let begins = seen.plus(budget.lock_ms() + budget.after_kill_ms());
        let takes = match play.bug {
            Some(Bug::WardenTakesItAll) => budget.stop_max_ms,
            _ => budget.warden_stop_ms(deadline, begins, budget.stop_ms()),
        };
        self.ends(self.real_of(begins.plus(takes)), play)
    }

    fn warden_looks(&mut self, id: &Id, play: &mut Play) {
        let (clock, budget) = (self.clock(play.now), self.budget());
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.warden.is_some() || !post.disk.may_run {
            post.noticed = None;
            return;
        }
        let deadline = post.file.map(|file| file.deadline);
        let noticed = *post.noticed.get_or_insert(clock);
        let due = match budget.judge(&post.disk, deadline, noticed, clock) {
            Verdict::Fine => {
                post.noticed = None;
                return;
            }
            Verdict::GateActs { until } if clock < until => return,
            Verdict::GateActs { until } => until,
            Verdict::Late => deadline.unwrap_or(clock),
        };
        if play.bug != Some(Bug::LossLeavesStep) {
            post.step = None;
        }
        if post.disk.holder == Some(self.site) && !post.disk.closed {
            let before = post.disk.clone();
            post.disk.closed = true;
            post.disk.writes += 1;
            let after = Box::new(post.disk.clone());
            play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
        }
        let ends = self.warden_ends(deadline, due, play);
        if let Some(post) = self.posts.get_mut(id) {
            post.warden = Some(ends);
        }
    }

    // The driver.

    /// One event of one ticket, under its lock; `nonce` of the answer, where it is one.
    pub fn feed(&mut self, id: &Id, event: Event, nonce: Option<u64>, play: &mut Play) {
        let clock = self.clock(play.now);
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.machine.is_none() {
            return;
        }
        if self.paused || post.warden.is_some() {
            // A paused process finds it all when it goes on; time and questions come anew.
            if !matches!(event, Event::Ticked { .. } | Event::PromiseAsked(_)) && post.pending.len() < 64 {
                post.pending.push_back((event, nonce));
            }
            return;
        }
        let mut events = std::mem::take(&mut post.pending);
        if let Some(machine) = &post.machine
            && *machine.stored() != post.disk
            && !self.disk_full
        {
            events.push_front((Event::RecordFound(Box::new(post.disk.clone())), None));
        }
        events.push_back((event, nonce));
        while let Some((event, nonce)) = events.pop_front() {
            let sent = match &event {
                Event::Answered { sent, .. } => *sent,
                _ => clock,
            };
            let Some(machine) = self.posts.get_mut(id).and_then(|post| post.machine.as_mut()) else { return };
            let actions = machine.step(clock, event);
            self.perform(id, actions, (nonce, sent), &mut events, play);
        }
    }

    fn perform(
        &mut self,
        id: &Id,
        actions: Vec<Action>,
        (nonce, sent): (Option<u64>, BootMs),
        follow: &mut VecDeque<(Event, Option<u64>)>,
        play: &mut Play,
    ) {
        let (now, clock) = (play.now, self.clock(play.now));
        let mut stored = true;
        for action in actions {
            let Some(post) = self.posts.get_mut(id) else { return };
            match action {
                Action::Persist(record) => {
                    if self.disk_full {
                        if let Some(machine) = post.machine.as_mut() {
                            machine.not_stored();
                        }
                        stored = false;
                        continue;
                    }
                    let before = std::mem::replace(&mut post.disk, (*record).clone());
                    if let Some(promise) = record.promise.filter(|promise| before.promise.as_ref() != Some(promise)) {
                        let (until, epoch) = (self.real_of(promise.until), promise.epoch);
                        play.wishes.notes.push(Note::Promised { ticket: id.clone(), epoch, until });
                    }
                    let after = Box::new(self.posts[id].disk.clone());
                    play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
                }
                Action::NoteDeadline { epoch, deadline } => {
                    post.file = Some(FoundDeadline { epoch, deadline });
                    play.wishes.notes.push(Note::Extended { ticket: id.clone(), epoch, deadline, nonce, sent });
                }
                Action::ForgetDeadline => post.file = None,
                Action::NoteActive { .. } => {}
                Action::KillStep => {
                    if play.bug != Some(Bug::LossLeavesStep) {
                        post.step = None;
                    }
                }
                Action::RunStep { order, deadline } => {
                    let key = order.key.clone();
                    let ended = |outcome| Event::StepEnded { key, outcome, detail: None, took_ms: 0 };
                    if !stored {
                        follow.push_back((ended(StepOutcome::Failed), None));
                    } else if deadline.is_some_and(|deadline| clock >= deadline) {
                        follow.push_back((ended(StepOutcome::Rejected), None));
                    } else {
                        if order.kind == StepKind::Promote {
                            post.running = Some(order.epoch);
                        }
                        let by_chance = play.dice.as_mut().map_or(STEP_MS, |dice| 50 + dice.below(900));
                        let takes = self.step_takes_ms.unwrap_or(by_chance);
                        play.wishes.notes.push(Note::Began { ticket: id.clone(), order: order.clone() });
                        post.step = Some(Running { order, ends: now + takes });
                    }
                }
                Action::RunStop { .. } => {
                    let (file, lost) = (post.file, post.disk.may_run && post.running.is_some());
                    let ends = if lost { self.gate_stop_ends(file, play) } else { now };
                    if let Some(post) = self.posts.get_mut(id) {
                        post.stop = Some(ends);
                    }
                }
                Action::SyncNow => self.sync_now = true,
                Action::AskPeers { epoch, nonce } => play.wishes.asks.push((id.clone(), epoch, nonce)),
                Action::AnswerPromise(answer) if stored => play.wishes.promises.push(answer),
                Action::AnswerPromise(_) => {}
            }
        }
    }

    // Requests.

    /// The next request, if one is due.
    pub fn sync(&mut self, play: &mut Play) -> Option<GateSync> {
        let now = play.now;
        if !self.powered || self.paused || !self.agent_runs() || (now < self.next_sync && !self.sync_now) {
            return None;
        }
        if now >= self.next_sync {
            self.next_sync = now + self.timing.renew_ms;
        }
        self.sync_now = false;
        self.seq += 1;
        let seq = (u64::from(self.boots) << 32) + self.seq;
        let nonce = play.dice.as_mut().map_or_else(|| (seq << 8) + u64::from(self.mark), Dice::next);
        let mut request = Request {
            nonce,
            sent: self.clock(now),
            sent_real: now,
            reported: BTreeMap::new(),
            asked_alone: false,
            confirmed: false,
        };
        let mut tickets = Vec::with_capacity(self.posts.len());
        for (id, post) in &self.posts {
            let Some(machine) = &post.machine else { continue };
            request.asked_alone |= post.copy.wants_alone;
            let part = machine.sync_part(post.carries_data.then(|| post.facts()));
            request.reported.insert(id.clone(), part.reports.iter().map(|report| report.key.clone()).collect());
            tickets.push(part);
        }
        self.requests.push_back(request);
        if self.requests.len() > REQUESTS_MAX {
            self.requests.pop_front();
        }
        Some(GateSync { site: self.site, gate: self.gate.clone(), nonce, seq, tickets })
    }

    /// A confirmed answer.
    pub fn answered(&mut self, nonce: u64, index: u64, answers: &[TicketAnswer], play: &mut Play) {
        let Some(request) = self.requests.iter_mut().find(|request| request.nonce == nonce) else { return };
        if std::mem::replace(&mut request.confirmed, true) {
            return;
        }
        let request = request.clone();
        for answer in answers {
            let id = answer.ticket.clone();
            let Some(post) = self.posts.get_mut(&id) else { continue };
            if answer.peer_in_sync == Some(false) && request.asked_alone && post.running == Some(answer.epoch) {
                post.copy.alone = post.copy.wants_alone;
            }
            if play.bug == Some(Bug::LowerEpochAccepted) && answer.epoch < post.disk.epoch {
                self.accept_lower(&id, answer, play);
            }
            let reported = request.reported.get(&id).cloned().unwrap_or_default();
            let sent = if play.bug == Some(Bug::LeaseFromReceipt) { self.clock(play.now) } else { request.sent };
            let event = Event::Answered { sent, index, reported, answer: Box::new(answer.clone()) };
            self.feed(&id, event, Some(nonce), play);
        }
    }

    fn accept_lower(&mut self, id: &Id, answer: &TicketAnswer, play: &mut Play) {
        let (terms, clock) = (self.terms(id), self.clock(play.now));
        let Some(post) = self.posts.get_mut(id).filter(|post| !post.disk.may_run) else { return };
        let before = post.disk.clone();
        (post.disk.epoch, post.disk.holder, post.disk.closed) = (answer.epoch, answer.holder, false);
        let after = Box::new(post.disk.clone());
        play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
        post.machine = Some(Machine::new(terms, post.disk.clone(), None, clock));
    }

    /// The seeded bugs that forget a closed epoch.
    pub fn reopen(&mut self, id: &Id, play: &mut Play) {
        let Some(post) = self.posts.get_mut(id).filter(|post| post.disk.closed && !post.disk.may_run) else { return };
        let before = post.disk.clone();
        post.disk.closed = false;
        post.disk.writes += 1;
        let after = Box::new(post.disk.clone());
        play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
    }

    /// Local and real time at which a request was sent.
    #[must_use]
    pub fn sent(&self, nonce: u64) -> Option<(BootMs, u64)> {
        self.requests.iter().find(|request| request.nonce == nonce).map(|request| (request.sent, request.sent_real))
    }
}

impl Post {
    fn facts(&self) -> ServiceFacts {
        let role = if self.running.is_some() { CopyRole::Active } else { CopyRole::Standby };
        ServiceFacts {
            lineage: format!("l{}", self.copy.lineage),
            position: self.copy.position,
            role,
            peer_in_sync: self.copy.in_sync && !self.copy.wants_alone,
            wants_alone: self.copy.wants_alone,
            wish: 0,
        }
    }

    /// One write. With the standby: to both. Without: blocked until the log knows that this copy goes on alone.
    pub fn write(&mut self, together: bool) -> bool {
        if together {
            (self.copy.in_sync, self.copy.wants_alone, self.copy.alone) = (true, false, false);
        } else {
            if !self.copy.alone {
                self.copy.wants_alone = true;
                return false;
            }
            self.copy.in_sync = false;
        }
        self.copy.position += 1;
        true
    }
}
