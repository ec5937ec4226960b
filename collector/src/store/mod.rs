//! What serve keeps: history of every point, marks of every agent, events and gaps, and its copy of the ledger.
//!
//! Knows: where a sample is (journal and head, run, chunk) and that nobody else has to. Refuses to know: MQTT, rules,
//! pages. A [`Group`] is durable when [`Store::commit`] returns, and not acknowledged before.
//!
//! Threads: one, `store-sealer`, which owns the writing connection: it seals heads, folds runs, drops what is too old. It
//! ends when the store is dropped. Callers block: async code goes through `spawn_blocking`.
//!
//! Invariants: marks and samples of a group become durable together; a full disk refuses new groups and loses none;
//! memory is bounded by two heads and the index.

pub mod codec;
pub mod head;
pub mod history;
mod index;
pub mod journal;
pub mod ledger;
pub mod marks;
mod open;
mod questions;
mod sealer;
mod shelf;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bcp_wire::presence::AgentRef;
use bcp_wire::{Id, PointName, Quality, Value};
use rusqlite::Connection;

pub use codec::Sample;
pub use head::SeriesId;
pub use history::{HistoryError, Rollup, StoredEvent};
pub use journal::JournalError;
pub use marks::{AgentMarks, Marked, Marks};
pub use open::OpenError;

use head::{Head, MAX_HEAD_SAMPLES};
use history::Sealing;
use index::Index;
use journal::{Frame, Journal, MAX_JOURNAL_BYTES};

/// A head is sealed after this long, so that a restart replays an hour at most.
pub const MAX_HEAD_AGE: Duration = Duration::from_secs(3_600);
/// A head is sealed once it holds this many samples per series: each then fills chunks of its own.
const HEAD_SAMPLES_PER_SERIES: usize = 1_024;
/// Smallest head worth sealing for its size.
const MIN_HEAD_SAMPLES: usize = 65_536;
/// Events held in memory before a sealing is due.
const MAX_HEAD_EVENTS: usize = 20_000;
/// Connections for queries; two cores cannot use more.
const READERS: usize = 2;
/// Longest wait of a commit for the sealer; then the group is refused and tried again.
const MAX_STALL: Duration = Duration::from_secs(10);

/// Everything one commit makes durable.
#[derive(Debug, Default)]
pub struct Group {
    pub samples: Vec<(SeriesId, Sample)>,
    /// Agent, incarnation, first and last sequence number.
    pub marks: Vec<(AgentRef, u64, u64, u64)>,
    pub events: Vec<StoredEvent>,
}

impl Group {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.marks.is_empty() && self.events.is_empty()
    }

    pub fn clear(&mut self) {
        self.samples.clear();
        self.marks.clear();
        self.events.clear();
    }
}

/// One value as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct HistorySample {
    /// Milliseconds since 1970 UTC.
    pub t: i64,
    pub value: Option<Value>,
    pub quality: Quality,
}

/// Figures of the store, for metrics and the console.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub series: u64,
    pub head_samples: u64,
    pub journal_bytes: u64,
    pub sealings: u64,
    pub damaged: u64,
    /// Commits that had to wait for the sealer.
    pub stalls: u64,
}

#[derive(Debug)]
struct Log {
    journal: Journal,
    number: u64,
    frame: Frame,
}

#[derive(Debug)]
struct Hot {
    head: Head,
    opened: Instant,
    sealing: Option<Arc<Sealing>>,
    marks: Marks,
    events: Vec<StoredEvent>,
    sealings: u64,
    damaged: u64,
    stalls: u64,
    /// Why the sealer cannot write, while it cannot.
    seal_trouble: Option<String>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Taken before `hot` where both are needed.
    log: Mutex<Log>,
    hot: Mutex<Hot>,
    sealed: Condvar,
    index: Mutex<Index>,
    readers: Vec<Mutex<Connection>>,
    closing: AtomicBool,
    /// Of the journal in use; kept apart, because its lock is held while the disk works.
    journal_bytes: AtomicU64,
}

