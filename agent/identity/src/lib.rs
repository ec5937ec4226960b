//! Identities of the control plane: certificates, mutual TLS, and the HTTP client and server that check them.
//!
//! Knows: how an identity is written into a certificate (one URI name, `agent:<site>:<id>`, `collector:<site>` or
//! `operator:<name>`), how both ends prove it, and the bounds of a connection. Refuses to know: what an identity may do;
//! that is decided where the request is understood.
//!
//! Invariants:
//! * TLS 1.3 only, and both ends show a certificate of the one CA; sessions are never resumed, so every connection is
//!   checked against the files of now;
//! * a client talks only to the identity it expects, not merely to some holder of a certificate;
//! * a request reaches the application with exactly one [`Identity`] in its extensions, taken from the certificate;
//! * changed files are used for the next connection without a restart; files that cannot be read keep the last good ones.
//!
//! Tasks: one per connection, owned by [`serve`] and ended by it.

mod client;
mod expiry;
mod identity;
mod material;
pub mod pki;
mod server;

pub use client::{http_client, http_client_with, plain_http};
pub use expiry::Expiry;
pub use identity::{Identity, IdentityTextError};
pub use material::Credentials;
pub use server::serve;

use std::path::PathBuf;

/// Why credentials could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("failed to read {what} from {path}", path = path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: rustls_pki_types::pem::Error,
    },
    #[error("no certificate in {path}", path = path.display())]
    Empty { path: PathBuf },
    #[error("failed to look at {path}", path = path.display())]
    Stat {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("CA file {path} does not make a verifier", path = path.display())]
    Verifier {
        path: PathBuf,
        #[source]
        cause: rustls::server::VerifierBuilderError,
    },
    #[error("TLS refuses certificate {path}", path = path.display())]
    Tls {
        path: PathBuf,
        #[source]
        cause: rustls::Error,
    },
    #[error("certificate carries no usable identity")]
    NoIdentity(#[source] IdentityTextError),
    #[error("failed to build the HTTP client")]
    Client(#[source] reqwest::Error),
}
