//! One writer, many readers of the newest view.

use std::sync::Arc;

use tokio::sync::watch;

use super::View;
use crate::serve::feed::Feed;

/// The newest view, and the stream of what changed. Cheap to clone; every reader holds one.
#[derive(Debug, Clone)]
pub struct SharedView {
    latest: watch::Receiver<Arc<View>>,
    feed: Arc<Feed>,
}

/// The one writer's end of a [`SharedView`].
#[derive(Debug)]
pub struct ViewWriter {
    latest: watch::Sender<Arc<View>>,
    feed: Arc<Feed>,
}

/// A writer and the handle its readers clone.
#[must_use]
pub fn shared(first: View) -> (ViewWriter, SharedView) {
    // Ids go on from the wall clock: a reader of an earlier process is told to load anew instead of missing events.
    let feed = Arc::new(Feed::starting_at(u64::try_from(first.as_of.0).unwrap_or(1)));
    let (sender, receiver) = watch::channel(Arc::new(first));
    (ViewWriter { latest: sender, feed: Arc::clone(&feed) }, SharedView { latest: receiver, feed })
}

impl ViewWriter {
    /// Makes `view` the present one.
    pub fn publish(&self, view: View) {
        self.latest.send_replace(Arc::new(view));
    }

    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    #[must_use]
    pub fn latest(&self) -> Arc<View> {
        Arc::clone(&self.latest.borrow())
    }
}

impl SharedView {
    /// The newest view.
    #[must_use]
    pub fn get(&self) -> Arc<View> {
        Arc::clone(&self.latest.borrow())
    }

    /// The stream of changes.
    #[must_use]
    pub fn feed(&self) -> Arc<Feed> {
        Arc::clone(&self.feed)
    }

    /// Waits for the next view. Cancel-safe.
    ///
    /// # Errors
    /// The writer is gone: the process is ending.
    pub async fn changed(&mut self) -> Result<Arc<View>, watch::error::RecvError> {
        self.latest.changed().await?;
        Ok(Arc::clone(&self.latest.borrow_and_update()))
    }
}
