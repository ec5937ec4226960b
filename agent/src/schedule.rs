//! What is due, and when. Pure: time is a value.
//!
//! Knows: the grid of each device's polls, jitter, back-off of devices that do not answer. Refuses to know: clocks,
//! sockets, what a poll does.
//!
//! Invariants:
//! * polls of a device lie on a grid of its interval; what was overrun is skipped and counted, never queued;
//! * a device that costs a time-out is asked at most once per back-off period, and delays nobody else meanwhile;
//! * nothing depends on the wall clock: a clock step moves no poll.

use std::time::Duration;

/// A point on the monotonic clock: microseconds since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    #[must_use]
    pub fn after(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(micros(span)))
    }

    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// First polls spread over this much at most: the first reading comes within a second of the start.
const START_SPREAD: Duration = Duration::from_millis(500);
/// Back-off after the second failure in a row; it doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_secs(2);
/// A dead device costs one time-out a minute.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A device that refuses at once costs next to nothing, and should be noticed soon when it is back.
const LONGEST_BACKOFF_REFUSED: Duration = Duration::from_secs(8);

/// Polls begin on these steps of the clock, so that many devices are served in one turn: a process that is woken for every
/// device of 500 spends most of its time on waking up.
const GRAIN: Duration = Duration::from_millis(100);

/// How a poll ended, as far as its timing is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Something came back, be it only errors about single points.
    Answered,
    /// Nothing came back in time.
    Silent,
    /// The device, or what stands before it, said no at once.
    Refused,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Poll {
        slot: usize,
        late: Duration,
    },
    WaitUntil(Mono),
    /// There is nothing to poll, ever.
    Empty,
}

/// What a finished poll changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Polls of the grid that had to be skipped.
    pub missed: u64,
    pub reach: ReachChange,
    pub next: Mono,
}

/// A device is unreachable from its second failed poll in a row until its first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReachChange {
    Same,
    BecameReachable,
    BecameUnreachable,
}

/// Polls of the devices that one task serves, one at a time.
#[derive(Debug, Clone)]
pub struct Timetable {
    slots: Vec<Slot>,
    dice: Dice,
}

#[derive(Debug, Clone)]
struct Slot {
    interval: Duration,
    due: Mono,
    failures: u32,
    ever_answered: bool,
}

impl Timetable {
    /// `seed` spreads first polls and back-off; two agents with different seeds do not march in step.
    #[must_use]
    pub fn new(intervals: impl IntoIterator<Item = Duration>, now: Mono, seed: u64) -> Timetable {
        let mut dice = Dice(seed);
        let slots = intervals
            .into_iter()
            .map(|interval| {
                let spread = interval.min(START_SPREAD);
                let due = on_grain(now.after(spread.mul_f64(dice.share())));
                Slot { interval, due, failures: 0, ever_answered: false }
            })
            .collect();
        Timetable { slots, dice }
    }

