//! Orders to a running fleet: JSON over HTTP on loopback, both ends.
//!
//! Knows: what can be asked. Refuses to know: how it is done ([`crate::fleet`]).
//! Every request that changes something needs a JSON body, which no web page of another origin can send unasked, and a
//! `Host` on loopback.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bcp_wire::{Epoch, Site};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::devices::Addressed;
use crate::fleet::Fleet;
use crate::front::{Published, Route};
use crate::ports::BasePort;
use crate::reference::writer::Written;
use crate::service::{Service, Want};
use crate::units::Process;
use crate::visitor::Seen;

/// Starting a service and a standby's recovery fit; a step has 3 s.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    pub error: String,
    pub help: String,
}

impl Refusal {
    #[must_use]
    pub fn new(error: impl Into<String>, help: impl Into<String>) -> Refusal {
        Refusal { error: error.into(), help: help.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(self)).into_response()
    }
}

/// What was done, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub message: String,
}

/// A change of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum LinkOrder {
    Cut {
        from: Site,
        to: Site,
        one_way: bool,
    },
    /// All links where none is named.
    Heal {
        link: Option<(Site, Site)>,
    },
    Delay {
        from: Site,
        to: Site,
        ms: u64,
        jitter_ms: u64,
        one_way: bool,
    },
    Lose {
        from: Site,
        to: Site,
        percent: u8,
        one_way: bool,
    },
}

/// What may be done to a site or a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Kill,
    /// Killed, and not restarted.
    Stop,
    Start,
    Pause,
    Resume,
    /// The next steps of a service do not end.
    Hang,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetOrder {
    pub action: Action,
    /// `a`, or `a/decide`.
    pub target: String,
}

/// From a service's actuator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOrder {
    pub service: Service,
    pub site: Site,
    pub want: Want,
    pub epoch: Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDone {
    pub was_already: bool,
}

/// From a service's actuator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishOrder {
    pub service: Service,
    #[serde(flatten)]
    pub route: Route,
}

/// One direction of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    pub from: Site,
    pub to: Site,
    pub cut: bool,
    pub delay_ms: u64,
    pub jitter_ms: u64,
    #[serde(default)]
    pub loss_percent: u8,
}

/// Everything that `fleet ls` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub base_port: u16,
    pub data_dir: String,
    pub up_ms: u64,
    pub ready_after_ms: Option<u64>,
    pub processes: Vec<Process>,
    /// Of the reference application, at no site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Process>,
    pub links: Vec<LinkState>,
    pub front: BTreeMap<Service, Route>,
    pub visitor: Seen,
    /// Of the reference application, where it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Written>,
    /// As the first console that answers shows them; empty where none does.
    pub tickets: Vec<serde_json::Value>,
    pub urls: BTreeMap<String, String>,
}

/// The server's side.
pub fn router(fleet: Arc<Fleet>) -> Router {
    Router::new()
        .route("/v1/status", get(|State(fleet): State<Arc<Fleet>>| async move { Json(fleet.status().await) }))
        .route("/v1/link", post(link))
        .route("/v1/target", post(target))
        .route("/v1/device", post(device))
        .route("/v1/service", post(service))
        .route("/v1/publish", post(publish))
        .layer(axum::middleware::from_fn(loopback_only))
        .with_state(fleet)
}

/// A name that resolves to loopback is not enough: that is how a foreign page would reach us.
async fn loopback_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if matches!(name, "127.0.0.1" | "localhost") {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "only on 127.0.0.1\n").into_response()
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

async fn link(State(fleet): State<Arc<Fleet>>, Json(order): Json<LinkOrder>) -> Answer<Done> {
    fleet.link(&order).map(Json)
}

async fn target(State(fleet): State<Arc<Fleet>>, Json(order): Json<TargetOrder>) -> Answer<Done> {
    fleet.target(&order).await.map(Json)
}

async fn device(State(fleet): State<Arc<Fleet>>, Json(order): Json<Addressed>) -> Answer<Done> {
    fleet.device(&order).await.map(Json)
}

async fn service(State(fleet): State<Arc<Fleet>>, Json(order): Json<ServiceOrder>) -> Answer<ServiceDone> {
    fleet.service(&order).await.map(Json)
}

async fn publish(State(fleet): State<Arc<Fleet>>, Json(order): Json<PublishOrder>) -> Answer<Published> {
    fleet.publish(order).map(Json)
}

/// The asking side.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: BasePort,
}

impl Client {
    /// # Errors
    /// No HTTP client can be made on this machine.
    pub fn new(base: BasePort) -> Result<Client, Refusal> {
        crate::install_crypto();
        let http = bcp_identity::plain_http()
            .timeout(TIMEOUT)
            .build()
            .map_err(|fault| Refusal::new(format!("cannot make an HTTP client: {fault}"), "see `fleet --help`"))?;
        Ok(Client { http, base })
    }

    /// # Errors
    /// What the fleet says, or that there is none.
    pub async fn status(&self) -> Result<Status, Refusal> {
        self.read(self.http.get(self.url("status")).send().await).await
    }

    /// # Errors
    /// As [`Client::status`].
    pub async fn ask<B: Serialize, T: DeserializeOwned>(&self, what: &str, body: &B) -> Result<T, Refusal> {
        self.read(self.http.post(self.url(what)).json(body).send().await).await
    }

    fn url(&self, what: &str) -> String {
        format!("http://127.0.0.1:{}/v1/{what}", self.base.fleet())
    }

    async fn read<T: DeserializeOwned>(&self, sent: Result<reqwest::Response, reqwest::Error>) -> Result<T, Refusal> {
        let nobody = |fault: reqwest::Error| {
            let what = if fault.is_connect() {
                format!("no fleet is running on base port {}", self.base)
            } else {
                format!("the fleet on base port {} gives no usable answer", self.base)
            };
            Refusal::new(what, "start one with `fleet up`, or name another with --base-port")
        };
        let answer = sent.map_err(nobody)?;
        if answer.status().is_success() {
            return answer.json().await.map_err(nobody);
        }
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        Err(serde_json::from_str(&text).unwrap_or_else(|_| {
            Refusal::new(format!("the fleet answered {status}: {}", text.trim()), "is it of the same version?")
        }))
    }
}
