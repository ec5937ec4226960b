//! Rules, driven: live readings in, votes for the decision log out.
//!
//! Knows: which votes decide has not been told. Refuses to know: how they travel, and what the others vote.
//!
//! Invariants: a change of a vote leaves at once; the full set follows every failure to deliver, every change of leader, and
//! every minute; what the agreed state has not heard is said again within seconds; an
//! observer that has nothing to say still says so, because silence counts as not knowing.

use std::collections::{BTreeMap, BTreeSet};

use bcp_core::alarms::{AlarmView, AlarmVote, AlarmVotes, State};
use bcp_core::rules::{Engine, Event, VoteChange};
use bcp_core::time::{Mono, Wall};
use bcp_wire::Site;

use super::view::SourceState;
use crate::ingest::intake::Live;

/// A full set this often, whatever happened.
const FULL_EVERY_MS: u64 = 60_000;
/// Votes expire after 10 s of log time: said three times before.
const HEARTBEAT_MS: u64 = 3_000;
/// The agreed votes are compared with the own ones this often, and this long after a message.
const COMPARE_EVERY_MS: u64 = 2_000;
/// Votes of one message; what is left follows with the next.
const MAX_VOTES: usize = 1_000;

#[derive(Debug)]
pub struct Judge {
    observer: Site,
    /// Random per process start.
    session: u64,
    engine: Engine,
    changed: BTreeMap<String, AlarmVote>,
    full_due: bool,
    full_sent: Mono,
    sent: Mono,
    /// Own view of what is true, for when there is no agreement: since when.
    active: BTreeMap<String, Wall>,
    /// Votes on this process itself, which no rule makes.
    own: BTreeMap<String, AlarmVote>,
    /// Leader and term that were told last.
    led: (Option<Site>, u64),
    compared: Mono,
}

impl Judge {
    #[must_use]
    pub fn new(observer: Site, session: u64, engine: Engine) -> Judge {
        Judge {
            observer,
            session,
            engine,
            changed: BTreeMap::new(),
            full_due: true,
            full_sent: Mono(0),
            sent: Mono(0),
            active: BTreeMap::new(),
            own: BTreeMap::new(),
            led: (None, 0),
            compared: Mono(0),
        }
    }

    fn vote(&self, key: &str) -> Option<AlarmVote> {
        self.own.get(key).cloned().or_else(|| self.engine.vote(key))
    }

    /// Takes in what this process says of itself.
    pub fn say_own(&mut self, wall: Wall, (key, vote): (String, AlarmVote)) {
        if self.own.get(&key) == Some(&vote) {
            return;
        }
        self.own.insert(key.clone(), vote.clone());
        self.take(wall, key, vote);
    }

    fn take(&mut self, wall: Wall, key: String, vote: AlarmVote) {
        match vote.active {
            Some(true) => drop(self.active.entry(key.clone()).or_insert(wall)),
            Some(false) => drop(self.active.remove(&key)),
            None => {}
        }
        self.changed.insert(key, vote);
    }

    /// Looks whether the agreed state has heard what is voted here. A vote can be lost with a leader, and before the agreed
    /// state is seen nobody knows on which alarms to say "false".
    pub fn compare(&mut self, now: Mono, led: (Option<Site>, u64), agreed: &State) {
        if led != self.led && led.0.is_some() {
            self.led = led;
            self.full_due = true;
        }
        // What was just sent takes a moment to come back.
        if now.since(self.sent) < COMPARE_EVERY_MS || now.since(self.compared) < COMPARE_EVERY_MS {
            return;
        }
        self.compared = now;
        if agreed.observers.get(&self.observer).is_none_or(|known| known.session != self.session) {
            self.full_due = true;
            return;
        }
        for (key, alarm) in &agreed.alarms {
            if self.changed.len() >= MAX_VOTES {
                break;
            }
            if let Some(vote) = self.vote(key)
                && alarm.votes.get(&self.observer) != Some(&vote.active)
            {
                self.changed.insert(key.clone(), vote);
            }
        }
    }

    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Takes in one live event.
    pub fn on_live(&mut self, now: Mono, wall: Wall, live: Live<'_>) {
        let event = match live {
            Live::Reading { device, point, value, quality, sampled } => {
                Event::Reading { device, point, value, quality, sampled }
            }
            Live::Device { site, agent, meta } => Event::Device { site, agent, meta },
            Live::Agent { site, agent, source } => Event::Agent { site, agent, alive: alive(source) },
            Live::Reachability { device, reachable } => Event::Reachability { device, reachable },
        };
        self.step(now, wall, event);
    }

    /// Takes in one event of the rules' own kind.
    pub fn step(&mut self, now: Mono, wall: Wall, event: Event<'_>) {
        for VoteChange { key, vote } in self.engine.step(now, event) {
            match vote {
                Some(vote) => self.take(wall, key, vote),
                None => {
                    // A vote cannot be taken back alone: the full set leaves it out.
                    self.changed.remove(&key);
                    self.active.remove(&key);
                    self.full_due = true;
                }
            }
        }
    }

