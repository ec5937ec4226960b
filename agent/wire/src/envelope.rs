//! Batches, events and watermarks: what travels on the data, hist, event and ack topics.
//!
//! `(agent, incarnation, seq)` identifies a payload for ever: one counter per agent runs over all three lanes, so a
//! gap in it is a loss and a repeat is a duplicate that changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BadReason, Id, MAX_PAYLOAD_BYTES, MAX_POINTS_PER_BATCH, PointName, Quality, Site, Value, WIRE_VERSION};

/// First bytes of a deflated payload (zlib header of any level); JSON starts with `{`.
const ZLIB_MAGIC: u8 = 0x78;
/// A deflated payload may not grow beyond this: a bomb is refused at this size.
pub const MAX_INFLATED_BYTES: usize = 4 * MAX_PAYLOAD_BYTES;

/// Values of one device, sampled around one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Contract version.
    pub v: u8,
    /// Incarnation: start counter of the agent.
    pub i: u64,
    /// Sequence number within the incarnation, from 1.
    pub s: u64,
    /// Sample time, milliseconds since 1970 UTC.
    pub t: i64,
    /// Values. A point whose quality is bad has no value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vals: BTreeMap<PointName, Value>,
    /// Offset of a point's own sample time from `t`, milliseconds, where it is not 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dt: BTreeMap<PointName, i64>,
    /// Quality where it is not `good`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub q: BTreeMap<PointName, Quality>,
}

/// Something that happened, as opposed to something that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub v: u8,
    pub i: u64,
    pub s: u64,
    pub t: i64,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// A device became reachable, or stopped being so.
    Reachability {
        reachable: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An SNMP trap or inform.
    Trap {
        oid: String,
        #[serde(default)]
        values: BTreeMap<String, String>,
        /// What the device's profile calls it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// `info`, `warning`, `critical` or `clear`, as the profile says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        severity: Option<String>,
    },
    /// A point left or entered a state that matters at once.
    Transition { point: PointName, from: Option<Value>, to: Value },
    /// Payloads that can never be delivered: exactly these.
    Gap(Gap),
    /// The wall clock was stepped by this much.
    ClockStep { step_ms: i64 },
    /// What the agent itself wants known (spool full, configuration refused ...).
    Notice { text: String },
}

/// Payloads of one incarnation that were lost, first and last sequence number included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub incarnation: u64,
    pub from: u64,
    pub through: u64,
    /// How many samples were in them, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    pub reason: String,
}

/// What a collector has committed of one agent's payloads (retained on `ack/{collector}`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    pub v: u8,
    pub collector: Site,
    /// One mark per incarnation that still matters, newest last; at most [`Watermark::MAX_MARKS`].
    pub marks: Vec<WatermarkMark>,
}

impl Watermark {
    pub const MAX_MARKS: usize = 16;
    /// Most holes one mark lists; the rest is covered by a lower `through`.
    pub const MAX_HOLES: usize = 256;
}

/// Everything from 1 to `through` is committed, except the holes (first and last included).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkMark {
    pub i: u64,
    pub through: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<(u64, u64)>,
}

/// Why a payload is not the contract's. The set is closed: collectors count by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum PayloadError {
    #[error("payload is empty")]
    Empty,
    #[error("payload is larger than 256 KiB, or inflates beyond 1 MiB")]
    TooLarge,
    #[error("payload is neither JSON nor deflated JSON of the contract")]
    Malformed,
    #[error("payload is of a contract version this program does not know")]
    Version,
    #[error("payload has sequence or incarnation number 0")]
    Numbering,
    #[error("payload has more than 4096 points")]
    TooManyPoints,
    #[error("payload has an impossible time")]
    Time,
}

impl PayloadError {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PayloadError::Empty => "empty",
            PayloadError::TooLarge => "too_large",
            PayloadError::Malformed => "malformed",
            PayloadError::Version => "version",
            PayloadError::Numbering => "numbering",
            PayloadError::TooManyPoints => "too_many_points",
            PayloadError::Time => "time",
        }
    }
}

