//! The bytes of requests, answers and traps (RFC 1157, 1905, 3416; X.690).
//!
//! Knows: how a request is encoded, and what an answer or a trap says. Refuses to know: sockets, time, keys, meaning.
//!
//! Invariants: no input panics; a value that cannot be read costs that value, not its neighbours.

use std::fmt;
use std::ops::Range;

use snmp2::{AsnReader, asn1, snmp};

use crate::oid::Oid;

/// Longest value that is kept, as the contract's longest text, with room for what is trimmed.
const MAX_VALUE_BYTES: usize = 2 * bcp_wire::MAX_TEXT_BYTES;
/// Request numbers always take four bytes on the wire, so that a prepared message can be renumbered in place.
pub const REQUEST_IDS: Range<u32> = 0x0100_0000..0x7FFF_FFFF;

/// Floats of net-snmp inside an Opaque.
const OPAQUE_FLOAT: [u8; 3] = [0x9F, 0x78, 4];
const OPAQUE_DOUBLE: [u8; 3] = [0x9F, 0x79, 8];

/// Version numbers on the wire.
pub const V1: i64 = 0;
pub const V2C: i64 = 1;
pub const V3: i64 = 3;

/// A prepared request. Of versions 1 and 2c it is the whole message, of version 3 its PDU.
#[derive(Debug)]
pub struct Message {
    pub bytes: Vec<u8>,
    /// Where the four bytes of the number stand.
    id_at: usize,
}

/// A value of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Got {
    Int(i64),
    Counter32(u32),
    Counter(u64),
    Float(f64),
    Bytes(Vec<u8>),
    Oid(Oid),
    Ip([u8; 4]),
    /// noSuchObject, noSuchInstance, endOfMibView.
    Missing,
    /// A type that no point has, or bytes that are no value.
    Other,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0}")]
    Asn(snmp2::Error),
    #[error("SNMP version {0} is not known")]
    Version(i64),
    #[error("a PDU of kind {0:#04x} is not known")]
    Kind(u8),
    #[error("the number {0} is out of its range")]
    Range(i64),
    #[error("security model {0} is not known")]
    SecurityModel(i64),
}

impl From<snmp2::Error> for Malformed {
    fn from(error: snmp2::Error) -> Malformed {
        Malformed::Asn(error)
    }
}

/// A message of version 1 or 2c.
#[derive(Debug)]
pub struct CommunityMessage<'a> {
    pub version: i64,
    pub community: &'a [u8],
    pub body: Body<'a>,
}

#[derive(Debug)]
pub enum Body<'a> {
    Pdu(Pdu<'a>),
    TrapV1(TrapV1<'a>),
}

/// What all but the trap of version 1 look like.
#[derive(Debug)]
pub struct Pdu<'a> {
    /// One of `snmp2::snmp::MSG_*`.
    pub kind: u8,
    pub id: i64,
    pub status: u32,
    pub index: u32,
    pub varbinds: Varbinds<'a>,
}

/// RFC 1157, 4.1.6.
#[derive(Debug)]
pub struct TrapV1<'a> {
    pub enterprise: &'a [u8],
    pub agent: Option<[u8; 4]>,
    pub generic: i64,
    pub specific: i64,
    pub varbinds: Varbinds<'a>,
}

/// Identifiers (as content octets) and values.
#[derive(Clone)]
pub struct Varbinds<'a> {
    rest: AsnReader<'a>,
}

impl fmt::Debug for Varbinds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

