//! Reading a few identifiers, or all below one.
//!
//! Knows: the guards that end a walk. Refuses to know: what is walked for.

use std::time::Instant;

use snmp2::snmp;

use super::message::{Got, got, request};
use super::session::{ReadError, Session};
use crate::oid::Oid;

/// Rows asked for at once while a table is walked.
pub(super) const WALK_STEP: u32 = 20;

impl Session<'_> {
    /// Values of a few identifiers, in their order.
    pub(super) async fn get_few(&mut self, oids: &[Oid], deadline: Instant) -> Result<Vec<Option<Got>>, ReadError> {
        let ber: Vec<Vec<u8>> = oids.iter().map(Oid::to_ber).collect();
        let slices: Vec<&[u8]> = ber.iter().map(Vec::as_slice).collect();
        let mut message = request(&self.link.community, snmp::MSG_GET, &slices, 0, 0);
        let left = deadline.saturating_duration_since(Instant::now());
        self.exchange(&mut message, left, |pdu| {
            let mut values = vec![None; oids.len()];
            for (oid, value) in pdu.varbinds.clone() {
                if let Some(place) = slices.iter().position(|want| *want == oid.as_bytes()) {
                    values[place] = Some(got(&value));
                }
            }
            values
        })
        .await
    }

    /// Everything below `column`: index and value, at most `most`.
    pub(super) async fn walk(
        &mut self,
        column: &Oid,
        most: usize,
        deadline: Instant,
    ) -> Result<Vec<(Vec<u32>, Got)>, ReadError> {
        let mut found: Vec<(Vec<u32>, Got)> = Vec::new();
        let mut last = column.clone();
        loop {
            let ber = last.to_ber();
            let mut message = request(&self.link.community, snmp::MSG_GET_BULK, &[&ber], 0, WALK_STEP);
            let left = deadline.saturating_duration_since(Instant::now());
            let step: Vec<(Option<Oid>, Got)> = self
                .exchange(&mut message, left, |pdu| {
                    pdu.varbinds.clone().map(|(oid, value)| (Oid::from_ber(oid.as_bytes()), got(&value))).collect()
                })
                .await?;
            if step.is_empty() {
                return Ok(found);
            }
            for (oid, value) in step {
                let Some(oid) = oid.filter(|oid| *oid > last) else { return Ok(found) };
                let Some(index) = column.suffix_of(&oid) else { return Ok(found) };
                if value == Got::Missing || found.len() >= most {
                    return Ok(found);
                }
                found.push((index.to_vec(), value));
                last = oid;
            }
        }
    }
}
