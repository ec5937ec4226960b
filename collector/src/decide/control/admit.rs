//! What operators decide about the members of the consensus: that two may found it, and that a node with another disk is the
//! member of its site from now on.
//!
//! A node that lost its disk forgot what it acknowledged and for whom it voted. It is let in again only while the two others
//! both have everything that is committed, and follow one leader of one term: then no majority with it can lack an entry, and no
//! second leader of that term can be chosen. Both forget its old member first, and meet the new one afterwards.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use bcp_core::policy::Timing;
use bcp_identity::Identity;
use bcp_wire::Site;
use bytes::Bytes;
use openraft::ServerState;
use serde::{Deserialize, Serialize};

use super::members::FromMember;
use super::{Here, Refusal, encoded};
use crate::decide::lead::QUORUM_LOSS;
use crate::decide::link::Call;
use crate::decide::log::{DecisionLog, Leadership};

pub const BOOTSTRAP: &str = "/control/v1/bootstrap";
pub const ADMIT: &str = "/control/v1/admit";
const FORGET: &str = "/raft/v1/forget";
/// The other member answers from its disk.
const FORGET_LIMIT: Duration = Duration::from_secs(2);

/// What an operator is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Admitted {
    pub message: String,
}

#[derive(Debug, Deserialize)]
struct Which {
    site: Site,
}

pub(super) fn router() -> Router<Here> {
    Router::new().route(BOOTSTRAP, post(bootstrap)).route(ADMIT, post(admit)).route(FORGET, post(forget))
}

fn operators_only(identity: &Identity) -> Result<(), Refusal> {
    match identity {
        Identity::Operator { .. } => Ok(()),
        Identity::Agent { .. } | Identity::Collector { .. } => {
            Err(Refusal::Forbidden(format!("{identity} is not an operator")))
        }
    }
}

async fn bootstrap(State(node): State<Here>, Extension(certificate): Extension<Identity>) -> Result<Response, Refusal> {
    operators_only(&certificate)?;
    if node.log.is_initialised() {
        return Err(Refusal::Malformed("this collector takes part in a cluster already".to_owned()));
    }
    tracing::warn!(by = %certificate, "two nodes may found the cluster");
    node.log.two_suffice.store(true, Ordering::Release);
    let message = "founds the cluster with the first other collector that is there and takes part in none";
    encoded(&Admitted { message: message.to_owned() })
}

async fn admit(
    State(node): State<Here>,
    Extension(certificate): Extension<Identity>,
    Query(Which { site }): Query<Which>,
) -> Result<Response, Refusal> {
    operators_only(&certificate)?;
    let leader = match *node.log.leadership().borrow() {
        Leadership::Leader { .. } => node.site,
        Leadership::Follower { leader, .. } => leader,
        Leadership::Nobody { .. } => return Err(Refusal::Unavailable("no leader is heard".to_owned())),
    };
    if leader != node.site {
        return Err(Refusal::Malformed(format!("site {leader} leads: ask its collector")));
    }
    let other = Site::ALL.into_iter().find(|other| *other != site && *other != node.site);
    let Some(other) = other.filter(|_| site != node.site) else {
        return Err(Refusal::Malformed(format!("the collector of site {site} is the one that leads")));
    };
    both_have_everything(&node, other)?;
    let Some(query) = node.log.book.query_to(other) else {
        return Err(Refusal::Unavailable(format!("the collector of site {other} was not met")));
    };
    tracing::warn!(by = %certificate, %site, "the node of a site is let in anew");
    let path = format!("{FORGET}?{query}&site={site}");
    let call = Call { path, body: Bytes::from_static(b"{}"), on_behalf: None, limit: FORGET_LIMIT };
    node.peers.call(other, call).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    // What is committed since is on both, for the wiped one is no member. A new term counts anew what each node has.
    new_term(&node).await?;
    node.log.book.forget(site).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let message = format!("the next collector that introduces itself as site {site} is its member");
    encoded(&Admitted { message })
}

/// Led in a new term, by this node again: the library remembers within a term what a follower has acknowledged, and takes a
/// log that is shorter now for a fault.
async fn new_term(node: &Here) -> Result<(), Refusal> {
    let unavailable = |reason: &str| Refusal::Unavailable(reason.to_owned());
    if !node.log.yield_leadership(QUORUM_LOSS).await {
        return Err(unavailable("an entry is still pending: ask again"));
    }
    // The other one votes for nobody while it holds this leader's own lease to be in force.
    let Timing { election_min_ms, tick_ms, .. } = node.log.timing;
    tokio::time::sleep(Duration::from_millis(election_min_ms.saturating_add(tick_ms))).await;
    let mut metrics = node.log.raft.metrics();
    let before = metrics.borrow().current_term;
    node.log.raft.trigger().elect().await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let leads = metrics.wait_for(|now| now.current_term > before && now.state == ServerState::Leader);
    match tokio::time::timeout(FORGET_LIMIT, leads).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(unavailable("the election was not won in time: ask again")),
    }
}

/// The other member follows this leader and has all that is committed.
fn both_have_everything(node: &Here, other: Site) -> Result<(), Refusal> {
    let metrics = node.log.raft.metrics();
    let metrics = metrics.borrow();
    let applied = metrics.last_applied.map_or(0, |log_id| log_id.index);
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&other.node_id()).copied().flatten());
    if matched.is_some_and(|matched| matched.index >= applied) {
        return Ok(());
    }
    Err(Refusal::Unavailable(format!(
        "the collector of site {other} does not have everything yet: only with both others whole can one be let in anew"
    )))
}

/// The leader says that a member is to be forgotten.
async fn forget(
    State(node): State<Here>,
    FromMember(from): FromMember,
    Query(Which { site }): Query<Which>,
) -> Result<Response, Refusal> {
    let leads = matches!(*node.log.leadership().borrow(), Leadership::Follower { leader, .. } if leader == from);
    if !leads || site == from || site == node.site {
        return Err(Refusal::Forbidden("only the leader asks, and only about the third site".to_owned()));
    }
    tracing::warn!(%site, %from, "the node of a site is let in anew");
    node.log.book.forget(site).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    encoded(&serde_json::json!({}))
}
