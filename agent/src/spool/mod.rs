//! The agent's outbox: every payload from the moment it has a number until the home collector has committed it.
//!
//! Knows: segments on disk, records in them, which payloads are still owed, what was lost and exactly which numbers.
//! Refuses to know: MQTT and when something is sent.
//!
//! Two streams of segments (data, events), so that the bounds drop whole old files of data before any event. A segment
//! goes when nothing in it is owed any more, or when the size or age bound drops it; the latter is a [`Gap`].
//!
//! Invariants:
//! * opening never fails: a bad record is skipped, a bad segment is set aside, both leave a gap with exact numbers;
//! * a disk that refuses a write costs nothing but durability: payloads go to a bounded ring in memory until it works again;
//! * a payload is handed out with the checksum it was stored with, or not at all.

mod bounds;
mod opening;
mod segment;
mod writing;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bcp_wire::Gap;
use serde::Deserialize;

use crate::span::Span;
pub use segment::{Class, Key, Record};
use writing::Active;

/// Payloads held in memory while the disk refuses them, in bytes: about a minute of a large gateway, and a tenth of the
/// memory an agent may use.
const RAM_MAX_BYTES: u64 = 8 << 20;
/// How long the disk is left alone after it refused a write.
const DISK_RETRY_MS: u64 = 10_000;

/// `[spool]`: bounds of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Most bytes on disk. Above it the oldest payloads go, events last.
    pub max_bytes: u64,
    /// Payloads older than this go.
    pub max_age: Span,
    /// Longest time an accepted payload waits for its fsync: what a `kill -9` with a power cut may cost.
    pub fsync: Span,
    /// Size of one segment file.
    pub segment_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> SpoolConfig {
        SpoolConfig {
            max_bytes: 64 << 20,
            max_age: Span::from_millis(72 * 3_600_000),
            fsync: Span::from_millis(200),
            segment_bytes: 2 << 20,
        }
    }
}

impl SpoolConfig {
    /// Says what cannot work, as (key, reason).
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(64 << 10..=16 << 20).contains(&self.segment_bytes) {
            faults.push(("segment_bytes", "must be between 64 KiB and 16 MiB".to_owned()));
        }
        let four_segments = self.segment_bytes.saturating_mul(4);
        if self.max_bytes < four_segments {
            faults.push(("max_bytes", format!("must hold at least four segments ({four_segments} bytes)")));
        }
        if self.fsync.as_millis() == 0 || self.fsync.as_millis() > 10_000 {
            faults.push(("fsync", "must be between 1ms and 10s".to_owned()));
        }
        if self.max_age.as_millis() < 60_000 {
            faults.push(("max_age", "must be at least 1m".to_owned()));
        }
        faults
    }
}

/// Where a payload lies.
#[derive(Debug)]
enum Place {
    Disk { segment: u32, offset: u32 },
    Ram(Box<[u8]>),
}

#[derive(Debug)]
struct Entry {
    place: Place,
    class: Class,
    samples: u32,
    bytes: u32,
    t_ms: i64,
}

#[derive(Debug)]
struct Segment {
    id: u32,
    path: PathBuf,
    bytes: u64,
    live: u32,
    first: Key,
    last: Key,
    newest_t_ms: i64,
}

/// Segments of one class, oldest first; the last one is written to while `active` is there.
#[derive(Debug, Default)]
struct Stream {
    segments: VecDeque<Segment>,
    active: Option<Active>,
}

/// Whether payloads reach the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durability {
    Disk,
    /// The disk refused; payloads are in memory only.
    Memory {
        reason: String,
        retry_at_ms: u64,
    },
}

/// Figures of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct SpoolFigures {
    pub payloads: u64,
    pub disk_bytes: u64,
    pub memory_bytes: u64,
    /// Payloads lost to the size bound, the age bound, or a fault of the disk.
    pub dropped: u64,
    pub in_memory_only: bool,
    /// Sample time of the oldest payload that is owed.
    pub oldest_t_ms: Option<i64>,
}

/// What was found at opening.
#[derive(Debug)]
pub struct Opened {
    pub spool: Spool,
    /// To be sent as events.
    pub gaps: Vec<Gap>,
    /// For the log and a notice.
    pub notes: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    config: SpoolConfig,
    index: BTreeMap<Key, Entry>,
    streams: [Stream; 2],
    memory: [VecDeque<Key>; 2],
    memory_bytes: u64,
    next_segment: u32,
    durability: Durability,
    dropped: u64,
    reader: Option<(u32, File)>,
    /// Ended segments, and the directory for the name of a new one, that the next fsync has to cover.
    ended_unsynced: Vec<Arc<File>>,
    #[cfg(test)]
    refuse_writes: bool,
}

impl Spool {
    /// Other bounds; they are kept to from the next payload on.
    pub fn resettle(&mut self, config: SpoolConfig) {
        self.config = config;
    }

    /// The highest incarnation stored, so that a lost counter is not used twice.
    #[must_use]
    pub fn highest_incarnation(&self) -> u64 {
        self.index.last_key_value().map_or(0, |(key, _)| key.incarnation)
    }

    #[must_use]
    pub fn figures(&self) -> SpoolFigures {
        SpoolFigures {
            payloads: self.index.len() as u64,
            disk_bytes: self.disk_bytes(),
            memory_bytes: self.memory_bytes,
            dropped: self.dropped,
            in_memory_only: self.durability != Durability::Disk,
            oldest_t_ms: self.index.first_key_value().map(|(_, entry)| entry.t_ms),
        }
    }

    #[must_use]
    pub const fn durability(&self) -> &Durability {
        &self.durability
    }

    fn disk_bytes(&self) -> u64 {
        self.streams.iter().flat_map(|stream| &stream.segments).map(|segment| segment.bytes).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.index.contains_key(&key)
    }

    /// Every payload that is owed, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = (Key, Class)> + '_ {
        self.index.iter().map(|(key, entry)| (*key, entry.class))
    }

    const fn take_segment_id(&mut self) -> u32 {
        self.next_segment += 1;
        self.next_segment
    }
}

#[cfg(test)]
mod tests;
