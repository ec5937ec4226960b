//! An identity as a value, as text and as the URI name of a certificate.

use std::fmt;
use std::str::FromStr;

use bcp_wire::{Id, IdError, Site};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Identity {
    Agent { site: Site, id: Id },
    Collector { site: Site },
    Operator { name: Id },
}

/// Why a text or certificate names no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityTextError {
    #[error("an identity is agent:<site>:<id>, collector:<site> or operator:<name>")]
    Form,
    #[error("part of an identity is malformed")]
    Part(#[from] IdError),
    #[error("the certificate cannot be parsed")]
    Certificate,
    #[error("the certificate has {count} URI names; exactly one is needed")]
    UriNames { count: usize },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Agent { site, id } => write!(f, "agent:{site}:{id}"),
            Identity::Collector { site } => write!(f, "collector:{site}"),
            Identity::Operator { name } => write!(f, "operator:{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityTextError;
    fn from_str(text: &str) -> Result<Self, IdentityTextError> {
        let mut parts = text.splitn(4, ':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("agent"), Some(site), Some(id), None) => Ok(Identity::Agent { site: site.parse()?, id: id.parse()? }),
            (Some("collector"), Some(site), None, None) => Ok(Identity::Collector { site: site.parse()? }),
            (Some("operator"), Some(name), None, None) => Ok(Identity::Operator { name: name.parse()? }),
            _ => Err(IdentityTextError::Form),
        }
    }
}

impl TryFrom<String> for Identity {
    type Error = IdentityTextError;
    fn try_from(text: String) -> Result<Self, IdentityTextError> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> String {
        identity.to_string()
    }
}

impl Identity {
    /// Stem of its file names: `agent-a-host-a`.
    #[must_use]
    pub fn file_stem(&self) -> String {
        self.to_string().replace(':', "-")
    }

    /// The one identity of a certificate (DER) whose chain was verified by the caller.
    pub fn from_certificate(der: &[u8]) -> Result<Identity, IdentityTextError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityTextError::Certificate)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityTextError::Certificate)?;
        let mut uris = Vec::new();
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            if let GeneralName::URI(uri) = name {
                uris.push(*uri);
            }
        }
        match uris.as_slice() {
            [uri] => uri.parse(),
            _ => Err(IdentityTextError::UriNames { count: uris.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_refuses_the_rest() {
        for text in ["agent:a:host-a", "collector:w", "operator:op-1"] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        for text in ["", "agent:a", "agent:x:y", "collector:a:b", "operator:", "operator:Op", "agent:a:b:c", "root"] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