impl<'a> Iterator for Varbinds<'a> {
    type Item = (&'a [u8], Got);

    fn next(&mut self) -> Option<Self::Item> {
        let mut pair = AsnReader::from_bytes(self.rest.read_raw(asn1::TYPE_SEQUENCE).ok()?);
        let oid = pair.read_raw(asn1::TYPE_OBJECTIDENTIFIER).ok()?;
        Some((oid, pair.next().map_or(Got::Other, |value| got(&value))))
    }
}

/// The version of a message, whatever else it is.
///
/// # Errors
/// No message.
pub fn version(bytes: &[u8]) -> Result<i64, Malformed> {
    let whole = AsnReader::from_bytes(bytes).read_raw(asn1::TYPE_SEQUENCE)?;
    Ok(AsnReader::from_bytes(whole).read_asn_integer()?)
}

/// Reads a message of version 1 or 2c.
///
/// # Errors
/// It is none.
pub fn read_community(bytes: &[u8]) -> Result<CommunityMessage<'_>, Malformed> {
    let mut whole = AsnReader::from_bytes(AsnReader::from_bytes(bytes).read_raw(asn1::TYPE_SEQUENCE)?);
    let version = whole.read_asn_integer()?;
    if !matches!(version, V1 | V2C) {
        return Err(Malformed::Version(version));
    }
    let community = whole.read_asn_octetstring()?;
    Ok(CommunityMessage { version, community, body: read_body(&mut whole)? })
}

/// Reads the PDU that stands next.
pub(crate) fn read_body<'a>(reader: &mut AsnReader<'a>) -> Result<Body<'a>, Malformed> {
    let kind = reader.peek_byte()?;
    if !(snmp::MSG_GET..=snmp::MSG_REPORT).contains(&kind) {
        return Err(Malformed::Kind(kind));
    }
    let mut inner = AsnReader::from_bytes(reader.read_raw(kind)?);
    if kind == snmp::MSG_TRAP_V1 {
        let enterprise = inner.read_raw(asn1::TYPE_OBJECTIDENTIFIER)?;
        let agent = inner.read_raw(snmp::TYPE_IPADDRESS)?.try_into().ok();
        let (generic, specific) = (inner.read_asn_integer()?, inner.read_asn_integer()?);
        let _uptime = inner.read_raw(snmp::TYPE_TIMETICKS)?;
        let varbinds = varbinds(&mut inner)?;
        return Ok(Body::TrapV1(TrapV1 { enterprise, agent, generic, specific, varbinds }));
    }
    let small = |number: i64| u32::try_from(number).map_err(|_| Malformed::Range(number));
    let id = inner.read_asn_integer()?;
    let (status, index) = (small(inner.read_asn_integer()?)?, small(inner.read_asn_integer()?)?);
    Ok(Body::Pdu(Pdu { kind, id, status, index, varbinds: varbinds(&mut inner)? }))
}

fn varbinds<'a>(reader: &mut AsnReader<'a>) -> Result<Varbinds<'a>, Malformed> {
    Ok(Varbinds { rest: AsnReader::from_bytes(reader.read_raw(asn1::TYPE_SEQUENCE)?) })
}

/// A value as the text that labels and filters compare.
#[must_use]
pub fn label(value: &Got) -> String {
    match value {
        Got::Int(n) => n.to_string(),
        Got::Counter32(n) => n.to_string(),
        Got::Counter(n) => n.to_string(),
        Got::Float(n) => n.to_string(),
        Got::Bytes(bytes) => String::from_utf8_lossy(bytes).trim().to_owned(),
        Got::Oid(oid) => oid.to_string(),
        Got::Ip(ip) => std::net::Ipv4Addr::from(*ip).to_string(),
        Got::Missing | Got::Other => String::new(),
    }
}

/// A value as people see what came.
#[must_use]
pub fn shown(value: &Got) -> String {
    match value {
        Got::Int(n) => format!("{n:#x}"),
        Got::Counter32(n) => format!("{n:#x}"),
        Got::Counter(n) => format!("{n:#x}"),
        Got::Bytes(bytes) => bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect(),
        Got::Missing => "no such object".to_owned(),
        Got::Other => "?".to_owned(),
        Got::Float(_) | Got::Oid(_) | Got::Ip(_) => label(value),
    }
}

