//! One alarm: how votes, time and operators change it, always through the transition table.

use std::collections::{BTreeMap, VecDeque};

use bcp_wire::Site;

use super::{
    Alarm, CAUSE_BEFORE_MS, CHATTER_HOLD_MS, CHATTER_RAISES, CHATTER_WINDOW_MS, MAX_NOTES, Note, Observer,
    RETIRE_AFTER_MS, annunciation_delay_ms,
};
use crate::alarms::table::{Outcome, Phase, Trigger, transition};
use crate::alarms::{AlarmEvent, AlarmVote};
use crate::time::{LogTime, Wall};

/// What the voters together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Active,
    Clear,
    Unknown,
    /// Every live observer sent a full set, and it is in none.
    Unjudged,
}

impl Alarm {
    pub(super) fn new(now: LogTime) -> Alarm {
        Alarm {
            phase: Phase::Normal,
            active: false,
            about: AlarmVote::default(),
            votes: BTreeMap::new(),
            decided: None,
            since: now,
            since_wall: Wall::default(),
            raised: now,
            order: 0,
            acknowledged_by: None,
            notes: VecDeque::new(),
            cause: None,
            annunciate_at: None,
            annunciated: false,
            raises: VecDeque::new(),
            chattering: false,
            damped: 0,
            clear_at: None,
            unjudged_since: None,
        }
    }

    pub(super) fn verdict(&self, observers: &BTreeMap<Site, Observer>, now: LogTime) -> Verdict {
        if let Some(decided) = self.decided {
            return if decided { Verdict::Active } else { Verdict::Clear };
        }
        let live = |site: &Site| observers.get(site).is_some_and(|observer| observer.is_live(now));
        let votes = || self.votes.iter().filter(|(site, _)| live(site)).map(|(_, vote)| *vote);
        if votes().any(|vote| vote == Some(true)) {
            Verdict::Active
        } else if votes().any(|vote| vote == Some(false)) {
            Verdict::Clear
        } else {
            let mut heard = observers.values().filter(|observer| observer.is_live(now)).peekable();
            let all_full = heard.peek().is_some() && heard.all(|observer| observer.full);
            if all_full && votes().next().is_none() { Verdict::Unjudged } else { Verdict::Unknown }
        }
    }

    /// Can be the cause of other alarms now.
    pub(super) fn explains(&self) -> bool {
        self.active && self.about.causal && (self.phase.is_open() || matches!(self.phase, Phase::Shelved { .. }))
    }

    /// A cause is at least as urgent as what it silences, and did not come long after it.
    pub(super) fn may_silence(&self, symptom: &Alarm) -> bool {
        self.about.priority <= symptom.about.priority && self.raised.since(symptom.raised) <= CAUSE_BEFORE_MS
    }

    pub(super) fn on_active(
        &mut self,
        now: LogTime,
        wall: Wall,
        key: &str,
        raises: &mut u64,
        events: &mut Vec<AlarmEvent>,
    ) {
        self.unjudged_since = None;
        self.clear_at = None;
        if self.active {
            return;
        }
        self.active = true;
        *raises += 1;
        self.order = *raises;
        self.raised = now;
        self.annunciated = false;
        self.annunciate_at = Some(now.plus(annunciation_delay_ms(self.about.priority)));
        self.raises.push_back(now);
        while self.raises.front().is_some_and(|at| now.since(*at) >= CHATTER_WINDOW_MS)
            || self.raises.len() > CHATTER_RAISES
        {
            self.raises.pop_front();
        }
        self.apply(now, wall, &Trigger::Raised);
        events.push(AlarmEvent::Raised {
            alarm: key.to_owned(),
            priority: self.about.priority,
            explain: self.about.explain.clone(),
        });
        if !self.chattering && self.raises.len() >= CHATTER_RAISES {
            self.chattering = true;
            let raises = u32::try_from(self.raises.len()).unwrap_or(u32::MAX);
            events.push(AlarmEvent::Chattering { alarm: key.to_owned(), raises });
        }
    }

