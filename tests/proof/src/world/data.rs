//! What the services write, and what of it is given up when two people force a move.

use bcp_core::failover::{Guard, TicketEvent};
use bcp_core::ledger::{LedgerEntry, LedgerEvent};
use bcp_wire::{Id, Site};

use super::World;
use crate::host::Host;

impl World {
    /// What the target of a forced move lacks is given up once the grant is in effect: the old holder has stopped by then.
    pub(super) fn give_up(&mut self, entries: &[LedgerEntry]) {
        for entry in entries {
            let LedgerEvent::Ticket { event: TicketEvent::Effective { ticket: id, holder, .. } } = &entry.what else {
                continue;
            };
            let moving = self.replica.failover.tickets.get(id).and_then(|ticket| ticket.moving.as_ref());
            if !moving.is_some_and(|moving| moving.cause.forces(Guard::Freshness)) {
                continue;
            }
            let copies = self.hosts.iter().filter(|host| host.site == *holder).filter_map(|host| host.posts.get(id));
            if let Some(position) = copies.filter(|post| post.carries_data).map(|post| post.copy.position).max() {
                self.acknowledged.insert(id.clone(), position);
            }
            *self.seen.entry("forced").or_default() += 1;
        }
    }

    /// Every running service writes: to both copies, or alone once the log knows it.
    pub(super) fn write_data(&mut self) {
        let tickets: Vec<Id> = self.policy.tickets.keys().cloned().collect();
        let now = self.now();
        for id in &tickets {
            for site in [Site::A, Site::B] {
                let peer = if site == Site::A { Site::B } else { Site::A };
                let copies =
                    |host: &&Host| host.site == peer && host.powered && !host.is_frozen() && !host.runs(id, now);
                let together = self.both_ways(site, peer) && self.hosts.iter().find(copies).is_some();
                let runs = self.active(id).contains(&site);
                let carrier = |host: &&mut Host| host.posts.get(id).is_some_and(|post| post.carries_data);
                let Some(host) = self.hosts.iter_mut().filter(carrier).find(|host| host.site == site) else { continue };
                let Some(post) = host.posts.get_mut(id).filter(|_| runs) else { continue };
                let wrote = post.write(together);
                let (position, in_sync) = (post.copy.position, post.copy.in_sync);
                if together {
                    host.wish_ended(id);
                }
                if together && in_sync {
                    for other in self.hosts.iter_mut().filter(|host| host.site == peer) {
                        if let Some(post) = other.posts.get_mut(id) {
                            post.copy.position = post.copy.position.max(position);
                        }
                    }
                }
                if wrote {
                    let known = self.acknowledged.entry(id.clone()).or_default();
                    *known = (*known).max(position);
                }
            }
        }
    }
}
