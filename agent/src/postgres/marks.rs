//! What must be known of a server beside what it says of itself.
//!
//! `postgres-PORT.promoted` in the runtime directory (memory): it was, or is being, promoted in this boot. `postgres-PORT.alone` on the disk: it
//! acknowledged writes that its standby may not have.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bcp_wire::Epoch;

use super::{Postgres, PostgresError};

#[derive(Debug, Clone)]
pub struct Marks {
    promoted: PathBuf,
    alone: PathBuf,
}

fn exists(path: &Path) -> Result<bool, PostgresError> {
    path.try_exists().map_err(PostgresError::file(path))
}

fn put(path: &Path, text: &str) -> Result<(), PostgresError> {
    let written = || {
        let mut file = File::create(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    written().map_err(PostgresError::file(path))
}

fn take(path: &Path) -> Result<(), PostgresError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PostgresError::file(path)(error)),
        _ => Ok(()),
    }
}

impl Marks {
    #[must_use]
    pub fn of(postgres: &Postgres) -> Marks {
        Marks {
            promoted: postgres.named(&postgres.runtime_dir, "promoted"),
            alone: postgres.named(&postgres.state_dir, "alone"),
        }
    }

    /// Before a promotion is asked for.
    ///
    /// # Errors
    /// It cannot be kept; then nothing may be promoted.
    pub fn set_promoted(&self, epoch: Epoch) -> Result<(), PostgresError> {
        put(&self.promoted, &epoch.to_string())
    }

    /// The epoch under which it was promoted in this boot, as text; empty where it cannot be read.
    #[must_use]
    pub fn promoted(&self) -> Option<String> {
        match fs::read_to_string(&self.promoted) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            // What cannot be known is taken for active.
            Err(_) => Some(String::new()),
        }
    }

    /// Once no process of the server is left.
    ///
    /// # Errors
    /// It stays: the next stop ends a standby for nothing.
    pub fn clear_promoted(&self) -> Result<(), PostgresError> {
        take(&self.promoted)
    }

    /// Before the first write is acknowledged alone.
    ///
    /// # Errors
    /// It cannot be kept; then the server may not go on alone.
    pub fn set_alone(&self) -> Result<(), PostgresError> {
        if exists(&self.alone)? {
            return Ok(());
        }
        put(&self.alone, "this copy acknowledged writes that the other one may not have\n")
    }

    /// Once the standby has everything.
    ///
    /// # Errors
    /// It stays: the copy will not be rewound by itself.
    pub fn clear_alone(&self) -> Result<(), PostgresError> {
        take(&self.alone)
    }

    /// # Errors
    /// It took writes alone, or that cannot be known.
    pub fn may_be_rewound(&self) -> Result<(), PostgresError> {
        if exists(&self.alone)? { Err(PostgresError::TookWritesAlone { path: self.alone.clone() }) } else { Ok(()) }
    }
}
