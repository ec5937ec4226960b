//! What the console's screens say, as values; the only place of the console that knows the view's and core's types.

use bcp_core::alarms::{AlarmView, Priority};
use bcp_core::failover::{Explanation, TicketView};
use bcp_core::policy::TicketKind;
use bcp_core::status::ServiceStatus;
use bcp_core::time::Wall;
use bcp_wire::control::Phase;
use bcp_wire::{Id, Site, Value};

use crate::serve::view::{
    Agreement, DECIDE_STALE_MS, DeviceView, LinkState, PointView, QualityWord, SourceState, View,
};
use crate::web::public::lang::Lang;
use crate::web::public::model::state_class;
use crate::web::public::when::{self, Moment};

use super::sites::{SiteCard, site_cards};

/// Alarm rows on the first screen; what is beyond is counted.
const MAX_ALARM_ROWS: usize = 100;
/// Ledger rows of the timeline: all that a view carries.
pub const MAX_LEDGER_ROWS: usize = 200;
/// Device rows in one list; the search narrows it.
pub const MAX_DEVICE_ROWS: usize = 500;

#[derive(Debug)]
pub struct ConsoleModel {
    pub site: Site,
    pub as_of: Moment,
    pub strip: Strip,
    pub alarms: Vec<AlarmRow>,
    /// Alarms that are explained by another one, or not shown for want of room.
    pub symptoms: usize,
    pub hidden: usize,
    pub tickets: Vec<TicketCard>,
    pub services: Vec<ServiceRow>,
    pub sites: Vec<SiteCard>,
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
    pub trouble: Option<String>,
}

#[derive(Debug)]
pub struct SiteDot {
    pub site: Site,
    /// `up`, `degraded`, `down`, `unknown`.
    pub class: &'static str,
    /// One phrase that says why.
    pub text: String,
}

#[derive(Debug)]
pub struct AlarmRow {
    pub anchor: String,
    pub priority: &'static str,
    pub title: String,
    pub asset: String,
    pub device: Option<String>,
    pub site: String,
    pub age_ms: u64,
    pub since: Moment,
    pub state: String,
    pub active: bool,
    pub owner: Option<String>,
    pub explain: String,
    pub runbook: Option<String>,
    pub symptoms: usize,
    pub first_symptoms: String,
    pub agreed: bool,
    pub chattering: bool,
}

