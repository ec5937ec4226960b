//! One rule applied to one asset: hold, hysteresis, lasting unknown.

use super::REEVALUATE_MS;
use crate::rules::ast::Duration;
use crate::rules::eval::{Bind, Member, View};
use crate::rules::explain::Explanation;
use crate::rules::kleene::Truth;
use crate::rules::load::Rule;
use crate::rules::point::Point;
use crate::time::Mono;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Instance {
    pub(super) rule: usize,
    /// `rule/asset`.
    pub(super) key: String,
    pub(super) asset: bcp_wire::Id,
    pub(super) inputs: Box<[Bind]>,
    pub(super) counts: Box<[Box<[Member]>]>,
    pub(super) latch: Latch,
    /// None before the first evaluation.
    vote: Option<Truth>,
    suppressed: bool,
    pub(super) explain: String,
    /// When it wants to be evaluated, whatever is read.
    pub(super) due: Option<Mono>,
    /// Its entry in the engine's queue.
    pub(super) timer: Option<Mono>,
}

/// What an instance remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Latch {
    /// None: since the start it was neither raised nor clearly clear (between the two thresholds, or unknown).
    active: Option<bool>,
    /// `when` is true since then, not counting what was gathered before an unknown.
    true_since: Option<Mono>,
    gathered_ms: u64,
    unknown_since: Option<Mono>,
}

impl Instance {
    pub(super) fn new(
        rule: usize,
        key: String,
        asset: bcp_wire::Id,
        inputs: Box<[Bind]>,
        counts: Box<[Box<[Member]>]>,
    ) -> Instance {
        Instance {
            rule,
            key,
            asset,
            inputs,
            counts,
            latch: Latch::default(),
            vote: None,
            suppressed: false,
            explain: String::new(),
            due: None,
            timer: None,
        }
    }

    /// The same instance after its asset changed: what it remembers stays.
    pub(super) fn rebound(self, rule: usize, inputs: Box<[Bind]>, counts: Box<[Box<[Member]>]>) -> Instance {
        Instance { rule, inputs, counts, timer: None, ..self }
    }

    pub(super) const fn active(&self) -> Option<bool> {
        match self.vote {
            Some(vote) => vote.known(),
            None => None,
        }
    }

    pub(super) const fn suppressed(&self) -> bool {
        self.suppressed
    }

    /// True where the vote changed.
    pub(super) fn evaluate(&mut self, points: &[Point], rule: &Rule, now: Mono) -> bool {
        let view = View { points, now, inputs: &self.inputs, specs: &rule.counts, counts: &self.counts };
        let when = view.truth(&rule.when);
        let clear = match (&rule.clear, when) {
            (None, _) => when.not(),
            // Where both hold, the alarm is there.
            (Some(_), Truth::True) => Truth::False,
            (Some(clear), Truth::False | Truth::Unknown) => view.truth(clear),
        };
        let suppressed = rule.suppress_when.as_ref().is_some_and(|node| view.truth(node) == Truth::True);
        let vote = self.latch.judge(when, clear, rule, now);
        let changed = self.vote != Some(vote) || self.suppressed != suppressed;
        if changed {
            self.explain = self.latch.summary(&view, rule, vote, when, now);
        }
        self.vote = Some(vote);
        self.suppressed = suppressed;
        let timed = rule.uses_time.then(|| now.plus(REEVALUATE_MS));
        self.due = self.latch.deadline(rule, now).into_iter().chain(timed).min();
        changed
    }

    pub(super) fn explain(&self, view: &View<'_>, rule: &Rule, now: Mono) -> Explanation {
        let when = view.truth(&rule.when);
        let vote = self.vote.unwrap_or(Truth::Unknown);
        let holding = when == Truth::True && self.latch.active != Some(true);
        Explanation {
            alarm: self.key.clone(),
            vote,
            summary: self.latch.summary(view, rule, vote, when, now),
            when: view.explain(&rule.when, &rule.scope),
            clear: rule.clear.as_ref().map(|node| view.explain(node, &rule.scope)),
            suppress_when: rule.suppress_when.as_ref().map(|node| view.explain(node, &rule.scope)),
            hold_left_ms: holding.then(|| rule.hold_ms.saturating_sub(self.latch.held_ms(now))),
            unknown_for_ms: self.latch.unknown_since.map(|since| now.since(since)),
        }
    }
}

impl Latch {
    /// Takes in what the conditions say now; gives the vote.
    fn judge(&mut self, when: Truth, clear: Truth, rule: &Rule, now: Mono) -> Truth {
        match (self.active, when, clear) {
            (Some(true), Truth::True, _) | (Some(true), _, Truth::False) => self.keep_known(),
            (Some(true), _, Truth::True) => {
                self.keep_known();
                self.forget_hold();
                self.active = Some(false);
            }
            (Some(true), _, Truth::Unknown) => self.note_unknown(now),
            (Some(false) | None, Truth::True, _) => {
                self.keep_known();
                self.true_since.get_or_insert(now);
                if self.held_ms(now) >= rule.hold_ms {
                    self.active = Some(true);
                    self.forget_hold();
                }
            }
            (Some(false) | None, Truth::False, _) => {
                self.keep_known();
                self.forget_hold();
                if clear == Truth::True {
                    self.active = Some(false);
                }
            }
            (Some(false) | None, Truth::Unknown, _) => {
                // The hold is not lost, but unknown time does not count towards it.
                self.gathered_ms = self.held_ms(now);
                self.true_since = None;
                self.note_unknown(now);
            }
        }
        match (self.unknown_since, self.active) {
            (Some(since), _) if rule.unknown_is_alarm && now.since(since) >= rule.unknown_after_ms => Truth::True,
            (Some(_), _) | (None, None) => Truth::Unknown,
            (None, Some(active)) => Truth::of(active),
        }
    }

    fn keep_known(&mut self) {
        self.unknown_since = None;
    }

    fn note_unknown(&mut self, now: Mono) {
        self.unknown_since.get_or_insert(now);
    }

    fn forget_hold(&mut self) {
        self.true_since = None;
        self.gathered_ms = 0;
    }

    /// How long `when` has been true.
    fn held_ms(&self, now: Mono) -> u64 {
        self.gathered_ms + self.true_since.map_or(0, |since| now.since(since))
    }

    /// When the hold or the patience with unknown ends.
    fn deadline(&self, rule: &Rule, now: Mono) -> Option<Mono> {
        let hold = self.true_since.map(|_| now.plus(rule.hold_ms.saturating_sub(self.held_ms(now)).max(1)));
        let unknown = self
            .unknown_since
            .filter(|_| rule.unknown_is_alarm)
            .map(|since| since.plus(rule.unknown_after_ms))
            .filter(|at| *at > now);
        hold.into_iter().chain(unknown).min()
    }

    fn summary(&self, view: &View<'_>, rule: &Rule, vote: Truth, when: Truth, now: Mono) -> String {
        let brief = view.brief(&rule.when, &rule.scope);
        match (vote, self.unknown_since) {
            (Truth::True, Some(since)) if self.active != Some(true) || when == Truth::Unknown => {
                format!("unknown for {}: {brief}", Duration(now.since(since) / 1_000 * 1_000))
            }
            (Truth::True, _) if when != Truth::True => format!("not yet cleared: {brief}"),
            (Truth::True, _) if rule.hold_ms > 0 => format!("{brief}, for {}", Duration(rule.hold_ms)),
            (Truth::True | Truth::False | Truth::Unknown, _) => brief,
        }
    }
}
