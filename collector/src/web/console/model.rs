//! What the console's screens say, as values; with its neighbours the only place of the console that knows the view's and
//! core's types.

use std::collections::BTreeSet;

use bcp_core::alarms::AlarmEvent;
use bcp_core::ledger::{LedgerEntry, LedgerEvent};
use bcp_core::status::ServiceEvent;
use bcp_core::time::Wall;
use bcp_wire::Site;

use super::alarms::Now;
use super::services::{self, ServiceRow};
use super::sites::SiteTable;
use super::tickets::{self, TicketCard};
use crate::serve::view::View;
use crate::web::public::lang::Lang;
use crate::web::public::when::{self, Moment};

/// Ledger rows of the timeline: all that a view carries.
const MAX_LEDGER_ROWS: usize = 200;
/// Rows of the timeline on the first screen.
const RECENT_ROWS: usize = 12;

#[derive(Debug)]
pub struct ConsoleModel {
    pub site: Site,
    pub as_of: Moment,
    pub strip: Strip,
    pub now: Now,
    pub tickets: Vec<TicketCard>,
    pub services: Vec<ServiceRow>,
    pub sites: SiteTable,
    /// The first screen's part of the timeline.
    pub recent: Vec<LedgerRow>,
    pub ledger: Vec<LedgerRow>,
}

/// The line on top of every page.
#[derive(Debug)]
pub struct Strip {
    pub agreed: bool,
    pub sites: Vec<SiteDot>,
    /// As `3/3`.
    pub quorum: String,
    pub quorum_ok: bool,
    pub leader: String,
    /// When what is shown was true.
    pub news: Moment,
    /// The newest entry of the ledger.
    pub last_change: Option<Moment>,
    pub trouble: Option<String>,
}

#[derive(Debug)]
pub struct SiteDot {
    pub site: Site,
    /// `up`, `degraded`, `down`, `unknown`.
    pub class: &'static str,
    /// A word where it is not simply there.
    pub word: Option<&'static str>,
    /// One phrase that says why.
    pub text: String,
}

#[derive(Debug)]
pub struct LedgerRow {
    pub seq: u64,
    pub at: Moment,
    pub author: String,
    pub subject: String,
    pub text: String,
    pub cause: Option<u64>,
    pub kind: &'static str,
}

impl ConsoleModel {
    #[must_use]
    pub fn of(view: &View) -> ConsoleModel {
        ConsoleModel {
            site: view.site,
            as_of: when::full(view.as_of, Lang::En),
            strip: strip(view),
            now: Now::of(view),
            tickets: view.tickets.iter().map(|ticket| tickets::card(ticket, view)).collect(),
            services: view.services.iter().map(|service| services::row(service, view)).collect(),
            sites: SiteTable::of(view),
            recent: recent(view),
            ledger: ledger(view),
        }
    }
}

impl ConsoleModel {
    #[must_use]
    pub fn timeline(&self, brief: &bool) -> &[LedgerRow] {
        if *brief { &self.recent } else { &self.ledger }
    }
}

fn strip(view: &View) -> Strip {
    let trouble = match &view.decide.trouble {
        Some(trouble) => Some(trouble.clone()),
        None if !view.is_agreed() => Some("no agreed state: what follows is this site's own view".to_owned()),
        None => None,
    };
    Strip {
        agreed: view.is_agreed(),
        sites: Site::ALL.into_iter().map(|site| site_dot(view, site)).collect(),
        quorum: format!("{}/3", Site::ALL.into_iter().filter(|site| view.decides(*site)).count()),
        quorum_ok: view.decide.quorum,
        leader: view.decide.leader.map_or_else(|| "none".to_owned(), |site| site.to_string()),
        news: when::moment(view.as_of, view.as_of, Lang::En),
        last_change: view.ledger.last().map(|entry| when::moment(entry.wall, view.as_of, Lang::En)),
        trouble,
    }
}

pub fn site_dot(view: &View, site: Site) -> SiteDot {
    let (agents, linked, decides) = (view.fresh_agents(site), view.hears_broker(site), view.decides(site));
    let (class, word) = match (linked, decides) {
        _ if view.is_lost(site) => ("down", Some("lost")),
        (true, true) if agents.good == agents.of => ("up", None),
        (false, false) => ("unknown", Some("not heard")),
        _ => ("degraded", Some("in part")),
    };
    let link = if linked { "broker heard" } else { "broker not heard" };
    let quorum = if decides { "decides" } else { "does not decide" };
    SiteDot { site, class, word, text: format!("{link}, {} of {} agents fresh, {quorum}", agents.good, agents.of) }
}

/// The whole tail of the ledger, newest first.
fn ledger(view: &View) -> Vec<LedgerRow> {
    view.ledger.iter().rev().take(MAX_LEDGER_ROWS).map(|entry| ledger_row(entry, view.as_of)).collect()
}

/// The newest entries that tell something new: without what follows from another alarm, and without a second word about
/// the same raise. What happened to several professions at once is one row.
fn recent(view: &View) -> Vec<LedgerRow> {
    let folded: BTreeSet<&str> = view
        .ledger
        .iter()
        .filter_map(|entry| match &entry.what {
            LedgerEvent::Alarm { event: AlarmEvent::CauseFound { alarm, .. } } => Some(alarm.as_str()),
            _ => None,
        })
        .collect();
    let mut rows: Vec<LedgerRow> = Vec::new();
    let mut last: Option<(&LedgerEntry, Vec<&str>)> = None;
    for entry in view.ledger.iter().rev().filter(|entry| !is_noise(entry, &folded)) {
        let profession = profession(entry);
        if let (Some((newer, all)), Some(row), Some(profession)) = (&mut last, rows.last_mut(), profession)
            && (newer.index, &newer.subject) == (entry.index, &entry.subject)
            && newer.text.replacen(all[0], profession, 1) == entry.text
        {
            all.push(profession);
            row.seq = entry.seq;
            row.text = newer.text.replacen(all[0], &all.iter().rev().copied().collect::<Vec<_>>().join(", "), 1);
            continue;
        }
        if rows.len() >= RECENT_ROWS {
            break;
        }
        last = profession.map(|profession| (entry, vec![profession]));
        rows.push(ledger_row(entry, view.as_of));
    }
    rows
}

fn is_noise(entry: &LedgerEntry, folded: &BTreeSet<&str>) -> bool {
    match &entry.what {
        LedgerEvent::Alarm { event: AlarmEvent::Annunciated { .. } | AlarmEvent::CauseFound { .. } } => true,
        LedgerEvent::Alarm { event: AlarmEvent::Raised { alarm, .. } | AlarmEvent::Cleared { alarm, .. } } => {
            folded.contains(alarm.as_str())
        }
        _ => false,
    }
}

/// Whose emergency procedure the entry is about.
fn profession(entry: &LedgerEntry) -> Option<&str> {
    let LedgerEvent::Service { event: ServiceEvent::Procedure { profession, .. } } = &entry.what else { return None };
    Some(profession)
}

fn ledger_row(entry: &LedgerEntry, now: Wall) -> LedgerRow {
    let kind = match entry.subject.split(':').next().unwrap_or_default() {
        "alarm" | "alarms" => "alarm",
        "ticket" => "ticket",
        "service" => "service",
        "incident" => "incident",
        "intervention" => "planned",
        _ => "other",
    };
    LedgerRow {
        seq: entry.seq,
        at: when::moment(entry.wall, now, Lang::En),
        author: entry.author.clone(),
        subject: entry.subject.clone(),
        text: entry.text.clone(),
        cause: entry.cause,
        kind,
    }
}
