//! The fleet's directory: certificates, keys and the configuration of every part.
//!
//! Knows: where files are and what stands in them. Refuses to know: processes.
//! Invariants: the directory belongs to this user and nobody else may read it; what a running fleet has kept (journals,
//! logs, keys, certificates) is never overwritten by starting again in the same directory.

mod texts;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use bcp_identity::{Credentials, Identity, pki};
use bcp_wire::{Id, Site};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding};
use rand::RngCore;

use crate::devices;
use crate::ports::BasePort;
use crate::reference::{Programs, SeedError};
use crate::servers;
use crate::service::{Service, journal};

/// Names of the operators whose certificates are made: two, for what one alone may not do.
pub const OPERATORS: [&str; 2] = ["op-1", "op-2"];
/// Holds the simulated devices' password of version 3.
const DEVICE_KEY: &str = "device.key";
const POLICY: &str = include_str!("../policy.toml");
/// The line of [`POLICY`] that `--timing` changes.
const POLICY_TIMING: &str = "timing = \"metro\"\n";
/// The line that `--with-servers` adds to.
const POLICY_SERVICE: &str = "service = \"prescriptions\"\n";

const RULES: &str = include_str!("../../rules/default.toml");

/// Why the directory could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("failed to prepare {path}", path = path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} belongs to another user", path = path.display())]
    Foreign { path: PathBuf },
    #[error("failed to make certificates")]
    Pki(#[from] pki::PkiError),
    #[error("failed to read or make the key {path}", path = path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: ed25519_dalek::pkcs8::Error,
    },
    #[error("failed to make the reference application ready")]
    Reference(#[from] SeedError),
    #[error("failed to seed the data of a service")]
    Journal(#[from] journal::JournalError),
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> LayoutError + '_ {
    move |source| LayoutError::Io { path: path.to_path_buf(), source }
}

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Layout {
    pub data_dir: PathBuf,
    pub base: BasePort,
    pub executable: PathBuf,
    /// Use this mosquitto as the three brokers.
    pub mosquitto: Option<PathBuf>,
    pub timing: Timing,
    /// With the reference application.
    pub reference: Option<Programs>,
    /// With a pool of servers at a and b.
    pub with_servers: bool,
}

/// How long a disturbance lasts before it moves anything; see the timing profiles of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Timing {
    #[default]
    Metro,
    Wide,
    Fast,
}

impl Timing {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Timing::Metro => "metro",
            Timing::Wide => "wide",
            Timing::Fast => "fast",
        }
    }

    /// A step of a demo service: three quarters of the profile's `stop_max`, where that is less than 3 s.
    pub(crate) const fn step_timeout(self) -> &'static str {
        match self {
            Timing::Metro | Timing::Wide => "3s",
            Timing::Fast => "1050ms",
        }
    }
}

/// The directory of a fleet that was given none: one per user and base port, emptied at every start.
#[must_use]
pub fn throwaway_dir(base: BasePort) -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("bcp-fleet-{user}-{base}"))
}

/// Makes a directory that only this user may enter; an existing one must be this user's.
///
/// # Errors
/// It is somebody else's, no directory, or cannot be made.
pub fn own_dir(path: &Path) -> Result<(), LayoutError> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(fault) if fault.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(fault) => return Err(at(path)(fault)),
    }
    let meta = fs::symlink_metadata(path).map_err(at(path))?;
    if !meta.is_dir() || meta.uid() != rustix::process::getuid().as_raw() {
        return Err(LayoutError::Foreign { path: path.to_path_buf() });
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(at(path))
}

impl Layout {
    #[must_use]
    pub fn site_dir(&self, site: Site) -> PathBuf {
        self.data_dir.join(site.as_str())
    }

    #[must_use]
    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    #[must_use]
    pub fn log(&self, unit: &str) -> PathBuf {
        self.data_dir.join("logs").join(format!("{}.log", unit.replace('/', "-")))
    }

    #[must_use]
    pub fn config(&self, site: Site, what: &str) -> PathBuf {
        self.site_dir(site).join(format!("{what}.toml"))
    }

