//! What is no payload of the contract, and how it is shown to an operator. PURE.

use std::io::Read;

use bcp_wire::PayloadError;
use bcp_wire::envelope::{MAX_INFLATED_BYTES, is_deflated};

/// Bytes of an offending payload kept for the operator.
pub const OFFENDER_BYTES: usize = 64;

/// Why a payload was refused. The set is closed; operators see these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("topic: {0}")]
    Topic(&'static str),
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("the topic names another site than the broker's")]
    ForeignSite,
    #[error("the payload names another device than its topic")]
    OtherDevice,
    #[error("another agent has this device")]
    TakenDevice,
    #[error("more agents or devices than this collector holds")]
    TooMany,
    #[error("too many holes in this agent's numbers; it is sent again later")]
    NoRoom,
}

impl Refusal {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Topic(_) => "topic",
            Refusal::Payload(error) => error.as_str(),
            Refusal::ForeignSite => "foreign_site",
            Refusal::OtherDevice => "other_device",
            Refusal::TakenDevice => "taken_device",
            Refusal::TooMany => "too_many",
            Refusal::NoRoom => "no_room",
        }
    }
}

/// The inflated payload where it is deflated.
pub fn inflate(payload: &[u8]) -> Result<Option<Vec<u8>>, PayloadError> {
    if !is_deflated(payload) {
        return Ok(None);
    }
    let mut out = Vec::new();
    let limit = MAX_INFLATED_BYTES as u64 + 1;
    flate2::read::ZlibDecoder::new(payload).take(limit).read_to_end(&mut out).map_err(|_| PayloadError::Malformed)?;
    if out.len() > MAX_INFLATED_BYTES { Err(PayloadError::TooLarge) } else { Ok(Some(out)) }
}

pub fn printable(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)])
        .chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}
