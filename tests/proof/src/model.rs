//! Exhaustive search: every placement of at most so many faults within so many steps, over the shipped core and gates.
//!
//! A step is half a second in which everything does its usual part; between two steps any fault may happen, as long as there
//! are faults left. Stops take as long as they may, clocks drift as far as they may. The timing is a small one with the
//! least margin that a policy may have. States are told apart by a hash of everything that later behaviour depends on.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use bcp_core::failover::decide::Cause;
use bcp_core::failover::{Guard, TicketCommand};
use bcp_core::policy::Timing;
use bcp_wire::Site;
use stateright::{Checker, Model, Property};

use crate::bug::Bug;
use crate::digest::Digest;
use crate::host::{Disk, Host};
use crate::invariants::Breach;
use crate::world::{World, at, passive, policy, rx};

/// The smallest timing in whole steps that the load check lets through: 4,581 ms must be below 4,600 ms.
pub const TIMING: Timing = Timing {
    tick_ms: 500,
    election_min_ms: 1_500,
    election_max_ms: 3_000,
    renew_ms: 1_000,
    ttl_holder_ms: 3_000,
    ttl_ms: 3_000,
    acquire_after_ms: 1_600,
    stop_max_ms: 1_000,
};
const STEP_MS: u64 = 500;

/// How much is explored.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub faults: u8,
    pub steps: u16,
}

/// The model; `bug` for the searches that must find something.
#[derive(Debug, Clone)]
pub struct Failover {
    pub bounds: Bounds,
    pub bug: Option<Bug>,
}

#[derive(Debug, Clone)]
pub struct State {
    pub world: World,
    faults: u8,
    steps: u16,
    digest: u64,
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        self.digest == other.digest
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.digest.hash(hasher);
    }
}

/// What may happen between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Step,
    Isolate(Site),
    CutOneWay(Site, Site),
    Heal,
    PowerOff(Site),
    PowerOn(Site),
    KillAgent(Site),
    StartAgent(Site),
    Pause(Site),
    Resume(Site),
    StopDecider(Site),
    StartDecider(Site),
    FreezeDecider(Site),
    ThawDecider(Site),
    /// What the gate and the warden of a site keep their records on.
    Disk(Site, Disk),
    LoseRecord(Site),
    ServiceDies(Site),
    /// Its promotions and stops fail from here on, or end well again.
    StepsFail(Site, bool),
    ChangeLeader,
    StallLeader,
    HoldRequest(Site),
    HoldAnswer(Site),
    Release,
    Repeat,
    Move(Site),
    Abort,
    Freeze,
    Unfreeze,
    /// Two operators, one after the other.
    Force(Site),
}

fn digest(world: &World, faults: u8, steps: u16) -> u64 {
    let mut digest = Digest::default();
    (faults, steps).hash(&mut digest);
    world.digest(&mut digest);
    digest.finish()
}

fn gate_of(world: &World, site: Site) -> Option<usize> {
    world.hosts.iter().position(|host| host.site == site)
}

impl Failover {
    fn settled(&self, gate_rate: u64, log_rate: u64) -> World {
        let mut world = World::new(policy(TIMING, &[("rx", passive())]), STEP_MS, None, self.bug);
        for host in &mut world.hosts {
            host.run_at(gate_rate, 0);
        }
        for decider in &mut world.deciders {
            decider.rate = log_rate;
        }
        let settled = |world: &World| {
            let ticket = world.ticket();
            let in_sync = ticket.and_then(|ticket| ticket.latch.as_ref()).and_then(|latch| latch.in_sync);
            world.active(&rx()) == [Site::A] && in_sync == Some(true) && ticket.is_some_and(|t| t.moving.is_none())
        };
        world.run_until(60_000, settled);
        // The watch of the deciders settles as well.
        world.run(6_000);
        world
    }

    fn disk_and_service(world: &World, host: &Host, acts: &mut Vec<Act>) {
        let site = host.site;
        match host.disk {
            Disk::Fine => acts.extend([Disk::Full, Disk::Hung, Disk::Unreadable].map(|disk| Act::Disk(site, disk))),
            Disk::Full | Disk::Hung | Disk::Unreadable => acts.push(Act::Disk(site, Disk::Fine)),
        }
        let Some(post) = host.posts.get(&rx()) else { return };
        if !post.gone {
            acts.push(Act::LoseRecord(site));
        }
        if host.runs(&rx(), world.now()) {
            acts.push(Act::ServiceDies(site));
        }
        acts.push(Act::StepsFail(site, post.force.is_empty()));
    }

