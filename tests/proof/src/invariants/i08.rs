//! I8: with rpo zero a ticket moves only to the last writer itself or to a copy latched in sync, unless two different operators
//! forced it for that very epoch.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::failover::decide::Cause;
use bcp_core::failover::{Guard, TicketCommand, TicketEvent};
use bcp_core::policy::Rpo;
use bcp_core::replica::{CommandVerb, Item};
use bcp_wire::{Epoch, Id};

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct OnlyInSync {
    /// What the copies had said by themselves, before anything was decided: (ticket, in sync).
    said: BTreeMap<Id, bool>,
    /// Who asked to force a ticket, and at which epoch.
    forced_by: BTreeMap<Id, BTreeSet<(Epoch, String)>>,
}

impl OnlyInSync {
    fn two(&self, ticket: &Id, epoch: Epoch) -> Verdict {
        let people = self.forced_by.get(ticket).into_iter().flatten().filter(|(at, _)| *at == epoch).count();
        if people < 2 { Err(format!("{ticket} was forced at {epoch} by {people} operator")) } else { Ok(()) }
    }
}

impl Invariant for OnlyInSync {
    const NUMBER: u8 = 8;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for item in &seen.tick.items {
            let Item::Command(order) = item else { continue };
            let CommandVerb::Ticket { ticket, command: TicketCommand::Force { .. } } = &order.verb else { continue };
            let epoch = seen.before.failover.tickets.get(ticket).map_or(Epoch::NONE, |ticket| ticket.epoch);
            self.forced_by.entry(ticket.clone()).or_default().insert((epoch, order.operator.clone()));
        }
        for event in seen.ticket_events() {
            match event {
                TicketEvent::Latched { ticket, in_sync, .. } => {
                    self.said.insert(ticket.clone(), *in_sync);
                }
                TicketEvent::DrainStarted { ticket, epoch, cause: Cause::Forced { .. }, .. } => {
                    self.two(ticket, *epoch)?
                }
                TicketEvent::Granted { ticket, epoch, cause: Cause::Forced { guard, .. }, .. } => {
                    let before = seen.before.failover.tickets.get(ticket).map_or(*epoch, |ticket| ticket.epoch);
                    self.two(ticket, before)?;
                    if *guard == Guard::Freshness {
                        self.said.remove(ticket);
                    }
                }
                TicketEvent::Granted { ticket, holder, .. } => {
                    let zero = seen.policy.tickets.get(ticket).is_some_and(|rule| rule.rpo == Rpo::Zero);
                    // The latch of either moment: the grant may have restored it in the same tick.
                    let good = [seen.before, seen.after].iter().any(|replica| {
                        let latch = replica.failover.tickets.get(ticket).and_then(|ticket| ticket.latch.as_ref());
                        latch.is_none_or(|latch| latch.active == *holder || latch.in_sync == Some(true))
                    });
                    let last_writer = seen
                        .before
                        .failover
                        .tickets
                        .get(ticket)
                        .and_then(|ticket| ticket.latch.as_ref())
                        .is_none_or(|latch| latch.active == *holder);
                    let claimed = self.said.get(ticket).copied().unwrap_or(true) || last_writer || seen.undone(ticket);
                    if zero && !(good && claimed) {
                        return Err(format!("{ticket} was granted to {holder}, whose copy was not latched in sync"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
