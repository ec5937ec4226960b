//! The MQTT session: birth and last will, in-flight window, watermark.
//!
//! Knows: numbering, the spool, which payload goes next, retained state and descriptions, commands. Refuses to know: how
//! a value was read and what a command does.
//!
//! Tasks: [`Publisher::run`], and under it the look for a second agent, then the session's event loop; both end with it.
//! Cancelling `run` loses nothing that the spool has.
//!
//! Invariants:
//! * a payload is stored before it is handed to the client, and leaves the spool only when the home collector's watermark
//!   covers it;
//! * nothing here waits for the broker: what does not fit the window stays in the spool;
//! * a second process under the same id ends this one, with an error that says so.

mod compose;
mod delivery;
mod ending;
mod hearing;
pub(crate) mod incarnation;
mod intake;
mod outbox;
mod probe;
mod run;
mod session;
mod setup;

use std::path::PathBuf;

use bcp_identity::Credentials;
use serde::Deserialize;

use crate::document::KeyFault;
use crate::resolver::Resolver;
use crate::span::Span;
pub use run::Publisher;
pub use session::SessionError;
pub use setup::{CommandRequest, PublishError, PublishFigures, PublisherSetup, Settings};

/// `[mqtt]`: the home broker and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// `host:port` of the home broker.
    pub broker: String,
    #[serde(default)]
    pub username: Option<String>,
    /// File that holds the password; never the password itself.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub tls: Option<Credentials>,
    /// The broker publishes the will after one and a half of these without a packet.
    #[serde(default = "default_keep_alive")]
    pub keep_alive: Span,
    /// Most payloads handed to the client that the broker has not acknowledged.
    #[serde(default = "default_in_flight")]
    pub in_flight: u16,
    /// A state is written at least this often.
    #[serde(default = "default_state_interval")]
    pub state_interval: Span,
    /// A payload that the home collector has not committed after this long is sent again.
    #[serde(default = "default_resend_after")]
    pub resend_after: Span,
    /// Most backlog payloads per second, so that a long outage does not flood the link.
    #[serde(default = "default_backlog_per_s")]
    pub backlog_per_s: u32,
}

/// `[commands]`: verbs of `cmd` that this agent obeys. All others are denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandsConfig {
    #[serde(default)]
    pub allow: Vec<AllowedVerb>,
}

/// A verb of `cmd` that a configuration can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllowedVerb {
    Rebirth,
    PollNow,
    Reload,
    LogLevel,
}

const fn default_keep_alive() -> Span {
    Span::from_millis(5_000)
}
const fn default_in_flight() -> u16 {
    128
}
const fn default_state_interval() -> Span {
    Span::from_millis(10_000)
}
const fn default_resend_after() -> Span {
    Span::from_millis(10_000)
}
const fn default_backlog_per_s() -> u32 {
    4_000
}

/// Reads everything a session needs, without connecting.
///
/// # Errors
/// A certificate or the password cannot be read.
pub fn try_session(config: &MqttConfig) -> Result<(), SessionError> {
    session::build(config, &Resolver::default(), "bcp-check", None).map(drop)
}

impl MqttConfig {
    /// Says what cannot work.
    #[must_use]
    pub fn faults(&self) -> Vec<KeyFault> {
        let mut faults: Vec<KeyFault> = self.numbers_out_of_range().into_iter().map(KeyFault::from).collect();
        let port = self.broker.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
            let usual_port = if self.tls.is_some() { 8883 } else { 1883 };
            let bare = !self.broker.is_empty() && !self.broker.contains(':');
            faults.push(KeyFault {
                key: "broker".to_owned(),
                message: format!("`{}` is not host:port", self.broker),
                help: bare.then(|| format!("did you mean `{}:{usual_port}`?", self.broker)),
            });
        }
        faults
    }

    fn numbers_out_of_range(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(1_000..=600_000).contains(&self.keep_alive.as_millis()) {
            faults.push(("keep_alive", "must be between 1s and 10m".to_owned()));
        }
        if !(1..=1_024).contains(&self.in_flight) {
            faults.push(("in_flight", "must be between 1 and 1024".to_owned()));
        }
        if self.backlog_per_s == 0 {
            faults.push(("backlog_per_s", "must be at least 1".to_owned()));
        }
        if !(1_000..=3_600_000).contains(&self.state_interval.as_millis()) {
            faults.push(("state_interval", "must be between 1s and 1h".to_owned()));
        }
        if !(1_000..=3_600_000).contains(&self.resend_after.as_millis()) {
            faults.push(("resend_after", "must be between 1s and 1h".to_owned()));
        }
        faults
    }
}
