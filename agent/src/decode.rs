//! Raw registers and SNMP values to readings. Pure.
//!
//! Knows: types, word orders, scale, offset, sentinels, ranges, enumerations. Refuses to know: where bytes came from,
//! what other readings say about this one (that is [`crate::adjust`]).
//! Invariants: the result is a finite number, a short text, or the reason why there is none; no input panics.

use std::collections::BTreeMap;

use bcp_wire::{BadReason, Value};

use crate::adjust::Linear;

/// Type of a value in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegisterType {
    #[default]
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    /// Four decimal digits.
    Bcd16,
    /// Eight decimal digits.
    Bcd32,
    String,
}

impl RegisterType {
    /// Registers of one value; a string says so itself.
    #[must_use]
    pub const fn registers(self) -> Option<u16> {
        match self {
            RegisterType::U16 | RegisterType::I16 | RegisterType::Bcd16 => Some(1),
            RegisterType::U32 | RegisterType::I32 | RegisterType::F32 | RegisterType::Bcd32 => Some(2),
            RegisterType::U64 | RegisterType::I64 | RegisterType::F64 => Some(4),
            RegisterType::String => None,
        }
    }
}

/// Order of the bytes of a value, named by where the bytes of `0xaabbccdd` stand. Longer values follow the same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WordOrder {
    #[default]
    Abcd,
    Cdab,
    Badc,
    Dcba,
}

/// What was read, before it means anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Raw<'a> {
    Registers(&'a [u16]),
    Bit(bool),
    Int(i64),
    /// Unsigned 64 bit counter.
    Counter(u64),
    Float(f64),
    Bytes(&'a [u8]),
}

/// How one point is decoded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoder {
    pub kind: RegisterType,
    pub order: WordOrder,
    pub bit: Option<u8>,
    /// SNMP: this character of a text, from 1, is the number.
    pub char_at: Option<usize>,
    /// SNMP: the number at the beginning of a text, as in `24.5 C`.
    pub leading: bool,
    /// The value is a counter, and its growth per second is the reading.
    pub rate: bool,
    pub scale: Scale,
    pub sentinels: Vec<Sentinel>,
    pub range: Option<(f64, f64)>,
    pub words: Option<BTreeMap<i64, String>>,
    /// Words of texts, in lower case.
    pub texts: Option<BTreeMap<String, String>>,
    /// Word of numbers and texts that are not listed.
    pub other_word: Option<String>,
}

/// raw * times / by + offset. A scale of 1/k is kept as a division, which gives the nearest number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    times: f64,
    by: f64,
    offset: f64,
}

impl Default for Scale {
    fn default() -> Scale {
        Scale { times: 1.0, by: 1.0, offset: 0.0 }
    }
}

impl Scale {
    #[must_use]
    pub fn new(scale: f64, offset: f64) -> Scale {
        let inverse = (1.0 / scale).round();
        if scale.abs() < 1.0 && (scale * inverse - 1.0).abs() < 1e-9 {
            Scale { times: 1.0, by: inverse, offset }
        } else {
            Scale { times: scale, by: 1.0, offset }
        }
    }

    /// The same in another unit.
    #[must_use]
    pub fn then(self, unit: Linear) -> Scale {
        let offset = unit.apply(self.offset);
        let (times, by) = (self.times * unit.times, self.by * unit.by);
        let whole = times / by;
        // 0.1 kW are 100 W, not 1000 tenths.
        if whole.fract() == 0.0 { Scale { times: whole, by: 1.0, offset } } else { Scale { times, by, offset } }
    }

    fn apply(self, raw: f64) -> f64 {
        raw * self.times / self.by + self.offset
    }

    fn is_identity(self) -> bool {
        self == Scale::default()
    }
}

/// A raw value that means "no value".
#[derive(Debug, Clone, PartialEq)]
pub enum Sentinel {
    Number(f64),
    /// A text, without blanks around it.
    Text(String),
    /// The bits of the value, whatever its type.
    Bits(u64),
}

/// A number, and the bits it was read from.
#[derive(Debug, Clone, Copy)]
struct Number {
    value: f64,
    bits: u64,
    /// Exact value where it is an integer.
    integer: Option<i64>,
}

