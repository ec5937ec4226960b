//! TOML with places: reads sections key by key, gathers every fault, and says where it is and how to mend it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use toml_edit::{Document, Item, TableLike};

use super::value::Parsed;

/// Largest configuration file, in bytes: it is written by people.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A spot in a configuration file; line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One thing wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: Place,
    /// Full key, as `ticket.prescriptions.mode`; empty where the file as a whole is at fault.
    pub key: String,
    pub problem: String,
    pub help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { String::new() } else { format!(" {}:", self.key) };
        write!(f, "{}:{key} {}", self.at, self.problem)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "\n    help: {}", self.help) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{}", list_faults(.0))]
    Faults(Vec<Fault>),
}

fn list_faults(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    format!("{}\n{} fault(s) in the configuration", lines.join("\n"), faults.len())
}

/// The text of one file and the faults found so far, over all files.
pub(super) struct Source {
    file: PathBuf,
    text: String,
    faults: Rc<RefCell<Vec<Fault>>>,
}

pub(super) type Faults = Rc<RefCell<Vec<Fault>>>;

impl Source {
    pub fn open(file: &Path, faults: &Faults) -> Result<Source, ConfigError> {
        let fault = |cause| ConfigError::Read { path: file.to_owned(), cause };
        let size = std::fs::metadata(file).map_err(fault)?.len();
        if size > MAX_FILE_BYTES {
            return Err(fault(std::io::Error::other(format!("{size} bytes; the limit is {MAX_FILE_BYTES}"))));
        }
        let text = std::fs::read_to_string(file).map_err(fault)?;
        Ok(Source { file: file.to_owned(), text, faults: Rc::clone(faults) })
    }

    /// The parsed document; a syntax error is a fault and gives none.
    pub fn document(&self) -> Option<Document<String>> {
        const HELP: &str = "the file is TOML: https://toml.io";
        // toml_edit 0.23 panics over some broken documents while it collects their faults; toml does not.
        if let Err(error) = toml::de::DeTable::parse(&self.text) {
            self.fault(error.span(), "", error.message().to_owned(), HELP);
            return None;
        }
        match Document::parse(self.text.clone()) {
            Ok(document) => Some(document),
            Err(error) => {
                self.fault(error.span(), "", error.message().to_owned(), HELP);
                None
            }
        }
    }

    pub fn root<'a>(&'a self, document: &'a Document<String>) -> Section<'a> {
        Section::new(self, document.as_table(), String::new(), 0..0)
    }

    /// Relative paths count from the directory of this file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    pub fn place(&self, span: Option<Range<usize>>) -> Place {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { file: self.file.clone(), line, column }
    }

    /// A fault at the deepest part of `path` that is there.
    pub fn fault_at(&self, document: &Document<String>, path: &[String], problem: String) {
        let mut span = None;
        let mut table: Option<&dyn TableLike> = Some(document.as_table());
        for key in path {
            let Some((found, item)) = table.and_then(|table| table.get_key_value(key)) else { break };
            span = item.span().or_else(|| found.span()).or(span);
            table = item.as_table_like();
        }
        self.fault(span, &path.join("."), problem, "");
    }

    pub fn fault(&self, span: Option<Range<usize>>, key: &str, problem: String, help: &str) {
        let fault = Fault { at: self.place(span), key: key.to_owned(), problem, help: help.to_owned() };
        self.faults.borrow_mut().push(fault);
    }
}

