//! Application checks: is the service there, and how fast does it answer.
//!
//! Knows: one request at a time, always on a new connection, as a new user would come. Refuses to know: whether a
//! service is down; that takes several checks from several places.
//!
//! | module | asks |
//! |---|---|
//! | [`http`] | a URL: status, body |
//! | [`tls`] | a TLS port: chain, name, days until the certificate expires |
//! | [`dns`] | a name server: addresses of a name |
//! | [`tcp`] | a port: the greeting |
//! | [`script`] | a program |
//!
//! A check never backs off: "down" is a good reading, and the first good answer must be seen at once.

pub mod dns;
mod http;
mod script;
mod tcp;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bcp_wire::presence::PointMeta;
use bcp_wire::{BadReason, DeviceMeta, PointName, Value, WIRE_VERSION};
use rustls::ClientConfig;

use crate::config::{CheckConfig, CheckProbe};
use crate::outbound::Sample;
use crate::resolver::Resolver;
use crate::schedule::Outcome;
use crate::source::{Polled, transition};
pub use tls::{Trust, TrustError};

/// Why a check cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("failed to set up trust for check {check}")]
    Trust { check: bcp_wire::Id, source: TrustError },
    #[error("failed to build the HTTP client of check {check}")]
    Client { check: bcp_wire::Id, source: reqwest::Error },
}

/// One check.
#[derive(Debug)]
pub struct Check {
    config: CheckConfig,
    tools: Tools,
    last: Option<&'static str>,
    names: Names,
    resolver: Resolver,
}

/// What the probe works with.
#[derive(Debug)]
enum Tools {
    Http { client: reqwest::Client, expiry: tls::Expiry },
    Tls { client: Arc<ClientConfig>, expiry: tls::Expiry },
    None,
}

#[derive(Debug)]
struct Names {
    state: PointName,
    latency: PointName,
    status: PointName,
    days_left: PointName,
}

/// What one try gave.
#[derive(Debug)]
struct Tried {
    verdict: Verdict,
    latency: Option<Duration>,
    status: Option<u16>,
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Up,
    Degraded,
    Down,
}

impl Tried {
    const fn up() -> Tried {
        Tried { verdict: Verdict::Up, latency: None, status: None, trouble: None }
    }

    const fn down(trouble: String) -> Tried {
        Tried { verdict: Verdict::Down, latency: None, status: None, trouble: Some(trouble) }
    }

    /// It works, but not as it should.
    fn degrade(&mut self, trouble: String) {
        if self.verdict == Verdict::Up {
            self.verdict = Verdict::Degraded;
            self.trouble = Some(trouble);
        }
    }

    const fn state(&self) -> &'static str {
        match self.verdict {
            Verdict::Up => "up",
            Verdict::Degraded => "degraded",
            Verdict::Down => "down",
        }
    }
}

/// The last cause says what happened ("connection refused"); what is before it repeats the address.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

impl Check {
    /// # Errors
    /// Its authorities cannot be read.
    pub fn new(config: CheckConfig, trust: &Trust, resolver: &Resolver) -> Result<Check, CheckError> {
        let trusting = |encrypted, ca| {
            trust.client(encrypted, ca).map_err(|source| CheckError::Trust { check: config.id.clone(), source })
        };
        let tools = match &config.probe {
            CheckProbe::Http(http) => {
                let (tls, expiry) = trusting(http.url.starts_with("https:"), http.ca.as_ref())?;
                let client = http::client(tls, resolver)
                    .map_err(|source| CheckError::Client { check: config.id.clone(), source })?;
                Tools::Http { client, expiry }
            }
            CheckProbe::Tls(probe) => {
                let (client, expiry) = trusting(true, probe.ca.as_ref())?;
                Tools::Tls { client: Arc::new(client), expiry }
            }
            CheckProbe::Tcp(_) | CheckProbe::Dns(_) | CheckProbe::Script(_) => Tools::None,
        };
        let name = |text: &str| text.parse().expect("the names of the contract are point names");
        let names = Names {
            state: name("check.state"),
            latency: name("check.latency"),
            status: name("check.http.status"),
            days_left: name("check.tls.days-left"),
        };
        Ok(Check { config, tools, last: None, names, resolver: resolver.clone() })
    }

