//! How a device of this profile is recognised, and for which firmware the profile was proven.

use crate::oid::Oid;
use crate::profile::Address;
use crate::profile::read::Reader;

use super::Protocol;
use super::read::{bounded, register};
use crate::document::Section;

/// sysDescr.0: what tells the firmware where a profile names nothing better.
const SYS_DESCR: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 1, 0];

/// Signs by which a device is recognised.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// Where the device tells its firmware.
    pub address: Address,
    /// Beginnings of the text for which the profile was proven.
    pub proven: Vec<String>,
    /// First and last version for which it was proven.
    pub versions: Option<(Version, Version)>,
    /// The version follows this in the text; else it is the first number with a dot.
    pub version_after: Option<String>,
    /// Beginnings of sysObjectID, the most telling sign.
    pub sys_object_id: Vec<Oid>,
    /// Texts that sysDescr contains, whatever their case.
    pub sys_descr: Vec<String>,
}

/// `6.4.7` as numbers; missing ones count as 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 4]);

impl Version {
    /// The version at the beginning of a text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut parts = [0; 4];
        let mut any = false;
        for (part, digits) in parts.iter_mut().zip(text.get(..end)?.split('.')) {
            if digits.is_empty() {
                break;
            }
            *part = digits.parse().ok()?;
            any = true;
        }
        any.then_some(Version(parts))
    }

    /// The first number with a dot in a text, such as `2.0` of `Rev V2.0b`.
    fn within(text: &str) -> Option<Version> {
        let starts = text.char_indices().filter(|(at, c)| {
            c.is_ascii_digit() && !text[..*at].ends_with(|before: char| before.is_ascii_digit() || before == '.')
        });
        starts
            .map(|(at, _)| &text[at..])
            .find(|rest| {
                rest.trim_start_matches(|c: char| c.is_ascii_digit())
                    .strip_prefix('.')
                    .is_some_and(|after| after.starts_with(|c: char| c.is_ascii_digit()))
            })
            .and_then(Version::parse)
    }
}

impl Fingerprint {
    /// True where nothing was proven, or this firmware was.
    #[must_use]
    pub fn covers(&self, firmware: &str) -> bool {
        if self.proven.is_empty() && self.versions.is_none() {
            return true;
        }
        self.proven.iter().any(|known| firmware.starts_with(known.as_str()))
            || self.versions.as_ref().is_some_and(|(first, last)| {
                self.version(firmware).is_some_and(|version| (first..=last).contains(&&version))
            })
    }

    /// The version in a firmware text.
    #[must_use]
    pub fn version(&self, firmware: &str) -> Option<Version> {
        match &self.version_after {
            Some(mark) => firmware.split_once(mark.as_str()).and_then(|(_, rest)| Version::parse(rest.trim_start())),
            None => Version::within(firmware),
        }
    }

    /// How well a device fits: the numbers of the sysObjectID that agree, and how many of the texts are in sysDescr.
    /// `None` where it does not fit at all.
    #[must_use]
    pub fn fit(&self, sys_object_id: Option<&Oid>, sys_descr: &str) -> Option<(usize, usize)> {
        let descr = sys_descr.to_lowercase();
        let arcs = |known: &Oid| known.arcs().len();
        let by_oid = sys_object_id.and_then(|told| {
            let fits = |known: &&Oid| *known == told || known.suffix_of(told).is_some();
            self.sys_object_id.iter().filter(fits).map(arcs).max()
        });
        let texts = self.sys_descr.iter().filter(|text| descr.contains(&text.to_lowercase())).count();
        let (needs_oid, needs_text) = (!self.sys_object_id.is_empty(), !self.sys_descr.is_empty());
        match (needs_oid, needs_text, by_oid, texts) {
            (false, false, ..) | (true, _, None, _) | (_, true, _, 0) => None,
            (_, _, by_oid, texts) => Some((by_oid.unwrap_or(0), texts)),
        }
    }
}

