//! I3: epochs grow strictly, across crash, restart, snapshot and restore.

use std::collections::BTreeMap;

use bcp_core::failover::TicketEvent;
use bcp_wire::{Epoch, Id};

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct EpochsGrow {
    highest: BTreeMap<Id, Epoch>,
}

impl Invariant for EpochsGrow {
    const NUMBER: u8 = 3;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for (id, ticket) in &seen.after.failover.tickets {
            let granted =
                seen.ticket_events().any(|event| matches!(event, TicketEvent::Granted { ticket, .. } if ticket == id));
            let before = self.highest.insert(id.clone(), ticket.epoch).unwrap_or(Epoch::NONE);
            if ticket.epoch < before || (granted && ticket.epoch == before) {
                return Err(format!("{id}: epoch {} follows {before}", ticket.epoch));
            }
        }
        Ok(())
    }
}
