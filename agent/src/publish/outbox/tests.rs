use std::collections::{BTreeMap, BTreeSet};

use bcp_wire::{Lane, Site, Watermark, WatermarkMark};

use super::{Outbox, OutboxConfig};
use super::{SHARE_FIRST, SHARE_MIN, UNCOMMITTED_MAX};
use crate::spool::{Class, Key, KeyRange};

fn outbox() -> Outbox {
    Outbox::new(OutboxConfig { window: 4, backlog_per_s: 10, resend_after_ms: 10_000 }, 0)
}

const fn key(seq: u64) -> Key {
    Key { incarnation: 1, seq }
}

const fn one(seq: u64) -> KeyRange {
    KeyRange::one(key(seq))
}

fn mark(through: u64, holes: Vec<(u64, u64)>) -> Watermark {
    Watermark { v: 1, collector: Site::A, marks: vec![WatermarkMark { i: 1, through, holes }] }
}

#[test]
fn events_then_live_then_paced_backlog() {
    let mut outbox = outbox();
    outbox.restore(one(1), Class::Data);
    outbox.restore(one(2), Class::Data);
    outbox.accept(key(10), Class::Data, 0);
    outbox.accept(key(11), Class::Event, 0);
    outbox.advance(100);
    let order: Vec<_> = std::iter::from_fn(|| outbox.next()).map(|(k, _, lane)| (k.seq, lane)).collect();
    assert_eq!(order, [(11, Lane::Event), (10, Lane::Data), (1, Lane::Hist)], "one backlog payload per 100 ms");
    outbox.advance(200);
    assert_eq!(outbox.next().map(|(k, ..)| k.seq), Some(2));
    outbox.accept(key(12), Class::Data, 200);
    assert_eq!(outbox.next(), None, "window");
}

#[test]
fn old_data_is_history_and_events_stay_events() {
    let mut outbox = outbox();
    outbox.accept(key(1), Class::Data, 0);
    outbox.accept(key(2), Class::Event, 0);
    outbox.advance(5_001);
    let lanes: Vec<_> = std::iter::from_fn(|| outbox.next()).map(|(_, _, lane)| lane).collect();
    assert_eq!(lanes, [Lane::Event, Lane::Hist]);
}

#[test]
fn a_broker_acknowledgement_frees_nothing() {
    let mut outbox = outbox();
    outbox.accept(key(1), Class::Data, 0);
    outbox.next().unwrap();
    outbox.delivered(key(1), 10);
    outbox.advance(10_009);
    assert_eq!(outbox.unsent(), 0);
    outbox.advance(10_010);
    assert_eq!(outbox.next().map(|(k, _, lane)| (k.seq, lane)), Some((1, Lane::Hist)), "the watermark did not move");
    outbox.delivered(key(1), 10_020);
    outbox.advance(29_000);
    assert_eq!(outbox.unsent(), 0, "the wait doubles");
    outbox.forget(&one(1));
    outbox.advance(1_000_000);
    assert_eq!((outbox.unsent(), outbox.in_flight()), (0, 0));
}

#[test]
fn holes_and_new_sessions_hasten_it() {
    let mut outbox = outbox();
    for seq in 1..=3 {
        outbox.accept(key(seq), Class::Data, 0);
        outbox.next().unwrap();
        outbox.delivered(key(seq), 0);
    }
    outbox.forget(&one(1));
    outbox.passed_over(&mark(2, vec![(2, 2)]), 100);
    outbox.advance(2_100);
    assert_eq!(outbox.next().map(|(k, ..)| k.seq), Some(2));
    outbox.failed(key(2));
    outbox.reconnected(3_000);
    outbox.advance(5_000);
    let all: Vec<_> = std::iter::from_fn(|| {
        outbox.advance(6_000);
        outbox.next()
    })
    .map(|(k, ..)| k.seq)
    .collect();
    assert!(all.contains(&2));
    outbox.advance(7_000);
    let rest: Vec<_> = all.into_iter().chain(outbox.next().map(|(k, ..)| k.seq)).collect();
    assert_eq!(rest, [2, 3]);
}

/// As many as may go, all taken by the broker at once.
fn deliver(outbox: &mut Outbox, now_ms: u64) -> Vec<u64> {
    outbox.advance(now_ms);
    let mut sent = Vec::new();
    while let Some((key, ..)) = outbox.next() {
        outbox.delivered(key, now_ms);
        sent.push(key.seq);
    }
    sent
}

