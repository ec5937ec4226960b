//! Tickets: who may run a service, under which epoch, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Epoch, Id, Site};

/// What one decide process sees of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sight {
    Seen,
    Silent,
    /// Not listened long enough, or the part that would know is not running. Never a vote.
    Unknown,
}

/// Report of one decide process, every second; expires after 3 s of log time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    pub observer: Site,
    /// Random per process start.
    pub session: u64,
    pub policy_hash: String,
    /// Its control plane: the other collector, or any gate of the site, was heard within the site_lost period.
    pub control: BTreeMap<Site, Sight>,
    /// Any agent of the site published fresh data.
    pub agents: BTreeMap<Site, Sight>,
}

/// What an operator may do to a ticket. Compare-and-set on epoch and revision where given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum TicketCommand {
    Move { to: Site, reason: String, expect: Option<(Epoch, u64)> },
    Abort { reason: String },
    Freeze { reason: String, for_ms: u64 },
    Unfreeze { reason: String },
    Confirm { epoch: Epoch },
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {}

/// Ledger events of tickets; extended by the ticket machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TicketEvent {
    Granted { ticket: Id, holder: Site, epoch: Epoch },
}
