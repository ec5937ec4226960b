//! The readings of one device: what its points are called, what they read last, what may be told about them.
//!
//! Knows: the order of points, derived ones and table rows; which optional ones were ever seen. Refuses to know: how
//! anything was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bcp_wire::presence::PointMeta;
use bcp_wire::{BadReason, DeviceMeta, PointName, Value, WIRE_VERSION};

use crate::config::{DeviceConfig, Link};
use crate::derive::{Inputs, Reading};
use crate::outbound::Sample;
use crate::profile::{Address, Point};

/// A point as people and the collector see it.
#[derive(Debug, Clone)]
pub struct Described {
    pub name: PointName,
    pub unit: &'static str,
    /// OID, register or `derived`.
    pub source: String,
    pub publish: bool,
    pub optional: bool,
    /// It was read at least once. An optional point that never was is not told to anybody.
    seen: bool,
    /// The bytes of the last reading in hexadecimal, where somebody watches.
    pub raw: Option<String>,
}

/// A point of a row of a table.
#[derive(Debug, Clone)]
pub struct TableRow {
    pub name: PointName,
    /// The name as the profile writes it.
    pub pattern: String,
    pub unit: &'static str,
    pub source: String,
    pub optional: bool,
    pub publish: bool,
}

/// One device and its latest poll. Readings stand in the order: points of the profile, derived points, table rows.
#[derive(Debug)]
pub struct DeviceState {
    pub config: Arc<DeviceConfig>,
    pub firmware: Option<String>,
    described: Vec<Described>,
    readings: Vec<Reading>,
    offsets_ms: Vec<i64>,
    /// Numbers of the last poll, of points whose change is watched.
    before: BTreeMap<usize, f64>,
    /// Readings of each of the profile's row patterns that derived points read.
    row_inputs: Vec<Vec<usize>>,
    meta_changed: bool,
    /// Points that others tell the scale, unit or words of; whose change is watched; that stand in for others.
    adjusted: Box<[usize]>,
    watched: Box<[usize]>,
    stand_ins: Box<[usize]>,
}

impl DeviceState {
    #[must_use]
    pub fn new(config: Arc<DeviceConfig>) -> DeviceState {
        let profile = &config.profile;
        let points = profile.points.iter().map(|point| Described {
            name: point.name.clone(),
            unit: point.unit,
            source: place(&config, &point.address),
            publish: point.publish && point.fallback_of.is_none(),
            optional: point.optional,
            seen: false,
            raw: None,
        });
        let derived = profile.derived.iter().map(|derived| Described {
            name: derived.name.clone(),
            unit: derived.unit,
            source: "derived".to_owned(),
            publish: true,
            // Whether there is a value follows from its inputs.
            optional: true,
            seen: false,
            raw: None,
        });
        let described: Vec<_> = points.chain(derived).collect();
        let places = |of: fn(&Point) -> bool| -> Box<[usize]> {
            let points = profile.points.iter().enumerate();
            points.filter(|(_, point)| of(point)).map(|(index, _)| index).collect()
        };
        let adjusted = places(|point| !point.adjust.is_idle());
        let watched = places(|point| point.max_step.is_some());
        let stand_ins = places(|point| point.fallback_of.is_some());
        let count = described.len();
        DeviceState {
            config,
            firmware: None,
            described,
            readings: vec![None; count],
            offsets_ms: vec![0; count],
            before: BTreeMap::new(),
            row_inputs: Vec::new(),
            meta_changed: false,
            adjusted,
            watched,
            stand_ins,
        }
    }

    /// Points and derived ones: the rows of tables follow.
    #[must_use]
    pub fn fixed(&self) -> usize {
        self.config.profile.points.len() + self.config.profile.derived.len()
    }

    /// Replaces the rows of tables.
    pub fn set_rows(&mut self, rows: impl IntoIterator<Item = TableRow>) {
        let fixed = self.fixed();
        let patterns = &self.config.profile.row_inputs;
        self.row_inputs = vec![Vec::new(); patterns.len()];
        let before: Vec<PointName> = self.described.drain(fixed..).map(|row| row.name).collect();
        for (i, row) in rows.into_iter().enumerate() {
            for (pattern, inputs) in patterns.iter().zip(&mut self.row_inputs) {
                if *pattern == row.pattern {
                    inputs.push(fixed + i);
                }
            }
            self.described.push(Described {
                name: row.name,
                unit: row.unit,
                source: row.source,
                publish: row.publish,
                optional: row.optional,
                seen: true,
                raw: None,
            });
        }
        self.meta_changed |= !self.described[fixed..].iter().map(|row| &row.name).eq(before.iter());
        self.readings.resize(self.described.len(), None);
        self.offsets_ms.resize(self.described.len(), 0);
    }

