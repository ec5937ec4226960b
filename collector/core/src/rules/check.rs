//! CEL text to checked expression. Every fault of a rule is found in one pass, with its place and a suggestion.
//!
//! The CEL crate only parses; names, types and units are ours.

mod functions;
mod units;

use std::collections::BTreeSet;
use std::fmt;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SourceInfo, operators};

use bcp_wire::names::{self, NameDef};
use bcp_wire::{Id, PointName};

pub use self::functions::forecast_window_ms;
use self::units::Type;
use super::ast::{Compare, Count, Node, Scope, Sum};
use super::selector::Selector;

/// Longest condition, in bytes: a page of text; more is several rules.
pub const MAX_EXPRESSION_BYTES: usize = 4_000;
/// Most inputs of one expression.
pub const MAX_INPUTS: usize = 64;
/// Shortest window: below it one sample decides.
pub const MIN_WINDOW_MS: u64 = 1_000;
/// A forecast looks back as far as ahead, within these bounds.
pub const FORECAST_BACK_MS: (u64, u64) = (60_000, 1_800_000);

/// One fault of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Key in the configuration, as `rule.supply-air-hot.when`.
    pub key: String,
    /// Byte range within the value (end excluded), where the fault is inside an expression.
    pub span: Option<(usize, usize)>,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// An error message never repeats more than this of a text.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(48).collect()
}

/// Where in the text an expression stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot(u64);

impl Spot {
    pub(super) fn of(expr: &IdedExpr) -> Spot {
        Spot(expr.id)
    }
}

