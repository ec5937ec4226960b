//! The functions of rules: what each takes, and what it yields.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue};

use bcp_wire::Id;
use bcp_wire::names::{self, Kind};

use super::units::Type;
use super::{Checker, FORECAST_BACK_MS, MAX_INPUTS, MIN_WINDOW_MS, Spot, clip, lookup};
use crate::rules::ast::{AGENT, Count, Input, Node, REACHABLE, SERVICE, Whose, parse_duration_ms};
use crate::rules::selector::Selector;
use crate::rules::window::{self, MAX_WINDOW_MS, Over};

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

impl Checker<'_> {
    pub(super) fn function(&mut self, spot: Spot, name: &str, args: &[IdedExpr]) -> Option<(Node, Type)> {
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
                Some((Node::Num(window::seconds(ms)), Type::Num(Some("s".to_owned()))))
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

    fn window_ms(&mut self, expr: &IdedExpr) -> Option<u64> {
        let ms = self.duration(expr)?;
        if (MIN_WINDOW_MS..=MAX_WINDOW_MS).contains(&ms) {
            return Some(ms);
        }
        self.fault(Spot::of(expr), "a window is 1s to 24h long", None)
    }

    fn over(&mut self, what: Over, point: &IdedExpr, window: &IdedExpr) -> Option<(Node, Type)> {
        self.uses_time = true;
        let window_ms = self.window_ms(window)?;
        let (input, unit) = self.measured(point, Some(window_ms), false)?;
        let unit = if what == Over::Rate { format!("{unit}/s") } else { unit };
        Some((Node::Over { what, input, window_ms }, Type::Num(Some(unit))))
    }

    fn forecast(&mut self, point: &IdedExpr, horizon: &IdedExpr) -> Option<(Node, Type)> {
        self.uses_time = true;
        let horizon_ms = self.window_ms(horizon)?;
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
