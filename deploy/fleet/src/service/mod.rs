//! The demo services: what the fleet protects.
//!
//! Knows: two small HTTP servers, one active-passive with a replicated journal, one active-active without state, and
//! the actuator that a gate calls for their steps. Refuses to know: tickets, leases, votes.
//! Invariant: a service obeys its gate and its own record of epochs, and asks nobody else.

pub mod journal;
pub mod portal;
pub mod prescriptions;
pub mod requests;
pub mod step;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bcp_wire::{Epoch, Site};
use serde::{Deserialize, Serialize};

use crate::ports::{BasePort, Port};

/// The two services of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Active-passive; its journal goes to the standby before a write is acknowledged.
    Prescriptions,
    /// Active-active, stateless; its ticket guards the weights.
    PatientPortal,
}

impl Service {
    pub const ALL: [Service; 2] = [Service::Prescriptions, Service::PatientPortal];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Service::Prescriptions => "prescriptions",
            Service::PatientPortal => "patient-portal",
        }
    }

    /// Where it listens in a site.
    #[must_use]
    pub const fn port(self) -> Port {
        match self {
            Service::Prescriptions => Port::Prescriptions,
            Service::PatientPortal => Port::Portal,
        }
    }

    /// Its files at one site.
    #[must_use]
    pub fn directory(self, data_dir: &Path, site: Site) -> PathBuf {
        data_dir.join(site.as_str()).join(self.as_str())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no demo service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown service: there are prescriptions and patient-portal")]
pub struct UnknownService;

impl FromStr for Service {
    type Err = UnknownService;
    fn from_str(text: &str) -> Result<Self, UnknownService> {
        Service::ALL.into_iter().find(|service| service.as_str() == text).ok_or(UnknownService)
    }
}

/// What a service process is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    Stopped,
    Standby,
    Active,
}

impl Want {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Want::Stopped => "stopped",
            Want::Standby => "standby",
            Want::Active => "active",
        }
    }
}

/// Arguments of one service process.
#[derive(Debug, Clone)]
pub struct Start {
    pub service: Service,
    pub site: Site,
    pub base: BasePort,
    pub data_dir: PathBuf,
    pub want: Want,
    pub epoch: Epoch,
}

/// Why a service process ended, as its exit code says it.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("epoch {asked} is refused: {seen} was seen here")]
    Superseded { asked: Epoch, seen: Epoch },
    #[error("failed to open the journal")]
    Journal(#[from] journal::JournalError),
    #[error("failed to listen on port {port}")]
    Listen {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to serve")]
    Serve(#[source] std::io::Error),
    #[error("a stopped service cannot be run")]
    NothingToRun,
}

/// Runs one service process until SIGTERM.
///
/// # Errors
/// What kept it from starting; see [`ServiceError`].
pub async fn run(start: Start) -> Result<(), ServiceError> {
    let port = start.base.site(start.site, start.service.port());
    let listener = tokio::net::TcpListener::bind(crate::ports::loopback(port))
        .await
        .map_err(|source| ServiceError::Listen { port, source })?;
    match start.service {
        Service::Prescriptions => prescriptions::run(listener, &start).await,
        Service::PatientPortal => portal::run(listener, &start).await,
    }
}
