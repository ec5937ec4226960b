//! What stands in the configuration of every part.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use bcp_wire::Site;

use super::{DEVICE_KEY, Layout};
use crate::devices::fault::Server;
use crate::devices::{self, Kind};
use crate::ports::{Lane, Port};
use crate::service::Service;

/// A TOML string.
/// As it is where the present directory is unknown; then it is refused by its reader.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn quoted(text: impl AsRef<std::ffi::OsStr>) -> String {
    toml::Value::String(text.as_ref().to_string_lossy().into_owned()).to_string()
}

impl Layout {
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

    pub(super) fn collector(&self, site: Site, keys: &BTreeMap<Site, String>) -> String {
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

    pub(crate) fn agent_head(&self, site: Site, agent: &str, status: Option<Port>) -> String {
        let status = status.map(|port| format!("status_listen = {}\n", self.address(site, port))).unwrap_or_default();
        format!(
            "site = \"{site}\"\nagent = \"{agent}\"\nstate_dir = {state}\n{status}",
            state = quoted(self.site_dir(site).join(agent)),
        )
    }

    pub(crate) fn agent_tail(&self, site: Site) -> String {
        format!(
            "\n[mqtt]\nbroker = {}\n\n[spool]\nmax_bytes = 67108864\nmax_age = \"72h\"\nfsync = \"200ms\"\n",
            self.address(site, Port::Mqtt)
        )
    }

    pub(super) fn host_agent(&self, site: Site, operators: &BTreeMap<&'static str, String>) -> String {
        let mut text = self.agent_head(site, &format!("host-{site}"), Some(Port::HostStatus));
        let location = if site == Site::W { "w/room".to_owned() } else { format!("{site}/hall1/r01") };
        let _ = write!(
            text,
            "\n[host]\nid = \"srv-{site}1\"\nlocation = \"{location}\"\nparent = \"ups-{site}1\"\ninterval = \"5s\"\n"
        );
        text.push_str(&self.agent_tail(site));
        for service in Service::ALL {
            text.push_str(&self.checks(site, service));
        }
        if self.reference.is_some() {
            text.push_str(&self.reference_checks(site));
        }
        // The witness holds no ticket, so it has no gate.
        if site != Site::W {
            text.push_str(&self.gate(site, operators));
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

    fn gate(&self, site: Site, operators: &BTreeMap<&'static str, String>) -> String {
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
            "\n[gate]\nlisten = {listen}\nruntime_dir = {runtime}\ncredentials = {credentials}\n\
             collectors = {collectors}\nsiblings = []\npeers = [ {peers} ]\ntiming = \"{timing}\"\n\
             operators = {{ {operators} }}\n",
            operators =
                operators.iter().map(|(name, key)| format!("{name} = \"{key}\"")).collect::<Vec<_>>().join(", "),
            listen = self.address(site, Port::Gate),
            runtime = quoted(absolute(self.site_dir(site).join("run"))),
            credentials = self.credentials(&format!("agent:{site}:host-{site}")),
            collectors = self.peers(site, &Site::ALL, Lane::Control, "https://"),
            peers = peers.join(", "),
            timing = self.timing.as_str(),
        );
        for service in Service::ALL {
            let own = self.base.site(site, service.port());
            let _ = write!(
                text,
                "\n[[gate.ticket]]\nid = \"{service}\"\nloss = \"stop\"\nscript = [{exe}, \"service-step\", \
                 \"--service\", \"{service}\", \"--site\", \"{site}\", \"--base-port\", \"{base}\", \"--data-dir\", \
                 {data_dir}]\nstep_timeout = \"{limit}\"\nfacts_url = \"http://127.0.0.1:{own}/facts\"\n",
                exe = quoted(&self.executable),
                base = self.base,
                data_dir = quoted(&self.data_dir),
                limit = self.timing.step_timeout(),
            );
            if service == Service::Prescriptions {
                let _ = writeln!(text, "sync_url = \"http://127.0.0.1:{own}/sync\"");
            }
        }
        if self.reference.is_some() {
            text.push_str(&self.reference_ticket(site));
        }
        text
    }

    pub(super) fn gateway_agent(&self, site: Site) -> String {
        let mut text = self.agent_head(site, &format!("gw-{site}"), Some(Port::GatewayStatus));
        text.push_str(&self.agent_tail(site));
        for spec in devices::inventory(site) {
            let parent = spec.parent.as_ref().map(|parent| format!("parent = \"{parent}\"\n")).unwrap_or_default();
            let address = self.address(site, spec.port);
            let key = quoted(self.data_dir.join(DEVICE_KEY));
            let access = match spec.server() {
                Server::ModbusTcp => format!("modbus = {{ address = {address}, unit = 1, timeout = \"500ms\" }}"),
                Server::ModbusRtu => format!(
                    "modbus = {{ address = {address}, framing = \"rtu\", baud = 19200, unit = 1, timeout = \"500ms\" }}"
                ),
                Server::Snmp if spec.secure => format!(
                    "snmp = {{ address = {address}, version = \"3\", timeout = \"1s\", retries = 1, v3 = {{ user = \"{}\", \
                     auth = \"sha256\", auth_key_file = {key}, priv = \"aes128\", priv_key_file = {key} }} }}",
                    devices::USER
                ),
                Server::Snmp => format!(
                    "snmp = {{ address = {address}, version = \"2c\", community = \"{}\", timeout = \"1s\", retries = 1 }}",
                    devices::COMMUNITY
                ),
            };
            let _ = write!(
                text,
                "\n[[device]]\nid = \"{}\"\nkind = \"{}\"\nprofile = \"{}\"\nlocation = \"{}\"\n{parent}\
                 interval = \"{}\"\n{access}\n",
                spec.id,
                spec.kind_name(),
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
    pub(super) fn assets(&self) -> String {
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

    pub(super) fn mosquitto_dir(&self, site: Site) -> PathBuf {
        self.site_dir(site).join("mosquitto")
    }

    pub(super) fn mosquitto_text(&self, site: Site) -> String {
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
