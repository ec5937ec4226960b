//! The data of the prescriptions service: an append-only journal, and the record of the epochs seen.
//!
//! Knows: entries, the identity of their history, the highest epoch ever obeyed here.
//! Refuses to know: who is active, and the network.
//! Invariants: an entry is on the disk before its position is told; the epoch on record never goes down, whoever
//! raises it (the service and its actuator share the record under a file lock); a torn last line is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bcp_wire::Epoch;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Entries a journal holds; a demo that writes once a second needs eleven days for them.
pub const MAX_ENTRIES: usize = 1_000_000;
/// Longest text of an entry, in bytes.
pub const MAX_ENTRY_BYTES: usize = 4_096;

/// One prescription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub position: u64,
    /// Under which it was written: two histories that differ, differ in it.
    pub epoch: Epoch,
    pub text: String,
}

/// Identity and fence of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub lineage: String,
    /// Highest epoch obeyed here; lower ones are refused for ever.
    pub seen: Epoch,
}

/// Why the data of a copy could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("failed to read or write {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("record {path} is not readable")]
    Record {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the journal is full: {MAX_ENTRIES} entries")]
    Full,
    #[error("entry is longer than {MAX_ENTRY_BYTES} bytes")]
    TooLong,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> JournalError + '_ {
    move |source| JournalError::Io { path: path.to_path_buf(), source }
}

/// Raises the record of `directory` to `epoch`; answers what was on record before.
///
/// # Errors
/// The record could not be read, written or locked.
pub fn raise(directory: &Path, epoch: Epoch) -> Result<Epoch, JournalError> {
    update(directory, |record| {
        let before = record.seen;
        record.seen = before.max(epoch);
        before
    })
}

/// Reads the record, changes it, writes it back durably.
///
/// # Errors
/// As [`raise`].
pub fn update<T>(directory: &Path, change: impl FnOnce(&mut Record) -> T) -> Result<T, JournalError> {
    fs::create_dir_all(directory).map_err(at(directory))?;
    let lock_path = directory.join("record.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(at(&lock_path))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|fault| at(&lock_path)(fault.into()))?;
    let path = directory.join("record.json");
    let mut record = match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|source| JournalError::Record { path: path.clone(), source })?
        }
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Record { lineage: String::new(), seen: Epoch::NONE },
        Err(fault) => return Err(at(&path)(fault)),
    };
    let before = record.clone();
    let answer = change(&mut record);
    if record != before || !path.exists() {
        let next = directory.join("record.json.next");
        let bytes =
            serde_json::to_vec(&record).map_err(|source| JournalError::Record { path: path.clone(), source })?;
        let mut file = File::create(&next).map_err(at(&next))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(at(&next))?;
        fs::rename(&next, &path).map_err(at(&path))?;
        File::open(directory).and_then(|dir| dir.sync_all()).map_err(at(directory))?;
    }
    Ok(answer)
}

/// The entries of one copy.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
    /// Byte offset of the end of each entry, to cut a forked tail off.
    ends: Vec<u64>,
}