/// One table; remembers which keys were asked for, so that the others can be called unknown.
pub(super) struct Section<'a> {
    pub source: &'a Source,
    table: &'a dyn TableLike,
    pub path: String,
    pub span: Range<usize>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn new(source: &'a Source, table: &'a dyn TableLike, path: String, span: Range<usize>) -> Self {
        Section { source, table, path, span, asked: Vec::new() }
    }

    pub fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.get(key).and_then(Item::span).or_else(|| self.table.key(key).and_then(toml_edit::Key::span))
    }

    pub fn fault(&self, key: &str, problem: String, help: &str) {
        let span = self.span_of(key).unwrap_or(self.span.clone());
        self.source.fault(Some(span), &self.key_path(key), problem, help);
    }

    /// Value of `key`; absent or wrong: none, and wrong is a fault.
    pub fn optional<T>(&mut self, key: &'static str, help: &str, parse: impl Fn(&Item) -> Parsed<T>) -> Option<T> {
        self.asked.push(key);
        match parse(self.table.get(key)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fault(key, problem, help);
                None
            }
        }
    }

    /// Value of `key`; absent is a fault too.
    pub fn required<T>(&mut self, key: &'static str, help: &str, parse: impl Fn(&Item) -> Parsed<T>) -> Option<T> {
        if self.table.get(key).is_none() {
            self.asked.push(key);
            self.fault(key, "missing".to_owned(), help);
            return None;
        }
        self.optional(key, help, parse)
    }

    /// The table under `key`.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.asked.push(key);
        self.child(key)
    }

    pub fn required_section(&mut self, key: &'static str, help: &str) -> Option<Section<'a>> {
        if self.table.get(key).is_none() {
            self.fault(key, "section missing".to_owned(), help);
        }
        self.section(key)
    }

    fn child(&self, key: &str) -> Option<Section<'a>> {
        let item = self.table.get(key)?;
        let Some(table) = item.as_table_like() else {
            self.fault(key, format!("a table is needed, this is a {}", item.type_name()), "");
            return None;
        };
        let span = self.span_of(key).unwrap_or(self.span.clone());
        Some(Section::new(self.source, table, self.key_path(key), span))
    }

    /// The tables under `key`, each with its name.
    pub fn named<K: FromStr<Err: fmt::Display>>(&mut self, key: &'static str, help: &str) -> Vec<(K, Section<'a>)> {
        let Some(parent) = self.section(key) else { return Vec::new() };
        let mut found = Vec::new();
        for (name, _) in parent.table.iter() {
            match name.parse() {
                Ok(name_value) => found.extend(parent.child(name).map(|section| (name_value, section))),
                Err(error) => parent.fault(name, format!("{error}"), help),
            }
        }
        found
    }

    /// Faults for every key nobody asked for.
    pub fn close(self) {
        for (key, _) in self.table.iter() {
            if !self.asked.contains(&key) {
                let near = self.asked.iter().min_by_key(|asked| distance(asked, key));
                let help = match near {
                    Some(near) if distance(near, key) <= 3 => format!("did you mean `{near}`?"),
                    _ => format!("known here: {}", self.asked.join(", ")),
                };
                self.fault(key, "unknown key".to_owned(), &help);
            }
        }
    }

    /// Everything below as JSON, with the place of each key.
    pub fn raw(&self) -> (serde_json::Map<String, serde_json::Value>, BTreeMap<String, Place>) {
        let mut places = BTreeMap::new();
        let table = raw_table(self.source, self.table, "", &mut places);
        (table, places)
    }
}

fn raw_table(
    source: &Source,
    table: &dyn TableLike,
    prefix: &str,
    places: &mut BTreeMap<String, Place>,
) -> serde_json::Map<String, serde_json::Value> {
    let mut map = serde_json::Map::new();
    for (key, item) in table.iter() {
        let path = format!("{prefix}{key}");
        places
            .insert(path.clone(), source.place(item.span().or_else(|| table.key(key).and_then(toml_edit::Key::span))));
        let value = match item.as_table_like() {
            Some(inner) => raw_table(source, inner, &format!("{path}."), places).into(),
            None => raw_value(item.as_value()),
        };
        map.insert(key.to_owned(), value);
    }
    map
}

fn raw_value(value: Option<&toml_edit::Value>) -> serde_json::Value {
    use toml_edit::Value;
    match value {
        None => serde_json::Value::Null,
        Some(Value::String(text)) => text.value().as_str().into(),
        Some(Value::Integer(number)) => (*number.value()).into(),
        Some(Value::Float(number)) => (*number.value()).into(),
        Some(Value::Boolean(flag)) => (*flag.value()).into(),
        Some(Value::Datetime(time)) => time.value().to_string().into(),
        Some(Value::Array(array)) => array.iter().map(|value| raw_value(Some(value))).collect(),
        Some(Value::InlineTable(table)) => {
            table.iter().map(|(key, value)| (key.to_owned(), raw_value(Some(value)))).collect()
        }
    }
}

/// Letters to change to get from one word to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in to.iter().enumerate() {
            let cost = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("ticket", "ticket"), 0);
        assert_eq!(distance("prefered", "preferred"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
