//! The append-only history behind alarms, failover, public page and reports.

use serde::{Deserialize, Serialize};

use bcp_wire::Site;

use crate::time::{LogTime, Wall};

/// One event, chained to the one before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    pub seq: u64,
    /// Log index of the tick that caused it.
    pub index: u64,
    pub log_time: LogTime,
    pub wall: Wall,
    /// `system`, `operator:<name>`, `gate:<site>:<id>`, `collector:<site>`.
    pub author: String,
    /// What it is about, as `ticket:prescriptions`, `alarm:...`, `service:...`, `incident:...`.
    pub subject: String,
    /// One English sentence for the operator, complete without context.
    pub text: String,
    pub what: LedgerEvent,
    /// Sequence number of the entry that caused this one.
    pub cause: Option<u64>,
    /// SHA-256 over the previous hash and this entry's canonical JSON without `hash`, hexadecimal.
    pub prev: String,
    pub hash: String,
}

/// Where the chain stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    pub seq: u64,
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LedgerEvent {
    Policy { hash: String },
    Leader { site: Site, term: u64 },
    Ticket { event: crate::failover::TicketEvent },
    Alarm { event: crate::alarms::AlarmEvent },
    Service { event: crate::status::ServiceEvent },
    Incident { event: crate::status::IncidentEvent },
    Command { key: String, ok: bool },
}
