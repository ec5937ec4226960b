//! Opening the store: locks its directory, reads the database, replays the journals.
//!
//! Knows: what can be wrong with files at a start, and what helps. Refuses to know: what the files mean afterwards.
//!
//! Invariant: a store that does not open is left as it was.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::head::Head;
use super::history::{self, HistoryError};
use super::index::Index;
use super::journal::{self, Frame, Journal, JournalError, Record};
use super::{Hot, Log, READERS, Shared, Store, StoredEvent, remove_journal, sealer};

/// Why the store cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("failed to use {}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("another process has the store {} open", path.display())]
    Locked { path: PathBuf },
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("failed to start the store's thread")]
    Thread { source: std::io::Error },
}

impl OpenError {
    /// What the operator can do.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            OpenError::Locked { .. } => "stop the other one, or give each its own data_dir",
            OpenError::Directory { source, .. } => help_with_files(source),
            OpenError::History(error) => error.help(),
            OpenError::Journal(JournalError::File(error)) => error.cause().map_or("start it again", help_with_files),
            OpenError::Journal(JournalError::Behind { .. }) | OpenError::Thread { .. } => "start it again",
        }
    }
}

fn help_with_files(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "give this process' user the right to read and write there",
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "make room on its file system",
        std::io::ErrorKind::ReadOnlyFilesystem => "mount its file system for writing",
        _ => "see to it that data_dir is a directory on a working disk",
    }
}

impl Store {
    /// Opens the store in `dir`, replaying what was not yet sealed.
    ///
    /// # Errors
    /// The directory, database or journal cannot be used; nothing was changed.
    pub fn open(dir: &Path, retention: Duration) -> Result<Store, OpenError> {
        std::fs::create_dir_all(dir).map_err(|source| OpenError::Directory { path: dir.to_owned(), source })?;
        let own = take_lock(dir)?;
        let db = dir.join("history.db");
        let (writer, loaded) = history::Writer::open(&db)?;
        let mut index = Index::default();
        index.load(&loaded.series, &loaded.texts);
        let mut hot = Hot {
            head: Head::default(),
            opened: Instant::now(),
            sealing: None,
            marks: loaded.marks,
            events: Vec::new(),
            sealings: 0,
            damaged: writer.damaged,
            stalls: 0,
            seal_trouble: None,
        };
        let (journal, number) = replay(dir, loaded.journal_floor, &mut index, &mut hot)?;
        let readers = (0..READERS).map(|_| history::open_reader(&db).map(Mutex::new)).collect::<Result<_, _>>()?;
        let journal_bytes = journal.bytes();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            log: Mutex::new(Log { journal, number, frame: Frame::default() }),
            hot: Mutex::new(hot),
            sealed: Condvar::new(),
            index: Mutex::new(index),
            readers,
            closing: AtomicBool::new(false),
            journal_bytes: AtomicU64::new(journal_bytes),
        });
        let (to_sealer, work) = mpsc::sync_channel(1);
        let for_thread = Arc::clone(&shared);
        let sealer = std::thread::Builder::new()
            .name("store-sealer".into())
            .spawn(move || sealer::seal_and_fold(&for_thread, writer, &work, retention))
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Store { shared, to_sealer: Some(to_sealer), sealer: Some(sealer), _lock: own })
    }
}

fn take_lock(dir: &Path) -> Result<std::fs::File, OpenError> {
    let path = dir.join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| OpenError::Directory { path: path.clone(), source })?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| OpenError::Locked { path: dir.to_owned() })?;
    Ok(file)
}

fn replay(dir: &Path, floor: u64, index: &mut Index, hot: &mut Hot) -> Result<(Journal, u64), JournalError> {
    let mut last = None;
    for number in journal::list(dir)? {
        if number < floor {
            remove_journal(dir, number);
            continue;
        }
        let (opened, damaged) = Journal::open(dir, number, |record| match record {
            Record::Series { id, text, device, point } => {
                index.replay_series(id, text, device.as_str(), point.as_str())
            }
            Record::Text { id, text } => index.replay_text(id, &text),
            Record::Samples(samples) => samples.into_iter().for_each(|(series, sample)| hot.head.push(series, sample)),
            Record::Mark { agent, incarnation, first, last } => {
                hot.marks.insert_range(&agent, incarnation, first, last);
            }
            Record::Event(json) => hot.events.extend(serde_json::from_str::<StoredEvent>(&json)),
        })?;
        hot.damaged += damaged;
        last = Some((opened, number));
    }
    match last {
        Some(last) => Ok(last),
        None => Ok((Journal::open(dir, floor, |_| {})?.0, floor)),
    }
}
