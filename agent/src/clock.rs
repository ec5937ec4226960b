//! The wall clock, and how far it may be trusted.
//!
//! Knows: steps of the wall clock against the boot clock, and what the kernel says of its synchronisation. Refuses to
//! know: who sets the clock. Nothing here moves the schedule: that runs on the monotonic clock alone.
//!
//! After a step the labels of samples are in doubt for [`DOUBT_MS`]: a service that corrects a clock often does so in
//! more than one step. Samples of that time are told as bad, not under a wrong time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bcp_wire::ClockState;
use rtime_clock::adjtime::{Timex, adjtimex};
use rustix::time::{ClockId, clock_gettime};

/// A wall clock that moved by more than this against the boot clock between two looks was stepped, not slewed.
pub const STEP_MS: i64 = 500;
/// How long the clock has to stand by what it says before samples are trusted again.
pub const DOUBT_MS: u64 = 5_000;

/// What adjtimex(2) calls TIME_ERROR, STA_UNSYNC and STA_NANO.
const TIME_ERROR: i32 = 5;
const STA_UNSYNC: i32 = 0x40;
const STA_NANO: i32 = 0x2000;

/// Compares two clocks. Pure: both are values.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    /// Wall time less boot time at the last look.
    drift_ms: Option<i64>,
    doubtful_until_ms: u64,
}

impl Judge {
    /// Looks at both clocks; gives the step between the last look and this one.
    pub fn look(&mut self, boot_ms: u64, wall_ms: i64) -> Option<i64> {
        let drift_ms = wall_ms.saturating_sub(i64::try_from(boot_ms).unwrap_or(i64::MAX));
        let before = self.drift_ms.replace(drift_ms)?;
        let step_ms = drift_ms.saturating_sub(before);
        if step_ms.saturating_abs() <= STEP_MS {
            return None;
        }
        self.doubtful_until_ms = boot_ms.saturating_add(DOUBT_MS);
        Some(step_ms)
    }

    #[must_use]
    pub const fn in_doubt(&self, boot_ms: u64) -> bool {
        boot_ms < self.doubtful_until_ms
    }
}

/// One label for a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970 UTC.
    pub t_ms: i64,
    /// The clock was stepped a moment ago.
    pub doubtful: bool,
}

/// The host's wall clock, watched.
#[derive(Debug, Default)]
pub struct WallClock {
    seen: Mutex<Seen>,
    /// Tests step this clock; nobody else does.
    shift_ms: AtomicI64,
}

#[derive(Debug, Default)]
struct Seen {
    judge: Judge,
    untold_step_ms: i64,
}

impl WallClock {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Two numbers: usable whatever became of the thread that held the lock.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time now, and whether it is in doubt. Every call is also a look at the clock.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let (boot_ms, t_ms) = (boot_ms(), wall_ms().saturating_add(self.shift_ms.load(Ordering::Relaxed)));
        let mut seen = self.seen();
        if let Some(step_ms) = seen.judge.look(boot_ms, t_ms) {
            seen.untold_step_ms = seen.untold_step_ms.saturating_add(step_ms);
        }
        Stamp { t_ms, doubtful: seen.judge.in_doubt(boot_ms) }
    }

    /// The steps since this was last asked, added up; `None` where there was none.
    #[must_use]
    pub fn take_step_ms(&self) -> Option<i64> {
        let _ = self.stamp();
        let step_ms = std::mem::take(&mut self.seen().untold_step_ms);
        (step_ms != 0).then_some(step_ms)
    }

    /// Steps the clock as this process sees it, for tests.
    pub fn shift(&self, by_ms: i64) {
        self.shift_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

/// What the kernel knows of the clock's synchronisation.
#[must_use]
pub fn kernel_state() -> ClockState {
    let mut timex = Timex::new();
    match adjtimex(&mut timex) {
        Ok(state) => state_of(state, timex.0.status, timex.0.offset),
        Err(error) => {
            tracing::debug!(%error, "adjtimex is not permitted here");
            ClockState::Unknown
        }
    }
}

fn state_of(state: i32, status: i32, offset: i64) -> ClockState {
    if state == TIME_ERROR || status & STA_UNSYNC != 0 {
        return ClockState::Unsynchronised;
    }
    let per_ms = if status & STA_NANO != 0 { 1e6 } else { 1e3 };
    #[allow(clippy::cast_precision_loss)] // an offset is far below 2^53 of either unit
    let offset_ms = (offset as f64 / per_ms * 1e3).round() / 1e3;
    ClockState::Synchronised { offset_ms }
}

fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Milliseconds since 1970 UTC, as the host has it.
#[must_use]
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_seen_and_doubt_passes() {
        let mut judge = Judge::default();
        let t0 = 1_790_000_000_000;
        assert_eq!(judge.look(1_000, t0), None, "nothing to compare with");
        assert_eq!(judge.look(2_000, t0 + 1_000 + STEP_MS), None, "slewed");
        assert!(!judge.in_doubt(2_000));
        assert_eq!(judge.look(3_000, t0 + 2_000 + STEP_MS - 3_600_000), Some(-3_600_000));
        assert!(judge.in_doubt(3_000) && judge.in_doubt(7_999) && !judge.in_doubt(8_000));
        assert_eq!(judge.look(4_000, t0 + 3_000 + STEP_MS - 3_600_000), None, "it goes on from there");
        assert_eq!(judge.look(5_000, t0 + 4_000), Some(3_600_000 - STEP_MS));
        assert!(judge.in_doubt(9_999), "the later step counts");
    }

    #[test]
    fn steps_are_told_once() {
        let clock = WallClock::default();
        assert_eq!((clock.take_step_ms(), clock.stamp().doubtful), (None, false));
        clock.shift(3_600_000);
        assert!(clock.stamp().doubtful);
        let step_ms = clock.take_step_ms().unwrap_or(0);
        assert!((3_599_000..=3_601_000).contains(&step_ms), "{step_ms}");
        assert_eq!(clock.take_step_ms(), None);
    }

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(state_of(TIME_ERROR, 0, 0), ClockState::Unsynchronised);
        assert_eq!(state_of(0, STA_UNSYNC, 0), ClockState::Unsynchronised);
        assert_eq!(state_of(0, STA_NANO, -1_234_567), ClockState::Synchronised { offset_ms: -1.235 });
        assert_eq!(state_of(0, 0, 2_500), ClockState::Synchronised { offset_ms: 2.5 });
        assert_ne!(kernel_state(), ClockState::Unknown, "reading needs no rights");
    }
}
