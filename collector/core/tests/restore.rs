//! A log that begins again from a backup.

#![allow(clippy::unwrap_used)]

mod hand;

use bcp_core::policy::{TicketKind, Timing};
use bcp_wire::control::{CopyRole, Phase};
use bcp_wire::{Epoch, Site};
use hand::{Hand, policy, ticket};

const ANEW: u32 = 1_790_000_000;
const WAIT: u64 = Timing::METRO.ttl_ms + Timing::METRO.acquire_after_ms;

fn held_by_a() -> Hand {
    let mut hand = Hand::new(policy(&[("rx", ticket(TicketKind::ActivePassive))]));
    hand.pass(500);
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::A)));
    hand
}

fn restored(hand: Hand, incarnation: u32) -> Hand {
    Hand::from(hand.replica.restored(incarnation).unwrap())
}

/// Both gates as they were when the log was lost, with what they had seen; the copy of `active` says that it is the active one.
fn pass(hand: &mut Hand, ms: u64, seen: Epoch, active: Option<Site>) {
    for _ in 0..ms / 500 {
        for site in [Site::A, Site::B] {
            let waits = hand.ticket("rx").restored.is_some();
            let told = hand.say(site, |_, said| {
                if waits {
                    said.seen = seen;
                    said.renew = (active == Some(site)).then_some(seen);
                    let role = if active == Some(site) { CopyRole::Active } else { CopyRole::Standby };
                    said.facts.as_mut().unwrap().role = role;
                }
            });
            if hand.ticket("rx").restored.is_some() {
                assert!(told.is_empty(), "its gates are told nothing");
            }
        }
        hand.tick(500, Vec::new());
    }
}

fn epoch(counter: u64) -> Epoch {
    Epoch { incarnation: 1, counter }
}

#[test]
fn nobody_is_believed_to_hold_it_and_nothing_is_granted_before_the_wait_is_over() {
    let mut hand = restored(held_by_a(), ANEW);
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Free, None));
    pass(&mut hand, WAIT - 500, epoch(1), None);
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Free, None));
    hand.pass(3_000);
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::A)));
    assert_eq!(hand.ticket("rx").epoch, Epoch { incarnation: ANEW, counter: 1 });
}

#[test]
fn the_same_backup_restored_twice_never_gives_an_epoch_twice() {
    let backup = held_by_a().replica;
    let epoch_of = |incarnation| {
        let mut hand = Hand::from(backup.clone().restored(incarnation).unwrap());
        hand.pass(WAIT + 3_000);
        hand.obey("rx");
        (hand.ticket("rx").epoch, hand.replica)
    };
    let (first, later) = epoch_of(ANEW);
    let (second, _) = epoch_of(ANEW + 7);
    assert!(second > first);
    assert!(later.restored(ANEW).is_err(), "an incarnation that was used is refused");
}

#[test]
fn where_it_went_since_the_backup_is_where_it_stays() {
    let mut hand = restored(held_by_a(), ANEW);
    // It had moved to b as epoch 1.2, and b goes on by the promises of a.
    pass(&mut hand, WAIT + 1_000, epoch(2), Some(Site::B));
    hand.pass(1_000);
    hand.obey("rx");
    assert_eq!((hand.ticket("rx").phase, hand.ticket("rx").holder), (Phase::Held, Some(Site::B)));
}

#[test]
fn where_nobody_says_where_it_went_people_are_asked() {
    let mut hand = restored(held_by_a(), ANEW);
    pass(&mut hand, WAIT + 30_000, epoch(2), None);
    let rx = hand.ticket("rx");
    assert_eq!((rx.phase, rx.frozen.is_some(), rx.epoch.counter), (Phase::Free, true, 0));
    assert!(hand.told("it moved after the backup") > 0, "{:#?}", hand.story());
}
