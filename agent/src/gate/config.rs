//! `[gate]`: what a gate guards and whom it asks.

mod check;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use bcp_identity::Credentials;
pub use bcp_wire::control::Loss;
use bcp_wire::{Id, Site};
use serde::Deserialize;

use super::budget::Budget;
use super::watchdog::WatchdogConfig;
use crate::act::Actuator;
use crate::span::Span;

/// The `[gate]` section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// Where other gates ask for promises and relays.
    pub listen: SocketAddr,
    /// PEM files of `agent:<site>:<id>`.
    pub credentials: Credentials,
    /// Base URL of every collector's control listener. All are asked at once.
    pub collectors: BTreeMap<Site, String>,
    /// Where gate and warden keep what a stop must not wait for a disk for: a directory in memory (tmpfs) that is there for both
    /// of them and outlives their restarts.
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// Other gates of this site, for relay.
    #[serde(default)]
    pub siblings: Vec<SiblingGate>,
    /// Every gate of another site that could be promoted: the failsafe needs all of them.
    #[serde(default)]
    pub peers: Vec<PeerGate>,
    /// Operators whose orders are taken without a collector, two at a time: name and Ed25519 public key, in hexadecimal.
    #[serde(default)]
    pub operators: BTreeMap<Id, String>,
    /// Must equal the collectors' policy.
    #[serde(default)]
    pub timing: TimingChoice,
    /// For tickets with `loss = "fence"`; the warden alone opens it.
    #[serde(default)]
    pub watchdog: Option<WatchdogConfig>,
    #[serde(default, rename = "ticket")]
    pub tickets: Vec<TicketConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiblingGate {
    pub id: Id,
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerGate {
    pub site: Site,
    pub id: Id,
    pub url: String,
}

/// One ticket that this gate acts for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketConfig {
    pub id: Id,
    /// What is done when the lease has run out, and when the service is to stop. Must equal the collectors' policy.
    #[serde(default)]
    pub loss: Loss,
    /// Program and arguments, run once per step; or else `actuators`.
    #[serde(default)]
    pub script: Vec<String>,
    /// Built-in actuators: in this order for what brings the service up, in reverse for what takes it down.
    #[serde(default)]
    pub actuators: Vec<Actuator>,
    /// Longest a step may take; `stop` and `verify-stopped` count as one, and have three quarters of `stop_max`: the rest is
    /// for the warden to notice and to take over.
    #[serde(default = "default_step_timeout")]
    pub step_timeout: Span,
    #[serde(default)]
    pub facts_url: Option<String>,
    #[serde(default)]
    pub sync_url: Option<String>,
    /// Ask other sites' gates when no collector answers.
    #[serde(default = "yes")]
    pub failsafe: bool,
}

impl TicketConfig {
    /// Where the service is asked and told, with the keys.
    fn urls(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let urls = [("facts_url", &self.facts_url), ("sync_url", &self.sync_url)];
        urls.into_iter().filter_map(|(key, url)| Some((key, url.as_ref()?)))
    }
}

fn default_runtime_dir() -> PathBuf {
    PathBuf::from("/run/bcp-agent")
}
const fn default_step_timeout() -> Span {
    Span::from_millis(3_000)
}
const fn yes() -> bool {
    true
}

/// A named profile or the numbers themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TimingChoice {
    Named(TimingName),
    Table(GateTiming),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimingName {
    #[default]
    Metro,
    Wide,
    Fast,
}

impl Default for TimingChoice {
    fn default() -> TimingChoice {
        TimingChoice::Named(TimingName::Metro)
    }
}

impl TimingChoice {
    #[must_use]
    pub const fn resolve(self) -> GateTiming {
        match self {
            TimingChoice::Named(TimingName::Metro) => GateTiming::METRO,
            TimingChoice::Named(TimingName::Wide) => GateTiming::WIDE,
            TimingChoice::Named(TimingName::Fast) => GateTiming::FAST,
            TimingChoice::Table(timing) => timing,
        }
    }
}

