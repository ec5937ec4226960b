//! A payload becomes samples, marks and live values, or a counted refusal. PURE but for series numbers asked of the store.
//!
//! Knows: agents, devices and the last value of every point. Refuses to know: sockets, disks, rules. What is worth judging
//! goes to the caller's `live` function as it is found.
//!
//! Invariants: bounded agents, devices, points and gaps; a batch that is no newer than what is shown changes only the
//! history; a will of an older incarnation changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::sync::Arc;

use bcp_core::time::{Mono, Wall};
use bcp_wire::envelope::{MAX_INFLATED_BYTES, is_deflated};
use bcp_wire::presence::AgentRef;
use bcp_wire::topic::Leaf;
use bcp_wire::{
    AgentState, AgentStatus, Batch, DeviceMeta, Event, EventKind, Gap, Id, Lane, MAX_PAYLOAD_BYTES,
    MAX_POINTS_PER_BATCH, PayloadError, PointName, Quality, Site, Topic, TopicError, Value,
};

use super::lateness::Lateness;
use crate::serve::view::{
    AgentView, DEFAULT_INTERVAL_MS, DeviceView, GapView, MAX_GAPS_SHOWN, Offender, PointInfo, PointState, STALE_TENTHS,
    SourceState,
};
use crate::store::codec::quality_as_number;
use crate::store::{Group, Marked, Marks, Sample, SeriesId, Store, StoredEvent};

/// Devices known; the reference scale is 2,000 with 1,500 hosts.
pub const MAX_DEVICES: usize = 20_000;
/// A link may be down this long before its readings are unknown: a reconnect takes less.
pub const LINK_GRACE_MS: u64 = 2_000;
/// Nothing heard on a link for this long, pings included: it is dead whatever TCP says.
pub const LINK_SILENT_MS: u64 = 6_000;
/// An agent that says nothing for this long, and for 2.5 times what it promised, is silent.
pub const AGENT_SILENT_MS: u64 = 10_000;
/// Bytes of an offending payload kept for the operator.
const OFFENDER_BYTES: usize = 64;

/// Why a payload was refused. The set is closed; operators see these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("topic: {0}")]
    Topic(&'static str),
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("the topic names another site than the broker's")]
    ForeignSite,
    #[error("the payload names another device than its topic")]
    OtherDevice,
    #[error("another agent has this device")]
    TakenDevice,
    #[error("more agents or devices than this collector holds")]
    TooMany,
    #[error("too many holes in this agent's numbers; it is sent again later")]
    NoRoom,
}

impl Refusal {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Topic(_) => "topic",
            Refusal::Payload(error) => error.as_str(),
            Refusal::ForeignSite => "foreign_site",
            Refusal::OtherDevice => "other_device",
            Refusal::TakenDevice => "taken_device",
            Refusal::TooMany => "too_many",
            Refusal::NoRoom => "no_room",
        }
    }
}

