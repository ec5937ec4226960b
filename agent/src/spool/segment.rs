//! One segment file: records one after another behind a header. Once it is full, packed blocks of them take their place (see
//! [`super::block`]); a reader takes either.
//!
//! Header: eight bytes that name the version, then the seal: incarnation, first and last number `u64`, crc32c of these `u32`.
//! The seal is nought until the segment has ended; from then on it says what must be found, whatever becomes of the rest.
//! Files of version 1 have no seal and are read as well.
//!
//! Record, little endian: mark `u32`, length `u32` of all that follows the checksum, crc32c `u32` of it, incarnation
//! `u64`, seq `u64`, crc32c of these two `u32` (so that a torn record can still say which one it is), time `i64`, class
//! `u8`, length of the device id `u8`, samples `u32`, device id, payload.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bcp_wire::{Id, MAX_PAYLOAD_BYTES};

const VERSION_1: &[u8; 8] = b"BCPSPL1\n";
const VERSION_2: &[u8; 8] = b"BCPSPL2\n";
const SEAL_BYTES: usize = 28;
const HEADER_LEN: usize = VERSION_2.len() + SEAL_BYTES;
pub const HEADER_BYTES: u64 = HEADER_LEN as u64;
/// The largest that can be configured.
pub const CONFIGURED_MAX_BYTES: u64 = 16 << 20;
/// No segment is larger; what is was not written by us.
pub const SEGMENT_MAX_BYTES: u64 = CONFIGURED_MAX_BYTES + (RECORD_MAX_BYTES as u64);
/// Lets a reader find the next record behind a damaged one.
const MARK: [u8; 4] = [0xB5, 0xC0, 0x0B, 0x0C];
/// What a record and a packed block begin with.
pub const MARK_STEM: [u8; 3] = [0xB5, 0xC0, 0x0B];
pub const PREFIX_BYTES: usize = 12;
const FIXED_BYTES: usize = 34;
const KEY_BYTES: usize = 16;
/// So many numbers behind the expected one a damaged record may have; those between are events, or were delivered.
const TORN_SEARCH: u64 = 4_096;
/// No record is longer; a length beyond it is damage.
const BODY_MAX: usize = FIXED_BYTES + 32 + MAX_PAYLOAD_BYTES;
pub const RECORD_MIN_BYTES: usize = PREFIX_BYTES + FIXED_BYTES;
pub const RECORD_MAX_BYTES: usize = PREFIX_BYTES + BODY_MAX;

/// What a segment is packed into has this ending until it is whole.
pub const PART: &str = "part";
/// What cannot be used has this ending.
pub const ASIDE: &str = "bad";

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

/// What is in the spool's directory.
#[derive(Debug, Default)]
pub struct Listed {
    /// By class and then oldest first.
    pub names: Vec<SegmentName>,
    /// How many others there are that are not of the spool, and the first of them.
    pub foreign: usize,
    pub first_foreign: Option<String>,
    /// Why there may be more.
    pub cut_short: Option<io::Error>,
}

pub fn list(dir: &Path) -> Listed {
    let mut listed = Listed::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return Listed { cut_short: Some(error), ..listed },
    };
    for entry in entries {
        let name = match entry {
            Ok(entry) => entry.file_name(),
            Err(error) => {
                listed.cut_short = Some(error);
                break;
            }
        };
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
        match name.to_str().and_then(SegmentName::parse) {
            Some(segment) => listed.names.push(segment),
            None if ending == Some(PART) || ending == Some(ASIDE) => {}
            None => {
                listed.foreign += 1;
                listed.first_foreign.get_or_insert_with(|| name.to_string_lossy().into_owned());
            }
        }
    }
    listed.names.sort();
    listed
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

/// The number of a damaged record that begins here and is `expected` or one of those after it: the number and its checksum
/// stand next to each other, and with some search either of them is enough.
pub fn torn_seq(bytes: &[u8], expected: Key, search: bool) -> Option<u64> {
    let body = bytes.get(PREFIX_BYTES..PREFIX_BYTES + KEY_BYTES)?;
    let crc = le_u32(bytes, PREFIX_BYTES + KEY_BYTES)?;
    let (incarnation, seq) = (le_u64(body, 0)?, le_u64(body, 8)?);
    let near = expected.seq..=expected.seq.saturating_add(TORN_SEARCH);
    if crc32c::crc32c(body) == crc {
        return (incarnation == expected.incarnation && seq >= expected.seq).then_some(seq);
    }
    if !search {
        return None;
    }
    let by_crc = |seq: &u64| crc32c::crc32c(&[expected.incarnation.to_le_bytes(), seq.to_le_bytes()].concat()) == crc;
    near.clone().find(by_crc).or_else(|| (incarnation == expected.incarnation && near.contains(&seq)).then_some(seq))
}

/// The first number of the segment behind this one.
pub fn next_of(names: &[SegmentName], at: usize) -> Option<Key> {
    let class = names.get(at)?.class;
    names.get(at + 1).filter(|next| next.class == class).map(|next| next.first)
}

/// The last number that can be in a segment, if the one after it is of the same incarnation.
pub fn end_before(first: Key, next: Option<Key>) -> Option<u64> {
    next.filter(|next| next.incarnation == first.incarnation).map(|next| next.seq.saturating_sub(1).max(first.seq))
}

/// Makes a new segment. Its name is safe once the directory is synced.
pub fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let mut header = [0; HEADER_LEN];
    header[..VERSION_2.len()].copy_from_slice(VERSION_2);
    file.write_all_at(&header, 0)?;
    Ok(file)
}

/// Says for good what is in a segment that has ended. The caller syncs it.
pub fn seal(file: &File, first: Key, last: Key) -> io::Result<()> {
    let mut seal = [first.incarnation, first.seq, last.seq].map(u64::to_le_bytes).concat();
    seal.extend(crc32c::crc32c(&seal).to_le_bytes());
    file.write_all_at(&seal, VERSION_2.len() as u64)
}

/// Where the records of a segment begin, and what its seal says: the number of the last one.
pub fn open_header(bytes: &[u8], first: Key) -> (usize, Option<Key>) {
    // The seal is looked for behind a damaged version, too.
    let seal = bytes.get(VERSION_2.len()..HEADER_LEN).and_then(|seal| {
        let whole = crc32c::crc32c(&seal[..SEAL_BYTES - 4]) == le_u32(seal, SEAL_BYTES - 4)?;
        let (known, last) = (Key { incarnation: le_u64(seal, 0)?, seq: le_u64(seal, 8)? }, le_u64(seal, 16)?);
        (whole && known == first && last >= first.seq).then_some(Key { seq: last, ..first })
    });
    let begins = if bytes.starts_with(VERSION_1) {
        VERSION_1.len()
    } else if bytes.starts_with(VERSION_2) || seal.is_some() {
        HEADER_LEN.min(bytes.len())
    } else {
        0
    };
    (begins, seal)
}

pub fn write_at(file: &File, encoded: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(encoded, offset)
}

pub fn read_at(file: &File, offset: u64, bytes: u32) -> io::Result<Vec<u8>> {
    let mut encoded = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut encoded, offset)?;
    Ok(encoded)
}
