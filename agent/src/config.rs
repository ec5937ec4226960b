//! The agent's configuration: a TOML file to checked values.
//!
//! Knows: the file's keys and which of them contradict each other. Refuses to know: sockets; the sections of the
//! MQTT session, the spool and the gate belong to their modules and are only embedded here. Every fault is collected;
//! a configuration with one is refused as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::names::DEVICE_KINDS;
use bcp_wire::{Id, Site};

use crate::document::{Document, Fault, Faults, KeyFault, Section, nearest};
use crate::gate::config::GateConfig;
use crate::profile::{self, Profile, ProfileError, Protocol};
use crate::publish::MqttConfig;
use crate::source::snmp::config::snmp_link;
pub use crate::source::snmp::config::{Access, SnmpLink};
use crate::span::Span;
use crate::spool::SpoolConfig;

/// Intervals outside of this are a slip: faster than any device answers, or too slow to be monitoring.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;
/// Longest answer to wait for.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=30_000;
/// Most devices and checks of one agent: the target is 500, and a file with more is probably generated wrongly.
const MAX_DEVICES: usize = 5_000;
/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 8 << 20;

#[derive(Debug, Clone)]
pub struct Config {
    pub site: Site,
    pub agent: Id,
    pub state_dir: PathBuf,
    pub profiles_dir: Option<PathBuf>,
    pub status_listen: Option<SocketAddr>,
    pub host: Option<HostConfig>,
    pub devices: Vec<DeviceConfig>,
    pub checks: Vec<CheckConfig>,
    pub mqtt: MqttConfig,
    pub spool: SpoolConfig,
    pub gate: Option<GateConfig>,
    /// First 16 hexadecimal digits of the SHA-256 of the file.
    pub hash: String,
}

/// This host as a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    pub id: Id,
    pub interval: Duration,
    pub parent: Option<Id>,
    pub location: Option<String>,
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

/// How a device is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    Modbus(ModbusLink),
    Snmp(SnmpLink),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModbusLink {
    /// `host:port`. Devices with the same address share one connection and take turns.
    pub address: String,
    pub unit: u8,
    pub timeout: Duration,
}

