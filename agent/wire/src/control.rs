//! Control plane: gates and collectors, request and reply over HTTPS with mutual TLS.
//!
//! Nothing here is ever queued or retained: a request carries a nonce, the answer repeats it, and an answer that comes
//! too late is worth nothing. The sender's identity is its certificate; fields that repeat it are checked against it.
//!
//! | request | path | from -> to |
//! |---|---|---|
//! | [`GateSync`] -> [`GateAnswer`] | `POST /control/v1/sync` | gate -> every collector at once |
//! | [`SignedForce`](crate::force::SignedForce) -> [`ForceAnswer`](crate::force::ForceAnswer) | `POST /gate/v1/force` | operator -> gate (no quorum left) |
//! | [`PromiseAsk`] -> [`PromiseAnswer`] | `POST /gate/v1/promise` | gate -> gates of other sites (failsafe) |
//! | [`GateSync`] -> [`GateAnswer`] | `POST /gate/v1/relay` | gate -> another gate of its site, which forwards it |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Epoch, Id, Site};

/// Most tickets one gate serves; one request carries them all.
pub const MAX_TICKETS_PER_GATE: usize = 512;

/// One request of a gate: renewals, reports and facts of all its tickets.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub struct GateSync {
    pub site: Site,
    pub gate: Id,
    /// Random per request. A confirmed answer to this nonce extends the lease counted from this request's SEND time.
    pub nonce: u64,
    /// Order of this gate's requests; grows with every request and across restarts (as incarnation << 32 | count). A
    /// request that was overtaken by a later one may not say "in sync" any more. 0: unknown, latches nothing as in sync.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seq: u64,
    pub tickets: Vec<TicketSync>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a gate says about one ticket.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub struct TicketSync {
    pub ticket: Id,
    /// Highest epoch this gate has persisted. [`Epoch::NONE`] before the first.
    pub seen: Epoch,
    /// True where the gate closed `seen`: nothing of that epoch runs here any more, and nothing will.
    pub closed: bool,
    /// Ask to extend the lease of this epoch. Only a gate of the holding site with an open epoch asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew: Option<Epoch>,
    /// Steps finished since the last confirmed answer; repeated until confirmed, applied once by their key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<StepReport>,
    /// What the local copy of the service says about its data; absent where it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<ServiceFacts>,
    /// Why this gate could not become or stay active (a veto, a missing fence), for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// The service may run here although it should not: a stop was tried and is not verified. No wait stands in for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unstopped: bool,
    /// What this gate does when its lease runs out. Absent in what older gates say; they stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// This site holds `seen` by order of two operators, without any collector.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

/// What happens at a site whose lease has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Nothing: the service is active at several sites, and the ticket guards their weights only. Nothing is promoted either.
    Freeze,
    /// The copy writes no more and goes on answering reads.
    Demote,
    /// The service is stopped.
    #[default]
    Stop,
    /// It is stopped under a watchdog that resets the machine if that fails.
    Fence,
}

impl Loss {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Loss::Freeze => "freeze",
            Loss::Demote => "demote",
            Loss::Stop => "stop",
            Loss::Fence => "fence",
        }
    }
}

/// Freshness of one copy of the data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// Identity of the history: changes when a copy starts a history of its own (timeline, GTID set ...).
    pub lineage: String,
    /// How far this copy is in it; comparable only within one lineage.
    pub position: u64,
    pub role: CopyRole,
    /// On the active copy: the standby has everything that was acknowledged, and synchronous mode is on.
    #[serde(default)]
    pub peer_in_sync: bool,
    /// On the active copy: it wants to go on without its standby, and acknowledges nothing until that is committed.
    #[serde(default)]
    pub wants_alone: bool,
    /// Names this wish to go on alone, differently from every other wish of any copy; the word that grants it carries the
    /// same number. 0: no wish.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wish: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyRole {
    Active,
    Standby,
    Stopped,
}

