//! The requests of the service.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bcp_wire::Epoch;
use serde::{Deserialize, Serialize};

use super::handshake::Mode;
use super::replicate::Append;
use super::{FOLLOWS_WITHIN, MAX_APPEND_BYTES, Prescriptions, Role, WriteRefused};
use crate::service::{journal, requests};

/// A write that is not safe by then is answered "not acknowledged".
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn router(service: Arc<Prescriptions>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/copy", get(copy_state))
        .route("/facts", get(|State(service): State<Arc<Prescriptions>>| async move { Json(service.facts()) }))
        .route("/sync", post(sync))
        .route("/write", post(write).layer(DefaultBodyLimit::max(journal::MAX_ENTRY_BYTES)))
        .route("/entry", get(entry))
        .route("/replica/append", post(append).layer(DefaultBodyLimit::max(MAX_APPEND_BYTES)))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&service), requests::log::<Prescriptions>))
        .with_state(service)
}

async fn health(State(service): State<Arc<Prescriptions>>) -> (StatusCode, &'static str) {
    match service.lock().role {
        Role::Active(_) => (StatusCode::OK, "active"),
        Role::Standby => (StatusCode::SERVICE_UNAVAILABLE, "standby"),
    }
}

async fn copy_state(State(service): State<Arc<Prescriptions>>) -> (StatusCode, &'static str) {
    let copy = service.lock();
    let follows = copy.heard_active.is_some_and(|heard| heard.elapsed() < FOLLOWS_WITHIN);
    match (copy.role, follows) {
        (Role::Active(_), _) => (StatusCode::OK, "ok active"),
        (Role::Standby, true) => (StatusCode::OK, "ok standby"),
        (Role::Standby, false) => (StatusCode::SERVICE_UNAVAILABLE, "standby, and follows no active copy"),
    }
}

async fn page(State(service): State<Arc<Prescriptions>>) -> (StatusCode, String) {
    let copy = service.lock();
    let (site, position) = (service.site, copy.journal.position());
    match copy.role {
        Role::Active(epoch) => {
            (StatusCode::OK, format!("prescriptions at site {site}, epoch {epoch}, {position} entries\n"))
        }
        Role::Standby => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("prescriptions: site {site} is standby, {position} entries\n"))
        }
    }
}

#[derive(Debug, Deserialize)]
struct Latched {
    peer_in_sync: bool,
    epoch: Epoch,
    #[serde(default)]
    wish: u64,
}

async fn sync(State(service): State<Arc<Prescriptions>>, Json(latched): Json<Latched>) -> StatusCode {
    let mut copy = service.lock();
    if copy.role != Role::Active(latched.epoch) {
        return StatusCode::CONFLICT;
    }
    if !latched.peer_in_sync {
        copy.handshake.granted(latched.wish);
    }
    let alone = copy.handshake.mode == Mode::Alone;
    service.tell(|safe| safe.alone = alone);
    // Not taken: it grants a wish that this copy no longer has.
    if alone || latched.peer_in_sync { StatusCode::NO_CONTENT } else { StatusCode::CONFLICT }
}

#[derive(Debug, Serialize)]
struct Written {
    position: u64,
    epoch: Epoch,
}

async fn write(State(service): State<Arc<Prescriptions>>, text: String) -> Response {
    let mut safe = service.safe.subscribe();
    let (position, epoch) = match service.write(text) {
        Ok(written) => written,
        Err(WriteRefused::Standby) => {
            return (StatusCode::SERVICE_UNAVAILABLE, "standby: writes go to the other site\n").into_response();
        }
        Err(WriteRefused::Journal(fault)) => {
            return (StatusCode::INSUFFICIENT_STORAGE, format!("{fault}\n")).into_response();
        }
    };
    let is_safe = safe.wait_for(|safe| !safe.active || safe.alone || safe.peer_position >= position);
    match tokio::time::timeout(WRITE_TIMEOUT, is_safe).await {
        Ok(Ok(now)) if now.active => Json(Written { position, epoch }).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not acknowledged: the other site does not have it\n").into_response(),
    }
}

#[derive(Debug, Deserialize)]
struct Which {
    position: u64,
}

async fn entry(State(service): State<Arc<Prescriptions>>, Query(which): Query<Which>) -> Response {
    match service.lock().journal.get(which.position) {
        Some(entry) => Json(entry.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, "no such entry\n").into_response(),
    }
}

async fn append(State(service): State<Arc<Prescriptions>>, Json(append): Json<Append>) -> Response {
    match service.append(&append) {
        Ok(answer) => Json(answer).into_response(),
        Err(fault) => (StatusCode::INSUFFICIENT_STORAGE, format!("{fault}\n")).into_response(),
    }
}
