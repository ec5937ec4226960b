//! Process 3: the public page from exported files or from the origins of other sites, signature and validity checked.
//!
//! Serves the highest sequence that a known key signed, from memory. Knows files, hashes and keys; refuses to know what the
//! pages say, and reads nothing but the export folder and the origins' public ports.
//!
//! Tasks, each stopped by the shutdown and safe to drop at any await: one that watches the folder, one per origin, one
//! that accepts, one per connection.
//!
//! Invariants: nothing is served that was not signed by a known key and does not match its hash; after `valid_until` (or
//! 60 s after it was first seen, whatever the clock says) only the files for that time are served, so the page says
//! "unknown" and never green; a request touches no disk and no lock that waits.

mod server;
mod snapshot;
mod source;
pub mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use bcp_wire::Site;
use ed25519_dalek::VerifyingKey;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::{Config, Shutdown};
pub use snapshot::Keys;
use snapshot::Snapshot;

#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("failed to listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("the key of site {site} in [public] known_keys is no Ed25519 public key")]
    Key { site: Site, source: ed25519_dalek::SignatureError },
    #[error("failed to prepare the client for the origins")]
    Client(#[source] reqwest::Error),
}

/// What is served now; `None` until a first valid publication is found.
type Served = Option<Arc<Snapshot>>;

/// Runs until `shutdown`.
pub async fn run(config: Arc<Config>, shutdown: Shutdown) -> anyhow::Result<()> {
    // The origins' client can be built only where a provider is installed; a second one is refused and not needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = Arc::new(verifying_keys(&config)?);
    let address = config.listen.public;
    let listener = TcpListener::bind(address).await.map_err(|source| MirrorError::Listen { address, source })?;
    let (sender, receiver) = watch::channel::<Served>(None);
    let sender = Arc::new(sender);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(source::watch_folder(config.export_dir(), keys.clone(), sender.clone(), shutdown.clone()));
    let client = source::client().map_err(MirrorError::Client)?;
    for (site, origin) in &config.public.origins {
        let origin = source::Origin { site: *site, url: origin.clone(), client: client.clone() };
        tasks.spawn(source::watch_origin(origin, keys.clone(), sender.clone(), shutdown.clone()));
    }
    tracing::info!(%address, origins = config.public.origins.len(), "public page is served");
    server::serve(listener, receiver, shutdown).await;
    tasks.shutdown().await;
    Ok(())
}

/// # Errors
/// The first key that is none.
pub fn verifying_keys(config: &Config) -> Result<BTreeMap<Site, VerifyingKey>, MirrorError> {
    let key = |(site, bytes): (&Site, &[u8; 32])| match VerifyingKey::from_bytes(bytes) {
        Ok(key) => Ok((*site, key)),
        Err(source) => Err(MirrorError::Key { site: *site, source }),
    };
    config.public.known_keys.iter().map(key).collect()
}

/// Puts `snapshot` in place if it is newer than what is served. Returns whether it was.
fn offer(served: &watch::Sender<Served>, snapshot: Snapshot) -> bool {
    let (sequence, issuer) = (snapshot.manifest.sequence, snapshot.manifest.issuer);
    let snapshot = Arc::new(snapshot);
    let taken = served.send_if_modified(|current| {
        let newer = current.as_ref().is_none_or(|current| sequence > current.manifest.sequence);
        if newer {
            *current = Some(snapshot);
        }
        newer
    });
    if taken {
        tracing::debug!(sequence, %issuer, "a newer publication is served");
    }
    taken
}

fn served_sequence(served: &watch::Sender<Served>) -> Option<u64> {
    served.borrow().as_ref().map(|snapshot| snapshot.manifest.sequence)
}

#[cfg(test)]
mod tests;
