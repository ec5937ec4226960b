//! From what a device says about itself to a profile, a confidence and a block of configuration.
//!
//! Knows: how candidates are ranked. Refuses to know: sockets; a candidate is tried by the driver.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bcp_wire::Id;
use serde::Serialize;

use super::modbus::Identity;
use crate::oid::Oid;
use crate::profile::{Profile, Protocol};

/// Candidates that are tried on the device itself.
pub const MAX_TRIED: usize = 3;
/// Numbers of a sysObjectID that name an enterprise: more name a product.
const ENTERPRISE_ARCS: usize = 7;

/// How much a sign is worth, of 60.
const SIGN_PRODUCT: u32 = 60;
const SIGN_VENDOR_AND_TEXT: u32 = 50;
const SIGN_TEXT: u32 = 40;
const SIGN_VENDOR: u32 = 30;
const SIGN_STANDARD: u32 = 20;
/// How much reading it is worth, of 40.
const READ: u32 = 40;

/// A profile that may fit.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub profile: Arc<Profile>,
    /// 0 to 60.
    pub sign: u32,
    /// Registers by which the device's map stands further on.
    pub shift: i32,
    rank: (usize, usize),
}

/// A device as the operator is told about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proposal {
    pub address: String,
    pub protocol: &'static str,
    /// What it says about itself.
    pub says: String,
    pub profile: Option<String>,
    /// Percent.
    pub confidence: u32,
    /// Points that were read, of those the profile has.
    pub read: Option<(usize, usize)>,
    pub firmware_proven: Option<bool>,
    /// Ready to be pasted.
    pub config: Option<String>,
}

/// Profiles that may fit an SNMP device, the best first.
#[must_use]
pub fn snmp_candidates(profiles: &[Arc<Profile>], object_id: Option<&Oid>, descr: &str) -> Vec<Candidate> {
    let snmp = profiles.iter().filter(|profile| matches!(profile.protocol, Protocol::Snmp { .. }));
    let mut found: Vec<Candidate> = snmp
        .filter_map(|profile| {
            let fingerprint = profile.fingerprint.as_ref();
            let rank = fingerprint.and_then(|fingerprint| fingerprint.fit(object_id, descr));
            let sign = match rank {
                Some((arcs, _)) if arcs > ENTERPRISE_ARCS => SIGN_PRODUCT,
                Some((arcs, texts)) if arcs > 0 && texts > 0 => SIGN_VENDOR_AND_TEXT,
                Some((0, _)) => SIGN_TEXT,
                Some(_) => SIGN_VENDOR,
                None if is_standard(&profile.reference.id) => SIGN_STANDARD,
                None => return None,
            };
            Some(Candidate { profile: Arc::clone(profile), sign, shift: 0, rank: rank.unwrap_or_default() })
        })
        .collect();
    found.sort_by(|a, b| (b.rank, b.sign, &a.profile.reference.id).cmp(&(a.rank, a.sign, &b.profile.reference.id)));
    found.truncate(MAX_TRIED);
    found
}

/// Profiles of standards, and of the agent that many makers build in, fit whatever reads well; those of makers only
/// what they name.
fn is_standard(id: &str) -> bool {
    id.starts_with("ietf/") || id == "net-snmp/host"
}

/// Profiles that are for models of this device's SunSpec map, by model: number and address of it.
#[must_use]
pub fn sunspec_candidates(profiles: &[Arc<Profile>], identity: &Identity) -> Vec<((u16, u16), Vec<Candidate>)> {
    let said = identity.texts.join(" ").to_lowercase();
    let models = identity.sunspec.iter().flat_map(|map| &map.models);
    let of_model = |model: u16, at: u16| -> Vec<Candidate> {
        let candidates = profiles.iter().filter_map(|profile| {
            let sunspec = profile.sunspec.as_ref().filter(|sunspec| sunspec.models.contains(&model))?;
            let (vendor, _) = profile.reference.id.split_once('/')?;
            // Those of makers only on what their makers made.
            let sign = match vendor {
                vendor if said.contains(vendor) => SIGN_PRODUCT,
                "sunspec" => SIGN_VENDOR_AND_TEXT,
                _ => return None,
            };
            let shift = i32::from(at) - i32::from(sunspec.at);
            Some(Candidate { profile: Arc::clone(profile), sign, shift, rank: (1, 1) })
        });
        candidates.take(MAX_TRIED).collect()
    };
    let found = models.map(|(model, at)| ((*model, *at), of_model(*model, *at)));
    found.filter(|(_, candidates)| !candidates.is_empty()).collect()
}

