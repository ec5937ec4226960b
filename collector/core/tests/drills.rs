//! Drills: what begins one, what ends it, and what its report says of the ledger's entries.

#![allow(clippy::unwrap_used)]

mod hand;

use bcp_core::drill::report::{LegEnd, Met, Outcome, assemble};
use bcp_core::drill::{DrillCommand, DrillEvent, DrillKind, Gathered, LIMIT_MS, MAX_ENTRIES, Report};
use bcp_core::failover::TicketCommand;
use bcp_core::ledger::{Head, LedgerEvent, verify};
use bcp_core::policy::{Mode, TicketKind, TicketPolicy};
use bcp_core::replica::{CommandVerb, Item, OperatorCommand, Replica};
use bcp_wire::control::{Phase, StepKind};
use bcp_wire::{Epoch, Site};
use hand::{Hand, id, passive, policy};

const RTO_MS: u64 = 30_000;

fn rule() -> TicketPolicy {
    TicketPolicy { rto_ms: Some(RTO_MS), ..passive() }
}

/// Held by a, latched in sync, everybody there.
fn held_by_a(rule: TicketPolicy) -> Hand {
    let mut hand = Hand::new(policy(&[("rx", rule)]));
    hand.pass(500);
    hand.obey("rx");
    hand.pass(5_000);
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::A)));
    hand
}

fn order(hand: &mut Hand, key: &str, verb: CommandVerb) -> Result<String, String> {
    hand.tick(0, vec![Item::Command(OperatorCommand { key: key.into(), operator: "op-1".into(), verb })]);
    let result = hand.replica.result_of(key).expect("a command is answered");
    if result.ok { Ok(result.message.clone()) } else { Err(result.message.clone()) }
}

fn drill(hand: &mut Hand, key: &str, command: DrillCommand) -> Result<String, String> {
    order(hand, key, CommandVerb::Drill(command))
}

fn begin(kind: DrillKind, back: bool) -> DrillCommand {
    DrillCommand::Begin { ticket: id("rx"), kind, to: Site::B, back, reason: "yearly test".into(), expect: None }
}

fn running(hand: &Hand) -> String {
    hand.replica.drills.running[&id("rx")].gathered.began.drill.clone()
}

/// The drill's own order, as its command gives it.
fn drill_move(hand: &mut Hand, to: Site, name: &str) {
    let drill = running(hand);
    let command = TicketCommand::Move { to, reason: format!("drill {drill}: yearly test"), expect: None };
    order(hand, &format!("{drill}-{name}"), CommandVerb::Ticket { ticket: id("rx"), command }).unwrap();
}

fn end(hand: &mut Hand, note: Option<&str>) -> Report {
    let drill_id = running(hand);
    drill(hand, "end", DrillCommand::End { drill: drill_id.clone(), note: note.map(str::to_owned) }).unwrap();
    reported(hand, &drill_id)
}

fn reported(hand: &Hand, drill: &str) -> Report {
    let found = hand.entries.iter().rev().find_map(|entry| match &entry.what {
        LedgerEvent::Drill { event: DrillEvent::Reported { report } } if report.drill == drill => {
            Some((**report).clone())
        }
        _ => None,
    });
    found.expect("a drill that ended has a report")
}

/// As anyone does it who has the ledger.
fn from_the_ledger(hand: &Hand, report: &Report) -> Report {
    let mut entries = hand.entries.iter().filter(|entry| entry.seq >= report.evidence.first_seq);
    let mut gathered = Gathered::from_first(entries.next().unwrap()).unwrap();
    entries.take_while(|entry| entry.seq <= report.evidence.last_seq).for_each(|entry| gathered.hear(entry));
    assemble(&gathered).unwrap()
}

fn met(report: &Report, what: &str) -> Met {
    report.checks.iter().find(|check| check.what.contains(what)).unwrap_or_else(|| panic!("no {what}: {report:#?}")).met
}

