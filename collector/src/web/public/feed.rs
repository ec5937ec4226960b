//! Messages as an Atom feed (RFC 4287), one entry per incident.

use super::lang::{Lang, Texts};
use super::model::{Freshness, PublicIncident, PublicModel};
use super::page::escape;
use super::when::utc;

/// The feed in one language.
#[must_use]
pub fn atom(model: &PublicModel, freshness: Freshness, lang: Lang) -> String {
    let texts = Texts::of(lang);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\" \
         xmlns:bcp=\"urn:bcp-fleet:status\" xml:lang=\"{lang}\"><id>urn:bcp-fleet:status:{lang}</id><title>{}</title>\
         <updated>{}</updated><author><name>{}</name></author><link rel=\"alternate\" href=\"/{lang}/\"/>\
         <link rel=\"self\" href=\"/{lang}/atom.xml\"/><bcp:sequence>{}</bcp:sequence>\
         <bcp:valid-until>{}</bcp:valid-until><bcp:expired>{}</bcp:expired>",
        escape(&texts.get("feed-title")),
        utc(model.as_of),
        escape(&texts.get("site-title")),
        model.sequence,
        utc(model.valid_until),
        freshness == Freshness::Expired,
    );
    for incident in &model.incidents {
        out.push_str(&entry(incident, lang, texts));
    }
    out.push_str("</feed>\n");
    out
}

fn entry(incident: &PublicIncident, lang: Lang, texts: Texts) -> String {
    let updated = incident.updates.first().map_or(incident.opened, |update| update.at);
    let mut content = String::new();
    for update in &incident.updates {
        let phase = texts.get(&format!("phase-{}", update.phase.as_str()));
        content.push_str(&format!("{} ({phase}): {}\n", utc(update.at), update.text.plain(lang)));
    }
    format!(
        "<entry><id>urn:bcp-fleet:incident:{id}</id><title>{}</title><published>{}</published><updated>{}</updated>\
         <link rel=\"alternate\" href=\"/{lang}/incident/{id}/\"/><content type=\"text\">{}</content></entry>",
        escape(incident.title.plain(lang)),
        utc(incident.opened),
        utc(updated),
        escape(&content),
        id = escape(&incident.id),
    )
}
