//! The way to a long-term database that speaks the InfluxDB v2 write API. Off unless configured.
//!
//! * [`line`]: PURE. A batch as line protocol.
//! * [`queue`]: lines that wait, on the disk, within a bound.
//! * [`answer`]: PURE. What an HTTP answer asks for.
//! * [`writer`]: the task that sends, splits, waits and sets aside.
//!
//! Knows: what of the own site's agents was committed here. Refuses to know: what the database does with it. A collector
//! sends what its own site's agents say and nothing else: each sample has one way, whatever the other collectors see.
//!
//! Invariants: lines are durable in the queue before the payload they are of is committed, so a kill at any moment loses
//! none; a line sent twice is the same point, with the same tags and the same time; what is not delivered for good is
//! counted, and kept in a file where it was refused; a database that does not answer costs the store nothing.

pub mod answer;
pub mod line;
mod quarantine;
pub mod queue;
pub mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;

pub use line::Lines;
use queue::{Queue, QueueError};

/// An alarm begins when nothing could be delivered for this long.
pub const ALARM_AFTER: Duration = Duration::from_secs(60);
/// Lines that were dropped or set aside keep the alarm up for this long, so that somebody sees it.
pub const ALARM_KEPT: Duration = Duration::from_secs(600);

/// Figures of the export, for metrics, console and alarm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExportView {
    /// What keeps lines from being written, if anything.
    pub trouble: Option<String>,
    /// Lines that the database took.
    pub written: u64,
    pub requests: u64,
    /// Requests that were not taken, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Requests made smaller after a refusal.
    pub splits: u64,
    /// Lines that the database refused for good; they are in the quarantine file.
    pub quarantined: u64,
    /// Lines dropped because the queue was full, or its disk refused.
    pub dropped: u64,
    /// Queued places that could not be read.
    pub damaged: u64,
    pub queue_bytes: u64,
    pub queue_lines: u64,
}

#[derive(Debug, Default)]
struct Seen {
    view: ExportView,
    failing_since: Option<Instant>,
    /// When lines were last lost to the database, and how.
    lost: Option<(Instant, String)>,
}

/// What the committing side and the sending task share.
#[derive(Debug)]
pub struct Export {
    pub(crate) queue: Queue,
    /// Something was queued.
    pub(crate) queued: Notify,
    seen: Mutex<Seen>,
}

impl Export {
    /// Opens the queue in `dir`.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<Arc<Export>, QueueError> {
        let queue = Queue::open(dir, max_bytes)?;
        Ok(Arc::new(Export { queue, queued: Notify::new(), seen: Mutex::default() }))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes lines durable. Where the disk refuses they are counted as dropped: the history goes on without them. Blocks.
    pub fn put(&self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let refused = match self.queue.append(lines) {
            Ok(0) => None,
            Ok(dropped) => Some((dropped, "the queue is full: the oldest lines were dropped".to_owned())),
            Err(error) => Some((queue::count_lines(lines), crate::ingest::link::chain(&error))),
        };
        if let Some((dropped, reason)) = refused {
            let mut seen = self.seen();
            if seen.lost.as_ref().is_none_or(|(at, _)| at.elapsed() >= ALARM_AFTER) {
                tracing::error!(dropped, "lines for the long-term database are lost: {reason}");
            }
            seen.view.dropped += dropped;
            seen.lost = Some((Instant::now(), reason));
        }
        self.queued.notify_one();
    }

    /// The figures of now.
    #[must_use]
    pub fn view(&self) -> ExportView {
        let mut view = self.seen().view.clone();
        let waiting = self.queue.stats();
        view.queue_bytes = waiting.bytes;
        view.queue_lines = waiting.lines;
        view.damaged = waiting.damaged;
        view
    }

    /// Why an operator should look, where one should.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        let seen = self.seen();
        let failing = seen.failing_since.filter(|since| since.elapsed() >= ALARM_AFTER);
        // The same words as long as it is the same: each change is a vote of its own.
        if let (Some(_), Some(trouble)) = (failing, &seen.view.trouble) {
            return Some(format!("nothing is taken: {trouble}"));
        }
        seen.lost.as_ref().filter(|(at, _)| at.elapsed() < ALARM_KEPT).map(|(_, reason)| reason.clone())
    }

    /// A request was answered, or was not: counts it, and says the change in the log once.
    pub(crate) fn note(&self, failure: Option<(&'static str, &str)>) {
        let mut seen = self.seen();
        seen.view.requests += 1;
        let Some((kind, reason)) = failure else {
            if seen.view.trouble.take().is_some() {
                tracing::info!("the long-term database takes lines again");
            }
            seen.failing_since = None;
            return;
        };
        *seen.view.failures.entry(kind).or_default() += 1;
        if seen.view.trouble.is_none() {
            tracing::warn!("the long-term database does not take lines, they wait on the disk: {reason}");
        }
        seen.failing_since.get_or_insert_with(Instant::now);
        seen.view.trouble = Some(reason.to_owned());
    }

    pub(crate) fn note_written(&self, lines: u64) {
        self.seen().view.written += lines;
    }

    /// Lines counted as dropped that were delivered after all.
    pub(crate) fn note_rescued(&self, lines: u64) {
        let mut seen = self.seen();
        seen.view.dropped = seen.view.dropped.saturating_sub(lines);
    }

    /// A request was refused for its size or content and goes again in parts: the database answers.
    pub(crate) fn note_split(&self, kind: &'static str) {
        let mut seen = self.seen();
        seen.view.requests += 1;
        seen.view.splits += 1;
        *seen.view.failures.entry(kind).or_default() += 1;
    }

    pub(crate) fn note_quarantined(&self, lines: u64, reason: &str) {
        let mut seen = self.seen();
        seen.view.requests += 1;
        seen.view.quarantined += lines;
        seen.lost = Some((Instant::now(), format!("lines were refused and are kept aside: {reason}")));
    }
}
