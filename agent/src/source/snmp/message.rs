//! The bytes of requests and answers (RFC 1157, 1905, 3416; X.690).
//!
//! Knows: how a request is encoded, and what the values of an answer are. Refuses to know: sockets, time, meaning.

use std::ops::Range;

use snmp2::asn1;

use crate::oid::Oid;

/// Longest value that is kept, as the contract's longest text, with room for what is trimmed.
const MAX_VALUE_BYTES: usize = 2 * bcp_wire::MAX_TEXT_BYTES;
/// Request numbers always take four bytes on the wire, so that a prepared message can be renumbered in place.
pub(super) const REQUEST_IDS: Range<u32> = 0x0100_0000..0x7FFF_FFFF;

#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// Where the four bytes of the number stand.
    id_at: usize,
}

/// A value of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Got {
    Int(i64),
    Counter(u64),
    Bytes(Vec<u8>),
    Oid(Oid),
    /// noSuchObject, noSuchInstance, endOfMibView.
    Missing,
    /// A type that no point has.
    Other,
}

/// A value as the text that labels and filters compare.
pub(super) fn label(value: &Got) -> String {
    match value {
        Got::Int(n) => n.to_string(),
        Got::Counter(n) => n.to_string(),
        Got::Bytes(bytes) => String::from_utf8_lossy(bytes).trim().to_owned(),
        Got::Oid(oid) => oid.to_string(),
        Got::Missing | Got::Other => String::new(),
    }
}

pub(super) fn shown(value: &Got) -> String {
    match value {
        Got::Int(n) => format!("{n:#x}"),
        Got::Counter(n) => format!("{n:#x}"),
        Got::Bytes(bytes) => bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect(),
        Got::Oid(oid) => oid.to_string(),
        Got::Missing => "no such object".to_owned(),
        Got::Other => "?".to_owned(),
    }
}

pub(super) fn got(value: &snmp2::Value<'_>) -> Got {
    match value {
        snmp2::Value::Integer(n) => Got::Int(*n),
        snmp2::Value::Counter32(n) | snmp2::Value::Unsigned32(n) | snmp2::Value::Timeticks(n) => {
            Got::Int(i64::from(*n))
        }
        snmp2::Value::Counter64(n) => Got::Counter(*n),
        snmp2::Value::OctetString(bytes) => Got::Bytes(bytes.get(..MAX_VALUE_BYTES).unwrap_or(bytes).to_vec()),
        snmp2::Value::ObjectIdentifier(oid) => Oid::from_ber(oid.as_bytes()).map_or(Got::Other, Got::Oid),
        snmp2::Value::NoSuchObject | snmp2::Value::NoSuchInstance | snmp2::Value::EndOfMibView => Got::Missing,
        _ => Got::Other,
    }
}

/// A request for these identifiers, with a number to be filled in. `first` and `second` are error status and index of
/// a GET, non-repeaters and repetitions of a GETBULK.
pub(super) fn request(community: &str, kind: u8, oids: &[&[u8]], first: u32, second: u32) -> Message {
    let varbinds: Vec<u8> = oids
        .iter()
        .flat_map(|oid| field(asn1::TYPE_SEQUENCE, &[&field(asn1::TYPE_OBJECTIDENTIFIER, &[oid]), &NULL]))
        .collect();
    let list = field(asn1::TYPE_SEQUENCE, &[&varbinds]);
    let id = field(asn1::TYPE_INTEGER, &[&REQUEST_IDS.start.to_be_bytes()]);
    let (first, second) = (integer(first), integer(second));
    let after_id = first.len() + second.len() + list.len();
    let pdu = field(kind, &[&id, &first, &second, &list]);
    let version = integer(snmp2::Version::V2C as u32);
    let community = field(asn1::TYPE_OCTETSTRING, &[community.as_bytes()]);
    let bytes = field(asn1::TYPE_SEQUENCE, &[&version, &community, &pdu]);
    let id_at = bytes.len().saturating_sub(after_id + 4);
    Message { bytes, id_at }
}

/// X.690: tag, length, contents.
fn field(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
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

/// A number that is not negative, in as few bytes as the rules allow.
fn integer(value: u32) -> Vec<u8> {
    let wide = u64::from(value).to_be_bytes();
    let skip = wide.iter().zip(&wide[1..]).take_while(|(byte, next)| **byte == 0 && **next < 0x80).count();
    field(asn1::TYPE_INTEGER, &[&wide[skip..]])
}

const NULL: [u8; 2] = [asn1::TYPE_NULL, 0];

impl Message {
    pub(super) fn renumber(&mut self, id: u32) {
        if let Some(place) = self.bytes.get_mut(self.id_at..self.id_at + 4) {
            place.copy_from_slice(&id.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use snmp2::{Pdu, snmp};

    use super::*;

    #[test]
    fn a_message_can_be_renumbered_in_place() {
        let oids: Vec<Vec<u8>> =
            (0..60).map(|i| format!("1.3.6.1.4.1.2021.10.1.5.{i}").parse::<Oid>().unwrap().to_ber()).collect();
        for count in [0, 1, 9, 60] {
            let slices: Vec<&[u8]> = oids[..count].iter().map(Vec::as_slice).collect();
            let mut message = request("public", snmp::MSG_GET, &slices, 0, 0);
            for id in [REQUEST_IDS.start, 0x1234_5678, REQUEST_IDS.end - 1] {
                message.renumber(id);
                let pdu = Pdu::from_bytes(&message.bytes).unwrap();
                assert_eq!(u32::try_from(pdu.req_id), Ok(id));
                assert_eq!((pdu.community, pdu.error_status, pdu.error_index), (&b"public"[..], 0, 0));
                let read: Vec<Vec<u8>> = pdu.varbinds.map(|(oid, _)| oid.as_bytes().to_vec()).collect();
                assert_eq!(read, oids[..count]);
            }
        }
    }
}
