//! I12: a ticket is granted by the rules only while everything it depends on is held, at rest, and not about to be lost.

use bcp_core::failover::TicketEvent;
use bcp_core::failover::decide::Cause;
use bcp_wire::control::Phase;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct DependenciesFirst;

impl Invariant for DependenciesFirst {
    const NUMBER: u8 = 12;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            let TicketEvent::Granted { ticket, cause, .. } = event else { continue };
            // A move that is undone goes back whatever else happened meanwhile.
            if matches!(
                cause,
                Cause::Undone { .. }
                    | Cause::Operator { .. }
                    | Cause::ServiceDown { .. }
                    | Cause::Confirmed { .. }
                    | Cause::Forced { .. }
            ) {
                continue;
            }
            let depends_on = seen.policy.tickets.get(ticket).map(|rule| rule.depends_on.clone()).unwrap_or_default();
            for id in depends_on {
                let there = seen.after.failover.tickets.get(&id).is_some_and(|other| {
                    other.phase == Phase::Held
                        && other.moving.is_none()
                        && other.lease.is_none_or(|lease| !lease.expired(seen.after.log_time))
                });
                if !there {
                    return Err(format!("{ticket} was granted for {cause} before {id} was there"));
                }
            }
        }
        Ok(())
    }
}
