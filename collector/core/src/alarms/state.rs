//! The agreed alarms and the votes they follow from.

mod alarm;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use bcp_wire::Site;

use self::alarm::Verdict;
use super::table::{Phase, Trigger};
use super::{
    AgreedCondition, AlarmCommand, AlarmEvent, AlarmVote, AlarmVotes, MAX_FED_BY, MAX_SHELVE_MS, Priority,
    VOTE_EXPIRY_MS, clip,
};
use crate::time::{LogTime, Wall};

/// Most alarms the state holds. More are counted in [`State::refused`], and monitoring goes on in each collector.
pub const MAX_ALARMS: usize = 10_000;
/// Most notes kept on one alarm, newest last; the ledger keeps them all.
pub const MAX_NOTES: usize = 16;
/// An alarm raised this often within [`CHATTER_WINDOW_MS`] chatters (ISA-18.2 says three times a minute).
pub const CHATTER_RAISES: usize = 3;
pub const CHATTER_WINDOW_MS: u64 = 60_000;
/// A chattering alarm clears only after it has been steadily clear for this long.
pub const CHATTER_HOLD_MS: u64 = 60_000;
/// More than this many annunciations within [`FLOOD_WINDOW_MS`] are a flood; fewer than [`FLOOD_END`] end it.
pub const FLOOD_BEGIN: usize = 10;
pub const FLOOD_END: usize = 5;
pub const FLOOD_WINDOW_MS: u64 = 600_000;
/// Annunciation times kept to count a flood.
const MAX_ANNUNCIATIONS: usize = 4_096;
/// A symptom whose cause cleared is annunciated only if it outlives the cause by this much: a site that is back takes load
/// again after a minute, and only what is slower than that is a fault of its own.
pub const AFTER_CAUSE_MS: u64 = 90_000;
/// Symptoms raised up to this long before their cause are its symptoms all the same: sensors are not equally quick.
pub const CAUSE_BEFORE_MS: u64 = 120_000;
/// An alarm that no live observer judges is retired after this long: more than two full sets, which list what they judge.
pub const RETIRE_AFTER_MS: u64 = 150_000;

/// How long an alarm waits for a cause to show up before operators are told. Up to 17 s pass (timing `wide`) before the
/// loss of a site is agreed, and what follows from it is often seen at once: medium and low alarms can wait for that.
#[must_use]
pub const fn annunciation_delay_ms(priority: Priority) -> u64 {
    match priority {
        Priority::Critical => 0,
        Priority::High => 1_000,
        Priority::Medium => 20_000,
        Priority::Low => 25_000,
    }
}

/// Everything agreed about alarms.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// By key `rule/asset`: every alarm that is not simply normal.
    pub alarms: BTreeMap<String, Alarm>,
    pub observers: BTreeMap<Site, Observer>,
    /// True while operators get more than they can work through.
    pub flood: bool,
    /// Alarms refused because the state was full.
    pub refused: u64,
    /// Times of the last annunciations.
    pub annunciations: VecDeque<LogTime>,
    /// Counts raises: the first-out order.
    pub raises: u64,
}

/// One collector's serve process as a voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    pub session: u64,
    pub heard: LogTime,
    /// A full set of this session has arrived.
    pub full: bool,
}

impl Observer {
    #[must_use]
    pub const fn is_live(&self, now: LogTime) -> bool {
        now.since(self.heard) < VOTE_EXPIRY_MS
    }
}

/// One alarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    pub phase: Phase,
    /// The agreed condition, whatever the phase.
    pub active: bool,
    /// The vote that describes it best: a true one where there is one.
    pub about: AlarmVote,
    pub votes: BTreeMap<Site, Option<bool>>,
    /// Set where the log itself decides the condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<bool>,
    /// Last change of phase.
    pub since: LogTime,
    pub since_wall: Wall,
    /// Last raise, and its place in the first-out order.
    pub raised: LogTime,
    pub order: u64,
    pub acknowledged_by: Option<String>,
    pub notes: VecDeque<Note>,
    /// The alarm that explains this one.
    pub cause: Option<String>,
    pub annunciate_at: Option<LogTime>,
    pub annunciated: bool,
    /// Last raises within the chatter window.
    pub raises: VecDeque<LogTime>,
    pub chattering: bool,
    /// Clears swallowed by the damping.
    pub damped: u32,
    pub clear_at: Option<LogTime>,
    pub unjudged_since: Option<LogTime>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub at: LogTime,
    pub wall: Wall,
    pub by: String,
    pub text: String,
}

impl State {
    /// Takes in one observer's votes. They are judged by [`State::tick`], after all that arrived with them.
    pub fn on_votes(&mut self, now: LogTime, votes: &AlarmVotes) -> Vec<AlarmEvent> {
        let changed = self.observers.get(&votes.observer).is_none_or(|known| known.session != votes.session);
        if changed || votes.full {
            for alarm in self.alarms.values_mut() {
                alarm.votes.remove(&votes.observer);
            }
        }
        let full = votes.full || (!changed && self.observers.get(&votes.observer).is_some_and(|known| known.full));
        self.observers.insert(votes.observer, Observer { session: votes.session, heard: now, full });
        for (key, vote) in &votes.votes {
            if let Some(alarm) = self.known_or_new(now, key, vote) {
                alarm.votes.insert(votes.observer, vote.active);
            }
        }
        Vec::new()
    }

