//! Random sequences of faults and commands: whatever happens, the invariants hold, and once faults stop somebody serves.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::BTreeMap;

use bcp_core::failover::TicketCommand;
use bcp_core::policy::{Mode, Rpo, TicketPolicy};
use bcp_wire::Site;
use bcp_wire::control::{StepKind, StepOutcome};
use proptest::prelude::*;
use proptest::strategy::{Strategy, ValueTree};
use world::{World, invariants, passive, policy};

#[derive(Debug, Clone)]
enum Op {
    Cut(Site, Site),
    CutOneWay(Site, Site),
    Isolate(Site),
    Heal,
    Kill(Site),
    Start(Site),
    StopDecider(Site),
    StartDecider(Site),
    ChangeLeader,
    Pause(Site),
    Resume(Site),
    Loss(u64),
    Delay(u64),
    Rate(Site, u64),
    Move(Site),
    Abort,
    Freeze,
    Unfreeze,
    Confirm,
    ServiceDies(Site),
    Force(Site, StepKind, StepOutcome),
    Unforce(Site),
    Timing(bool),
}

fn site() -> impl Strategy<Value = Site> {
    prop_oneof![Just(Site::A), Just(Site::B), Just(Site::W)]
}

fn serving_site() -> impl Strategy<Value = Site> {
    prop_oneof![Just(Site::A), Just(Site::B)]
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        Just(StepKind::Stop),
        Just(StepKind::Seal),
        Just(StepKind::Promote),
        Just(StepKind::Publish),
        Just(StepKind::Follow)
    ];
    let outcome = prop_oneof![Just(StepOutcome::Failed), Just(StepOutcome::Vetoed), Just(StepOutcome::Rejected)];
    prop_oneof![
        3 => (site(), site()).prop_map(|(x, y)| Op::Cut(x, y)),
        3 => (site(), site()).prop_map(|(x, y)| Op::CutOneWay(x, y)),
        3 => site().prop_map(Op::Isolate),
        5 => Just(Op::Heal),
        3 => serving_site().prop_map(Op::Kill),
        5 => site().prop_map(Op::Start),
        2 => site().prop_map(Op::StopDecider),
        3 => site().prop_map(Op::StartDecider),
        3 => Just(Op::ChangeLeader),
        2 => serving_site().prop_map(Op::Pause),
        3 => serving_site().prop_map(Op::Resume),
        2 => (0_u64..60).prop_map(Op::Loss),
        2 => prop_oneof![Just(40_u64), Just(500), Just(5_000)].prop_map(Op::Delay),
        1 => (serving_site(), 992_u64..1_009).prop_map(|(site, rate)| Op::Rate(site, rate)),
        4 => serving_site().prop_map(Op::Move),
        2 => Just(Op::Abort),
        1 => Just(Op::Freeze),
        1 => Just(Op::Unfreeze),
        1 => Just(Op::Confirm),
        2 => serving_site().prop_map(Op::ServiceDies),
        2 => (serving_site(), kind, outcome).prop_map(|(site, kind, outcome)| Op::Force(site, kind, outcome)),
        2 => serving_site().prop_map(Op::Unforce),
        1 => any::<bool>().prop_map(Op::Timing),
    ]
}

fn apply(world: &mut World, op: &Op) {
    match op {
        Op::Cut(x, y) => world.cut(*x, *y),
        Op::CutOneWay(x, y) => world.cut_one_way(*x, *y),
        Op::Isolate(site) => world.isolate(*site),
        Op::Heal => world.heal(),
        Op::Kill(site) => world.kill(*site),
        Op::Start(site) => world.start(*site),
        Op::StopDecider(site) => world.stop_decider(*site),
        Op::StartDecider(site) => world.start_decider(*site),
        Op::ChangeLeader => world.change_leader(),
        Op::Pause(site) => gate(world, *site, |gate| gate.paused = true),
        Op::Resume(site) => gate(world, *site, |gate| gate.paused = false),
        Op::Loss(percent) => world.loss_percent = *percent,
        Op::Delay(ms) => world.max_delay_ms = *ms,
        Op::Rate(site, rate) => gate(world, *site, |gate| gate.rate = *rate),
        Op::Move(to) => {
            world.command(TicketCommand::Move { to: *to, reason: "test".into(), expect: None });
        }
        Op::Abort => {
            world.command(TicketCommand::Abort { reason: "test".into(), expect: None });
        }
        Op::Freeze => {
            world.command(TicketCommand::Freeze { reason: "test".into(), for_ms: 30_000, expect: None });
        }
        Op::Unfreeze => {
            world.command(TicketCommand::Unfreeze { reason: "test".into(), expect: None });
        }
        Op::Confirm => {
            let epoch = world.ticket().epoch;
            world.command(TicketCommand::Confirm { epoch, expect: None });
        }
        Op::ServiceDies(site) => gate(world, *site, |gate| gate.running = None),
        Op::Force(site, kind, outcome) => gate(world, *site, |gate| {
            gate.force.insert(*kind, *outcome);
        }),
        Op::Unforce(site) => gate(world, *site, |gate| gate.force.clear()),
        Op::Timing(wide) => {
            world.policy.timing = if *wide { bcp_core::policy::Timing::WIDE } else { bcp_core::policy::Timing::METRO };
        }
    }
}