    pub(super) fn on_clear(&mut self, now: LogTime, wall: Wall, key: &str, reason: &str, events: &mut Vec<AlarmEvent>) {
        self.unjudged_since = None;
        if !self.active {
            return;
        }
        if self.chattering {
            match self.clear_at {
                None => {
                    self.damped = self.damped.saturating_add(1);
                    self.clear_at = Some(now.plus(CHATTER_HOLD_MS));
                    return;
                }
                Some(at) if at > now => return,
                Some(_) => {
                    self.chattering = false;
                    self.raises.clear();
                    events.push(AlarmEvent::ChatteringEnded { alarm: key.to_owned() });
                }
            }
        }
        self.clear_at = None;
        self.active = false;
        self.annunciate_at = None;
        self.apply(now, wall, &Trigger::Cleared);
        if !self.annunciated {
            // Nobody was told, so nobody has to acknowledge.
            self.apply(now, wall, &Trigger::Untold);
        }
        events.push(AlarmEvent::Cleared { alarm: key.to_owned(), reason: reason.to_owned() });
    }

    pub(super) fn on_unjudged(&mut self, now: LogTime, wall: Wall, key: &str, events: &mut Vec<AlarmEvent>) {
        let since = *self.unjudged_since.get_or_insert(now);
        if !self.active || now.since(since) < RETIRE_AFTER_MS {
            return;
        }
        self.chattering = false;
        let reason = "no collector judges it any more: its rule or its asset is gone";
        self.on_clear(now, wall, key, reason, events);
        events.push(AlarmEvent::Retired { alarm: key.to_owned(), reason: reason.to_owned() });
    }

    /// Shelf time and suppression by design.
    pub(super) fn on_time(&mut self, now: LogTime, wall: Wall, key: &str, events: &mut Vec<AlarmEvent>) {
        if let Phase::Shelved { until, .. } = &self.phase
            && *until <= now
        {
            let reason = self.apply(now, wall, &Trigger::ShelfExpired).to_owned();
            self.annunciate_again(now);
            events.push(AlarmEvent::Unshelved { alarm: key.to_owned(), by: None, reason });
        }
        let suppressed = self.phase == Phase::SuppressedByDesign;
        if self.about.suppressed && !suppressed && self.active {
            let reason = self.apply(now, wall, &Trigger::SuppressionBegan).to_owned();
            if self.phase == Phase::SuppressedByDesign {
                events.push(AlarmEvent::Suppressed { alarm: key.to_owned(), reason });
            }
        } else if suppressed && !(self.about.suppressed && self.active) {
            let reason = self.apply(now, wall, &Trigger::SuppressionEnded).to_owned();
            self.annunciate_again(now);
            events.push(AlarmEvent::Unsuppressed { alarm: key.to_owned(), reason });
        }
    }

    /// After a time in which nobody was called, an alarm that is still there is announced.
    fn annunciate_again(&mut self, now: LogTime) {
        if self.active {
            self.annunciated = false;
            self.annunciate_at = Some(now);
        }
    }

    fn apply(&mut self, now: LogTime, wall: Wall, trigger: &Trigger) -> &'static str {
        match transition(&self.phase, trigger, self.active) {
            Outcome::To(phase, reason) => {
                self.phase = phase;
                self.since = now;
                self.since_wall = wall;
                if self.phase == Phase::Unacknowledged {
                    self.acknowledged_by = None;
                }
                reason
            }
            Outcome::Stays(reason) | Outcome::Refused(reason) => reason,
        }
    }

    /// As [`Alarm::apply`], for an operator who wants to know when it was refused.
    pub(super) fn ask(&mut self, now: LogTime, wall: Wall, trigger: &Trigger) -> Result<(), String> {
        if let Outcome::Refused(reason) = transition(&self.phase, trigger, self.active) {
            return Err(reason.to_owned());
        }
        self.apply(now, wall, trigger);
        match trigger {
            Trigger::Unshelved | Trigger::ReturnedToService => self.annunciate_again(now),
            Trigger::Acknowledged
            | Trigger::Shelved { .. }
            | Trigger::TakenOutOfService { .. }
            | Trigger::Raised
            | Trigger::Cleared
            | Trigger::Untold
            | Trigger::ShelfExpired
            | Trigger::SuppressionBegan
            | Trigger::SuppressionEnded => {}
        }
        Ok(())
    }

    pub(super) fn note(&mut self, now: LogTime, wall: Wall, by: &str, text: String) {
        if self.notes.len() >= MAX_NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { at: now, wall, by: by.to_owned(), text });
    }

    /// Normal, and nothing about it matters any more.
    pub(super) fn is_forgettable(&self, now: LogTime) -> bool {
        self.phase == Phase::Normal
            && !self.active
            && self.raises.back().is_none_or(|at| now.since(*at) >= CHATTER_WINDOW_MS)
    }
}
