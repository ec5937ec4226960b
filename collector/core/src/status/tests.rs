//! Agreement, incidents, procedures, days.

use std::collections::BTreeMap;

use bcp_wire::{Id, Site};

use super::agree::{Agreement, agree};
use super::days::DAY_MS;
use super::incident::{DOWN_BEFORE_INCIDENT_MS, Template, UP_BEFORE_RESOLVE_MS};
use super::intervention::Plan;
use super::procedure::{STAND_DOWN_MS, next};
use super::{
    IncidentCommand, IncidentEvent, IncidentPhase, Intervention, InterventionCommand, InterventionEvent, LANGUAGES,
    ProcedurePhase, ServiceEvent, ServiceSight, ServiceStatus, ServiceVotes, State, Text, WorkPhase,
};
use crate::policy::{Policy, ServicePolicy, Timing};
use crate::time::{LogTime, Wall};
use ServiceStatus::{Degraded, Down, Planned, Unknown, Up};

/// 2026-10-01 00:00 UTC.
const START: i64 = 20_727 * DAY_MS;

fn rx() -> Id {
    "prescriptions".parse().unwrap()
}

fn policy() -> Policy {
    let steps = BTreeMap::from([("en".to_owned(), "use paper".to_owned())]);
    let service = ServicePolicy {
        title: BTreeMap::new(),
        summary: BTreeMap::new(),
        order: 1,
        ticket: None,
        checks: Vec::new(),
        effect: BTreeMap::new(),
        procedure: BTreeMap::from([("doctor".to_owned(), steps)]),
        still_works: BTreeMap::new(),
        contact: BTreeMap::new(),
    };
    let other: Id = "patient-portal".parse().unwrap();
    Policy {
        sites: Default::default(),
        pools: Default::default(),
        timing: Timing::METRO,
        tickets: BTreeMap::new(),
        services: BTreeMap::from([(rx(), service.clone()), (other, service)]),
    }
}

struct Log {
    state: State,
    policy: Policy,
    now: u64,
    services: Vec<ServiceEvent>,
    incidents: Vec<IncidentEvent>,
}

impl Log {
    fn new() -> Log {
        Log { state: State::default(), policy: policy(), now: 0, services: Vec::new(), incidents: Vec::new() }
    }

    fn say(&mut self, observer: Site, statuses: &[(&str, ServiceStatus)]) {
        let sight = |status| ServiceSight {
            status,
            by_site: BTreeMap::from([(Site::A, status)]),
            explain: "2 of 3 checks".into(),
        };
        let services = statuses.iter().map(|(id, status)| (id.parse().unwrap(), sight(*status))).collect();
        self.state.on_votes(LogTime(self.now), &ServiceVotes { observer, session: 1, seq: 0, services });
    }

    fn wall(&self) -> Wall {
        Wall(START + i64::try_from(self.now).unwrap())
    }

    /// Passes time in ticks of 250 ms; the given observers repeat the status of the service.
    fn pass(&mut self, ms: u64, saying: &[(Site, ServiceStatus)]) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 250;
            for (site, status) in saying {
                self.say(*site, &[("prescriptions", *status), ("patient-portal", Up)]);
            }
            let judged = self.state.tick(LogTime(self.now), self.wall(), &self.policy);
            self.services.extend(judged.services);
            self.incidents.extend(judged.incidents);
        }
    }

    fn status(&self) -> ServiceStatus {
        self.state.status(&rx())
    }

    fn procedure(&self) -> ProcedurePhase {
        self.state.services[&rx()].procedures["doctor"].phase
    }
}

const ALL_UP: [(Site, ServiceStatus); 3] = [(Site::A, Up), (Site::B, Up), (Site::W, Up)];
const ALL_DOWN: [(Site, ServiceStatus); 3] = [(Site::A, Down), (Site::B, Down), (Site::W, Down)];

#[test]
fn two_of_three_agree() {
    use Agreement::{Agreed, Split, TooFew};
    for (votes, wanted) in [
        (vec![], TooFew),
        (vec![Down], TooFew),
        (vec![Down, Unknown, Unknown], TooFew),
        (vec![Up, Up], Agreed(Up)),
        (vec![Up, Down], Split),
        (vec![Up, Up, Down], Agreed(Up)),
        (vec![Up, Down, Down], Agreed(Down)),
        (vec![Up, Degraded, Down], Agreed(Degraded)),
        (vec![Unknown, Degraded, Degraded], Agreed(Degraded)),
        (vec![Planned, Planned, Down], Agreed(Planned)),
    ] {
        assert_eq!(agree(&votes), wanted, "{votes:?}");
    }
}

