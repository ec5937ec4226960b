//! What the console and the API show: one immutable picture of everything this site knows, and how fresh each part is.
//!
//! Knows: last values with quality and age, freshness of every source, the last agreed state and its age.
//! Refuses to know: how it is rendered, and anything private to a connection. A [`View`] is never changed after it was
//! published; parts that did not change are shared with the view before it.
//!
//! Invariants: a point whose source is away, or that is older than 2.5 times its interval, is never shown as good;
//! agreed state is marked with its age, and with [`Agreement::Local`] once decide is away or has no quorum.

mod judge;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use bcp_core::alarms::AlarmView;
use bcp_core::alarms::Figures;
pub use bcp_core::failover::TicketView;
use bcp_core::ledger::LedgerEntry;
use bcp_core::replica::Replica;
use bcp_core::status::{Procedure, ServiceStatus};
use bcp_core::time::{Mono, Wall};
use bcp_wire::{AgentState, DeviceMeta, Id, PointName, Quality, Site, Value};
use serde::Serialize;

pub use judge::rfc3339;
pub use shared::{SharedView, ViewWriter, shared};

/// Newest ledger entries a view carries; older ones come from the store by page.
pub const LEDGER_TAIL: usize = 200;
/// Gaps shown per device; older ones stay in the store.
pub const MAX_GAPS_SHOWN: usize = 16;
/// A reading older than this many tenths of its interval is stale.
pub const STALE_TENTHS: u64 = 25;
/// Interval assumed for a point whose device never described it.
pub const DEFAULT_INTERVAL_MS: u64 = 10_000;
/// Agreed state older than this is shown as local, not agreed.
pub const DECIDE_STALE_MS: u64 = 3_000;

/// Everything, at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct View {
    /// The site this collector stands at.
    pub site: Site,
    /// Own wall clock when this was built; a label.
    pub as_of: Wall,
    /// Own monotonic clock when this was built. Ages are counted from it.
    pub mono: Mono,
    /// Grows by one per published view of this process.
    pub revision: u64,
    pub agreement: Agreement,
    pub decide: DecideView,
    /// The last agreed state; kept, with its age, while decide is away. `None` before the first contact.
    pub replica: Option<Arc<Replica>>,
    pub brokers: BTreeMap<Site, BrokerView>,
    pub agents: Arc<Vec<Arc<AgentView>>>,
    pub devices: Arc<BTreeMap<Id, Arc<DeviceView>>>,
    /// Most urgent first. Without agreement: this site's own judgement, each with `agreed: false`.
    pub alarms: Arc<Vec<AlarmView>>,
    pub alarm_figures: Figures,
    pub tickets: Arc<Vec<TicketView>>,
    pub services: Arc<Vec<ServiceView>>,
    /// Newest last, at most [`LEDGER_TAIL`].
    pub ledger: Arc<Vec<LedgerEntry>>,
    pub ingest: IngestView,
}

/// Whether alarms, tickets and services below are what the three collectors agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Agreement {
    Agreed,
    /// "Local, not agreed": no quorum, or decide does not answer.
    Local,
}

/// State of the decision process of this site, as serve sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DecideView {
    /// Time since decide last answered, milliseconds. `None`: never.
    pub age_ms: Option<u64>,
    pub leader: Option<Site>,
    pub term: u64,
    pub index: u64,
    pub quorum: bool,
    /// Time since decide last heard each member, milliseconds; `None`: not within this run.
    pub members: BTreeMap<Site, Option<u64>>,
    /// Why it does not answer, where it does not.
    pub trouble: Option<String>,
}

/// Link to one broker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BrokerView {
    pub site: Site,
    pub link: LinkState,
    /// Time since the last packet, milliseconds. `None`: none in this run.
    pub age_ms: Option<u64>,
    pub trouble: Option<String>,
    pub reconnects: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    Connecting,
    Up,
    Away,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentView {
    pub site: Site,
    pub agent: Id,
    pub source: SourceState,
    /// Its retained state; `None` where only its data was seen.
    pub state: Option<AgentState>,
    /// Own monotonic time at which anything of it arrived.
    pub received: Mono,
    pub devices: usize,
    /// Committed through this sequence number of the present incarnation.
    pub through: u64,
    /// Payloads known to be missing below it.
    pub missing: u64,
}

/// Whether what an agent publishes can be taken as present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    Fresh,
    /// The link to its broker is down: everything it measures is unknown.
    BrokerAway,
    /// The broker says the agent's session broke.
    AgentLost,
    /// It stopped on purpose.
    AgentOffline,
    /// Connected, as far as the broker says, but nothing arrives.
    AgentSilent,
}

impl SourceState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceState::Fresh => "fresh",
            SourceState::BrokerAway => "broker_away",
            SourceState::AgentLost => "agent_lost",
            SourceState::AgentOffline => "agent_offline",
            SourceState::AgentSilent => "agent_silent",
        }
    }
}

