//! Interventions: planned work, announced to the public, that starts, is extended and ends.
//!
//! Knows: the calendar, and which services are at work. Refuses to know: what the work is, and the words of a language.
//!
//! The calendar is the one thing here that follows wall time: a reader was promised an hour of the day. It is the wall time of
//! the tick, so the three collectors agree on it; a wrong clock starts or ends an announcement, and decides nothing else.
//!
//! Invariants:
//! * an intervention starts at its hour and ends at its hour, unless an operator does it before;
//! * while one is in progress its services that are down or degraded are shown as planned work, and no incident opens; what
//!   was an incident before the work began stays one;
//! * unknown stays unknown;
//! * a human text has every language, or names the one that stands in.

mod command;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Id, Site};

pub(super) use self::command::on_command;
use super::incident::{Author, MAX_UPDATES};
use super::{ServiceStatus, State, Text};
use crate::time::{LogTime, Wall};

/// Interventions that are not over; a calendar of a year of weekly work for some services.
pub const MAX_OPEN: usize = 200;
/// Interventions that are over, kept in the state; the ledger has all.
pub const MAX_OVER: usize = 100;
/// Services of one intervention.
pub const MAX_SERVICES: usize = 500;
/// Longest title in one language, in bytes.
pub const MAX_TITLE_BYTES: usize = 200;
/// Longest work: what takes longer is several interventions.
pub const MAX_LENGTH_MS: i64 = 30 * DAY_MS;
/// How far ahead work is announced.
pub const MAX_AHEAD_MS: i64 = 400 * DAY_MS;
const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intervention {
    pub id: String,
    pub services: Vec<Id>,
    /// Site where the work is done; two sites are never worked on at once.
    pub site: Option<Site>,
    pub title: Text,
    pub phase: WorkPhase,
    pub starts: Wall,
    pub ends: Wall,
    /// When it really began and was over.
    pub started: Option<Wall>,
    pub ended: Option<Wall>,
    /// Oldest first; the first one is the announcement.
    pub updates: Vec<WorkUpdate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkPhase {
    Scheduled,
    InProgress,
    Completed,
    Cancelled,
}

impl WorkPhase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            WorkPhase::Scheduled => "scheduled",
            WorkPhase::InProgress => "in_progress",
            WorkPhase::Completed => "completed",
            WorkPhase::Cancelled => "cancelled",
        }
    }

    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, WorkPhase::Completed | WorkPhase::Cancelled)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkUpdate {
    pub log: LogTime,
    pub wall: Wall,
    pub phase: WorkPhase,
    pub by: Author,
    pub text: WorkText,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WorkText {
    /// A message of the page's translations.
    Template {
        key: WorkTemplate,
    },
    Human {
        text: BTreeMap<String, String>,
        fallback: Option<String>,
    },
}

/// Automatic messages. The locales have each of them, in every language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkTemplate {
    WorkStarted,
    WorkEnded,
}

impl WorkTemplate {
    pub const ALL: [WorkTemplate; 2] = [WorkTemplate::WorkStarted, WorkTemplate::WorkEnded];

