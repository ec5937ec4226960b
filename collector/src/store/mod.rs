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
mod commit;
pub mod frames;
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
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bcp_wire::presence::AgentRef;
use bcp_wire::{Id, PointName, Quality, Value};
use rusqlite::Connection;

pub use codec::Sample;
pub use commit::{MAX_HEAD_AGE, SettleError};
pub use head::SeriesId;
pub use history::{HistoryError, Rollup, StoredEvent};
pub use journal::JournalError;
pub use marks::{AgentMarks, Marked, Marks};
pub use open::OpenError;

use head::Head;
use history::Sealing;
use index::Index;
use journal::{Frame, Journal};

/// Connections for queries; two cores cannot use more.
const READERS: usize = 2;
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

    /// Takes over everything of another one.
    pub fn absorb(&mut self, other: &mut Group) {
        self.samples.append(&mut other.samples);
        self.marks.append(&mut other.marks);
        self.events.append(&mut other.events);
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
