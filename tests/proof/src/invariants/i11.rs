//! I11: each step takes effect once per (ticket, epoch) at a gate.

use std::collections::BTreeSet;

use bcp_core::failover::TicketEvent;
use bcp_wire::control::StepKind;
use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Noted, Verdict};
use crate::host::Note;

#[derive(Debug, Clone, Hash, Default)]
pub struct OnceEach {
    agreed: BTreeSet<(Id, Epoch, StepKind, Site, Id)>,
    keys: BTreeSet<(Id, String)>,
}

impl Invariant for OnceEach {
    const NUMBER: u8 = 11;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            // Servers are started one after the other by the same gate: I25.
            if let TicketEvent::StepDone { ticket, epoch, step, site, gate, .. } = event
                && *step != StepKind::Capacity
                && !self.agreed.insert((ticket.clone(), *epoch, *step, *site, gate.clone()))
            {
                return Err(format!("{step:?} of {epoch} was done twice at {gate}"));
            }
        }
        Ok(())
    }

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        match seen.note {
            Note::Began { order, .. } if self.keys.contains(&(seen.host.gate.clone(), order.key.clone())) => {
                Err(format!("{} began {} again", seen.host.gate, order.key))
            }
            Note::Ended { order, .. } if seen.heard_by_machine => {
                self.keys.insert((seen.host.gate.clone(), order.key.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
