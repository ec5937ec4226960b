//! How late a reading arrives. PURE.
//!
//! Two clocks that never agree: the agent's wall clock (sample time) and our monotonic one (arrival). Their difference is
//! an unknown constant plus the delay. The smallest difference seen lately stands for "no delay", so a burst of readings
//! that waited in a broker while we were away shows as late, and an agent whose clock is an hour off does not.

use bcp_core::time::{Mono, Wall};

/// A step of the agent's clock is forgotten after at most two of these.
const WINDOW_MS: u64 = 30_000;

/// The smallest difference of arrival and sample time in this window and in the one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lateness {
    began: Mono,
    now_least: Option<i64>,
    before_least: Option<i64>,
}

impl Lateness {
    /// Milliseconds by which a reading sampled at `sampled` was late when it arrived at `arrived`.
    pub fn observe(&mut self, arrived: Mono, sampled: Wall) -> u64 {
        if arrived.since(self.began) > WINDOW_MS {
            self.before_least = self.now_least.take().filter(|_| arrived.since(self.began) <= 2 * WINDOW_MS);
            self.began = arrived;
        }
        let arrived = i64::try_from(arrived.0).unwrap_or(i64::MAX);
        let difference = arrived.saturating_sub(sampled.0);
        let least = self.now_least.map_or(difference, |least| least.min(difference));
        self.now_least = Some(least);
        let least = self.before_least.map_or(least, |before| before.min(least));
        u64::try_from(difference.saturating_sub(least)).unwrap_or(0)
    }

    /// The agent said that its clock was stepped, or a new process of it began.
    pub fn forget(&mut self) {
        *self = Lateness::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_waited_is_late_but_a_wrong_clock_is_not() {
        let mut lateness = Lateness::default();
        let hour_ahead = 1_790_000_000_000 + 3_600_000;
        assert_eq!(lateness.observe(Mono(1_000), Wall(hour_ahead)), 0);
        assert_eq!(lateness.observe(Mono(2_010), Wall(hour_ahead + 1_000)), 10);
        // A minute away; then the backlog of the broker comes at once, oldest first.
        let mut late = 0;
        for second in 2..62 {
            late = lateness.observe(Mono(62_000 + second), Wall(hour_ahead + second as i64 * 1_000));
        }
        assert!(late < 1_000, "the newest of the burst is fresh, {late}");
        let mut again = lateness;
        assert!(again.observe(Mono(62_100), Wall(hour_ahead + 5_000)) > 50_000);
    }

    #[test]
    fn a_clock_stepped_back_is_forgiven_within_two_windows() {
        let mut lateness = Lateness::default();
        let mut last = 0;
        for second in 0..200u64 {
            let step = if second < 50 { 0 } else { -3_600_000 };
            last = lateness.observe(Mono(second * 1_000), Wall(1_790_000_000_000 + second as i64 * 1_000 + step));
        }
        assert_eq!(last, 0);
    }
}