#[test]
fn one_observer_alone_is_unknown_and_silence_expires() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    assert_eq!(log.status(), Up);
    log.pass(1_000, &[(Site::A, Down), (Site::B, Up), (Site::W, Up)]);
    assert_eq!(log.status(), Up, "one of three is not enough");
    log.pass(9_000, &[]);
    assert_eq!(log.status(), Up);
    log.pass(1_500, &[]);
    assert_eq!(log.status(), Unknown, "ten seconds without news");
    log.pass(5_000, &[(Site::A, Up)]);
    assert_eq!(log.status(), Unknown);
    assert_eq!(log.state.at_site(&rx(), Site::A).status, Unknown);
    log.pass(250, &[(Site::A, Up), (Site::B, Up)]);
    assert_eq!((log.status(), log.state.at_site(&rx(), Site::A).status), (Up, Up));
    assert!(log.incidents.is_empty(), "unknown is not an incident");
}

#[test]
fn two_that_differ_have_ten_seconds_to_agree() {
    let mut log = Log::new();
    log.pass(1_000, &[(Site::A, Up), (Site::B, Up)]);
    log.pass(9_000, &[(Site::A, Down), (Site::B, Up)]);
    assert_eq!(log.status(), Up);
    log.pass(2_000, &[(Site::A, Down), (Site::B, Up)]);
    assert_eq!(log.status(), Unknown);
}

#[test]
fn an_outage_opens_an_incident_and_its_end_resolves_it() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    log.pass(DOWN_BEFORE_INCIDENT_MS, &ALL_DOWN);
    assert!(log.incidents.is_empty(), "a blip is none");
    log.pass(1_000, &ALL_DOWN);
    assert_eq!(log.incidents[0], IncidentEvent::Opened { incident: "inc-000001".into(), services: vec![rx()] });
    let incident = &log.state.incidents["inc-000001"];
    assert_eq!(incident.updates[0].text, Text::Template { key: Template::IncidentServiceDown, service: rx() });
    assert_eq!(log.procedure(), ProcedurePhase::On);
    // Unknown resolves nothing.
    log.pass(UP_BEFORE_RESOLVE_MS + 20_000, &[(Site::A, Up)]);
    assert_eq!(log.state.incidents["inc-000001"].phase, IncidentPhase::Investigating);
    log.pass(1_000, &ALL_UP);
    assert_eq!(log.state.incidents["inc-000001"].phase, IncidentPhase::Monitoring);
    assert_eq!(log.procedure(), ProcedurePhase::StandingDown);
    log.pass(UP_BEFORE_RESOLVE_MS, &ALL_UP);
    assert_eq!(log.state.incidents["inc-000001"].phase, IncidentPhase::Resolved);
    assert_eq!(log.state.services[&rx()].incident, None);
    log.pass(STAND_DOWN_MS, &ALL_UP);
    assert_eq!(log.procedure(), ProcedurePhase::Off);
}

#[test]
fn services_that_fail_together_are_one_incident() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    log.pass(8_000, &ALL_DOWN);
    for _ in 0..60 {
        log.now += 250;
        for site in Site::ALL {
            log.say(site, &[("prescriptions", Down), ("patient-portal", Down)]);
        }
        let judged = log.state.tick(LogTime(log.now), log.wall(), &log.policy.clone());
        log.services.extend(judged.services);
        log.incidents.extend(judged.incidents);
    }
    assert_eq!(log.state.incidents.len(), 1);
    assert_eq!(log.state.incidents["inc-000001"].services.len(), 2);
}

