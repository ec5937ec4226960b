//! The way back: a payload is found by the block it is in, and its neighbours stay in memory for a while, because they are
//! asked for next.
//!
//! Invariant: only proven damage loses anything. What the system refuses to read now is read again later, each time after a
//! longer wait.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

use bcp_wire::Gap;
use flate2::Decompress;

use super::block::{self, Block};
use super::ranges::{KeyRange, Ranges};
use super::scan;
use super::segment::{self, Key, Record};
use super::writing::Active;
use super::{Segment, Spool};

/// Blocks kept: one each of the backlog, of live data and of events, and one for what is sent again.
const BLOCKS_KEPT: usize = 4;
/// A block that the system refused is tried again after this; the wait doubles up to 2^6 times this.
const READ_RETRY_MS: u64 = 1_000;
const MAX_DOUBLINGS: u8 = 6;
/// Refused reads are said this often.
const SAY_EVERY_MS: u64 = 60_000;
/// Payloads of one damaged block that are given up together; a block has no more unless its numbers are damaged too.
const GIVEN_UP_MAX: usize = 8_192;

/// Why a payload is not handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// Delivered or dropped in the meantime.
    NotOwed,
    /// It and all that was damaged with it is given up.
    Lost(Vec<Gap>),
    /// The system refused. Nothing between these two is worth trying before then.
    Later { first: Key, last: Key, until_ms: u64 },
}

/// Why a file or a part of it cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system refused; the next time it may not.
    Passing(io::Error),
    /// It is not there, or not what was written.
    Damaged,
}

impl Fault {
    pub fn of(error: io::Error, path: &Path) -> Fault {
        // Where the directory is away too, both may come back.
        let gone = error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir);
        if gone || error.kind() == io::ErrorKind::UnexpectedEof { Fault::Damaged } else { Fault::Passing(error) }
    }
}

/// A payload that was not found, and where it should have been.
#[derive(Debug)]
pub(super) struct Missing {
    fault: Fault,
    at: Option<(u32, Block)>,
}

#[derive(Debug)]
struct Loaded {
    segment: u32,
    block: Block,
    raw: Vec<u8>,
    records: Vec<(Key, usize)>,
}

impl Loaded {
    fn record(&self, key: Key) -> Option<Record> {
        let (_, at) = self.records.iter().find(|(known, _)| *known == key)?;
        segment::decode(self.raw.get(*at..)?)
    }
}

/// The file and the blocks that were read last.
#[derive(Debug)]
pub(super) struct Reader {
    file: Option<(u32, File)>,
    loaded: VecDeque<Loaded>,
    inflate: Decompress,
    /// The error of every read from the disk.
    #[cfg(test)]
    pub refuse: Option<i32>,
    /// At opening, of this class only.
    #[cfg(test)]
    pub refuse_only: Option<super::Class>,
}

impl Reader {
    pub fn new() -> Reader {
        Reader {
            file: None,
            loaded: VecDeque::new(),
            inflate: Decompress::new(false),
            #[cfg(test)]
            refuse: None,
            #[cfg(test)]
            refuse_only: None,
        }
    }

    /// A segment is gone, and its number with it.
    pub fn forget(&mut self, segment: u32) {
        self.file.take_if(|(open, _)| *open == segment);
        self.loaded.retain(|loaded| loaded.segment != segment);
    }

    /// `None` where it is not in that block.
    fn record(
        &mut self,
        segment: &Segment,
        active: Option<&Active>,
        block: &Block,
        key: Key,
    ) -> Result<Option<Record>, Fault> {
        let same = |loaded: &Loaded| loaded.segment == segment.id && loaded.block.offset == block.offset;
        if let Some(at) = self.loaded.iter().position(same) {
            let known = self.loaded[at].record(key);
            if known.is_some() || self.loaded[at].block.bytes == block.bytes {
                return Ok(known);
            }
            // It grew since.
            self.loaded.remove(at);
        }
        let raw = self.raw(segment, active, block)?;
        let records = scan::records(&raw).map(|(at, view)| (view.key, at)).collect();
        if self.loaded.len() >= BLOCKS_KEPT {
            self.loaded.pop_front();
        }
        let loaded = Loaded { segment: segment.id, block: *block, raw, records };
        let record = loaded.record(key);
        self.loaded.push_back(loaded);
        Ok(record)
    }

    fn holds(&self, segment: u32, block: &Block, key: Key) -> bool {
        let same = |loaded: &&Loaded| loaded.segment == segment && loaded.block.offset == block.offset;
        self.loaded.iter().find(same).is_some_and(|loaded| loaded.records.iter().any(|(known, _)| *known == key))
    }

    /// The records of a block, from the file and, as far as they are not written yet, from the tail.
    pub fn raw(&mut self, segment: &Segment, active: Option<&Active>, block: &Block) -> Result<Vec<u8>, Fault> {
        let (begins, ends) = (u64::from(block.offset), u64::from(block.offset) + u64::from(block.bytes));
        let tail_at = active.map_or(ends, Active::tail_at).clamp(begins, ends);
        let mut bytes = Vec::new();
        if begins < tail_at {
            bytes = self.on_disk(segment, begins, tail_at).map_err(|error| Fault::of(error, &segment.path))?;
        }
        if tail_at < ends {
            bytes.extend(active.and_then(|active| active.tail_between(tail_at, ends)).ok_or(Fault::Damaged)?);
        }
        if block.packed { block::unpack(&mut self.inflate, &bytes).ok_or(Fault::Damaged) } else { Ok(bytes) }
    }