/// A step of a move that a gate carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Close the epoch, stop the service, verify that it is stopped (planned drain of the old holder).
    Stop,
    /// On the losing side, if reachable: refuse every older epoch for ever and make sure nothing runs.
    Seal,
    /// Make the local copy the active one.
    Promote,
    /// Point clients here.
    Publish,
    /// Become (again) the standby of the current holder.
    Follow,
    /// Active-active: carry out the weights in [`StepOrder::params`].
    Weigh,
    /// Start the server of the reserve named in [`StepOrder::params`].
    Capacity,
}

impl StepKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StepKind::Stop => "stop",
            StepKind::Seal => "seal",
            StepKind::Promote => "promote",
            StepKind::Publish => "publish",
            StepKind::Follow => "follow",
            StepKind::Weigh => "weigh",
            StepKind::Capacity => "capacity",
        }
    }
}

/// A step the log wants a gate to carry out now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepOrder {
    /// Idempotency key: the step takes effect once per key, and its report repeats it.
    pub key: String,
    pub kind: StepKind,
    pub epoch: Epoch,
    /// Revision of the ticket that this order belongs to.
    pub revision: u64,
    /// The site that is (to be) active under `epoch`.
    pub holder: Site,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepReport {
    pub key: String,
    pub epoch: Epoch,
    pub revision: u64,
    pub kind: StepKind,
    pub outcome: StepOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Run time of the step, milliseconds.
    pub took_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    Done,
    /// Nothing had to be done.
    Already,
    /// The actuator refused for a reason of its own; retrying will not help.
    Vetoed,
    /// Failed or timed out; may be retried.
    Failed,
    /// The gate refused: superseded or closed epoch, no lease, steps out of order.
    Rejected,
}

/// Answer of a collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateAnswer {
    pub nonce: u64,
    /// The collector that answers (not necessarily the leader, to which it forwards).
    pub collector: Site,
    #[serde(flatten)]
    pub outcome: SyncOutcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum SyncOutcome {
    /// The request is in the replicated log and applied.
    Confirmed { index: u64, tickets: Vec<TicketAnswer> },
    /// There is no leader that could commit it. This is no answer to a renewal.
    NoLeader { reason: String },
    /// The request itself is at fault (foreign site, unknown ticket); says what and why.
    Refused { reason: String },
}

/// The agreed state of one ticket, as its gate needs it.
#[derive(Debug, Clone, PartialEq, Hash, Serialize, Deserialize)]
pub struct TicketAnswer {
    pub ticket: Id,
    pub holder: Option<Site>,
    pub epoch: Epoch,
    pub revision: u64,
    pub phase: Phase,
    /// This request's renewal was applied to the epoch it named, and the ticket is held by the sender's site.
    pub renewed: bool,
    /// Lease granted by a renewal: deadline = send time + this.
    pub ttl_holder_ms: u64,
    /// The step to carry out now, if any. Repeated until its report is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<StepOrder>,
    /// Latched: the standby has everything. `None`: unknown, which counts as not in sync. A copy may go on alone only on
    /// a `Some(false)` that answers a request whose own facts carried the wish it still has: an older request in flight
    /// may have said "in sync", and only a later one overtakes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_in_sync: Option<bool>,
    /// A drill: this gate is to say nothing about the ticket for so long, as if it were cut off. It renews no lease, asks for
    /// no promise, and does what its lease's end asks. Older gates go on, and the drill comes to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Free,
    Granting,
    Held,
    Draining,
}

impl Phase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Free => "free",
            Phase::Granting => "granting",
            Phase::Held => "held",
            Phase::Draining => "draining",
        }
    }
}

/// Failsafe: "no collector answers me; promise not to promote above my epoch for the promise length".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PromiseAsk {
    pub site: Site,
    pub gate: Id,
    pub ticket: Id,
    pub epoch: Epoch,
    /// One nonce per round: promises of different rounds never add up.
    pub nonce: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PromiseAnswer {
    pub site: Site,
    pub gate: Id,
    pub ticket: Id,
    pub epoch: Epoch,
    pub nonce: u64,
    #[serde(flatten)]
    pub verdict: PromiseVerdict,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum PromiseVerdict {
    /// Persisted before it was sent: this gate will not promote for `for_ms` from receipt, across restarts.
    Promised { for_ms: u64 },
    /// It knows a higher epoch, or may already be active.
    Refused { seen: Epoch, reason: String },
}