/// One device with its last values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceView {
    pub id: Id,
    pub site: Site,
    pub agent: Id,
    pub source: SourceState,
    /// `None` until its description arrives.
    pub meta: Option<Arc<DeviceMeta>>,
    /// Sorted by name.
    pub points: Vec<PointState>,
    pub gaps: Vec<GapView>,
    /// Own monotonic time of the last live batch.
    pub received: Option<Mono>,
}

/// What does not change from reading to reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PointInfo {
    pub name: PointName,
    pub unit: String,
    pub interval_ms: u64,
    /// Register or OID.
    pub source: Option<String>,
}

/// Last reading of one point. Ask [`DeviceView::point`] for what may be shown of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointState {
    pub info: Arc<PointInfo>,
    pub value: Option<Value>,
    /// As the agent judged it.
    pub quality: Quality,
    /// Sample time by the agent's clock, milliseconds since 1970 UTC.
    pub sampled: Wall,
    /// Own monotonic time at which it was measured, as far as the arrival tells.
    pub received: Mono,
}

/// A point as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointView {
    pub device: Id,
    pub point: PointName,
    /// The last value, also where it is stale: `quality` says whether it holds now.
    pub value: Option<Value>,
    pub unit: String,
    pub quality: QualityWord,
    /// Why it is not good: `timeout` ... of the agent, or `old`, `broker_away`, `agent_lost`, `agent_offline`, `agent_silent`.
    pub reason: Option<&'static str>,
    /// Sample time, RFC 3339 UTC.
    pub time: String,
    /// Since it was measured, by this collector's own clock, milliseconds.
    pub age_ms: u64,
    /// Register or OID it was read from.
    pub source: Option<String>,
    pub interval_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QualityWord {
    Good,
    Stale,
    Bad,
}

/// Payloads of a device or agent that are known to be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GapView {
    pub agent: Id,
    pub incarnation: u64,
    pub from: u64,
    pub through: u64,
    pub samples: Option<u64>,
    pub reason: String,
    pub recorded: Wall,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceView {
    pub id: Id,
    /// By language.
    pub title: BTreeMap<String, String>,
    pub status: ServiceStatus,
    /// When it became so, by the wall clock of the log.
    pub since: Option<Wall>,
    pub by_site: BTreeMap<Site, ServiceStatus>,
    /// Why, in a sentence.
    pub explain: String,
    pub ticket: Option<Id>,
    /// Emergency procedure per profession.
    pub procedures: BTreeMap<String, Procedure>,
    /// The open incident it belongs to.
    pub incident: Option<String>,
    /// False: this site's own view, without the agreement of the others.
    pub agreed: bool,
    /// What this site's own checks say, whatever was agreed.
    pub local: ServiceStatus,
    pub local_explain: String,
}

/// What ingest did since this process started.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct IngestView {
    pub payloads: u64,
    pub samples: u64,
    pub duplicates: u64,
    /// Payloads that were not the contract's, by reason.
    pub refused: BTreeMap<String, u64>,
    pub last_refused: Option<Offender>,
    /// Payloads received and not yet committed.
    pub uncommitted: usize,
    /// Time of the last commit, milliseconds.
    pub commit_ms: u64,
    /// What keeps the store from committing, if anything.
    pub store_trouble: Option<String>,
    /// Samples the store's index had no room for.
    pub unstored: u64,
    /// Samples with a time too far ahead, or of long before: shown, not stored.
    pub mistimed: u64,
    /// Retained messages that were taken back.
    pub emptied: u64,
    /// Payloads let go while the store took nothing; their agents send them again.
    pub shed: u64,
    /// Acknowledgements that found no room; their payloads come again.
    pub unsent_acks: u64,
    /// The way to the long-term database, where there is one.
    pub influx: Option<crate::export::ExportView>,
}

/// The last payload that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offender {
    pub topic: String,
    pub reason: String,
    /// First bytes, printable characters only.
    pub head: String,
    pub size: usize,
    pub at: Wall,
}

impl View {
    /// Before anything is known.
    #[must_use]
    pub fn empty(site: Site, as_of: Wall) -> View {
        View {
            site,
            as_of,
            mono: Mono(0),
            revision: 0,
            agreement: Agreement::Local,
            decide: DecideView::default(),
            replica: None,
            brokers: BTreeMap::new(),
            agents: Arc::default(),
            devices: Arc::default(),
            alarms: Arc::default(),
            alarm_figures: Figures::default(),
            tickets: Arc::default(),
            services: Arc::default(),
            ledger: Arc::default(),
            ingest: IngestView::default(),
        }
    }

    /// Every point of every device, judged at this view's time.
    pub fn points(&self) -> impl Iterator<Item = PointView> + '_ {
        self.devices.values().flat_map(|device| device.judged_points(self.mono))
    }
}
