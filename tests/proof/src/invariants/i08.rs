//! I8: with rpo zero a ticket moves only to the last writer itself or to a copy latched in sync.

use bcp_core::failover::TicketEvent;
use bcp_core::policy::Rpo;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Default)]
pub struct OnlyInSync {
    /// What the copies had said by themselves, before anything was decided: (ticket, in sync).
    said: std::collections::BTreeMap<bcp_wire::Id, bool>,
}

impl Invariant for OnlyInSync {
    const NUMBER: u8 = 8;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            match event {
                TicketEvent::Latched { ticket, in_sync, .. } => {
                    self.said.insert(ticket.clone(), *in_sync);
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
