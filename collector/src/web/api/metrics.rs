//! `GET /metrics`: OpenMetrics from the live view. Nothing is kept between scrapes, so a device that goes leaves no ghost.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Api, Refused};
use crate::export::ExportView;
use crate::serve::view::{Agreement, LinkState, SharedView, SourceState, View};
use crate::store::Store;

/// The registry over the live view.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    #[must_use]
    pub fn new(view: SharedView, store: Arc<Store>) -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Live { view, store }));
        Metrics { registry }
    }
}

pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Refused> {
    let mut text = String::new();
    encode(&mut text, &api.metrics.registry).map_err(|error| super::storage(&error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[derive(Debug)]
struct Live {
    view: SharedView,
    store: Arc<Store>,
}

type Labels<'a> = Vec<(&'static str, String)>;

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (Labels<'v>, f64)>,
    ) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None::<&Unit>, MetricType::Gauge)?;
        for (labels, value) in rows {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl Iterator<Item = (Labels<'v>, u64)>,
    ) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None::<&Unit>, MetricType::Counter)?;
        for (labels, value) in rows {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Live {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let view = self.view.get();
        let mut out = Out(encoder);
        points(&mut out, &view)?;
        sources(&mut out, &view)?;
        ingest(&mut out, &view, &self.store)?;
        export(&mut out, &view)?;
        agreed(&mut out, &view)
    }
}

fn points(out: &mut Out<'_>, view: &View) -> Result<(), fmt::Error> {
    let good = view.devices.values().flat_map(|device| {
        device.points.iter().filter_map(move |point| {
            let number = point.good_value(view.mono, device.source)?.as_num()?;
            let labels = vec![
                ("site", device.site.to_string()),
                ("agent", device.agent.to_string()),
                ("device", device.id.to_string()),
                ("kind", device.kind().to_owned()),
                ("point", point.info.name.to_string()),
                ("unit", point.info.unit.clone()),
            ];
            Some((labels, number))
        })
    });
    out.gauges("bcp_point_value", "Last good number of a point; absent while it is not good", good)?;
    let ages = view.devices.values().filter_map(|device| {
        let age = view.mono.since(device.received?);
        Some((vec![("site", device.site.to_string()), ("device", device.id.to_string())], age as f64 / 1_000.0))
    });
    out.gauges("bcp_device_age_seconds", "Time since a device's last live batch", ages)
}

fn sources(out: &mut Out<'_>, view: &View) -> Result<(), fmt::Error> {
    let brokers = view
        .brokers
        .values()
        .map(|broker| (vec![("site", broker.site.to_string())], f64::from(u8::from(broker.link == LinkState::Up))));
    out.gauges("bcp_broker_up", "1 while the link to a site's broker can be trusted", brokers)?;
    let agents = view.agents.iter().map(|agent| {
        let labels = vec![("site", agent.site.to_string()), ("agent", agent.agent.to_string())];
        (labels, f64::from(u8::from(agent.source == SourceState::Fresh)))
    });
    out.gauges("bcp_agent_fresh", "1 while what an agent says is taken as present", agents)?;
    let missing = view.agents.iter().map(|agent| {
        (vec![("site", agent.site.to_string()), ("agent", agent.agent.to_string())], agent.missing as f64)
    });
    out.gauges("bcp_agent_missing_payloads", "Payloads missing below the highest one committed", missing)
}

fn ingest(out: &mut Out<'_>, view: &View, store: &Store) -> Result<(), fmt::Error> {
    let one = |n: u64| std::iter::once((Vec::new(), n));
    let gauge = |n: u64| std::iter::once((Vec::new(), n as f64));
    let stats = store.stats();
    out.counters("bcp_ingest_payloads", "MQTT payloads received", one(view.ingest.payloads))?;
    out.counters("bcp_ingest_samples", "Samples stored", one(view.ingest.samples))?;
    out.counters("bcp_ingest_duplicates", "Payloads that were there already", one(view.ingest.duplicates))?;
    let refused = view.ingest.refused.iter().map(|(reason, n)| (vec![("reason", reason.clone())], *n));
    out.counters("bcp_ingest_refused", "Payloads that are not the contract's", refused)?;
    out.counters(
        "bcp_ingest_shed",
        "Payloads let go while the store took nothing; their agents send them again",
        one(view.ingest.shed),
    )?;
    out.counters("bcp_ingest_emptied", "Retained states and descriptions taken back", one(view.ingest.emptied))?;
    let unstored = [("mistimed", view.ingest.mistimed), ("no_room", view.ingest.unstored)];
    let unstored = unstored.into_iter().map(|(reason, n)| (vec![("reason", reason.to_owned())], n));
    out.counters("bcp_ingest_samples_not_stored", "Samples shown and not stored", unstored)?;
    out.counters(
        "bcp_ingest_unsent_acks",
        "Acknowledgements that found no room; their payloads come again",
        one(view.ingest.unsent_acks),
    )?;
    out.gauges(
        "bcp_ingest_uncommitted",
        "Payloads received and not yet durable",
        gauge(view.ingest.uncommitted as u64),
    )?;
    out.gauges("bcp_store_series", "Series in the store", gauge(stats.series))?;
    out.gauges("bcp_store_head_samples", "Samples in memory", gauge(stats.head_samples))?;
    out.counters("bcp_store_damaged", "Stored rows that could not be read", one(stats.damaged))?;
    out.counters("bcp_store_stalls", "Commits that waited for the sealer", one(stats.stalls))
}

/// The long-term database; nothing where there is none.
fn export(out: &mut Out<'_>, view: &View) -> Result<(), fmt::Error> {
    let influx = view.ingest.influx.iter();
    let one = |read: fn(&ExportView) -> u64| influx.clone().map(move |export| (Vec::new(), read(export)));
    let gauge = |read: fn(&ExportView) -> f64| influx.clone().map(move |export| (Vec::new(), read(export)));
    out.gauges("bcp_influx_up", "1 while lines are taken", gauge(|e| f64::from(u8::from(e.trouble.is_none()))))?;
    out.gauges("bcp_influx_queue_bytes", "Bytes that wait on the disk", gauge(|e| e.queue_bytes as f64))?;
    out.gauges("bcp_influx_queue_lines", "Lines that wait", gauge(|e| e.queue_lines as f64))?;
    out.counters("bcp_influx_lines", "Lines written", one(|e| e.written))?;
    out.counters("bcp_influx_requests", "Requests sent", one(|e| e.requests))?;
    out.counters("bcp_influx_splits", "Requests made smaller after a refusal", one(|e| e.splits))?;
    out.counters("bcp_influx_quarantined", "Lines refused for good, kept in a file", one(|e| e.quarantined))?;
    out.counters("bcp_influx_dropped", "Lines dropped: the queue was full or its disk refused", one(|e| e.dropped))?;
    let failures = influx
        .clone()
        .flat_map(|export| export.failures.iter().map(|(reason, n)| (vec![("reason", (*reason).to_owned())], *n)));
    out.counters("bcp_influx_failures", "Requests that were not taken", failures)
}

fn agreed(out: &mut Out<'_>, view: &View) -> Result<(), fmt::Error> {
    let flag = |on: bool| std::iter::once((Vec::new(), f64::from(u8::from(on))));
    out.gauges(
        "bcp_agreed",
        "1 while what is shown was agreed by a quorum",
        flag(view.agreement == Agreement::Agreed),
    )?;
    let age = view.decide.age_ms.map(|age| (Vec::new(), age as f64 / 1_000.0));
    out.gauges("bcp_decide_age_seconds", "Time since decide last answered", age.into_iter())?;
    let alarms = view
        .alarms
        .iter()
        .filter(|alarm| alarm.active)
        .map(|alarm| (vec![("alarm", alarm.id.clone()), ("priority", alarm.priority.as_str().to_owned())], 1.0));
    out.gauges("bcp_alarm_active", "Active alarms", alarms)?;
    let services = view.services.iter().map(|service| {
        let up = service.status == bcp_core::status::ServiceStatus::Up;
        let labels = vec![("service", service.id.to_string()), ("status", service.status.as_str().to_owned())];
        (labels, f64::from(u8::from(up)))
    });
    out.gauges("bcp_service_up", "1 while a service is up", services)?;
    let tickets = view.tickets.iter().map(|ticket| {
        let holder = ticket.holder.map_or("none", |site| site.as_str());
        let labels = vec![
            ("ticket", ticket.id.to_string()),
            ("holder", holder.to_owned()),
            ("phase", ticket.phase.as_str().to_owned()),
        ];
        (labels, f64::from(u8::from(ticket.can_failover_now.ok)))
    });
    out.gauges("bcp_ticket_can_failover", "1 while a ticket could move now", tickets)
}
