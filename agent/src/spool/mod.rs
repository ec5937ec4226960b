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

mod segment;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bcp_wire::{Gap, Watermark};
use serde::Deserialize;

use crate::span::Span;
pub use segment::{Class, Key, Record};
use segment::{HEADER_BYTES, Scan, SegmentName};

/// Payloads held in memory while the disk refuses them, in bytes: about a minute of a large gateway, and a tenth of the
/// memory an agent may use.
const RAM_MAX_BYTES: u64 = 8 << 20;
/// How long the disk is left alone after it refused a write.
const DISK_RETRY_MS: u64 = 10_000;
/// Segments set aside for a human; older ones are deleted so that a failing disk does not fill itself.
const SET_ASIDE_MAX: usize = 4;
/// Most ranges one dropped segment is described by; beyond it neighbours are merged, which over-reports a loss.
const GAP_RANGES_MAX: usize = 64;

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
        if self.max_bytes < 4 * self.segment_bytes {
            faults.push(("max_bytes", format!("must hold at least four segments ({} bytes)", 4 * self.segment_bytes)));
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

#[derive(Debug)]
struct Active {
    file: Arc<File>,
    unsynced: bool,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct SpoolFigures {
    pub payloads: u64,
    pub disk_bytes: u64,
    pub memory_bytes: u64,
    /// Payloads lost to the size bound, the age bound, or a fault of the disk.
    pub dropped: u64,
    pub in_memory_only: bool,
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
    #[cfg(test)]
    refuse_writes: bool,
}

impl Spool {
    /// Reads what is there. `now_ms` is monotonic and only spaces retries of a refusing disk.
    #[must_use]
    pub fn open(dir: &Path, config: SpoolConfig, now_ms: u64) -> Opened {
        let mut spool = Spool {
            dir: dir.to_owned(),
            config,
            index: BTreeMap::new(),
            streams: [Stream::default(), Stream::default()],
            memory: [VecDeque::new(), VecDeque::new()],
            memory_bytes: 0,
            next_segment: 0,
            durability: Durability::Disk,
            dropped: 0,
            reader: None,
            #[cfg(test)]
            refuse_writes: false,
        };
        let mut notes = Vec::new();
        if let Err(error) = fs::create_dir_all(dir) {
            notes.push(format!("spool directory cannot be made: {error}"));
            spool.fall_back(&error, now_ms);
            return Opened { spool, gaps: Vec::new(), notes };
        }
        let names = match segment::list(dir) {
            Ok(names) => names,
            Err(error) => {
                notes.push(format!("spool directory cannot be read: {error}"));
                Vec::new()
            }
        };
        let mut suspects = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let next = names.get(at + 1).filter(|next| next.class == name.class).map(|next| next.first);
            spool.adopt(name, next, &mut suspects, &mut notes);
        }
        spool.bound_set_aside();
        let gaps = spool.missing_of(&suspects);
        spool.dropped += gaps.iter().map(|gap| gap.through - gap.from + 1).sum::<u64>();
        Opened { spool, gaps, notes }
    }

    fn adopt(
        &mut self,
        name: &SegmentName,
        next: Option<Key>,
        suspects: &mut Vec<(Key, Option<u64>)>,
        notes: &mut Vec<String>,
    ) {
        let path = self.dir.join(name.file_name());
        let Scan { records, faults, bytes } = match segment::scan(&path, name.first, next) {
            Ok(scan) => scan,
            Err(error) => {
                notes.push(format!("segment {} cannot be read and was set aside: {error}", name.file_name()));
                set_aside(&path);
                suspects.push((name.first, segment::end_before(name.first, next)));
                return;
            }
        };
        if !faults.is_empty() {
            notes.push(format!("segment {} has {} damaged places", name.file_name(), faults.len()));
        }
        suspects.extend(faults);
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            if bytes > HEADER_BYTES {
                notes.push(format!("segment {} has no good record and was set aside", name.file_name()));
                set_aside(&path);
            } else if let Err(error) = fs::remove_file(&path) {
                notes.push(format!("empty segment {} stays: {error}", name.file_name()));
            }
            return;
        };
        let id = self.take_segment_id();
        self.streams[name.class.index()].segments.push_back(Segment {
            id,
            path,
            bytes,
            live: u32::try_from(records.len()).unwrap_or(u32::MAX),
            first: first.key,
            last: last.key,
            newest_t_ms: records.iter().map(|found| found.t_ms).max().unwrap_or(0),
        });
        for found in &records {
            let place = Place::Disk { segment: id, offset: found.offset };
            self.index
                .insert(found.key, Entry { place, class: name.class, samples: found.samples, bytes: found.bytes });
        }
    }

    const fn take_segment_id(&mut self) -> u32 {
        self.next_segment += 1;
        self.next_segment
    }

    /// Turns suspected ranges into gaps: what is present after all is taken out.
    fn missing_of(&self, suspects: &[(Key, Option<u64>)]) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        for (from, through) in suspects {
            let known_last = self
                .index
                .range(*from..=Key { incarnation: from.incarnation, seq: u64::MAX })
                .next_back()
                .map_or(from.seq, |(key, _)| key.seq);
            let through = through.unwrap_or(known_last).max(from.seq);
            let last = Key { incarnation: from.incarnation, seq: through };
            let mut start = from.seq;
            let mut push = |from_seq: u64, through: u64| {
                if from_seq <= through {
                    gaps.push(Gap {
                        incarnation: from.incarnation,
                        from: from_seq,
                        through,
                        samples: None,
                        reason: "spool damaged".to_owned(),
                    });
                }
            };
            for (present, _) in self.index.range(*from..=last) {
                push(start, present.seq.saturating_sub(1));
                start = present.seq + 1;
            }
            push(start, through);
        }
        gaps
    }

    fn bound_set_aside(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut aside: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "bad"))
            .collect();
        aside.sort();
        let surplus = aside.len().saturating_sub(SET_ASIDE_MAX);
        for path in &aside[..surplus] {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "a segment set aside cannot be deleted");
            }
        }
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

    /// Stores a payload. Returns what the bounds made it drop.
    pub fn append(&mut self, record: &Record, now_ms: u64, wall_ms: i64) -> Vec<Gap> {
        let encoded = segment::encode(record);
        let bytes = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        let class = record.class.index();
        if let Durability::Memory { retry_at_ms, .. } = &self.durability
            && now_ms >= *retry_at_ms
        {
            self.durability = Durability::Disk;
        }
        let place = match &self.durability {
            Durability::Disk => match self.write(record, &encoded) {
                Ok(place) => place,
                Err(error) => {
                    self.fall_back(&error, now_ms);
                    Place::Ram(encoded.into_boxed_slice())
                }
            },
            Durability::Memory { .. } => Place::Ram(encoded.into_boxed_slice()),
        };
        if matches!(place, Place::Ram(_)) {
            self.memory_bytes += u64::from(bytes);
            self.memory[class].push_back(record.key);
        }
        self.index.insert(record.key, Entry { place, class: record.class, samples: record.samples, bytes });
        self.enforce_bounds(wall_ms)
    }

    fn fall_back(&mut self, error: &io::Error, now_ms: u64) {
        for stream in &mut self.streams {
            stream.active = None;
        }
        self.durability =
            Durability::Memory { reason: error.to_string(), retry_at_ms: now_ms.saturating_add(DISK_RETRY_MS) };
    }

    fn write(&mut self, record: &Record, encoded: &[u8]) -> io::Result<Place> {
        #[cfg(test)]
        if self.refuse_writes {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let id = self.next_segment + 1;
        let stream = &mut self.streams[record.class.index()];
        let full = stream.segments.back().is_some_and(|segment| {
            segment.bytes + encoded.len() as u64 > self.config.segment_bytes && segment.bytes > HEADER_BYTES
                || segment.last.incarnation != record.key.incarnation
        });
        if stream.active.is_none() || full {
            if let Some(finished) = stream.active.take()
                && finished.unsynced
            {
                finished.file.sync_data()?;
            }
            let name = SegmentName { class: record.class, first: record.key };
            let path = self.dir.join(name.file_name());
            let file = segment::create(&self.dir, &path)?;
            self.next_segment = id;
            stream.segments.push_back(Segment {
                id,
                path,
                bytes: HEADER_BYTES,
                live: 0,
                first: record.key,
                last: record.key,
                newest_t_ms: record.t_ms,
            });
            stream.active = Some(Active { file: Arc::new(file), unsynced: true });
        }
        let (Some(segment), Some(active)) = (stream.segments.back_mut(), stream.active.as_mut()) else {
            return Err(io::Error::other("no segment to write to"));
        };
        let offset = segment.bytes;
        if let Err(error) = segment::write_at(&active.file, encoded, offset) {
            // A torn record is cut off; where even that fails, opening skips it.
            if let Err(cut) = active.file.set_len(offset) {
                tracing::debug!(%cut, "a torn record stays at the end of its segment");
            }
            return Err(error);
        }
        active.unsynced = true;
        segment.bytes += encoded.len() as u64;
        segment.live += 1;
        segment.last = record.key;
        segment.newest_t_ms = segment.newest_t_ms.max(record.t_ms);
        let offset = u32::try_from(offset).map_err(|_| io::Error::other("segment beyond 4 GiB"))?;
        Ok(Place::Disk { segment: segment.id, offset })
    }

    /// Files with payloads that no fsync covers yet. The caller syncs them off its own thread.
    pub fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        let take = |active: &mut Active| std::mem::take(&mut active.unsynced).then(|| Arc::clone(&active.file));
        self.streams.iter_mut().filter_map(|stream| stream.active.as_mut().and_then(take)).collect()
    }

    /// A failed fsync: what was written since may be gone, so nothing more is trusted to this disk for a while.
    pub fn sync_failed(&mut self, error: &io::Error, now_ms: u64) {
        self.fall_back(error, now_ms);
    }

    fn enforce_bounds(&mut self, wall_ms: i64) -> Vec<Gap> {
        let mut gaps = Vec::new();
        while self.memory_bytes > RAM_MAX_BYTES.min(self.config.max_bytes) {
            let class = usize::from(self.memory[0].is_empty());
            let Some(key) = self.memory[class].pop_front() else { break };
            if let Some(entry) = self.index.remove(&key) {
                self.memory_bytes -= u64::from(entry.bytes);
                self.dropped += 1;
                extend_gaps(&mut gaps, key, u64::from(entry.samples), "spool in memory full");
            }
        }
        while self.disk_bytes() > self.config.max_bytes {
            let class = usize::from(self.streams[0].segments.is_empty());
            if self.streams[class].segments.is_empty() {
                break;
            }
            gaps.extend(self.drop_oldest(class, "spool full"));
        }
        let max_age_ms = i64::try_from(self.config.max_age.as_millis()).unwrap_or(i64::MAX);
        for class in 0..self.streams.len() {
            while self.streams[class].segments.len() > 1
                && self.streams[class].segments[0].newest_t_ms < wall_ms.saturating_sub(max_age_ms)
            {
                gaps.extend(self.drop_oldest(class, "older than max_age"));
            }
        }
        gaps
    }

    fn drop_oldest(&mut self, class: usize, reason: &str) -> Vec<Gap> {
        let stream = &mut self.streams[class];
        let Some(segment) = stream.segments.pop_front() else { return Vec::new() };
        if stream.segments.is_empty() {
            stream.active = None;
        }
        let mut gaps = Vec::new();
        let owed: Vec<Key> = self
            .index
            .range(segment.first..=segment.last)
            .filter(|(_, entry)| matches!(entry.place, Place::Disk { segment: id, .. } if id == segment.id))
            .map(|(key, _)| *key)
            .collect();
        for key in owed {
            if let Some(entry) = self.index.remove(&key) {
                self.dropped += 1;
                extend_gaps(&mut gaps, key, u64::from(entry.samples), reason);
            }
        }
        delete(&segment.path);
        gaps
    }

    /// Reads a payload back. A payload that cannot be read is given up and reported.
    ///
    /// # Errors
    /// The gap that its loss leaves; `None` where it is not owed (any more).
    pub fn read(&mut self, key: Key) -> Result<Record, Option<Gap>> {
        let Some(entry) = self.index.get(&key) else { return Err(None) };
        let record = match &entry.place {
            Place::Ram(encoded) => segment::decode(encoded),
            Place::Disk { segment, offset } => {
                let (segment, offset, bytes) = (*segment, *offset, entry.bytes);
                self.read_disk(segment, entry_class(entry), offset, bytes)
            }
        };
        match record {
            Some(record) if record.key == key => Ok(record),
            _ => Err(self.give_up(key, "spool damaged")),
        }
    }

    /// Drops one payload that can never be delivered; `None` where it is not owed.
    pub fn give_up(&mut self, key: Key, reason: &str) -> Option<Gap> {
        let samples = self.index.get(&key).map(|entry| u64::from(entry.samples))?;
        self.forget(key);
        self.dropped += 1;
        Some(Gap {
            incarnation: key.incarnation,
            from: key.seq,
            through: key.seq,
            samples: Some(samples),
            reason: reason.to_owned(),
        })
    }

    fn read_disk(&mut self, id: u32, class: Class, offset: u32, bytes: u32) -> Option<Record> {
        if self.reader.as_ref().is_none_or(|(open, _)| *open != id) {
            let segment = self.streams[class.index()].segments.iter().find(|segment| segment.id == id)?;
            self.reader = Some((id, File::open(&segment.path).ok()?));
        }
        let (_, file) = self.reader.as_ref()?;
        segment::read_at(file, u64::from(offset), bytes).ok().and_then(|encoded| segment::decode(&encoded))
    }

    /// Frees everything the collector has committed.
    pub fn commit(&mut self, mark: &Watermark) -> Vec<Key> {
        let mut freed = Vec::new();
        for one in &mark.marks {
            let range = Key { incarnation: one.i, seq: 0 }..=Key { incarnation: one.i, seq: one.through };
            let covered = self.index.range(range).map(|(key, _)| *key);
            freed.extend(covered.filter(|key| !one.holes.iter().any(|(from, to)| (*from..=*to).contains(&key.seq))));
        }
        for key in &freed {
            self.forget(*key);
        }
        freed
    }

    fn forget(&mut self, key: Key) {
        let Some(entry) = self.index.remove(&key) else { return };
        match entry.place {
            Place::Ram(_) => {
                self.memory_bytes -= u64::from(entry.bytes);
                // Commits come in order, so this is at the front but for holes.
                let queue = &mut self.memory[entry.class.index()];
                if let Some(at) = queue.iter().position(|queued| *queued == key) {
                    queue.remove(at);
                }
            }
            Place::Disk { segment: id, .. } => {
                let stream = &mut self.streams[entry.class.index()];
                let newest = stream.active.is_some().then(|| stream.segments.back().map(|s| s.id)).flatten();
                let Some(at) = stream.segments.iter().position(|segment| segment.id == id) else { return };
                stream.segments[at].live = stream.segments[at].live.saturating_sub(1);
                if stream.segments[at].live == 0
                    && newest != Some(id)
                    && let Some(done) = stream.segments.remove(at)
                {
                    delete(&done.path);
                }
            }
        }
    }
}

const fn entry_class(entry: &Entry) -> Class {
    entry.class
}

fn delete(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a delivered segment cannot be deleted");
    }
}

fn set_aside(path: &Path) {
    if let Err(error) = fs::rename(path, path.with_extension("bad")) {
        tracing::warn!(%error, path = %path.display(), "a damaged segment cannot be set aside");
    }
}

/// Adds one lost payload to a list of ranges, joining neighbours.
fn extend_gaps(gaps: &mut Vec<Gap>, key: Key, samples: u64, reason: &str) {
    let crowded = gaps.len() >= GAP_RANGES_MAX;
    if let Some(last) = gaps.last_mut()
        && last.incarnation == key.incarnation
        && (last.through + 1 == key.seq || crowded && last.through < key.seq)
    {
        last.through = key.seq;
        last.samples = last.samples.map(|known| known + samples);
        return;
    }
    gaps.push(Gap {
        incarnation: key.incarnation,
        from: key.seq,
        through: key.seq,
        samples: Some(samples),
        reason: reason.to_owned(),
    });
}

#[cfg(test)]
mod tests;
