//! The state for machines: the shape that Statuspage made common under `/api/v2/`, and the emergency procedures under
//! `/api/v1/bcp.json`.
//!
//! Beside the known fields, `page` carries `sequence`, `as_of` and `valid_until`. A state that Statuspage has no word for is
//! `unknown`: a client that does not know the word shows no green.

use bcp_core::status::ServiceStatus;
use bcp_core::time::Wall;
use serde_json::{Value, json};

use super::lang::{Lang, Localised};
use super::model::{
    Freshness, IncidentPhase, PublicIncident, PublicModel, PublicService, PublicUpdate, PublicWork, PublicWorkUpdate,
    WorkPhase,
};
use super::when::{day_start, utc};

/// Language of the texts where the shape has room for one only.
const LANG: Lang = Lang::En;
const PAGE_ID: &str = "ehealth";
const PAGE_NAME: &str = "eHealth status";

/// Path and body of every JSON file.
#[must_use]
pub fn files(model: &PublicModel, freshness: Freshness) -> Vec<(&'static str, Vec<u8>)> {
    let out = Out { model, freshness };
    let all: Vec<Value> = model.incidents.iter().map(|incident| out.incident(incident)).collect();
    let open: Vec<Value> = model
        .incidents
        .iter()
        .filter(|incident| incident.phase != IncidentPhase::Resolved)
        .map(|incident| out.incident(incident))
        .collect();
    let (page, status, components) = (out.page(), out.status(), out.components());
    let works: Vec<Value> = model.works.iter().map(|work| out.work(work)).collect();
    let in_phase = |phase: WorkPhase| -> Vec<Value> {
        model.works.iter().filter(|work| work.phase == phase).map(|work| out.work(work)).collect()
    };
    let (active, upcoming) = (in_phase(WorkPhase::InProgress), in_phase(WorkPhase::Scheduled));
    let not_over: Vec<&Value> = active.iter().chain(&upcoming).collect();
    vec![
        (
            "api/v2/summary.json",
            bytes(
                &json!({"page": page, "status": status, "components": components, "incidents": open, "scheduled_maintenances": not_over}),
            ),
        ),
        ("api/v2/status.json", bytes(&json!({"page": page, "status": status}))),
        ("api/v2/components.json", bytes(&json!({"page": page, "components": components}))),
        ("api/v2/incidents.json", bytes(&json!({"page": page, "incidents": all}))),
        ("api/v2/incidents/unresolved.json", bytes(&json!({"page": page, "incidents": open}))),
        ("api/v2/scheduled-maintenances.json", bytes(&json!({"page": page, "scheduled_maintenances": works}))),
        (
            "api/v2/scheduled-maintenances/upcoming.json",
            bytes(&json!({"page": page, "scheduled_maintenances": upcoming})),
        ),
        ("api/v2/scheduled-maintenances/active.json", bytes(&json!({"page": page, "scheduled_maintenances": active}))),
        ("api/v1/bcp.json", bytes(&out.bcp())),
    ]
}

fn bytes(value: &Value) -> Vec<u8> {
    let mut body = value.to_string().into_bytes();
    body.push(b'\n');
    body
}

struct Out<'a> {
    model: &'a PublicModel,
    freshness: Freshness,
}

