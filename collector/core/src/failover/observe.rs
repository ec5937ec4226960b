//! What the three collectors see, and when that is a vote.
//!
//! Knows: the last word of each observer, and how old it is in log time. Refuses to know: how an observer looks. Invariants:
//! an expired word is unknown and never a vote; silence counts only from an observer that has listened without a gap for a
//! full settling time, so processes that wake up together cannot agree that everybody is gone; a word that was overtaken by
//! a later one of the same observer, or comes twice, changes nothing and is counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Id, Site};

use super::{Observation, Sight};
use crate::site::{SiteVotes, SiteWord};
use crate::status::{ServiceStatus, ServiceVotes};
use crate::time::LogTime;

/// An observation is renewed every second; three missed in a row are no knowledge any more.
pub const OBSERVATION_EXPIRES_MS: u64 = 3_000;
/// Words about services come from serve and expire as its alarm votes do.
pub const SERVICE_WORD_EXPIRES_MS: u64 = crate::alarms::VOTE_EXPIRY_MS;
/// Listening time before an observer's silence counts: the time after which a site may be called silent at all.
pub const SETTLE_MS: u64 = 4_000;
/// A new policy reaches the collectors one restart after the other; only one that stays different is told.
pub const POLICY_SETTLE_MS: u64 = 30_000;
/// Votes that make a majority of the three.
pub const MAJORITY: usize = 2;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Board {
    pub sights: BTreeMap<Site, Sights>,
    pub services: BTreeMap<Site, ServiceWord>,
    /// What each observer sees of the sites.
    #[serde(default)]
    pub sites: BTreeMap<Site, SitesWord>,
    /// Words of an observer that came twice or too late.
    #[serde(default)]
    pub ignored: BTreeMap<Site, u64>,
}

