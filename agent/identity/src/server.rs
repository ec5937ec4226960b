//! HTTPS server that knows who is asking.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::material::{Credentials, Material, Reloading, provider};
use crate::{Identity, IdentityError};

/// Connections at once; a site has tens of gates and two peers, the rest is a fault or an attack.
const MAX_CONNECTIONS: usize = 512;
/// A peer that does not finish its handshake in this time is not one of ours.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// For a request head, and for the idle time between two of them.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 32;
/// Read buffer per connection, and so the longest request head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// A connection is asked to close after this time, so that an expired or replaced certificate stops counting.
const CONNECTION_AGE: Duration = Duration::from_secs(3_600);
/// Time that open requests get to end when the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// After a failed accept (no file descriptors left): a short pause in place of a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Refused connections are counted and said this often.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Serves `app` over TLS 1.3 with client certificates until `shutdown` resolves, then drains.
///
/// Every request carries [`Identity`] as an extension. Bodies are bounded by the limits of `app` (axum's default is 2 MiB).
pub async fn serve(
    listener: TcpListener,
    credentials: &Credentials,
    app: axum::Router,
    shutdown: impl Future,
) -> Result<(), IdentityError> {
    let files = Reloading::open(credentials, server_config)?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut refused = Refused { since_said: 0, said: None };
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            _ = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Err(cause) => {
                    tracing::warn!(%cause, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Ok((stream, from)) => match Arc::clone(&slots).try_acquire_owned() {
                    Err(_) => refused.count(),
                    Ok(slot) => {
                        let (config, app, stopping) = (files.current(), app.clone(), stopping.clone());
                        connections.spawn(async move {
                            if let Err(cause) = connection(stream, config, app, stopping).await {
                                tracing::debug!(%from, %cause, "connection ended");
                            }
                            drop(slot);
                        });
                    }
                },
            },
        }
    }
    drop(listener);
    let _ = stop.send(true);
    let drained = tokio::time::timeout(DRAIN_LIMIT, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        connections.abort_all();
    }
    Ok(())
}

struct Refused {
    since_said: u64,
    said: Option<Instant>,
}

impl Refused {
    fn count(&mut self) {
        self.since_said += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            tracing::warn!(refused = self.since_said, limit = MAX_CONNECTIONS, "too many connections at once");
            self.since_said = 0;
            self.said = Some(Instant::now());
        }
    }
}

fn server_config(credentials: &Credentials, material: &Material) -> Result<ServerConfig, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&material.roots), provider())
        .build()
        .map_err(|cause| IdentityError::Verifier { path: credentials.ca.clone(), cause })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|cause| IdentityError::Tls { path: credentials.cert.clone(), cause })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.key))));
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("handshake took longer than {limit:?}", limit = HANDSHAKE_LIMIT)]
    Slow,
    #[error("handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("client has no identity: {0}")]
    NoIdentity(crate::IdentityTextError),
    #[error("client showed no certificate")]
    NoCertificate,
    #[error("{0}")]
    Http(hyper::Error),
}

async fn connection(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    app: axum::Router,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(config);
    let tls = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream))
        .await
        .map_err(|_| ConnectionError::Slow)?
        .map_err(ConnectionError::Handshake)?;
    let certificate =
        tls.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or(ConnectionError::NoCertificate)?;
    let identity = Identity::from_certificate(certificate).map_err(ConnectionError::NoIdentity)?;
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(identity.clone());
        app.clone().oneshot(request.map(Body::new))
    });
    let mut http = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(tls), service)
    );
    tokio::select! {
        ended = http.as_mut() => return ended.map_err(ConnectionError::Http),
        _ = stopping.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(CONNECTION_AGE) => {}
    }
    http.as_mut().graceful_shutdown();
    http.await.map_err(ConnectionError::Http)
}
