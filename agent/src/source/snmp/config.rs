//! How an SNMP device is reached: the `snmp = { ... }` of a device.
//!
//! Knows: versions, communities and users, and where their secrets come from. Refuses to know: sockets.
//! Communities and keys are never printed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::usm::{AuthProtocol, MIN_PASSWORD_BYTES, PrivProtocol, Secret, User};
use crate::config::{address, timeout};
use crate::document::Section;

/// Longest name of a user (RFC 3414, SNMP-USER-BASED-SM-MIB).
const MAX_USER_BYTES: usize = 32;
/// More tries than this keep a dead device alive for nobody.
const MAX_RETRIES: u8 = 5;

/// One device's address and credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct SnmpLink {
    /// `host:port`.
    pub address: String,
    pub access: Access,
    pub timeout: Duration,
    pub retries: u8,
}

/// Version and credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    V1 { community: String },
    V2c { community: String },
    V3(Arc<User>),
}

impl Access {
    /// Version 2c with this community.
    #[must_use]
    pub fn community(community: &str) -> Access {
        Access::V2c { community: community.to_owned() }
    }

    #[must_use]
    pub const fn version(&self) -> &'static str {
        match self {
            Access::V1 { .. } => "1",
            Access::V2c { .. } => "2c",
            Access::V3(_) => "3",
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The community is a password.
        write!(f, "version {}", self.version())
    }
}

impl fmt::Debug for SnmpLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnmpLink")
            .field("address", &self.address)
            .field("access", &self.access)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Reads the `snmp` table of a device.
pub(crate) fn snmp_link(mut section: Section<'_, '_>) -> Option<SnmpLink> {
    let address = address(&mut section, 161);
    let access = access(&mut section, "the device");
    let timeout = timeout(&mut section, 1_000);
    let retries: u8 = section.optional("retries").unwrap_or(1);
    if retries > MAX_RETRIES {
        section.fault("retries", "more than 5 retries keep a dead device alive for nobody", None);
    }
    section.finish();
    Some(SnmpLink { address: address?, access: access?, timeout, retries })
}

/// Lets equal users of several devices be one, so that their passwords are stretched once: that takes milliseconds.
pub(crate) fn share_users<'l>(links: impl Iterator<Item = &'l mut SnmpLink>) {
    let mut users: Vec<Arc<User>> = Vec::new();
    for link in links {
        let Access::V3(user) = &mut link.access else { continue };
        match users.iter().find(|known| *known == user) {
            Some(known) => *user = Arc::clone(known),
            None => users.push(Arc::clone(user)),
        }
    }
}

/// Reads `version` and the credentials that go with it.
pub(crate) fn access(section: &mut Section<'_, '_>, whose: &str) -> Option<Access> {
    let version: String = section.optional("version").unwrap_or_else(|| "2c".to_owned());
    let v3 = section.section("v3");
    match version.as_str() {
        "1" | "2c" => {
            if v3.is_some() {
                section.fault("v3", "`v3` goes with version 3", Some("write `version = \"3\"`".to_owned()));
            }
            let community = community(section, whose)?;
            Some(if version == "1" { Access::V1 { community } } else { Access::V2c { community } })
        }
        "3" => {
            for key in ["community", "community_file"] {
                if section.has(key) {
                    section.fault(key, "version 3 has users, not communities", None);
                }
            }
            let (_, _): (Option<String>, Option<PathBuf>) =
                (section.optional("community"), section.optional("community_file"));
            let Some(v3) = v3 else {
                let help = "add `v3 = { user = \"...\", auth = \"sha256\", auth_key_file = \"...\" }`".to_owned();
                section.fault("", format!("{whose} has no user"), Some(help));
                return None;
            };
            user(v3).map(|user| Access::V3(Arc::new(user)))
        }
        _ => {
            section.fault(
                "version",
                format!("there is no SNMP version `{version}`"),
                Some("write \"1\", \"2c\" or \"3\"".to_owned()),
            );
            // The rest is read all the same, so that its faults are told too.
            community(section, whose).map(|community| Access::V2c { community })
        }
    }
}

fn community(section: &mut Section<'_, '_>, whose: &str) -> Option<String> {
    let plain: Option<String> = section.optional("community");
    let file: Option<PathBuf> = section.optional("community_file");
    match (plain, file) {
        (Some(_), Some(_)) => {
            section.fault("community", "give either `community` or `community_file`", None);
            None
        }
        (Some(community), None) => Some(community),
        (None, Some(path)) => read_secret(section, "community_file", &path),
        (None, None) => {
            let help = Some("add `community_file = \"/etc/bcp-agent/community\"`".to_owned());
            section.fault("", format!("{whose} has no community"), help);
            None
        }
    }
}

