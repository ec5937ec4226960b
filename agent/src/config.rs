//! The agent's configuration: a TOML file to checked values.
//!
//! Knows: the file's keys and which of them contradict each other. Refuses to know: sockets; the sections of the
//! MQTT session, the spool and the gate belong to their modules and are only embedded here. Every fault is collected;
//! a configuration with one is refused as a whole.

mod check;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bcp_identity::Credentials;
use bcp_wire::names::DEVICE_KINDS;
use bcp_wire::{Id, Site};

use crate::document::{Document, Fault, Faults, KeyFault, Section};
use crate::gate::config::GateConfig;
use crate::profile::{self, Profile, ProfileError};
use crate::publish::{CommandsConfig, MqttConfig};
pub use crate::source::host::config::HostConfig;
use crate::source::host::config::host;
pub use crate::source::modbus::config::ModbusLink;
use crate::source::modbus::config::{modbus_link, shared_faults};
pub use crate::source::snmp::config::{Access, SnmpLink};
use crate::source::snmp::config::{share_users, snmp_link};
use crate::source::traps::config::{TrapsConfig, traps};
use crate::span::Span;
use crate::spool::SpoolConfig;
pub use check::{CheckConfig, CheckProbe, DnsProbe, HttpProbe, ScriptProbe, TcpProbe, TlsProbe};

/// Intervals outside of this are a slip: faster than any device answers, or too slow to be monitoring.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;
/// Longest answer to wait for.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=30_000;
/// Most devices and checks of one agent: the target is 500, and a file with more is probably generated wrongly.
const MAX_DEVICES: usize = 5_000;
/// Name servers after the first few are never asked.
const MAX_NAME_SERVERS: usize = 4;
/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 8 << 20;

#[derive(Debug, Clone)]
pub struct Config {
    pub site: Site,
    pub agent: Id,
    pub state_dir: PathBuf,
    pub profiles_dir: Option<PathBuf>,
    pub status_listen: Option<SocketAddr>,
    /// Name servers in place of those of `/etc/resolv.conf`.
    pub resolver: Vec<SocketAddr>,
    pub host: Option<HostConfig>,
    pub devices: Vec<DeviceConfig>,
    pub checks: Vec<CheckConfig>,
    pub traps: Option<TrapsConfig>,
    pub mqtt: MqttConfig,
    pub spool: SpoolConfig,
    pub commands: CommandsConfig,
    pub gate: Option<GateConfig>,
    /// First 16 hexadecimal digits of the SHA-256 of the file.
    pub hash: String,
}

impl Config {
    /// All files by which the agent proves who it is.
    #[must_use]
    pub fn credentials(&self) -> Vec<Credentials> {
        self.mqtt.tls.iter().chain(self.gate.as_ref().map(|gate| &gate.credentials)).cloned().collect()
    }
}

#[derive(Debug, Clone)]
pub struct DeviceConfig {
    pub id: Id,
    pub kind: String,
    pub profile: Arc<Profile>,
    pub location: Option<String>,
    pub parent: Option<Id>,
    pub interval: Duration,
    pub link: Link,
}

impl PartialEq for DeviceConfig {
    /// Two profiles are the same where their hashes are.
    fn eq(&self, other: &DeviceConfig) -> bool {
        let DeviceConfig { id, kind, profile, location, parent, interval, link } = self;
        *id == other.id
            && *kind == other.kind
            && profile.reference == other.profile.reference
            && *location == other.location
            && *parent == other.parent
            && *interval == other.interval
            && *link == other.link
    }
}

/// How a device is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    Modbus(ModbusLink),
    Snmp(SnmpLink),
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Every fault of the file, and of the profiles it uses.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let file = path.display().to_string();
    let unreadable = |error: std::io::Error| {
        let message = format!("the configuration cannot be read: {error}");
        Faults(vec![Fault { file: file.clone(), line: 0, column: 0, key: String::new(), message, help: None }])
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE_BYTES {
        return Err(unreadable(std::io::Error::other(format!("{size} bytes are more than a configuration has"))));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&file, &text)
}

/// Checks the text of a configuration; `file` is how it is called in faults.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &str, text: &str) -> Result<Config, Faults> {
    let document = Document::new(file, text);
    let mut reader = Reader::default();
    let config = reader.read(&document, text);
    let mut faults = document.into_faults();
    faults.append(&mut reader.profile_faults);
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(Faults(faults)),
    }
}

#[derive(Default)]
struct Reader {
    profiles: BTreeMap<String, Option<Arc<Profile>>>,
    profile_faults: Vec<Fault>,
    /// Where each device id was first used.
    ids: BTreeMap<Id, String>,
}

