//! Planned work as a calendar: months for the page, and a file for calendar programs (RFC 5545).

use bcp_core::status::WorkPhase;
use bcp_core::time::Wall;

use super::lang::{Lang, Texts};
use super::model::{Freshness, PublicModel, PublicWork};
use super::when;

/// Longest line of the file in bytes, line end excluded (RFC 5545, 3.1).
const MAX_LINE_BYTES: usize = 75;
/// How far ahead months are looked at, the running one included: further than work can be announced.
pub const MONTHS_AHEAD: usize = 15;

/// A month as the page shows it, whole weeks from Monday.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Month {
    pub title: String,
    pub weeks: Vec<[Option<Square>; 7]>,
}

/// One day of a month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Square {
    pub number: u8,
    /// Name of the month, for screens on which no table fits.
    pub month: String,
    pub iso: String,
    pub today: bool,
    /// Id and title of what is planned for it.
    pub works: Vec<(String, String)>,
}

/// The running month, and those after it for which something is planned.
#[must_use]
pub fn months(model: &PublicModel, lang: Lang) -> Vec<Month> {
    let today = when::local_date(model.as_of);
    let mut first = when::first_of_month(today);
    let mut found: Vec<Month> = Vec::new();
    for _ in 0..MONTHS_AHEAD {
        let next = when::next_month(first);
        let month = month(model, lang, first, next, today);
        if found.is_empty() || month.weeks.iter().flatten().flatten().any(|day| !day.works.is_empty()) {
            found.push(month);
        }
        first = next;
    }
    found
}

fn month(model: &PublicModel, lang: Lang, first: time::Date, next: time::Date, today: time::Date) -> Month {
    let name = when::month_name(first, lang);
    let square = |day: time::Date| Square {
        number: day.day(),
        month: name.to_owned(),
        iso: format!("{:04}-{:02}-{:02}", day.year(), u8::from(day.month()), day.day()),
        today: day == today,
        works: works_on(model, lang, day),
    };
    let mut weeks: Vec<[Option<Square>; 7]> = Vec::new();
    let mut day = first;
    while day < next {
        let column = usize::from(day.weekday().number_days_from_monday());
        if weeks.is_empty() || column == 0 {
            weeks.push(Default::default());
        }
        if let Some(cell) = weeks.last_mut().and_then(|week| week.get_mut(column)) {
            *cell = Some(square(day));
        }
        let Some(after) = day.next_day() else { break };
        day = after;
    }
    Month { title: format!("{name} {}", first.year()), weeks }
}

/// What is done on a day; work that was called off is not.
fn works_on(model: &PublicModel, lang: Lang, day: time::Date) -> Vec<(String, String)> {
    let is_on = |work: &&PublicWork| {
        // Work that ends at midnight is not on the day after.
        let last = Wall(work.ended.unwrap_or(work.ends).0.saturating_sub(1).max(work.starts.0));
        work.phase != WorkPhase::Cancelled && when::local_date(work.starts) <= day && day <= when::local_date(last)
    };
    let named = |work: &PublicWork| (work.id.clone(), work.title.plain(lang).to_owned());
    model.works.iter().filter(is_on).map(named).collect()
}

/// The calendar file in one language.
#[must_use]
pub fn ical(model: &PublicModel, freshness: Freshness, lang: Lang) -> String {
    let texts = Texts::of(lang);
    let mut out = String::new();
    let mut line = |text: &str| fold(text, &mut out);
    line("BEGIN:VCALENDAR");
    line("VERSION:2.0");
    line(&format!("PRODID:-//bcp-fleet//status//{}", lang.as_str().to_uppercase()));
    line("CALSCALE:GREGORIAN");
    line("METHOD:PUBLISH");
    line(&format!("NAME:{}", escape(&texts.get("planned"))));
    line(&format!("X-WR-CALNAME:{}", escape(&texts.get("planned"))));
    line("REFRESH-INTERVAL;VALUE=DURATION:PT15M");
    line(&format!("X-BCP-SEQUENCE:{}", model.sequence));
    line(&format!("X-BCP-VALID-UNTIL:{}", when::ical(model.valid_until)));
    line(&format!("X-BCP-EXPIRED:{}", if freshness == Freshness::Expired { "TRUE" } else { "FALSE" }));
    for work in &model.works {
        for text in event(model, work, lang) {
            line(&text);
        }
    }
    line("END:VCALENDAR");
    out
}

