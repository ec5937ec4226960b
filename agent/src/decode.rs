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
    String,
}

impl RegisterType {
    /// Registers of one value; a string says so itself.
    #[must_use]
    pub const fn registers(self) -> Option<u16> {
        match self {
            RegisterType::U16 | RegisterType::I16 => Some(1),
            RegisterType::U32 | RegisterType::I32 | RegisterType::F32 => Some(2),
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(kind: RegisterType, order: WordOrder) -> Decoder {
        Decoder { kind, order, ..Decoder::default() }
    }

    fn num(decoder: &Decoder, registers: &[u16]) -> Result<f64, BadReason> {
        decoder.decode(Raw::Registers(registers)).map(|v| v.as_num().unwrap())
    }

    #[test]
    fn every_type_in_every_order() {
        use RegisterType as T;
        use WordOrder as O;
        let words = [0x4248, 0xF5C3]; // 50.24 as a float
        let swapped = [0xF5C3, 0x4248];
        let bytes = |w: [u16; 2]| w.map(u16::swap_bytes);
        for (order, registers) in
            [(O::Abcd, words), (O::Cdab, swapped), (O::Badc, bytes(words)), (O::Dcba, bytes(swapped))]
        {
            assert_eq!(num(&plain(T::F32, order), &registers), Ok(50.24), "{order:?}");
            assert_eq!(num(&plain(T::U32, order), &registers), Ok(f64::from(0x4248_F5C3_u32)), "{order:?}");
        }
        let four = [0xFFFF, 0xFFFF, 0xFFFF, 0xFF85];
        assert_eq!(num(&plain(T::I64, O::Abcd), &four), Ok(-123.0));
        assert_eq!(num(&plain(T::I64, O::Cdab), &[0xFF85, 0xFFFF, 0xFFFF, 0xFFFF]), Ok(-123.0));
        assert_eq!(num(&plain(T::U64, O::Dcba), &[0x0100, 0, 0, 0]), Ok(1.0));
        assert_eq!(num(&plain(T::F64, O::Abcd), &[0x4009, 0x21FB, 0x5444, 0x2D18]), Ok(std::f64::consts::PI));
        assert_eq!(num(&plain(T::I16, O::Abcd), &[0xFFFE]), Ok(-2.0));
        assert_eq!(num(&plain(T::I16, O::Badc), &[0xFEFF]), Ok(-2.0));
        assert_eq!(num(&plain(T::U16, O::Abcd), &[0xFFFE]), Ok(65_534.0));
        assert_eq!(num(&plain(T::I32, O::Abcd), &[0xFFFF, 0xFFFF]), Ok(-1.0));
    }

    #[test]
    fn a_wrong_number_of_registers_is_no_value() {
        for registers in [&[][..], &[1], &[1, 2, 3]] {
            assert_eq!(num(&plain(RegisterType::U32, WordOrder::Abcd), registers), Err(BadReason::Decode));
        }
    }

    #[test]
    fn scaling_gives_clean_numbers() {
        let mut decoder = Decoder { scale: Scale::new(0.1, 0.0), ..Decoder::default() };
        assert_eq!(num(&decoder, &[2369]), Ok(236.9));
        decoder.scale = Scale::new(1.0 / 512.0, 0.0);
        assert_eq!(num(&decoder, &[51_200]), Ok(100.0));
        decoder.scale = Scale::new(-1.0, 100.0);
        assert_eq!(num(&decoder, &[97]), Ok(3.0));
        decoder.scale = Scale::new(60.0, 0.0);
        assert_eq!(num(&decoder, &[37]), Ok(2_220.0));
    }

    #[test]
    fn sentinels_ranges_and_nan_are_bad() {
        let mut decoder = plain(RegisterType::I16, WordOrder::Abcd);
        decoder.sentinels = vec![Sentinel::Number(-32_768.0), Sentinel::Bits(0x7FFF)];
        decoder.range = Some((-20.0, 80.0));
        decoder.scale = Scale::new(0.1, 0.0);
        assert_eq!(num(&decoder, &[0x8000]), Err(BadReason::Sentinel));
        assert_eq!(num(&decoder, &[0x7FFF]), Err(BadReason::Sentinel));
        assert_eq!(num(&decoder, &[801]), Err(BadReason::Range));
        assert_eq!(num(&decoder, &[800]), Ok(80.0));
        let float = plain(RegisterType::F32, WordOrder::Abcd);
        assert_eq!(num(&float, &[0x7FC0, 0]), Err(BadReason::Sentinel));
        assert_eq!(num(&float, &[0x7F80, 0]), Err(BadReason::Range));
        let mut wide = plain(RegisterType::I64, WordOrder::Abcd);
        wide.sentinels = vec![Sentinel::Bits(0x8000_0000_0000_0000)];
        assert_eq!(num(&wide, &[0x8000, 0, 0, 0]), Err(BadReason::Sentinel));
    }

    #[test]
    fn bits_words_and_texts() {
        let bit = Decoder { kind: RegisterType::U32, bit: Some(13), ..Decoder::default() };
        assert_eq!(num(&bit, &[0, 0x2000]), Ok(1.0));
        assert_eq!(num(&bit, &[0x2000, 0]), Ok(0.0));
        let words = Some(BTreeMap::from([(0, "off".to_owned()), (1, "on".to_owned())]));
        let state = Decoder { words, ..Decoder::default() };
        assert_eq!(state.decode(Raw::Bit(true)), Ok(Value::Text("on".to_owned())));
        assert_eq!(state.decode(Raw::Registers(&[0])), Ok(Value::Text("off".to_owned())));
        assert_eq!(state.decode(Raw::Registers(&[9])), Err(BadReason::Decode));
        let string = plain(RegisterType::String, WordOrder::Abcd);
        let registers = [0x4153, 0x3132, 0x2000, 0x4141];
        assert_eq!(string.decode(Raw::Registers(&registers)), Ok(Value::Text("AS12".to_owned())));
        assert_eq!(string.decode(Raw::Bytes(&[0xFF, 0xFE])), Err(BadReason::Decode));
    }

    #[test]
    fn snmp_values_of_every_form() {
        let decoder = Decoder { scale: Scale::new(0.1, 0.0), ..Decoder::default() };
        let value = |raw| decoder.decode(raw).map(|v| v.as_num().unwrap());
        assert_eq!(value(Raw::Int(-5)), Ok(-0.5));
        assert_eq!(value(Raw::Counter(u64::MAX)), Ok(1_844_674_407_370_955_200.0));
        assert_eq!(value(Raw::Bytes(b" 12.5 ")), Ok(1.25));
        assert_eq!(value(Raw::Bytes(b"12 V")), Err(BadReason::Decode));
        let leading =
            Decoder { leading: true, sentinels: vec![Sentinel::Text("N/A".to_owned())], ..Decoder::default() };
        let value = |text: &str| leading.decode(Raw::Bytes(text.as_bytes())).map(|v| v.as_num().unwrap());
        assert_eq!(value("-24.5 C"), Ok(-24.5));
        assert_eq!(value("35. C"), Ok(35.0));
        assert_eq!(value("1.2.3"), Ok(1.2));
        assert_eq!(value(" N/A "), Err(BadReason::Sentinel));
        assert_eq!(value("C 5"), Err(BadReason::Decode));
    }

    #[test]
    fn flags_in_octets_numbers_and_texts() {
        let bit = |bit| Decoder { bit: Some(bit), ..Decoder::default() };
        assert_eq!(bit(0).decode(Raw::Bytes(&[0x80])), Ok(Value::Num(1.0)));
        assert_eq!(bit(9).decode(Raw::Bytes(&[0x80, 0x40])), Ok(Value::Num(1.0)));
        assert_eq!(bit(9).decode(Raw::Bytes(&[0x80])), Ok(Value::Num(0.0)));
        assert_eq!(bit(3).decode(Raw::Int(8)), Ok(Value::Num(1.0)));
        assert_eq!(bit(2).decode(Raw::Int(8)), Ok(Value::Num(0.0)));
        let third = Decoder { char_at: Some(3), ..Decoder::default() };
        assert_eq!(third.decode(Raw::Bytes(b"0010")), Ok(Value::Num(1.0)));
        assert_eq!(third.decode(Raw::Bytes(b"00")), Err(BadReason::Decode));
        let mut words = Decoder { texts: Some(BTreeMap::from([("on line".to_owned(), "on".to_owned())])), ..third };
        assert_eq!(words.decode(Raw::Bytes(b"On Line ")), Ok(Value::Text("on".to_owned())));
        assert_eq!(words.decode(Raw::Bytes(b"?")), Err(BadReason::Decode));
        words.other_word = Some("fault".to_owned());
        assert_eq!(words.decode(Raw::Bytes(b"?")), Ok(Value::Text("fault".to_owned())));
    }

    #[test]
    fn a_unit_joins_the_scale_cleanly() {
        let scale = |scale, from, to| Scale::new(scale, 0.0).then(crate::adjust::conversion(from, to).unwrap());
        assert_eq!(scale(0.1, "kW", "W").apply(339.0), 33_900.0);
        assert_eq!(scale(0.1, "bar", "kPa").apply(37.0), 370.0);
        assert_eq!(scale(1.0, "cs", "s").apply(174_000.0), 1_740.0);
        assert!((scale(0.1, "degF", "Cel").apply(683.0) - 20.166_666).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn no_input_panics_and_numbers_are_finite(
            registers in proptest::collection::vec(any::<u16>(), 0..200), kind in 0_u8..9, order in 0_u8..4,
            scale in -1e300_f64..1e300, bit in proptest::option::of(any::<u8>())
        ) {
            use RegisterType as T;
            let kind = [T::U16, T::I16, T::U32, T::I32, T::U64, T::I64, T::F32, T::F64, T::String][usize::from(kind)];
            let order = [WordOrder::Abcd, WordOrder::Cdab, WordOrder::Badc, WordOrder::Dcba][usize::from(order)];
            let decoder = Decoder { kind, order, bit, scale: Scale::new(scale, 1.0), ..Decoder::default() };
            if let Ok(Value::Num(n)) = decoder.decode(Raw::Registers(&registers)) {
                prop_assert!(n.is_finite());
            }
        }

        #[test]
        fn a_float_keeps_its_value(bits: u32) {
            let value = f32::from_bits(bits);
            if value.is_finite() {
                #[allow(clippy::cast_possible_truncation)]
                let back = shortest(value) as f32;
                prop_assert_eq!(back.to_bits(), value.to_bits());
            }
        }
    }
}
