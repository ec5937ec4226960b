//! I25: a server is started by right only: for the holder's site under its ticket's epoch, by a ticket that may act, where two
//! of three observers see too few even if all they do not know is up, silence of a crowd counting only where two see a crowd;
//! each server of the reserve once for each shortage, and at a gate only under the epoch it holds; and it counts as started only
//! where a gate has started it.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::failover::TicketEvent;
use bcp_core::failover::observe::{MAJORITY, SERVICE_WORD_EXPIRES_MS};
use bcp_core::policy::Mode;
use bcp_core::replica::Item;
use bcp_core::site::SiteVotes;
use bcp_wire::control::{Phase, StepKind};
use bcp_wire::{Epoch, Id, Site};

use super::{Applied, Invariant, Noted, Verdict};
use crate::host::Note;

/// What an observer said of a pool at a site.
#[derive(Debug, Clone, Copy, Hash)]
struct Word {
    at: u64,
    up: u32,
    silent: u32,
    unknown: u32,
    mass: bool,
}

#[derive(Debug, Clone, Hash, Default)]
pub struct StartedByRight {
    seqs: BTreeMap<Site, u64>,
    words: BTreeMap<(Site, Site, Id), Word>,
    started: BTreeMap<(Id, Site), BTreeSet<Id>>,
    /// Steps that a gate began: what it was told to start is started only then.
    begun: BTreeSet<String>,
    /// Steps that the log took as done.
    done: u64,
}

impl StartedByRight {
    fn learn(&mut self, seen: &Applied<'_>) {
        let at = seen.after.log_time.0;
        for item in &seen.tick.items {
            let Item::SiteVotes(SiteVotes { observer, seq, sites, .. }) = item else { continue };
            if self.seqs.get(observer).is_some_and(|known| seq <= known) {
                continue;
            }
            self.seqs.insert(*observer, *seq);
            for (site, said) in sites {
                for (pool, word) in &said.pools {
                    let (up, silent, unknown, mass) = (word.up, word.silent, word.unknown, said.mass_silence);
                    self.words.insert((*observer, *site, pool.clone()), Word { at, up, silent, unknown, mass });
                }
            }
        }
    }

    fn fresh(&self, site: Site, pool: &Id, now: u64) -> impl Iterator<Item = &Word> {
        let words = Site::ALL.into_iter().filter_map(move |observer| self.words.get(&(observer, site, pool.clone())));
        words.filter(move |word| now - word.at < SERVICE_WORD_EXPIRES_MS)
    }

    fn too_few(&self, site: Site, pool: &Id, min: u32, now: u64) -> bool {
        let crowd_is_lost = self.fresh(site, pool, now).filter(|word| word.mass).count() >= MAJORITY;
        let at_most = |word: &Word| word.up + word.unknown + if word.mass && !crowd_is_lost { word.silent } else { 0 };
        self.fresh(site, pool, now).filter(|word| at_most(word) < min).count() >= MAJORITY
    }

    fn ordered(&mut self, seen: &Applied<'_>, id: &Id, site: Site, server: &Id, epoch: Epoch) -> Verdict {
        let told = |what: &str| Err(format!("{id}: {server} at {site} is started {what}"));
        let Some(rule) = seen.policy.tickets.get(id) else { return told("for a ticket that no policy names") };
        let Some(pool) = rule.pool.as_ref().and_then(|pool| Some((pool, seen.policy.pools.get(pool)?))) else {
            return told("although no pool carries it");
        };
        let Some(ticket) = seen.after.failover.tickets.get(id) else { return told("for no ticket") };
        if ticket.epoch != epoch
            || ticket.holder != Some(site)
            || ticket.phase != Phase::Held
            || ticket.moving.is_some()
        {
            return told("for a site that does not hold it");
        }
        if matches!(rule.mode, Mode::Off | Mode::Observe) || ticket.frozen.is_some() {
            return told("by a ticket that must not act");
        }
        if !pool.1.reserve.get(&site).is_some_and(|reserve| reserve.contains(server)) {
            return told("and is not in the reserve");
        }
        if !self.too_few(site, pool.0, pool.1.min, seen.after.log_time.0) {
            return told("although no two observers see too few");
        }
        if !self.started.entry((id.clone(), site)).or_default().insert(server.clone()) {
            return told("a second time");
        }
        Ok(())
    }
}

impl Invariant for StartedByRight {
    const NUMBER: u8 = 25;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        if seen.policy.pools.is_empty() {
            return Ok(());
        }
        self.learn(seen);
        for event in seen.ticket_events() {
            match event {
                TicketEvent::CapacityOrdered { ticket, site, server, epoch } => {
                    self.ordered(seen, ticket, *site, server, *epoch)?;
                }
                TicketEvent::StepDone { ticket, step: StepKind::Capacity, .. } => {
                    self.done += 1;
                    if self.done > self.begun.len() as u64 {
                        return Err(format!("{ticket}: a server counts as started that no gate has started"));
                    }
                }
                _ => {}
            }
        }
        // The shortage is over, or the service is somewhere else: the next one begins anew.
        let now = seen.after.log_time.0;
        let mut started = std::mem::take(&mut self.started);
        started.retain(|(id, site), _| {
            let pool = seen.policy.tickets.get(id).and_then(|rule| rule.pool.as_ref());
            let min = pool.and_then(|pool| seen.policy.pools.get(pool)).map_or(0, |pool| pool.min);
            let holds = seen.after.failover.tickets.get(id).is_some_and(|ticket| ticket.holder == Some(*site));
            let enough =
                pool.is_some_and(|pool| self.fresh(*site, pool, now).filter(|word| word.up >= min).count() >= MAJORITY);
            holds && !enough
        });
        self.started = started;
        Ok(())
    }

    fn note(&mut self, seen: &Noted<'_>) -> Verdict {
        let Note::Began { ticket, order } = seen.note else { return Ok(()) };
        if order.kind != StepKind::Capacity {
            return Ok(());
        }
        self.begun.insert(order.key.clone());
        let record = seen.host.posts.get(ticket).map(|post| &post.disk);
        if record.is_some_and(|record| {
            record.epoch == order.epoch && record.holder == Some(seen.host.site) && !record.closed
        }) {
            return Ok(());
        }
        Err(format!("{} starts a server under {}, which it does not hold", seen.host.gate, order.epoch))
    }
}
