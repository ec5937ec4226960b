//! The table of a ticket's transitions: from every state, what each event makes of it.

mod hand;

use bcp_core::failover::{Guard, TicketCommand};
use bcp_core::policy::{Mode, Rpo, TicketKind, TicketPolicy};
use bcp_core::replica::Item;
use bcp_wire::control::{GateSync, Phase, StepKind, StepOutcome};
use bcp_wire::{Epoch, Site};
use hand::{Hand, policy, ticket};

/// States, reached by the shortest way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Unheld,
    Held,
    Stopping,
    Lapsing,
    Waiting,
    SealingClean,
    Promoting,
    PromotingAfterLoss,
    Publishing,
    Free,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// Everybody does its part for this long.
    Time(u64),
    /// Nobody of the holder is heard for this long.
    HolderSilent(u64),
    /// The holder's site is lost to everybody, for this long.
    SiteLost(u64),
    Report(Site, StepOutcome),
    /// The gate gives up: three failures in a row.
    Fails(Site),
    /// The holder's gate closed its epoch by itself.
    Closes(Site),
    Move(Site),
    Abort,
    Freeze,
    BehindAndReport(Site),
}

/// Phase, stage of the move, holder, counter of the epoch.
type Outcome = (Phase, &'static str, Option<Site>, u64);

fn base(rpo: Rpo) -> Hand {
    let mut hand = Hand::new(policy(&[("rx", TicketPolicy { rpo, ..ticket(TicketKind::ActivePassive) })]));
    hand.there.clear();
    hand
}

fn reach(state: State) -> Hand {
    let mut hand = base(Rpo::Zero);
    if state == State::Unheld {
        return hand;
    }
    hand.there = vec![Site::A, Site::B];
    hand.pass(500);
    hand.obey("rx");
    match state {
        State::Unheld | State::Held => {}
        State::Stopping => assert!(hand.command("rx", to(Site::B))),
        State::Lapsing => {
            // A service that is down is drained by the rules; its gate does not manage to stop it.
            hand.down = vec![Site::A];
            hand.pass(30_500);
            for _ in 0..3 {
                hand.report("rx", Site::A, StepOutcome::Failed);
            }
        }
        State::Waiting => {
            (hand.there, hand.silent) = (vec![Site::B], vec![Site::A]);
            hand.pass(11_000);
        }
        State::SealingClean => {
            assert!(hand.command("rx", to(Site::B)));
            hand.report("rx", Site::A, StepOutcome::Done);
        }
        State::Promoting | State::Publishing => {
            assert!(hand.command("rx", to(Site::B)));
            hand.report("rx", Site::A, StepOutcome::Done);
            hand.report("rx", Site::A, StepOutcome::Done);
            if state == State::Publishing {
                hand.report("rx", Site::B, StepOutcome::Done);
            }
        }
        State::PromotingAfterLoss => {
            (hand.there, hand.silent) = (vec![Site::B], vec![Site::A]);
            hand.pass(15_250);
        }
        State::Free => {
            hand.there = vec![Site::B];
            hand.pass(11_000);
        }
    }
    hand
}

fn to(site: Site) -> TicketCommand {
    TicketCommand::Move { to: site, reason: "drill".into(), expect: None }
}

fn happen(hand: &mut Hand, event: Event) {
    let holder = hand.ticket("rx").holder;
    match event {
        Event::Time(ms) => hand.pass(ms),
        Event::HolderSilent(ms) => {
            hand.there.retain(|site| Some(*site) != holder);
            hand.pass(ms);
        }
        Event::SiteLost(ms) => {
            hand.there.retain(|site| Some(*site) != holder);
            hand.silent.extend(holder);
            hand.pass(ms);
        }
        Event::Report(site, outcome) => assert!(hand.report("rx", site, outcome), "{:#?}", hand.story()),
        Event::Fails(site) => {
            for _ in 0..3 {
                assert!(hand.report("rx", site, StepOutcome::Failed));
            }
        }
        Event::Closes(site) => {
            hand.say(site, |_, said| (said.closed, said.renew) = (true, None));
        }
        Event::Move(site) => assert!(hand.command("rx", to(site)), "{:#?}", hand.story()),
        Event::Abort => assert!(hand.command("rx", TicketCommand::Abort { reason: "no".into(), expect: None })),
        Event::Freeze => {
            assert!(hand.command("rx", TicketCommand::Freeze { reason: "no".into(), for_ms: 3_600_000, expect: None }));
        }
        Event::BehindAndReport(site) => {
            hand.in_sync = false;
            hand.say(site, |_, _| {});
            assert!(hand.report("rx", site, StepOutcome::Done));
        }
    }
}

#[test]
fn the_table_of_transitions() {
    use Event as E;
    use Phase::{Draining, Free, Granting, Held};
    use Site::{A, B};
    use State as S;
    use StepOutcome::{Already, Done, Vetoed};
    // From, event, then: phase, stage, holder, counter of the epoch.
    let table: &[(S, E, Outcome)] = &[
        (S::Unheld, E::Time(60_000), (Free, "", None, 0)),
        (S::Held, E::Time(600_000), (Held, "", Some(A), 1)),
        (S::Held, E::HolderSilent(10_750), (Held, "", Some(A), 1)),
        (S::Held, E::HolderSilent(11_000), (Free, "", None, 1)),
        (S::Held, E::HolderSilent(600_000), (Free, "", None, 1)),
        (S::Held, E::SiteLost(11_000), (Granting, "sealing", Some(B), 2)),
        (S::Held, E::Closes(A), (Held, "promoting", Some(A), 2)),
        (S::Held, E::Move(B), (Draining, "stopping", Some(A), 1)),
        (S::Held, E::Freeze, (Held, "", Some(A), 1)),
        (S::Stopping, E::Time(10_000), (Draining, "stopping", Some(A), 1)),
        (S::Stopping, E::Time(40_250), (Held, "", Some(A), 1)),
        (S::Stopping, E::Report(A, Done), (Granting, "sealing", Some(B), 2)),
        (S::Stopping, E::Report(A, Already), (Granting, "sealing", Some(B), 2)),
        (S::Stopping, E::Report(A, Vetoed), (Held, "", Some(A), 1)),
        (S::Stopping, E::Fails(A), (Held, "", Some(A), 1)),
        (S::Stopping, E::HolderSilent(11_000), (Granting, "sealing", Some(B), 2)),
        (S::Stopping, E::Abort, (Draining, "stopping", Some(A), 1)),
        (S::Stopping, E::BehindAndReport(A), (Held, "promoting", Some(A), 2)),
        (S::Lapsing, E::Time(10_750), (Draining, "lapsing", Some(A), 1)),
        (S::Lapsing, E::Time(11_250), (Granting, "sealing", Some(B), 2)),
        (S::SealingClean, E::Report(A, Done), (Held, "promoting", Some(B), 2)),
        (S::SealingClean, E::Fails(A), (Held, "promoting", Some(B), 2)),
        (S::SealingClean, E::Time(4_250), (Held, "promoting", Some(B), 2)),
        (S::SealingClean, E::Abort, (Held, "promoting", Some(A), 3)),
        (S::Waiting, E::Time(3_750), (Granting, "sealing", Some(B), 2)),
        (S::Waiting, E::Time(4_000), (Held, "promoting", Some(B), 2)),
        (S::Promoting, E::Report(B, Done), (Held, "publishing", Some(B), 2)),
        (S::Promoting, E::Report(B, Vetoed), (Draining, "stopping", Some(B), 2)),
        (S::Promoting, E::Fails(B), (Draining, "stopping", Some(B), 2)),
        (S::Promoting, E::HolderSilent(11_000), (Granting, "sealing", Some(A), 3)),
        (S::Promoting, E::HolderSilent(15_000), (Held, "promoting", Some(A), 3)),
        (S::PromotingAfterLoss, E::Fails(B), (Held, "", Some(B), 2)),
        (S::PromotingAfterLoss, E::Time(40_250), (Held, "", Some(B), 2)),
        (S::Publishing, E::Report(B, Done), (Held, "", Some(B), 2)),
        (S::Publishing, E::Fails(B), (Held, "", Some(B), 2)),
        (S::Publishing, E::Time(40_250), (Held, "", Some(B), 2)),
        (S::Free, E::Time(60_000), (Free, "", None, 1)),
        (S::Free, E::Move(B), (Granting, "sealing", Some(B), 2)),
        (S::Free, E::Freeze, (Free, "", None, 1)),
    ];
    let mut wrong = Vec::new();
    for (state, event, want) in table {
        let mut hand = reach(*state);
        happen(&mut hand, *event);
        let ticket = hand.ticket("rx");
        let stage = ticket.moving.as_ref().map_or("", |m| m.stage.as_str());
        let found = (ticket.phase, stage, ticket.holder, ticket.epoch.counter);
        if found != *want {
            wrong
                .push(format!("{state:?} + {event:?}: {found:?} instead of {want:?}\n  {}", hand.story().join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn renewed_is_true_only_for_the_nonce_that_was_applied() {
    let mut hand = reach(State::Held);
    let mine = hand.sync(Site::A, |_, _| {});
    let gate = mine.gate.clone();
    let renewed = |hand: &Hand, sync| hand.replica.failover.answer(Site::A, &gate, sync)[0].renewed;
    assert!(!renewed(&hand, &mine), "not applied yet");
    hand.tick(250, vec![bcp_core::replica::Item::Gate(mine.clone())]);
    assert!(renewed(&hand, &mine));
    let lease = hand.ticket("rx").lease;
    hand.tick(1_000, vec![bcp_core::replica::Item::Gate(mine.clone())]);
    assert_eq!(hand.ticket("rx").lease, lease, "the same nonce counts once");
    let other = bcp_wire::control::GateSync { nonce: 99_999, ..mine.clone() };
    assert!(!renewed(&hand, &other));
    // A drain that has been carried out leaves nothing to renew.
    hand.command("rx", to(Site::B));
    hand.report("rx", Site::A, StepOutcome::Done);
    assert!(!renewed(&hand, &mine));
    let answers = hand.say(Site::A, |_, said| said.renew = Some(Epoch { incarnation: 1, counter: 1 }));
    assert!(!answers[0].renewed, "a superseded epoch");
}

#[test]
fn a_closed_epoch_is_not_renewed() {
    let mut hand = reach(State::Held);
    hand.replica.failover.tickets.get_mut("rx").expect("it is there").frozen = None;
    hand.command("rx", TicketCommand::Freeze { reason: "look".into(), for_ms: 60_000, expect: None });
    hand.say(Site::A, |_, said| said.closed = true);
    let answers = hand.say(Site::A, |_, said| (said.closed, said.renew) = (false, Some(said.seen)));
    assert!(!answers[0].renewed, "closed once is closed for ever");
}

#[test]
fn an_overtaken_request_never_says_in_sync() {
    let mut hand = reach(State::Held);
    let early = hand.sync(Site::A, |_, _| {});
    hand.in_sync = false;
    hand.say(Site::A, |_, _| {});
    assert_eq!(hand.ticket("rx").latch.as_ref().and_then(|l| l.in_sync), Some(false));
    hand.tick(250, vec![bcp_core::replica::Item::Gate(early)]);
    assert_eq!(hand.ticket("rx").latch.as_ref().and_then(|l| l.in_sync), Some(false));
    hand.in_sync = true;
    hand.say(Site::A, |_, said| {
        if let Some(facts) = said.facts.as_mut() {
            facts.peer_in_sync = true;
        }
    });
    assert_eq!(hand.ticket("rx").latch.as_ref().and_then(|l| l.in_sync), Some(true));
}

#[test]
fn a_report_counts_only_with_its_own_key_and_revision() {
    let mut hand = reach(State::Stopping);
    let order = hand.order("rx", Site::A).expect("a stop");
    assert_eq!(order.kind, StepKind::Stop);
    for spoil in 0..3 {
        let mut report = bcp_wire::control::StepReport {
            key: order.key.clone(),
            epoch: order.epoch,
            revision: order.revision,
            kind: order.kind,
            outcome: StepOutcome::Done,
            detail: None,
            took_ms: 1,
        };
        match spoil {
            0 => report.key.push('x'),
            1 => report.revision += 1,
            _ => report.epoch = report.epoch.next(),
        }
        hand.say(Site::A, |_, said| said.reports = vec![report.clone()]);
        assert_eq!(hand.ticket("rx").phase, Phase::Draining, "spoilt {spoil}");
    }
}

#[test]
fn dependencies_are_granted_first() {
    let with = TicketPolicy { depends_on: vec![hand::id("directory")], ..ticket(TicketKind::ActivePassive) };
    let mut hand = Hand::new(policy(&[("app", with), ("directory", ticket(TicketKind::ActivePassive))]));
    hand.pass(5_000);
    assert_eq!(hand.ticket("app").epoch, Epoch::NONE, "the directory is not published yet");
    hand.obey("directory");
    hand.pass(500);
    assert_eq!(hand.ticket("app").holder, Some(Site::A));
    assert!(hand.told("app was granted") == 1);
}

/// Both leases end with the same tick; the one that depends is judged first, by its name.
#[test]
fn a_lost_site_is_left_in_the_order_of_dependencies() {
    let with = TicketPolicy { depends_on: vec![hand::id("directory")], ..ticket(TicketKind::ActivePassive) };
    let mut hand = Hand::new(policy(&[("app", with), ("directory", ticket(TicketKind::ActivePassive))]));
    hand.pass(500);
    hand.obey("directory");
    hand.pass(500);
    hand.obey("app");
    assert_eq!((hand.ticket("app").holder, hand.ticket("directory").holder), (Some(Site::A), Some(Site::A)));
    (hand.there, hand.silent) = (vec![Site::B], vec![Site::A]);
    hand.pass(11_250);
    assert_eq!((hand.ticket("app").epoch.counter, hand.ticket("directory").epoch.counter), (1, 2));
    hand.pass(5_000);
    hand.obey("directory");
    hand.pass(5_000);
    assert_eq!((hand.ticket("app").holder, hand.ticket("app").epoch.counter), (Some(Site::B), 2));
}

#[test]
fn who_lifts_the_freeze_of_a_used_up_budget_can_go_on() {
    let rule = TicketPolicy { move_budget: 1, cooldown_ms: 0, ..ticket(TicketKind::ActivePassive) };
    let mut hand = Hand::new(policy(&[("rx", rule)]));
    hand.pass(500);
    hand.obey("rx");
    (hand.there, hand.silent) = (vec![Site::B], vec![Site::A]);
    hand.pass(16_000);
    hand.obey("rx");
    (hand.there, hand.silent) = (vec![Site::A, Site::B], vec![]);
    hand.pass(2_000);
    hand.obey("rx");
    (hand.there, hand.silent) = (vec![Site::A], vec![Site::B]);
    hand.pass(16_000);
    assert!(hand.ticket("rx").frozen.as_ref().is_some_and(|freeze| freeze.owner == "system"), "{:#?}", hand.story());
    assert!(hand.command("rx", TicketCommand::Unfreeze { reason: "looked at".into(), expect: None }));
    hand.pass(1_000);
    let ticket = hand.ticket("rx");
    assert_eq!((&ticket.frozen, ticket.holder), (&None, Some(Site::A)), "{:#?}", hand.story());
}

#[test]
fn a_confirmed_move_away_from_a_service_that_is_down_waits_out_a_stop_that_fails() {
    let rule = TicketPolicy { mode: Mode::Confirm, ..ticket(TicketKind::ActivePassive) };
    let mut hand = Hand::new(policy(&[("rx", rule)]));
    hand.pass(500);
    hand.obey("rx");
    hand.down = vec![Site::A];
    hand.pass(30_500);
    assert!(
        hand.command("rx", TicketCommand::Confirm { epoch: hand.ticket("rx").epoch, expect: None }),
        "{:#?}",
        hand.story()
    );
    for _ in 0..3 {
        hand.report("rx", Site::A, StepOutcome::Failed);
    }
    assert_eq!(hand.ticket("rx").moving.as_ref().map(|moving| moving.stage.as_str()), Some("lapsing"));
}

/// What time covers is a holder that is silent, not one that says that it could not stop.
#[test]
fn a_move_that_people_order_does_not_wait_out_a_holder_that_could_not_stop() {
    let mut hand = reach(State::Held);
    let order = |to| TicketCommand::Move { to, reason: "maintenance".into(), expect: None };
    assert!(hand.command("rx", order(Site::B)), "{:#?}", hand.story());
    let unstopped = |hand: &mut Hand, says: bool| {
        let sync = hand.sync(Site::A, |_, said| (said.renew, said.unstopped) = (None, says));
        let other = hand.sync(Site::B, |_, _| {});
        hand.tick(250, vec![Item::Gate(sync), Item::Gate(other)]);
    };
    for _ in 0..60 {
        unstopped(&mut hand, true);
    }
    let ticket = hand.ticket("rx");
    assert_eq!((ticket.phase, ticket.holder, ticket.epoch.counter), (Phase::Free, None, 1), "{:#?}", hand.story());
    assert!(ticket.frozen.as_ref().is_some_and(|freeze| freeze.reason.contains("could not verify its stop")));
    assert!(hand.replica.conditions.contains("ticket-free/rx") && hand.replica.conditions.contains("ticket-frozen/rx"));
    // Unfrozen, an order for the other site is refused as long as the old one says so, with the reason.
    assert!(hand.command("rx", TicketCommand::Unfreeze { reason: "looked at".into(), expect: None }));
    unstopped(&mut hand, true);
    assert!(!hand.command("rx", order(Site::B)), "{:#?}", hand.story());
    // It is verified, or silent: then the move goes on.
    unstopped(&mut hand, false);
    assert!(hand.command("rx", order(Site::B)) || hand.ticket("rx").moving.is_some(), "{:#?}", hand.story());
}

/// Free, down, its standby stale, its gates there: two things are held back at once, and each is said once.
#[test]
fn observe_does_not_fill_the_ledger() {
    let mut hand = reach(State::Held);
    hand.in_sync = false;
    hand.pass(1_000);
    let rule = TicketPolicy { mode: Mode::Observe, ..ticket(TicketKind::ActivePassive) };
    hand.tick(250, vec![Item::Policy(Box::new(policy(&[("rx", rule)])))]);
    happen(&mut hand, Event::Closes(Site::A));
    hand.down = vec![Site::A];
    hand.pass(45_000);
    assert_eq!(hand.ticket("rx").phase, Phase::Free);
    let before = hand.told("rx would have moved") + hand.told("rx was not moved");
    assert!((1..=2).contains(&before), "{:#?}", hand.story());
    hand.pass(120_000);
    assert_eq!(hand.told("rx would have moved") + hand.told("rx was not moved"), before, "{:#?}", hand.story());
}

#[test]
fn off_and_observe_grant_nothing_by_themselves_but_an_operator_may() {
    for mode in [Mode::Off, Mode::Observe] {
        let mut hand = Hand::new(policy(&[("rx", TicketPolicy { mode, ..ticket(TicketKind::ActivePassive) })]));
        hand.pass(60_000);
        assert_eq!(hand.ticket("rx").epoch, Epoch::NONE);
        assert!(hand.command("rx", to(Site::B)));
        hand.obey("rx");
        assert_eq!(hand.ticket("rx").holder, Some(Site::B));
    }
}

#[test]
fn a_gate_ahead_of_the_log_lifts_the_next_epoch_and_an_absurd_one_is_not_believed() {
    let mut hand = base(Rpo::Zero);
    let ahead = Epoch { incarnation: 1, counter: 41 };
    hand.say(Site::A, |_, said| said.seen = ahead);
    hand.say(Site::B, |_, said| said.seen = Epoch { incarnation: u32::MAX, counter: u64::MAX });
    assert_eq!(hand.ticket("rx").epoch, Epoch { incarnation: 1, counter: 42 });
}

#[test]
fn active_active_takes_a_lost_site_out_and_never_the_last_one() {
    let mut hand = Hand::new(policy(&[("portal", ticket(TicketKind::ActiveActive))]));
    hand.up = vec![Site::A, Site::B];
    hand.pass(2_000);
    let share = |hand: &Hand, site| hand.ticket("portal").weights[&site];
    assert_eq!((share(&hand, Site::A), share(&hand, Site::B)), (50, 50));
    let order = hand.order("portal", Site::B).expect("weigh");
    assert_eq!((order.kind, order.params["a"].as_str()), (StepKind::Weigh, "50"));
    hand.obey("portal");
    assert_eq!(hand.order("portal", Site::B), None);
    assert!(
        hand.replica.ticket_views()[0].can_failover_now.ok,
        "{:?}",
        hand.replica.ticket_views()[0].can_failover_now
    );
    // a is lost: its share goes to b, in an epoch of its own.
    (hand.there, hand.silent, hand.up) = (vec![Site::B], vec![Site::A], vec![Site::B]);
    hand.pass(5_000);
    assert_eq!((share(&hand, Site::A), share(&hand, Site::B), hand.ticket("portal").epoch.counter), (0, 100, 2));
    // b goes down as well: the last weights stay.
    (hand.up, hand.down) = (vec![], vec![Site::B]);
    hand.pass(60_000);
    assert_eq!((share(&hand, Site::A), share(&hand, Site::B)), (0, 100));
    // a returns, and takes its share after a minute.
    (hand.there, hand.silent, hand.up, hand.down) = (vec![Site::A, Site::B], vec![], vec![Site::A, Site::B], vec![]);
    hand.pass(59_000);
    assert_eq!(share(&hand, Site::A), 0);
    hand.pass(5_000);
    assert_eq!((share(&hand, Site::A), share(&hand, Site::B)), (50, 50));
}

#[test]
fn a_new_term_adds_no_time_even_for_the_same_leader() {
    let mut hand = reach(State::Held);
    let before = hand.replica.log_time;
    hand.term = 2;
    hand.tick(2_000, Vec::new());
    assert_eq!(hand.replica.log_time, before);
    hand.tick(3_600_000, Vec::new());
    assert_eq!(hand.replica.log_time.since(before), bcp_core::replica::MAX_ELAPSED_MS);
}

#[test]
fn an_unsafe_policy_is_refused_and_said_once() {
    let mut hand = reach(State::Held);
    let mut unsafe_one = policy(&[("rx", ticket(TicketKind::ActivePassive))]);
    unsafe_one.timing.acquire_after_ms = 100;
    for _ in 0..3 {
        hand.tick(250, vec![Item::Policy(Box::new(unsafe_one.clone()))]);
    }
    assert_eq!(hand.told("A policy was refused"), 1);
    assert_eq!(hand.replica.failover.timing.expect("a timing").acquire_after_ms, 4_000);
}

#[test]
fn a_removed_ticket_keeps_its_epoch() {
    let mut hand = reach(State::Held);
    // Its gates are stopped first: what a running service depends on is not removed.
    hand.there.clear();
    hand.pass(16_000);
    let gone = policy(&[]);
    hand.tick(250, vec![Item::Policy(Box::new(gone))]);
    hand.there = vec![Site::A, Site::B];
    hand.pass(60_000);
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").retired), (Phase::Free, true));
    let again = policy(&[("rx", ticket(TicketKind::ActivePassive))]);
    hand.tick(250, vec![Item::Policy(Box::new(again))]);
    hand.pass(1_000);
    assert_eq!(hand.ticket("rx").epoch.counter, 2);
}

type Order = fn(Option<(Epoch, u64)>, String) -> TicketCommand;

#[test]
fn every_order_compares_what_its_operator_saw() {
    let reason = || "an old page".to_owned();
    let orders: [Order; 6] = [
        |expect, reason| TicketCommand::Move { to: Site::B, reason, expect },
        |expect, reason| TicketCommand::Abort { reason, expect },
        |expect, reason| TicketCommand::Freeze { reason, for_ms: 60_000, expect },
        |expect, reason| TicketCommand::Unfreeze { reason, expect },
        |expect, _| TicketCommand::Confirm { epoch: Epoch { incarnation: 1, counter: 1 }, expect },
        |expect, reason| TicketCommand::Force { to: Site::B, guard: Guard::Freshness, reason, expect },
    ];
    for order in orders {
        let mut hand = reach(State::Held);
        let before = hand.ticket("rx").clone();
        for seen in [(Epoch::NONE, before.revision), (before.epoch, before.revision - 1), (before.epoch, u64::MAX)] {
            assert!(!hand.command("rx", order(Some(seen), reason())), "{seen:?}");
        }
        let says = format!("rx is now at epoch {}, revision {}", before.epoch, before.revision);
        assert_eq!(hand.told("the ticket changed meanwhile"), 3, "{:#?}", hand.story());
        assert_eq!(hand.told(&says), 3, "{:#?}", hand.story());
        assert_eq!(hand.ticket("rx").revision, before.revision, "nothing was done");
    }
    let mut hand = reach(State::Held);
    let seen = (hand.ticket("rx").epoch, hand.ticket("rx").revision);
    assert!(hand.command("rx", TicketCommand::Move { to: Site::B, reason: reason(), expect: Some(seen) }));
}

#[test]
fn a_request_that_comes_twice_keeps_no_gate_there_and_a_restored_gate_is_heard_again() {
    let mut hand = reach(State::Held);
    let heard = |hand: &Hand| hand.ticket("rx").gate(Site::A, &hand::id("host-a")).and_then(|gate| gate.heard);
    hand.there = vec![Site::B];
    let old = hand.sync(Site::A, |_, _| {});
    hand.tick(250, vec![Item::Gate(old.clone())]);
    let at = heard(&hand);
    hand.tick(250, vec![Item::Gate(old.clone())]);
    assert_eq!(heard(&hand), at, "the same request again");
    // As after many starts; then its state is restored and it counts them from the first again.
    let later = GateSync { seq: 9 << 32, nonce: 91, ..old.clone() };
    hand.tick(250, vec![Item::Gate(later)]);
    let at = heard(&hand);
    for nonce in 0..115 {
        hand.tick(250, vec![Item::Gate(GateSync { seq: (1 << 32) + nonce, nonce: 100 + nonce, ..old.clone() })]);
    }
    assert_eq!(heard(&hand), at, "it may be of a former life");
    hand.pass(1_500);
    for nonce in 200..203 {
        hand.tick(250, vec![Item::Gate(GateSync { seq: (1 << 32) + nonce, nonce: 100 + nonce, ..old.clone() })]);
    }
    assert_eq!(heard(&hand), Some(hand.replica.log_time));
}
