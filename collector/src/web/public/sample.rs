//! A made-up publication for tests and for looking at the pages. Nothing in it comes from a real system.

use std::collections::BTreeMap;

use bcp_core::status::ServiceStatus;
use bcp_core::time::Wall;

use super::lang::{Lang, Localised};
use super::model::{
    Day, HISTORY_DAYS, IncidentPhase, Procedure, ProcedurePhase, PublicIncident, PublicModel, PublicService,
    PublicUpdate, PublicWork, PublicWorkUpdate, WorkPhase,
};
use super::when::day_number;

/// 2026-11-23 10:41:20 in Brussels.
pub const AS_OF: Wall = Wall(1_795_426_880_000);
const MINUTE_MS: i64 = 60_000;

fn texts(nl: &str, fr: &str, de: &str, en: &str) -> Localised {
    let pairs = [("nl", nl), ("fr", fr), ("de", de), ("en", en)];
    let texts: BTreeMap<String, String> =
        pairs.into_iter().map(|(lang, text)| (lang.to_owned(), text.to_owned())).collect();
    Localised { texts, fallback: None }
}

/// `count` services; the first is degraded, the third down, the fourth unknown, the fifth planned, where there are so many.
#[must_use]
pub fn sample(count: usize) -> PublicModel {
    let services: Vec<PublicService> = (0..count).map(service).collect();
    let incidents = vec![open_incident(&services), closed_incident(&services)];
    PublicModel {
        sequence: 48_213,
        as_of: AS_OF,
        valid_until: Wall(AS_OF.0 + MINUTE_MS),
        last_change: Some(Wall(AS_OF.0 - 9 * MINUTE_MS)),
        agreeing: Some((3, 3)),
        works: works(&services),
        services,
        incidents,
    }
}

/// The same, as if it were made at `as_of`.
#[must_use]
pub fn at(as_of: Wall, mut model: PublicModel) -> PublicModel {
    let shift = as_of.0 - model.as_of.0;
    let days = day_number(as_of) - day_number(model.as_of);
    let moved = |at: &mut Wall| at.0 += shift;
    moved(&mut model.as_of);
    moved(&mut model.valid_until);
    model.last_change.iter_mut().for_each(moved);
    for service in &mut model.services {
        let times = [&mut service.since, &mut service.procedure.since, &mut service.next_update_due];
        times.into_iter().flatten().for_each(moved);
        service.days.iter_mut().for_each(|day| day.day += days);
    }
    for incident in &mut model.incidents {
        moved(&mut incident.opened);
        [&mut incident.resolved, &mut incident.next_update_due].into_iter().flatten().for_each(moved);
        for update in &mut incident.updates {
            moved(&mut update.at);
            update.replaced.iter_mut().for_each(moved);
        }
    }
    for work in &mut model.works {
        moved(&mut work.starts);
        moved(&mut work.ends);
        work.ended.iter_mut().for_each(moved);
        work.updates.iter_mut().for_each(|update| moved(&mut update.at));
    }
    model
}

/// The same with every service working and no open incident.
#[must_use]
pub fn calm(count: usize) -> PublicModel {
    let mut model = sample(count);
    for service in &mut model.services {
        service.status = ServiceStatus::Up;
        service.incident = None;
        service.procedure.state = ProcedurePhase::Off;
    }
    model.incidents.retain(|incident| incident.phase == IncidentPhase::Resolved);
    model.works.retain(|work| work.phase.is_over());
    model
}

