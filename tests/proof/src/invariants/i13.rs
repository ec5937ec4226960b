//! I13: frozen or off, nothing changes by itself, and nothing stops: the holder keeps renewing.

use bcp_core::failover::TicketEvent;
use bcp_core::failover::decide::Cause;
use bcp_core::policy::Mode;
use bcp_core::replica::Item;
use bcp_wire::control::Phase;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct FrozenStays;

impl FrozenStays {
    fn keeps_renewing(seen: &Applied<'_>) -> Verdict {
        for (id, ticket) in &seen.before.failover.tickets {
            let (Some(_), Some(holder), Phase::Held) = (&ticket.frozen, ticket.holder, ticket.phase) else { continue };
            let Some(lease) = ticket.lease.filter(|lease| !lease.expired(seen.after.log_time)) else { continue };
            let asked = seen.tick.items.iter().any(|item| match item {
                Item::Gate(sync) if sync.site == holder => sync.tickets.iter().any(|said| {
                    let listed = ticket.gate(holder, &sync.gate);
                    let open = |gate: &bcp_core::failover::ticket::GateRecord| {
                        gate.listed
                            && gate.seen <= ticket.epoch
                            && !(gate.seen == ticket.epoch && gate.closed)
                            && !gate.renewals.iter().any(|known| known.nonce == sync.nonce)
                    };
                    said.ticket == *id
                        && said.renew == Some(ticket.epoch)
                        && said.seen == ticket.epoch
                        && !said.closed
                        && listed.is_some_and(open)
                }),
                _ => false,
            });
            let after = seen.after.failover.tickets.get(id).and_then(|ticket| ticket.lease);
            let refreshed =
                after.is_some_and(|after| after.epoch != lease.epoch || after.renewed >= seen.after.log_time);
            if asked && !refreshed {
                return Err(format!("{id} is frozen, and its holder's renewal did not count"));
            }
        }
        Ok(())
    }
}

impl Invariant for FrozenStays {
    const NUMBER: u8 = 13;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            let (ticket, asked) = match event {
                TicketEvent::Granted { ticket, cause, .. } | TicketEvent::DrainStarted { ticket, cause, .. } => {
                    (ticket, matches!(cause, Cause::Operator { .. } | Cause::Confirmed { .. } | Cause::Forced { .. }))
                }
                _ => continue,
            };
            let Some(old) = seen.before.failover.tickets.get(ticket) else { continue };
            // A move under way goes to its end.
            if asked || old.moving.is_some() {
                continue;
            }
            let still = seen.after.failover.tickets.get(ticket).is_some_and(|new| new.frozen.is_some());
            if old.frozen.is_some() && still {
                return Err(format!("{ticket} was changed while it was frozen"));
            }
            if seen.policy.tickets.get(ticket).is_some_and(|rule| rule.mode == Mode::Off) {
                return Err(format!("{ticket} was changed in mode off"));
            }
        }
        Self::keeps_renewing(seen)
    }
}
