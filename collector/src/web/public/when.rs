//! Wall times as readers in Belgium see them: local time of Brussels in words, ISO 8601 for machines.

use std::time::Duration;

use bcp_core::time::Wall;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, PrimitiveDateTime};
use time_tz::OffsetDateTimeExt;

use super::lang::Lang;

/// A moment to show: `<time datetime title>text</time>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub text: String,
    /// RFC 3339 with the local offset.
    pub iso: String,
}

/// `10:41:20` on the day of `today`, `23 november 10:41` on another.
#[must_use]
pub fn moment(at: Wall, today: Wall, lang: Lang) -> Moment {
    let (local, today) = (brussels(at), brussels(today));
    let text = if local.date() == today.date() { clock(local) } else { date_and_clock(local, lang) };
    Moment { text, iso: iso(local) }
}

/// `23 november 2026 10:41:20`, whatever day it is.
#[must_use]
pub fn full(at: Wall, lang: Lang) -> Moment {
    let local = brussels(at);
    let text = format!("{} {} {}", day_and_month(local, lang), local.year(), clock(local));
    Moment { text, iso: iso(local) }
}

/// `23 november 2026` of a day number (days since 1970, UTC).
#[must_use]
pub fn day(days_since_1970: i64, lang: Lang) -> Moment {
    let noon = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(12 * 3600) + time::Duration::days(days_since_1970);
    Moment {
        text: format!("{} {}", day_and_month(noon, lang), noon.year()),
        iso: format!("{:04}-{:02}-{:02}", noon.year(), u8::from(noon.month()), noon.day()),
    }
}

/// A time as people write it, local time in Brussels: `2026-11-23 02:00`; or with an offset, as RFC 3339 has it. An hour that
/// comes twice, when the clocks go back, is the first one.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn from_local(text: &str) -> Result<Wall, String> {
    let text = text.trim();
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return wall(at);
    }
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]");
    let written = PrimitiveDateTime::parse(&text.replacen('T', " ", 1), &format).map_err(|_| {
        "needed: a time as '2026-11-23 02:00', or with an offset as 2026-11-23T02:00:00+01:00".to_owned()
    })?;
    // Brussels is two hours ahead of UTC in summer, one in winter.
    let offsets = [time::macros::offset!(+2), time::macros::offset!(+1)];
    let fits = |at: &OffsetDateTime| {
        let local = at.to_timezone(time_tz::timezones::db::europe::BRUSSELS);
        PrimitiveDateTime::new(local.date(), local.time()) == written
    };
    let found = offsets.into_iter().map(|offset| written.assume_offset(offset)).find(fits);
    found.map_or_else(|| Err(format!("{text} does not exist in Brussels: the clocks go forward then")), wall)
}

fn wall(at: OffsetDateTime) -> Result<Wall, String> {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).map(Wall).map_err(|_| "out of range".to_owned())
}

/// The day number of a moment. History is counted in UTC days, which all have the same length.
#[must_use]
pub const fn day_number(at: Wall) -> i64 {
    at.0.div_euclid(86_400_000)
}

/// The first moment of a day number.
#[must_use]
pub const fn day_start(days_since_1970: i64) -> Wall {
    Wall(days_since_1970.saturating_mul(86_400_000))
}

/// RFC 3339 in UTC with milliseconds, for JSON and feeds.
#[must_use]
pub fn utc(at: Wall) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    instant(at).format(&format).unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".to_owned())
}

/// UTC as calendar files have it: `20261123T010000Z`.
#[must_use]
pub fn ical(at: Wall) -> String {
    let at = instant(at);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// The day in Brussels.
#[must_use]
pub fn local_date(at: Wall) -> Date {
    brussels(at).date()
}

#[must_use]
pub fn first_of_month(day: Date) -> Date {
    day.replace_day(1).unwrap_or(day)
}

/// The first day of the next month.
#[must_use]
pub fn next_month(first: Date) -> Date {
    let (year, month) = (first.year(), first.month().next());
    let year = if first.month() == time::Month::December { year + 1 } else { year };
    Date::from_calendar_date(year, month, 1).unwrap_or(first)
}

#[must_use]
pub fn month_name(day: Date, lang: Lang) -> &'static str {
    MONTHS[lang as usize][usize::from(u8::from(day.month())) - 1]
}

/// From Monday to Sunday, short.
#[must_use]
pub const fn weekdays(lang: Lang) -> &'static [&'static str; 7] {
    &WEEKDAYS[lang as usize]
}