fn got(value: &snmp2::Value<'_>) -> Got {
    match value {
        snmp2::Value::Integer(n) => Got::Int(*n),
        snmp2::Value::Unsigned32(n) | snmp2::Value::Timeticks(n) => Got::Int(i64::from(*n)),
        snmp2::Value::Counter32(n) => Got::Counter32(*n),
        snmp2::Value::Counter64(n) => Got::Counter(*n),
        snmp2::Value::OctetString(bytes) => Got::Bytes(bytes.get(..MAX_VALUE_BYTES).unwrap_or(bytes).to_vec()),
        snmp2::Value::ObjectIdentifier(oid) => Oid::from_ber(oid.as_bytes()).map_or(Got::Other, Got::Oid),
        snmp2::Value::IpAddress(ip) => Got::Ip(*ip),
        snmp2::Value::Opaque(bytes) => opaque(bytes),
        snmp2::Value::NoSuchObject | snmp2::Value::NoSuchInstance | snmp2::Value::EndOfMibView => Got::Missing,
        _ => Got::Other,
    }
}

fn opaque(bytes: &[u8]) -> Got {
    let float = bytes.strip_prefix(&OPAQUE_FLOAT).and_then(|rest| rest.try_into().ok());
    let double = bytes.strip_prefix(&OPAQUE_DOUBLE).and_then(|rest| rest.try_into().ok());
    match (float, double) {
        (Some(float), _) => Got::Float(f64::from(f32::from_be_bytes(float))),
        (_, Some(double)) => Got::Float(f64::from_be_bytes(double)),
        _ => Got::Other,
    }
}

/// The PDU of a request for these identifiers, with a number to be filled in. `first` and `second` are error status
/// and index of a GET, non-repeaters and repetitions of a GETBULK.
#[must_use]
pub fn request(kind: u8, oids: &[&[u8]], first: u32, second: u32) -> Message {
    let varbinds: Vec<u8> = oids
        .iter()
        .flat_map(|oid| field(asn1::TYPE_SEQUENCE, &[&field(asn1::TYPE_OBJECTIDENTIFIER, &[oid]), &NULL]))
        .collect();
    let list = field(asn1::TYPE_SEQUENCE, &[&varbinds]);
    let id = field(asn1::TYPE_INTEGER, &[&REQUEST_IDS.start.to_be_bytes()]);
    let (first, second) = (integer(first), integer(second));
    let after_id = first.len() + second.len() + list.len();
    let bytes = field(kind, &[&id, &first, &second, &list]);
    let id_at = bytes.len().saturating_sub(after_id + 4);
    Message { bytes, id_at }
}

impl Message {
    /// A PDU in a message of version 1 or 2c.
    #[must_use]
    pub fn in_community(self, version: u32, community: &[u8]) -> Message {
        let community = field(asn1::TYPE_OCTETSTRING, &[community]);
        let bytes = field(asn1::TYPE_SEQUENCE, &[&integer(version), &community, &self.bytes]);
        let id_at = self.id_at + bytes.len().saturating_sub(self.bytes.len());
        Message { bytes, id_at }
    }

    pub fn renumber(&mut self, id: u32) {
        if let Some(place) = self.bytes.get_mut(self.id_at..self.id_at + 4) {
            place.copy_from_slice(&id.to_be_bytes());
        }
    }
}

/// The answer to an inform: the same variables, without an error (RFC 3416, 4.2.7).
#[must_use]
pub fn response(id: i64, varbinds: &[u8]) -> Vec<u8> {
    let list = field(asn1::TYPE_SEQUENCE, &[varbinds]);
    let id = field(asn1::TYPE_INTEGER, &[&signed(id)]);
    field(snmp::MSG_RESPONSE, &[&id, &integer(0), &integer(0), &list])
}

impl<'a> Varbinds<'a> {
    /// Every variable again as the bytes of a list, without its tag and length.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut rest = self.rest.clone();
        let mut bytes = Vec::with_capacity(rest.bytes_left());
        while let Ok(pair) = rest.read_raw(asn1::TYPE_SEQUENCE) {
            bytes.extend(field(asn1::TYPE_SEQUENCE, &[pair]));
        }
        bytes
    }
}