/// A collector that keeps as many starts as a watermark has marks, and refuses what is older than them.
#[test]
fn payloads_of_many_starts_all_get_through() {
    const STARTS: u64 = 100;
    let mut outbox = Outbox::new(OutboxConfig { window: 64, backlog_per_s: 1_000, resend_after_ms: 10_000 }, 0);
    for incarnation in 1..=STARTS {
        outbox.restore(KeyRange { incarnation, from: 1, through: 1 }, Class::Event);
        outbox.restore(KeyRange { incarnation, from: 2, through: 20 }, Class::Data);
    }
    let mut kept: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut now_ms = 0;
    for seq in 1..=1_000 {
        now_ms += 500;
        outbox.accept(Key { incarnation: STARTS + 1, seq }, Class::Data, now_ms);
        outbox.advance(now_ms);
        while let Some((key, ..)) = outbox.next() {
            outbox.delivered(key, now_ms);
            let oldest = kept.keys().next().copied().unwrap_or(0);
            if !kept.contains_key(&key.incarnation) && kept.len() >= Watermark::MAX_MARKS {
                assert!(key.incarnation > oldest, "{key:?} would be refused, and so for ever");
                kept.remove(&oldest);
            }
            kept.entry(key.incarnation).or_default().insert(key.seq);
        }
        let freed: Vec<KeyRange> = kept
            .iter()
            .flat_map(|(i, seqs)| seqs.iter().map(|seq| KeyRange::one(Key { incarnation: *i, seq: *seq })))
            .collect();
        outbox.committed(&freed, now_ms);
        if outbox.unsent() == 0 {
            break;
        }
    }
    assert_eq!((outbox.unsent(), outbox.delivered.len()), (0, 0));
}

#[test]
fn what_cannot_be_read_now_waits_and_others_go() {
    let mut outbox = outbox();
    outbox.restore(KeyRange { incarnation: 1, from: 1, through: 5 }, Class::Data);
    outbox.restore(one(6), Class::Event);
    outbox.advance(1_000);
    assert_eq!(outbox.next().map(|(k, ..)| k.seq), Some(6));
    assert_eq!(outbox.next().map(|(k, ..)| k.seq), Some(1));
    outbox.put_off(key(1), (key(1), key(3)), 5_000);
    assert_eq!((outbox.in_flight(), outbox.unsent()), (1, 5));
    let mut then = |now_ms| {
        outbox.advance(now_ms);
        let next = outbox.next().map(|(k, ..)| k.seq);
        next.into_iter().for_each(|seq| outbox.delivered(key(seq), now_ms));
        next
    };
    assert_eq!((then(1_100), then(1_200), then(4_900)), (Some(4), Some(5), None));
    assert_eq!((then(5_000), then(5_100)), (Some(1), Some(2)));
    outbox.forget(&one(3));
    outbox.advance(6_000);
    assert_eq!(outbox.next(), None, "committed meanwhile");
}

fn of_a_long_outage(backlog: u64) -> Outbox {
    let mut outbox = Outbox::new(OutboxConfig { window: 128, backlog_per_s: 1_000_000, resend_after_ms: 10_000 }, 0);
    outbox.restore(KeyRange { incarnation: 1, from: 1, through: backlog }, Class::Data);
    outbox
}

#[test]
fn the_backlog_takes_what_the_collector_commits_soon() {
    let mut outbox = of_a_long_outage(1_000_000);
    let (mut now_ms, mut committed) = (0, 0);
    // Ten rounds, each committed after so long; what the last one sent.
    let mut rounds = |after_ms: u64| {
        let mut most = 0;
        for _ in 0..10 {
            most = deliver(&mut outbox, now_ms + 100).len();
            now_ms += after_ms;
            let freed = KeyRange { incarnation: 1, from: committed + 1, through: committed + most as u64 };
            committed = freed.through;
            outbox.committed(&[freed], now_ms);
        }
        most
    };
    assert_eq!(rounds(500), UNCOMMITTED_MAX, "commits come soon");
    assert_eq!(rounds(1_500), SHARE_MIN, "and now they come late");
}

#[test]
fn some_of_the_backlog_goes_where_nothing_new_is_confirmed() {
    let mut outbox = of_a_long_outage(10_000);
    // The watermark waits for the backlog, so live payloads alone fill the share, and none of them is confirmed.
    (100_001..=101_000).for_each(|seq| outbox.accept(key(seq), Class::Data, 100));
    let old = |sent: Vec<u64>| sent.into_iter().filter(|seq| *seq <= 10_000).collect::<Vec<_>>();
    assert_eq!(old(deliver(&mut outbox, 100)), (1..=64).collect::<Vec<_>>());
    assert_eq!(old(deliver(&mut outbox, 200)), Vec::<u64>::new(), "no more before some of it is committed");
    outbox.committed(&[KeyRange { incarnation: 1, from: 1, through: 64 }], 300);
    assert_eq!(old(deliver(&mut outbox, 400)), (65..=128).collect::<Vec<_>>());
}

#[test]
fn a_silent_collector_stops_the_backlog_and_never_live_data() {
    let mut outbox = of_a_long_outage(10_000);
    assert_eq!(deliver(&mut outbox, 100).len(), SHARE_FIRST);
    let mut sent_live = 0;
    for seq in 100_001..=120_000 {
        let now_ms = (seq - 100_000) * 20;
        outbox.accept(key(seq), Class::Data, now_ms);
        sent_live += deliver(&mut outbox, now_ms).iter().filter(|sent| **sent == seq).count();
    }
    assert_eq!(sent_live, 20_000, "live data goes at once");
    assert!(outbox.delivered.len() <= UNCOMMITTED_MAX && outbox.resent.len() <= UNCOMMITTED_MAX);
    assert_eq!(outbox.unsent() + outbox.delivered.len() as u64, 30_000, "and all of it is still owed");
    assert!(outbox.live.is_empty() && outbox.backlog.iter().count() <= UNCOMMITTED_MAX);
}