/// First line of a file.
fn read_secret(section: &Section<'_, '_>, key: &str, path: &std::path::Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            section.fault(key, format!("{} cannot be read: {error}", path.display()), None);
            None
        }
    }
}

/// Reads a `v3` table.
pub(crate) fn user(mut section: Section<'_, '_>) -> Option<User> {
    let name: Option<String> = section.required("user", "\"operator\"");
    if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > MAX_USER_BYTES) {
        section.fault("user", format!("a user's name has 1 to {MAX_USER_BYTES} bytes"), None);
    }
    let context = section.optional("context").unwrap_or_default();
    let auth: Option<AuthProtocol> = section.optional("auth");
    let auth_key = key(&mut section, "auth_key_file", "auth", auth.is_some());
    let privacy: Option<PrivProtocol> = section.optional("priv");
    let priv_key = key(&mut section, "priv_key_file", "priv", privacy.is_some());
    if privacy.is_some() && auth.is_none() && !section.has("auth") {
        section.fault("priv", "privacy without authentication does not exist", Some("add `auth`".to_owned()));
    }
    section.finish();
    // A table with a fault is refused as a whole: what is missing here has been told.
    Some(User::new(name?, context, auth.zip(auth_key), privacy.zip(priv_key)))
}

fn key(section: &mut Section<'_, '_>, file_key: &'static str, protocol_key: &str, wanted: bool) -> Option<Secret> {
    let path: Option<PathBuf> = section.optional(file_key);
    let Some(path) = path else {
        if wanted && !section.has(file_key) {
            let help = Some(format!("add `{file_key} = \"/etc/bcp-agent/keys/...\"`"));
            section.fault(protocol_key, format!("`{protocol_key}` needs `{file_key}`"), help);
        }
        return None;
    };
    if !wanted && !section.has(protocol_key) {
        section.fault(file_key, format!("`{file_key}` needs `{protocol_key}`"), None);
    }
    let secret = read_secret(section, file_key, &path)?;
    if secret.len() < MIN_PASSWORD_BYTES {
        section.fault(file_key, format!("a key has at least {MIN_PASSWORD_BYTES} characters"), None);
        return None;
    }
    Some(Secret::new(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn read(text: &str) -> (Option<SnmpLink>, Vec<String>) {
        let document = Document::new("f", text);
        let link = snmp_link(document.root());
        (link, document.into_faults().into_iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect())
    }

    #[test]
    fn each_version_has_its_credentials_and_none_is_printed() {
        let dir = std::env::temp_dir().join(format!("bcp-snmp-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("key");
        std::fs::write(&path, "maplesyrup\n").unwrap();
        let file = path.display();
        let v3 = format!(
            "address = 'h:1'\nversion = '3'\nv3 = {{ user = 'op', auth = 'sha512', auth_key_file = '{file}', \
             priv = 'aes256c', priv_key_file = '{file}', context = 'c' }}"
        );
        for (text, version) in [
            ("address = 'h:1'\ncommunity = 'maplesyrup'", "2c"),
            ("address = 'h:1'\nversion = '1'\ncommunity = 'maplesyrup'", "1"),
            (v3.as_str(), "3"),
            ("address = 'h:1'\nversion = '3'\nv3 = { user = 'op' }", "3"),
        ] {
            let (link, faults) = read(text);
            assert_eq!(faults, Vec::<String>::new());
            let link = link.unwrap();
            assert_eq!(link.access.version(), version);
            assert!(!format!("{link:?}").contains("maple"));
        }
        std::fs::write(&path, "short").unwrap();
        for (text, wanted) in [
            ("address = 'h:1'", "has no community"),
            ("address = 'h:1'\nversion = '2'\ncommunity = 'x'", "there is no SNMP version `2`"),
            ("address = 'h:1'\nversion = '3'\ncommunity = 'x'", "users, not communities"),
            ("address = 'h:1'\nversion = '3'", "has no user"),
            ("address = 'h:1'\ncommunity = 'x'\nv3 = { user = 'op' }", "goes with version 3"),
            ("address = 'h:1'\nversion = '3'\nv3 = { user = 'op', auth = 'sha256' }", "needs `auth_key_file`"),
            ("address = 'h:1'\nversion = '3'\nv3 = { user = 'op', auth = 'sha3' }", "unknown variant"),
            ("address = 'h:1'\nversion = '3'\nv3 = { user = 'op', priv = 'des' }", "without authentication"),
            (v3.as_str(), "at least 8 characters"),
        ] {
            let (_, faults) = read(text);
            assert!(faults.iter().any(|fault| fault.contains(wanted)), "{wanted}: {faults:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
