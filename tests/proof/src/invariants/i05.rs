//! I5: w holds nothing but what its policy lets it hold in an emergency, and that only after two different people said so.

use std::collections::BTreeMap;

use bcp_core::failover::TicketEvent;
use bcp_core::failover::decide::Cause;
use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct WitnessHoldsNothing {
    /// Epochs of w that people agreed to.
    agreed: BTreeMap<Id, Epoch>,
}

impl Invariant for WitnessHoldsNothing {
    const NUMBER: u8 = 5;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            let TicketEvent::Granted { ticket, holder: Site::W, epoch, cause, .. } = event else { continue };
            let two_people = match cause {
                Cause::Forced { first, second, .. } => first != second,
                Cause::Confirmed { name, cause } => {
                    matches!(&**cause, Cause::Operator { name: first, .. } if first != name)
                }
                // It had it, by an agreed epoch, and nobody else did since.
                Cause::Resumed | Cause::Undone { .. } => self.agreed.contains_key(ticket),
                _ => false,
            };
            if !two_people {
                return Err(format!("{ticket} was granted to w as {epoch} because {cause}"));
            }
            self.agreed.insert(ticket.clone(), *epoch);
        }
        let at_w = |(_, ticket): &(&Id, &bcp_core::failover::Ticket)| ticket.holder == Some(Site::W);
        let held = seen.after.failover.tickets.iter().find(at_w);
        match held {
            Some((id, ticket)) if self.agreed.get(id) != Some(&ticket.epoch) => {
                Err(format!("w holds {id} as {}, to which nobody agreed", ticket.epoch))
            }
            Some((id, _)) if seen.policy.tickets.get(id).is_none_or(|rule| rule.emergency != Some(Site::W)) => {
                Err(format!("w holds {id}, which names no emergency site"))
            }
            Some(_) | None => Ok(()),
        }
    }
}
