//! TLS for checks: whom to trust, and when the certificate that was shown expires.
//!
//! The expiry is noted before the certificate is judged, so that one that has expired is told with its date.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Tried, cause};
use crate::clock::wall_ms;
use crate::config::TlsProbe;
use crate::resolver::Resolver;

const MS_PER_DAY: f64 = 86_400_000.0;

/// Why a check cannot trust anybody.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("failed to read the authorities in {path}", path = path.display())]
    Authorities { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("failed to use the authorities")]
    Unusable(#[source] rustls::Error),
    #[error("failed to use the authorities in {path}", path = path.display())]
    Verifier { path: PathBuf, source: rustls::client::VerifierBuilderError },
}

/// Builds verifiers. Those of the system are read once, and only when a check needs them.
#[derive(Debug, Default)]
pub struct Trust {
    system: Mutex<Option<Arc<dyn ServerCertVerifier>>>,
}

impl Trust {
    /// A client configuration for one check, and where it notes when the last certificate it saw expires.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub fn client(&self, encrypted: bool, ca: Option<&PathBuf>) -> Result<(ClientConfig, Expiry), TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let expiry = Expiry::default();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Unusable)?;
        if !encrypted {
            // Never used; a client wants one all the same.
            return Ok((builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(), expiry));
        }
        let judge = match ca {
            Some(path) => authorities(path, provider)?,
            None => self.system(provider)?,
        };
        let verifier = Noting { judge, expiry: expiry.clone() };
        let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        Ok((config, expiry))
    }

    fn system(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
        let mut known = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(judge) = &*known {
            return Ok(Arc::clone(judge));
        }
        let judge: Arc<dyn ServerCertVerifier> =
            Arc::new(rustls_platform_verifier::Verifier::new(provider).map_err(TrustError::Unusable)?);
        *known = Some(Arc::clone(&judge));
        Ok(judge)
    }
}

fn authorities(path: &PathBuf, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let unreadable = |source| TrustError::Authorities { path: path.clone(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots.add(certificate.map_err(unreadable)?).map_err(TrustError::Unusable)?;
    }
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|source| TrustError::Verifier { path: path.clone(), source })?;
    Ok(judge)
}

/// When the last certificate that was shown expires; 0 where none was.
#[derive(Debug, Clone, Default)]
pub struct Expiry(Arc<AtomicI64>);

impl Expiry {
    fn note(&self, certificate: &[u8]) {
        if let Ok((_, certificate)) = X509Certificate::from_der(certificate) {
            self.0.store(certificate.validity().not_after.timestamp().saturating_mul(1_000), Ordering::Relaxed);
        }
    }

    /// Days left, below 0 for one that has expired. Taken, so that an old answer is not told again.
    #[must_use]
    pub fn take_days_left(&self) -> Option<f64> {
        let not_after_ms = self.0.swap(0, Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss)] // milliseconds of years are far below 2^53
        (not_after_ms != 0)
            .then(|| ((not_after_ms.saturating_sub(wall_ms())) as f64 / MS_PER_DAY * 100.0).round() / 100.0)
    }
}

#[derive(Debug)]
struct Noting {
    judge: Arc<dyn ServerCertVerifier>,
    expiry: Expiry,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.expiry.note(end_entity);
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// Connects and shakes hands.
pub async fn try_once(config: &Arc<ClientConfig>, probe: &TlsProbe, resolver: &Resolver) -> Tried {
    let start = Instant::now();
    let shake = async {
        let stream = resolver.connect(&probe.address).await.map_err(|error| cause(&error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        connector.connect(probe.server_name.clone(), stream).await.map_err(|error| cause(&error))
    };
    match tokio::time::timeout(probe.timeout, shake).await {
        Err(_) => Tried::down(format!("no session within {:?}", probe.timeout)),
        Ok(Err(trouble)) => Tried::down(trouble),
        Ok(Ok(_)) => Tried { latency: Some(start.elapsed()), ..Tried::up() },
    }
}

/// A certificate that ends soon makes a good check a degraded one.
pub fn judge_expiry(tried: &mut Tried, days_left: Option<f64>, min_days: u16) {
    if let Some(days) = days_left
        && days < f64::from(min_days)
        && tried.trouble.is_none()
    {
        tried.degrade(format!("the certificate expires in {days:.1} days"));
    }
}