    pub fn set_firmware(&mut self, firmware: String) {
        if self.firmware.as_ref() != Some(&firmware) {
            self.firmware = Some(firmware);
            self.meta_changed = true;
        }
    }

    /// Starts a poll: nothing is known.
    pub fn begin(&mut self) {
        self.readings.fill(None);
        self.offsets_ms.fill(0);
    }

    pub fn set(&mut self, index: usize, reading: Reading, offset_ms: i64) {
        if let (Some(slot), Some(offset)) = (self.readings.get_mut(index), self.offsets_ms.get_mut(index)) {
            *slot = reading;
            *offset = offset_ms;
        }
    }

    /// What a point read in this poll.
    #[must_use]
    pub fn reading(&self, index: usize) -> Reading {
        self.readings.get(index).cloned().flatten()
    }

    pub fn set_raw(&mut self, index: usize, raw: String) {
        if let Some(described) = self.described.get_mut(index) {
            described.raw = Some(raw);
        }
    }

    /// A point is bad, or simply not there where the device may lack it and never had it.
    pub fn set_bad(&mut self, index: usize, reason: BadReason) {
        let absent = self.described.get(index).is_none_or(|point| point.optional && !point.seen);
        self.set(index, (!absent).then_some(Err(reason)), 0);
    }

    /// Ends a poll: computes derived points and gives what is to be published.
    pub fn finish(&mut self) -> Vec<Sample> {
        let profile = Arc::clone(&self.config.profile);
        let first = profile.points.len();
        self.adjust();
        self.watch_steps();
        self.fall_back();
        // A device that said nothing has no empty table either: "no alarms" would be a guess.
        let silent = self.readings.iter().flatten().find_map(|reading| reading.as_ref().err().copied());
        let silent = silent.filter(|_| !self.readings.iter().flatten().any(Result::is_ok));
        for (i, derived) in profile.derived.iter().enumerate() {
            let index = first + i;
            let inputs = Inputs { readings: &self.readings, rows: &self.row_inputs };
            let reading = match (derived.formula.evaluate(inputs), silent) {
                (Some(Ok(_)), Some(reason)) => Some(Err(reason)),
                (reading, _) => reading,
            };
            self.set(index, reading, 0);
        }
        let mut samples = Vec::with_capacity(self.described.len());
        for ((described, reading), offset) in self.described.iter_mut().zip(&self.readings).zip(&self.offsets_ms) {
            let Some(result) = reading else { continue };
            if !described.seen {
                described.seen = true;
                self.meta_changed |= described.optional && described.publish;
            }
            if described.publish {
                samples.push((described.name.clone(), *offset, result.clone()));
            }
        }
        samples
    }

    /// Gives numbers the scale, unit or words that other points tell.
    fn adjust(&mut self) {
        let profile = Arc::clone(&self.config.profile);
        for at in 0..self.adjusted.len() {
            let index = self.adjusted[at];
            let point = &profile.points[index];
            let Some(Some(Ok(value))) = self.readings.get(index).cloned() else { continue };
            let sibling = |at: &usize| self.readings.get(*at).cloned().flatten().unwrap_or(Err(BadReason::Exception));
            match point.adjust.apply(value, sibling) {
                Ok(value) => self.readings[index] = Some(Ok(value)),
                Err(reason) => self.set_bad(index, reason),
            }
        }
    }

    /// Marks numbers that jumped further than is plausible. The next poll confirms a jump or takes it back; after a poll
    /// without a value there is nothing to compare with.
    fn watch_steps(&mut self) {
        let profile = Arc::clone(&self.config.profile);
        for at in 0..self.watched.len() {
            let index = self.watched[at];
            let Some(most) = profile.points[index].max_step else { continue };
            let Some(Some(Ok(Value::Num(now)))) = self.readings.get(index) else {
                self.before.remove(&index);
                continue;
            };
            let now = *now;
            if self.before.insert(index, now).is_some_and(|before| (now - before).abs() > most) {
                self.set_bad(index, BadReason::Step);
            }
        }
    }