#[test]
fn what_reopens_an_incident_is_named_and_what_is_unknown_is_not() {
    let mut log = Log::new();
    let both = |log: &mut Log, ms: u64, portal: ServiceStatus, rx: ServiceStatus| {
        let end = log.now + ms;
        while log.now < end {
            log.now += 250;
            for site in Site::ALL {
                log.say(site, &[("patient-portal", portal), ("prescriptions", rx)]);
            }
            let judged = log.state.tick(LogTime(log.now), log.wall(), &log.policy.clone());
            log.incidents.extend(judged.incidents);
        }
    };
    both(&mut log, 1_000, Up, Up);
    both(&mut log, 10_000, Down, Down);
    both(&mut log, 10_000, Up, Up);
    assert_eq!(log.state.incidents["inc-000001"].phase, IncidentPhase::Monitoring);
    // The first service is unknown now, the second one is down.
    both(&mut log, 10_000, Unknown, Down);
    let incident = &log.state.incidents["inc-000001"];
    assert_eq!(incident.phase, IncidentPhase::Investigating);
    let last = &incident.updates.last().unwrap().text;
    assert_eq!(*last, Text::Template { key: Template::IncidentServiceDown, service: rx() });
}

#[test]
fn a_service_that_left_the_policy_keeps_no_incident_open() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    log.pass(8_000, &ALL_DOWN);
    log.policy.services.remove(&rx());
    log.pass(UP_BEFORE_RESOLVE_MS + 1_000, &[]);
    assert_eq!(log.state.incidents["inc-000001"].phase, IncidentPhase::Resolved);
}

#[test]
fn an_observer_that_knows_nothing_has_no_say() {
    let mut log = Log::new();
    log.pass(1_000, &[(Site::A, Up), (Site::B, Up)]);
    let unknown = [("prescriptions", Unknown), ("patient-portal", Unknown)];
    log.say(Site::W, &unknown);
    assert_eq!((log.state.votes.len(), log.state.freeze().observers), (3, 2));
}

fn all(text: &str) -> BTreeMap<String, String> {
    LANGUAGES.iter().map(|language| ((*language).to_owned(), text.to_owned())).collect()
}

impl Log {
    fn order(&mut self, command: &InterventionCommand) -> Result<Vec<InterventionEvent>, String> {
        let wall = self.wall();
        self.state.on_intervention(LogTime(self.now), wall, "op-1", command)
    }

    /// Work on the service from `from` to `to` milliseconds from now.
    fn plan(&mut self, from: i64, to: i64, site: Option<Site>) -> Result<Vec<InterventionEvent>, String> {
        let wall = self.wall();
        self.order(&InterventionCommand::Plan(Plan {
            services: vec![rx()],
            site,
            title: all("New disks"),
            text: all("We replace disks."),
            starts: Wall(wall.0 + from),
            ends: Wall(wall.0 + to),
            fallback: None,
        }))
    }

    fn work(&self, id: &str) -> &Intervention {
        &self.state.interventions[id]
    }
}

#[test]
fn planned_work_starts_and_ends_at_its_hour_and_what_fails_in_it_is_no_incident() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    log.plan(10_000, 40_000, None).unwrap();
    log.pass(9_000, &ALL_UP);
    assert_eq!(log.work("work-000001").phase, WorkPhase::Scheduled);
    log.pass(1_000, &ALL_UP);
    assert_eq!(
        (log.work("work-000001").phase, log.status()),
        (WorkPhase::InProgress, Up),
        "what works is shown working"
    );
    log.pass(20_000, &ALL_DOWN);
    assert_eq!((log.status(), log.procedure()), (Planned, ProcedurePhase::Off));
    assert!(log.incidents.is_empty());
    assert_eq!(log.state.services[&rx()].days.last().unwrap().planned_ms, 20_000 - 250);
    // It overruns: from its announced end on a fault is a fault.
    log.pass(10_250, &ALL_DOWN);
    assert_eq!((log.work("work-000001").phase, log.status()), (WorkPhase::Completed, Down));
    log.pass(DOWN_BEFORE_INCIDENT_MS, &ALL_DOWN);
    assert_eq!(log.state.incidents.len(), 1);
    assert_eq!(log.state.interventions["work-000001"].updates.len(), 3, "announced, begun, ended");
}

#[test]
fn an_incident_is_not_hidden_by_work_that_begins_later() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    log.pass(10_000, &ALL_DOWN);
    log.plan(0, 60_000, None).unwrap();
    log.pass(10_000, &ALL_DOWN);
    assert_eq!((log.work("work-000001").phase, log.status()), (WorkPhase::InProgress, Down));
    assert_eq!(log.state.incidents["inc-000001"].phase, IncidentPhase::Investigating);
    log.pass(12_000, &[]);
    assert_eq!(log.status(), Unknown, "work makes nothing known");
}

