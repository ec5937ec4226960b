//! How a record of the log lies in the decide database: JSON as it is, or deflated where that pays.
//!
//! A tick of 500 tickets is a hundred kilobytes of JSON, four times a second, and most of it says the same as the tick
//! before. Knows: which of the two a record is (JSON begins with a brace, zlib with 0x78). Invariant: a deflated record
//! that was damaged is refused by its checksum, never read as another one; what it unfolds to is bounded.

use std::borrow::Cow;
use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::store::StoreError;

/// A tick shorter than this is a page of the database either way.
const WORTH_IT: usize = 1_024;
/// First byte of a zlib stream with a window of 32 KiB (RFC 1950, 2.2).
const ZLIB: u8 = 0x78;
/// No tick is as long: intake bounds what goes into one.
const MAX_RECORD: u64 = 64 << 20;

pub fn pack<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    let json = serde_json::to_vec(record)?;
    if json.len() < WORTH_IT {
        return Ok(json);
    }
    let mut zlib = ZlibEncoder::new(Vec::with_capacity(json.len() / 4), Compression::fast());
    zlib.write_all(&json).and_then(|()| zlib.finish()).map_err(StoreError::Deflated)
}

pub fn unpack<T: DeserializeOwned>(record: &[u8]) -> Result<T, StoreError> {
    let json = if record.first() == Some(&ZLIB) { Cow::Owned(inflate(record)?) } else { Cow::Borrowed(record) };
    Ok(serde_json::from_slice(&json)?)
}

fn inflate(record: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut json = Vec::new();
    let read = ZlibDecoder::new(record).take(MAX_RECORD + 1).read_to_end(&mut json).map_err(StoreError::Deflated)?;
    if read as u64 > MAX_RECORD { Err(StoreError::TooLong { most: MAX_RECORD }) } else { Ok(json) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick() -> Vec<String> {
        (0..500).map(|n| format!("ticket-{n} renewed by gate a-{n} under epoch 1.7")).collect()
    }

    #[test]
    fn a_long_record_is_small_on_the_disk_and_comes_back_as_it_was() {
        let packed = pack(&tick()).unwrap();
        assert!(packed.len() * 4 < serde_json::to_vec(&tick()).unwrap().len(), "{}", packed.len());
        assert_eq!(unpack::<Vec<String>>(&packed).unwrap(), tick());
    }

    #[test]
    fn a_short_one_stays_readable_and_so_does_what_an_older_release_wrote() {
        assert_eq!(pack(&["a"]).unwrap(), br#"["a"]"#);
        assert_eq!(unpack::<Vec<String>>(&serde_json::to_vec(&tick()).unwrap()).unwrap(), tick());
    }

    #[test]
    fn damage_at_any_byte_is_refused() {
        let packed = pack(&tick()).unwrap();
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x41;
            match unpack::<Vec<String>>(&damaged) {
                Err(StoreError::Deflated(_) | StoreError::Record(_)) => {}
                other => panic!("byte {at}: {other:?}"),
            }
        }
        assert!(matches!(unpack::<Vec<String>>(&packed[..packed.len() - 1]), Err(StoreError::Deflated(_))));
    }
}