impl Reader {
    pub(super) fn fingerprint(&self, mut section: Section<'_, '_>) -> Option<Fingerprint> {
        let proven = section.optional("proven").unwrap_or_default();
        let range: Option<[String; 2]> = section.optional("versions");
        let versions = range.and_then(|[first, last]| match (Version::parse(&first), Version::parse(&last)) {
            (Some(first), Some(last)) if first <= last => Some((first, last)),
            _ => {
                section.fault("versions", "versions are [\"first\", \"last\"], as [\"6.4\", \"6.8.9\"]", None);
                None
            }
        });
        let version_after = section.optional("version_after");
        let mut sys_object_id = Vec::new();
        let mut sys_descr = Vec::new();
        let address = match self.protocol {
            Some(Protocol::Snmp { .. }) => {
                for text in section.optional::<Vec<String>>("sys_object_id").unwrap_or_default() {
                    match text.parse() {
                        Ok(oid) => sys_object_id.push(oid),
                        Err(error) => section.fault("sys_object_id", format!("{error}"), None),
                    }
                }
                sys_descr = section.optional("sys_descr").unwrap_or_default();
                match section.optional::<String>("oid") {
                    Some(text) => text.parse().map_err(|e| section.fault("oid", format!("{e}"), None)).ok(),
                    None => Oid::from_arcs(&SYS_DESCR),
                }
                .map(Address::Oid)
            }
            Some(Protocol::Modbus { .. }) => {
                let read: Option<String> = section.required("read", "\"holding:516\"");
                let len = bounded(&mut section, "len", 8, 1, 64);
                read.and_then(|read| match register(&read) {
                    Ok((space, address)) => Some(Address::Register { space, address, len }),
                    Err(message) => {
                        section.fault("read", message, None);
                        None
                    }
                })
            }
            None => None,
        };
        section.finish();
        Some(Fingerprint { address: address?, proven, versions, version_after, sys_object_id, sys_descr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &str) -> Fingerprint {
        let text = format!(
            "format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"t\"]\n[snmp]\n[fingerprint]\n{keys}\n\
            [[point]]\nname = \"outlet.1.current\"\nread = \"1.3.6.1.4.1.1.0\"\n"
        );
        crate::profile::parse("t/t", "t", &text).unwrap().fingerprint.unwrap()
    }

    #[test]
    fn firmware_is_covered_by_its_beginning_or_by_its_version() {
        let nothing = of("");
        assert!(nothing.covers("anything"));
        let proven = of("proven = [\"SW V3.\"]\nversions = [\"6.4\", \"6.8.9\"]\nversion_after = \"AF1:v\"");
        for (firmware, covered) in [
            ("SW V3.15", true),
            ("APC (MB:v4.1.0 AF1:v6.4.7 AN1:x)", true),
            ("APC (MB:v4.1.0 AF1:v6.8.9.b)", true),
            ("APC (MB:v6.5.0 AF1:v7.0)", false),
            ("none", false),
        ] {
            assert_eq!(proven.covers(firmware), covered, "{firmware}");
        }
        let plain = of("versions = [\"2.0\", \"2.9\"]");
        assert!(plain.covers("Poseidon 4002 SNMP Supervisor v2.0.15") && !plain.covers("Rev 3.1"));
    }

    #[test]
    fn the_longest_object_id_and_the_texts_tell_devices_apart() {
        let ats = of("sys_object_id = [\"1.3.6.1.4.1.318.1.3.32\", \"1.3.6.1.4.1.318.1.3.11\"]");
        let any = of("sys_object_id = [\"1.3.6.1.4.1.318\"]\nsys_descr = [\"ats\"]");
        let oid = |text: &str| text.parse::<Oid>().unwrap();
        assert_eq!(ats.fit(Some(&oid("1.3.6.1.4.1.318.1.3.32")), ""), Some((10, 0)));
        assert_eq!(ats.fit(Some(&oid("1.3.6.1.4.1.318.1.3.321")), ""), None);
        assert_eq!(any.fit(Some(&oid("1.3.6.1.4.1.318.1.3.9")), "apc_hw05_ATS4g"), Some((7, 1)));
        assert_eq!(any.fit(Some(&oid("1.3.6.1.4.1.318.1.3.9")), "other"), None);
        assert_eq!(of("sys_descr = [\"PDU Management\"]").fit(None, "HP PDU Management Module"), Some((0, 1)));
        assert_eq!(of("").fit(None, "x"), None);
    }
}
