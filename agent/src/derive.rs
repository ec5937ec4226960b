//! Readings computed from other readings of the same poll. Pure.
//!
//! Invariant: a bad input never becomes a good result; it passes on its own reason.

use bcp_wire::{BadReason, Value};

/// A reading of a poll: absent where the device lacks the point.
pub type Reading = Option<Result<Value, BadReason>>;

/// How a derived point is computed. Inputs are indexes into the readings before it.
#[derive(Debug, Clone, PartialEq)]
pub enum Formula {
    /// Weighted sum. With `all`, absent as soon as one input is; else of those that are there.
    Sum {
        terms: Vec<(usize, f64)>,
        all: bool,
    },
    Max(Vec<usize>),
    /// 100 * part / whole.
    Share {
        part: usize,
        whole: usize,
    },
    Flags(Vec<(String, Condition)>),
    /// The first case that holds decides.
    Cases {
        cases: Vec<(String, Condition)>,
        otherwise: Option<String>,
    },
}

/// Whether an input has one of some texts, or lies above or below a number.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub input: usize,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Is(Vec<String>),
    Above(f64),
    Below(f64),
}

impl Condition {
    fn holds(&self, readings: &[Reading]) -> Option<Result<bool, BadReason>> {
        let value = match readings.get(self.input)?.as_ref()? {
            Ok(value) => value,
            Err(reason) => return Some(Err(*reason)),
        };
        Some(match (&self.test, value) {
            (Test::Is(words), Value::Text(text)) => Ok(words.contains(text)),
            (Test::Above(limit), Value::Num(number)) => Ok(number > limit),
            (Test::Below(limit), Value::Num(number)) => Ok(number < limit),
            (Test::Is(_), Value::Num(_)) | (Test::Above(_) | Test::Below(_), Value::Text(_)) => Err(BadReason::Config),
        })
    }
}

impl Formula {
    /// The reading, given those before it.
    #[must_use]
    pub fn evaluate(&self, readings: &[Reading]) -> Reading {
        match self {
            Formula::Sum { terms, all } => sum(terms, *all, readings),
            Formula::Max(inputs) => fold(inputs.iter().map(|i| (*i, 1.0)), readings, false, f64::max),
            Formula::Share { part, whole } => {
                let (part, whole) = (number(*part, readings)?, number(*whole, readings)?);
                Some(part.and_then(|part| Value::num(100.0 * part / whole?).ok_or(BadReason::Range)))
            }
            Formula::Flags(flags) => {
                let mut text = String::new();
                for (flag, condition) in flags {
                    match condition.holds(readings) {
                        Some(Err(reason)) => return Some(Err(reason)),
                        Some(Ok(true)) => {
                            if !text.is_empty() {
                                text.push(' ');
                            }
                            text.push_str(flag);
                        }
                        Some(Ok(false)) | None => {}
                    }
                }
                Some(Ok(Value::Text(text)))
            }
            Formula::Cases { cases, otherwise } => {
                for (word, condition) in cases {
                    match condition.holds(readings) {
                        Some(Err(reason)) => return Some(Err(reason)),
                        Some(Ok(true)) => return Some(Ok(Value::Text(word.clone()))),
                        Some(Ok(false)) | None => {}
                    }
                }
                otherwise.clone().map(|word| Ok(Value::Text(word)))
            }
        }
    }
}

fn number(input: usize, readings: &[Reading]) -> Option<Result<f64, BadReason>> {
    let reading = readings.get(input)?.as_ref()?;
    Some(reading.as_ref().map_err(|reason| *reason).and_then(|value| value.as_num().ok_or(BadReason::Config)))
}

fn sum(terms: &[(usize, f64)], all: bool, readings: &[Reading]) -> Reading {
    fold(terms.iter().copied(), readings, all, |a, b| a + b)
}

fn fold(
    terms: impl Iterator<Item = (usize, f64)>,
    readings: &[Reading],
    all: bool,
    join: impl Fn(f64, f64) -> f64,
) -> Reading {
    let mut total: Option<f64> = None;
    for (input, factor) in terms {
        match number(input, readings) {
            None if all => return None,
            None => {}
            Some(Err(reason)) => return Some(Err(reason)),
            Some(Ok(value)) => total = Some(total.map_or(value * factor, |t| join(t, value * factor))),
        }
    }
    total.map(|total| Value::num(total).ok_or(BadReason::Range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(number: f64) -> Reading {
        Some(Ok(Value::Num(number)))
    }
    fn t(text: &str) -> Reading {
        Some(Ok(Value::Text(text.to_owned())))
    }
    const BAD: Reading = Some(Err(BadReason::Range));

    #[test]
    fn sums_and_maxima() {
        let terms = vec![(0, 1.0), (1, -1.0)];
        let sum = |all| Formula::Sum { terms: terms.clone(), all };
        assert_eq!(sum(true).evaluate(&[n(10.0), n(3.0)]), n(7.0));
        assert_eq!(sum(true).evaluate(&[n(10.0), None]), None);
        assert_eq!(sum(false).evaluate(&[n(10.0), None]), n(10.0));
        assert_eq!(sum(false).evaluate(&[None, None]), None);
        assert_eq!(sum(false).evaluate(&[n(1.0), BAD]), BAD);
        assert_eq!(Formula::Max(vec![0, 1]).evaluate(&[n(-10.0), n(-3.0)]), n(-3.0));
        assert_eq!(Formula::Share { part: 0, whole: 1 }.evaluate(&[n(1.0), n(4.0)]), n(25.0));
        assert_eq!(Formula::Share { part: 0, whole: 1 }.evaluate(&[n(1.0), n(0.0)]), BAD);
    }

    #[test]
    fn flags_and_cases() {
        let is = |input, word: &str| Condition { input, test: Test::Is(vec![word.to_owned()]) };
        let over = Condition { input: 1, test: Test::Above(100.0) };
        let flags = Formula::Flags(vec![("OL".to_owned(), is(0, "normal")), ("OVER".to_owned(), over)]);
        assert_eq!(flags.evaluate(&[t("normal"), n(101.0)]), t("OL OVER"));
        assert_eq!(flags.evaluate(&[t("normal"), None]), t("OL"));
        assert_eq!(flags.evaluate(&[t("battery"), n(50.0)]), t(""));
        assert_eq!(flags.evaluate(&[t("battery"), BAD]), BAD);
        assert_eq!(flags.evaluate(&[n(1.0), n(1.0)]), Some(Err(BadReason::Config)));
        let cases = Formula::Cases {
            cases: vec![("alarm".to_owned(), is(0, "yes")), ("warning".to_owned(), is(1, "wet"))],
            otherwise: Some("none".to_owned()),
        };
        assert_eq!(cases.evaluate(&[t("yes"), BAD]), t("alarm"));
        assert_eq!(cases.evaluate(&[t("no"), BAD]), BAD);
        assert_eq!(cases.evaluate(&[t("no"), t("dry")]), t("none"));
    }
}
