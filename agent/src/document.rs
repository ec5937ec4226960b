//! A TOML document every fault of which has a place.
//!
//! Knows: where each value stands, which keys a section has been asked for, and how to say what is wrong with file,
//! line, column, key and a suggestion. Refuses to know: what the keys mean. A fault never ends the reading: the
//! reader goes on, so that one run shows all of them.

mod place;
mod section;

use std::cell::RefCell;
use std::fmt;

use toml::de::DeTable;

use place::{place, place_of, walk};
pub use section::Section;

/// Most faults one run prints; beyond it the file is not a configuration.
const MAX_FAULTS: usize = 200;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    /// From 1; 0 where the file as a whole is meant.
    pub line: usize,
    pub column: usize,
    pub key: String,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let key = if self.key.is_empty() { String::new() } else { format!(" {}", self.key) };
        if self.line == 0 {
            write!(f, "  at {}{key}", self.file)?;
        } else {
            write!(f, "  at {}:{}:{}{key}", self.file, self.line, self.column)?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// What the owner of a section finds wrong with one of its keys; the way to the key is counted from the section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFault {
    pub key: String,
    pub message: String,
    pub help: Option<String>,
}

impl<K: Into<String>> From<(K, String)> for KeyFault {
    fn from((key, message): (K, String)) -> KeyFault {
        KeyFault { key: key.into(), message, help: None }
    }
}

/// Everything wrong with a configuration, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A file being read; collects faults.
#[derive(Debug)]
pub struct Document<'d> {
    file: String,
    text: &'d str,
    faults: RefCell<Vec<(usize, Fault)>>,
}

impl<'d> Document<'d> {
    #[must_use]
    pub fn new(file: &str, text: &'d str) -> Document<'d> {
        Document { file: file.to_owned(), text, faults: RefCell::default() }
    }

    /// The outermost section. Syntax errors are collected; what could be read despite them is there.
    pub fn root(&self) -> Section<'_, 'd> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.push(at, "", error.message().to_owned(), None);
        }
        let whole = 0..self.text.len().min(1);
        Section::new(self, String::new(), whole, root.into_inner())
    }

    /// Says that something is wrong with a key that was read as part of a whole section. `path` is the way to it from
    /// the outermost table, as `gate.ticket[1].script`; of a key that is not written, its table's place is told.
    pub fn fault_at(&self, path: &str, message: impl Into<String>, help: Option<String>) {
        if self.is_full() {
            return;
        }
        let (root, _) = DeTable::parse_recoverable(self.text);
        let at = place_of(root.get_ref(), path).unwrap_or(0);
        self.push(at, path, message.into(), help);
    }

    /// What the deserializer of a whole section found: the key it means, and the word it may have meant.
    fn fault_within(&self, section: &str, at: usize, message: &str) {
        if self.is_full() {
            return;
        }
        let (root, _) = DeTable::parse_recoverable(self.text);
        let mut key = section.to_owned();
        let mut width = usize::MAX;
        walk(root.get_ref(), "", &mut |path, name, value| {
            let below = path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            for span in [name, value] {
                if below && span.contains(&at) && span.len() < width {
                    (key, width) = (path.to_owned(), span.len());
                }
            }
        });
        let mut words = message.split('`').skip(1).step_by(2);
        let given = words.next().unwrap_or_default();
        if message.starts_with("missing field") {
            key = format!("{key}.{given}");
        }
        let known: Vec<&str> = words.collect();
        let help = nearest(given, &known).map(|near| format!("did you mean `{near}`?"));
        self.push(at, &key, message.to_owned(), help);
    }

    /// To find a place costs a look at the whole text, so it is not looked for in vain.
    fn is_full(&self) -> bool {
        self.faults.borrow().len() >= MAX_FAULTS
    }

    fn push(&self, at: usize, key: &str, message: String, help: Option<String>) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < MAX_FAULTS {
            let (line, column) = place(self.text, at);
            faults.push((at, Fault { file: self.file.clone(), line, column, key: key.to_owned(), message, help }));
        }
    }

    /// All faults in the order of their places.
    #[must_use]
    pub fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|(at, _)| *at);
        faults.into_iter().map(|(_, fault)| fault).collect()
    }
}

/// The known word closest to a misspelt one, if any is close.
#[must_use]
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word: String = word.chars().take(64).collect();
    known
        .iter()
        .map(|k| (bcp_wire::names::distance(k, &word), *k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(word.len()) / 3 + 1)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn every_fault_has_its_place() {
        let text = "site = 5\nsiet = 'a'\n[[device]]\nid = 'x'\n[[device]]\nid = 7\nunknown = 1\n";
        let document = Document::new("f.toml", text);
        let mut root = document.root();
        assert_eq!(root.optional::<String>("site"), None);
        for mut device in root.sections("device") {
            let _: Option<String> = device.optional("id");
            let _: Option<String> = device.required("kind", "\"ups\"");
            device.finish();
        }
        root.finish();
        let faults: Vec<_> =
            document.into_faults().into_iter().map(|f| (f.line, f.column, f.key, f.help.is_some())).collect();
        assert_eq!(
            faults,
            vec![
                (1, 8, "site".to_owned(), false),
                (2, 1, "siet".to_owned(), true),
                (3, 1, "device[0].kind".to_owned(), true),
                (5, 1, "device[1].kind".to_owned(), true),
                (6, 6, "device[1].id".to_owned(), false),
                (7, 1, "device[1].unknown".to_owned(), true),
            ]
        );
    }

    #[test]
    fn faults_of_a_section_read_as_a_whole_stand_at_their_own_keys() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)] // only read
        struct Part {
            broker: String,
            #[serde(default)]
            inner: Option<Inner>,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Inner {
            file: String,
            mode: String,
        }
        let fault = |text: &str| {
            let document = Document::new("f.toml", text);
            let mut root = document.root();
            let _: Option<Part> = root.optional("part");
            root.finish();
            let mut faults = document.into_faults();
            assert_eq!(faults.len(), 1, "{faults:?}");
            let fault = faults.remove(0);
            (fault.line, fault.column, fault.key, fault.help.unwrap_or_default())
        };
        let near = |word: &str| format!("did you mean `{word}`?");
        assert_eq!(fault("x\n[part]\n").0, 1);
        assert_eq!(fault("[part]\nbroker = 5\n"), (2, 10, "part.broker".to_owned(), String::new()));
        assert_eq!(fault("[part]\nbrokr = 'x'\n"), (2, 1, "part.brokr".to_owned(), near("broker")));
        assert_eq!(fault("\n[part]\n"), (2, 1, "part.broker".to_owned(), String::new()));
        let text = "[part]\nbroker = 'x'\ninner = { file = 'f',\n mod = 'x' }\n";
        assert_eq!(fault(text), (4, 2, "part.inner.mod".to_owned(), near("mode")));

        let document = Document::new("f.toml", "a = 1\n[part]\nb = 2\n[[part.list]]\n[[part.list]]\nc = 3\n");
        for path in ["part.b", "part.list[1].c", "part.missing", "nothing"] {
            document.fault_at(path, "", None);
        }
        let places: Vec<_> = document.into_faults().into_iter().map(|f| (f.line, f.key)).collect();
        let want = [(1, "nothing"), (2, "part.missing"), (3, "part.b"), (6, "part.list[1].c")];
        assert_eq!(places, want.map(|(line, key)| (line, key.to_owned())));
    }

    #[test]
    fn syntax_errors_do_not_hide_the_rest() {
        let document = Document::new("f.toml", "a = \nb = 1\nc = = 2\n");
        document.root().finish();
        assert!(document.into_faults().len() >= 3);
    }
}
