//! Seeded random runs: faults of every kind at random moments, then repair, then somebody must serve.
//!
//! The same seed gives the same run, byte for byte: there is one source of chance, and no map without an order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bcp_core::failover::{Guard, TicketCommand};
use bcp_core::policy::{Mode, Policy, Rpo, TicketPolicy, Timing};
use bcp_wire::Site;
use bcp_wire::control::{StepKind, StepOutcome};

use crate::bug::Bug;
use crate::dice::Dice;
use crate::host::Disk;
use crate::invariants::{Breach, i15};
use crate::totals::Figures;
use crate::world::{Journal, World, at, id, passive, policy, rx, two_gates};

/// Length of a step of a simulation.
pub const STEP_MS: u64 = 50;
/// Longest pause between two faults.
const BETWEEN_MS: u64 = 25_000;

/// What came of one run.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub simulated_ms: u64,
    pub faults: u64,
    /// The same by their kinds.
    pub by_kind: BTreeMap<&'static str, u64>,
    /// How often the service went to another site.
    pub moves: u64,
    pub seen: BTreeMap<&'static str, u64>,
    pub lines: Vec<String>,
    pub breach: Option<Breach>,
    /// Liveness: what did not come about once everything was repaired.
    pub stands_still: Option<String>,
}

/// The policy of a seed: every kind comes up.
fn setting(dice: &mut Dice) -> Policy {
    let timing =
        [Timing::METRO, Timing::METRO, Timing::WIDE, Timing::FAST][usize::try_from(dice.below(4)).unwrap_or(0)];
    let base = if dice.percent(40) { two_gates() } else { passive() };
    let rpo = if dice.percent(75) { Rpo::Zero } else { Rpo::Availability };
    let cooldown_ms = if dice.percent(50) { 0 } else { 3_600_000 };
    let mode = match dice.below(10) {
        0 => Mode::Confirm,
        1 => Mode::Observe,
        2 => Mode::Off,
        _ => Mode::Auto,
    };
    let rule = TicketPolicy { rpo, cooldown_ms, mode, ..base };
    if dice.percent(30) {
        let first = TicketPolicy { mode: Mode::Auto, ..rule.clone() };
        let after = TicketPolicy { depends_on: vec![id("zz")], ..rule };
        return policy(timing, &[("rx", after), ("zz", first)]);
    }
    policy(timing, &[("rx", rule)])
}

fn any_site(dice: &mut Dice) -> Site {
    Site::ALL[usize::try_from(dice.below(3)).unwrap_or(0)]
}

fn serving_site(dice: &mut Dice) -> Site {
    if dice.percent(50) { Site::A } else { Site::B }
}

/// One random fault, repair or command; its name for the log.
fn strike(world: &mut World, dice: &mut Dice) -> String {
    let (site, serving) = (any_site(dice), serving_site(dice));
    let other = site.others()[usize::try_from(dice.below(2)).unwrap_or(0)];
    let reason = || "simulation".to_owned();
    match dice.below(46) {
        0..=2 => {
            world.cut(site, other);
            format!("cut {site}-{other}")
        }
        3..=4 => {
            world.cut_one_way(site, other);
            format!("cut {site}->{other}")
        }
        5..=7 => {
            world.isolate(site);
            format!("isolate {site}")
        }
        8..=11 => {
            world.heal();
            "heal".to_owned()
        }
        12..=13 => {
            world.power_off(serving);
            format!("power off {serving}")
        }
        14..=16 => {
            world.power_on(serving);
            format!("power on {serving}")
        }
        17 => {
            world.kill_agents(serving);
            format!("kill agents {serving}")
        }
        18..=19 => {
            world.start_agents(serving);
            format!("start agents {serving}")
        }
        20 => {
            world.kill_agents(serving);
            world.start_agents(serving);
            format!("restart agents {serving}")
        }
        21 => {
            world.pause_agents(serving, true);
            format!("pause agents {serving}")
        }
        22..=23 => {
            world.pause_agents(serving, false);
            format!("resume agents {serving}")
        }
        24 => {
            world.stop_decider(site);
            format!("stop decide {site}")
        }
        25..=26 => {
            world.start_decider(site);
            format!("start decide {site}")
        }
        27 => {
            world.freeze_decider(site);
            format!("freeze decide {site}")
        }
        28 => {
            for site in Site::ALL {
                world.thaw_decider(site);
            }
            "thaw decide".to_owned()
        }
        29 => {
            world.change_leader();
            "depose the leader".to_owned()
        }
        30 => {
            world.stalled_until = world.now() + dice.below(2_500);
            "stall the leader".to_owned()
        }
        _ => trouble(world, dice, (site, serving), &reason),
    }
}