    fn faults(world: &World, acts: &mut Vec<Act>) {
        let any_cut = world.cut.iter().flatten().any(|cut| *cut);
        for site in Site::ALL {
            if !any_cut {
                acts.push(Act::Isolate(site));
                acts.extend(site.others().iter().map(|other| Act::CutOneWay(site, *other)));
            }
            let decider = &world.deciders[at(site)];
            match (decider.up, decider.frozen) {
                (false, _) => acts.push(Act::StartDecider(site)),
                (true, false) => acts.extend([Act::StopDecider(site), Act::FreezeDecider(site)]),
                (true, true) => acts.extend([Act::StopDecider(site), Act::ThawDecider(site)]),
            }
        }
        if any_cut {
            acts.push(Act::Heal);
        }
        for site in [Site::A, Site::B] {
            let Some(host) = gate_of(world, site).map(|n| &world.hosts[n]) else { continue };
            if !host.powered {
                acts.push(Act::PowerOn(site));
                continue;
            }
            acts.push(Act::PowerOff(site));
            Failover::disk_and_service(world, host, acts);
            if !host.agent_runs() {
                acts.push(Act::StartAgent(site));
                continue;
            }
            acts.extend([Act::KillAgent(site), Act::HoldRequest(site), Act::HoldAnswer(site)]);
            acts.push(if host.paused { Act::Resume(site) } else { Act::Pause(site) });
        }
        acts.extend([Act::ChangeLeader, Act::StallLeader, Act::Move(Site::B), Act::Move(Site::A), Act::Abort]);
        let frozen = world.ticket().is_some_and(|ticket| ticket.frozen.is_some());
        acts.push(if frozen { Act::Unfreeze } else { Act::Freeze });
        // Refused where nothing has to be forced: that is no other state than an order that does nothing.
        if world.in_sync() != Some(true) {
            acts.extend([Act::Force(Site::B), Act::Force(Site::A)]);
        }
        if !world.held.is_empty() {
            acts.extend([Act::Release, Act::Repeat]);
        }
    }
}

fn happen(world: &mut World, act: Act) {
    let reason = || "model".to_owned();
    match act {
        Act::Step => world.step(),
        Act::Isolate(site) => world.isolate(site),
        Act::CutOneWay(from, to) => world.cut_one_way(from, to),
        Act::Heal => world.heal(),
        Act::PowerOff(site) => world.power_off(site),
        Act::PowerOn(site) => world.power_on(site),
        Act::KillAgent(site) => world.kill_agents(site),
        Act::StartAgent(site) => world.start_agents(site),
        Act::Pause(site) => world.pause_agents(site, true),
        Act::Resume(site) => world.pause_agents(site, false),
        Act::StopDecider(site) => world.stop_decider(site),
        Act::StartDecider(site) => world.start_decider(site),
        Act::FreezeDecider(site) => world.freeze_decider(site),
        Act::ThawDecider(site) => world.thaw_decider(site),
        Act::Disk(site, disk) => world.each_host(site, |host, _| host.disk = disk),
        Act::LoseRecord(site) => world.each_host(site, |host, _| host.lose_record(&rx())),
        Act::ServiceDies(site) => world.each_host(site, |host, _| host.service_dies()),
        Act::StepsFail(site, fail) => world.each_host(site, |host, _| host.steps_fail(fail)),
        Act::ChangeLeader => world.change_leader(),
        Act::StallLeader => world.stalled_until = world.now() + 2_000,
        Act::HoldRequest(site) => world.hold_back(gate_of(world, site).unwrap_or(0), false),
        Act::HoldAnswer(site) => world.hold_back(gate_of(world, site).unwrap_or(0), true),
        Act::Release => world.release(0, false),
        Act::Repeat => world.release(0, true),
        Act::Move(to) => {
            world.command("rx", TicketCommand::Move { to, reason: reason(), expect: None });
        }
        Act::Abort => {
            world.command("rx", TicketCommand::Abort { reason: reason(), expect: None });
        }
        Act::Freeze => {
            world.command("rx", TicketCommand::Freeze { reason: reason(), for_ms: 3_000, expect: None });
        }
        Act::Unfreeze => {
            world.command("rx", TicketCommand::Unfreeze { reason: reason(), expect: None });
        }
        Act::Force(to) => {
            for operator in ["op-1", "op-2"] {
                let order = TicketCommand::Force { to, guard: Guard::Freshness, reason: reason(), expect: None };
                world.command_by(operator, "rx", order);
            }
        }
    }
}

