//! What needs eyes now, and what is folded, shelved or suppressed beside it.

use std::collections::BTreeMap;

use bcp_core::alarms::{AlarmView, Standing};
use bcp_core::time::Wall;
use bcp_wire::Id;

use super::words::{count, english};
use crate::serve::view::View;
use crate::web::public::lang::Lang;
use crate::web::public::when::{self, Moment};

/// Alarm rows on the first screen; what is beyond is counted.
const MAX_ALARM_ROWS: usize = 100;

#[derive(Debug)]
pub struct Now {
    /// Most urgent first.
    pub open: Vec<AlarmRow>,
    /// Open ones for which there is no room.
    pub hidden: usize,
    /// `2 shelved`, `6 consequences`: what is not in the list, where there is any.
    pub beside: Vec<String>,
    /// Shelved, suppressed by design, out of service.
    pub quiet: Vec<QuietRow>,
    /// More than operators can work through, and how many within 10 minutes.
    pub flood: Option<usize>,
}

#[derive(Debug)]
pub struct AlarmRow {
    pub anchor: String,
    pub priority: &'static str,
    pub title: String,
    pub asset: String,
    pub link: String,
    /// Where its asset does not say so.
    pub site: Option<String>,
    /// Since it was raised.
    pub age_ms: u64,
    pub since: Moment,
    pub state: String,
    pub active: bool,
    pub acknowledged: bool,
    pub owner: Option<String>,
    pub explain: String,
    pub runbook: Option<String>,
    /// Alarms that this one explains, in first-out order: title and asset.
    pub consequences: Vec<(String, String)>,
    pub more_consequences: usize,
    pub agreed: bool,
    pub chattering: bool,
}

/// An alarm that is hidden on purpose, and why.
#[derive(Debug)]
pub struct QuietRow {
    pub title: String,
    pub asset: String,
    pub why: String,
    pub active: bool,
}

impl Now {
    #[must_use]
    pub fn of(view: &View) -> Now {
        let by_key: BTreeMap<&str, &AlarmView> = view.alarms.iter().map(|alarm| (alarm.id.as_str(), alarm)).collect();
        let open = view.open_alarms();
        let quiet = [Standing::Shelved, Standing::SuppressedByDesign, Standing::OutOfService];
        let figures = &view.alarm_figures;
        Now {
            hidden: open.len().saturating_sub(MAX_ALARM_ROWS),
            open: open.into_iter().take(MAX_ALARM_ROWS).map(|alarm| row(alarm, view, &by_key)).collect(),
            beside: beside(view),
            quiet: quiet.into_iter().flat_map(|standing| view.alarms_that(standing)).map(quiet_row).collect(),
            flood: figures.flood.then_some(figures.annunciated_last_10_min),
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.open.len() + self.hidden
    }
}

fn beside(view: &View) -> Vec<String> {
    let kinds = [
        (Standing::Consequence, "consequence", "consequences"),
        (Standing::Waiting, "just raised", "just raised"),
        (Standing::Shelved, "shelved", "shelved"),
        (Standing::SuppressedByDesign, "suppressed", "suppressed"),
        (Standing::OutOfService, "out of service", "out of service"),
    ];
    let counted = kinds.into_iter().map(|(standing, one, several)| (view.alarms_that(standing).count(), one, several));
    counted.filter(|(n, ..)| *n > 0).map(|(n, one, several)| count(n, one, several)).collect()
}

fn title(alarm: &AlarmView) -> String {
    english(&alarm.title).unwrap_or_else(|| alarm.rule.clone())
}

fn row(alarm: &AlarmView, view: &View, by_key: &BTreeMap<&str, &AlarmView>) -> AlarmRow {
    let since_wall = view.as_of.0.saturating_sub(alarm.since_wall_ms);
    let named = alarm.first_symptoms.iter().filter_map(|key| by_key.get(key.as_str()));
    let consequences: Vec<(String, String)> = named.map(|found| (title(found), found.asset.clone())).collect();
    AlarmRow {
        anchor: format!("alarm-{}", alarm.id.replace('/', "--")),
        priority: alarm.priority.as_str(),
        title: title(alarm),
        link: link(alarm, view),
        site: alarm.site.map(|site| format!("site {site}")).filter(|_| !alarm.asset.starts_with("site-")),
        asset: alarm.asset.clone(),
        // A site's own view has no log time; its wall clock is all there is.
        age_ms: if alarm.agreed { alarm.raised_ago_ms } else { u64::try_from(since_wall).unwrap_or(0) },
        since: when::moment(Wall(alarm.since_wall_ms), view.as_of, Lang::En),
        state: state(alarm),
        active: alarm.active,
        acknowledged: alarm.acknowledged_by.is_some(),
        owner: alarm.owner.clone(),
        explain: alarm.explain.clone(),
        runbook: alarm.runbook.clone(),
        more_consequences: alarm.symptoms.saturating_sub(consequences.len()),
        consequences,
        agreed: alarm.agreed,
        chattering: alarm.chattering,
    }
}

fn state(alarm: &AlarmView) -> String {
    match (alarm.active, &alarm.acknowledged_by) {
        (true, Some(by)) => format!("acknowledged by {by}"),
        (true, None) => "not acknowledged".to_owned(),
        (false, _) => "back to normal, not acknowledged".to_owned(),
    }
}

/// The page that says most about it.
fn link(alarm: &AlarmView, view: &View) -> String {
    let asset = alarm.asset.as_str();
    let Ok(id) = asset.parse::<Id>() else { return "/timeline".to_owned() };
    if view.devices.contains_key(&id) {
        format!("/devices/{id}")
    } else if alarm.rule.starts_with("service-") && view.services.iter().any(|service| service.id == id) {
        format!("/services/{id}")
    } else if view.tickets.iter().any(|ticket| ticket.id == id) {
        format!("/tickets/{id}")
    } else {
        "/timeline".to_owned()
    }
}

fn quiet_row(alarm: &AlarmView) -> QuietRow {
    let by = alarm.shelved_by.as_deref().unwrap_or("an operator");
    let reason = alarm.shelved_reason.as_deref().unwrap_or("no reason given");
    let why = match alarm.standing {
        Standing::Shelved => {
            let left = super::age(alarm.shelved_for_ms.unwrap_or(0));
            format!("shelved by {by} for {left} more: {reason}")
        }
        Standing::OutOfService => format!("taken out of service by {by}: {reason}"),
        Standing::Open
        | Standing::Consequence
        | Standing::Waiting
        | Standing::SuppressedByDesign
        | Standing::Normal => "suppressed by design: its rule says so".to_owned(),
    };
    QuietRow { title: title(alarm), asset: alarm.asset.clone(), why, active: alarm.active }
}
