//! What operators decide about the members of the consensus: that two may found it.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use bcp_identity::Identity;
use serde::{Deserialize, Serialize};

use super::{Here, Refusal, encoded};

pub const BOOTSTRAP: &str = "/control/v1/bootstrap";

/// What an operator is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Admitted {
    pub message: String,
}

pub(super) fn router() -> Router<Here> {
    Router::new().route(BOOTSTRAP, post(bootstrap))
}

async fn bootstrap(State(node): State<Here>, Extension(certificate): Extension<Identity>) -> Result<Response, Refusal> {
    if !matches!(certificate, Identity::Operator { .. }) {
        return Err(Refusal::Forbidden(format!("{certificate} is not an operator")));
    }
    if node.log.is_initialised() {
        return Err(Refusal::Malformed("this collector takes part in a cluster already".to_owned()));
    }
    tracing::warn!(by = %certificate, "two nodes may found the cluster");
    node.log.two_suffice.store(true, Ordering::Release);
    let message = "founds the cluster with the first other collector that is there and takes part in none";
    encoded(&Admitted { message: message.to_owned() })
}