impl Model for Failover {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        // The gate's clock as slow as it may be and the log's as fast, and the other way round.
        [(990, 1_010), (1_010, 990)]
            .into_iter()
            .map(|(gate, log)| {
                let world = self.settled(gate, log);
                let digest = digest(&world, 0, 0);
                State { world, faults: 0, steps: 0, digest }
            })
            .collect()
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        if state.steps >= self.bounds.steps || !state.world.invariants.breaches.is_empty() {
            return;
        }
        acts.push(Act::Step);
        // A fault in the last moments changes nothing that is seen.
        if state.faults < self.bounds.faults && state.steps + 4 < self.bounds.steps {
            Failover::faults(&state.world, acts);
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        let mut next = last.clone();
        happen(&mut next.world, act);
        next.world.forget_what_is_only_told();
        match act {
            Act::Step => next.steps += 1,
            _ => next.faults += 1,
        }
        next.digest = digest(&next.world, next.faults, next.steps);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            always("I1 one active side", |_, state| holds(state, 1)),
            always("I2 no way back", |_, state| holds(state, 2)),
            always("I3 epochs grow", |_, state| holds(state, 3)),
            always("I4 one holder", |_, state| holds(state, 4)),
            always("I5 w holds nothing", |_, state| holds(state, 5)),
            always("I6 waited out", |_, state| holds(state, 6)),
            always("I7 renewed by right", |_, state| holds(state, 7)),
            always("I8 only in sync", |_, state| holds(state, 8)),
            always("I9 sync is true", |_, state| holds(state, 9)),
            always("I10 sealed first", |_, state| holds(state, 10)),
            always("I11 once each", |_, state| holds(state, 11)),
            always("I13 frozen stays", |_, state| holds(state, 13)),
            always("I14 budget", |_, state| holds(state, 14)),
            always("I16 lease by right", |_, state| holds(state, 16)),
            always("I17 restart takes nothing", |_, state| holds(state, 17)),
            always("I20 log time is slow", |_, state| holds(state, 20)),
            always("I21 two witnesses", |_, state| holds(state, 21)),
            always("I22 orders compare", |_, state| holds(state, 22)),
            always("I24 an honest word", |_, state| holds(state, 24)),
        ];
        all.push(Property::sometimes("the other side takes over", |_, state: &State| {
            state.world.active(&rx()) == [Site::B]
        }));
        all.push(Property::sometimes("the failsafe keeps a service", |_, state: &State| state.world.failsafe_used));
        all.push(Property::sometimes("the loss action stops a service", |_, state: &State| state.world.stops > 0));
        all.push(Property::sometimes("a gate rejects an order", |_, state: &State| state.world.rejected));
        all.push(Property::sometimes("two people force a stale side", |_, state: &State| {
            let forced = state.world.ticket().is_some_and(|ticket| {
                let now = ticket.moving.iter().map(|moving| &moving.cause);
                let before = ticket.history.iter().map(|moved| &moved.cause);
                now.chain(before).any(|cause| matches!(cause, Cause::Forced { .. }))
            });
            forced && state.world.active(&rx()) == [Site::B]
        }));
        all
    }
}

fn holds(state: &State, number: u8) -> bool {
    !state.world.invariants.broken(number)
}

fn always(name: &'static str, condition: fn(&Failover, &State) -> bool) -> Property<Failover> {
    Property::always(name, condition)
}

/// What a search came to.
#[derive(Debug)]
pub struct Explored {
    pub bounds: Bounds,
    pub unique: usize,
    pub all: usize,
    pub depth: usize,
    pub took: Duration,
    /// Names of what happened sometimes.
    pub seen: Vec<&'static str>,
    /// An invariant, what is wrong, and the way there.
    pub broken: Vec<(&'static str, Vec<Breach>, Vec<Act>)>,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { bounds: Bounds { faults, steps }, unique, all, depth, .. } = self;
        let (seconds, violations) = (self.took.as_secs_f64(), self.broken.len());
        writeln!(
            f,
            "model: {faults} faults in {steps} steps: {unique} unique states of {all}, depth {depth}, {seconds:.1} s, \
             {violations} violations"
        )?;
        write!(f, "  seen: {}", self.seen.join("; "))?;
        for (name, breaches, way) in &self.broken {
            write!(f, "\n{name}: {breaches:#?}\nby {way:?}")?;
        }
        Ok(())
    }
}

/// Searches all of it, on all processors.
#[must_use]
pub fn explore(model: Failover) -> Explored {
    let (began, bounds) = (Instant::now(), model.bounds);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let checker = model.checker().threads(threads).spawn_dfs().join();
    let (mut seen, mut broken) = (Vec::new(), Vec::new());
    for (name, path) in checker.discoveries() {
        if name.starts_with('I') {
            let breaches = path.last_state().world.invariants.breaches.clone();
            broken.push((name, breaches, path.into_actions()));
        } else {
            seen.push(name);
        }
    }
    seen.sort_unstable();
    let (unique, all, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    Explored { bounds, unique, all, depth, took: began.elapsed(), seen, broken }
}
