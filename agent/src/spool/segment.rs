//! One segment file: records one after another behind an eight-byte header. Once it is full, packed blocks of them take
//! their place (see [`super::block`]); a reader takes either.
//!
//! Record, little endian: mark `u32`, length `u32` of all that follows the checksum, crc32c `u32` of it, incarnation
//! `u64`, seq `u64`, crc32c of these two `u32` (so that a torn record can still say which one it is), time `i64`, class
//! `u8`, length of the device id `u8`, samples `u32`, device id, payload.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bcp_wire::{Id, MAX_PAYLOAD_BYTES};

pub const HEADER: &[u8; 8] = b"BCPSPL1\n";
pub const HEADER_BYTES: u64 = HEADER.len() as u64;
/// Lets a reader find the next record behind a damaged one.
const MARK: [u8; 4] = [0xB5, 0xC0, 0x0B, 0x0C];
/// What a record and a packed block begin with.
pub const MARK_STEM: [u8; 3] = [0xB5, 0xC0, 0x0B];
pub const PREFIX_BYTES: usize = 12;
const FIXED_BYTES: usize = 34;
const KEY_BYTES: usize = 16;
/// No record is longer; a length beyond it is damage.
const BODY_MAX: usize = FIXED_BYTES + 32 + MAX_PAYLOAD_BYTES;
pub const RECORD_MIN_BYTES: usize = PREFIX_BYTES + FIXED_BYTES;
pub const RECORD_MAX_BYTES: usize = PREFIX_BYTES + BODY_MAX;

/// Number of a payload: counts within an incarnation, which counts starts of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub incarnation: u64,
    pub seq: u64,
}

/// What is dropped first when space runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Data,
    Event,
}

impl Class {
    pub const ALL: [Class; 2] = [Class::Data, Class::Event];

    pub const fn index(self) -> usize {
        match self {
            Class::Data => 0,
            Class::Event => 1,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Class::Data => "data",
            Class::Event => "event",
        }
    }
}

/// A payload as it is published, and what the spool must know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    pub class: Class,
    pub device: Id,
    /// Sample time, milliseconds since 1970 UTC.
    pub t_ms: i64,
    pub samples: u32,
    pub payload: Vec<u8>,
}

/// A segment is named after its class and the first payload in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    pub class: Class,
    pub first: Key,
}

impl SegmentName {
    pub fn file_name(&self) -> String {
        format!("{}-{:016x}-{:016x}.seg", self.class.as_str(), self.first.incarnation, self.first.seq)
    }

    fn parse(text: &str) -> Option<SegmentName> {
        let mut parts = text.strip_suffix(".seg")?.split('-');
        let class = match parts.next()? {
            "data" => Class::Data,
            "event" => Class::Event,
            _ => return None,
        };
        let number = |part: Option<&str>| u64::from_str_radix(part?, 16).ok();
        let first = Key { incarnation: number(parts.next())?, seq: number(parts.next())? };
        (parts.next().is_none() && first.seq > 0).then_some(SegmentName { class, first })
    }
}

/// The segments of a directory, by class and then oldest first.
pub fn list(dir: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().to_str().and_then(SegmentName::parse));
    }
    names.sort();
    Ok(names)
}

/// Length of the encoded record.
pub fn encoded_bytes(record: &Record) -> usize {
    PREFIX_BYTES + FIXED_BYTES + record.device.as_str().len() + record.payload.len()
}

/// Appends the encoded record.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    let device = record.device.as_str().as_bytes();
    out.reserve(encoded_bytes(record));
    out.extend([0; PREFIX_BYTES]);
    let body = out.len();
    out.extend(record.key.incarnation.to_le_bytes());
    out.extend(record.key.seq.to_le_bytes());
    out.extend(crc32c::crc32c(&out[body..]).to_le_bytes());
    out.extend(record.t_ms.to_le_bytes());
    out.push(u8::from(record.class == Class::Event));
    out.push(u8::try_from(device.len()).expect("an id has at most 32 bytes"));
    out.extend(record.samples.to_le_bytes());
    out.extend(device);
    out.extend(&record.payload);
    let length = u32::try_from(out.len() - body).expect("a payload is far below 4 GiB");
    let crc = crc32c::crc32c(&out[body..]);
    let prefix = &mut out[start..body];
    prefix[..4].copy_from_slice(&MARK);
    prefix[4..8].copy_from_slice(&length.to_le_bytes());
    prefix[8..].copy_from_slice(&crc.to_le_bytes());
}

pub fn le_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn le_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Length of the whole record that starts here, if its mark and length are plausible.
fn extent(bytes: &[u8]) -> Option<usize> {
    let length = usize::try_from(le_u32(bytes, 4)?).ok()?;
    (bytes.starts_with(&MARK) && (FIXED_BYTES..=BODY_MAX).contains(&length)).then_some(PREFIX_BYTES + length)
}

/// A record where it lies.
#[derive(Debug)]
pub struct View<'b> {
    pub key: Key,
    pub class: Class,
    pub device: Id,
    pub t_ms: i64,
    pub samples: u32,
    pub payload: &'b [u8],
    /// Length of the whole record.
    pub bytes: usize,
}

/// Looks at the record that starts here; `None` where anything about it is wrong.
pub fn view(bytes: &[u8]) -> Option<View<'_>> {
    let whole = extent(bytes)?;
    let body = bytes.get(PREFIX_BYTES..whole)?;
    if crc32c::crc32c(body) != le_u32(bytes, 8)? {
        return None;
    }
    let device_end = FIXED_BYTES + usize::from(body[29]);
    Some(View {
        key: Key { incarnation: le_u64(body, 0)?, seq: le_u64(body, 8)? },
        class: if body[28] == 1 { Class::Event } else { Class::Data },
        device: std::str::from_utf8(body.get(FIXED_BYTES..device_end)?).ok()?.parse().ok()?,
        t_ms: i64::from_le_bytes(body.get(20..28)?.try_into().ok()?),
        samples: le_u32(body, 30)?,
        payload: body.get(device_end..)?,
        bytes: whole,
    })
}

/// Reads one record; `None` where anything about it is wrong.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    view(bytes).map(|View { key, class, device, t_ms, samples, payload, .. }| Record {
        key,
        class,
        device,
        t_ms,
        samples,
        payload: payload.to_vec(),
    })
}

/// The number of a record of which at least the beginning is whole.
pub fn torn_key(bytes: &[u8]) -> Option<Key> {
    let body = bytes.get(PREFIX_BYTES..PREFIX_BYTES + KEY_BYTES)?;
    let whole = bytes.starts_with(&MARK) && crc32c::crc32c(body) == le_u32(bytes, PREFIX_BYTES + KEY_BYTES)?;
    Some(Key { incarnation: le_u64(body, 0)?, seq: le_u64(body, 8)? }).filter(|_| whole)
}

/// The last number that can be in a segment, if the one after it is of the same incarnation.
pub fn end_before(first: Key, next: Option<Key>) -> Option<u64> {
    next.filter(|next| next.incarnation == first.incarnation).map(|next| next.seq.saturating_sub(1).max(first.seq))
}

/// Makes a new segment. Its name is safe once the directory is synced.
pub fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(HEADER, 0)?;
    Ok(file)
}

pub fn write_at(file: &File, encoded: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(encoded, offset)
}

pub fn read_at(file: &File, offset: u64, bytes: u32) -> io::Result<Vec<u8>> {
    let mut encoded = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut encoded, offset)?;
    Ok(encoded)
}
