//! What a new policy may not do to a ticket that is in use.
//!
//! Knows: at which sites a ticket's service runs, or may. Invariant: no policy takes its site, its kind, its service or its
//! gates away from under a service that runs; operators move or stop that first. It judges the agreed state alone, so every
//! collector refuses the same policy at the same index.

use std::collections::BTreeSet;

use bcp_wire::control::Phase;
use bcp_wire::{Id, Site};

use super::State;
use super::ticket::Ticket;
use crate::policy::{Fault, Policy, Problem, TicketKind, TicketPolicy};
use crate::time::LogTime;

impl State {
    /// The first thing that a change from `old` to `new` would take away from a ticket in use.
    #[must_use]
    pub fn change_fault(&self, old: &Policy, new: &Policy) -> Option<Fault> {
        self.tickets.iter().find_map(|(id, ticket)| {
            let before = old.tickets.get(id).filter(|_| !ticket.retired)?;
            let sites = in_use(ticket, before.kind, self.now);
            let (key, problem) = taken_away(id, ticket, before, new.tickets.get(id), &sites)?;
            let path = ["ticket", id.as_str(), key].map(str::to_owned).to_vec();
            Some(Fault { path, problem })
        })
    }
}

/// Sites at which the service of a ticket runs, may run, or is about to.
fn in_use(ticket: &Ticket, kind: TicketKind, now: LogTime) -> BTreeSet<Site> {
    match kind {
        TicketKind::ActiveActive => {
            ticket.weights.iter().filter(|(_, share)| **share > 0).map(|(site, _)| *site).collect()
        }
        TicketKind::ActivePassive => {
            let leased = ticket.lease.filter(|lease| ticket.phase != Phase::Free || now < lease.clear);
            let moving = ticket.moving.iter().flat_map(|moving| [moving.from, Some(moving.to)]).flatten();
            ticket.holder.into_iter().chain(leased.map(|lease| lease.site)).chain(moving).collect()
        }
    }
}

fn taken_away(
    id: &Id,
    ticket: &Ticket,
    before: &TicketPolicy,
    after: Option<&TicketPolicy>,
    sites: &BTreeSet<Site>,
) -> Option<(&'static str, Problem)> {
    let first = *sites.first()?;
    let epoch = ticket.epoch;
    let Some(after) = after else {
        return Some(("sites", Problem::InUseRemoved { ticket: id.clone(), site: first, epoch }));
    };
    if after.kind != before.kind {
        return Some(("kind", Problem::InUseChanged { what: "its kind", site: first, epoch }));
    }
    if after.service != before.service {
        return Some(("service", Problem::InUseChanged { what: "its service", site: first, epoch }));
    }
    if let Some(site) = sites.iter().find(|site| !after.places().any(|place| place == **site)) {
        return Some(("sites", Problem::InUseAtSite { site: *site, epoch }));
    }
    let stays = |site: &Site| {
        let gates = after.gates.get(site).into_iter().flatten();
        gates.into_iter().any(|gate| ticket.gate(*site, gate).is_some_and(|known| known.listed))
    };
    let site = sites.iter().find(|site| ticket.listed_gates(**site).next().is_some() && !stays(site))?;
    Some(("gates", Problem::InUseWithoutGate { site: *site, epoch }))
}
