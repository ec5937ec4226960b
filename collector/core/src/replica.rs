//! The replicated state of the three collectors, and the one entry kind that changes it.
//!
//! `apply` is a pure function of state and tick. Its order is fixed: add the elapsed time, take in what arrived (ticket
//! matters first: renewals are stamped before expiry is judged), judge tickets, then alarms, services and the
//! publication point. Ledger entries come out in that order.

mod apply;
mod drills;
mod restore;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use bcp_wire::control::GateSync;
use bcp_wire::{Id, Site};

pub use restore::RestoreFault;

use crate::alarms::{AlarmCommand, AlarmVotes};
use crate::drill::DrillCommand;
use crate::failover::{Observation, TicketCommand};
use crate::policy::Policy;
use crate::site::SiteVotes;
use crate::status::{Frozen, IncidentCommand, InterventionCommand, ServiceVotes};
use crate::time::{LogTime, Wall};

/// One entry of the decision log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    pub leader: Site,
    /// Raft term of the proposer, only to see that a new term adds no elapsed time.
    pub term: u64,
    /// Leader's monotonic time since its previous tick of this term; 0 for the first of a term; capped at [`MAX_ELAPSED_MS`].
    pub elapsed_ms: u64,
    pub wall: Wall,
    pub items: Vec<Item>,
}

/// Cap of one tick's elapsed time: a leader thawed after an hour must not make an hour pass for everybody.
pub const MAX_ELAPSED_MS: u64 = 2_000;
/// Most items one tick carries; the rest waits for the next. Ticket matters are taken first.
pub const MAX_ITEMS_PER_TICK: usize = 4_096;

/// Something that arrived at a collector and has to be agreed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
pub enum Item {
    /// The configuration all three share. Proposed by the leader when the agreed one differs from its own.
    Policy(Box<Policy>),
    Gate(GateSync),
    Observation(Observation),
    AlarmVotes(AlarmVotes),
    ServiceVotes(ServiceVotes),
    SiteVotes(SiteVotes),
    Command(OperatorCommand),
}

/// Commands whose answer is remembered: far more than clients can be retrying at once.
pub const MAX_RESULTS: usize = 512;

/// What an operator asked for. Applied once per key, whoever retries it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatorCommand {
    /// Idempotency key, chosen by the client.
    pub key: String,
    /// From the client certificate or the login, never from the request body.
    pub operator: String,
    pub verb: CommandVerb,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "snake_case")]
pub enum CommandVerb {
    Ticket { ticket: Id, command: TicketCommand },
    Alarm { alarm: String, command: AlarmCommand },
    Incident(IncidentCommand),
    Intervention(InterventionCommand),
    Drill(DrillCommand),
}

/// What became of a command; remembered by key so that a retry gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    pub key: String,
    pub ok: bool,
    pub message: String,
}

/// The agreed state.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Replica {
    /// Index of the last tick applied.
    pub index: u64,
    /// Index of the last tick that changed something but renewals and repeated observations: what a long poll waits for.
    pub changed_at: u64,
    /// Term and proposer of the last tick.
    pub term: u64,
    pub leader: Option<Site>,
    pub log_time: LogTime,
    pub wall: Wall,
    pub policy: Option<Policy>,
    pub failover: crate::failover::State,
    pub alarms: crate::alarms::State,
    pub services: crate::status::State,
    #[serde(default)]
    pub drills: crate::drill::State,
    pub publication: Publication,
    pub ledger: crate::ledger::Head,
    pub results: Vec<CommandResult>,
    /// Alarm keys that tickets hold active, to clear them when their condition is over.
    pub conditions: BTreeSet<String>,
    /// Hash of a policy that was refused, so that it is said once.
    pub refused_policy: Option<String>,
}

/// Point of the log at which the public page is rendered: the same bytes on all three collectors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Publication {
    /// Log index, and the sequence number of every public artefact.
    pub sequence: u64,
    pub as_of: Wall,
    pub valid_until: Wall,
    pub log_time: LogTime,
    /// What of the shown state runs on between points, as it was at this one.
    #[serde(default)]
    pub frozen: Frozen,
}

/// A publication point at least this often.
pub const PUBLISH_EVERY_MS: u64 = 20_000;
/// How long a publication may be shown as the present state.
pub const PUBLICATION_VALID_MS: i64 = 60_000;

impl Replica {
    /// Tickets as the API shows them.
    #[must_use]
    pub fn ticket_views(&self) -> Vec<crate::failover::TicketView> {
        self.policy.as_ref().map(|policy| self.failover.views(policy)).unwrap_or_default()
    }

    #[must_use]
    pub fn explain(&self, ticket: &Id) -> Option<crate::failover::Explanation> {
        self.failover.explain(self.policy.as_ref()?, ticket)
    }

    /// Why a policy cannot take the place of the agreed one now, if it cannot.
    #[must_use]
    pub fn policy_fault(&self, policy: &Policy) -> Option<crate::policy::Fault> {
        policy.unsafe_fault().or_else(|| self.failover.change_fault(self.policy.as_ref()?, policy))
    }

    /// What became of a command, by its key.
    #[must_use]
    pub fn result_of(&self, key: &str) -> Option<&CommandResult> {
        self.results.iter().rev().find(|result| result.key == key)
    }
}
