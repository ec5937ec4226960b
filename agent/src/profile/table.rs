//! Tables of SNMP: which rows there are, what they are called, and which points each has.

use std::sync::Arc;

use serde::Deserialize;

use crate::adjust::{Adjust, FactorForm};
use crate::decode::Decoder;
use crate::document::Section;
use crate::oid::Oid;

use super::point::{RawAdjust, RawPlace, complete};
use super::read::{Reader, oid_of};
use super::{Protocol, row_id};

/// Most rows of one table, and the default.
const MAX_ROWS: usize = 512;
const DEFAULT_ROWS: usize = 64;

/// Points that a device has one of per row.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Column that is walked to find the rows.
    pub walk: Oid,
    /// Column whose text names the row; may be the walked one.
    pub label: Option<Oid>,
    /// What the numbers of an index mean; empty: each is a number.
    pub index: Vec<IndexPart>,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Point whose change makes the tables be looked at again.
    pub again_when: Option<usize>,
    pub max_rows: usize,
    pub points: Vec<TablePoint>,
}

/// A part of an index, as the INDEX clause of a table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexPart {
    Number,
    /// A text with its length before it.
    Text,
    /// A text to the end of the index.
    Rest,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TablePoint {
    /// With `{id}`, `{n}`, `{1}` or `{1+1}` for the row, or none where `conditions` say which row is meant.
    pub pattern: String,
    pub column: Oid,
    pub conditions: Vec<Condition>,
    pub adjust: Adjust<Sibling>,
    pub decoder: Arc<Decoder>,
    pub optional: bool,
    pub publish: bool,
}

/// Where a sibling of a row's value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sibling {
    /// The same row of another column.
    Column(Oid),
    /// One for all rows.
    Scalar(Oid),
}

/// What a row must be like.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// `None`: the row's label, or the walked value.
    pub subject: Option<Subject>,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Column(Oid),
    /// Part of the index, from 1.
    Index(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    Is(Vec<String>),
    Not(Vec<String>),
    Starts(Vec<String>),
    Ends(Vec<String>),
}

impl Test {
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Test::Is(words) => words.iter().any(|word| word == text),
            Test::Not(words) => words.iter().all(|word| word != text),
            Test::Starts(words) => words.iter().any(|word| text.starts_with(word.as_str())),
            Test::Ends(words) => words.iter().any(|word| text.ends_with(word.as_str())),
        }
    }
}

/// One part of a row's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Component {
    Number(u32),
    Text(String),
}

impl Component {
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Component::Number(number) => number.to_string(),
            Component::Text(text) => text.clone(),
        }
    }
}

