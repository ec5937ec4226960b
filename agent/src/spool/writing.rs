//! The way in: payloads gather in memory for one turn of the publisher, and one write brings them to the disk.
//!
//! What was written last stays in memory until the next payload comes, so that live data is not read back to be sent.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bcp_wire::Gap;

use super::block::{self, Block};
use super::bounds::delete;
use super::ranges::KeyRange;
use super::segment::{self, HEADER_BYTES, Key, Record, SegmentName};
use super::{DISK_RETRY_MS, Durability, Held, RECENT_MAX, Segment, Spool};

/// Most bytes that gather before they are written in the middle of a turn.
const TAIL_MAX_BYTES: usize = 128 << 10;

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    file: Arc<File>,
    unsynced: bool,
    /// The newest records as they are, or will be, at `tail_at` of the file: all of them written, or none.
    tail: Vec<u8>,
    tail_at: u64,
    /// Where each of them begins.
    in_tail: Vec<(Key, usize)>,
    written: bool,
    /// Number of blocks, and the last of them, before the tail.
    blocks_before: (usize, Option<Block>),
}

impl Active {
    pub fn of_tail(&self, key: Key) -> Option<&[u8]> {
        let at = self.in_tail.binary_search_by_key(&key, |(known, _)| *known).ok()?;
        self.tail.get(self.in_tail[at].1..)
    }

    pub const fn tail_at(&self) -> u64 {
        self.tail_at
    }

    /// What of the tail lies between two places of the file.
    pub fn tail_between(&self, from: u64, to: u64) -> Option<&[u8]> {
        let at = |place: u64| usize::try_from(place.checked_sub(self.tail_at)?).ok();
        self.tail.get(at(from)?..at(to)?)
    }

    const fn is_pending(&self) -> bool {
        !self.written && !self.tail.is_empty()
    }
}

impl Spool {
    /// Takes a payload. It is safe from a crash of this process after the next [`Spool::flush`]. Returns what the bounds
    /// made it drop.
    pub fn append(&mut self, record: &Record, now_ms: u64, wall_ms: i64) -> Vec<Gap> {
        if let Durability::Memory { retry_at_ms, .. } = &self.durability
            && now_ms >= *retry_at_ms
        {
            self.durability = Durability::Disk;
            self.bring_to_disk(now_ms);
        }
        self.flush_long_tail(record.class.index(), now_ms);
        let gathered = match self.durability {
            Durability::Disk => self.gather(record).map_err(|error| self.fall_back(&error, now_ms)).ok(),
            Durability::Memory { .. } => None,
        };
        if gathered.is_none() {
            self.hold(record);
        }
        self.owed[record.class.index()].insert(KeyRange::one(record.key));
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((record.key, record.t_ms));
        self.enforce_bounds(wall_ms)
    }

    fn hold(&mut self, record: &Record) {
        let mut encoded = Vec::with_capacity(segment::encoded_bytes(record));
        segment::encode(record, &mut encoded);
        self.memory_bytes += encoded.len() as u64;
        let held = Held { encoded: encoded.into(), samples: record.samples, t_ms: record.t_ms };
        if let Some(earlier) = self.memory[record.class.index()].insert(record.key, held) {
            self.memory_bytes = self.memory_bytes.saturating_sub(earlier.encoded.len() as u64);
        }
    }

    /// The disk is tried again: what is in memory goes first, so that numbers only grow within a segment.
    fn bring_to_disk(&mut self, now_ms: u64) {
        for class in 0..self.memory.len() {
            while self.durability == Durability::Disk
                && let Some((_, held)) = self.memory[class].pop_first()
            {
                self.memory_bytes = self.memory_bytes.saturating_sub(held.encoded.len() as u64);
                let Some(record) = segment::decode(&held.encoded) else { continue };
                match self.gather(&record) {
                    Ok(()) => self.flush_long_tail(class, now_ms),
                    Err(error) => {
                        self.hold(&record);
                        self.fall_back(&error, now_ms);
                    }
                }
            }
        }
        self.flush(now_ms);
    }

    fn flush_long_tail(&mut self, class: usize, now_ms: u64) {
        let active = self.streams[class].active.as_ref();
        if active.is_some_and(|active| active.tail.len() >= TAIL_MAX_BYTES && active.is_pending()) {
            self.flush(now_ms);
        }
    }

    /// Writes what has gathered. Where the disk refuses, it goes to memory.
    pub fn flush(&mut self, now_ms: u64) {
        for class in 0..self.streams.len() {
            if let Err(error) = self.flush_stream(class) {
                self.fall_back(&error, now_ms);
            }
        }
    }