    /// Time for [`Event::Timer`].
    #[must_use]
    pub fn is_due(&self, now: Mono) -> bool {
        self.engine.next_deadline().is_some_and(|at| at <= now)
    }

    /// The next message, if there is something to say. `agreed`: alarms that exist in the agreed state.
    pub fn votes(&mut self, now: Mono, agreed: &dyn Fn(&str) -> bool) -> Option<AlarmVotes> {
        let full = self.full_due || now.since(self.full_sent) >= FULL_EVERY_MS;
        if !full && self.changed.is_empty() && now.since(self.sent) < HEARTBEAT_MS {
            return None;
        }
        let mut votes = BTreeMap::new();
        if full {
            self.changed.clear();
            let own = self.own.iter().map(|(key, vote)| (key.as_str(), vote.clone()));
            for (key, vote) in own.chain(self.engine.votes()) {
                if vote.active == Some(true) || agreed(key) {
                    // What does not fit follows as changes: a full set starts the list, it need not end it.
                    let list = if votes.len() < MAX_VOTES { &mut votes } else { &mut self.changed };
                    list.insert(key.to_owned(), vote);
                }
            }
            self.full_due = false;
            self.full_sent = now;
        } else {
            while votes.len() < MAX_VOTES
                && let Some((key, vote)) = self.changed.pop_first()
            {
                votes.insert(key, vote);
            }
        }
        self.sent = now;
        Some(AlarmVotes { observer: self.observer, session: self.session, full, votes })
    }

    /// The last message did not arrive: everything is said anew.
    pub fn not_delivered(&mut self) {
        self.full_due = true;
    }

    /// What this collector alone holds to be true.
    #[must_use]
    pub fn local_alarms(&self) -> Vec<AlarmView> {
        let keys: BTreeSet<&String> = self.active.keys().collect();
        let mut views: Vec<AlarmView> = keys
            .into_iter()
            .filter_map(|key| {
                let vote = self.vote(key)?;
                // Unknown does not clear: what was true and cannot be seen any more stays.
                let since = self.active.get(key).copied().unwrap_or_default();
                Some(AlarmView::local(key, &vote, "unacknowledged", true, since))
            })
            .collect();
        views.sort_by_key(|view| view.priority);
        views
    }
}

/// What the rules are told of an agent: alive, lost, or not known.
const fn alive(source: SourceState) -> Option<bool> {
    match source {
        SourceState::Fresh => Some(true),
        SourceState::AgentLost | SourceState::AgentOffline | SourceState::AgentSilent => Some(false),
        SourceState::BrokerAway => None,
    }
}

#[cfg(test)]
mod tests {
    use bcp_core::rules::{RawRule, load};
    use bcp_wire::{DeviceMeta, PointMeta, Quality, Value};

    use super::*;

