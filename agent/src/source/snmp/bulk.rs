//! How many rows a device is asked for at once. Pure.
//!
//! Knows: halving on trouble, and growing again after a long time without. Refuses to know: what is asked.

use std::time::{Duration, Instant};

/// Rows asked for at once at first.
const FIRST: u32 = 20;
/// A device that had trouble is trusted with more after this.
const DOUBT_AFTER: Duration = Duration::from_secs(3_600);

/// The repetitions one device bears.
#[derive(Debug, Clone)]
pub struct Repetitions {
    now: u32,
    shrunk: Option<Instant>,
}

impl Default for Repetitions {
    fn default() -> Repetitions {
        Repetitions { now: FIRST, shrunk: None }
    }
}

impl Repetitions {
    /// Repetitions of the next GETBULK; 0: the device is asked with GETNEXT.
    #[must_use]
    pub const fn get(&self) -> u32 {
        self.now
    }

    /// The last request was too much. False where there is nothing less to ask for.
    pub fn shrink(&mut self, at: Instant) -> bool {
        let less = self.now > 0;
        self.now /= 2;
        self.shrunk = Some(at);
        less
    }

    /// Forgets old trouble.
    pub fn look_at_clock(&mut self, at: Instant) {
        if self.shrunk.is_some_and(|shrunk| at.saturating_duration_since(shrunk) >= DOUBT_AFTER) {
            *self = Repetitions::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_halves_down_to_getnext_and_is_forgotten_after_an_hour() {
        let start = Instant::now();
        let mut repetitions = Repetitions::default();
        let mut seen = vec![repetitions.get()];
        while repetitions.shrink(start) {
            seen.push(repetitions.get());
        }
        assert_eq!(seen, [20, 10, 5, 2, 1, 0]);
        repetitions.look_at_clock(start + Duration::from_secs(3_599));
        assert_eq!(repetitions.get(), 0);
        repetitions.look_at_clock(start + Duration::from_secs(3_600));
        assert_eq!(repetitions.get(), FIRST);
    }
}
