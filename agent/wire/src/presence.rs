//! Retained state, device descriptions and commands.

use serde::{Deserialize, Serialize};

use crate::{Id, PayloadError, PointName, Site, WIRE_VERSION};

/// Retained on `state`, and left as the will with `status: lost`.
///
/// A will whose incarnation is older than the last state seen is ignored: it belongs to a dead predecessor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    pub v: u8,
    pub i: u64,
    pub status: AgentStatus,
    /// When this was written, milliseconds since 1970 UTC. In a will: when the session began.
    pub t: i64,
    pub version: String,
    /// First 16 hexadecimal digits of the SHA-256 of the configuration in force.
    pub config_hash: String,
    pub clock: ClockState,
    /// The next state is written within this many milliseconds.
    pub next_within_ms: u64,
    /// Random per process start: two processes under one id are told apart by it.
    pub session: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStatus {
    Online,
    /// Stopping on purpose; the spool is being delivered.
    Draining,
    /// Written by the broker as the agent's will.
    Lost,
    /// Stopped on purpose.
    Offline,
}

/// What the host knows of its wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ClockState {
    Synchronised { offset_ms: f64 },
    Unsynchronised,
    Unknown,
}

/// Retained on `meta/{device}`: what a device is and what it measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceMeta {
    pub v: u8,
    pub i: u64,
    pub device: Id,
    /// `host`, `ups`, `crac`, `meter`, `pdu`, `genset`, `check`, `agent` ... (see [`crate::names::DEVICE_KINDS`]).
    pub kind: String,
    /// Profile `vendor/model` and the first 16 hexadecimal digits of its SHA-256; absent for hosts and checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// False where the firmware is outside the range that the profile was proven for.
    #[serde(default = "yes")]
    pub firmware_proven: bool,
    /// The asset that this one is part of or fed by, for the topology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// Where it stands, as `a/hall1/r07`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    pub points: Vec<PointMeta>,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRef {
    pub id: String,
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointMeta {
    pub name: PointName,
    pub unit: String,
    /// Expected time between two readings, milliseconds. A reading older than 2.5 times this is stale.
    pub interval_ms: u64,
    /// Where it is read: `1.3.6.1.2.1.33.1.2.4.0`, `holding:100`, `input:30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Sent on `cmd`. Every verb is refused unless the agent's configuration allows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub v: u8,
    /// Chosen by the sender; the reply's topic and body carry it. A repeated id is answered from memory.
    pub id: Id,
    #[serde(flatten)]
    pub verb: CommandVerb,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case")]
pub enum CommandVerb {
    /// Publish state and all metas again.
    Rebirth,
    PollNow {
        device: Id,
    },
    Reload,
    LogLevel {
        level: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReply {
    pub v: u8,
    pub id: Id,
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

macro_rules! json_payload {
    ($($type:ty),+) => {$(
        impl $type {
            /// # Errors
            /// One closed reason; the caller counts it.
            pub fn from_json(payload: &[u8]) -> Result<Self, PayloadError> {
                if payload.is_empty() {
                    return Err(PayloadError::Empty);
                }
                if payload.len() > crate::envelope::MAX_INFLATED_BYTES {
                    return Err(PayloadError::TooLarge);
                }
                let read: Self = serde_json::from_slice(payload).map_err(|_| PayloadError::Malformed)?;
                if read.v == WIRE_VERSION { Ok(read) } else { Err(PayloadError::Version) }
            }

            #[must_use]
            pub fn to_json(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("strings and finite numbers always serialise")
            }
        }
    )+};
}
json_payload!(AgentState, DeviceMeta, Command, CommandReply);

/// Whose state it is: the topic says so, and the payload does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AgentRef {
    pub site: Site,
    pub agent: Id,
}
