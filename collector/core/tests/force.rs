//! Break-glass: what two operators may do, and what one may not.

mod hand;

use bcp_core::failover::force::FORCE_WITHIN_MS;
use bcp_core::failover::{Guard, TicketCommand};
use bcp_core::policy::{Mode, TicketKind, TicketPolicy};
use bcp_wire::Site;
use bcp_wire::control::{Phase, StepOutcome};
use hand::{Hand, id, policy, ticket};

/// Lost with a standby that lacks data: nothing moves by itself.
fn lost_and_stale() -> Hand {
    let mut hand = Hand::new(policy(&[("rx", ticket(TicketKind::ActivePassive))]));
    hand.pass(500);
    hand.obey("rx");
    hand.in_sync = false;
    hand.pass(2_000);
    (hand.there, hand.silent) = (vec![Site::B], vec![Site::A]);
    hand.pass(20_000);
    assert_eq!((hand.ticket("rx").phase, hand.told("lacks acknowledged data") > 0), (Phase::Free, true));
    hand
}

fn to(site: Site, guard: Guard) -> TicketCommand {
    TicketCommand::Force { to: site, guard, reason: "b has to do".into(), expect: None }
}

fn stale_b() -> TicketCommand {
    to(Site::B, Guard::Freshness)
}

#[test]
fn two_operators_force_a_stale_target_and_it_is_written_down() {
    let mut hand = lost_and_stale();
    assert!(hand.command_by("op-1", "rx", stale_b()));
    assert_eq!(hand.ticket("rx").epoch.counter, 1, "one alone moves nothing");
    assert!(!hand.command_by("op-1", "rx", stale_b()));
    assert_eq!(hand.told("op-1 has asked to force rx; another operator has to ask the same"), 1);
    assert!(hand.command_by("op-2", "rx", stale_b()));
    assert_eq!((hand.ticket("rx").holder, hand.ticket("rx").epoch.counter), (Some(Site::B), 2));
    hand.pass(5_000);
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").force.clone()), (Phase::Held, None));
    let why = "forced around its freshness by op-1 and op-2: b has to do; b has to do";
    assert!(hand.told(why) > 0, "{:#?}", hand.story());
}

#[test]
fn a_forced_grant_waits_out_the_old_holder_as_any_other() {
    let mut hand = Hand::new(policy(&[("rx", ticket(TicketKind::ActivePassive))]));
    hand.pass(500);
    hand.obey("rx");
    hand.in_sync = false;
    hand.pass(2_000);
    hand.there = vec![Site::B];
    hand.pass(2_000);
    assert!(hand.command_by("op-1", "rx", stale_b()));
    assert!(hand.command_by("op-2", "rx", stale_b()));
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Draining, Some(Site::A)));
    hand.pass(9_250);
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Granting, Some(Site::B)));
    hand.pass(3_500);
    assert_eq!(hand.ticket("rx").phase, Phase::Granting, "{:#?}", hand.story());
    hand.pass(750);
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::B)));
}

#[test]
fn what_was_asked_lapses_and_says_why() {
    let mut hand = lost_and_stale();
    assert!(hand.command_by("op-1", "rx", stale_b()));
    hand.pass(FORCE_WITHIN_MS - 250);
    assert!(hand.ticket("rx").force.is_some());
    hand.pass(250);
    assert_eq!(hand.told("as op-1 asked: no other operator asked the same in time"), 1, "{:#?}", hand.story());
    assert!(hand.command_by("op-2", "rx", stale_b()), "asks anew");
    assert_eq!(hand.ticket("rx").epoch.counter, 1);
    assert!(hand.command_by("op-1", "rx", TicketCommand::Abort { reason: "no".into(), expect: None }));
    assert_eq!(hand.told("as op-2 asked: that was taken back"), 1, "{:#?}", hand.story());
    assert!(hand.command_by("op-3", "rx", stale_b()), "asks anew");
    assert_eq!(hand.ticket("rx").epoch.counter, 1);
    (hand.there, hand.silent) = (vec![Site::A, Site::B], vec![]);
    hand.pass(500);
    assert_eq!((hand.ticket("rx").holder, hand.ticket("rx").epoch.counter), (Some(Site::A), 2));
    assert_eq!(hand.told("as op-3 asked: it moves for another reason"), 1, "{:#?}", hand.story());
    assert_eq!((hand.ticket("rx").force.clone(), hand.told("is not forced to site")), (None, 3));
}

#[test]
fn who_asks_for_something_else_takes_the_place_of_the_first_and_is_not_its_second() {
    let app = TicketPolicy { depends_on: vec![id("directory")], ..ticket(TicketKind::ActivePassive) };
    let directory = TicketPolicy { mode: Mode::Off, ..ticket(TicketKind::ActivePassive) };
    let mut hand = Hand::new(policy(&[("app", app), ("directory", directory)]));
    hand.pass(2_000);
    assert!(hand.command_by("op-1", "app", to(Site::A, Guard::Dependency)));
    assert!(hand.command_by("op-2", "app", to(Site::B, Guard::Dependency)), "{:#?}", hand.story());
    assert_eq!((hand.ticket("app").epoch.counter, hand.ticket("app").phase), (0, Phase::Free));
    let told =
        "app is not forced to site a around its dependency as op-1 asked: something else is to be forced instead";
    assert_eq!(hand.told(told), 1, "{:#?}", hand.story());
    assert!(hand.command_by("op-1", "app", to(Site::B, Guard::Dependency)));
    assert_eq!(hand.ticket("app").holder, Some(Site::B));
}

