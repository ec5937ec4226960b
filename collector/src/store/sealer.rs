//! The sealer's thread: it alone writes the database. Seals heads, folds runs, drops what is too old.
//!
//! Knows: in which order, and what to do when the disk refuses (try again, and say so). Refuses to know: who commits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::history::{self, Sealing};
use super::{Shared, Work, journal, lock, remove_journal};

/// Pages folded per step, so that a full head never waits long for the sealer.
const FOLD_STEP_PAGES: usize = 8;
/// Rows dropped per retention step.
const EXPIRE_STEP_ROWS: usize = 2_000;
/// Pause before a refused sealing is tried again.
const SEAL_RETRY: Duration = Duration::from_secs(2);

/// The sealer's thread.
pub(super) fn seal_and_fold(
    shared: &Shared,
    mut writer: history::Writer,
    work: &mpsc::Receiver<Work>,
    retention: Duration,
) {
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
                    std::thread::park_timeout(SEAL_RETRY);
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
    // Tried until it works: the samples are safe in their journal, and commits are refused once the next head is full too.
    while let Err(error) = writer.seal(sealing) {
        let reason = crate::ingest::link::chain(&error);
        if lock(&shared.hot).seal_trouble.replace(reason).is_none() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "history could not be sealed; it stays in the journal"
            );
        }
        std::thread::park_timeout(SEAL_RETRY);
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
    }
    let mut hot = lock(&shared.hot);
    if hot.seal_trouble.take().is_some() {
        tracing::info!("history is sealed again");
    }
    hot.sealing = None;
    hot.sealings += 1;
    hot.damaged += std::mem::take(&mut writer.damaged);
    drop(hot);
    shared.sealed.notify_all();
    let sealed = journal::list(&shared.dir).unwrap_or_default();
    for number in sealed.into_iter().filter(|number| *number < sealing.journal_floor) {
        remove_journal(&shared.dir, number);
    }
}
