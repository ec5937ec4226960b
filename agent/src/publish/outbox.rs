//! PURE: which payload goes next, and on which lane.
//!
//! Knows: live, backlog, in flight, delivered but not committed; by ranges of numbers, and by number only what is under
//! way. Refuses to know: payloads, MQTT, clocks. Times are milliseconds of a monotonic clock of this process.
//!
//! Order: events, live data, backlog (oldest first, at a bounded rate). A payload leaves only by [`Outbox::forget`]: an
//! acknowledgement of the broker merely starts the wait for the collector's.
//!
//! A collector keeps the numbers of so many starts of an agent and no more. So payloads of a few starts are under way at
//! once, the oldest first, and those of the next one follow when all of one is committed.
//!
//! The backlog waits behind live data at the collector too, where nothing sorts them. So only so much of it is under way as
//! the collector commits at once: its share grows while commits come soon, and falls when they come late or not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bcp_wire::{Lane, Watermark};

use crate::spool::{Class, Key, KeyRange, Ranges};

/// A data payload older than this is history: rules must not judge it as "now".
pub const LIVE_FOR_MS: u64 = 5_000;
/// Live payloads that came within this are moved to the backlog together.
const LIVE_GRAIN_MS: u64 = 100;
/// The collector's watermark gets this long to arrive before a payload it should have covered is sent again.
const COMMIT_LAG_MS: u64 = 2_000;
/// The wait for a silent collector doubles up to 2^6 times `resend_after`.
const MAX_DOUBLINGS: u8 = 6;
/// Payloads that are remembered one by one until they are committed; beyond it the oldest go back to the backlog. A few
/// hundred KiB.
const UNCOMMITTED_MAX: usize = 4_096;
/// Bounds of the backlog's share: payloads under way above which no more of the backlog is added than the least.
const SHARE_MIN: usize = 64;
const SHARE_FIRST: usize = 256;
/// The newest of what was committed just now had been with the broker for longer than this: the collector is behind.
const LATE_MS: u64 = 500;

/// Earlier starts of which payloads are under way at once: half of what a watermark tells of.
const STARTS_AT_ONCE: usize = Watermark::MAX_MARKS / 2;

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
    at_ms: u64,
    due_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    /// With the time when the first of each range came.
    live: VecDeque<(KeyRange, u64)>,
    events: Ranges,
    backlog: Ranges,
    /// Events that wait with the backlog, because too much is under way already.
    late_events: Ranges,
    /// By class: what cannot be read now, and what of it comes back when.
    put_off: [Ranges; 2],
    put_off_until: BTreeSet<(u64, Key, Key, Class)>,
    /// This start; its payloads go in any case.
    newest: u64,
    /// The last of the earlier starts whose turn it is, as long as that is known.
    horizon: Option<u64>,
    in_flight: BTreeMap<Key, Class>,
    delivered: BTreeMap<Key, Delivered>,
    due: BTreeSet<(u64, Key)>,
    resent: BTreeMap<Key, u8>,
    allowance: f64,
    allowed_at_ms: u64,
    share: usize,
    /// What is under way of the backlog: in flight, or delivered and not committed.
    old: BTreeSet<Key>,
}

impl Outbox {
    #[must_use]
    pub fn new(config: OutboxConfig, now_ms: u64) -> Outbox {
        Outbox {
            config,
            live: VecDeque::new(),
            events: Ranges::default(),
            backlog: Ranges::default(),
            late_events: Ranges::default(),
            put_off: [Ranges::default(), Ranges::default()],
            put_off_until: BTreeSet::new(),
            newest: 0,
            horizon: None,
            in_flight: BTreeMap::new(),
            delivered: BTreeMap::new(),
            due: BTreeSet::new(),
            resent: BTreeMap::new(),
            allowance: 0.0,
            allowed_at_ms: now_ms,
            share: SHARE_FIRST,
            old: BTreeSet::new(),
        }
    }

    pub fn resettle(&mut self, config: OutboxConfig) {
        self.config = config;
    }

    /// A payload was stored just now.
    pub fn accept(&mut self, key: Key, class: Class, now_ms: u64) {
        self.newest = self.newest.max(key.incarnation);
        if class == Class::Event {
            self.events.insert(KeyRange::one(key));
            return;
        }
        match self.live.back_mut() {
            Some((range, born_ms))
                if range.incarnation == key.incarnation
                    && range.through.checked_add(1) == Some(key.seq)
                    && now_ms.saturating_sub(*born_ms) < LIVE_GRAIN_MS =>
            {
                range.through = key.seq;
            }
            _ => self.live.push_back((KeyRange::one(key), now_ms)),
        }
    }

