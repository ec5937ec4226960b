//! I14: no more automatic moves in 24 h than the budget, unless a human lifted the freeze that the last one led to.

use std::collections::BTreeMap;

use bcp_core::failover::TicketEvent;
use bcp_core::failover::decide::BUDGET_WINDOW_MS;
use bcp_core::failover::event::SYSTEM;
use bcp_core::ledger::LedgerEvent;
use bcp_wire::Id;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct Budget {
    moves: BTreeMap<Id, Vec<u64>>,
}

impl Invariant for Budget {
    const NUMBER: u8 = 14;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        let now = seen.after.log_time.0;
        for entry in seen.entries {
            let LedgerEvent::Ticket { event } = &entry.what else { continue };
            let (ticket, counts) = match event {
                TicketEvent::DrainStarted { ticket, cause, .. } => (ticket, cause.automatic()),
                TicketEvent::Granted { ticket, cause, .. } => {
                    let drained = seen.before.failover.tickets.get(ticket).is_some_and(|old| old.moving.is_some());
                    (ticket, cause.automatic() && !drained)
                }
                TicketEvent::Unfrozen { ticket, .. } if entry.author != SYSTEM => {
                    let owner = seen.before.failover.tickets.get(ticket).and_then(|old| old.frozen.as_ref());
                    if owner.is_some_and(|freeze| freeze.owner == SYSTEM) {
                        self.moves.remove(ticket);
                    }
                    continue;
                }
                _ => continue,
            };
            if !counts {
                continue;
            }
            let moves = self.moves.entry(ticket.clone()).or_default();
            moves.retain(|at| now - at < BUDGET_WINDOW_MS);
            moves.push(now);
            let budget = seen.policy.tickets.get(ticket).map_or(0, |rule| rule.move_budget);
            if moves.len() > budget as usize {
                return Err(format!("{} automatic moves of {ticket} in 24 h", moves.len()));
            }
        }
        Ok(())
    }
}