    /// Lets fallbacks stand in for points that have no value, or worse than theirs.
    fn fall_back(&mut self) {
        let profile = Arc::clone(&self.config.profile);
        let mut origins: BTreeMap<usize, usize> = BTreeMap::new();
        for at in 0..self.stand_ins.len() {
            let index = self.stand_ins[at];
            let Some(first) = profile.points[index].fallback_of else { continue };
            let origin = origins.entry(first).or_insert(first);
            let stand_in = self.readings[index].take();
            let better = match (&self.readings[first], &stand_in) {
                (Some(Ok(_)), _) | (_, None) | (Some(Err(_)), Some(Err(_))) => false,
                (_, Some(Ok(_))) | (None, Some(Err(_))) => true,
            };
            if better {
                self.readings[first] = stand_in;
                self.offsets_ms[first] = self.offsets_ms[index];
                self.described[first].raw = self.described[index].raw.clone();
                *origin = index;
            }
        }
        for (first, origin) in origins {
            let source = place(&self.config, &profile.points[origin].address);
            if self.described[first].source != source {
                self.described[first].source = source;
                self.meta_changed = true;
            }
        }
    }

    /// What the device is, if that changed since it was last asked for.
    pub fn changed_meta(&mut self) -> Option<Box<DeviceMeta>> {
        std::mem::take(&mut self.meta_changed).then(|| Box::new(self.meta()))
    }

    #[must_use]
    pub fn meta(&self) -> DeviceMeta {
        let interval_ms = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        let profile = &self.config.profile;
        let proven = match (&profile.fingerprint, &self.firmware) {
            (Some(fingerprint), Some(firmware)) => fingerprint.covers(firmware),
            _ => true,
        };
        DeviceMeta {
            v: WIRE_VERSION,
            i: 0,
            device: self.config.id.clone(),
            kind: self.config.kind.clone(),
            profile: Some(profile.reference.clone()),
            firmware: self.firmware.clone(),
            firmware_proven: proven,
            parent: self.config.parent.clone(),
            location: self.config.location.clone(),
            points: self
                .described
                .iter()
                .filter(|point| point.publish && (point.seen || !point.optional))
                .map(|point| PointMeta {
                    name: point.name.clone(),
                    unit: point.unit.to_owned(),
                    interval_ms,
                    source: Some(point.source.clone()),
                })
                .collect(),
        }
    }

    /// Points with their latest readings, for people.
    pub fn rows(&self) -> impl Iterator<Item = (&Described, &Reading)> {
        self.described.iter().zip(&self.readings)
    }
}

