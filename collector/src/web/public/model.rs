//! What the public page says, as values: the only input of every page, JSON file and feed.
//!
//! Knows words for citizens. Refuses to know devices, addresses, alarms and explanations: none of them has a field here,
//! so none can leak. Made from the agreed state at its publication point only, so three collectors make the same bytes.

use bcp_core::status::ServiceStatus;
pub use bcp_core::status::{Day, IncidentPhase, ProcedurePhase, WorkPhase};
use bcp_core::time::Wall;

use super::lang::{Lang, Localised};

/// Days of history on the page.
pub const HISTORY_DAYS: usize = 90;
/// Closed incidents on the page; older ones are in the history files.
pub const MAX_CLOSED_INCIDENTS: usize = 20;
/// Planned work on the page that is over.
pub const MAX_WORKS_OVER: usize = 20;
/// Updates shown of one incident, newest first.
pub const MAX_UPDATES: usize = 50;

#[derive(Debug, Clone, PartialEq)]
pub struct PublicModel {
    /// Log index of the publication point; the same in every file made from it.
    pub sequence: u64,
    pub as_of: Wall,
    pub valid_until: Wall,
    /// The last change of anything shown here. It and its publication are one log entry; how long the files took from
    /// there differs per site and stands in the manifest.
    pub last_change: Option<Wall>,
    /// How many of the measuring sites had a say in these states at the publication point, of how many.
    pub agreeing: Option<(u8, u8)>,
    /// By position on the page.
    pub services: Vec<PublicService>,
    /// Open ones first, then newest first.
    pub incidents: Vec<PublicIncident>,
    /// Planned work: what is not over by its hour, then the rest, newest first.
    pub works: Vec<PublicWork>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PublicService {
    pub id: String,
    pub title: Localised,
    pub summary: Localised,
    pub status: ServiceStatus,
    pub since: Option<Wall>,
    /// Effect per profession while it does not work.
    pub effect: Vec<(String, Localised)>,
    pub still_works: Localised,
    pub procedure: Procedure,
    pub contact: Localised,
    /// The open incident that is about it.
    pub incident: Option<String>,
    pub next_update_due: Option<Wall>,
    /// Oldest first, at most [`HISTORY_DAYS`]; what was before the first is unmeasured.
    pub days: Vec<Day>,
}

/// The emergency (BCP) procedure of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Procedure {
    pub state: ProcedurePhase,
    pub since: Option<Wall>,
    /// What to do, per profession.
    pub steps: Vec<(String, Localised)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PublicIncident {
    pub id: String,
    pub title: Localised,
    /// Worst state that any of its services had.
    pub impact: ServiceStatus,
    pub phase: IncidentPhase,
    pub opened: Wall,
    pub resolved: Option<Wall>,
    pub next_update_due: Option<Wall>,
    pub services: Vec<String>,
    /// Newest first.
    pub updates: Vec<PublicUpdate>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PublicUpdate {
    /// Unique on the page.
    pub id: String,
    pub at: Wall,
    /// A person's words that took the place of the automatic ones, since then.
    pub replaced: Option<Wall>,
    pub phase: IncidentPhase,
    pub text: Localised,
    /// Written by the rules, not by a person.
    pub automatic: bool,
}

impl PublicUpdate {
    /// When these words were written.
    #[must_use]
    pub fn changed(&self) -> Wall {
        self.replaced.unwrap_or(self.at)
    }
}

/// Planned work.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicWork {
    pub id: String,
    pub title: Localised,
    pub services: Vec<String>,
    pub phase: WorkPhase,
    pub starts: Wall,
    pub ends: Wall,
    /// When it was over.
    pub ended: Option<Wall>,
    /// Newest first; the last one is the announcement.
    pub updates: Vec<PublicWorkUpdate>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PublicWorkUpdate {
    /// Unique on the page.
    pub id: String,
    pub at: Wall,
    pub phase: WorkPhase,
    pub text: Localised,
    pub automatic: bool,
}

impl PublicWork {
    /// The last change of it.
    #[must_use]
    pub fn updated(&self) -> Wall {
        self.updates.first().map_or(self.starts, |update| update.at)
    }

    /// When it was announced.
    #[must_use]
    pub fn announced(&self) -> Wall {
        self.updates.last().map_or(self.starts, |update| update.at)
    }
}

/// Whether what is shown may be taken as the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Until `valid_until`.
    Current,
    /// After it: every state is unknown, procedures and telephone numbers stay.
    Expired,
}

impl PublicModel {
    #[must_use]
    pub fn service(&self, id: &str) -> Option<&PublicService> {
        self.services.iter().find(|service| service.id == id)
    }

