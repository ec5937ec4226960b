//! What other gates may ask: a promise not to promote, and to pass a request on to the collectors.
//!
//! Knows: who may ask (the certificate). Refuses to know: what is answered; that is the machine's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Json, Router};
use bcp_identity::Identity;
use bcp_wire::Site;
use bcp_wire::control::{GateAnswer, GateSync, PromiseAnswer, PromiseAsk, SyncOutcome};
use tokio::sync::{mpsc, oneshot};

use super::ask::Collectors;
use super::driver::Input;
use super::machine::Peer;

/// The machine answers at once unless the disk hangs, and then there is no promise.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Asked {
    pub site: Site,
    pub peers: BTreeSet<Peer>,
    pub siblings: BTreeSet<bcp_wire::Id>,
    pub collectors: Collectors,
    pub inputs: mpsc::Sender<Input>,
}

type Refusal = (StatusCode, String);

pub fn router(asked: Asked) -> Router {
    Router::new()
        .route("/gate/v1/promise", post(promise))
        .route("/gate/v1/relay", post(relay))
        .with_state(Arc::new(asked))
}

fn forbidden(reason: &str) -> Refusal {
    (StatusCode::FORBIDDEN, reason.to_owned())
}

async fn promise(
    State(asked): State<Arc<Asked>>,
    Extension(identity): Extension<Identity>,
    Json(ask): Json<PromiseAsk>,
) -> Result<Json<PromiseAnswer>, Refusal> {
    if identity != (Identity::Agent { site: ask.site, id: ask.gate.clone() }) {
        return Err(forbidden("the certificate is not the asking gate's"));
    }
    if !asked.peers.contains(&(ask.site, ask.gate.clone())) {
        return Err(forbidden("not a peer of this gate"));
    }
    let (answer, answered) = oneshot::channel();
    let busy = |reason: &str| (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned());
    asked.inputs.try_send(Input::PromiseAsked { ask, answer }).map_err(|_| busy("busy"))?;
    match tokio::time::timeout(ANSWER_LIMIT, answered).await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(_)) => Err(busy("this gate has no such ticket, or cannot store a promise")),
        Err(_) => Err(busy("no answer in time")),
    }
}

/// Passes a sibling's request on. The nonce and so the lease stay the sibling's own.
async fn relay(
    State(asked): State<Arc<Asked>>,
    Extension(identity): Extension<Identity>,
    Json(sync): Json<GateSync>,
) -> Result<Json<GateAnswer>, Refusal> {
    let sibling = asked.siblings.contains(&sync.gate) && sync.site == asked.site;
    if !sibling || identity != (Identity::Agent { site: sync.site, id: sync.gate.clone() }) {
        return Err(forbidden("not a sibling of this gate"));
    }
    let mut answers = asked.collectors.ask_all(&sync);
    let mut last = None;
    while let Some(answer) = answers.recv().await {
        match answer {
            Ok(answer) if matches!(answer.outcome, SyncOutcome::Confirmed { .. }) => return Ok(Json(answer)),
            Ok(answer) => last = Some(answer),
            Err(reason) => tracing::debug!(%reason, "a relayed request got no answer"),
        }
    }
    last.map(Json).ok_or_else(|| (StatusCode::BAD_GATEWAY, "no collector answers here either".to_owned()))
}
