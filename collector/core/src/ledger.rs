//! The append-only history behind alarms, failover, public page and reports.
//!
//! Knows: how entries are chained and how a chain is checked. Refuses to know: where it is stored. Invariants: an entry's
//! hash covers the one before it; the bytes that are hashed do not depend on the order of fields or of a map.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use bcp_wire::Site;

use crate::time::{LogTime, Wall};

/// One event, chained to the one before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    pub seq: u64,
    /// Log index of the tick that caused it.
    pub index: u64,
    pub log_time: LogTime,
    pub wall: Wall,
    /// `system`, `operator:<name>`, `gate:<site>:<id>`, `collector:<site>`.
    pub author: String,
    /// What it is about, as `ticket:prescriptions`, `alarm:...`, `service:...`, `incident:...`, `intervention:...`.
    pub subject: String,
    /// One English sentence for the operator, complete without context.
    pub text: String,
    pub what: LedgerEvent,
    /// Sequence number of the entry that caused this one.
    pub cause: Option<u64>,
    /// SHA-256 over the previous hash and this entry's canonical JSON without `hash`, hexadecimal.
    pub prev: String,
    pub hash: String,
}

/// Where the chain stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    pub seq: u64,
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LedgerEvent {
    Policy {
        hash: String,
    },
    /// Proposed, and left out because it is unsafe.
    PolicyRefused {
        hash: String,
        reason: String,
    },
    Leader {
        site: Site,
        term: u64,
    },
    Ticket {
        event: crate::failover::TicketEvent,
    },
    Alarm {
        event: crate::alarms::AlarmEvent,
    },
    Service {
        event: crate::status::ServiceEvent,
    },
    Incident {
        event: crate::status::IncidentEvent,
    },
    Intervention {
        event: crate::status::InterventionEvent,
    },
    Command {
        key: String,
        ok: bool,
    },
    Drill {
        event: crate::drill::DrillEvent,
    },
}

/// What is said in an entry; the ledger adds its place in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub author: String,
    pub subject: String,
    pub text: String,
    pub what: LedgerEvent,
    pub cause: Option<u64>,
}

/// When it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    pub index: u64,
    pub log_time: LogTime,
    pub wall: Wall,
}

impl Head {
    /// Chains one more entry and moves the head to it.
    pub fn append(&mut self, when: When, said: Said) -> LedgerEntry {
        let mut entry = LedgerEntry {
            seq: self.seq.saturating_add(1),
            index: when.index,
            log_time: when.log_time,
            wall: when.wall,
            author: said.author,
            subject: said.subject,
            text: said.text,
            what: said.what,
            cause: said.cause,
            prev: self.hash.clone(),
            hash: String::new(),
        };
        entry.hash = hash_of(&entry);
        self.seq = entry.seq;
        self.hash.clone_from(&entry.hash);
        entry
    }
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    #[error("entry {found} follows entry {after}")]
    Gap { after: u64, found: u64 },
    #[error("entry {seq} does not name the hash of the entry before it")]
    Previous { seq: u64 },
    #[error("the content of entry {seq} does not fit its hash")]
    Content { seq: u64 },
}

/// Checks entries that follow `head` (the default for a chain from its beginning); the head after the last of them.
///
/// # Errors
/// The first entry that does not fit.
pub fn verify<'a>(head: &Head, entries: impl IntoIterator<Item = &'a LedgerEntry>) -> Result<Head, ChainFault> {
    let mut head = head.clone();
    for entry in entries {
        let seq = entry.seq;
        if seq != head.seq.saturating_add(1) {
            return Err(ChainFault::Gap { after: head.seq, found: seq });
        }
        if entry.prev != head.hash {
            return Err(ChainFault::Previous { seq });
        }
        if entry.hash != hash_of(entry) {
            return Err(ChainFault::Content { seq });
        }
        head = Head { seq, hash: entry.hash.clone() };
    }
    Ok(head)
}

/// SHA-256 over the previous hash and the entry's canonical JSON without `hash`, hexadecimal.
#[must_use]
pub fn hash_of(entry: &LedgerEntry) -> String {
    let mut value = serde_json::to_value(entry).unwrap_or(Value::Null);
    if let Value::Object(fields) = &mut value {
        fields.remove("hash");
    }
    let mut text = entry.prev.clone();
    write_canonical(&value, &mut text);
    hex_sha256(text.as_bytes())
}

/// SHA-256 of a value's canonical JSON, hexadecimal: equal for equal values, on every collector.
#[must_use]
pub fn canonical_hash(value: &impl Serialize) -> String {
    hex_sha256(canonical_json(value).as_bytes())
}

/// JSON with sorted keys and no spaces.
#[must_use]
pub fn canonical_json(value: &impl Serialize) -> String {
    let mut text = String::new();
    write_canonical(&serde_json::to_value(value).unwrap_or(Value::Null), &mut text);
    text
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (n, (key, item)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                // Writing to a String cannot fail.
                let _ = write!(out, "{}:", Value::String(key.clone()));
                write_canonical(item, out);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<LedgerEntry> {
        let mut head = Head::default();
        let said = |n: u64| Said {
            author: "system".to_owned(),
            subject: format!("alarm:{n}"),
            text: "Something happened.".to_owned(),
            what: LedgerEvent::Command { key: n.to_string(), ok: true },
            cause: None,
        };
        let when = When { index: 1, log_time: LogTime(5), wall: Wall(7) };
        (0..length).map(|n| head.append(when, said(n))).collect()
    }

    #[test]
    fn a_chain_is_valid_as_written_and_in_parts() {
        let entries = chain(5);
        let middle = verify(&Head::default(), &entries[..2]).unwrap();
        assert_eq!(verify(&middle, &entries[2..]).unwrap(), verify(&Head::default(), &entries).unwrap());
    }

    #[test]
    fn every_kind_of_tampering_is_found() {
        let mut changed = chain(3);
        changed[1].text.push('!');
        assert_eq!(verify(&Head::default(), &changed), Err(ChainFault::Content { seq: 2 }));
        let mut rehashed = chain(3);
        rehashed[1].text.push('!');
        rehashed[1].hash = hash_of(&rehashed[1]);
        assert_eq!(verify(&Head::default(), &rehashed), Err(ChainFault::Previous { seq: 3 }));
        let mut cut = chain(3);
        cut.remove(1);
        assert_eq!(verify(&Head::default(), &cut), Err(ChainFault::Gap { after: 1, found: 3 }));
    }

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let value: Value = serde_json::from_str(r#"{"b":{"z":1,"a":[{"y":"\"","x":null}]},"a":true}"#).unwrap();
        assert_eq!(canonical_json(&value), r#"{"a":true,"b":{"a":[{"x":null,"y":"\""}],"z":1}}"#);
    }
}
