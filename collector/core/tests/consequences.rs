//! The loss of a site is one alarm; what follows from it is folded under it, and comes out when it outlives it.
#![allow(clippy::unwrap_used)]

mod hand;

use std::collections::BTreeMap;

use bcp_core::alarms::state::AFTER_CAUSE_MS;
use bcp_core::alarms::{AlarmView, AlarmVote, AlarmVotes, Priority, Standing};
use bcp_core::policy::{Mode, MoveWhen, Rpo, TicketKind};
use bcp_core::replica::Item;
use bcp_wire::Site;
use hand::{Hand, policy, ticket};

fn hand() -> Hand {
    let portal = bcp_core::policy::TicketPolicy {
        rpo: Rpo::Availability,
        mode: Mode::Auto,
        move_when: vec![MoveWhen::SiteLost],
        ..ticket(TicketKind::ActiveActive)
    };
    let mut hand = Hand::new(policy(&[("rx", ticket(TicketKind::ActivePassive)), ("portal", portal)]));
    hand.up = vec![Site::A, Site::B];
    hand.obey("rx");
    hand.pass(60_000);
    hand
}

/// What serve's rules say of a check: it needs the site it looks at and the one it looks from.
fn check(failing: bool) -> AlarmVote {
    AlarmVote {
        active: Some(failing),
        priority: Priority::Low,
        asset: "rx-a-from-b".to_owned(),
        fed_by: ["rx", "gw-b", "site-a", "site-b"].map(str::to_owned).into(),
        ..AlarmVote::default()
    }
}

/// Time passes, and observers b and w repeat what they say of the check.
fn pass(hand: &mut Hand, ms: u64, failing: bool) {
    for _ in 0..ms / 1_000 {
        let votes = BTreeMap::from([("check-failing/rx-a-from-b".to_owned(), check(failing))]);
        let said = |observer| AlarmVotes { observer, session: 1, full: true, votes: votes.clone() };
        hand.tick(0, [Site::B, Site::W].map(|site| Item::AlarmVotes(said(site))).into());
        hand.pass(1_000);
    }
}

fn alarms(hand: &Hand) -> Vec<AlarmView> {
    hand.replica.alarms.views(hand.replica.log_time)
}

fn standing(hand: &Hand, key: &str) -> Option<Standing> {
    alarms(hand).into_iter().find(|alarm| alarm.id == key).map(|alarm| alarm.standing)
}

fn open(hand: &Hand) -> Vec<String> {
    alarms(hand).into_iter().filter(|alarm| alarm.standing == Standing::Open).map(|alarm| alarm.id).collect()
}

const FOLDED: [&str; 3] = ["check-failing/rx-a-from-b", "ticket-no-failover/rx", "ticket-no-failover/portal"];

fn lose_a(hand: &mut Hand) {
    hand.silent = vec![Site::A];
    hand.there = vec![Site::B];
    hand.up = vec![Site::B];
    pass(hand, 15_000, true);
    for _ in 0..4 {
        hand.obey("rx");
        pass(hand, 15_000, true);
    }
    assert_eq!(hand.ticket("rx").holder, Some(Site::B), "{:#?}", hand.story());
}

#[test]
fn what_needs_a_lost_site_is_folded_under_its_loss() {
    let mut hand = hand();
    assert_eq!(open(&hand), [""; 0], "a healthy fleet has no alarm: {:#?}", hand.story());
    lose_a(&mut hand);
    assert_eq!(open(&hand), ["site-lost/a"], "{:#?}", alarms(&hand));
    for key in FOLDED {
        assert_eq!(standing(&hand, key), Some(Standing::Consequence), "{key}: {:#?}", alarms(&hand));
    }
    let lost = &alarms(&hand)[0];
    assert_eq!((lost.id.as_str(), lost.symptoms), ("site-lost/a", FOLDED.len()));
    assert!(FOLDED.iter().all(|key| lost.first_symptoms.iter().any(|found| found == key)), "{:?}", lost.first_symptoms);
    let told =
        |key: &str| hand.told(&format!("Alarm {key} (")) > 0 && hand.told(&format!("{key} (low) annunciated")) > 0;
    assert!(!told("check-failing/rx-a-from-b"), "{:#?}", hand.story());
}

#[test]
fn a_consequence_that_outlives_its_cause_comes_out() {
    let mut hand = hand();
    lose_a(&mut hand);
    hand.silent.clear();
    hand.there = vec![Site::A, Site::B];
    hand.up = vec![Site::A, Site::B];
    let check = "check-failing/rx-a-from-b";
    // The site is back, its check is not: nobody is called at once, then everybody.
    pass(&mut hand, 5_000, true);
    assert_eq!(standing(&hand, check), Some(Standing::Waiting), "{:#?}", alarms(&hand));
    assert_eq!(open(&hand), ["site-lost/a"], "returned, and not yet acknowledged");
    pass(&mut hand, AFTER_CAUSE_MS, true);
    assert_eq!(standing(&hand, check), Some(Standing::Open), "{:#?}", alarms(&hand));
    assert_eq!(hand.told("Alarm check-failing/rx-a-from-b (low) annunciated"), 1);
    // The portal takes load there again after a minute: nobody was called for that.
    assert_eq!(standing(&hand, "ticket-no-failover/portal"), None, "{:#?}", alarms(&hand));
    assert_eq!(hand.told("Alarm ticket-no-failover/portal (medium) annunciated"), 0);
    // The other ticket rests after its move, as the policy wants: listed, and nobody is called.
    assert_eq!(standing(&hand, "ticket-no-failover/rx"), Some(Standing::SuppressedByDesign), "{:#?}", alarms(&hand));
    assert_eq!(hand.told("Alarm ticket-no-failover/rx (medium) annunciated"), 0);
}

#[test]
fn what_readings_say_of_a_lost_site_is_explained_by_its_loss() {
    let mut hand = hand();
    hand.silent = vec![Site::A];
    hand.there = vec![Site::B];
    let vote = AlarmVote {
        active: Some(true),
        priority: Priority::Critical,
        asset: "site-a".to_owned(),
        causal: true,
        ..AlarmVote::default()
    };
    for _ in 0..20 {
        let votes = BTreeMap::from([("several-units-hot/site-a".to_owned(), vote.clone())]);
        hand.tick(0, vec![Item::AlarmVotes(AlarmVotes { observer: Site::B, session: 1, full: true, votes })]);
        hand.pass(1_000);
    }
    assert_eq!(standing(&hand, "several-units-hot/site-a"), Some(Standing::Consequence), "{:#?}", alarms(&hand));
    assert_eq!(standing(&hand, "site-lost/a"), Some(Standing::Open));
}
