//! Single values of a configuration: text to what it means, or what is wrong with it. PURE.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bcp_wire::{Id, Site};
use toml_edit::Item;

/// What a parser says against a value.
pub(super) type Parsed<T> = Result<T, String>;

pub(super) fn text(item: &Item) -> Parsed<String> {
    item.as_str().map(str::to_owned).ok_or_else(|| format!("text in quotes is needed, this is a {}", item.type_name()))
}

pub(super) fn word<T: FromStr<Err: fmt::Display>>(item: &Item) -> Parsed<T> {
    text(item)?.parse().map_err(|error| format!("{error}"))
}

pub(super) fn flag(item: &Item) -> Parsed<bool> {
    item.as_bool().ok_or_else(|| "true or false is needed".to_owned())
}

pub(super) fn count(item: &Item) -> Parsed<u64> {
    item.as_integer()
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| "a whole number of 0 or more is needed".to_owned())
}

pub(super) fn list<T>(parse: impl Fn(&Item) -> Parsed<T>) -> impl Fn(&Item) -> Parsed<Vec<T>> {
    move |item| {
        let array = item.as_array().ok_or_else(|| "a list in [ ] is needed".to_owned())?;
        array.iter().map(|value| parse(&Item::Value(value.clone()))).collect()
    }
}

pub(super) fn map<K: FromStr<Err: fmt::Display> + Ord, T>(
    parse: impl Fn(&Item) -> Parsed<T>,
) -> impl Fn(&Item) -> Parsed<BTreeMap<K, T>> {
    move |item| {
        let table = item.as_table_like().ok_or_else(|| "a table in { } is needed".to_owned())?;
        let entry = |(key, item): (&str, &Item)| {
            let name = key.parse::<K>().map_err(|error| format!("{error}"))?;
            Ok((name, parse(item).map_err(|problem| format!("`{key}`: {problem}"))?))
        };
        table.iter().map(entry).collect()
    }
}

/// `250ms`, `30s`, `5m`, `72h`, `30d`.
pub(super) fn duration(item: &Item) -> Parsed<Duration> {
    parse_duration(&text(item)?)
}

pub(super) fn duration_ms(item: &Item) -> Parsed<u64> {
    let duration = duration(item)?;
    u64::try_from(duration.as_millis()).map_err(|_| "too long".to_owned())
}

/// The text form of [`duration`].
pub(crate) fn parse_duration(text: &str) -> Parsed<Duration> {
    let problem = || format!("`{text}` is not a duration: a whole number and ms, s, m, h or d, as 30s");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(problem)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| problem())?;
    let unit_ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(problem()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(problem)
}

pub(super) fn socket(item: &Item) -> Parsed<SocketAddr> {
    let text = text(item)?;
    text.parse().map_err(|_| format!("`{text}` is not address:port"))
}

pub(super) fn host_port(item: &Item) -> Parsed<String> {
    let text = text(item)?;
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some() { Ok(text) } else { Err(format!("`{text}` is not host:port")) }
}

/// `scheme://host:port`, kept without a final slash.
pub(super) fn url(scheme: &'static str) -> impl Fn(&Item) -> Parsed<String> {
    move |item| {
        let text = text(item)?;
        let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        match rest.map(|rest| rest.trim_end_matches('/')) {
            Some(host) if !host.is_empty() && !host.contains('/') => Ok(format!("{scheme}://{host}")),
            _ => Err(format!("`{text}` is not {scheme}://host:port")),
        }
    }
}

pub(super) fn site_map<T>(parse: impl Fn(&Item) -> Parsed<T>) -> impl Fn(&Item) -> Parsed<BTreeMap<Site, T>> {
    map::<Site, T>(parse)
}

pub(super) fn ids(item: &Item) -> Parsed<Vec<Id>> {
    list(word::<Id>)(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for text in ["", "s", "1", "1.5s", "-1s", "1 week", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
