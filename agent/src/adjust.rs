//! What other readings of the same poll do to a number: a scale, a unit or words that the device tells itself. Pure.
//!
//! Knows: units and how they convert, forms in which devices tell scales. Refuses to know: where siblings are read.
//! Invariant: a number whose scale or unit is not known is no value.

use std::collections::BTreeMap;

use bcp_wire::{BadReason, Value};

/// Largest power of ten a device may tell: beyond it the register does not hold a scale.
const MAX_EXPONENT: f64 = 30.0;

/// value * times / by + plus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    pub times: f64,
    pub by: f64,
    pub plus: f64,
}

impl Linear {
    pub const IDENTITY: Linear = Linear { times: 1.0, by: 1.0, plus: 0.0 };

    #[must_use]
    pub fn apply(self, value: f64) -> f64 {
        value * self.times / self.by + self.plus
    }
}

/// Unit, what it measures, and the way to that quantity's first unit.
const UNITS: &[(&str, &str, Linear)] = &[
    ("Cel", "temperature", linear(1.0, 1.0, 0.0)),
    ("degF", "temperature", linear(5.0, 9.0, -160.0 / 9.0)),
    ("K", "temperature", linear(1.0, 1.0, -273.15)),
    ("W", "power", linear(1.0, 1.0, 0.0)),
    ("mW", "power", linear(1.0, 1e3, 0.0)),
    ("kW", "power", linear(1e3, 1.0, 0.0)),
    ("MW", "power", linear(1e6, 1.0, 0.0)),
    ("BTU/h", "power", linear(0.293_071_07, 1.0, 0.0)),
    ("VA", "apparent power", linear(1.0, 1.0, 0.0)),
    ("kVA", "apparent power", linear(1e3, 1.0, 0.0)),
    ("var", "reactive power", linear(1.0, 1.0, 0.0)),
    ("kvar", "reactive power", linear(1e3, 1.0, 0.0)),
    ("Wh", "energy", linear(1.0, 1.0, 0.0)),
    ("kWh", "energy", linear(1e3, 1.0, 0.0)),
    ("MWh", "energy", linear(1e6, 1.0, 0.0)),
    ("J", "energy", linear(1.0, 3_600.0, 0.0)),
    ("varh", "reactive energy", linear(1.0, 1.0, 0.0)),
    ("kvarh", "reactive energy", linear(1e3, 1.0, 0.0)),
    ("V", "voltage", linear(1.0, 1.0, 0.0)),
    ("mV", "voltage", linear(1.0, 1e3, 0.0)),
    ("kV", "voltage", linear(1e3, 1.0, 0.0)),
    ("A", "current", linear(1.0, 1.0, 0.0)),
    ("mA", "current", linear(1.0, 1e3, 0.0)),
    ("Hz", "frequency", linear(1.0, 1.0, 0.0)),
    ("mHz", "frequency", linear(1.0, 1e3, 0.0)),
    ("s", "time", linear(1.0, 1.0, 0.0)),
    ("cs", "time", linear(1.0, 100.0, 0.0)),
    ("ms", "time", linear(1.0, 1e3, 0.0)),
    ("min", "time", linear(60.0, 1.0, 0.0)),
    ("h", "time", linear(3_600.0, 1.0, 0.0)),
    ("d", "time", linear(86_400.0, 1.0, 0.0)),
    ("kPa", "pressure", linear(1.0, 1.0, 0.0)),
    ("Pa", "pressure", linear(1.0, 1e3, 0.0)),
    ("mbar", "pressure", linear(1.0, 10.0, 0.0)),
    ("bar", "pressure", linear(100.0, 1.0, 0.0)),
    ("psi", "pressure", linear(6.894_757_29, 1.0, 0.0)),
    ("m3/h", "flow", linear(1.0, 1.0, 0.0)),
    ("l/min", "flow", linear(6.0, 100.0, 0.0)),
    ("l/s", "flow", linear(36.0, 10.0, 0.0)),
    ("l/h", "flow", linear(1.0, 1e3, 0.0)),
    ("m3/s", "flow", linear(3_600.0, 1.0, 0.0)),
    ("cfm", "flow", linear(1.699_010_795_5, 1.0, 0.0)),
    ("gal/min", "flow", linear(0.227_124_707, 1.0, 0.0)),
    ("l", "volume", linear(1.0, 1.0, 0.0)),
    ("gal", "volume", linear(3.785_411_784, 1.0, 0.0)),
    ("%", "share", linear(1.0, 1.0, 0.0)),
    ("1", "share", linear(100.0, 1.0, 0.0)),
    ("/min", "speed", linear(1.0, 1.0, 0.0)),
    ("By", "data", linear(1.0, 1.0, 0.0)),
    ("KiBy", "data", linear(1_024.0, 1.0, 0.0)),
    ("MiBy", "data", linear(1_048_576.0, 1.0, 0.0)),
];

