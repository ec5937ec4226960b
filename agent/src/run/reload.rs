//! A new configuration for a running agent.
//!
//! Invariants: a configuration with a fault changes nothing; what is the same before and after is not touched; what can
//! only be set at the start is refused by name.

use std::path::PathBuf;
use std::sync::Arc;

use bcp_wire::envelope::EventKind;
use tokio::sync::{mpsc, watch};

use crate::clock::wall_ms;
use crate::config::{self, Config, DeviceConfig};
use crate::outbound::Outbound;
use crate::publish::{self, Settings};
use crate::resolver::Resolver;
use crate::source::tasks::Sources;

/// Longest text of faults in an event or an answer.
const MAX_REASON_CHARS: usize = 2_000;

/// What the publisher is to know of a configuration.
pub fn settings(config: &Config) -> Settings {
    Settings {
        mqtt: config.mqtt.clone(),
        spool: config.spool.clone(),
        allow: config.commands.allow.clone(),
        config_hash: config.hash.clone(),
    }
}

/// What the listener for traps is to know of a configuration.
pub fn devices(config: &Config) -> Vec<Arc<DeviceConfig>> {
    config.devices.iter().cloned().map(Arc::new).collect()
}

/// The configuration in force, and whom to tell of another.
#[derive(Debug)]
pub struct Reloader {
    pub path: PathBuf,
    pub config: Config,
    pub settings: watch::Sender<Settings>,
    pub devices: watch::Sender<Vec<Arc<DeviceConfig>>>,
    pub outbound: mpsc::Sender<Outbound>,
    pub resolver: Resolver,
}

impl Reloader {
    /// One line for the service manager.
    pub fn summary(&self) -> String {
        let Config { site, agent, devices, checks, hash, .. } = &self.config;
        format!("{site}/{agent}: {} devices, {} checks, configuration {hash}", devices.len(), checks.len())
    }

    /// Reads the file again and does what it says.
    ///
    /// # Errors
    /// Every fault of the file; the old configuration stays in force.
    pub async fn reload(&mut self, sources: &mut Sources) -> Result<(), String> {
        let result = self.try_reload(sources).await;
        let text = match &result {
            Ok(change) => {
                tracing::info!(%change, hash = %self.config.hash, "configuration loaded");
                format!("configuration {} loaded: {change}", self.config.hash)
            }
            Err(reason) => {
                tracing::error!("configuration refused, the old one stays:\n{reason}");
                format!("configuration refused, {} stays: {reason}", self.config.hash)
            }
        };
        let text = text.chars().take(MAX_REASON_CHARS).collect();
        let event =
            Outbound::Event { device: self.config.agent.clone(), t_ms: wall_ms(), kind: EventKind::Notice { text } };
        // The publisher has gone: so has this process in a moment.
        let _ = self.outbound.send(event).await;
        result.map(drop).map_err(|reason| reason.chars().take(MAX_REASON_CHARS).collect())
    }

    async fn try_reload(&mut self, sources: &mut Sources) -> Result<String, String> {
        let path = self.path.clone();
        let next = tokio::task::spawn_blocking(move || config::load(&path))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|faults| faults.to_string())?;
        let fixed = fixed_keys(&self.config, &next);
        if !fixed.is_empty() {
            return Err(format!("{} cannot change while the agent runs; restart it", fixed.join(", ")));
        }
        publish::try_session(&next.mqtt).map_err(|error| format!("mqtt: {:#}", anyhow::Error::from(error)))?;
        self.resolver.resettle(&next.resolver);
        let change = sources.apply(&next).await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        self.config = next;
        self.settings.send_replace(settings(&self.config));
        self.devices.send_replace(devices(&self.config));
        Ok(change.to_string())
    }
}

/// Keys that differ and that only the start can set.
fn fixed_keys(now: &Config, next: &Config) -> Vec<&'static str> {
    let keys = [
        ("site", now.site != next.site),
        ("agent", now.agent != next.agent),
        ("state_dir", now.state_dir != next.state_dir),
        ("status_listen", now.status_listen != next.status_listen),
        ("gate", now.gate != next.gate),
        ("traps", now.traps != next.traps),
        // A gate looks names up by itself.
        ("resolver", now.gate.is_some() && now.resolver != next.resolver),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