#[test]
fn a_switchover_there_and_back_is_reported_with_its_times_and_its_proof() {
    let mut hand = held_by_a(rule());
    let before = hand.replica.ledger.clone();
    let said = drill(&mut hand, "begin", begin(DrillKind::Move, true)).unwrap();
    assert_eq!(said, format!("drill {} began", running(&hand)));
    assert!(hand.ticket("rx").silence.is_none(), "nobody is silenced for a switchover");
    drill_move(&mut hand, Site::B, "out");
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::B));
    hand.pass(10_000);
    drill_move(&mut hand, Site::A, "back");
    hand.obey("rx");
    hand.pass(1_000);
    let report = end(&mut hand, None);

    assert_eq!((report.kind, report.from, report.to, report.back), (DrillKind::Move, Site::A, Site::B, true));
    assert_eq!((report.asked_by.as_str(), report.reason.as_str()), ("op-1", "yearly test"));
    assert_eq!(report.verdict.outcome, Outcome::Passed, "{report:#?}");
    assert!(report.checks.iter().all(|check| check.met == Met::Met), "{:#?}", report.checks);
    assert_eq!(report.deviations, []);
    let [out, back] = &report.legs[..] else { panic!("two moves: {:#?}", report.legs) };
    for (leg, from, to, epochs) in [(out, Site::A, Site::B, (1, 2)), (back, Site::B, Site::A, (2, 3))] {
        assert_eq!((leg.from, leg.to, &leg.end, leg.planned), (from, Some(to), &LegEnd::Finished, true));
        assert_eq!((leg.epoch_before.counter, leg.epoch_after.unwrap().counter), epochs);
        assert_eq!(leg.in_sync, Some(true));
        assert!(leg.released.is_some() && leg.covered_by_time.is_empty());
        assert!(leg.active_after_ms() <= leg.served_after_ms() && leg.served_after_ms().unwrap() < 3_000);
    }
    assert_eq!(report.rto_ms, out.served_after_ms());
    assert_eq!(
        (report.rpo.in_sync, report.rpo.unsynced_ms, report.rpo.unsynced_positions),
        (Some(true), Some(0), Some(0))
    );
    let evidence = &report.evidence;
    let epoch = |counter| Epoch { counter, ..evidence.before.epoch };
    assert_eq!(evidence.epochs, [epoch(1), epoch(2), epoch(3)]);
    assert!(evidence.gates.iter().any(|said| (said.site, said.step) == (Site::B, StepKind::Promote)));
    assert_eq!((evidence.before.holder, evidence.after.holder), (Some(Site::A), Some(Site::A)));
    // The chain: from the entry before the drill's order to the one that ended it.
    let chain: Vec<_> = hand.entries.iter().filter(|entry| entry.seq > before.seq).cloned().collect();
    verify(&before, &chain).unwrap();
    assert_eq!(chain[0].hash, evidence.hash_before, "the entry of its order");
    assert_eq!(hand.entries.iter().find(|e| e.seq == evidence.last_seq).unwrap().hash, evidence.hash_after);
    assert!(report.steps.windows(2).all(|pair| pair[0].after_ms <= pair[1].after_ms));
    assert_eq!(from_the_ledger(&hand, &report), report);
    let past = hand.replica.drills.past.last().unwrap();
    assert_eq!(
        (past.drill.as_str(), past.verdict, past.rto_ms),
        (report.drill.as_str(), Outcome::Passed, report.rto_ms)
    );
}

#[test]
fn an_isolation_is_measured_from_the_last_renewal_and_waited_out() {
    let mut hand = held_by_a(rule());
    drill(&mut hand, "begin", begin(DrillKind::Isolate, false)).unwrap();
    let asked = hand.say(Site::A, |_, _| {})[0].silent_ms;
    assert_eq!(asked, Some(60_000), "lease 11 s, wait 4 s, and 45 s");
    assert_eq!(hand.say(Site::B, |_, _| {})[0].silent_ms, None, "only the holder's gates are asked");
    let last_renewal = hand.replica.log_time;
    hand.there = vec![Site::B];
    hand.pass(11_500);
    assert_eq!(hand.ticket("rx").phase, Phase::Free, "{:#?}", hand.story());
    assert!(!hand.replica.failover.board.silent(Site::A, hand.replica.log_time), "the site itself is seen");
    drill_move(&mut hand, Site::B, "out");
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::B)));
    hand.there = vec![Site::A, Site::B];
    assert_eq!(hand.say(Site::A, |_, _| {})[0].silent_ms, None, "what speaks again is not silenced again");
    hand.pass(5_000);
    hand.obey("rx");
    let report = end(&mut hand, None);

    assert_eq!(report.verdict.outcome, Outcome::Passed, "{report:#?}");
    let leg = &report.legs[0];
    assert!(!leg.planned && leg.released.is_none());
    assert!(leg.fault >= last_renewal && leg.fault.since(last_renewal) <= 250, "{} and {}", leg.fault, last_renewal);
    assert_eq!(leg.waited(4_000), Some(true));
    assert_eq!(leg.covered_by_time, [id("host-a")]);
    let rto = report.rto_ms.unwrap();
    assert!((15_000..18_000).contains(&rto), "lease and wait: {rto}");
    assert_eq!(report.rpo.unsynced_positions, Some(0));
    assert_eq!(report.deviations, [], "what time covers is what it is about");
    assert_eq!(from_the_ledger(&hand, &report), report);
}