/// The store. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    to_sealer: Option<SyncSender<Work>>,
    sealer: Option<std::thread::JoinHandle<()>>,
    _lock: std::fs::File,
}

#[derive(Debug)]
enum Work {
    Seal(Arc<Sealing>),
    /// Fold everything, then report the bytes in use.
    FoldAll(SyncSender<Result<u64, HistoryError>>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// The series of a point's numbers, or of its texts. `None` once the store has as many series as it may.
    #[must_use]
    pub fn series(&self, device: &Id, point: &PointName, text: bool) -> Option<SeriesId> {
        lock(&self.shared.index).series(device.as_str(), point.as_str(), text)
    }

    /// The number that stands for a text. `None` once there are too many different ones.
    #[must_use]
    pub fn text(&self, text: &str) -> Option<f64> {
        lock(&self.shared.index).text(text).map(f64::from)
    }

    /// Makes the group durable, then visible. The group is left as it was.
    ///
    /// # Errors
    /// The disk refuses: nothing of the group is stored, and it may be tried again.
    pub fn commit(&self, group: &Group) -> Result<(), JournalError> {
        let mut log = lock(&self.shared.log);
        self.make_room(&mut log)?;
        if let Err(error) = self.write(&mut log, group) {
            log.journal.take_back();
            return Err(error);
        }
        let mut hot = lock(&self.shared.hot);
        for (series, sample) in &group.samples {
            hot.head.push(*series, *sample);
        }
        for (agent, incarnation, first, last) in &group.marks {
            hot.marks.insert_range(agent, *incarnation, *first, *last);
        }
        hot.events.extend(group.events.iter().cloned());
        if hot.sealing.is_none() && self.is_full(&log, &hot) {
            // The group is stored: a journal that cannot be opened now is tried again at the next commit.
            if let Err(error) = self.rotate(&mut log, hot) {
                tracing::warn!(error = &error as &dyn std::error::Error, "the next journal could not be opened");
            }
        }
        Ok(())
    }

    /// Waits, for a bounded time, while the head is full and the sealer has not finished the one before.
    fn make_room(&self, log: &mut Log) -> Result<(), JournalError> {
        let mut hot = lock(&self.shared.hot);
        if hot.head.len() < MAX_HEAD_SAMPLES {
            return Ok(());
        }
        // A disk that refused the last sealing will not take the next one within the wait.
        if let Some(reason) = &hot.seal_trouble {
            return Err(JournalError::Behind { reason: reason.clone() });
        }
        hot.stalls += 1;
        let waited = self.shared.sealed.wait_timeout_while(hot, MAX_STALL, |hot| hot.sealing.is_some());
        let (hot, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if hot.sealing.is_some() { Err(behind(&hot)) } else { self.rotate(log, hot) }
    }

    fn write(&self, log: &mut Log, group: &Group) -> Result<(), JournalError> {
        let Log { journal, frame, .. } = log;
        frame.clear();
        // Large groups are split; marks come last, so a kill between frames leaves them unacknowledged.
        let mut parts = group.samples.chunks(journal::MAX_FRAME_BYTES / 64).peekable();
        let new = lock(&self.shared.index).write_new(frame);
        while let Some(part) = parts.next() {
            frame.samples(part);
            if parts.peek().is_some() {
                journal.write(frame)?;
                frame.clear();
            }
        }
        for (agent, incarnation, first, last) in &group.marks {
            frame.mark(agent, *incarnation, *first, *last);
        }
        for event in &group.events {
            if let Ok(json) = serde_json::to_string(event) {
                frame.event(&json);
            }
        }
        if frame.is_empty() {
            return Ok(());
        }
        journal.write(frame)?;
        journal.sync()?;
        self.shared.journal_bytes.store(journal.bytes(), Ordering::Relaxed);
        lock(&self.shared.index).wrote_new(new);
        Ok(())
    }

    fn is_full(&self, log: &Log, hot: &Hot) -> bool {
        let series = lock(&self.shared.index).len();
        let wanted = (series * HEAD_SAMPLES_PER_SERIES).clamp(MIN_HEAD_SAMPLES, MAX_HEAD_SAMPLES);
        hot.head.len() >= wanted
            || hot.events.len() >= MAX_HEAD_EVENTS
            || log.journal.bytes() >= MAX_JOURNAL_BYTES
            || (!hot.head.is_empty() && hot.opened.elapsed() >= MAX_HEAD_AGE)
    }

    /// Hands the head to the sealer and starts the next one with its own journal. No sealing may be under way.
    fn rotate(&self, log: &mut Log, mut hot: MutexGuard<'_, Hot>) -> Result<(), JournalError> {
        let number = log.number + 1;
        (log.journal, _) = Journal::open(&self.shared.dir, number, |_| {})?;
        log.number = number;
        let (new_series, new_texts) = lock(&self.shared.index).take_unsealed();
        let sealing = Arc::new(Sealing {
            head: std::mem::take(&mut hot.head),
            new_series,
            new_texts,
            marks: hot.marks.clone(),
            events: std::mem::take(&mut hot.events),
            journal_floor: number,
        });
        hot.opened = Instant::now();
        hot.sealing = Some(Arc::clone(&sealing));
        drop(hot);
        if let Some(to_sealer) = &self.to_sealer {
            // One slot, and only one sealing exists at a time: this never waits. A dead sealer shows as a stall.
            let _ = to_sealer.try_send(Work::Seal(sealing));
        }
        Ok(())
    }

    /// What is committed of every agent.
    #[must_use]
    pub fn marks(&self) -> Marks {
        lock(&self.shared.hot).marks.clone()
    }

    /// What is committed of one agent.
    #[must_use]
    pub fn marks_of(&self, agent: &AgentRef) -> Option<AgentMarks> {
        lock(&self.shared.hot).marks.get(agent).cloned()
    }

    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let journal_bytes = self.shared.journal_bytes.load(Ordering::Relaxed);
        let series = lock(&self.shared.index).len() as u64;
        let hot = lock(&self.shared.hot);
        StoreStats {
            series,
            head_samples: hot.head.len() as u64,
            journal_bytes,
            sealings: hot.sealings,
            damaged: hot.damaged,
            stalls: hot.stalls,
        }
    }

    /// Seals the head and folds every run into chunks; returns the bytes of the database in use.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn settle(&self) -> Result<u64, SettleError> {
        {
            let mut log = lock(&self.shared.log);
            let hot = lock(&self.shared.hot);
            let waited = self.shared.sealed.wait_timeout_while(hot, MAX_STALL, |hot| hot.sealing.is_some());
            let (hot, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if hot.sealing.is_some() {
                return Err(behind(&hot).into());
            }
            if !hot.head.is_empty() {
                self.rotate(&mut log, hot)?;
            }
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let to_sealer = self.to_sealer.as_ref().ok_or(SettleError::Ended)?;
        to_sealer.send(Work::FoldAll(answer)).map_err(|_| SettleError::Ended)?;
        Ok(answered.recv().map_err(|_| SettleError::Ended)??)
    }
}

fn behind(hot: &Hot) -> JournalError {
    let reason = hot.seal_trouble.clone().unwrap_or_else(|| format!("a sealing takes longer than {MAX_STALL:?}"));
    JournalError::Behind { reason }
}

/// Why everything could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("the store is closing")]
    Ended,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.to_sealer = None;
        if let Some(sealer) = self.sealer.take() {
            let _ = sealer.join();
        }
    }
}

fn remove_journal(dir: &Path, number: u64) {
    let path = journal::path(dir, number);
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "a sealed journal could not be removed; it is tried again at the next start");
    }
}

#[cfg(test)]
mod tests;
