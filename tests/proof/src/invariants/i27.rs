//! I27: what is forced was asked by two people within the time for it, in the one epoch in which it is carried out.

use bcp_core::failover::decide::Cause;
use bcp_core::failover::force::FORCE_WITHIN_MS;
use bcp_core::failover::{TicketCommand, TicketEvent};
use bcp_core::replica::{CommandVerb, Item, OperatorCommand};
use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Verdict};

/// Asked longer ago than any force is good for: forgotten.
const KEPT: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    ticket: Id,
    by: String,
    to: Site,
    guard: &'static str,
    under: Option<Epoch>,
    at: u64,
}

#[derive(Debug, Clone, Hash, Default)]
pub struct ForcedByTwo {
    asked: Vec<Asked>,
}

impl Invariant for ForcedByTwo {
    const NUMBER: u8 = 27;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        let now = seen.after.log_time.0;
        let epoch = |id: &Id| seen.before.failover.tickets.get(id).map(|ticket| ticket.epoch);
        for item in &seen.tick.items {
            let Item::Command(OperatorCommand { operator, verb: CommandVerb::Ticket { ticket, command }, .. }) = item
            else {
                continue;
            };
            if let TicketCommand::Force { to, guard, .. } = command {
                let (ticket, by, under) = (ticket.clone(), operator.clone(), epoch(ticket));
                self.asked.push(Asked { ticket, by, to: *to, guard: guard.as_str(), under, at: now });
            }
        }
        self.asked.retain(|asked| now - asked.at <= FORCE_WITHIN_MS);
        let surplus = self.asked.len().saturating_sub(KEPT);
        self.asked.drain(..surplus);
        for event in seen.ticket_events() {
            // A move begins by the drain of its holder, or by the grant of a ticket that is free.
            let (ticket, to, cause) = match event {
                TicketEvent::DrainStarted { ticket, to, cause, .. } => (ticket, *to, cause),
                TicketEvent::Granted { ticket, holder, cause, .. } => (ticket, *holder, cause),
                _ => continue,
            };
            let Cause::Forced { first, second, guard, .. } = cause else { continue };
            if seen.before.failover.tickets.get(ticket).is_some_and(|before| before.moving.is_some()) {
                continue;
            }
            let asks = |by: &str| {
                self.asked.iter().any(|asked| {
                    (&asked.ticket, asked.by.as_str(), asked.to, asked.guard, asked.under)
                        == (ticket, by, to, guard.as_str(), epoch(ticket))
                })
            };
            if first == second || !asks(first) || !asks(second) {
                return Err(format!(
                    "{ticket} is forced to {to} by {first} and {second}, who did not both ask for it now"
                ));
            }
        }
        Ok(())
    }
}
