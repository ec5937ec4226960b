//! CEL text to checked expression. Every fault of a rule is found in one pass, with its place and a suggestion.
//!
//! The CEL crate only parses; names, types and units are ours.

use std::collections::BTreeSet;
use std::fmt;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, SourceInfo, operators};

use bcp_wire::names::{self, Kind, NameDef};
use bcp_wire::{Id, PointName};

use super::ast::{AGENT, Compare, Count, Input, Node, REACHABLE, SERVICE, Scope, Sum, Whose, parse_duration_ms};
use super::selector::Selector;
use super::window::{MAX_WINDOW_MS, Over};

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

/// What an expression yields.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Type {
    Bool,
    /// None: a bare number, which takes any unit.
    Num(Option<String>),
    /// The words it can be, where the registry lists them.
    Text(Option<&'static str>),
}

impl Type {
    fn name(&self) -> String {
        match self {
            Type::Bool => "a condition".to_owned(),
            Type::Num(None) => "a number".to_owned(),
            Type::Num(Some(unit)) => format!("a number in {unit}"),
            Type::Text(_) => "a text".to_owned(),
        }
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

    /// Both sides are of one type and unit; a bare number takes the other side's unit.
    fn same(&mut self, spot: Spot, done: &str, left: Type, right: Type) -> Option<Type> {
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
    fn plausible(&mut self, spot: Spot, measured: &Type, literal: &Node) -> Option<()> {
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

    fn sum(&mut self, spot: Spot, op: Sum, l: &IdedExpr, r: &IdedExpr) -> Option<(Node, Type)> {
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

    fn function(&mut self, spot: Spot, name: &str, args: &[IdedExpr]) -> Option<(Node, Type)> {
        match (name, args) {
            ("p", [point]) => self.point(Whose::Own, point),
            ("p", [asset, point]) => {
                let id = self.id(asset)?;
                self.point(Whose::Asset(id), point)
            }
            ("age", [point]) => {
                self.uses_time = true;
                let input = self.named(Whose::Own, point, None, false)?;
                Some((Node::Age(input), Type::Num(Some("s".to_owned()))))
            }
            ("avg", [point, window]) => self.over(Over::Avg, point, window),
            ("min", [point, window]) => self.over(Over::Min, point, window),
            ("max", [point, window]) => self.over(Over::Max, point, window),
            ("rate", [point, window]) => self.over(Over::Rate, point, window),
            ("forecast", [point, horizon]) => self.forecast(point, horizon),
            ("highest", [pattern]) => self.extreme(true, pattern),
            ("lowest", [pattern]) => self.extreme(false, pattern),
            ("flag", [point, word]) => self.flag(point, word),
            ("duration", [_]) => {
                let ms = self.duration(args.first()?)?;
                Some((Node::Num(super::window::seconds(ms)), Type::Num(Some("s".to_owned()))))
            }
            ("measured", [point]) => {
                let input = self.named(Whose::Own, point, None, true)?;
                Some((Node::Measured(input), Type::Bool))
            }
            ("reachable", []) => self.is(Whose::Own, REACHABLE, "yes", "reachable"),
            ("agent_lost", []) => self.is(Whose::Agent, AGENT, "lost", "agent lost"),
            ("service_down", []) => self.is(Whose::Own, SERVICE, "down", "service down"),
            ("service_degraded", []) => self.is(Whose::Own, SERVICE, "degraded", "service degraded"),
            ("service_down", [service]) => {
                let id = self.service(service)?;
                self.is(Whose::Service(id), SERVICE, "down", "service down")
            }
            ("count", [assets, condition]) => self.count(spot, assets, condition),
            ("k_of_n", [k, conditions @ ..]) => self.at_least(spot, k, conditions),
            _ => self.unknown_function(spot, name, args.len()),
        }
    }

    fn unknown_function<T>(&mut self, spot: Spot, name: &str, given: usize) -> Option<T> {
        if let Some((_, usage)) = FUNCTIONS.iter().find(|(known, _)| *known == name) {
            return self.fault(spot, format!("{name} does not take {given} arguments"), Some(format!("write {usage}")));
        }
        let help = Checker::nearest(name, FUNCTIONS.iter().map(|(known, _)| *known));
        self.fault(spot, format!("`{}` is no function of rules", clip(name)), help)
    }

    fn text<'e>(&mut self, expr: &'e IdedExpr, what: &str) -> Option<&'e str> {
        match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
            _ => self.fault(Spot::of(expr), format!("{what} is written as a text in quotes"), None),
        }
    }

    fn id(&mut self, expr: &IdedExpr) -> Option<Id> {
        let text = self.text(expr, "an asset")?;
        match text.parse() {
            Ok(id) => Some(id),
            Err(_) => self.fault(Spot::of(expr), format!("`{}` can be no id", clip(text)), None),
        }
    }

    fn service(&mut self, expr: &IdedExpr) -> Option<Id> {
        let id = self.id(expr)?;
        match self.services {
            Some(services) if !services.contains(&id) => {
                let help = Checker::nearest(id.as_str(), services.iter().map(Id::as_str));
                self.fault(Spot::of(expr), format!("there is no service `{id}`"), help)
            }
            Some(_) | None => Some(id),
        }
    }

    fn point(&mut self, whose: Whose, point: &IdedExpr) -> Option<(Node, Type)> {
        let input = self.named(whose, point, None, false)?;
        let kind = match self.scope.inputs.get(input).and_then(|input| input.def) {
            Some(def) if def.kind == Kind::State => Type::Text(Some(def.help)),
            Some(def) => Type::Num(Some(def.unit.to_owned())),
            None => Type::Num(None),
        };
        Some((Node::Point(input), kind))
    }

    /// A point name of the contract, as a number into the inputs.
    fn named(&mut self, whose: Whose, expr: &IdedExpr, window: Option<u64>, pattern: bool) -> Option<usize> {
        let text = self.text(expr, "a point")?;
        let spot = Spot::of(expr);
        if text.contains('*') && !pattern {
            return self.fault(spot, "a pattern stands in highest() or lowest() only", None);
        }
        let Some(def) = lookup(&text.replace('*', "1")) else {
            let help = names::nearest(&clip(text)).map(|nearest| format!("did you mean `{nearest}`?"));
            return self.fault(spot, format!("no point is called `{}`", clip(text)), help);
        };
        let known = self.scope.inputs.iter_mut().position(|input| input.whose == whose && input.name == text);
        if known.is_none() && self.scope.inputs.len() >= MAX_INPUTS {
            return self.fault(spot, format!("more than {MAX_INPUTS} points in one rule"), None);
        }
        let at = known.unwrap_or_else(|| {
            let input = Input { whose, name: text.to_owned(), def: Some(def), windows: None };
            self.scope.inputs.push(input);
            self.scope.inputs.len() - 1
        });
        if let (Some(ms), Some(input)) = (window, self.scope.inputs.get_mut(at)) {
            let (shortest, longest) = input.windows.unwrap_or((ms, ms));
            input.windows = Some((shortest.min(ms), longest.max(ms)));
        }
        Some(at)
    }

    /// A point that is a number, with its unit.
    fn measured(&mut self, expr: &IdedExpr, window: Option<u64>, pattern: bool) -> Option<(usize, String)> {
        let input = self.named(Whose::Own, expr, window, pattern)?;
        let def = self.scope.inputs.get(input).and_then(|input| input.def)?;
        if def.kind == Kind::State {
            return self.fault(Spot::of(expr), "this point is a state, not a number", None);
        }
        Some((input, def.unit.to_owned()))
    }

    fn duration(&mut self, expr: &IdedExpr) -> Option<u64> {
        let spot = Spot::of(expr);
        match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) => match parse_duration_ms(text.inner()) {
                Ok(ms) => Some(ms),
                Err(message) => self.fault(spot, message, None),
            },
            Expr::Call(call) if call.func_name == "duration" && call.args.len() == 1 => {
                self.duration(call.args.first()?)
            }
            _ => self.fault(spot, "a duration is written as \"10m\"", None),
        }
    }

    fn window(&mut self, expr: &IdedExpr) -> Option<u64> {
        let ms = self.duration(expr)?;
        if (MIN_WINDOW_MS..=MAX_WINDOW_MS).contains(&ms) {
            return Some(ms);
        }
        self.fault(Spot::of(expr), "a window is 1s to 24h long", None)
    }

    fn over(&mut self, what: Over, point: &IdedExpr, window: &IdedExpr) -> Option<(Node, Type)> {
        self.uses_time = true;
        let window_ms = self.window(window)?;
        let (input, unit) = self.measured(point, Some(window_ms), false)?;
        let unit = if what == Over::Rate { format!("{unit}/s") } else { unit };
        Some((Node::Over { what, input, window_ms }, Type::Num(Some(unit))))
    }

    fn forecast(&mut self, point: &IdedExpr, horizon: &IdedExpr) -> Option<(Node, Type)> {
        self.uses_time = true;
        let horizon_ms = self.window(horizon)?;
        let (input, unit) = self.measured(point, Some(forecast_window_ms(horizon_ms)), false)?;
        Some((Node::Forecast { input, horizon_ms }, Type::Num(Some(unit))))
    }

    fn extreme(&mut self, highest: bool, pattern: &IdedExpr) -> Option<(Node, Type)> {
        let (input, unit) = self.measured(pattern, None, true)?;
        Some((Node::Extreme { highest, input }, Type::Num(Some(unit))))
    }

    fn flag(&mut self, point: &IdedExpr, word: &IdedExpr) -> Option<(Node, Type)> {
        let input = self.named(Whose::Own, point, None, false)?;
        let word_text = self.text(word, "a flag")?.to_owned();
        let def = self.scope.inputs.get(input).and_then(|input| input.def)?;
        if def.kind != Kind::State {
            return self.fault(Spot::of(point), "this point is a number, not a state", None);
        }
        self.plausible(Spot::of(word), &Type::Text(Some(def.help)), &Node::Text(word_text.clone()))?;
        Some((Node::Flag { input, word: word_text }, Type::Bool))
    }

    fn is(&mut self, whose: Whose, state: &str, word: &'static str, name: &'static str) -> Option<(Node, Type)> {
        let known = self.scope.inputs.iter().position(|input| input.whose == whose && input.name == state);
        let input = known.unwrap_or_else(|| {
            self.scope.inputs.push(Input { whose, name: state.to_owned(), def: None, windows: None });
            self.scope.inputs.len() - 1
        });
        Some((Node::Is { input, word, name }, Type::Bool))
    }

    fn count(&mut self, spot: Spot, assets: &IdedExpr, condition: &IdedExpr) -> Option<(Node, Type)> {
        if self.in_count {
            return self.fault(spot, "a count cannot be counted", None);
        }
        let text = self.text(assets, "a selector of assets")?.to_owned();
        let selector = match cel::Program::compile(&text) {
            Ok(program) => {
                // Places inside this text are not places inside the rule: the whole selector is pointed at.
                let faults = self.faults.len();
                let mut inner = Checker { source: None, ..self.child() };
                let selector = Selector::check(&mut inner, program.expression(), &text, true);
                let Checker { scope, counts, faults: found, .. } = inner;
                (self.scope, self.counts, self.faults) = (scope, counts, found);
                let span = self.source.and_then(|source| source.offset_for(Spot::of(assets).0));
                for fault in self.faults.iter_mut().skip(faults) {
                    fault.span = span.map(|(from, to)| (from as usize, to as usize + 1));
                }
                selector
            }
            Err(_) => self.fault(Spot::of(assets), "the selector is not CEL", None),
        };
        let outer = std::mem::take(&mut self.scope);
        self.in_count = true;
        let condition = self.truth(condition);
        self.in_count = false;
        let scope = std::mem::replace(&mut self.scope, outer);
        self.counts.push(Count { assets: selector?, scope, condition: condition? });
        Some((Node::Count(self.counts.len() - 1), Type::Num(None)))
    }

    fn at_least(&mut self, spot: Spot, k: &IdedExpr, conditions: &[IdedExpr]) -> Option<(Node, Type)> {
        let number = match &k.expr {
            Expr::Literal(LiteralValue::Int(number)) => usize::try_from(*number.inner()).ok(),
            _ => None,
        };
        let of: Vec<Option<Node>> = conditions.iter().map(|condition| self.truth(condition)).collect();
        match number {
            Some(k) if k >= 1 && k <= of.len() => {
                Some((Node::AtLeast { k, of: of.into_iter().collect::<Option<_>>()? }, Type::Bool))
            }
            Some(_) | None => self.fault(spot, format!("k_of_n needs a whole number from 1 to {}", of.len()), None),
        }
    }
}

