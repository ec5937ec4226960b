//! I21: trouble of the monitoring alone moves nothing: a site is lost only on the word of two observers, each fresh and each
//! listening for a whole settling time. (That it stops nothing either is what the scenarios of single faults show.)

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use bcp_core::failover::decide::Cause;
use bcp_core::failover::observe::{MAJORITY, OBSERVATION_EXPIRES_MS, SETTLE_MS};
use bcp_core::failover::{Observation, Sight, TicketEvent};
use bcp_core::replica::Item;
use bcp_wire::Site;

use super::{Applied, Invariant, Verdict};
use crate::digest;

#[derive(Debug, Clone)]
struct Word {
    said: Observation,
    at: u64,
    since: u64,
}

impl Hash for Word {
    fn hash<H: Hasher>(&self, state: &mut H) {
        digest::feed(state, &self.said);
        (self.at, self.since).hash(state);
    }
}

#[derive(Debug, Clone, Hash, Default)]
pub struct TwoWitnesses {
    words: BTreeMap<Site, Word>,
}

impl TwoWitnesses {
    fn learn(&mut self, seen: &Applied<'_>) {
        let now = seen.after.log_time.0;
        for item in &seen.tick.items {
            let Item::Observation(said) = item else { continue };
            let before = self.words.get(&said.observer);
            if before.is_some_and(|word| said.seq <= word.said.seq) {
                continue;
            }
            let unbroken =
                before.filter(|word| word.said.session == said.session && now - word.at < OBSERVATION_EXPIRES_MS);
            let since = unbroken.map_or(now, |word| word.since);
            self.words.insert(said.observer, Word { said: said.clone(), at: now, since });
        }
    }

    fn lost(&self, site: Site, now: u64) -> usize {
        let says = |word: &&Word| {
            let silent = |sights: &BTreeMap<Site, Sight>| sights.get(&site) == Some(&Sight::Silent);
            now - word.at < OBSERVATION_EXPIRES_MS
                && now - word.since >= SETTLE_MS
                && silent(&word.said.control)
                && silent(&word.said.agents)
        };
        self.words.values().filter(says).count()
    }
}

impl Invariant for TwoWitnesses {
    const NUMBER: u8 = 21;

    fn tick(&mut self, seen: &Applied<'_>) -> Verdict {
        self.learn(seen);
        for event in seen.ticket_events() {
            let TicketEvent::Granted { ticket, cause: Cause::SiteLost { site }, .. } = event else { continue };
            let votes = self.lost(*site, seen.after.log_time.0);
            if votes < MAJORITY {
                return Err(format!("{ticket} left site {site} on the word of {votes}"));
            }
        }
        Ok(())
    }
}
