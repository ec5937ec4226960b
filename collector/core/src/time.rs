//! Times as values. A duration is measured in [`LogTime`] or [`Mono`]; [`Wall`] is only a label.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds of a monotonic clock of this process (or of a simulation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

/// Milliseconds of log time: advances only by the elapsed time that leaders put into ticks, so it never runs faster than
/// real time (times 1 + rho) and stands still without a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogTime(pub u64);

/// Milliseconds since 1970 UTC of somebody's wall clock. Never subtracted to decide anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(pub i64);

impl Mono {
    #[must_use]
    pub const fn since(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    #[must_use]
    pub const fn plus(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms))
    }
}

impl LogTime {
    #[must_use]
    pub const fn since(self, earlier: LogTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    #[must_use]
    pub const fn plus(self, ms: u64) -> LogTime {
        LogTime(self.0.saturating_add(ms))
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}
