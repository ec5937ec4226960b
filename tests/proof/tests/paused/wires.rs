//! Links between three sites on a simulated clock: cut, lossy, slow. What they carry is the shipped requests, and what answers
//! them is the shipped router of the control listener.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use bcp_collector::decide::link::{Call, CallError, Contacts, ON_BEHALF, Peers};
use bcp_identity::Identity;
use bcp_proof::dice::Dice;
use bcp_proof::world::at;
use bcp_wire::Site;
use bytes::Bytes;
use futures::future::BoxFuture;
use tower::ServiceExt;

const MAX_BODY: usize = 64 * 1024 * 1024;

#[derive(Debug)]
struct State {
    cut: [[bool; 3]; 3],
    loss_percent: u64,
    delay_ms: (u64, u64),
    routers: BTreeMap<Site, Router>,
    dice: Dice,
}

#[derive(Debug, Clone)]
pub struct Wires(Arc<Mutex<State>>);

impl Wires {
    pub fn new(seed: u64) -> Wires {
        Wires(Arc::new(Mutex::new(State {
            cut: [[false; 3]; 3],
            loss_percent: 0,
            delay_ms: (0, 2),
            routers: BTreeMap::new(),
            dice: Dice::new(seed),
        })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn cut(&self, from: Site, to: Site) {
        self.with(|state| state.cut[at(from)][at(to)] = true);
    }

    pub fn heal(&self) {
        self.with(|state| (state.cut, state.loss_percent, state.delay_ms) = ([[false; 3]; 3], 0, (0, 2)));
    }

    pub fn trouble(&self, loss_percent: u64, delay_ms: (u64, u64)) {
        self.with(|state| (state.loss_percent, state.delay_ms) = (loss_percent, delay_ms));
    }

    /// A collector answers from here on, or nothing does.
    pub fn serves(&self, site: Site, router: Option<Router>) {
        self.with(|state| match router {
            Some(router) => drop(state.routers.insert(site, router)),
            None => drop(state.routers.remove(&site)),
        });
    }

    pub fn reaches(&self, from: Site, to: Site) -> bool {
        from == to || self.with(|state| !state.cut[at(from)][at(to)])
    }

    /// How long a message is on its way; none where it never arrives.
    fn way(&self, from: Site, to: Site) -> Option<Duration> {
        self.with(|state| {
            let lost = from != to && (state.cut[at(from)][at(to)] || state.dice.percent(state.loss_percent));
            let (least, most) = state.delay_ms;
            (!lost).then(|| Duration::from_millis(least + state.dice.below(most - least + 1)))
        })
    }

    async fn pass(&self, from: Site, to: Site) {
        match self.way(from, to) {
            Some(way) => tokio::time::sleep(way).await,
            None => std::future::pending().await,
        }
    }

    /// Asks the collector of `to`; the status and the body. Never answered where a message is lost.
    pub async fn ask(&self, from: Site, to: Site, who: Identity, call: &Call) -> Option<(u16, Bytes)> {
        self.pass(from, to).await;
        let router = self.with(|state| state.routers.get(&to).cloned())?;
        let mut request = Request::post(&call.path).header("content-type", "application/json").extension(who);
        if let Some(identity) = &call.on_behalf {
            request = request.header(ON_BEHALF, identity.to_string());
        }
        let answer = router.oneshot(request.body(Body::from(call.body.clone())).ok()?).await.ok()?;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), MAX_BODY).await.ok()?;
        self.pass(to, from).await;
        Some((status, body))
    }
}

/// The way of one collector to the others.
#[derive(Debug)]
pub struct Links {
    pub site: Site,
    pub wires: Wires,
    pub contacts: Arc<Contacts>,
}

impl Peers for Links {
    fn call(&self, to: Site, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (site, wires, contacts) = (self.site, self.wires.clone(), Arc::clone(&self.contacts));
        Box::pin(async move {
            let who = Identity::Collector { site };
            let answer = tokio::time::timeout(call.limit, wires.ask(site, to, who, &call)).await;
            let Ok(Some((status, body))) = answer else {
                return Err(CallError::Unreachable { site: to, reason: "no answer".to_owned() });
            };
            contacts.heard_peer(to);
            match status {
                200..300 => Ok(body),
                _ => Err(CallError::Refused { site: to, status, body: String::from_utf8_lossy(&body).into_owned() }),
            }
        })
    }
}
