//! What other gates may ask: a promise not to promote, and to pass a request on to the collectors.
//!
//! Knows: who may ask (the certificate). Refuses to know: what is answered; that is the machine's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bcp_identity::Identity;
use bcp_wire::control::{GateAnswer, GateSync, PromiseAnswer, PromiseAsk, SyncOutcome};
use bcp_wire::force::{ForceAnswer, ForceOutcome, GateSeen, SignedForce};
use bcp_wire::{Id, Site};
use tokio::sync::{mpsc, oneshot, watch};

use super::ask::Collectors;
use super::driver::{GateFigures, Input};
use super::force::{Operators, wall_ms};
use super::machine::Peer;

/// The machine answers at once unless the disk hangs, and then there is no promise.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Asked {
    pub site: Site,
    pub peers: BTreeSet<Peer>,
    pub siblings: BTreeSet<Id>,
    pub collectors: Collectors,
    pub inputs: mpsc::Sender<Input>,
    /// Whose orders count without a collector.
    pub operators: Operators,
    pub gate: Id,
    pub figures: watch::Receiver<GateFigures>,
}

type Refusal = (StatusCode, String);

pub fn router(asked: Asked) -> Router {
    Router::new()
        .route("/gate/v1/promise", post(promise))
        .route("/gate/v1/relay", post(relay))
        .route("/gate/v1/force", post(force))
        .route("/gate/v1/seen", get(seen))
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

/// An order of two operators. Whoever brings it must be one too; what counts is what they signed.
async fn force(
    State(asked): State<Arc<Asked>>,
    Extension(identity): Extension<Identity>,
    Json(signed): Json<SignedForce>,
) -> Result<Json<ForceAnswer>, Refusal> {
    operators_only(&identity)?;
    let said = |outcome| Json(ForceAnswer { site: asked.site, gate: asked.gate.clone(), outcome });
    let signers = match asked.operators.verify(&signed, wall_ms()) {
        Ok(signers) => signers,
        Err(fault) => {
            tracing::error!(ticket = %signed.order.ticket, brought_by = %identity, %fault, "an order without a quorum is refused");
            return Ok(said(ForceOutcome::Refused { reason: fault.to_string() }));
        }
    };
    let order = signed.order;
    tracing::warn!(ticket = %order.ticket, to = %order.to, epoch = %order.epoch, ?signers, reason = %order.reason, "ordered without a quorum");
    let (answer, answered) = oneshot::channel();
    let busy = |reason: &str| (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned());
    asked.inputs.try_send(Input::Forced { order, answer }).map_err(|_| busy("busy"))?;
    match tokio::time::timeout(ANSWER_LIMIT, answered).await {
        Ok(Ok(outcome)) => Ok(said(outcome)),
        Ok(Err(_)) => Err(busy("this gate has no such ticket, or cannot store the order")),
        Err(_) => Err(busy("no answer in time")),
    }
}

/// What this gate has seen of each ticket.
async fn seen(
    State(asked): State<Arc<Asked>>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<Vec<GateSeen>>, Refusal> {
    operators_only(&identity)?;
    let figures = asked.figures.borrow();
    let of = |figures: &super::machine::TicketFigures| GateSeen {
        ticket: figures.ticket.clone(),
        epoch: figures.epoch,
        holder: figures.holder,
        active: figures.active,
        doing: figures.doing.clone(),
    };
    Ok(Json(figures.tickets.iter().map(of).collect()))
}

fn operators_only(identity: &Identity) -> Result<(), Refusal> {
    match identity {
        Identity::Operator { .. } => Ok(()),
        Identity::Agent { .. } | Identity::Collector { .. } => Err(forbidden("for operators only")),
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