const FUNCTIONS: &[(&str, &str)] = &[
    ("p", "p(\"point\") or p(\"asset\", \"point\")"),
    ("age", "age(\"point\")"),
    ("avg", "avg(\"point\", \"10m\")"),
    ("min", "min(\"point\", \"10m\")"),
    ("max", "max(\"point\", \"10m\")"),
    ("rate", "rate(\"point\", \"10m\")"),
    ("forecast", "forecast(\"point\", \"15m\")"),
    ("highest", "highest(\"host.fs.*.used-share\")"),
    ("lowest", "lowest(\"fan.*.speed\")"),
    ("flag", "flag(\"ups.status\", \"OB\")"),
    ("duration", "duration(\"6m\")"),
    ("measured", "measured(\"point\")"),
    ("reachable", "reachable()"),
    ("agent_lost", "agent_lost()"),
    ("service_down", "service_down() or service_down(\"service\")"),
    ("service_degraded", "service_degraded()"),
    ("count", "count('kind == \"crac\"', condition)"),
    ("k_of_n", "k_of_n(2, condition, condition, condition)"),
];

/// How far back a forecast looks.
#[must_use]
pub fn forecast_window_ms(horizon_ms: u64) -> u64 {
    horizon_ms.clamp(FORECAST_BACK_MS.0, FORECAST_BACK_MS.1)
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
