//! From the agreed state to what the page says. The only place of the public page that knows core's types of state.
//!
//! Nothing of the replica is read that moves on after its publication point: a change of any state makes a new point, and
//! what runs on without one (the running day, who votes) is taken from [`bcp_core::status::Frozen`], as it was at the point.
//! So whoever renders a publication, and however late, makes the same bytes.

use std::collections::BTreeMap;

use bcp_core::policy::{Policy, ServicePolicy};
use bcp_core::replica::Replica;
use bcp_core::status::incident::{Incident, IncidentUpdate};
use bcp_core::status::intervention::{Intervention, WorkUpdate};
use bcp_core::status::{Author, IncidentPhase, ProcedurePhase, Service, ServiceStatus, Text, WorkText};
use bcp_core::time::Wall;
use bcp_wire::{Id, Site};

use super::lang::{Lang, Localised};
use super::model::{
    Day, HISTORY_DAYS, MAX_CLOSED_INCIDENTS, MAX_UPDATES, MAX_WORKS_OVER, Procedure, PublicIncident, PublicModel,
    PublicService, PublicUpdate, PublicWork, PublicWorkUpdate,
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
    let (incidents, works) = (incidents(replica, policy), works(replica));
    Some(PublicModel {
        sequence: replica.publication.sequence,
        as_of: replica.publication.as_of,
        valid_until: replica.publication.valid_until,
        last_change: last_change(&services, &incidents, &works),
        agreeing: agreeing(replica),
        services,
        incidents,
        works,
    })
}

/// Observers that had a say at the point, of the three.
fn agreeing(replica: &Replica) -> Option<(u8, u8)> {
    Some((replica.publication.frozen.observers, u8::try_from(Site::ALL.len()).ok()?))
}

fn last_change(services: &[PublicService], incidents: &[PublicIncident], works: &[PublicWork]) -> Option<Wall> {
    let of_services = services.iter().flat_map(|service| [service.since, service.procedure.since]).flatten();
    let of_incidents = incidents.iter().flat_map(|incident| incident.updates.first()).map(PublicUpdate::changed);
    let of_works = works.iter().filter(|work| !work.updates.is_empty()).map(PublicWork::updated);
    of_services.chain(of_incidents).chain(of_works).max_by_key(|at| at.0)
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
        days: known.map(|service| days(replica, id, service)).unwrap_or_default(),
    }
}