impl Reader {
    fn read(&mut self, document: &Document<'_>, text: &str) -> Option<Config> {
        let mut root = document.root();
        let site: Option<Site> = root.required("site", "\"a\"");
        let agent: Option<Id> = root.required("agent", "\"gw-a\"");
        let state_dir: Option<PathBuf> = root.required("state_dir", "\"/var/lib/bcp-agent\"");
        let profiles_dir: Option<PathBuf> = root.optional("profiles_dir");
        if profiles_dir.as_ref().is_some_and(|dir| !dir.is_dir()) {
            root.fault("profiles_dir", "there is no such directory", None);
        }
        let status_listen: Option<SocketAddr> = root.optional("status_listen");
        let resolver = name_servers(&mut root);
        self.ids.extend(agent.clone().map(|agent| (agent, "the agent itself".to_owned())));
        let host = root.section("host").and_then(|section| self.host(section));
        let mut devices: Vec<(usize, DeviceConfig)> = root
            .sections("device")
            .into_iter()
            .enumerate()
            .filter_map(|(place, section)| Some((place, self.device(section, profiles_dir.as_deref())?)))
            .collect();
        share_users(devices.iter_mut().filter_map(|(_, device)| match &mut device.link {
            Link::Snmp(link) => Some(link),
            Link::Modbus(_) => None,
        }));
        for KeyFault { key, message, help } in shared_faults(&devices) {
            document.fault_at(&key, message, help);
        }
        let devices = devices.into_iter().map(|(_, device)| device).collect();
        let checks: Vec<_> =
            root.sections("check").into_iter().filter_map(|section| check::read(self, section)).collect();
        if self.ids.len() > MAX_DEVICES {
            root.fault("device", format!("more than {MAX_DEVICES} devices and checks"), None);
        }
        let mqtt: Option<MqttConfig> = root.required("mqtt", "{ broker = \"127.0.0.1:1883\" }");
        own_faults(&root, "mqtt", mqtt.iter().flat_map(MqttConfig::faults));
        let spool: SpoolConfig = root.optional("spool").unwrap_or_default();
        own_faults(&root, "spool", spool.faults());
        let commands: CommandsConfig = root.optional("commands").unwrap_or_default();
        let gate: Option<GateConfig> = root.optional("gate");
        own_faults(&root, "gate", gate.iter().flat_map(GateConfig::faults));
        own_faults(&root, "gate", gate.iter().zip(site).flat_map(|(gate, site)| gate.faults_at(site)));
        let traps = root.section("traps").and_then(traps);
        root.finish();
        let hash = profile::short_hash(text);
        Some(Config {
            site: site?,
            agent: agent?,
            state_dir: state_dir?,
            profiles_dir,
            status_listen,
            resolver,
            host,
            devices,
            checks,
            traps,
            mqtt: mqtt?,
            spool,
            commands,
            gate,
            hash,
        })
    }

    /// Takes an id for a device; one that is taken already is a fault.
    fn id(&mut self, section: &mut Section<'_, '_>, what: &str) -> Option<Id> {
        let id: Id = section.required("id", "\"ups-a1\"")?;
        if let Some(other) = self.ids.get(&id) {
            section.fault("id", format!("`{id}` is already the id of {other}"), None);
            return None;
        }
        self.ids.insert(id.clone(), what.to_owned());
        Some(id)
    }

    fn host(&mut self, mut section: Section<'_, '_>) -> Option<HostConfig> {
        let id = self.id(&mut section, "the host");
        host(id, section)
    }

