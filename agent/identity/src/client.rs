//! HTTP client that proves its own identity and talks only to the one it expects.

use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::Resolve;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::material::{Credentials, Material, Reloading, provider};
use crate::{Identity, IdentityError};

/// Idle connections are closed by the client before the server's own limit would cut them off in the middle of a reuse.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// Connections kept per server; more than this at once is not idle for long.
const POOL_SIZE: usize = 4;

/// A client with `credentials` that talks only to `expect`. `timeout` bounds a whole request; a single request may ask for
/// another. No proxies, no redirects, HTTP/1.1.
///
/// The host in the URL must be a name or address of the server's certificate, and its identity must be `expect`.
pub fn http_client(
    credentials: &Credentials,
    expect: &Identity,
    timeout: Duration,
) -> Result<reqwest::Client, IdentityError> {
    http_client_with(credentials, expect, timeout, None)
}

/// As [`http_client`], and names of hosts are looked up by `resolver` where there is one.
pub fn http_client_with(
    credentials: &Credentials,
    expect: &Identity,
    timeout: Duration,
    resolver: Option<Arc<dyn Resolve>>,
) -> Result<reqwest::Client, IdentityError> {
    let peer = ExpectedServer { files: Reloading::open(credentials, verifier)?, expect: expect.clone() };
    let own = OwnCertificate { files: Reloading::open(credentials, |_, material| Ok(Arc::clone(&material.key)))? };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|cause| IdentityError::Tls { path: credentials.ca.clone(), cause })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(peer))
        .with_client_cert_resolver(Arc::new(own));
    config.resumption = Resumption::disabled();
    let builder = match resolver {
        Some(resolver) => reqwest::Client::builder().dns_resolver(resolver),
        None => reqwest::Client::builder(),
    };
    builder
        .tls_backend_preconfigured(config)
        .https_only(true)
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .timeout(timeout)
        .connect_timeout(timeout)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_SIZE)
        .build()
        .map_err(IdentityError::Client)
}

/// For plain HTTP alone. A client that could speak TLS wants the authorities of the system, and cannot be made on a host
/// that has none.
pub fn plain_http() -> reqwest::ClientBuilder {
    reqwest::Client::builder().tls_certs_only([]).no_proxy()
}

fn verifier(credentials: &Credentials, material: &Material) -> Result<Arc<WebPkiServerVerifier>, IdentityError> {
    WebPkiServerVerifier::builder_with_provider(Arc::clone(&material.roots), provider())
        .build()
        .map_err(|cause| IdentityError::Verifier { path: credentials.ca.clone(), cause })
}

#[derive(Debug)]
struct ExpectedServer {
    files: Reloading<Arc<WebPkiServerVerifier>>,
    expect: Identity,
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.files.current().verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        match Identity::from_certificate(end_entity) {
            Ok(found) if found == self.expect => Ok(verified),
            Ok(found) => Err(Error::General(format!("server is {found}, expected {}", self.expect))),
            Err(_) => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.files.current().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.files.current().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.files.current().supported_verify_schemes()
    }
}

#[derive(Debug)]
struct OwnCertificate {
    files: Reloading<Arc<CertifiedKey>>,
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.files.current()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
