//! Sentences around times, as markup: the catalogue's text is escaped, the time element is not.

use bcp_core::time::Wall;

use super::Page;
use crate::web::public::when::{self, Moment};

/// Stands for a time element in a message until the message has been escaped. A character no catalogue contains.
pub(super) const HOLE: &str = "\u{e000}";

impl Page<'_> {
    /// A message around a time, as markup: the catalogue's text is escaped, the time element is not.
    #[must_use]
    pub fn time(&self, key: &str, at: impl std::borrow::Borrow<Wall>) -> String {
        let element = time_element(&when::moment(*at.borrow(), self.model.as_of, self.lang));
        escape(&self.t.with(key, "time", HOLE)).replacen(HOLE, &element, 1)
    }

    #[must_use]
    pub fn full_time(&self, at: &Wall) -> String {
        time_element(&when::full(*at, self.lang))
    }

    #[must_use]
    pub fn as_of_sentence(&self) -> String {
        let as_of = time_element(&when::full(self.model.as_of, self.lang));
        let until = time_element(&when::moment(self.model.valid_until, self.model.as_of, self.lang));
        escape(&self.t.with2("as-of", ("time", HOLE), ("until", HOLE)))
            .replacen(HOLE, &as_of, 1)
            .replacen(HOLE, &until, 1)
    }

    #[must_use]
    pub fn agreeing_sentence(&self) -> Option<String> {
        let (count, total) = self.model.agreeing?;
        Some(self.t.with2("agreeing", ("count", count), ("total", total)))
    }

    #[must_use]
    pub fn last_change(&self) -> Option<String> {
        self.model.last_change.map(|at| self.time("last-change", at))
    }
}

pub(super) fn time_element(moment: &Moment) -> String {
    format!("<time datetime=\"{iso}\" title=\"{iso}\">{text}</time>", iso = moment.iso, text = escape(&moment.text))
}

#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}
