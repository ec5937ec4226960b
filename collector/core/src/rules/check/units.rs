//! Types and units: what can be compared, added, chosen between; which values a measured quantity can have.

use cel::IdedExpr;

use super::{Checker, Spot, clip};
use crate::rules::ast::{Node, Sum};

/// What an expression yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    /// None: a bare number, which takes any unit.
    Num(Option<String>),
    /// The words it can be, where the registry lists them.
    Text(Option<&'static str>),
}

impl Type {
    pub(super) fn name(&self) -> String {
        match self {
            Type::Bool => "a condition".to_owned(),
            Type::Num(None) => "a number".to_owned(),
            Type::Num(Some(unit)) => format!("a number in {unit}"),
            Type::Text(_) => "a text".to_owned(),
        }
    }
}

impl Checker<'_> {
    /// Both sides are of one type and unit; a bare number takes the other side's unit.
    pub(super) fn same(&mut self, spot: Spot, done: &str, left: Type, right: Type) -> Option<Type> {
        match (&left, &right) {
            (Type::Bool, Type::Bool) | (Type::Num(_), Type::Num(None)) | (Type::Text(_), Type::Text(_)) => Some(left),
            (Type::Num(None), Type::Num(Some(_))) => Some(right),
            (Type::Num(Some(a)), Type::Num(Some(b))) if a == b => Some(left),
            _ => {
                let help = match (&left, &right) {
                    (Type::Text(Some(words)), Type::Num(_)) | (Type::Num(_), Type::Text(Some(words))) => {
                        Some(format!("it is one of: {words}"))
                    }
                    _ => None,
                };
                self.fault(spot, format!("{} and {} cannot be {done}", left.name(), right.name()), help)
            }
        }
    }

    /// A literal beside a measured quantity is one that the quantity can have.
    pub(super) fn plausible(&mut self, spot: Spot, measured: &Type, literal: &Node) -> Option<()> {
        match (measured, literal) {
            (Type::Num(Some(unit)), Node::Num(number)) => {
                let range = match unit.as_str() {
                    "%" => 0.0..=1_000.0,
                    "Cel" => -100.0..=300.0,
                    _ => return Some(()),
                };
                if range.contains(number) {
                    return Some(());
                }
                self.fault(spot, format!("{number} cannot be a value in {unit}"), None)
            }
            (Type::Text(Some(help)), Node::Text(word)) => {
                let Some(words) = words(help) else { return Some(()) };
                if words.contains(&word.as_str()) {
                    return Some(());
                }
                let nearest = Checker::nearest(word, words.iter().copied());
                let help = nearest.or_else(|| Some(format!("it is one of: {}", words.join(", "))));
                self.fault(spot, format!("this point is never `{}`", clip(word)), help)
            }
            _ => Some(()),
        }
    }

    pub(super) fn sum(&mut self, spot: Spot, op: Sum, l: &IdedExpr, r: &IdedExpr) -> Option<(Node, Type)> {
        let (left, right) = (self.number(l), self.number(r));
        let ((left, left_unit), (right, right_unit)) = (left?, right?);
        let kind = match op {
            Sum::Plus | Sum::Minus => self.same(spot, "added", Type::Num(left_unit), Type::Num(right_unit))?,
            Sum::Times => Type::Num(match (left_unit, right_unit) {
                (Some(unit), None) | (None, Some(unit)) => Some(unit),
                (None, None) => None,
                (Some(a), Some(b)) => Some(format!("{a}.{b}")),
            }),
            Sum::Over => Type::Num(match (left_unit, right_unit) {
                (unit, None) => unit,
                (None, Some(b)) => Some(format!("1/{b}")),
                (Some(a), Some(b)) if a == b => None,
                (Some(a), Some(b)) => Some(format!("{a}/{b}")),
            }),
        };
        Some((Node::Sum { op, left: Box::new(left), right: Box::new(right) }, kind))
    }
}

/// The words of a state, where its help lists them: `off, on, fault` or `flags OL OB: ...`.
fn words(help: &str) -> Option<Vec<&str>> {
    let list = help.split(':').next().unwrap_or_default();
    let words: Vec<&str> = match list.strip_prefix("flags ") {
        Some(flags) => flags.split(' ').collect(),
        None => list.split(", ").collect(),
    };
    (words.len() > 1 && words.iter().all(|word| !word.contains(' '))).then_some(words)
}
