//! Builds the view, and says what changed in it.
//!
//! Knows: how agreed state, own judgement and live values make one picture. Refuses to know: who looks at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bcp_core::status::{ServiceSight, ServiceStatus};
use bcp_core::time::{Mono, Wall};
use bcp_wire::{Id, Site};
use serde_json::json;

use super::decide_link::Agreed;
use super::feed::Topic;
use super::judge::Judge;
use super::view::{Agreement, BrokerView, DECIDE_STALE_MS, DecideView, IngestView, ServiceView, View, ViewWriter};
use crate::Config;
use crate::ingest::intake::Intake;

/// A beat this often, whatever happens.
const BEAT_MS: u64 = 1_000;
/// Devices told about in one turn; a site with more that change at once is read by page.
const MAX_DEVICES_TOLD: usize = 500;

/// What was last told, to tell only changes.
#[derive(Debug, Default)]
pub struct Shown {
    beat: Mono,
    sources: String,
    alarms: String,
    tickets: String,
    services: String,
    ledger_seq: Option<u64>,
}

/// Everything a view is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub now: Mono,
    pub wall: Wall,
    pub agreed: &'a Agreed,
    pub judge: &'a Judge,
    pub sights: &'a BTreeMap<Id, ServiceSight>,
    pub brokers: BTreeMap<Site, BrokerView>,
    pub ingest: IngestView,
}

/// Publishes the present view and pushes what changed into the feed.
pub fn show(inputs: Inputs<'_>, intake: &mut Intake, writer: &ViewWriter, shown: &mut Shown) {
    let before = writer.latest();
    let now = inputs.now;
    let decide = decide_view(inputs.agreed);
    let fresh = decide.age_ms.is_some_and(|age| age <= DECIDE_STALE_MS) && decide.quorum;
    let agreement = if fresh { Agreement::Agreed } else { Agreement::Local };
    let replica = inputs.agreed.replica.clone();
    // The same state of the log gives the same lists: nothing is built again for a reading.
    let same = match (&before.replica, &replica) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new) && before.agreement == agreement,
        _ => false,
    };
    let (alarms, alarm_figures) = match (&replica, agreement) {
        (Some(_), Agreement::Agreed) if same => (Arc::clone(&before.alarms), before.alarm_figures.clone()),
        (Some(replica), Agreement::Agreed) => {
            (Arc::new(replica.alarms.views(replica.log_time)), replica.alarms.figures(replica.log_time))
        }
        _ => (Arc::new(inputs.judge.local_alarms()), bcp_core::alarms::Figures::default()),
    };
    let tickets = match &replica {
        Some(_) if same => Arc::clone(&before.tickets),
        Some(replica) => Arc::new(replica.ticket_views()),
        None => Arc::default(),
    };
    let services = Arc::new(services(&inputs, agreement));
    let view = View {
        site: inputs.config.site,
        as_of: inputs.wall,
        mono: now,
        revision: before.revision + 1,
        agreement,
        decide,
        replica,
        brokers: inputs.brokers,
        agents: Arc::new(intake.agents()),
        devices: intake.devices(),
        alarms,
        alarm_figures,
        tickets,
        services,
        ledger: Arc::clone(&inputs.agreed.ledger_tail),
        ingest: inputs.ingest,
    };
    let changed = intake.take_changed();
    if writer.feed().has_readers() {
        tell(&view, changed.iter(), writer, shown);
    }
    if now.since(shown.beat) >= BEAT_MS {
        shown.beat = now;
        writer.feed().push(Topic::Beat, beat(&view));
    }
    writer.publish(view);
}

fn beat(view: &View) -> String {
    json!({
        "as_of": view.as_of,
        "revision": view.revision,
        "agreement": view.agreement,
        "decide": view.decide,
        "ingest": { "samples": view.ingest.samples, "store_trouble": view.ingest.store_trouble },
    })
    .to_string()
}

