//! One gate with its warden, its disk and its service.
//!
//! The machine is the shipped one. What its driver does with actions, what the warden does with the files, and how long a
//! program runs is played here, in the order of `agent/src/gate/driver.rs` and `agent/src/warden.rs`. Times of the world are
//! real milliseconds; the machine sees only its own clock, which runs at a rate of its own.

mod driver;
mod requests;
mod warden;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bcp_agent::gate::config::{GateTiming, Loss};
use bcp_agent::gate::machine::{Action, Event, FoundDeadline, Machine, Peer, Terms};
use bcp_agent::gate::record::{BootMs, Brief, Record};
use bcp_core::policy::Timing;
use bcp_wire::control::{CopyRole, PromiseAnswer, ServiceFacts, StepKind, StepOrder, StepOutcome};
use bcp_wire::{Epoch, Id, Site};

use crate::bug::Bug;
use crate::dice::Dice;

/// A script that has nothing to wait for.
const STEP_MS: u64 = 200;

/// What a gate and its warden keep their records on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disk {
    Fine,
    /// Takes nothing.
    Full,
    /// Takes what is written, and gives nothing back.
    Unreadable,
    /// Whoever asks it for anything waits.
    Hung,
}

/// What a gate was about to do when its disk hung.
#[derive(Debug, Clone, Hash)]
struct Stuck {
    actions: Vec<Action>,
    nonce: Option<u64>,
    sent: BootMs,
}

/// A program that carries out a step. It outlives its gate's process.
#[derive(Debug, Clone, Hash)]
pub struct Running {
    pub order: StepOrder,
    pub ends: u64,
}

#[derive(Debug, Clone, Hash)]
struct Request {
    nonce: u64,
    sent: BootMs,
    sent_real: u64,
    reported: BTreeMap<Id, Vec<String>>,
    /// Tickets whose service has still the wish to go on alone that it had then.
    asked_alone: BTreeSet<Id>,
    confirmed: bool,
}

/// The data of the service at this site.
#[derive(Debug, Clone, Hash, Default)]
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

impl Wishes {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty() && self.promises.is_empty() && self.notes.is_empty()
    }
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
    /// What a gate says of a ticket in a request, and how it is.
    Said {
        ticket: Id,
        renews: bool,
        has_trouble: bool,
        /// What it goes by is not on its disk.
        unsaved: bool,
        /// Its warden is at work, or has stopped the service.
        put_down: bool,
    },
}

/// One ticket's gate.
#[derive(Debug, Clone, Hash)]
pub struct Post {
    pub machine: Option<Machine>,
    pub disk: Record,
    /// The number of the record on the disk when the gate last looked or wrote.
    version: u64,
    /// The record's file has vanished; `disk` is empty then.
    pub gone: bool,
    /// What the warden reads of a lease, in memory.
    pub file: Option<FoundDeadline>,
    /// The same as the last boot left it; nobody may go by it.
    left_behind: Option<FoundDeadline>,
    /// What is there of the record; `None` before the first lease of a boot.
    brief: Option<Brief>,
    /// The warden's word to the gate.
    mark: bool,
    stuck: Option<Stuck>,
    /// The warden has stopped the service and tells the disk.
    puts_down: bool,
    /// What the warden stopped last.
    stopped: Option<(Option<FoundDeadline>, Brief)>,
    /// The warden works without the lock.
    unlocked: bool,
    /// The record as the warden read it last.
    warden_read: Record,
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

#[derive(Debug, Clone, Hash)]
pub struct Host {
    pub site: Site,
    pub gate: Id,
    /// Tells its nonces from those of others where there are no dice.
    mark: u8,
    /// Parts per thousand: 990 to 1010 is what the design allows.
    rate: u64,
    pub powered: bool,
    /// Agent process stopped (SIGSTOP): its warden and its programs go on.
    pub paused: bool,
    /// The whole machine stands still, since then.
    frozen: Option<u64>,
    /// When it went on.
    thawed: u64,
    pub disk: Disk,
    /// The directory in memory takes nothing.
    pub runtime_full: bool,
    /// Every stop hangs, and takes as long as it may.
    pub slow_stops: bool,
    /// Nothing stops the service, neither gate nor warden.
    pub stops_fail: bool,
    /// What a step takes, where it is not a matter of chance.
    pub step_takes_ms: Option<u64>,
    pub posts: BTreeMap<Id, Post>,
    peers: BTreeSet<Peer>,
    pub timing: Timing,
    pub failsafe: bool,
    /// A real moment, and what the clock showed then.
    since: (u64, u64),
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
            frozen: None,
            thawed: 0,
            disk: Disk::Fine,
            runtime_full: false,
            slow_stops: false,
            stops_fail: false,
            step_takes_ms: None,
            posts: BTreeMap::new(),
            peers,
            timing,
            failsafe: true,
            since: (0, 1),
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
                version: 0,
                gone: false,
                file: None,
                left_behind: None,
                brief: None,
                mark: false,
                stuck: None,
                puts_down: false,
                stopped: None,
                unlocked: false,
                warden_read: Record::default(),
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
        let (from, showed) = self.since;
        BootMs(showed + real.saturating_sub(from) * self.rate / 1_000)
    }

