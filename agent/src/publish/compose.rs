//! From what sources say to numbered payloads of the contract.
//!
//! Knows: the one counter of this incarnation, the bounds of a payload, deflate. Refuses to know: where a payload goes.

use std::io::Write;

use bcp_wire::{
    Event, EventKind, Id, MAX_PAYLOAD_BYTES, MAX_POINTS_PER_BATCH, PointName, Quality, Value, WIRE_VERSION,
};
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::outbound::Sample;
use crate::spool::{Class, Key, Record};

/// Payloads above this are deflated; below it the header and the time cost more than they save.
const DEFLATE_ABOVE_BYTES: usize = 1_024;

/// Gives numbers.
#[derive(Debug)]
pub struct Composer {
    incarnation: u64,
    next_seq: u64,
    /// Its tables are larger than all that passes through it, so there is one.
    deflate: Compress,
}

impl Composer {
    #[must_use]
    pub fn new(incarnation: u64) -> Composer {
        Composer { incarnation, next_seq: 1, deflate: Compress::new(Compression::fast(), true) }
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
                    let payload = self.deflated(json);
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
        let payload = self.deflated(json);
        Record { key, class: Class::Event, device: device.clone(), t_ms, samples: 0, payload }
    }

    fn deflated(&mut self, json: Vec<u8>) -> Vec<u8> {
        if json.len() <= DEFLATE_ABOVE_BYTES {
            return json;
        }
        self.deflate.reset();
        // No larger than what it is to replace: what does not fit is not worth it.
        let mut small = Vec::with_capacity(json.len());
        match self.deflate.compress_vec(&json, &mut small, FlushCompress::Finish) {
            Ok(Status::StreamEnd) if small.len() < json.len() && bcp_wire::envelope::is_deflated(&small) => {
                small.shrink_to_fit();
                small
            }
            _ => json,
        }
    }
}

/// Writes what [`bcp_wire::Batch::to_json`] would write, without the maps: this is done for every poll.
fn batch_json(key: Key, t_ms: i64, points: &[Sample]) -> Vec<u8> {
    let mut json = Vec::with_capacity(64 + 40 * points.len());
    let Key { incarnation, seq } = key;
    let _ = write!(json, "{{\"v\":{WIRE_VERSION},\"i\":{incarnation},\"s\":{seq},\"t\":{t_ms}");
    map(
        &mut json,
        "vals",
        points.iter().filter_map(|(name, _, value)| Some((name, value.as_ref().ok()?))),
        |json, value| match value {
            Value::Num(number) => serde_json::to_writer(json, number),
            Value::Text(text) => serde_json::to_writer(json, text),
        },
    );
    let moved = points.iter().filter(|(_, offset_ms, _)| *offset_ms != 0);
    map(&mut json, "dt", moved.map(|(name, offset_ms, _)| (name, offset_ms)), |json, offset| {
        serde_json::to_writer(json, offset)
    });
    let bad = points.iter().filter_map(|(name, _, value)| Some((name, value.as_ref().err()?)));
    map(&mut json, "q", bad, |json, reason| serde_json::to_writer(json, &Quality::Bad(*reason)));
    json.push(b'}');
    json
}

/// `,"key":{"name":value,...}`, or nothing where there are no members. Names need no escapes.
fn map<'p, T>(
    json: &mut Vec<u8>,
    key: &str,
    members: impl Iterator<Item = (&'p PointName, T)>,
    put: impl Fn(&mut Vec<u8>, T) -> serde_json::Result<()>,
) {
    let mut first = true;
    for (name, value) in members {
        if first {
            let _ = write!(json, ",\"{key}\":{{");
        } else {
            json.push(b',');
        }
        first = false;
        json.push(b'"');
        json.extend_from_slice(name.as_str().as_bytes());
        json.extend_from_slice(b"\":");
        // A vector takes everything, and numbers are finite by their type.
        let _ = put(json, value);
    }
    if !first {
        json.push(b'}');
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
        assert_eq!(records[0].payload, batch.to_json(), "written as the contract writes it");
    }

    #[test]
    fn a_text_is_escaped() {
        let points = [("ups.alarm".parse().unwrap(), 0, Ok(Value::text(r#"a "b" \ é"#).unwrap()))];
        let records = Composer::new(3).batch(&"ups-a1".parse().unwrap(), 1_790_000_000_000, &points);
        let batch = Batch::from_json(&records[0].payload).unwrap();
        assert_eq!(batch.vals["ups.alarm"].as_text(), Some(r#"a "b" \ é"#));
    }

    #[test]
    fn deflated_payloads_inflate_to_the_contract() {
        let mut composer = Composer::new(3);
        for _ in 0..2 {
            let records = composer.batch(&"ups-a1".parse().unwrap(), 1_790_000_000_000, &points(100, 2));
            let mut json = Vec::new();
            std::io::copy(&mut flate2::read::ZlibDecoder::new(&records[0].payload[..]), &mut json).unwrap();
            let batch = Batch::from_json(&json).unwrap();
            assert!(batch.vals.len() == 99 && records[0].payload.len() < json.len() / 2);
        }
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
