//! The fleet's directory: certificates, keys and the configuration of every part.
//!
//! Knows: where files are and what stands in them. Refuses to know: processes.
//! Invariants: the directory belongs to this user and nobody else may read it; what a running fleet has kept (journals,
//! logs, keys, certificates) is never overwritten by starting again in the same directory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
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

use crate::devices::{self, Kind};
use crate::ports::{BasePort, Lane, Port};
use crate::service::{Service, journal};

/// Name of the operator whose certificate is made.
pub const OPERATOR: &str = "op-1";
const POLICY: &str = include_str!("../policy.toml");

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
    #[error("failed to read or make the publishing key {path}", path = path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: ed25519_dalek::pkcs8::Error,
    },
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

/// A TOML string.
fn quoted(text: impl AsRef<std::ffi::OsStr>) -> String {
    toml::Value::String(text.as_ref().to_string_lossy().into_owned()).to_string()
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
        self.write("policy.toml", &format!("{POLICY}\n{}\n{RULES}", self.assets()))?;
        for site in Site::ALL {
            own_dir(&self.site_dir(site))?;
            self.write_config(site, "collector", &self.collector(site, &keys))?;
            self.write_config(site, "host", &self.host_agent(site))?;
            self.write_config(site, "gateway", &self.gateway_agent(site))?;
            if self.mosquitto.is_some() {
                own_dir(&self.mosquitto_dir(site))?;
                self.write(&format!("{site}/mosquitto.conf"), &self.mosquitto_text(site))?;
            }
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
            let fault = |source| LayoutError::Key { path: path.clone(), source };
            let key = if path.exists() {
                let text = fs::read_to_string(&path).map_err(at(&path))?;
                SigningKey::from_pkcs8_pem(&text).map_err(fault)?
            } else {
                own_dir(&self.site_dir(site))?;
                own_dir(path.parent().unwrap_or(&self.data_dir))?;
                let mut secret = [0; 32];
                rand::rng().fill_bytes(&mut secret);
                let key = SigningKey::from_bytes(&secret);
                let text = key.to_pkcs8_pem(LineEnding::LF).map_err(fault)?;
                let mut file =
                    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(at(&path))?;
                file.write_all(text.as_bytes()).map_err(at(&path))?;
                key
            };
            let bytes = key.verifying_key().to_bytes();
            public.insert(site, base64::engine::general_purpose::STANDARD.encode(bytes));
        }
        Ok(public)
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
        if let Ok(name) = OPERATOR.parse() {
            all.push(Identity::Operator { name });
        }
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

    fn credentials(&self, identity: &str) -> String {
        let name = identity.replace(':', "-");
        let file = |name: String| quoted(self.pki_dir().join(name));
        format!(
            "{{ ca = {}, cert = {}, key = {} }}",
            file("ca.pem".to_owned()),
            file(format!("{name}.pem")),
            file(format!("{name}.key"))
        )
    }

    /// `{ b = "scheme127.0.0.1:port", ... }` for these sites.
    fn peers(&self, from: Site, sites: &[Site], lane: Lane, scheme: &str) -> String {
        let list: Vec<String> = sites
            .iter()
            .map(|to| format!("{to} = \"{scheme}127.0.0.1:{}\"", self.base.reach(from, *to, lane)))
            .collect();
        format!("{{ {} }}", list.join(", "))
    }

    fn address(&self, site: Site, port: Port) -> String {
        format!("\"127.0.0.1:{}\"", self.base.site(site, port))
    }

    fn collector(&self, site: Site, keys: &BTreeMap<Site, String>) -> String {
        let embedded = match self.mosquitto {
            Some(_) => String::new(),
            None => format!("embedded = {}\n", self.address(site, Port::Mqtt)),
        };
        let known: Vec<String> = keys.iter().map(|(site, key)| format!("{site} = \"{key}\"")).collect();
        format!(
            "site = \"{site}\"\ndata_dir = {data_dir}\npolicy = {policy}\n\n\
             [listen]\npublic = {public}\nconsole = {console}\ncontrol = {control}\n\n\
             [mqtt]\n{embedded}brokers = {brokers}\n\n\
             [control]\ncredentials = {credentials}\npeers = {peers}\n\n\
             [public]\nkey = {key}\nknown_keys = {{ {known} }}\norigins = {origins}\n\n\
             [history]\nretention = \"30d\"\n",
            data_dir = quoted(self.site_dir(site).join("collector")),
            policy = quoted(self.data_dir.join("policy.toml")),
            public = self.address(site, Port::Public),
            console = self.address(site, Port::Console),
            control = self.address(site, Port::Control),
            brokers = self.peers(site, &Site::ALL, Lane::Mqtt, ""),
            credentials = self.credentials(&format!("collector:{site}")),
            peers = self.peers(site, &site.others(), Lane::Control, "https://"),
            key = quoted(self.publishing_key(site)),
            known = known.join(", "),
            origins = self.peers(site, &site.others(), Lane::Public, "http://"),
        )
    }

    fn agent_head(&self, site: Site, agent: &str, status: Port) -> String {
        format!(
            "site = \"{site}\"\nagent = \"{agent}\"\nstate_dir = {state}\nstatus_listen = {status}\n",
            state = quoted(self.site_dir(site).join(agent)),
            status = self.address(site, status),
        )
    }

    fn agent_tail(&self, site: Site) -> String {
        format!(
            "\n[mqtt]\nbroker = {}\n\n[spool]\nmax_bytes = 67108864\nmax_age = \"72h\"\nfsync = \"200ms\"\n",
            self.address(site, Port::Mqtt)
        )
    }

    fn host_agent(&self, site: Site) -> String {
        let mut text = self.agent_head(site, &format!("host-{site}"), Port::HostStatus);
        let location = if site == Site::W { "w/room".to_owned() } else { format!("{site}/hall1/r01") };
        let _ = write!(
            text,
            "\n[host]\nid = \"srv-{site}1\"\nlocation = \"{location}\"\nparent = \"ups-{site}1\"\ninterval = \"5s\"\n"
        );
        text.push_str(&self.agent_tail(site));
        for service in Service::ALL {
            text.push_str(&self.checks(site, service));
        }
        // The witness holds no ticket, so it has no gate.
        if site != Site::W {
            text.push_str(&self.gate(site));
        }
        text
    }

    /// The service at each site and as users see it, all from this site.
    fn checks(&self, from: Site, service: Service) -> String {
        // A standby that follows is well; users need the active one.
        let (short, lane, at_site) = match service {
            Service::Prescriptions => ("rx", Lane::Prescriptions, ("copy", "ok")),
            Service::PatientPortal => ("pp", Lane::Portal, ("health", "active")),
        };
        let mut text = String::new();
        let mut check = |id: &str, target: &str, url: &str, body: &str| {
            let _ = write!(
                text,
                "\n[[check]]\nid = \"{id}\"\nservice = \"{service}\"\n{target}\
                 http = {{ url = \"{url}\", expect_status = 200, expect_body = \"{body}\", timeout = \"1s\" }}\n\
                 interval = \"1s\"\n"
            );
        };
        for to in [Site::A, Site::B] {
            check(
                &format!("{short}-{to}-from-{from}"),
                &format!("target_site = \"{to}\"\n"),
                &format!("http://127.0.0.1:{}/{}", self.base.reach(from, to, lane), at_site.0),
                at_site.1,
            );
        }
        let door = format!("http://127.0.0.1:{}/health", self.base.front(service));
        check(&format!("{short}-users-from-{from}"), "", &door, "active");
        text
    }

    fn gate(&self, site: Site) -> String {
        let peers: Vec<String> = site
            .others()
            .into_iter()
            .filter(|peer| *peer != Site::W)
            .map(|peer| {
                let port = self.base.link(site, peer, Lane::Gate);
                format!("{{ site = \"{peer}\", id = \"host-{peer}\", url = \"https://127.0.0.1:{port}\" }}")
            })
            .collect();
        let mut text = format!(
            "\n[gate]\nlisten = {listen}\ncredentials = {credentials}\ncollectors = {collectors}\nsiblings = []\n\
             peers = [ {peers} ]\ntiming = \"metro\"\n",
            listen = self.address(site, Port::Gate),
            credentials = self.credentials(&format!("agent:{site}:host-{site}")),
            collectors = self.peers(site, &Site::ALL, Lane::Control, "https://"),
            peers = peers.join(", "),
        );
        for service in Service::ALL {
            let own = self.base.site(site, service.port());
            let _ = write!(
                text,
                "\n[[gate.ticket]]\nid = \"{service}\"\nloss = \"stop\"\nscript = [{exe}, \"service-step\", \
                 \"--service\", \"{service}\", \"--site\", \"{site}\", \"--base-port\", \"{base}\", \"--data-dir\", \
                 {data_dir}]\nstep_timeout = \"3s\"\nfacts_url = \"http://127.0.0.1:{own}/facts\"\n",
                exe = quoted(&self.executable),
                base = self.base,
                data_dir = quoted(&self.data_dir),
            );
            if service == Service::Prescriptions {
                let _ = writeln!(text, "sync_url = \"http://127.0.0.1:{own}/sync\"");
            }
        }
        text
    }

    fn gateway_agent(&self, site: Site) -> String {
        let mut text = self.agent_head(site, &format!("gw-{site}"), Port::GatewayStatus);
        text.push_str(&self.agent_tail(site));
        for spec in devices::inventory(site) {
            let parent = spec.parent.map(|parent| format!("parent = \"{parent}\"\n")).unwrap_or_default();
            let address = self.address(site, spec.port);
            let access = match spec.kind {
                Kind::Crac(_) | Kind::Meter => {
                    format!("modbus = {{ address = {address}, unit = 1, timeout = \"500ms\" }}")
                }
                Kind::Ups(_) | Kind::Storage => format!(
                    "snmp = {{ address = {address}, version = \"2c\", community = \"{}\", timeout = \"1s\", retries = 1 }}",
                    devices::COMMUNITY
                ),
            };
            let _ = write!(
                text,
                "\n[[device]]\nid = \"{}\"\nkind = \"{}\"\nprofile = \"{}\"\nlocation = \"{}\"\n{parent}\
                 interval = \"{}\"\n{access}\n",
                spec.id,
                match spec.kind {
                    Kind::Crac(_) => "crac",
                    Kind::Ups(_) => "ups",
                    Kind::Meter => "meter",
                    Kind::Storage => "host",
                },
                spec.profile,
                spec.location,
                match spec.kind {
                    // An alarm comes within 1 s after its hold: asking twice leaves room for the way to the console.
                    Kind::Crac(_) => "500ms",
                    Kind::Ups(_) | Kind::Meter => "1s",
                    Kind::Storage => "5s",
                },
            );
        }
        text
    }

    /// What the devices stand in and hang on; the devices themselves become assets by their descriptions.
    fn assets(&self) -> String {
        let mut text = String::new();
        for site in Site::ALL {
            let room = if site == Site::W {
                "w/room"
            } else if site == Site::A {
                "a/hall1"
            } else {
                "b/hall1"
            };
            let _ = write!(
                text,
                "\n[asset.utility-{site}]\nkind = \"utility\"\nlocation = \"{site}\"\n\
                 \n[asset.room-{site}]\nkind = \"room\"\nlocation = \"{room}\"\n"
            );
        }
        text
    }

    fn mosquitto_dir(&self, site: Site) -> PathBuf {
        self.site_dir(site).join("mosquitto")
    }

    fn mosquitto_text(&self, site: Site) -> String {
        format!(
            "# Written by `fleet up`.\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
             persistence_location {dir}/\nautosave_interval 30\n{user}\
             # The default of 1,000 drops acknowledged messages when a subscriber falls behind.\n\
             max_queued_messages 100000\nmax_queued_bytes 268435456\nmax_inflight_messages 200\nset_tcp_nodelay true\n\
             log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\n",
            port = self.base.site(site, Port::Mqtt),
            dir = self.mosquitto_dir(site).display(),
            // Started by root it would become another user, who may not enter this directory.
            user = if rustix::process::getuid().is_root() { "user root\n" } else { "" },
        )
    }
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
            assert!(collector.is_ok(), "{}", collector.unwrap_err());
            for agent in ["host", "gateway"] {
                let read = bcp_agent::config::load(&layout.config(site, agent));
                assert!(read.is_ok(), "{site} {agent}: {:?}", read.unwrap_err());
            }
        }
        assert_eq!(fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_dir_all(&data_dir).unwrap();
    }
}
