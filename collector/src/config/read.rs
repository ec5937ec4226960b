//! TOML with places.

use std::path::{Path, PathBuf};

use super::Config;

/// A spot in a configuration file; line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

/// One thing wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: Place,
    /// Full key, as `ticket.prescriptions.mode`.
    pub key: String,
    pub problem: String,
    pub help: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read {path}", path = path.display())]
    Read { path: PathBuf, #[source] cause: std::io::Error },
    #[error("{count} fault(s) in the configuration", count = .0.len())]
    Faults(Vec<Fault>),
}

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    Err(ConfigError::Read { path: path.to_owned(), cause: std::io::ErrorKind::Unsupported.into() })
}
