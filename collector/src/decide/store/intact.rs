//! Whether a decide database is what was acknowledged, looked at when it is opened.
//!
//! Every record carries a checksum, for SQLite has none on the pages of a database. Invariants: a record that changed is never
//! read as another one; a database that lacks an acknowledged commit, has a hole or cannot be read is refused, whatever else of
//! it is whole: a node that went by an older vote could vote twice.

use bcp_core::replica::Replica;
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::{PURGED, StoreError, VOTE, get_meta};
use crate::decide::pack::unpack;
use crate::decide::raft::{Entry, LogId, SnapshotMeta, Vote};

/// First byte of a record with a checksum; text of an older release begins otherwise.
const SEALED: u8 = b'#';
const HEAD: usize = 5;

/// A record with its checksum.
pub(super) fn seal(record: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(record.len() + HEAD);
    sealed.push(SEALED);
    sealed.extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
    sealed.extend_from_slice(record);
    sealed
}

/// The record, if it is what was written.
pub(super) fn unseal(stored: &[u8]) -> Result<&[u8], StoreError> {
    match stored.split_at_checked(HEAD) {
        Some(([SEALED, sum @ ..], record)) => {
            let kept = <[u8; 4]>::try_from(sum).is_ok_and(|sum| u32::from_le_bytes(sum) == crc32c::crc32c(record));
            if kept { Ok(record) } else { Err(changed()) }
        }
        // Of a release without checksums.
        _ if stored.first() != Some(&SEALED) => Ok(stored),
        _ => Err(changed()),
    }
}

fn changed() -> StoreError {
    StoreError::Changed { what: "a record is not what was written".to_owned() }
}

/// Counted in every durable transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    pub commits: u64,
    /// Where the log ends.
    pub last: Option<LogId>,
}

pub(super) const TALLY: &str = "tally";

/// The last entry, or what was purged last.
pub(super) fn last_of(connection: &Connection) -> Result<Option<LogId>, StoreError> {
    let last: Option<Vec<u8>> =
        connection.query_row("SELECT entry FROM log ORDER BY idx DESC LIMIT 1", [], |row| row.get(0)).optional()?;
    match last {
        Some(entry) => Ok(Some(unpack::<Entry>(unseal(&entry)?)?.log_id)),
        None => get_meta(connection, PURGED),
    }
}

/// Reads all of it. `known`: commits that the mark tells of.
pub(super) fn check(connection: &Connection, known: Option<u64>) -> Result<Tally, StoreError> {
    let changed = |what: String| Err(StoreError::Changed { what });
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return changed(said);
    }
    let tally: Tally = get_meta(connection, TALLY)?.unwrap_or_default();
    match known {
        Some(known) if tally.commits < known => {
            return changed(format!("it has {} of {known} commits that were acknowledged", tally.commits));
        }
        None if tally.commits > 0 => {
            return changed("decide.mark, which tells how many commits were acknowledged, is lost".to_owned());
        }
        Some(_) | None => {}
    }
    let _: Option<Vote> = get_meta(connection, VOTE)?;
    let purged: Option<LogId> = get_meta(connection, PURGED)?;
    let begins = whole_snapshots(connection)?.or(purged);
    let mut next = purged.map(|purged| purged.index + 1);
    let mut select = connection.prepare("SELECT idx, entry FROM log ORDER BY idx")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (index, entry): (u64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let entry: Entry = unpack(unseal(&entry)?)?;
        // Nothing was ever purged: it begins at the beginning, or with a snapshot from elsewhere.
        let expected = next.unwrap_or(if begins.is_some() { index } else { 0 });
        if index != expected || entry.log_id.index != index {
            return changed(format!("entry {expected} of the log is missing"));
        }
        next = Some(index + 1);
    }
    let last = last_of(connection)?;
    if tally.commits > 0 && last != tally.last {
        return changed(format!("the log ends at {last:?} and not at {:?}", tally.last));
    }
    Ok(Tally { last, ..tally })
}

/// What the newest snapshot reaches to; none where there is none.
fn whole_snapshots(connection: &Connection) -> Result<Option<LogId>, StoreError> {
    let mut reaches = None;
    for table in ["older_snapshot", "snapshot"] {
        let Some((meta, data)) = super::snapshot_in(connection, table)? else { continue };
        let meta: SnapshotMeta = meta;
        let _: Replica = serde_json::from_slice(&data)?;
        reaches = meta.last_log_id;
    }
    Ok(reaches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_bit_is_flipped_a_sealed_record_is_not_read_as_another_one() {
        let record = br#"{"leader_id":{"term":5,"node_id":3},"committed":true}"#;
        let sealed = seal(record);
        assert_eq!(unseal(&sealed).unwrap(), record);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = unseal(&flipped).ok().and_then(|text| serde_json::from_slice::<Vote>(text).ok());
            assert!(read.is_none(), "bit {bit}");
        }
        for length in 1..sealed.len() {
            let read = unseal(&sealed[..length]).ok().and_then(|text| serde_json::from_slice::<Vote>(text).ok());
            assert!(read.is_none(), "{length} bytes");
        }
        assert_eq!(unseal(b"{}").unwrap(), b"{}", "of a release without checksums");
    }
}