#[test]
fn an_isolation_that_nobody_takes_over_ends_where_it_began() {
    let mut hand = held_by_a(rule());
    drill(&mut hand, "begin", begin(DrillKind::Isolate, false)).unwrap();
    hand.there = vec![Site::B];
    hand.pass(20_000);
    assert_eq!(hand.ticket("rx").phase, Phase::Free, "it is not granted to a site without its gates");
    hand.there = vec![Site::A, Site::B];
    hand.pass(1_000);
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::A), "the gates speak again: the service goes on where it was");
    let report = end(&mut hand, Some("its operator gave it up"));
    assert_eq!(report.verdict.outcome, Outcome::Failed, "{report:#?}");
    assert_eq!(met(&report, "Takeover"), Met::Missed);
    assert!(report.deviations.iter().any(|found| found.text.contains("held the ticket")), "{:#?}", report.deviations);
    assert_eq!(report.given_up.as_deref(), Some("its operator gave it up"));
}

#[test]
fn nothing_begins_that_the_other_side_could_not_carry() {
    let refused = |hand: &mut Hand, command| {
        let key = format!("refused-{}", hand.entries.len());
        drill(hand, &key, command).unwrap_err()
    };
    let mut hand = held_by_a(rule());
    hand.there = vec![Site::A];
    hand.pass(6_000);
    assert!(refused(&mut hand, begin(DrillKind::Isolate, false)).contains("gate host-b of site b is not heard"));
    assert!(hand.ticket("rx").silence.is_none());

    let mut hand = held_by_a(rule());
    hand.in_sync = false;
    hand.pass(1_000);
    assert!(refused(&mut hand, begin(DrillKind::Move, false)).contains("lacks acknowledged data"));

    let mut hand = held_by_a(TicketPolicy { mode: Mode::Confirm, ..rule() });
    let seen = (Epoch { incarnation: 9, counter: 9 }, 1);
    let late = DrillCommand::Begin {
        ticket: id("rx"),
        kind: DrillKind::Move,
        to: Site::B,
        back: false,
        reason: "x".into(),
        expect: Some(seen),
    };
    assert!(refused(&mut hand, late).contains("changed meanwhile"));
    hand.command("rx", TicketCommand::Freeze { reason: "work".into(), for_ms: 60_000, expect: None });
    assert!(refused(&mut hand, begin(DrillKind::Move, false)).contains("frozen"));

    let mut hand = held_by_a(rule());
    drill(&mut hand, "first", begin(DrillKind::Move, false)).unwrap();
    assert!(refused(&mut hand, begin(DrillKind::Isolate, false)).contains("is under way"));
    let unknown = DrillCommand::End { drill: "drl-999999".into(), note: None };
    assert!(refused(&mut hand, unknown).contains("no drill drl-999999"));
}

#[test]
fn where_nothing_is_given_by_itself_nobody_is_silenced() {
    for mode in [Mode::Off, Mode::Observe] {
        let mut hand = held_by_a(rule());
        let changed = TicketPolicy { mode, ..rule() };
        hand.tick(0, vec![Item::Policy(Box::new(policy(&[("rx", changed)])))]);
        let plans = hand.replica.drill_plans(None);
        let [by_move, isolate] = &plans[0].kinds[..] else { panic!("{plans:#?}") };
        assert!(by_move.may_begin, "an operator's order is carried out in every mode: {by_move:#?}");
        assert!(!isolate.may_begin && isolate.blocks[0].contains("nothing would start it again"), "{isolate:#?}");
        assert!(drill(&mut hand, "x", begin(DrillKind::Isolate, false)).is_err());
        assert!(hand.ticket("rx").silence.is_none());
    }
}

#[test]
fn a_plan_says_what_stands_in_the_way_and_changes_nothing() {
    let mut hand = held_by_a(rule());
    let before = hand.replica.clone();
    let plan = hand.replica.drill_plans(Some(&id("rx"))).pop().unwrap();
    assert_eq!(hand.replica, before);
    assert!(plan.kinds.iter().all(|kind| kind.may_begin && kind.blocks.is_empty()), "{plan:#?}");
    assert_eq!((plan.from, plan.to, plan.goals.rto_ms), (Some(Site::A), Some(Site::B), Some(RTO_MS)));
    assert!(plan.can_failover_now().ok);
    hand.there = vec![Site::A];
    hand.pass(6_000);
    let plan = hand.replica.drill_plans(None).pop().unwrap();
    assert!(plan.kinds.iter().all(|kind| !kind.may_begin), "{plan:#?}");
    assert!(hand.replica.drill_plans(Some(&id("other"))).is_empty());
    let shared = hand::ticket(TicketKind::ActiveActive);
    let hand = Hand::new(policy(&[("rx", shared)]));
    assert!(hand.replica.drill_plans(None)[0].kinds.iter().all(|kind| kind.blocks[0].contains("several sites")));
}

