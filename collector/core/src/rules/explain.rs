//! Why an expression is what it is: every part with its value, the points with their ages.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::ast::{Compare, Duration, Node, Scope, Show};
use super::eval::{Is, View};
use super::kleene::Truth;
use super::point::{Datum, Point};

/// Members of a count named in an explanation; the rest is counted.
const NAMED_MEMBERS: usize = 10;

/// Why one rule instance judges as it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Alarm key `rule/asset`.
    pub alarm: String,
    /// What this collector votes: true, false, or unknown.
    pub vote: Truth,
    /// In a sentence.
    pub summary: String,
    pub when: Explained,
    pub clear: Option<Explained>,
    pub suppress_when: Option<Explained>,
    /// The condition is true, and must be for this much longer.
    pub hold_left_ms: Option<u64>,
    pub unknown_for_ms: Option<u64>,
}

/// One sub-expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    pub text: String,
    pub value: String,
    /// Why it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Since its sample was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Explained>,
}

impl<'a> View<'a> {
    /// The whole tree.
    #[must_use]
    pub fn explain(&self, node: &'a Node, scope: &'a Scope) -> Explained {
        let text = Show { node, scope, counts: self.specs }.to_string();
        let value = show(self.value(node));
        let unit = |input: &usize| scope.inputs.get(*input).map_or("", |input| input.unit());
        let mut explained = Explained { text, value, because: None, age_ms: None, parts: Vec::new() };
        match node {
            Node::Point(input)
            | Node::Over { input, .. }
            | Node::Forecast { input, .. }
            | Node::Flag { input, .. }
            | Node::Is { input, .. }
            | Node::Age(input) => {
                if !matches!(node, Node::Age(_) | Node::Flag { .. } | Node::Is { .. }) && explained.value != "unknown" {
                    let _ = write!(explained.value, " {}", unit(input));
                    explained.value.truncate(explained.value.trim_end().len());
                }
                match self.point(*input) {
                    Some(point) => self.describe(point, &mut explained),
                    None => explained.because = Some("this asset has no such point".to_owned()),
                }
            }
            Node::Extreme { input, .. } => {
                explained.parts = self.all(*input).map(|point| self.part(point)).collect();
                if explained.parts.is_empty() {
                    explained.because = Some("this asset has no such point".to_owned());
                }
            }
            Node::Not(inner) | Node::Negated(inner) => explained.parts.push(self.explain(inner, scope)),
            Node::And(nodes) | Node::Or(nodes) | Node::AtLeast { of: nodes, .. } => {
                explained.parts = nodes.iter().map(|node| self.explain(node, scope)).collect();
            }
            Node::Compare { left, right, .. } | Node::Sum { left, right, .. } => {
                explained.parts = [left, right]
                    .into_iter()
                    .filter(|node| !matches!(***node, Node::Num(_) | Node::Text(_) | Node::Bool(_)))
                    .map(|node| self.explain(node, scope))
                    .collect();
            }
            Node::OneOf { what, .. } => explained.parts.push(self.explain(what, scope)),
            Node::Choice { when, then, otherwise } => {
                explained.parts =
                    vec![self.explain(when, scope), self.explain(then, scope), self.explain(otherwise, scope)];
            }
            Node::Count(which) => explained.parts = self.members(*which),
            Node::Bool(_) | Node::Num(_) | Node::Text(_) | Node::Measured(_) => {}
        }
        explained
    }

    fn describe(&self, point: &Point, explained: &mut Explained) {
        explained.age_ms = point.age_ms(self.now);
        if let Err(why) = point.known(self.now) {
            explained.because = Some(match point.last() {
                Some(last) => format!("{}; last {}", why.as_str(), datum(last, point.unit)),
                None => why.as_str().to_owned(),
            });
        }
    }

    fn part(&self, point: &Point) -> Explained {
        let value = point.known(self.now).map_or_else(|_| "unknown".to_owned(), |known| datum(known, point.unit));
        let mut part = Explained { text: point.name.clone(), value, because: None, age_ms: None, parts: Vec::new() };
        self.describe(point, &mut part);
        part
    }

    /// The assets of a count that fulfil its condition or may do so, first the ones that do.
    fn members(&self, which: usize) -> Vec<Explained> {
        let (Some(spec), Some(members)) = (self.specs.get(which), self.counts.get(which)) else { return Vec::new() };
        let mut parts = Vec::new();
        for wanted in [Truth::True, Truth::Unknown] {
            for member in members {
                if parts.len() >= NAMED_MEMBERS {
                    return parts;
                }
                let view = View { inputs: &member.inputs, specs: &[], counts: &[], ..*self };
                if view.truth(&spec.condition) == wanted {
                    let mut part = view.explain(&spec.condition, &spec.scope);
                    part.text = format!("{}: {}", member.asset, part.text);
                    parts.push(part);
                }
            }
        }
        parts
    }

    /// The parts that decided it, in a line: `supply.air.temperature 35 Cel (0.4 s old) > 27`.
    #[must_use]
    pub fn brief(&self, node: &'a Node, scope: &'a Scope) -> String {
        let mut line = String::new();
        self.write_brief(node, scope, self.truth(node), &mut line);
        line
    }