impl Out<'_> {
    fn state(&self, status: ServiceStatus) -> ServiceStatus {
        match self.freshness {
            Freshness::Current => status,
            Freshness::Expired => ServiceStatus::Unknown,
        }
    }

    fn page(&self) -> Value {
        json!({
            "id": PAGE_ID,
            "name": PAGE_NAME,
            "url": "/",
            "time_zone": "Europe/Brussels",
            "updated_at": utc(self.model.as_of),
            "sequence": self.model.sequence,
            "as_of": utc(self.model.as_of),
            "valid_until": utc(self.model.valid_until),
            "expired": self.freshness == Freshness::Expired,
        })
    }

    fn status(&self) -> Value {
        let worst = self.model.worst(self.freshness);
        let (indicator, description) = match worst {
            ServiceStatus::Up => ("none", "All services work"),
            ServiceStatus::Planned => ("maintenance", "Planned work"),
            ServiceStatus::Degraded => ("minor", "Disturbance"),
            ServiceStatus::Down if self.model.count(ServiceStatus::Down) == self.model.services.len() => {
                ("critical", "No service works")
            }
            ServiceStatus::Down => ("major", "Some services do not work"),
            ServiceStatus::Unknown => ("unknown", "State unknown"),
        };
        json!({"indicator": indicator, "description": description})
    }

    fn components(&self) -> Vec<Value> {
        self.model.services.iter().enumerate().map(|(at, service)| self.component(at, service)).collect()
    }

    fn component(&self, position: usize, service: &PublicService) -> Value {
        let since = service.since.unwrap_or(self.model.as_of);
        json!({
            "id": service.id,
            "name": service.title.plain(LANG),
            "status": component_status(self.state(service.status)),
            // When it was first measured; clients of this shape want a time.
            "created_at": service.days.first().map_or_else(|| utc(since), |day| utc(day_start(day.day))),
            "updated_at": utc(since),
            "position": position + 1,
            "description": service.summary.plain(LANG),
            "showcase": true,
            "start_date": Value::Null,
            "group_id": Value::Null,
            "page_id": PAGE_ID,
            "group": false,
            "only_show_if_degraded": false,
        })
    }

    /// The services of these ids, as components.
    fn components_of(&self, ids: &[String]) -> Vec<Value> {
        let all = self.model.services.iter().enumerate().filter(|(_, service)| ids.contains(&service.id));
        all.map(|(at, service)| self.component(at, service)).collect()
    }

    fn work(&self, work: &PublicWork) -> Value {
        let updates: Vec<Value> = work.updates.iter().map(|update| work_update_json(work, update)).collect();
        json!({
            "id": work.id,
            "name": work.title.plain(LANG),
            "status": work.phase.as_str(),
            "created_at": utc(work.announced()),
            "updated_at": utc(work.updated()),
            "monitoring_at": Value::Null,
            "resolved_at": work.ended.map(utc),
            "impact": "maintenance",
            "shortlink": format!("/en/planned/{}/", work.id),
            "started_at": utc(work.announced()),
            "page_id": PAGE_ID,
            "incident_updates": updates,
            "components": self.components_of(&work.services),
            "scheduled_for": utc(work.starts),
            "scheduled_until": utc(work.ends),
        })
    }

    fn incident(&self, incident: &PublicIncident) -> Value {
        let updated = incident.updates.first().map_or(incident.opened, PublicUpdate::changed);
        let monitoring = incident.updates.iter().find(|update| update.phase == IncidentPhase::Monitoring);
        let updates: Vec<Value> = incident.updates.iter().map(|update| update_json(incident, update)).collect();
        json!({
            "id": incident.id,
            "name": incident.title.plain(LANG),
            "status": incident.phase.as_str(),
            "created_at": utc(incident.opened),
            "updated_at": utc(updated),
            "monitoring_at": monitoring.map(|update| utc(update.at)),
            "resolved_at": incident.resolved.map(utc),
            "impact": impact(incident.impact),
            "shortlink": format!("/en/incident/{}/", incident.id),
            "started_at": utc(incident.opened),
            "page_id": PAGE_ID,
            "incident_updates": updates,
            "components": self.components_of(&incident.services),
            "next_update_due": incident.next_update_due.map(utc),
        })
    }

    fn bcp(&self) -> Value {
        let services: Vec<Value> = self.model.services.iter().map(|service| self.bcp_service(service)).collect();
        json!({
            "sequence": self.model.sequence,
            "as_of": utc(self.model.as_of),
            "valid_until": utc(self.model.valid_until),
            "expired": self.freshness == Freshness::Expired,
            "services": services,
        })
    }

    fn bcp_service(&self, service: &PublicService) -> Value {
        let current = self.freshness == Freshness::Current;
        let known = |at: Option<Wall>| if current { at.map(utc) } else { None };
        json!({
            "id": service.id,
            "name": service.title.texts,
            "status": self.state(service.status).as_str(),
            "since": known(service.since),
            "effect": by_profession(&service.effect),
            "still_works": service.still_works.texts,
            "procedure": {
                "state": if current { service.procedure.state.as_str() } else { "unknown" },
                "since": known(service.procedure.since),
                "steps": by_profession(&service.procedure.steps),
            },
            "contact": service.contact.texts,
            "incident": service.incident,
            "next_update_due": known(service.next_update_due),
        })
    }
}

fn by_profession(texts: &[(String, Localised)]) -> Value {
    texts
        .iter()
        .map(|(profession, text)| (profession.clone(), json!(text.texts)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn work_update_json(work: &PublicWork, update: &PublicWorkUpdate) -> Value {
    json!({
        "id": format!("{}-{}", work.id, update.id),
        "status": update.phase.as_str(),
        "body": update.text.plain(LANG),
        "incident_id": work.id,
        "created_at": utc(update.at),
        "updated_at": utc(update.at),
        "display_at": utc(update.at),
        "affected_components": [],
    })
}

fn update_json(incident: &PublicIncident, update: &PublicUpdate) -> Value {
    json!({
        "id": format!("{}-{}", incident.id, update.id),
        "status": update.phase.as_str(),
        "body": update.text.plain(LANG),
        "incident_id": incident.id,
        "created_at": utc(update.at),
        "updated_at": utc(update.changed()),
        "display_at": utc(update.at),
        "affected_components": [],
    })
}

const fn component_status(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Up => "operational",
        ServiceStatus::Degraded => "degraded_performance",
        ServiceStatus::Down => "major_outage",
        ServiceStatus::Planned => "under_maintenance",
        ServiceStatus::Unknown => "unknown",
    }
}

const fn impact(worst: ServiceStatus) -> &'static str {
    match worst {
        ServiceStatus::Down => "major",
        ServiceStatus::Degraded => "minor",
        ServiceStatus::Planned => "maintenance",
        ServiceStatus::Up | ServiceStatus::Unknown => "none",
    }
}
