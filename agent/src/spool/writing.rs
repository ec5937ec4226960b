//! The way in and back: payloads gather in memory for one turn of the publisher, and one write brings them to the disk.
//!
//! What was written last stays in memory until the next payload comes, so that live data is not read back to be sent.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bcp_wire::Gap;

use super::bounds::delete;
use super::segment::{self, Class, HEADER_BYTES, Key, Record, SegmentName};
use super::{DISK_RETRY_MS, Durability, Entry, Place, Segment, Spool};

/// Most bytes that gather before they are written in the middle of a turn.
const TAIL_MAX_BYTES: usize = 128 << 10;

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    file: Arc<File>,
    unsynced: bool,
    /// The newest records as they are, or will be, at `tail_at` of the file.
    tail: Vec<u8>,
    tail_at: u64,
    /// Those of them that are not written yet.
    pending: Vec<Key>,
}

impl Active {
    fn of_tail(&self, offset: u64, bytes: u32) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.tail_at)?).ok()?;
        self.tail.get(from..from + usize::try_from(bytes).ok()?)
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
        let entry = gathered.unwrap_or_else(|| {
            let mut encoded = Vec::with_capacity(segment::encoded_bytes(record));
            segment::encode(record, &mut encoded);
            let bytes = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
            self.memory_bytes += u64::from(bytes);
            self.memory[record.class.index()].push_back(record.key);
            Entry {
                place: Place::Ram(encoded.into()),
                class: record.class,
                samples: record.samples,
                bytes,
                t_ms: record.t_ms,
            }
        });
        self.index.insert(record.key, entry);
        self.enforce_bounds(wall_ms)
    }

    /// The disk is tried again: what is in memory goes first, so that numbers only grow within a segment.
    fn bring_to_disk(&mut self, now_ms: u64) {
        for class in 0..self.memory.len() {
            while let Some(key) = self.memory[class].front().copied()
                && self.durability == Durability::Disk
            {
                let record = match self.index.get(&key).map(|entry| &entry.place) {
                    Some(Place::Ram(encoded)) => segment::decode(encoded),
                    Some(Place::Disk { .. }) | None => None,
                };
                let Some(record) = record else {
                    self.memory[class].pop_front();
                    continue;
                };
                match self.gather(&record) {
                    Ok(entry) => {
                        self.memory_bytes = self.memory_bytes.saturating_sub(u64::from(entry.bytes));
                        self.memory[class].pop_front();
                        self.index.insert(key, entry);
                        self.flush_long_tail(class, now_ms);
                    }
                    Err(error) => self.fall_back(&error, now_ms),
                }
            }
        }
        self.flush(now_ms);
    }

    fn flush_long_tail(&mut self, class: usize, now_ms: u64) {
        let active = self.streams[class].active.as_ref();
        if active.is_some_and(|active| active.tail.len() >= TAIL_MAX_BYTES && !active.pending.is_empty()) {
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
        let Some(active) = self.streams[class].active.as_mut().filter(|active| !active.pending.is_empty()) else {
            return Ok(());
        };
        #[cfg(test)]
        if self.refuse_writes {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        segment::write_at(&active.file, &active.tail, active.tail_at)?;
        active.pending.clear();
        active.unsynced = true;
        Ok(())
    }

    /// Encodes a record into the tail of its stream's segment.
    fn gather(&mut self, record: &Record) -> io::Result<Entry> {
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
        if active.pending.is_empty() {
            active.tail.clear();
            active.tail_at = segment.bytes;
        }
        let offset = u32::try_from(segment.bytes).map_err(|_| io::Error::other("segment beyond 4 GiB"))?;
        segment::encode(record, &mut active.tail);
        active.pending.push(record.key);
        segment.bytes += bytes as u64;
        segment.live += 1;
        segment.last = record.key;
        segment.newest_t_ms = segment.newest_t_ms.max(record.t_ms);
        Ok(Entry {
            place: Place::Disk { segment: segment.id, offset },
            class: record.class,
            samples: record.samples,
            bytes: u32::try_from(bytes).map_err(io::Error::other)?,
            t_ms: record.t_ms,
        })
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
            if stream.segments.back().is_some_and(|segment| segment.live == 0)
                && let Some(delivered) = stream.segments.pop_back()
            {
                delete(&delivered.path);
            } else if ended.unsynced {
                self.ended_unsynced.push(ended.file);
            }
        }
        // Its name has to reach the disk as well.
        self.ended_unsynced.push(Arc::new(File::open(&self.dir)?));
        stream.segments.push_back(Segment {
            id,
            path,
            bytes: HEADER_BYTES,
            live: 0,
            first: first.key,
            last: first.key,
            newest_t_ms: first.t_ms,
        });
        let file = Arc::new(file);
        stream.active =
            Some(Active { file, unsynced: true, tail: Vec::new(), tail_at: HEADER_BYTES, pending: Vec::new() });
        Ok(())
    }

    /// The disk refused: what was not written stays in memory, and so does what comes until the disk is tried again.
    pub(super) fn fall_back(&mut self, error: &io::Error, now_ms: u64) {
        for class in 0..self.streams.len() {
            let Some(active) = self.streams[class].active.take() else { continue };
            // Older than what is in memory already, if anything is: see `bring_to_disk`.
            for key in active.pending.iter().rev() {
                let Some(entry) = self.index.get_mut(key) else { continue };
                let Place::Disk { offset, .. } = entry.place else { continue };
                let Some(encoded) = active.of_tail(u64::from(offset), entry.bytes) else { continue };
                entry.place = Place::Ram(encoded.into());
                self.memory_bytes += u64::from(entry.bytes);
                self.memory[class].push_front(*key);
            }
            let stream = &mut self.streams[class];
            let Some(segment) = stream.segments.back_mut() else { continue };
            if !active.pending.is_empty() {
                segment.live = segment.live.saturating_sub(u32::try_from(active.pending.len()).unwrap_or(u32::MAX));
                segment.bytes = active.tail_at;
                // A torn record is cut off; where even that fails, opening skips it.
                if let Err(cut) = active.file.set_len(active.tail_at) {
                    tracing::debug!(%cut, "a torn record stays at the end of its segment");
                }
            }
            if segment.live == 0
                && let Some(empty) = stream.segments.pop_back()
            {
                delete(&empty.path);
            }
        }
        self.ended_unsynced.clear();
        self.durability =
            Durability::Memory { reason: error.to_string(), retry_at_ms: now_ms.saturating_add(DISK_RETRY_MS) };
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

    /// Reads a payload back. A payload that cannot be read is given up and reported.
    ///
    /// # Errors
    /// The gap that its loss leaves; `None` where it is not owed (any more).
    pub fn read(&mut self, key: Key) -> Result<Record, Option<Gap>> {
        let Some(entry) = self.index.get(&key) else { return Err(None) };
        let record = match &entry.place {
            Place::Ram(encoded) => segment::decode(encoded),
            Place::Disk { segment, offset } => {
                let (segment, offset, class, bytes) = (*segment, *offset, entry.class, entry.bytes);
                self.read_disk(segment, class, offset, bytes)
            }
        };
        match record {
            Some(record) if record.key == key => Ok(record),
            _ => Err(self.give_up(key, "spool damaged")),
        }
    }

    fn read_disk(&mut self, id: u32, class: Class, offset: u32, bytes: u32) -> Option<Record> {
        let stream = &self.streams[class.index()];
        if let (Some(newest), Some(active)) = (stream.segments.back(), &stream.active)
            && newest.id == id
            && let Some(encoded) = active.of_tail(u64::from(offset), bytes)
        {
            return segment::decode(encoded);
        }
        if self.reader.as_ref().is_none_or(|(open, _)| *open != id) {
            let segment = stream.segments.iter().find(|segment| segment.id == id)?;
            self.reader = Some((id, File::open(&segment.path).ok()?));
        }
        let (_, file) = self.reader.as_ref()?;
        segment::read_at(file, u64::from(offset), bytes).ok().and_then(|encoded| segment::decode(&encoded))
    }
}
