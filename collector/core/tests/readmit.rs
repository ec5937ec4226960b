//! Something was decided without these collectors: they do nothing about it until an operator says so.

mod hand;

use bcp_core::failover::TicketCommand;
use bcp_core::policy::TicketKind;
use bcp_wire::control::{Phase, TicketSync};
use bcp_wire::{Epoch, Id, Site};
use hand::{Hand, policy, ticket};

const FORCED: Epoch = Epoch { incarnation: 1_790_000_000, counter: 1 };

fn held_by_a() -> Hand {
    let mut hand = Hand::new(policy(&[("rx", ticket(TicketKind::ActivePassive))]));
    hand.pass(500);
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::A)));
    hand
}

/// The gate of b, as it is once two operators gave it the ticket.
fn forced(_: &Id, said: &mut TicketSync) {
    (said.seen, said.renew, said.closed, said.forced) = (FORCED, None, false, true);
}

fn readmit(holder: Option<Site>) -> TicketCommand {
    TicketCommand::Readmit { holder, reason: "a and w are back".into(), expect: None }
}

/// Both gates are heard for so long: a asks to renew, b says what it was given.
fn pass_forced(hand: &mut Hand, ms: u64) {
    for _ in 0..ms / 500 {
        hand.say(Site::A, |_, _| {});
        hand.say(Site::B, forced);
        hand.tick(500, Vec::new());
    }
}

#[test]
fn what_was_decided_elsewhere_ends_every_renewal_and_every_order() {
    let mut hand = held_by_a();
    assert!(hand.say(Site::A, |_, _| {})[0].renewed);
    let told = hand.say(Site::B, forced);
    assert!(told[0].epoch < FORCED && told[0].order.is_none() && !told[0].renewed);
    assert!(!hand.say(Site::A, |_, _| {})[0].renewed, "the old holder's lease ends");
    assert_eq!(hand.told("without these collectors; they do nothing about it"), 1);
    pass_forced(&mut hand, 60_000);
    assert_eq!(hand.ticket("rx").epoch.counter, 1, "nothing is granted");
    assert!(!hand.command("rx", TicketCommand::Move { to: Site::B, reason: "x".into(), expect: None }));
    assert!(hand.told("which are not readmitted yet") > 0, "{:#?}", hand.story());
    let can = hand.replica.ticket_views().pop().unwrap().can_failover_now;
    assert!(!can.ok && can.reasons.iter().any(|reason| reason.contains("without these collectors")), "{can:?}");
}

#[test]
fn the_site_that_runs_it_goes_on_under_a_higher_epoch() {
    let mut hand = held_by_a();
    hand.say(Site::B, forced);
    assert!(!hand.command("rx", readmit(Some(Site::B))), "a's lease may still run");
    assert!(hand.told("which may run it for another") > 0, "{:#?}", hand.story());
    pass_forced(&mut hand, 16_000);
    assert!(!hand.command("rx", readmit(Some(Site::A))), "that is not the one");
    assert!(!hand.command("rx", readmit(None)), "somebody runs it");
    assert!(hand.command("rx", readmit(Some(Site::B))));
    let rx = hand.ticket("rx");
    assert_eq!((rx.phase, rx.holder), (Phase::Held, Some(Site::B)), "nobody else could be active: no wait");
    assert!(rx.epoch > FORCED && rx.epoch.incarnation == FORCED.incarnation);
    hand.pass(2_000);
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::B)));
    assert!(!hand.command("rx", readmit(Some(Site::B))), "once is enough");
}

#[test]
fn where_nobody_runs_it_people_say_where_it_goes() {
    let mut hand = held_by_a();
    hand.say(Site::B, |name, said| {
        forced(name, said);
        (said.forced, said.closed) = (false, true);
    });
    for _ in 0..40 {
        hand.say(Site::A, |_, _| {});
        hand.tick(500, Vec::new());
    }
    assert!(hand.command("rx", readmit(None)));
    hand.pass(30_000);
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").frozen.is_some()), (Phase::Free, true));
    assert!(hand.command("rx", TicketCommand::Unfreeze { reason: "a has all of it".into(), expect: None }));
    hand.pass(1_000);
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").epoch > FORCED), (Phase::Held, true));
}

#[test]
fn an_incarnation_beyond_all_years_is_not_believed() {
    let mut hand = held_by_a();
    hand.say(Site::B, |_, said| said.seen = Epoch { incarnation: u32::MAX, counter: 1 });
    assert!(hand.say(Site::A, |_, _| {})[0].renewed);
}