#[test]
fn planned_work_is_extended_and_closed() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    log.plan(5_000, 20_000, None).unwrap();
    let id = || "work-000001".to_owned();
    log.order(&InterventionCommand::Start { intervention: id() }).unwrap();
    assert!(log.order(&InterventionCommand::Start { intervention: id() }).unwrap_err().contains("already"));
    let ends = Wall(log.wall().0 + 60_000);
    let late = InterventionCommand::Extend { intervention: id(), ends, text: all("Longer."), fallback: None };
    log.order(&late).unwrap();
    log.pass(30_000, &ALL_DOWN);
    assert_eq!((log.work("work-000001").ends, log.status()), (ends, Planned));
    let close = InterventionCommand::Close { intervention: id(), text: all("Done."), fallback: None };
    let said = log.order(&close).unwrap();
    assert_eq!(said.last().and_then(InterventionEvent::by), Some("op-1"));
    assert_eq!(log.work("work-000001").ended, Some(log.wall()));
    assert!(log.order(&close).unwrap_err().contains("is over"));
    log.plan(60_000, 120_000, None).unwrap();
    let cancel =
        InterventionCommand::Close { intervention: "work-000002".into(), text: all("Not now."), fallback: None };
    log.order(&cancel).unwrap();
    assert_eq!(log.work("work-000002").phase, WorkPhase::Cancelled);
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_with_its_reason() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    for (from, to, why) in [
        (0, -1, "passed"),
        (20_000, 10_000, "before the start"),
        (0, 31 * DAY_MS, "30 days"),
        (401 * DAY_MS, 402 * DAY_MS, "400 days"),
        (-2 * DAY_MS, 10_000, "a day back"),
        (i64::MIN / 2, i64::MAX / 2, "a day back"),
    ] {
        let refused = log.plan(from, to, None).unwrap_err();
        assert!(refused.contains(why), "{from} {to}: {refused}");
    }
    log.plan(10_000, 20_000, Some(Site::A)).unwrap();
    let refused = log.plan(15_000, 30_000, Some(Site::B)).unwrap_err();
    assert!(refused.contains("work-000001 works on another site"), "{refused}");
    log.plan(20_000, 30_000, Some(Site::B)).unwrap();
    let later = Wall(log.wall().0 + 25_000);
    let late =
        InterventionCommand::Extend { intervention: "work-000001".into(), ends: later, text: all("x"), fallback: None };
    assert!(log.order(&late).unwrap_err().contains("work-000002"));
    let mut other = |services: &[&str], text: BTreeMap<String, String>| {
        let wall = log.wall();
        log.order(&InterventionCommand::Plan(Plan {
            services: services.iter().map(|id| id.parse().unwrap()).collect(),
            site: None,
            title: all("x"),
            text,
            starts: wall,
            ends: Wall(wall.0 + 1_000),
            fallback: None,
        }))
    };
    assert!(other(&["nothing"], all("x")).unwrap_err().contains("no service `nothing`"));
    assert!(other(&[], all("x")).is_err());
    assert!(other(&["prescriptions", "prescriptions"], all("x")).unwrap_err().contains("twice"));
    let english = BTreeMap::from([("en".to_owned(), "x".to_owned())]);
    assert!(other(&["prescriptions"], english).unwrap_err().contains("missing in nl, fr, de"));
}

