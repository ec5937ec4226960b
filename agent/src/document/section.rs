//! One table of a document: its keys are asked for one by one, and what nobody asked for is a fault.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Document, nearest};

/// One table of a document.
#[derive(Debug)]
pub struct Section<'s, 'd> {
    document: &'s Document<'d>,
    path: String,
    span: Range<usize>,
    values: BTreeMap<String, Entry<'d>>,
    asked: Vec<&'static str>,
}

#[derive(Debug)]
struct Entry<'d> {
    key: Range<usize>,
    span: Range<usize>,
    /// `None` once taken; the place stays known for later faults.
    value: Option<Spanned<DeValue<'d>>>,
}

impl<'s, 'd> Section<'s, 'd> {
    pub(super) fn new(
        document: &'s Document<'d>,
        path: String,
        span: Range<usize>,
        table: DeTable<'d>,
    ) -> Section<'s, 'd> {
        let values = table
            .into_iter()
            .map(|(key, value)| {
                let (place, span) = (key.span(), value.span());
                (key.into_inner().into_owned(), Entry { key: place, span, value: Some(value) })
            })
            .collect();
        Section { document, path, span, values, asked: Vec::new() }
    }

    fn path_of(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{key}", self.path),
        }
    }

    /// True where the key is written in the document.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The document this is a table of.
    #[must_use]
    pub fn document(&self) -> &'s Document<'d> {
        self.document
    }

    /// Says that something is wrong with a key, or with the section as a whole where the key is empty or absent.
    pub fn fault(&self, key: &str, message: impl Into<String>, help: Option<String>) {
        let at = self.values.get(key).map_or(self.span.start, |entry| entry.span.start);
        self.document.push(at, &self.path_of(key), message.into(), help);
    }

    /// Keys that this section may have, for suggestions, though only some are read.
    pub fn knows(&mut self, keys: &[&'static str]) {
        self.asked.extend(keys);
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'d>>> {
        self.asked.push(key);
        self.values.get_mut(key).and_then(|entry| entry.value.take())
    }

    /// A value that may be absent. One that cannot be read is a fault, and absent.
    pub fn optional<T: Deserialize<'d>>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        let start = value.span().start;
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Some(value),
            Err(error) => {
                let at = error.span().map_or(start, |span| span.start);
                self.document.fault_within(&self.path_of(key), at, error.message());
                None
            }
        }
    }

    /// A value that must be there; `example` is what the help proposes.
    pub fn required<T: Deserialize<'d>>(&mut self, key: &'static str, example: &str) -> Option<T> {
        if !self.has(key) {
            self.asked.push(key);
            let help = Some(format!("add `{key} = {example}`"));
            self.document.push(self.span.start, &self.path_of(key), format!("`{key}` is missing"), help);
            return None;
        }
        self.optional(key)
    }

    /// A table within this one.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'s, 'd>> {
        let value = self.take(key)?;
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Section::new(self.document, self.path_of(key), span, table)),
            other => {
                self.fault(key, format!("`{key}` is a table, not a {}", other.type_str()), None);
                None
            }
        }
    }

    /// One table, or a list of them.
    pub fn one_or_more(&mut self, key: &'static str) -> Vec<Section<'s, 'd>> {
        let one = self.values.get(key).and_then(|entry| entry.value.as_ref());
        if one.is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_))) {
            self.section(key).into_iter().collect()
        } else {
            self.sections(key)
        }
    }

    /// Tables of an array of tables.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section<'s, 'd>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Array(array) = value.into_inner() else {
            self.fault(key, format!("`{key}` is a list of tables"), Some(format!("write `[[{key}]]`")));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (i, value) in array.into_iter().enumerate() {
            let (span, path) = (value.span(), format!("{}[{i}]", self.path_of(key)));
            match value.into_inner() {
                DeValue::Table(table) => sections.push(Section::new(self.document, path, span, table)),
                other => {
                    let message = format!("`{key}` is a list of tables, not of {}s", other.type_str());
                    self.document.push(span.start, &path, message, None);
                }
            }
        }
        sections
    }

    /// Ends the reading of this section: a key that nobody asked for is a fault.
    pub fn finish(self) {
        for (key, entry) in &self.values {
            if self.asked.contains(&key.as_str()) {
                continue;
            }
            let near = nearest(key, &self.asked).map(|known| format!("did you mean `{known}`?"));
            let help = near.or_else(|| Some(format!("known keys are {}", self.asked.join(", "))));
            let message = format!("`{}` is not a known key", key.chars().take(48).collect::<String>());
            self.document.push(entry.key.start, &self.path_of(key), message, help);
        }
    }
}
