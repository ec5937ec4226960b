//! Agreement, incidents, procedures, days.

use std::collections::BTreeMap;

use bcp_wire::{Id, Site};

use super::agree::{Agreement, agree};
use super::days::DAY_MS;
use super::incident::{DOWN_BEFORE_INCIDENT_MS, Template, UP_BEFORE_RESOLVE_MS};
use super::procedure::{STAND_DOWN_MS, next};
use super::{
    IncidentCommand, IncidentEvent, IncidentPhase, LANGUAGES, ProcedurePhase, ServiceEvent, ServiceSight,
    ServiceStatus, ServiceVotes, State, Text,
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
        self.state.on_votes(LogTime(self.now), &ServiceVotes { observer, session: 1, services });
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
            let (services, incidents) = self.state.tick(LogTime(self.now), self.wall(), &self.policy);
            self.services.extend(services);
            self.incidents.extend(incidents);
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
        let (services, incidents) = log.state.tick(LogTime(log.now), log.wall(), &log.policy.clone());
        log.services.extend(services);
        log.incidents.extend(incidents);
    }
    assert_eq!(log.state.incidents.len(), 1);
    assert_eq!(log.state.incidents["inc-000001"].services.len(), 2);
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
    let every: Vec<(&str, &str)> = LANGUAGES.iter().map(|language| (*language, "we know more")).collect();
    say(&every, None).unwrap();
    let incident = &log.state.incidents["inc-000001"];
    assert_eq!((incident.phase, incident.updates.len()), (IncidentPhase::Identified, 3));
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
