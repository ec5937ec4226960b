//! The local listener: `GET /status`, `/metrics`, `/healthz`; [`table`] is what people see of it.
//!
//! Knows: how the figures of the board and the publisher are shown. Refuses to know: anything that changes something.
//! Answers only what it already knows, so a slow reader costs a task and nothing else; their number is bounded.

pub mod table;

use std::future::Future;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::limit::ConcurrencyLimitLayer;

use crate::gate::GateFigures;
use crate::publish::PublishFigures;
use crate::self_stats::{Board, Reachable, Report};
use crate::source::traps::{TrapFigures, TrapReport};

/// Requests answered at one time.
const MAX_CONCURRENT: usize = 16;

/// What the listener shows.
#[derive(Debug, Clone)]
pub struct Shown {
    pub board: Arc<Board>,
    pub publisher: watch::Receiver<PublishFigures>,
    pub gate: Option<watch::Receiver<GateFigures>>,
    pub traps: Option<Arc<TrapFigures>>,
}

/// Body of `GET /status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    #[serde(flatten)]
    pub agent: Report,
    /// Session, in-flight window and spool, as the publisher tells them.
    pub delivery: PublishFigures,
    /// Leases and steps, where there is a gate.
    #[serde(default)]
    pub gate: Option<GateFigures>,
    /// Notifications of devices, where they are listened for.
    #[serde(default)]
    pub traps: Option<TrapReport>,
}

/// Serves until `shutdown`.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    shown: Shown,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .layer(ConcurrencyLimitLayer::new(MAX_CONCURRENT))
        .with_state(shown);
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await
}

async fn status(State(shown): State<Shown>) -> Json<Status> {
    let delivery = shown.publisher.borrow().clone();
    let gate = shown.gate.as_ref().map(|gate| gate.borrow().clone());
    let traps = shown.traps.as_ref().map(|figures| figures.report());
    Json(Status { agent: shown.board.report(), delivery, gate, traps })
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(shown)));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Live state as metrics: a device that is gone from the configuration leaves no series behind.
#[derive(Debug)]
struct Figures(Shown);

impl Collector for Figures {
    #[allow(clippy::cast_precision_loss)] // figures of one process are far below 2^53
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let report = self.0.board.report();
        let delivery = self.0.publisher.borrow().clone();
        for (name, help, value) in [
            ("bcp_agent_polls", "Polls done", report.polls),
            ("bcp_agent_polls_missed", "Polls skipped because a device overran its interval", report.missed),
            ("bcp_agent_polls_failed", "Polls without an answer", report.failed),
            ("bcp_agent_samples", "Readings handed to the publisher", report.samples),
            ("bcp_agent_payloads_committed", "Payloads that a collector has committed", delivery.committed),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in [
            ("bcp_agent_resident_memory_bytes", "Resident memory", report.rss_bytes as f64),
            (
                "bcp_agent_poll_lateness_p99_seconds",
                "p99 of how late polls began, last minute",
                report.lateness_p99_ms / 1e3,
            ),
            ("bcp_agent_broker_connected", "1 while the MQTT session stands", f64::from(u8::from(delivery.connected))),
            ("bcp_agent_payloads_unsent", "Payloads that wait to be sent", delivery.unsent as f64),
            ("bcp_agent_payloads_in_flight", "Payloads sent and not acknowledged", delivery.in_flight as f64),
            ("bcp_agent_start_time_seconds", "Start of the agent since 1970", report.started_ms as f64 / 1e3),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let mut family = encoder.encode_descriptor(
            "bcp_agent_device_reachable",
            "1 while the device answers",
            None,
            MetricType::Gauge,
        )?;
        for device in &report.devices {
            // Unknown is no number: there is no series before anything is known.
            if device.reachable == Reachable::Unknown {
                continue;
            }
            let reachable = ConstGauge::new(i64::from(device.reachable == Reachable::Yes));
            reachable.encode(family.encode_family(&[("device", device.id.as_str())])?)?;
        }
        let help = "Median of the last round trips of the device";
        let mut family = encoder.encode_descriptor("bcp_agent_device_rtt_seconds", help, None, MetricType::Gauge)?;
        for device in &report.devices {
            if let Some(rtt) = device.rtt_p50_ms {
                let gauge = ConstGauge::new(rtt / 1e3);
                gauge.encode(family.encode_family(&[("device", device.id.as_str())])?)?;
            }
        }
        let help = "Polls of the device without an answer";
        let mut family = encoder.encode_descriptor("bcp_agent_device_polls_failed", help, None, MetricType::Counter)?;
        for device in &report.devices {
            let failed = ConstCounter::new(device.failed);
            failed.encode(family.encode_family(&[("device", device.id.as_str())])?)?;
        }
        Ok(())
    }
}