    /// Payloads of an earlier start, or some that have to be sent again.
    pub fn restore(&mut self, range: KeyRange, class: Class) {
        self.horizon = None;
        match class {
            Class::Data => self.backlog.insert(range),
            Class::Event => self.events.insert(range),
        }
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Payloads not handed over yet.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        let live = self.live.iter().map(|(range, _)| range.count());
        let [data, events] = &self.put_off;
        let waiting = [&self.events, &self.backlog, &self.late_events, data, events];
        live.chain(waiting.map(Ranges::count)).fold(0, u64::saturating_add)
    }

    /// Moves what has become old, and what has waited long enough for its commit.
    pub fn advance(&mut self, now_ms: u64) {
        while let Some((range, born_ms)) = self.live.front().copied()
            && now_ms.saturating_sub(born_ms) > LIVE_FOR_MS
        {
            self.live.pop_front();
            self.backlog.insert(range);
        }
        while let Some((until_ms, first, last, class)) = self.put_off_until.first().copied()
            && until_ms <= now_ms
        {
            self.put_off_until.pop_first();
            for range in self.put_off[class.index()].remove(first, last) {
                self.restore(range, class);
            }
        }
        let mut overdue = false;
        while let Some((due_ms, key)) = self.due.first().copied()
            && due_ms <= now_ms
        {
            overdue = true;
            self.due.pop_first();
            self.old.remove(&key);
            if let Some(delivered) = self.delivered.remove(&key) {
                let doublings = self.resent.entry(key).or_insert(0);
                *doublings = (*doublings + 1).min(MAX_DOUBLINGS);
                if self.resent.len() > UNCOMMITTED_MAX {
                    self.resent.pop_first();
                }
                self.restore(KeyRange::one(key), delivered.class);
            }
        }
        if overdue {
            self.share = (self.share / 2).max(SHARE_MIN);
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
        let horizon = self.horizon();
        let (key, class, lane) = if let Some(key) = pop(&mut self.events, horizon, self.newest) {
            (key, Class::Event, Lane::Event)
        } else if let Some(key) = self.pop_live() {
            (key, Class::Data, Lane::Data)
        } else {
            // An eighth of the window stays free for what is measured next.
            let room = self.config.window - self.config.window / 8;
            // Some of the backlog goes in any case: what is missing of it may be what the watermark waits for.
            let crowded = self.in_flight.len() + self.delivered.len() >= self.share && self.old.len() >= SHARE_MIN;
            if self.in_flight.len() >= room || crowded || self.allowance < 1.0 {
                return None;
            }
            let old = if let Some(key) = pop(&mut self.late_events, horizon, self.newest) {
                (key, Class::Event, Lane::Event)
            } else {
                (pop(&mut self.backlog, horizon, self.newest)?, Class::Data, Lane::Hist)
            };
            self.allowance -= 1.0;
            self.old.insert(old.0);
            old
        };
        self.in_flight.insert(key, class);
        Some((key, class, lane))
    }

    /// What cannot be read now does not count: it may be for long, and others do not wait for it.
    fn horizon(&mut self) -> u64 {
        if let Some(horizon) = self.horizon {
            return horizon;
        }
        let mut horizon = 0;
        for turn in 0..STARTS_AT_ONCE {
            let from = Key { incarnation: horizon + u64::from(turn > 0), seq: 0 };
            let waiting = [&self.events, &self.backlog, &self.late_events];
            let waiting = waiting.into_iter().filter_map(|waiting| waiting.first_from(from));
            let sent = self.in_flight.range(from..).next().map(|(key, _)| *key);
            let taken = self.delivered.range(from..).next().map(|(key, _)| *key);
            match waiting.chain(sent).chain(taken).min() {
                Some(first) if first.incarnation < u64::MAX => horizon = first.incarnation,
                Some(_) | None => {
                    horizon = u64::MAX;
                    break;
                }
            }
        }
        self.horizon = Some(horizon);
        horizon
    }

    fn pop_live(&mut self) -> Option<Key> {
        let (range, _) = self.live.front_mut()?;
        let first = range.first();
        if range.from < range.through {
            range.from += 1;
        } else {
            self.live.pop_front();
        }
        Some(first)
    }

    /// The broker has it. It stays owed until the collector has it too.
    pub fn delivered(&mut self, key: Key, now_ms: u64) {
        let Some(class) = self.in_flight.remove(&key) else { return };
        let doublings = self.resent.get(&key).copied().unwrap_or(0);
        let due_ms = now_ms.saturating_add(self.config.resend_after_ms << doublings);
        self.delivered.insert(key, Delivered { class, at_ms: now_ms, due_ms });
        self.due.insert((due_ms, key));
        if self.delivered.len() > UNCOMMITTED_MAX
            && let Some((key, oldest)) = self.delivered.pop_first()
        {
            self.due.remove(&(oldest.due_ms, key));
            self.old.remove(&key);
            self.horizon = None;
            match oldest.class {
                Class::Data => self.backlog.insert(KeyRange::one(key)),
                Class::Event => self.late_events.insert(KeyRange::one(key)),
            }
        }
    }

    /// The session ended before the broker had it.
    pub fn failed(&mut self, key: Key) {
        if let Some(class) = self.in_flight.remove(&key) {
            self.old.remove(&key);
            self.restore(KeyRange::one(key), class);
        }
    }

    /// It cannot be read before then, and nor can its neighbours between these two: others go meanwhile.
    pub fn put_off(&mut self, key: Key, (first, last): (Key, Key), until_ms: u64) {
        let Some(class) = self.in_flight.remove(&key) else { return };
        self.old.remove(&key);
        let waiting: &mut [&mut Ranges] = match class {
            Class::Data => &mut [&mut self.backlog],
            Class::Event => &mut [&mut self.events, &mut self.late_events],
        };
        self.horizon = None;
        let put_off = &mut self.put_off[class.index()];
        put_off.insert(KeyRange::one(key));
        for neighbours in waiting.iter_mut().flat_map(|waiting| waiting.remove(first, last)) {
            put_off.insert(neighbours);
        }
        self.put_off_until.insert((until_ms, first.min(key), last.max(key), class));
    }

    /// A new session: the broker may have lost what it acknowledged. The watermark gets a moment to say otherwise.
    pub fn reconnected(&mut self, now_ms: u64) {
        let all: Vec<Key> = self.delivered.keys().copied().collect();
        self.expect_soon(all, now_ms);
    }

    /// The collector has these. How long that took for the newest of them shapes the share of the backlog.
    pub fn committed(&mut self, freed: &[KeyRange], now_ms: u64) {
        let under_way = self.in_flight.len() + self.delivered.len();
        let of_range = |range: &KeyRange| self.delivered.range(range.first()..=range.last());
        let newest_ms = freed.iter().flat_map(of_range).map(|(_, delivered)| delivered.at_ms).max();
        if let Some(newest_ms) = newest_ms {
            if now_ms.saturating_sub(newest_ms) > LATE_MS {
                self.share = (self.share / 2).max(SHARE_MIN);
            } else if under_way * 2 > self.share {
                self.share = (self.share * 2).min(UNCOMMITTED_MAX);
            }
        }
        for range in freed {
            self.forget(range);
        }
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

    /// Committed by the collector, or lost for good. What is still in the queue of live data is passed over when its turn
    /// comes, because the spool does not owe it.
    pub fn forget(&mut self, range: &KeyRange) {
        self.horizon = None;
        let (first, last) = (range.first(), range.last());
        let all = first..=last;
        self.in_flight.extract_if(all.clone(), |_, _| true).for_each(drop);
        self.resent.extract_if(all.clone(), |_, _| true).for_each(drop);
        for (key, delivered) in self.delivered.extract_if(all.clone(), |_, _| true) {
            self.due.remove(&(delivered.due_ms, key));
        }
        self.old.extract_if(all, |_| true).for_each(drop);
        let [data, events] = &mut self.put_off;
        for waiting in [&mut self.events, &mut self.backlog, &mut self.late_events, data, events] {
            waiting.remove(first, last);
        }
    }
}

/// The first of these whose turn it is: of this start, or of an earlier one up to the horizon.
fn pop(waiting: &mut Ranges, horizon: u64, newest: u64) -> Option<Key> {
    let first = waiting.first()?;
    let key = if first.incarnation <= horizon {
        first
    } else {
        waiting.first_from(Key { incarnation: newest, seq: 0 }).filter(|own| own.incarnation == newest)?
    };
    waiting.remove(key, key);
    Some(key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