    /// Message id in the locales.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            WorkTemplate::WorkStarted => "work-started",
            WorkTemplate::WorkEnded => "work-ended",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub services: Vec<Id>,
    #[serde(default)]
    pub site: Option<Site>,
    pub title: BTreeMap<String, String>,
    pub text: BTreeMap<String, String>,
    pub starts: Wall,
    pub ends: Wall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum InterventionCommand {
    /// Announces work. One that starts now begins at once.
    Plan(Plan),
    /// Begins before its hour.
    Start { intervention: String },
    /// Takes longer, or less long, than announced: a new end, with what the public is told.
    Extend {
        intervention: String,
        ends: Wall,
        text: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
    /// A word in between.
    Update {
        intervention: String,
        text: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
    /// Over: completed if it had begun, else cancelled.
    Close {
        intervention: String,
        text: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum InterventionEvent {
    Planned { intervention: String, services: Vec<Id>, starts: Wall, ends: Wall, by: Author },
    Started { intervention: String, by: Author },
    Extended { intervention: String, from: Wall, to: Wall, by: Author },
    Updated { intervention: String, update: WorkUpdate },
    Ended { intervention: String, phase: WorkPhase, by: Author },
}

impl InterventionEvent {
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            InterventionEvent::Planned { intervention, .. }
            | InterventionEvent::Started { intervention, .. }
            | InterventionEvent::Extended { intervention, .. }
            | InterventionEvent::Updated { intervention, .. }
            | InterventionEvent::Ended { intervention, .. } => format!("intervention:{intervention}"),
        }
    }

    /// Operator who caused it; none where the hour did.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        match self {
            InterventionEvent::Planned { by, .. }
            | InterventionEvent::Started { by, .. }
            | InterventionEvent::Extended { by, .. }
            | InterventionEvent::Ended { by, .. } => by.operator(),
            InterventionEvent::Updated { update, .. } => update.by.operator(),
        }
    }

    /// One English sentence, complete without context.
    #[must_use]
    pub fn text(&self) -> String {
        let who = self.by().unwrap_or("the calendar");
        match self {
            InterventionEvent::Planned { intervention, services, .. } => {
                let names: Vec<&str> = services.iter().map(Id::as_str).collect();
                format!("{who} announced planned work {intervention} on {}.", names.join(", "))
            }
            InterventionEvent::Started { intervention, .. } => {
                format!("Planned work {intervention} began, by {who}.")
            }
            InterventionEvent::Extended { intervention, from, to, .. } => {
                let minutes = to.0.saturating_sub(from.0) / 60_000;
                format!("{who} moved the end of planned work {intervention} by {minutes} min.")
            }
            InterventionEvent::Updated { intervention, update } => match &update.text {
                WorkText::Template { key } => format!("Planned work {intervention} updated: {}.", key.as_str()),
                WorkText::Human { text, .. } => {
                    let text = text.get("en").or_else(|| text.values().next()).cloned().unwrap_or_default();
                    format!("Planned work {intervention} updated: {}.", text.trim_end_matches('.'))
                }
            },
            InterventionEvent::Ended { intervention, phase: WorkPhase::Cancelled, .. } => {
                format!("Planned work {intervention} was cancelled by {who}.")
            }
            InterventionEvent::Ended { intervention, .. } => format!("Planned work {intervention} ended, by {who}."),
        }
    }
}

/// The status to show of a service that observers agree on: a fault during announced work is the work.
pub(super) fn shown(state: &BTreeMap<String, Intervention>, id: &Id, agreed: ServiceStatus) -> ServiceStatus {
    let at_work = || state.values().any(|work| work.phase == WorkPhase::InProgress && work.services.contains(id));
    match agreed {
        ServiceStatus::Down | ServiceStatus::Degraded if at_work() => ServiceStatus::Planned,
        ServiceStatus::Up
        | ServiceStatus::Planned
        | ServiceStatus::Degraded
        | ServiceStatus::Down
        | ServiceStatus::Unknown => agreed,
    }
}

/// Starts and ends what is due by the wall time of the tick.
pub(super) fn follow(state: &mut State, now: LogTime, wall: Wall, events: &mut Vec<InterventionEvent>) {
    for work in state.interventions.values_mut() {
        if work.phase == WorkPhase::Scheduled && work.starts.0 <= wall.0 {
            work.begin(now, wall, Author::Automatic, events);
        }
        if work.phase == WorkPhase::InProgress && work.ends.0 <= wall.0 {
            let text = WorkText::Template { key: WorkTemplate::WorkEnded };
            work.end(now, wall, WorkPhase::Completed, Author::Automatic, text, events);
        }
    }
    let over: Vec<String> =
        state.interventions.values().filter(|work| work.phase.is_over()).map(|work| work.id.clone()).collect();
    for id in over.iter().take(over.len().saturating_sub(MAX_OVER)) {
        state.interventions.remove(id);
    }
}

impl Intervention {
    fn begin(&mut self, now: LogTime, wall: Wall, by: Author, events: &mut Vec<InterventionEvent>) {
        self.phase = WorkPhase::InProgress;
        self.started = Some(wall);
        events.push(InterventionEvent::Started { intervention: self.id.clone(), by: by.clone() });
        self.say(now, wall, by, WorkText::Template { key: WorkTemplate::WorkStarted }, events);
    }

    fn end(
        &mut self,
        now: LogTime,
        wall: Wall,
        phase: WorkPhase,
        by: Author,
        text: WorkText,
        events: &mut Vec<InterventionEvent>,
    ) {
        self.phase = phase;
        self.ended = Some(wall);
        self.say(now, wall, by.clone(), text, events);
        events.push(InterventionEvent::Ended { intervention: self.id.clone(), phase, by });
    }

    fn say(&mut self, now: LogTime, wall: Wall, by: Author, text: WorkText, events: &mut Vec<InterventionEvent>) {
        let update = WorkUpdate { log: now, wall, phase: self.phase, by, text };
        if self.updates.len() >= MAX_UPDATES {
            self.updates.remove(1);
        }
        self.updates.push(update.clone());
        events.push(InterventionEvent::Updated { intervention: self.id.clone(), update });
    }
}
