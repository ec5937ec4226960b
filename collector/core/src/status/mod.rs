//! Service states, the BCP procedures, the incidents and the planned work: what the public page says.
//!
//! Knows: what the observers together say of each service, since when, and what the public was told. Refuses to know:
//! checks and hosts (votes carry the outcome) and the words of a language (automatic texts are template keys).
//!
//! Invariants:
//! * a state is what two of three observers agree on; with fewer than two that know, it is unknown, never good;
//! * an incident opens and resolves by agreed transitions; unknown resolves nothing;
//! * a human text has every language, or names the one that stands in for those that are missing;
//! * [`State`] and the policy are all that the public page needs.

pub mod agree;
pub mod days;
pub mod incident;
pub mod intervention;
pub mod procedure;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Id, Site};

use crate::policy::Policy;
use crate::time::{LogTime, Wall};

pub use days::{DAYS_KEPT, Day, Frozen};
pub use incident::{Author, Incident, IncidentPhase, IncidentUpdate, Text};
pub use intervention::{Intervention, InterventionCommand, InterventionEvent, Plan, WorkPhase, WorkText};
pub use procedure::{Procedure, ProcedurePhase};

/// Languages of the public page. A text for people has all of them.
pub const LANGUAGES: [&str; 4] = ["nl", "fr", "de", "en"];
/// Votes of an observer that said nothing for this much log time count as unknown.
pub const VOTE_EXPIRY_MS: u64 = 10_000;
/// Two observers that differ leave the state as it is for this long: one is only quicker than the other.
pub const DISAGREE_MS: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    Up,
    Planned,
    Degraded,
    Down,
    #[default]
    Unknown,
}

impl ServiceStatus {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ServiceStatus::Up => "up",
            ServiceStatus::Planned => "planned",
            ServiceStatus::Degraded => "degraded",
            ServiceStatus::Down => "down",
            ServiceStatus::Unknown => "unknown",
        }
    }
}

/// What one serve process sees of the services; expires like an observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceVotes {
    pub observer: Site,
    pub session: u64,
    /// As of an observation: one that was overtaken is ignored.
    #[serde(default)]
    pub seq: u64,
    pub services: BTreeMap<Id, ServiceSight>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSight {
    /// As its users see it.
    pub status: ServiceStatus,
    /// Per site, where checks tell sites apart.
    pub by_site: BTreeMap<Site, ServiceStatus>,
    pub explain: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum IncidentCommand {
    /// A human text in place of, or after, the automatic one. Every language, or an explicit fallback.
    Update {
        incident: String,
        text: BTreeMap<String, String>,
        next_update_in_ms: Option<u64>,
        /// Language that is shown, labelled as such, where another one is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
    Resolve {
        incident: String,
        text: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    pub services: BTreeMap<Id, Service>,
    /// By id; the unresolved ones and the last [`incident::MAX_INCIDENTS`] others.
    pub incidents: BTreeMap<String, Incident>,
    /// Number of the last incident.
    pub incident_count: u64,
    /// By id; those that are not over and the last [`intervention::MAX_OVER`] others.
    #[serde(default)]
    pub interventions: BTreeMap<String, Intervention>,
    /// Number of the last intervention.
    #[serde(default)]
    pub intervention_count: u64,
    pub votes: BTreeMap<Site, Vote>,
    /// Log and wall time of the last tick.
    pub ticked: Option<(LogTime, Wall)>,
}

/// What one tick changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judged {
    pub interventions: Vec<InterventionEvent>,
    pub services: Vec<ServiceEvent>,
    pub incidents: Vec<IncidentEvent>,
}

/// The last votes of one observer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    pub session: u64,
    pub heard: LogTime,
    pub services: BTreeMap<Id, ServiceSight>,
}

/// One service as agreed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Service {
    pub status: ServiceStatus,
    pub since: LogTime,
    pub since_wall: Wall,
    pub by_site: BTreeMap<Site, SiteStatus>,
    /// What decided it, for operators; never shown to the public.
    pub reason: String,
    /// Observers that know its state now.
    pub known: u8,
    pub disagree_since: Option<LogTime>,
    /// By profession.
    pub procedures: BTreeMap<String, Procedure>,
    /// The unresolved incident it is part of.
    pub incident: Option<String>,
    /// Oldest first, at most [`DAYS_KEPT`].
    pub days: Vec<Day>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SiteStatus {
    pub status: ServiceStatus,
    pub since: LogTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ServiceEvent {
    Changed { service: Id, from: ServiceStatus, to: ServiceStatus, reason: String },
    SiteChanged { service: Id, site: Site, from: ServiceStatus, to: ServiceStatus },
    Procedure { service: Id, profession: String, from: ProcedurePhase, to: ProcedurePhase },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum IncidentEvent {
    Opened {
        incident: String,
        services: Vec<Id>,
    },
    /// A further service is part of it.
    Joined {
        incident: String,
        service: Id,
    },
    Updated {
        incident: String,
        update: IncidentUpdate,
    },
    Resolved {
        incident: String,
        by: Author,
    },
}

impl ServiceEvent {
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            ServiceEvent::Changed { service, .. }
            | ServiceEvent::SiteChanged { service, .. }
            | ServiceEvent::Procedure { service, .. } => format!("service:{service}"),
        }
    }

    /// One English sentence, complete without context.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            ServiceEvent::Changed { service, from, to, reason } => {
                format!("Service {service} went from {} to {}: {reason}.", from.as_str(), to.as_str())
            }
            ServiceEvent::SiteChanged { service, site, from, to } => {
                format!("Service {service} at site {site} went from {} to {}.", from.as_str(), to.as_str())
            }
            ServiceEvent::Procedure { service, profession, from, to } => {
                format!(
                    "BCP procedure of service {service} for {profession} went from {} to {}.",
                    from.words(),
                    to.words()
                )
            }
        }
    }
}