fn gate(world: &mut World, site: Site, act: impl FnOnce(&mut world::gate::Gate)) {
    if let Some(gate) = world.gates.get_mut(&site) {
        act(gate);
    }
}

fn ticket() -> impl Strategy<Value = TicketPolicy> {
    let mode =
        prop_oneof![6 => Just(Mode::Auto), 1 => Just(Mode::Confirm), 1 => Just(Mode::Off), 1 => Just(Mode::Observe)];
    let rpo = prop_oneof![3 => Just(Rpo::Zero), 1 => Just(Rpo::Availability)];
    (mode, rpo, prop_oneof![Just(0_u64), Just(3_600_000)]).prop_map(|(mode, rpo, cooldown_ms)| TicketPolicy {
        mode,
        rpo,
        cooldown_ms,
        ..passive()
    })
}

/// Everything is repaired: L1, a permitted ticket has a holder within 30 s (and its step limits), and L3, sagas end.
fn recovers(world: &mut World, auto: bool) {
    world.heal();
    (world.loss_percent, world.max_delay_ms) = (0, 40);
    for site in Site::ALL {
        world.start(site);
        gate(world, site, |gate| {
            gate.force.clear();
            (gate.paused, gate.rate) = (false, 1_000);
        });
    }
    world.command(TicketCommand::Unfreeze { reason: "repaired".into(), expect: None });
    let ended = world.run_until(150_000, |w| w.ticket().moving.is_none());
    assert!(ended.is_some(), "L3: a move has no end: {:#?}", world.ticket());
    world.command(TicketCommand::Unfreeze { reason: "repaired".into(), expect: None });
    let held = world.run_until(150_000, |w| w.ticket().moving.is_none() && !w.active().is_empty());
    let blocked = world.ticket().frozen.is_some()
        || world.ticket().history.last().is_some_and(|l| l.outcome == bcp_core::failover::ticket::MoveOutcome::Stuck);
    let withheld = world.told("was not moved although") > 0;
    assert!(
        !auto || held.is_some() || blocked || withheld,
        "L1: nobody serves: {:#?}\n{:#?}",
        world.ticket(),
        world.story()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_whatever_happens(
        ticket in ticket(),
        seed in 1_u64..u64::MAX,
        ops in prop::collection::vec((op(), 0_u64..25_000), 1..24),
    ) {
        let auto = ticket.mode == Mode::Auto;
        let mut world = World::new(policy(TicketPolicy { mode: Mode::Auto, ..ticket.clone() }), seed);
        world.watch.rpo_zero = ticket.rpo == Rpo::Zero;
        world.run(20_000);
        world.policy = policy(ticket);
        world.run(1_000);
        for (op, then_ms) in &ops {
            apply(&mut world, op);
            world.run(*then_ms);
        }
        recovers(&mut world, auto);
        invariants::replays(&world.ticks, &world.replica);
    }
}

/// The random runs are worth something only if the interesting things happen in them.
#[test]
fn the_checks_are_not_vacuous() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for seed in 1..60_u64 {
        let ops = prop::collection::vec((op(), 0_u64..25_000), 12..24).new_tree(&mut runner).unwrap().current();
        let mut world = World::settled(policy(TicketPolicy { cooldown_ms: 0, ..passive() }), seed);
        for (op, then_ms) in &ops {
            apply(&mut world, op);
            world.run(*then_ms);
        }
        for (what, count) in &world.watch.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    for what in ["promote", "renewal", "grant", "release", "covered by time", "withheld", "expired", "automatic move"] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "`{what}` never happened: {seen:?}");
    }
}
