//! One decide process: proposes here where it leads, passes on where it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bcp_core::drill::DrillCommand;
use bcp_core::failover::Sight;
use bcp_core::replica::{CommandResult, CommandVerb, Item, OperatorCommand};
use bcp_identity::Identity;
use bcp_wire::control::{GateAnswer, GateSync, SyncOutcome};
use bcp_wire::{Id, Site};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::link::{Call, CallError, Contacts, Peers};
use super::log::{DecisionLog, Leadership, ProposeError};
use super::sight::Watchman;
use super::tick::Queue;

/// A request that is not in the log by then is answered with "no": its sender asks again or elsewhere.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// Passing on ends before the one who asked gives up.
const FORWARD_LIMIT: Duration = Duration::from_millis(3_500);

#[derive(Debug)]
pub struct Node<L> {
    pub site: Site,
    pub log: Arc<L>,
    pub queue: Arc<Queue>,
    pub peers: Arc<dyn Peers>,
    pub contacts: Arc<Contacts>,
    pub watchman: Watchman,
    /// Gates that the policy names; only these may pass on a request of a sibling.
    pub gates: BTreeSet<(Site, Id)>,
}

/// Why something was not agreed.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("no leader is heard")]
    NoLeader,
    #[error("not committed within {limit:?}", limit = ANSWER_LIMIT)]
    TooSlow,
    #[error(transparent)]
    NotCommitted(#[from] ProposeError),
    #[error("too much waits to be agreed")]
    QueueFull,
    #[error("passing it on to the leader failed: {0}")]
    PassingOn(#[from] CallError),
    #[error("the leader's answer cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Body of a successful proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub index: u64,
}

/// What an operator sends; who it is comes from the certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandRequest {
    pub key: String,
    pub verb: CommandVerb,
    /// A command to a ticket compares the epoch and revision that its operator saw. Whoever leaves them out says so here.
    #[serde(default)]
    pub unconditional: bool,
}

impl CommandRequest {
    /// It is about a ticket, and neither names what its operator saw nor says that it does so on purpose.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        match &self.verb {
            CommandVerb::Ticket { command, .. } => command.expect().is_none() && !self.unconditional,
            CommandVerb::Drill(DrillCommand::Begin { expect, .. }) => expect.is_none() && !self.unconditional,
            CommandVerb::Alarm { .. }
            | CommandVerb::Incident(_)
            | CommandVerb::Intervention(_)
            | CommandVerb::Drill(DrillCommand::End { .. }) => false,
        }
    }
}

/// Body of `POST /control/v1/sight`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SightReport {
    pub agents: BTreeMap<Site, Sight>,
}

enum Way {
    Here,
    To(Site),
}

impl<L: DecisionLog> Node<L> {
    fn way(&self, passed_on: bool) -> Result<Way, Unavailable> {
        match *self.log.leadership().borrow() {
            Leadership::Leader { .. } => Ok(Way::Here),
            Leadership::Follower { leader, .. } if !passed_on => Ok(Way::To(leader)),
            Leadership::Follower { .. } | Leadership::Nobody { .. } => Err(Unavailable::NoLeader),
        }
    }

    async fn commit(&self, items: Vec<Item>, bytes: usize) -> Result<u64, Unavailable> {
        let done = self.queue.submit(items, bytes).map_err(|_| Unavailable::QueueFull)?;
        match tokio::time::timeout(ANSWER_LIMIT, done).await {
            Err(_) => Err(Unavailable::TooSlow),
            Ok(Err(_)) => Err(Unavailable::NoLeader),
            Ok(Ok(result)) => Ok(result?),
        }
    }

    async fn pass_on(&self, to: Site, path: &str, body: Bytes, identity: Identity) -> Result<Bytes, Unavailable> {
        let call = Call { path: path.to_owned(), body, on_behalf: Some(identity), limit: FORWARD_LIMIT };
        Ok(self.peers.call(to, call).await?)
    }

    /// Items of this site's own processes.
    pub async fn propose(&self, items: Vec<Item>) -> Result<u64, Unavailable> {
        let body = Bytes::from(serde_json::to_vec(&items)?);
        self.propose_encoded(items, body, false).await
    }

    /// The same, with the items' encoding at hand.
    pub async fn propose_encoded(&self, items: Vec<Item>, body: Bytes, passed_on: bool) -> Result<u64, Unavailable> {
        match self.way(passed_on)? {
            Way::Here => self.commit(items, body.len()).await,
            Way::To(leader) => {
                let own = Identity::Collector { site: self.site };
                let answer = self.pass_on(leader, super::control::PROPOSE, body, own).await?;
                Ok(serde_json::from_slice::<Accepted>(&answer)?.index)
            }
        }
    }

    /// A gate's request. The answer comes only after it is applied.
    pub async fn sync(&self, sync: GateSync, body: Bytes, identity: Identity, passed_on: bool) -> GateAnswer {
        let nonce = sync.nonce;
        let outcome = match self.sync_outcome(sync, body, identity, passed_on).await {
            Ok(outcome) => outcome,
            Err(error) => SyncOutcome::NoLeader { reason: error.to_string() },
        };
        GateAnswer { nonce, collector: self.site, outcome }
    }

    async fn sync_outcome(
        &self,
        sync: GateSync,
        body: Bytes,
        identity: Identity,
        passed_on: bool,
    ) -> Result<SyncOutcome, Unavailable> {
        match self.way(passed_on)? {
            Way::Here => {
                let index = self.commit(vec![Item::Gate(sync.clone())], body.len()).await?;
                let tickets = self.log.applied().read(|replica| replica.failover.answer(sync.site, &sync.gate, &sync));
                Ok(SyncOutcome::Confirmed { index, tickets })
            }
            Way::To(leader) => {
                let answer = self.pass_on(leader, super::control::SYNC, body, identity).await?;
                Ok(serde_json::from_slice::<GateAnswer>(&answer)?.outcome)
            }
        }
    }

    /// An operator's command, by whichever collector it came.
    pub async fn command(
        &self,
        request: CommandRequest,
        operator: Identity,
        passed_on: bool,
    ) -> Result<CommandResult, Unavailable> {
        let body = Bytes::from(serde_json::to_vec(&request)?);
        match self.way(passed_on)? {
            Way::Here => {
                let key = request.key.clone();
                let name = match &operator {
                    Identity::Operator { name } => name.to_string(),
                    other => other.to_string(),
                };
                let command = OperatorCommand { key: request.key, operator: name, verb: request.verb };
                self.commit(vec![Item::Command(command)], body.len()).await?;
                let result = self.log.applied().read(|replica| replica.result_of(&key).cloned());
                let unknown = "it is in the log, but what became of it is not remembered".to_owned();
                Ok(result.unwrap_or(CommandResult { key, ok: false, message: unknown }))
            }
            Way::To(leader) => {
                let answer = self.pass_on(leader, super::control::COMMAND, body, operator).await?;
                Ok(serde_json::from_slice(&answer)?)
            }
        }
    }
}
