//! Names of everything measured, each with unit and kind. The registry of the contract.
//!
//! Power devices follow the Network UPS Tools naming (RFC 9271); cooling, gensets, transfer switches, meters and
//! environment probes have namespaces of their own; hosts are `host.*`, application checks `check.*`, the agent's own
//! figures `agent.*`. `{n}` stands for a number from 1, `{id}` for a label of `a-z 0-9 -`.
//!
//! Where one address answers for several members of a chain or several units, each has its points below
//! `device.{id}.`, as Network UPS Tools does: `device.2.outlet.7.current`.

mod registry;

use crate::PointName;
pub use registry::NAMES;

/// How a point behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows, until it wraps or resets.
    Counter,
    /// One of a set of words, or flags.
    State,
}

/// One entry of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameDef {
    pub pattern: &'static str,
    /// As in the Unified Code for Units of Measure where it has one; empty for states.
    pub unit: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// Device kinds that profiles, metas and the topology may use.
pub const DEVICE_KINDS: &[&str] = &[
    "host",
    "agent",
    "check",
    "ups",
    "pdu",
    "ats",
    "crac",
    "chiller",
    "genset",
    "meter",
    "environment",
    "rectifier",
    "service",
    "switch",
    "inverter",
];

/// The definition a point name falls under, if the contract has one.
#[must_use]
pub fn lookup(name: &PointName) -> Option<&'static NameDef> {
    let own = own_name(name.as_str());
    NAMES.iter().find(|def| matches(def.pattern, own))
}

/// A name without the `device.{id}.` before it: the member of a chain, or a unit behind a gateway.
#[must_use]
pub fn own_name(name: &str) -> &str {
    let member = name.strip_prefix("device.").and_then(|rest| rest.split_once('.'));
    member.filter(|(id, own)| !id.is_empty() && !own.starts_with("device.")).map_or(name, |(_, own)| own)
}

/// True where `name` has the form of `pattern`.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = name.split('.');
    for want in pattern.split('.') {
        let Some(part) = parts.next() else { return false };
        let fits = match want {
            "{id}" => !part.is_empty(),
            "{n}" => is_number(part),
            _ => match want.strip_suffix("{n}") {
                Some(stem) => part.strip_prefix(stem).is_some_and(is_number),
                None => part == want,
            },
        };
        if !fits {
            return false;
        }
    }
    parts.next().is_none()
}

fn is_number(text: &str) -> bool {
    (1..=5).contains(&text.len()) && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
}

/// The pattern closest to a misspelt name, for "did you mean".
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    NAMES
        .iter()
        .map(|def| (distance(def.pattern, name), def.pattern))
        .min()
        .filter(|(distance, _)| *distance <= name.len() / 3 + 1)
        .map(|(_, pattern)| pattern)
}

/// Levenshtein distance over bytes, both texts bounded by the caller.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_are_found_and_others_are_not() {
        let found = |name: &str| lookup(&name.parse().unwrap()).map(|def| def.pattern);
        assert_eq!(found("fan.1.speed"), Some("fan.{n}.speed"));
        assert_eq!(found("input.l3.voltage"), Some("input.l{n}.voltage"));
        assert_eq!(found("input.l0.voltage"), None);
        assert_eq!(found("host.fs.root.used"), Some("host.fs.{id}.used"));
        assert_eq!(found("fan.1"), None);
        assert_eq!(found("device.2.outlet.7.current"), Some("outlet.{n}.current"));
        assert_eq!(found("device.1-4.supply.air.temperature"), Some("supply.air.temperature"));
        assert_eq!(found("device.1.device.2.ups.load"), None);
        assert_eq!(found("device.ups.load"), None);
        assert_eq!(nearest("batery.charge"), Some("battery.charge"));
        assert_eq!(nearest("zzzzzzzzzzzzzzzz"), None);
    }

    #[test]
    fn no_two_patterns_overlap() {
        for (i, a) in NAMES.iter().enumerate() {
            for b in &NAMES[i + 1..] {
                let sample = a.pattern.replace("{n}", "7").replace("{id}", "x");
                assert!(!matches(b.pattern, &sample), "{} and {} overlap", a.pattern, b.pattern);
            }
        }
    }
}