impl Table {
    /// The parts of an index; parts beyond what the table says are numbers.
    #[must_use]
    pub fn components(&self, index: &[u32]) -> Vec<Component> {
        let text = |arcs: &[u32]| {
            let bytes: Vec<u8> = arcs.iter().map(|arc| u8::try_from(*arc).unwrap_or(b'?')).collect();
            Component::Text(String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut rest = index;
        let mut parts = Vec::new();
        let mut kinds = self.index.iter().copied();
        while let [first, after @ ..] = rest {
            match kinds.next().unwrap_or(IndexPart::Number) {
                IndexPart::Number => {
                    parts.push(Component::Number(*first));
                    rest = after;
                }
                IndexPart::Text => {
                    let length = usize::try_from(*first).unwrap_or(usize::MAX).min(after.len());
                    parts.push(text(&after[..length]));
                    rest = &after[length..];
                }
                IndexPart::Rest => {
                    parts.push(text(rest));
                    rest = &[];
                }
            }
        }
        parts
    }
}

/// A name pattern with a row's places filled in: `{id}` its label, `{n}` the last number of its index, `{2}` the second
/// part, `{2+1}` that and one. `None` where the index has no such part.
#[must_use]
pub fn fill(pattern: &str, id: &str, parts: &[Component]) -> Option<String> {
    let mut name = String::with_capacity(pattern.len() + id.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let (place, after) = after.split_once('}')?;
        name.push_str(before);
        rest = after;
        match place {
            "id" => name.push_str(id),
            "n" => name.push_str(&parts.last()?.text()),
            _ => {
                let (part, more) = place.split_once('+').unwrap_or((place, "0"));
                let part = parts.get(part.parse::<usize>().ok()?.checked_sub(1)?)?;
                match (part, more.parse::<u32>().ok()?) {
                    (Component::Number(number), more) => name.push_str(&number.checked_add(more)?.to_string()),
                    (Component::Text(text), 0) => name.push_str(&row_id(text, &mut std::collections::BTreeSet::new())),
                    (Component::Text(_), _) => return None,
                }
            }
        }
    }
    name.push_str(rest);
    Some(name)
}

/// A pattern as it could look, to check it: `None` where a place is misspelt.
fn sample(pattern: &str) -> Option<String> {
    let parts = [Component::Number(1), Component::Number(1), Component::Number(1), Component::Number(1)];
    fill(pattern, "x", &parts)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Number(i64),
    Text(String),
    Many(Vec<Words>),
}

impl Words {
    fn texts(self) -> Vec<String> {
        match self {
            Words::Number(number) => vec![number.to_string()],
            Words::Text(text) => vec![text],
            Words::Many(many) => many.into_iter().flat_map(Words::texts).collect(),
        }
    }
}

impl Reader {
    pub(super) fn table(&self, mut section: Section<'_, '_>) -> Option<Table> {
        if !matches!(self.protocol, Some(Protocol::Snmp { .. })) {
            section.fault("", "tables are for SNMP", None);
        }
        let label: Option<String> = section.optional("label");
        let label = label.filter(|label| label != "index").and_then(|text| oid_of(&section, "label", &text));
        let walk: Option<String> = section.optional("walk");
        let walk = match walk {
            Some(text) => oid_of(&section, "walk", &text),
            None if label.is_some() => label.clone(),
            None => {
                section.fault(
                    "",
                    "a table has a `walk`, a `label` or both: columns of which it has one value per row",
                    None,
                );
                None
            }
        };
        let index: Vec<IndexPart> = section.optional("index").unwrap_or_default();
        let conditions = conditions(&mut section);
        let again_when: Option<String> = section.optional("again_when");
        let again_when = again_when.and_then(|name| {
            let found = self.names.get(&name).copied().filter(|index| *index < self.points.len());
            if found.is_none() {
                section.fault("again_when", format!("`{name}` is no point of this profile"), None);
            }
            found
        });
        let max_rows = section.optional("max_rows").unwrap_or(DEFAULT_ROWS);
        if !(1..=MAX_ROWS).contains(&max_rows) {
            section.fault("max_rows", format!("must be between 1 and {MAX_ROWS}"), None);
        }
        let mut points = Vec::new();
        for mut point in section.sections("point") {
            points.extend(self.table_point(&mut point, label.is_some()));
            point.finish();
        }
        section.finish();
        Some(Table { walk: walk?, label, index, conditions, again_when, max_rows, points })
    }

    fn table_point(&self, point: &mut Section<'_, '_>, labelled: bool) -> Option<TablePoint> {
        let pattern: Option<String> = point.required("name", "\"host.fs.{id}.size\"");
        let column: Option<String> = point.required("column", "\"a column's OID\"");
        let times: Option<String> = point.optional("times");
        let decoding = self.decoding(point);
        let siblings = RawAdjust::read(point);
        let conditions = conditions(point);
        let optional = point.optional("optional").unwrap_or(false);
        let publish = point.optional("publish").unwrap_or(true);
        let column = column.and_then(|text| oid_of(point, "column", &text));
        let times = times.and_then(|text| oid_of(point, "times", &text));
        let pattern = pattern?;
        let Some(sample) = sample(&pattern) else {
            point.fault("name", "places in a name are {id}, {n}, {1}, {2+1} ...", None);
            return None;
        };
        if pattern.contains("{id}") && !labelled {
            point.fault("name", "`{id}` is the row's label: the table needs a `label`", None);
        }
        if !pattern.contains('{') && conditions.is_empty() {
            point.fault("name", "the name needs a place for the row, as {id} or {n}, or the point a `where`", None);
        }
        let (_, unit) = self.name_of(point, &sample, publish)?;
        let mut decoder = decoding.in_unit(point, unit);
        let mut adjust = complete(siblings.units_of(point, unit).map(|place| row_sibling(point, place)))?;
        if let Some(times) = times {
            if adjust.factor.is_some() {
                point.fault("times", "`times` and `factor` are the same thing", None);
            }
            adjust.factor = Some((Sibling::Column(times), FactorForm::Times));
        }
        if !adjust.is_idle() {
            adjust.range = decoder.range.take();
        }
        let decoder = Arc::new(decoder);
        Some(TablePoint { pattern, column: column?, conditions, adjust, decoder, optional, publish })
    }
}

fn row_sibling(section: &Section<'_, '_>, place: &RawPlace) -> Option<Sibling> {
    match (&place.column, &place.read) {
        (Some(column), _) => oid_of(section, place.key, column).map(Sibling::Column),
        (None, Some(read)) => oid_of(section, place.key, read).map(Sibling::Scalar),
        (None, None) => {
            section.fault(place.key, "a row's sibling is a `column` or, for all rows, a `read`", None);
            None
        }
    }
}

fn conditions(section: &mut Section<'_, '_>) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for mut entry in section.one_or_more("where") {
        let column: Option<String> = entry.optional("column");
        let index: Option<usize> = entry.optional("index");
        let mut words = |key| entry.optional::<Words>(key).map(Words::texts);
        let tests = [
            words("is").map(Test::Is),
            words("not").map(Test::Not),
            words("starts").map(Test::Starts),
            words("ends").map(Test::Ends),
        ];
        let mut given: Vec<Test> = tests.into_iter().flatten().collect();
        let subject = match (column, index) {
            (Some(column), None) => oid_of(&entry, "column", &column).map(|column| Some(Subject::Column(column))),
            (None, Some(index)) if index > 0 => Some(Some(Subject::Index(index))),
            (None, None) => Some(None),
            _ => {
                entry.fault(
                    "",
                    "a condition is on a `column`, on a part of the `index` (from 1), or on the label",
                    None,
                );
                None
            }
        };
        if given.len() != 1 {
            entry.fault("", "a condition has exactly one of is, not, starts, ends", None);
        }
        entry.finish();
        if let (Some(subject), Some(test)) = (subject, given.pop()) {
            conditions.push(Condition { subject, test });
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(index: Vec<IndexPart>) -> Table {
        let walk = "1.3.6.1".parse().unwrap();
        Table { walk, label: None, index, conditions: Vec::new(), again_when: None, max_rows: 1, points: Vec::new() }
    }

    #[test]
    fn names_are_filled_from_label_and_index() {
        let parts = table(vec![]).components(&[2, 0, 7]);
        for (pattern, want) in [
            ("host.fs.{id}.size", Some("host.fs.x.size")),
            ("outlet.{n}.current", Some("outlet.7.current")),
            ("device.{1}.outlet.{2+1}.current", Some("device.2.outlet.1.current")),
            ("outlet.{4}.current", None),
            ("outlet.{x}.current", None),
            ("outlet.{1.current", None),
            ("supply.air.temperature", Some("supply.air.temperature")),
        ] {
            assert_eq!(fill(pattern, "x", &parts).as_deref(), want, "{pattern}");
        }
    }

    #[test]
    fn texts_in_an_index_become_words() {
        let numbers_and_text = table(vec![IndexPart::Number, IndexPart::Text, IndexPart::Number]);
        let parts = numbers_and_text.components(&[3, 2, 65, 66, 9]);
        assert_eq!(parts, [Component::Number(3), Component::Text("AB".to_owned()), Component::Number(9)]);
        assert_eq!(fill("device.{2}.outlet.{1}.current", "", &parts).as_deref(), Some("device.ab.outlet.3.current"));
        let rest = table(vec![IndexPart::Rest]).components(&[77, 97]);
        assert_eq!(rest, [Component::Text("Ma".to_owned())]);
        // A length beyond the end takes what is there.
        assert_eq!(numbers_and_text.components(&[3, 9, 65]).len(), 2);
    }

    #[test]
    fn conditions_compare_texts() {
        let words = || vec!["a.b".to_owned(), "5".to_owned()];
        assert!(Test::Is(words()).holds("5") && !Test::Is(words()).holds("55"));
        assert!(Test::Not(words()).holds("55") && !Test::Not(words()).holds("5"));
        assert!(Test::Starts(words()).holds("a.bc") && Test::Ends(words()).holds("x5"));
    }
}
