//! The four languages of the public page and their texts.
//!
//! Knows the message catalogues under `dashboards/status/locales`. Refuses to know what a message is for. Invariant: a key
//! that is missing in one language is missing in none (a test compares the catalogues), so a page is never half translated.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use fluent_bundle::concurrent::FluentBundle;
use fluent_bundle::{FluentArgs, FluentResource, FluentValue};

/// A language of the public page, in the order in which the page offers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lang {
    Nl,
    Fr,
    De,
    En,
}

impl Lang {
    pub const ALL: [Lang; 4] = [Lang::Nl, Lang::Fr, Lang::De, Lang::En];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Lang::Nl => "nl",
            Lang::Fr => "fr",
            Lang::De => "de",
            Lang::En => "en",
        }
    }

    /// The language's own name, for its link.
    #[must_use]
    pub const fn own_name(self) -> &'static str {
        match self {
            Lang::Nl => "Nederlands",
            Lang::Fr => "Français",
            Lang::De => "Deutsch",
            Lang::En => "English",
        }
    }

    #[must_use]
    pub fn from_code(code: &str) -> Option<Lang> {
        Lang::ALL.into_iter().find(|lang| lang.as_str() == code)
    }

    /// Best language of an `Accept-Language` header (RFC 9110, 12.5.4); English where none fits.
    #[must_use]
    pub fn negotiate(header: &str) -> Lang {
        let mut best = (0_u32, Lang::En);
        for part in header.split(',').take(MAX_RANGES) {
            let mut fields = part.split(';');
            let range = fields.next().unwrap_or_default().trim().to_ascii_lowercase();
            let primary = range.split('-').next().unwrap_or_default();
            let quality = fields.find_map(|field| field.trim().strip_prefix("q=")).map_or(1000, thousandths);
            if let Some(lang) = Lang::from_code(primary)
                && quality > best.0
            {
                best = (quality, lang);
            }
        }
        best.1
    }
}

/// More language ranges than any browser sends.
const MAX_RANGES: usize = 32;

/// `0.7` as 700; what is no quality value counts as 0.
fn thousandths(text: &str) -> u32 {
    text.trim()
        .parse::<f32>()
        .ok()
        .filter(|quality| (0.0..=1.0).contains(quality))
        .map_or(0, |quality| (quality * 1000.0) as u32)
}

impl fmt::Display for Lang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One text in several languages, as the policy and the incidents carry it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Localised {
    pub texts: BTreeMap<String, String>,
    /// The language to show where one is missing.
    pub fallback: Option<Lang>,
}

/// A text to show, and the language it is really in where that is not the page's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a> {
    pub text: &'a str,
    /// The text is a fallback in this language: labelled on the page and marked up with `lang`.
    pub fallback: Option<Lang>,
}

impl Localised {
    /// The text in `lang`, or else in the first language that has it.
    #[must_use]
    pub fn show(&self, lang: Lang) -> Option<Shown<'_>> {
        let in_lang = |lang: Lang| self.texts.get(lang.as_str()).map(String::as_str).filter(|text| !text.is_empty());
        if let Some(text) = in_lang(lang) {
            return Some(Shown { text, fallback: None });
        }
        self.fallback
            .into_iter()
            .chain([Lang::En, Lang::Nl, Lang::Fr, Lang::De])
            .find_map(|other| in_lang(other).map(|text| Shown { text, fallback: Some(other) }))
    }

    /// Only the words, for places that cannot label a fallback (titles, feeds).
    #[must_use]
    pub fn plain(&self, lang: Lang) -> &str {
        self.show(lang).map_or("", |shown| shown.text)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.values().all(String::is_empty)
    }
}

impl From<&BTreeMap<String, String>> for Localised {
    fn from(texts: &BTreeMap<String, String>) -> Self {
        Localised { texts: texts.clone(), fallback: None }
    }
}

impl Localised {
    /// A message of the catalogues in every language, as automatic texts are.
    #[must_use]
    pub fn from_message(key: &str, service: &Localised) -> Localised {
        let text = |lang: Lang| Texts::of(lang).with(key, "service", service.plain(lang));
        let texts = Lang::ALL.into_iter().map(|lang| (lang.as_str().to_owned(), text(lang))).collect();
        Localised { texts, fallback: None }
    }
}

/// Texts of one language.
#[derive(Clone, Copy, Debug)]
pub struct Texts {
    lang: Lang,
}

impl Texts {
    #[must_use]
    pub const fn of(lang: Lang) -> Texts {
        Texts { lang }
    }

    #[must_use]
    pub fn get(&self, key: &str) -> String {
        self.format(key, &FluentArgs::new())
    }

