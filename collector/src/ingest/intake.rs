//! A payload becomes samples, marks and live values, or a counted refusal. PURE but for series numbers asked of the store.
//!
//! Knows: agents, devices and the last value of every point. Refuses to know: sockets, disks, rules. What is worth judging
//! goes to the caller's `live` function as it is found.
//!
//! Invariants: bounded agents, devices, points and gaps; a batch that is no newer than what is shown changes only the
//! history; a will of an older incarnation changes nothing.

mod batch;
mod refusal;
mod sources;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bcp_core::time::{Mono, Wall};
use bcp_wire::presence::AgentRef;
use bcp_wire::topic::Leaf;
use bcp_wire::{
    AgentState, AgentStatus, Batch, DeviceMeta, Event, EventKind, Gap, Id, Lane, MAX_PAYLOAD_BYTES,
    MAX_POINTS_PER_BATCH, PayloadError, PointName, Quality, Site, Topic, TopicError, Value,
};

pub use refusal::Refusal;
pub use sources::{AGENT_SILENT_MS, LINK_GRACE_MS, LINK_SILENT_MS, LinkHealth};

use super::lateness::Lateness;
use crate::serve::view::{AgentView, DeviceView, GapView, MAX_GAPS_SHOWN, Offender, PointInfo, SourceState};
use crate::store::{Group, Marked, Marks, SeriesId, Store, StoredEvent};
use refusal::{OFFENDER_BYTES, inflate, printable};

/// Devices known; the reference scale is 2,000 with 1,500 hosts.
pub const MAX_DEVICES: usize = 20_000;
/// Something the rules want to know now.
#[derive(Debug, Clone, Copy)]
pub enum Live<'a> {
    Reading { device: &'a Id, point: &'a PointName, value: Option<&'a Value>, quality: Quality, sampled: Mono },
    Device { site: Site, agent: &'a Id, meta: &'a DeviceMeta },
    Agent { site: Site, agent: &'a Id, source: SourceState },
    Reachability { device: &'a Id, reachable: bool },
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
    /// Retained messages that were taken back: an empty payload on a state or description.
    pub emptied: u64,
    /// Payloads let go while the store took nothing; their agents send them again.
    pub shed: u64,
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
            emptied: 0,
            shed: 0,
        }
    }

    /// Lets go of what was to be committed: the store takes nothing. It was shown and judged, and no watermark covers it, so
    /// its agents send it again.
    pub fn shed(&mut self) {
        self.shed += self.group.marks.len() as u64;
        self.samples -= (self.group.samples.len() as u64).min(self.samples);
        self.group.clear();
    }

    /// What is not in `committed` is new when it comes again.
    pub fn forget_all_but(&mut self, committed: Marks) {
        self.seen = committed;
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
            self.emptied += 1;
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

#[cfg(test)]
mod tests;
