//! The servers of pools: which run, whose agents are heard where, and what each serve says of them.
//!
//! What an observer makes of its glances is the shipped [`Follower`] and [`Crowd`]; only what there is to see is played here.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::policy::{Policy, PoolPolicy};
use bcp_core::replica::Item;
use bcp_core::site::pool::{Crowd, Follower, Glance};
use bcp_core::site::{PoolWord, SiteVotes, SiteWord};
use bcp_wire::control::{StepKind, StepOrder};
use bcp_wire::{Id, Site};

use super::{World, at};
use crate::bug::Bug;

/// From the order to start a server until it answers checks: this long at least, and at most.
const BOOT_MS: (u64, u64) = (5_000, 15_000);

#[derive(Debug, Clone, Default)]
pub struct Server {
    /// It answers checks.
    pub runs: bool,
    /// Its agent says so, or says that it does not; without it nobody knows.
    pub has_agent: bool,
    comes_up: Option<u64>,
}

/// What one serve process remembers.
#[derive(Debug, Clone, Default)]
struct Eyes {
    crowds: BTreeMap<Site, Crowd>,
    pools: BTreeMap<(Id, Site), Follower>,
}

/// How an observer sees a server by itself: up or not, and since when without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse {
    pub up: bool,
    pub since: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Servers {
    pub all: BTreeMap<Site, BTreeMap<Id, Server>>,
    /// Agents that an observer does not hear although they are there.
    pub unheard: [BTreeSet<Id>; 3],
    eyes: [Eyes; 3],
    /// For those who judge the words of observers.
    pub glimpses: [BTreeMap<Id, Glimpse>; 3],
    /// What each observer said last, and when.
    pub said: [Option<(u64, SiteVotes)>; 3],
}

impl Servers {
    /// Those that serve run, those that stand by do not; every one has an agent.
    pub(super) fn of(policy: &Policy) -> Servers {
        let mut servers = Servers::default();
        for pool in policy.pools.values() {
            for (from, runs) in [(&pool.servers, true), (&pool.reserve, false)] {
                for (site, ids) in from {
                    let there = ids.iter().map(|id| (id.clone(), Server { runs, has_agent: true, comes_up: None }));
                    servers.all.entry(*site).or_default().extend(there);
                }
            }
        }
        servers
    }

    #[must_use]
    pub fn running(&self, site: Site) -> usize {
        self.all.get(&site).map_or(0, |all| all.values().filter(|server| server.runs).count())
    }

    fn glance(&self, observer: Site, site: Site, id: &Id, reached: bool) -> Glance {
        match self.all.get(&site).and_then(|all| all.get(id)) {
            Some(server) if server.has_agent && reached && !self.unheard[at(observer)].contains(id) => {
                if server.runs {
                    Glance::Up
                } else {
                    Glance::Down
                }
            }
            Some(_) => Glance::Silent,
            None => Glance::Unknown,
        }
    }

    fn pool(&mut self, observer: Site, site: Site, (id, pool): (&Id, &PoolPolicy), see: See) -> PoolWord {
        let mut word = PoolWord::default();
        let reserve = pool.reserve.get(&site).map_or(&[][..], Vec::as_slice);
        for server in pool.all(site) {
            let glance = self.glance(observer, site, server, see.reached);
            let follower = self.eyes[at(observer)].pools.entry((id.clone(), site)).or_default();
            let fall_ms = if see.bug == Some(Bug::FallTimeIgnored) { 0 } else { pool.fall_ms };
            let counted = follower.see(server, glance, see.now, pool.rise_ms, fall_ms);
            let up = glance == Glance::Up;
            let fresh = Glimpse { up, since: see.now };
            let glimpse = self.glimpses[at(observer)].entry(server.clone()).or_insert(fresh);
            if glimpse.up != up {
                *glimpse = fresh;
            }
            match counted {
                Glance::Up => word.up += 1,
                Glance::Down | Glance::Silent | Glance::Unknown if reserve.contains(server) => word.down += 1,
                Glance::Down => word.down += 1,
                Glance::Silent => word.silent += 1,
                Glance::Unknown => word.unknown += 1,
            }
        }
        word
    }

