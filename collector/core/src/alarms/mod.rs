//! ISA-18.2 alarms, agreed from the votes of the three collectors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::Site;

/// What one serve process judges of its rule instances. `full` replaces all its earlier votes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlarmVotes {
    pub observer: Site,
    pub session: u64,
    pub full: bool,
    /// By alarm key `rule/asset`.
    pub votes: BTreeMap<String, AlarmVote>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlarmVote {
    /// None: unknown.
    pub active: Option<bool>,
    pub priority: Priority,
    pub asset: String,
    pub site: Option<Site>,
    /// By language.
    pub title: BTreeMap<String, String>,
    pub runbook: Option<String>,
    /// The values that decided it, as `supply.air.temperature 35.0 Cel (0.4 s old) > 27.0`.
    pub explain: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Critical,
    High,
    Medium,
    Low,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum AlarmCommand {
    Acknowledge { note: Option<String> },
    Shelve { reason: String, for_ms: u64 },
    Unshelve { reason: String },
    Note { text: String },
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AlarmEvent {
    Raised { alarm: String, priority: Priority },
}
