//! Who an SNMP device says it is.

use std::time::{Duration, Instant};

use super::config::SnmpLink;
use super::message::{Got, label};
use super::session::{Channel, ReadError, Session};
use crate::oid::Oid;

const SYS_DESCR: &str = "1.3.6.1.2.1.1.1.0";
const SYS_OBJECT_ID: &str = "1.3.6.1.2.1.1.2.0";
const SYS_NAME: &str = "1.3.6.1.2.1.1.5.0";
/// Time for all questions, in time limits of one: version 3 needs three.
const LIMITS: u32 = 6;

/// The system group of a device (RFC 3418).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    pub object_id: Option<Oid>,
    pub descr: String,
    pub name: String,
}

/// Asks a device who it is.
///
/// # Errors
/// It does not answer, or refuses us.
pub async fn identify(link: &SnmpLink) -> Result<Identity, ReadError> {
    let mut channel = Channel::new();
    let mut session = Session { link, channel: &mut channel };
    let asked: Vec<Oid> = [SYS_DESCR, SYS_OBJECT_ID, SYS_NAME].iter().filter_map(|oid| oid.parse().ok()).collect();
    let budget = link.timeout.max(Duration::from_millis(1)) * LIMITS;
    let deadline = Instant::now() + budget;
    let values = match session.get_few(&asked, deadline).await {
        Ok(values) => values,
        // It answers, if only with an error: that is a device too.
        Err(ReadError::Status { .. }) => return Ok(Identity::default()),
        Err(error) => return Err(error),
    };
    let text = |at: usize| values.get(at).and_then(Option::as_ref).map(label).unwrap_or_default();
    let object_id = match values.get(1) {
        Some(Some(Got::Oid(oid))) => Some(oid.clone()),
        _ => None,
    };
    Ok(Identity { object_id, descr: text(0), name: text(2) })
}