/// Where a point stands on this device.
fn place(config: &DeviceConfig, address: &Address) -> String {
    match &config.link {
        Link::Modbus(link) => address.moved(link.shift).as_ref().unwrap_or(address).to_string(),
        Link::Snmp(_) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Access, SnmpLink};
    use std::time::Duration;

    fn state(points: &str) -> DeviceState {
        let text = format!("format = 1\ntitle = \"t\"\nkind = \"ups\"\nsources = [\"t\"]\n[snmp]\n{points}");
        let profile = crate::profile::parse("t/t", "t", &text).unwrap_or_else(|faults| panic!("{faults:?}"));
        let link = SnmpLink {
            address: "127.0.0.1:161".to_owned(),
            access: Access::community("public"),
            timeout: Duration::from_secs(1),
            retries: 0,
        };
        DeviceState::new(Arc::new(DeviceConfig {
            id: "d".parse().unwrap(),
            kind: "ups".to_owned(),
            profile: Arc::new(profile),
            location: None,
            parent: None,
            interval: Duration::from_secs(1),
            link: Link::Snmp(link),
        }))
    }

    fn poll(
        state: &mut DeviceState,
        readings: &[Option<Result<f64, BadReason>>],
    ) -> Vec<(String, Result<f64, BadReason>)> {
        state.begin();
        for (index, reading) in readings.iter().enumerate() {
            match reading {
                Some(Ok(number)) => state.set(index, Some(Ok(Value::Num(*number))), 0),
                Some(Err(reason)) => state.set_bad(index, *reason),
                None => {}
            }
        }
        let samples = state.finish();
        samples.into_iter().map(|(name, _, value)| (name.to_string(), value.map(|v| v.as_num().unwrap()))).collect()
    }

    #[test]
    fn a_fallback_stands_in_only_while_the_first_way_has_no_value() {
        let mut state = state(
            "[[point]]\nname = \"battery.charge\"\nread = \"1.3.6.1.1.0\"\noptional = true\n\
             [[point]]\nname = \"battery.charge\"\nread = \"1.3.6.1.2.0\"\nfallback = true\n\
             [[derived]]\nname = \"ups.load\"\nmax = [\"battery.charge\"]\n",
        );
        let both = |value: f64| vec![("battery.charge".to_owned(), Ok(value)), ("ups.load".to_owned(), Ok(value))];
        let source = |state: &DeviceState| state.rows().next().unwrap().0.source.clone();
        assert_eq!(poll(&mut state, &[Some(Err(BadReason::Exception)), Some(Ok(80.0))]), both(80.0));
        assert_eq!(source(&state), "1.3.6.1.2.0");
        assert_eq!(state.meta().points.iter().filter(|point| point.name.as_str() == "battery.charge").count(), 1);
        assert_eq!(poll(&mut state, &[Some(Ok(81.5)), Some(Ok(80.0))]), both(81.5));
        assert_eq!(source(&state), "1.3.6.1.1.0");
    }

    #[test]
    fn a_silent_device_has_no_empty_list_of_alarms() {
        let mut state = state(
            "[[point]]\nname = \"battery.charge\"\nread = \"1.3.6.1.1.0\"\n\
             [[table]]\nwalk = \"1.3.6.1.2\"\n[[table.point]]\nname = \"alarm.{n}\"\ncolumn = \"1.3.6.1.2.1\"\ntype = \"string\"\npublish = false\n\
             [[derived]]\nname = \"ups.alarm\"\njoin = [\"alarm.{n}\"]\n",
        );
        let mut alarm = |reading| {
            state.begin();
            state.set_rows([]);
            match reading {
                Ok(number) => state.set(0, Some(Ok(Value::Num(number))), 0),
                Err(reason) => state.set_bad(0, reason),
            }
            let samples = state.finish();
            samples.into_iter().find(|(name, _, _)| name.as_str() == "ups.alarm").map(|(_, _, value)| value)
        };
        assert_eq!(alarm(Ok(80.0)), Some(Ok(Value::Text("none".to_owned()))));
        assert_eq!(alarm(Err(BadReason::Timeout)), Some(Err(BadReason::Timeout)));
    }

    #[test]
    fn a_jump_is_no_value_until_it_is_confirmed() {
        let mut state = state("[[point]]\nname = \"battery.temperature\"\nread = \"1.3.6.1.1.0\"\nmax_step = 5.0\n");
        let (step, lost) = (Some(Err(BadReason::Step)), Some(Err(BadReason::Timeout)));
        for (read, told) in [
            (Some(Ok(20.0)), Some(Ok(20.0))),
            (Some(Ok(25.0)), Some(Ok(25.0))),
            (Some(Ok(85.0)), step),
            (Some(Ok(25.5)), step),
            (Some(Ok(26.0)), Some(Ok(26.0))),
            (Some(Ok(60.0)), step),
            (Some(Ok(61.0)), Some(Ok(61.0))),
            (lost, lost),
            (Some(Ok(20.0)), Some(Ok(20.0))),
        ] {
            let got = poll(&mut state, &[read]).first().map(|(_, value)| *value);
            assert_eq!(got, told, "{read:?}");
        }
    }

    #[test]
    fn a_scale_that_another_point_tells_is_applied_before_the_range_and_without_it_there_is_no_value() {
        let mut state = state(
            "[[point]]\nname = \"exponent\"\nread = \"1.3.6.1.1.0\"\npublish = false\n\
             [[point]]\nname = \"output.voltage\"\nread = \"1.3.6.1.2.0\"\nrange = [0, 300]\n\
             factor = { point = \"exponent\", as = \"exponent\" }\n",
        );
        let of = |reading| vec![("output.voltage".to_owned(), reading)];
        assert_eq!(poll(&mut state, &[Some(Ok(-1.0)), Some(Ok(2_305.0))]), of(Ok(230.5)));
        assert_eq!(poll(&mut state, &[Some(Ok(0.0)), Some(Ok(2_305.0))]), of(Err(BadReason::Range)));
        assert_eq!(poll(&mut state, &[Some(Err(BadReason::Timeout)), Some(Ok(2_305.0))]), of(Err(BadReason::Timeout)));
    }
}