/// An application check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckConfig {
    pub id: Id,
    pub service: Id,
    /// Absent: as users see it.
    pub target_site: Option<Site>,
    pub interval: Duration,
    pub probe: CheckProbe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckProbe {
    Http(HttpProbe),
    Tcp { address: String, timeout: Duration },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    pub url: String,
    pub expect_status: u16,
    /// The body must contain this.
    pub expect_body: Option<String>,
    pub timeout: Duration,
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
        self.ids.extend(agent.clone().map(|agent| (agent, "the agent itself".to_owned())));
        let host = root.section("host").and_then(|section| self.host(section));
        let devices: Vec<_> = root
            .sections("device")
            .into_iter()
            .filter_map(|section| self.device(section, profiles_dir.as_deref()))
            .collect();
        let checks: Vec<_> = root.sections("check").into_iter().filter_map(|section| self.check(section)).collect();
        if self.ids.len() > MAX_DEVICES {
            root.fault("device", format!("more than {MAX_DEVICES} devices and checks"), None);
        }
        let mqtt: Option<MqttConfig> = root.required("mqtt", "{ broker = \"127.0.0.1:1883\" }");
        own_faults(&root, "mqtt", mqtt.iter().flat_map(MqttConfig::faults));
        let spool: SpoolConfig = root.optional("spool").unwrap_or_default();
        own_faults(&root, "spool", spool.faults());
        let gate: Option<GateConfig> = root.optional("gate");
        own_faults(&root, "gate", gate.iter().flat_map(GateConfig::faults));
        root.finish();
        let hash = profile::short_hash(text);
        Some(Config {
            site: site?,
            agent: agent?,
            state_dir: state_dir?,
            profiles_dir,
            status_listen,
            host,
            devices,
            checks,
            mqtt: mqtt?,
            spool,
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
        let interval = interval(&mut section, "5s");
        let parent = section.optional("parent");
        let location = section.optional("location");
        section.finish();
        Some(HostConfig { id: id?, interval: interval?, parent, location })
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
        if let (Some(link), Some(profile)) = (&link, &profile) {
            let fits = matches!(
                (link, &profile.protocol),
                (Link::Modbus(_), Protocol::Modbus { .. }) | (Link::Snmp(_), Protocol::Snmp { .. })
            );
            if !fits {
                let (given, wanted) =
                    (if matches!(link, Link::Modbus(_)) { "modbus" } else { "snmp" }, profile.protocol.as_str());
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

    fn check(&mut self, mut section: Section<'_, '_>) -> Option<CheckConfig> {
        let id = self.id(&mut section, "another check");
        let service: Option<Id> = section.required("service", "\"prescriptions\"");
        let target_site: Option<Site> = section.optional("target_site");
        let interval = interval(&mut section, "1s");
        let (http, tcp) = (section.section("http"), section.section("tcp"));
        let probe = match (http, tcp) {
            (Some(http), None) => http_probe(http).map(CheckProbe::Http),
            (None, Some(mut tcp)) => {
                let address = address(&mut tcp, 80);
                let timeout = timeout(&mut tcp, 1_000);
                tcp.finish();
                Some(CheckProbe::Tcp { address: address?, timeout })
            }
            _ => {
                let help = "add `http = { url = \"http://127.0.0.1:8080/health\" }`".to_owned();
                section.fault("", "a check has exactly one of `http` and `tcp`", Some(help));
                None
            }
        };
        section.finish();
        Some(CheckConfig { id: id?, service: service?, target_site, interval: interval?, probe: probe? })
    }
}

/// Faults that a section's own module found, at the keys it names.
fn own_faults<F: Into<KeyFault>>(root: &Section<'_, '_>, section: &str, faults: impl IntoIterator<Item = F>) {
    for fault in faults {
        let KeyFault { key, message, help } = fault.into();
        root.document().fault_at(&format!("{section}.{key}"), message, help);
    }
}

fn interval(section: &mut Section<'_, '_>, default: &str) -> Option<Duration> {
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

fn modbus_link(mut section: Section<'_, '_>) -> Option<ModbusLink> {
    let address = address(&mut section, 502);
    let unit: u8 = section.optional("unit").unwrap_or(1);
    if unit > 247 && unit != 255 {
        section.fault("unit", "a unit is 0 to 247, or 255 for the device at the address itself", None);
    }
    let timeout = timeout(&mut section, 500);
    section.finish();
    Some(ModbusLink { address: address?, unit, timeout })
}

fn http_probe(mut section: Section<'_, '_>) -> Option<HttpProbe> {
    let url: Option<String> = section.required("url", "\"http://127.0.0.1:8080/health\"");
    let url = url.filter(|url| match reqwest::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => true,
        Ok(parsed) => {
            let near = nearest(parsed.scheme(), &["http", "https"]).map(|near| format!("did you mean `{near}`?"));
            section.fault("url", "a check's URL starts with http:// or https:// and names a host", near);
            false
        }
        Err(error) => {
            section.fault("url", format!("`{url}` is not a URL: {error}"), None);
            false
        }
    });
    let expect_status: u16 = section.optional("expect_status").unwrap_or(200);
    if !(100..=599).contains(&expect_status) {
        section.fault("expect_status", "an HTTP status is 100 to 599", None);
    }
    let expect_body: Option<String> = section.optional("expect_body");
    let timeout = timeout(&mut section, 1_000);
    section.finish();
    Some(HttpProbe { url: url?, expect_status, expect_body, timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
site = "a"
agent = "gw-a"
state_dir = "/tmp/x"
status_listen = "127.0.0.1:18014"
[host]
id = "srv-a1"
[mqtt]
broker = "127.0.0.1:18003"
[[device]]
id = "crac-a1"
kind = "crac"
profile = "airedale/pco-cooler"
interval = "1s"
modbus = { address = "127.0.0.1:18020", unit = 1, timeout = "500ms" }
[[device]]
id = "ups-a1"
profile = "ietf/ups-mib"
snmp = { address = "127.0.0.1:18030", version = "2c", community = "public", timeout = "1s", retries = 1 }
[[check]]
id = "rx-a-from-a"
service = "prescriptions"
target_site = "a"
http = { url = "http://127.0.0.1:18011/health", expect_status = 200, expect_body = "active", timeout = "1s" }
"#;

    #[test]
    fn a_good_configuration_is_read() {
        let config = parse("agent.toml", GOOD).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!((config.devices.len(), config.checks.len()), (2, 1));
        assert_eq!(config.devices[1].kind, "ups");
        assert_eq!(config.hash.len(), 16);
        assert_eq!(config.host.unwrap().interval, Duration::from_secs(5));
        assert!(!format!("{:?}", config.devices[1].link).contains("public"), "a community is never printed");
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_place() {
        let text = r#"
site = "c"
agent = "GW"
[mqtt]
broker = "nowhere"
[[device]]
id = "ups-1"
profile = "ietf/ups-mip"
intervall = "1s"
snmp = { address = "127.0.0.1", community = "public" }
[[device]]
id = "ups-1"
profile = "airedale/pco-cooler"
kind = "ups"
interval = "1"
snmp = { address = "127.0.0.1:161", version = "4", community = "x" }
[[check]]
id = "c"
service = "s"
http = { url = "htp://x" }
"#;
        let faults = parse("agent.toml", text).unwrap_err();
        let seen: Vec<(usize, &str)> = faults.0.iter().map(|f| (f.line, f.key.as_str())).collect();
        for want in [
            (2, "site"),
            (3, "agent"),
            (1, "state_dir"),
            (5, "mqtt.broker"),
            (8, "device[0].profile"),
            (9, "device[0].intervall"),
            (10, "device[0].snmp.address"),
            (12, "device[1].id"),
            (14, "device[1].kind"),
            (15, "device[1].interval"),
            (16, "device[1].snmp.version"),
            (16, "device[1].snmp"),
            (20, "check[0].http.url"),
        ] {
            assert!(seen.contains(&want), "{want:?}\n{faults}");
        }
        let text = faults.to_string();
        assert!(text.contains("  at agent.toml:9:1 device[0].intervall\n  help: did you mean `interval`?"), "{text}");
        assert!(
            text.contains("did you mean `ietf/ups-mib`?") && text.contains("did you mean `127.0.0.1:161`?"),
            "{text}"
        );
    }
}