/// Whether a word numbered `seq` is older than the one numbered `known`. Without a number nobody can tell; such a word must
/// not replace a fresh one that has one.
const fn overtaken(seq: u64, known: u64, known_is_fresh: bool) -> bool {
    known != 0 && if seq == 0 { known_is_fresh } else { seq <= known }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sights {
    pub session: u64,
    /// Number of the last word.
    #[serde(default)]
    pub seq: u64,
    /// This session is heard without a gap since.
    pub since: LogTime,
    pub at: LogTime,
    pub policy_hash: String,
    /// It has named that policy without a gap since.
    #[serde(default)]
    pub policy_since: LogTime,
    pub control: BTreeMap<Site, Sight>,
    pub agents: BTreeMap<Site, Sight>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceWord {
    pub at: LogTime,
    /// Number of this word.
    #[serde(default)]
    pub seq: u64,
    pub by_site: BTreeMap<Id, BTreeMap<Site, ServiceStatus>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SitesWord {
    pub at: LogTime,
    pub seq: u64,
    pub by_site: BTreeMap<Site, SiteWord>,
}

/// What one observer's word is worth for "is this site lost".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    Lost,
    There,
    /// Expired, not settled, or it says itself that it does not know.
    Unknown,
}

impl Board {
    /// Takes in an observation; true where it says something new.
    pub fn observe(&mut self, seen: &Observation, now: LogTime) -> bool {
        let before = self.sights.get(&seen.observer);
        if before.is_some_and(|b| overtaken(seen.seq, b.seq, now.since(b.at) < OBSERVATION_EXPIRES_MS)) {
            self.ignore(seen.observer);
            return false;
        }
        let unbroken = before.filter(|b| b.session == seen.session && now.since(b.at) < OBSERVATION_EXPIRES_MS);
        let since = unbroken.map_or(now, |b| b.since);
        let same_policy = unbroken.filter(|b| b.policy_hash == seen.policy_hash);
        let news = before.is_none_or(|b| {
            b.session != seen.session
                || b.policy_hash != seen.policy_hash
                || b.control != seen.control
                || b.agents != seen.agents
        });
        let sights = Sights {
            session: seen.session,
            seq: seen.seq,
            since,
            at: now,
            policy_hash: seen.policy_hash.clone(),
            policy_since: same_policy.map_or(now, |b| b.policy_since),
            control: seen.control.clone(),
            agents: seen.agents.clone(),
        };
        self.sights.insert(seen.observer, sights);
        news
    }

    fn ignore(&mut self, observer: Site) {
        let count = self.ignored.entry(observer).or_default();
        *count = count.saturating_add(1);
    }

    /// Takes in what a serve process sees of the services; false where it was overtaken.
    pub fn service_votes(&mut self, votes: &ServiceVotes, now: LogTime) -> bool {
        let before = self.services.get(&votes.observer);
        if before.is_some_and(|b| overtaken(votes.seq, b.seq, now.since(b.at) < SERVICE_WORD_EXPIRES_MS)) {
            self.ignore(votes.observer);
            return false;
        }
        let by_site = votes
            .services
            .iter()
            .filter(|(_, sight)| !sight.by_site.is_empty())
            .map(|(service, sight)| (service.clone(), sight.by_site.clone()))
            .collect();
        self.services.insert(votes.observer, ServiceWord { at: now, seq: votes.seq, by_site });
        true
    }

    /// Takes in what a serve process sees of the sites; false where it was overtaken.
    pub fn site_votes(&mut self, votes: &SiteVotes, now: LogTime) -> bool {
        let before = self.sites.get(&votes.observer);
        if before.is_some_and(|b| overtaken(votes.seq, b.seq, now.since(b.at) < SERVICE_WORD_EXPIRES_MS)) {
            self.ignore(votes.observer);
            return false;
        }
        let by_site = votes.sites.clone();
        self.sites.insert(votes.observer, SitesWord { at: now, seq: votes.seq, by_site });
        true
    }

    /// What an observer says of the sites, if that has not expired.
    #[must_use]
    pub fn site_words(&self, observer: Site, now: LogTime) -> Option<&BTreeMap<Site, SiteWord>> {
        let word = self.sites.get(&observer)?;
        (now.since(word.at) < SERVICE_WORD_EXPIRES_MS).then_some(&word.by_site)
    }

    /// The observer's last word, if it has not expired.
    #[must_use]
    pub fn fresh(&self, observer: Site, now: LogTime) -> Option<&Sights> {
        self.sights.get(&observer).filter(|sights| now.since(sights.at) < OBSERVATION_EXPIRES_MS)
    }

    #[must_use]
    pub fn vote(&self, observer: Site, about: Site, now: LogTime) -> Vote {
        let Some(sights) = self.fresh(observer, now) else { return Vote::Unknown };
        let control = sights.control.get(&about).copied().unwrap_or(Sight::Unknown);
        let agents = sights.agents.get(&about).copied().unwrap_or(Sight::Unknown);
        match (control, agents) {
            (Sight::Seen, _) | (_, Sight::Seen) => Vote::There,
            (Sight::Silent, Sight::Silent) if now.since(sights.since) >= SETTLE_MS => Vote::Lost,
            (Sight::Silent | Sight::Unknown, Sight::Silent | Sight::Unknown) => Vote::Unknown,
        }
    }

    /// Two of three observers see neither control nor any fresh agent of the site.
    #[must_use]
    pub fn silent(&self, about: Site, now: LogTime) -> bool {
        Site::ALL.iter().filter(|observer| self.vote(**observer, about, now) == Vote::Lost).count() >= MAJORITY
    }

    /// How many observers besides the site itself could tell that it is lost.
    #[must_use]
    pub fn witnesses(&self, about: Site, now: LogTime) -> usize {
        about.others().iter().filter(|observer| self.fresh(**observer, now).is_some()).count()
    }

    #[must_use]
    pub fn service_word(&self, observer: Site, service: &Id, site: Site, now: LogTime) -> ServiceStatus {
        self.services
            .get(&observer)
            .filter(|word| now.since(word.at) < SERVICE_WORD_EXPIRES_MS)
            .and_then(|word| word.by_site.get(service)?.get(&site).copied())
            .unwrap_or(ServiceStatus::Unknown)
    }

    /// Two of three agree on a status of the service at a site. Only `wanted` counts; unknown is no vote.
    #[must_use]
    pub fn service_is(&self, wanted: ServiceStatus, service: &Id, site: Site, now: LogTime) -> bool {
        let agree = |observer: &&Site| self.service_word(**observer, service, site, now) == wanted;
        Site::ALL.iter().filter(agree).count() >= MAJORITY
    }

    /// Fresh observers that have named another policy than the agreed one for [`POLICY_SETTLE_MS`]. What one said before
    /// the agreed policy was adopted, or before its own restart, is no news about it.
    #[must_use]
    pub fn foreign_policies(&self, agreed: &str, adopted: LogTime, now: LogTime) -> Vec<Site> {
        let differs = |site: &Site| {
            self.fresh(*site, now).is_some_and(|said| {
                let other = !said.policy_hash.is_empty() && said.policy_hash != agreed;
                other && now.since(said.policy_since.max(adopted)) >= POLICY_SETTLE_MS
            })
        };
        Site::ALL.into_iter().filter(differs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(observer: Site, session: u64, about: Site, sight: Sight) -> Observation {
        let sights = BTreeMap::from([(about, sight)]);
        Observation { observer, session, seq: 0, policy_hash: String::new(), control: sights.clone(), agents: sights }
    }

    #[test]
    fn a_word_that_was_overtaken_or_comes_twice_is_ignored_and_counted() {
        let mut board = Board::default();
        let numbered = |seq, session, sight| Observation { seq, ..word(Site::B, session, Site::A, sight) };
        let seen = |board: &Board| board.sights[&Site::B].control[&Site::A];
        assert!(board.observe(&numbered(7, 1, Sight::Seen), LogTime(0)));
        assert!(!board.observe(&numbered(6, 1, Sight::Silent), LogTime(100)), "overtaken");
        assert!(!board.observe(&numbered(7, 1, Sight::Silent), LogTime(200)), "twice");
        assert!(!board.observe(&numbered(5, 9, Sight::Silent), LogTime(300)), "of a former life");
        assert!(!board.observe(&numbered(0, 1, Sight::Silent), LogTime(400)), "without a number");
        assert_eq!((seen(&board), board.ignored[&Site::B]), (Sight::Seen, 4));
        assert_eq!(board.sights[&Site::B].at, LogTime(0), "an ignored word keeps nothing fresh");
        // An old word stays old however long nothing else came; one without a number is better than nothing.
        assert!(!board.observe(&numbered(7, 1, Sight::Silent), LogTime(60_000)));
        assert!(board.observe(&numbered(0, 2, Sight::Silent), LogTime(60_000)));
        assert!(board.observe(&numbered(8, 1, Sight::Seen), LogTime(60_100)));
        assert_eq!(board.vote(Site::B, Site::A, LogTime(60_100)), Vote::There);
    }

    #[test]
    fn an_old_word_about_a_service_is_ignored() {
        let mut board = Board::default();
        let votes = |seq| ServiceVotes { observer: Site::B, session: 1, seq, services: BTreeMap::new() };
        assert!(board.service_votes(&votes(2), LogTime(0)));
        assert!(!board.service_votes(&votes(1), LogTime(100)));
        assert!(!board.service_votes(&votes(2), LogTime(200)));
        assert!(board.service_votes(&votes(3), LogTime(300)));
        assert_eq!((board.services[&Site::B].at, board.ignored[&Site::B]), (LogTime(300), 2));
    }

    #[test]
    fn another_policy_is_told_only_when_it_stays() {
        let mut board = Board::default();
        let named = |hash: &str| Observation { policy_hash: hash.into(), ..word(Site::B, 1, Site::A, Sight::Seen) };
        let adopted = LogTime(1_000);
        // Said before the restart that brought the new policy; log time stood still in between.
        board.observe(&named("old"), LogTime(900));
        assert_eq!(board.foreign_policies("new", adopted, adopted), []);
        let mut now = 1_000;
        while now < 1_000 + POLICY_SETTLE_MS {
            board.observe(&named("old"), LogTime(now));
            assert_eq!(board.foreign_policies("new", adopted, LogTime(now)), [], "{now}");
            now += 1_000;
        }
        board.observe(&named("old"), LogTime(now));
        assert_eq!(board.foreign_policies("new", adopted, LogTime(now)), [Site::B]);
        board.observe(&named("new"), LogTime(now + 1_000));
        assert_eq!(board.foreign_policies("new", adopted, LogTime(now + 1_000)), []);
    }

    #[test]
    fn an_expired_observation_is_no_vote() {
        let mut board = Board::default();
        for at in (0..=6_000).step_by(1_000) {
            board.observe(&word(Site::B, 1, Site::A, Sight::Silent), LogTime(at));
            board.observe(&word(Site::W, 1, Site::A, Sight::Silent), LogTime(at));
        }
        assert!(board.silent(Site::A, LogTime(8_999)));
        assert!(!board.silent(Site::A, LogTime(9_000)));
    }

    #[test]
    fn a_fresh_observers_silence_does_not_count() {
        let mut board = Board::default();
        for at in (0..=6_000).step_by(1_000) {
            board.observe(&word(Site::B, 1, Site::A, Sight::Silent), LogTime(at));
        }
        board.observe(&word(Site::W, 7, Site::A, Sight::Silent), LogTime(6_000));
        assert!(!board.silent(Site::A, LogTime(6_000)));
        for at in (7_000..=10_000).step_by(1_000) {
            board.observe(&word(Site::B, 1, Site::A, Sight::Silent), LogTime(at));
            board.observe(&word(Site::W, 7, Site::A, Sight::Silent), LogTime(at));
        }
        assert!(board.silent(Site::A, LogTime(10_000)));
        // A restart begins anew.
        board.observe(&word(Site::W, 8, Site::A, Sight::Silent), LogTime(10_500));
        assert!(!board.silent(Site::A, LogTime(10_500)));
    }

    #[test]
    fn one_seen_agent_outweighs_a_silent_control_plane() {
        let mut board = Board::default();
        for at in (0..=5_000).step_by(1_000) {
            let mut seen = word(Site::B, 1, Site::A, Sight::Silent);
            seen.agents.insert(Site::A, Sight::Seen);
            board.observe(&seen, LogTime(at));
            board.observe(&word(Site::W, 1, Site::A, Sight::Silent), LogTime(at));
        }
        assert_eq!(board.vote(Site::B, Site::A, LogTime(5_000)), Vote::There);
        assert!(!board.silent(Site::A, LogTime(5_000)));
    }
}