/// Something the rules want to know now.
#[derive(Debug, Clone, Copy)]
pub enum Live<'a> {
    Reading { device: &'a Id, point: &'a PointName, value: Option<&'a Value>, quality: Quality, sampled: Mono },
    Device { site: Site, agent: &'a Id, meta: &'a DeviceMeta },
    Agent { site: Site, agent: &'a Id, source: SourceState },
    Reachability { device: &'a Id, reachable: bool },
}

/// How one broker's link is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkHealth {
    pub connected: bool,
    /// Last packet of any kind.
    pub heard: Option<Mono>,
    /// Since when it is not connected.
    pub lost: Mono,
}

impl LinkHealth {
    /// True while what came over it may be taken as present.
    #[must_use]
    pub fn is_trusted(&self, now: Mono) -> bool {
        match self.heard {
            Some(heard) if self.connected => now.since(heard) <= LINK_SILENT_MS,
            Some(_) => now.since(self.lost) <= LINK_GRACE_MS,
            None => false,
        }
    }
}

#[derive(Debug)]
struct AgentLive {
    view: Arc<AgentView>,
    lateness: Lateness,
    devices: BTreeSet<Id>,
    /// Last live batch that was fresh.
    fresh: Option<Mono>,
    /// What the rules were told of it.
    told: Option<SourceState>,
}

/// What goes with a device and is not shown.
#[derive(Debug, Default)]
struct DeviceSlots {
    /// Incarnation and number of the newest live batch.
    newest: (u64, u64),
    /// By point: series of its numbers and of its texts.
    series: HashMap<PointName, (Option<SeriesId>, Option<SeriesId>)>,
}

/// Everything that was taken in.
#[derive(Debug)]
pub struct Intake {
    agents: BTreeMap<AgentRef, AgentLive>,
    devices: Arc<BTreeMap<Id, Arc<DeviceView>>>,
    slots: HashMap<Id, DeviceSlots>,
    seen: Marks,
    /// To be committed next.
    pub group: Group,
    /// Agents whose watermark is behind.
    pub touched: BTreeSet<AgentRef>,
    /// Devices that changed since [`Intake::take_changed`].
    changed: BTreeSet<Id>,
    pub payloads: u64,
    pub samples: u64,
    pub duplicates: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub last_refused: Option<Offender>,
    /// Samples with no room in the store's index.
    pub unstored: u64,
}

impl Intake {
    /// `seen`: what the store has committed.
    #[must_use]
    pub fn new(seen: Marks) -> Intake {
        Intake {
            agents: BTreeMap::new(),
            devices: Arc::default(),
            slots: HashMap::new(),
            seen,
            group: Group::default(),
            touched: BTreeSet::new(),
            changed: BTreeSet::new(),
            payloads: 0,
            samples: 0,
            duplicates: 0,
            refused: BTreeMap::new(),
            last_refused: None,
            unstored: 0,
        }
    }

    /// Takes in one message of `broker`. A refusal is counted here.
    pub fn arrive(
        &mut self,
        (now, wall): (Mono, Wall),
        broker: Site,
        (topic, payload): (&[u8], &[u8]),
        store: &Store,
        live: &mut dyn FnMut(Live<'_>),
    ) {
        self.payloads += 1;
        if let Err(refusal) = self.take_in(now, wall, broker, topic, payload, store, live) {
            *self.refused.entry(refusal.as_str()).or_default() += 1;
            self.last_refused = Some(Offender {
                topic: printable(topic, 2 * OFFENDER_BYTES),
                reason: refusal.to_string(),
                head: printable(payload, OFFENDER_BYTES),
                size: payload.len(),
                at: wall,
            });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one message with its circumstances")]
    fn take_in(
        &mut self,
        now: Mono,
        wall: Wall,
        broker: Site,
        topic: &[u8],
        payload: &[u8],
        store: &Store,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        let topic = std::str::from_utf8(topic).map_err(|_| Refusal::Topic("not text"))?;
        let topic: Topic = topic.parse().map_err(|fault: TopicError| {
            Refusal::Topic(match fault {
                TopicError::Prefix => "outside bcp/v1",
                TopicError::Id => "bad id",
                TopicError::Leaf => "unknown leaf",
            })
        })?;
        if topic.site != broker {
            return Err(Refusal::ForeignSite);
        }
        let agent = AgentRef { site: topic.site, agent: topic.agent };
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(PayloadError::TooLarge.into());
        }
        // A cleared retained message says that a state or description is gone; ages tell the rest.
        if payload.is_empty() && matches!(topic.leaf, Leaf::State | Leaf::Meta { .. }) {
            return Ok(());
        }
        let inflated = inflate(payload)?;
        let payload = inflated.as_deref().unwrap_or(payload);
        match topic.leaf {
            Leaf::State => self.on_state(now, &agent, AgentState::from_json(payload)?, live),
            Leaf::Meta { device } => {
                let meta = DeviceMeta::from_json(payload)?;
                if meta.device != device {
                    return Err(Refusal::OtherDevice);
                }
                self.on_meta(now, &agent, meta, live)
            }
            Leaf::Batch { lane: Lane::Event, device } => {
                self.on_event(now, wall, &agent, device, Event::from_json(payload)?, live)
            }
            Leaf::Batch { lane, device } => {
                self.on_batch(now, &agent, lane, &device, &Batch::from_json(payload)?, store, live)
            }
            Leaf::Ack { .. } | Leaf::Command | Leaf::CommandReply { .. } => Err(Refusal::Topic("not for collectors")),
        }
    }

    fn agent(&mut self, now: Mono, agent: &AgentRef) -> Result<&mut AgentLive, Refusal> {
        if !self.agents.contains_key(agent) && self.agents.len() >= crate::store::marks::MAX_AGENTS {
            return Err(Refusal::TooMany);
        }
        Ok(self.agents.entry(agent.clone()).or_insert_with(|| AgentLive {
            view: Arc::new(AgentView {
                site: agent.site,
                agent: agent.agent.clone(),
                source: SourceState::Fresh,
                state: None,
                received: now,
                devices: 0,
                through: 0,
                missing: 0,
            }),
            lateness: Lateness::default(),
            devices: BTreeSet::new(),
            fresh: None,
            told: None,
        }))
    }

    fn on_state(
        &mut self,
        now: Mono,
        agent: &AgentRef,
        state: AgentState,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        let known = self.agent(now, agent)?;
        let view = Arc::make_mut(&mut known.view);
        let (incarnation, session) = view.state.as_ref().map_or((0, ""), |s| (s.i, s.session.as_str()));
        if state.i < incarnation {
            return Ok(());
        }
        if state.i > incarnation || state.session != session {
            known.lateness.forget();
        }
        if state.status != AgentStatus::Lost {
            view.received = now;
        }
        view.state = Some(state);
        self.judge_agent(now, agent, true, live);
        Ok(())
    }

    /// The device, if this agent may speak for it: a device belongs to the agent that first described it, until that one
    /// is gone.
    fn device(&mut self, agent: &AgentRef, device: &Id) -> Result<&mut DeviceView, Refusal> {
        let count = self.devices.len();
        let source = self.agents.get(agent).map_or(SourceState::AgentSilent, |known| known.view.source);
        let devices = Arc::make_mut(&mut self.devices);
        if !devices.contains_key(device) {
            if count >= MAX_DEVICES {
                return Err(Refusal::TooMany);
            }
            let view = DeviceView {
                id: device.clone(),
                site: agent.site,
                agent: agent.agent.clone(),
                source,
                meta: None,
                points: Vec::new(),
                gaps: Vec::new(),
                received: None,
            };
            devices.insert(device.clone(), Arc::new(view));
        }
        let Some(view) = devices.get_mut(device) else { return Err(Refusal::TooMany) };
        if view.site != agent.site || view.agent != agent.agent {
            if view.source == SourceState::Fresh {
                return Err(Refusal::TakenDevice);
            }
            let old = AgentRef { site: view.site, agent: view.agent.clone() };
            let own = Arc::make_mut(view);
            own.site = agent.site;
            own.agent = agent.agent.clone();
            own.source = source;
            self.slots.entry(device.clone()).or_default().newest = (0, 0);
            if let Some(old) = self.agents.get_mut(&old) {
                old.devices.remove(device);
                Arc::make_mut(&mut old.view).devices = old.devices.len();
            }
        }
        if let Some(known) = self.agents.get_mut(agent)
            && known.devices.insert(device.clone())
        {
            Arc::make_mut(&mut known.view).devices = known.devices.len();
        }
        self.changed.insert(device.clone());
        Ok(Arc::make_mut(view))
    }

    fn on_meta(
        &mut self,
        now: Mono,
        agent: &AgentRef,
        meta: DeviceMeta,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        if meta.points.len() > MAX_POINTS_PER_BATCH {
            return Err(PayloadError::TooManyPoints.into());
        }
        self.agent(now, agent)?;
        let view = self.device(agent, &meta.device)?;
        let mut points = std::mem::take(&mut view.points);
        for described in &meta.points {
            let info = PointInfo {
                name: described.name.clone(),
                unit: described.unit.clone(),
                interval_ms: described.interval_ms.max(1),
                source: described.source.clone(),
            };
            // A described point appears with its first reading; one that is there gets its new description.
            if let Ok(at) = points.binary_search_by(|point| point.info.name.cmp(&described.name))
                && *points[at].info != info
            {
                points[at].info = Arc::new(info);
            }
        }
        view.points = points;
        let meta = Arc::new(meta);
        view.meta = Some(Arc::clone(&meta));
        live(Live::Device { site: agent.site, agent: &agent.agent, meta: &meta });
        Ok(())
    }

    /// True where the payload is new. Marks it.
    fn is_new(&mut self, agent: &AgentRef, incarnation: u64, seq: u64) -> Result<bool, Refusal> {
        self.touched.insert(agent.clone());
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
    fn on_batch(
        &mut self,
        now: Mono,
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
        for (name, t, value, quality) in batch.readings() {
            self.store_sample(device, name, Sample { t, v: f64::NAN }, value, quality, store);
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

    fn on_event(
        &mut self,
        now: Mono,
        wall: Wall,
        agent: &AgentRef,
        device: Id,
        event: Event,
        live: &mut dyn FnMut(Live<'_>),
    ) -> Result<(), Refusal> {
        self.agent(now, agent)?;
        if !self.is_new(agent, event.i, event.s)? {
            return Ok(());
        }
        let kind = match &event.kind {
            EventKind::Reachability { reachable, .. } => {
                live(Live::Reachability { device: &device, reachable: *reachable });
                "reachability"
            }
            EventKind::Trap { .. } => "trap",
            EventKind::Transition { .. } => "transition",
            EventKind::Gap(gap) => {
                self.on_gap(wall, agent, &device, gap);
                "gap"
            }
            EventKind::ClockStep { .. } => {
                if let Some(known) = self.agents.get_mut(agent) {
                    known.lateness.forget();
                }
                "clock_step"
            }
            EventKind::Notice { text } => {
                tracing::info!(site = %agent.site, agent = %agent.agent, "agent says: {text}");
                "notice"
            }
        };
        let stored = StoredEvent { agent: agent.clone(), device, t: event.t, kind: kind.to_owned(), event };
        self.group.events.push(stored);
        Ok(())
    }

    /// What is lost for ever is taken in as such, so that nobody waits for it, and shown where it was lost.
    fn on_gap(&mut self, wall: Wall, agent: &AgentRef, device: &Id, gap: &Gap) {
        if self.seen.insert_range(agent, gap.incarnation, gap.from, gap.through) == Marked::New {
            self.group.marks.push((agent.clone(), gap.incarnation, gap.from, gap.through));
        }
        let Ok(view) = self.device(agent, device) else { return };
        view.gaps.push(GapView {
            agent: agent.agent.clone(),
            incarnation: gap.incarnation,
            from: gap.from,
            through: gap.through,
            samples: gap.samples,
            reason: gap.reason.clone(),
            recorded: wall,
        });
        if view.gaps.len() > MAX_GAPS_SHOWN {
            view.gaps.remove(0);
        }
    }

    /// Looks at every agent again: links come and go, agents fall silent.
    pub fn judge_sources(&mut self, now: Mono, links: &BTreeMap<Site, LinkHealth>, live: &mut dyn FnMut(Live<'_>)) {
        let agents: Vec<AgentRef> = self.agents.keys().cloned().collect();
        for agent in agents {
            let trusted = links.get(&agent.site).is_some_and(|link| link.is_trusted(now));
            self.judge_agent(now, &agent, trusted, live);
        }
    }

    fn judge_agent(&mut self, now: Mono, agent: &AgentRef, link_trusted: bool, live: &mut dyn FnMut(Live<'_>)) {
        let Some(known) = self.agents.get_mut(agent) else { return };
        let view = &known.view;
        let promised = view.state.as_ref().map_or(0, |state| state.next_within_ms.saturating_mul(STALE_TENTHS) / 10);
        let source = match view.state.as_ref().map(|state| state.status) {
            _ if !link_trusted => SourceState::BrokerAway,
            Some(AgentStatus::Lost) => SourceState::AgentLost,
            Some(AgentStatus::Offline) => SourceState::AgentOffline,
            _ if now.since(view.received) > promised.max(AGENT_SILENT_MS) => SourceState::AgentSilent,
            Some(AgentStatus::Online | AgentStatus::Draining) | None => SourceState::Fresh,
        };
        if known.told.replace(source) != Some(source) {
            live(Live::Agent { site: agent.site, agent: &agent.agent, source });
        }
        if source == view.source {
            return;
        }
        Arc::make_mut(&mut known.view).source = source;
        let owned: Vec<Id> = known.devices.iter().cloned().collect();
        let devices = Arc::make_mut(&mut self.devices);
        for id in owned {
            let Some(view) = devices.get_mut(&id) else { continue };
            let view = Arc::make_mut(view);
            view.source = source;
            if source != SourceState::Fresh {
                for point in &view.points {
                    let (point, sampled) = (&point.info.name, point.received);
                    live(Live::Reading { device: &id, point, value: None, quality: Quality::Stale, sampled });
                }
            }
            self.changed.insert(id);
        }
    }

    /// When a fresh live batch of any agent of a site last arrived.
    #[must_use]
    pub fn site_heard(&self, site: Site) -> Option<Mono> {
        self.agents.iter().filter(|(agent, _)| agent.site == site).filter_map(|(_, known)| known.fresh).max()
    }

    /// Notes how far an agent is committed.
    pub fn committed(&mut self, agent: &AgentRef, through: u64, missing: u64) {
        if let Some(known) = self.agents.get_mut(agent)
            && (known.view.through, known.view.missing) != (through, missing)
        {
            let view = Arc::make_mut(&mut known.view);
            view.through = through;
            view.missing = missing;
        }
    }

    #[must_use]
    pub fn devices(&self) -> Arc<BTreeMap<Id, Arc<DeviceView>>> {
        Arc::clone(&self.devices)
    }

    #[must_use]
    pub fn agents(&self) -> Vec<Arc<AgentView>> {
        self.agents.values().map(|known| Arc::clone(&known.view)).collect()
    }

    /// Devices that changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<Id> {
        std::mem::take(&mut self.changed)
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

/// The inflated payload where it is deflated.
fn inflate(payload: &[u8]) -> Result<Option<Vec<u8>>, PayloadError> {
    if !is_deflated(payload) {
        return Ok(None);
    }
    let mut out = Vec::new();
    let limit = MAX_INFLATED_BYTES as u64 + 1;
    flate2::read::ZlibDecoder::new(payload).take(limit).read_to_end(&mut out).map_err(|_| PayloadError::Malformed)?;
    if out.len() > MAX_INFLATED_BYTES { Err(PayloadError::TooLarge) } else { Ok(Some(out)) }
}

fn printable(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)])
        .chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
