//! Pure decisions of a collector: failover, rules, alarms, service states and the ledger they leave.
//!
//! Knows: what was agreed, and what follows from it. Refuses to know: clocks, sockets, files, randomness. Time comes in
//! as a value; the same log gives the same state on every collector, today and in a replay next year.

// The sample policy that all tests share names this crate as they do.
#[cfg(test)]
extern crate self as bcp_core;

pub mod alarms;
pub mod drill;
pub mod failover;
pub mod ledger;
pub mod policy;
pub mod replica;
pub mod rules;
pub mod site;
pub mod status;
pub mod time;
pub mod topology;
