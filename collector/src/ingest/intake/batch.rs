//! A batch of readings: into the group that is committed next, and, where it is the newest, into what is shown. PURE but
//! for series numbers asked of the store.

use bcp_core::time::{Mono, Wall};
use bcp_wire::presence::AgentRef;
use bcp_wire::{Batch, DeviceMeta, Id, Lane, MAX_POINTS_PER_BATCH, PointName, Quality, Value};

use std::sync::Arc;

use super::sources::AGENT_SILENT_MS;
use super::{DeviceSlots, EARLIEST_MS, Intake, Live, MAX_AHEAD_MS, Refusal};
use crate::serve::view::{DEFAULT_INTERVAL_MS, PointInfo, PointState};
use crate::store::codec::quality_as_number;
use crate::store::{Marked, Sample, Store};

/// What would be said with every batch is said this often.
const SAY_EVERY_MS: u64 = 60_000;

impl Intake {
    /// True where the payload is new. Marks it.
    pub(super) fn is_new(&mut self, agent: &AgentRef, incarnation: u64, seq: u64) -> Result<bool, Refusal> {
        self.due.arrived(agent, incarnation);
        match self.seen.insert(agent, incarnation, seq) {
            Marked::New => {
                self.group.marks.push((agent.clone(), incarnation, seq, seq));
                Ok(true)
            }
            Marked::Duplicate => {
                self.duplicates += 1;
                Ok(false)
            }
            Marked::NoRoom => Err(Refusal::NoRoom),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one message with its circumstances")]
    pub(super) fn on_batch(
        &mut self,
        (now, wall): (Mono, Wall),
        agent: &AgentRef,
        lane: Lane,
        device: &Id,
        batch: &Batch,
        store: &Store,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        self.agent(now, agent)?;
        if !self.is_new(agent, batch.i, batch.s)? {
            return Ok(());
        }
        // After the mark: what is refused for another agent's sake is not sent again and again.
        self.device(agent, device)?;
        let times = EARLIEST_MS..=wall.0.saturating_add(MAX_AHEAD_MS);
        let mut mistimed = 0;
        for (name, t, value, quality) in batch.readings() {
            if times.contains(&t) {
                self.store_sample(device, name, Sample { t, v: f64::NAN }, value, quality, store);
            } else {
                mistimed += 1;
            }
        }
        if mistimed > 0 {
            self.say_mistimed(now, agent, device, mistimed);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(agent, device, batch, &times);
        }
        let Some(known) = self.agents.get_mut(agent) else { return Ok(()) };
        let incarnation = known.view.state.as_ref().map_or(0, |state| state.i);
        let slots = self.slots.entry(device.clone()).or_default();
        if lane != Lane::Data || batch.i < incarnation || (batch.i, batch.s) <= slots.newest {
            return Ok(());
        }
        slots.newest = (batch.i, batch.s);
        let late = known.lateness.observe(now, Wall(batch.t));
        Arc::make_mut(&mut known.view).received = now;
        if late <= AGENT_SILENT_MS {
            known.fresh = Some(now);
        }
        self.show(now, late, agent, device, batch, live)
    }

    fn say_mistimed(&mut self, now: Mono, agent: &AgentRef, device: &Id, samples: u64) {
        self.mistimed += samples;
        if self.said_mistimed.is_none_or(|said| now.since(said) >= SAY_EVERY_MS) {
            self.said_mistimed = Some(now);
            tracing::warn!(site = %agent.site, agent = %agent.agent, %device, samples, all = self.mistimed, "samples are dated more than two days ahead, or before 2020, and are not stored: look at the agent's clock");
        }
    }

    /// Puts one reading into the group. `sample.v` is filled in here.
    fn store_sample(
        &mut self,
        device: &Id,
        name: &PointName,
        sample: Sample,
        value: Option<&Value>,
        quality: Quality,
        store: &Store,
    ) {
        if !self.slots.contains_key(device) {
            self.slots.insert(device.clone(), DeviceSlots::default());
        }
        let Some(slots) = self.slots.get_mut(device) else { return };
        if !slots.series.contains_key(name) {
            slots.series.insert(name.clone(), (None, None));
        }
        let Some((numbers, texts)) = slots.series.get_mut(name) else { return };
        let (v, text) = match value.filter(|_| quality.is_good()) {
            Some(Value::Num(number)) => (Some(*number), false),
            Some(Value::Text(text)) => (store.text(text), true),
            // A point without a number that has only ever been a text goes on as one.
            None => (Some(quality_as_number(quality)), numbers.is_none() && texts.is_some()),
        };
        let series = if text { texts } else { numbers };
        if series.is_none() {
            *series = store.series(device, name, text);
        }
        match (*series, v) {
            (Some(series), Some(v)) => {
                self.group.samples.push((series, Sample { t: sample.t, v }));
                self.samples += 1;
            }
            _ => self.unstored += 1,
        }
    }

    fn show(
        &mut self,
        now: Mono,
        late: u64,
        agent: &AgentRef,
        device: &Id,
        batch: &Batch,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        let view = self.device(agent, device)?;
        view.received = Some(now);
        for (name, t, value, quality) in batch.readings() {
            // An offset says when within the batch it was sampled; it can only make a reading older.
            let older = u64::try_from(batch.t.saturating_sub(t)).unwrap_or(0);
            let received = Mono(now.0.saturating_sub(late).saturating_sub(older));
            match view.points.binary_search_by(|point| point.info.name.cmp(name)) {
                Ok(at) => {
                    let point = &mut view.points[at];
                    // A bad reading keeps the last value for the eye; its quality says that it does not hold.
                    if value.is_some() || quality.is_good() {
                        point.value = value.cloned();
                    }
                    point.quality = quality;
                    point.sampled = Wall(t);
                    point.received = received;
                }
                Err(at) if view.points.len() < MAX_POINTS_PER_BATCH => {
                    let info = described(view.meta.as_deref(), name);
                    let point =
                        PointState { info: Arc::new(info), value: value.cloned(), quality, sampled: Wall(t), received };
                    view.points.insert(at, point);
                }
                Err(_) => continue,
            }
            live(Live::Reading { device, point: name, value, quality, sampled: received });
        }
        Ok(())
    }
}

fn described(meta: Option<&DeviceMeta>, name: &PointName) -> PointInfo {
    let known = meta.and_then(|meta| meta.points.iter().find(|point| point.name == *name));
    PointInfo {
        name: name.clone(),
        unit: match known {
            Some(point) => point.unit.clone(),
            None => bcp_wire::names::lookup(name).map(|def| def.unit.to_owned()).unwrap_or_default(),
        },
        interval_ms: known.map_or(DEFAULT_INTERVAL_MS, |point| point.interval_ms.max(1)),
        source: known.and_then(|point| point.source.clone()),
    }
}
