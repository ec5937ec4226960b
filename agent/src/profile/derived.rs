//! Derived points: formulas over points above them and over rows of tables.

use std::collections::BTreeMap;

use crate::derive::{Condition, Formula, Input, Test};
use crate::document::{Section, nearest};

use super::Derived;
use super::read::Reader;

const FORMULAS: [&str; 7] = ["sum", "max", "min", "share", "flags", "cases", "join"];

impl Reader {
    pub(super) fn derived(&mut self, mut section: Section<'_, '_>) {
        let name: Option<String> = section.required("name", "\"ups.status\"");
        let inherited = name.as_deref().filter(|name| self.inherited.contains(*name));
        // One that takes another's place may read only what stood before that.
        let place = inherited.and_then(|name| self.names.get(name)).copied().filter(|at| *at >= self.points.len());
        let next = self.points.len() + self.derived.len();
        let formula = self.formula(&mut section, place.unwrap_or(next));
        let named = name.and_then(|name| self.name(&section, &name, true));
        if inherited_point(&self.names, named.as_ref().map(|(name, _)| name.as_str()), self.points.len()) {
            section.fault("name", "a derived point cannot take the place of a measured one", None);
        }
        section.finish();
        let (Some((name, unit)), Some(formula)) = (named, formula) else { return };
        let derived = Derived { name, unit, formula };
        if let Some(known) = place.and_then(|at| self.derived.get_mut(at - self.points.len())) {
            self.inherited.remove(derived.name.as_str());
            *known = derived;
        } else {
            self.names.insert(derived.name.as_str().to_owned(), next);
            self.derived.push(derived);
        }
    }

    fn input(&mut self, section: &Section<'_, '_>, key: &str, name: &str, before: usize) -> Option<Input> {
        if let Some(index) = self.names.get(name).copied().filter(|index| *index < before) {
            return Some(Input::Point(index));
        }
        let patterns = || self.tables.iter().flat_map(|table| &table.points).map(|point| point.pattern.as_str());
        if patterns().any(|pattern| pattern == name) {
            let known = self.row_inputs.iter().position(|pattern| pattern == name);
            return Some(Input::Rows(known.unwrap_or_else(|| {
                self.row_inputs.push(name.to_owned());
                self.row_inputs.len() - 1
            })));
        }
        let known: Vec<&str> = self.names.keys().map(String::as_str).chain(patterns()).collect();
        let help = nearest(name, &known).map(|near| format!("did you mean `{near}`?"));
        section.fault(key, format!("`{name}` is no point above this one"), help);
        None
    }

    fn inputs(&mut self, section: &mut Section<'_, '_>, key: &'static str, before: usize) -> Option<Vec<Input>> {
        let names: Vec<String> = section.optional(key)?;
        names.iter().map(|name| self.input(section, key, name, before)).collect()
    }

    fn formula(&mut self, section: &mut Section<'_, '_>, before: usize) -> Option<Formula> {
        section.knows(&FORMULAS);
        section.knows(&["all", "otherwise"]);
        let given: Vec<&str> = FORMULAS.into_iter().filter(|key| section.has(key)).collect();
        match given.as_slice() {
            ["sum"] => {
                let terms: BTreeMap<String, f64> = section.optional("sum")?;
                let all = section.optional("all").unwrap_or(false);
                let terms: Option<Vec<_>> = terms
                    .into_iter()
                    .map(|(name, factor)| Some((self.input(section, "sum", &name, before)?, factor)))
                    .collect();
                Some(Formula::Sum { terms: terms?, all })
            }
            ["max"] => self.inputs(section, "max", before).map(Formula::Max),
            ["min"] => self.inputs(section, "min", before).map(Formula::Min),
            ["join"] => self.inputs(section, "join", before).map(Formula::Join),
            ["share"] => {
                let [part, whole]: [String; 2] = section.optional("share")?;
                let part = self.input(section, "share", &part, before)?;
                Some(Formula::Share { part, whole: self.input(section, "share", &whole, before)? })
            }
            ["flags"] => self.conditions(section, "flags", "flag", before).map(Formula::Flags),
            ["cases"] => {
                let otherwise = section.optional("otherwise");
                let cases = self.conditions(section, "cases", "value", before)?;
                Some(Formula::Cases { cases, otherwise })
            }
            _ => {
                section.fault("", format!("a derived point has exactly one of {}", FORMULAS.join(", ")), None);
                None
            }
        }
    }

    fn conditions(
        &mut self,
        section: &mut Section<'_, '_>,
        key: &'static str,
        word_key: &'static str,
        before: usize,
    ) -> Option<Vec<(String, Condition)>> {
        let mut conditions = Vec::new();
        let mut whole = true;
        for mut entry in section.sections(key) {
            let word: Option<String> = entry.required(word_key, "\"OL\"");
            let point: Option<String> = entry.required("point", "\"output.source\"");
            let is: Option<Vec<String>> = entry.optional("is");
            let above: Option<f64> = entry.optional("above");
            let below: Option<f64> = entry.optional("below");
            let test = match (is, above, below) {
                (Some(words), None, None) => Some(Test::Is(words)),
                (None, Some(limit), None) => Some(Test::Above(limit)),
                (None, None, Some(limit)) => Some(Test::Below(limit)),
                _ => {
                    entry.fault("", "a condition has exactly one of is, above, below", None);
                    None
                }
            };
            let input = point.and_then(|point| self.input(&entry, "point", &point, before));
            entry.finish();
            match (word, input, test) {
                (Some(word), Some(input), Some(test)) => conditions.push((word, Condition { input, test })),
                _ => whole = false,
            }
        }
        whole.then_some(conditions)
    }
}

fn inherited_point(names: &BTreeMap<String, usize>, name: Option<&str>, points: usize) -> bool {
    name.and_then(|name| names.get(name)).is_some_and(|index| *index < points)
}
