//! Checks one publication, wherever it lies: signature, hashes, validity. Never writes, never serves.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bcp_wire::Site;
use serde::Serialize;

use super::snapshot::{Keys, LoadError, Snapshot, Standing};
use super::source::{self, FetchError};

/// While much happens a publication stands for a second or less; so many in a row are overtaken by no other cause.
const ATTEMPTS: usize = 5;

/// A publication that is what its issuer signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub issuer: Site,
    pub sequence: u64,
    pub as_of: String,
    pub valid_until: String,
    /// False: genuine, and no longer (or not yet) to be taken as the present state.
    pub current: bool,
    /// Measuring sites that had a say, of how many.
    pub agreeing: Option<(u8, u8)>,
    pub files: usize,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the publication in {place} is not genuine or not whole")]
    Folder { place: PathBuf, source: LoadError },
    #[error("the publication at {place} is not genuine or not whole")]
    Origin { place: String, source: FetchError },
    #[error("failed to prepare the client for {place}")]
    Client { place: String, source: reqwest::Error },
    #[error("the check ended unexpectedly")]
    Ended,
}

/// A folder: an export folder with its `current`, or a copy of one publication with `manifest.json` in it.
///
/// # Errors
/// What is not as it was signed.
pub async fn folder(dir: &Path, keys: Keys) -> Result<Verified, VerifyError> {
    let place = dir.to_owned();
    let read = move || Snapshot::read(&place, &keys).map_err(|source| VerifyError::Folder { place, source });
    let snapshot = tokio::task::spawn_blocking(read).await.map_err(|_| VerifyError::Ended)??;
    Ok(verified(&snapshot))
}

/// A mirror or a collector's public port, by its address.
///
/// # Errors
/// What is not as it was signed.
pub async fn origin(url: &str, keys: &Keys) -> Result<Verified, VerifyError> {
    let place = || url.trim_end_matches('/').to_owned();
    let client = source::client().map_err(|source| VerifyError::Client { place: place(), source })?;
    let mut attempt = 1;
    loop {
        match source::fetch_whole(&client, &place(), keys).await {
            Ok(snapshot) => return Ok(verified(&snapshot)),
            // Overtaken by the next publication, its files are gone; what is forged stays forged.
            Err(_) if attempt < ATTEMPTS => attempt += 1,
            Err(source) => return Err(VerifyError::Origin { place: place(), source }),
        }
    }
}

fn verified(snapshot: &Snapshot) -> Verified {
    let manifest = &snapshot.manifest;
    Verified {
        issuer: manifest.issuer,
        sequence: manifest.sequence,
        as_of: manifest.as_of.clone(),
        valid_until: manifest.valid_until.clone(),
        current: snapshot.standing(SystemTime::now()) == Standing::Current,
        agreeing: manifest.agreeing,
        files: manifest.files.len(),
        bytes: manifest.files.values().map(|file| file.bytes).sum(),
    }
}