/// One word for all professions: the furthest that any of them is.
fn procedure(known: Option<&Service>, policy: &ServicePolicy) -> Procedure {
    let furthest = known
        .into_iter()
        .flat_map(|service| service.procedures.values())
        .max_by_key(|procedure| (rank(procedure.phase), std::cmp::Reverse(procedure.since_wall.0)));
    let state = furthest.map_or(ProcedurePhase::Off, |procedure| procedure.phase);
    let since = furthest.filter(|_| state != ProcedurePhase::Off).map(|procedure| procedure.since_wall);
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

/// The last 90 days up to the publication point.
fn days(replica: &Replica, id: &Id, service: &Service) -> Vec<Day> {
    let today = day_number(replica.publication.as_of);
    let mut days = replica.publication.frozen.days(id, service);
    days.retain(|day| day.day <= today && day.day > today - HISTORY_DAYS as i64);
    days
}

/// Open ones first, then the last closed ones, newest first.
fn incidents(replica: &Replica, policy: &Policy) -> Vec<PublicIncident> {
    let mut all: Vec<&Incident> = replica.services.incidents.values().collect();
    all.sort_by_key(|incident| std::cmp::Reverse((incident.opened, incident.id.clone())));
    let (closed, open): (Vec<&Incident>, Vec<&Incident>) =
        all.into_iter().partition(|incident| incident.phase == IncidentPhase::Resolved);
    let shown = open.into_iter().chain(closed.into_iter().take(MAX_CLOSED_INCIDENTS));
    shown.map(|found| incident(found, policy)).collect()
}

fn incident(incident: &Incident, policy: &Policy) -> PublicIncident {
    let names = names(&incident.services, policy);
    let title = match incident.worst {
        _ if incident.phase == IncidentPhase::Monitoring => "incident-title-resolved",
        ServiceStatus::Down => "incident-title-down",
        ServiceStatus::Degraded => "incident-title-degraded",
        ServiceStatus::Up | ServiceStatus::Planned | ServiceStatus::Unknown => "incident-title-unknown",
    };
    PublicIncident {
        id: incident.id.clone(),
        title: Localised::from_message(title, &names),
        impact: incident.worst,
        phase: incident.phase,
        opened: incident.opened_wall,
        resolved: incident.resolved_wall,
        next_update_due: incident.next_update_wall.filter(|_| incident.phase != IncidentPhase::Resolved),
        services: incident.services.iter().map(Id::to_string).collect(),
        updates: numbered(&incident.updates, |update| update.wall)
            .into_iter()
            .map(|(id, found)| update(id, found, policy))
            .collect(),
    }
}

/// The newest updates with a name each: its time, and a number where several came at once.
fn numbered<T>(updates: &[T], at: impl Fn(&T) -> Wall) -> Vec<(String, &T)> {
    let mut named: Vec<(String, &T)> = Vec::new();
    let mut same = 0;
    for (n, update) in updates.iter().enumerate() {
        let before = n.checked_sub(1).and_then(|before| updates.get(before));
        same = if before.is_some_and(|before| at(before) == at(update)) { same + 1 } else { 0 };
        let time = at(update).0;
        named.push((if same == 0 { time.to_string() } else { format!("{time}-{same}") }, update));
    }
    named.reverse();
    named.truncate(MAX_UPDATES);
    named
}

fn update(id: String, update: &IncidentUpdate, policy: &Policy) -> PublicUpdate {
    let text = match &update.text {
        Text::Template { key, service } => {
            Localised::from_message(key.as_str(), &names(std::slice::from_ref(service), policy))
        }
        Text::Human { text, fallback } => human(text, fallback.as_deref()),
    };
    let automatic = matches!(update.by, Author::Automatic);
    PublicUpdate { id, at: update.wall, replaced: update.replaced_wall, phase: update.phase, text, automatic }
}

/// What is not over by its hour, then the last of what is, newest first.
fn works(replica: &Replica) -> Vec<PublicWork> {
    let all = replica.services.interventions.values();
    let (mut over, mut open): (Vec<&Intervention>, Vec<&Intervention>) = all.partition(|work| work.phase.is_over());
    open.sort_by_key(|work| (work.starts.0, &work.id));
    over.sort_by_key(|work| std::cmp::Reverse((work.ended, &work.id)));
    open.into_iter().chain(over.into_iter().take(MAX_WORKS_OVER)).map(work).collect()
}

fn work(work: &Intervention) -> PublicWork {
    let title = match &work.title {
        Text::Human { text, fallback } => human(text, fallback.as_deref()),
        Text::Template { key, .. } => Localised::from_message(key.as_str(), &Localised::default()),
    };
    let updates = numbered(&work.updates, |update| update.wall);
    PublicWork {
        id: work.id.clone(),
        title,
        services: work.services.iter().map(Id::to_string).collect(),
        phase: work.phase,
        starts: work.starts,
        ends: work.ends,
        ended: work.ended,
        updates: updates.into_iter().map(|(id, update)| work_update(id, update)).collect(),
    }
}

fn work_update(id: String, update: &WorkUpdate) -> PublicWorkUpdate {
    let text = match &update.text {
        WorkText::Template { key } => Localised::from_message(key.as_str(), &Localised::default()),
        WorkText::Human { text, fallback } => human(text, fallback.as_deref()),
    };
    let automatic = matches!(update.by, Author::Automatic);
    PublicWorkUpdate { id, at: update.wall, phase: update.phase, text, automatic }
}

fn human(text: &BTreeMap<String, String>, fallback: Option<&str>) -> Localised {
    Localised { texts: text.clone(), fallback: fallback.and_then(Lang::from_code) }
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

    #[test]
    fn nothing_is_published_before_the_first_point() {
        assert!(public_model(&Replica::default()).is_none());
    }
}
