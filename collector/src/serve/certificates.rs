//! When this collector's own certificates end: the day they do, it can neither agree nor be asked.
//!
//! Knows: files of credentials. Refuses to know: who hears of it.

use std::collections::BTreeSet;

use bcp_core::time::Mono;
use bcp_identity::{Credentials, Expiry};

use crate::Config;

/// How often the files are read again: they are replaced while the process runs.
const LOOK_EVERY_MS: u64 = 600_000;
/// Said this long before: a renewal touches every machine of a site.
const WARN_DAYS: f64 = 14.0;

/// The credentials of one collector.
#[derive(Debug)]
pub struct Certificates {
    credentials: Vec<Credentials>,
    looked: Option<Mono>,
    trouble: Option<String>,
}

impl Certificates {
    #[must_use]
    pub fn of(config: &Config) -> Certificates {
        let credentials = [Some(&config.control.credentials), config.mqtt.tls.as_ref()];
        Certificates { credentials: credentials.into_iter().flatten().cloned().collect(), looked: None, trouble: None }
    }

    /// What is wrong, or soon will be.
    pub fn trouble(&mut self, now: Mono) -> Option<String> {
        if self.looked.is_none_or(|looked| now.since(looked) >= LOOK_EVERY_MS) {
            self.looked = Some(now);
            let found: BTreeSet<String> = self.credentials.iter().filter_map(of_one).collect();
            self.trouble = (!found.is_empty()).then(|| found.into_iter().collect::<Vec<_>>().join("; "));
        }
        self.trouble.clone()
    }
}

fn of_one(credentials: &Credentials) -> Option<String> {
    match credentials.expiry() {
        Ok(expiry) => soon(&expiry),
        Err(cause) => Some(format!("not known when it ends: {}", crate::ingest::link::chain(&cause))),
    }
}

fn soon(expiry: &Expiry) -> Option<String> {
    let (days, path) = (expiry.days_left(), expiry.path.display());
    if days < 0.0 {
        return Some(format!("{path} has ended {:.1} days ago", -days));
    }
    (days < WARN_DAYS).then(|| format!("{path} ends in {days:.1} days"))
}

#[cfg(test)]
mod tests {
    use bcp_identity::{Identity, pki};

    use super::*;

    #[test]
    fn two_weeks_before_the_end_it_is_said() {
        let at = |days: i64| {
            let not_after_s = crate::serve::wall_now().0 / 1_000 + days * 86_400;
            soon(&Expiry { path: "own.pem".into(), not_after_s })
        };
        assert_eq!(at(15), None);
        assert_eq!(at(5).as_deref(), Some("own.pem ends in 5.0 days"));
        assert_eq!(at(-3).as_deref(), Some("own.pem has ended 3.0 days ago"));
    }

    #[test]
    fn files_are_read_again_after_a_while_and_one_that_is_gone_is_said() {
        let dir = std::env::temp_dir().join(format!("bcp-certificates-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        pki::create_ca(&dir, "test").unwrap();
        let identity: Identity = "collector:a".parse().unwrap();
        let credentials = pki::issue(&dir, &identity, &[]).unwrap();
        let mut certificates = Certificates { credentials: vec![credentials.clone()], looked: None, trouble: None };
        assert_eq!(certificates.trouble(Mono(0)), None);
        std::fs::remove_file(&credentials.cert).unwrap();
        assert_eq!(certificates.trouble(Mono(LOOK_EVERY_MS - 1)), None, "not looked again yet");
        let trouble = certificates.trouble(Mono(LOOK_EVERY_MS)).unwrap();
        assert!(trouble.contains("collector-a.pem"), "{trouble}");
        let _ = std::fs::remove_dir_all(&dir);
    }
}
