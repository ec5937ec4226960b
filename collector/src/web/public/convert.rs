//! From the agreed state to what the page says. The only place of the public page that knows core's types of state.
//!
//! Times are those of the publication point, never of the replica handed in: a change of any state makes a new point, so
//! between two points only the counters of the running day move on, and those are taken back to the point.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::policy::{Policy, ServicePolicy};
use bcp_core::replica::Replica;
use bcp_core::status::incident::Incident;
use bcp_core::status::{self, Author, ProcedurePhase, Service, ServiceStatus, Text};
use bcp_core::time::Wall;
use bcp_wire::{Id, Site};

use super::lang::{Lang, Localised};
use super::model::{
    Day, HISTORY_DAYS, IncidentPhase, MAX_CLOSED_INCIDENTS, MAX_UPDATES, Procedure, ProcedureState, PublicIncident,
    PublicModel, PublicService, PublicUpdate,
};
use super::when::day_number;

/// `None` before the first publication point.
#[must_use]
pub fn public_model(replica: &Replica) -> Option<PublicModel> {
    let policy = replica.policy.as_ref()?;
    if replica.publication.sequence == 0 {
        return None;
    }
    let mut ordered: Vec<_> = policy.services.iter().collect();
    ordered.sort_by_key(|(id, service)| (service.order, *id));
    let services: Vec<PublicService> = ordered.into_iter().map(|(id, policy)| service(replica, id, policy)).collect();
    let incidents = incidents(replica, policy);
    Some(PublicModel {
        sequence: replica.publication.sequence,
        as_of: replica.publication.as_of,
        valid_until: replica.publication.valid_until,
        last_change: last_change(&services, &incidents),
        agreeing: agreeing(replica),
        services,
        incidents,
    })
}

/// Observers whose votes were standing, of the three.
fn agreeing(replica: &Replica) -> Option<(u8, u8)> {
    let sites: BTreeSet<Site> = replica.services.votes.keys().copied().collect();
    Some((u8::try_from(sites.len()).ok()?, u8::try_from(Site::ALL.len()).ok()?))
}

fn last_change(services: &[PublicService], incidents: &[PublicIncident]) -> Option<Wall> {
    let of_services = services.iter().flat_map(|service| [service.since, service.procedure.since]).flatten();
    let of_incidents = incidents.iter().flat_map(|incident| incident.updates.first()).map(|update| update.at);
    of_services.chain(of_incidents).max_by_key(|at| at.0)
}

fn service(replica: &Replica, id: &Id, policy: &ServicePolicy) -> PublicService {
    let known = replica.services.services.get(id);
    let incident = known.and_then(|service| service.incident.clone());
    let next_update_due = incident
        .as_ref()
        .and_then(|incident| replica.services.incidents.get(incident))
        .and_then(|incident| incident.next_update_wall);
    PublicService {
        id: id.to_string(),
        title: Localised::from(&policy.title),
        summary: Localised::from(&policy.summary),
        status: known.map_or(ServiceStatus::Unknown, |service| service.status),
        since: known.map(|service| service.since_wall),
        effect: by_profession(&policy.effect),
        still_works: Localised::from(&policy.still_works),
        procedure: procedure(known, policy),
        contact: Localised::from(&policy.contact),
        incident,
        next_update_due,
        days: known.map(|service| days(replica, service)).unwrap_or_default(),
    }
}

/// One word for all professions: the furthest that any of them is.
fn procedure(known: Option<&Service>, policy: &ServicePolicy) -> Procedure {
    let furthest = known
        .into_iter()
        .flat_map(|service| service.procedures.values())
        .max_by_key(|procedure| (rank(procedure.phase), std::cmp::Reverse(procedure.since_wall.0)));
    let state = furthest.map_or(ProcedureState::Off, |procedure| state_of(procedure.phase));
    let since = furthest.filter(|_| state != ProcedureState::Off).map(|procedure| procedure.since_wall);
    Procedure { state, since, steps: by_profession(&policy.procedure) }
}

const fn rank(phase: ProcedurePhase) -> u8 {
    match phase {
        ProcedurePhase::Off => 0,
        ProcedurePhase::Armed => 1,
        ProcedurePhase::StandingDown => 2,
        ProcedurePhase::On => 3,
    }
}

const fn state_of(phase: ProcedurePhase) -> ProcedureState {
    match phase {
        ProcedurePhase::Off => ProcedureState::Off,
        ProcedurePhase::Armed => ProcedureState::Armed,
        ProcedurePhase::On => ProcedureState::On,
        ProcedurePhase::StandingDown => ProcedureState::StandingDown,
    }
}

/// The last 90 days up to the publication point.
fn days(replica: &Replica, service: &Service) -> Vec<Day> {
    let mut days: Vec<Day> = service.days.iter().map(day).collect();
    let mut beyond = replica.log_time.since(replica.publication.log_time);
    let today = day_number(replica.publication.as_of);
    // Since the point the service was in its present state: that time is taken off again, newest day first.
    for day in days.iter_mut().rev() {
        let counter = match service.status {
            ServiceStatus::Up => &mut day.up_ms,
            ServiceStatus::Degraded => &mut day.degraded_ms,
            ServiceStatus::Down => &mut day.down_ms,
            ServiceStatus::Planned => &mut day.planned_ms,
            ServiceStatus::Unknown => &mut day.unmeasured_ms,
        };
        let taken = beyond.min(*counter);
        *counter -= taken;
        beyond -= taken;
        if beyond == 0 {
            break;
        }
    }
    days.retain(|day| day.day <= today && day.day > today - HISTORY_DAYS as i64);
    days
}