    fn device(&mut self, mut section: Section<'_, '_>, profiles_dir: Option<&Path>) -> Option<DeviceConfig> {
        let id = self.id(&mut section, "another device");
        let profile_id: Option<String> = section.required("profile", "\"ietf/ups-mib\"");
        let profile = profile_id.and_then(|id| self.profile(&section, &id, profiles_dir));
        let kind: Option<String> = section.optional("kind");
        if let (Some(kind), Some(profile)) = (&kind, &profile)
            && *kind != profile.kind
        {
            let help = if DEVICE_KINDS.contains(&kind.as_str()) {
                format!("leave `kind` out, or write `kind = \"{}\"`", profile.kind)
            } else {
                format!("kinds are {}", DEVICE_KINDS.join(", "))
            };
            section.fault("kind", format!("the profile is for a `{}`, not a `{kind}`", profile.kind), Some(help));
        }
        let location: Option<String> = section.optional("location");
        let parent = section.optional("parent");
        let interval = interval(&mut section, "1s");
        let (modbus, snmp) = (section.section("modbus"), section.section("snmp"));
        // Told even where the section itself is faulty.
        let given = match (&modbus, &snmp) {
            (Some(_), None) => Some("modbus"),
            (None, Some(_)) => Some("snmp"),
            (Some(_), Some(_)) | (None, None) => None,
        };
        let link = match (modbus, snmp) {
            (Some(modbus), None) => modbus_link(modbus).map(Link::Modbus),
            (None, Some(snmp)) => snmp_link(snmp).map(Link::Snmp),
            (Some(_), Some(_)) => {
                section.fault("modbus", "a device is read by either `modbus` or `snmp`, not both", None);
                None
            }
            (None, None) => {
                let help = "add `modbus = { address = \"10.0.0.5:502\", unit = 1 }` or \
                            `snmp = { address = \"10.0.0.5:161\", community = \"public\" }`";
                section.fault("", "the device has no address", Some(help.to_owned()));
                None
            }
        };
        if let (Some(given), Some(profile)) = (given, &profile) {
            let wanted = profile.protocol.as_str();
            if given != wanted {
                section.fault(
                    given,
                    format!("the profile `{}` is read by {wanted}, not by {given}", profile.reference.id),
                    Some(format!("write `{wanted} = {{ ... }}` instead")),
                );
            }
        }
        section.finish();
        let profile = profile?;
        Some(DeviceConfig {
            id: id?,
            kind: kind.unwrap_or_else(|| profile.kind.clone()),
            profile,
            location,
            parent,
            interval: interval?,
            link: link?,
        })
    }

    /// Each profile is read once, and its own faults are told once.
    fn profile(&mut self, section: &Section<'_, '_>, id: &str, dir: Option<&Path>) -> Option<Arc<Profile>> {
        if let Some(known) = self.profiles.get(id) {
            return known.clone();
        }
        let loaded = match profile::load(id, dir) {
            Ok(profile) => Some(profile),
            Err(ProfileError::Unknown { id, near }) => {
                let known: Vec<&str> = profile::embedded_ids().collect();
                let help = near.map_or_else(
                    || format!("built-in profiles are {}", known.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                section.fault("profile", format!("there is no profile `{id}`"), Some(help));
                // Not remembered: every device that names it is told.
                return None;
            }
            Err(ProfileError::Read { path, source }) => {
                section.fault("profile", format!("the profile {path} cannot be read: {source}"), None);
                None
            }
            Err(ProfileError::Faulty { mut faults, .. }) => {
                self.profile_faults.append(&mut faults);
                None
            }
        };
        self.profiles.insert(id.to_owned(), loaded.clone());
        loaded
    }
}

/// `resolver = ["10.0.0.53:53"]`.
fn name_servers(root: &mut Section<'_, '_>) -> Vec<SocketAddr> {
    let texts: Vec<String> = root.optional("resolver").unwrap_or_default();
    if texts.len() > MAX_NAME_SERVERS {
        root.fault("resolver", format!("more than {MAX_NAME_SERVERS} name servers"), None);
    }
    let mut servers = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(server) => servers.push(server),
            Err(_) => {
                let help = text.parse().ok().map(|ip: IpAddr| format!("did you mean `{}`?", SocketAddr::new(ip, 53)));
                root.fault("resolver", format!("`{text}` is not address:port of a name server"), help);
            }
        }
    }
    servers
}

/// Faults that a section's own module found, at the keys it names.
fn own_faults<F: Into<KeyFault>>(root: &Section<'_, '_>, section: &str, faults: impl IntoIterator<Item = F>) {
    for fault in faults {
        let KeyFault { key, message, help } = fault.into();
        root.document().fault_at(&format!("{section}.{key}"), message, help);
    }
}

pub(crate) fn interval(section: &mut Section<'_, '_>, default: &str) -> Option<Duration> {
    let span: Span = if section.has("interval") {
        section.optional("interval")?
    } else {
        section.optional("interval").or_else(|| default.parse().ok())?
    };
    if !INTERVAL_MS.contains(&span.as_millis()) {
        section.fault("interval", "an interval is between 100ms and 1d", None);
    }
    Some(span.get())
}

pub(crate) fn timeout(section: &mut Section<'_, '_>, default_ms: u64) -> Duration {
    let span = section.optional("timeout").unwrap_or(Span::from_millis(default_ms));
    if !TIMEOUT_MS.contains(&span.as_millis()) {
        section.fault("timeout", "a timeout is between 10ms and 30s", None);
    }
    span.get()
}

/// `host:port`; names are looked up when the connection is made.
pub(crate) fn address(section: &mut Section<'_, '_>, usual_port: u16) -> Option<String> {
    let text: String = section.required("address", &format!("\"10.0.0.5:{usual_port}\""))?;
    let sound = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    if !sound {
        let help = (!text.contains(':')).then(|| format!("did you mean `{text}:{usual_port}`?"));
        section.fault("address", format!("`{text}` is not host:port"), help);
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests;