#[test]
fn the_second_order_compares_what_its_operator_saw() {
    let mut hand = lost_and_stale();
    let seen = |hand: &Hand| Some((hand.ticket("rx").epoch, hand.ticket("rx").revision));
    let order = |expect| TicketCommand::Force { to: Site::B, guard: Guard::Freshness, reason: "x".into(), expect };
    let before = seen(&hand);
    assert!(hand.command_by("op-1", "rx", order(before)));
    assert!(!hand.command_by("op-2", "rx", order(before)), "the first order is not on that page");
    assert_eq!((hand.told("the ticket changed meanwhile"), hand.ticket("rx").epoch.counter), (1, 1));
    assert!(hand.command_by("op-2", "rx", order(seen(&hand))));
    assert_eq!(hand.ticket("rx").epoch.counter, 2);
    assert!(!hand.command_by("op-1", "rx", order(seen(&hand))), "once");
}

#[test]
fn who_asked_when_and_for_what_is_explained_and_both_names_are_in_the_ledger() {
    let mut hand = lost_and_stale();
    hand.command_by("op-1", "rx", stale_b());
    hand.pass(2_500);
    let asked =
        hand.replica.explain(&id("rx")).unwrap().inputs.into_iter().find(|input| input.name == "force").unwrap();
    assert_eq!(
        asked.value,
        "op-1 asked 2.5 s ago for site b around its freshness (b has to do); another operator has 597.5 s"
    );
    assert!(hand.replica.conditions.contains("ticket-force/rx"));
    hand.command_by("op-2", "rx", stale_b());
    let explained = hand.replica.explain(&id("rx")).unwrap();
    assert!(explained.decision.contains("forced around its freshness by op-1 and op-2"), "{}", explained.decision);
    assert!(explained.inputs.iter().all(|input| input.name != "force"));
    hand.pass(5_000);
    hand.obey("rx");
    let explained = hand.replica.explain(&id("rx")).unwrap();
    assert!(explained.did.iter().any(|did| did.contains("by op-1 and op-2")), "{:?}", explained.did);
    let asked = hand.entries.iter().find(|entry| entry.text.contains("is to be forced to site b around its freshness"));
    assert_eq!(asked.map(|entry| entry.author.as_str()), Some("operator:op-1"));
    let granted = hand
        .entries
        .iter()
        .any(|entry| entry.text.contains("was granted to site b") && entry.text.contains("op-1 and op-2"));
    assert!(granted && !hand.replica.conditions.contains("ticket-force/rx"), "{:#?}", hand.story());
}

#[test]
fn only_the_guard_that_is_named_is_gone_around() {
    let mut hand = lost_and_stale();
    assert!(!hand.command_by("op-1", "rx", to(Site::B, Guard::Dependency)));
    assert!(hand.told("the copy at site b lacks acknowledged data") > 1);
    assert!(!hand.command_by("op-1", "rx", to(Site::W, Guard::Freshness)), "w holds nothing");
    hand.command_by("op-1", "rx", TicketCommand::Freeze { reason: "look".into(), for_ms: 60_000, expect: None });
    assert!(!hand.command_by("op-1", "rx", stale_b()), "frozen is frozen");
    let mut hand = lost_and_stale();
    hand.there.clear();
    hand.pass(5_000);
    assert!(!hand.command_by("op-1", "rx", stale_b()), "nobody there could promote");
    let mut fresh = Hand::new(policy(&[("rx", ticket(TicketKind::ActivePassive))]));
    fresh.pass(500);
    fresh.obey("rx");
    assert!(!fresh.command_by("op-1", "rx", stale_b()));
    assert_eq!(fresh.told("freshness does not stand in the way"), 1);
}

#[test]
fn a_dependency_is_gone_around_by_its_own_name() {
    let app = TicketPolicy { depends_on: vec![id("directory")], ..ticket(TicketKind::ActivePassive) };
    let directory = TicketPolicy { mode: Mode::Off, ..ticket(TicketKind::ActivePassive) };
    let mut hand = Hand::new(policy(&[("app", app), ("directory", directory)]));
    hand.pass(2_000);
    assert_eq!(hand.ticket("app").phase, Phase::Free);
    assert!(!hand.command_by("op-1", "app", to(Site::A, Guard::Freshness)));
    assert!(hand.command_by("op-1", "app", to(Site::A, Guard::Dependency)));
    assert!(hand.command_by("op-2", "app", to(Site::A, Guard::Dependency)));
    assert!(hand.report("app", Site::A, StepOutcome::Done), "{:#?}", hand.story());
    assert_eq!(hand.ticket("app").holder, Some(Site::A));
}