const fn linear(times: f64, by: f64, plus: f64) -> Linear {
    Linear { times, by, plus }
}

/// Names of all units, for "did you mean".
pub fn units() -> impl Iterator<Item = &'static str> {
    UNITS.iter().map(|(unit, _, _)| *unit)
}

/// The way from one unit to another, where both measure the same.
#[must_use]
pub fn conversion(from: &str, to: &str) -> Option<Linear> {
    let find = |unit: &str| UNITS.iter().find(|(known, _, _)| *known == unit);
    if from == to && find(from).is_some() {
        return Some(Linear::IDENTITY);
    }
    let ((_, from_what, a), (_, to_what, b)) = (find(from)?, find(to)?);
    (from_what == to_what).then(|| Linear {
        times: a.times * b.by,
        by: a.by * b.times,
        plus: (a.plus - b.plus) * b.by / b.times,
    })
}

/// How a sibling tells a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FactorForm {
    /// Multiply with it.
    Times,
    /// Divide by it.
    Over,
    /// Multiply with 10 to its power (SunSpec).
    Exponent,
    /// So many decimal digits: divide by 10 to its power.
    Decimals,
    /// Positive: multiply; negative: divide by what follows the sign; 0: neither.
    Signed,
    /// `EntitySensorDataScale` of RFC 3433: 8 is milli, 9 is 1, 10 is kilo.
    Si,
}

impl FactorForm {
    fn linear(self, told: f64) -> Option<Linear> {
        let power = |exponent: f64| {
            let whole = exponent.fract() == 0.0 && exponent.abs() <= MAX_EXPONENT;
            let ten = 10_f64.powi(whole.then_some(exponent.abs() as i32)?);
            Some(if exponent < 0.0 { linear(1.0, ten, 0.0) } else { linear(ten, 1.0, 0.0) })
        };
        match self {
            FactorForm::Times => Some(linear(told, 1.0, 0.0)),
            FactorForm::Over => (told != 0.0).then_some(linear(1.0, told, 0.0)),
            FactorForm::Exponent => power(told),
            FactorForm::Decimals => power(-told),
            FactorForm::Signed if told < 0.0 => Some(linear(1.0, -told, 0.0)),
            FactorForm::Signed if told > 0.0 => Some(linear(told, 1.0, 0.0)),
            FactorForm::Signed => Some(Linear::IDENTITY),
            FactorForm::Si => power(3.0 * (told - 9.0)),
        }
    }
}

/// What siblings do to a decoded value. `R` says where a sibling stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjust<R> {
    pub factor: Option<(R, FactorForm)>,
    /// What the sibling says, and the way from that unit to the point's.
    pub units: Option<(R, BTreeMap<String, Linear>)>,
    /// A text such as `Off(2),Standby(3)` that names the numbers, or the name of this one.
    pub words: Option<R>,
    /// Checked here, where the decoder cannot know the final number.
    pub range: Option<(f64, f64)>,
}

impl<R> Default for Adjust<R> {
    fn default() -> Adjust<R> {
        Adjust { factor: None, units: None, words: None, range: None }
    }
}

impl<R> Adjust<R> {
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.factor.is_none() && self.units.is_none() && self.words.is_none()
    }

    /// Where all siblings stand.
    pub fn siblings(&self) -> impl Iterator<Item = &R> {
        let factor = self.factor.as_ref().map(|(at, _)| at);
        let units = self.units.as_ref().map(|(at, _)| at);
        [factor, units, self.words.as_ref()].into_iter().flatten()
    }

    /// The same with siblings that stand elsewhere.
    pub fn map<S>(&self, mut place: impl FnMut(&R) -> S) -> Adjust<S> {
        Adjust {
            factor: self.factor.as_ref().map(|(at, form)| (place(at), *form)),
            units: self.units.as_ref().map(|(at, units)| (place(at), units.clone())),
            words: self.words.as_ref().map(&mut place),
            range: self.range,
        }
    }

    /// # Errors
    /// Why there is no value: the sibling's reason, or what it says is not understood.
    pub fn apply(&self, value: Value, sibling: impl Fn(&R) -> Result<Value, BadReason>) -> Result<Value, BadReason> {
        let Value::Num(mut number) = value else { return Ok(value) };
        if let Some(at) = &self.words {
            let text = sibling(at)?;
            let word = text.as_text().and_then(|text| numbered_word(text, number));
            return word.and_then(|word| Value::text(&word)).ok_or(BadReason::Decode);
        }
        if let Some((at, form)) = &self.factor {
            let told = sibling(at)?.as_num().ok_or(BadReason::Decode)?;
            number = form.linear(told).ok_or(BadReason::Decode)?.apply(number);
        }
        if let Some((at, units)) = &self.units {
            let told = sibling(at)?.to_string();
            number = units.get(&told).or_else(|| units.get("*")).ok_or(BadReason::Decode)?.apply(number);
        }
        if self.range.is_some_and(|(low, high)| !(low..=high).contains(&number)) {
            return Err(BadReason::Range);
        }
        Value::num(number).ok_or(BadReason::Range)
    }
}