    #[must_use]
    pub fn mosquitto_config(&self, site: Site) -> PathBuf {
        self.site_dir(site).join("mosquitto.conf")
    }

    /// Everything the parts need before they start.
    ///
    /// # Errors
    /// The first thing that could not be made.
    pub fn prepare(&self) -> Result<(), LayoutError> {
        own_dir(&self.data_dir)?;
        for dir in ["logs", "pki"] {
            own_dir(&self.data_dir.join(dir))?;
        }
        let keys = self.publishing_keys()?;
        self.certificates()?;
        let operators = self.signing_keys()?;
        self.write(DEVICE_KEY, devices::PASSWORD)?;
        let mut policy = POLICY.replacen(POLICY_TIMING, &format!("timing = \"{}\"\n", self.timing.as_str()), 1);
        if self.with_servers {
            policy = policy.replacen(POLICY_SERVICE, &format!("{POLICY_SERVICE}pool = \"{}\"\n", servers::POOL), 1);
            policy.push_str(&servers::policy());
        }
        let reference = self.reference.as_ref().map(|_| Layout::reference_policy()).unwrap_or_default();
        self.write("policy.toml", &format!("{policy}\n{reference}\n{}\n{RULES}", self.assets()))?;
        for site in Site::ALL {
            own_dir(&self.site_dir(site))?;
            self.write_config(site, "collector", &self.collector(site, &keys))?;
            self.write_config(site, "host", &self.host_agent(site, &operators))?;
            self.write_config(site, "gateway", &self.gateway_agent(site))?;
            if self.with_servers && site != Site::W {
                for unit in servers::UNITS {
                    self.write_config(site, unit, &self.server(site, unit))?;
                }
            }
            if self.mosquitto.is_some() {
                own_dir(&self.mosquitto_dir(site))?;
                self.write(&format!("{site}/mosquitto.conf"), &self.mosquitto_text(site))?;
            }
        }
        if self.reference.is_some() {
            let path = self.haproxy_config();
            fs::write(&path, self.haproxy_text()).map_err(at(&path))?;
            self.prepare_reference()?;
        }
        self.seed()
    }

    fn write_config(&self, site: Site, what: &str, text: &str) -> Result<(), LayoutError> {
        let head = "# Written by `fleet up`; what is changed here is lost at the next start.\n";
        self.write(&format!("{site}/{what}.toml"), &format!("{head}{text}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), LayoutError> {
        let path = self.data_dir.join(name);
        fs::write(&path, text).map_err(at(&path))
    }

    /// Both copies of the prescriptions begin as restored from one backup: same lineage, nothing written yet.
    fn seed(&self) -> Result<(), LayoutError> {
        let lineage = format!("{:016x}", rand::rng().next_u64());
        let mut common = String::new();
        for site in [Site::A, Site::B] {
            let directory = Service::Prescriptions.directory(&self.data_dir, site);
            common = journal::update(&directory, |record| {
                if record.lineage.is_empty() {
                    let seed = if common.is_empty() { &lineage } else { &common };
                    record.lineage.clone_from(seed);
                }
                record.lineage.clone()
            })?;
        }
        Ok(())
    }

    fn publishing_keys(&self) -> Result<BTreeMap<Site, String>, LayoutError> {
        let mut public = BTreeMap::new();
        for site in Site::ALL {
            let path = self.publishing_key(site);
            if !path.exists() {
                own_dir(&self.site_dir(site))?;
                own_dir(path.parent().unwrap_or(&self.data_dir))?;
            }
            let key = kept_key(&path)?;
            let bytes = key.verifying_key().to_bytes();
            public.insert(site, base64::engine::general_purpose::STANDARD.encode(bytes));
        }
        Ok(public)
    }

    /// Where an operator's key for orders without a quorum is.
    #[must_use]
    pub fn signing_key(&self, operator: &str) -> PathBuf {
        self.pki_dir().join(format!("{operator}.signing.key"))
    }

    /// Public halves, as gates are given them.
    fn signing_keys(&self) -> Result<BTreeMap<&'static str, String>, LayoutError> {
        let of = |operator: &'static str| {
            let key = kept_key(&self.signing_key(operator))?;
            Ok((operator, bcp_wire::force::to_hex(key.verifying_key().as_bytes())))
        };
        OPERATORS.into_iter().map(of).collect()
    }

