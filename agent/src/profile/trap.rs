//! `[[trap]]`: what a device's notifications are called.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Protocol;
use super::read::Reader;
use crate::document::Section;
use crate::oid::Oid;

/// Longest name of an event.
const MAX_NAME_BYTES: usize = 64;

/// How much a notification matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Critical,
    /// What was wrong is over.
    Clear,
}

impl Severity {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
            Severity::Clear => "clear",
        }
    }
}

/// One kind of notification.
#[derive(Debug, Clone, PartialEq)]
pub struct Trap {
    /// snmpTrapOID; of a trap of version 1 the enterprise, 0 and the specific number.
    pub oid: Oid,
    pub name: String,
    pub severity: Severity,
    /// Names of variables, by the beginning of their identifier.
    values: Vec<(Oid, String)>,
}

impl Trap {
    /// True where a notification is of this kind. Devices differ in the 0 before the last number (RFC 3584, 3.1).
    #[must_use]
    pub fn fits(&self, oid: &Oid) -> bool {
        let without_zero = |oid: &Oid| match oid.arcs() {
            [enterprise @ .., 0, last] => [enterprise, &[*last]].concat(),
            arcs => arcs.to_vec(),
        };
        self.oid == *oid || without_zero(&self.oid) == without_zero(oid)
    }

    /// The name of a variable.
    #[must_use]
    pub fn value_name(&self, oid: &Oid) -> Option<&str> {
        let named = self.values.iter().find(|(known, _)| known == oid || known.suffix_of(oid).is_some());
        named.map(|(_, name)| name.as_str())
    }
}

impl Reader {
    pub(super) fn trap(&mut self, mut section: Section<'_, '_>) {
        if !matches!(self.protocol, Some(Protocol::Snmp { .. })) {
            section.fault("", "traps are for SNMP", None);
        }
        let oid: Option<String> = section.required("oid", "\"1.3.6.1.2.1.33.2.1\"");
        let name: Option<String> = section.required("name", "\"on-battery\"");
        let severity = section.required("severity", "\"warning\"");
        let raw: BTreeMap<String, String> = section.optional("values").unwrap_or_default();
        let mut values = Vec::new();
        for (name, oid) in raw {
            match oid.parse() {
                Ok(oid) => values.push((oid, name)),
                Err(error) => section.fault("values", format!("{error}"), None),
            }
        }
        let oid = oid.and_then(|text| text.parse().map_err(|e| section.fault("oid", format!("{e}"), None)).ok());
        let sound = |name: &String| {
            !name.is_empty()
                && name.len() <= MAX_NAME_BYTES
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if name.as_ref().is_some_and(|name| !sound(name)) {
            section.fault("name", "an event's name has small letters, digits and `-`", None);
        }
        section.finish();
        let (Some(oid), Some(name), Some(severity)) = (oid, name, severity) else { return };
        let trap = Trap { oid, name, severity, values };
        // A later document's takes the place of its base's.
        match self.traps.iter_mut().find(|known| known.oid == trap.oid) {
            Some(known) => *known = trap,
            None => self.traps.push(trap),
        }
    }
}
