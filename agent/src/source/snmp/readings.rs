//! What came, to readings.
//!
//! Knows: which answer belongs to which reading, and what a missing one means. Refuses to know: how it came.

use std::time::{Duration, Instant};

use bcp_wire::{BadReason, Value};

use super::SnmpDevice;
use super::counter::{self, Growth, Width};
use super::message::{Got, label, shown};
use crate::decode::Raw;

impl SnmpDevice {
    /// Every target of this poll; `reason` is why an answer is missing.
    pub(super) fn decode(&mut self, start: Instant, reason: BadReason) {
        let uptime = match self.uptime.and_then(|var| self.answers.get(var)) {
            Some(Some(Got::Int(ticks))) => u32::try_from(*ticks).ok(),
            _ => None,
        };
        let restarted = self.restarts != self.channel.restarts;
        let first_row = self.state.fixed();
        for target in &self.targets {
            let (answer, offset) = (&self.answers[target.var], self.offsets[target.var]);
            if self.watched
                && let Some(answer) = answer
            {
                self.state.set_raw(target.reading, shown(answer));
            }
            if target.decoder.rate
                && let Some((value, width)) = answer.as_ref().and_then(counted)
            {
                let at = start + Duration::from_millis(u64::try_from(offset).unwrap_or(0));
                let track = self.rates.entry(self.vars[target.var].oid.clone()).or_default();
                let reading = match track.update(counter::Reading { at, value, width, uptime }, restarted) {
                    Growth::Rate(rate) => Some(target.decoder.decode(Raw::Float(rate))),
                    Growth::Unknown => None,
                };
                self.state.set(target.reading, reading, offset);
                continue;
            }
            let reading = match answer {
                None if self.vars[target.var].refused => Err(BadReason::Exception),
                None => Err(reason),
                Some(Got::Missing) => {
                    self.row_vanished |= target.reading >= first_row;
                    Err(BadReason::Exception)
                }
                Some(Got::Other) => Err(BadReason::Decode),
                Some(Got::Int(n)) => target.decoder.decode(Raw::Int(*n)),
                Some(Got::Counter32(n)) => target.decoder.decode(Raw::Int(i64::from(*n))),
                Some(Got::Float(n)) => target.decoder.decode(Raw::Float(*n)),
                Some(Got::Ip(_)) => answer.as_ref().and_then(|ip| Value::text(&label(ip))).ok_or(BadReason::Decode),
                Some(Got::Counter(n)) => target.decoder.decode(Raw::Counter(*n)),
                Some(Got::Bytes(bytes)) => target.decoder.decode(Raw::Bytes(bytes)),
                Some(Got::Oid(oid)) if target.decoder.texts.is_some() => {
                    target.decoder.decode(Raw::Bytes(oid.to_string().as_bytes()))
                }
                Some(Got::Oid(oid)) => Value::text(&oid.to_string()).ok_or(BadReason::Decode),
            };
            let reading = match (reading, &target.adjust) {
                (Ok(value), Some(adjust)) => adjust.apply(value, |var| sibling(self.answers[*var].as_ref())),
                (reading, _) => reading,
            };
            match reading {
                Ok(value) => self.state.set(target.reading, Some(Ok(value)), offset),
                Err(reason) => self.state.set_bad(target.reading, reason),
            }
        }
    }
}

/// A counter's value and bits; some devices count in a gauge.
fn counted(got: &Got) -> Option<(u64, Width)> {
    match got {
        Got::Counter32(value) => Some((u64::from(*value), Width::Bits32)),
        Got::Counter(value) => Some((*value, Width::Bits64)),
        Got::Int(value) => u32::try_from(*value).ok().map(|value| (u64::from(value), Width::Bits32)),
        _ => None,
    }
}

/// What a sibling says, as a number where it is one.
fn sibling(answer: Option<&Got>) -> Result<Value, BadReason> {
    match answer {
        None | Some(Got::Missing) => Err(BadReason::Exception),
        Some(Got::Other) => Err(BadReason::Decode),
        Some(told) => {
            let text = label(told);
            let value = match text.parse::<f64>() {
                Ok(number) => Value::num(number),
                Err(_) => Value::text(&text),
            };
            value.ok_or(BadReason::Decode)
        }
    }
}