fn tell<'a>(view: &View, changed: impl Iterator<Item = &'a Id>, writer: &ViewWriter, shown: &mut Shown) {
    let feed = writer.feed();
    for id in changed.take(MAX_DEVICES_TOLD) {
        let Some(device) = view.devices.get(id) else { continue };
        let points: Vec<_> = device.judged_points(view.mono).collect();
        feed.push(Topic::Points, json!({ "device": id, "source": device.source, "points": points }).to_string());
    }
    // Ages run on by themselves; a source is news when its state changes.
    let agents: Vec<_> =
        view.agents.iter().map(|a| json!({"agent": a.agent, "site": a.site, "source": a.source})).collect();
    let brokers: Vec<_> = view.brokers.values().map(|b| json!({"site": b.site, "link": b.link})).collect();
    let lists = [
        (Topic::Sources, &mut shown.sources, json!({ "brokers": brokers, "agents": agents })),
        (Topic::Alarms, &mut shown.alarms, json!({ "alarms": view.alarms, "figures": view.alarm_figures })),
        (Topic::Tickets, &mut shown.tickets, json!({ "tickets": view.tickets })),
        (Topic::Services, &mut shown.services, json!({ "services": view.services })),
    ];
    for (topic, last, list) in lists {
        let text = list.to_string();
        if *last != text {
            feed.push(topic, text.clone());
            *last = text;
        }
    }
    let newest = view.ledger.last().map(|entry| entry.seq);
    let after = shown.ledger_seq.or(newest).unwrap_or(0);
    for entry in view.ledger.iter().filter(|entry| entry.seq > after) {
        if let Ok(text) = serde_json::to_string(entry) {
            feed.push(Topic::Ledger, text);
        }
    }
    shown.ledger_seq = newest.or(shown.ledger_seq);
}

fn decide_view(agreed: &Agreed) -> DecideView {
    DecideView {
        age_ms: agreed.heard.map(|heard| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX)),
        leader: agreed.leader,
        term: agreed.term,
        index: agreed.replica.as_ref().map_or(0, |replica| replica.index),
        quorum: agreed.quorum,
        members: agreed.members.clone(),
        trouble: agreed.trouble.clone().or_else(|| agreed.ledger_trouble.clone()),
    }
}

fn services(inputs: &Inputs<'_>, agreement: Agreement) -> Vec<ServiceView> {
    let replica = inputs.agreed.replica.as_deref();
    let policy = replica.and_then(|replica| replica.policy.as_ref()).unwrap_or(&inputs.config.policy);
    let mut views: Vec<(u32, ServiceView)> = policy
        .services
        .iter()
        .map(|(id, service)| {
            let local = inputs.sights.get(id);
            let known = replica.and_then(|replica| replica.services.services.get(id));
            let agreed = known.is_some() && agreement == Agreement::Agreed;
            let local_status = local.map_or(ServiceStatus::Unknown, |sight| sight.status);
            let local_sites = || local.map(|sight| sight.by_site.clone()).unwrap_or_default();
            let local_explain = local.map(|sight| sight.explain.clone()).unwrap_or_default();
            let view = ServiceView {
                id: id.clone(),
                title: service.title.clone(),
                status: known.filter(|_| agreed).map_or(local_status, |known| known.status),
                since: known.filter(|_| agreed).map(|known| known.since_wall),
                by_site: match known.filter(|_| agreed) {
                    Some(known) => known.by_site.iter().map(|(site, at)| (*site, at.status)).collect(),
                    None => local_sites(),
                },
                explain: known.filter(|_| agreed).map_or_else(|| local_explain.clone(), |known| known.reason.clone()),
                ticket: service.ticket.clone(),
                procedures: known.map(|known| known.procedures.clone()).unwrap_or_default(),
                incident: known.and_then(|known| known.incident.clone()),
                agreed,
                local: local_status,
                local_explain,
            };
            (service.order, view)
        })
        .collect();
    views.sort_by_key(|(order, _)| *order);
    views.into_iter().map(|(_, view)| view).collect()
}