    /// The earliest due poll, or how long there is none.
    #[must_use]
    pub fn turn(&self, now: Mono) -> Turn {
        let earliest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.due);
        match earliest {
            None => Turn::Empty,
            Some((slot, state)) if state.due <= now => Turn::Poll { slot, late: now.since(state.due) },
            Some((_, state)) => Turn::WaitUntil(state.due),
        }
    }

    /// Other slots from now on: each with its interval, and which of the present ones it goes on as.
    pub fn rearrange(&mut self, slots: impl Iterator<Item = (Duration, Option<usize>)>, now: Mono) {
        let (intervals, kept): (Vec<Duration>, Vec<Option<usize>>) = slots.unzip();
        let Dice(seed) = self.dice;
        let mut next = Timetable::new(intervals, now, seed);
        for (slot, old) in next.slots.iter_mut().zip(kept) {
            if let Some(old) = old.and_then(|old| self.slots.get(old)) {
                slot.clone_from(old);
            }
        }
        *self = next;
    }

    /// Brings the next poll of a slot forward to now (a command asked for it).
    pub fn poll_now(&mut self, slot: usize, now: Mono) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.due = slot.due.min(now);
        }
    }

    /// The poll of `slot` that was due is over.
    pub fn finished(&mut self, slot: usize, now: Mono, outcome: Outcome) -> Finished {
        let share = self.dice.share();
        let Some(slot) = self.slots.get_mut(slot) else {
            return Finished { missed: 0, reach: ReachChange::Same, next: now };
        };
        let (grid, missed) = next_on_grid(slot.due, slot.interval, now);
        match outcome {
            Outcome::Answered => {
                let reach = if slot.failures > 1 || !slot.ever_answered {
                    ReachChange::BecameReachable
                } else {
                    ReachChange::Same
                };
                slot.failures = 0;
                slot.ever_answered = true;
                slot.due = grid;
                Finished { missed, reach, next: grid }
            }
            Outcome::Silent | Outcome::Refused => {
                slot.failures = slot.failures.saturating_add(1);
                let reach = if slot.failures == 2 { ReachChange::BecameUnreachable } else { ReachChange::Same };
                let pause = backoff(slot.failures, outcome).mul_f64(0.75 + 0.5 * share);
                // One lost answer is no reason to miss the next poll.
                slot.due = if slot.failures == 1 { grid } else { grid.max(on_grain(now.after(pause))) };
                Finished { missed: if slot.failures == 1 { missed } else { 0 }, reach, next: slot.due }
            }
        }
    }
}

/// The next step of the grain, `at` included.
fn on_grain(at: Mono) -> Mono {
    Mono(at.0.next_multiple_of(micros(GRAIN)))
}

/// The first point of the grid after `now`, and how many points before it were passed over.
fn next_on_grid(due: Mono, interval: Duration, now: Mono) -> (Mono, u64) {
    let step = micros(interval).max(1);
    let passed = now.0.saturating_sub(due.0) / step;
    (Mono(due.0.saturating_add(step.saturating_mul(passed + 1))), passed)
}

fn backoff(failures: u32, outcome: Outcome) -> Duration {
    let longest = match outcome {
        Outcome::Refused => LONGEST_BACKOFF_REFUSED,
        Outcome::Silent | Outcome::Answered => LONGEST_BACKOFF,
    };
    let doublings = failures.saturating_sub(2).min(16);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(longest)
}

