//! Durations as people write them in a configuration: `200ms`, `5s`, `10m`, `72h`, `30d`.
//!
//! Knows the five units. Refuses a number without a unit: a bare `5` has no meaning a reader could check.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest span a configuration may name: ten years. A longer one is a slip of the pen.
const MAX_MS: u64 = 10 * 366 * 86_400_000;

/// A duration read from a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration: a whole number and one of ms, s, m, h, d, as `200ms` or `72h`")]
pub struct SpanError {
    text: String,
}

impl Span {
    #[must_use]
    pub const fn from_millis(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whole milliseconds; parsing bounds it far below the range of `u64`.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Self, SpanError> {
        let fault = || SpanError { text: text.chars().take(32).collect() };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim_start() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(fault()),
        };
        let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|ms| *ms <= MAX_MS);
        ms.map(Span::from_millis).ok_or_else(fault)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.as_millis();
        let (number, unit) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
            .into_iter()
            .find(|(factor, _)| ms >= *factor && ms.is_multiple_of(*factor))
            .map_or((ms, "ms"), |(factor, unit)| (ms / factor, unit));
        write!(f, "{number}{unit}")
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Span;

    #[test]
    fn reads_and_writes() {
        for (text, ms, back) in
            [("200ms", 200, "200ms"), ("5 s", 5_000, "5s"), ("72h", 259_200_000, "3d"), ("90m", 5_400_000, "90m")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.as_millis(), span.to_string().as_str()), (ms, back));
        }
        for bad in ["", "5", "s", "-5s", "1.5s", "5y", "99999999999d", "18446744073709551615d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
