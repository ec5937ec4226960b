//! Sixty-four bits of a state, quickly: the model tells states apart by them.
//!
//! Knows: a hasher of two lanes, and how whatever can be stored is fed to a hasher field by field, without its text. Refuses
//! to know: what is part of a state. Two values with the same digest are taken for the same: among a hundred million states
//! the chance of that for any two is below one in three thousand.

use std::fmt::Display;
use std::hash::{Hash, Hasher};

use serde::ser::{self, Impossible, Serialize};

/// Odd, and without a pattern: digits of pi and of the golden ratio.
const LANES: [u64; 2] = [0x243F_6A88_85A3_08D3, 0x9E37_79B9_7F4A_7C15];

/// A folded multiplication, and beside it one that loses nothing.
#[derive(Debug, Clone)]
pub struct Digest {
    folded: u64,
    turned: u64,
}

impl Default for Digest {
    fn default() -> Digest {
        Digest { folded: LANES[0], turned: LANES[1] }
    }
}

const fn fold(one: u64, other: u64) -> u64 {
    let all = (one as u128).wrapping_mul(other as u128);
    (all as u64) ^ ((all >> 64) as u64)
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length keeps what ends in zeros apart.
        self.write_u64(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.folded = fold(self.folded ^ n, LANES[1]);
        self.turned = (self.turned.rotate_left(23) ^ n).wrapping_mul(LANES[0]);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        fold(self.folded ^ LANES[0], self.turned ^ LANES[1])
    }
}

/// Feeds a value that knows no hash of its own, as it would be stored.
pub fn feed<H: Hasher>(state: &mut H, value: &(impl Serialize + ?Sized)) {
    let fed = value.serialize(Feed(state));
    debug_assert!(fed.is_ok(), "a hasher takes everything");
}

/// Never happens: a hasher takes everything.
#[derive(Debug)]
struct Refused;

impl Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: Display>(_: T) -> Refused {
        Refused
    }
}

struct Feed<'a, H>(&'a mut H);

macro_rules! numbers {
    ($($name:ident: $type:ty),+) => {
        $(fn $name(self, value: $type) -> Result<(), Refused> {
            value.hash(self.0);
            Ok(())
        })+
    };
}

impl<H: Hasher> ser::Serializer for Feed<'_, H> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Impossible<(), Refused>;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    numbers!(serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_char: char,
        serialize_str: &str, serialize_bytes: &[u8]);

    fn serialize_f32(self, value: f32) -> Result<(), Refused> {
        self.serialize_u32(value.to_bits())
    }
    fn serialize_f64(self, value: f64) -> Result<(), Refused> {
        self.serialize_u64(value.to_bits())
    }
    fn serialize_none(self) -> Result<(), Refused> {
        self.serialize_bool(false)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        true.hash(self.0);
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Refused> {
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        Ok(())
    }
    fn serialize_unit_variant(self, _: &'static str, variant: u32, _: &'static str) -> Result<(), Refused> {
        self.serialize_u32(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        variant.hash(self.0);
        value.serialize(self)
    }
    fn serialize_seq(self, length: Option<usize>) -> Result<Self, Refused> {
        length.hash(self.0);
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<(), Refused>, Refused> {
        // Nothing of the agreed state has one.
        Err(Refused)
    }
    fn serialize_map(self, length: Option<usize>) -> Result<Self, Refused> {
        length.hash(self.0);
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Refused> {
        variant.hash(self.0);
        Ok(self)
    }
}

macro_rules! each {
    ($($kind:ident: $name:ident),+) => {
        $(impl<H: Hasher> ser::$kind for Feed<'_, H> {
            type Ok = ();
            type Error = Refused;
            fn $name<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                value.serialize(Feed(&mut *self.0))
            }
            fn end(self) -> Result<(), Refused> {
                Ok(())
            }
        })+
    };
}

each!(SerializeSeq: serialize_element, SerializeTuple: serialize_element, SerializeTupleStruct: serialize_field);

macro_rules! fields {
    ($($kind:ident),+) => {
        $(impl<H: Hasher> ser::$kind for Feed<'_, H> {
            type Ok = ();
            type Error = Refused;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Refused> {
                value.serialize(Feed(&mut *self.0))
            }
            // A field that is left out is not taken for the one after it.
            fn skip_field(&mut self, _: &'static str) -> Result<(), Refused> {
                u64::MAX.hash(self.0);
                Ok(())
            }
            fn end(self) -> Result<(), Refused> {
                Ok(())
            }
        })+
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl<H: Hasher> ser::SerializeMap for Feed<'_, H> {
    type Ok = ();
    type Error = Refused;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        key.serialize(Feed(&mut *self.0))
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(Feed(&mut *self.0))
    }
    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn of(value: &impl Serialize) -> u64 {
        let mut digest = Digest::default();
        feed(&mut digest, value);
        digest.finish()
    }

    #[test]
    fn what_differs_a_little_has_another_digest() {
        let all = [
            of(&(1_u64, 0_u64)),
            of(&(0_u64, 1_u64)),
            of(&(Some(0_u64), None::<u64>)),
            of(&(None::<u64>, Some(0_u64))),
            of(&("a", "bc")),
            of(&("ab", "c")),
            of(&("ab", "c\0")),
            of(&vec![vec![1_u8], vec![]]),
            of(&vec![vec![], vec![1_u8]]),
            of(&BTreeMap::from([(1_u64, "x")])),
            of(&BTreeMap::from([(2_u64, "x")])),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn numbers_in_a_row_do_not_meet() {
        let all: BTreeSet<u64> = (0..100_000_u64).map(|n| of(&(n % 317, n / 317))).collect();
        assert_eq!(all.len(), 100_000);
    }
}
