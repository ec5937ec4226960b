//! Readings computed from other readings of the same poll. Pure.
//!
//! Invariant: a bad input never becomes a good result; it passes on its own reason.

use bcp_wire::{BadReason, MAX_TEXT_BYTES, Value};

/// A reading of a poll: absent where the device lacks the point.
pub type Reading = Option<Result<Value, BadReason>>;

/// What a formula reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Index into the readings before this one.
    Point(usize),
    /// Every row of tables of one of the profile's row patterns.
    Rows(usize),
}

/// Readings of a poll as formulas see them.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'r> {
    pub readings: &'r [Reading],
    /// Indexes of the readings of each row pattern.
    pub rows: &'r [Vec<usize>],
}

impl<'r> Inputs<'r> {
    fn of(self, input: Input) -> impl Iterator<Item = &'r Reading> {
        let (one, many) = match input {
            Input::Point(index) => (self.readings.get(index), &[][..]),
            Input::Rows(pattern) => (None, self.rows.get(pattern).map(Vec::as_slice).unwrap_or_default()),
        };
        one.into_iter().chain(many.iter().filter_map(move |index| self.readings.get(*index)))
    }

    /// The only or first reading.
    fn first(self, input: Input) -> Option<&'r Result<Value, BadReason>> {
        self.of(input).find_map(Option::as_ref)
    }

    fn number(self, input: Input) -> Reading {
        self.first(input).cloned()
    }
}

/// How a derived point is computed.
#[derive(Debug, Clone, PartialEq)]
pub enum Formula {
    /// Weighted sum. With `all`, absent as soon as one input is; else of those that are there.
    Sum {
        terms: Vec<(Input, f64)>,
        all: bool,
    },
    Max(Vec<Input>),
    Min(Vec<Input>),
    /// 100 * part / whole.
    Share {
        part: Input,
        whole: Input,
    },
    Flags(Vec<(String, Condition)>),
    /// The first case that holds decides.
    Cases {
        cases: Vec<(String, Condition)>,
        otherwise: Option<String>,
    },
    /// Texts with `; ` between them, as many as fit; `none` where there is none.
    Join(Vec<Input>),
}

/// Whether an input has one of some texts, or lies above or below a number. Of rows: whether one of them does.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub input: Input,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Is(Vec<String>),
    Above(f64),
    Below(f64),
}

impl Condition {
    fn holds(&self, inputs: Inputs<'_>) -> Option<Result<bool, BadReason>> {
        let mut held = None;
        for value in inputs.of(self.input).flatten() {
            let value = match value {
                Ok(value) => value,
                Err(reason) => return Some(Err(*reason)),
            };
            match self.test.holds(value) {
                Ok(false) => held = held.or(Some(Ok(false))),
                Ok(true) => held = Some(Ok(true)),
                Err(reason) => return Some(Err(reason)),
            }
        }
        held
    }
}

impl Test {
    fn holds(&self, value: &Value) -> Result<bool, BadReason> {
        match (self, value) {
            (Test::Is(words), Value::Text(text)) => Ok(words.contains(text)),
            (Test::Above(limit), Value::Num(number)) => Ok(number > limit),
            (Test::Below(limit), Value::Num(number)) => Ok(number < limit),
            (Test::Is(_), Value::Num(_)) | (Test::Above(_) | Test::Below(_), Value::Text(_)) => Err(BadReason::Config),
        }
    }
}

impl Formula {
    /// The reading, given those before it.
    #[must_use]
    pub fn evaluate(&self, inputs: Inputs<'_>) -> Reading {
        match self {
            Formula::Sum { terms, all } => fold(terms.iter().copied(), inputs, *all, |a, b| a + b),
            Formula::Max(of) => fold(of.iter().map(|i| (*i, 1.0)), inputs, false, f64::max),
            Formula::Min(of) => fold(of.iter().map(|i| (*i, 1.0)), inputs, false, f64::min),
            Formula::Share { part, whole } => {
                let (part, whole) = (number(inputs.number(*part)?), number(inputs.number(*whole)?));
                Some(part.and_then(|part| Value::num(100.0 * part / whole?).ok_or(BadReason::Range)))
            }
            Formula::Flags(flags) => {
                let mut text = String::new();
                for (flag, condition) in flags {
                    match condition.holds(inputs) {
                        Some(Err(reason)) => return Some(Err(reason)),
                        Some(Ok(true)) if !text.split(' ').any(|known| known == flag) => {
                            if !text.is_empty() {
                                text.push(' ');
                            }
                            text.push_str(flag);
                        }
                        Some(Ok(_)) | None => {}
                    }
                }
                Some(Ok(Value::Text(text)))
            }
            Formula::Cases { cases, otherwise } => {
                for (word, condition) in cases {
                    match condition.holds(inputs) {
                        Some(Err(reason)) => return Some(Err(reason)),
                        Some(Ok(true)) => return Some(Ok(Value::Text(word.clone()))),
                        Some(Ok(false)) | None => {}
                    }
                }
                otherwise.clone().map(|word| Ok(Value::Text(word)))
            }
            Formula::Join(of) => join(of, inputs),
        }
    }
}

fn number(reading: Result<Value, BadReason>) -> Result<f64, BadReason> {
    reading.and_then(|value| value.as_num().ok_or(BadReason::Config))
}