    /// The first real moment at which the clock shows `local`.
    #[must_use]
    pub fn real_of(&self, local: BootMs) -> u64 {
        let (from, showed) = self.since;
        match local.0.checked_sub(showed) {
            Some(ahead) => from + (ahead * 1_000).div_ceil(self.rate),
            // Long ago, at a pace that is not known any more: near enough for what is over.
            None => from.saturating_sub((showed - local.0) * 1_000 / self.rate),
        }
    }

    #[must_use]
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    /// The clock goes on from what it shows, at another pace: it never jumps.
    pub fn run_at(&mut self, rate: u64, now: u64) {
        self.since = (now, self.clock(now).0);
        self.rate = rate;
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
            loss: Loss::Stop,
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
        self.frozen.is_none() && post.running.is_some() && !over(post.stop) && !over(post.warden)
    }

    // Faults.

    pub fn kill_agent(&mut self) {
        for post in self.posts.values_mut() {
            (post.machine, post.stuck) = (None, None);
            post.pending.clear();
        }
        self.requests.clear();
        self.paused = false;
    }

    /// Of all tickets, for they share a process: it waits for its disk.
    #[must_use]
    pub fn hangs(&self) -> bool {
        self.posts.values().any(|post| post.stuck.is_some())
    }

    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Everything of the machine stops where it is: gate, warden, programs, service.
    pub fn freeze(&mut self, now: u64) {
        (self.frozen, self.paused) = (Some(now), true);
    }

    /// It goes on, and what it counts by has stood still meanwhile, or has not.
    pub fn thaw(&mut self, now: u64, clock_stood: bool) {
        let Some(since) = self.frozen.take() else { return };
        (self.paused, self.thawed) = (false, now);
        if !clock_stood {
            return;
        }
        self.since = (now, self.clock(since).0);
        for post in self.posts.values_mut() {
            let ends = post.step.as_mut().map(|step| &mut step.ends).into_iter();
            for at in ends.chain(&mut post.stop).chain(&mut post.warden) {
                *at += now - since;
            }
        }
    }

    /// A machine that stood still cannot stop anything before it goes on.
    #[must_use]
    pub const fn stop_begins_by(&self) -> u64 {
        self.thawed + self.timing.stop_max_ms
    }

    /// What ran is gone, and nobody was told.
    pub fn service_dies(&mut self) {
        for post in self.posts.values_mut() {
            post.running = None;
        }
    }

    /// Promotions and stops fail from here on, or end well again.
    pub fn steps_fail(&mut self, fail: bool) {
        for post in self.posts.values_mut() {
            post.force.clear();
            if fail {
                post.force.extend([StepKind::Promote, StepKind::Stop].map(|kind| (kind, StepOutcome::Failed)));
            }
        }
    }

    /// A record's file is deleted.
    pub fn lose_record(&mut self, ticket: &Id) {
        if let Some(post) = self.posts.get_mut(ticket) {
            (post.gone, post.disk) = (true, Record::default());
        }
    }

    pub fn start_agent(&mut self, play: &mut Play) {
        // It goes by nothing that it cannot read.
        if matches!(self.disk, Disk::Unreadable | Disk::Hung) {
            return;
        }
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
            let is_stopped = post.mark || post.brief.is_some_and(|brief| !brief.may_run);
            let mut found = post.file.filter(|_| !is_stopped);
            post.mark = false;
            let mut record = post.disk.clone();
            if post.gone && play.bug == Some(Bug::LostRecordIsNew) {
                post.gone = false;
            } else if post.gone {
                record = Record::lost(&terms.boot_id, clock, terms.timing.promise_ms());
                post.pending.push_back((Event::RecordLost { reason: "gone".to_owned() }, None));
            }
            if play.bug == Some(Bug::RestartLengthensLease) {
                found = found.map(|file| FoundDeadline { deadline: clock.plus(ttl), ..file });
            }
            if play.bug == Some(Bug::OldDeadlineRead) {
                found = found.or(post.left_behind);
            }
            let machine = Machine::new(terms, record, found, clock);
            let (found, taken) = (post.file.map(|file| file.deadline), machine.figures().deadline);
            play.wishes.notes.push(Note::Started { ticket: id, found, taken });
            post.version = post.disk.writes;
            post.machine = Some(machine);
        }
        // Gates do not ask in step.
        let after = play.dice.as_mut().map_or(0, |dice| dice.below(self.timing.renew_ms));
        self.next_sync = now + after;
    }

    pub fn power_off(&mut self) {
        self.kill_agent();
        self.powered = false;
        self.frozen = None;
        for post in self.posts.values_mut() {
            post.left_behind = post.file;
            (post.running, post.file, post.step, post.stop, post.warden) = (None, None, None, None, None);
            (post.noticed, post.brief, post.mark) = (None, None, false);
            (post.puts_down, post.stopped, post.unlocked) = (false, None, false);
        }
    }

    pub fn power_on(&mut self, play: &mut Play) {
        if self.powered {
            return;
        }
        (self.powered, self.since) = (true, (play.now, 1));
        self.boots += 1;
        for post in self.posts.values_mut() {
            (post.copy.in_sync, post.copy.alone, post.copy.wants_alone) = (false, false, false);
        }
        self.start_agent(play);
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
