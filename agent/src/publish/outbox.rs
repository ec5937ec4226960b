//! PURE: which payload goes next, and on which lane.
//!
//! Knows: live, backlog, in flight, delivered but not committed; all by number. Refuses to know: payloads, MQTT, clocks.
//! Times are milliseconds of a monotonic clock of this process.
//!
//! Order: events, live data, backlog (oldest first, at a bounded rate). A payload leaves only by [`Outbox::forget`]: an
//! acknowledgement of the broker merely starts the wait for the collector's.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bcp_wire::{Lane, Watermark};

use crate::spool::{Class, Key};

/// A data payload older than this is history: rules must not judge it as "now".
pub const LIVE_FOR_MS: u64 = 5_000;
/// The collector's watermark gets this long to arrive before a payload it should have covered is sent again.
const COMMIT_LAG_MS: u64 = 2_000;
/// The wait for a silent collector doubles up to 2^6 times `resend_after`.
const MAX_DOUBLINGS: u8 = 6;

/// Numbers that shape the order.
#[derive(Debug, Clone, Copy)]
pub struct OutboxConfig {
    pub window: usize,
    pub backlog_per_s: u32,
    pub resend_after_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Delivered {
    class: Class,
    due_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    live: VecDeque<(Key, u64)>,
    events: BTreeSet<Key>,
    backlog: BTreeSet<Key>,
    in_flight: HashMap<Key, Class>,
    delivered: BTreeMap<Key, Delivered>,
    due: BTreeSet<(u64, Key)>,
    resent: HashMap<Key, u8>,
    allowance: f64,
    allowed_at_ms: u64,
}

impl Outbox {
    #[must_use]
    pub fn new(config: OutboxConfig, now_ms: u64) -> Outbox {
        Outbox {
            config,
            live: VecDeque::new(),
            events: BTreeSet::new(),
            backlog: BTreeSet::new(),
            in_flight: HashMap::new(),
            delivered: BTreeMap::new(),
            due: BTreeSet::new(),
            resent: HashMap::new(),
            allowance: 0.0,
            allowed_at_ms: now_ms,
        }
    }

    pub fn resettle(&mut self, config: OutboxConfig) {
        self.config = config;
    }

    /// A payload was stored just now.
    pub fn accept(&mut self, key: Key, class: Class, now_ms: u64) {
        match class {
            Class::Data => self.live.push_back((key, now_ms)),
            Class::Event => {
                self.events.insert(key);
            }
        }
    }

    /// A payload of an earlier start, or one that has to be sent again.
    pub fn restore(&mut self, key: Key, class: Class) {
        match class {
            Class::Data => self.backlog.insert(key),
            Class::Event => self.events.insert(key),
        };
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Payloads not handed over yet.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.live.len() + self.events.len() + self.backlog.len()
    }

    /// Moves what has become old, and what has waited long enough for its commit.
    pub fn advance(&mut self, now_ms: u64) {
        while let Some((key, born_ms)) = self.live.front().copied()
            && now_ms.saturating_sub(born_ms) > LIVE_FOR_MS
        {
            self.live.pop_front();
            self.backlog.insert(key);
        }
        while let Some((due_ms, key)) = self.due.first().copied()
            && due_ms <= now_ms
        {
            self.due.pop_first();
            if let Some(delivered) = self.delivered.remove(&key) {
                let doublings = self.resent.entry(key).or_insert(0);
                *doublings = (*doublings + 1).min(MAX_DOUBLINGS);
                self.restore(key, delivered.class);
            }
        }
        // At most a tenth of a second of backlog at once, so that it stays a trickle beside live data.
        let per_ms = f64::from(self.config.backlog_per_s) / 1_000.0;
        #[expect(clippy::cast_precision_loss, reason = "a span of milliseconds is far below 2^52")]
        let earned = now_ms.saturating_sub(self.allowed_at_ms) as f64 * per_ms;
        self.allowance = (self.allowance + earned).min((per_ms * 100.0).max(1.0));
        self.allowed_at_ms = now_ms;
    }