fn event(model: &PublicModel, work: &PublicWork, lang: Lang) -> Vec<String> {
    let names = model.services.iter().filter(|service| work.services.contains(&service.id));
    let names: Vec<&str> = names.map(|service| service.title.plain(lang)).collect();
    let said = work.updates.first().map_or("", |update| update.text.plain(lang));
    let status = if work.phase == WorkPhase::Cancelled { "CANCELLED" } else { "CONFIRMED" };
    vec![
        "BEGIN:VEVENT".to_owned(),
        format!("UID:{}@status.bcp-fleet", work.id),
        format!("DTSTAMP:{}", when::ical(work.updated())),
        format!("LAST-MODIFIED:{}", when::ical(work.updated())),
        format!("SEQUENCE:{}", work.updates.len().saturating_sub(1)),
        format!("DTSTART:{}", when::ical(work.starts)),
        // An event of no length is refused by calendar programs.
        format!(
            "DTEND:{}",
            when::ical(Wall(work.ended.unwrap_or(work.ends).0.max(work.starts.0.saturating_add(60_000))))
        ),
        format!("SUMMARY:{}", escape(work.title.plain(lang))),
        format!("DESCRIPTION:{}", escape(&format!("{}\n{said}", names.join(", ")))),
        format!("STATUS:{status}"),
        "TRANSP:TRANSPARENT".to_owned(),
        "END:VEVENT".to_owned(),
    ]
}

/// A text value (RFC 5545, 3.3.11).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | ';' | ',' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// One content line, in pieces that fit, never through a character.
fn fold(line: &str, out: &mut String) {
    let mut length = 0;
    for c in line.chars() {
        if length + c.len_utf8() > MAX_LINE_BYTES {
            out.push_str("\r\n ");
            length = 1;
        }
        out.push(c);
        length += c.len_utf8();
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::super::sample::sample;
    use super::*;

    #[test]
    fn lines_are_folded_and_texts_escaped() {
        let mut model = sample(2);
        let long = "Ä".repeat(90) + "; and, then\\\n\u{7}more\r\nBEGIN:VEVENT";
        model.works[0].title.texts.insert("en".to_owned(), long);
        let file = ical(&model, Freshness::Current, Lang::En);
        assert!(file.split("\r\n").all(|line| line.len() <= MAX_LINE_BYTES && !line.contains('\n')));
        assert_eq!(file.matches("\r\nBEGIN:VEVENT\r\n").count(), model.works.len(), "no text begins an event");
        let unfolded = file.replace("\r\n ", "");
        assert!(unfolded.contains("\\; and\\, then\\\\\\nmore\\nBEGIN"), "{unfolded}");
    }

    #[test]
    fn a_month_has_all_its_days_in_their_columns() {
        let mut model = sample(2);
        assert_eq!(months(&model, Lang::En).len(), 1, "nothing is planned in the months after");
        let mut later = model.works[1].clone();
        (later.starts, later.ends) =
            (when::from_local("2027-02-01 22:00").unwrap(), when::from_local("2027-02-02 02:00").unwrap());
        model.works.push(later);
        let months = months(&model, Lang::En);
        assert_eq!(months[0].title, "November 2026");
        let squares: Vec<&Square> = months[0].weeks.iter().flatten().flatten().collect();
        assert_eq!(squares.len(), 30);
        // 1 November 2026 is a Sunday.
        assert_eq!(months[0].weeks[0][6].as_ref().unwrap().number, 1);
        assert_eq!(squares.iter().filter(|square| square.today).map(|square| square.number).collect::<Vec<_>>(), [23]);
        assert_eq!((months.len(), months[1].title.as_str()), (2, "February 2027"));
    }

    #[test]
    fn work_stands_on_its_days_and_not_on_the_day_after() {
        let mut model = sample(2);
        let midnight = when::from_local("2026-11-27 00:00").unwrap();
        model.works.truncate(1);
        (model.works[0].starts, model.works[0].ends) = (when::from_local("2026-11-25 22:00").unwrap(), midnight);
        let days = |model: &PublicModel| -> Vec<u8> {
            let months = months(model, Lang::Nl);
            months[0]
                .weeks
                .iter()
                .flatten()
                .flatten()
                .filter(|day| !day.works.is_empty())
                .map(|day| day.number)
                .collect()
        };
        assert_eq!(days(&model), [25, 26]);
        model.works[0].phase = WorkPhase::Cancelled;
        assert_eq!(days(&model), [0; 0]);
    }
}
