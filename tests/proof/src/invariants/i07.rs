//! I7: a lease is renewed only by an open gate of its holder, under the present epoch.

use bcp_core::replica::Item;

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash, Default)]
pub struct RenewedByRight;

impl Invariant for RenewedByRight {
    const NUMBER: u8 = 7;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for (id, ticket) in &seen.after.failover.tickets {
            let Some(lease) = ticket.lease else { continue };
            let old = seen.before.failover.tickets.get(id).and_then(|ticket| ticket.lease);
            if old.is_none_or(|old| old.epoch != lease.epoch || old.renewed == lease.renewed) {
                continue;
            }
            let by_right = seen.tick.items.iter().any(|item| match item {
                Item::Gate(sync) if sync.site == lease.site => sync.tickets.iter().any(|said| {
                    let open = said.seen <= lease.epoch && !(said.closed && said.seen == lease.epoch);
                    // And it is on that gate's disk: started anew, it would still know it.
                    said.ticket == *id && said.renew == Some(lease.epoch) && said.seen == lease.epoch && open
                }),
                _ => false,
            });
            if !by_right {
                return Err(format!("{id} was renewed by nobody with a right to: {lease:?}"));
            }
        }
        Ok(())
    }
}
