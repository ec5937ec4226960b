//! What the publisher is told, and what it tells: settings, figures, why it ended.

use std::path::PathBuf;

use bcp_wire::{CommandVerb, Id, Site};
use tokio::sync::oneshot;

use super::session::SessionError;
use super::{AllowedVerb, MqttConfig};
use crate::resolver::Resolver;
use crate::spool::{SpoolConfig, SpoolFigures};

/// Everything the publisher must be told.
#[derive(Debug, Clone)]
pub struct PublisherSetup {
    pub site: Site,
    pub agent: Id,
    /// Holds `incarnation` and `spool/`.
    pub state_dir: PathBuf,
    pub settings: Settings,
    /// Finds the broker.
    pub resolver: Resolver,
}

/// What may change while the publisher runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub mqtt: MqttConfig,
    pub spool: SpoolConfig,
    /// Commands that are obeyed; all others are denied.
    pub allow: Vec<AllowedVerb>,
    /// First 16 hexadecimal digits of the SHA-256 of the configuration.
    pub config_hash: String,
}

/// Why the publisher ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("failed to set up the session with {broker}")]
    Session { broker: String, source: SessionError },
    #[error(
        "another agent runs under the id {site}/{agent} (its session {session}, start {incarnation}); stop one of them or rename it"
    )]
    SecondAgent { site: Site, agent: Id, session: String, incarnation: u64 },
    #[error(
        "this agent's start counter was lost: it says {ours}, but {site}/{agent} has been at {seen}; the counter is set, start again"
    )]
    CounterLost { site: Site, agent: Id, ours: u64, seen: u64 },
    #[error("the task of the session with {broker} broke off")]
    BrokeOff { broker: String },
}

/// A command that the configuration allows, for the application to carry out.
#[derive(Debug)]
pub struct CommandRequest {
    pub verb: CommandVerb,
    /// Dropped without an answer, it counts as refused.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Figures of the publisher, for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PublishFigures {
    pub connected: bool,
    pub sessions: u64,
    pub last_error: Option<String>,
    pub incarnation: u64,
    pub unsent: u64,
    pub in_flight: u64,
    pub handed_over: u64,
    pub committed: u64,
    pub spool: SpoolFigures,
}