/// `zo 23 november 2026 02:00`: when planned work begins or ends.
#[must_use]
pub fn planned(at: Wall, lang: Lang) -> Moment {
    let local = brussels(at);
    let weekday = WEEKDAYS[lang as usize][usize::from(local.weekday().number_days_from_monday())];
    let (day, year) = (day_and_month(local, lang), local.year());
    Moment { text: format!("{weekday} {day} {year} {:02}:{:02}", local.hour(), local.minute()), iso: iso(local) }
}

/// Outside the years that can be written a wall time shows as 1970: a label may be odd, never an error.
fn instant(at: Wall) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn brussels(at: Wall) -> OffsetDateTime {
    instant(at).to_timezone(time_tz::timezones::db::europe::BRUSSELS)
}

fn iso(local: OffsetDateTime) -> String {
    local.replace_nanosecond(0).unwrap_or(local).format(&Rfc3339).unwrap_or_default()
}

fn clock(local: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02}", local.hour(), local.minute(), local.second())
}

fn date_and_clock(local: OffsetDateTime, lang: Lang) -> String {
    format!("{} {:02}:{:02}", day_and_month(local, lang), local.hour(), local.minute())
}

fn day_and_month(local: OffsetDateTime, lang: Lang) -> String {
    let month = MONTHS[lang as usize][usize::from(u8::from(local.month())) - 1];
    let dot = if lang == Lang::De { "." } else { "" };
    format!("{}{dot} {month}", local.day())
}

const WEEKDAYS: [[&str; 7]; 4] = [
    ["ma", "di", "wo", "do", "vr", "za", "zo"],
    ["lun", "mar", "mer", "jeu", "ven", "sam", "dim"],
    ["Mo", "Di", "Mi", "Do", "Fr", "Sa", "So"],
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"],
];

const MONTHS: [[&str; 12]; 4] = [
    [
        "januari",
        "februari",
        "maart",
        "april",
        "mei",
        "juni",
        "juli",
        "augustus",
        "september",
        "oktober",
        "november",
        "december",
    ],
    [
        "janvier",
        "février",
        "mars",
        "avril",
        "mai",
        "juin",
        "juillet",
        "août",
        "septembre",
        "octobre",
        "novembre",
        "décembre",
    ],
    [
        "Januar",
        "Februar",
        "März",
        "April",
        "Mai",
        "Juni",
        "Juli",
        "August",
        "September",
        "Oktober",
        "November",
        "Dezember",
    ],
    [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 09:41:20 UTC.
    const AS_OF: Wall = Wall(1_795_426_880_000);

    #[test]
    fn times_are_brussels_time_in_winter_and_summer() {
        assert_eq!(moment(AS_OF, AS_OF, Lang::Nl).text, "10:41:20");
        assert_eq!(moment(AS_OF, AS_OF, Lang::Nl).iso, "2026-11-23T10:41:20+01:00");
        let summer = Wall(1_782_900_000_000);
        assert_eq!(moment(summer, AS_OF, Lang::De).text, "1. Juli 12:00");
        assert_eq!(full(AS_OF, Lang::Fr).text, "23 novembre 2026 10:41:20");
        assert_eq!(utc(AS_OF), "2026-11-23T09:41:20.000Z");
    }

    #[test]
    fn day_numbers_go_round() {
        assert_eq!(day_number(Wall(0)), 0);
        assert_eq!(day(day_number(AS_OF), Lang::En).text, "23 November 2026");
        assert_eq!(day_number(Wall(-1)), -1);
    }

    #[test]
    fn written_times_are_those_of_brussels_on_every_day_of_the_year() {
        for (text, utc_text) in [
            ("2026-11-23 02:00", "2026-11-23T01:00:00.000Z"),
            ("2026-07-01T12:00", "2026-07-01T10:00:00.000Z"),
            // The hour that comes twice is the first one.
            ("2026-10-25 02:30", "2026-10-25T00:30:00.000Z"),
            ("2026-11-23T02:00:00+00:00", "2026-11-23T02:00:00.000Z"),
        ] {
            assert_eq!(from_local(text).map(utc).as_deref(), Ok(utc_text), "{text}");
        }
        assert!(from_local("2026-03-29 02:30").unwrap_err().contains("clocks go forward"));
        for wrong in ["", "tomorrow", "2026-13-01 00:00", "2026-11-23", "2026-11-23 25:00"] {
            assert!(from_local(wrong).unwrap_err().starts_with("needed"), "{wrong}");
        }
    }

    #[test]
    fn an_impossible_time_is_no_panic() {
        assert!(utc(Wall(i64::MAX)).starts_with("1970"));
    }
}
