//! The agent: polls devices, publishes readings, runs gates.

pub mod gate;
pub mod outbound;
pub mod publish;
pub mod span;
pub mod spool;
