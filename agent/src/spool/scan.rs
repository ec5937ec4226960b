//! What a segment holds, and where it is damaged.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::block::{self, Block, Header};
use super::ranges::{KeyRange, Ranges};
use super::reading::Fault;
use super::segment::{self, Key, MARK_STEM, PREFIX_BYTES, SEGMENT_MAX_BYTES, View};

/// Why a file is not taken as a segment.
#[derive(Debug)]
pub enum Unfit {
    /// It cannot be read now, or is not there any more.
    Unread(Fault),
    /// It was not written by us. Its seal may say what it replaced.
    Foreign { reason: String, sealed: Option<Key> },
}

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

/// Reads a file that is named as a segment, if it can be one: never more of it than a segment has.
fn load(path: &Path, first: Key) -> Result<Vec<u8>, Unfit> {
    let unread = |error: io::Error| Unfit::Unread(Fault::of(error, path));
    let found = fs::symlink_metadata(path).map_err(unread)?;
    if !found.is_file() {
        return Err(Unfit::Foreign { reason: "it is not a file".to_owned(), sealed: None });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unread)?;
    let most = if found.len() > SEGMENT_MAX_BYTES { segment::HEADER_BYTES } else { SEGMENT_MAX_BYTES };
    file.take(most).read_to_end(&mut bytes).map_err(unread)?;
    if found.len() > SEGMENT_MAX_BYTES {
        let reason = format!("its {} bytes are more than a segment has", found.len());
        return Err(Unfit::Foreign { reason, sealed: segment::open_header(&bytes, first).1 });
    }
    Ok(bytes)
}

/// Reads a whole segment and steps over damage.
pub fn scan(path: &Path, first: Key, next: Option<Key>) -> Result<Scan, Unfit> {
    let bytes = load(path, first)?;
    let mut scan = Scan {
        blocks: Vec::new(),
        present: Ranges::default(),
        faults: Vec::new(),
        newest_t_ms: i64::MIN,
        bytes: bytes.len() as u64,
    };
    let (mut at, sealed) = segment::open_header(&bytes, first);
    // The last number that can be in it.
    let end = sealed.map(|last| last.seq).or_else(|| segment::end_before(first, next));
    // The first number that is missing where damage begins.
    let mut expected = first;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if let Some(item) = Item::at(rest) {
            let (last, length) = scan.take(&item, rest, at);
            expected = Key { seq: last.seq.saturating_add(1), ..last };
            at += length;
            continue;
        }
        let Some((skip, found)) = next_item(rest) else { break };
        if found.incarnation != expected.incarnation || found.seq > expected.seq {
            scan.faults.push((expected, segment::end_before(expected, Some(found))));
        }
        at += skip;
    }
    if at < bytes.len() {
        // The tail: the numbers of its records, where they are still readable, say which are missing.
        scan.missing_tail(expected, end.or_else(|| last_torn(&bytes[at..], expected)));
    } else if sealed.is_some() || at > bytes.len() {
        // Cut off. Where it is not known how many came after, it may be that none did.
        scan.missing_tail(expected, Some(end.unwrap_or(0)));
    } else if scan.blocks.is_empty() && scan.faults.is_empty() {
        // At least the payload that it is named after was to be in it.
        scan.missing_tail(first, end);
    }
    Ok(scan)
}

/// The next good item behind damage: how far away it is, and its first number.
fn next_item(rest: &[u8]) -> Option<(usize, Key)> {
    let mut skip = 1;
    loop {
        skip += next_mark(&rest[skip..])?;
        if let Some(item) = Item::at(&rest[skip..]) {
            return item.first().map(|first| (skip, first));
        }
        skip += 1;
    }
}

/// The highest number of damaged records; the first of them begins where `rest` does.
fn last_torn(rest: &[u8], expected: Key) -> Option<u64> {
    let mut highest = segment::torn_seq(rest, expected, true);
    let mut at = 1;
    while let Some(further) = rest.get(at..).and_then(next_mark) {
        at += further;
        highest = highest.max(segment::torn_seq(&rest[at..], expected, false));
        at += 1;
    }
    highest
}

impl Scan {
    fn missing_tail(&mut self, expected: Key, end: Option<u64>) {
        if end.is_none_or(|end| expected.seq <= end) {
            self.faults.push((expected, end));
        }
    }

    /// Takes in what stands at `at`; returns its last number and its length.
    fn take(&mut self, item: &Item, rest: &[u8], at: usize) -> (Key, usize) {
        // A segment is far below 4 GiB.
        let narrow = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let offset = narrow(at);
        match item {
            Item::Record(view) => {
                block::add(&mut self.blocks, offset, narrow(view.bytes), view.key, view.t_ms);
                self.present.insert(KeyRange::one(view.key));
                self.newest_t_ms = self.newest_t_ms.max(view.t_ms);
                (view.key, view.bytes)
            }
            Item::Packed(header) => {
                let last = header.last().expect("a header without numbers is not read");
                if !header.is_whole(rest) {
                    self.faults.extend(header.ranges.iter().map(|range| (range.first(), Some(range.through))));
                    // What follows is where it should be, or is found by its mark.
                    let lies_next =
                        rest.get(header.ends..).is_none_or(|next| next.is_empty() || Item::at(next).is_some());
                    return (last, if lies_next { header.ends } else { PREFIX_BYTES });
                }
                self.blocks.extend(block::of(header, offset, narrow(header.ends)));
                header.ranges.iter().for_each(|range| self.present.insert(*range));
                self.newest_t_ms = self.newest_t_ms.max(header.newest_t_ms);
                (last, header.ends)
            }
        }
    }
}
