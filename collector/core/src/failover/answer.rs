//! What a gate is told.
//!
//! Knows: the agreed state and the steps ordered. Invariant: `renewed` is true only for the very nonce whose renewal was
//! applied, under the epoch that is still the ticket's, to a gate of its holder.

use std::collections::BTreeMap;

use bcp_wire::control::{GateSync, Phase, StepKind, StepOrder, TicketAnswer};
use bcp_wire::{Id, Site};

use super::State;
use super::saga::step_key;
use super::ticket::Ticket;
use crate::time::LogTime;

impl State {
    /// What a gate is told once its request is applied. Tickets that do not exist are left out, and
    /// those of a backup about which nothing is decided yet.
    #[must_use]
    pub fn answer(&self, site: Site, gate: &Id, sync: &GateSync) -> Vec<TicketAnswer> {
        let known = |id: &Id| {
            let ticket = self.tickets.get(id).filter(|ticket| ticket.gate(site, gate).is_some());
            ticket.filter(|ticket| ticket.restored.is_none())
        };
        sync.tickets
            .iter()
            .filter_map(|said| {
                known(&said.ticket).map(|ticket| self.answer_one(&said.ticket, ticket, site, gate, sync.nonce))
            })
            .collect()
    }

    fn answer_one(&self, id: &Id, ticket: &Ticket, site: Site, gate: &Id, nonce: u64) -> TicketAnswer {
        let renewal = ticket
            .gate(site, gate)
            .into_iter()
            .flat_map(|record| &record.renewals)
            .find(|renewal| renewal.nonce == nonce && renewal.epoch == ticket.epoch)
            .filter(|_| ticket.holder == Some(site) && !ticket.overruled());
        let ttl_holder_ms = self.timing.map_or(0, |timing| timing.ttl_holder_ms);
        TicketAnswer {
            ticket: id.clone(),
            holder: ticket.holder,
            epoch: ticket.epoch,
            revision: ticket.revision,
            phase: ticket.phase,
            renewed: renewal.is_some(),
            ttl_holder_ms: renewal.map_or(ttl_holder_ms, |renewal| renewal.ttl_holder_ms),
            order: order(id, ticket, site, gate, self.now),
            silent_ms: super::silence::asked(ticket, site, self.now),
            peer_in_sync: ticket.latch.as_ref().filter(|latch| latch.epoch == ticket.epoch).and_then(|l| l.in_sync),
        }
    }
}

/// The step a gate has to carry out now.
fn order(id: &Id, ticket: &Ticket, site: Site, gate: &Id, now: LogTime) -> Option<StepOrder> {
    if ticket.overruled() {
        return None;
    }
    if let (Some(moving), Some(holder)) = (&ticket.moving, ticket.holder)
        && let Some(order) = moving.order_for(id, holder, site, gate)
    {
        return Some(order);
    }
    if let Some(order) = super::servers::order(id, ticket, site, gate, now) {
        return Some(order);
    }
    let kind = alone(ticket, site, gate, now, true)?;
    let record = ticket.gate(site, gate)?;
    let holder = ticket.holder.or_else(|| ticket.weights.iter().find(|(_, share)| **share > 0).map(|(s, _)| *s))?;
    let params: BTreeMap<String, String> = match kind {
        StepKind::Weigh => ticket.weights.iter().map(|(site, share)| (site.to_string(), share.to_string())).collect(),
        StepKind::Stop
        | StepKind::Seal
        | StepKind::Promote
        | StepKind::Publish
        | StepKind::Follow
        | StepKind::Capacity => BTreeMap::new(),
    };
    Some(StepOrder {
        key: step_key(id, ticket.epoch, kind, site, gate, record.attempt),
        kind,
        epoch: ticket.epoch,
        revision: ticket.revision,
        holder,
        params,
    })
}

/// The step a gate owes outside a move: seal and follow at the side that is not active, weigh for active-active.
/// `due_only`: leave out one that waits for its next try.
pub(super) fn alone(ticket: &Ticket, site: Site, gate: &Id, now: LogTime, due_only: bool) -> Option<StepKind> {
    let record = ticket.gate(site, gate).filter(|record| record.listed)?;
    if due_only && now < record.retry_at {
        return None;
    }
    if !ticket.weights.is_empty() {
        return (record.followed < ticket.epoch).then_some(StepKind::Weigh);
    }
    let standing_by = ticket.phase == Phase::Held && ticket.moving.is_none() && ticket.holder != Some(site);
    match standing_by {
        true if record.sealed < ticket.epoch => Some(StepKind::Seal),
        true if record.followed < ticket.epoch => Some(StepKind::Follow),
        true | false => None,
    }
}