/// Profiles that may fit a Modbus device: those whose maker and model it names.
#[must_use]
pub fn modbus_candidates(profiles: &[Arc<Profile>], identity: &Identity) -> Vec<Candidate> {
    let said = identity.texts.join(" ").to_lowercase();
    let words: BTreeSet<&str> =
        said.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 2).collect();
    let modbus = profiles.iter().filter(|profile| matches!(profile.protocol, Protocol::Modbus { .. }));
    let mut found: Vec<Candidate> = modbus
        .filter_map(|profile| {
            let (vendor, model) = profile.reference.id.split_once('/')?;
            let about = format!("{} {model}", profile.title).to_lowercase();
            let about: BTreeSet<&str> = about.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            let by_vendor = words.contains(vendor);
            let by_model = words.iter().filter(|word| about.contains(*word) && **word != vendor).count();
            let sign = match (by_vendor, by_model) {
                (true, 1..) => SIGN_VENDOR_AND_TEXT,
                (true, 0) => SIGN_VENDOR,
                (false, 1..) => SIGN_STANDARD,
                (false, 0) => return None,
            };
            Some(Candidate { profile: Arc::clone(profile), sign, shift: 0, rank: (usize::from(by_vendor), by_model) })
        })
        .collect();
    found.sort_by(|a, b| (b.rank, &a.profile.reference.id).cmp(&(a.rank, &b.profile.reference.id)));
    found.truncate(MAX_TRIED);
    found
}

/// Percent, of a sign and of how many points could be read.
#[must_use]
pub fn confidence(sign: u32, good: usize, all: usize) -> u32 {
    if good == 0 || all == 0 {
        // Whatever it says it is: it cannot be read as that.
        return sign / 6;
    }
    let share = u32::try_from(good * READ as usize / all).unwrap_or(READ);
    sign + share.min(READ)
}

/// An id for a device: its own name where it has one, else its kind and address; `taken` makes it unique.
#[must_use]
pub fn id_for(name: &str, kind: &str, address: IpAddr, taken: &mut BTreeSet<String>) -> String {
    let mut slug = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let told: String = slug.trim_matches('-').chars().take(24).collect();
    let told = told.trim_end_matches('-').to_owned();
    let usable = told.len() > 2 && told.parse::<Id>().is_ok() && told != "localhost";
    let numbers = address.to_string().replace(['.', ':'], "-");
    let stem = if usable { told } else { format!("{kind}-{}", numbers.trim_matches('-')) };
    let stem: String = stem.chars().take(28).collect();
    let mut id = stem.clone();
    let mut next = 2;
    while !taken.insert(id.clone()) {
        id = format!("{stem}-{next}");
        next += 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile;

    fn all() -> Vec<Arc<Profile>> {
        profile::embedded_ids().map(|id| profile::load(id, None).unwrap()).collect()
    }

    #[test]
    fn ids_are_of_the_contract_and_unique() {
        let mut taken = BTreeSet::new();
        let address: IpAddr = "10.1.2.3".parse().unwrap();
        for (name, want) in [
            ("UPS Room 1", "ups-room-1"),
            ("UPS Room 1", "ups-room-1-2"),
            ("", "pdu-10-1-2-3"),
            ("--", "pdu-10-1-2-3-2"),
            ("a very long name of a very long device", "a-very-long-name-of-a-ve"),
        ] {
            let id = id_for(name, "pdu", address, &mut taken);
            assert_eq!(id, want);
            assert!(id.parse::<Id>().is_ok());
        }
    }

    #[test]
    fn reading_decides_between_signs() {
        assert_eq!(confidence(SIGN_PRODUCT, 20, 20), 100);
        assert!(confidence(SIGN_PRODUCT, 0, 20) < confidence(SIGN_STANDARD, 10, 20));
        assert_eq!(confidence(SIGN_TEXT, 10, 20), 60);
    }

    #[test]
    fn an_unknown_device_may_still_be_of_a_standard() {
        let found = snmp_candidates(&all(), "1.3.6.1.4.1.99999.1".parse().ok().as_ref(), "something else");
        assert!(found.iter().all(|candidate| is_standard(&candidate.profile.reference.id)));
        assert!(found.iter().any(|candidate| candidate.profile.reference.id == "ietf/ups-mib"));
        let nothing = Identity::default();
        assert!(modbus_candidates(&all(), &nothing).is_empty());
    }
}