/// The numbers of a timing profile that a gate needs, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateTiming {
    pub tick_ms: u64,
    pub renew_ms: u64,
    pub ttl_holder_ms: u64,
    pub ttl_ms: u64,
    pub acquire_after_ms: u64,
    pub stop_max_ms: u64,
}

impl GateTiming {
    pub const METRO: GateTiming = GateTiming {
        tick_ms: 250,
        renew_ms: 1_000,
        ttl_holder_ms: 10_000,
        ttl_ms: 11_000,
        acquire_after_ms: 4_000,
        stop_max_ms: 4_000,
    };
    pub const WIDE: GateTiming = GateTiming {
        tick_ms: 500,
        renew_ms: 3_000,
        ttl_holder_ms: 20_000,
        ttl_ms: 22_000,
        acquire_after_ms: 10_000,
        stop_max_ms: 10_000,
    };
    pub const FAST: GateTiming = GateTiming {
        tick_ms: 100,
        renew_ms: 300,
        ttl_holder_ms: 3_000,
        ttl_ms: 3_200,
        acquire_after_ms: 1_500,
        stop_max_ms: 1_400,
    };

    /// How long a promise not to promote holds: (ttl_holder + stop_max) * (1 + rho) / (1 - rho) and a tick, with
    /// rho = 1 %. Rounded up.
    #[must_use]
    pub const fn promise_ms(self) -> u64 {
        let stopped_ms = self.ttl_holder_ms.saturating_add(self.stop_max_ms);
        stopped_ms.saturating_mul(101).div_ceil(99).saturating_add(self.tick_ms)
    }

    #[must_use]
    pub const fn budget(self) -> Budget {
        Budget { stop_max_ms: self.stop_max_ms }
    }

    fn longest_ms(self) -> u64 {
        let GateTiming { tick_ms, renew_ms, ttl_holder_ms, ttl_ms, acquire_after_ms, stop_max_ms } = self;
        [tick_ms, renew_ms, ttl_holder_ms, ttl_ms, acquire_after_ms, stop_max_ms].into_iter().fold(0, u64::max)
    }

    /// The lease rule that makes two active sides impossible at 1 % drift.
    #[must_use]
    pub const fn is_safe(self) -> bool {
        self.promise_ms() < self.ttl_ms.saturating_add(self.acquire_after_ms)
    }
}