fn day(day: &status::Day) -> Day {
    Day {
        day: day.day,
        up_ms: day.up_ms,
        degraded_ms: day.degraded_ms,
        down_ms: day.down_ms,
        planned_ms: day.planned_ms,
        unmeasured_ms: day.unmeasured_ms,
    }
}

/// Open ones first, then the last closed ones, newest first.
fn incidents(replica: &Replica, policy: &Policy) -> Vec<PublicIncident> {
    let mut all: Vec<&Incident> = replica.services.incidents.values().collect();
    all.sort_by_key(|incident| std::cmp::Reverse((incident.opened, incident.id.clone())));
    let (closed, open): (Vec<&Incident>, Vec<&Incident>) =
        all.into_iter().partition(|incident| incident.phase == status::IncidentPhase::Resolved);
    let shown = open.into_iter().chain(closed.into_iter().take(MAX_CLOSED_INCIDENTS));
    shown.map(|found| incident(found, policy)).collect()
}

fn incident(incident: &Incident, policy: &Policy) -> PublicIncident {
    let names = names(&incident.services, policy);
    let title = match incident.worst {
        _ if incident.phase == status::IncidentPhase::Monitoring => "incident-title-resolved",
        ServiceStatus::Down => "incident-title-down",
        ServiceStatus::Degraded => "incident-title-degraded",
        ServiceStatus::Up | ServiceStatus::Planned | ServiceStatus::Unknown => "incident-title-unknown",
    };
    PublicIncident {
        id: incident.id.clone(),
        title: Localised::from_message(title, &names),
        impact: incident.worst,
        phase: phase(incident.phase),
        opened: incident.opened_wall,
        resolved: incident.resolved_wall,
        next_update_due: incident.next_update_wall.filter(|_| incident.phase != status::IncidentPhase::Resolved),
        services: incident.services.iter().map(Id::to_string).collect(),
        updates: incident.updates.iter().rev().take(MAX_UPDATES).map(|found| update(found, policy)).collect(),
    }
}

fn update(update: &status::IncidentUpdate, policy: &Policy) -> PublicUpdate {
    let text = match &update.text {
        Text::Template { key, service } => {
            Localised::from_message(key.as_str(), &names(std::slice::from_ref(service), policy))
        }
        Text::Human { text, fallback } => {
            Localised { texts: text.clone(), fallback: fallback.as_deref().and_then(Lang::from_code) }
        }
    };
    PublicUpdate {
        at: update.wall,
        phase: phase(update.phase),
        text,
        automatic: matches!(update.by, Author::Automatic),
    }
}

const fn phase(phase: status::IncidentPhase) -> IncidentPhase {
    match phase {
        status::IncidentPhase::Investigating => IncidentPhase::Investigating,
        status::IncidentPhase::Identified => IncidentPhase::Identified,
        status::IncidentPhase::Monitoring => IncidentPhase::Monitoring,
        status::IncidentPhase::Resolved => IncidentPhase::Resolved,
    }
}

/// The public titles of services, joined. One that left the policy keeps its id, which was public.
fn names(services: &[Id], policy: &Policy) -> Localised {
    let title = |id: &Id, lang: Lang| match policy.services.get(id) {
        Some(service) => Localised::from(&service.title).plain(lang).to_owned(),
        None => id.to_string(),
    };
    let joined = |lang: Lang| services.iter().map(|id| title(id, lang)).collect::<Vec<_>>().join(", ");
    let texts = Lang::ALL.into_iter().map(|lang| (lang.as_str().to_owned(), joined(lang))).collect();
    Localised { texts, fallback: None }
}

type ByProfession = BTreeMap<String, BTreeMap<String, String>>;

fn by_profession(texts: &ByProfession) -> Vec<(String, Localised)> {
    texts.iter().map(|(profession, text)| (profession.clone(), Localised::from(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bcp_core::replica::Publication;
    use bcp_core::time::LogTime;

    const WHOLE: u64 = 86_400_000;

    fn replica() -> Replica {
        let mut replica = Replica {
            log_time: LogTime(100_000),
            publication: Publication {
                sequence: 5,
                as_of: Wall(WHOLE as i64 * 20_000 + 1_000),
                valid_until: Wall(0),
                log_time: LogTime(95_000),
            },
            ..Replica::default()
        };
        let day = |day, up_ms| status::Day { day, up_ms, ..status::Day::default() };
        let service = Service {
            status: ServiceStatus::Up,
            days: vec![day(19_999, WHOLE), day(20_000, 6_000)],
            ..Service::default()
        };
        replica.services.services.insert("x".parse().unwrap(), service);
        replica
    }

    #[test]
    fn the_running_day_is_taken_back_to_the_publication_point() {
        let mut replica = replica();
        let service = replica.services.services[&"x".parse::<Id>().unwrap()].clone();
        assert_eq!(days(&replica, &service).last().unwrap().up_ms, 1_000);
        // A collector that renders two seconds later gets the same.
        replica.log_time = LogTime(102_000);
        let mut later = service;
        later.days.last_mut().unwrap().up_ms += 2_000;
        assert_eq!(days(&replica, &later).last().unwrap().up_ms, 1_000);
    }

    #[test]
    fn nothing_is_published_before_the_first_point() {
        assert!(public_model(&Replica::default()).is_none());
    }
}
