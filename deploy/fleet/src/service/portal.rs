//! `patient-portal`: active-active, no state. Every site serves all the time; the front door shares users out by the
//! weights that the ticket's holder sets.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use bcp_wire::Site;
use bcp_wire::control::{CopyRole, ServiceFacts};
use tokio::net::TcpListener;

use super::requests::{self, Label, RequestLog};
use super::{ServiceError, Start};

#[derive(Debug)]
struct Portal {
    site: Site,
    log: RequestLog,
}

impl Label for Portal {
    fn label(&self) -> String {
        format!("active {}", self.site)
    }
    fn requests(&self) -> &RequestLog {
        &self.log
    }
}

/// Serves until SIGTERM.
///
/// # Errors
/// The server failed.
pub async fn run(listener: TcpListener, start: &Start) -> Result<(), ServiceError> {
    let directory = start.service.directory(&start.data_dir, start.site);
    let _ = std::fs::create_dir_all(&directory);
    let portal = Arc::new(Portal { site: start.site, log: RequestLog::new(&directory) });
    let site = portal.site;
    let facts = ServiceFacts {
        lineage: "stateless".to_owned(),
        position: 0,
        role: CopyRole::Active,
        peer_in_sync: true,
        wants_alone: false,
        wish: 0,
    };
    let app = Router::new()
        .route("/", get(move || async move { format!("patient-portal at site {site}\n") }))
        .route("/health", get(|| async { "active" }))
        .route("/facts", get(move || async move { Json(facts) }))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&portal), requests::log::<Portal>));
    axum::serve(listener, app).with_graceful_shutdown(crate::signals::stop()).await.map_err(ServiceError::Serve)
}