    fn flush_stream(&mut self, class: usize) -> io::Result<()> {
        let Some(active) = self.streams[class].active.as_mut().filter(|active| active.is_pending()) else {
            return Ok(());
        };
        #[cfg(test)]
        if self.refuse_writes {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        segment::write_at(&active.file, &active.tail, active.tail_at)?;
        active.written = true;
        active.unsynced = true;
        Ok(())
    }

    /// Encodes a record into the tail of its stream's segment.
    fn gather(&mut self, record: &Record) -> io::Result<()> {
        #[cfg(test)]
        if self.refuse_writes {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let class = record.class.index();
        let bytes = segment::encoded_bytes(record);
        let stream = &self.streams[class];
        let full = stream.segments.back().is_some_and(|segment| {
            segment.bytes + bytes as u64 > self.config.segment_bytes && segment.bytes > HEADER_BYTES
                || segment.last.incarnation != record.key.incarnation
        });
        if stream.active.is_none() || full {
            self.start_segment(record)?;
        }
        let stream = &mut self.streams[class];
        let (Some(segment), Some(active)) = (stream.segments.back_mut(), stream.active.as_mut()) else {
            return Err(io::Error::other("no segment to write to"));
        };
        let offset = u32::try_from(segment.bytes).map_err(|_| io::Error::other("segment beyond 4 GiB"))?;
        if !active.is_pending() {
            active.tail.clear();
            active.in_tail.clear();
            active.written = false;
            active.tail_at = segment.bytes;
            active.blocks_before = (segment.blocks.len(), segment.blocks.last().copied());
        }
        active.in_tail.push((record.key, active.tail.len()));
        segment::encode(record, &mut active.tail);
        segment.bytes += bytes as u64;
        segment.last = record.key;
        segment.newest_t_ms = segment.newest_t_ms.max(record.t_ms);
        let bytes = u32::try_from(bytes).map_err(io::Error::other)?;
        block::add(&mut segment.blocks, offset, bytes, record.key, record.t_ms);
        Ok(())
    }

    /// Ends the stream's segment and begins the next one, named after `first`.
    fn start_segment(&mut self, first: &Record) -> io::Result<()> {
        let class = first.class.index();
        self.flush_stream(class)?;
        let name = SegmentName { class: first.class, first: first.key };
        let path = self.dir.join(name.file_name());
        let file = segment::create(&path)?;
        let id = self.take_segment_id();
        let stream = &mut self.streams[class];
        if let Some(ended) = stream.active.take() {
            let owed = &self.owed[class];
            let delivered = |segment: &mut Segment| owed.within(segment.first, segment.last).next().is_none();
            if let Some(delivered) = stream.segments.pop_back_if(delivered) {
                self.reader.forget(delivered.id);
                delete(&delivered.path);
            } else {
                stream.segments.back().into_iter().for_each(|segment| seal(segment, &ended));
                self.ended_unsynced.push(ended.file);
            }
        }
        // Its name has to reach the disk as well.
        self.ended_unsynced.push(Arc::new(File::open(&self.dir)?));
        stream.segments.push_back(Segment {
            id,
            path,
            bytes: HEADER_BYTES,
            name: first.key,
            first: first.key,
            last: first.key,
            newest_t_ms: first.t_ms,
            blocks: Vec::new(),
            packable: true,
        });
        stream.active = Some(Active {
            file: Arc::new(file),
            unsynced: true,
            tail: Vec::new(),
            tail_at: HEADER_BYTES,
            in_tail: Vec::new(),
            written: true,
            blocks_before: (0, None),
        });
        Ok(())
    }

    /// The disk refused: what was not written stays in memory, and so does what comes until the disk is tried again.
    pub(super) fn fall_back(&mut self, error: &io::Error, now_ms: u64) {
        for class in 0..self.streams.len() {
            let Some(active) = self.streams[class].active.take() else { continue };
            if active.is_pending() {
                // What was delivered in the meantime is not needed any more.
                for (key, at) in &active.in_tail {
                    if self.owed[class].contains(*key)
                        && let Some(record) = active.tail.get(*at..).and_then(segment::decode)
                    {
                        self.hold(&record);
                    }
                }
            }
            let Some(segment) = self.streams[class].segments.back_mut() else { continue };
            if active.is_pending() {
                cut_back(segment, &active);
            }
            seal(segment, &active);
            let owed = &self.owed[class];
            let is_empty = segment.blocks.is_empty() || owed.within(segment.first, segment.last).next().is_none();
            if is_empty && let Some(empty) = self.streams[class].segments.pop_back() {
                self.reader.forget(empty.id);
                delete(&empty.path);
            }
        }
        self.ended_unsynced.clear();
        self.durability =
            Durability::Memory { reason: error.to_string(), retry_at_ms: now_ms.saturating_add(DISK_RETRY_MS) };
    }

    /// Ends the segments that are written to: nothing more comes. What was written has to be synced still.
    pub fn close(&mut self, now_ms: u64) {
        self.flush(now_ms);
        for stream in &mut self.streams {
            if let (Some(segment), Some(ended)) = (stream.segments.back(), stream.active.take()) {
                seal(segment, &ended);
                self.ended_unsynced.push(ended.file);
            }
        }
    }

    /// Files with payloads that no fsync covers yet. The caller syncs them off its own thread.
    pub fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        let take = |active: &mut Active| std::mem::take(&mut active.unsynced).then(|| Arc::clone(&active.file));
        let mut files = std::mem::take(&mut self.ended_unsynced);
        files.extend(self.streams.iter_mut().filter_map(|stream| stream.active.as_mut().and_then(take)));
        files
    }

    /// A failed fsync: what was written since may be gone, so nothing more is trusted to this disk for a while.
    pub fn sync_failed(&mut self, error: &io::Error, now_ms: u64) {
        self.fall_back(error, now_ms);
    }
}

/// Without it the segment is as good, only its damage is told less exactly.
fn seal(segment: &Segment, ended: &Active) {
    if let Err(error) = segment::seal(&ended.file, segment.name, segment.last) {
        tracing::debug!(%error, path = %segment.path.display(), "a segment is not sealed");
    }
}

/// Takes what was not written out of a segment.
fn cut_back(segment: &mut Segment, active: &Active) {
    segment.bytes = active.tail_at;
    segment.blocks.truncate(active.blocks_before.0);
    if let (Some(last), Some(before)) = (segment.blocks.last_mut(), active.blocks_before.1) {
        *last = before;
    }
    segment.last = segment.blocks.iter().map(|block| block.last).max().unwrap_or(segment.first);
    // A torn record is cut off; where even that fails, opening skips it.
    if let Err(cut) = active.file.set_len(active.tail_at) {
        tracing::debug!(%cut, "a torn record stays at the end of its segment");
    }
}
