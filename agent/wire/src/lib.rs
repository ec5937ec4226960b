//! The contract between agents, gates and collectors.
//!
//! Knows: topics, payloads, control requests and the names of everything that is measured.
//! Refuses to know: transport, clocks, storage. Only serde types live here, so both ends compile the
//! same bytes and a third party can read them.
//!
//! Invariants:
//! * append-only: a field is added, never renamed or removed; `tests/v1.rs` freezes bytes;
//! * every identifier, number and list has a bound that parsing enforces;
//! * numbers are finite: NaN and infinity cannot be represented.

pub mod control;
pub mod envelope;
pub mod force;
pub mod id;
pub mod names;
pub mod presence;
pub mod reading;
pub mod topic;

pub use envelope::{Batch, Event, EventKind, Gap, PayloadError, Watermark, WatermarkMark};
pub use id::{Epoch, Id, IdError, PointName, Site};
pub use presence::{AgentState, AgentStatus, ClockState, Command, CommandReply, CommandVerb, DeviceMeta, PointMeta};
pub use reading::{BadReason, Quality, Value};
pub use topic::{Lane, Topic, TopicError};

/// Version of the contract that this crate writes.
pub const WIRE_VERSION: u8 = 1;
/// Largest MQTT payload either end accepts, in bytes. Larger batches are split by the agent.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Most points one batch may carry.
pub const MAX_POINTS_PER_BATCH: usize = 4_096;
/// Longest text value of a point, in bytes.
pub const MAX_TEXT_BYTES: usize = 256;