    fn on_disk(&mut self, segment: &Segment, begins: u64, ends: u64) -> io::Result<Vec<u8>> {
        #[cfg(test)]
        if let Some(error) = self.refuse {
            return Err(io::Error::from_raw_os_error(error));
        }
        // After an error it is opened anew.
        let file = match self.file.take() {
            Some((open, file)) if open == segment.id => file,
            Some(_) | None => File::open(&segment.path)?,
        };
        let bytes = segment::read_at(&file, begins, u32::try_from(ends - begins).map_err(io::Error::other)?)?;
        self.file = Some((segment.id, file));
        Ok(bytes)
    }
}

impl Spool {
    /// Reads a payload back.
    ///
    /// # Errors
    /// It is not owed (any more), it cannot be read now, or it is lost: then so is all that was damaged with it.
    pub fn read(&mut self, key: Key, now_ms: u64) -> Result<Record, Unread> {
        let Some(class) = (0..self.owed.len()).find(|class| self.owed[*class].contains(key)) else {
            return Err(Unread::NotOwed);
        };
        let Missing { fault, at } = match self.find(class, key) {
            Ok(record) => return Ok(record),
            Err(missing) => missing,
        };
        match fault {
            Fault::Passing(error) => Err(self.put_off(class, key, at, &error, now_ms)),
            Fault::Damaged => {
                let lost = self.lost_with(class, key, at);
                Err(Unread::Lost(self.give_up_damaged(class, &lost)))
            }
        }
    }

    pub(super) fn find(&mut self, class: usize, key: Key) -> Result<Record, Missing> {
        let mut missing = Missing { fault: Fault::Damaged, at: None };
        let damaged = |record: Option<Record>| record.ok_or(Missing { fault: Fault::Damaged, at: None });
        if let Some(held) = self.memory[class].get(&key) {
            return damaged(segment::decode(&held.encoded));
        }
        let stream = &self.streams[class];
        if let Some(encoded) = stream.active.as_ref().and_then(|active| active.of_tail(key)) {
            return damaged(segment::decode(encoded));
        }
        let newest = stream.segments.back().map(|segment| segment.id);
        for segment in stream.segments.iter().rev().filter(|segment| segment.spans(key)) {
            let active = stream.active.as_ref().filter(|_| newest == Some(segment.id));
            for block in segment.blocks.iter().filter(|block| block.spans(key)) {
                let fault = match self.reader.record(segment, active, block, key) {
                    Ok(Some(record)) => {
                        let (id, offset, refused) = (segment.id, block.offset, block.refused);
                        if refused > 0 {
                            self.set_refused(class, id, offset, 0);
                        }
                        return Ok(record);
                    }
                    Ok(None) => Fault::Damaged,
                    Err(fault) => fault,
                };
                // As long as one place cannot be looked at, nothing is proven.
                if missing.at.is_none() || matches!(fault, Fault::Passing(_)) {
                    missing = Missing { fault, at: Some((segment.id, *block)) };
                }
            }
        }
        Err(missing)
    }

    fn set_refused(&mut self, class: usize, segment: u32, offset: u32, refused: u8) {
        let found = self.streams[class].segments.iter_mut().find(|known| known.id == segment);
        if let Some(block) = found.and_then(|segment| segment.blocks.iter_mut().find(|block| block.offset == offset)) {
            block.refused = refused;
        }
    }

    fn put_off(&mut self, class: usize, key: Key, at: Option<(u32, Block)>, error: &io::Error, now_ms: u64) -> Unread {
        self.refused_read(error, now_ms);
        let Some((segment, block)) = at else {
            return Unread::Later { first: key, last: key, until_ms: now_ms.saturating_add(READ_RETRY_MS) };
        };
        self.set_refused(class, segment, block.offset, (block.refused + 1).min(MAX_DOUBLINGS));
        let until_ms = now_ms.saturating_add(READ_RETRY_MS << block.refused);
        Unread::Later { first: block.first, last: block.last, until_ms }
    }

    /// Counts it, and says it now and then.
    pub(super) fn refused_read(&mut self, error: &io::Error, now_ms: u64) {
        self.read_errors = self.read_errors.saturating_add(1);
        if now_ms >= self.read_errors_said_until_ms {
            self.read_errors_said_until_ms = now_ms.saturating_add(SAY_EVERY_MS);
            tracing::warn!(%error, total = self.read_errors, "the spool cannot be read now; it is tried again");
        }
    }

    /// What of a damaged block is owed and nowhere else.
    fn lost_with(&mut self, class: usize, key: Key, at: Option<(u32, Block)>) -> Ranges {
        let mut lost = Ranges::default();
        lost.insert(KeyRange::one(key));
        let Some((id, block)) = at else { return lost };
        let within = self.owed[class].within(block.first, block.last);
        let owed: Vec<Key> = within.flat_map(KeyRange::keys).take(GIVEN_UP_MAX).collect();
        for other in owed {
            let stream = &self.streams[class];
            let in_memory = self.memory[class].contains_key(&other)
                || stream.active.as_ref().is_some_and(|active| active.of_tail(other).is_some());
            if in_memory || self.reader.holds(id, &block, other) {
                continue;
            }
            let elsewhere = stream.segments.iter().filter(|segment| segment.spans(other)).any(|segment| {
                let is_it = |other: &Block| segment.id == id && other.offset == block.offset;
                segment.blocks.iter().any(|known| known.spans(other) && !is_it(known))
            });
            if !elsewhere || matches!(self.find(class, other), Err(Missing { fault: Fault::Damaged, .. })) {
                lost.insert(KeyRange::one(other));
            }
        }
        lost
    }
}
