//! How late polls begin: a histogram of the last minute.

use std::collections::VecDeque;
use std::time::Duration;

use crate::schedule::Mono;

/// Lateness is kept in this many windows of [`WINDOW`]: the last minute.
const WINDOWS: usize = 6;
const WINDOW: Duration = Duration::from_secs(10);
/// Steps of the histogram: the n-th holds up to 2^(n/4) - 1 tenths of a millisecond; the last one the rest.
const STEPS: usize = 80;

/// See the module.
#[derive(Debug, Default)]
pub struct Lateness(VecDeque<(Mono, [u32; STEPS])>);

impl Lateness {
    /// A poll began `late` at `now`.
    pub fn add(&mut self, now: Mono, late: Duration) {
        if self.0.back().is_none_or(|(since, _)| now.since(*since) >= WINDOW) {
            if self.0.len() == WINDOWS {
                self.0.pop_front();
            }
            self.0.push_back((now, [0; STEPS]));
        }
        if let Some((_, steps)) = self.0.back_mut()
            && let Some(count) = steps.get_mut(step_of(late))
        {
            *count = count.saturating_add(1);
        }
    }

    /// Upper end of the step that holds the 99th of 100 polls, milliseconds.
    #[must_use]
    pub fn p99_ms(&self) -> f64 {
        let count = |step: usize| -> u64 {
            self.0.iter().filter_map(|(_, steps)| steps.get(step)).map(|n| u64::from(*n)).sum()
        };
        let total: u64 = (0..STEPS).map(count).sum();
        let mut below = 0;
        for step in 0..STEPS {
            below += count(step);
            if total > 0 && below * 100 >= total * 99 {
                return upper_ms(step);
            }
        }
        0.0
    }
}

fn step_of(late: Duration) -> usize {
    let step = (4.0 * (late.as_secs_f64() * 10_000.0 + 1.0).log2()).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at least 0, and bounded just here
    let step = step as usize;
    step.min(STEPS - 1)
}

fn upper_ms(step: usize) -> f64 {
    let quarter = i32::try_from(step).unwrap_or(i32::MAX);
    (2_f64.powf(f64::from(quarter) / 4.0) - 1.0) / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p99_ignores_one_of_a_hundred() {
        let mut lateness = Lateness::default();
        for i in 0..1_000 {
            let late = if i % 200 == 0 { 900 } else { 3 };
            lateness.add(Mono(i * 1_000), Duration::from_millis(late));
        }
        let p99 = lateness.p99_ms();
        assert!((3.0..4.0).contains(&p99), "{p99}");
        for i in 0..40 {
            lateness.add(Mono(2_000_000 + i), Duration::from_millis(900));
        }
        assert!(lateness.p99_ms() >= 900.0);
        assert_eq!(step_of(Duration::from_secs(1_000)), STEPS - 1);
    }
}
