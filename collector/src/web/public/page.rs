//! The HTML pages: what a template may ask of the model.
//!
//! Knows the words, links and shapes of a page in one language. Refuses to know the clock: a page is a function of the model
//! and of whether it is written for the time before or after `valid_until`.

mod days;
mod history;
mod times;
mod works;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcp_core::status::ServiceStatus;
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

pub use self::times::escape;
use super::lang::{Lang, Localised, Shown, Texts};
use super::model::{Freshness, IncidentPhase, ProcedurePhase, PublicIncident, PublicModel, PublicService, PublicWork};
use super::when;

const STYLE: &str = include_str!("../../../../dashboards/status/style.css");
const SCRIPT: &str = include_str!("../../../../dashboards/status/expiry.js");

/// The files in the shape of Statuspage, in the order in which the page lists them.
pub const API_FILES: [&str; 8] = [
    "api/v2/summary.json",
    "api/v2/status.json",
    "api/v2/components.json",
    "api/v2/incidents.json",
    "api/v2/incidents/unresolved.json",
    "api/v2/scheduled-maintenances.json",
    "api/v2/scheduled-maintenances/upcoming.json",
    "api/v2/scheduled-maintenances/active.json",
];

/// What every page has.
#[derive(Debug, Clone)]
pub struct Page<'a> {
    pub model: &'a PublicModel,
    pub freshness: Freshness,
    pub lang: Lang,
    pub t: Texts,
    /// Below the language, as `service/prescriptions/`; empty for the overview.
    pub path: String,
    /// From the page up to the root of the tree, as `../../../`: the tree works in any folder of any file host.
    pub root: String,
}

#[derive(Template, Debug)]
#[template(path = "status/overview.html")]
pub struct Overview<'a> {
    pub page: Page<'a>,
}

#[derive(Template, Debug)]
#[template(path = "status/service.html")]
pub struct ServicePage<'a> {
    pub page: Page<'a>,
    pub service: &'a PublicService,
}

#[derive(Template, Debug)]
#[template(path = "status/incident.html")]
pub struct IncidentPage<'a> {
    pub page: Page<'a>,
    pub incident: &'a PublicIncident,
}

#[derive(Template, Debug)]
#[template(path = "status/planned.html")]
pub struct PlannedPage<'a> {
    pub page: Page<'a>,
}

#[derive(Template, Debug)]
#[template(path = "status/work.html")]
pub struct WorkPage<'a> {
    pub page: Page<'a>,
    pub work: &'a PublicWork,
}

#[derive(Template, Debug)]
#[template(path = "status/history.html")]
pub struct HistoryPage<'a> {
    pub page: Page<'a>,
}

#[derive(Template, Debug)]
#[template(path = "status/procedures.html")]
pub struct ProceduresPage<'a> {
    pub page: Page<'a>,
}

#[derive(Template, Debug)]
#[template(path = "status/procedure.html")]
pub struct ProcedurePage<'a> {
    pub page: Page<'a>,
    pub service: &'a PublicService,
}

#[derive(Template, Debug)]
#[template(path = "status/accessibility.html")]
pub struct AccessibilityPage<'a> {
    pub page: Page<'a>,
}

#[derive(Template, Debug)]
#[template(path = "status/api.html")]
pub struct ApiPage<'a> {
    pub page: Page<'a>,
}

impl<'a> Page<'a> {
    #[must_use]
    pub fn new(model: &'a PublicModel, freshness: Freshness, lang: Lang, path: &str) -> Page<'a> {
        let depth = path.matches('/').count() + 1;
        Page { model, freshness, lang, t: Texts::of(lang), path: path.to_owned(), root: "../".repeat(depth) }
    }

    #[must_use]
    pub fn expired(&self) -> bool {
        self.freshness == Freshness::Expired
    }

    #[must_use]
    pub fn until_ms(&self) -> i64 {
        self.model.valid_until.0
    }

    #[must_use]
    pub fn css(&self) -> &'static str {
        style()
    }