    fn write_brief(&self, node: &'a Node, scope: &'a Scope, outcome: Truth, line: &mut String) {
        match node {
            // Of a conjunction all parts made it true, and the false or unknown ones made it what else it is.
            Node::And(nodes) | Node::Or(nodes) => {
                let decided_by = match (node, outcome) {
                    (Node::And(_), Truth::True) => Truth::True,
                    (_, outcome) => outcome,
                };
                let before = line.len();
                let says = |part: &&Node| !matches!(part, Node::Measured(_)) && self.truth(part) == decided_by;
                for part in nodes.iter().filter(says) {
                    if line.len() > before {
                        line.push_str(if matches!(node, Node::And(_)) { " and " } else { " or " });
                    }
                    self.write_brief(part, scope, decided_by, line);
                }
            }
            Node::Not(inner) => {
                line.push_str("not (");
                self.write_brief(inner, scope, outcome.not(), line);
                line.push(')');
            }
            Node::Compare { op, left, right } => {
                self.write_operand(left, scope, line);
                let _ = write!(line, " {} ", shown(*op, outcome));
                self.write_operand(right, scope, line);
            }
            Node::OneOf { what, .. } => {
                self.write_operand(what, scope, line);
            }
            Node::Flag { input, word } => {
                self.write_operand(&Node::Point(*input), scope, line);
                let has = match outcome {
                    Truth::True => "has",
                    Truth::False => "has no",
                    Truth::Unknown => "may have",
                };
                let _ = write!(line, " {has} {word}");
            }
            Node::Is { name, .. } => {
                let _ = match outcome {
                    Truth::True => write!(line, "{name}"),
                    Truth::False => write!(line, "not {name}"),
                    Truth::Unknown => write!(line, "{name}: unknown"),
                };
            }
            Node::AtLeast { k, of } => {
                let yes = of.iter().filter(|node| self.truth(node) == Truth::True).count();
                let _ = write!(line, "{yes} of {} hold, {k} wanted", of.len());
            }
            Node::Bool(_)
            | Node::Num(_)
            | Node::Text(_)
            | Node::Point(_)
            | Node::Age(_)
            | Node::Over { .. }
            | Node::Forecast { .. }
            | Node::Extreme { .. }
            | Node::Sum { .. }
            | Node::Negated(_)
            | Node::Choice { .. }
            | Node::Measured(_)
            | Node::Count(_) => self.write_operand(node, scope, line),
        }
    }

    fn write_operand(&self, node: &'a Node, scope: &'a Scope, line: &mut String) {
        let _ = match node {
            Node::Num(number) => write!(line, "{}", figure(*number)),
            Node::Text(text) => write!(line, "{text}"),
            Node::Point(input) => match self.point(*input) {
                Some(point) => {
                    let name = &point.name;
                    match (point.known(self.now), point.age_ms(self.now)) {
                        (Ok(known), Some(age)) => {
                            write!(line, "{name} {} ({} old)", datum(known, point.unit), Duration(age))
                        }
                        (Ok(known), None) => write!(line, "{name} {}", datum(known, point.unit)),
                        (Err(why), Some(age)) => {
                            write!(line, "{name} unknown ({}, last good {} ago)", why.as_str(), Duration(age))
                        }
                        (Err(why), None) => write!(line, "{name} unknown ({})", why.as_str()),
                    }
                }
                None => {
                    let show = Show { node, scope, counts: self.specs };
                    write!(line, "{show} unknown (not measured here)")
                }
            },
            Node::Bool(_)
            | Node::Age(_)
            | Node::Over { .. }
            | Node::Forecast { .. }
            | Node::Extreme { .. }
            | Node::Flag { .. }
            | Node::Measured(_)
            | Node::Is { .. }
            | Node::Not(_)
            | Node::And(_)
            | Node::Or(_)
            | Node::Compare { .. }
            | Node::OneOf { .. }
            | Node::Sum { .. }
            | Node::Negated(_)
            | Node::Choice { .. }
            | Node::AtLeast { .. }
            | Node::Count(_) => {
                let show = Show { node, scope, counts: self.specs };
                write!(line, "{show} = {}", show_short(self.value(node)))
            }
        };
    }
}

/// The comparison as it stands, or its opposite where it is false.
const fn shown(op: Compare, outcome: Truth) -> &'static str {
    match (op, outcome) {
        (Compare::Less, Truth::False) => ">=",
        (Compare::LessOrEqual, Truth::False) => ">",
        (Compare::Greater, Truth::False) => "<=",
        (Compare::GreaterOrEqual, Truth::False) => "<",
        (Compare::Equal, Truth::False) => "!=",
        (Compare::NotEqual, Truth::False) => "==",
        (_, Truth::True | Truth::Unknown) => op.as_str(),
    }
}

fn show(value: Is<'_>) -> String {
    show_short(value)
}

fn show_short(value: Is<'_>) -> String {
    match value {
        Is::Truth(truth) => truth.as_str().to_owned(),
        #[expect(clippy::float_cmp, reason = "an exact span has the same number twice")]
        Is::Num(span) if span.lo == span.hi => figure(span.lo),
        Is::Num(span) => format!("{} to {}", figure(span.lo), figure(span.hi)),
        Is::Text(text) => text.to_owned(),
        Is::Unknown => "unknown".to_owned(),
    }
}

fn datum(datum: &Datum, unit: &str) -> String {
    match datum {
        Datum::Num(number) if unit.is_empty() || unit == "1" => figure(*number),
        Datum::Num(number) => format!("{} {unit}", figure(*number)),
        Datum::Text(text) => text.to_string(),
    }
}

/// A number with as many decimals as an operator reads.
fn figure(number: f64) -> String {
    let decimals = match number.abs() {
        size if size >= 1_000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        _ => 4,
    };
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
