//! Requests to the other collectors, and when each site was last heard.
//!
//! Knows: addresses, certificates, limits. Refuses to know: what a request means.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bcp_identity::{Identity, IdentityError};
use bcp_wire::Site;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::config::Control;

/// Header of a request that a collector passes on: the identity it was asked by. It is never passed on again.
pub const ON_BEHALF: &str = "x-bcp-for";
/// Largest answer of a peer: a ledger page or a rejected append is far smaller.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Bound of every request that does not set its own.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// One POST to a peer's control listener.
#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    pub body: Bytes,
    /// Set where the request is somebody else's.
    pub on_behalf: Option<Identity>,
    pub limit: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("collector {site} is not a peer")]
    NoPeer { site: Site },
    #[error("collector {site} cannot be reached: {reason}")]
    Unreachable { site: Site, reason: String },
    #[error("collector {site} answered {status}: {body}")]
    Refused { site: Site, status: u16, body: String },
}

/// The way to the other collectors. A test puts switches into it.
pub trait Peers: Debug + Send + Sync + 'static {
    fn call(&self, to: Site, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;
}

/// HTTPS with the site's own certificate.
#[derive(Debug)]
pub struct HttpPeers {
    peers: BTreeMap<Site, (String, reqwest::Client)>,
    contacts: Arc<Contacts>,
}

impl HttpPeers {
    pub fn new(control: &Control, contacts: Arc<Contacts>) -> Result<HttpPeers, IdentityError> {
        let mut peers = BTreeMap::new();
        for (site, url) in &control.peers {
            let expect = Identity::Collector { site: *site };
            let client = bcp_identity::http_client(&control.credentials, &expect, DEFAULT_LIMIT)?;
            peers.insert(*site, (url.clone(), client));
        }
        Ok(HttpPeers { peers, contacts })
    }
}

impl Peers for HttpPeers {
    fn call(&self, to: Site, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let Some((url, client)) = self.peers.get(&to) else {
            return Box::pin(async move { Err(CallError::NoPeer { site: to }) });
        };
        let mut request = client
            .post(format!("{url}{}", call.path))
            .header("content-type", "application/json")
            .body(call.body)
            .timeout(call.limit);
        if let Some(identity) = call.on_behalf {
            request = request.header(ON_BEHALF, identity.to_string());
        }
        let contacts = Arc::clone(&self.contacts);
        Box::pin(async move {
            let unreachable = |error: reqwest::Error| CallError::Unreachable { site: to, reason: root_cause(&error) };
            let mut answer = request.send().await.map_err(unreachable)?;
            let status = answer.status();
            let mut body = bytes::BytesMut::new();
            while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
                if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                    return Err(CallError::Unreachable { site: to, reason: "answer too long".to_owned() });
                }
                body.extend_from_slice(&chunk);
            }
            contacts.heard_peer(to);
            if status.is_success() {
                return Ok(body.freeze());
            }
            let body = String::from_utf8_lossy(&body).chars().take(500).collect();
            Err(CallError::Refused { site: to, status: status.as_u16(), body })
        })
    }
}

/// The innermost cause says what happened; the outer ones only repeat the URL.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// When this process last heard each site, on its monotonic clock.
#[derive(Debug)]
pub struct Contacts {
    start: Instant,
    /// Milliseconds since `start` plus one, by node number; 0: never.
    peers: [AtomicU64; 4],
    gates: [AtomicU64; 4],
    leader: AtomicU64,
}

impl Default for Contacts {
    fn default() -> Self {
        Contacts {
            start: Instant::now(),
            peers: Default::default(),
            gates: Default::default(),
            leader: AtomicU64::new(0),
        }
    }
}

impl Contacts {
    fn mark(&self, slot: &AtomicU64) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        slot.fetch_max(now, Ordering::Relaxed);
    }

    fn age(&self, slot: &AtomicU64) -> Option<Duration> {
        match slot.load(Ordering::Relaxed) {
            0 => None,
            at => Some(self.start.elapsed().saturating_sub(Duration::from_millis(at - 1))),
        }
    }

    /// The collector of `site` asked or answered.
    pub fn heard_peer(&self, site: Site) {
        self.mark(&self.peers[site.node_id() as usize]);
    }

    /// A gate of `site` asked here itself.
    pub fn heard_gate(&self, site: Site) {
        self.mark(&self.gates[site.node_id() as usize]);
    }

    /// A leader this node accepts sent an append.
    pub fn heard_leader(&self) {
        self.mark(&self.leader);
    }

    #[must_use]
    pub fn peer_age(&self, site: Site) -> Option<Duration> {
        self.age(&self.peers[site.node_id() as usize])
    }

    #[must_use]
    pub fn gate_age(&self, site: Site) -> Option<Duration> {
        self.age(&self.gates[site.node_id() as usize])
    }

    #[must_use]
    pub fn leader_age(&self) -> Option<Duration> {
        self.age(&self.leader)
    }
}