    #[must_use]
    pub fn script(&self) -> &'static str {
        SCRIPT.trim_end()
    }

    #[must_use]
    pub fn csp(&self) -> &'static str {
        content_security_policy()
    }

    #[must_use]
    pub fn langs(&self) -> &'static [Lang; 4] {
        &Lang::ALL
    }

    pub fn other_langs(&self) -> impl Iterator<Item = Lang> + '_ {
        Lang::ALL.into_iter().filter(|lang| *lang != self.lang)
    }

    #[must_use]
    pub fn class(&self, status: impl std::borrow::Borrow<ServiceStatus>) -> &'static str {
        status.borrow().as_str()
    }

    #[must_use]
    pub fn word(&self, status: impl std::borrow::Borrow<ServiceStatus>) -> String {
        self.t.get(match status.borrow() {
            ServiceStatus::Up => "state-up",
            ServiceStatus::Degraded => "state-degraded",
            ServiceStatus::Down => "state-down",
            ServiceStatus::Planned => "state-planned",
            ServiceStatus::Unknown => "state-unknown",
        })
    }

    /// Colour of an incident's card: its impact, until its services work again.
    #[must_use]
    pub fn card_class(&self, incident: &PublicIncident) -> &'static str {
        match incident.phase {
            IncidentPhase::Investigating | IncidentPhase::Identified => incident.impact.as_str(),
            IncidentPhase::Monitoring | IncidentPhase::Resolved => ServiceStatus::Up.as_str(),
        }
    }

    #[must_use]
    pub fn worst(&self) -> ServiceStatus {
        self.model.worst(self.freshness)
    }

    /// The state a service may be shown in.
    #[must_use]
    pub fn status(&self, service: &PublicService) -> ServiceStatus {
        if self.expired() { ServiceStatus::Unknown } else { service.status }
    }

    /// Whether effects and what still works have to be told.
    #[must_use]
    pub fn troubled(&self, service: &PublicService) -> bool {
        self.status(service) != ServiceStatus::Up
    }

    /// The first sentence of the overview: what is wrong, of how many.
    #[must_use]
    pub fn headline(&self) -> String {
        if self.expired() {
            return self.expired_headline();
        }
        let total = self.model.services.len();
        let key = match self.worst() {
            _ if total == 0 => return self.t.get("head-none"),
            ServiceStatus::Up => return self.t.with("head-all-up", "total", total),
            ServiceStatus::Degraded => "head-degraded",
            ServiceStatus::Down => "head-down",
            ServiceStatus::Planned => "head-planned",
            ServiceStatus::Unknown => "head-unknown",
        };
        self.t.with2(key, ("count", self.model.count(self.worst())), ("total", total))
    }

    /// "State unknown since": the time of the last state that was known.
    #[must_use]
    pub fn expired_headline(&self) -> String {
        self.t.with("head-expired", "time", when::full(self.model.as_of, self.lang).text)
    }

    #[must_use]
    pub fn open_incidents(&self) -> Vec<&'a PublicIncident> {
        let open = |incident: &&PublicIncident| incident.phase != IncidentPhase::Resolved && !self.expired();
        self.model.incidents.iter().filter(open).collect()
    }

    /// Procedures that are on, armed or being ended although no open incident tells of them: users still have to know.
    #[must_use]
    pub fn procedures_without_incident(&self) -> Vec<&'a PublicService> {
        let told: Vec<&str> =
            self.open_incidents().iter().flat_map(|found| &found.services).map(String::as_str).collect();
        let untold = |service: &&PublicService| {
            service.procedure.state != ProcedurePhase::Off && !told.contains(&service.id.as_str())
        };
        if self.expired() { Vec::new() } else { self.model.services.iter().filter(untold).collect() }
    }

    #[must_use]
    pub fn closed_incidents(&self) -> Vec<&'a PublicIncident> {
        self.model.incidents.iter().filter(|incident| incident.phase == IncidentPhase::Resolved).take(5).collect()
    }

    #[must_use]
    pub fn incidents_of(&self, service: &PublicService) -> Vec<&'a PublicIncident> {
        self.model.incidents.iter().filter(|incident| incident.services.contains(&service.id)).collect()
    }

    #[must_use]
    pub fn services_of(&self, incident: &PublicIncident) -> Vec<&'a PublicService> {
        self.model.services.iter().filter(|service| incident.services.contains(&service.id)).collect()
    }

    #[must_use]
    pub fn contacts(&self) -> Vec<&'a Localised> {
        self.model.contacts(self.lang)
    }

    #[must_use]
    pub fn phase(&self, phase: impl std::borrow::Borrow<IncidentPhase>) -> String {
        self.t.get(&format!("phase-{}", phase.borrow().as_str()))
    }

    /// A profession's name; one that has none here shows as it is written in the policy.
    #[must_use]
    pub fn profession(&self, profession: &str) -> String {
        const KNOWN: [&str; 7] = ["doctor", "pharmacist", "hospital", "integrator", "nurse", "patient", "everyone"];
        if KNOWN.contains(&profession) { self.t.get(profession) } else { profession.to_owned() }
    }

    /// Only the words of a text.
    #[must_use]
    pub fn plain<'t>(&self, text: &'t Localised) -> &'t str {
        text.plain(self.lang)
    }

    #[must_use]
    pub fn show<'t>(&self, text: &'t Localised) -> Option<Shown<'t>> {
        text.show(self.lang)
    }

    #[must_use]
    pub fn fallback(&self, other: &Lang) -> String {
        self.t.with("fallback", "language", self.t.get(&format!("in-{other}")))
    }

    #[must_use]
    pub fn procedure_word(&self, service: &PublicService) -> String {
        if self.expired() {
            return self.t.get("state-unknown");
        }
        self.t.get(&format!("procedure-{}", service.procedure.state.as_str()))
    }

    #[must_use]
    pub fn procedure_class(&self, service: &PublicService) -> &'static str {
        if self.expired() { "unknown-procedure" } else { service.procedure.state.as_str() }
    }

    #[must_use]
    pub fn procedure_link(&self, service: &PublicService) -> String {
        let wanted = self.expired() || service.procedure.state == ProcedurePhase::On;
        self.t.get(if wanted { "procedure-do" } else { "procedure-open" })
    }

    #[must_use]
    pub fn procedure_sentence(&self, service: &PublicService) -> String {
        self.t.get(match (self.freshness, service.procedure.state) {
            (Freshness::Expired, _) => "procedure-unknown",
            (Freshness::Current, ProcedurePhase::On | ProcedurePhase::StandingDown) => "procedure-follow",
            (Freshness::Current, ProcedurePhase::Off | ProcedurePhase::Armed) => "procedure-not-now",
        })
    }

    /// Steps are written one per line.
    #[must_use]
    pub fn lines<'t>(&self, steps: &'t Localised) -> Vec<Shown<'t>> {
        let Some(shown) = steps.show(self.lang) else { return Vec::new() };
        let lines = shown.text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|text| Shown { text, fallback: shown.fallback }).collect()
    }

    #[must_use]
    pub fn api_files(&self) -> [&'static str; 8] {
        API_FILES
    }
}

fn style() -> &'static str {
    static STYLE_TEXT: OnceLock<String> = OnceLock::new();
    STYLE_TEXT.get_or_init(|| STYLE.replace('\n', ""))
}

/// The policy of every page: nothing but the page itself, its one style sheet and its one script, named by their hashes.
#[must_use]
pub fn content_security_policy() -> &'static str {
    static POLICY: OnceLock<String> = OnceLock::new();
    POLICY.get_or_init(|| {
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'",
            hash(style()),
            hash(SCRIPT.trim_end())
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_stays_small() {
        assert!(SCRIPT.len() <= 1024, "{} bytes", SCRIPT.len());
    }
}
