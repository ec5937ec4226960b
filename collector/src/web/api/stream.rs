//! `GET /api/v1/stream`: server-sent events. `id` is the feed's number; a client that comes back names the last one it
//! has; one that lags is told to load anew, and the stream ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{Api, Refused};
use crate::serve::feed::{FeedEvent, FeedReader, Topic};

/// A client comes back after this when the stream ends.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Deserialize)]
pub(super) struct StreamQuery {
    /// As the header `Last-Event-ID`, for clients that cannot set it.
    after: Option<u64>,
    /// Comma-separated topics; all by default.
    topics: Option<String>,
    /// Points of this device only.
    device: Option<String>,
}

#[derive(Debug)]
struct Wanted {
    topics: Option<Vec<String>>,
    /// Start of a points event of the device.
    device: Option<String>,
}

impl Wanted {
    fn fits(&self, event: &FeedEvent) -> bool {
        // Beats always pass: without them a client takes the site for stale.
        if event.topic == Topic::Beat {
            return true;
        }
        let by_topic = self.topics.as_ref().is_none_or(|topics| topics.iter().any(|t| t == event.topic.as_str()));
        let by_device = match (&self.device, event.topic) {
            (Some(start), Topic::Points) => event.data.starts_with(start.as_str()),
            _ => true,
        };
        by_topic && by_device
    }
}

struct Open {
    reader: FeedReader,
    waiting: std::vec::IntoIter<Arc<FeedEvent>>,
    wanted: Wanted,
    /// Set once the client was told that it lags.
    is_over: bool,
    newest: u64,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn stream(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(query) = query?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let Ok(place) = Arc::clone(&api.streams).try_acquire_owned() else { return Err(Refused::busy()) };
    let feed = api.view.feed();
    let open = Open {
        newest: feed.newest(),
        reader: feed.read_after(last.or(query.after)),
        waiting: Vec::new().into_iter(),
        wanted: Wanted {
            topics: query.topics.map(|topics| topics.split(',').map(str::to_owned).collect()),
            device: query.device.map(|device| format!("{{\"device\":{},", serde_json::json!(device))),
        },
        is_over: false,
        _place: place,
    };
    let mut response = Sse::new(stream::unfold(open, next)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

async fn next(mut open: Open) -> Option<(Result<Event, Infallible>, Open)> {
    loop {
        if open.is_over {
            return None;
        }
        if let Some(event) = open.waiting.find(|event| open.wanted.fits(event)) {
            let said = Event::default()
                .id(event.id.to_string())
                .event(event.topic.as_str())
                .retry(RETRY)
                .data(event.data.as_str());
            return Some((Ok(said), open));
        }
        match open.reader.next().await {
            Ok(events) => open.waiting = events.into_iter(),
            Err(lagged) => {
                open.is_over = true;
                // The id lets the client go on from the present after it loaded everything.
                let id = open.newest.to_string();
                let said = Event::default().id(id).event("reset").retry(RETRY).data(lagged.to_string());
                return Some((Ok(said), open));
            }
        }
    }
}
