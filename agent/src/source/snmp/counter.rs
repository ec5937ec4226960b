//! Rates of counters: a wrap told from a restart. Pure.
//!
//! Knows: RFC 2578, 7.1.6 and 7.1.10: a counter says nothing by itself, only its growth does, and only while the
//! device has not restarted. Refuses to know: where counters come from.
//!
//! Invariant: what cannot be told for certain is no rate; a wrong spike is worse than a missing value.

use std::time::{Duration, Instant};

/// A device's clock may be this far off over one interval before its uptime counts as gone back.
const UPTIME_SLACK: Duration = Duration::from_secs(5);
/// Hundredths of a second until sysUpTime begins anew: 497 days.
const UPTIME_WRAP: u64 = 1 << 32;

/// Bits of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Bits32,
    Bits64,
}

/// A counter as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub at: Instant,
    pub value: u64,
    pub width: Width,
    /// sysUpTime of the same poll, in hundredths of a second.
    pub uptime: Option<u32>,
}

/// What two readings say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Growth {
    /// Per second.
    Rate(f64),
    /// The first reading, or the first one after a restart.
    Unknown,
}

/// The counter of one point.
#[derive(Debug, Clone, Default)]
pub struct Track {
    last: Option<Reading>,
}

impl Track {
    /// Takes the next reading. `restarted`: the device is known to have started anew, or to be another one.
    pub fn update(&mut self, now: Reading, restarted: bool) -> Growth {
        let Some(last) = self.last.replace(now).filter(|last| last.width == now.width && !restarted) else {
            return Growth::Unknown;
        };
        let elapsed = now.at.saturating_duration_since(last.at);
        if elapsed.is_zero() || uptime_went_back(last, now, elapsed) {
            return Growth::Unknown;
        }
        let growth = if now.value >= last.value {
            now.value - last.value
        } else {
            let wrapped = match now.width {
                Width::Bits32 => (1_u64 << 32) - last.value + now.value,
                // At 100 Gbit/s it takes 46 years: this one was cleared.
                Width::Bits64 => return Growth::Unknown,
            };
            // Half of the range backwards is as likely as the other half forwards: nobody can tell, unless the
            // device's uptime says that it did not restart.
            if wrapped >= 1 << 31 && now.uptime.is_none() {
                return Growth::Unknown;
            }
            wrapped
        };
        #[allow(clippy::cast_precision_loss)] // as everywhere: numbers are doubles
        let growth = growth as f64;
        Growth::Rate(growth / elapsed.as_secs_f64())
    }

    /// The counter could not be read: the next reading begins anew only if the device restarted, so nothing is lost.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.last.is_some()
    }
}

fn uptime_went_back(last: Reading, now: Reading, elapsed: Duration) -> bool {
    let (Some(before), Some(after)) = (last.uptime, now.uptime) else { return false };
    let hundredths = |span: Duration| u64::try_from(span.as_millis() / 10).unwrap_or(u64::MAX);
    let expected = u64::from(before).saturating_add(hundredths(elapsed));
    let slack = hundredths(UPTIME_SLACK) + hundredths(elapsed) / 10;
    let fits = |expected: u64| u64::from(after) + slack >= expected;
    // Less than it should be: a restart, save where it came round.
    let came_round = expected >= UPTIME_WRAP && fits(expected - UPTIME_WRAP);
    !(came_round || fits(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_wrap_and_restart() {
        use Width::{Bits32 as C32, Bits64 as C64};
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let top = u64::from(u32::MAX);
        // Width; first value and uptime; second, ten seconds later; what that is.
        for (what, width, (value, uptime), (next, next_uptime), want) in [
            ("growth", C32, (100, Some(1_000)), (200, Some(2_000)), Growth::Rate(10.0)),
            ("standstill", C64, (100, Some(1_000)), (100, Some(2_000)), Growth::Rate(0.0)),
            ("a wrap of 32 bits", C32, (top - 49, Some(1_000)), (50, Some(2_000)), Growth::Rate(10.0)),
            ("a wrap without an uptime", C32, (top - 49, None), (50, None), Growth::Rate(10.0)),
            ("a reset without an uptime", C32, (1_000_000, None), (50, None), Growth::Unknown),
            ("a restart", C32, (1_000_000, Some(500_000)), (50, Some(300)), Growth::Unknown),
            ("a restart at a higher value", C32, (100, Some(500_000)), (900, Some(300)), Growth::Unknown),
            ("64 bits that fall", C64, (u64::MAX - 9, Some(1_000)), (10, Some(2_000)), Growth::Unknown),
            ("an uptime that comes round", C32, (100, Some(u32::MAX - 499)), (200, Some(500)), Growth::Rate(10.0)),
            ("an uptime that is a little slow", C32, (100, Some(1_000)), (200, Some(1_600)), Growth::Rate(10.0)),
        ] {
            let mut track = Track::default();
            let first = Reading { at: at(0), value, width, uptime };
            assert_eq!(track.update(first, false), Growth::Unknown, "{what}: the first");
            let second = Reading { at: at(10), value: next, width, uptime: next_uptime };
            let mut again = track.clone();
            assert_eq!(track.update(second, false), want, "{what}");
            assert_eq!(again.update(second, true), Growth::Unknown, "{what}, and the engine says it restarted");
            // The next interval is well whatever happened.
            let third =
                Reading { at: at(20), value: next + 10, uptime: next_uptime.map(|uptime| uptime + 1_000), ..second };
            assert_eq!(track.update(third, false), Growth::Rate(1.0), "{what}: the one after");
        }
    }
}
