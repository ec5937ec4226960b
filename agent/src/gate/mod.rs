//! Gates: the part of an agent that carries out steps for a ticket.

pub mod config;

pub use config::GateConfig;