/// A small deterministic generator (SplitMix64): jitter needs no better one, and a test can repeat it.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    /// From 0 to 1, 1 excluded.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        #[allow(clippy::cast_precision_loss)] // 53 bits fit
        let share = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000)
    }

    /// One device whose first poll was finished on its grid.
    fn started(interval: Duration) -> (Timetable, Mono) {
        let mut table = Timetable::new([interval], Mono(0), 1);
        let Turn::WaitUntil(due) = table.turn(Mono(0)) else { panic!("due at once") };
        assert_eq!(table.turn(due), Turn::Poll { slot: 0, late: Duration::ZERO });
        let first = table.finished(0, due, Outcome::Answered);
        assert_eq!(first.reach, ReachChange::BecameReachable);
        (table, due)
    }

    #[test]
    fn first_polls_come_within_half_a_second() {
        let table = Timetable::new([S * 3600; 200], Mono(0), 7);
        assert!(table.slots.iter().all(|slot| slot.due <= at(500)));
        let spread: std::collections::BTreeSet<_> = table.slots.iter().map(|slot| slot.due).collect();
        assert_eq!(
            spread.len() as u128,
            START_SPREAD.as_millis() / GRAIN.as_millis(),
            "first polls are spread over all steps"
        );
    }

    #[test]
    fn polls_keep_to_the_grid_and_overruns_are_counted() {
        let (mut table, first) = started(S);
        let due = first.after(S);
        let normal = table.finished(0, due.after(S / 10), Outcome::Answered);
        assert_eq!((normal.missed, normal.next), (0, first.after(S * 2)));
        let overrun = table.finished(0, first.after(Duration::from_millis(4_700)), Outcome::Answered);
        assert_eq!((overrun.missed, overrun.next), (2, first.after(S * 5)));
    }

    #[test]
    fn a_dead_device_is_asked_ever_more_rarely() {
        let (mut table, first) = started(S);
        let mut now = first.after(S);
        let mut pauses = Vec::new();
        for failure in 1..=9 {
            now = now.after(S / 2);
            let end = table.finished(0, now, Outcome::Silent);
            let expect = if failure == 2 { ReachChange::BecameUnreachable } else { ReachChange::Same };
            assert_eq!(end.reach, expect, "failure {failure}");
            pauses.push(end.next.since(now).as_secs_f64());
            now = end.next;
        }
        assert!(pauses[0] <= 0.5, "one lost answer costs no poll: {pauses:?}");
        for (pause, want) in pauses[1..].iter().zip([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
            assert!((want * 0.75..=want * 1.25).contains(pause), "{pauses:?}");
        }
        let back = table.finished(0, now, Outcome::Answered);
        assert_eq!(back.reach, ReachChange::BecameReachable);
        assert!(back.next.since(now) <= S);
    }

    #[test]
    fn a_refusing_device_is_asked_again_soon() {
        let (mut table, mut now) = started(S);
        for _ in 0..20 {
            let end = table.finished(0, now, Outcome::Refused);
            assert!(end.next.since(now) <= S * 10);
            now = end.next;
        }
    }

    #[test]
    fn the_earliest_goes_first() {
        let mut table = Timetable::new([S, S], Mono(0), 3);
        table.slots[0].due = at(50);
        table.slots[1].due = at(20);
        assert_eq!(table.turn(at(60)), Turn::Poll { slot: 1, late: Duration::from_millis(40) });
        table.finished(1, at(60), Outcome::Silent);
        assert_eq!(table.turn(at(60)), Turn::Poll { slot: 0, late: Duration::from_millis(10) });
        table.finished(0, at(60), Outcome::Answered);
        assert!(matches!(table.turn(at(60)), Turn::WaitUntil(_)));
        table.poll_now(0, at(60));
        assert!(matches!(table.turn(at(60)), Turn::Poll { slot: 0, .. }));
        assert_eq!(Timetable::new([], Mono(0), 1).turn(at(1)), Turn::Empty);
    }

    #[test]
    fn slots_that_stay_keep_their_place_and_their_back_off() {
        let mut table = Timetable::new([S, S * 5, S], Mono(0), 3);
        for _ in 0..4 {
            table.finished(2, table.slots[2].due, Outcome::Silent);
        }
        let before = table.slots.clone();
        table.rearrange([(S, Some(2)), (S * 2, None), (S * 5, Some(1))].into_iter(), at(900));
        assert_eq!(table.slots.iter().map(|slot| slot.due).collect::<Vec<_>>()[0], before[2].due);
        assert_eq!((table.slots[0].failures, table.slots[2].due), (4, before[1].due));
        assert!(table.slots[1].due >= at(900) && table.slots[1].due <= at(1_400));
    }

    proptest! {
        #[test]
        fn the_next_poll_is_always_later_and_on_the_grid(
            interval_ms in 100_u64..100_000, took_ms in 0_u64..500_000, seed: u64, fail: bool
        ) {
            let interval = Duration::from_millis(interval_ms);
            let mut table = Timetable::new([interval], Mono(0), seed);
            let due = table.slots[0].due;
            let now = due.after(Duration::from_millis(took_ms));
            let outcome = if fail { Outcome::Silent } else { Outcome::Answered };
            let end = table.finished(0, now, outcome);
            prop_assert!(end.next > now);
            prop_assert_eq!((end.next.0 - due.0) % micros(interval), 0);
            prop_assert_eq!(end.missed, took_ms / interval_ms);
        }
    }
}
