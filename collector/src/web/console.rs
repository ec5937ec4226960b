//! The operators' console: server-rendered pages and fragments, made live by one small script.
//!
//! Knows how a [`View`] is put on a screen. Refuses to know where it comes from, and changes nothing: GET only. Every page is
//! complete without a script; with it, a section is fetched again as the same HTML whenever the stream says it changed.
//!
//! Tasks: none; one short answer per request, from the newest view.

mod alarms;
mod devices;
mod model;
mod page;
mod services;
mod sites;
#[cfg(test)]
mod tests;
mod tickets;
mod words;

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use crate::serve::view::SharedView;
use devices::DevicePage;
pub(crate) use devices::MAX_DEVICE_ROWS;
use model::ConsoleModel;
use services::ServicePage;
use tickets::ExplainPage;
pub(crate) use words::age;

const STYLE: &str = include_str!("../../../dashboards/console/console.css");
const SCRIPT: &str = include_str!("../../../dashboards/console/console.js");
/// Nothing but this server's own style sheet, script and data.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Pages, fragments and assets, to be merged with the API under `/api/v1` on the console port.
pub fn router(view: SharedView) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/devices", get(device_list))
        .route("/devices/{id}", get(device))
        .route("/tickets/{id}", get(ticket))
        .route("/services/{id}", get(service))
        .route("/timeline", get(timeline))
        .route("/part/{name}", get(part))
        .route("/part/devices/{id}", get(device_part))
        .route("/part/tickets/{id}", get(ticket_part))
        .route("/part/services/{id}", get(service_part))
        .route("/assets/console.css", get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .route("/assets/console.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .with_state(view)
}

/// What the list of devices is narrowed to.
#[derive(Debug, Default, Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

/// Longest search text that is looked at.
const MAX_SEARCH_CHARS: usize = 64;

fn look(view: &SharedView) -> ConsoleModel {
    ConsoleModel::of(&view.get())
}

async fn overview(State(view): State<SharedView>) -> Response {
    html(&page::Overview { model: look(&view), brief: true })
}

async fn device_list(State(view): State<SharedView>, Query(search): Query<Search>) -> Response {
    let wanted: String = search.q.chars().take(MAX_SEARCH_CHARS).collect();
    let rows = devices::device_rows(&view.get(), &wanted);
    html(&page::Devices { model: look(&view), rows, search: wanted })
}

async fn device(State(view): State<SharedView>, Path(id): Path<String>) -> Response {
    match DevicePage::of(&view.get(), &id) {
        Some(device) => html(&page::Device { model: look(&view), device }),
        None => missing(&view, "There is no such device", "It may not have been heard since this collector started."),
    }
}

async fn ticket(State(view): State<SharedView>, Path(id): Path<String>) -> Response {
    match ExplainPage::of(&view.get(), &id) {
        Some(explain) => html(&page::Explain { model: look(&view), explain }),
        None => missing(&view, "There is no such ticket", "Tickets come from the agreed policy."),
    }
}

async fn service(State(view): State<SharedView>, Path(id): Path<String>) -> Response {
    match ServicePage::of(&view.get(), &id) {
        Some(service) => html(&page::Service { model: look(&view), service }),
        None => missing(&view, "There is no such service", "Services come from the agreed policy."),
    }
}

async fn timeline(State(view): State<SharedView>) -> Response {
    html(&page::Timeline { model: look(&view), brief: false })
}

async fn part(State(view): State<SharedView>, Path(name): Path<String>, Query(search): Query<Search>) -> Response {
    let model = look(&view);
    match name.as_str() {
        "strip" => html(&page::StripPart { model }),
        "now" => html(&page::NowPart { model }),
        "tickets" => html(&page::TicketsPart { model }),
        "services" => html(&page::ServicesPart { model }),
        "sites" => html(&page::SitesPart { model }),
        "recent" => html(&page::TimelinePart { model, brief: true }),
        "timeline" => html(&page::TimelinePart { model, brief: false }),
        "devices" => {
            let wanted: String = search.q.chars().take(MAX_SEARCH_CHARS).collect();
            html(&page::DevicesPart { rows: devices::device_rows(&view.get(), &wanted), search: wanted })
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn device_part(State(view): State<SharedView>, Path(id): Path<String>) -> Response {
    match DevicePage::of(&view.get(), &id) {
        Some(device) => html(&page::DevicePart { device }),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn ticket_part(State(view): State<SharedView>, Path(id): Path<String>) -> Response {
    match ExplainPage::of(&view.get(), &id) {
        Some(explain) => html(&page::ExplainPart { explain }),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn service_part(State(view): State<SharedView>, Path(id): Path<String>) -> Response {
    match ServicePage::of(&view.get(), &id) {
        Some(service) => html(&page::ServicePart { service }),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn missing(view: &SharedView, title: &'static str, text: &'static str) -> Response {
    let mut answer = html(&page::Missing { model: look(view), title, text });
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

fn html(template: &impl Template) -> Response {
    match template.render() {
        Ok(body) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], HARD, body).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to render a page of the console");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn asset(media_type: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, media_type)], HARD, body).into_response()
}

/// Headers of every answer.
const HARD: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
];