fn trouble(world: &mut World, dice: &mut Dice, (site, serving): (Site, Site), reason: &impl Fn() -> String) -> String {
    let hosts = world.hosts.len() as u64;
    let gate = usize::try_from(dice.below(hosts)).unwrap_or(0);
    match dice.below(16) {
        0 => {
            world.loss_percent = dice.below(50);
            format!("lose {} %", world.loss_percent)
        }
        1 => {
            world.repeat_percent = dice.below(30);
            format!("repeat {} %", world.repeat_percent)
        }
        2 => {
            world.max_delay_ms = [40, 500, 3_000][usize::try_from(dice.below(3)).unwrap_or(0)];
            format!("delay up to {} ms", world.max_delay_ms)
        }
        3 => {
            world.hold_back(gate, dice.percent(50));
            format!("hold back a message of gate {gate}")
        }
        4 => {
            world.release(0, dice.percent(50));
            "a held message arrives".to_owned()
        }
        5 => {
            let (rate, now) = (990 + dice.below(21), world.now());
            world.hosts[gate].run_at(rate, now);
            format!("gate {gate} runs at {rate}")
        }
        6 => {
            world.deciders[at(site)].rate = 990 + dice.below(21);
            format!("decide {site} runs at {}", world.deciders[at(site)].rate)
        }
        7 => {
            world.wall_offset_ms += if dice.percent(50) { 3_600_000 } else { -3_600_000 };
            "the wall clock jumps".to_owned()
        }
        8 => {
            world.hosts[gate].slow_stops = dice.percent(70);
            "stops are slow, or quick".to_owned()
        }
        9 => {
            let up = dice.percent(60);
            world.deciders[at(site)].serve_up = up;
            format!("serve {site} {}", if up { "up" } else { "down" })
        }
        10 => {
            let host = &mut world.hosts[gate];
            host.disk = [Disk::Full, Disk::Full, Disk::Hung, Disk::Unreadable, Disk::Fine, Disk::Fine]
                [usize::try_from(dice.below(6)).unwrap_or(0)];
            host.runtime_full = dice.percent(15);
            let told = format!("disk of gate {gate}: {:?}, in memory full: {}", host.disk, host.runtime_full);
            if dice.percent(10) {
                host.lose_record(&rx());
                return format!("{told}; its record vanishes");
            }
            told
        }
        11 => {
            world.each_host(serving, |host, _| host.service_dies());
            format!("the service dies at {serving}")
        }
        12 => {
            let kind = [StepKind::Stop, StepKind::Seal, StepKind::Promote, StepKind::Publish, StepKind::Follow]
                [usize::try_from(dice.below(5)).unwrap_or(0)];
            let outcome = if dice.percent(50) { StepOutcome::Failed } else { StepOutcome::Vetoed };
            let forced = dice.percent(40);
            for post in world.hosts[gate].posts.values_mut() {
                post.force.clear();
                if forced {
                    post.force.insert(kind, outcome);
                }
            }
            format!("gate {gate}: {} ends as it should: {}", kind.as_str(), !forced)
        }
        _ => command(world, dice, serving, reason),
    }
}

