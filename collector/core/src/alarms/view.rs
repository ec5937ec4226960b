//! Alarms as the console and the API show them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::Site;

use super::state::{Alarm, Note, State};
use super::table::Phase;
use super::{AlarmVote, Priority};
use crate::time::{LogTime, Wall};

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlarmView {
    /// Key `rule/asset`.
    pub id: String,
    pub rule: String,
    pub asset: String,
    pub site: Option<Site>,
    /// ISA-18.2 state, as `unacknowledged`.
    pub state: String,
    /// Where it belongs on a screen.
    #[serde(default)]
    pub standing: Standing,
    /// The condition itself, whatever the state.
    pub active: bool,
    pub priority: Priority,
    pub title: BTreeMap<String, String>,
    pub runbook: Option<String>,
    pub explain: String,
    pub owner: Option<String>,
    /// Last change of state; the wall time is a label. Absent in a local view.
    pub since_log_ms: Option<u64>,
    pub since_wall_ms: i64,
    /// Log time since the last change of state.
    pub age_ms: u64,
    /// Log time since it was last raised, whoever acknowledged it in between.
    #[serde(default)]
    pub raised_ago_ms: u64,
    pub acknowledged_by: Option<String>,
    pub shelved_by: Option<String>,
    pub shelved_reason: Option<String>,
    /// Log time left on the shelf.
    pub shelved_for_ms: Option<u64>,
    pub annunciated: bool,
    pub chattering: bool,
    pub damped: u32,
    /// Root cause, where another alarm explains this one.
    pub cause: Option<String>,
    /// Alarms that this one explains, and the first of them in first-out order.
    pub symptoms: usize,
    pub first_symptoms: Vec<String>,
    /// Place in the first-out order.
    pub order: u64,
    /// What each collector says; absent means nothing heard.
    pub votes: BTreeMap<Site, Option<bool>>,
    pub notes: Vec<NoteView>,
    /// False: this collector's own view, without the agreement of the others.
    pub agreed: bool,
}

/// Where an alarm belongs on a screen: ISA-18.2's state together with cause and annunciation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Needs eyes: operators were told, and nothing else explains it.
    Open,
    /// Another alarm explains it; it is folded under that one.
    Consequence,
    /// Just raised, or just left by its cause: operators are told soon, unless it clears or a cause is found.
    Waiting,
    Shelved,
    SuppressedByDesign,
    OutOfService,
    /// Over and acknowledged.
    #[default]
    Normal,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteView {
    pub wall_ms: i64,
    pub by: String,
    pub text: String,
}

/// Norms to show live beside the list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Figures {
    pub active: usize,
    pub unacknowledged: usize,
    pub shelved: usize,
    pub suppressed: usize,
    /// Active, and explained by a cause.
    pub symptoms: usize,
    pub chattering: usize,
    /// Active for more than 24 h of log time.
    pub stale: usize,
    pub annunciated_last_10_min: usize,
    pub flood: bool,
    pub refused: u64,
}

/// Symptoms named in a row; the rest is counted.
pub const FIRST_SYMPTOMS: usize = 10;
/// An alarm active for longer than this is stale in the sense of ISA-18.2.
pub const STALE_AFTER_MS: u64 = 24 * 3_600_000;

impl State {
    /// All alarms, most urgent first: open causes before symptoms, then priority, then first-out order.
    #[must_use]
    pub fn views(&self, now: LogTime) -> Vec<AlarmView> {
        let mut symptoms: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
        for (key, alarm) in &self.alarms {
            let root = self.root_cause(key);
            if root != key {
                symptoms.entry(root).or_default().push((alarm.order, key));
            }
        }
        for list in symptoms.values_mut() {
            list.sort_unstable();
        }
        let none = Vec::new();
        let mut views: Vec<AlarmView> = self
            .alarms
            .iter()
            .map(|(key, alarm)| self.view(key, alarm, symptoms.get(key.as_str()).unwrap_or(&none), now))
            .collect();
        views.sort_by_key(|view| (!view.active, view.cause.is_some(), view.priority, view.order));
        views
    }

