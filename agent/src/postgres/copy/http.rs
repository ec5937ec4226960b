//! The requests of the sidecar; on this host alone.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::{Copy, Found};

pub(super) fn router(copy: Arc<Copy>) -> Router {
    Router::new()
        .route("/facts", get(facts))
        .route("/sync", post(sync))
        .route("/health", get(health))
        .route("/copy", get(state))
        .with_state(copy)
}

async fn facts(State(copy): State<Arc<Copy>>) -> Response {
    match copy.facts() {
        Some(facts) => Json(facts).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not say how it is\n").into_response(),
    }
}

#[derive(Debug, Deserialize)]
struct Word {
    peer_in_sync: bool,
    #[serde(default)]
    wish: u64,
}

async fn sync(State(copy): State<Arc<Copy>>, Json(word): Json<Word>) -> StatusCode {
    // "In sync" is what this copy said itself.
    if word.peer_in_sync || copy.granted(word.wish) { StatusCode::OK } else { StatusCode::CONFLICT }
}

async fn health(State(copy): State<Arc<Copy>>) -> (StatusCode, &'static str) {
    match copy.found() {
        Some(Found::Server(seen)) if seen.active => (StatusCode::OK, "active"),
        Some(Found::Server(_)) => (StatusCode::SERVICE_UNAVAILABLE, "standby"),
        Some(Found::Stopped) => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "unknown"),
    }
}

async fn state(State(copy): State<Arc<Copy>>) -> (StatusCode, &'static str) {
    match copy.found() {
        Some(Found::Server(seen)) if seen.active => (StatusCode::OK, "ok active"),
        Some(Found::Server(seen)) if seen.receives => (StatusCode::OK, "ok standby"),
        Some(Found::Server(_)) => (StatusCode::SERVICE_UNAVAILABLE, "standby, and receives nothing"),
        Some(Found::Stopped) => (StatusCode::SERVICE_UNAVAILABLE, "stopped"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "unknown"),
    }
}