    fn word(&mut self, observer: Site, site: Site, policy: &Policy, see: See) -> SiteWord {
        let ids: Vec<Id> = self.all.get(&site).map(|all| all.keys().cloned().collect()).unwrap_or_default();
        let heard: Vec<(&Id, bool)> = ids
            .iter()
            .map(|id| (id, matches!(self.glance(observer, site, id, see.reached), Glance::Up | Glance::Down)))
            .collect();
        let crowd = self.eyes[at(observer)].crowds.entry(site).or_default();
        let mass_silence = crowd.see(heard.into_iter(), see.now);
        let here = policy.pools.iter().filter(|(_, pool)| pool.all(site).next().is_some());
        let pools = here.map(|(id, pool)| (id.clone(), self.pool(observer, site, (id, pool), see))).collect();
        SiteWord { mass_silence, pools, ..SiteWord::default() }
    }

    /// An observer that begins anew remembers nothing.
    pub(super) fn forget(&mut self, observer: Site) {
        (self.eyes[at(observer)], self.said[at(observer)]) = (Eyes::default(), None);
        self.glimpses[at(observer)].clear();
    }
}

/// What there is to know for a look.
#[derive(Debug, Clone, Copy)]
struct See {
    now: u64,
    reached: bool,
    bug: Option<Bug>,
}

impl World {
    /// What the serve of `observer` says of all sites' servers, where the policy names any.
    pub(super) fn say_servers(&mut self, observer: Site) {
        let Some(mut servers) = self.servers.take() else { return };
        let (now, bug) = (self.now(), self.play.bug);
        let sites = [Site::A, Site::B].map(|site| {
            let reached = self.powered(site) && !self.frozen(site) && self.reaches(site, observer);
            (site, servers.word(observer, site, &self.policy, See { now, reached, bug }))
        });
        let session = self.deciders[at(observer)].session;
        let votes = SiteVotes { observer, session, seq: now, sites: sites.into_iter().collect() };
        servers.said[at(observer)] = Some((now, votes.clone()));
        self.servers = Some(servers);
        self.relay(observer, Item::SiteVotes(votes));
    }

    /// Servers that were ordered come up.
    pub(super) fn boot(&mut self) {
        let now = self.now();
        for server in
            self.servers.iter_mut().flat_map(|servers| servers.all.values_mut()).flat_map(BTreeMap::values_mut)
        {
            if server.comes_up.take_if(|at| *at <= now).is_some() {
                (server.runs, server.has_agent) = (true, true);
            }
        }
    }

    /// A gate's program has started a server.
    pub(super) fn started(&mut self, site: Site, order: &StepOrder) {
        let Some(name) = order.params.get("server").filter(|_| order.kind == StepKind::Capacity) else { return };
        let at = self.now() + BOOT_MS.0 + self.play.roll() % (BOOT_MS.1 - BOOT_MS.0 + 1);
        let all = self.servers.as_mut().and_then(|servers| servers.all.get_mut(&site));
        if let Some((_, server)) = all.into_iter().flatten().find(|(id, _)| id.as_str() == name)
            && !server.runs
        {
            server.comes_up.get_or_insert(at);
        }
    }

    /// An observer does not hear these agents from here on, and all others again.
    pub fn deafen(&mut self, observer: Site, agents: &[Id]) {
        if let Some(servers) = &mut self.servers {
            servers.unheard[at(observer)] = agents.iter().cloned().collect();
        }
    }

    /// Changes servers of a site.
    pub fn each_server(&mut self, site: Site, ids: &[Id], mut act: impl FnMut(&mut Server)) {
        let all = self.servers.as_mut().and_then(|servers| servers.all.get_mut(&site));
        for (_, server) in all.into_iter().flatten().filter(|(id, _)| ids.contains(id)) {
            act(server);
        }
    }

    #[must_use]
    pub fn servers_running(&self, site: Site) -> usize {
        self.servers.as_ref().map_or(0, |servers| servers.running(site))
    }
}
