//! The engine at the other end of SNMPv3: who it is, what time it has, what its reports mean (RFC 3414, 3.2 and 4).
//!
//! Knows: the cache of identity, boots and time of one device. Refuses to know: sockets, other devices: two devices
//! with the same identity (cloned configurations) keep a cache each and disturb nobody.
//!
//! Invariant: once known, boots and time are only taken from messages whose signature was right.

use std::time::Instant;

use super::usm::{Keys, User};
use crate::oid::Oid;

/// The engine of one device.
#[derive(Debug)]
pub struct Engine {
    pub id: Vec<u8>,
    pub keys: Keys,
    boots: u32,
    time: u32,
    at: Instant,
    /// It has answered a request of ours with a right signature.
    pub proven: bool,
}

/// Why an engine did not do what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthFault {
    #[error("the device refuses our credentials")]
    Refused,
    #[error("unknown user")]
    UnknownUser,
    #[error("authentication failed: wrong key or algorithm")]
    WrongKey,
    #[error("privacy failed: wrong key or algorithm")]
    WrongPrivacyKey,
    #[error("the security level is not allowed for this user")]
    SecurityLevel,
    #[error("unknown context")]
    UnknownContext,
    #[error("answers are not signed with our key")]
    ForeignSignature,
    #[error("the engine's identity or time does not settle")]
    Unsettled,
}

/// What a report of an engine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    NotInTimeWindow,
    UnknownEngine,
    Fault(AuthFault),
    Other,
}

impl Report {
    /// Of the identifier of its counter: usmStats (RFC 3414), snmpTargetObjects (RFC 3413).
    #[must_use]
    pub fn of(oid: &Oid) -> Report {
        match oid.arcs() {
            [1, 3, 6, 1, 6, 3, 15, 1, 1, counter, ..] => match counter {
                1 => Report::Fault(AuthFault::SecurityLevel),
                2 => Report::NotInTimeWindow,
                3 => Report::Fault(AuthFault::UnknownUser),
                4 => Report::UnknownEngine,
                5 => Report::Fault(AuthFault::WrongKey),
                6 => Report::Fault(AuthFault::WrongPrivacyKey),
                _ => Report::Other,
            },
            [1, 3, 6, 1, 6, 3, 12, 1, 4 | 5, ..] => Report::Fault(AuthFault::UnknownContext),
            _ => Report::Other,
        }
    }
}

impl Engine {
    /// As an engine introduced itself.
    #[must_use]
    pub fn new(id: &[u8], boots: u32, time: u32, user: &User) -> Engine {
        Engine { id: id.to_vec(), keys: user.keys(id), boots, time, at: Instant::now(), proven: false }
    }

    /// Boots and time it has now.
    #[must_use]
    pub fn now(&self) -> (u32, u32) {
        let passed = u32::try_from(self.at.elapsed().as_secs()).unwrap_or(u32::MAX);
        (self.boots, self.time.saturating_add(passed))
    }

    #[must_use]
    pub const fn boots(&self) -> u32 {
        self.boots
    }

    /// Takes over what a signed message says.
    pub fn sync(&mut self, boots: u32, time: u32) {
        (self.boots, self.time, self.at) = (boots, time, Instant::now());
        self.proven = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_apart() {
        for (oid, want) in [
            ("1.3.6.1.6.3.15.1.1.2.0", Report::NotInTimeWindow),
            ("1.3.6.1.6.3.15.1.1.3.0", Report::Fault(AuthFault::UnknownUser)),
            ("1.3.6.1.6.3.15.1.1.4.0", Report::UnknownEngine),
            ("1.3.6.1.6.3.15.1.1.5.0", Report::Fault(AuthFault::WrongKey)),
            ("1.3.6.1.6.3.15.1.1.9.0", Report::Other),
            ("1.3.6.1.6.3.12.1.5.0", Report::Fault(AuthFault::UnknownContext)),
            ("1.3.6.1.2.1.1.3.0", Report::Other),
        ] {
            assert_eq!(Report::of(&oid.parse().unwrap()), want, "{oid}");
        }
    }
}