    /// The payload to hand over now; it counts as in flight from here on.
    pub fn next(&mut self) -> Option<(Key, Class, Lane)> {
        if self.in_flight.len() >= self.config.window {
            return None;
        }
        let (key, class, lane) = if let Some(key) = self.events.pop_first() {
            (key, Class::Event, Lane::Event)
        } else if let Some((key, _)) = self.live.pop_front() {
            (key, Class::Data, Lane::Data)
        } else if self.allowance >= 1.0
            && let Some(key) = self.backlog.pop_first()
        {
            self.allowance -= 1.0;
            (key, Class::Data, Lane::Hist)
        } else {
            return None;
        };
        self.in_flight.insert(key, class);
        Some((key, class, lane))
    }

    /// The broker has it. It stays owed until the collector has it too.
    pub fn delivered(&mut self, key: Key, now_ms: u64) {
        let Some(class) = self.in_flight.remove(&key) else { return };
        let doublings = self.resent.get(&key).copied().unwrap_or(0);
        let due_ms = now_ms.saturating_add(self.config.resend_after_ms << doublings);
        self.delivered.insert(key, Delivered { class, due_ms });
        self.due.insert((due_ms, key));
    }

    /// The session ended before the broker had it.
    pub fn failed(&mut self, key: Key) {
        if let Some(class) = self.in_flight.remove(&key) {
            self.restore(key, class);
        }
    }

    /// A new session: the broker may have lost what it acknowledged. The watermark gets a moment to say otherwise.
    pub fn reconnected(&mut self, now_ms: u64) {
        let all: Vec<Key> = self.delivered.keys().copied().collect();
        self.expect_soon(all, now_ms);
    }

    /// Payloads that a watermark passed over will not come by themselves.
    pub fn passed_over(&mut self, mark: &Watermark, now_ms: u64) {
        for one in &mark.marks {
            let range = Key { incarnation: one.i, seq: 0 }..=Key { incarnation: one.i, seq: one.through };
            let missing: Vec<Key> = self.delivered.range(range).map(|(key, _)| *key).collect();
            self.expect_soon(missing, now_ms);
        }
    }

    fn expect_soon(&mut self, keys: Vec<Key>, now_ms: u64) {
        for key in keys {
            if let Some(delivered) = self.delivered.get_mut(&key) {
                let doublings = self.resent.get(&key).copied().unwrap_or(0);
                let soon_ms = now_ms.saturating_add(COMMIT_LAG_MS << doublings);
                if soon_ms < delivered.due_ms {
                    self.due.remove(&(delivered.due_ms, key));
                    delivered.due_ms = soon_ms;
                    self.due.insert((soon_ms, key));
                }
            }
        }
    }

    /// Committed by the collector, or lost for good.
    pub fn forget(&mut self, key: Key) {
        self.in_flight.remove(&key);
        self.resent.remove(&key);
        if let Some(delivered) = self.delivered.remove(&key) {
            self.due.remove(&(delivered.due_ms, key));
        }
        self.backlog.remove(&key);
        self.events.remove(&key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bcp_wire::{Lane, Site, Watermark, WatermarkMark};

    use super::{Outbox, OutboxConfig};
    use crate::spool::{Class, Key};

    fn outbox() -> Outbox {
        Outbox::new(OutboxConfig { window: 4, backlog_per_s: 10, resend_after_ms: 10_000 }, 0)
    }

    const fn key(seq: u64) -> Key {
        Key { incarnation: 1, seq }
    }

    fn mark(through: u64, holes: Vec<(u64, u64)>) -> Watermark {
        Watermark { v: 1, collector: Site::A, marks: vec![WatermarkMark { i: 1, through, holes }] }
    }

    #[test]
    fn events_then_live_then_paced_backlog() {
        let mut outbox = outbox();
        outbox.restore(key(1), Class::Data);
        outbox.restore(key(2), Class::Data);
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
        assert_eq!(
            outbox.next().map(|(k, _, lane)| (k.seq, lane)),
            Some((1, Lane::Hist)),
            "the watermark did not move"
        );
        outbox.delivered(key(1), 10_020);
        outbox.advance(29_000);
        assert_eq!(outbox.unsent(), 0, "the wait doubles");
        outbox.forget(key(1));
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
        outbox.forget(key(1));
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
}