fn command(world: &mut World, dice: &mut Dice, to: Site, reason: &impl Fn() -> String) -> String {
    let now = world.ticket().map(|ticket| (ticket.epoch, ticket.revision));
    // Given on purpose without looking, on what is, or on an older page.
    let expect = match dice.below(3) {
        0 => None,
        1 => now,
        _ => now.map(|(epoch, revision)| (epoch, revision.saturating_sub(1 + dice.below(3)))),
    };
    let (operator, other) = if dice.percent(50) { ("op-1", "op-2") } else { ("op-2", "op-1") };
    let command = match dice.below(7) {
        6 => TicketCommand::Force { to, guard: Guard::Freshness, reason: reason(), expect },
        0..=1 => TicketCommand::Move { to, reason: reason(), expect },
        2 => TicketCommand::Abort { reason: reason(), expect },
        3 => TicketCommand::Freeze { reason: reason(), for_ms: 30_000, expect },
        4 => TicketCommand::Unfreeze { reason: reason(), expect },
        _ => match now {
            Some((epoch, _)) => TicketCommand::Confirm { epoch, expect },
            None => return "nothing to confirm".to_owned(),
        },
    };
    let mut told = format!("command of {operator}: {command:?}");
    if matches!(command, TicketCommand::Force { .. }) && dice.percent(70) {
        told.push_str(&format!(", and of {other}"));
        world.command_by(operator, "rx", command.clone());
        world.command_by(other, "rx", command);
        return told;
    }
    world.command_by(operator, "rx", command);
    told
}

/// One run of a seed.
#[must_use]
pub fn run(seed: u64, faults: u64, bug: Option<Bug>) -> Outcome {
    let mut dice = Dice::new(seed ^ 0x5EED);
    let believed = setting(&mut dice);
    let auto = believed.tickets[&rx()].mode == Mode::Auto;
    // It begins in mode auto, so that there is a holder.
    let mut start = believed.clone();
    for rule in start.tickets.values_mut() {
        rule.mode = Mode::Auto;
    }
    let mut world = World::new(start, STEP_MS, Some(seed), bug);
    world.journal = Some(Journal { keep_ticks: bug.is_none(), ..Journal::default() });
    world.max_delay_ms = 40;
    world.run(30_000);
    world.policy = believed.clone();
    world.run(1_000);
    world.believed = believed;
    let (mut struck, mut by_kind) = (0, BTreeMap::new());
    while struck < faults && world.invariants.breaches.is_empty() {
        let told = strike(&mut world, &mut dice);
        world.say(&told);
        struck += 1;
        *by_kind.entry(kind(&told)).or_default() += 1;
        // Faults come alone or in bursts.
        let pause = if dice.percent(30) { dice.below(1_000) } else { dice.below(BETWEEN_MS) };
        world.run(pause);
    }
    let stands_still = if world.invariants.breaches.is_empty() { recovers(&mut world, auto) } else { None };
    if bug.is_none()
        && world.invariants.breaches.is_empty()
        && let Some(journal) = &world.journal
        && let Err(what) = i15::replays(&journal.ticks, &world.replica)
    {
        world.invariants.breaches.push(Breach { number: 15, at: world.now(), what });
    }
    Outcome {
        seed,
        simulated_ms: world.now(),
        faults: struck,
        by_kind,
        moves: world.moves,
        seen: std::mem::take(&mut world.seen),
        breach: world.invariants.breaches.first().cloned(),
        lines: world.journal.take().map(|journal| journal.lines).unwrap_or_default(),
        stands_still,
    }
}

