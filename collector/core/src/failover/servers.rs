//! Minimum servers: when a site that carries a service has too few, servers that stand by are started.
//!
//! Knows: the order of the reserve, and what was started. Invariants: short means two of three observers see fewer than the
//! minimum even if everything unknown is up; silence of many agents at once counts as loss only where two observers see it;
//! as many as are missing are started one after the other, and the next only when these had their time; each once, never more
//! than the reserve has; nothing is ever stopped here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::control::{Phase, StepKind, StepOrder, StepOutcome, StepReport};
use bcp_wire::{Id, Site};

use super::decide::Facts;
use super::event::{Happened, TicketEvent};
use super::intake::{clip, system};
use super::observe::MAJORITY;
use super::saga::{MAX_ATTEMPTS, ReportEffect, step_key};
use super::ticket::Ticket;
use crate::policy::Mode;
use crate::time::LogTime;

/// A server that was started has this long, beyond its rise time, before the next one is.
pub const START_WAIT_MS: u64 = 15_000;
/// Tries of a step, and the pause between them.
const RETRY_MS: u64 = 5_000;

/// What was started at a site.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Started {
    /// Servers of the reserve that are done with, in order: started, or given up.
    pub servers: Vec<Id>,
    pub running: Option<Starting>,
    /// Steps ordered in this epoch and before: part of each step's key.
    pub steps: u32,
    /// So many more are missing, and need not wait for those before them to come up.
    #[serde(default)]
    pub owed: u32,
    /// The next server beyond those not before this.
    pub next_at: LogTime,
    /// Nothing is left to start.
    pub exhausted: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Starting {
    pub server: Id,
    pub gate: Id,
    pub step: u32,
    pub tries: u32,
    pub retry_at: LogTime,
}

/// How many servers two of three observers miss at least; 0: enough are up; nothing: neither is agreed.
fn missing(pool: &Id, min: u32, site: Site, facts: Facts<'_>) -> Option<u32> {
    let words: Vec<_> = Site::ALL
        .iter()
        .filter_map(|observer| facts.board.site_words(*observer, facts.now)?.get(&site))
        .filter_map(|word| Some((word.mass_silence, word.pools.get(pool)?)))
        .collect();
    let confirmed = words.iter().filter(|(mass, _)| *mass).count() >= MAJORITY;
    let mut misses: Vec<u32> =
        words.iter().map(|(mass, word)| min.saturating_sub(word.at_most(!*mass || confirmed))).collect();
    misses.sort_unstable_by(|one, other| other.cmp(one));
    // What the second of them misses as well.
    let agreed = misses.get(MAJORITY - 1).copied().unwrap_or(0);
    let enough = words.iter().filter(|(_, word)| word.up >= min).count();
    match (agreed, enough >= MAJORITY) {
        (0, true) => Some(0),
        (0, false) => None,
        (agreed, _) => Some(agreed),
    }
}

/// Orders the next server where too few are up, and forgets what was started where there are enough.
pub(super) fn judge(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let Some((id, pool)) = facts.rule.pool.as_ref().and_then(|id| Some((id, facts.policy.pools.get(id)?))) else {
        return;
    };
    let settled = ticket.moving.is_none() && ticket.phase == Phase::Held && !ticket.retired;
    let active = matches!(facts.rule.mode, Mode::Auto | Mode::Confirm) && ticket.frozen.is_none();
    for site in &facts.rule.sites {
        let serves = settled && (ticket.holder == Some(*site) || ticket.weights.get(site).is_some_and(|n| *n > 0));
        if !serves {
            forget(ticket, *site);
            continue;
        }
        match missing(id, pool.min, *site, facts) {
            Some(0) => forget(ticket, *site),
            Some(missing) if active => {
                let reserve = pool.reserve.get(site).map_or(&[][..], Vec::as_slice);
                start_next(ticket, *site, missing, (reserve, pool.rise_ms), facts, out);
            }
            Some(_) | None => {}
        }
    }
}

/// The shortage is over. The number of the steps goes on: within an epoch a gate does nothing twice.
fn forget(ticket: &mut Ticket, site: Site) {
    if let Some(started) = ticket.started.get_mut(&site) {
        *started = Started { steps: started.steps, ..Started::default() };
    }
}

