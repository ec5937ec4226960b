//! The agent: polls devices, publishes readings, runs gates.

pub mod config;
pub mod decode;
pub mod derive;
pub mod document;
pub mod gate;
pub mod oid;
pub mod outbound;
pub mod plan;
pub mod profile;
pub mod publish;
pub mod schedule;
pub mod self_stats;
pub mod source;
pub mod span;
pub mod spool;
