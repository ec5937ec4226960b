//! The control listener: who may ask what, and the answers.
//!
//! | path | who |
//! |---|---|
//! | `/control/v1/sync` | the gate it names, or a sibling gate of its site; a collector on their behalf |
//! | `/control/v1/propose`, `/sight` | the own site's serve; a collector for its own site |
//! | `/control/v1/command` | operators; a collector on their behalf |
//! | `/control/v1/state`, `/ledger`, `/explain`, `/status` | collectors and operators |
//! | `/control/v1/bootstrap`, `/admit` | operators ([`admit`]) |
//! | `/raft/v1/*` | the collectors of the other sites, as members ([`members`]) |

mod admit;
mod members;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bcp_core::replica::Item;
use bcp_identity::Identity;
use bcp_wire::control::{GateSync, MAX_TICKETS_PER_GATE};
use bcp_wire::{Id, Site};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use admit::{ADMIT, Admitted, BOOTSTRAP};

use super::link::ON_BEHALF;
use super::log::{DecisionLog, Leadership};
use super::node::{Accepted, CommandRequest, Node, SightReport, Unavailable};
use super::raft_log::RaftLog;
use super::replay::{ReplayError, replay};

pub const SYNC: &str = "/control/v1/sync";
pub const PROPOSE: &str = "/control/v1/propose";
pub const COMMAND: &str = "/control/v1/command";

/// A full set of votes of one observer is the largest request of the control part.
const MAX_CONTROL_BYTES: usize = 2 * 1024 * 1024;
const MAX_ITEMS_PER_PROPOSAL: usize = 64;
/// A long poll waits no longer than the connection may idle.
const MAX_WAIT: Duration = Duration::from_secs(25);
const MAX_LEDGER_PAGE: u32 = 1_000;
const MAX_KEY_BYTES: usize = 128;

type Here = Arc<Node<RaftLog>>;

/// All endpoints of the control listener.
pub fn router(node: Here) -> Router {
    let control = Router::new()
        .route(SYNC, post(sync))
        .route(PROPOSE, post(propose))
        .route(COMMAND, post(command))
        .route("/control/v1/sight", post(sight))
        .route("/control/v1/state", get(state))
        .route("/control/v1/ledger", get(ledger))
        .route("/control/v1/explain", get(explain))
        .route("/control/v1/status", get(status))
        .layer(DefaultBodyLimit::max(MAX_CONTROL_BYTES));
    control.merge(admit::router()).merge(members::router()).with_state(node)
}

/// Why a request is not served.
#[derive(Debug)]
enum Refusal {
    Forbidden(String),
    Malformed(String),
    Unavailable(String),
    NotFound(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, reason) = match self {
            Refusal::Forbidden(reason) => (StatusCode::FORBIDDEN, reason),
            Refusal::Malformed(reason) => (StatusCode::BAD_REQUEST, reason),
            Refusal::Unavailable(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
            Refusal::NotFound(reason) => (StatusCode::NOT_FOUND, reason),
        };
        (status, Json(serde_json::json!({ "reason": reason }))).into_response()
    }
}

impl From<Unavailable> for Refusal {
    fn from(error: Unavailable) -> Self {
        Refusal::Unavailable(error.to_string())
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::Malformed(error.to_string()))
}

