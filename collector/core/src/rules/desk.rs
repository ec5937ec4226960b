//! What a collector sends of its votes: changes at once, everything now and then, a sign of life in between.
//!
//! The log needs votes that are true, and votes on alarms that exist. Twenty thousand instances that are simply false
//! stay at home.

use std::collections::BTreeSet;

use bcp_wire::Site;

use super::engine::{Engine, VoteChange};
use crate::alarms::{AlarmVotes, State};
use crate::time::Mono;

/// A sign of life this often: well within the expiry of votes, even when one is lost.
pub const SIGN_OF_LIFE_MS: u64 = 2_500;
/// A full set this often: what was lost or retired is set right.
pub const FULL_EVERY_MS: u64 = 60_000;
/// A full set that has not shown up in the log is sent again after this.
pub const FULL_AGAIN_MS: u64 = 3_000;

/// The outgoing side of one session.
#[derive(Debug)]
pub struct Desk {
    observer: Site,
    session: u64,
    changed: BTreeSet<String>,
    /// Keys the log has, or is about to have, our vote on.
    told: BTreeSet<String>,
    sent_at: Option<Mono>,
    full_at: Option<Mono>,
}

impl Desk {
    /// `session`: random per process start.
    #[must_use]
    pub const fn new(observer: Site, session: u64) -> Desk {
        Desk { observer, session, changed: BTreeSet::new(), told: BTreeSet::new(), sent_at: None, full_at: None }
    }

    pub fn on_changes(&mut self, changes: &[VoteChange]) {
        self.changed.extend(changes.iter().map(|change| change.key.clone()));
    }

    /// The last batch was not accepted: the next one is full.
    pub const fn not_sent(&mut self) {
        self.full_at = None;
    }

    /// What is to be proposed now, if anything. `agreed`: the state this collector has applied.
    pub fn batch(&mut self, now: Mono, engine: &Engine, agreed: &State) -> Option<AlarmVotes> {
        let known = agreed.observers.get(&self.observer);
        let listed = known.is_some_and(|observer| observer.session == self.session && observer.full);
        let full = match self.full_at {
            None => true,
            Some(at) if listed => now.since(at) >= FULL_EVERY_MS,
            Some(at) => now.since(at) >= FULL_AGAIN_MS,
        };
        if full {
            return Some(self.full(now, engine, agreed));
        }
        let new = agreed.alarms.keys().filter(|key| !self.told.contains(*key));
        let wanted: BTreeSet<String> = std::mem::take(&mut self.changed).into_iter().chain(new.cloned()).collect();
        let mut batch = self.empty(false);
        for key in wanted {
            let Some(vote) = engine.vote(&key) else {
                // An instance that is gone: only a full set can leave it out.
                if self.told.contains(&key) && agreed.alarms.contains_key(&key) {
                    self.full_at = None;
                }
                // Alarms of the log itself have no instance here and want no vote.
                self.told.insert(key);
                continue;
            };
            if vote.active == Some(true) || self.told.contains(&key) || agreed.alarms.contains_key(&key) {
                self.told.insert(key.clone());
                batch.votes.insert(key, vote);
            }
        }
        let silent = self.sent_at.is_none_or(|at| now.since(at) >= SIGN_OF_LIFE_MS);
        if batch.votes.is_empty() && !silent {
            return None;
        }
        self.sent_at = Some(now);
        Some(batch)
    }

    fn full(&mut self, now: Mono, engine: &Engine, agreed: &State) -> AlarmVotes {
        let mut batch = self.empty(true);
        let wanted = |key: &str, active: Option<bool>| active == Some(true) || agreed.alarms.contains_key(key);
        batch.votes.extend(engine.votes_where(wanted).map(|(key, vote)| (key.to_owned(), vote)));
        self.changed.clear();
        self.told = agreed.alarms.keys().cloned().chain(batch.votes.keys().cloned()).collect();
        self.sent_at = Some(now);
        self.full_at = Some(now);
        batch
    }

    const fn empty(&self, full: bool) -> AlarmVotes {
        AlarmVotes { observer: self.observer, session: self.session, full, votes: std::collections::BTreeMap::new() }
    }
}
