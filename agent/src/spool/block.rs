//! Blocks: neighbouring records that are found, read back and packed together.
//!
//! Of a segment only its blocks are kept in memory, so that what is owed for hours costs little. A packed block, little
//! endian: mark `u32`, length `u32` of the header that follows the checksum, crc32c `u32` of it; length `u32` and crc32c
//! `u32` of the deflated records, their length `u32` when inflated, their number `u32`, oldest and newest time `i64`, and
//! for each range of their numbers incarnation, first and last `u64`; then the deflated records.
//!
//! Invariant: the header alone says which numbers are in it, so that damage behind it is an exact loss.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::ranges::{KeyRange, Ranges};
use super::scan;
use super::segment::{Key, PREFIX_BYTES, RECORD_MAX_BYTES, RECORD_MIN_BYTES, le_u32, le_u64};

/// Records of a block together, before they are packed; one record alone may be larger. Twice what deflate looks back.
pub const BLOCK_BYTES: u32 = 64 << 10;
const MARK: [u8; 4] = [0xB5, 0xC0, 0x0B, 0x0D];
const FIXED_BYTES: usize = 32;
const RANGE_BYTES: usize = 24;
const RAW_MAX: usize = BLOCK_BYTES as usize + RECORD_MAX_BYTES;
const HEADER_MAX: usize = FIXED_BYTES + RANGE_BYTES * (RAW_MAX / RECORD_MIN_BYTES);
/// What deflate adds at worst to what it cannot make smaller.
const DEFLATE_SLACK: usize = 4 << 10;

/// Where records lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub offset: u32,
    pub bytes: u32,
    pub first: Key,
    pub last: Key,
    pub oldest_t_ms: i64,
    pub packed: bool,
    /// How often in a row the system did not let it be read.
    pub refused: u8,
}

impl Block {
    pub fn spans(&self, key: Key) -> bool {
        (self.first..=self.last).contains(&key)
    }
}

/// Adds a record that lies behind all others to the last block, or begins one.
pub fn add(blocks: &mut Vec<Block>, offset: u32, bytes: u32, key: Key, t_ms: i64) {
    let end = offset.saturating_add(bytes);
    match blocks.last_mut() {
        Some(block) if !block.packed && end.saturating_sub(block.offset) <= BLOCK_BYTES => {
            block.bytes = end - block.offset;
            block.first = block.first.min(key);
            block.last = block.last.max(key);
            block.oldest_t_ms = block.oldest_t_ms.min(t_ms);
        }
        _ => blocks.push(Block { offset, bytes, first: key, last: key, oldest_t_ms: t_ms, packed: false, refused: 0 }),
    }
}

/// Header of a packed block.
#[derive(Debug)]
pub struct Header {
    pub ranges: Vec<KeyRange>,
    pub oldest_t_ms: i64,
    pub newest_t_ms: i64,
    raw_bytes: usize,
    crc: u32,
    /// Where the deflated records begin and end, from the beginning of the block.
    begins: usize,
    pub ends: usize,
}

impl Header {
    /// Reads the header of the packed block that starts here; `None` where anything about it is wrong.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let length = usize::try_from(le_u32(bytes, 4)?).ok()?;
        if !bytes.starts_with(&MARK) || !(FIXED_BYTES + RANGE_BYTES..=HEADER_MAX).contains(&length) {
            return None;
        }
        let body = bytes.get(PREFIX_BYTES..PREFIX_BYTES + length)?;
        let (fixed, ranges) = body.split_at(FIXED_BYTES);
        if crc32c::crc32c(body) != le_u32(bytes, 8)? || ranges.len() % RANGE_BYTES != 0 {
            return None;
        }
        let size = |at| usize::try_from(le_u32(fixed, at)?).ok();
        let (stored, raw_bytes, records) = (size(0)?, size(8)?, size(12)?);
        if stored > RAW_MAX + DEFLATE_SLACK || raw_bytes > RAW_MAX || records > raw_bytes / RECORD_MIN_BYTES {
            return None;
        }
        let mut set = Ranges::default();
        for range in ranges.chunks_exact(RANGE_BYTES) {
            let range =
                KeyRange { incarnation: le_u64(range, 0)?, from: le_u64(range, 8)?, through: le_u64(range, 16)? };
            set.insert(range);
        }
        let begins = PREFIX_BYTES + length;
        // It names as many numbers as it has records: damage must not make the agent owe what never was.
        (!set.is_empty() && set.count() == records as u64).then(|| Header {
            ranges: set.iter().collect(),
            oldest_t_ms: i64::from_le_bytes(fixed[16..24].try_into().unwrap_or_default()),
            newest_t_ms: i64::from_le_bytes(fixed[24..32].try_into().unwrap_or_default()),
            raw_bytes,
            crc: le_u32(fixed, 4).unwrap_or_default(),
            begins,
            ends: begins + stored,
        })
    }

    pub fn first(&self) -> Option<Key> {
        self.ranges.first().map(KeyRange::first)
    }

    pub fn last(&self) -> Option<Key> {
        self.ranges.last().map(KeyRange::last)
    }

    fn stored<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        bytes.get(self.begins..self.ends).filter(|stored| crc32c::crc32c(stored) == self.crc)
    }

    /// True where the deflated records behind the header are whole.
    pub fn is_whole(&self, bytes: &[u8]) -> bool {
        self.stored(bytes).is_some()
    }
}