    #[must_use]
    pub fn config(&self) -> &CheckConfig {
        &self.config
    }

    const fn has_status(&self) -> bool {
        matches!(self.config.probe, CheckProbe::Http(_))
    }

    fn has_expiry(&self) -> bool {
        match &self.config.probe {
            CheckProbe::Http(http) => http.url.starts_with("https:"),
            CheckProbe::Tls(_) => true,
            CheckProbe::Tcp(_) | CheckProbe::Dns(_) | CheckProbe::Script(_) => false,
        }
    }

    #[must_use]
    pub fn meta(&self) -> DeviceMeta {
        let interval_ms = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        let source = self.config.probe.target();
        let point = |name: &PointName, unit: &str| PointMeta {
            name: name.clone(),
            unit: unit.to_owned(),
            interval_ms,
            source: Some(source.clone()),
        };
        let mut points = vec![point(&self.names.state, ""), point(&self.names.latency, "ms")];
        if self.has_status() {
            points.push(point(&self.names.status, "1"));
        }
        if self.has_expiry() {
            points.push(point(&self.names.days_left, "d"));
        }
        DeviceMeta {
            v: WIRE_VERSION,
            i: 0,
            device: self.config.id.clone(),
            kind: "check".to_owned(),
            profile: None,
            firmware: None,
            firmware_proven: true,
            parent: Some(self.config.service.clone()),
            location: Some(self.config.target_site.map_or_else(|| "users".to_owned(), |site| site.to_string())),
            points,
        }
    }

    pub async fn poll(&mut self) -> Polled {
        let (mut tried, days_left) = match (&self.config.probe, &self.tools) {
            (CheckProbe::Http(probe), Tools::Http { client, expiry }) => {
                let mut tried = http::try_once(client, probe).await;
                let days_left = expiry.take_days_left();
                tls::judge_expiry(&mut tried, days_left, probe.min_days);
                (tried, days_left)
            }
            (CheckProbe::Tls(probe), Tools::Tls { client, expiry }) => {
                let mut tried = tls::try_once(client, probe, &self.resolver).await;
                let days_left = expiry.take_days_left();
                tls::judge_expiry(&mut tried, days_left, probe.min_days);
                (tried, days_left)
            }
            (CheckProbe::Tcp(probe), _) => (tcp::try_once(probe, &self.resolver).await, None),
            (CheckProbe::Dns(probe), _) => (dns::try_once(probe).await, None),
            (CheckProbe::Script(probe), _) => (script::try_once(probe).await, None),
            // `new` pairs them.
            (CheckProbe::Http(_) | CheckProbe::Tls(_), _) => (Tried::down("not set up".to_owned()), None),
        };
        if let (Some(bound), Some(latency)) = (self.config.degraded_after, tried.latency)
            && latency > bound
        {
            tried.degrade(format!("answered after {latency:.0?}, later than {bound:?}"));
        }
        self.told(tried, days_left)
    }

    fn told(&mut self, tried: Tried, days_left: Option<f64>) -> Polled {
        let state = tried.state();
        let transition = transition(&self.names.state, self.last, state);
        self.last = Some(state);
        let mut samples: Vec<Sample> = Vec::with_capacity(4);
        samples.push((self.names.state.clone(), 0, Ok(Value::Text(state.to_owned()))));
        let latency = tried.latency.and_then(|latency| Value::num((latency.as_secs_f64() * 1e6).round() / 1e3));
        samples.push((self.names.latency.clone(), 0, latency.ok_or(BadReason::Timeout)));
        if self.has_status() {
            let status = tried.status.map(|status| Value::Num(f64::from(status)));
            samples.push((self.names.status.clone(), 0, status.ok_or(BadReason::Timeout)));
        }
        if self.has_expiry() {
            let days = days_left.and_then(Value::num);
            samples.push((self.names.days_left.clone(), 0, days.ok_or(BadReason::Timeout)));
        }
        Polled {
            outcome: Outcome::Answered,
            samples,
            meta: None,
            trouble: tried.trouble,
            rtt: tried.latency,
            transition,
        }
    }
}

#[cfg(test)]
mod tests;