/// True where the payload is deflated and has to be inflated (by the driver, up to [`MAX_INFLATED_BYTES`]) first.
#[must_use]
pub fn is_deflated(payload: &[u8]) -> bool {
    payload.first() == Some(&ZLIB_MAGIC)
}

/// Sample times before 2020 or after 2100 are a broken clock, not a reading.
const TIME_RANGE_MS: std::ops::RangeInclusive<i64> = 1_577_836_800_000..=4_102_444_800_000;

fn check_numbering(v: u8, i: u64, s: u64, t: i64) -> Result<(), PayloadError> {
    if v != WIRE_VERSION {
        return Err(PayloadError::Version);
    }
    if i == 0 || s == 0 {
        return Err(PayloadError::Numbering);
    }
    if !TIME_RANGE_MS.contains(&t) {
        return Err(PayloadError::Time);
    }
    Ok(())
}

fn parse<'de, T: Deserialize<'de>>(payload: &'de [u8]) -> Result<T, PayloadError> {
    if payload.is_empty() {
        return Err(PayloadError::Empty);
    }
    if payload.len() > MAX_INFLATED_BYTES {
        return Err(PayloadError::TooLarge);
    }
    serde_json::from_slice(payload).map_err(|_| PayloadError::Malformed)
}

impl Batch {
    /// Reads an inflated payload and checks every bound.
    ///
    /// # Errors
    /// One closed reason; the caller counts it.
    pub fn from_json(payload: &[u8]) -> Result<Batch, PayloadError> {
        let batch: Batch = parse(payload)?;
        check_numbering(batch.v, batch.i, batch.s, batch.t)?;
        if batch.vals.len() + batch.q.len() > MAX_POINTS_PER_BATCH {
            return Err(PayloadError::TooManyPoints);
        }
        Ok(batch)
    }

    /// Compact JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps of strings and finite numbers always serialise")
    }

    /// Every point with its own time, value and quality. A bad point has no value.
    pub fn readings(&self) -> impl Iterator<Item = (&PointName, i64, Option<&Value>, Quality)> {
        let valued =
            self.vals.iter().map(|(name, value)| (name, Some(value), self.q.get(name).copied().unwrap_or_default()));
        let valueless = self.q.iter().filter(|(name, _)| !self.vals.contains_key(*name)).map(|(name, quality)| {
            // A valueless `good` has no meaning; it is read as a decode fault rather than trusted.
            let quality = if quality.is_good() { Quality::Bad(BadReason::Decode) } else { *quality };
            (name, None, quality)
        });
        valued.chain(valueless).map(|(name, value, quality)| {
            let offset = self.dt.get(name).copied().unwrap_or(0);
            (name, self.t.saturating_add(offset), value, quality)
        })
    }
}

impl Event {
    /// As [`Batch::from_json`].
    ///
    /// # Errors
    /// One closed reason; the caller counts it.
    pub fn from_json(payload: &[u8]) -> Result<Event, PayloadError> {
        let event: Event = parse(payload)?;
        check_numbering(event.v, event.i, event.s, event.t)?;
        Ok(event)
    }

    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and finite numbers always serialise")
    }
}

impl Watermark {
    /// # Errors
    /// One closed reason.
    pub fn from_json(payload: &[u8]) -> Result<Watermark, PayloadError> {
        let mark: Watermark = parse(payload)?;
        if mark.v != WIRE_VERSION {
            return Err(PayloadError::Version);
        }
        if mark.marks.len() > Watermark::MAX_MARKS || mark.marks.iter().any(|m| m.holes.len() > Watermark::MAX_HOLES) {
            return Err(PayloadError::TooLarge);
        }
        Ok(mark)
    }

    /// True where the payload `(incarnation, seq)` is committed at that collector.
    #[must_use]
    pub fn covers(&self, incarnation: u64, seq: u64) -> bool {
        self.marks.iter().any(|mark| {
            mark.i == incarnation && seq <= mark.through && !mark.holes.iter().any(|(a, z)| (*a..=*z).contains(&seq))
        })
    }
}

/// The device id under which an agent reports about itself.
#[must_use]
pub fn self_device(agent: &Id) -> Id {
    agent.clone()
}
