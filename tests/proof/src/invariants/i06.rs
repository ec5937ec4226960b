//! I6: no grant to another site takes effect without a clean release or the full wait since the last renewal that counted.
//!
//! The wait is checked twice: in log time, and in real time at the fastest permitted clock. A release is clean only where
//! every gate of the site has closed the epoch and runs nothing.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::failover::TicketEvent;
use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Verdict};

#[derive(Debug, Clone, Hash)]
struct Renewed {
    log_ms: u64,
    real_ms: u64,
    epoch: Epoch,
    wait_ms: u64,
}

#[derive(Debug, Clone, Hash, Default)]
pub struct WaitedOut {
    renewed: BTreeMap<(Id, Site), Renewed>,
    released: BTreeSet<(Id, Epoch)>,
}

impl WaitedOut {
    fn learn(&mut self, seen: &Applied<'_>) {
        for (id, ticket) in &seen.after.failover.tickets {
            let Some(lease) = ticket.lease else { continue };
            let known = self.renewed.get(&(id.clone(), lease.site));
            if known.is_none_or(|known| known.log_ms != lease.renewed.0 || known.epoch != lease.epoch) {
                let wait_ms = seen.policy.timing.starts_at_ms();
                let renewed = Renewed { log_ms: lease.renewed.0, real_ms: seen.now, epoch: lease.epoch, wait_ms };
                self.renewed.insert((id.clone(), lease.site), renewed);
            }
        }
    }

    fn clean(seen: &Applied<'_>, id: &Id, site: Site, epoch: Epoch) -> Verdict {
        for host in seen.hosts.iter().filter(|host| host.site == site) {
            let Some(post) = host.posts.get(id) else { continue };
            let closed = post.disk.epoch > epoch || (post.disk.epoch == epoch && post.disk.closed);
            if host.runs(id, seen.now) || (!closed && post.disk.epoch == epoch) {
                return Err(format!("{id}: epoch {epoch} was released while {} had not stopped", host.gate));
            }
        }
        Ok(())
    }
}

impl Invariant for WaitedOut {
    const NUMBER: u8 = 6;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        for event in seen.ticket_events() {
            match event {
                TicketEvent::Released { ticket, holder, epoch } => {
                    Self::clean(seen, ticket, *holder, *epoch)?;
                    self.released.insert((ticket.clone(), *epoch));
                }
                TicketEvent::Effective { ticket, holder, .. } => {
                    for (site, known) in Site::ALL
                        .into_iter()
                        .filter(|site| site != holder)
                        .filter_map(|site| Some((site, self.renewed.get(&(ticket.clone(), site))?)))
                    {
                        let log_ms = seen.after.log_time.0.saturating_sub(known.log_ms);
                        let real_ms = seen.now.saturating_sub(known.real_ms);
                        let short = log_ms < known.wait_ms || real_ms * 1_010 < known.wait_ms * 1_000;
                        if short && !self.released.contains(&(ticket.clone(), known.epoch)) {
                            return Err(format!(
                                "{ticket} in effect at {holder} {log_ms} ms of log time, {real_ms} ms after {site}"
                            ));
                        }
                    }
                }
                _ => {}
            }
        }
        self.learn(seen);
        Ok(())
    }
}
