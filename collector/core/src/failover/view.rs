//! A ticket as the API, the console and the explanation show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::control::{Phase, ServiceFacts, StepKind};
use bcp_wire::{Epoch, Id, Site};

use super::force::Guard;
use super::freshness::Freshness;
use super::ticket::{Freeze, MoveRecord};
use crate::policy::{Mode, TicketKind};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TicketView {
    pub id: Id,
    pub service: Id,
    pub kind: TicketKind,
    pub mode: Mode,
    pub sites: Vec<Site>,
    pub preferred: Option<Site>,
    pub holder: Option<Site>,
    /// The site that is active, or was last.
    pub last_holder: Option<Site>,
    pub epoch: Epoch,
    pub revision: u64,
    pub phase: Phase,
    /// `stopping`, `lapsing`, `sealing`, `promoting`, `publishing`; absent where nothing moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Site>,
    /// Why it moves, or is to move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub steps: Vec<StepView>,
    /// What the countdown runs to: `lease runs out`, `takes effect`, `confirmation lapses`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub countdown: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub countdown_ms: Option<u64>,
    pub sync: SyncView,
    pub gates: Vec<GateView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Freeze>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_ms: Option<u64>,
    pub budget: BudgetView,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awaiting_confirmation: Option<ConfirmationView>,
    /// One operator asked to go around a guard; another one has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_asked: Option<ForceView>,
    /// Active-active: percent per site.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<Site, u32>,
    /// `auto` without a fence outside the machine was accepted; every page says so.
    pub unfenced: bool,
    pub can_failover_now: CanFailover,
    pub history: Vec<MoveRecord>,
    pub rule_hash: String,
}

impl TicketView {
    /// Who carries the service: the holder, or each side's share of an active-active one; `-` where nobody does.
    #[must_use]
    pub fn carried_by(&self) -> String {
        if let Some(holder) = self.holder {
            return holder.to_string();
        }
        let shares: Vec<String> = self.weights.iter().map(|(site, share)| format!("{site} {share} %")).collect();
        if shares.is_empty() { "-".to_owned() } else { shares.join(", ") }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanFailover {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Site>,
    pub reasons: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    pub kind: StepKind,
    pub site: Site,
    pub gate: Id,
    pub epoch: Epoch,
    pub attempt: u32,
    /// `ordered`, `done`, `covered by time`, `given up`.
    pub state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyncView {
    /// The copy that took the last writes.
    pub active: Option<Site>,
    /// Latched: true, false, or null for unknown.
    pub peer_in_sync: Option<bool>,
    pub latched_ago_ms: Option<u64>,
    /// Verdict per other site.
    pub freshness: BTreeMap<Site, Freshness>,
    pub copies: BTreeMap<Site, CopyView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyView {
    pub facts: ServiceFacts,
    pub gate: Id,
    pub age_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateView {
    pub site: Site,
    pub gate: Id,
    pub present: bool,
    /// Null: never heard.
    pub heard_ago_ms: Option<u64>,
    pub seen: Epoch,
    pub closed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    pub used: u32,
    pub of: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmationView {
    pub to: Site,
    pub epoch: Epoch,
    pub within_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceView {
    pub to: Site,
    pub guard: Guard,
    /// The first operator.
    pub by: String,
    pub reason: String,
    pub ago_ms: u64,
    pub within_ms: u64,
}

/// Why a ticket is where it is: everything the decision read, and what it did not do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub ticket: Id,
    /// Log time of the state that is explained.
    pub log_time_ms: u64,
    /// What was decided, in one sentence.
    pub decision: String,
    pub rule: RuleView,
    pub inputs: Vec<Input>,
    pub votes: Vec<VoteView>,
    /// What it did or is doing.
    pub did: Vec<String>,
    /// What it decided not to do, and why.
    pub did_not: Vec<String>,
    pub can_failover_now: CanFailover,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    pub hash: String,
    /// As configured.
    pub move_when: Vec<String>,
    pub rpo: String,
    pub mode: Mode,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteView {
    pub observer: Site,
    /// The site it speaks about.
    pub about: Site,
    /// `control`, `agents`, `service`.
    pub what: String,
    /// `seen`, `silent`, `unknown`, `up`, `down` ...
    pub says: String,
    pub age_ms: Option<u64>,
    pub counted: bool,
}