/// Packs blocks, one after the other.
#[derive(Debug)]
pub struct Packer {
    deflate: Compress,
    stored: Vec<u8>,
}

impl Packer {
    pub fn new() -> Packer {
        Packer { deflate: Compress::new(Compression::default(), false), stored: Vec::new() }
    }

    /// Appends a packed block of these records and says where it lies and what is in it.
    ///
    /// # Errors
    /// There are no records, one number is there twice, or deflate fails.
    pub fn pack(&mut self, raw: &[u8], offset: u32, out: &mut Vec<u8>) -> io::Result<(Block, Header)> {
        let mut ranges = Ranges::default();
        let (mut records, mut oldest_t_ms, mut newest_t_ms) = (0_u32, i64::MAX, i64::MIN);
        let mut good = 0;
        for (at, view) in scan::records(raw) {
            ranges.insert(KeyRange::one(view.key));
            records += 1;
            oldest_t_ms = oldest_t_ms.min(view.t_ms);
            newest_t_ms = newest_t_ms.max(view.t_ms);
            good = at + view.bytes;
        }
        self.deflate.reset();
        self.stored.clear();
        self.stored.reserve(good + DEFLATE_SLACK);
        let status = self.deflate.compress_vec(&raw[..good], &mut self.stored, FlushCompress::Finish)?;
        if status != Status::StreamEnd {
            return Err(io::Error::other("deflate needs more room than there is"));
        }
        let mut body = Vec::with_capacity(FIXED_BYTES + RANGE_BYTES);
        let sizes = [self.stored.len(), crc32c::crc32c(&self.stored) as usize, good, records as usize];
        for size in sizes {
            body.extend(u32::try_from(size).map_err(io::Error::other)?.to_le_bytes());
        }
        body.extend(oldest_t_ms.to_le_bytes());
        body.extend(newest_t_ms.to_le_bytes());
        for range in ranges.iter() {
            body.extend([range.incarnation, range.from, range.through].map(u64::to_le_bytes).concat());
        }
        let start = out.len();
        out.extend(MARK);
        out.extend(u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
        out.extend(crc32c::crc32c(&body).to_le_bytes());
        out.extend(&body);
        out.extend(&self.stored);
        let header = Header::read(&out[start..]).ok_or_else(|| io::Error::other("records that cannot be packed"))?;
        let bytes = u32::try_from(out.len() - start).map_err(io::Error::other)?;
        let block = of(&header, offset, bytes).ok_or_else(|| io::Error::other("no records"))?;
        Ok((block, header))
    }
}

/// Where a packed block lies.
pub fn of(header: &Header, offset: u32, bytes: u32) -> Option<Block> {
    let (first, last) = (header.first()?, header.last()?);
    Some(Block { offset, bytes, first, last, oldest_t_ms: header.oldest_t_ms, packed: true, refused: 0 })
}

/// The records of a packed block; `None` where it is damaged.
pub fn unpack(inflate: &mut Decompress, bytes: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(bytes)?;
    let mut raw = Vec::with_capacity(header.raw_bytes);
    inflate.reset(false);
    let status = inflate.decompress_vec(header.stored(bytes)?, &mut raw, FlushDecompress::Finish).ok()?;
    (status == Status::StreamEnd && raw.len() == header.raw_bytes).then_some(raw)
}
