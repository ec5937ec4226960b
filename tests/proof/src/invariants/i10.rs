//! I10: nothing is promoted before its grant is in effect, which comes after the seals; nothing is published before it was
//! promoted.

use std::collections::BTreeSet;

use bcp_core::failover::TicketEvent;
use bcp_wire::control::{StepKind, StepOutcome};
use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Noted, Verdict};
use crate::host::Note;

#[derive(Debug, Clone, Hash, Default)]
pub struct SealedFirst {
    effective: BTreeSet<(Id, Epoch)>,
    promoted: BTreeSet<(Id, Epoch, Site, Id)>,
}

impl Invariant for SealedFirst {
    const NUMBER: u8 = 10;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            match event {
                TicketEvent::CoveredByTime { ticket, epoch, .. }
                    if self.effective.contains(&(ticket.clone(), *epoch)) =>
                {
                    return Err(format!("{ticket}: a seal of {epoch} was covered after it took effect"));
                }
                TicketEvent::Effective { ticket, epoch, .. } => {
                    self.effective.insert((ticket.clone(), *epoch));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        match seen.note {
            Note::Began { ticket, order } => match order.kind {
                StepKind::Promote if !self.effective.contains(&(ticket.clone(), order.epoch)) => {
                    Err(format!("{} promoted {} before it was in effect", seen.host.gate, order.epoch))
                }
                StepKind::Publish => {
                    let key = (ticket.clone(), order.epoch, seen.host.site, seen.host.gate.clone());
                    if self.promoted.contains(&key) {
                        return Ok(());
                    }
                    Err(format!("{} published {} before it was promoted", seen.host.gate, order.epoch))
                }
                _ => Ok(()),
            },
            Note::Ended { ticket, order, outcome: StepOutcome::Done | StepOutcome::Already } => {
                if order.kind == StepKind::Promote {
                    self.promoted.insert((ticket.clone(), order.epoch, seen.host.site, seen.host.gate.clone()));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
