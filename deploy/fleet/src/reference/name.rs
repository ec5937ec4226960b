//! The name of the reference application: a zone of its own, served and changed by BIND.
//!
//! Knows: zone, key and configuration. Refuses to know: who is active; the `dns` actuator of the gates changes the name, signed
//! with the key, together with the epoch beside it.
//!
//! The zone is made once and then kept: BIND writes a journal beside it, and an epoch that was published stays known.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use base64::Engine;
use bcp_wire::Site;
use rand::RngCore;

use super::seed::{SeedError, User, io, make_dir, put};
use crate::layout::Layout;

/// Of a top-level domain that leads nowhere (RFC 6761).
pub const ZONE: &str = "registry.test";
/// What clients look up.
pub const SERVICE_NAME: &str = "db.registry.test";
/// The key's name, as gate and server know it.
const KEY: &str = "gate";
/// Clients that keep the name for longer come late.
const TTL_S: u32 = 2;
const KEY_BYTES: usize = 32;

/// Where clients come in at a site: the door listens there too.
#[must_use]
pub const fn address(site: Site) -> Ipv4Addr {
    match site {
        Site::A => Ipv4Addr::new(127, 0, 10, 1),
        Site::B => Ipv4Addr::new(127, 0, 20, 1),
        Site::W => Ipv4Addr::new(127, 0, 30, 1),
    }
}

fn zone_text() -> String {
    format!("$TTL 60\n@ IN SOA ns.{ZONE}. op.{ZONE}. 1 3600 600 86400 60\n@ IN NS ns.{ZONE}.\nns IN A 127.0.0.1\n")
}

impl Layout {
    fn name_dir(&self) -> PathBuf {
        self.reference_dir().join("name")
    }

    #[must_use]
    pub fn named_config(&self) -> PathBuf {
        self.reference_dir().join("named.conf")
    }

    /// The gates' key.
    #[must_use]
    pub fn name_key(&self) -> PathBuf {
        self.data_dir.join("registry.tsig")
    }

    fn named_text(&self, secret: &str) -> String {
        let dir = self.name_dir();
        format!(
            "// Written by `fleet up`.\noptions {{\n  directory \"{dir}\"; pid-file none; session-keyfile \"{dir}/session\";\n\
             \x20 listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
             \x20 recursion no; notify no; allow-transfer {{ none; }}; dnssec-validation no; empty-zones-enable no;\n}};\n\
             controls {{ }};\nkey \"{KEY}\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n\
             zone \"{ZONE}\" {{\n  type primary; file \"{dir}/zone\";\n\
             \x20 update-policy {{ grant {KEY} name {SERVICE_NAME}. A AAAA; grant {KEY} name _bcp.{SERVICE_NAME}. TXT; }};\n}};\n",
            dir = dir.display(),
            port = self.base.reference_name(),
        )
    }

    pub(super) fn prepare_name(&self, user: User) -> Result<(), SeedError> {
        make_dir(&self.name_dir(), user, 0o700)?;
        let zone = self.name_dir().join("zone");
        if !zone.exists() {
            put(&zone, &zone_text(), user)?;
        }
        put(&self.named_config(), &self.named_text(&self.name_secret()?), user)
    }

    fn name_secret(&self) -> Result<String, SeedError> {
        let path = self.name_key();
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&path)(error)),
            Err(_) => {}
        }
        let mut bytes = [0; KEY_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let secret = base64::engine::general_purpose::STANDARD.encode(bytes);
        let written = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            writeln!(file, "{secret}")
        };
        written().map_err(io(&path))?;
        Ok(secret)
    }

    /// The actuator of a site for its name.
    pub(super) fn name_actuator(&self, site: Site) -> String {
        format!(
            "\n[[gate.ticket.actuators]]\nkind = \"dns\"\nserver = \"127.0.0.1:{}\"\nzone = \"{ZONE}\"\nname = \"{SERVICE_NAME}\"\n\
             addresses = [\"{}\"]\nttl_s = {TTL_S}\nkey = \"{KEY}\"\nkey_file = {}\n",
            self.base.reference_name(),
            address(site),
            toml::Value::String(self.name_key().display().to_string()),
        )
    }
}
