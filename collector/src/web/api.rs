//! The console's API: JSON for scripts, a stream of changes, metrics, health.
//!
//! Knows: how the view and the history are put into JSON. Refuses to know: how they come about; nothing here changes
//! anything, so only GET and HEAD exist.
//!
//! Tasks: one per connection, at most [`MAX_CONNECTIONS`]; history is read on blocking threads, at most [`MAX_READS`] at
//! once. Every error is `{"error": .., "help": ..}`.

mod history;
pub mod metrics;
mod sources;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bcp_wire::{Id, Site};
use serde::Deserialize;
use serde_json::{Value as Js, json};
use tokio::sync::Semaphore;

use crate::serve::view::{LinkState, SharedView, View};
use crate::store::Store;
use crate::store::ledger::{Ledger, MAX_PAGE};

pub use limit::limited;

mod limit;

/// Connections at once: 50 operators with a stream and a few requests each, scripts, and monitoring.
pub const MAX_CONNECTIONS: usize = 512;
/// History requests that read at once; the rest is told to come again.
pub const MAX_READS: usize = 4;
/// Streams at once.
pub const MAX_STREAMS: usize = 200;
/// A view older than this means that the loop stands still.
const VIEW_STALE: Duration = Duration::from_secs(5);

/// The interface as an OpenAPI document.
const OPENAPI: &str = include_str!("api/openapi.json");

/// What the requests are answered from.
#[derive(Debug, Clone)]
pub struct Api {
    site: Site,
    view: SharedView,
    store: Arc<Store>,
    ledger: Arc<Mutex<Ledger>>,
    reads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    metrics: Arc<metrics::Metrics>,
}

impl Api {
    #[must_use]
    pub fn new(site: Site, view: SharedView, store: Arc<Store>, ledger: Arc<Mutex<Ledger>>) -> Api {
        let metrics = Arc::new(metrics::Metrics::new(view.clone(), Arc::clone(&store)));
        Api {
            site,
            view,
            store,
            ledger,
            reads: Arc::new(Semaphore::new(MAX_READS)),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            metrics,
        }
    }
}

