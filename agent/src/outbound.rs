//! What sources hand to the publisher.
//!
//! Knows: the shape of one batch, event or description before it gets incarnation and sequence numbers. Refuses to
//! know: MQTT, the spool, and how a value was read. The channel between both sides is bounded by [`QUEUE`]; a source
//! that finds it full waits, and what it misses meanwhile is counted as missed polls.

use bcp_wire::envelope::EventKind;
use bcp_wire::{BadReason, DeviceMeta, Id, PointName, Value};

/// Messages between sources and publisher. At 500 devices a second this is four seconds of a stalled disk.
pub const QUEUE: usize = 2_048;

/// One point: its name, its own sample time as an offset in milliseconds from the batch's, its value or why none.
pub type Sample = (PointName, i64, Result<Value, BadReason>);

/// A message of a source to the publisher.
#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// Points of one device. The publisher splits what exceeds the contract's bounds.
    Batch {
        device: Id,
        t_ms: i64,
        points: Vec<Sample>,
    },
    Event {
        device: Id,
        t_ms: i64,
        kind: EventKind,
    },
    /// Sent when a device's description is first known and whenever it changes. `v` and `i` are the publisher's.
    Meta(Box<DeviceMeta>),
    /// The device is no longer in the configuration: its description is taken back.
    Forget(Id),
}