#[derive(Debug, Clone)]
pub struct TicketCard {
    pub id: String,
    pub class: &'static str,
    pub holder: String,
    pub epoch: String,
    pub phase: String,
    pub stage: Option<String>,
    pub target: Option<String>,
    pub cause: Option<String>,
    pub countdown: Option<(String, u64)>,
    pub mode: String,
    pub sync: &'static str,
    pub can_move: bool,
    pub can_target: Option<String>,
    pub reasons: Vec<String>,
    pub frozen: Option<String>,
    pub unfenced: bool,
    pub weights: String,
    pub steps: Vec<StepRow>,
    pub troubles: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct StepRow {
    pub kind: &'static str,
    pub place: String,
    pub state: String,
    pub detail: String,
}

#[derive(Debug)]
pub struct ServiceRow {
    pub id: String,
    pub title: String,
    pub class: &'static str,
    pub word: &'static str,
    pub by_site: Vec<(Site, &'static str, &'static str)>,
    pub since: Option<Moment>,
    pub explain: String,
    pub agreed: bool,
    pub procedure: Option<String>,
    pub incident: Option<String>,
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

#[derive(Debug)]
pub struct DeviceRow {
    pub id: String,
    pub site: Site,
    pub kind: String,
    pub location: String,
    pub agent: String,
    pub class: &'static str,
    pub word: String,
    pub points: usize,
    pub age_ms: Option<u64>,
}

#[derive(Debug)]
pub struct DevicePage {
    pub row: DeviceRow,
    pub profile: Option<String>,
    pub firmware: Option<String>,
    pub firmware_proven: bool,
    pub parent: Option<String>,
    pub points: Vec<PointRow>,
    pub gaps: Vec<String>,
}

#[derive(Debug)]
pub struct PointRow {
    pub name: String,
    pub value: String,
    pub unit: String,
    pub class: &'static str,
    pub quality: String,
    pub age_ms: u64,
    pub time: String,
    pub source: String,
    pub interval: String,
    pub numeric: bool,
}

#[derive(Debug)]
pub struct ExplainPage {
    pub card: TicketCard,
    pub explanation: Option<Explanation>,
    pub gates: Vec<GateRow>,
}

#[derive(Debug)]
pub struct GateRow {
    pub place: String,
    pub class: &'static str,
    pub heard: Option<u64>,
    pub seen: String,
    pub closed: bool,
    pub trouble: String,
}

impl ConsoleModel {
    #[must_use]
    pub fn of(view: &View) -> ConsoleModel {
        let causes = || view.alarms.iter().filter(|alarm| alarm.cause.is_none());
        ConsoleModel {
            site: view.site,
            as_of: when::full(view.as_of, Lang::En),
            strip: strip(view),
            alarms: causes().take(MAX_ALARM_ROWS).map(|alarm| alarm_row(alarm, view)).collect(),
            symptoms: view.alarms.iter().filter(|alarm| alarm.cause.is_some()).count(),
            hidden: causes().count().saturating_sub(MAX_ALARM_ROWS),
            tickets: view.tickets.iter().map(ticket_card).collect(),
            services: view.services.iter().map(|service| service_row(service, view.as_of)).collect(),
            sites: site_cards(view),
            ledger: view.ledger.iter().rev().take(MAX_LEDGER_ROWS).map(|entry| ledger_row(entry, view.as_of)).collect(),
        }
    }
}

fn strip(view: &View) -> Strip {
    let alive = |age: &Option<u64>| age.is_some_and(|age| age <= DECIDE_STALE_MS);
    let others = view.decide.members.iter().filter(|(site, age)| **site != view.site && alive(age)).count();
    let own = usize::from(view.decide.age_ms.is_some_and(|age| age <= DECIDE_STALE_MS));
    let trouble = match (&view.decide.trouble, view.agreement) {
        (Some(trouble), _) => Some(trouble.clone()),
        (None, Agreement::Local) => Some("no agreed state: what follows is this site's own view".to_owned()),
        (None, Agreement::Agreed) => None,
    };
    Strip {
        agreed: view.agreement == Agreement::Agreed,
        sites: Site::ALL.into_iter().map(|site| site_dot(view, site)).collect(),
        quorum: format!("{}/3", others + own),
        quorum_ok: view.decide.quorum,
        leader: view.decide.leader.map_or_else(|| "none".to_owned(), |site| site.to_string()),
        trouble,
    }
}

fn site_dot(view: &View, site: Site) -> SiteDot {
    let broker = view.brokers.get(&site).map(|broker| broker.link);
    let agents: Vec<_> = view.agents.iter().filter(|agent| agent.site == site).collect();
    let fresh = agents.iter().filter(|agent| agent.source == SourceState::Fresh).count();
    let decide = match site == view.site {
        true => view.decide.age_ms.is_some_and(|age| age <= DECIDE_STALE_MS),
        false => view.decide.members.get(&site).copied().flatten().is_some_and(|age| age <= DECIDE_STALE_MS),
    };
    let linked = broker == Some(LinkState::Up);
    let class = match (linked, decide) {
        (true, true) if fresh == agents.len() => "up",
        (false, false) => "unknown",
        _ => "degraded",
    };
    let link = if linked { "broker heard" } else { "broker not heard" };
    let quorum = if decide { "decides" } else { "does not decide" };
    SiteDot { site, class, text: format!("{link}, {fresh} of {} agents fresh, {quorum}", agents.len()) }
}

const fn priority(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical => "critical",
        Priority::High => "high",
        Priority::Medium => "medium",
        Priority::Low => "low",
    }
}

/// The English text, or any.
fn english(texts: &std::collections::BTreeMap<String, String>) -> Option<String> {
    texts.get("en").or_else(|| texts.values().next()).cloned()
}

fn alarm_row(alarm: &AlarmView, view: &View) -> AlarmRow {
    let device = alarm.asset.parse::<Id>().ok().filter(|id| view.devices.contains_key(id));
    AlarmRow {
        anchor: format!("alarm-{}", alarm.id.replace('/', "--")),
        priority: priority(alarm.priority),
        title: english(&alarm.title).unwrap_or_else(|| alarm.rule.clone()),
        asset: alarm.asset.clone(),
        device: device.map(|id| id.to_string()),
        site: alarm.site.map_or_else(|| "–".to_owned(), |site| site.to_string()),
        age_ms: alarm.age_ms,
        since: when::moment(Wall(alarm.since_wall_ms), view.as_of, Lang::En),
        state: alarm.state.replace(['_', '-'], " "),
        active: alarm.active,
        owner: alarm.owner.clone().or_else(|| alarm.acknowledged_by.clone()),
        explain: alarm.explain.clone(),
        runbook: alarm.runbook.clone(),
        symptoms: alarm.symptoms,
        first_symptoms: alarm.first_symptoms.join(", "),
        agreed: alarm.agreed,
        chattering: alarm.chattering,
    }
}

fn ticket_card(ticket: &TicketView) -> TicketCard {
    let moving = ticket.stage.is_some();
    let waits = moving || ticket.phase != Phase::Held || ticket.awaiting_confirmation.is_some();
    let shared = ticket.kind == TicketKind::ActiveActive;
    let serving = ticket.holder.is_some() || ticket.weights.values().any(|share| *share > 0);
    let class = match (serving, moving, ticket.frozen.is_some()) {
        (_, true, _) => "degraded",
        (false, false, _) => "down",
        (true, false, true) => "planned",
        (true, false, false) => "up",
    };
    let site = |site: Site| site.to_string();
    let weights: Vec<String> = ticket.weights.iter().map(|(site, share)| format!("{site} {share} %")).collect();
    TicketCard {
        id: ticket.id.to_string(),
        class,
        holder: match ticket.holder {
            Some(holder) => holder.to_string(),
            None if shared && serving => "several sites".to_owned(),
            None => "nobody".to_owned(),
        },
        epoch: ticket.epoch.to_string(),
        phase: ticket.phase.as_str().to_owned(),
        stage: ticket.stage.clone(),
        target: ticket.target.map(site),
        cause: ticket.cause.clone(),
        // A held lease is renewed all the time: its countdown matters only while something moves or waits for a person.
        countdown: ticket.countdown.clone().zip(ticket.countdown_ms).filter(|_| waits),
        mode: word_of(&ticket.mode),
        sync: match ticket.sync.peer_in_sync {
            Some(true) => "standby in sync",
            Some(false) => "standby NOT in sync",
            None => "standby unknown",
        },
        can_move: ticket.can_failover_now.ok,
        can_target: ticket.can_failover_now.target.map(site),
        reasons: ticket.can_failover_now.reasons.clone(),
        frozen: ticket.frozen.as_ref().map(|freeze| format!("frozen: {}", freeze.reason)),
        unfenced: ticket.unfenced,
        weights: weights.join(", "),
        steps: ticket.steps.iter().map(step_row).collect(),
        troubles: ticket
            .gates
            .iter()
            .filter_map(|gate| Some(format!("{}: {}", gate.gate, gate.trouble.as_ref()?)))
            .collect(),
    }
}

fn step_row(step: &bcp_core::failover::view::StepView) -> StepRow {
    let took = step.took_ms.map(|ms| format!("{ms} ms"));
    let attempt = (step.attempt > 1).then(|| format!("attempt {}", step.attempt));
    let detail: Vec<String> = [took, attempt, step.detail.clone()].into_iter().flatten().collect();
    StepRow {
        kind: step.kind.as_str(),
        place: format!("{} {}", step.site, step.gate),
        state: step.state.clone(),
        detail: detail.join(", "),
    }
}

/// The name that serde gives a unit variant.
fn word_of(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

const fn status_word(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Up => "working",
        ServiceStatus::Degraded => "disturbed",
        ServiceStatus::Down => "not working",
        ServiceStatus::Planned => "planned work",
        ServiceStatus::Unknown => "unknown",
    }
}

fn service_row(service: &crate::serve::view::ServiceView, now: Wall) -> ServiceRow {
    let procedure = service.procedures.iter().find(|(_, procedure)| procedure.phase.as_str() != "off");
    ServiceRow {
        id: service.id.to_string(),
        title: english(&service.title).unwrap_or_else(|| service.id.to_string()),
        class: state_class(service.status),
        word: status_word(service.status),
        by_site: service
            .by_site
            .iter()
            .map(|(site, status)| (*site, state_class(*status), status_word(*status)))
            .collect(),
        since: service.since.map(|at| when::moment(at, now, Lang::En)),
        explain: if service.explain.is_empty() { service.local_explain.clone() } else { service.explain.clone() },
        agreed: service.agreed,
        procedure: procedure.map(|(profession, procedure)| format!("{} for {profession}", procedure.phase.as_str())),
        incident: service.incident.clone(),
    }
}

fn ledger_row(entry: &bcp_core::ledger::LedgerEntry, now: Wall) -> LedgerRow {
    let kind = match entry.subject.split(':').next().unwrap_or_default() {
        "alarm" => "alarm",
        "ticket" => "ticket",
        "service" => "service",
        "incident" => "incident",
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

/// Devices whose id, kind, site, location or agent contains every word of `search`, worst first.
#[must_use]
pub fn device_rows(view: &View, search: &str) -> Vec<DeviceRow> {
    let words: Vec<String> = search.split_whitespace().map(str::to_lowercase).collect();
    let mut rows: Vec<DeviceRow> = view
        .devices
        .values()
        .map(|device| device_row(device, view))
        .filter(|row| {
            let all = format!("{} {} {} {} {}", row.id, row.kind, row.site, row.location, row.agent).to_lowercase();
            words.iter().all(|word| all.contains(word.as_str()))
        })
        .collect();
    rows.sort_by(|a, b| (a.class == "up").cmp(&(b.class == "up")).then(a.site.cmp(&b.site)).then(a.id.cmp(&b.id)));
    rows.truncate(MAX_DEVICE_ROWS);
    rows
}

fn device_row(device: &DeviceView, view: &View) -> DeviceRow {
    let not_good =
        device.points.iter().filter(|point| point.judge(view.mono, device.source).0 != QualityWord::Good).count();
    let (class, word) = match device.source {
        SourceState::Fresh if device.points.is_empty() => ("unknown", "no values yet".to_owned()),
        SourceState::Fresh if not_good == 0 => ("up", "good".to_owned()),
        SourceState::Fresh if not_good == device.points.len() => ("down", "no good value".to_owned()),
        SourceState::Fresh => ("degraded", format!("{not_good} not good")),
        away => ("unknown", away.as_str().replace('_', " ")),
    };
    DeviceRow {
        id: device.id.to_string(),
        site: device.site,
        kind: device.kind().to_owned(),
        location: device.meta.as_ref().and_then(|meta| meta.location.clone()).unwrap_or_else(|| "–".to_owned()),
        agent: device.agent.to_string(),
        class,
        word,
        points: device.points.len(),
        age_ms: device.received.map(|received| view.mono.since(received)),
    }
}

impl DevicePage {
    #[must_use]
    pub fn of(view: &View, id: &str) -> Option<DevicePage> {
        let device = view.devices.get(id)?;
        let meta = device.meta.as_ref();
        Some(DevicePage {
            row: device_row(device, view),
            profile: meta.and_then(|meta| meta.profile.as_ref()).map(|profile| profile.id.clone()),
            firmware: meta.and_then(|meta| meta.firmware.clone()),
            firmware_proven: meta.is_none_or(|meta| meta.firmware_proven),
            parent: meta.and_then(|meta| meta.parent.as_ref()).map(Id::to_string),
            points: device.judged_points(view.mono).map(|point| point_row(&point)).collect(),
            gaps: device
                .gaps
                .iter()
                .map(|gap| {
                    format!("{} {}: {} to {} lost ({})", gap.agent, gap.incarnation, gap.from, gap.through, gap.reason)
                })
                .collect(),
        })
    }
}

fn point_row(point: &PointView) -> PointRow {
    let class = match point.quality {
        QualityWord::Good => "up",
        QualityWord::Stale => "unknown",
        QualityWord::Bad => "down",
    };
    let quality = word_of(&point.quality);
    PointRow {
        name: point.point.to_string(),
        value: point.value.as_ref().map_or_else(|| "–".to_owned(), value_text),
        unit: unit(&point.unit).to_owned(),
        class,
        quality: point
            .reason
            .map_or_else(|| quality.clone(), |reason| format!("{quality}: {}", reason.replace('_', " "))),
        age_ms: point.age_ms,
        time: point.time.clone(),
        source: point.source.clone().unwrap_or_else(|| "–".to_owned()),
        interval: format!("{} s", point.interval_ms as f64 / 1000.0),
        numeric: matches!(point.value, Some(Value::Num(_))),
    }
}

/// At most three digits after the point; a console shows values, the API shows all digits.
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Num(number) if number.abs() >= 1e12 => format!("{number:e}"),
        Value::Num(number) => {
            let text = format!("{number:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// `7 s`, `12 min 05 s`, `3 h 10 min`, `2 d 4 h`: the script counts on in the same form.
#[must_use]
pub fn age(ms: impl std::borrow::Borrow<u64>) -> String {
    let s = ms.borrow() / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// Units as people write them.
#[must_use]
pub fn unit(code: &str) -> &str {
    match code {
        "Cel" => "°C",
        "By" => "B",
        "1" => "",
        other => other,
    }
}

impl ExplainPage {
    #[must_use]
    pub fn of(view: &View, id: &str) -> Option<ExplainPage> {
        let ticket = view.tickets.iter().find(|ticket| ticket.id.as_str() == id)?;
        let gates = ticket.gates.iter().map(|gate| GateRow {
            place: format!("{} {}", gate.site, gate.gate),
            class: if gate.present { "up" } else { "unknown" },
            heard: gate.heard_ago_ms,
            seen: gate.seen.to_string(),
            closed: gate.closed,
            trouble: gate.trouble.clone().unwrap_or_default(),
        });
        Some(ExplainPage {
            card: ticket_card(ticket),
            explanation: view.replica.as_ref().and_then(|replica| replica.explain(&ticket.id)),
            gates: gates.collect(),
        })
    }
}
