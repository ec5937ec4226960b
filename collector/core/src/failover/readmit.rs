//! The way back after something was decided without the collectors.
//!
//! Knows: what its gates say they were given. Invariants: the collectors go on above every epoch that was seen; with the site
//! that runs it, without a stop; where nobody does, frozen until people say where it goes. No lease of before may still run.

use bcp_wire::Site;
use bcp_wire::control::Phase;

use super::command::{Operator, Refusal, author, by};
use super::decide::{Cause, Facts};
use super::event::{Happened, TicketEvent};
use super::force::{self, Lapse};
use super::intake::gate_fresh_ms;
use super::lease::Lease;
use super::progress;
use super::saga::{Move, Stage};
use super::ticket::{Latch, Ticket};

pub(super) fn readmit(
    ticket: &mut Ticket,
    holder: Option<Site>,
    who: Operator<'_>,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> Result<String, Refusal> {
    let id = facts.id.clone();
    if !ticket.overruled() {
        return Err(Refusal::NothingToReadmit { ticket: id });
    }
    let forced = forced_at(ticket, facts);
    match (holder, forced) {
        (Some(site), forced) if forced != Some(site) => return Err(Refusal::NotForcedThere { ticket: id, site }),
        (None, Some(site)) => return Err(Refusal::ForcedThere { ticket: id, site }),
        (Some(_), _) | (None, None) => {}
    }
    let running = ticket.lease.filter(|lease| Some(lease.site) != holder && facts.now < lease.clear);
    if let Some(lease) = running {
        let left_ms = lease.clear.since(facts.now);
        return Err(Refusal::LeaseRuns { ticket: id, site: lease.site, left_ms });
    }
    force::drop_asked(ticket, Lapse::OtherEpoch, author(who.name), facts, out);
    (ticket.moving, ticket.pending, ticket.noted) = (None, None, None);
    (ticket.phase, ticket.holder, ticket.epoch) = (Phase::Free, None, ticket.floor);
    ticket.weights.clear();
    ticket.changed();
    let (epoch, reason) = (ticket.floor, who.reason.clone());
    out.push(by(who.name, TicketEvent::Readmitted { ticket: id.clone(), epoch, holder, reason }));
    match holder {
        Some(site) => {
            // What it wrote meanwhile nobody else has.
            let at = facts.now;
            ticket.latch = Some(Latch { active: site, epoch, in_sync: None, lineage: None, position: 0, at });
            ticket.lease = Some(Lease::start(site, epoch, facts.now, facts.timing));
            let cause = Cause::Operator { name: who.name.to_owned(), reason: who.reason };
            let moving = Move::new(Some(site), site, cause, facts.now, Stage::Lapsing);
            progress::grant(ticket, moving, false, facts.scene(), out);
            Ok(format!("{id} is decided by the collectors again; site {site} goes on with it"))
        }
        None => {
            let reason = "it was decided without the collectors, and nobody runs it: say where it goes".to_owned();
            progress::freeze(ticket, reason, facts.scene(), out);
            Ok(format!("{id} is decided by the collectors again; it is frozen until people say where it goes"))
        }
    }
}

/// The site whose gate is there and says that it was given the highest epoch.
fn forced_at(ticket: &Ticket, facts: Facts<'_>) -> Option<Site> {
    let fresh_ms = gate_fresh_ms(facts.timing);
    Site::ALL.into_iter().find(|site| {
        let mut gates = ticket.listed_gates(*site);
        gates.any(|(_, gate)| gate.forced && gate.seen == ticket.floor && gate.present(facts.now, fresh_ms))
    })
}