fn join(of: &[Input], inputs: Inputs<'_>) -> Reading {
    let mut text = String::new();
    for value in of.iter().flat_map(|input| inputs.of(*input)).flatten() {
        let word = match value {
            Ok(value) => value.to_string(),
            Err(reason) => return Some(Err(*reason)),
        };
        if word.is_empty() || text.len() + 2 + word.len() > MAX_TEXT_BYTES {
            continue;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&word);
    }
    Some(Ok(Value::Text(if text.is_empty() { "none".to_owned() } else { text })))
}

fn fold(
    terms: impl Iterator<Item = (Input, f64)>,
    inputs: Inputs<'_>,
    all: bool,
    join: impl Fn(f64, f64) -> f64,
) -> Reading {
    let mut total: Option<f64> = None;
    for (input, factor) in terms {
        let mut any = false;
        for reading in inputs.of(input).flatten() {
            any = true;
            match number(reading.clone()) {
                Err(reason) => return Some(Err(reason)),
                Ok(value) => total = Some(total.map_or(value * factor, |t| join(t, value * factor))),
            }
        }
        if all && !any {
            return None;
        }
    }
    total.map(|total| Value::num(total).ok_or(BadReason::Range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Input::Point as P;

    fn n(number: f64) -> Reading {
        Some(Ok(Value::Num(number)))
    }
    fn t(text: &str) -> Reading {
        Some(Ok(Value::Text(text.to_owned())))
    }
    fn eval(formula: &Formula, readings: &[Reading]) -> Reading {
        formula.evaluate(Inputs { readings, rows: &[] })
    }
    const BAD: Reading = Some(Err(BadReason::Range));

    #[test]
    fn sums_and_maxima() {
        let terms = vec![(P(0), 1.0), (P(1), -1.0)];
        let sum = |all| Formula::Sum { terms: terms.clone(), all };
        assert_eq!(eval(&sum(true), &[n(10.0), n(3.0)]), n(7.0));
        assert_eq!(eval(&sum(true), &[n(10.0), None]), None);
        assert_eq!(eval(&sum(false), &[n(10.0), None]), n(10.0));
        assert_eq!(eval(&sum(false), &[None, None]), None);
        assert_eq!(eval(&sum(false), &[n(1.0), BAD]), BAD);
        assert_eq!(eval(&Formula::Max(vec![P(0), P(1)]), &[n(-10.0), n(-3.0)]), n(-3.0));
        assert_eq!(eval(&Formula::Share { part: P(0), whole: P(1) }, &[n(1.0), n(4.0)]), n(25.0));
        assert_eq!(eval(&Formula::Share { part: P(0), whole: P(1) }, &[n(1.0), n(0.0)]), BAD);
    }

    #[test]
    fn flags_and_cases() {
        let is = |input, word: &str| Condition { input: P(input), test: Test::Is(vec![word.to_owned()]) };
        let over = Condition { input: P(1), test: Test::Above(100.0) };
        let flags = Formula::Flags(vec![("OL".to_owned(), is(0, "normal")), ("OVER".to_owned(), over)]);
        assert_eq!(eval(&flags, &[t("normal"), n(101.0)]), t("OL OVER"));
        assert_eq!(eval(&flags, &[t("normal"), None]), t("OL"));
        assert_eq!(eval(&flags, &[t("battery"), n(50.0)]), t(""));
        assert_eq!(eval(&flags, &[t("battery"), BAD]), BAD);
        assert_eq!(eval(&flags, &[n(1.0), n(1.0)]), Some(Err(BadReason::Config)));
        let cases = Formula::Cases {
            cases: vec![("alarm".to_owned(), is(0, "yes")), ("warning".to_owned(), is(1, "wet"))],
            otherwise: Some("none".to_owned()),
        };
        assert_eq!(eval(&cases, &[t("yes"), BAD]), t("alarm"));
        assert_eq!(eval(&cases, &[t("no"), BAD]), BAD);
        assert_eq!(eval(&cases, &[t("no"), t("dry")]), t("none"));
    }

    #[test]
    fn rows_of_tables_are_summed_searched_and_listed() {
        let readings = [n(7.0), n(2.0), None, n(5.0), t("high"), t("low")];
        let rows = [vec![1, 2, 3], vec![4, 5], vec![]];
        let inputs = Inputs { readings: &readings, rows: &rows };
        let sum = |input, all| Formula::Sum { terms: vec![(input, 1.0)], all }.evaluate(inputs);
        assert_eq!(sum(Input::Rows(0), false), n(7.0));
        assert_eq!(sum(Input::Rows(2), true), None);
        assert_eq!(Formula::Min(vec![Input::Rows(0)]).evaluate(inputs), n(2.0));
        let any = |word: &str| Condition { input: Input::Rows(1), test: Test::Is(vec![word.to_owned()]) }.holds(inputs);
        assert_eq!((any("low"), any("none")), (Some(Ok(true)), Some(Ok(false))));
        assert_eq!(Formula::Join(vec![Input::Rows(1)]).evaluate(inputs), t("high; low"));
        assert_eq!(Formula::Join(vec![Input::Rows(2)]).evaluate(inputs), t("none"));
    }
}
