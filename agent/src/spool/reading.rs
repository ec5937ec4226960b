//! The way back: a payload is found by the block it is in, and its neighbours stay in memory for a while, because they are
//! asked for next.

use std::collections::VecDeque;
use std::fs::File;

use bcp_wire::Gap;
use flate2::Decompress;

use super::block::{self, Block};
use super::scan;
use super::segment::{self, Key, Record};
use super::writing::Active;
use super::{Segment, Spool};

/// Blocks kept: one each of the backlog, of live data and of events, and one for what is sent again.
const BLOCKS_KEPT: usize = 4;

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
}

impl Reader {
    pub fn new() -> Reader {
        Reader { file: None, loaded: VecDeque::new(), inflate: Decompress::new(false) }
    }

    /// A segment is gone, and its number with it.
    pub fn forget(&mut self, segment: u32) {
        self.file.take_if(|(open, _)| *open == segment);
        self.loaded.retain(|loaded| loaded.segment != segment);
    }

    fn record(&mut self, segment: &Segment, active: Option<&Active>, block: &Block, key: Key) -> Option<Record> {
        let same = |loaded: &Loaded| loaded.segment == segment.id && loaded.block.offset == block.offset;
        if let Some(at) = self.loaded.iter().position(same) {
            let known = self.loaded[at].record(key);
            if known.is_some() || self.loaded[at].block == *block {
                return known;
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
        record
    }

    /// The records of a block, from the file and, as far as they are not written yet, from the tail.
    pub fn raw(&mut self, segment: &Segment, active: Option<&Active>, block: &Block) -> Option<Vec<u8>> {
        let (begins, ends) = (u64::from(block.offset), u64::from(block.offset) + u64::from(block.bytes));
        let tail_at = active.map_or(ends, Active::tail_at).clamp(begins, ends);
        let mut bytes = Vec::new();
        if begins < tail_at {
            if self.file.as_ref().is_none_or(|(open, _)| *open != segment.id) {
                self.file = Some((segment.id, File::open(&segment.path).ok()?));
            }
            let (_, file) = self.file.as_ref()?;
            bytes = segment::read_at(file, begins, u32::try_from(tail_at - begins).ok()?).ok()?;
        }
        if tail_at < ends {
            bytes.extend(active?.tail_between(tail_at, ends)?);
        }
        if block.packed { block::unpack(&mut self.inflate, &bytes) } else { Some(bytes) }
    }
}

impl Spool {
    /// Reads a payload back. A payload that cannot be read is given up and reported.
    ///
    /// # Errors
    /// The gap that its loss leaves; `None` where it is not owed (any more).
    pub fn read(&mut self, key: Key) -> Result<Record, Option<Gap>> {
        let Some(class) = (0..self.owed.len()).find(|class| self.owed[*class].contains(key)) else { return Err(None) };
        self.find(class, key).ok_or_else(|| self.give_up(key, "spool damaged"))
    }

    pub(super) fn find(&mut self, class: usize, key: Key) -> Option<Record> {
        if let Some(held) = self.memory[class].get(&key) {
            return segment::decode(&held.encoded);
        }
        let stream = &self.streams[class];
        if let Some(encoded) = stream.active.as_ref().and_then(|active| active.of_tail(key)) {
            return segment::decode(encoded);
        }
        let newest = stream.segments.back().map(|segment| segment.id);
        for segment in stream.segments.iter().rev().filter(|segment| segment.spans(key)) {
            let active = stream.active.as_ref().filter(|_| newest == Some(segment.id));
            for block in segment.blocks.iter().filter(|block| block.spans(key)) {
                if let Some(record) = self.reader.record(segment, active, block, key) {
                    return Some(record);
                }
            }
        }
        None
    }
}
