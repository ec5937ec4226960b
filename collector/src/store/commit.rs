//! Groups into the store: journal, then memory; full heads to the sealer.
//!
//! Knows: what has to be durable before what, and when a head is full. Refuses to know: what the sealer does with it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::head::MAX_HEAD_SAMPLES;
use super::history::{HistoryError, Sealing};
use super::journal::{self, Frame, Journal, JournalError, MAX_JOURNAL_BYTES};
use super::{Group, Hot, Log, Store, Work, lock};

/// A head is sealed after this long, so that a restart replays an hour at most.
pub const MAX_HEAD_AGE: Duration = Duration::from_secs(3_600);
/// A head is sealed once it holds this many samples per series: each then fills chunks of its own.
const HEAD_SAMPLES_PER_SERIES: usize = 1_024;
/// Smallest head worth sealing for its size.
const MIN_HEAD_SAMPLES: usize = 65_536;
/// Events held in memory before a sealing is due.
const MAX_HEAD_EVENTS: usize = 20_000;
/// Longest wait of a commit for the sealer; then the group is refused and tried again.
const MAX_STALL: Duration = Duration::from_secs(10);

impl Store {
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

    /// Definitions, samples and events first, marks last: a kill between frames leaves them unacknowledged.
    fn write(&self, log: &mut Log, group: &Group) -> Result<(), JournalError> {
        let Log { journal, frame, .. } = log;
        frame.clear();
        let mut wrote = false;
        let mut write_if = |frame: &mut Frame, whatever: bool| -> Result<(), JournalError> {
            if frame.is_full() || (whatever && !frame.is_empty()) {
                journal.write(frame)?;
                frame.clear();
                wrote = true;
            }
            Ok(())
        };
        let new = {
            let index = lock(&self.shared.index);
            index.write_new(frame, |frame| write_if(frame, false))?
        };
        for part in group.samples.chunks(journal::SAMPLES_PER_FRAME) {
            frame.samples(part);
            write_if(frame, false)?;
        }
        for event in &group.events {
            if let Ok(json) = serde_json::to_string(event) {
                frame.event(&json);
            }
            write_if(frame, false)?;
        }
        for (agent, incarnation, first, last) in &group.marks {
            frame.mark(agent, *incarnation, *first, *last);
            write_if(frame, false)?;
        }
        write_if(frame, true)?;
        if !wrote {
            return Ok(());
        }
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