    /// The worst state of all services, as the word on top: down before degraded before unknown before planned.
    #[must_use]
    pub fn worst(&self, freshness: Freshness) -> ServiceStatus {
        let worst = self.services.iter().map(|service| service.status).max_by_key(|status| severity(*status));
        match freshness {
            Freshness::Expired => ServiceStatus::Unknown,
            Freshness::Current => worst.unwrap_or(ServiceStatus::Unknown),
        }
    }

    /// Planned work that is not over.
    pub fn open_works(&self) -> impl Iterator<Item = &PublicWork> {
        self.works.iter().filter(|work| !work.phase.is_over())
    }

    /// Services in a given state.
    #[must_use]
    pub fn count(&self, status: ServiceStatus) -> usize {
        self.services.iter().filter(|service| service.status == status).count()
    }

    /// The first distinct contacts of all services in `lang`, in page order.
    #[must_use]
    pub fn contacts(&self, lang: Lang) -> Vec<&Localised> {
        let mut found: Vec<&Localised> = Vec::new();
        for contact in self.services.iter().map(|service| &service.contact).filter(|contact| !contact.is_empty()) {
            if !found.iter().any(|known| known.plain(lang) == contact.plain(lang)) {
                found.push(contact);
            }
        }
        found
    }
}

/// Order of badness on the page. Planned work is announced, so it ranks below not knowing.
#[must_use]
pub const fn severity(status: ServiceStatus) -> u8 {
    match status {
        ServiceStatus::Up => 0,
        ServiceStatus::Planned => 1,
        ServiceStatus::Unknown => 2,
        ServiceStatus::Degraded => 3,
        ServiceStatus::Down => 4,
    }
}

/// Share of the measured, unplanned time in which a service was up, in hundredths of a percent, rounded down: a page
/// never says 100 % of a period with a fault in it. `None` where nothing was measured.
#[must_use]
pub fn share_up(days: &[Day]) -> Option<u64> {
    let up: u64 = days.iter().map(|day| day.up_ms).sum();
    let bad: u64 = days.iter().map(|day| day.degraded_ms + day.down_ms).sum();
    let hundredths = u128::from(up) * 10_000 / u128::from(up + bad).max(1);
    (up + bad > 0).then_some(u64::try_from(hundredths).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_the_worst_and_never_green_for_unmeasured() {
        assert_eq!(Day::default().bar(), ServiceStatus::Unknown);
        assert_eq!(Day { up_ms: 10, unmeasured_ms: 11, ..Day::default() }.bar(), ServiceStatus::Unknown);
        assert_eq!(Day { up_ms: 10, unmeasured_ms: 9, ..Day::default() }.bar(), ServiceStatus::Up);
        assert_eq!(Day { up_ms: 10, down_ms: 1, degraded_ms: 5, ..Day::default() }.bar(), ServiceStatus::Down);
    }

    #[test]
    fn the_share_is_rounded_down() {
        let day = Day { up_ms: 86_399_999, down_ms: 1, ..Day::default() };
        assert_eq!(share_up(&[day]), Some(9_999));
        assert_eq!(share_up(&[Day { up_ms: 1, ..Day::default() }]), Some(10_000));
        assert_eq!(share_up(&[Day { planned_ms: 5, ..Day::default() }]), None);
    }
}
