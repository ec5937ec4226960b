//! Ninety days of all services on one page: sums, and the days on which something happened.

use bcp_core::status::ServiceStatus;

use super::Page;
use super::days::length;
use crate::web::public::model::{Day, PublicService};
use crate::web::public::when::{self, Moment};

/// Rows of the table of days; a page longer than this is read by nobody.
const MAX_ROWS: usize = 400;

/// One service over all its days.
#[derive(Debug)]
pub struct SumRow<'a> {
    pub service: &'a PublicService,
    /// Column and length of up, degraded, down, planned, unmeasured.
    pub cells: [(String, String); 5],
    pub share: String,
}

/// A day on which a service did not simply work.
#[derive(Debug)]
pub struct DayOf<'a> {
    pub day: Moment,
    pub service: &'a PublicService,
    pub status: ServiceStatus,
    /// Column and length of degraded, down, planned.
    pub cells: [(String, String); 3],
}

impl<'a> Page<'a> {
    #[must_use]
    pub fn sums(&self) -> Vec<SumRow<'a>> {
        let services = self.model.services.iter();
        services.map(|service| SumRow { service, cells: self.sum(service), share: self.share(service) }).collect()
    }

    fn sum(&self, service: &PublicService) -> [(String, String); 5] {
        let total = |part: fn(&Day) -> u64| length(service.days.iter().map(part).fold(0, u64::saturating_add));
        [
            (self.t.get("col-up"), total(|day| day.up_ms)),
            (self.t.get("col-degraded"), total(|day| day.degraded_ms)),
            (self.t.get("col-down"), total(|day| day.down_ms)),
            (self.t.get("col-planned"), total(|day| day.planned_ms)),
            (self.t.get("col-unmeasured"), total(|day| day.unmeasured_ms)),
        ]
    }

    /// Newest day first, in page order within a day.
    #[must_use]
    pub fn eventful_days(&self) -> Vec<DayOf<'a>> {
        let all = self.model.services.iter().flat_map(|service| service.days.iter().map(move |day| (service, day)));
        let mut found: Vec<(&'a PublicService, &'a Day)> =
            all.filter(|(_, day)| day.degraded_ms > 0 || day.down_ms > 0 || day.planned_ms > 0).collect();
        found.sort_by_key(|(_, day)| std::cmp::Reverse(day.day));
        found.truncate(MAX_ROWS);
        found.into_iter().map(|(service, day)| self.day_of(service, day)).collect()
    }

    fn day_of(&self, service: &'a PublicService, day: &Day) -> DayOf<'a> {
        DayOf {
            day: when::day(day.day, self.lang),
            service,
            status: day.bar(),
            cells: [
                (self.t.get("col-degraded"), length(day.degraded_ms)),
                (self.t.get("col-down"), length(day.down_ms)),
                (self.t.get("col-planned"), length(day.planned_ms)),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Page;
    use crate::web::public::lang::Lang;
    use crate::web::public::model::{Day, Freshness};
    use crate::web::public::sample::sample;

    #[test]
    fn the_sums_are_those_of_the_days_and_quiet_days_are_left_out() {
        let mut model = sample(2);
        let today = model.services[0].days.last().unwrap().day;
        model.services[0].days = vec![
            Day { day: today - 2, up_ms: 86_400_000, ..Day::default() },
            Day { day: today - 1, up_ms: 80_000_000, down_ms: 6_400_000, ..Day::default() },
            Day { day: today, unmeasured_ms: 3_000, planned_ms: 60_000, ..Day::default() },
        ];
        model.services[1].days.clear();
        let page = Page::new(&model, Freshness::Current, Lang::En, "history/");
        let cells: Vec<String> = page.sums()[0].cells.iter().map(|(_, cell)| cell.clone()).collect();
        assert_eq!(
            cells,
            ["46\u{202f}h 13\u{202f}min", "–", "1\u{202f}h 46\u{202f}min", "1\u{202f}min 00\u{202f}s", "3\u{202f}s"]
        );
        assert_eq!(page.sums()[1].share, "not measured");
        let days: Vec<String> = page.eventful_days().into_iter().map(|row| row.day.iso).collect();
        assert_eq!(days.len(), 2, "{days:?}");
        assert!(days[0] > days[1]);
    }
}
