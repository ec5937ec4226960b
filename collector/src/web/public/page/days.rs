//! The last days of a service on a page: bars, their table twin, and the share in words.

use bcp_core::status::ServiceStatus;

use super::Page;
use crate::web::public::bars;
use crate::web::public::lang::Lang;
use crate::web::public::model::{Day, HISTORY_DAYS, PublicService, share_up};
use crate::web::public::when::{self, Moment};

/// One day in the table twin of the bars.
#[derive(Debug, Clone)]
pub struct DayRow {
    pub day: Moment,
    pub word: String,
    /// Column and length of up, degraded, down, planned, unmeasured.
    pub cells: [(String, String); 5],
}

impl Page<'_> {
    /// `9991` with two digits after the point as `99,91`, or `99.91` in English.
    fn decimal(&self, scaled: u64, digits: u32) -> String {
        let unit = 10_u64.pow(digits);
        let point = if self.lang == Lang::En { '.' } else { ',' };
        format!("{}{point}{:0width$}", scaled / unit, scaled % unit, width = digits as usize)
    }

    #[must_use]
    pub fn share(&self, service: &PublicService) -> String {
        share_up(&service.days).map_or_else(
            || self.t.get("not-measured"),
            |share| match share {
                10_000 => "100\u{202f}%".to_owned(),
                _ => format!("{}\u{202f}%", self.decimal(share, 2)),
            },
        )
    }

    #[must_use]
    pub fn bars(&self, service: &PublicService) -> Vec<(&'static str, String)> {
        bars::paths(&service.days, when::day_number(self.model.as_of))
    }

    #[must_use]
    pub fn bars_label(&self, service: &PublicService) -> String {
        let not_up = service.days.iter().filter(|day| day.degraded_ms + day.down_ms > 0).count();
        match share_up(&service.days) {
            None => self.t.get("bar-none"),
            Some(_) => format!(
                "{}; {}",
                self.t.with("bar-label", "share", self.share(service)),
                self.t.with("days-not-up", "count", not_up)
            ),
        }
    }

    #[must_use]
    pub fn history_sentence(&self, service: &PublicService) -> String {
        match share_up(&service.days) {
            None => self.t.get("bar-none"),
            Some(_) => self.t.with("history-sum", "share", self.share(service)),
        }
    }

    #[must_use]
    pub fn unmeasured_sentence(&self, service: &PublicService) -> Option<String> {
        let first = service.days.first()?;
        let covered = service.days.len() >= HISTORY_DAYS;
        (!covered).then(|| self.t.with("days-unmeasured", "day", when::day(first.day, self.lang).text))
    }

    /// Newest day first.
    #[must_use]
    pub fn day_rows(&self, service: &PublicService) -> Vec<DayRow> {
        service.days.iter().rev().map(|day| self.day_row(day)).collect()
    }

    fn day_row(&self, day: &Day) -> DayRow {
        DayRow {
            day: when::day(day.day, self.lang),
            word: if day.bar() == ServiceStatus::Unknown { self.t.get("col-unmeasured") } else { self.word(day.bar()) },
            cells: [
                ("col-up", day.up_ms),
                ("col-degraded", day.degraded_ms),
                ("col-down", day.down_ms),
                ("col-planned", day.planned_ms),
                ("col-unmeasured", day.unmeasured_ms),
            ]
            .map(|(column, ms)| (self.t.get(column), length(ms))),
        }
    }

    /// Every state of a bar with its shape and word.
    #[must_use]
    pub fn legend(&self) -> Vec<(&'static str, String, String)> {
        let states = [
            (ServiceStatus::Up, "col-up"),
            (ServiceStatus::Degraded, "col-degraded"),
            (ServiceStatus::Down, "col-down"),
            (ServiceStatus::Planned, "col-planned"),
            (ServiceStatus::Unknown, "col-unmeasured"),
        ];
        states.into_iter().map(|(status, key)| (status.as_str(), bars::single(status), self.t.get(key))).collect()
    }
}

/// `2 h 05 min`, `12 min 40 s`, `3 s`; a dash for nothing.
pub(super) fn length(ms: u64) -> String {
    let s = ms / 1000;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, 0) if ms == 0 => "–".to_owned(),
        (0, 0, 0) => "< 1\u{202f}s".to_owned(),
        (0, 0, s) => format!("{s}\u{202f}s"),
        (0, m, s) => format!("{m}\u{202f}min {s:02}\u{202f}s"),
        (h, m, _) => format!("{h}\u{202f}h {m:02}\u{202f}min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_readable() {
        assert_eq!(length(0), "–");
        assert_eq!(length(400), "< 1\u{202f}s");
        assert_eq!(length(86_400_000), "24\u{202f}h 00\u{202f}min");
        assert_eq!(length(760_000), "12\u{202f}min 40\u{202f}s");
    }
}
