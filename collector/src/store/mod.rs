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
mod shelf;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bcp_wire::presence::AgentRef;
use bcp_wire::{Id, PointName, Quality, Value};
use rusqlite::Connection;

pub use codec::Sample;
pub use head::SeriesId;
pub use history::{HistoryError, Rollup, StoredEvent};
pub use journal::JournalError;
pub use marks::{AgentMarks, Marked, Marks};

use head::{Head, MAX_HEAD_SAMPLES};
use history::Sealing;
use index::Index;
use journal::{Frame, Journal, MAX_JOURNAL_BYTES, Record};

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
/// Pages folded per step, so that a full head never waits long for the sealer.
const FOLD_STEP_PAGES: usize = 8;
/// Rows dropped per retention step.
const EXPIRE_STEP_ROWS: usize = 2_000;
/// Pause before a refused sealing is tried again.
const SEAL_RETRY: Duration = Duration::from_secs(2);
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

/// Why the store cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("failed to create the store's directory {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("another process has the store {path} open")]
    Locked { path: PathBuf },
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("failed to start the store's thread")]
    Thread { source: std::io::Error },
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
            .spawn(move || seal_and_fold(&for_thread, writer, &work, retention))
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Store { shared, to_sealer: Some(to_sealer), sealer: Some(sealer), _lock: own })
    }

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
        self.write(&mut log, group)?;
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
        hot.stalls += 1;
        let waited = self.shared.sealed.wait_timeout_while(hot, MAX_STALL, |hot| hot.sealing.is_some());
        let (hot, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if hot.sealing.is_some() { Err(JournalError::Behind) } else { self.rotate(log, hot) }
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
        log.journal = Journal::open(&self.shared.dir, number, |_| {})?;
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

    /// Samples of a series with `from <= t <= to`, ascending, one per time.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn samples(&self, series: SeriesId, from: i64, to: i64) -> Result<Vec<Sample>, HistoryError> {
        // Memory first: what is sealed meanwhile is then seen twice, never missed. Older places come first in the list,
        // so that the last-written of equal times wins.
        let mut newest = Vec::new();
        let hot = lock(&self.shared.hot);
        let sealing = hot.sealing.clone();
        hot.head.samples_of(series, &mut newest);
        drop(hot);
        let mut out = Vec::new();
        let damaged = {
            let db = self.reader();
            history::read_samples(&db, series, from, to, &mut out)?
        };
        if let Some(sealing) = sealing {
            sealing.head.samples_of(series, &mut out);
        }
        out.append(&mut newest);
        out.retain(|sample| (from..=to).contains(&sample.t));
        codec::order(&mut out);
        if damaged > 0 {
            lock(&self.shared.hot).damaged += damaged;
        }
        Ok(out)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.shared
            .readers
            .iter()
            .find_map(|reader| reader.try_lock().ok())
            .unwrap_or_else(|| lock(&self.shared.readers[0]))
    }

    /// What a point was between two times; `None` for a point that was never stored.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn history(
        &self,
        device: &Id,
        point: &PointName,
        from: i64,
        to: i64,
    ) -> Result<Option<Vec<HistorySample>>, HistoryError> {
        let (numbers, texts) = lock(&self.shared.index).find(device.as_str(), point.as_str());
        if numbers.is_none() && texts.is_none() {
            return Ok(None);
        }
        let mut out = Vec::new();
        if let Some(series) = numbers {
            for sample in self.samples(series, from, to)? {
                let number = codec::number_or_quality(sample.v);
                out.push(HistorySample {
                    t: sample.t,
                    value: number.ok().map(Value::Num),
                    quality: number.err().unwrap_or(Quality::Good),
                });
            }
        }
        if let Some(series) = texts {
            let samples = self.samples(series, from, to)?;
            let index = lock(&self.shared.index);
            out.extend(samples.into_iter().map(|sample| HistorySample {
                t: sample.t,
                value: index.text_of(sample.v).map(Value::Text),
                quality: codec::number_or_quality(sample.v).err().unwrap_or(Quality::Good),
            }));
            drop(index);
            out.sort_by_key(|sample| sample.t);
        }
        Ok(Some(out))
    }

    /// Hourly figures of a point's numbers: from rollups, and from what is not yet in them.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn rollups(&self, device: &Id, point: &PointName, from: i64, to: i64) -> Result<Vec<Rollup>, HistoryError> {
        let (Some(series), _) = lock(&self.shared.index).find(device.as_str(), point.as_str()) else {
            return Ok(Vec::new());
        };
        // Chunks are in the rollups; what is on a shelf, in a run or in memory is added as it is.
        let mut newest = Vec::new();
        let hot = lock(&self.shared.hot);
        let sealing = hot.sealing.clone();
        hot.head.samples_of(series, &mut newest);
        drop(hot);
        let mut loose = Vec::new();
        let stored = {
            let db = self.reader();
            let snapshot = db.unchecked_transaction().map_err(|source| HistoryError::Read { source })?;
            history::read_loose(&snapshot, series, &mut loose)?;
            history::read_rollups(&snapshot, series, from, to)?
        };
        if let Some(sealing) = sealing {
            sealing.head.samples_of(series, &mut loose);
        }
        loose.append(&mut newest);
        loose.retain(|sample| (from..=to).contains(&sample.t));
        codec::order(&mut loose);
        Ok(history::merge(stored, history::roll_up(&loose)))
    }

    /// Newest events of a device, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn events(&self, device: &Id, limit: usize) -> Result<Vec<StoredEvent>, HistoryError> {
        let mut out: Vec<StoredEvent> = {
            let hot = lock(&self.shared.hot);
            let sealing = hot.sealing.iter().flat_map(|sealing| &sealing.events);
            hot.events.iter().chain(sealing).filter(|event| event.device == *device).cloned().collect()
        };
        out.sort_by_key(|event| std::cmp::Reverse(event.t));
        let stored = history::read_events(&self.reader(), device, limit)?;
        out.extend(stored);
        out.truncate(limit);
        Ok(out)
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
                return Err(JournalError::Behind.into());
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
        let opened = Journal::open(dir, number, |record| match record {
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
        last = Some((opened, number));
    }
    match last {
        Some(last) => Ok(last),
        None => Ok((Journal::open(dir, floor, |_| {})?, floor)),
    }
}

