//! I19: `observe` has no effect.

use bcp_core::failover::TicketEvent;
use bcp_core::failover::decide::Cause;
use bcp_core::policy::Mode;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct ObserveOnly;

impl Invariant for ObserveOnly {
    const NUMBER: u8 = 19;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            let (ticket, cause) = match event {
                TicketEvent::Granted { ticket, cause, .. } | TicketEvent::DrainStarted { ticket, cause, .. } => {
                    (ticket, cause)
                }
                _ => continue,
            };
            let observed = seen.policy.tickets.get(ticket).is_some_and(|rule| rule.mode == Mode::Observe);
            let under_way = seen.before.failover.tickets.get(ticket).is_some_and(|old| old.moving.is_some());
            let ordered = matches!(cause, Cause::Operator { .. } | Cause::Forced { .. });
            if observed && !under_way && !ordered {
                return Err(format!("{ticket} was changed for {cause} in mode observe"));
            }
        }
        Ok(())
    }
}
