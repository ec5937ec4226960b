//! What a segment holds, and where it is damaged.

use std::fs;
use std::io;
use std::path::Path;

use super::block::{self, Block, Header};
use super::ranges::{KeyRange, Ranges};
use super::segment::{self, HEADER, Key, MARK_STEM, PREFIX_BYTES, View};

/// What a segment holds. A fault is the first number that may be missing and, where known, the last.
#[derive(Debug)]
pub struct Scan {
    pub blocks: Vec<Block>,
    pub present: Ranges,
    pub faults: Vec<(Key, Option<u64>)>,
    pub newest_t_ms: i64,
    pub bytes: u64,
}

/// Good records one after another, with where they begin; damage is stepped over.
pub fn records(raw: &[u8]) -> impl Iterator<Item = (usize, View<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < raw.len() {
            let rest = &raw[at..];
            if let Some(view) = segment::view(rest) {
                let found = (at, view);
                at += found.1.bytes;
                return Some(found);
            }
            at += next_mark(&rest[1..])? + 1;
        }
        None
    })
}

fn next_mark(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARK_STEM.len()).position(|window| window == MARK_STEM)
}

/// What can stand in a segment.
enum Item<'b> {
    Record(View<'b>),
    Packed(Header),
}

impl Item<'_> {
    fn at(bytes: &[u8]) -> Option<Item<'_>> {
        segment::view(bytes).map(Item::Record).or_else(|| Header::read(bytes).map(Item::Packed))
    }

    fn first(&self) -> Option<Key> {
        match self {
            Item::Record(view) => Some(view.key),
            Item::Packed(header) => header.first(),
        }
    }
}

/// Reads a whole segment and steps over damage.
pub fn scan(path: &Path, first: Key, next: Option<Key>) -> io::Result<Scan> {
    let bytes = fs::read(path)?;
    let mut scan = Scan {
        blocks: Vec::new(),
        present: Ranges::default(),
        faults: Vec::new(),
        newest_t_ms: i64::MIN,
        bytes: bytes.len() as u64,
    };
    // The first number that is missing where damage begins.
    let mut expected = first;
    let mut at = if bytes.starts_with(HEADER) { HEADER.len() } else { 0 };
    while at < bytes.len() {
        let rest = &bytes[at..];
        if let Some(item) = Item::at(rest) {
            let (last, length) = scan.take(&item, rest, at)?;
            expected = Key { seq: last.seq.saturating_add(1), ..last };
            at += length;
            if at > bytes.len() {
                // Cut off in a packed block, and nobody knows how many came after it.
                scan.faults.extend(segment::end_before(expected, next).map(|end| (expected, Some(end))));
            }
            continue;
        }
        let mut skip = 1;
        let found = loop {
            let Some(further) = next_mark(&rest[skip..]) else { break None };
            skip += further;
            if let Some(item) = Item::at(&rest[skip..]) {
                break item.first();
            }
            skip += 1;
        };
        let Some(found) = found else {
            // The tail: its own number, where it is still readable, is the last one that can be missing.
            let own = segment::torn_key(rest).filter(|own| own.incarnation == expected.incarnation).map(|own| own.seq);
            scan.faults.push((expected, segment::end_before(first, next).or(own)));
            break;
        };
        scan.faults.push((expected, segment::end_before(expected, Some(found))));
        at += skip;
    }
    Ok(scan)
}

impl Scan {
    /// Takes in what stands at `at`; returns its last number and its length.
    fn take(&mut self, item: &Item, rest: &[u8], at: usize) -> io::Result<(Key, usize)> {
        let offset = u32::try_from(at).map_err(io::Error::other)?;
        let narrow = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        match item {
            Item::Record(view) => {
                block::add(&mut self.blocks, offset, narrow(view.bytes)?, view.key, view.t_ms);
                self.present.insert(KeyRange::one(view.key));
                self.newest_t_ms = self.newest_t_ms.max(view.t_ms);
                Ok((view.key, view.bytes))
            }
            Item::Packed(header) => {
                let last = header.last().ok_or_else(|| io::Error::other("a packed block has numbers"))?;
                if !header.is_whole(rest) {
                    self.faults.extend(header.ranges.iter().map(|range| (range.first(), Some(range.through))));
                    // What follows is where it should be, or is found by its mark.
                    let lies_next =
                        rest.get(header.ends..).is_none_or(|next| next.is_empty() || Item::at(next).is_some());
                    return Ok((last, if lies_next { header.ends } else { PREFIX_BYTES }));
                }
                self.blocks.extend(block::of(header, offset, narrow(header.ends)?));
                header.ranges.iter().for_each(|range| self.present.insert(*range));
                self.newest_t_ms = self.newest_t_ms.max(header.newest_t_ms);
                Ok((last, header.ends))
            }
        }
    }
}
