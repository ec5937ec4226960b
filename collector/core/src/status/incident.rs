//! Incidents: what the public is told, automatically first and by people after.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::Id;

use super::{IncidentCommand, IncidentEvent, LANGUAGES, ServiceStatus, State};
use crate::time::{LogTime, Wall};

/// A service must be down this long before the public is told: a blip is not an incident.
pub const DOWN_BEFORE_INCIDENT_MS: u64 = 5_000;
pub const DEGRADED_BEFORE_INCIDENT_MS: u64 = 20_000;
/// Services that fail within this time of an incident's start are part of it.
pub const JOIN_MS: u64 = 30_000;
/// All its services up for this long resolve it.
pub const UP_BEFORE_RESOLVE_MS: u64 = 60_000;
/// Promise in the first, automatic notice.
pub const FIRST_NEXT_UPDATE_MS: u64 = 30 * 60_000;
/// Resolved incidents kept in the state; the ledger has all.
pub const MAX_INCIDENTS: usize = 100;
/// Updates kept per incident, newest last, the first one always.
pub const MAX_UPDATES: usize = 50;
/// Longest text in one language, in bytes.
pub const MAX_TEXT_BYTES: usize = 4_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    pub id: String,
    pub services: Vec<Id>,
    pub phase: IncidentPhase,
    /// Worst state that one of its services had.
    pub worst: ServiceStatus,
    pub opened: LogTime,
    pub opened_wall: Wall,
    pub resolved: Option<LogTime>,
    pub resolved_wall: Option<Wall>,
    /// When the reader will hear more; a label.
    pub next_update_wall: Option<Wall>,
    /// Oldest first.
    pub updates: Vec<IncidentUpdate>,
    /// All services up since.
    pub up_since: Option<LogTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IncidentPhase {
    /// Known to the machines.
    Investigating,
    /// People have spoken.
    Identified,
    /// Services are up again, and it is watched.
    Monitoring,
    Resolved,
}

impl IncidentPhase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            IncidentPhase::Investigating => "investigating",
            IncidentPhase::Identified => "identified",
            IncidentPhase::Monitoring => "monitoring",
            IncidentPhase::Resolved => "resolved",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncidentUpdate {
    pub log: LogTime,
    pub wall: Wall,
    pub phase: IncidentPhase,
    pub by: Author,
    pub text: Text,
    /// When a person's words took the place of the automatic ones; `wall` stays the time of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_wall: Option<Wall>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Author {
    Automatic,
    Operator { name: String },
}

impl IncidentUpdate {
    /// What the machines said of a fault, to which no person has said anything yet.
    fn is_first_word(&self) -> bool {
        self.by == Author::Automatic && self.phase == IncidentPhase::Investigating
    }
}

impl Author {
    #[must_use]
    pub fn operator(&self) -> Option<&str> {
        match self {
            Author::Automatic => None,
            Author::Operator { name } => Some(name),
        }
    }
}

/// A text for the public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Text {
    /// A message of the page's translations: one of [`Template`], for this service (its title is in the policy).
    Template { key: Template, service: Id },
    /// By language. Where one is missing, `fallback` is shown and labelled.
    Human { text: BTreeMap<String, String>, fallback: Option<String> },
}

/// Automatic messages. The locales have each of them, in every language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Template {
    IncidentServiceDown,
    IncidentServiceDegraded,
    IncidentServiceRestored,
    IncidentResolved,
}

impl Template {
    pub const ALL: [Template; 4] = [
        Template::IncidentServiceDown,
        Template::IncidentServiceDegraded,
        Template::IncidentServiceRestored,
        Template::IncidentResolved,
    ];

    /// Message id in the locales.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Template::IncidentServiceDown => "incident-service-down",
            Template::IncidentServiceDegraded => "incident-service-degraded",
            Template::IncidentServiceRestored => "incident-service-restored",
            Template::IncidentResolved => "incident-resolved",
        }
    }
}

impl Text {
    /// The English text, or the template's name.
    #[must_use]
    pub fn for_operators(&self) -> String {
        match self {
            Text::Template { key, service } => format!("{} ({service})", key.as_str()),
            Text::Human { text, .. } => text.get("en").or_else(|| text.values().next()).cloned().unwrap_or_default(),
        }
    }
}

