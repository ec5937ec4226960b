//! The agent: polls devices, publishes readings, runs gates.

pub mod decode;
pub mod document;
pub mod gate;
pub mod outbound;
pub mod plan;
pub mod publish;
pub mod schedule;
pub mod span;
pub mod spool;