#[test]
fn a_drill_that_nobody_ends_ends_by_itself_and_says_so() {
    let mut hand = held_by_a(rule());
    drill(&mut hand, "begin", begin(DrillKind::Move, false)).unwrap();
    let name = running(&hand);
    hand.pass(LIMIT_MS);
    let report = reported(&hand, &name);
    assert_eq!(report.verdict.outcome, Outcome::NotDone, "{:?}", report.verdict);
    assert!(report.given_up.unwrap().contains("nobody had ended it"));
    assert!(hand.replica.drills.running.is_empty());
}

#[test]
fn a_slow_or_lossy_switchover_does_not_pass() {
    let mut hand = held_by_a(TicketPolicy { rto_ms: Some(1_000), ..rule() });
    drill(&mut hand, "begin", begin(DrillKind::Move, false)).unwrap();
    drill_move(&mut hand, Site::B, "out");
    hand.pass(2_000);
    hand.obey("rx");
    let report = end(&mut hand, None);
    assert_eq!((met(&report, "RTO"), report.verdict.outcome), (Met::Missed, Outcome::Failed), "{report:#?}");
    assert!(report.verdict.sentence.contains("Recovery time"));

    // Nothing latched, and the policy does not ask for it: the report does not claim that nothing was lost.
    let mut hand = held_by_a(TicketPolicy { rpo: bcp_core::policy::Rpo::Bounded { positions: 5 }, ..rule() });
    hand.in_sync = false;
    hand.pass(3_000);
    drill(&mut hand, "begin", begin(DrillKind::Move, false)).unwrap();
    drill_move(&mut hand, Site::B, "out");
    hand.obey("rx");
    let report = end(&mut hand, None);
    assert_eq!(report.rpo.in_sync, Some(false));
    assert!(report.rpo.unsynced_ms.is_some_and(|ms| ms >= 2_500), "{:?}", report.rpo);
    assert_eq!((met(&report, "RPO"), met(&report, "Protected")), (Met::Met, Met::Missed));
}

#[test]
fn what_somebody_else_moves_is_not_taken_for_the_drill() {
    let mut hand = held_by_a(rule());
    drill(&mut hand, "begin", begin(DrillKind::Move, false)).unwrap();
    hand.command_by("op-2", "rx", TicketCommand::Move { to: Site::B, reason: "mine".into(), expect: None });
    hand.obey("rx");
    let report = end(&mut hand, None);
    assert!(report.deviations.iter().any(|found| found.text.contains("somebody else")), "{:#?}", report.deviations);
}

#[test]
fn a_report_is_bounded_and_says_what_it_lacks() {
    let mut hand = held_by_a(rule());
    drill(&mut hand, "begin", begin(DrillKind::Move, false)).unwrap();
    for n in 0..MAX_ENTRIES + 20 {
        hand.in_sync = n % 2 == 0;
        hand.pass(250);
    }
    let report = end(&mut hand, None);
    assert_eq!(report.evidence.entries, MAX_ENTRIES + 1);
    assert!(report.evidence.left_out > 0, "{:?}", report.evidence);
    assert!(report.deviations.iter().any(|found| found.text.contains("not in this report")));
    assert_eq!(from_the_ledger(&hand, &report), report);
}

/// The log of a drill, applied once more: the same states, the same report, the same answers at every index of its evidence.
#[test]
fn the_evidence_of_a_drill_replays_to_the_same_answers() {
    let mut hand = Hand::recording(policy(&[("rx", rule())]));
    hand.pass(500);
    hand.obey("rx");
    hand.pass(5_000);
    drill(&mut hand, "begin", begin(DrillKind::Isolate, false)).unwrap();
    hand.say(Site::A, |_, _| {});
    hand.there = vec![Site::B];
    hand.pass(11_500);
    drill_move(&mut hand, Site::B, "out");
    hand.obey("rx");
    hand.there = vec![Site::A, Site::B];
    hand.pass(5_000);
    let report = end(&mut hand, None);
    let answers = hand.answers.clone();

    let mut again = Replica::default();
    let (mut entries, mut compared) = (Vec::new(), 0);
    for (index, tick) in &hand.ticks {
        entries.extend(again.apply(*index, tick));
        if (report.evidence.first_index..=report.evidence.last_index).contains(index) {
            assert_eq!(again.explain(&id("rx")), answers[index], "index {index}");
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared}");
    assert_eq!(again, hand.replica);
    assert_eq!(entries, hand.entries);
    verify(&Head::default(), &entries).unwrap();
    // Every step of the report is at an index whose answer names the ticket as it was.
    for step in report.steps.iter().filter(|step| step.text.contains("was granted to site b")) {
        let answer = answers[&step.at.index].as_ref().unwrap();
        assert!(answer.decision.contains("goes to site b"), "{}", answer.decision);
    }
}
