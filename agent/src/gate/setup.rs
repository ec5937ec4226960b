//! What a gate and its warden are told, and why a gate cannot start.

use std::net::SocketAddr;
use std::path::PathBuf;

use bcp_identity::IdentityError;
use bcp_wire::{Id, Site};

use super::config::{GateConfig, TicketConfig};
use super::script::Script;
use super::store::{Store, StoreError};
use crate::act;
use crate::source::checks::TrustError;

/// Everything the gate must be told.
#[derive(Debug, Clone)]
pub struct GateSetup {
    pub site: Site,
    /// Id of the agent that the gate is part of.
    pub gate: Id,
    pub config: GateConfig,
    /// The agent's state directory; the gate's files are in `gate/` under it.
    pub state_dir: PathBuf,
    /// Name servers in place of those of `/etc/resolv.conf`.
    pub resolver: Vec<SocketAddr>,
}

impl GateSetup {
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.state_dir.join("gate")
    }

    /// What a service is stopped by; of this gate alone.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.config.runtime_dir.join(self.gate.as_str())
    }

    /// # Errors
    /// As [`Store::open`].
    pub fn store(&self, ticket: &Id) -> Result<Store, StoreError> {
        Store::open(&self.dir(), &self.runtime_dir(), ticket)
    }

    /// The program that carries out a ticket's steps: the operator's, or this one.
    fn argv(&self, ticket: &TicketConfig) -> Vec<String> {
        if ticket.actuators.is_empty() {
            ticket.script.clone()
        } else {
            act::own_argv(&ticket.id, &ticket.actuators, &self.resolver)
        }
    }

    #[must_use]
    pub fn script(&self, ticket: &TicketConfig, store: &Store) -> Script {
        Script {
            argv: self.argv(ticket),
            ticket: ticket.id.clone(),
            site: self.site,
            loss: ticket.loss,
            log: store.step_log(),
            stop_log: store.stop_log(),
        }
    }
}

/// Why a gate cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("failed to read the boot id")]
    BootId(#[source] std::io::Error),
    #[error("failed to use the files of ticket {ticket}")]
    Store { ticket: Id, source: StoreError },
    #[error("failed to set up requests to {to}")]
    Client { to: String, source: IdentityError },
    #[error("failed to trust anybody for a service's https")]
    Trust(#[source] TrustError),
    #[error("failed to set up requests to the service")]
    Plain(#[source] reqwest::Error),
    #[error("failed to listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("failed to serve other gates")]
    Serve(#[source] IdentityError),
}