fn encoded<T: Serialize>(value: &T) -> Result<Response, Refusal> {
    let body = serde_json::to_vec(value).map_err(|error| Refusal::Unavailable(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Who the request is for, and whether a collector passed it on. Only a collector of another site may speak for others.
fn asker(node: &Here, certificate: Identity, headers: &HeaderMap) -> Result<(Identity, bool), Refusal> {
    let Some(on_behalf) = headers.get(ON_BEHALF) else { return Ok((certificate, false)) };
    let Identity::Collector { site } = certificate else {
        return Err(Refusal::Forbidden(format!("{certificate} may not pass on requests")));
    };
    let on_behalf = on_behalf.to_str().ok().and_then(|text| text.parse().ok());
    let on_behalf = on_behalf.ok_or_else(|| Refusal::Malformed(format!("{ON_BEHALF} names no identity")))?;
    if site != node.site {
        node.contacts.heard_peer(site);
    }
    Ok((on_behalf, true))
}

fn observers_only(identity: &Identity) -> Result<(), Refusal> {
    match identity {
        Identity::Collector { .. } | Identity::Operator { .. } => Ok(()),
        Identity::Agent { .. } => Err(Refusal::Forbidden(format!("{identity} may only sync"))),
    }
}

/// A gate asks for itself, or passes on the request of a sibling that reaches no collector.
fn may_sync(node: &Here, identity: &Identity, sync: &GateSync) -> bool {
    let Identity::Agent { site, id } = identity else { return false };
    let is_gate = |gate: &Id| node.gates.contains(&(*site, gate.clone()));
    *site == sync.site && (*id == sync.gate || (is_gate(id) && is_gate(&sync.gate)))
}

async fn sync(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let (identity, passed_on) = asker(&node, certificate, &headers)?;
    let sync: GateSync = parse(&body)?;
    if !may_sync(&node, &identity, &sync) {
        return Err(Refusal::Forbidden(format!("{identity} asks in the name of agent:{}:{}", sync.site, sync.gate)));
    }
    if sync.tickets.len() > MAX_TICKETS_PER_GATE {
        return Err(Refusal::Malformed(format!("more than {MAX_TICKETS_PER_GATE} tickets")));
    }
    if !passed_on {
        node.contacts.heard_gate(sync.site);
    }
    encoded(&node.sync(sync, body, identity, passed_on).await)
}

/// The site that an item speaks for; none for what may not be proposed from outside.
fn author(item: &Item) -> Option<Site> {
    match item {
        Item::Observation(observation) => Some(observation.observer),
        Item::AlarmVotes(votes) => Some(votes.observer),
        Item::ServiceVotes(votes) => Some(votes.observer),
        Item::SiteVotes(votes) => Some(votes.observer),
        Item::Policy(_) | Item::Gate(_) | Item::Command(_) => None,
    }
}

async fn propose(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    // A collector passes on only its own site's items: certificate, header and items name the same site.
    let (identity, passed_on) = asker(&node, certificate.clone(), &headers)?;
    let Identity::Collector { site } = certificate else {
        return Err(Refusal::Forbidden(format!("{identity} may not propose")));
    };
    let items: Vec<Item> = parse(&body)?;
    if items.len() > MAX_ITEMS_PER_PROPOSAL {
        return Err(Refusal::Malformed(format!("more than {MAX_ITEMS_PER_PROPOSAL} items")));
    }
    if identity != certificate || items.iter().any(|item| author(item) != Some(site)) {
        return Err(Refusal::Forbidden(format!("{certificate} may propose only what {site} itself sees")));
    }
    encoded(&Accepted { index: node.propose_encoded(items, body, passed_on).await? })
}

async fn sight(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    Json(report): Json<SightReport>,
) -> Result<Response, Refusal> {
    if certificate != (Identity::Collector { site: node.site }) {
        return Err(Refusal::Forbidden(format!("{certificate} is not this site's own")));
    }
    node.watchman.agents_seen(report.agents);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn command(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    headers: HeaderMap,
    Json(request): Json<CommandRequest>,
) -> Result<Response, Refusal> {
    let (identity, passed_on) = asker(&node, certificate, &headers)?;
    if !matches!(identity, Identity::Operator { .. }) {
        return Err(Refusal::Forbidden(format!("{identity} is not an operator")));
    }
    if request.key.is_empty() || request.key.len() > MAX_KEY_BYTES {
        return Err(Refusal::Malformed(format!("a key of 1 to {MAX_KEY_BYTES} bytes is needed")));
    }
    if request.is_blind() {
        let reason = "a command to a ticket names the epoch and revision it was decided on (`expect`: [epoch, revision]), or says `unconditional`: true";
        return Err(Refusal::Malformed(reason.to_owned()));
    }
    encoded(&node.command(request, identity, passed_on).await?)
}

#[derive(Debug, Deserialize)]
struct StateQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Debug, Serialize)]
struct Member {
    /// Null: not heard in this run.
    last_contact_ms: Option<u64>,
    /// Last request of a gate of that site, here.
    last_gate_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Standing {
    site: Site,
    leader: Option<Site>,
    term: u64,
    quorum: bool,
    members: BTreeMap<Site, Member>,
}

fn standing(node: &Here) -> Standing {
    let ms = |age: Option<Duration>| age.and_then(|age| u64::try_from(age.as_millis()).ok());
    let leadership = *node.log.leadership().borrow();
    let leader = match leadership {
        Leadership::Leader { .. } => Some(node.site),
        Leadership::Follower { leader, .. } => Some(leader),
        Leadership::Nobody { .. } => None,
    };
    let member = |site: Site| match site == node.site {
        true => Member { last_contact_ms: Some(0), last_gate_ms: ms(node.contacts.gate_age(site)) },
        false => {
            Member { last_contact_ms: ms(node.contacts.peer_age(site)), last_gate_ms: ms(node.contacts.gate_age(site)) }
        }
    };
    Standing {
        site: node.site,
        leader,
        term: leadership.term(),
        quorum: leader.is_some(),
        members: Site::ALL.into_iter().map(|site| (site, member(site))).collect(),
    }
}

/// `{index, replica, leader, term, members, quorum}`, at once if something changed after `after`, else after `wait_ms`.
async fn state(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    Query(query): Query<StateQuery>,
) -> Result<Response, Refusal> {
    observers_only(&certificate)?;
    let mut marks = node.log.applied().marks();
    let wait = Duration::from_millis(query.wait_ms).min(MAX_WAIT);
    // Running into the limit is no fault: the answer then says that time went on.
    let _ = tokio::time::timeout(wait, marks.wait_for(|marks| marks.changed_at > query.after)).await;
    let standing = serde_json::to_value(standing(&node)).map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let (index, replica) = node.log.applied().read(|replica| (replica.index, serde_json::to_string(replica)));
    let replica = replica.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    // The replica is encoded once, under the lock, and not taken apart again.
    let mut body = standing.to_string();
    body.pop();
    body.push_str(&format!(",\"index\":{index},\"replica\":{replica}}}"));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

#[derive(Debug, Deserialize)]
struct LedgerQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    limit: Option<u32>,
}

async fn ledger(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    Query(query): Query<LedgerQuery>,
) -> Result<Response, Refusal> {
    observers_only(&certificate)?;
    let limit = query.limit.unwrap_or(MAX_LEDGER_PAGE).min(MAX_LEDGER_PAGE);
    let entries = node.log.store.read_ledger(query.after, limit).await;
    encoded(&entries.map_err(|error| Refusal::Unavailable(error.to_string()))?)
}

#[derive(Debug, Deserialize)]
struct ExplainQuery {
    ticket: Id,
    /// Log index; absent: now.
    at: Option<u64>,
}

async fn explain(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    Query(query): Query<ExplainQuery>,
) -> Result<Response, Refusal> {
    observers_only(&certificate)?;
    let (last, now) = node.log.applied().read(|replica| (replica.index, replica.explain(&query.ticket)));
    let explanation = match query.at {
        None => now,
        Some(at) => match replay(&node.log.store, at, last).await {
            Ok(replica) => replica.explain(&query.ticket),
            Err(ReplayError::Store(error)) => return Err(Refusal::Unavailable(error.to_string())),
            Err(error) => return Err(Refusal::NotFound(error.to_string())),
        },
    };
    encoded(&explanation.ok_or_else(|| Refusal::NotFound(format!("there is no ticket {}", query.ticket)))?)
}

async fn status(State(node): State<Here>, Extension(certificate): Extension<Identity>) -> Result<Response, Refusal> {
    observers_only(&certificate)?;
    let standing = serde_json::to_value(standing(&node)).map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let (index, log_time, changed_at, ledger) = node
        .log
        .applied()
        .read(|replica| (replica.index, replica.log_time, replica.changed_at, replica.ledger.clone()));
    let (control, agents) = node.watchman.look(node.site, &node.contacts);
    encoded(&serde_json::json!({
        "standing": standing,
        "index": index,
        "changed_at": changed_at,
        "log_time_ms": log_time,
        "ledger": ledger,
        "pending_ms": node.log.pending().map(|pending| pending.as_millis() as u64),
        "sight": { "control": control, "agents": agents },
        "queue_refused": node.queue.refused.load(std::sync::atomic::Ordering::Relaxed),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}
