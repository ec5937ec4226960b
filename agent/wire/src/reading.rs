//! One value of a point, and how far it may be trusted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::MAX_TEXT_BYTES;

/// A finite number, or a short text such as the UPS flags `OL CHRG`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    Num(f64),
    Text(String),
}

impl Value {
    /// A number, unless it is NaN or infinite.
    #[must_use]
    pub fn num(number: f64) -> Option<Value> {
        number.is_finite().then_some(Value::Num(number))
    }

    /// A text, unless it is too long or has control characters.
    #[must_use]
    pub fn text(text: &str) -> Option<Value> {
        (text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control)).then(|| Value::Text(text.to_owned()))
    }

    #[must_use]
    pub const fn as_num(&self) -> Option<f64> {
        match self {
            Value::Num(number) => Some(*number),
            Value::Text(_) => None,
        }
    }

    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Num(_) => None,
            Value::Text(text) => Some(text),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Num(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Num(f64),
            Text(String),
        }
        let refused = || {
            serde::de::Error::custom(
                "a value is a finite number or a text of at most 256 bytes without control characters",
            )
        };
        match Raw::deserialize(deserializer)? {
            Raw::Num(number) => Value::num(number).ok_or_else(refused),
            Raw::Text(text) => Value::text(&text).ok_or_else(refused),
        }
    }
}

/// Why a reading has no usable value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BadReason {
    /// No answer in time.
    Timeout,
    /// The device answered with an error (Modbus exception, SNMP error status, noSuchObject).
    Exception,
    /// The answer does not have the form that was asked for.
    Decode,
    /// The device's own "no value" mark (0xFFFF, -1, NaN ...).
    Sentinel,
    /// Outside the plausible range.
    Range,
    /// Changed faster than the quantity can.
    Step,
    /// The device refused our credentials.
    Auth,
    /// The configuration of the point cannot work with this device.
    Config,
    /// The sampling host's clock stepped.
    Clock,
}

impl BadReason {
    pub const ALL: [BadReason; 9] = [
        BadReason::Timeout,
        BadReason::Exception,
        BadReason::Decode,
        BadReason::Sentinel,
        BadReason::Range,
        BadReason::Step,
        BadReason::Auth,
        BadReason::Config,
        BadReason::Clock,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            BadReason::Timeout => "timeout",
            BadReason::Exception => "exception",
            BadReason::Decode => "decode",
            BadReason::Sentinel => "sentinel",
            BadReason::Range => "range",
            BadReason::Step => "step",
            BadReason::Auth => "auth",
            BadReason::Config => "config",
            BadReason::Clock => "clock",
        }
    }
}

/// How far a reading may be trusted. Written `good`, `stale`, `bad:timeout` ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Quality {
    #[default]
    Good,
    /// Older than 2.5 times its interval: its value is unknown.
    Stale,
    Bad(BadReason),
}

impl Quality {
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(self, Quality::Good)
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quality::Good => f.write_str("good"),
            Quality::Stale => f.write_str("stale"),
            Quality::Bad(reason) => write!(f, "bad:{}", reason.as_str()),
        }
    }
}

/// A text that is no quality of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a quality: good, stale or bad:reason")]
pub struct QualityError;

impl FromStr for Quality {
    type Err = QualityError;
    fn from_str(text: &str) -> Result<Self, QualityError> {
        match text {
            "good" => Ok(Quality::Good),
            "stale" => Ok(Quality::Stale),
            _ => {
                let reason = text.strip_prefix("bad:").ok_or(QualityError)?;
                BadReason::ALL.into_iter().find(|r| r.as_str() == reason).map(Quality::Bad).ok_or(QualityError)
            }
        }
    }
}

impl Serialize for Quality {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quality {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