    /// Takes in conditions that the log itself decided.
    pub fn on_conditions(&mut self, now: LogTime, conditions: Vec<AgreedCondition>) -> Vec<AlarmEvent> {
        for condition in conditions {
            let active = condition.vote.active;
            if let Some(alarm) = self.known_or_new(now, &condition.alarm, &condition.vote) {
                alarm.decided = active.or(alarm.decided);
            }
        }
        Vec::new()
    }

    /// The alarm of a vote; a new one only where the vote is true.
    fn known_or_new(&mut self, now: LogTime, key: &str, vote: &AlarmVote) -> Option<&mut Alarm> {
        if !self.alarms.contains_key(key) {
            if vote.active != Some(true) {
                return None;
            }
            if self.alarms.len() >= MAX_ALARMS {
                self.refused += 1;
                return None;
            }
            self.alarms.insert(key.to_owned(), Alarm::new(now));
        }
        let alarm = self.alarms.get_mut(key)?;
        // The description follows the observers that see it true; the rule's own part follows any.
        if vote.active == Some(true) || !alarm.active {
            let raised_by = std::mem::take(&mut alarm.about.explain);
            alarm.about = bounded(vote);
            // What is over is described by what it was.
            if vote.active != Some(true) && !raised_by.is_empty() {
                alarm.about.explain = raised_by;
            }
        }
        Some(alarm)
    }

    /// Judges everything at `now`; `wall` labels what changes.
    pub fn tick(&mut self, now: LogTime, wall: Wall) -> Vec<AlarmEvent> {
        let mut events = Vec::new();
        self.judge(now, wall, &mut events);
        self.find_causes(now, &mut events);
        self.annunciate(now, &mut events);
        self.count_flood(now, &mut events);
        self.alarms.retain(|_, alarm| !alarm.is_forgettable(now));
        events
    }

    fn judge(&mut self, now: LogTime, wall: Wall, events: &mut Vec<AlarmEvent>) {
        let observers = &self.observers;
        let mut raises = self.raises;
        for (key, alarm) in &mut self.alarms {
            match alarm.verdict(observers, now) {
                Verdict::Active => alarm.on_active(now, wall, key, &mut raises, events),
                Verdict::Clear => alarm.on_clear(now, wall, key, "the condition is false", events),
                Verdict::Unknown => alarm.unjudged_since = None,
                Verdict::Unjudged => alarm.on_unjudged(now, wall, key, events),
            }
            alarm.on_time(now, wall, key, events);
        }
        self.raises = raises;
    }

    /// Connects symptoms to the nearest active cause, and releases those whose cause is gone.
    fn find_causes(&mut self, now: LogTime, events: &mut Vec<AlarmEvent>) {
        let mut causes: BTreeMap<&str, Vec<(&str, &Alarm)>> = BTreeMap::new();
        for (key, alarm) in self.alarms.iter().filter(|(_, alarm)| alarm.explains()) {
            causes.entry(&alarm.about.asset).or_default().push((key, alarm));
        }
        let mut found: Vec<(String, Option<String>)> = Vec::new();
        for (key, alarm) in &self.alarms {
            if !alarm.active {
                if alarm.cause.is_some() {
                    found.push((key.clone(), None));
                }
                continue;
            }
            let standing = alarm.cause.as_ref().is_some_and(|c| self.alarms.get(c).is_some_and(Alarm::explains));
            if standing {
                continue;
            }
            // What the log itself decided of an asset explains what readings say of the same one.
            let own = causes.get(alarm.about.asset.as_str()).into_iter().flatten();
            let own = own.filter(|(_, cause)| alarm.decided.is_none() && cause.decided.is_some());
            let above = alarm.about.fed_by.iter().filter_map(|asset| causes.get(asset.as_str())).flatten();
            let cause = own
                .chain(above)
                .find(|(cause_key, cause)| *cause_key != key && cause.may_silence(alarm))
                .map(|(cause_key, _)| (*cause_key).to_owned());
            if cause != alarm.cause {
                found.push((key.clone(), cause));
            }
        }
        for (key, cause) in found {
            let Some(alarm) = self.alarms.get_mut(&key) else { continue };
            match &cause {
                Some(cause) => events.push(AlarmEvent::CauseFound { alarm: key, cause: cause.clone() }),
                None if alarm.active && !alarm.annunciated => alarm.annunciate_at = Some(now.plus(AFTER_CAUSE_MS)),
                None => {}
            }
            alarm.cause = cause;
        }
    }

