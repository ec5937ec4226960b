//! Key material on disk, read again when a file changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::{Identity, IdentityError};

/// PEM files: the CA that both ends trust, the own certificate (chain) and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Credentials {
    /// The files that [`crate::pki`] writes for `identity` in `dir`.
    #[must_use]
    pub fn in_dir(dir: &Path, identity: &Identity) -> Credentials {
        let stem = identity.file_stem();
        Credentials {
            ca: dir.join("ca.pem"),
            cert: dir.join(format!("{stem}.pem")),
            key: dir.join(format!("{stem}.key")),
        }
    }

    /// The identity that the own certificate states.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        let chain = read_chain("certificate", &self.cert)?;
        let first = chain.first().ok_or_else(|| IdentityError::Empty { path: self.cert.clone() })?;
        Identity::from_certificate(first).map_err(IdentityError::NoIdentity)
    }
}

/// Files are looked at this often at most; a burst of connections costs no burst of stats.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Stamp = [(Option<SystemTime>, u64); 3];

/// What the files said when they were last good.
#[derive(Debug)]
pub(crate) struct Material {
    pub roots: Arc<RootCertStore>,
    pub key: Arc<CertifiedKey>,
}

/// Something built from [`Material`], rebuilt when a file changes.
#[derive(Debug)]
pub(crate) struct Reloading<T> {
    credentials: Credentials,
    build: fn(&Credentials, &Material) -> Result<T, IdentityError>,
    state: Mutex<Loaded<T>>,
}

#[derive(Debug)]
struct Loaded<T> {
    value: Arc<T>,
    stamp: Stamp,
    looked: Instant,
}

impl<T> Reloading<T> {
    pub fn open(
        credentials: &Credentials,
        build: fn(&Credentials, &Material) -> Result<T, IdentityError>,
    ) -> Result<Self, IdentityError> {
        let stamp = stamp(credentials)?;
        let value = Arc::new(build(credentials, &read(credentials)?)?);
        let state = Mutex::new(Loaded { value, stamp, looked: Instant::now() });
        Ok(Reloading { credentials: credentials.clone(), build, state })
    }

    /// The value for a connection that starts now.
    pub fn current(&self) -> Arc<T> {
        let mut loaded = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.looked.elapsed() < LOOK_EVERY {
            return Arc::clone(&loaded.value);
        }
        loaded.looked = Instant::now();
        let changed = stamp(&self.credentials).ok().filter(|now| *now != loaded.stamp);
        if let Some(now) = changed {
            match read(&self.credentials).and_then(|material| (self.build)(&self.credentials, &material)) {
                Ok(value) => {
                    tracing::info!(cert = %self.credentials.cert.display(), "credentials changed and are in use");
                    loaded.value = Arc::new(value);
                    loaded.stamp = now;
                }
                // Not remembered as seen: a half-written file is tried again at the next look.
                Err(cause) => tracing::warn!(%cause, "changed credentials cannot be used; the last good ones stay"),
            }
        }
        Arc::clone(&loaded.value)
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn stamp(credentials: &Credentials) -> Result<Stamp, IdentityError> {
    let mut stamps = [(None, 0); 3];
    for (slot, path) in stamps.iter_mut().zip([&credentials.ca, &credentials.cert, &credentials.key]) {
        let meta = std::fs::metadata(path).map_err(|cause| IdentityError::Stat { path: path.clone(), cause })?;
        *slot = (meta.modified().ok(), meta.len());
    }
    Ok(stamps)
}

pub(crate) fn read_chain(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let fault = |cause| IdentityError::Read { what, path: path.to_owned(), cause };
    CertificateDer::pem_file_iter(path).map_err(fault)?.collect::<Result<Vec<_>, _>>().map_err(fault)
}

fn read(credentials: &Credentials) -> Result<Material, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain("CA", &credentials.ca)? {
        roots.add(certificate).map_err(|cause| IdentityError::Tls { path: credentials.ca.clone(), cause })?;
    }
    if roots.is_empty() {
        return Err(IdentityError::Empty { path: credentials.ca.clone() });
    }
    let chain = read_chain("certificate", &credentials.cert)?;
    let key = PrivateKeyDer::from_pem_file(&credentials.key).map_err(|cause| IdentityError::Read {
        what: "key",
        path: credentials.key.clone(),
        cause,
    })?;
    // Certificate and key are compared: a pair that does not match is found here and not at the first handshake.
    let key = CertifiedKey::from_der(chain, key, &provider())
        .map_err(|cause| IdentityError::Tls { path: credentials.cert.clone(), cause })?;
    Ok(Material { roots: Arc::new(roots), key: Arc::new(key) })
}
