//! The SNMPv3 engine of a simulated device (RFC 3412, 3414): one user, signed and encrypted.
//!
//! Knows: who it says it is, what time it has, which reports it owes to whom. Refuses to know: what is asked.
//! Invariant: nothing is answered that is not signed and encrypted by its user within the time window.

use bcp_agent::source::snmp::frame::{FLAG_AUTH, FLAG_PRIVACY, Frame, Letter, Stamp, open, seal};
use bcp_agent::source::snmp::usm::{Keys, User};

use super::ber::{self, Reader};
use super::fault::Condition;
use super::snmp::{Request, parse_pdu};

/// No enterprise; a text (RFC 3411, SnmpEngineID).
const PREFIX: [u8; 5] = [0x80, 0, 0, 0, 4];
/// RFC 3414, 2.2.3.
const WINDOW_S: u32 = 150;
const MAX_MESSAGE_BYTES: u32 = 8_192;
const REPORT: u8 = 0xa8;
const COUNTER_32: u8 = 0x41;
/// usmStats, and its counters.
const USM_STATS: [u32; 9] = [1, 3, 6, 1, 6, 3, 15, 1, 1];
const SECURITY_LEVEL: u32 = 1;
const NOT_IN_TIME_WINDOW: u32 = 2;
const UNKNOWN_USER: u32 = 3;
const UNKNOWN_ENGINE: u32 = 4;
const WRONG_DIGEST: u32 = 5;
const DECRYPTION_ERROR: u32 = 6;

/// One engine.
#[derive(Debug)]
pub struct Engine {
    name: String,
    user: User,
    salt: u64,
}

/// Who it is at the moment.
struct Face {
    id: Vec<u8>,
    boots: u32,
    time: u32,
}

impl Engine {
    #[must_use]
    pub fn new(device: &str, user: User) -> Engine {
        Engine { name: device.to_owned(), user, salt: rand::random() }
    }

    fn face(&self, condition: &Condition) -> Face {
        let id = [&PREFIX[..], self.name.as_bytes(), &[b'0' + condition.engine % 10]].concat();
        Face { id, boots: condition.boots, time: u32::try_from(condition.uptime_s()).unwrap_or(u32::MAX) }
    }

    /// The answer to a datagram of version 3, with what `respond` says to its request; `None` where it is none.
    pub fn answer(
        &mut self,
        datagram: &[u8],
        condition: &Condition,
        respond: impl FnOnce(&Request) -> Vec<u8>,
    ) -> Option<Vec<u8>> {
        let frame = open(datagram).ok()?;
        let face = self.face(condition);
        if frame.engine != face.id {
            return self.report(&frame, &face, UNKNOWN_ENGINE, &Keys::default());
        }
        if frame.user != self.user.name.as_bytes() {
            return self.report(&frame, &face, UNKNOWN_USER, &Keys::default());
        }
        if frame.flags & FLAG_AUTH == 0 || frame.flags & FLAG_PRIVACY == 0 {
            return self.report(&frame, &face, SECURITY_LEVEL, &Keys::default());
        }
        let keys = self.user.keys(&face.id);
        if !frame.is_signed_with(&keys) {
            return self.report(&frame, &face, WRONG_DIGEST, &Keys::default());
        }
        if frame.boots != face.boots || frame.time.abs_diff(face.time) > WINDOW_S {
            // Signed, but never encrypted: its reader may not have the time to decrypt it with.
            let signing = User::new(self.user.name.clone(), String::new(), self.user.auth.clone(), None);
            return self.report(&frame, &face, NOT_IN_TIME_WINDOW, &signing.keys(&face.id));
        }
        let Ok(plain) = frame.plain(&keys) else {
            return self.report(&frame, &face, DECRYPTION_ERROR, &Keys::default());
        };
        let mut scoped = Reader::new(&plain);
        let (_engine, context) = (scoped.element(ber::OCTET_STRING)?, scoped.element(ber::OCTET_STRING)?);
        let request = parse_pdu(&mut scoped)?;
        self.seal(&frame, &face, context, &respond(&request), &keys)
    }

    fn report(&mut self, frame: &Frame<'_>, face: &Face, counter: u32, keys: &Keys) -> Option<Vec<u8>> {
        let (mut pair, mut list, mut pdu, mut whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        ber::put_oid(&mut pair, &[&USM_STATS[..], &[counter, 0]].concat());
        ber::put(&mut pair, COUNTER_32, &[1]);
        ber::put(&mut list, ber::SEQUENCE, &pair);
        [i32::try_from(frame.message_id).ok()?, 0, 0].into_iter().for_each(|number| ber::put_integer(&mut pdu, number));
        ber::put(&mut pdu, ber::SEQUENCE, &list);
        ber::put(&mut whole, REPORT, &pdu);
        self.seal(frame, face, &[], &whole, keys)
    }

    fn seal(&mut self, frame: &Frame<'_>, face: &Face, context: &[u8], pdu: &[u8], keys: &Keys) -> Option<Vec<u8>> {
        self.salt = self.salt.wrapping_add(1);
        let letter = Letter {
            message_id: u32::try_from(frame.message_id).ok()?,
            stamp: Stamp { engine: &face.id, boots: face.boots, time: face.time },
            user: frame.user,
            context_engine: &face.id,
            context,
            pdu,
            reportable: false,
            max_size: MAX_MESSAGE_BYTES,
        };
        seal(&letter, keys, self.salt)
    }
}
