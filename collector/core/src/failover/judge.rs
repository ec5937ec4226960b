//! One tick of all tickets.
//!
//! Knows: the order (policy, then expiry and moves, then decisions) in which a tick is judged. Invariant: the result is a
//! function of the state and the tick alone; tickets are taken in the order of their names, after those they depend on.

use std::collections::BTreeSet;

use bcp_wire::{Id, Site};

use super::decide::{self, Facts};
use super::event::{Happened, TicketEvent};
use super::intake::system;
use super::progress::{self, Scene};
use super::ticket::Ticket;
use super::{State, restored, servers, weigh};
use crate::ledger::canonical_hash;
use crate::policy::{Policy, Rpo, TicketKind, TicketPolicy};
use crate::time::LogTime;

/// Length of a rule hash as shown, in hexadecimal digits: enough to tell rules apart, short enough to read out.
const RULE_HASH_DIGITS: usize = 12;

impl State {
    /// Log time goes on; nothing is judged yet.
    pub(crate) fn set_now(&mut self, now: LogTime) {
        self.now = now;
    }

    /// Takes over a policy: new tickets begin free, removed ones keep their epoch and nothing else.
    pub(crate) fn adopt(&mut self, policy: &Policy, hash: &str, out: &mut Vec<Happened>) {
        self.timing = Some(policy.timing);
        hash.clone_into(&mut self.policy_hash);
        self.policy_since = self.now;
        for (id, rule) in &policy.tickets {
            let ticket = self.tickets.entry(id.clone()).or_default();
            let rule_hash: String = canonical_hash(rule).chars().take(RULE_HASH_DIGITS).collect();
            if ticket.rule_hash != rule_hash || ticket.retired {
                ticket.rule_hash.clone_from(&rule_hash);
                ticket.retired = false;
                ticket.changed();
                out.push(system(TicketEvent::RulesChanged { ticket: id.clone(), rule_hash }));
            }
            list_gates(ticket, rule);
        }
        for (id, ticket) in &mut self.tickets {
            if !policy.tickets.contains_key(id) && !ticket.retired {
                ticket.retired = true;
                ticket.changed();
                out.push(system(TicketEvent::Retired { ticket: id.clone(), epoch: ticket.epoch }));
            }
        }
    }

    /// Judges expiry, moves and causes of every ticket.
    pub(crate) fn judge(&mut self, policy: &Policy, out: &mut Vec<Happened>) {
        self.watch_supplies(policy);
        for id in self.dependencies_first(policy) {
            let Some(mut ticket) = self.tickets.remove(&id) else { continue };
            match policy.tickets.get(&id) {
                Some(rule) => {
                    let facts = Facts::new(self, policy, &id, rule);
                    judge_one(&mut ticket, facts, out);
                }
                None if ticket.overruled() => {}
                None => {
                    let scene = Scene { id: &id, now: self.now, timing: &policy.timing, rpo: Rpo::Zero };
                    progress::advance(&mut ticket, scene, out);
                }
            }
            self.tickets.insert(id, ticket);
        }
    }

    /// A ticket comes after those it depends on: one that begins to leave in this tick must not be counted as there.
    fn dependencies_first(&self, policy: &Policy) -> Vec<Id> {
        let needs = |id: &Id| policy.tickets.get(id).map_or(&[][..], |rule| &rule.depends_on[..]);
        let (mut order, mut placed) = (Vec::with_capacity(self.tickets.len()), BTreeSet::new());
        let mut waiting: Vec<&Id> = self.tickets.keys().collect();
        while !waiting.is_empty() {
            let is_ready =
                |id: &&Id| needs(id).iter().all(|other| placed.contains(other) || !self.tickets.contains_key(other));
            let (ready, later): (Vec<&Id>, Vec<&Id>) = waiting.into_iter().partition(is_ready);
            // A policy with a circle is refused; were there one, names decide.
            let (mut next, rest) = if ready.is_empty() { (later, Vec::new()) } else { (ready, later) };
            // Those that leave a site together take the room at the target in this order.
            next.sort_by_key(|id| policy.tickets.get(*id).map(|rule| rule.priority));
            placed.extend(next.iter().copied());
            order.extend(next.into_iter().cloned());
            waiting = rest;
        }
        order
    }

    pub(super) fn facts<'a>(&'a self, policy: &'a Policy, id: &'a Id) -> Option<(&'a Ticket, Facts<'a>)> {
        let (ticket, rule) = (self.tickets.get(id)?, policy.tickets.get(id)?);
        let facts = Facts::new(self, policy, id, rule);
        Some((ticket, facts))
    }
}

fn judge_one(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    decide::forget(ticket, facts, out);
    decide::watch_service(ticket, facts);
    if ticket.overruled() || restored::waits(ticket, facts, out) {
        return;
    }
    match facts.rule.kind {
        TicketKind::ActiveActive => weigh::judge(ticket, facts, out),
        TicketKind::ActivePassive => {
            progress::advance(ticket, facts.scene(), out);
            decide::decide(ticket, facts, out);
            // A grant that needs no waiting goes on within the same tick.
            progress::advance(ticket, facts.scene(), out);
        }
    }
    servers::judge(ticket, facts, out);
}

/// Gates of the policy are listed; others stay known (their epochs count) but are given nothing.
fn list_gates(ticket: &mut Ticket, rule: &TicketPolicy) {
    for site in Site::ALL {
        let wanted = rule.gates.get(&site).filter(|_| rule.places().any(|place| place == site));
        let known = ticket.gates.entry(site).or_default();
        for (id, gate) in known.iter_mut() {
            gate.listed = wanted.is_some_and(|ids| ids.contains(id));
        }
        for id in wanted.into_iter().flatten() {
            known.entry(id.clone()).or_default().listed = true;
        }
    }
    ticket.gates.retain(|_, gates| !gates.is_empty());
}
