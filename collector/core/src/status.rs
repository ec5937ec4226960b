//! Service states and incidents: what the public page says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Id, Site};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    Up,
    Degraded,
    Down,
    Planned,
    Unknown,
}

/// What one serve process sees of the services; expires like an observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceVotes {
    pub observer: Site,
    pub session: u64,
    pub services: BTreeMap<Id, ServiceSight>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSight {
    /// As its users see it.
    pub status: ServiceStatus,
    /// Per site, where checks tell sites apart.
    pub by_site: BTreeMap<Site, ServiceStatus>,
    pub explain: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum IncidentCommand {
    /// A human text in place of, or after, the automatic one. Every language, or an explicit fallback.
    Update {
        incident: String,
        text: BTreeMap<String, String>,
        next_update_in_ms: Option<u64>,
    },
    Resolve {
        incident: String,
        text: BTreeMap<String, String>,
    },
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ServiceEvent {
    Changed { service: Id, from: ServiceStatus, to: ServiceStatus, reason: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum IncidentEvent {
    Opened { incident: String, services: Vec<Id> },
}
