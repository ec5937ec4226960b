//! The agent: polls devices, publishes readings, runs gates.

pub mod outbound;