fn service(at: usize) -> PublicService {
    let status = match at {
        0 => ServiceStatus::Degraded,
        2 => ServiceStatus::Down,
        3 => ServiceStatus::Unknown,
        4 => ServiceStatus::Planned,
        _ => ServiceStatus::Up,
    };
    let title = match at {
        0 => texts("Voorschriften", "Prescriptions", "Verordnungen", "Prescriptions"),
        1 => texts("Patiëntenportaal", "Portail patient", "Patientenportal", "Patient portal"),
        _ => {
            let name = format!("Dienst {at}");
            texts(&name, &format!("Service {at}"), &name, &format!("Service {at}"))
        }
    };
    PublicService {
        id: match at {
            0 => "prescriptions".to_owned(),
            1 => "patient-portal".to_owned(),
            _ => format!("service-{at}"),
        },
        title,
        summary: texts(
            "Elektronische voorschriften schrijven en afleveren.",
            "Rédiger et délivrer des prescriptions électroniques.",
            "Elektronische Verordnungen schreiben und abgeben.",
            "Write and dispense electronic prescriptions.",
        ),
        status,
        since: Some(Wall(AS_OF.0 - 9 * MINUTE_MS)),
        effect: vec![
            (
                "doctor".to_owned(),
                texts(
                    "Voorschrijven werkt. Bewaren kan tot een minuut duren.",
                    "La rédaction fonctionne. L’enregistrement peut prendre une minute.",
                    "Verordnen funktioniert. Das Speichern kann eine Minute dauern.",
                    "Prescribing works. Saving may take up to a minute.",
                ),
            ),
            (
                "pharmacist".to_owned(),
                texts(
                    "Afleveren is traag of lukt niet.",
                    "La délivrance est lente ou échoue.",
                    "Die Abgabe ist langsam oder schlägt fehl.",
                    "Dispensing is slow or fails.",
                ),
            ),
        ],
        still_works: texts(
            "Raadplegen van eerdere voorschriften.",
            "La consultation des prescriptions antérieures.",
            "Frühere Verordnungen ansehen.",
            "Looking up earlier prescriptions.",
        ),
        procedure: Procedure {
            state: if at == 0 { ProcedurePhase::On } else { ProcedurePhase::Off },
            since: (at == 0).then_some(Wall(AS_OF.0 - 8 * MINUTE_MS)),
            steps: vec![(
                "pharmacist".to_owned(),
                texts(
                    "1. Lever af op het papieren bewijs.\n2. Noteer het nummer van het voorschrift.\n3. Voer de aflevering in zodra deze pagina zegt dat de procedure uit is.",
                    "1. Délivrez sur la preuve papier.\n2. Notez le numéro de la prescription.\n3. Encodez la délivrance dès que cette page indique que la procédure est désactivée.",
                    "1. Geben Sie auf den Papierbeleg ab.\n2. Notieren Sie die Nummer der Verordnung.\n3. Erfassen Sie die Abgabe, sobald diese Seite sagt, dass das Verfahren aus ist.",
                    "1. Dispense on the paper proof.\n2. Note the number of the prescription.\n3. Enter the dispensing as soon as this page says that the procedure is off.",
                ),
            )],
        },
        contact: texts(
            "Helpdesk 02 123 45 67, dag en nacht",
            "Helpdesk 02 123 45 67, jour et nuit",
            "Helpdesk 02 123 45 67, Tag und Nacht",
            "Help desk 02 123 45 67, day and night",
        ),
        incident: (at == 0).then(|| "2026-14".to_owned()),
        next_update_due: (at == 0).then_some(Wall(AS_OF.0 + 20 * MINUTE_MS)),
        days: days(at),
    }
}

fn days(at: usize) -> Vec<Day> {
    const WHOLE: u64 = 86_400_000;
    let today = day_number(AS_OF);
    let length = if at == 1 { 12 } else { HISTORY_DAYS as i64 };
    (0..length)
        .map(|back| {
            let day = Day { day: today - (length - 1 - back), ..Day::default() };
            match (back + at as i64 * 7) % 41 {
                5 => Day { up_ms: WHOLE - 400_000, degraded_ms: 400_000, ..day },
                17 => Day { up_ms: WHOLE - 130_000, down_ms: 130_000, ..day },
                23 => Day { up_ms: WHOLE - 7_200_000, planned_ms: 7_200_000, ..day },
                31 => Day { up_ms: 1000, unmeasured_ms: WHOLE - 1000, ..day },
                _ => Day { up_ms: WHOLE, ..day },
            }
        })
        .collect()
}

fn open_incident(services: &[PublicService]) -> PublicIncident {
    let service = services.first();
    let title = service.map(|service| &service.title).cloned().unwrap_or_default();
    let human = BTreeMap::from([(
        "fr".to_owned(),
        "Nos techniciens ont trouvé la cause ; la délivrance redevient normale dans la demi-heure.".to_owned(),
    )]);
    PublicIncident {
        id: "2026-14".to_owned(),
        title: Localised::from_message("incident-title-degraded", &title),
        impact: ServiceStatus::Degraded,
        phase: IncidentPhase::Identified,
        opened: Wall(AS_OF.0 - 9 * MINUTE_MS),
        resolved: None,
        next_update_due: Some(Wall(AS_OF.0 + 20 * MINUTE_MS)),
        services: service.map(|service| service.id.clone()).into_iter().collect(),
        updates: vec![
            PublicUpdate {
                id: "2".to_owned(),
                at: Wall(AS_OF.0 - 4 * MINUTE_MS),
                replaced: Some(Wall(AS_OF.0 - 2 * MINUTE_MS)),
                phase: IncidentPhase::Identified,
                text: Localised { texts: human, fallback: Some(Lang::Fr) },
                automatic: false,
            },
            PublicUpdate {
                id: "1".to_owned(),
                at: Wall(AS_OF.0 - 9 * MINUTE_MS),
                replaced: None,
                phase: IncidentPhase::Investigating,
                text: Localised::from_message("incident-service-degraded", &title),
                automatic: true,
            },
        ],
    }
}