fn remove_journal(dir: &Path, number: u64) {
    let path = journal::path(dir, number);
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "a sealed journal could not be removed; it is tried again at the next start");
    }
}

/// The sealer's thread.
fn seal_and_fold(shared: &Shared, mut writer: history::Writer, work: &mpsc::Receiver<Work>, retention: Duration) {
    let mut expired = Instant::now();
    loop {
        let wait = if writer.due() > 0 { Duration::from_millis(1) } else { Duration::from_secs(1) };
        match work.recv_timeout(wait) {
            Ok(Work::Seal(sealing)) => seal(shared, &mut writer, &sealing),
            Ok(Work::FoldAll(answer)) => {
                let done = writer.fold_all().and_then(|()| writer.bytes_used());
                let _ = answer.send(done);
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = writer.fold(FOLD_STEP_PAGES) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "runs were not folded; tried again later");
                    std::thread::sleep(SEAL_RETRY);
                }
                if expired.elapsed() >= Duration::from_secs(60) {
                    expired = Instant::now();
                    expire(&mut writer, retention);
                }
            }
        }
    }
}

fn expire(writer: &mut history::Writer, retention: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let cutoff = i64::try_from(now.saturating_sub(retention).as_millis()).unwrap_or(0);
    let done = writer.expire(cutoff, EXPIRE_STEP_ROWS).and_then(|_| writer.shrink(1_000));
    if let Err(error) = done {
        tracing::warn!(error = &error as &dyn std::error::Error, "old history was not dropped; tried again later");
    }
}

fn seal(shared: &Shared, writer: &mut history::Writer, sealing: &Arc<Sealing>) {
    // Tried until it works: the samples are safe in their journal, and commits wait once the next head is full too.
    let mut said = false;
    while let Err(error) = writer.seal(sealing) {
        if !said {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "history could not be sealed; it stays in the journal"
            );
            said = true;
        }
        std::thread::sleep(SEAL_RETRY);
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
    }
    let mut hot = lock(&shared.hot);
    hot.sealing = None;
    hot.sealings += 1;
    hot.damaged = hot.damaged.max(writer.damaged);
    drop(hot);
    shared.sealed.notify_all();
    let sealed = journal::list(&shared.dir).unwrap_or_default();
    for number in sealed.into_iter().filter(|number| *number < sealing.journal_floor) {
        remove_journal(&shared.dir, number);
    }
}

#[cfg(test)]
mod tests;