impl GateConfig {
    /// True where a service is asked or told something by https.
    #[must_use]
    pub fn asks_by_https(&self) -> bool {
        self.tickets.iter().flat_map(TicketConfig::urls).any(|(_, url)| url.starts_with("https://"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{GateConfig, GateTiming};
    use crate::act::Actuator;

    #[test]
    fn a_fence_needs_a_watchdog_that_is_quick_enough() {
        let keys = |gate: &str, loss: &str| {
            let text = format!(
                "listen = \"127.0.0.1:1\"\ncredentials = {{ ca = \"a\", cert = \"b\", key = \"c\" }}\n\
                 collectors = {{ a = \"https://127.0.0.1:1\" }}\n{gate}\n[[ticket]]\nid = \"rx\"\nscript = [\"/bin/true\"]\n{loss}\n"
            );
            let faults = toml::from_str::<GateConfig>(&text).unwrap().faults();
            faults.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let fence = "loss = \"fence\"";
        assert!(keys("watchdog = { timeout = \"4s\" }", fence).is_empty());
        assert!(keys("", "loss = \"demote\"").is_empty() && keys("", "loss = \"freeze\"").is_empty());
        assert_eq!(keys("", fence), ["watchdog"]);
        assert_eq!(keys("watchdog = { timeout = \"3s\" }", "loss = \"stop\""), ["watchdog"]);
        assert_eq!(
            keys("watchdog = { timeout = \"5s\", path = \"watchdog\" }", fence),
            ["watchdog.timeout", "watchdog.path"]
        );
        assert_eq!(keys("watchdog = { timeout = \"999ms\" }", fence), ["watchdog.timeout"]);
    }

    #[test]
    fn actuators_are_a_closed_set() {
        let ticket = |actuators: &str| {
            toml::from_str::<super::TicketConfig>(&format!("id = \"rx\"\nactuators = [ {actuators} ]\n"))
        };
        let good = ticket(r#"{ kind = "systemd", unit = "rx.service" }"#).unwrap();
        assert_eq!(good.actuators[0].name(), "rx.service");
        for (actuator, says) in [
            (r#"{ kind = "sysv", unit = "rx" }"#, "unknown variant `sysv`"),
            (r#"{ unit = "rx.service" }"#, "missing field `kind`"),
            (r#"{ kind = "systemd", unti = "rx.service" }"#, "unknown field `unti`"),
            (r#"{ kind = "systemd" }"#, "missing field `unit`"),
        ] {
            let error = ticket(actuator).unwrap_err().to_string();
            assert!(error.contains(says), "{actuator}: {error}");
        }
    }

    #[test]
    fn every_profile_is_safe() {
        for timing in [GateTiming::METRO, GateTiming::WIDE, GateTiming::FAST] {
            assert!(timing.is_safe(), "{timing:?}");
        }
        assert_eq!(GateTiming::METRO.promise_ms(), 14_533);
        let endless = GateTiming { ttl_holder_ms: u64::MAX / 2, renew_ms: u64::MAX / 2, ..GateTiming::METRO };
        assert!(!endless.is_safe() && endless.longest_ms() > super::check::TIMING_MAX_MS);
    }

    #[test]
    fn reads_the_section() {
        let config: GateConfig = toml::from_str(
            r#"
            listen = "127.0.0.1:18010"
            credentials = { ca = "ca.pem", cert = "c.pem", key = "c.key" }
            collectors = { a = "https://127.0.0.1:18002", b = "https://127.0.0.1:18530" }
            siblings = []
            peers = [ { site = "b", id = "host-b", url = "https://127.0.0.1:18532" } ]
            timing = "metro"
            [[ticket]]
            id = "prescriptions"
            loss = "stop"
            script = ["/bin/true"]
            step_timeout = "3s"
            "#,
        )
        .unwrap();
        assert_eq!(config.timing.resolve(), GateTiming::METRO);
        assert_eq!(config.runtime_dir, std::path::Path::new("/run/bcp-agent"));
        assert!(config.faults().is_empty());
        let mut wrong = config.clone();
        wrong.tickets[0].facts_url = Some("127.0.0.1:80/facts".to_owned());
        assert_eq!(wrong.faults()[0].0, "ticket[0].facts_url");
        assert!(!config.asks_by_https());
        wrong.tickets[0].sync_url = Some("https://127.0.0.1/sync".to_owned());
        assert!(wrong.asks_by_https());
        let mut built_in = config.clone();
        built_in.tickets[0].actuators = vec![Actuator::Systemd(crate::act::systemd::Systemd {
            unit: "rx".to_owned(),
            systemctl: "systemctl".into(),
        })];
        let keys: Vec<String> = built_in.faults().into_iter().map(|(key, _)| key).collect();
        let at = |key: &str| format!("ticket[0].{key}");
        assert_eq!(keys, [at("script"), at("actuators[0].unit"), at("actuators[0].systemctl")]);
        built_in.tickets[0] =
            super::TicketConfig { script: Vec::new(), actuators: Vec::new(), ..config.tickets[0].clone() };
        assert!(built_in.faults()[0].1.contains("neither a program nor `actuators`"));
        let fast = GateConfig { timing: super::TimingChoice::Named(super::TimingName::Fast), ..config };
        let faults = fast.faults();
        let [(key, reason)] = faults.as_slice() else { panic!("{faults:?}") };
        assert_eq!(key, "ticket[0].step_timeout");
        assert!(reason.contains("3000 ms is not between 1 and 1050 ms"), "{reason}");
    }
}