fn start_next(
    ticket: &mut Ticket,
    site: Site,
    missing: u32,
    (reserve, rise_ms): (&[Id], u64),
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) {
    let gate = ticket.listed_gates(site).map(|(id, _)| id.clone()).next();
    let started = ticket.started.entry(site).or_default();
    let waits = started.owed == 0 && facts.now < started.next_at;
    if started.running.is_some() || waits {
        return;
    }
    // Where none is owed, those that were started had their time. Meanwhile others may have come back.
    let owed = if started.owed == 0 { missing } else { started.owed.min(missing) };
    started.owed = owed.saturating_sub(1);
    let next = reserve.iter().find(|server| !started.servers.contains(server));
    let (Some(server), Some(gate)) = (next, gate) else {
        if !started.exhausted {
            started.exhausted = true;
            let (ticket, all) = (facts.id.clone(), started.servers.len());
            out.push(system(TicketEvent::CapacityExhausted { ticket, site, started: all }));
        }
        return;
    };
    started.steps = started.steps.saturating_add(1);
    let step = started.steps;
    started.running = Some(Starting { server: server.clone(), gate, step, tries: 0, retry_at: facts.now });
    started.next_at = facts.now.plus(rise_ms.saturating_add(START_WAIT_MS));
    ticket.changed();
    let event =
        TicketEvent::CapacityOrdered { ticket: facts.id.clone(), site, server: server.clone(), epoch: ticket.epoch };
    out.push(system(event));
}

fn key(id: &Id, ticket: &Ticket, site: Site, starting: &Starting) -> String {
    // Steps and tries together number the step within its epoch.
    let attempt = starting.step.saturating_mul(MAX_ATTEMPTS).saturating_add(starting.tries);
    step_key(id, ticket.epoch, StepKind::Capacity, site, &starting.gate, attempt)
}

/// The server that a gate has to start now.
pub(super) fn order(id: &Id, ticket: &Ticket, site: Site, gate: &Id, now: LogTime) -> Option<StepOrder> {
    let starting = ticket.started.get(&site)?.running.as_ref().filter(|s| s.gate == *gate && now >= s.retry_at)?;
    Some(StepOrder {
        key: key(id, ticket, site, starting),
        kind: StepKind::Capacity,
        epoch: ticket.epoch,
        revision: ticket.revision,
        holder: ticket.holder.unwrap_or(site),
        params: BTreeMap::from([("server".to_owned(), starting.server.to_string())]),
    })
}

/// Takes in what a gate says of the server it was told to start.
pub(super) fn report(id: &Id, ticket: &mut Ticket, site: Site, report: &StepReport, now: LogTime) -> ReportEffect {
    let running = ticket.started.get(&site).and_then(|started| started.running.as_ref());
    let Some(starting) = running.filter(|starting| key(id, ticket, site, starting) == report.key).cloned() else {
        return ReportEffect::None;
    };
    let record = ticket.gates.get_mut(&site).and_then(|gates| gates.get_mut(&starting.gate));
    let Some(started) = ticket.started.get_mut(&site) else { return ReportEffect::None };
    let attempt = starting.tries;
    match report.outcome {
        StepOutcome::Done | StepOutcome::Already => {
            started.servers.push(starting.server);
            started.running = None;
            if let Some(record) = record {
                record.last_failure = None;
            }
            ReportEffect::Done
        }
        StepOutcome::Failed | StepOutcome::Rejected | StepOutcome::Vetoed => {
            if let Some(record) = record {
                record.last_failure = Some(clip(report.detail.as_deref().unwrap_or("no reason given")));
            }
            if report.outcome == StepOutcome::Vetoed || attempt + 1 >= MAX_ATTEMPTS {
                // The next of the reserve is tried instead.
                started.servers.push(starting.server);
                (started.running, started.next_at) = (None, now);
                started.owed = started.owed.saturating_add(1);
                return ReportEffect::GivenUp { attempt };
            }
            let retry_at = now.plus(RETRY_MS);
            started.running = Some(Starting { tries: attempt + 1, retry_at, ..starting });
            ReportEffect::Retried { attempt }
        }
    }
}
