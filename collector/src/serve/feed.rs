//! The stream behind `GET /api/v1/stream`: what changed, numbered, resumable.
//!
//! Knows: the last events of this process. Refuses to know: who listens. A reader that falls out of the kept range is
//! told so and ends; it never makes the writer wait and never grows anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

/// Events kept for readers that come back; about a minute of a busy site.
pub const MAX_EVENTS: usize = 4_096;
/// Bytes kept: 10,000 points changing each second fill it in a few seconds, and then a reader starts afresh.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What an event is about; the SSE `event:` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Every second, whatever happens: `{as_of, revision, agreement, decide}`. Silence for 5 s means stale.
    Beat,
    /// `{device, points: [..]}`, those that changed.
    Points,
    /// `{sources: ..}`: brokers and agents.
    Sources,
    /// `{alarms: [..]}`, complete.
    Alarms,
    /// `{tickets: [..]}`, complete.
    Tickets,
    /// `{services: [..]}`, complete.
    Services,
    /// One ledger entry.
    Ledger,
}

impl Topic {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Topic::Beat => "beat",
            Topic::Points => "points",
            Topic::Sources => "sources",
            Topic::Alarms => "alarms",
            Topic::Tickets => "tickets",
            Topic::Services => "services",
            Topic::Ledger => "ledger",
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEvent {
    /// The SSE `id:`. Starts at a number taken from the wall clock, so that ids of an earlier process are seen as old.
    pub id: u64,
    pub topic: Topic,
    /// JSON.
    pub data: String,
}

#[derive(Debug)]
struct Kept {
    events: VecDeque<Arc<FeedEvent>>,
    bytes: usize,
    next_id: u64,
}

/// The events, and a signal that there are new ones.
#[derive(Debug)]
pub struct Feed {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

/// The reader asked for something that is no longer kept: it has to load everything anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream no longer holds what follows event {after}")]
pub struct Lagged {
    pub after: u64,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed::starting_at(1)
    }
}

impl Feed {
    /// A feed whose first event has this id.
    #[must_use]
    pub fn starting_at(first_id: u64) -> Feed {
        let next_id = first_id.max(1);
        let kept = Kept { events: VecDeque::new(), bytes: 0, next_id };
        Feed { kept: Mutex::new(kept), newest: watch::Sender::new(next_id - 1) }
    }

    /// Appends; the oldest events make room.
    pub fn push(&self, topic: Topic, data: String) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let id = kept.next_id;
        kept.next_id += 1;
        kept.bytes += data.len();
        kept.events.push_back(Arc::new(FeedEvent { id, topic, data }));
        while kept.events.len() > MAX_EVENTS || kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.data.len();
        }
        drop(kept);
        self.newest.send_replace(id);
    }

    /// True while somebody reads: nothing is put into words for nobody.
    #[must_use]
    pub fn has_readers(&self) -> bool {
        self.newest.receiver_count() > 0
    }

    /// Id of the newest event.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// A reader of everything after event `after`; without it, of everything from now on.
    #[must_use]
    pub fn read_after(self: &Arc<Self>, after: Option<u64>) -> FeedReader {
        let newest = self.newest.subscribe();
        let after = after.unwrap_or_else(|| *newest.borrow());
        FeedReader { feed: Arc::clone(self), newest, after }
    }

    fn after(&self, after: u64) -> Result<Vec<Arc<FeedEvent>>, Lagged> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = kept.events.front().map_or(kept.next_id, |event| event.id);
        if after + 1 < oldest || after >= kept.next_id {
            return Err(Lagged { after });
        }
        let skip = usize::try_from(after + 1 - oldest).unwrap_or(usize::MAX);
        Ok(kept.events.iter().skip(skip).cloned().collect())
    }
}

/// One reader's place in the feed.
#[derive(Debug)]
pub struct FeedReader {
    feed: Arc<Feed>,
    newest: watch::Receiver<u64>,
    after: u64,
}

impl FeedReader {
    /// Waits for events after the last ones returned. Cancel-safe.
    ///
    /// # Errors
    /// [`Lagged`]: end the stream, the client loads everything anew.
    pub async fn next(&mut self) -> Result<Vec<Arc<FeedEvent>>, Lagged> {
        loop {
            self.newest.borrow_and_update();
            let events = self.feed.after(self.after)?;
            if let Some(last) = events.last() {
                self.after = last.id;
                return Ok(events);
            }
            if self.newest.changed().await.is_err() {
                return Err(Lagged { after: self.after });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_resumes_where_it_was_and_is_told_when_it_lags() {
        let feed = Arc::new(Feed::starting_at(100));
        let mut live = feed.read_after(None);
        feed.push(Topic::Beat, "1".into());
        feed.push(Topic::Beat, "2".into());
        let got: Vec<u64> = live.next().await.unwrap().iter().map(|event| event.id).collect();
        assert_eq!(got, [100, 101]);
        let mut resumed = feed.read_after(Some(100));
        assert_eq!(resumed.next().await.unwrap()[0].data, "2");
        for _ in 0..=MAX_EVENTS {
            feed.push(Topic::Points, "x".into());
        }
        assert_eq!(live.next().await, Err(Lagged { after: 101 }));
        assert_eq!(feed.read_after(Some(7)).next().await, Err(Lagged { after: 7 }));
        assert!(feed.read_after(Some(u64::MAX - 1)).next().await.is_err(), "an id of another process");
    }

    #[test]
    fn bytes_are_bounded() {
        let feed = Feed::default();
        for _ in 0..20 {
            feed.push(Topic::Points, "x".repeat(MAX_BYTES / 10));
        }
        let kept = feed.kept.lock().unwrap();
        assert!(kept.bytes <= MAX_BYTES && kept.events.len() <= 10);
    }
}
