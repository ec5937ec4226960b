//! Messages of SNMPv3: what is around a PDU (RFC 3412, section 6; RFC 3414, section 2.4).
//!
//! Knows: where the parts of a message stand. Refuses to know: whether they are to be believed, which keys there are
//! (only how to apply them).

use snmp2::{AsnReader, asn1, snmp};

use super::message::{Body, Malformed, V3, field, integer, read_body};
use super::usm::{Keys, Undecryptable, User};

/// RFC 3412, 6.4.
pub const FLAG_AUTH: u8 = snmp::V3_MSG_FLAGS_AUTH;
pub const FLAG_PRIVACY: u8 = snmp::V3_MSG_FLAGS_PRIVACY;
pub const FLAG_REPORTABLE: u8 = snmp::V3_MSG_FLAGS_REPORTABLE;
/// The user-based security model.
const USM: i64 = 3;

/// An opened envelope; nothing in it is believed yet.
#[derive(Debug)]
pub struct Frame<'a> {
    whole: &'a [u8],
    pub message_id: i64,
    pub flags: u8,
    pub engine: &'a [u8],
    pub boots: u32,
    pub time: u32,
    pub user: &'a [u8],
    signature: &'a [u8],
    salt: &'a [u8],
    /// A scoped PDU, encrypted or not.
    data: &'a [u8],
}

/// What is inside.
#[derive(Debug)]
pub struct Scoped<'a> {
    pub context_engine: &'a [u8],
    pub context: &'a [u8],
    pub body: Body<'a>,
}

/// Where and when a message is valid.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    pub engine: &'a [u8],
    pub boots: u32,
    pub time: u32,
}

/// Opens a message of version 3.
///
/// # Errors
/// It is none.
pub fn open(whole: &[u8]) -> Result<Frame<'_>, Malformed> {
    let mut message = AsnReader::from_bytes(AsnReader::from_bytes(whole).read_raw(asn1::TYPE_SEQUENCE)?);
    let version = message.read_asn_integer()?;
    if version != V3 {
        return Err(Malformed::Version(version));
    }
    let mut header = AsnReader::from_bytes(message.read_raw(asn1::TYPE_SEQUENCE)?);
    let message_id = header.read_asn_integer()?;
    let _max_size = header.read_asn_integer()?;
    let flags = header.read_asn_octetstring()?.first().copied().unwrap_or_default();
    let model = header.read_asn_integer()?;
    if model != USM {
        return Err(Malformed::SecurityModel(model));
    }
    let parameters = message.read_asn_octetstring()?;
    let mut security = AsnReader::from_bytes(AsnReader::from_bytes(parameters).read_raw(asn1::TYPE_SEQUENCE)?);
    let small = |number: i64| u32::try_from(number).map_err(|_| Malformed::Range(number));
    let engine = security.read_asn_octetstring()?;
    let (boots, time) = (small(security.read_asn_integer()?)?, small(security.read_asn_integer()?)?);
    let user = security.read_asn_octetstring()?;
    let signature = security.read_asn_octetstring()?;
    let salt = security.read_asn_octetstring()?;
    let tag = if flags & FLAG_PRIVACY == 0 { asn1::TYPE_SEQUENCE } else { asn1::TYPE_OCTETSTRING };
    let data = message.read_raw(tag)?;
    Ok(Frame { whole, message_id, flags, engine, boots, time, user, signature, salt, data })
}

impl Frame<'_> {
    /// True where the message is signed with this key.
    #[must_use]
    pub fn is_signed_with(&self, keys: &Keys) -> bool {
        // Both are parts of the same bytes: their distance is where the signature stands.
        let at = (self.signature.as_ptr() as usize).checked_sub(self.whole.as_ptr() as usize);
        self.flags & FLAG_AUTH != 0 && at.is_some_and(|at| keys.verifies(self.whole, at, self.signature))
    }

    /// The bytes of the scoped PDU, decrypted where they have to be.
    ///
    /// # Errors
    /// Encrypted, and not with this key.
    pub fn plain(&self, keys: &Keys) -> Result<Vec<u8>, Undecryptable> {
        if self.flags & FLAG_PRIVACY == 0 {
            return Ok(self.data.to_vec());
        }
        let plain = keys.decrypt(self.data, self.boots, self.time, self.salt)?;
        // With a wrong key this is not even a sequence, save by chance.
        let inner = AsnReader::from_bytes(&plain).read_raw(asn1::TYPE_SEQUENCE).map_err(|_| Undecryptable)?;
        Ok(inner.to_vec())
    }
}

/// Reads the contents of a scoped PDU.
///
/// # Errors
/// It is none.
pub fn read_scoped(plain: &[u8]) -> Result<Scoped<'_>, Malformed> {
    let mut reader = AsnReader::from_bytes(plain);
    let (context_engine, context) = (reader.read_asn_octetstring()?, reader.read_asn_octetstring()?);
    Ok(Scoped { context_engine, context, body: read_body(&mut reader)? })
}

