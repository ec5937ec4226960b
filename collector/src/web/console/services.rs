//! Services: one line each, and a page with everything behind it.

use bcp_core::status::{ProcedurePhase, ServiceStatus};
use bcp_wire::{Id, Site, Value};

use super::words::{english, status_word};
use crate::serve::view::{DeviceView, ServiceView, View};
use crate::web::public::lang::Lang;
use crate::web::public::when::{self, Moment};

#[derive(Debug)]
pub struct ServiceRow {
    pub id: String,
    pub title: String,
    pub class: &'static str,
    pub word: &'static str,
    pub by_site: Vec<State>,
    pub since: Option<Moment>,
    /// One line.
    pub reason: String,
    pub agreed: bool,
    pub procedure: Option<String>,
    pub incident: Option<String>,
}

/// Somebody's or somewhere's state: site, class and word.
#[derive(Debug)]
pub struct State {
    pub site: Site,
    pub class: &'static str,
    pub word: &'static str,
}

#[derive(Debug)]
pub struct ServicePage {
    pub row: ServiceRow,
    pub ticket: Option<String>,
    /// What made the agreed state what it is, when it became so.
    pub reason: String,
    pub says: Vec<Says>,
    pub checks: Vec<CheckRow>,
    pub procedures: Vec<(String, &'static str, Moment)>,
    /// What the public was told, newest first.
    pub told: Vec<(Moment, &'static str, String)>,
}

/// One collector's word.
#[derive(Debug)]
pub struct Says {
    pub state: State,
    pub explain: String,
    pub age_ms: u64,
}

#[derive(Debug)]
pub struct CheckRow {
    pub id: String,
    pub target: String,
    pub from: Site,
    pub class: &'static str,
    pub word: String,
    pub latency: String,
    pub age_ms: Option<u64>,
}

fn state(site: Site, status: ServiceStatus) -> State {
    State { site, class: status.as_str(), word: status_word(status) }
}

pub fn row(service: &ServiceView, view: &View) -> ServiceRow {
    let why = match service.status {
        // What it became good by is of no interest; what the checks say now is.
        ServiceStatus::Up => &service.local_explain,
        ServiceStatus::Degraded | ServiceStatus::Down | ServiceStatus::Planned | ServiceStatus::Unknown => {
            &service.explain
        }
    };
    ServiceRow {
        id: service.id.to_string(),
        title: english(&service.title).unwrap_or_else(|| service.id.to_string()),
        class: service.status.as_str(),
        word: status_word(service.status),
        by_site: service.by_site.iter().map(|(site, status)| state(*site, *status)).collect(),
        since: service.since.map(|at| when::moment(at, view.as_of, Lang::En)),
        reason: if why.is_empty() { service.local_explain.clone() } else { why.clone() },
        agreed: service.agreed,
        procedure: procedure(service),
        incident: service.incident.clone(),
    }
}

/// The furthest that any profession is, and which they are.
fn procedure(service: &ServiceView) -> Option<String> {
    let steps = [
        (ProcedurePhase::On, "ON"),
        (ProcedurePhase::StandingDown, "being stood down"),
        (ProcedurePhase::Armed, "armed"),
    ];
    steps.into_iter().find_map(|(phase, word)| {
        let who = service.procedures.iter().filter(|(_, found)| found.phase == phase).map(|(who, _)| who.as_str());
        let who: Vec<&str> = who.collect();
        (!who.is_empty()).then(|| format!("{word} for {}", who.join(", ")))
    })
}

impl ServicePage {
    #[must_use]
    pub fn of(view: &View, id: &str) -> Option<ServicePage> {
        let service = view.services.iter().find(|service| service.id.as_str() == id)?;
        let at = |at| when::moment(at, view.as_of, Lang::En);
        let replica = view.replica.as_deref();
        let says = replica.into_iter().flat_map(|replica| {
            replica.services.votes.iter().filter_map(|(site, vote)| {
                let sight = vote.services.get(&service.id)?;
                let age_ms = replica.log_time.since(vote.heard);
                Some(Says { state: state(*site, sight.status), explain: sight.explain.clone(), age_ms })
            })
        });
        let incident =
            replica.zip(service.incident.as_ref()).and_then(|(replica, id)| replica.services.incidents.get(id));
        let told = incident.into_iter().flat_map(|incident| incident.updates.iter().rev());
        let procedures = service.procedures.iter();
        Some(ServicePage {
            row: row(service, view),
            ticket: service.ticket.as_ref().map(Id::to_string),
            reason: service.explain.clone(),
            says: says.collect(),
            checks: checks(view, &service.id),
            procedures: procedures
                .map(|(who, found)| (who.clone(), found.phase.words(), at(found.since_wall)))
                .collect(),
            told: told.map(|update| (at(update.wall), update.phase.as_str(), update.text.for_operators())).collect(),
        })
    }
}

fn checks(view: &View, service: &Id) -> Vec<CheckRow> {
    let policy = view.replica.as_ref().and_then(|replica| replica.policy.as_ref());
    let listed = policy.and_then(|policy| policy.services.get(service)).map(|service| service.checks.as_slice());
    let looks_at_it = |device: &&DeviceView| {
        let named =
            device.meta.as_ref().is_some_and(|meta| meta.kind == "check" && meta.parent.as_ref() == Some(service));
        named || listed.is_some_and(|listed| listed.contains(&device.id))
    };
    let devices = view.devices.values().map(AsRef::as_ref).filter(looks_at_it);
    let mut rows: Vec<CheckRow> = devices.map(|device| check_row(device, view)).collect();
    rows.sort_by(|a, b| (a.class == "up").cmp(&(b.class == "up")).then(a.id.cmp(&b.id)));
    rows
}

fn check_row(device: &DeviceView, view: &View) -> CheckRow {
    let good = |name: &str| device.point(name).and_then(|point| point.good_value(view.mono, device.source));
    let (class, word) = match good("check.state").and_then(Value::as_text) {
        Some("up") => ("up", "up"),
        Some("degraded") => ("degraded", "degraded"),
        Some("down") => ("down", "down"),
        _ => ("unknown", "unknown"),
    };
    let place = device.location().unwrap_or("users");
    CheckRow {
        id: device.id.to_string(),
        target: if place == "users" { "as users see it".to_owned() } else { format!("site {place}") },
        from: device.site,
        class,
        word: word.to_owned(),
        latency: good("check.latency")
            .and_then(Value::as_num)
            .map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0}\u{202f}ms")),
        age_ms: device.age_ms(view.mono),
    }
}
