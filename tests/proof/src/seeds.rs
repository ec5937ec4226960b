//! Ranges of seeds as people write them: `FROM..TO`, the last one not included.

use std::ops::Range;

/// The range a text names, where it names one.
#[must_use]
pub fn parse(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from < to).then_some(from..to)
}

/// The range of an environment variable, or the usual one.
///
/// # Panics
/// The variable is set and names no range: a test that ran something else would mislead.
#[must_use]
pub fn from_env(variable: &str, usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var(variable) else { return usual };
    parse(&text).unwrap_or_else(|| panic!("{variable} is FROM..TO, not {text}"))
}