impl IncidentEvent {
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            IncidentEvent::Opened { incident, .. }
            | IncidentEvent::Joined { incident, .. }
            | IncidentEvent::Updated { incident, .. }
            | IncidentEvent::Resolved { incident, .. } => format!("incident:{incident}"),
        }
    }

    /// Operator who caused it; none where it follows from the service states.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        match self {
            IncidentEvent::Opened { .. } | IncidentEvent::Joined { .. } => None,
            IncidentEvent::Updated { update, .. } => update.by.operator(),
            IncidentEvent::Resolved { by, .. } => by.operator(),
        }
    }

    /// One English sentence, complete without context.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            IncidentEvent::Opened { incident, services } => {
                let names: Vec<&str> = services.iter().map(Id::as_str).collect();
                format!("Incident {incident} opened for {}.", names.join(", "))
            }
            IncidentEvent::Joined { incident, service } => format!("Service {service} joined incident {incident}."),
            IncidentEvent::Updated { incident, update } => {
                format!("Incident {incident} updated: {}.", update.text.for_operators().trim_end_matches('.'))
            }
            IncidentEvent::Resolved { incident, by: Author::Automatic } => {
                format!("Incident {incident} resolved: its services are up again.")
            }
            IncidentEvent::Resolved { incident, by: Author::Operator { name } } => {
                format!("{name} resolved incident {incident}.")
            }
        }
    }
}

impl State {
    /// Takes in what one observer sees; judged by [`State::tick`].
    pub fn on_votes(&mut self, now: LogTime, votes: &ServiceVotes) {
        let vote = Vote { session: votes.session, heard: now, services: votes.services.clone() };
        self.votes.insert(votes.observer, vote);
    }

    /// # Errors
    /// One English sentence for the operator: what is wrong with the command.
    pub fn on_command(
        &mut self,
        now: LogTime,
        wall: Wall,
        operator: &str,
        command: &IncidentCommand,
    ) -> Result<Vec<IncidentEvent>, String> {
        incident::on_command(self, now, wall, operator, command)
    }

    /// # Errors
    /// One English sentence for the operator: what is wrong with the command.
    pub fn on_intervention(
        &mut self,
        now: LogTime,
        wall: Wall,
        operator: &str,
        command: &InterventionCommand,
    ) -> Result<Vec<InterventionEvent>, String> {
        intervention::on_command(self, now, wall, operator, command)
    }

    /// Judges everything at `now`; `wall` labels what changes.
    pub fn tick(&mut self, now: LogTime, wall: Wall, policy: &Policy) -> Judged {
        let mut judged = Judged::default();
        days::accrue(self, now, wall);
        intervention::follow(self, now, wall, &mut judged.interventions);
        agree::judge(self, now, wall, policy, &mut judged.services);
        incident::follow(self, now, wall, &mut judged.incidents);
        procedure::follow(self, now, wall, policy, &mut judged.services);
        self.ticked = Some((now, wall));
        judged
    }

    /// Agreed status of a service as its users see it.
    #[must_use]
    pub fn status(&self, service: &Id) -> ServiceStatus {
        self.services.get(service).map_or(ServiceStatus::Unknown, |known| known.status)
    }

    /// Agreed status of a service at one site, and since when.
    #[must_use]
    pub fn at_site(&self, service: &Id, site: Site) -> SiteStatus {
        self.services.get(service).and_then(|known| known.by_site.get(&site)).copied().unwrap_or_default()
    }
}
