//! All files of one publication.
//!
//! Every file exists twice: as it is true until `valid_until`, and under `expired/` as it is true after it (every state
//! unknown, procedures and telephone numbers still there). Both are signed, so a mirror that lost its sources needs no
//! renderer to stay honest.

use std::collections::BTreeMap;

use askama::Template;

use super::lang::Lang;
use super::model::{Freshness, PublicModel};
use super::page::{
    AccessibilityPage, ApiPage, HistoryPage, IncidentPage, Overview, Page, PlannedPage, ProcedurePage, ProceduresPage,
    ServicePage, WorkPage,
};
use super::{calendar, feed, json};

pub const HTML: &str = "text/html; charset=utf-8";
pub const JSON: &str = "application/json";
pub const ATOM: &str = "application/atom+xml; charset=utf-8";
pub const ICAL: &str = "text/calendar; charset=utf-8";
/// Folder of the files that hold once the publication has expired.
pub const EXPIRED: &str = "expired/";

/// Content by path, as `nl/service/prescriptions/index.html`.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Media type of a path of the tree; `None` for what does not belong into one.
#[must_use]
pub fn media_type(path: &str) -> Option<&'static str> {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => Some(HTML),
        Some("json") => Some(JSON),
        Some("xml") => Some(ATOM),
        Some("ics") => Some(ICAL),
        _ => None,
    }
}

/// Renders everything. Pure: the same model gives the same bytes on every collector.
///
/// # Errors
/// A template that cannot be written, which only a full memory would cause.
pub fn render(model: &PublicModel) -> Result<Tree, askama::Error> {
    let mut tree = Tree::new();
    for freshness in [Freshness::Current, Freshness::Expired] {
        let prefix = match freshness {
            Freshness::Current => "",
            Freshness::Expired => EXPIRED,
        };
        for lang in Lang::ALL {
            for (path, html) in pages(model, freshness, lang)? {
                tree.insert(format!("{prefix}{lang}/{path}index.html"), html.into_bytes());
            }
            tree.insert(format!("{prefix}{lang}/atom.xml"), feed::atom(model, freshness, lang, "").into_bytes());
            tree.insert(format!("{prefix}{lang}/feed.json"), feed::json(model, freshness, lang));
            tree.insert(format!("{prefix}{lang}/planned.ics"), calendar::ical(model, freshness, lang).into_bytes());
        }
        tree.insert(format!("{prefix}atom.xml"), feed::atom(model, freshness, Lang::En, "en/").into_bytes());
        for (path, body) in json::files(model, freshness) {
            tree.insert(format!("{prefix}{path}"), body);
        }
    }
    Ok(tree)
}

/// The HTML pages of one language, by the folder they are the index of.
fn pages(model: &PublicModel, freshness: Freshness, lang: Lang) -> Result<Vec<(String, String)>, askama::Error> {
    let page = |path: &str| Page::new(model, freshness, lang, path);
    let mut found = vec![
        (String::new(), Overview { page: page("") }.render()?),
        ("accessibility/".to_owned(), AccessibilityPage { page: page("accessibility/") }.render()?),
        ("api/".to_owned(), ApiPage { page: page("api/") }.render()?),
        ("planned/".to_owned(), PlannedPage { page: page("planned/") }.render()?),
        ("history/".to_owned(), HistoryPage { page: page("history/") }.render()?),
        ("procedure/".to_owned(), ProceduresPage { page: page("procedure/") }.render()?),
    ];
    for service in &model.services {
        let path = format!("service/{}/", service.id);
        let html = ServicePage { page: page(&path), service }.render()?;
        found.push((path, html));
        let path = format!("procedure/{}/", service.id);
        let html = ProcedurePage { page: page(&path), service }.render()?;
        found.push((path, html));
    }
    for incident in &model.incidents {
        let path = format!("incident/{}/", incident.id);
        let html = IncidentPage { page: page(&path), incident }.render()?;
        found.push((path, html));
    }
    for work in &model.works {
        let path = format!("planned/{}/", work.id);
        let html = WorkPage { page: page(&path), work }.render()?;
        found.push((path, html));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;
    use std::io::Write;

    fn text(tree: &Tree, path: &str) -> String {
        String::from_utf8(tree.get(path).unwrap_or_else(|| panic!("no {path}")).clone()).unwrap()
    }

    #[test]
    fn the_overview_fits_one_small_answer_in_every_language() {
        let tree = render(&sample(12)).unwrap();
        for lang in Lang::ALL {
            let html = &tree[&format!("{lang}/index.html")];
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            gzip.write_all(html).unwrap();
            let size = gzip.finish().unwrap().len();
            assert!(size <= 14 * 1024, "{lang}: {size} bytes");
        }
    }

    #[test]
    fn an_expired_file_is_never_green() {
        let tree = render(&sample(3)).unwrap();
        for (path, body) in tree.iter().filter(|(path, _)| path.starts_with(EXPIRED)) {
            let body = String::from_utf8(body.clone()).unwrap();
            assert!(!body.contains("class=\"st up\""), "{path}");
            assert!(!body.contains("\"operational\""), "{path}");
            assert!(!body.contains("\"status\":\"up\""), "{path}");
        }
        let page = text(&tree, "expired/nl/index.html");
        assert!(page.contains("Toestand onbekend sinds"));
        assert!(page.contains("02 123"), "telephone numbers stay");
    }

    #[test]
    fn a_procedure_that_is_being_ended_is_told_after_its_incident() {
        let mut model = sample(2);
        assert!(!text(&render(&model).unwrap(), "en/index.html").contains("class=\"bcp standing-down\""));
        model.incidents.clear();
        model.services[1].procedure.state = super::super::model::ProcedurePhase::StandingDown;
        let tree = render(&model).unwrap();
        assert!(text(&tree, "en/index.html").contains("class=\"bcp standing-down\""));
        assert!(!text(&tree, "expired/en/index.html").contains("class=\"bcp standing-down\""));
    }

    #[test]
    fn every_artefact_carries_the_sequence() {
        let tree = render(&sample(2)).unwrap();
        assert!(tree.values().all(|body| String::from_utf8_lossy(body).contains("48213")));
    }

    #[test]
    fn every_path_has_a_media_type_and_no_way_out() {
        let tree = render(&sample(2)).unwrap();
        assert!(tree.keys().all(|path| media_type(path).is_some() && !path.contains("..")));
    }

    #[test]
    fn hostile_texts_stay_texts() {
        let mut model = sample(1);
        model.services[0].title.texts.insert("en".to_owned(), "<script>alert(1)</script>".to_owned());
        let tree = render(&model).unwrap();
        for (path, body) in tree.iter().filter(|(path, _)| path.ends_with(".html") || path.ends_with(".xml")) {
            assert!(!String::from_utf8_lossy(body).contains("<script>alert"), "{path}");
        }
    }
}
