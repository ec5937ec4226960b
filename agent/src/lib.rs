//! The agent: polls devices, publishes readings, runs gates.
//!
//! | module | knows |
//! |---|---|
//! | [`cli`], [`run`] | the commands; how the running agent is joined and drained |
//! | [`config`], [`document`], [`profile`] | the configuration and device profiles, with every fault and its place |
//! | [`schedule`], [`plan`], [`decode`], [`adjust`], [`derive`], [`oid`] | pure: what is due, what to ask, what bytes mean |
//! | [`source`] | I/O: Modbus, SNMP, this host, application checks |
//! | [`discover`] | looks at addresses and proposes devices |
//! | [`outbound`] | what sources hand to the publisher |
//! | [`publish`], [`spool`] | the MQTT session and the outbox on disk |
//! | [`postgres`] | PostgreSQL as a guarded service, and its sidecar |
//! | [`gate`], [`act`] | tickets, leases and steps of failover; the built-in actuators |
//! | [`resolver`] | names of hosts to addresses |
//! | [`clock`], [`service_manager`] | how far the wall clock may be trusted; what systemd is told |
//! | [`self_stats`], [`status`], [`reading_table`] | what people and scripts are told about all this |
//!
//! Invariants: a bad reading is never told as a value; a device that does not answer delays no other; nothing is
//! queued without a bound; no device is ever written to.

pub mod act;
pub mod adjust;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
pub mod derive;
pub mod discover;
pub mod document;
pub mod gate;
pub mod oid;
pub mod outbound;
pub mod plan;
pub mod postgres;
pub mod profile;
pub mod publish;
pub mod reading_table;
pub mod resolver;
pub mod run;
pub mod schedule;
pub mod self_stats;
pub mod service_manager;
pub mod source;
pub mod span;
pub mod spool;
pub mod status;
pub mod warden;