#[test]
fn a_human_text_has_every_language_or_names_its_stand_in() {
    let mut log = Log::new();
    log.pass(1_000, &ALL_UP);
    log.pass(8_000, &ALL_DOWN);
    let wall = log.wall();
    let mut say = |text: &[(&str, &str)], fallback: Option<&str>| {
        let text = text.iter().map(|(l, t)| ((*l).to_owned(), (*t).to_owned())).collect();
        let command = IncidentCommand::Update {
            incident: "inc-000001".into(),
            text,
            next_update_in_ms: Some(600_000),
            fallback: fallback.map(str::to_owned),
        };
        log.state.on_command(LogTime(9_000), wall, "op-1", &command)
    };
    assert!(say(&[("en", "we know")], None).unwrap_err().contains("missing in nl, fr, de"));
    assert!(say(&[("en", "we know")], Some("nl")).unwrap_err().contains("no text itself"));
    assert!(say(&[("en", "we know"), ("es", "x")], Some("en")).unwrap_err().contains("`es`"));
    say(&[("en", "we know")], Some("en")).unwrap();
    let first = &log.state.incidents["inc-000001"].updates;
    assert_eq!((first.len(), first[0].by.operator()), (1, Some("op-1")), "in place of the automatic one");
    assert!(first[0].replaced_wall.is_some_and(|replaced| replaced.0 > first[0].wall.0), "at its time");
    let mut say = |text: &[(&str, &str)], fallback: Option<&str>| {
        let text = text.iter().map(|(l, t)| ((*l).to_owned(), (*t).to_owned())).collect();
        let fallback = fallback.map(str::to_owned);
        let command =
            IncidentCommand::Update { incident: "inc-000001".into(), text, next_update_in_ms: Some(600_000), fallback };
        log.state.on_command(LogTime(9_000), wall, "op-1", &command)
    };
    let every: Vec<(&str, &str)> = LANGUAGES.iter().map(|language| (*language, "we know more")).collect();
    say(&every, None).unwrap();
    let incident = &log.state.incidents["inc-000001"];
    assert_eq!((incident.phase, incident.updates.len()), (IncidentPhase::Identified, 2));
    assert_eq!(incident.next_update_wall, Some(Wall(wall.0 + 600_000)));
    let resolve = IncidentCommand::Resolve {
        incident: "inc-000001".into(),
        text: every.iter().map(|(l, t)| ((*l).to_owned(), (*t).to_owned())).collect(),
        fallback: None,
    };
    let refused = log.state.on_command(LogTime(9_000), wall, "op-1", &resolve).unwrap_err();
    assert!(refused.contains("prescriptions is not up"), "{refused}");
}

#[test]
fn the_procedure_table() {
    use ProcedurePhase::{Armed, Off, On, StandingDown};
    let phases = [Off, Armed, On, StandingDown];
    for (status, early, late) in [
        (Down, [Armed, Armed, On, On], [On, On, On, On]),
        (Degraded, [Armed, Armed, On, StandingDown], [Armed, Armed, On, StandingDown]),
        (Up, [Off, Off, StandingDown, StandingDown], [Off, Off, StandingDown, Off]),
        (Planned, [Off, Off, StandingDown, StandingDown], [Off, Off, StandingDown, Off]),
        (Unknown, phases, phases),
    ] {
        assert_eq!(phases.map(|phase| next(phase, status, 0, 0)), early, "{status:?}");
        assert_eq!(phases.map(|phase| next(phase, status, u64::MAX, u64::MAX)), late, "{status:?}");
    }
}

#[test]
fn days_add_up_and_a_standstill_is_unmeasured() {
    let mut log = Log::new();
    log.pass(10_000, &ALL_UP);
    log.pass(20_000, &ALL_DOWN);
    let day = *log.state.services[&rx()].days.last().unwrap();
    assert_eq!(day.up_ms + day.down_ms + day.unmeasured_ms, 30_000 - 250);
    assert_eq!(day.down_ms, 20_000 - 250);
    // No quorum for a day and a half: log time stands still, wall time does not.
    log.now += 250;
    let wall = Wall(log.wall().0 + DAY_MS + DAY_MS / 2);
    log.state.tick(LogTime(log.now), wall, &log.policy.clone());
    let days = &log.state.services[&rx()].days;
    assert_eq!(days.len(), 2);
    let unmeasured: u64 = days.iter().map(|day| day.unmeasured_ms).sum();
    assert_eq!(unmeasured, u64::try_from(DAY_MS + DAY_MS / 2).unwrap());
    assert_eq!(days[0].bar(), Down);
    // A hundred days are kept as ninety-one.
    for n in 0..100 {
        log.now += 250;
        log.state.tick(LogTime(log.now), Wall(wall.0 + n * DAY_MS), &log.policy.clone());
    }
    assert_eq!(log.state.services[&rx()].days.len(), super::DAYS_KEPT);
}