/// The word of a number in `Off(2),Standby(3)`, or the text itself where it is no such list; in lower case with `-` for
/// everything but letters and digits.
fn numbered_word(list: &str, number: f64) -> Option<String> {
    let wanted = format!("({number})");
    let word = if list.contains('(') {
        let entry = list.split(',').map(str::trim).find(|entry| entry.ends_with(&wanted))?;
        entry.get(..entry.len() - wanted.len())?.trim()
    } else {
        list
    };
    let mut slug = String::with_capacity(word.len());
    for c in word.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| slug.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(value: f64, from: &str, to: &str) -> Option<f64> {
        conversion(from, to).map(|linear| (linear.apply(value) * 1e6).round() / 1e6)
    }

    #[test]
    fn units_convert_where_they_measure_the_same() {
        assert_eq!(convert(32.0, "degF", "Cel"), Some(0.0));
        assert_eq!(convert(-40.0, "degF", "Cel"), Some(-40.0));
        assert_eq!(convert(100.0, "Cel", "degF"), Some(212.0));
        assert_eq!(convert(1.0, "bar", "kPa"), Some(100.0));
        assert_eq!(convert(1.0, "m3/h", "l/min"), Some(16.666_667));
        assert_eq!(convert(100.0, "cs", "s"), Some(1.0));
        assert_eq!(convert(3.6e6, "J", "Wh"), Some(1_000.0));
        assert_eq!(convert(1.0, "A", "V"), None);
        assert_eq!(convert(1.0, "furlong", "furlong"), None);
        for (unit, _, _) in UNITS {
            assert_eq!(conversion(unit, unit), Some(Linear::IDENTITY), "{unit}");
        }
    }

    #[test]
    fn devices_tell_scales_in_many_forms() {
        use FactorForm as F;
        for (form, told, want) in [
            (F::Times, 4_096.0, Some(5.0 * 4_096.0)),
            (F::Over, 10.0, Some(0.5)),
            (F::Over, 0.0, None),
            (F::Exponent, -2.0, Some(0.05)),
            (F::Exponent, 3.0, Some(5_000.0)),
            (F::Exponent, -32_768.0, None),
            (F::Decimals, 3.0, Some(0.005)),
            (F::Decimals, 0.5, None),
            (F::Signed, -10.0, Some(0.5)),
            (F::Signed, 10.0, Some(50.0)),
            (F::Signed, 0.0, Some(5.0)),
            (F::Si, 8.0, Some(0.005)),
            (F::Si, 9.0, Some(5.0)),
        ] {
            let adjust = Adjust { factor: Some(((), form)), ..Adjust::default() };
            let got = adjust.apply(Value::Num(5.0), |()| Ok(Value::Num(told)));
            assert_eq!(got, want.map(Value::Num).ok_or(BadReason::Decode), "{form:?} {told}");
        }
    }

    #[test]
    fn a_unit_that_the_device_tells_is_followed_and_an_unknown_one_is_no_value() {
        let units =
            BTreeMap::from([("1".to_owned(), Linear::IDENTITY), ("2".to_owned(), conversion("degF", "Cel").unwrap())]);
        let adjust = Adjust { units: Some(((), units)), range: Some((0.0, 60.0)), ..Adjust::default() };
        let read = |value: f64, told: f64| adjust.apply(Value::Num(value), |()| Ok(Value::Num(told)));
        assert_eq!(read(25.0, 1.0), Ok(Value::Num(25.0)));
        assert_eq!(read(77.0, 2.0).map(|v| v.as_num().unwrap().round()), Ok(25.0));
        assert_eq!(read(77.0, 1.0), Err(BadReason::Range));
        assert_eq!(read(77.0, 3.0), Err(BadReason::Decode));
        assert_eq!(adjust.apply(Value::Num(1.0), |()| Err(BadReason::Timeout)), Err(BadReason::Timeout));
    }

    #[test]
    fn words_come_from_a_list_of_the_device() {
        let adjust = Adjust { words: Some(()), ..Adjust::default() };
        let list = "Off(2), Standby(3),In Use(13)";
        let read = |n: f64| adjust.apply(Value::Num(n), |()| Ok(Value::Text(list.to_owned())));
        assert_eq!(read(3.0), Ok(Value::Text("standby".to_owned())));
        assert_eq!(read(13.0), Ok(Value::Text("in-use".to_owned())));
        assert_eq!(read(1.0), Err(BadReason::Decode));
        let name = adjust.apply(Value::Num(6.0), |()| Ok(Value::Text("Startup Delay".to_owned())));
        assert_eq!(name, Ok(Value::Text("startup-delay".to_owned())));
    }
}