    fn annunciate(&mut self, now: LogTime, events: &mut Vec<AlarmEvent>) {
        for (key, alarm) in &mut self.alarms {
            let due = alarm.annunciate_at.is_some_and(|at| at <= now);
            if due
                && alarm.active
                && alarm.cause.is_none()
                && !alarm.annunciated
                && alarm.phase == Phase::Unacknowledged
            {
                alarm.annunciated = true;
                alarm.annunciate_at = None;
                if self.annunciations.len() >= MAX_ANNUNCIATIONS {
                    self.annunciations.pop_front();
                }
                self.annunciations.push_back(now);
                events.push(AlarmEvent::Annunciated { alarm: key.clone(), priority: alarm.about.priority });
            }
        }
    }

    fn count_flood(&mut self, now: LogTime, events: &mut Vec<AlarmEvent>) {
        while self.annunciations.front().is_some_and(|at| now.since(*at) >= FLOOD_WINDOW_MS) {
            self.annunciations.pop_front();
        }
        let count = self.annunciations.len();
        let annunciated = u32::try_from(count).unwrap_or(u32::MAX);
        if !self.flood && count > FLOOD_BEGIN {
            self.flood = true;
            events.push(AlarmEvent::FloodBegan { annunciated });
        } else if self.flood && count < FLOOD_END {
            self.flood = false;
            events.push(AlarmEvent::FloodEnded { annunciated });
        }
    }

    /// # Errors
    /// One English sentence for the operator: what is wrong with the command.
    pub fn on_command(
        &mut self,
        now: LogTime,
        wall: Wall,
        operator: &str,
        key: &str,
        command: &AlarmCommand,
    ) -> Result<Vec<AlarmEvent>, String> {
        let Some(alarm) = self.alarms.get_mut(key) else {
            return Err(format!("there is no alarm `{key}` now"));
        };
        let reasoned = |text: &str| {
            if text.trim().is_empty() { Err("a reason is compulsory".to_owned()) } else { Ok(clip(text.trim())) }
        };
        let alarm_key = key.to_owned();
        let by = operator.to_owned();
        let event = match command {
            AlarmCommand::Acknowledge { note } => {
                alarm.ask(now, wall, &Trigger::Acknowledged)?;
                alarm.acknowledged_by = Some(by.clone());
                let note = note.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(clip);
                if let Some(text) = &note {
                    alarm.note(now, wall, operator, text.clone());
                }
                AlarmEvent::Acknowledged { alarm: alarm_key, by, note }
            }
            AlarmCommand::Shelve { reason, for_ms } => {
                let reason = reasoned(reason)?;
                if *for_ms == 0 || *for_ms > MAX_SHELVE_MS {
                    return Err("an alarm is shelved for at least 1 ms and at most 12 hours".to_owned());
                }
                let until = now.plus(*for_ms);
                alarm.ask(now, wall, &Trigger::Shelved { until, by: by.clone(), reason: reason.clone() })?;
                AlarmEvent::Shelved { alarm: alarm_key, by, reason, until }
            }
            AlarmCommand::Unshelve { reason } => {
                let reason = reasoned(reason)?;
                alarm.ask(now, wall, &Trigger::Unshelved)?;
                AlarmEvent::Unshelved { alarm: alarm_key, by: Some(by), reason }
            }
            AlarmCommand::Note { text } => {
                let text = reasoned(text)?;
                alarm.note(now, wall, operator, text.clone());
                AlarmEvent::Noted { alarm: alarm_key, by, text }
            }
            AlarmCommand::OutOfService { reason } => {
                let reason = reasoned(reason)?;
                alarm.ask(now, wall, &Trigger::TakenOutOfService { by: by.clone(), reason: reason.clone() })?;
                AlarmEvent::OutOfService { alarm: alarm_key, by, reason }
            }
            AlarmCommand::ReturnToService { reason } => {
                let reason = reasoned(reason)?;
                alarm.ask(now, wall, &Trigger::ReturnedToService)?;
                AlarmEvent::ReturnedToService { alarm: alarm_key, by, reason }
            }
        };
        Ok(vec![event])
    }

    /// Symptoms of a cause, direct and indirect, in first-out order.
    #[must_use]
    pub fn symptoms(&self, cause: &str) -> Vec<&str> {
        let mut found: Vec<(u64, &str)> = self
            .alarms
            .iter()
            .filter(|(key, alarm)| key.as_str() != cause && alarm.cause.is_some() && self.root_cause(key) == cause)
            .map(|(key, alarm)| (alarm.order, key.as_str()))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, key)| key).collect()
    }

    /// The end of the chain of causes; the alarm itself where it has none.
    #[must_use]
    pub fn root_cause<'a>(&'a self, key: &'a str) -> &'a str {
        let mut root = key;
        for _ in 0..MAX_FED_BY {
            match self.alarms.get(root).and_then(|alarm| alarm.cause.as_deref()) {
                Some(cause) => root = cause,
                None => break,
            }
        }
        root
    }

    /// Keys an observer should vote on even where its vote is not true.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<&str> {
        self.alarms.keys().map(String::as_str).collect()
    }
}

/// A vote with its texts and lists cut to their bounds.
fn bounded(vote: &AlarmVote) -> AlarmVote {
    let mut vote = vote.clone();
    vote.explain = clip(&vote.explain);
    vote.fed_by.truncate(MAX_FED_BY);
    vote
}
