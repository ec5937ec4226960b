//! What the three deciders hear and say of the sites, and their serves of the services.

use std::collections::BTreeMap;

use bcp_core::failover::{Observation, Sight};
use bcp_core::replica::Item;
use bcp_core::status::{ServiceSight, ServiceStatus, ServiceVotes};
use bcp_wire::Site;

use super::{World, at};
use crate::bug::Bug;

impl World {
    pub(super) fn listen(&mut self) {
        let now = self.now();
        for observer in Site::ALL {
            for about in Site::ALL {
                if self.powered(about) && !self.frozen(about) && self.reaches(about, observer) {
                    self.deciders[at(observer)].heard[at(about)] = now;
                }
            }
        }
    }

    fn sight(&self, observer: Site, about: Site) -> Sight {
        let decider = &self.deciders[at(observer)];
        let period = self.policy.timing.ttl_ms * 3 / 4;
        let listening = self.now() - decider.started;
        let silent_for = self.now() - decider.heard[at(about)].max(decider.started);
        let settled = listening > period || self.play.bug == Some(Bug::FreshObserverCounted);
        match silent_for > period || self.play.bug == Some(Bug::FreshObserverCounted) && silent_for > 1_000 {
            false => Sight::Seen,
            true if settled => Sight::Silent,
            true => Sight::Unknown,
        }
    }

    pub(super) fn observe(&mut self) {
        for observer in Site::ALL {
            if !self.decides(observer) || self.deciders[at(observer)].mute {
                continue;
            }
            let sights: BTreeMap<Site, Sight> =
                Site::ALL.into_iter().map(|about| (about, self.sight(observer, about))).collect();
            let serve_up = self.deciders[at(observer)].serve_up;
            let agents = sights.iter().map(|(site, sight)| (*site, if serve_up { *sight } else { Sight::Unknown }));
            let seen = Observation {
                observer,
                session: self.deciders[at(observer)].session,
                // Grows across restarts, as the shipped one takes it up from the agreed state.
                seq: self.now(),
                policy_hash: String::new(),
                control: sights.clone(),
                agents: agents.collect(),
            };
            self.relay(observer, Item::Observation(seen));
            if serve_up {
                let votes = self.service_votes(observer, &sights);
                self.relay(observer, Item::ServiceVotes(votes));
                self.say_servers(observer);
            }
        }
    }

    fn service_votes(&self, observer: Site, sights: &BTreeMap<Site, Sight>) -> ServiceVotes {
        let mut services = BTreeMap::new();
        for (ticket, rule) in &self.policy.tickets {
            let active = self.active(ticket);
            let status = |site: Site| match sights.get(&site) {
                Some(Sight::Seen) if active.contains(&site) => ServiceStatus::Up,
                Some(Sight::Seen) => ServiceStatus::Down,
                _ => ServiceStatus::Unknown,
            };
            let by_site = [Site::A, Site::B].map(|site| (site, status(site))).into_iter().collect();
            let sight = ServiceSight { status: ServiceStatus::Unknown, by_site, explain: String::new() };
            services.entry(rule.service.clone()).or_insert(sight);
        }
        ServiceVotes { observer, session: 1, seq: self.now(), services }
    }
}