    fn judge() -> Judge {
        let rule = RawRule {
            for_each: r#"kind == "crac""#.into(),
            when: r#"p("supply.air.temperature") > 27.0"#.into(),
            clear: Some(r#"p("supply.air.temperature") < 25.5"#.into()),
            hold: Some("2s".into()),
            priority: "high".into(),
            title: bcp_core::status::LANGUAGES.iter().map(|l| ((*l).to_owned(), "too warm".to_owned())).collect(),
            ..RawRule::default()
        };
        let rules = load(&BTreeMap::from([("supply-air-hot".to_owned(), rule)]), None).unwrap();
        let mut judge = Judge::new(Site::A, 42, Engine::new(rules, Vec::new()));
        let meta = DeviceMeta {
            v: 1,
            i: 1,
            device: "crac-a1".parse().unwrap(),
            kind: "crac".into(),
            profile: None,
            firmware: None,
            firmware_proven: true,
            parent: None,
            location: Some("a/hall1".into()),
            points: vec![PointMeta {
                name: "supply.air.temperature".parse().unwrap(),
                unit: "Cel".into(),
                interval_ms: 1_000,
                source: None,
            }],
        };
        let agent = "gw-a".parse().unwrap();
        judge.on_live(Mono(0), Wall(0), Live::Device { site: Site::A, agent: &agent, meta: &meta });
        judge
    }

    fn reads(judge: &mut Judge, at: u64, value: f64) {
        let (device, point) = ("crac-a1".parse().unwrap(), "supply.air.temperature".parse().unwrap());
        let value = Value::Num(value);
        let live = Live::Reading {
            device: &device,
            point: &point,
            value: Some(&value),
            quality: Quality::Good,
            sampled: Mono(at),
        };
        judge.on_live(Mono(at), Wall(at as i64), live);
    }

    const KEY: &str = "supply-air-hot/crac-a1";

    #[test]
    fn a_change_is_said_at_once_and_what_was_not_heard_is_said_anew() {
        let mut judge = judge();
        let agreed = |key: &str| key == KEY;
        let first = judge.votes(Mono(0), &agreed).unwrap();
        assert!(first.full && first.votes.len() == 1, "the first is the full set: {first:?}");
        for second in 1..=4u64 {
            reads(&mut judge, second * 1_000, 35.0);
        }
        let said = judge.votes(Mono(4_001), &agreed).unwrap();
        assert!(!said.full && said.votes[KEY].active == Some(true), "{said:?}");
        assert_eq!(judge.local_alarms()[0].id, KEY);
        assert_eq!(judge.votes(Mono(4_002), &agreed), None, "nothing new");
        assert!(judge.votes(Mono(7_500), &agreed).unwrap().votes.is_empty(), "a sign of life");
        judge.not_delivered();
        let anew = judge.votes(Mono(7_501), &|_| false).unwrap();
        assert!(anew.full && anew.votes[KEY].active == Some(true));
        reads(&mut judge, 8_000, 20.0);
        assert_eq!(judge.votes(Mono(8_001), &agreed).unwrap().votes[KEY].active, Some(false));
        assert!(judge.local_alarms().is_empty());
    }

    #[test]
    fn a_false_vote_that_was_not_heard_is_said_again_without_waiting_for_the_minute() {
        let mut judge = judge();
        reads(&mut judge, 1_000, 20.0);
        // A new process does not know yet what is agreed: its full set is empty.
        assert!(judge.votes(Mono(1_001), &|_| false).unwrap().votes.is_empty());
        let mut agreed = State::default();
        let raised = AlarmVote { active: Some(true), ..AlarmVote::default() };
        let votes =
            AlarmVotes { observer: Site::B, session: 7, full: true, votes: BTreeMap::from([(KEY.into(), raised)]) };
        agreed.on_votes(bcp_core::time::LogTime(0), &votes);
        let own = AlarmVotes { observer: Site::A, session: 42, full: true, votes: BTreeMap::new() };
        agreed.on_votes(bcp_core::time::LogTime(0), &own);
        let leader = (Some(Site::W), 3);
        judge.compare(Mono(1_100), leader, &agreed);
        assert!(judge.votes(Mono(1_101), &|_| true).unwrap().full, "a leader that was not told");
        judge.compare(Mono(2_000), leader, &agreed);
        assert_eq!(judge.votes(Mono(2_001), &|_| true), None, "the answer may be under way");
        judge.compare(Mono(4_000), leader, &agreed);
        let again = judge.votes(Mono(4_001), &|_| true).unwrap();
        assert_eq!(again.votes.get(KEY).map(|vote| vote.active), Some(Some(false)), "{again:?}");
        agreed.on_votes(bcp_core::time::LogTime(1), &again);
        judge.compare(Mono(6_100), leader, &agreed);
        assert_eq!(judge.votes(Mono(6_101), &|_| true), None, "heard");
        let other = AlarmVotes { observer: Site::A, session: 41, full: true, votes: BTreeMap::new() };
        agreed.on_votes(bcp_core::time::LogTime(2), &other);
        judge.compare(Mono(8_200), leader, &agreed);
        assert!(judge.votes(Mono(8_201), &|_| true).unwrap().full, "the state knows an earlier process");
    }

    #[test]
    fn a_vote_on_the_process_itself_is_one_like_the_others() {
        let mut judge = judge();
        let _ = judge.votes(Mono(0), &|_| false);
        let vote = |active| AlarmVote { active: Some(active), ..AlarmVote::default() };
        judge.say_own(Wall(5), ("store-failing/collector-a".into(), vote(true)));
        assert_eq!(judge.votes(Mono(1), &|_| false).unwrap().votes.len(), 1);
        judge.say_own(Wall(6), ("store-failing/collector-a".into(), vote(true)));
        assert_eq!(judge.votes(Mono(2), &|_| false), None, "said already");
        assert_eq!(judge.local_alarms()[0].since_wall_ms, 5);
        judge.not_delivered();
        assert!(judge.votes(Mono(3), &|_| false).unwrap().votes.contains_key("store-failing/collector-a"));
        judge.say_own(Wall(7), ("store-failing/collector-a".into(), vote(false)));
        assert!(judge.local_alarms().is_empty());
    }

    #[test]
    fn what_is_lost_from_sight_stays_and_is_said_to_be_unknown() {
        let mut judge = judge();
        for second in 1..=4u64 {
            reads(&mut judge, second * 1_000, 35.0);
        }
        let _ = judge.votes(Mono(4_001), &|_| true);
        judge.step(Mono(20_000), Wall(20_000), Event::Timer);
        let said = judge.votes(Mono(20_001), &|_| true).unwrap();
        assert_eq!(said.votes.get(KEY).map(|vote| vote.active), Some(None), "{said:?}");
        assert_eq!(judge.local_alarms().len(), 1, "unknown clears nothing");
    }
}
