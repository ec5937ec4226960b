//! Requests to collectors, to gates of this site and to services, and what their answers lead to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::Id;
use bcp_wire::control::{GateAnswer, GateSync, SyncOutcome, TicketAnswer};

use super::{Gate, Input};
use crate::gate::ask::{facts, post};
use crate::gate::machine::Event;
use crate::gate::record::BootMs;
use crate::gate::{boot_ms, service};

/// Requests remembered by nonce; an answer older than this many requests extends nothing.
const REQUESTS_MAX: usize = 64;
/// Facts older than this many renew intervals are not passed on.
const FACTS_FRESH_RENEWALS: u64 = 3;
/// A refusing collector is said this often.
const SAY_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Request {
    nonce: u64,
    sent: BootMs,
    reported: BTreeMap<Id, Vec<String>>,
    /// Wishes to go on alone that its facts carried.
    wishes: BTreeMap<Id, u64>,
    confirmed: bool,
}

impl Gate {
    /// One request for all tickets, to all collectors at once.
    pub(super) fn sync(&mut self) {
        self.sync_wanted = false;
        self.synced_at = Some(Instant::now());
        let timing = self.setup.config.timing.resolve();
        let nonce = rand::random();
        self.seq += 1;
        // Read before anything is sent: the lease counts from here.
        let sent = boot_ms();
        let fresh_ms = timing.renew_ms.saturating_mul(FACTS_FRESH_RENEWALS);
        let (mut reported, mut wishes) = (BTreeMap::new(), BTreeMap::new());
        let mut tickets = Vec::with_capacity(self.posts.len());
        // A drill: what this gate would say about a ticket if it were cut off.
        for (id, post) in self.posts.iter().filter(|(_, post)| !post.machine.is_silent(sent)) {
            let facts =
                post.facts.as_ref().filter(|(at, _)| sent.since(*at) <= fresh_ms).map(|(_, facts)| facts.clone());
            if let Some(wish) = facts.as_ref().and_then(service::wish) {
                wishes.insert(id.clone(), wish);
            }
            let part = post.machine.sync_part(facts);
            reported.insert(id.clone(), part.reports.iter().map(|report| report.key.clone()).collect());
            tickets.push(part);
        }
        let sync = GateSync { site: self.setup.site, gate: self.setup.gate.clone(), nonce, seq: self.seq, tickets };
        self.figures.requests += 1;
        self.requests.push_back(Request { nonce, sent, reported, wishes, confirmed: false });
        if self.requests.len() > REQUESTS_MAX {
            self.requests.pop_front();
        }
        let mut answers = self.collectors.ask_all(&sync);
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            while let Some(answer) = answers.recv().await {
                match answer {
                    Ok(answer) => {
                        // The loop is gone: the gate stops.
                        let _ = inputs.send(Input::Answer { nonce, answer }).await;
                    }
                    Err(reason) => tracing::debug!(%reason, "a collector does not answer"),
                }
            }
        });
        let alone = self.figures.confirmed_at.is_none_or(|at| sent.since(at) > 2 * timing.renew_ms);
        if alone {
            self.sync_through_siblings(&sync);
        }
    }

    fn sync_through_siblings(&self, sync: &GateSync) {
        for sibling in &self.siblings {
            let Ok(slot) = Arc::clone(&sibling.slots).try_acquire_owned() else { continue };
            let (client, url, sync) = (sibling.client.clone(), sibling.url.clone(), sync.clone());
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                match post::<_, GateAnswer>(&client, &url, &sync).await {
                    Ok(answer) => {
                        // The loop is gone: the gate stops.
                        let _ = inputs.send(Input::Answer { nonce: sync.nonce, answer }).await;
                    }
                    Err(reason) => tracing::debug!(%reason, "a sibling does not pass the request on"),
                }
                drop(slot);
            });
        }
    }

    pub(super) fn hear(&mut self, nonce: u64, answer: GateAnswer) {
        let Some(request) = self.requests.iter_mut().find(|request| request.nonce == nonce) else { return };
        if answer.nonce != nonce {
            tracing::warn!(collector = %answer.collector, "an answer to another request");
            return;
        }
        match answer.outcome {
            SyncOutcome::Confirmed { index, tickets } => {
                if std::mem::replace(&mut request.confirmed, true) {
                    return;
                }
                let (sent, reported, wishes) = (request.sent, request.reported.clone(), request.wishes.clone());
                self.figures.confirmed += 1;
                self.figures.confirmed_at = self.figures.confirmed_at.max(Some(sent));
                for ticket in tickets {
                    let id = ticket.ticket.clone();
                    if let Some(for_ms) = ticket.silent_ms {
                        tracing::warn!(ticket = %id, for_ms, "a drill: asked to say nothing about the ticket, as if cut off");
                    }
                    self.tell_service(&ticket, wishes.get(&id).copied());
                    let reported = reported.get(&id).cloned().unwrap_or_default();
                    self.feed(&id, Event::Answered { sent, index, reported, answer: Box::new(ticket) }, None);
                }
            }
            SyncOutcome::NoLeader { reason } => {
                tracing::debug!(collector = %answer.collector, %reason, "no leader");
            }
            SyncOutcome::Refused { reason } => {
                if self.said_refused.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                    self.said_refused = Some(Instant::now());
                    tracing::error!(collector = %answer.collector, %reason, "a collector refuses this gate's requests");
                }
            }
        }
    }

    /// Asks every service about its copy of the data.
    pub(super) fn ask_services(&mut self) {
        for (id, post) in &mut self.posts {
            let Some(url) = post.config.facts_url.clone() else { continue };
            if std::mem::replace(&mut post.facts_asked, true) {
                continue;
            }
            let (plain, inputs, ticket) = (self.plain.clone(), self.inputs.clone(), id.clone());
            tokio::spawn(async move {
                let facts = match facts(&plain, &url).await {
                    Ok(facts) => Some(facts),
                    Err(reason) => {
                        tracing::debug!(%ticket, %reason, "the service does not say how it is");
                        None
                    }
                };
                // The loop is gone: the gate stops.
                let _ = inputs.send(Input::Facts { ticket, facts }).await;
            });
        }
    }

    /// Tells the active copy what is agreed about its standby, once it is in the log.
    fn tell_service(&mut self, answer: &TicketAnswer, wish: Option<u64>) {
        let Some(post) = self.posts.get_mut(&answer.ticket) else { return };
        let Some(url) = post.config.sync_url.clone().filter(|_| !post.telling) else { return };
        let Some(word) = service::word(self.setup.site, answer, wish, post.told) else { return };
        post.telling = true;
        let (plain, inputs, ticket) = (self.plain.clone(), self.inputs.clone(), answer.ticket.clone());
        tokio::spawn(async move {
            let response = plain.post(&url).json(&word).send().await;
            let accepted = response.is_ok_and(|response| response.status().is_success());
            if !accepted {
                tracing::debug!(%ticket, "the service did not take the state of its standby; it is told again");
            }
            // The loop is gone: the gate stops.
            let _ = inputs.send(Input::Told { ticket, word, accepted }).await;
        });
    }
}