/// What a message is made of.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    pub message_id: u32,
    pub stamp: Stamp<'a>,
    pub user: &'a [u8],
    pub context_engine: &'a [u8],
    pub context: &'a [u8],
    pub pdu: &'a [u8],
    pub reportable: bool,
    /// Largest answer that is understood.
    pub max_size: u32,
}

/// Signs and encrypts as the keys say. `salt` must be another one each time. `None` where a key does not fit.
#[must_use]
pub fn seal(letter: &Letter<'_>, keys: &Keys, salt: u64) -> Option<Vec<u8>> {
    let Stamp { engine, boots, time } = letter.stamp;
    let text = |bytes: &[u8]| field(asn1::TYPE_OCTETSTRING, &[bytes]);
    let scoped = field(asn1::TYPE_SEQUENCE, &[&text(letter.context_engine), &text(letter.context), letter.pdu]);
    let (data, salt) = if keys.encrypts() {
        let (secret, salt) = keys.encrypt(&scoped, boots, time, salt)?;
        (text(&secret), text(&salt))
    } else {
        (scoped, text(&[]))
    };
    let mut flags = if letter.reportable { FLAG_REPORTABLE } else { 0 };
    flags |= if keys.signs() { FLAG_AUTH } else { 0 };
    flags |= if keys.encrypts() { FLAG_PRIVACY } else { 0 };
    let header = field(
        asn1::TYPE_SEQUENCE,
        &[&integer(letter.message_id), &integer(letter.max_size), &text(&[flags]), &integer(3)],
    );
    let length = keys.signature_bytes();
    let unsigned = text(&vec![0; length]);
    let parameters = field(
        asn1::TYPE_SEQUENCE,
        &[&text(engine), &integer(boots), &integer(time), &text(letter.user), &unsigned, &salt],
    );
    let mut whole = field(asn1::TYPE_SEQUENCE, &[&integer(3), &header, &text(&parameters), &data]);
    if keys.signs() {
        let at = whole.len().checked_sub(data.len() + salt.len() + length)?;
        let signature = keys.sign(&whole, at);
        whole.get_mut(at..at + length)?.copy_from_slice(&signature);
    }
    Some(whole)
}

/// The question every engine answers with its identity (RFC 3414, section 4).
#[must_use]
pub fn who_are_you(message_id: u32, max_size: u32) -> Option<Vec<u8>> {
    let mut pdu = super::message::request(snmp::MSG_GET, &[], 0, 0);
    pdu.renumber(message_id);
    let nobody = User::new(String::new(), String::new(), None, None);
    let letter = Letter {
        message_id,
        stamp: Stamp { engine: &[], boots: 0, time: 0 },
        user: &[],
        context_engine: &[],
        context: &[],
        pdu: &pdu.bytes,
        reportable: true,
        max_size,
    };
    seal(&letter, &nobody.keys(&[]), 0)
}

#[cfg(test)]
mod tests {
    use super::super::usm::{AuthProtocol, PrivProtocol, Secret};
    use super::*;

    #[test]
    fn what_is_sealed_can_be_opened_and_a_changed_byte_is_seen() {
        use AuthProtocol as A;
        use PrivProtocol as P;
        let engine = [0x80, 0, 0, 0, 1, 2, 3, 4, 5];
        for (auth, cipher) in
            [(A::Md5, None), (A::Sha1, Some(P::Des)), (A::Sha256, Some(P::Aes128)), (A::Sha512, Some(P::Aes256))]
        {
            let secret = || Secret::new("maplesyrup");
            let user = User::new(
                "operator".to_owned(),
                String::new(),
                Some((auth, secret())),
                cipher.map(|cipher| (cipher, secret())),
            );
            let keys = user.keys(&engine);
            let mut pdu = super::super::message::request(snmp::MSG_GET, &[&[0x2B, 6, 1]], 0, 0);
            pdu.renumber(0x0203_0405);
            let letter = Letter {
                message_id: 0x0203_0405,
                stamp: Stamp { engine: &engine, boots: 3, time: 70_000 },
                user: b"operator",
                context_engine: &engine,
                context: b"",
                pdu: &pdu.bytes,
                reportable: true,
                max_size: 1_472,
            };
            let whole = seal(&letter, &keys, 99).unwrap();
            let frame = open(&whole).unwrap();
            assert_eq!((frame.message_id, frame.boots, frame.time), (0x0203_0405, 3, 70_000));
            assert_eq!((frame.engine, frame.user), (&engine[..], &b"operator"[..]));
            assert!(frame.is_signed_with(&keys));
            let plain = frame.plain(&keys).unwrap();
            let Body::Pdu(inner) = read_scoped(&plain).unwrap().body else { panic!("a trap") };
            assert_eq!(inner.id, 0x0203_0405);
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                assert!(open(&changed).is_ok_and(|frame| !frame.is_signed_with(&keys)) || open(&changed).is_err());
            }
        }
    }
}