/// X.690: tag, length, contents.
#[must_use]
pub fn field(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(length + 6);
    bytes.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let long = length.to_be_bytes();
            let used = long.len() - long.iter().take_while(|byte| **byte == 0).count();
            // At most the eight bytes of a length: it fits.
            bytes.push(0x80 | u8::try_from(used).unwrap_or(8));
            bytes.extend_from_slice(&long[long.len() - used..]);
        }
    }
    for part in contents {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A number that is not negative.
#[must_use]
pub fn integer(value: u32) -> Vec<u8> {
    field(asn1::TYPE_INTEGER, &[&signed(i64::from(value))])
}

/// Content octets of a number, as few as the rules allow.
fn signed(value: i64) -> Vec<u8> {
    let wide = value.to_be_bytes();
    let fill = if value < 0 { 0xFF } else { 0 };
    let same_sign = |next: u8| (next & 0x80 != 0) == (value < 0);
    let skip = wide.iter().zip(&wide[1..]).take_while(|(byte, next)| **byte == fill && same_sign(**next)).count();
    wide[skip..].to_vec()
}

const NULL: [u8; 2] = [asn1::TYPE_NULL, 0];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn oids() -> Vec<Vec<u8>> {
        (0..60).map(|i| format!("1.3.6.1.4.1.2021.10.1.5.{i}").parse::<Oid>().unwrap().to_ber()).collect()
    }

    fn pdu(message: CommunityMessage<'_>) -> Pdu<'_> {
        match message.body {
            Body::Pdu(pdu) => pdu,
            Body::TrapV1(_) => panic!("a trap"),
        }
    }

    #[test]
    fn a_message_can_be_renumbered_in_place() {
        let oids = oids();
        for count in [0, 1, 9, 60] {
            let slices: Vec<&[u8]> = oids[..count].iter().map(Vec::as_slice).collect();
            let mut message = request(snmp::MSG_GET, &slices, 0, 0).in_community(1, b"public");
            for id in [REQUEST_IDS.start, 0x1234_5678, REQUEST_IDS.end - 1] {
                message.renumber(id);
                // The library reads what we write.
                let theirs = snmp2::Pdu::from_bytes(&message.bytes).unwrap();
                assert_eq!((u32::try_from(theirs.req_id), theirs.community), (Ok(id), &b"public"[..]));
                let read = read_community(&message.bytes).unwrap();
                assert_eq!((read.version, read.community), (V2C, &b"public"[..]));
                let pdu = pdu(read);
                assert_eq!((pdu.id, pdu.status, pdu.index), (i64::from(id), 0, 0));
                let read: Vec<Vec<u8>> = pdu.varbinds.map(|(oid, _)| oid.to_vec()).collect();
                assert_eq!(read, oids[..count]);
            }
        }
    }

    #[test]
    fn a_value_that_cannot_be_read_costs_no_other() {
        let pair = |value: &[u8]| {
            let oid = field(asn1::TYPE_OBJECTIDENTIFIER, &[&[0x2B, 6, 1]]);
            field(asn1::TYPE_SEQUENCE, &[&oid, value])
        };
        let float = field(snmp::TYPE_OPAQUE, &[&[0x9F, 0x78, 4], &1.5_f32.to_be_bytes()]);
        let list = [
            pair(&integer(5)),
            pair(&[0x01, 0x01, 0xFF]),
            pair(&[0x02, 0x7F]),
            pair(&[]),
            pair(&float),
            pair(&field(snmp::TYPE_IPADDRESS, &[&[10, 0, 0, 1]])),
            pair(&field(snmp::TYPE_IPADDRESS, &[&[10, 0, 0]])),
            pair(&field(snmp::TYPE_COUNTER32, &[&[0xFF; 4]])),
        ];
        let pdu = response(9, &list.concat());
        let whole = field(asn1::TYPE_SEQUENCE, &[&integer(1), &field(4, &[b"c"]), &pdu]);
        let values: Vec<Got> = self::pdu(read_community(&whole).unwrap()).varbinds.map(|(_, value)| value).collect();
        let want = [
            Got::Int(5),
            Got::Other,
            Got::Other,
            Got::Other,
            Got::Float(1.5),
            Got::Ip([10, 0, 0, 1]),
            Got::Other,
            Got::Counter32(u32::MAX),
        ];
        assert_eq!(values, want);
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_written(value: i64) {
            let bytes = field(asn1::TYPE_INTEGER, &[&signed(value)]);
            prop_assert_eq!(AsnReader::from_bytes(&bytes).read_asn_integer(), Ok(value));
        }
    }
}
