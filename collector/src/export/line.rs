//! Batches as InfluxDB line protocol. PURE.
//!
//! `bcp,agent=gw-a,asset=ups-a,device=ups-a1,site=a battery.charge=98.5,ups.status:text="OL" 1790000000123`: one line per
//! device and sample time. Numbers keep the name of their point; texts are `NAME:text` and a quality that is not good is
//! `NAME:quality`, so that a field never changes its type. Names hold none of the characters that would need an escape
//! (`[a-z0-9.-]`), so only texts do. Times are sample times, milliseconds: sent twice, a line is the same point.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::ops::RangeInclusive;

use bcp_wire::presence::AgentRef;
use bcp_wire::{Batch, Id, PointName, Quality, Site, Value};

type Field<'a> = (&'a PointName, Option<&'a Value>, Quality);

/// Lines of one site's agents, gathered until they are queued.
#[derive(Debug)]
pub struct Lines {
    site: Site,
    /// What a device measures, where the policy says so. From nothing that can change while the process runs: another tag
    /// would make another series, and a line sent twice would be two points.
    assets: HashMap<Id, Id>,
    text: Vec<u8>,
}

impl Lines {
    #[must_use]
    pub fn new(site: Site, assets: HashMap<Id, Id>) -> Lines {
        Lines { site, assets, text: Vec::new() }
    }

    /// Adds a batch; readings outside `times` are left out. Batches of other sites are not for this collector.
    pub fn push(&mut self, agent: &AgentRef, device: &Id, batch: &Batch, times: &RangeInclusive<i64>) {
        if agent.site != self.site {
            return;
        }
        let mut rows: BTreeMap<i64, Vec<Field<'_>>> = BTreeMap::new();
        for (name, t, value, quality) in batch.readings().filter(|(_, t, ..)| times.contains(t)) {
            rows.entry(t).or_default().push((name, value, quality));
        }
        for (t, fields) in rows {
            self.text.extend_from_slice(b"bcp,agent=");
            self.text.extend_from_slice(agent.agent.as_str().as_bytes());
            if let Some(asset) = self.assets.get(device) {
                self.text.extend_from_slice(b",asset=");
                self.text.extend_from_slice(asset.as_str().as_bytes());
            }
            self.text.extend_from_slice(b",device=");
            self.text.extend_from_slice(device.as_str().as_bytes());
            self.text.extend_from_slice(b",site=");
            self.text.extend_from_slice(agent.site.as_str().as_bytes());
            let mut separator = b' ';
            for (name, value, quality) in fields {
                put_field(&mut self.text, &mut separator, name, value, quality);
            }
            // Writing into a vector does not fail.
            let _ = writeln!(self.text, " {t}");
        }
    }

    /// What was gathered; nothing of it is kept.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }
}

fn put_field(out: &mut Vec<u8>, separator: &mut u8, name: &PointName, value: Option<&Value>, quality: Quality) {
    let good = value.filter(|_| quality.is_good());
    out.push(std::mem::replace(separator, b','));
    out.extend_from_slice(name.as_str().as_bytes());
    match good {
        Some(Value::Num(number)) => drop(write!(out, "={number:?}")),
        Some(Value::Text(text)) => put_text(out, ":text=", text),
        None => put_text(out, ":quality=", &quality.to_string()),
    }
}

fn put_text(out: &mut Vec<u8>, kind: &str, text: &str) {
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            // The contract has none; a line must stay one line whatever comes.
            0..=31 | 127 => out.push(b' '),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(json: &str) -> String {
        let asset = HashMap::from([("ups-a1".parse().unwrap(), "ups-room-a".parse().unwrap())]);
        let mut lines = Lines::new(Site::A, asset);
        let agent = |site| AgentRef { site, agent: "gw-a".parse().unwrap() };
        let batch = Batch::from_json(json.as_bytes()).unwrap();
        let times = 1_577_836_800_000..=1_800_000_000_000;
        lines.push(&agent(Site::B), &"ups-a1".parse().unwrap(), &batch, &times);
        assert!(lines.take().is_empty(), "another site's agents are another collector's");
        lines.push(&agent(Site::A), &"ups-a1".parse().unwrap(), &batch, &times);
        String::from_utf8(lines.take()).unwrap()
    }

    #[test]
    fn numbers_texts_and_qualities_have_fields_of_their_own() {
        let said = lines(
            r#"{"v":1,"i":1,"s":1,"t":1790000000123,"vals":{"battery.charge":98.5,"input.voltage":230,"ups.status":"OL \"x\" \\"},"q":{"output.current":"bad:timeout"}}"#,
        );
        assert_eq!(
            said,
            "bcp,agent=gw-a,asset=ups-room-a,device=ups-a1,site=a battery.charge=98.5,input.voltage=230.0,\
             ups.status:text=\"OL \\\"x\\\" \\\\\",output.current:quality=\"bad:timeout\" 1790000000123\n"
        );
    }

    #[test]
    fn each_sample_time_is_a_line_and_impossible_ones_are_none() {
        let said = lines(
            r#"{"v":1,"i":1,"s":1,"t":1790000000000,"vals":{"battery.charge":1e300,"input.voltage":1,"x.y":2},"dt":{"input.voltage":-40,"x.y":99999999999}}"#,
        );
        let times: Vec<&str> = said.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(times, ["1789999999960", "1790000000000"]);
        assert!(said.contains("battery.charge=1e300"), "{said}");
    }
}