impl Journal {
    /// Opens the journal of `directory`; a torn or out-of-order tail is cut off.
    ///
    /// # Errors
    /// The file could not be read or repaired.
    pub fn open(directory: &Path) -> Result<Journal, JournalError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let path = directory.join("journal.jsonl");
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(at(&path))?;
        let (mut entries, mut ends, mut end) = (Vec::new(), Vec::new(), 0_u64);
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        while entries.len() < MAX_ENTRIES {
            line.clear();
            let count = reader.read_until(b'\n', &mut line).map_err(at(&path))?;
            let Ok(entry) = serde_json::from_slice::<Entry>(&line) else { break };
            if line.last() != Some(&b'\n') || entry.position != entries.len() as u64 + 1 {
                break;
            }
            end += count as u64;
            entries.push(entry);
            ends.push(end);
        }
        let mut journal = Journal { path, file, entries, ends };
        journal.keep(journal.position())?;
        Ok(journal)
    }

    /// Number of entries: the position of the last one.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Epoch of the entry at a position; position 0 is the common beginning.
    #[must_use]
    pub fn epoch_at(&self, position: u64) -> Option<Epoch> {
        if position == 0 {
            return Some(Epoch::NONE);
        }
        self.get(position).map(|entry| entry.epoch)
    }

    #[must_use]
    pub fn get(&self, position: u64) -> Option<&Entry> {
        let index = usize::try_from(position.checked_sub(1)?).ok()?;
        self.entries.get(index)
    }

    /// At most `limit` entries after a position.
    #[must_use]
    pub fn after(&self, position: u64, limit: usize) -> Vec<Entry> {
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries[from..].iter().take(limit).cloned().collect()
    }

    /// Writes new entries and the disk's confirmation is waited for.
    ///
    /// # Errors
    /// Full, too long, or the disk refused; then nothing was added.
    pub fn append(&mut self, new: impl IntoIterator<Item = (Epoch, String)>) -> Result<u64, JournalError> {
        let begun_at = self.position();
        let mut bytes = Vec::new();
        let mut end = self.ends.last().copied().unwrap_or(0);
        for (epoch, text) in new {
            if text.len() > MAX_ENTRY_BYTES {
                self.forget_after(begun_at);
                return Err(JournalError::TooLong);
            }
            if self.entries.len() >= MAX_ENTRIES {
                self.forget_after(begun_at);
                return Err(JournalError::Full);
            }
            let entry = Entry { position: self.position() + 1, epoch, text };
            let before = bytes.len();
            serde_json::to_writer(&mut bytes, &entry)
                .map_err(|source| JournalError::Record { path: self.path.clone(), source })?;
            bytes.push(b'\n');
            end += (bytes.len() - before) as u64;
            self.entries.push(entry);
            self.ends.push(end);
        }
        if let Err(fault) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            let fault = at(&self.path)(fault);
            let _ = self.keep(begun_at);
            return Err(fault);
        }
        Ok(self.position())
    }

    /// Cuts off everything after a position.
    ///
    /// # Errors
    /// The disk refused.
    pub fn keep(&mut self, position: u64) -> Result<(), JournalError> {
        self.forget_after(position);
        let end = self.ends.last().copied().unwrap_or(0);
        self.file
            .set_len(end)
            .and_then(|()| self.file.seek(SeekFrom::Start(end)))
            .and_then(|_| self.file.sync_data())
            .map_err(at(&self.path))
    }

    fn forget_after(&mut self, position: u64) {
        let length = usize::try_from(position).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.truncate(length);
        self.ends.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bcp-fleet-journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn epoch(counter: u64) -> Epoch {
        Epoch { incarnation: 1, counter }
    }

    #[test]
    fn what_was_appended_is_there_after_reopening_and_a_torn_line_is_not() {
        let directory = scratch("reopen");
        let mut journal = Journal::open(&directory).unwrap();
        assert_eq!(journal.append([(epoch(1), "one".to_owned()), (epoch(1), "two".to_owned())]).unwrap(), 2);
        drop(journal);
        let path = directory.join("journal.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"position\":3,\"epo").unwrap();
        drop(file);
        let mut journal = Journal::open(&directory).unwrap();
        assert_eq!(journal.position(), 2);
        assert_eq!(journal.append([(epoch(2), "three".to_owned())]).unwrap(), 3);
        journal.keep(1).unwrap();
        assert_eq!(journal.append([(epoch(3), "other two".to_owned())]).unwrap(), 2);
        drop(journal);
        let journal = Journal::open(&directory).unwrap();
        assert_eq!(journal.get(2).unwrap().text, "other two");
        assert_eq!(journal.epoch_at(2), Some(epoch(3)));
        assert_eq!(journal.position(), 2);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_epoch_on_record_never_goes_down() {
        let directory = scratch("record");
        assert_eq!(raise(&directory, epoch(4)).unwrap(), Epoch::NONE);
        assert_eq!(raise(&directory, epoch(2)).unwrap(), epoch(4));
        assert_eq!(raise(&directory, epoch(4)).unwrap(), epoch(4));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_entry_that_is_too_long_adds_nothing() {
        let directory = scratch("long");
        let mut journal = Journal::open(&directory).unwrap();
        let long = "x".repeat(MAX_ENTRY_BYTES + 1);
        assert!(journal.append([(epoch(1), "fits".to_owned()), (epoch(1), long)]).is_err());
        assert_eq!(journal.position(), 0);
        fs::remove_dir_all(&directory).unwrap();
    }
}
