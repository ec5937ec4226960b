//! Reading a few identifiers, or all below one.
//!
//! Knows: the guards that end a walk: end of the view, leaving the subtree, an identifier that does not grow (which
//! every loop contains), the bound of rows, the time budget. Refuses to know: what is walked for.

use std::time::Instant;

use snmp2::snmp;

use super::TOO_BIG;
use super::message::Got;
use super::session::{ReadError, Session, prepare};
use crate::oid::Oid;

/// Error status of RFC 1157 and RFC 3416.
pub(super) const NO_SUCH_NAME: u32 = 2;
const GEN_ERR: u32 = 5;

/// Index and value.
type Row = (Vec<u32>, Got);

impl Session<'_> {
    /// Values of a few identifiers, in their order.
    pub(super) async fn get_few(&mut self, oids: &[Oid], deadline: Instant) -> Result<Vec<Option<Got>>, ReadError> {
        let mut wanted: Vec<Option<Vec<u8>>> = oids.iter().map(|oid| Some(oid.to_ber())).collect();
        loop {
            let slices: Vec<&[u8]> = wanted.iter().flatten().map(Vec::as_slice).collect();
            if slices.is_empty() {
                return Ok(vec![Some(Got::Missing); oids.len()]);
            }
            let mut message = prepare(self.link, snmp::MSG_GET, &slices, 0, 0);
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self
                .exchange(&mut message, left, |pdu| {
                    let mut values: Vec<Option<Got>> =
                        wanted.iter().map(|want| want.is_none().then_some(Got::Missing)).collect();
                    for (oid, value) in pdu.varbinds.clone() {
                        if let Some(place) = wanted.iter().position(|want| want.as_deref() == Some(oid)) {
                            values[place] = Some(value);
                        }
                    }
                    values
                })
                .await;
            match answer {
                // Version 1: one missing name spoils the answer. It is left out, and the rest asked again.
                Err(ReadError::Status { status: NO_SUCH_NAME, index }) if slices.len() > 1 => {
                    let blamed =
                        wanted.iter_mut().filter(|want| want.is_some()).nth((index as usize).saturating_sub(1));
                    let Some(blamed) = blamed else { return Err(ReadError::Status { status: NO_SUCH_NAME, index }) };
                    *blamed = None;
                }
                Err(ReadError::Status { status: NO_SUCH_NAME, .. }) => {
                    return Ok(vec![Some(Got::Missing); oids.len()]);
                }
                answer => return answer,
            }
        }
    }

    /// Everything below `column`: index and value, at most `most`.
    pub(super) async fn walk(
        &mut self,
        column: &Oid,
        most: usize,
        deadline: Instant,
    ) -> Result<Vec<(Vec<u32>, Got)>, ReadError> {
        let mut found: Vec<Row> = Vec::new();
        let mut last = column.clone();
        let mut answered = false;
        self.channel.repetitions.look_at_clock(Instant::now());
        loop {
            let repetitions = if self.is_v1() { 0 } else { self.channel.repetitions.get() };
            let step = match self.step(&last, repetitions, deadline).await {
                Ok(step) => step,
                Err(ReadError::Status { status: NO_SUCH_NAME, .. }) => return Ok(found),
                Err(ReadError::Status { status: TOO_BIG | GEN_ERR, .. }) if self.less(repetitions) => continue,
                // Some devices never answer what is too much for them; a dead one is not asked five times.
                Err(ReadError::Timeout { .. }) if answered && self.less(repetitions) => continue,
                Err(error) => return Err(error),
            };
            answered = true;
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

    fn less(&mut self, repetitions: u32) -> bool {
        repetitions > 0 && self.channel.repetitions.shrink(Instant::now())
    }

    /// What follows `last`.
    async fn step(
        &mut self,
        last: &Oid,
        repetitions: u32,
        deadline: Instant,
    ) -> Result<Vec<(Option<Oid>, Got)>, ReadError> {
        let ber = last.to_ber();
        let mut message = if repetitions == 0 {
            prepare(self.link, snmp::MSG_GET_NEXT, &[&ber], 0, 0)
        } else {
            prepare(self.link, snmp::MSG_GET_BULK, &[&ber], 0, repetitions)
        };
        let left = deadline.saturating_duration_since(Instant::now());
        self.exchange(&mut message, left, |pdu| {
            pdu.varbinds.clone().map(|(oid, value)| (Oid::from_ber(oid), value)).collect()
        })
        .await
    }
}
