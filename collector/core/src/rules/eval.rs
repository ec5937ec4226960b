//! Evaluation of a checked expression in three values.

use super::ast::{Compare, Count, Node, Sum};
use super::check::forecast_window_ms;
use super::kleene::{Span, Truth};
use super::point::{Datum, Point};
use super::window::seconds;
use crate::time::Mono;

/// Which points an input of an instance is.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Bind {
    /// The asset has no such point.
    #[default]
    None,
    One(u32),
    /// The points that fit a pattern.
    Many(Box<[u32]>),
}

/// The points of one asset a count looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub asset: String,
    pub inputs: Box<[Bind]>,
}

/// All that an evaluation may see.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub points: &'a [Point],
    pub now: Mono,
    pub inputs: &'a [Bind],
    pub specs: &'a [Count],
    pub counts: &'a [Box<[Member]>],
}

/// What an expression is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Is<'a> {
    Truth(Truth),
    Num(Span),
    Text(&'a str),
    Unknown,
}

impl<'a> View<'a> {
    /// The point of an input that is one point.
    pub(super) fn point(&self, input: usize) -> Option<&'a Point> {
        match self.inputs.get(input)? {
            Bind::One(at) => self.points.get(*at as usize),
            Bind::None | Bind::Many(_) => None,
        }
    }

    /// All points of an input.
    pub(super) fn all(&self, input: usize) -> impl Iterator<Item = &'a Point> + use<'a> {
        let at: &'a [u32] = match self.inputs.get(input) {
            Some(Bind::One(at)) => std::slice::from_ref(at),
            Some(Bind::Many(all)) => all,
            Some(Bind::None) | None => &[],
        };
        let points = self.points;
        at.iter().filter_map(move |at| points.get(*at as usize))
    }

    /// A condition.
    #[must_use]
    pub fn truth(&self, node: &'a Node) -> Truth {
        match node {
            Node::Bool(value) => Truth::of(*value),
            Node::Not(inner) => self.truth(inner).not(),
            Node::And(all) => {
                let mut result = Truth::True;
                for node in all {
                    result = result.and(self.truth(node));
                    if result == Truth::False {
                        break;
                    }
                }
                result
            }
            Node::Or(any) => {
                let mut result = Truth::False;
                for node in any {
                    result = result.or(self.truth(node));
                    if result == Truth::True {
                        break;
                    }
                }
                result
            }
            Node::Compare { op, left, right } => self.compare(*op, left, right),
            Node::OneOf { what, among } => {
                among.iter().fold(Truth::False, |result, other| result.or(self.compare(Compare::Equal, what, other)))
            }
            Node::Flag { input, word } => match self.text_of(*input) {
                Some(flags) => Truth::of(flags.split_ascii_whitespace().any(|flag| flag == word)),
                None => Truth::Unknown,
            },
            Node::Is { input, word, .. } => match self.text_of(*input) {
                Some(state) => Truth::of(state == *word),
                None => Truth::Unknown,
            },
            Node::Measured(input) => Truth::of(self.all(*input).next().is_some()),
            Node::AtLeast { k, of } => self.at_least(*k, of),
            Node::Choice { when, then, otherwise } => match self.truth(when) {
                Truth::True => self.truth(then),
                Truth::False => self.truth(otherwise),
                Truth::Unknown => {
                    let (then, otherwise) = (self.truth(then), self.truth(otherwise));
                    if then == otherwise { then } else { Truth::Unknown }
                }
            },
            Node::Num(_)
            | Node::Text(_)
            | Node::Point(_)
            | Node::Age(_)
            | Node::Over { .. }
            | Node::Forecast { .. }
            | Node::Extreme { .. }
            | Node::Sum { .. }
            | Node::Negated(_)
            | Node::Count(_) => Truth::Unknown,
        }
    }

    /// Any expression.
    #[must_use]
    pub fn value(&self, node: &'a Node) -> Is<'a> {
        match node {
            Node::Num(number) => Is::Num(Span::exact(*number)),
            Node::Text(text) => Is::Text(text),
            Node::Point(input) => match self.point(*input).map(|point| point.known(self.now)) {
                Some(Ok(Datum::Num(number))) => Is::Num(Span::exact(*number)),
                Some(Ok(Datum::Text(text))) => Is::Text(text),
                Some(Err(_)) | None => Is::Unknown,
            },
            Node::Age(input) => number(self.point(*input).and_then(|p| p.age_ms(self.now)).map(seconds)),
            Node::Over { what, input, window_ms } => {
                number(self.fresh(*input).and_then(|p| p.series.as_ref()?.over(*what, self.now, *window_ms)))
            }
            Node::Forecast { input, horizon_ms } => number(self.fresh(*input).and_then(|point| {
                point.series.as_ref()?.forecast(self.now, forecast_window_ms(*horizon_ms), *horizon_ms)
            })),
            Node::Extreme { highest, input } => self.extreme(*highest, *input),
            Node::Sum { op, left, right } => {
                let (Is::Num(left), Is::Num(right)) = (self.value(left), self.value(right)) else {
                    return Is::Unknown;
                };
                let sum = match op {
                    Sum::Plus => left.plus(right),
                    Sum::Minus => left.minus(right),
                    Sum::Times => left.times(right),
                    Sum::Over => left.over(right),
                };
                sum.map_or(Is::Unknown, Is::Num)
            }
            Node::Negated(inner) => match self.value(inner) {
                Is::Num(span) => Is::Num(span.negated()),
                Is::Truth(_) | Is::Text(_) | Is::Unknown => Is::Unknown,
            },
            Node::Choice { when, then, otherwise } => match self.truth(when) {
                Truth::True => self.value(then),
                Truth::False => self.value(otherwise),
                Truth::Unknown => {
                    let (then, otherwise) = (self.value(then), self.value(otherwise));
                    if then == otherwise { then } else { Is::Unknown }
                }
            },
            Node::Count(which) => self.count(*which),
            Node::Bool(_)
            | Node::Flag { .. }
            | Node::Measured(_)
            | Node::Is { .. }
            | Node::Not(_)
            | Node::And(_)
            | Node::Or(_)
            | Node::Compare { .. }
            | Node::OneOf { .. }
            | Node::AtLeast { .. } => match self.truth(node) {
                Truth::Unknown => Is::Unknown,
                known => Is::Truth(known),
            },
        }
    }

    fn compare(&self, op: Compare, left: &'a Node, right: &'a Node) -> Truth {
        let equal = |truth: Truth| match op {
            Compare::Equal => truth,
            Compare::NotEqual => truth.not(),
            Compare::Less | Compare::LessOrEqual | Compare::Greater | Compare::GreaterOrEqual => Truth::Unknown,
        };
        match (self.value(left), self.value(right)) {
            (Is::Num(a), Is::Num(b)) => match op {
                Compare::Less => a.less(b),
                Compare::LessOrEqual => a.less_or_equal(b),
                Compare::Greater => b.less(a),
                Compare::GreaterOrEqual => b.less_or_equal(a),
                Compare::Equal => a.equal(b),
                Compare::NotEqual => a.equal(b).not(),
            },
            (Is::Text(a), Is::Text(b)) => equal(Truth::of(a == b)),
            (Is::Truth(a), Is::Truth(b)) => equal(Truth::of(a == b)),
            // A device that sends a word for a number, or the reverse, has not said what was asked.
            (Is::Num(_), Is::Text(_) | Is::Truth(_) | Is::Unknown)
            | (Is::Text(_), Is::Num(_) | Is::Truth(_) | Is::Unknown)
            | (Is::Truth(_), Is::Num(_) | Is::Text(_) | Is::Unknown)
            | (Is::Unknown, _) => Truth::Unknown,
        }
    }

    fn text_of(&self, input: usize) -> Option<&'a str> {
        match self.point(input)?.known(self.now) {
            Ok(Datum::Text(text)) => Some(text),
            Ok(Datum::Num(_)) | Err(_) => None,
        }
    }

    /// A point whose last value is good: windows over a silent point are not known.
    fn fresh(&self, input: usize) -> Option<&'a Point> {
        self.point(input).filter(|point| point.known(self.now).is_ok())
    }

    /// The extreme of the known ones, and anything beyond where one is unknown.
    fn extreme(&self, highest: bool, input: usize) -> Is<'a> {
        let mut known: Option<f64> = None;
        let mut unknown = false;
        for point in self.all(input) {
            match point.known(self.now) {
                Ok(Datum::Num(number)) => {
                    known = Some(match known {
                        Some(best) if highest => best.max(*number),
                        Some(best) => best.min(*number),
                        None => *number,
                    });
                }
                Ok(Datum::Text(_)) | Err(_) => unknown = true,
            }
        }
        match (known, unknown, highest) {
            (None, ..) => Is::Unknown,
            (Some(best), false, _) => Is::Num(Span::exact(best)),
            (Some(best), true, true) => Is::Num(Span { lo: best, hi: f64::INFINITY }),
            (Some(best), true, false) => Is::Num(Span { lo: f64::NEG_INFINITY, hi: best }),
        }
    }

    fn at_least(&self, k: usize, of: &'a [Node]) -> Truth {
        let mut yes = 0;
        let mut possible = 0;
        for node in of {
            match self.truth(node) {
                Truth::True => {
                    yes += 1;
                    possible += 1;
                }
                Truth::Unknown => possible += 1,
                Truth::False => {}
            }
        }
        if yes >= k {
            Truth::True
        } else if possible < k {
            Truth::False
        } else {
            Truth::Unknown
        }
    }

    fn count(&self, which: usize) -> Is<'a> {
        let (Some(spec), Some(members)) = (self.specs.get(which), self.counts.get(which)) else {
            return Is::Unknown;
        };
        let (mut yes, mut possible) = (0_u32, 0_u32);
        for member in members {
            let view = View { inputs: &member.inputs, specs: &[], counts: &[], ..*self };
            match view.truth(&spec.condition) {
                Truth::True => {
                    yes += 1;
                    possible += 1;
                }
                Truth::Unknown => possible += 1,
                Truth::False => {}
            }
        }
        Is::Num(Span { lo: f64::from(yes), hi: f64::from(possible) })
    }
}

fn number(known: Option<f64>) -> Is<'static> {
    known.map_or(Is::Unknown, |number| Is::Num(Span::exact(number)))
}
