//! SNMP object identifiers: text, numbers and the bytes on the wire.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest identifier in sub-identifiers (RFC 2578, section 3.5).
const MAX_ARCS: usize = 128;

/// An object identifier. Ordered as the tree is walked. Shared: all devices of a profile have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(Arc<[u32]>);

/// Why a text is no object identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an OID: numbers with dots between, as 1.3.6.1.2.1.1.3.0")]
pub struct OidError {
    text: String,
}

impl Oid {
    /// `None` where the numbers are no identifier.
    #[must_use]
    pub fn from_arcs(arcs: &[u32]) -> Option<Oid> {
        let second_fits = matches!(arcs, [0 | 1, 0..=39, ..] | [2, ..]);
        (second_fits && (2..=MAX_ARCS).contains(&arcs.len())).then(|| Oid(arcs.into()))
    }

    #[must_use]
    pub fn arcs(&self) -> &[u32] {
        &self.0
    }

    /// The numbers after `self`, where `other` lies below it.
    #[must_use]
    pub fn suffix_of<'o>(&self, other: &'o Oid) -> Option<&'o [u32]> {
        other.0.strip_prefix(&*self.0).filter(|rest| !rest.is_empty())
    }

    /// `self` with more numbers after it.
    #[must_use]
    pub fn below(&self, suffix: &[u32]) -> Oid {
        Oid(self.0.iter().chain(suffix).copied().collect())
    }

    /// Content octets (X.690, 8.19): the first two numbers share one.
    #[must_use]
    pub fn to_ber(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() + 4);
        let [first, second, rest @ ..] = &*self.0 else { return bytes };
        push_base128(&mut bytes, u64::from(*first) * 40 + u64::from(*second));
        for arc in rest {
            push_base128(&mut bytes, u64::from(*arc));
        }
        bytes
    }

    /// Reads content octets.
    #[must_use]
    pub fn from_ber(bytes: &[u8]) -> Option<Oid> {
        let mut arcs = Vec::with_capacity(bytes.len() + 1);
        let mut value: u64 = 0;
        for byte in bytes {
            value = value << 7 | u64::from(byte & 0x7F);
            if value > u64::from(u32::MAX) + 80 || arcs.len() >= MAX_ARCS {
                return None;
            }
            if byte & 0x80 == 0 {
                if arcs.is_empty() {
                    let first = (value / 40).min(2);
                    arcs.push(u32::try_from(first).ok()?);
                    arcs.push(u32::try_from(value - first * 40).ok()?);
                } else {
                    arcs.push(u32::try_from(value).ok()?);
                }
                value = 0;
            }
        }
        let complete = bytes.last().is_some_and(|last| last & 0x80 == 0);
        complete.then(|| Oid(arcs.into()))
    }
}

fn push_base128(bytes: &mut Vec<u8>, value: u64) {
    for shift in (1..=9).rev().map(|group| group * 7) {
        if value >> shift != 0 {
            bytes.push(0x80 | (value >> shift & 0x7F) as u8);
        }
    }
    bytes.push((value & 0x7F) as u8);
}

impl FromStr for Oid {
    type Err = OidError;
    fn from_str(text: &str) -> Result<Self, OidError> {
        let fault = || OidError { text: text.chars().take(64).collect() };
        let arcs: Result<Vec<u32>, _> = text.strip_prefix('.').unwrap_or(text).split('.').map(str::parse).collect();
        let arcs = arcs.map_err(|_| fault())?;
        Oid::from_arcs(&arcs).ok_or_else(fault)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, arc) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            write!(f, "{arc}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_encodings() {
        let oid: Oid = ".1.3.6.1.4.1.2021.10.1.5.1".parse().unwrap();
        assert_eq!(oid.to_ber(), [0x2B, 6, 1, 4, 1, 0x8F, 0x65, 10, 1, 5, 1]);
        assert_eq!(oid.to_string(), "1.3.6.1.4.1.2021.10.1.5.1");
        for bad in ["", "1", "1.40", "3.1", "1.3.x", "1..3", "1.3.4294967296"] {
            assert!(bad.parse::<Oid>().is_err(), "{bad}");
        }
        let table: Oid = "1.3.6".parse().unwrap();
        assert_eq!(table.suffix_of(&"1.3.6.7.8".parse().unwrap()), Some(&[7, 8][..]));
        assert_eq!(table.suffix_of(&table), None);
        assert_eq!(Oid::from_ber(&[0x2B, 0x86]), None);
    }

    proptest! {
        #[test]
        fn bytes_and_back(first in 0_u32..3, second in 0_u32..40, rest in proptest::collection::vec(any::<u32>(), 0..40)) {
            let oid = Oid([vec![first, second], rest].concat().into());
            prop_assert_eq!(Oid::from_ber(&oid.to_ber()), Some(oid));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Oid::from_ber(&bytes);
        }
    }
}