fn closed_incident(services: &[PublicService]) -> PublicIncident {
    let service = services.get(1).or(services.first());
    let title = service.map(|service| &service.title).cloned().unwrap_or_default();
    let opened = Wall(AS_OF.0 - 3 * 24 * 60 * MINUTE_MS);
    let resolved = Wall(opened.0 + 17 * MINUTE_MS);
    PublicIncident {
        id: "2026-13".to_owned(),
        title: Localised::from_message("incident-title-down", &title),
        impact: ServiceStatus::Down,
        phase: IncidentPhase::Resolved,
        opened,
        resolved: Some(resolved),
        next_update_due: None,
        services: service.map(|service| service.id.clone()).into_iter().collect(),
        updates: vec![
            PublicUpdate {
                id: "2".to_owned(),
                at: resolved,
                replaced: None,
                phase: IncidentPhase::Resolved,
                text: Localised::from_message("incident-resolved", &title),
                automatic: true,
            },
            PublicUpdate {
                id: "1".to_owned(),
                at: opened,
                replaced: None,
                phase: IncidentPhase::Investigating,
                text: Localised::from_message("incident-service-down", &title),
                automatic: true,
            },
        ],
    }
}

/// One in progress, one to come, one done.
fn works(services: &[PublicService]) -> Vec<PublicWork> {
    const HOUR_MS: i64 = 60 * MINUTE_MS;
    let said = |n: u32, at: i64, phase: WorkPhase, text: Localised, automatic: bool| PublicWorkUpdate {
        id: n.to_string(),
        at: Wall(AS_OF.0 + at),
        phase,
        text,
        automatic,
    };
    let announced = |at: i64| {
        let text = texts(
            "We vervangen schijven. Voorschrijven kan enkele seconden langer duren.",
            "Nous remplaçons des disques. La rédaction peut prendre quelques secondes de plus.",
            "Wir ersetzen Festplatten. Das Verordnen kann einige Sekunden länger dauern.",
            "We replace disks. Prescribing may take some seconds longer.",
        );
        said(1, at, WorkPhase::Scheduled, text, false)
    };
    let begun = |at: i64| {
        said(2, at, WorkPhase::InProgress, Localised::from_message("work-started", &Localised::default()), true)
    };
    let ended =
        |at: i64| said(3, at, WorkPhase::Completed, Localised::from_message("work-ended", &Localised::default()), true);
    let title = || texts("Nieuwe schijven", "Nouveaux disques", "Neue Festplatten", "New disks");
    let of = |at: usize| services.get(at).or(services.first()).map(|service| service.id.clone()).into_iter().collect();
    let work = |id: &str, service: usize, phase: WorkPhase, starts: i64, ends: i64, updates: Vec<PublicWorkUpdate>| {
        PublicWork {
            id: id.to_owned(),
            title: title(),
            services: of(service),
            phase,
            starts: Wall(AS_OF.0 + starts),
            ends: Wall(AS_OF.0 + ends),
            ended: phase.is_over().then_some(Wall(AS_OF.0 + ends)),
            updates,
        }
    };
    vec![
        work(
            "work-000003",
            4,
            WorkPhase::InProgress,
            -HOUR_MS,
            2 * HOUR_MS,
            vec![begun(-HOUR_MS), announced(-50 * HOUR_MS)],
        ),
        work("work-000004", 1, WorkPhase::Scheduled, 40 * HOUR_MS, 43 * HOUR_MS, vec![announced(-40 * HOUR_MS)]),
        work(
            "work-000002",
            0,
            WorkPhase::Completed,
            -100 * HOUR_MS,
            -98 * HOUR_MS,
            vec![ended(-98 * HOUR_MS), begun(-100 * HOUR_MS), announced(-200 * HOUR_MS)],
        ),
    ]
}
