//! What operators decide about the members of the consensus: that two may found it, and that a node with another disk is the
//! member of its site from now on.
//!
//! A node that lost its disk forgot what it acknowledged and for whom it voted. It is let in again in three steps, each agreed
//! by the log before the next begins: its old member leaves the voters, so that both others must have everything and follow
//! one leader; both write down the new member; it learns the log, and votes when it has it. At no moment does a majority exist
//! that could lack an entry or choose a second leader of a term. Where the third node is away, the first step is refused: it
//! would leave no quorum.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use bcp_identity::Identity;
use bcp_wire::{Id, Site};
use bytes::Bytes;
use openraft::{ChangeMembers, EmptyNode};
use serde::{Deserialize, Serialize};

use super::members::FromMember;
use super::{Here, Refusal, asker, encoded};
use crate::decide::link::Call;
use crate::decide::log::{DecisionLog, Leadership};

pub const BOOTSTRAP: &str = "/control/v1/bootstrap";
pub const ADMIT: &str = "/control/v1/admit";
const ADOPT: &str = "/raft/v1/adopt";
/// The other member answers from its disk.
const ADOPT_LIMIT: Duration = Duration::from_secs(2);
/// A change of the voters is two entries.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
/// A snapshot and some entries.
const LEARN_LIMIT: Duration = Duration::from_secs(20);
/// Passing it on waits for all of that.
const FORWARD_LIMIT: Duration = Duration::from_secs(35);
/// Nothing may stop between two votes for longer than this, or the third node is away.
const HEARD_WITHIN: Duration = Duration::from_millis(2_500);

/// What an operator is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Admitted {
    pub message: String,
}

#[derive(Debug, Deserialize)]
struct Which {
    site: Site,
}

#[derive(Debug, Deserialize)]
struct Whom {
    site: Site,
    member: Id,
}

pub(super) fn router() -> Router<Here> {
    Router::new().route(BOOTSTRAP, post(bootstrap)).route(ADMIT, post(admit)).route(ADOPT, post(adopt))
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
    headers: HeaderMap,
    Query(Which { site }): Query<Which>,
) -> Result<Response, Refusal> {
    let (identity, passed_on) = asker(&node, certificate, &headers)?;
    operators_only(&identity)?;
    let leadership = *node.log.leadership().borrow();
    match leadership {
        Leadership::Leader { .. } => {}
        Leadership::Follower { leader, .. } if !passed_on => {
            let (path, body) = (format!("{ADMIT}?site={site}"), Bytes::from_static(b"{}"));
            let call = Call { path, body, on_behalf: Some(identity), limit: FORWARD_LIMIT };
            let answer =
                node.peers.call(leader, call).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
            return Ok(([(axum::http::header::CONTENT_TYPE, "application/json")], answer).into_response());
        }
        Leadership::Follower { .. } | Leadership::Nobody { .. } => {
            return Err(Refusal::Unavailable(
                "no leader is heard: without two whole nodes nobody is let in".to_owned(),
            ));
        }
    }
    let other = Site::ALL.into_iter().find(|other| *other != site && *other != node.site);
    let Some(other) = other.filter(|_| site != node.site) else {
        return Err(Refusal::Malformed(format!("the collector of site {site} is the one that leads")));
    };
    if node.contacts.peer_age(other).is_none_or(|age| age >= HEARD_WITHIN) {
        return Err(Refusal::Unavailable(format!(
            "the collector of site {other} is away: only with both others whole can one be let in anew"
        )));
    }
    tracing::warn!(by = %identity, %site, "the node of a site is let in anew");
    if let Some(member) = node.log.book.stranger(site) {
        let member = member.parse::<Id>().map_err(|error| Refusal::Malformed(error.to_string()))?;
        leaves(&node, site).await?;
        adopted_by_both(&node, site, other, &member).await?;
    } else if votes(&node, site) {
        let reason = format!("no new node of site {site} is there: the collector with the new disk has to run first");
        return Err(Refusal::Malformed(reason));
    }
    joins(&node, site).await?;
    encoded(&Admitted { message: format!("the collector of site {site} has learnt the log and votes again") })
}

fn votes(node: &Here, site: Site) -> bool {
    let metrics = node.log.raft.metrics();
    let metrics = metrics.borrow();
    metrics.membership_config.membership().voter_ids().any(|id| id == site.node_id())
}

async fn in_time<T, E: std::fmt::Display>(
    limit: Duration,
    what: &str,
    change: impl Future<Output = Result<T, E>>,
) -> Result<(), Refusal> {
    match tokio::time::timeout(limit, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Refusal::Unavailable(format!("{what}: {error}; ask again"))),
        Err(_) => Err(Refusal::Unavailable(format!("{what} takes longer than {limit:?}; ask again"))),
    }
}

/// The old member neither votes nor counts any more. Agreed by both others.
async fn leaves(node: &Here, site: Site) -> Result<(), Refusal> {
    let id = site.node_id();
    if votes(node, site) {
        let change = ChangeMembers::RemoveVoters([id].into());
        in_time(CHANGE_LIMIT, "taking the old member out", node.log.raft.change_membership(change, false)).await?;
    } else {
        // A learner that was let in before, and lost its disk again.
        let change = ChangeMembers::RemoveNodes([id].into());
        in_time(CHANGE_LIMIT, "taking the old member out", node.log.raft.change_membership(change, false)).await?;
    }
    Ok(())
}

async fn adopted_by_both(node: &Here, site: Site, other: Site, member: &Id) -> Result<(), Refusal> {
    let Some(query) = node.log.book.query_to(other) else {
        return Err(Refusal::Unavailable(format!("the collector of site {other} was not met")));
    };
    let path = format!("{ADOPT}?{query}&site={site}&member={member}");
    let call = Call { path, body: Bytes::from_static(b"{}"), on_behalf: None, limit: ADOPT_LIMIT };
    in_time(ADOPT_LIMIT, "writing the new member down", node.peers.call(other, call)).await?;
    node.log.book.adopt(site, member.as_str()).await.map_err(|error| Refusal::Unavailable(error.to_string()))
}

/// It learns the log as it is, and votes from then on.
async fn joins(node: &Here, site: Site) -> Result<(), Refusal> {
    let id = site.node_id();
    let learns = node.log.raft.add_learner(id, EmptyNode {}, true);
    in_time(LEARN_LIMIT, "learning the log", learns).await?;
    let change = ChangeMembers::AddVoterIds([id].into());
    in_time(CHANGE_LIMIT, "letting it vote", node.log.raft.change_membership(change, true)).await
}

/// The leader says which node is the member of a site.
async fn adopt(
    State(node): State<Here>,
    FromMember(from): FromMember,
    Query(Whom { site, member }): Query<Whom>,
) -> Result<Response, Refusal> {
    let leads = matches!(*node.log.leadership().borrow(), Leadership::Follower { leader, .. } if leader == from);
    if !leads || site == from || site == node.site {
        return Err(Refusal::Forbidden("only the leader says so, and only of the third site".to_owned()));
    }
    if votes(&node, site) {
        return Err(Refusal::Unavailable(format!("the old member of site {site} still votes here")));
    }
    tracing::warn!(%site, %from, "the node of a site is let in anew");
    node.log.book.adopt(site, member.as_str()).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    encoded(&serde_json::json!({}))
}
