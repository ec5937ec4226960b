//! What is measured and by whom: sites, devices, points, agents.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use bcp_wire::{Id, Site};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Js, json};

use super::{Answer, Api, Refused, answer};
use crate::serve::view::View;

pub(super) async fn sites(State(api): State<Api>) -> Response {
    let view = api.view.get();
    let row = |site: Site| {
        json!({
            "id": site,
            "broker": view.brokers.get(&site),
            "agents": view.fresh_agents(site).of,
            "agents_fresh": view.fresh_agents(site).good,
            "devices": view.devices_at(site).count(),
            "holds": view.runs_at(site).map(|ticket| &ticket.id).collect::<Vec<_>>(),
            "lost": view.is_lost(site),
            "collector_age_ms": view.decide.members.get(&site),
            "alarms": view.alarms.iter().filter(|alarm| alarm.active && alarm.site == Some(site)).count(),
        })
    };
    let rows: Vec<Js> = Site::ALL.into_iter().map(row).collect();
    answer(&view, json!({ "sites": rows }))
}

#[derive(Debug, Deserialize)]
pub(super) struct DeviceQuery {
    site: Option<Site>,
    kind: Option<String>,
}

pub(super) async fn devices(State(api): State<Api>, query: Result<Query<DeviceQuery>, QueryRejection>) -> Answer {
    let Query(query) = query?;
    let view = api.view.get();
    let rows: Vec<Js> = view
        .devices
        .values()
        .filter(|device| query.site.is_none_or(|site| device.site == site))
        .filter(|device| query.kind.as_ref().is_none_or(|kind| device.kind() == kind))
        .map(|device| {
            let meta = device.meta.as_deref();
            json!({
                "id": device.id,
                "site": device.site,
                "agent": device.agent,
                "kind": device.kind(),
                "source": device.source,
                "location": device.location(),
                "parent": meta.and_then(|meta| meta.parent.as_ref()),
                "profile": meta.and_then(|meta| meta.profile.as_ref()),
                "firmware": meta.and_then(|meta| meta.firmware.as_ref()),
                "firmware_proven": meta.map(|meta| meta.firmware_proven),
                "points": device.points.len(),
                "age_ms": device.age_ms(view.mono),
                "gaps": device.gaps,
            })
        })
        .collect();
    Ok(answer(&view, json!({ "devices": rows })))
}

#[derive(Debug, Deserialize)]
pub(super) struct PointQuery {
    device: Option<Id>,
    point: Option<String>,
}

pub(super) async fn points(State(api): State<Api>, query: Result<Query<PointQuery>, QueryRejection>) -> Answer {
    let Query(query) = query?;
    let view = api.view.get();
    let fits = |name: &str| query.point.as_ref().is_none_or(|wanted| wanted == name);
    let rows: Vec<_> = match &query.device {
        Some(id) => {
            let device = view.devices.get(id).ok_or_else(|| no_device(id))?;
            device.judged_points(view.mono).filter(|point| fits(point.point.as_str())).collect()
        }
        None => view.points().filter(|point| fits(point.point.as_str())).collect(),
    };
    Ok(answer(&view, json!({ "points": rows })))
}

pub(super) fn no_device(id: &Id) -> Refused {
    Refused::missing(format!("there is no device {id}"), "/api/v1/devices lists them")
}

pub(super) async fn ingest(State(api): State<Api>) -> Response {
    let view = api.view.get();
    let stats = api.store.stats();
    let mut body = serde_json::to_value(&view.ingest).unwrap_or_default();
    if let Js::Object(object) = &mut body {
        object.insert("brokers".into(), json!(view.brokers));
        object.insert("agents".into(), json!(agents(&view)));
        object.insert(
            "store".into(),
            json!({
                "series": stats.series,
                "head_samples": stats.head_samples,
                "journal_bytes": stats.journal_bytes,
                "sealings": stats.sealings,
                "damaged": stats.damaged,
                "stalls": stats.stalls,
            }),
        );
    }
    answer(&view, body)
}

fn agents(view: &View) -> Vec<Js> {
    #[derive(Serialize)]
    struct Row<'a> {
        site: Site,
        agent: &'a Id,
        source: crate::serve::view::SourceState,
        age_ms: u64,
        devices: usize,
        through: u64,
        missing: u64,
        state: &'a Option<bcp_wire::AgentState>,
    }
    view.agents
        .iter()
        .map(|agent| {
            json!(Row {
                site: agent.site,
                agent: &agent.agent,
                source: agent.source,
                age_ms: view.mono.since(agent.received),
                devices: agent.devices,
                through: agent.through,
                missing: agent.missing,
                state: &agent.state,
            })
        })
        .collect()
}