/// All routes.
pub fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/sites", get(sources::sites))
        .route("/devices", get(sources::devices))
        .route("/points", get(sources::points))
        .route("/history", get(history::history))
        .route("/alarms", get(alarms))
        .route("/services", get(services))
        .route("/tickets", get(tickets))
        .route("/tickets/{id}/explain", get(explain))
        .route("/cluster", get(cluster))
        .route("/ledger", get(ledger))
        .route("/events", get(history::events))
        .route("/ingest", get(sources::ingest))
        .route("/stream", get(stream::stream))
        .route("/openapi.json", get(openapi))
        .fallback(unknown)
        .method_not_allowed_fallback(read_only);
    Router::new()
        .nest("/api/v1", v1)
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(api)
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    error: String,
    help: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused { status, error: error.into(), help: help.into() }
    }
    pub(super) fn bad(error: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, error, help)
    }
    pub(super) fn missing(error: impl Into<String>, help: impl Into<String>) -> Refused {
        Refused::new(StatusCode::NOT_FOUND, error, help)
    }
    pub(super) fn busy() -> Refused {
        let help = "try again in a second";
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests of this kind are being answered", help)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error, "help": self.help }));
        (self.status, body).into_response()
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Refused {
        Refused::bad(rejection.body_text(), "see /api/v1/openapi.json for the parameters")
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Refused {
        Refused::bad(rejection.body_text(), "an id is 1 to 32 of a-z, 0-9 and -")
    }
}

type Answer = Result<Response, Refused>;

/// A list or object with the freshness that belongs to it.
pub(super) fn answer(view: &View, body: Js) -> Response {
    let Js::Object(mut object) = body else { return Json(body).into_response() };
    object.insert("as_of".to_owned(), json!(crate::serve::view::rfc3339(view.as_of)));
    object.insert("site".to_owned(), json!(view.site));
    object.insert("agreement".to_owned(), json!(view.agreement));
    let mut response = Json(Js::Object(object)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn unknown(uri: Uri) -> Refused {
    Refused::missing(format!("there is no {}", uri.path()), "/api/v1/openapi.json lists what there is")
}

async fn read_only(method: Method) -> Refused {
    let help = "commands go to the control port with an operator's certificate: see bcpctl";
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not served here"), help)
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn alarms(State(api): State<Api>) -> Response {
    let view = api.view.get();
    answer(&view, json!({ "alarms": view.alarms, "figures": view.alarm_figures }))
}

async fn services(State(api): State<Api>) -> Response {
    let view = api.view.get();
    let incidents = view.replica.as_ref().map(|replica| &replica.services.incidents);
    answer(&view, json!({ "services": view.services, "incidents": incidents }))
}

async fn tickets(State(api): State<Api>) -> Response {
    let view = api.view.get();
    answer(&view, json!({ "tickets": view.tickets }))
}

async fn explain(State(api): State<Api>, id: Result<Path<Id>, PathRejection>) -> Answer {
    let Path(id) = id?;
    let view = api.view.get();
    let replica = view.replica.as_ref().ok_or_else(|| {
        let help = "this site's decide process has not answered yet: see /api/v1/cluster";
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "nothing agreed is known here", help)
    })?;
    let found = replica
        .explain(&id)
        .ok_or_else(|| Refused::missing(format!("there is no ticket {id}"), "/api/v1/tickets lists them"))?;
    Ok(answer(&view, json!({ "explanation": found })))
}

async fn cluster(State(api): State<Api>) -> Response {
    let view = api.view.get();
    let replica = view.replica.as_deref();
    answer(
        &view,
        json!({
            "decide": view.decide,
            "leader": view.decide.leader,
            "term": view.decide.term,
            "quorum": view.decide.quorum,
            "index": view.decide.index,
            "log_time_ms": replica.map(|replica| replica.log_time),
            "publication": replica.map(|replica| {
                let point = &replica.publication;
                json!({ "sequence": point.sequence, "as_of": point.as_of, "valid_until": point.valid_until, "log_time": point.log_time })
            }),
            "ledger": replica.map(|replica| &replica.ledger),
            "ledger_here": api.ledger.lock().unwrap_or_else(PoisonError::into_inner).head(),
            "version": env!("CARGO_PKG_VERSION"),
        }),
    )
}

#[derive(Debug, Deserialize)]
struct LedgerQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

async fn ledger(State(api): State<Api>, query: Result<Query<LedgerQuery>, QueryRejection>) -> Answer {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(100);
    if limit == 0 || limit > MAX_PAGE {
        return Err(Refused::bad(format!("limit {limit} is out of range"), format!("1 to {MAX_PAGE}")));
    }
    let copy = Arc::clone(&api.ledger);
    let read = api
        .read(move || {
            let copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
            match query.after {
                Some(after) => copy.page(after, limit),
                None => copy.tail(limit),
            }
        })
        .await?;
    let entries = read.map_err(|error| storage(&error))?;
    let next = entries.last().map(|entry| entry.seq);
    Ok(answer(&api.view.get(), json!({ "ledger": entries, "next_after": next })))
}

pub(super) fn storage(error: &dyn std::error::Error) -> Refused {
    tracing::warn!(reason = crate::ingest::link::chain(error), "a stored answer could not be read");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), "the log of serve has the cause")
}

impl Api {
    /// Runs a blocking read, if not too many run already.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        let Ok(permit) = Arc::clone(&self.reads).try_acquire_owned() else { return Err(Refused::busy()) };
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        done.await.map_err(|_| {
            Refused::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the read ended unexpectedly",
                "the log of serve has the cause",
            )
        })
    }
}

/// True while the loop goes round.
fn is_alive(view: &View) -> bool {
    let age = crate::serve::wall_now().0.saturating_sub(view.as_of.0);
    // A wall clock that was stepped back gives a negative age, which is no standstill.
    view.revision > 0 && age < i64::try_from(VIEW_STALE.as_millis()).unwrap_or(i64::MAX)
}

async fn healthz(State(api): State<Api>) -> Response {
    let view = api.view.get();
    if is_alive(&view) {
        (StatusCode::OK, Json(json!({ "status": "alive" }))).into_response()
    } else {
        let help = "the process is starting, or stands still";
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the loop of serve does not go round", help).into_response()
    }
}

async fn readyz(State(api): State<Api>) -> Response {
    let view = api.view.get();
    let mut waits = Vec::new();
    if !is_alive(&view) {
        waits.push("the first view is not built".to_owned());
    }
    if view.replica.is_none() {
        waits.push("decide has not answered yet".to_owned());
    }
    match view.brokers.get(&api.site) {
        Some(broker) if broker.link != LinkState::Up => waits.push("the own site's broker is not connected".to_owned()),
        _ => {}
    }
    if let Some(trouble) = &view.ingest.store_trouble {
        waits.push(format!("the store: {trouble}"));
    }
    let status = if waits.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": waits.is_empty(), "waits_for": waits }))).into_response()
}

#[cfg(test)]
mod tests;
