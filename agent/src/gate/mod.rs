//! Gates: the part of an agent that carries out steps for a ticket.
//!
//! Knows: leases, epochs, steps, promises, the loss action. Refuses to know: who should hold a ticket; the collectors
//! agree on that.
//!
//! [`machine`] decides, [`driver`] acts: it holds the ticket's lock, reads what is stored, steps the machine, stores, acts.
//! [`crate::warden`] does the one thing that must not depend on this process: stop what has no lease.
//!
//! Tasks: [`Gate::run`], the listener under it, one short task per request and one thread per running step. Cancelling
//! any of them can only end a lease early.

mod ask;
pub mod budget;
mod clock;
pub mod config;
mod driver;
mod force;
mod listener;
pub mod machine;
pub mod record;
pub mod script;
mod service;
mod setup;
pub mod store;
pub mod watchdog;

pub use clock::{boot_id, boot_ms};
pub use config::GateConfig;
pub use driver::{Gate, GateFigures};
pub use setup::{GateError, GateSetup};
