//! Values and states as operators read them.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use bcp_core::status::ServiceStatus;
use bcp_wire::Value;
use serde::Serialize;

/// The English text, or any.
pub fn english(texts: &BTreeMap<String, String>) -> Option<String> {
    texts.get("en").or_else(|| texts.values().next()).cloned()
}

/// The name that serde gives a unit variant.
pub fn word_of(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

pub const fn status_word(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Up => "working",
        ServiceStatus::Degraded => "disturbed",
        ServiceStatus::Down => "not working",
        ServiceStatus::Planned => "planned work",
        ServiceStatus::Unknown => "unknown",
    }
}

/// At most three digits after the point; a console shows values, the API shows all digits.
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Num(number) if number.abs() >= 1e12 => format!("{number:e}"),
        Value::Num(number) => {
            let text = format!("{number:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// `7 s`, `12 min 05 s`, `3 h 10 min`, `2 d 4 h`: the script counts on in the same form.
#[must_use]
pub fn age(ms: impl Borrow<u64>) -> String {
    let s = ms.borrow() / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// Units as people write them.
#[must_use]
pub fn unit(code: &str) -> &str {
    match code {
        "Cel" => "°C",
        "By" => "B",
        "1" => "",
        other => other,
    }
}

/// `one`, or `several`, with its count.
pub fn count(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}
