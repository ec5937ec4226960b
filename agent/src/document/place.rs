//! Where keys and values stand in a text.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Where the value of `path` stands, or the innermost table on the way to it.
pub fn place_of(table: &DeTable<'_>, path: &str) -> Option<usize> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, index) = first.strip_suffix(']').and_then(|part| part.split_once('[')).unwrap_or((first, ""));
    let value = table.get(name)?;
    let mut at = value.span().start;
    let inner = match (value.get_ref(), index.parse::<usize>()) {
        (DeValue::Array(array), Ok(index)) => {
            let element = array.get(index)?;
            at = element.span().start;
            element.get_ref()
        }
        (whole, _) => whole,
    };
    match inner {
        DeValue::Table(table) if !rest.is_empty() => place_of(table, rest).or(Some(at)),
        _ => Some(at),
    }
}

/// Shows every key of a table and of the tables in it: path, place of the name, place of the value.
pub fn walk(table: &DeTable<'_>, above: &str, show: &mut impl FnMut(&str, Range<usize>, Range<usize>)) {
    for (name, value) in table {
        let path = if above.is_empty() { name.get_ref().to_string() } else { format!("{above}.{}", name.get_ref()) };
        show(&path, name.span(), value.span());
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, &path, show),
            DeValue::Array(array) => {
                for (i, element) in array.iter().enumerate() {
                    if let DeValue::Table(inner) = element.get_ref() {
                        walk(inner, &format!("{path}[{i}]"), show);
                    }
                }
            }
            _ => {}
        }
    }
}

pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}