impl Decoder {
    /// # Errors
    /// Why there is no value.
    pub fn decode(&self, raw: Raw<'_>) -> Result<Value, BadReason> {
        match raw {
            Raw::Registers(registers) if self.kind == RegisterType::String => {
                let mut bytes = [0_u8; 2 * MAX_STRING_REGISTERS];
                let registers = registers.get(..MAX_STRING_REGISTERS).unwrap_or(registers);
                for (pair, register) in bytes.chunks_exact_mut(2).zip(registers) {
                    pair.copy_from_slice(&register.to_be_bytes());
                }
                text(bytes.get(..2 * registers.len()).ok_or(BadReason::Decode)?)
            }
            Raw::Registers(registers) => self.finish(self.number(registers)?),
            Raw::Bit(bit) => self.finish(integer(i64::from(bit))),
            Raw::Int(value) => match self.bit {
                Some(bit) => self.finish(integer(value.checked_shr(u32::from(bit)).unwrap_or(0) & 1)),
                None => self.finish(integer(value)),
            },
            Raw::Counter(value) => self.finish(unsigned(value)),
            Raw::Float(value) => self.finish(float(value)),
            Raw::Bytes(bytes) => self.bytes(bytes),
        }
    }

    fn number(&self, registers: &[u16]) -> Result<Number, BadReason> {
        let bits = assemble(registers, self.kind, self.order).ok_or(BadReason::Decode)?;
        if let Some(bit) = self.bit {
            return Ok(integer(i64::from(bits.checked_shr(u32::from(bit)).unwrap_or(0) & 1 == 1)));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // the width is the type's
        let number = match self.kind {
            RegisterType::U16 | RegisterType::U32 | RegisterType::U64 => unsigned(bits),
            RegisterType::I16 => integer(i64::from(bits as u16 as i16)),
            RegisterType::I32 => integer(i64::from(bits as u32 as i32)),
            RegisterType::I64 => integer(bits as i64),
            RegisterType::F32 => float(shortest(f32::from_bits(bits as u32))),
            RegisterType::F64 => float(f64::from_bits(bits)),
            // A digit beyond 9 is none; sentinels such as 0xFFFF come first.
            RegisterType::Bcd16 | RegisterType::Bcd32 => match decimal(bits) {
                Some(value) => unsigned(value),
                None if self.sentinels.contains(&Sentinel::Bits(bits)) => return Err(BadReason::Sentinel),
                None => return Err(BadReason::Decode),
            },
            RegisterType::String => return Err(BadReason::Decode),
        };
        Ok(Number { bits, ..number })
    }

    /// An SNMP octet string: BITS, a character, a word, a number as text, or the text itself.
    fn bytes(&self, bytes: &[u8]) -> Result<Value, BadReason> {
        if let Some(bit) = self.bit {
            // BITS of RFC 2578, 7.1.4: bit 0 is the highest of the first octet; octets that are left out are zero.
            let octet = bytes.get(usize::from(bit / 8)).copied().unwrap_or(0);
            return self.finish(integer(i64::from(octet >> (7 - bit % 8) & 1)));
        }
        if self.kind == RegisterType::String && self.texts.is_none() && self.sentinels.is_empty() {
            return text(bytes);
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| BadReason::Decode)?;
        let trimmed = whole.trim_matches(['\0', ' ', '\t', '\r', '\n']);
        if self.sentinels.iter().any(|s| matches!(s, Sentinel::Text(none) if none == trimmed)) {
            return Err(BadReason::Sentinel);
        }
        if let Some(texts) = &self.texts {
            let word = texts.get(&trimmed.to_ascii_lowercase()).or(self.other_word.as_ref());
            return word.map(|word| Value::Text(word.clone())).ok_or(BadReason::Decode);
        }
        if self.kind == RegisterType::String {
            return text(bytes);
        }
        let digits = match self.char_at {
            Some(at) => trimmed.get(at.saturating_sub(1)..at).ok_or(BadReason::Decode)?,
            None if self.leading => leading_number(trimmed),
            None => trimmed,
        };
        let value: f64 = digits.parse().map_err(|_| BadReason::Decode)?;
        self.finish(digits.parse::<i64>().map_or_else(|_| float(value), integer))
    }

    fn finish(&self, number: Number) -> Result<Value, BadReason> {
        let sentinel = |s: &Sentinel| match s {
            #[allow(clippy::float_cmp)] // a sentinel is met exactly or not at all
            Sentinel::Number(n) => number.value == *n,
            Sentinel::Bits(bits) => number.bits == *bits,
            Sentinel::Text(_) => false,
        };
        if number.value.is_nan() || self.sentinels.iter().any(sentinel) {
            return Err(BadReason::Sentinel);
        }
        if let Some(words) = &self.words {
            let word = number.integer.and_then(|n| words.get(&n)).or(self.other_word.as_ref());
            return word.map(|word| Value::Text(word.clone())).ok_or(BadReason::Decode);
        }
        let value = if self.scale.is_identity() { number.value } else { self.scale.apply(number.value) };
        if let Some((low, high)) = self.range
            && !(low..=high).contains(&value)
        {
            return Err(BadReason::Range);
        }
        Value::num(value).ok_or(BadReason::Range)
    }
}

/// Longest string in registers: the contract's longest text.
pub const MAX_STRING_REGISTERS: usize = bcp_wire::MAX_TEXT_BYTES / 2;

#[allow(clippy::cast_precision_loss, clippy::cast_sign_loss)] // counters beyond 2^53 lose their last digits, as JSON does
fn integer(value: i64) -> Number {
    Number { value: value as f64, bits: value as u64, integer: Some(value) }
}

#[allow(clippy::cast_precision_loss)]
fn unsigned(value: u64) -> Number {
    Number { value: value as f64, bits: value, integer: i64::try_from(value).ok() }
}

fn float(value: f64) -> Number {
    #[allow(clippy::cast_possible_truncation)] // only whole numbers within the exact range
    let integer = (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64);
    Number { value, bits: value.to_bits(), integer }
}

/// The number of fewest digits that is this float: 230.1, not 230.10000610351562.
fn shortest(value: f32) -> f64 {
    use std::io::Write;
    if !value.is_finite() || value.fract() == 0.0 {
        return f64::from(value);
    }
    let mut digits = [0_u8; 64];
    let mut rest = &mut digits[..];
    let written = write!(rest, "{value}").is_ok();
    let left = rest.len();
    let used = digits.len() - left;
    let text = std::str::from_utf8(&digits[..used]).ok().filter(|_| written);
    text.and_then(|t| t.parse().ok()).unwrap_or_else(|| f64::from(value))
}

/// Bits of a value of 1, 2 or 4 registers; `None` where the number of registers is not the type's.
fn assemble(registers: &[u16], kind: RegisterType, order: WordOrder) -> Option<u64> {
    if kind.registers() != u16::try_from(registers.len()).ok() {
        return None;
    }
    let word = |register: &u16| {
        u64::from(match order {
            WordOrder::Abcd | WordOrder::Cdab => *register,
            WordOrder::Badc | WordOrder::Dcba => register.swap_bytes(),
        })
    };
    let join = |bits: u64, word: u64| bits << 16 | word;
    Some(match order {
        WordOrder::Abcd | WordOrder::Badc => registers.iter().map(word).fold(0, join),
        WordOrder::Cdab | WordOrder::Dcba => registers.iter().rev().map(word).fold(0, join),
    })
}

/// Binary-coded decimal: four bits a digit.
fn decimal(bits: u64) -> Option<u64> {
    (0..16)
        .rev()
        .map(|digit| bits >> (4 * digit) & 0xF)
        .try_fold(0_u64, |value, digit| (digit <= 9).then(|| value * 10 + digit))
}

/// The longest beginning that is a number: sign, digits, one point.
fn leading_number(text: &str) -> &str {
    let mut point = false;
    let end = text.char_indices().find(|(at, c)| match c {
        '-' | '+' => *at > 0,
        '.' => std::mem::replace(&mut point, true),
        _ => !c.is_ascii_digit(),
    });
    let number = end.map_or(text, |(at, _)| text.get(..at).unwrap_or(text));
    number.strip_suffix('.').unwrap_or(number)
}

/// Text up to its first zero byte, without blanks around it.
fn text(bytes: &[u8]) -> Result<Value, BadReason> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(bytes.get(..end).unwrap_or(bytes)).map_err(|_| BadReason::Decode)?;
    Value::text(text.trim()).ok_or(BadReason::Decode)
}

#[cfg(test)]
mod tests;
