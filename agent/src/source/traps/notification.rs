//! What a trap or inform says, whatever its version.
//!
//! Knows: how a trap of version 1 is called in version 2 (RFC 3584, 3.1). Refuses to know: who sent it, what it means.

use crate::oid::Oid;
use crate::source::snmp::message::{Got, Pdu, TrapV1, Varbinds, label};

/// Most variables that are kept of one notification.
const MAX_VALUES: usize = 32;
/// Longest text of a value.
const MAX_VALUE_CHARS: usize = 256;

const SYS_UPTIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];
const TRAP_OID: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
/// The traps that RFC 1157 numbers from 0.
const GENERIC: [u32; 9] = [1, 3, 6, 1, 6, 3, 1, 1, 5];
const ENTERPRISE_SPECIFIC: i64 = 6;

/// One notification.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    /// snmpTrapOID.
    pub oid: Oid,
    /// Variables and their texts, without uptime and the trap's own identifier.
    pub values: Vec<(Oid, String)>,
}

fn values(varbinds: Varbinds<'_>) -> Vec<(Oid, String)> {
    varbinds
        .filter_map(|(oid, value)| Some((Oid::from_ber(oid)?, value)))
        .filter(|(oid, _)| oid.arcs() != SYS_UPTIME && oid.arcs() != TRAP_OID)
        .take(MAX_VALUES)
        .map(|(oid, value)| (oid, text(&value)))
        .collect()
}

fn text(value: &Got) -> String {
    let shown = match value {
        Got::Bytes(bytes) if !bytes.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => {
            match std::str::from_utf8(bytes) {
                Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
                _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            }
        }
        value => label(value),
    };
    shown.chars().take(MAX_VALUE_CHARS).collect()
}

impl Notification {
    /// Of version 2c or 3; `None` where it does not say which it is.
    #[must_use]
    pub fn of_pdu(pdu: &Pdu<'_>) -> Option<Notification> {
        let named = pdu.varbinds.clone().find_map(|(oid, value)| match value {
            Got::Oid(named) if Oid::from_ber(oid)?.arcs() == TRAP_OID => Some(named),
            _ => None,
        })?;
        Some(Notification { oid: named, values: values(pdu.varbinds.clone()) })
    }

    /// Of version 1.
    #[must_use]
    pub fn of_v1(trap: &TrapV1<'_>) -> Option<Notification> {
        let oid = if trap.generic == ENTERPRISE_SPECIFIC {
            Oid::from_ber(trap.enterprise)?.below(&[0, u32::try_from(trap.specific).ok()?])
        } else {
            let number = u32::try_from(trap.generic).ok().filter(|generic| *generic < 6)?;
            Oid::from_arcs(&GENERIC)?.below(&[number + 1])
        };
        Some(Notification { oid, values: values(trap.varbinds.clone()) })
    }
}
