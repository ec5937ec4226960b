//! From what sources say to numbered payloads of the contract.
//!
//! Knows: the one counter of this incarnation, the bounds of a payload, deflate. Refuses to know: where a payload goes.

use std::collections::BTreeMap;
use std::io::Write;

use bcp_wire::{Batch, Event, EventKind, Id, MAX_PAYLOAD_BYTES, MAX_POINTS_PER_BATCH, Quality, WIRE_VERSION};
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::outbound::Sample;
use crate::spool::{Class, Key, Record};

/// Payloads above this are deflated; below it the header and the time cost more than they save.
const DEFLATE_ABOVE_BYTES: usize = 1_024;

/// Gives numbers.
#[derive(Debug)]
pub struct Composer {
    incarnation: u64,
    next_seq: u64,
}

impl Composer {
    #[must_use]
    pub const fn new(incarnation: u64) -> Composer {
        Composer { incarnation, next_seq: 1 }
    }

    const fn number(&mut self) -> Key {
        let seq = self.next_seq;
        self.next_seq += 1;
        Key { incarnation: self.incarnation, seq }
    }

    /// One payload, or several where the bounds of the contract ask for it.
    #[must_use]
    pub fn batch(&mut self, device: &Id, t_ms: i64, points: &[Sample]) -> Vec<Record> {
        let mut records = Vec::with_capacity(1);
        let mut todo = vec![points];
        while let Some(part) = todo.pop() {
            if part.is_empty() {
                continue;
            }
            let key = Key { incarnation: self.incarnation, seq: self.next_seq };
            let payload = if part.len() > MAX_POINTS_PER_BATCH { None } else { Some(batch_json(key, t_ms, part)) };
            match payload {
                Some(json) if json.len() <= MAX_PAYLOAD_BYTES || part.len() == 1 => {
                    let samples = u32::try_from(part.len()).unwrap_or(u32::MAX);
                    let key = self.number();
                    let payload = deflated(json);
                    records.push(Record { key, class: Class::Data, device: device.clone(), t_ms, samples, payload });
                }
                _ => {
                    let (first, second) = part.split_at(part.len() / 2);
                    todo.push(second);
                    todo.push(first);
                }
            }
        }
        records
    }

    #[must_use]
    pub fn event(&mut self, device: &Id, t_ms: i64, kind: EventKind) -> Record {
        let key = self.number();
        let json = Event { v: WIRE_VERSION, i: key.incarnation, s: key.seq, t: t_ms, kind }.to_json();
        Record { key, class: Class::Event, device: device.clone(), t_ms, samples: 0, payload: deflated(json) }
    }
}

fn batch_json(key: Key, t_ms: i64, points: &[Sample]) -> Vec<u8> {
    let mut batch = Batch {
        v: WIRE_VERSION,
        i: key.incarnation,
        s: key.seq,
        t: t_ms,
        vals: BTreeMap::new(),
        dt: BTreeMap::new(),
        q: BTreeMap::new(),
    };
    for (name, offset_ms, value) in points {
        match value {
            Ok(value) => {
                batch.vals.insert(name.clone(), value.clone());
            }
            Err(reason) => {
                batch.q.insert(name.clone(), Quality::Bad(*reason));
            }
        }
        if *offset_ms != 0 {
            batch.dt.insert(name.clone(), *offset_ms);
        }
    }
    batch.to_json()
}

fn deflated(json: Vec<u8>) -> Vec<u8> {
    if json.len() <= DEFLATE_ABOVE_BYTES {
        return json;
    }
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(json.len() / 2), Compression::fast());
    match encoder.write_all(&json).and_then(|()| encoder.finish()) {
        Ok(small) if small.len() < json.len() && bcp_wire::envelope::is_deflated(&small) => small,
        _ => json,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bcp_wire::envelope::is_deflated;
    use bcp_wire::{BadReason, Batch, Value};

    use super::Composer;
    use crate::outbound::Sample;

    fn points(count: usize, text: usize) -> Vec<Sample> {
        let mut points: Vec<Sample> = (0..count)
            .map(|n| (format!("x.{n}").parse().unwrap(), 0, Ok(Value::text(&format!("{n:0text$}")).unwrap())))
            .collect();
        points[0].2 = Err(BadReason::Timeout);
        points[0].1 = -7;
        points
    }

    #[test]
    fn a_batch_of_the_contract() {
        let mut composer = Composer::new(3);
        let records = composer.batch(&"ups-a1".parse().unwrap(), 1_790_000_000_000, &points(3, 2));
        assert_eq!(records.len(), 1);
        let batch = Batch::from_json(&records[0].payload).unwrap();
        assert_eq!((batch.i, batch.s, batch.vals.len(), batch.dt.len(), batch.q.len()), (3, 1, 2, 1, 1));
    }

    #[test]
    fn what_exceeds_the_bounds_is_split_and_nothing_is_lost() {
        let mut composer = Composer::new(3);
        for (count, text) in [(10_000, 1), (4_000, 200)] {
            let records = composer.batch(&"ups-a1".parse().unwrap(), 1_790_000_000_000, &points(count, text));
            assert!(records.len() > 2);
            assert_eq!(records.iter().map(|r| r.samples as usize).sum::<usize>(), count);
            assert!(records.windows(2).all(|pair| pair[0].key.seq + 1 == pair[1].key.seq));
            assert!(is_deflated(&records[0].payload));
        }
    }
}
