//! The few ASN.1 BER forms that SNMP uses (RFC 3416, X.690 definite lengths).
//!
//! Invariants: no input makes it panic or read past its end; lengths and numbers are checked before they are used.

/// An object identifier.
pub type Oid = Vec<u32>;

pub const INTEGER: u8 = 0x02;
pub const OCTET_STRING: u8 = 0x04;
pub const NULL: u8 = 0x05;
pub const OBJECT_IDENTIFIER: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
const COUNTER32: u8 = 0x41;
const GAUGE32: u8 = 0x42;
const TIME_TICKS: u8 = 0x43;
const COUNTER64: u8 = 0x46;

/// RFC 3416 section 2: at most 128 sub-identifiers.
const MAX_OID_PARTS: usize = 128;

/// What an instance holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Integer(i32),
    Text(Vec<u8>),
    Oid(Oid),
    Counter32(u32),
    Gauge32(u32),
    TimeTicks(u32),
    Counter64(u64),
    NoSuchObject,
    EndOfMibView,
}

/// Reads one element after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever its tag.
    pub fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.rest.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            // Four length bytes are more than any datagram has; the indefinite form (0x80) is not SNMP's.
            let count = usize::from(first & 0x7f);
            if !(1..=4).contains(&count) || rest.len() < count {
                return None;
            }
            let (bytes, after) = rest.split_at(count);
            rest = after;
            bytes.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte))
        };
        if length > rest.len() {
            return None;
        }
        let (content, after) = rest.split_at(length);
        self.rest = after;
        Some((tag, content))
    }

    /// The next element, if it has this tag.
    pub fn element(&mut self, want: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.any()?;
        (tag == want).then_some(content)
    }

    pub fn integer(&mut self) -> Option<i32> {
        let content = self.element(INTEGER)?;
        if !(1..=4).contains(&content.len()) {
            return None;
        }
        let sign = if content[0] & 0x80 == 0 { 0 } else { -1 };
        Some(content.iter().fold(sign, |sum, byte| (sum << 8) | i32::from(*byte)))
    }

    pub fn oid(&mut self) -> Option<Oid> {
        let content = self.element(OBJECT_IDENTIFIER)?;
        let mut parts = Vec::new();
        let mut part = 0_u32;
        let mut open = false;
        for byte in content {
            if part > u32::MAX >> 7 || parts.len() >= MAX_OID_PARTS {
                return None;
            }
            part = (part << 7) | u32::from(byte & 0x7f);
            open = byte & 0x80 != 0;
            if open {
                continue;
            }
            if parts.is_empty() {
                let first = (part / 40).min(2);
                parts.push(first);
                parts.push(part - 40 * first);
            } else {
                parts.push(part);
            }
            part = 0;
        }
        (!open && !parts.is_empty()).then_some(parts)
    }
}

/// Appends one element.
pub fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len();
    if length < 0x80 {
        out.push(u8::try_from(length).unwrap_or(0));
    } else {
        let bytes = length.to_be_bytes();
        let skip = bytes.iter().take_while(|byte| **byte == 0).count();
        out.push(0x80 | u8::try_from(bytes.len() - skip).unwrap_or(0));
        out.extend_from_slice(&bytes[skip..]);
    }
    out.extend_from_slice(content);
}

/// Shortest two's complement form of a number.
fn number(value: i128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let mut from = 0;
    while from + 1 < bytes.len() {
        let (lead, next) = (bytes[from], bytes[from + 1]);
        if (lead == 0 && next & 0x80 == 0) || (lead == 0xff && next & 0x80 != 0) {
            from += 1;
        } else {
            break;
        }
    }
    bytes[from..].to_vec()
}

pub fn put_integer(out: &mut Vec<u8>, value: i32) {
    put(out, INTEGER, &number(value.into()));
}

pub fn put_oid(out: &mut Vec<u8>, oid: &[u32]) {
    let mut content = Vec::new();
    let first = match oid {
        [first, second, ..] => first.saturating_mul(40).saturating_add(*second),
        [first] => first.saturating_mul(40),
        [] => 0,
    };
    for part in std::iter::once(&first).chain(oid.iter().skip(2)) {
        for shift in [28, 21, 14, 7] {
            if part >> shift != 0 {
                content.push(0x80 | u8::try_from((part >> shift) & 0x7f).unwrap_or(0));
            }
        }
        content.push(u8::try_from(part & 0x7f).unwrap_or(0));
    }
    put(out, OBJECT_IDENTIFIER, &content);
}

pub fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Integer(value) => put_integer(out, *value),
        Value::Text(text) => put(out, OCTET_STRING, text),
        Value::Oid(oid) => put_oid(out, oid),
        Value::Counter32(value) => put(out, COUNTER32, &number((*value).into())),
        Value::Gauge32(value) => put(out, GAUGE32, &number((*value).into())),
        Value::TimeTicks(value) => put(out, TIME_TICKS, &number((*value).into())),
        Value::Counter64(value) => put(out, COUNTER64, &number((*value).into())),
        Value::NoSuchObject => put(out, 0x80, &[]),
        Value::EndOfMibView => put(out, 0x82, &[]),
    }
}

/// `1.3.6.1.2.1.1.1.0`, with or without a leading dot.
#[must_use]
pub fn parse_oid(text: &str) -> Option<Oid> {
    let parts: Result<Oid, _> = text.trim_start_matches('.').split('.').map(str::parse).collect();
    parts.ok().filter(|parts| (2..=MAX_OID_PARTS).contains(&parts.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_oids_come_back() {
        for value in [0, 1, 127, 128, 255, 256, -1, -128, -129, i32::MAX, i32::MIN] {
            let mut bytes = Vec::new();
            put_integer(&mut bytes, value);
            assert_eq!(Reader::new(&bytes).integer(), Some(value), "{value} {bytes:?}");
        }
        for text in ["1.3.6.1.2.1.33.1.2.4.0", "2.999.3", "1.3.6.1.4.1.4294967295.128", "0.0"] {
            let oid = parse_oid(text).unwrap();
            let mut bytes = Vec::new();
            put_oid(&mut bytes, &oid);
            assert_eq!(Reader::new(&bytes).oid(), Some(oid), "{text}");
        }
        let mut bytes = Vec::new();
        put(&mut bytes, OCTET_STRING, &[7; 300]);
        assert_eq!(Reader::new(&bytes).element(OCTET_STRING), Some(&[7; 300][..]));
    }

    #[test]
    fn cut_and_random_bytes_are_refused_quietly() {
        let mut bytes = Vec::new();
        put_oid(&mut bytes, &[1, 3, 6, 1, 4, 1, 70_000]);
        for end in 0..bytes.len() {
            assert_eq!(Reader::new(&bytes[..end]).oid(), None);
        }
        for seed in 0..2_000_u32 {
            let noise: Vec<u8> =
                (0..24_u32).map(|i| (seed.wrapping_mul(2_654_435_761).rotate_left(i) >> 7) as u8).collect();
            let mut reader = Reader::new(&noise);
            while reader.any().is_some() {}
            let _ = Reader::new(&noise).oid();
            let _ = Reader::new(&noise).integer();
        }
    }
}
