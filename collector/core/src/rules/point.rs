//! Last values of the points that rules read.

use bcp_wire::{BadReason, Quality, Value};

use super::window::Series;
use crate::time::Mono;

/// A point is stale after this many halves of its interval (2.5 times).
const STALE_HALVES: u64 = 5;
/// Interval of a point whose meta has not arrived.
pub const DEFAULT_INTERVAL_MS: u64 = 30_000;

/// One point some rule reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Device and name, for explanations.
    pub device: String,
    pub name: String,
    pub unit: &'static str,
    /// Last good value.
    value: Option<Datum>,
    /// When the last good value was sampled.
    good_at: Option<Mono>,
    /// Why there is no value now.
    bad: Option<Missing>,
    /// None: a state that the collector keeps, which does not age.
    interval_ms: Option<u64>,
    pub series: Option<Box<Series>>,
    /// Instances that read it.
    pub readers: Vec<u32>,
    /// Entry of the engine's timer queue for this point.
    pub timer: Option<Mono>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Datum {
    Num(f64),
    Text(Box<str>),
}

/// Why a point has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    NeverRead,
    Stale,
    Bad(BadReason),
}

impl Missing {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Missing::NeverRead => "never read",
            Missing::Stale => "stale",
            Missing::Bad(reason) => match reason {
                BadReason::Timeout => "bad: timeout",
                BadReason::Exception => "bad: exception",
                BadReason::Decode => "bad: decode",
                BadReason::Sentinel => "bad: sentinel",
                BadReason::Range => "bad: range",
                BadReason::Step => "bad: step",
                BadReason::Auth => "bad: auth",
                BadReason::Config => "bad: config",
                BadReason::Clock => "bad: clock",
            },
        }
    }
}

impl Point {
    #[must_use]
    pub fn new(device: &str, name: &str, unit: &'static str, interval_ms: Option<u64>) -> Point {
        Point {
            device: device.to_owned(),
            name: name.to_owned(),
            unit,
            value: None,
            good_at: None,
            bad: Some(Missing::NeverRead),
            interval_ms,
            series: None,
            readers: Vec::new(),
            timer: None,
        }
    }

    pub fn set_interval(&mut self, interval_ms: u64) {
        if self.interval_ms.is_some() {
            self.interval_ms = Some(interval_ms);
        }
    }

    /// Takes in a reading. True where its value or its being known may have changed.
    pub fn read(&mut self, now: Mono, value: Option<&Value>, quality: Quality, sampled: Mono) -> bool {
        // A sample older than the one in hand says nothing about now.
        if self.good_at.is_some_and(|last| sampled < last) {
            return false;
        }
        let was_known = self.known(now).is_ok();
        match (value, quality) {
            (Some(value), Quality::Good) => {
                self.good_at = Some(sampled);
                self.bad = None;
                match value {
                    Value::Num(number) => {
                        if let Some(series) = &mut self.series {
                            series.push(sampled, *number);
                        }
                        let same = self.value == Some(Datum::Num(*number));
                        self.value = Some(Datum::Num(*number));
                        !same || !was_known || self.series.is_some()
                    }
                    Value::Text(text) => {
                        if let Some(Datum::Text(last)) = &self.value
                            && **last == **text
                        {
                            return !was_known;
                        }
                        self.value = Some(Datum::Text(text.as_str().into()));
                        true
                    }
                }
            }
            (None, Quality::Good) => false,
            (_, Quality::Stale) => {
                self.bad = Some(Missing::Stale);
                was_known
            }
            (_, Quality::Bad(reason)) => {
                self.bad = Some(Missing::Bad(reason));
                was_known
            }
        }
    }

    /// Sets a state the collector keeps. True where it changed.
    pub fn set_state(&mut self, now: Mono, word: Option<&str>) -> bool {
        let before = match self.known(now) {
            Ok(Datum::Text(text)) => Some(&**text),
            Ok(Datum::Num(_)) | Err(_) => None,
        };
        if before == word {
            return false;
        }
        match word {
            Some(word) => {
                self.value = Some(Datum::Text(word.into()));
                self.good_at = Some(now);
                self.bad = None;
            }
            None => self.bad = Some(Missing::Stale),
        }
        true
    }

    /// The value, where it is good and fresh.
    ///
    /// # Errors
    /// Why there is none.
    pub fn known(&self, now: Mono) -> Result<&Datum, Missing> {
        if let Some(why) = self.bad {
            return Err(why);
        }
        match (&self.value, self.stale_at()) {
            (None, _) => Err(Missing::NeverRead),
            (Some(_), Some(at)) if now >= at => Err(Missing::Stale),
            (Some(value), _) => Ok(value),
        }
    }

    /// When the present value stops being fresh.
    #[must_use]
    pub fn stale_at(&self) -> Option<Mono> {
        let interval = self.interval_ms?;
        Some(self.good_at?.plus(interval.saturating_mul(STALE_HALVES) / 2))
    }

    /// Milliseconds since the last good sample, however old.
    #[must_use]
    pub fn age_ms(&self, now: Mono) -> Option<u64> {
        self.good_at.map(|at| now.since(at))
    }

    /// The last good value, known or not.
    #[must_use]
    pub const fn last(&self) -> Option<&Datum> {
        self.value.as_ref()
    }
}
