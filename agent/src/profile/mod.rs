//! Device profiles: `firmware-configs/<vendor>/<model>.toml` to a checked read plan.
//!
//! Knows: what a profile is, where profiles come from, and (its submodules) which names, types and formulas go
//! together. Refuses to know: which device uses it, sockets. Invariant: a [`Profile`] can be polled as it is; every
//! fault was found before.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::PointName;
use bcp_wire::presence::ProfileRef;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::adjust::Adjust;
use crate::decode::Decoder;
use crate::derive::Formula;
use crate::document::{Fault, nearest};
use crate::oid::Oid;
use crate::plan::{Limits, Space};

mod derived;
mod fingerprint;
mod point;
mod read;
mod table;
mod trap;

pub use fingerprint::Fingerprint;
pub use table::{Component, Condition, IndexPart, Sibling, Subject, Table, TablePoint, Test, fill};
pub use trap::{Severity, Trap};

/// The profiles that are part of the program: id and text.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// Longest chain of a profile on another one: more is a circle.
const MAX_BASES: usize = 4;

/// What a device of one model measures, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub reference: ProfileRef,
    pub title: String,
    pub kind: String,
    pub protocol: Protocol,
    /// The models of SunSpec it is for.
    pub sunspec: Option<SunSpec>,
    pub points: Vec<Point>,
    pub tables: Vec<Table>,
    /// Computed in this order, from `points`, rows of tables and those before.
    pub derived: Vec<Derived>,
    /// Patterns of row names that derived points read; [`crate::derive::Input::Rows`] counts them.
    pub row_inputs: Vec<String>,
    pub fingerprint: Option<Fingerprint>,
    /// What its notifications are called.
    pub traps: Vec<Trap>,
}

/// A model of SunSpec may stand anywhere on a device: a profile for one is written as if it began at a certain place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SunSpec {
    pub models: Vec<u16>,
    /// Address of the model's number in this profile.
    pub at: u16,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Protocol {
    Modbus { limits: Limits, pause: Duration },
    Snmp { max_oids: usize },
}

impl Protocol {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Protocol::Modbus { .. } => "modbus",
            Protocol::Snmp { .. } => "snmp",
        }
    }
}

/// One measured point.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: PointName,
    /// Of the contract's registry; empty for texts and unpublished points.
    pub unit: &'static str,
    pub address: Address,
    pub decoder: Arc<Decoder>,
    /// Siblings by index of their point.
    pub adjust: Adjust<usize>,
    /// The largest change between two polls that is plausible.
    pub max_step: Option<f64>,
    /// Used where that point has no value.
    pub fallback_of: Option<usize>,
    pub optional: bool,
    pub publish: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Register { space: Space, address: u16, len: u16 },
    Oid(Oid),
}

