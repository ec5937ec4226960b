//! Which datagram is the answer that is waited for, and what the others say about the device.
//!
//! Knows: what an answer must carry to be ours. Refuses to know: sockets, time limits.
//!
//! Invariant: an answer is believed only with the number of the request that is waited for and the same community, or a
//! right signature where the user has a key.

use snmp2::snmp;

use super::engine::{AuthFault, Engine, Report};
use super::frame::{self, Frame};
use super::message::{self, Body, Pdu};
use super::session::ReadError;
use super::usm::User;
use crate::oid::Oid;

/// Error status of RFC 3416 that is treated by itself.
const AUTHORIZATION_ERROR: u32 = 16;

/// What became of a datagram.
pub(super) enum Received<T> {
    Answer(T),
    /// Identity or time of the engine are known better now: ask again.
    Corrected,
    Failed(ReadError),
    /// Late, or not for us.
    Stray,
    Malformed(String),
}

/// What an exchange has gone through.
#[derive(Default)]
pub(super) struct Progress {
    pub corrections: u32,
    /// The engine said who it is during this exchange.
    pub introduced: bool,
    /// The last thing that came and was no answer.
    pub heard: Option<String>,
}

/// A PDU that carries our number.
fn judge_pdu<T>(pdu: &Pdu<'_>, read: &mut impl FnMut(&Pdu<'_>) -> T) -> Received<T> {
    match pdu.status {
        0 => Received::Answer(read(pdu)),
        AUTHORIZATION_ERROR => Received::Failed(AuthFault::Refused.into()),
        status => Received::Failed(ReadError::Status { status, index: pdu.index }),
    }
}

pub(super) fn judge_community<T>(
    bytes: &[u8],
    id: u32,
    version: i64,
    community: &str,
    read: &mut impl FnMut(&Pdu<'_>) -> T,
) -> Received<T> {
    let message = match message::read_community(bytes) {
        Ok(message) => message,
        Err(error) => return Received::Malformed(error.to_string()),
    };
    match message.body {
        Body::Pdu(pdu)
            if message.version == version
                && message.community == community.as_bytes()
                && pdu.kind == snmp::MSG_RESPONSE
                && pdu.id == i64::from(id) =>
        {
            judge_pdu(&pdu, read)
        }
        _ => Received::Stray,
    }
}

pub(super) fn judge_frame<T>(
    bytes: &[u8],
    id: u32,
    user: &User,
    engine: &mut Option<Engine>,
    progress: &mut Progress,
    read: &mut impl FnMut(&Pdu<'_>) -> T,
) -> Received<T> {
    let frame = match frame::open(bytes) {
        Ok(frame) => frame,
        Err(error) => return Received::Malformed(error.to_string()),
    };
    if frame.message_id != i64::from(id) {
        return Received::Stray;
    }
    let Some(known) = engine else {
        // We asked who it is: any answer tells it.
        if frame.engine.is_empty() {
            return Received::Malformed("the engine does not say who it is".to_owned());
        }
        progress.introduced = true;
        *engine = Some(Engine::new(frame.engine, frame.boots, frame.time, user));
        return Received::Corrected;
    };
    let signed = frame.flags & frame::FLAG_AUTH != 0;
    if signed && !frame.is_signed_with(&known.keys) {
        return Received::Failed(AuthFault::ForeignSignature.into());
    }
    let Ok(plain) = frame.plain(&known.keys) else {
        return Received::Failed(AuthFault::WrongPrivacyKey.into());
    };
    let pdu = match frame::read_scoped(&plain) {
        Ok(frame::Scoped { body: Body::Pdu(pdu), .. }) => pdu,
        Ok(_) => return Received::Stray,
        Err(error) => return Received::Malformed(error.to_string()),
    };
    if pdu.kind == snmp::MSG_REPORT {
        return judge_report(&pdu, &frame, signed, engine);
    }
    let as_safe_as_asked =
        signed == known.keys.signs() && (frame.flags & frame::FLAG_PRIVACY != 0) == known.keys.encrypts();
    if pdu.kind != snmp::MSG_RESPONSE || pdu.id != i64::from(id) || frame.engine != known.id || !as_safe_as_asked {
        return Received::Stray;
    }
    // The number inside the signature is fresh: so are boots and time.
    known.sync(frame.boots, frame.time);
    judge_pdu(&pdu, read)
}

fn judge_report<T>(pdu: &Pdu<'_>, frame: &Frame<'_>, signed: bool, engine: &mut Option<Engine>) -> Received<T> {
    let counter = pdu.varbinds.clone().next().and_then(|(oid, _)| Oid::from_ber(oid));
    match counter.as_ref().map_or(Report::Other, Report::of) {
        Report::NotInTimeWindow => match engine {
            Some(known) if signed && frame.engine == known.id => {
                known.sync(frame.boots, frame.time);
                Received::Corrected
            }
            // Not signed: not to be believed, but worth asking anew.
            _ => {
                *engine = None;
                Received::Corrected
            }
        },
        Report::UnknownEngine => {
            *engine = None;
            Received::Corrected
        }
        Report::Fault(fault) => Received::Failed(fault.into()),
        Report::Other => {
            let name = counter.map(|oid| oid.to_string()).unwrap_or_default();
            Received::Malformed(format!("a report of {name}"))
        }
    }
}
