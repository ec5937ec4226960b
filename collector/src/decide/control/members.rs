//! What the members of the consensus ask each other.
//!
//! Every message but the greeting names the member it is from and the one it is for; [`FromMember`] lets nothing else pass.

use std::io::Cursor;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::post;
use bcp_identity::Identity;
use bcp_wire::Site;
use bytes::Bytes;

use super::{Here, Refusal, encoded, parse};
use crate::decide::lead::{HELLO, QUORUM_LOSS, YIELD};
use crate::decide::log::{DecisionLog, Leadership};
use crate::decide::member::Address;
use crate::decide::network::{APPEND, SNAPSHOT, SnapshotHead, VOTE};
use crate::decide::raft::Snapshot;
use crate::decide::raft_log::Hello;

/// An append carries up to 64 ticks; a snapshot is the whole agreed state.
const MAX_RAFT_BYTES: usize = 64 * 1024 * 1024;

pub(super) fn router() -> Router<Here> {
    Router::new()
        .route(APPEND, post(append))
        .route(VOTE, post(vote))
        .route(SNAPSHOT, post(snapshot))
        .route(YIELD, post(yields))
        .route(HELLO, post(hello))
        .layer(DefaultBodyLimit::max(MAX_RAFT_BYTES))
}

/// The site of the collector that asks, which is not this one.
fn other_site(node: &Here, certificate: &Identity) -> Result<Site, Refusal> {
    match certificate {
        Identity::Collector { site } if *site == node.site => {
            Err(Refusal::Forbidden("a node does not talk to itself: two have the same site".to_owned()))
        }
        Identity::Collector { site } => Ok(*site),
        Identity::Agent { .. } | Identity::Operator { .. } => {
            Err(Refusal::Forbidden(format!("{certificate} is not a collector")))
        }
    }
}

/// A request of a member of another site, to the member that this node is.
pub(super) struct FromMember(pub Site);

impl FromRequestParts<Here> for FromMember {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, node: &Here) -> Result<FromMember, Refusal> {
        let unnamed = || Refusal::Forbidden("no certificate".to_owned());
        let certificate = parts.extensions.get::<Identity>().ok_or_else(unnamed)?;
        let site = other_site(node, certificate)?;
        let address =
            Query::<Address>::try_from_uri(&parts.uri).map_err(|error| Refusal::Malformed(error.to_string()))?;
        node.log.book.check(site, &address).map_err(|stranger| Refusal::Forbidden(stranger.to_string()))?;
        node.contacts.heard_peer(site);
        Ok(FromMember(site))
    }
}

async fn append(State(node): State<Here>, _: FromMember, body: Bytes) -> Result<Response, Refusal> {
    encoded(&node.log.on_append(parse(&body)?).await)
}

async fn vote(State(node): State<Here>, _: FromMember, body: Bytes) -> Result<Response, Refusal> {
    encoded(&node.log.raft.vote(parse(&body)?).await)
}

async fn snapshot(State(node): State<Here>, _: FromMember, body: Bytes) -> Result<Response, Refusal> {
    let head_end =
        body.iter().position(|byte| *byte == b'\n').ok_or_else(|| Refusal::Malformed("no head".to_owned()))?;
    let head: SnapshotHead = parse(&body[..head_end])?;
    let data = Box::new(Cursor::new(body[head_end + 1..].to_vec()));
    node.contacts.heard_leader();
    encoded(&node.log.raft.install_full_snapshot(head.vote, Snapshot { meta: head.meta, snapshot: data }).await)
}

async fn yields(State(node): State<Here>, FromMember(site): FromMember) -> Result<Response, Refusal> {
    let leads = matches!(*node.log.leadership().borrow(), Leadership::Leader { .. });
    if site != Site::W || !leads {
        return Err(Refusal::Forbidden("only w asks, and only a leader yields".to_owned()));
    }
    if node.log.yield_leadership(QUORUM_LOSS).await {
        encoded(&serde_json::json!({}))
    } else {
        Err(Refusal::Unavailable("an entry is still pending".to_owned()))
    }
}

async fn hello(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    Json(hello): Json<Hello>,
) -> Result<Response, Refusal> {
    let site = other_site(&node, &certificate)?;
    node.contacts.heard_peer(site);
    node.log
        .book
        .meet(site, &hello.member, !hello.initialised)
        .await
        .map_err(|stranger| Refusal::Forbidden(stranger.to_string()))?;
    encoded(&node.log.hello())
}
