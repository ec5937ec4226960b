//! The agent's outbox: every payload from the moment it has a number until the home collector has committed it.
//!
//! Knows: segments on disk, records in them, which payloads are still owed, what was lost and exactly which numbers.
//! Refuses to know: MQTT and when something is sent.
//!
//! Two streams of segments (data, events), so that the bounds drop whole old files of data before any event. A segment
//! goes when nothing in it is owed any more, or when the size or age bound drops it; the latter is a [`Gap`]. In memory
//! are ranges of numbers and, for each segment, where its blocks lie: nothing for each payload.
//!
//! Invariants:
//! * opening never fails: a bad record is skipped, a bad segment is set aside, both leave a gap with exact numbers;
//! * a disk that refuses a write costs nothing but durability: payloads go to a bounded ring in memory until it works again;
//! * a payload is handed out with the checksum it was stored with, or not at all.

mod block;
mod bounds;
mod late;
mod opening;
mod packing;
mod ranges;
mod reading;
mod scan;
mod segment;
mod writing;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bcp_wire::Gap;
use serde::Deserialize;

use crate::span::Span;
use block::Block;
pub use late::FoundLate;
use late::Late;
pub use packing::{PackDone, PackJob};
pub use ranges::{KeyRange, Ranges};
use reading::Reader;
pub use reading::Unread;
pub use segment::{Class, Key, Record};
use writing::Active;

/// Payloads held in memory while the disk refuses them, in bytes: about a minute of a large gateway, and a tenth of the
/// memory an agent may use.
const RAM_MAX_BYTES: u64 = 8 << 20;
/// How long the disk is left alone after it refused a write.
const DISK_RETRY_MS: u64 = 10_000;
/// Payloads of which the exact time is remembered, for the age of the oldest one that is owed.
const RECENT_MAX: usize = 256;

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
        if !(64 << 10..=segment::CONFIGURED_MAX_BYTES).contains(&self.segment_bytes) {
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

/// A payload that the disk refused.
#[derive(Debug)]
struct Held {
    encoded: Box<[u8]>,
    samples: u32,
    t_ms: i64,
}

#[derive(Debug)]
struct Segment {
    /// Another one when the file is replaced.
    id: u32,
    path: PathBuf,
    bytes: u64,
    /// The number it is named after; the first that is in it may be another one.
    name: Key,
    first: Key,
    last: Key,
    newest_t_ms: i64,
    blocks: Vec<Block>,
    /// Nobody tried to pack it yet.
    packable: bool,
}

impl Segment {
    fn spans(&self, key: Key) -> bool {
        (self.first..=self.last).contains(&key)
    }
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
    /// Reads that the system refused; what they were for is read again later.
    #[serde(default)]
    pub read_errors: u64,
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
    /// By class, as are `streams` and `memory`.
    owed: [Ranges; 2],
    streams: [Stream; 2],
    /// Newer than all that is on the disk.
    memory: [BTreeMap<Key, Held>; 2],
    memory_bytes: u64,
    recent: VecDeque<(Key, i64)>,
    next_segment: u32,
    durability: Durability,
    dropped: u64,
    read_errors: u64,
    /// Times in a row that the disk refused a packed segment.
    packs_refused: u8,
    pack_again_at_ms: u64,
    /// What was there at opening and could not be read.
    late: Late,
    /// Until then nothing is said of reads that are refused.
    read_errors_said_until_ms: u64,
    reader: Reader,
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
        let owed = self.owed.iter().filter_map(Ranges::last).map(|key| key.incarnation);
        owed.chain(self.late.highest_incarnation()).max().unwrap_or(0)
    }

    #[must_use]
    pub fn figures(&self) -> SpoolFigures {
        SpoolFigures {
            payloads: self.owed.iter().map(Ranges::count).fold(0, u64::saturating_add),
            disk_bytes: self.disk_bytes(),
            memory_bytes: self.memory_bytes,
            dropped: self.dropped,
            read_errors: self.read_errors,
            in_memory_only: self.durability != Durability::Disk,
            oldest_t_ms: self.oldest_t_ms(),
        }
    }

    /// Exact for what came last and for what is in memory; else that of its block.
    fn oldest_t_ms(&self) -> Option<i64> {
        let oldest = |class: usize| self.owed[class].first().map(|key| (key, class));
        let (key, class) = (0..self.owed.len()).filter_map(oldest).min()?;
        if let Some((_, t_ms)) = self.recent.iter().find(|(known, _)| *known == key) {
            return Some(*t_ms);
        }
        if let Some(held) = self.memory[class].get(&key) {
            return Some(held.t_ms);
        }
        let blocks = self.streams[class].segments.iter().flat_map(|segment| &segment.blocks);
        blocks.filter(|block| block.spans(key)).map(|block| block.oldest_t_ms).min()
    }

    #[must_use]
    pub const fn durability(&self) -> &Durability {
        &self.durability
    }

    fn disk_bytes(&self) -> u64 {
        let segments = self.streams.iter().flat_map(|stream| &stream.segments);
        segments.map(|segment| segment.bytes).sum::<u64>() + self.late.bytes()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owed.iter().all(Ranges::is_empty)
    }

    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.owed.iter().any(|owed| owed.contains(key))
    }

    /// Every payload that is owed, by class, oldest first.
    pub fn owed(&self) -> impl Iterator<Item = (KeyRange, Class)> + '_ {
        Class::ALL.into_iter().flat_map(|class| self.owed[class.index()].iter().map(move |range| (range, class)))
    }

    /// Every payload that is owed, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = (Key, Class)> + '_ {
        let [data, events] = &self.owed;
        let mut data = data.keys().peekable();
        let mut events = events.keys().peekable();
        std::iter::from_fn(move || {
            let event_next = match (data.peek(), events.peek()) {
                (Some(data), Some(event)) => event < data,
                (None, event) => event.is_some(),
                (Some(_), None) => false,
            };
            if event_next {
                events.next().map(|key| (key, Class::Event))
            } else {
                data.next().map(|key| (key, Class::Data))
            }
        })
    }

    const fn take_segment_id(&mut self) -> u32 {
        self.next_segment += 1;
        self.next_segment
    }
}

#[cfg(test)]
mod tests;