    /// A message with one variable.
    #[must_use]
    pub fn with<'a>(&self, key: &str, name: &'a str, value: impl Into<FluentValue<'a>>) -> String {
        let mut args = FluentArgs::new();
        args.set(name, value);
        self.format(key, &args)
    }

    /// A message with two variables.
    #[must_use]
    pub fn with2<'a>(
        &self,
        key: &str,
        first: (&'a str, impl Into<FluentValue<'a>>),
        second: (&'a str, impl Into<FluentValue<'a>>),
    ) -> String {
        let mut args = FluentArgs::new();
        args.set(first.0, first.1);
        args.set(second.0, second.1);
        self.format(key, &args)
    }

    /// A key without a message shows as itself: ugly, and never a lie.
    fn format(&self, key: &str, args: &FluentArgs<'_>) -> String {
        let bundle = &catalogues()[self.lang as usize];
        let Some(pattern) = bundle.get_message(key).and_then(|message| message.value()) else {
            return key.to_owned();
        };
        bundle.format_pattern(pattern, Some(args), &mut Vec::new()).into_owned()
    }

    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        catalogues()[self.lang as usize].has_message(key)
    }
}

const SOURCES: [&str; 4] = [
    include_str!("../../../../dashboards/status/locales/nl.ftl"),
    include_str!("../../../../dashboards/status/locales/fr.ftl"),
    include_str!("../../../../dashboards/status/locales/de.ftl"),
    include_str!("../../../../dashboards/status/locales/en.ftl"),
];

fn catalogues() -> &'static [FluentBundle<FluentResource>; 4] {
    static CATALOGUES: OnceLock<[FluentBundle<FluentResource>; 4]> = OnceLock::new();
    CATALOGUES.get_or_init(|| Lang::ALL.map(catalogue))
}

fn catalogue(lang: Lang) -> FluentBundle<FluentResource> {
    // What cannot be parsed is left out by both calls; the test of the catalogues finds it.
    let resource = FluentResource::try_new(SOURCES[lang as usize].to_owned()).unwrap_or_else(|(partial, _)| partial);
    let mut bundle = FluentBundle::new_concurrent(vec![lang.as_str().parse().unwrap_or_default()]);
    bundle.set_use_isolating(false);
    if bundle.add_resource(resource).is_err() {
        tracing::error!(%lang, "a message is defined twice in the catalogue");
    }
    bundle
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn variables(source: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut key = String::new();
        for line in source.lines().filter(|line| !line.starts_with('#')) {
            if !line.starts_with(' ')
                && let Some((name, _)) = line.split_once(" =")
            {
                key = name.to_owned();
                found.entry(key.clone()).or_default();
            }
            for piece in line.split('$').skip(1) {
                let name: String = piece.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
                found.entry(key.clone()).or_default().insert(name);
            }
        }
        found
    }

    #[test]
    fn catalogues_parse_and_have_the_same_keys_and_variables() {
        let english = variables(SOURCES[3]);
        for lang in Lang::ALL {
            let source = SOURCES[lang as usize];
            assert!(FluentResource::try_new(source.to_owned()).is_ok(), "{lang} does not parse");
            assert_eq!(variables(source), english, "{lang} differs from English");
            assert!(english.keys().all(|key| Texts::of(lang).has(key)));
        }
    }

    #[test]
    fn every_automatic_message_of_the_core_is_translated() {
        for template in bcp_core::status::incident::Template::ALL {
            assert!(Lang::ALL.into_iter().all(|lang| Texts::of(lang).has(template.as_str())), "{}", template.as_str());
        }
        for template in bcp_core::status::intervention::WorkTemplate::ALL {
            assert!(Lang::ALL.into_iter().all(|lang| Texts::of(lang).has(template.as_str())), "{}", template.as_str());
        }
    }

    #[test]
    fn plural_forms_are_chosen() {
        let texts = Texts::of(Lang::Nl);
        assert_ne!(texts.with("days-not-up", "count", 1), texts.with("days-not-up", "count", 2));
    }

    #[test]
    fn negotiation_takes_the_best_known_language() {
        assert_eq!(Lang::negotiate("fr-BE,fr;q=0.9,nl;q=0.8"), Lang::Fr);
        assert_eq!(Lang::negotiate("es, de;q=0.2, nl;q=0.7"), Lang::Nl);
        assert_eq!(Lang::negotiate("nl;q=0"), Lang::En);
        assert_eq!(Lang::negotiate("*, q=nonsense;;;"), Lang::En);
        assert_eq!(Lang::negotiate(""), Lang::En);
    }

    #[test]
    fn a_missing_language_falls_back_with_a_label() {
        let texts = BTreeMap::from([("fr".to_owned(), "Bonjour".to_owned())]);
        let text = Localised { texts, fallback: None };
        assert_eq!(text.show(Lang::Fr), Some(Shown { text: "Bonjour", fallback: None }));
        assert_eq!(text.show(Lang::De), Some(Shown { text: "Bonjour", fallback: Some(Lang::Fr) }));
        assert_eq!(Localised::default().show(Lang::En), None);
    }
}
