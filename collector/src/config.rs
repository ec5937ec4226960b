//! Configuration of a collector: its own file and the policy that all three share.
//!
//! Knows: every key, its meaning and its default; finds every fault at once, each with file, line, column and help.
//! Refuses to know: what rules mean (their sections are handed on whole, with their places).

mod influx;
mod own;
mod policy;
mod read;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bcp_core::policy::Policy;
use bcp_identity::Credentials;
use bcp_wire::{Id, Site};

pub use influx::Influx;
pub use read::{ConfigError, Fault, Place};
pub(crate) use value::parse_duration;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from: children are started with it.
    pub file: PathBuf,
    pub site: Site,
    /// `decide/` (its own database), `serve/` (store), `export/` (public tree), `keys/`.
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub mqtt: Mqtt,
    pub control: Control,
    pub public: Public,
    /// How long history is kept.
    pub retention: Duration,
    /// The long-term database; none unless configured.
    pub influx: Option<Influx>,
    pub policy: Policy,
    /// Checked by `bcp_core::rules`.
    pub rules: Vec<RuleSection>,
    pub assets: BTreeMap<Id, AssetSection>,
}

#[derive(Debug, Clone)]
pub struct Listen {
    pub public: SocketAddr,
    pub console: SocketAddr,
    pub control: SocketAddr,
}

#[derive(Debug, Clone)]
pub struct Mqtt {
    /// Address of the embedded broker, loopback only; absent: an external one is used.
    pub embedded: Option<SocketAddr>,
    /// Brokers to subscribe to, `host:port`.
    pub brokers: BTreeMap<Site, String>,
    pub username_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
    pub tls: Option<Credentials>,
}

#[derive(Debug, Clone)]
pub struct Control {
    pub credentials: Credentials,
    /// Control listeners of the two other sites, `https://host:port` without a final slash.
    pub peers: BTreeMap<Site, String>,
}

#[derive(Debug, Clone)]
pub struct Public {
    /// Ed25519, PKCS8 PEM; made on the first start.
    pub key: PathBuf,
    /// Raw Ed25519 public keys by which the mirrors check pages.
    pub known_keys: BTreeMap<Site, [u8; 32]>,
    /// Public ports of the other sites, `http://host:port` without a final slash.
    pub origins: BTreeMap<Site, String>,
}

/// `[rule.ID]` as written, and where each of its keys stands.
#[derive(Debug, Clone)]
pub struct RuleSection {
    pub id: Id,
    pub table: serde_json::Map<String, serde_json::Value>,
    pub at: Place,
    /// By key, nested ones as `title.nl`.
    pub places: BTreeMap<String, Place>,
}

/// `[asset.ID]`: a thing that is fed by another, with or without a device that measures it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetSection {
    pub kind: String,
    pub parent: Option<Id>,
    pub location: Option<String>,
    pub device: Option<Id>,
}

impl Config {
    /// Reads and checks `path` and the policy file it names. Relative paths count from the file that holds them.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        own::load(path)
    }

    #[must_use]
    pub fn decide_dir(&self) -> PathBuf {
        self.data_dir.join("decide")
    }
    #[must_use]
    pub fn serve_dir(&self) -> PathBuf {
        self.data_dir.join("serve")
    }
    #[must_use]
    pub fn export_dir(&self) -> PathBuf {
        self.data_dir.join("export")
    }
}