impl Address {
    /// The same so many registers further on; `None` beyond the ends of the address space.
    #[must_use]
    pub fn moved(&self, shift: i32) -> Option<Address> {
        match self {
            Address::Register { space, address, len } => {
                let address = u16::try_from(i32::from(*address).checked_add(shift)?).ok()?;
                let ends = u32::from(address) + u32::from(*len);
                (ends <= 65_536).then_some(Address::Register { space: *space, address, len: *len })
            }
            Address::Oid(_) => Some(self.clone()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Register { space, address, .. } => write!(f, "{}:{address}", space.as_str()),
            Address::Oid(oid) => write!(f, "{oid}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    pub name: PointName,
    pub unit: &'static str,
    pub formula: Formula,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("there is no profile `{id}`")]
    Unknown { id: String, near: Option<String> },
    #[error("failed to read the profile {path}")]
    Read { path: String, source: std::io::Error },
    #[error("the profile `{id}` has {} faults", faults.len())]
    Faulty { id: String, faults: Vec<Fault> },
}

/// Ids of the profiles that are part of the program.
pub fn embedded_ids() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(id, _)| *id)
}

/// The text of a profile and the name of its file: of `dir` first, then the built-in one.
fn find(id: &str, dir: Option<&Path>) -> Option<(String, std::io::Result<String>)> {
    let is_plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let plain = id.split_once('/').is_some_and(|(vendor, model)| is_plain(vendor) && is_plain(model));
    let file = dir.filter(|_| plain).map(|dir| dir.join(format!("{id}.toml"))).filter(|path| path.is_file());
    if let Some(path) = file {
        return Some((path.display().to_string(), std::fs::read_to_string(&path)));
    }
    let (_, text) = EMBEDDED.iter().find(|(known, _)| *known == id)?;
    Some((format!("built-in:{id}.toml"), Ok((*text).to_owned())))
}

/// Loads a profile: a file of `dir` first, then the built-in one.
///
/// # Errors
/// There is none of that id, or it is at fault.
pub fn load(id: &str, dir: Option<&Path>) -> Result<Arc<Profile>, ProfileError> {
    let Some((name, text)) = find(id, dir) else {
        let known: Vec<&str> = embedded_ids().collect();
        return Err(ProfileError::Unknown { id: id.to_owned(), near: nearest(id, &known).map(str::to_owned) });
    };
    let text = text.map_err(|source| ProfileError::Read { path: name.clone(), source })?;
    let parsed = parse_in(id, &name, &text, dir);
    parsed.map(Arc::new).map_err(|faults| ProfileError::Faulty { id: id.to_owned(), faults })
}

/// First 16 hexadecimal digits of the SHA-256 of a text.
#[must_use]
pub fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut hash, byte| {
        use std::fmt::Write as _;
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

/// Reads and checks one profile; a base is looked for among the built-in ones.
///
/// # Errors
/// Every fault of the file.
pub fn parse(id: &str, file: &str, text: &str) -> Result<Profile, Vec<Fault>> {
    parse_in(id, file, text, None)
}

fn parse_in(id: &str, file: &str, text: &str, dir: Option<&Path>) -> Result<Profile, Vec<Fault>> {
    #[derive(Deserialize)]
    struct Based {
        base: Option<String>,
    }
    let base_of = |text: &str| toml::from_str::<Based>(text).ok().and_then(|based| based.base);
    let mut chain = vec![(file.to_owned(), text.to_owned())];
    let mut fault = None;
    while let Some(base) = chain.last().and_then(|(_, text)| base_of(text)) {
        match find(&base, dir) {
            _ if chain.len() > MAX_BASES => fault = Some(format!("more than {MAX_BASES} profiles stand on each other")),
            Some((name, Ok(text))) => {
                chain.push((name, text));
                continue;
            }
            Some((_, Err(error))) => fault = Some(format!("the base `{base}` cannot be read: {error}")),
            None => fault = Some(format!("there is no profile `{base}`")),
        }
        break;
    }
    let hash = if chain.len() == 1 {
        short_hash(text)
    } else {
        short_hash(&chain.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n"))
    };
    // The outermost base comes first.
    chain.reverse();
    read::profile(&chain, fault, ProfileRef { id: id.to_owned(), hash })
}

/// A row's label as a part of a point name; `taken` makes it unique.
#[must_use]
pub fn row_id(label: &str, taken: &mut BTreeSet<String>) -> String {
    let mut id = String::new();
    for c in label.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            id.push(c);
        } else if !id.ends_with('-') && !id.is_empty() {
            id.push('-');
        }
    }
    let id = id.trim_end_matches('-');
    let stem: String = if id.is_empty() { "root".to_owned() } else { id.chars().take(28).collect() };
    let mut unique = stem.clone();
    let mut next = 2;
    while !taken.insert(unique.clone()) {
        unique = format!("{stem}-{next}");
        next += 1;
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_sound() {
        let ids: Vec<&str> = embedded_ids().collect();
        for want in ["ietf/ups-mib", "net-snmp/host", "airedale/pco-cooler", "schneider/iem3000", "eastron/sdm630"] {
            assert!(ids.contains(&want), "{want}");
        }
        for id in ids {
            match load(id, None) {
                Ok(profile) => assert!(!profile.points.is_empty() || !profile.tables.is_empty(), "{id}"),
                Err(ProfileError::Faulty { faults, .. }) => {
                    panic!("{id}\n{}", crate::document::Faults(faults));
                }
                Err(error) => panic!("{id}: {error}"),
            }
        }
    }

    #[test]
    fn all_faults_of_a_profile_are_found_at_once() {
        let text = r#"
format = 2
title = "x"
kind = "upss"
sources = []
[modbus]
max_registers = 126
[[point]]
name = "batery.charge"
read = "holding:1"
[[point]]
name = "battery.charge"
read = "register:1"
[[point]]
name = "battery.voltage"
read = "holding:65535"
type = "u32"
[[point]]
name = "input.l{n}.voltage"
read = "holding:5"
[[point]]
name = "ups.load"
read = "holding:9"
range = [5, 1]
enum = { x = "a" }
bit = 16
[[derived]]
name = "ups.realpower"
max = ["battery.currant"]
"#;
        let faults = parse("a/b", "f", text).unwrap_err();
        let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        for want in [
            "format",
            "kind",
            "sources",
            "modbus.max_registers",
            "point[0].name",
            "point[1].read",
            "point[2].read",
            "point[3].n",
            "point[4].range",
            "point[4].enum",
            "point[4].bit",
            "derived[0].max",
        ] {
            assert!(keys.contains(&want), "{want} of {keys:?}");
        }
    }

    #[test]
    fn row_labels_become_parts_of_names() {
        let mut taken = BTreeSet::new();
        for (label, want) in
            [("/", "root"), ("/var/lib", "var-lib"), ("eth0", "eth0"), ("ETH0", "eth0-2"), ("", "root-2")]
        {
            assert_eq!(row_id(label, &mut taken), want);
        }
    }

    #[test]
    fn a_name_that_is_a_path_finds_nothing() {
        for id in ["../etc/passwd", "a", "a/../b", "ietf/ups-mibb"] {
            assert!(matches!(load(id, Some(Path::new("/"))), Err(ProfileError::Unknown { .. })), "{id}");
        }
    }

    #[test]
    fn a_profile_stands_on_another_one() {
        let text = r#"
format = 1
base = "ietf/ups-mib"
title = "x"
kind = "ups"
sources = ["x"]
[[point]]
name = "battery.runtime"
read = "1.3.6.1.4.1.1.0"
[[point]]
name = "battery.age"
read = "1.3.6.1.4.1.2.0"
[[derived]]
name = "ups.load"
max = ["battery.charge"]
"#;
        let base = load("ietf/ups-mib", None).unwrap();
        let own = parse("a/b", "f", text).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert_eq!((own.points.len(), own.derived.len()), (base.points.len() + 1, base.derived.len()));
        let place = |profile: &Profile, name: &str| profile.points.iter().position(|p| p.name.as_str() == name);
        assert_eq!(place(&own, "battery.runtime"), place(&base, "battery.runtime"));
        let runtime = &own.points[place(&own, "battery.runtime").unwrap()];
        assert_eq!(runtime.address.to_string(), "1.3.6.1.4.1.1.0");
        assert!(own.fingerprint.is_none() && own.reference.hash != base.reference.hash);
        // Its own points are still named once, its base must be there, and circles end.
        for (from, to) in [
            ("battery.age", "battery.runtime"),
            ("ietf/ups-mib", "ietf/none"),
            ("max = [\"battery.charge\"]", "max = [\"ups.load\"]"),
        ] {
            assert!(parse("a/b", "f", &text.replace(from, to)).is_err(), "{from} to {to}");
        }
        let dir = std::env::temp_dir().join(format!("bcp-profile-circle-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("a")).unwrap();
        std::fs::write(dir.join("a/b.toml"), text.replace("ietf/ups-mib", "a/b")).unwrap();
        let circle = load("a/b", Some(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(circle, Err(ProfileError::Faulty { .. })));
    }
}
