//! Messages as feeds: Atom (RFC 4287) and JSON Feed 1.1, one entry per incident and per planned work.
//!
//! Links are relative to the feed, so that it holds in any folder of any file host.

use bcp_core::time::Wall;
use serde_json::{Value, json};

use super::lang::{Lang, Texts};
use super::model::{Freshness, PublicIncident, PublicModel, PublicWork};
use super::page::escape;
use super::when::utc;

/// What both feeds say of one message.
struct Entry {
    id: String,
    /// Below the language.
    path: String,
    title: String,
    published: Wall,
    updated: Wall,
    text: String,
    /// `incident` or `planned`.
    category: &'static str,
}

/// Newest change first.
fn entries(model: &PublicModel, lang: Lang) -> Vec<Entry> {
    let texts = Texts::of(lang);
    let incidents = model.incidents.iter().map(|found| incident(found, lang, texts));
    let mut all: Vec<Entry> = incidents.chain(model.works.iter().map(|found| work(found, lang, texts))).collect();
    all.sort_by_key(|entry| std::cmp::Reverse((entry.updated.0, entry.id.clone())));
    all
}

fn incident(incident: &PublicIncident, lang: Lang, texts: Texts) -> Entry {
    let said = incident.updates.iter().map(|update| {
        let phase = texts.get(&format!("phase-{}", update.phase.as_str()));
        format!("{} ({phase}): {}\n", utc(update.changed()), update.text.plain(lang))
    });
    Entry {
        id: format!("urn:bcp-fleet:incident:{}", incident.id),
        path: format!("incident/{}/", incident.id),
        title: incident.title.plain(lang).to_owned(),
        published: incident.opened,
        updated: incident.updates.first().map_or(incident.opened, super::model::PublicUpdate::changed),
        text: said.collect(),
        category: "incident",
    }
}

fn work(work: &PublicWork, lang: Lang, texts: Texts) -> Entry {
    let times = texts.with2("work-times", ("from", utc(work.starts)), ("to", utc(work.ends)));
    let said = work.updates.iter().map(|update| format!("{}: {}\n", utc(update.at), update.text.plain(lang)));
    Entry {
        id: format!("urn:bcp-fleet:work:{}", work.id),
        path: format!("planned/{}/", work.id),
        title: format!("{}: {}", texts.get("planned"), work.title.plain(lang)),
        published: work.announced(),
        updated: work.updated(),
        text: std::iter::once(format!("{times}\n")).chain(said).collect(),
        category: "planned",
    }
}

/// The Atom feed in one language; `home` leads from the feed to the pages of that language.
#[must_use]
pub fn atom(model: &PublicModel, freshness: Freshness, lang: Lang, home: &str) -> String {
    let texts = Texts::of(lang);
    let home_link = if home.is_empty() { "./" } else { home };
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\" \
         xmlns:bcp=\"urn:bcp-fleet:status\" xml:lang=\"{lang}\"><id>urn:bcp-fleet:status:{lang}</id><title>{}</title>\
         <updated>{}</updated><author><name>{}</name></author><link rel=\"alternate\" type=\"text/html\" href=\"{home_link}\"/>\
         <link rel=\"self\" type=\"application/atom+xml\" href=\"atom.xml\"/><bcp:sequence>{}</bcp:sequence>\
         <bcp:valid-until>{}</bcp:valid-until><bcp:expired>{}</bcp:expired>",
        escape(&texts.get("feed-title")),
        utc(model.as_of),
        escape(&texts.get("site-title")),
        model.sequence,
        utc(model.valid_until),
        freshness == Freshness::Expired,
    );
    for entry in entries(model, lang) {
        out.push_str(&format!(
            "<entry><id>{}</id><title>{}</title><published>{}</published><updated>{}</updated><category term=\"{}\"/>\
             <link rel=\"alternate\" type=\"text/html\" href=\"{}\"/><content type=\"text\">{}</content></entry>",
            escape(&entry.id),
            escape(&printable(&entry.title)),
            utc(entry.published),
            utc(entry.updated),
            entry.category,
            escape(&format!("{home}{}", entry.path)),
            escape(&printable(&entry.text)),
        ));
    }
    out.push_str("</feed>\n");
    out
}

/// Without what XML 1.0 cannot hold in any form.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The JSON feed in one language, which lies beside its pages.
#[must_use]
pub fn json(model: &PublicModel, freshness: Freshness, lang: Lang) -> Vec<u8> {
    let texts = Texts::of(lang);
    let item = |entry: Entry| {
        json!({
            "id": entry.id,
            "url": entry.path,
            "title": entry.title,
            "content_text": entry.text,
            "date_published": utc(entry.published),
            "date_modified": utc(entry.updated),
            "language": lang.as_str(),
            "tags": [entry.category],
        })
    };
    let items: Vec<Value> = entries(model, lang).into_iter().map(item).collect();
    let feed = json!({
        "version": "https://jsonfeed.org/version/1.1",
        "title": texts.get("feed-title"),
        "home_page_url": "./",
        "feed_url": "feed.json",
        "language": lang.as_str(),
        "authors": [{ "name": texts.get("site-title") }],
        "items": items,
        "_bcp": {
            "sequence": model.sequence,
            "as_of": utc(model.as_of),
            "valid_until": utc(model.valid_until),
            "expired": freshness == Freshness::Expired,
        },
    });
    let mut body = feed.to_string().into_bytes();
    body.push(b'\n');
    body
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn both_feeds_have_every_message_newest_first() {
        let model = sample(3);
        let feed: Value = serde_json::from_slice(&json(&model, Freshness::Current, Lang::Fr)).unwrap();
        let items = feed["items"].as_array().unwrap();
        assert_eq!(items.len(), model.incidents.len() + model.works.len());
        let changed: Vec<&str> = items.iter().map(|item| item["date_modified"].as_str().unwrap()).collect();
        assert!(changed.is_sorted_by(|one, next| one >= next), "{changed:?}");
        let xml = atom(&model, Freshness::Current, Lang::Fr, "");
        assert_eq!(xml.matches("<entry>").count(), items.len());
        assert!(items.iter().all(|item| xml.contains(&format!("<id>{}</id>", item["id"].as_str().unwrap()))));
    }

    #[test]
    fn words_that_replaced_others_are_an_update() {
        let model = sample(1);
        let update = &model.incidents[0].updates[0];
        assert!(update.replaced.is_some_and(|replaced| replaced.0 > update.at.0));
        assert!(
            atom(&model, Freshness::Current, Lang::En, "").contains(&format!("<updated>{}<", utc(update.changed())))
        );
    }

    #[test]
    fn no_text_breaks_the_xml() {
        let mut model = sample(1);
        model.incidents[0].title.texts.insert("en".to_owned(), "a\u{0}\u{b}]]><b>&\u{1f}".to_owned());
        assert!(atom(&model, Freshness::Current, Lang::En, "").contains("<title>a]]&gt;&lt;b&gt;&amp;</title>"));
    }
}
