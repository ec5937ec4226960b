//! Collector: ingests what agents publish, judges it, takes part in the quorum, feeds console and status page.
//!
//! Four processes, each a subcommand of this library, so that a flood or a crash in one never delays another:
//! [`decide`] (quorum, tickets, control port), [`serve`] (history, rules, alarms, console and API), [`mirror`] (public
//! page from exported files) and [`broker`] (MQTT on loopback). [`supervise`] starts them and restarts what dies.
//!
//! Invariants: serve and mirror learn what was agreed from decide and never decide themselves; decide knows no MQTT, no
//! history and no page; nothing here holds a queue without a named bound.

pub mod broker;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod decide;
pub mod export;
pub mod ingest;
pub mod mirror;
pub mod rules;
pub mod serve;
pub mod shutdown;
pub mod store;
pub mod supervise;
pub mod web;

pub use config::Config;
pub use shutdown::{Shutdown, ShutdownTrigger};