/// Opens, extends and resolves incidents after the agreed service states.
pub(super) fn follow(state: &mut State, now: LogTime, wall: Wall, events: &mut Vec<IncidentEvent>) {
    open(state, now, wall, events);
    let State { services, incidents, .. } = state;
    for incident in incidents.values_mut().filter(|incident| incident.phase != IncidentPhase::Resolved) {
        // A service that left the policy is nobody's concern any more; it must not keep its incident open for ever.
        let statuses: Vec<(Id, ServiceStatus)> =
            incident.services.iter().filter_map(|id| Some((id.clone(), services.get(id)?.status))).collect();
        if statuses.iter().any(|(_, status)| *status == ServiceStatus::Down) {
            incident.worst = ServiceStatus::Down;
        }
        let all_up = statuses.iter().all(|(_, status)| matches!(status, ServiceStatus::Up | ServiceStatus::Planned));
        if !all_up {
            let is_bad = |status: &ServiceStatus| matches!(status, ServiceStatus::Down | ServiceStatus::Degraded);
            if let Some((id, status)) = statuses.iter().find(|(_, status)| is_bad(status))
                && incident.phase == IncidentPhase::Monitoring
            {
                // Back down while it was watched: say so, with the service that did it.
                let text = failed(id, *status);
                incident.say(now, wall, IncidentPhase::Investigating, Author::Automatic, text, events);
            }
            // Unknown neither resolves nor reopens: the time just does not count.
            incident.up_since = None;
            continue;
        }
        let since = *incident.up_since.get_or_insert(now);
        let Some(first) = statuses.first().map(|(id, _)| id).or(incident.services.first()).cloned() else { continue };
        if incident.phase != IncidentPhase::Monitoring {
            let text = Text::Template { key: Template::IncidentServiceRestored, service: first };
            incident.say(now, wall, IncidentPhase::Monitoring, Author::Automatic, text, events);
        } else if now.since(since) >= UP_BEFORE_RESOLVE_MS {
            let text = Text::Template { key: Template::IncidentResolved, service: first };
            incident.resolve(now, wall, Author::Automatic, text, events);
        }
    }
    release(state);
    forget(state);
}

fn open(state: &mut State, now: LogTime, wall: Wall, events: &mut Vec<IncidentEvent>) {
    let failed_services: Vec<(Id, ServiceStatus)> = state
        .services
        .iter()
        .filter(|(_, service)| service.incident.is_none())
        .filter(|(_, service)| match service.status {
            ServiceStatus::Down => now.since(service.since) >= DOWN_BEFORE_INCIDENT_MS,
            ServiceStatus::Degraded => now.since(service.since) >= DEGRADED_BEFORE_INCIDENT_MS,
            ServiceStatus::Up | ServiceStatus::Planned | ServiceStatus::Unknown => false,
        })
        .map(|(id, service)| (id.clone(), service.status))
        .collect();
    for (id, status) in failed_services {
        let recent = state
            .incidents
            .values_mut()
            .find(|incident| incident.phase == IncidentPhase::Investigating && now.since(incident.opened) <= JOIN_MS);
        let key = match recent {
            Some(incident) => {
                incident.services.push(id.clone());
                events.push(IncidentEvent::Joined { incident: incident.id.clone(), service: id.clone() });
                incident.worst = incident.worst.max(status);
                incident.say(now, wall, IncidentPhase::Investigating, Author::Automatic, failed(&id, status), events);
                incident.id.clone()
            }
            None => {
                state.incident_count += 1;
                let mut incident = Incident::new(state.incident_count, &id, status, now, wall);
                events.push(IncidentEvent::Opened { incident: incident.id.clone(), services: vec![id.clone()] });
                incident.say(now, wall, IncidentPhase::Investigating, Author::Automatic, failed(&id, status), events);
                let key = incident.id.clone();
                state.incidents.insert(key.clone(), incident);
                key
            }
        };
        if let Some(service) = state.services.get_mut(&id) {
            service.incident = Some(key);
        }
    }
}

fn failed(service: &Id, status: ServiceStatus) -> Text {
    let key = match status {
        ServiceStatus::Degraded => Template::IncidentServiceDegraded,
        ServiceStatus::Down | ServiceStatus::Up | ServiceStatus::Planned | ServiceStatus::Unknown => {
            Template::IncidentServiceDown
        }
    };
    Text::Template { key, service: service.clone() }
}

/// Services of resolved incidents are free for a new one.
fn release(state: &mut State) {
    for service in state.services.values_mut() {
        let over = service
            .incident
            .as_ref()
            .is_some_and(|id| state.incidents.get(id).is_none_or(|incident| incident.phase == IncidentPhase::Resolved));
        if over {
            service.incident = None;
        }
    }
}

/// Keeps the newest resolved incidents. Ids sort by age.
fn forget(state: &mut State) {
    let resolved: Vec<String> = state
        .incidents
        .values()
        .filter(|incident| incident.phase == IncidentPhase::Resolved)
        .map(|incident| incident.id.clone())
        .collect();
    for id in resolved.iter().take(resolved.len().saturating_sub(MAX_INCIDENTS)) {
        state.incidents.remove(id);
    }
}

impl Incident {
    fn new(number: u64, service: &Id, status: ServiceStatus, now: LogTime, wall: Wall) -> Incident {
        Incident {
            id: format!("inc-{number:06}"),
            services: vec![service.clone()],
            phase: IncidentPhase::Investigating,
            worst: status,
            opened: now,
            opened_wall: wall,
            resolved: None,
            resolved_wall: None,
            next_update_wall: Some(later(wall, FIRST_NEXT_UPDATE_MS)),
            updates: Vec::new(),
            up_since: None,
        }
    }

    fn say(
        &mut self,
        now: LogTime,
        wall: Wall,
        phase: IncidentPhase,
        by: Author,
        text: Text,
        events: &mut Vec<IncidentEvent>,
    ) {
        self.phase = phase;
        let update = IncidentUpdate { log: now, wall, phase, by, text, replaced_wall: None };
        if self.updates.len() >= MAX_UPDATES {
            self.updates.remove(1);
        }
        self.updates.push(update.clone());
        events.push(IncidentEvent::Updated { incident: self.id.clone(), update });
    }