/// Checks the expressions of one rule into one set of inputs and counts.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    key: String,
    source: Option<&'a SourceInfo>,
    services: Option<&'a BTreeSet<Id>>,
    pub(super) scope: Scope,
    pub(super) counts: Vec<Count>,
    pub(super) uses_time: bool,
    in_count: bool,
    pub(super) faults: Vec<Fault>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(services: Option<&'a BTreeSet<Id>>) -> Checker<'a> {
        Checker {
            key: String::new(),
            source: None,
            services,
            scope: Scope::default(),
            counts: Vec::new(),
            uses_time: false,
            in_count: false,
            faults: Vec::new(),
        }
    }

    /// Parses and checks a condition.
    pub(super) fn condition(&mut self, key: &str, text: &str) -> Option<Node> {
        self.key = key.to_owned();
        let program = self.parse(text)?;
        let mut inner = Checker { source: Some(program.source_info()), ..self.child() };
        let node = inner.truth(program.expression());
        let Checker { scope, counts, uses_time, faults, .. } = inner;
        (self.scope, self.counts, self.uses_time, self.faults) = (scope, counts, uses_time, faults);
        node
    }

    /// Parses and checks a selector.
    pub(super) fn selector(&mut self, key: &str, text: &str) -> Option<Selector> {
        self.key = key.to_owned();
        let program = self.parse(text)?;
        let mut inner = Checker { source: Some(program.source_info()), ..self.child() };
        let selector = Selector::check(&mut inner, program.expression(), text, false);
        self.faults = inner.faults;
        selector
    }

    fn child(&mut self) -> Checker<'a> {
        Checker {
            key: self.key.clone(),
            source: None,
            services: self.services,
            scope: std::mem::take(&mut self.scope),
            counts: std::mem::take(&mut self.counts),
            uses_time: self.uses_time,
            in_count: self.in_count,
            faults: std::mem::take(&mut self.faults),
        }
    }

    fn parse(&mut self, text: &str) -> Option<cel::Program> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return self.fault_at(None, format!("longer than {MAX_EXPRESSION_BYTES} bytes"), None);
        }
        match cel::Program::compile(text) {
            Ok(program) => Some(program),
            Err(errors) => {
                for error in &errors.errors {
                    let at = offset(text, error.pos);
                    let message = error.msg.lines().next().unwrap_or_default();
                    let _: Option<()> = self.fault_at(Some((at, at)), format!("not CEL: {message}"), None);
                }
                None
            }
        }
    }

    /// Records a fault; the `None` goes up to the caller.
    pub(super) fn fault<T>(&mut self, spot: Spot, message: impl Into<String>, help: Option<String>) -> Option<T> {
        let span = self.source.and_then(|source| source.offset_for(spot.0));
        self.fault_at(span.map(|(from, to)| (from as usize, to as usize + 1)), message.into(), help)
    }

    fn fault_at<T>(&mut self, span: Option<(usize, usize)>, message: String, help: Option<String>) -> Option<T> {
        self.faults.push(Fault { key: self.key.clone(), span, message, help });
        None
    }

    /// "did you mean", where something is near enough.
    pub(super) fn nearest<'n>(text: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
        let text = clip(text);
        known
            .map(|name| (names::distance(name, &text), name))
            .min()
            .filter(|(distance, _)| *distance <= text.len() / 3 + 1)
            .map(|(_, name)| format!("did you mean `{name}`?"))
    }

    fn truth(&mut self, expr: &IdedExpr) -> Option<Node> {
        match self.expr(expr)? {
            (node, Type::Bool) => Some(node),
            (_, other) => self.fault(Spot::of(expr), format!("a condition is wanted here, not {}", other.name()), None),
        }
    }

    fn number(&mut self, expr: &IdedExpr) -> Option<(Node, Option<String>)> {
        match self.expr(expr)? {
            (node, Type::Num(unit)) => Some((node, unit)),
            (_, other) => self.fault(Spot::of(expr), format!("a number is wanted here, not {}", other.name()), None),
        }
    }

    fn expr(&mut self, expr: &IdedExpr) -> Option<(Node, Type)> {
        let spot = Spot::of(expr);
        match &expr.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(value) => Some((Node::Bool(*value.inner()), Type::Bool)),
                LiteralValue::Double(value) => Some((Node::Num(*value.inner()), Type::Num(None))),
                #[expect(clippy::cast_precision_loss, reason = "thresholds are small numbers")]
                LiteralValue::Int(value) => Some((Node::Num(*value.inner() as f64), Type::Num(None))),
                #[expect(clippy::cast_precision_loss, reason = "thresholds are small numbers")]
                LiteralValue::UInt(value) => Some((Node::Num(*value.inner() as f64), Type::Num(None))),
                LiteralValue::String(value) => Some((Node::Text(value.inner().to_owned()), Type::Text(None))),
                LiteralValue::Bytes(_) | LiteralValue::Null => self.fault(spot, "no value a rule can use", None),
            },
            Expr::Call(call) => self.call(spot, call),
            Expr::Ident(name) => {
                let help = lookup(name).map(|_| format!("write p(\"{}\")", clip(name)));
                self.fault(spot, format!("`{}` means nothing here", clip(name)), help)
            }
            Expr::Select(select) => {
                let help = Some("a point is read with p(\"its.name\")".to_owned());
                self.fault(spot, format!("`.{}` means nothing here", clip(&select.field)), help)
            }
            Expr::Unspecified | Expr::Comprehension(_) | Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => {
                self.fault(spot, "rules have no such expression", None)
            }
        }
    }

    fn call(&mut self, spot: Spot, call: &CallExpr) -> Option<(Node, Type)> {
        if call.target.is_some() {
            return self.fault(spot, format!("`.{}()` is no function of rules", clip(&call.func_name)), None);
        }
        let args = call.args.as_slice();
        match (call.func_name.as_str(), args) {
            (operators::LOGICAL_AND, [_, _]) => {
                let mut all = Vec::new();
                self.flatten(operators::LOGICAL_AND, args, &mut all)?;
                Some((Node::And(all), Type::Bool))
            }
            (operators::LOGICAL_OR, [_, _]) => {
                let mut any = Vec::new();
                self.flatten(operators::LOGICAL_OR, args, &mut any)?;
                Some((Node::Or(any), Type::Bool))
            }
            (operators::LOGICAL_NOT, [inner]) => Some((Node::Not(Box::new(self.truth(inner)?)), Type::Bool)),
            (operators::NEGATE, [inner]) => {
                let (node, unit) = self.number(inner)?;
                Some((Node::Negated(Box::new(node)), Type::Num(unit)))
            }
            (operators::CONDITIONAL, [when, then, otherwise]) => self.choice(spot, when, then, otherwise),
            (operators::IN, [what, IdedExpr { expr: Expr::List(list), .. }]) => self.one_of(what, &list.elements),
            (operators::LESS, [l, r]) => self.compare(spot, Compare::Less, l, r),
            (operators::LESS_EQUALS, [l, r]) => self.compare(spot, Compare::LessOrEqual, l, r),
            (operators::GREATER, [l, r]) => self.compare(spot, Compare::Greater, l, r),
            (operators::GREATER_EQUALS, [l, r]) => self.compare(spot, Compare::GreaterOrEqual, l, r),
            (operators::EQUALS, [l, r]) => self.compare(spot, Compare::Equal, l, r),
            (operators::NOT_EQUALS, [l, r]) => self.compare(spot, Compare::NotEqual, l, r),
            (operators::ADD, [l, r]) => self.sum(spot, Sum::Plus, l, r),
            (operators::SUBSTRACT, [l, r]) => self.sum(spot, Sum::Minus, l, r),
            (operators::MULTIPLY, [l, r]) => self.sum(spot, Sum::Times, l, r),
            (operators::DIVIDE, [l, r]) => self.sum(spot, Sum::Over, l, r),
            (name, _) => self.function(spot, name, args),
        }
    }

    fn flatten(&mut self, operator: &str, args: &[IdedExpr], into: &mut Vec<Node>) -> Option<()> {
        let mut sound = Some(());
        for arg in args {
            match &arg.expr {
                Expr::Call(call) if call.func_name == operator && call.target.is_none() => {
                    sound = sound.and(self.flatten(operator, &call.args, into));
                }
                _ => match self.truth(arg) {
                    Some(node) => into.push(node),
                    None => sound = None,
                },
            }
        }
        sound
    }

    fn choice(&mut self, spot: Spot, when: &IdedExpr, then: &IdedExpr, otherwise: &IdedExpr) -> Option<(Node, Type)> {
        let when = self.truth(when);
        let (then, then_type) = self.expr(then)?;
        let (otherwise, other_type) = self.expr(otherwise)?;
        let kind = self.same(spot, "chosen between", then_type, other_type)?;
        Some((Node::Choice { when: Box::new(when?), then: Box::new(then), otherwise: Box::new(otherwise) }, kind))
    }

    fn one_of(&mut self, what: &IdedExpr, among: &[IdedExpr]) -> Option<(Node, Type)> {
        let (node, kind) = self.expr(what)?;
        let mut nodes = Vec::new();
        for element in among {
            let (other, other_kind) = self.expr(element)?;
            self.same(Spot::of(element), "compared", kind.clone(), other_kind)?;
            self.plausible(Spot::of(element), &kind, &other)?;
            nodes.push(other);
        }
        Some((Node::OneOf { what: Box::new(node), among: nodes }, Type::Bool))
    }

    fn compare(&mut self, spot: Spot, op: Compare, l: &IdedExpr, r: &IdedExpr) -> Option<(Node, Type)> {
        let (left, right) = (self.expr(l), self.expr(r));
        let ((left, left_kind), (right, right_kind)) = (left?, right?);
        let ordered = !matches!(op, Compare::Equal | Compare::NotEqual);
        if ordered && !matches!(left_kind, Type::Num(_)) {
            return self.fault(Spot::of(l), format!("{} has no order", left_kind.name()), None);
        }
        self.same(spot, "compared", left_kind.clone(), right_kind.clone())?;
        self.plausible(Spot::of(r), &left_kind, &right)?;
        self.plausible(Spot::of(l), &right_kind, &left)?;
        Some((Node::Compare { op, left: Box::new(left), right: Box::new(right) }, Type::Bool))
    }
}

/// Byte offset of a line and column, both from 1 or 0 as the parser has it.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line.max(1)).unwrap_or(1);
    let before: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    (before + usize::try_from(column.max(0)).unwrap_or(0)).min(text.len())
}

/// The registry's definition of a name, if it is one.
fn lookup(name: &str) -> Option<&'static NameDef> {
    name.parse::<PointName>().ok().and_then(|name| names::lookup(&name))
}
