//! A payload becomes samples, marks and live values, or a counted refusal. PURE but for series numbers asked of the store.
//!
//! Knows: agents, devices and the last value of every point. Refuses to know: sockets, disks, rules. What is worth judging
//! goes to the caller's `live` function as it is found.
//!
//! Invariants: bounded agents, devices, points and gaps; a batch that is no newer than what is shown changes only the
//! history; a will of an older incarnation changes nothing.

mod batch;
mod device;
mod due;
mod event;
mod refusal;
mod sources;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bcp_core::time::{Mono, Wall};
use bcp_wire::presence::AgentRef;
use bcp_wire::topic::Leaf;
use bcp_wire::{
    AgentState, Batch, DeviceMeta, Event, Id, Lane, MAX_PAYLOAD_BYTES, PayloadError, PointName, Quality, Site, Topic,
    TopicError, Value,
};

pub use due::WatermarksDue;
pub use refusal::Refusal;
pub use sources::{AGENT_SILENT_MS, LINK_GRACE_MS, LINK_SILENT_MS, LinkHealth};

use super::lateness::Lateness;
use crate::export::Lines;
use crate::serve::view::{AgentView, DeviceView, Offender, SourceState};
use crate::store::{Group, Marks, SeriesId, Store};
use refusal::{OFFENDER_BYTES, inflate, printable};

/// Devices known; the reference scale is 2,000 with 1,500 hosts.
pub const MAX_DEVICES: usize = 20_000;
/// A sample further ahead of this machine's clock than this is not stored: it would outlive its retention and keep its
/// neighbours. A clock an hour off is the agents' daily life, two days is none.
pub const MAX_AHEAD_MS: i64 = 48 * 3_600_000;
/// Nor one from before 2020: no clock of a device that works.
pub const EARLIEST_MS: i64 = 1_577_836_800_000;

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
    /// Who is to be told how far its payloads are committed.
    pub due: WatermarksDue,
    /// Devices that changed since [`Intake::take_changed`].
    changed: BTreeSet<Id>,
    pub payloads: u64,
    pub samples: u64,
    pub duplicates: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub last_refused: Option<Offender>,
    /// Samples with no room in the store's index.
    pub unstored: u64,
    /// Samples with a time too far ahead, or of long before: shown, not stored.
    pub mistimed: u64,
    /// Agents of those were named in the log at this time.
    said_mistimed: Option<Mono>,
    /// Lines for the long-term database, of payloads in the group; where there is one.
    pub lines: Option<Lines>,
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
            due: WatermarksDue::default(),
            changed: BTreeSet::new(),
            payloads: 0,
            samples: 0,
            duplicates: 0,
            refused: BTreeMap::new(),
            last_refused: None,
            unstored: 0,
            mistimed: 0,
            said_mistimed: None,
            lines: None,
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
        if let Some(lines) = &mut self.lines {
            let _ = lines.take();
        }
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
                self.on_batch((now, wall), &agent, lane, &device, &Batch::from_json(payload)?, store, live)
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
