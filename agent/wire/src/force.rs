//! Break-glass without a quorum: what two operators sign, and what a gate answers.
//!
//! Knows: the bytes that are signed. Refuses to know: keys, clocks, and whether it is right to do it. The order names one
//! ticket, one site and one epoch of an incarnation that was never used, so it can neither be repeated nor used elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::{Epoch, Id, Site};

/// Longest reason, in bytes; one line.
pub const MAX_REASON_BYTES: usize = 256;
/// Signatures of one order; two are needed.
pub const MAX_SIGNATURES: usize = 8;

/// What two operators agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceOrder {
    pub ticket: Id,
    pub to: Site,
    /// Its incarnation is above every one that was ever used for this ticket.
    pub epoch: Epoch,
    /// No gate takes it up later than this: milliseconds since 1970 UTC.
    pub expires_ms: i64,
    pub reason: String,
}

/// An order, and the Ed25519 signatures over its [`ForceOrder::signed_text`] by name of the operator, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedForce {
    pub order: ForceOrder,
    #[serde(default)]
    pub signatures: BTreeMap<Id, String>,
}

/// Why an order cannot be signed or taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForceFault {
    #[error("a reason of one line, 1 to {MAX_REASON_BYTES} bytes, is needed")]
    Reason,
    #[error("w only witnesses, it runs no service")]
    Witness,
    #[error("an order has at most {MAX_SIGNATURES} signatures")]
    Signatures,
}

impl ForceOrder {
    /// # Errors
    /// It could not be signed without ambiguity, or names a site that runs nothing.
    pub fn check(&self) -> Result<(), ForceFault> {
        let reason = self.reason.trim();
        if reason.is_empty() || self.reason.len() > MAX_REASON_BYTES || self.reason.chars().any(char::is_control) {
            return Err(ForceFault::Reason);
        }
        if self.to == Site::W { Err(ForceFault::Witness) } else { Ok(()) }
    }

    /// The bytes that are signed. Every value is one line, so two different orders never have the same text.
    #[must_use]
    pub fn signed_text(&self) -> String {
        let ForceOrder { ticket, to, epoch, expires_ms, reason } = self;
        format!(
            "bcp force without quorum 1\nticket {ticket}\nto {to}\nepoch {epoch}\nexpires_ms {expires_ms}\nreason {reason}\n"
        )
    }
}

/// What became of an order at one gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceAnswer {
    pub site: Site,
    pub gate: Id,
    #[serde(flatten)]
    pub outcome: ForceOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ForceOutcome {
    /// On the disk of the gate of the named site: it waits this long, then promotes.
    WillPromote {
        after_ms: u64,
    },
    /// On the disk of a gate of another site: whatever runs there is stopped, and no older epoch is obeyed any more.
    Yielded,
    Refused {
        reason: String,
    },
}

/// What a gate has seen of a ticket, for operators who decide without collectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateSeen {
    pub ticket: Id,
    pub epoch: Epoch,
    pub holder: Option<Site>,
    /// The service may be running there.
    pub active: bool,
    pub doing: String,
}

/// Lower-case hexadecimal.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a hexadecimal text; none where it is not one of exactly `N` bytes.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_one_text_and_nothing_slips_into_a_line() {
        let order = ForceOrder {
            ticket: "rx".parse().unwrap(),
            to: Site::B,
            epoch: "1790000000.1".parse().unwrap(),
            expires_ms: 7,
            reason: "a and w have burnt down".to_owned(),
        };
        assert_eq!(order.check(), Ok(()));
        assert!(order.signed_text().contains("\nepoch 1790000000.1\n"));
        let bad = |reason: &str| ForceOrder { reason: reason.to_owned(), ..order.clone() }.check();
        assert_eq!(bad("x\nto a"), Err(ForceFault::Reason));
        assert_eq!(bad("  "), Err(ForceFault::Reason));
        assert_eq!(ForceOrder { to: Site::W, ..order.clone() }.check(), Err(ForceFault::Witness));
        assert_eq!(from_hex::<3>(&to_hex(&[0, 171, 255])), Some([0, 171, 255]));
        assert_eq!(from_hex::<3>("00ab"), None);
        assert_eq!(from_hex::<2>("+0ab"), None);
    }
}