    /// A person's words. They take the place of the automatic notice that they answer, at its time; later ones follow.
    fn tell(
        &mut self,
        now: LogTime,
        wall: Wall,
        phase: IncidentPhase,
        by: Author,
        text: Text,
        events: &mut Vec<IncidentEvent>,
    ) {
        let Some(last) = self.updates.last_mut().filter(|last| last.is_first_word()) else {
            return self.say(now, wall, phase, by, text, events);
        };
        (last.phase, last.by, last.text, last.replaced_wall) = (phase, by, text, Some(wall));
        self.phase = phase;
        let update = last.clone();
        events.push(IncidentEvent::Updated { incident: self.id.clone(), update });
    }

    fn resolve(&mut self, now: LogTime, wall: Wall, by: Author, text: Text, events: &mut Vec<IncidentEvent>) {
        self.say(now, wall, IncidentPhase::Resolved, by.clone(), text, events);
        self.resolved = Some(now);
        self.resolved_wall = Some(wall);
        self.next_update_wall = None;
        events.push(IncidentEvent::Resolved { incident: self.id.clone(), by });
    }
}

fn later(wall: Wall, ms: u64) -> Wall {
    Wall(wall.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)))
}

/// The latest promise an update may make: after a day without news a page is dead.
pub const MAX_NEXT_UPDATE_MS: u64 = 24 * 3_600_000;

pub(super) fn on_command(
    state: &mut State,
    now: LogTime,
    wall: Wall,
    operator: &str,
    command: &IncidentCommand,
) -> Result<Vec<IncidentEvent>, String> {
    let mut events = Vec::new();
    let by = Author::Operator { name: operator.to_owned() };
    match command {
        IncidentCommand::Update { incident, text, next_update_in_ms, fallback } => {
            let text = gate(text, fallback.as_deref())?;
            if next_update_in_ms.is_some_and(|ms| ms > MAX_NEXT_UPDATE_MS) {
                return Err("the next update is due within 24 hours".to_owned());
            }
            let incident = unresolved(state, incident)?;
            let phase = match incident.phase {
                IncidentPhase::Monitoring => IncidentPhase::Monitoring,
                IncidentPhase::Investigating | IncidentPhase::Identified | IncidentPhase::Resolved => {
                    IncidentPhase::Identified
                }
            };
            incident.tell(now, wall, phase, by, text, &mut events);
            incident.next_update_wall = next_update_in_ms.map(|ms| later(wall, ms));
        }
        IncidentCommand::Resolve { incident, text, fallback } => {
            let text = gate(text, fallback.as_deref())?;
            let id = unresolved(state, incident)?.id.clone();
            let bad: Vec<&str> = state
                .services
                .iter()
                .filter(|(_, service)| service.incident.as_deref() == Some(id.as_str()))
                .filter(|(_, service)| matches!(service.status, ServiceStatus::Down | ServiceStatus::Degraded))
                .map(|(id, _)| id.as_str())
                .collect();
            if !bad.is_empty() {
                return Err(format!("not resolved: {} is not up", bad.join(", ")));
            }
            unresolved(state, &id)?.resolve(now, wall, by, text, &mut events);
            release(state);
            forget(state);
        }
    }
    Ok(events)
}

fn unresolved<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Incident, String> {
    match state.incidents.get_mut(id) {
        None => Err(format!("there is no incident `{id}`")),
        Some(incident) if incident.phase == IncidentPhase::Resolved => Err(format!("incident {id} is resolved")),
        Some(incident) => Ok(incident),
    }
}

/// The language gate: every language, or an explicit stand-in.
pub(super) fn gate(text: &BTreeMap<String, String>, fallback: Option<&str>) -> Result<Text, String> {
    if let Some(other) = text.keys().find(|language| !LANGUAGES.contains(&language.as_str())) {
        return Err(format!("`{other}` is no language of the page: nl, fr, de, en"));
    }
    if let Some((language, _)) = text.iter().find(|(_, text)| text.len() > MAX_TEXT_BYTES) {
        return Err(format!("the text in {language} is longer than {MAX_TEXT_BYTES} bytes"));
    }
    let spoken = |language: &str| text.get(language).is_some_and(|text| !text.trim().is_empty());
    let missing: Vec<&str> = LANGUAGES.into_iter().filter(|language| !spoken(language)).collect();
    match fallback {
        None if !missing.is_empty() => Err(format!(
            "the text is missing in {}; give every language, or name the one that stands in for them",
            missing.join(", ")
        )),
        Some(language) if !spoken(language) => Err(format!("the stand-in language `{language}` has no text itself")),
        None | Some(_) => {
            let text = text
                .iter()
                .filter(|(_, text)| !text.trim().is_empty())
                .map(|(language, text)| (language.clone(), text.trim().to_owned()))
                .collect();
            Ok(Text::Human { text, fallback: fallback.map(str::to_owned) })
        }
    }
}
