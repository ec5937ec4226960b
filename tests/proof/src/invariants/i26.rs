//! I26: a server counts as up only after its rise time and as lost only after its fall time, so what flaps changes nothing.

use std::collections::BTreeMap;

use bcp_core::policy::PoolPolicy;
use bcp_core::site::PoolWord;
use bcp_wire::{Id, Site};

use super::{Invariant, Moment, Verdict};
use crate::world::Glimpse;

/// By observer and server: in which of the observer's lives, and as what it counts; at first nobody knows.
#[derive(Debug, Clone, Hash, Default)]
pub struct FlapsChangeNothing {
    counts: BTreeMap<(Site, Id), (u64, Option<bool>)>,
}

impl FlapsChangeNothing {
    fn follow(&mut self, observer: Site, life: u64, server: &Id, glimpse: Glimpse, now: u64, pool: &PoolPolicy) {
        let counted = self.counts.entry((observer, server.clone())).or_insert((life, None));
        if counted.0 != life {
            *counted = (life, None);
        }
        let wait_ms = if glimpse.up { pool.rise_ms } else { pool.fall_ms };
        if now - glimpse.since >= wait_ms {
            counted.1 = Some(glimpse.up);
        }
    }

    fn agrees(&self, observer: Site, site: Site, pool: &PoolPolicy, word: &PoolWord) -> bool {
        let number = |ids: &mut dyn Iterator<Item = &Id>, as_what: Option<bool>| {
            let so = |id: &&Id| self.counts.get(&(observer, (*id).clone())).is_some_and(|counts| counts.1 == as_what);
            ids.filter(so).count()
        };
        let up = number(&mut pool.all(site), Some(true));
        // One that stands by is not there until it is up.
        let lost = number(&mut pool.servers.get(&site).into_iter().flatten(), Some(false));
        let reserve = pool.reserve.get(&site).map_or(0, Vec::len);
        let reserve = reserve - number(&mut pool.reserve.get(&site).into_iter().flatten(), Some(true));
        let said = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        said(word.up) == up && said(word.down + word.silent) == lost + reserve
    }
}

impl Invariant for FlapsChangeNothing {
    const NUMBER: u8 = 26;

    fn moment(&mut self, seen: &Moment<'_>) -> Verdict {
        let Some(servers) = seen.servers else { return Ok(()) };
        for (observer, (said, glimpses)) in Site::ALL.into_iter().zip(servers.said.iter().zip(&servers.glimpses)) {
            let Some((_, votes)) = said.as_ref().filter(|(at, _)| *at == seen.now) else { continue };
            for (site, word) in &votes.sites {
                for (id, word) in &word.pools {
                    let Some(pool) = seen.policy.pools.get(id) else { continue };
                    for server in pool.all(*site) {
                        let Some(glimpse) = glimpses.get(server) else { continue };
                        self.follow(observer, votes.session, server, *glimpse, seen.now, pool);
                    }
                    if !self.agrees(observer, *site, pool, word) {
                        return Err(format!("{observer} counts servers of {id} at {site} before their time: {word:?}"));
                    }
                }
            }
        }
        Ok(())
    }
}
