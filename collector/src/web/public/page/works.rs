//! Planned work on a page: what is announced, for which services, on which days.

use bcp_core::status::ServiceStatus;

use super::Page;
use super::times::{HOLE, escape, time_element};
use crate::web::public::calendar::{self, Month};
use crate::web::public::model::{PublicService, PublicWork, WorkPhase};
use crate::web::public::when;

/// Announcements on the overview; the rest is on the calendar's page.
const ON_OVERVIEW: usize = 5;

impl<'a> Page<'a> {
    /// Planned work that is not over, by its hour.
    #[must_use]
    pub fn open_works(&self) -> Vec<&'a PublicWork> {
        self.model.open_works().collect()
    }

    #[must_use]
    pub fn next_works(&self) -> Vec<&'a PublicWork> {
        self.model.open_works().take(ON_OVERVIEW).collect()
    }

    #[must_use]
    pub fn past_works(&self) -> Vec<&'a PublicWork> {
        self.model.works.iter().filter(|work| work.phase.is_over()).collect()
    }

    /// Open ones first.
    #[must_use]
    pub fn works_of(&self, service: &PublicService) -> Vec<&'a PublicWork> {
        self.model.works.iter().filter(|work| work.services.contains(&service.id)).collect()
    }

    #[must_use]
    pub fn services_at_work(&self, work: &PublicWork) -> Vec<&'a PublicService> {
        self.model.services.iter().filter(|service| work.services.contains(&service.id)).collect()
    }

    #[must_use]
    pub fn work_phase(&self, phase: impl std::borrow::Borrow<WorkPhase>) -> String {
        self.t.get(match phase.borrow() {
            // Nobody knows whether it has begun.
            WorkPhase::Scheduled | WorkPhase::InProgress if self.expired() => "work-announced",
            WorkPhase::Scheduled => "work-announced",
            WorkPhase::InProgress => "work-in-progress",
            WorkPhase::Completed => "work-completed",
            WorkPhase::Cancelled => "work-cancelled",
        })
    }

    /// Class of its card or line.
    #[must_use]
    pub fn work_class(&self, work: &PublicWork) -> &'static str {
        match work.phase {
            WorkPhase::Scheduled | WorkPhase::InProgress => ServiceStatus::Planned.as_str(),
            WorkPhase::Completed | WorkPhase::Cancelled => "over",
        }
    }

    /// "From ... to ...", as markup.
    #[must_use]
    pub fn work_times(&self, work: &PublicWork) -> String {
        let element = |at| time_element(&when::planned(at, self.lang));
        escape(&self.t.with2("work-times", ("from", HOLE), ("to", HOLE)))
            .replacen(HOLE, &element(work.starts), 1)
            .replacen(HOLE, &element(work.ends), 1)
    }

    #[must_use]
    pub fn months(&self) -> Vec<Month> {
        calendar::months(self.model, self.lang)
    }

    #[must_use]
    pub fn weekdays(&self) -> &'static [&'static str; 7] {
        when::weekdays(self.lang)
    }
}
