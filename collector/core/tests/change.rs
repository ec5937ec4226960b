//! What a new policy may change about a ticket that is in use, and what it may not.

mod hand;

use std::collections::BTreeMap;

use bcp_core::failover::TicketCommand;
use bcp_core::policy::{Mode, Policy, ServicePolicy, TicketKind, TicketPolicy};
use bcp_core::replica::Item;
use bcp_wire::Site;
use hand::{Hand, id, passive, policy, ticket};

fn with(rule: TicketPolicy) -> Policy {
    let mut policy = policy(&[("rx", rule)]);
    policy.services.insert(id("ry"), ServicePolicy::default());
    policy
}

fn without(site: Site) -> TicketPolicy {
    let mut rule = passive();
    rule.sites.retain(|known| *known != site);
    rule.gates.remove(&site);
    rule.preferred = None;
    rule
}

fn held_by_a(kind: TicketKind) -> Hand {
    let mut hand = Hand::new(with(ticket(kind)));
    hand.pass(500);
    hand.obey("rx");
    hand
}

/// Whether it was taken over, and what the ledger says.
fn propose(hand: &mut Hand, policy: &Policy) -> (bool, String) {
    hand.tick(250, vec![Item::Policy(Box::new(policy.clone()))]);
    let said = hand.entries.iter().rev().find(|entry| entry.subject == "policy").map(|entry| entry.text.clone());
    (hand.replica.policy.as_ref() == Some(policy), said.unwrap_or_default())
}

#[test]
fn what_would_stop_a_held_ticket_is_refused_with_its_reason() {
    let other_kind = TicketPolicy { kind: TicketKind::ActiveActive, ..passive() };
    let other_service = TicketPolicy { service: id("ry"), ..passive() };
    let other_gate = TicketPolicy {
        gates: BTreeMap::from([(Site::A, vec![id("new-a")]), (Site::B, vec![id("host-b")])]),
        ..passive()
    };
    let mut nothing = with(passive());
    nothing.tickets.clear();
    for (new, says) in [
        (with(without(Site::A)), "ticket.rx.sites: site a holds it, or may (epoch 1.1); move it to another site first"),
        (with(other_kind), "ticket.rx.kind: its kind cannot change while site a holds it"),
        (with(other_service), "ticket.rx.service: its service cannot change while site a holds it"),
        (with(other_gate), "ticket.rx.gates: site a holds it (epoch 1.1) and none of the gates that renew it"),
        (nothing, "ticket.rx.sites: rx is held by site a (epoch 1.1) and its service would stop"),
    ] {
        let mut hand = held_by_a(TicketKind::ActivePassive);
        let (taken, said) = propose(&mut hand, &new);
        assert!(!taken && said.contains(says), "{said}");
        // It is proposed again and again, and told once; the holder goes on.
        propose(&mut hand, &new);
        assert_eq!(hand.told("A policy was refused"), 1);
        hand.pass(30_000);
        assert_eq!((hand.ticket("rx").holder, hand.ticket("rx").epoch.counter), (Some(Site::A), 1));
    }
}

#[test]
fn what_leaves_the_holder_alone_is_taken_over() {
    let one_more = TicketPolicy {
        gates: BTreeMap::from([(Site::A, vec![id("host-a"), id("more-a")]), (Site::B, vec![id("host-b")])]),
        ..passive()
    };
    for new in [without(Site::B), TicketPolicy { mode: Mode::Off, ..passive() }, one_more] {
        let mut hand = held_by_a(TicketKind::ActivePassive);
        let (taken, said) = propose(&mut hand, &with(new));
        assert!(taken, "{said}");
    }
}

#[test]
fn a_site_is_left_out_once_the_ticket_has_moved_away() {
    let mut hand = held_by_a(TicketKind::ActivePassive);
    let to_b = TicketCommand::Move { to: Site::B, reason: "drained".into(), expect: None };
    assert!(hand.command("rx", to_b));
    let (taken, said) = propose(&mut hand, &with(without(Site::B)));
    assert!(!taken && said.contains("site b holds it, or may"), "where it is going counts as well: {said}");
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::B));
    let (taken, said) = propose(&mut hand, &with(without(Site::A)));
    assert!(taken, "{said}");
    assert_eq!(hand.replica.failover.refused_policy, None);
}

#[test]
fn a_holder_that_is_gone_counts_until_it_has_surely_stopped() {
    let mut hand = held_by_a(TicketKind::ActivePassive);
    assert!(hand.command("rx", TicketCommand::Freeze { reason: "taken out".into(), for_ms: 3_600_000, expect: None }));
    hand.there = vec![Site::B];
    hand.pass(14_500);
    let (taken, said) = propose(&mut hand, &with(without(Site::A)));
    assert!(!taken && said.contains("site a holds it, or may"), "{said}");
    hand.pass(1_000);
    let (taken, said) = propose(&mut hand, &with(without(Site::A)));
    assert!(taken, "{said}");
}

#[test]
fn a_site_that_serves_its_share_is_not_left_out() {
    let mut hand = held_by_a(TicketKind::ActiveActive);
    let alone = |site: Site| {
        let mut rule = ticket(TicketKind::ActiveActive);
        rule.sites.retain(|known| *known == site);
        rule.gates.retain(|known, _| *known == site);
        with(rule)
    };
    let (taken, said) = propose(&mut hand, &alone(Site::B));
    assert!(!taken && said.contains("site a holds it, or may"), "{said}");
    assert!(hand.command("rx", TicketCommand::Move { to: Site::B, reason: "drained".into(), expect: None }));
    let (taken, said) = propose(&mut hand, &alone(Site::B));
    assert!(taken, "{said}");
}
