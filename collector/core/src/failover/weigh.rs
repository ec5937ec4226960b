//! Active-active tickets: no lease, nothing stops; the ticket guards who may change the weights.
//!
//! Knows: which sites serve, and when one leaves or may come back. Invariants: never below one serving site; without a
//! quorum the last weights stay; every change is an epoch of its own, so an older one is refused by the gates.

use std::collections::BTreeMap;

use bcp_wire::Site;
use bcp_wire::control::Phase;

use super::decide::{Block, Cause, Facts};
use super::event::{Happened, SYSTEM, TicketEvent};
use super::intake::{gate_fresh_ms, system};
use super::ticket::{Pending, Ticket};
use crate::policy::{Mode, MoveWhen};

/// A site takes load again after being there and up for this long: one that flaps stays out.
pub const RETURN_AFTER_MS: u64 = 60_000;

pub(super) fn judge(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    if ticket.retired || ticket.frozen.is_some() {
        return;
    }
    let (weights, reason, cause) = wanted(ticket, facts);
    if weights == ticket.weights || weights.is_empty() {
        take_back(ticket, facts, out);
        return;
    }
    match facts.rule.mode {
        Mode::Off => {}
        Mode::Observe => would(ticket, &weights, cause, facts, out),
        Mode::Confirm if !ticket.weights.is_empty() => ask(ticket, &weights, cause, facts, out),
        Mode::Confirm | Mode::Auto => set(ticket, weights, reason, SYSTEM.to_owned(), facts, out),
    }
}

/// The weights the rules ask for now, and why.
pub(super) fn wanted(ticket: &Ticket, facts: Facts<'_>) -> (BTreeMap<Site, u32>, String, Cause) {
    let sites = &facts.rule.sites;
    if ticket.weights.is_empty() {
        let there = sites.iter().any(|site| present(ticket, *site, facts));
        let weights = if there { shares(sites, sites) } else { BTreeMap::new() };
        return (weights, "first weights".to_owned(), Cause::FirstGrant);
    }
    let serves = |site: &Site| ticket.weights.get(site).is_some_and(|share| *share > 0);
    let mut reasons = Vec::new();
    let mut cause = Cause::Resumed;
    let mut serving: Vec<Site> = Vec::new();
    for site in sites {
        match leaves(ticket, *site, facts) {
            Some(why) if serves(site) => {
                reasons.push(why.to_string());
                cause = why;
            }
            Some(_) => {}
            None if serves(site) => serving.push(*site),
            None if !ticket.weights_held && may_return(ticket, *site, facts) => {
                reasons.push(format!("site {site} is up again"));
                serving.push(*site);
            }
            None => {}
        }
    }
    if serving.is_empty() || reasons.is_empty() {
        return (ticket.weights.clone(), String::new(), cause);
    }
    (shares(sites, &serving), reasons.join(", "), cause)
}

fn leaves(ticket: &Ticket, site: Site, facts: Facts<'_>) -> Option<Cause> {
    facts.rule.move_when.iter().find_map(|when| match when {
        MoveWhen::SiteLost => facts.board.silent(site, facts.now).then_some(Cause::SiteLost { site }),
        MoveWhen::ServiceDown { for_ms } => {
            let since = ticket.down_since.get(&site)?;
            let long = facts.now.since(*since) >= *for_ms;
            long.then_some(Cause::ServiceDown { site, for_ms: *for_ms })
        }
        MoveWhen::RunsOut { supply, under_ms } => {
            let cause = Cause::RunsOut { site, supply: *supply, under_ms: *under_ms };
            super::require::runs_out(*supply, site, *under_ms, facts).then_some(cause)
        }
    })
}

fn may_return(ticket: &Ticket, site: Site, facts: Facts<'_>) -> bool {
    let long = ticket.up_since.get(&site).is_some_and(|since| facts.now.since(*since) >= RETURN_AFTER_MS);
    long && present(ticket, site, facts)
}

pub(super) fn present(ticket: &Ticket, site: Site, facts: Facts<'_>) -> bool {
    let fresh_ms = gate_fresh_ms(facts.timing);
    let mut gates = ticket.listed_gates(site).peekable();
    gates.peek().is_some() && gates.all(|(_, gate)| gate.present(facts.now, fresh_ms))
}

