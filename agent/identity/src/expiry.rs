//! When certificates end. A fleet whose certificates end together goes silent together, so it is said long before.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::material::read_chain;
use crate::{Credentials, IdentityError};

const SECONDS_PER_DAY: f64 = 86_400.0;

/// The certificate of some [`Credentials`] that ends first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    pub path: PathBuf,
    /// Seconds since 1970 UTC.
    pub not_after_s: i64,
}

impl Expiry {
    /// Days from now, below 0 where it has ended.
    #[must_use]
    pub fn days_left(&self) -> f64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = self.not_after_s.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
        #[allow(clippy::cast_precision_loss)] // seconds of centuries are far below 2^53
        let days = left as f64 / SECONDS_PER_DAY;
        (days * 100.0).round() / 100.0
    }
}

impl Credentials {
    /// What ends first: a certificate of the own chain, or trust in the last authority of the file. An authority that ends
    /// beside a newer one does not count: that is how authorities are replaced.
    ///
    /// # Errors
    /// A file cannot be read, or holds no certificate.
    pub fn expiry(&self) -> Result<Expiry, IdentityError> {
        let ends = |what, path: &PathBuf| -> Result<Vec<i64>, IdentityError> {
            let ends: Vec<i64> = read_chain(what, path)?.iter().filter_map(not_after_s).collect();
            if ends.is_empty() { Err(IdentityError::Empty { path: path.clone() }) } else { Ok(ends) }
        };
        let own = ends("certificate", &self.cert)?.into_iter().fold(i64::MAX, i64::min);
        let trust = ends("CA", &self.ca)?.into_iter().fold(i64::MIN, i64::max);
        let (path, not_after_s) = if own <= trust { (&self.cert, own) } else { (&self.ca, trust) };
        Ok(Expiry { path: path.clone(), not_after_s })
    }
}

fn not_after_s(certificate: &CertificateDer<'_>) -> Option<i64> {
    Some(X509Certificate::from_der(certificate).ok()?.1.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use crate::pki;

    #[test]
    fn the_first_to_end_is_named_and_a_second_authority_takes_over() {
        let dir = std::env::temp_dir().join(format!("bcp-identity-expiry-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        pki::create_ca(&dir, "test").unwrap();
        let identity: Identity = "collector:a".parse().unwrap();
        let credentials = pki::issue(&dir, &identity, &["127.0.0.1".to_owned()]).unwrap();
        let expiry = credentials.expiry().unwrap();
        assert_eq!(expiry.path, credentials.cert);
        assert!((396.0..=397.0).contains(&expiry.days_left()), "{}", expiry.days_left());

        // The certificate as the only authority ends before nobody; beside the real one it does not count.
        let own = std::fs::read_to_string(&credentials.cert).unwrap();
        let authority = std::fs::read_to_string(&credentials.ca).unwrap();
        let swapped = Credentials { cert: credentials.ca.clone(), ca: dir.join("other.pem"), key: credentials.key };
        std::fs::write(&swapped.ca, &own).unwrap();
        assert_eq!(swapped.expiry().unwrap().path, swapped.ca);
        std::fs::write(&swapped.ca, own + &authority).unwrap();
        assert_eq!(swapped.expiry().unwrap().path, swapped.cert);

        std::fs::write(&swapped.ca, "").unwrap();
        assert!(swapped.expiry().unwrap_err().to_string().contains("other.pem"));
        let _ = std::fs::remove_dir_all(&dir);
    }

    #[test]
    fn one_that_has_ended_has_less_than_no_days() {
        assert!(Expiry { path: PathBuf::new(), not_after_s: 0 }.days_left() < -10_000.0);
        assert!(Expiry { path: PathBuf::new(), not_after_s: i64::MIN }.days_left() < 0.0);
    }
}