/// Everything is repaired: sagas end (L3), and a permitted ticket has a holder (L1) or says why not.
fn recovers(world: &mut World, auto: bool) -> Option<String> {
    world.say("everything is repaired");
    world.heal();
    (world.loss_percent, world.repeat_percent, world.max_delay_ms) = (0, 0, 40);
    world.hold.clear();
    for host in &mut world.hosts {
        (host.disk, host.runtime_full) = (Disk::Fine, false);
    }
    for site in Site::ALL {
        world.deciders[at(site)].serve_up = true;
        world.power_on(site);
        world.start_decider(site);
        world.thaw_decider(site);
        world.start_agents(site);
        world.pause_agents(site, false);
    }
    for host in &mut world.hosts {
        host.slow_stops = false;
        for post in host.posts.values_mut() {
            post.force.clear();
        }
    }
    world.command("rx", TicketCommand::Unfreeze { reason: "repaired".to_owned(), expect: None });
    let rests = |world: &World| world.replica.failover.tickets.values().all(|ticket| ticket.moving.is_none());
    world.run_until(180_000, rests);
    if world.invariants.breaches.is_empty() && !rests(world) {
        return Some("L3: a move has no end".to_owned());
    }
    world.command("rx", TicketCommand::Unfreeze { reason: "repaired".to_owned(), expect: None });
    let served = world.run_until(180_000, |world| rests(world) && !world.active(&rx()).is_empty());
    let excused = world.replica.failover.tickets.values().any(|ticket| {
        use bcp_core::failover::ticket::MoveOutcome::Stuck;
        ticket.frozen.is_some() || ticket.history.last().is_some_and(|last| last.outcome == Stuck)
    });
    let withheld = world.told("was not moved although") > 0;
    if !auto || served.is_some() || excused || withheld || !world.invariants.breaches.is_empty() {
        return None;
    }
    Some(format!("L1: nobody serves: {:#?}", world.ticket()))
}

/// Kinds of what can be struck, and how their names in the log begin.
const KINDS: [(&str, &[&str]); 12] = [
    ("links cut", &["cut ", "isolate "]),
    ("links healed", &["heal"]),
    ("power", &["power "]),
    ("agents killed or started", &["kill agents", "start agents", "restart agents"]),
    ("agents paused or resumed", &["pause agents", "resume agents"]),
    ("decide or serve stopped or started", &["stop decide", "start decide", "serve "]),
    ("decide frozen or thawed", &["freeze decide", "thaw decide"]),
    ("leaders deposed or stalled", &["depose", "stall"]),
    ("loss, delay, repetition", &["lose ", "repeat ", "delay ", "hold back", "a held message"]),
    ("clocks", &["runs at", "the wall clock"]),
    ("disks, programs, services", &["disk of", "stops are", "the service dies", " ends as it should"]),
    ("orders", &["command of", "nothing to confirm"]),
];

fn kind(told: &str) -> &'static str {
    let of = |names: &[&str]| names.iter().any(|name| told.starts_with(name) || told.contains(name));
    KINDS.iter().find(|(_, names)| of(names)).map_or("other", |(kind, _)| kind)
}

/// Plays seeds on all processors, until one of them fails. In the order of the seeds.
#[must_use]
pub fn sweep(seeds: &Range<u64>, faults: u64) -> (Vec<Outcome>, Option<Outcome>) {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(None));
    let fine = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let mut outcome = run(seed, faults, None);
                    if outcome.breach.is_some() || outcome.stands_still.is_some() {
                        next.store(seeds.end, Ordering::Relaxed);
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                        return;
                    }
                    outcome.lines.clear();
                    fine.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut fine: Vec<Outcome> = fine.into_inner().unwrap_or_else(PoisonError::into_inner);
    fine.sort_by_key(|outcome| outcome.seed);
    (fine, failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What a sweep came to, and how often each kind of fault and each thing worth seeing happened.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> (Figures, BTreeMap<&'static str, u64>, BTreeMap<&'static str, u64>) {
    let mut figures = Figures::default();
    let (mut kinds, mut seen) = (BTreeMap::new(), BTreeMap::new());
    for outcome in outcomes {
        let Outcome { simulated_ms, faults, moves, .. } = *outcome;
        figures += Figures { seeds: 1, simulated_ms, faults, moves };
        for (from, to) in [(&outcome.by_kind, &mut kinds), (&outcome.seen, &mut seen)] {
            for (what, count) in from {
                *to.entry(*what).or_default() += count;
            }
        }
    }
    (figures, kinds, seen)
}