/// Equal shares that add up to 100; the first serving site takes the rest of the division.
pub(super) fn shares(sites: &[Site], serving: &[Site]) -> BTreeMap<Site, u32> {
    let count = u32::try_from(serving.len()).unwrap_or(1).max(1);
    let each = 100 / count;
    let mut weights: BTreeMap<Site, u32> = sites.iter().map(|site| (*site, 0)).collect();
    for (n, site) in serving.iter().enumerate() {
        weights.insert(*site, if n == 0 { 100 - each * (count - 1) } else { each });
    }
    weights
}

pub(super) fn set(
    ticket: &mut Ticket,
    weights: BTreeMap<Site, u32>,
    reason: String,
    author: String,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) {
    ticket.epoch = ticket.next_epoch();
    ticket.phase = Phase::Held;
    (ticket.pending, ticket.noted, ticket.lapsed) = (None, None, false);
    ticket.weights = weights.clone();
    ticket.settled_at = Some(facts.now);
    ticket.changed();
    for gate in ticket.gates.values_mut().flat_map(|gates| gates.values_mut()) {
        (gate.attempt, gate.retry_at, gate.last_failure) = (0, facts.now, None);
    }
    let event = TicketEvent::Weighed { ticket: facts.id.clone(), epoch: ticket.epoch, weights, reason };
    out.push(Happened { author, event });
}

fn first_serving(weights: &BTreeMap<Site, u32>) -> Option<Site> {
    weights.iter().find(|(_, share)| **share > 0).map(|(site, _)| *site)
}

fn would(ticket: &mut Ticket, weights: &BTreeMap<Site, u32>, cause: Cause, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let Some(to) = first_serving(weights) else { return };
    let note = format!("would weigh {weights:?}: {cause}");
    if ticket.noted.as_ref() != Some(&note) {
        ticket.noted = Some(note);
        out.push(system(TicketEvent::WouldMove { ticket: facts.id.clone(), to, epoch: ticket.epoch, cause }));
    }
}

fn ask(ticket: &mut Ticket, weights: &BTreeMap<Site, u32>, cause: Cause, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let Some(to) = first_serving(weights) else { return };
    let epoch = ticket.epoch;
    match &ticket.pending {
        Some(pending) if facts.now >= pending.until => {
            (ticket.pending, ticket.lapsed) = (None, true);
            ticket.changed();
            out.push(system(TicketEvent::ConfirmationLapsed { ticket: facts.id.clone(), to, epoch }));
        }
        Some(_) => {}
        None if ticket.lapsed => {}
        None => {
            let until = facts.now.plus(facts.rule.confirm_within_ms);
            ticket.pending = Some(Pending { asked_by: None, to, cause: cause.clone(), epoch, until });
            ticket.changed();
            out.push(system(TicketEvent::ConfirmationAsked { ticket: facts.id.clone(), to, epoch, cause, until }));
        }
    }
}

fn take_back(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    ticket.lapsed = false;
    if let Some(pending) = ticket.pending.take() {
        ticket.changed();
        let (to, epoch) = (pending.to, pending.epoch);
        out.push(system(TicketEvent::ConfirmationWithdrawn { ticket: facts.id.clone(), to, epoch }));
    }
}

/// What would keep the weights as they are if a serving site were lost now.
pub(super) fn failover_blocks(ticket: &Ticket, facts: Facts<'_>) -> (Option<Site>, Vec<Block>) {
    let mut found = match facts.rule.mode {
        Mode::Off => vec![Block::Off],
        Mode::Observe => vec![Block::ObserveOnly],
        Mode::Confirm | Mode::Auto => Vec::new(),
    };
    if let Some(freeze) = &ticket.frozen {
        found.push(Block::Frozen { owner: freeze.owner.clone(), reason: freeze.reason.clone() });
    }
    let serving: Vec<Site> = ticket.weights.iter().filter(|(_, share)| **share > 0).map(|(site, _)| *site).collect();
    match serving.as_slice() {
        [] => found.push(Block::NoHolder),
        [_] => found.push(Block::OnlyOneServing),
        [_, ..] => {}
    }
    for site in &serving {
        if !present(ticket, *site, facts) {
            let gate = ticket.listed_gates(*site).map(|(id, _)| id.clone()).next();
            found.extend(gate.map(|gate| Block::GateMissing { site: *site, gate }));
        }
        let heard = facts.board.witnesses(*site, facts.now);
        if heard < super::observe::MAJORITY {
            found.push(Block::FewObservers { site: *site, heard });
        }
    }
    (serving.last().copied(), found)
}