    fn view(&self, key: &str, alarm: &Alarm, symptoms: &[(u64, &str)], now: LogTime) -> AlarmView {
        let (shelved_by, shelved_reason, shelved_for_ms) = match &alarm.phase {
            Phase::Shelved { until, by, reason } => (Some(by.clone()), Some(reason.clone()), Some(until.since(now))),
            Phase::OutOfService { by, reason } => (Some(by.clone()), Some(reason.clone()), None),
            Phase::Normal
            | Phase::Unacknowledged
            | Phase::Acknowledged
            | Phase::ReturnedUnacknowledged
            | Phase::SuppressedByDesign => (None, None, None),
        };
        let root = self.root_cause(key);
        AlarmView {
            since_log_ms: Some(alarm.since.0),
            since_wall_ms: alarm.since_wall.0,
            age_ms: now.since(alarm.since),
            raised_ago_ms: now.since(alarm.raised),
            standing: alarm.standing(),
            acknowledged_by: alarm.acknowledged_by.clone(),
            shelved_by,
            shelved_reason,
            shelved_for_ms,
            annunciated: alarm.annunciated,
            chattering: alarm.chattering,
            damped: alarm.damped,
            cause: (root != key).then(|| root.to_owned()),
            symptoms: symptoms.len(),
            first_symptoms: symptoms.iter().take(FIRST_SYMPTOMS).map(|(_, key)| (*key).to_owned()).collect(),
            order: alarm.order,
            votes: alarm.votes.clone(),
            notes: alarm.notes.iter().map(NoteView::from).collect(),
            agreed: true,
            ..AlarmView::local(key, &alarm.about, alarm.phase.as_str(), alarm.active, alarm.since_wall)
        }
    }

    #[must_use]
    pub fn figures(&self, now: LogTime) -> Figures {
        let mut figures = Figures {
            annunciated_last_10_min: self.annunciations.len(),
            flood: self.flood,
            refused: self.refused,
            ..Figures::default()
        };
        for alarm in self.alarms.values() {
            figures.active += usize::from(alarm.active);
            figures.symptoms += usize::from(alarm.active && alarm.cause.is_some());
            figures.chattering += usize::from(alarm.chattering);
            figures.stale += usize::from(alarm.active && now.since(alarm.raised) > STALE_AFTER_MS);
            match alarm.phase {
                Phase::Unacknowledged | Phase::ReturnedUnacknowledged => figures.unacknowledged += 1,
                Phase::Shelved { .. } => figures.shelved += 1,
                Phase::SuppressedByDesign | Phase::OutOfService { .. } => figures.suppressed += 1,
                Phase::Normal | Phase::Acknowledged => {}
            }
        }
        figures
    }
}

impl AlarmView {
    /// A row from one collector's own judgement, for when there is no quorum to agree it.
    #[must_use]
    pub fn local(key: &str, vote: &AlarmVote, state: &str, active: bool, since: Wall) -> AlarmView {
        AlarmView {
            id: key.to_owned(),
            rule: key.split('/').next().unwrap_or_default().to_owned(),
            asset: vote.asset.clone(),
            site: vote.site,
            state: state.to_owned(),
            standing: Standing::Open,
            active,
            priority: vote.priority,
            title: vote.title.clone(),
            runbook: vote.runbook.clone(),
            explain: vote.explain.clone(),
            owner: vote.owner.clone(),
            since_log_ms: None,
            since_wall_ms: since.0,
            age_ms: 0,
            raised_ago_ms: 0,
            acknowledged_by: None,
            shelved_by: None,
            shelved_reason: None,
            shelved_for_ms: None,
            annunciated: false,
            chattering: false,
            damped: 0,
            cause: None,
            symptoms: 0,
            first_symptoms: Vec::new(),
            order: 0,
            votes: BTreeMap::new(),
            notes: Vec::new(),
            agreed: false,
        }
    }
}

impl Alarm {
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match self.phase {
            Phase::Normal => Standing::Normal,
            Phase::Shelved { .. } => Standing::Shelved,
            Phase::SuppressedByDesign => Standing::SuppressedByDesign,
            Phase::OutOfService { .. } => Standing::OutOfService,
            Phase::Unacknowledged | Phase::Acknowledged | Phase::ReturnedUnacknowledged if self.cause.is_some() => {
                Standing::Consequence
            }
            Phase::Unacknowledged if !self.annunciated => Standing::Waiting,
            Phase::Unacknowledged | Phase::Acknowledged | Phase::ReturnedUnacknowledged => Standing::Open,
        }
    }
}

impl From<&Note> for NoteView {
    fn from(note: &Note) -> NoteView {
        NoteView { wall_ms: note.wall.0, by: note.by.clone(), text: note.text.clone() }
    }
}
