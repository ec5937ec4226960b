//! Supplies of which nobody can say for how long they last.
//!
//! A planned switchover before a site goes dark rests on them: a UPS that is misspelt in the policy, or never heard, would
//! otherwise be found out on the day its batteries run out. Knows: since when fewer than two observers know it. Refuses to
//! know: devices. Invariant: what a lost site cannot tell is no fault of its own, and is not counted.

use bcp_wire::Site;

use super::State;
use super::observe::MAJORITY;
use crate::policy::Policy;
use crate::site::{Runway, Supply};
use crate::time::LogTime;

/// Longer than a restart of everything, and than what a runway may honestly be unknown for after the mains failed (30 s).
pub const UNTOLD_FOR_MS: u64 = 300_000;

impl State {
    /// Once per tick, after the observers' words were taken in.
    pub(super) fn watch_supplies(&mut self, policy: &Policy) {
        for site in Site::ALL {
            if self.board.silent(site, self.now) || self.untold_supplies(policy, site).is_empty() {
                self.untold_since.remove(&site);
            } else {
                self.untold_since.entry(site).or_insert(self.now);
            }
        }
    }

    /// Supplies of a site about which the policy names devices, and fewer than two observers know how long they last.
    fn untold_supplies(&self, policy: &Policy, site: Site) -> Vec<Supply> {
        let named = |supply: &Supply| policy.sites.get(&site).is_some_and(|rule| rule.tells(*supply));
        let knows = |observer: Site, supply: Supply| {
            let word = self.board.site_words(observer, self.now).and_then(|sites| sites.get(&site)?.runway(supply));
            match word {
                Some(Runway::Endless | Runway::Left { .. }) => true,
                Some(Runway::Unknown) | None => false,
            }
        };
        let is_untold = |supply: &Supply| Site::ALL.iter().filter(|site| knows(**site, *supply)).count() < MAJORITY;
        [Supply::Power, Supply::Cooling].into_iter().filter(named).filter(is_untold).collect()
    }

    /// What has been unknown for so long that a person has to look; with the supplies.
    pub(super) fn long_untold(&self, policy: &Policy) -> Vec<(Site, Vec<Supply>)> {
        let is_long = |since: &LogTime| self.now.since(*since) >= UNTOLD_FOR_MS;
        let sites = self.untold_since.iter().filter(|(_, since)| is_long(since));
        sites.map(|(site, _)| (*site, self.untold_supplies(policy, *site))).collect()
    }
}