    fn publishing_key(&self, site: Site) -> PathBuf {
        self.site_dir(site).join("keys").join("publish.key")
    }

    fn identities() -> Vec<Identity> {
        let mut all: Vec<Identity> = Site::ALL.into_iter().map(|site| Identity::Collector { site }).collect();
        for site in Site::ALL {
            for agent in ["host", "gw"] {
                if let Ok(id) = format!("{agent}-{site}").parse::<Id>() {
                    all.push(Identity::Agent { site, id });
                }
            }
        }
        all.extend(OPERATORS.iter().filter_map(|name| Some(Identity::Operator { name: name.parse().ok()? })));
        all
    }

    fn certificates(&self) -> Result<(), LayoutError> {
        let dir = self.pki_dir();
        if !dir.join("ca.pem").exists() {
            pki::create_ca(&dir, "bcp-fleet demonstration CA")?;
        }
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        for identity in Layout::identities() {
            if !Credentials::in_dir(&dir, &identity).cert.exists() {
                pki::issue(&dir, &identity, &hosts)?;
            }
        }
        Ok(())
    }
}

/// The key in a file; a new one where there is none.
fn kept_key(path: &Path) -> Result<SigningKey, LayoutError> {
    let fault = |source| LayoutError::Key { path: path.to_owned(), source };
    if path.exists() {
        let text = fs::read_to_string(path).map_err(at(path))?;
        return SigningKey::from_pkcs8_pem(&text).map_err(fault);
    }
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    let key = SigningKey::from_bytes(&secret);
    let text = key.to_pkcs8_pem(LineEnding::LF).map_err(fault)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at(path))?;
    file.write_all(text.as_bytes()).map_err(at(path))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepares_a_directory_twice_and_keeps_what_is_kept() {
        crate::install_crypto();
        let data_dir = std::env::temp_dir().join(format!("bcp-fleet-layout-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data_dir);
        let layout = Layout {
            data_dir: data_dir.clone(),
            base: "27000".parse().unwrap(),
            executable: "/usr/bin/true".into(),
            mosquitto: Some("/usr/sbin/mosquitto".into()),
            timing: Timing::Fast,
            reference: None,
            with_servers: true,
        };
        layout.prepare().unwrap();
        let kept = |name: &str| fs::read(data_dir.join(name)).unwrap();
        let files = ["pki/ca.pem", "pki/operator-op-1.key", "a/keys/publish.key", "a/prescriptions/record.json"];
        let before: Vec<_> = files.iter().map(|name| kept(name)).collect();
        layout.prepare().unwrap();
        assert_eq!(before, files.iter().map(|name| kept(name)).collect::<Vec<_>>());
        assert_eq!(kept("a/prescriptions/record.json"), kept("b/prescriptions/record.json"));
        for file in ["policy.toml", "a/collector.toml", "b/host.toml", "w/host.toml", "w/gateway.toml"] {
            let text = String::from_utf8(kept(file)).unwrap();
            text.parse::<toml::Table>().unwrap_or_else(|fault| panic!("{file}: {fault}"));
        }
        for site in Site::ALL {
            let collector = bcp_collector::Config::load(&layout.config(site, "collector"));
            let collector = collector.unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(collector.policy.timing.ttl_ms, 3_200, "the profile that was chosen");
            let servers = servers::UNITS.iter().filter(|_| site != Site::W);
            for agent in ["host", "gateway"].iter().chain(servers) {
                let read = bcp_agent::config::load(&layout.config(site, agent));
                assert!(read.is_ok(), "{site} {agent}: {:?}", read.unwrap_err());
            }
        }
        assert_eq!(fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_dir_all(&data_dir).unwrap();
    }
}
