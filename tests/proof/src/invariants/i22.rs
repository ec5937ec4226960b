//! I22: an order that was given on older knowledge is not carried out: every ticket command compares epoch and revision.

use bcp_core::ledger::LedgerEvent;
use bcp_core::replica::{CommandVerb, Item};

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct OrdersCompare;

impl Invariant for OrdersCompare {
    const NUMBER: u8 = 22;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for item in &seen.tick.items {
            let Item::Command(order) = item else { continue };
            let CommandVerb::Ticket { ticket: id, command } = &order.verb else { continue };
            let (Some((epoch, revision)), Some(ticket)) = (command.expect(), seen.before.failover.tickets.get(id))
            else {
                continue;
            };
            let done = seen
                .entries
                .iter()
                .any(|entry| matches!(&entry.what, LedgerEvent::Command { key, ok: true } if *key == order.key));
            if done && (epoch < ticket.epoch || revision < ticket.revision) {
                let (now, at) = (ticket.epoch, ticket.revision);
                return Err(format!("an order for {epoch}, {revision} was carried out on {id} at {now}, {at}"));
            }
        }
        Ok(())
    }
}
