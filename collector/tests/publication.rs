//! What the public sees of one log: the same bytes from every collector, and nothing of the inside.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bcp_collector::Config;
use bcp_collector::web::public::convert::public_model;
use bcp_collector::web::public::{PublicModel, Publisher};
use bcp_core::alarms::{AlarmVote, AlarmVotes, Priority};
use bcp_core::failover::{Observation, Sight};
use bcp_core::policy::Policy;
use bcp_core::replica::{CommandVerb, Item, OperatorCommand, Replica, Tick};
use bcp_core::status::{IncidentCommand, InterventionCommand, Plan, ServiceSight, ServiceStatus, ServiceVotes};
use bcp_core::time::Wall;
use bcp_wire::{Id, Site};
use serde_json::Value;

/// The reference fleet's own policy: its checks, gates and services have names that nobody outside may read.
const POLICY: &str = include_str!("../../deploy/fleet/policy.toml");
const OWN: &str = include_str!("site/collector-a.toml");

const TICK_MS: u64 = 250;
const DAY_MS: i64 = 86_400_000;
/// A minute before a midnight of UTC, so that days change while the log runs.
const START: i64 = 20_779 * DAY_MS - 60_000;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("bcp-publication-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn policy(dir: &Path) -> Policy {
    std::fs::write(dir.join("collector.toml"), OWN).unwrap();
    std::fs::write(dir.join("policy.toml"), POLICY).unwrap();
    Config::load(&dir.join("collector.toml")).unwrap().policy
}

/// What the observers say at a time of the log, milliseconds since its start.
fn status(at: u64) -> ServiceStatus {
    match at / 1_000 {
        0..90 => ServiceStatus::Up,
        90..130 => ServiceStatus::Degraded,
        130..170 => ServiceStatus::Down,
        // An incident is resolved after a minute of this.
        170..300 => ServiceStatus::Up,
        300..310 => ServiceStatus::Unknown,
        _ => ServiceStatus::Up,
    }
}

const REASON: &str = "7 of 9 checks up; rx-a-from-b down: connect 10.20.30.41:18011 from gw-b.dc2.intern refused";

fn votes(policy: &Policy, observer: Site, at: u64) -> Vec<Item> {
    let sight = |id: &Id| ServiceSight {
        status: if id.as_str() == "prescriptions" { status(at) } else { ServiceStatus::Up },
        by_site: BTreeMap::from([(Site::A, status(at)), (Site::B, ServiceStatus::Up)]),
        explain: REASON.to_owned(),
    };
    let services = policy.services.keys().map(|id| (id.clone(), sight(id))).collect();
    let vote = AlarmVote {
        active: Some(at > 60_000),
        priority: Priority::Critical,
        asset: "crac-a1".to_owned(),
        site: Some(Site::A),
        title: BTreeMap::from([("en".to_owned(), "Supply air of crac-a1 too warm".to_owned())]),
        explain: "supply.air.temperature 35.0 Cel of crac-a1 at 10.20.30.41 unit 3".to_owned(),
        ..AlarmVote::default()
    };
    let sights: BTreeMap<Site, Sight> = Site::ALL.map(|site| (site, Sight::Seen)).into();
    vec![
        Item::ServiceVotes(ServiceVotes { observer, session: 7, seq: at + 1, services }),
        Item::AlarmVotes(AlarmVotes {
            observer,
            session: 7,
            full: at == 0,
            votes: BTreeMap::from([("supply-air-hot/crac-a1".to_owned(), vote)]),
        }),
        Item::Observation(Observation {
            observer,
            session: 7,
            seq: at + 1,
            policy_hash: policy.hash(),
            control: sights.clone(),
            agents: sights,
        }),
    ]
}

fn say(at: u64) -> Option<Item> {
    let text = ["nl", "fr", "de", "en"].map(|lang| (lang.to_owned(), "We know the cause.".to_owned()));
    let update = IncidentCommand::Update {
        incident: "inc-000001".to_owned(),
        text: text.into(),
        next_update_in_ms: Some(1_800_000),
        fallback: None,
    };
    let verb = match at {
        20_000 => CommandVerb::Intervention(InterventionCommand::Plan(work())),
        150_000 => CommandVerb::Incident(update),
        _ => return None,
    };
    Some(Item::Command(OperatorCommand { key: format!("k{at}"), operator: "op-3".to_owned(), verb }))
}

/// From half a minute after the start of the log to a minute and a half, over a midnight.
fn work() -> Plan {
    let text = || BTreeMap::from([("en".to_owned(), "New disks at 02:00.".to_owned())]);
    Plan {
        services: vec!["patient-portal".parse().unwrap()],
        site: Some(Site::A),
        title: text(),
        text: text(),
        starts: Wall(START + 30_000),
        ends: Wall(START + 90_000),
        fallback: Some("en".to_owned()),
    }
}

/// Seven minutes of a log: a service is disturbed, fails and comes back; one observer is silent for a while; midnight
/// passes; the quorum is away twice, once for 12 s and once for two days.
fn log(policy: &Policy) -> Vec<(u64, Tick)> {
    let mut wall = START;
    (0..7 * 60 * 4)
        .map(|n| {
            let at = n * TICK_MS;
            let lost = match n {
                800 => 12_000,
                1_400 => 2 * DAY_MS,
                _ => 0,
            };
            wall += TICK_MS as i64 + lost;
            let observers = Site::ALL.into_iter().filter(|site| *site != Site::B || !(40_000..75_000).contains(&at));
            let mut items = Vec::new();
            if n == 0 {
                items.push(Item::Policy(Box::new(policy.clone())));
            }
            if n % 4 == 0 {
                items.extend(observers.flat_map(|observer| votes(policy, observer, at)));
            }
            items.extend(say(at));
            let term = if n < 1_400 { 1 } else { 2 };
            (n + 1, Tick { leader: Site::W, term, elapsed_ms: TICK_MS, wall: Wall(wall), items })
        })
        .collect()
}

/// As serve gets it from decide.
fn sent(replica: &Replica) -> Replica {
    serde_json::from_str(&serde_json::to_string(replica).unwrap()).unwrap()
}

#[test]
fn between_two_points_nothing_that_is_shown_changes() {
    let scratch = Scratch::new("points");
    let policy = policy(&scratch.0);
    let mut replica = Replica::default();
    let mut shown: Option<PublicModel> = None;
    let (mut points, mut ran_on) = (0, 0);
    for (index, tick) in log(&policy) {
        replica.apply(index, &tick);
        let model = public_model(&replica).unwrap();
        match &shown {
            Some(before) if before.sequence == model.sequence => assert_eq!(&model, before, "at {index}"),
            _ => points += 1,
        }
        let id: Id = "prescriptions".parse().unwrap();
        let live = replica.services.services[&id].days.last();
        ran_on += usize::from(replica.publication.frozen.today.get(&id) != live);
        shown = Some(model);
    }
    assert!(points > 20 && ran_on > 1_000, "{points} points; the running day was past its point {ran_on} times");
    assert!(shown.unwrap().services[0].days.len() >= 4, "midnight and two lost days are in it");
}

#[test]
fn three_collectors_publish_the_same_bytes_whenever_they_render() {
    let scratch = Scratch::new("bytes");
    let policy = policy(&scratch.0);
    let mut publishers: Vec<(Site, Publisher)> = Site::ALL
        .into_iter()
        .map(|site| {
            let dir = scratch.0.join(site.as_str());
            (site, Publisher::open(site, &dir.join("publish.key"), &dir.join("export")).unwrap())
        })
        .collect();
    let mut replica = Replica::default();
    let mut point = Replica::default();
    let (mut points, mut compared) = (0, 0);
    for (index, tick) in log(&policy) {
        let before = replica.clone();
        replica.apply(index, &tick);
        if replica.publication.sequence == before.publication.sequence {
            continue;
        }
        // The publication that is over now, as it was at its point, halfway, and one tick before the next: every eighth.
        let first = std::mem::replace(&mut point, replica.clone());
        points += 1;
        if points % 8 != 2 {
            continue;
        }
        for ((site, publisher), held) in publishers.iter_mut().zip([&first, &sent(&first), &sent(&before)]) {
            let now = Wall(before.wall.0 + i64::from(*site == Site::B) * 700);
            publisher.publish(held, now).unwrap();
        }
        compared += 1;
        let trees: Vec<_> =
            Site::ALL.into_iter().map(|site| files(&scratch.0.join(site.as_str()).join("export/current"))).collect();
        let [a, b, w] = trees.as_slice() else { unreachable!() };
        assert!(a.len() > 40, "{} files", a.len());
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        for (path, body) in a {
            let (b, w) = (&b[path], &w[path]);
            if path == "manifest.json" {
                assert_eq!(agreed_part(body), agreed_part(b));
                assert_eq!(agreed_part(body), agreed_part(w));
                assert_ne!(body, b, "each signs with its own key");
            } else {
                assert!(body == b && body == w, "{path} of {} differs", first.publication.sequence);
            }
        }
    }
    assert!(compared >= 3, "{compared} publications compared");
}

/// A manifest without who made it, how late, and the signature.
fn agreed_part(manifest: &[u8]) -> Value {
    let mut whole: Value = serde_json::from_slice(manifest).unwrap();
    let inner = whole["manifest"].as_object_mut().unwrap();
    for own in ["issuer", "lag_ms"] {
        assert!(inner.remove(own).is_some(), "{own}");
    }
    whole["manifest"].take()
}

/// Every file below a directory, by its path in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Names of the inside that stand in the state from which the pages are made.
fn internal_names(policy: &Policy) -> Vec<String> {
    let mut names: Vec<String> =
        policy.services.values().flat_map(|service| &service.checks).map(Id::to_string).collect();
    names.extend(policy.tickets.values().flat_map(|ticket| ticket.gates.values().flatten()).map(Id::to_string));
    let others = [
        "crac-",
        "ups-a",
        "gw-",
        "host-",
        "srv-",
        ".intern",
        "localhost",
        "op-3",
        "site-a",
        "supply.air",
        "agent:",
        "collector:",
        "operator:",
        "epoch",
        "18011",
        "18002",
        "10.20.30",
        REASON,
    ];
    names.extend(others.map(str::to_owned));
    names
}

/// Digits count as a name where they stand alone: within a hash they are chance.
fn says(text: &str, name: &str) -> bool {
    let is_number = name.bytes().all(|b| b.is_ascii_digit());
    let alone = |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        ![before, after].into_iter().flatten().any(|c| c.is_ascii_alphanumeric())
    };
    text.match_indices(name).any(|(at, _)| !is_number || alone(at))
}

/// An IPv4 address, or a port after a colon.
fn address(text: &str) -> Option<&str> {
    let number = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == ':'));
    let address = |word: &&str| {
        let host = word.split(':').next().unwrap_or_default().trim_matches('.');
        let dotted = host.split('.').count() == 4 && host.split('.').all(number);
        let port = word.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && (4..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit())
        });
        dotted || port
    };
    words.into_iter().find(address)
}

/// What a file says. The lines of a calendar begin with names, which look like hosts before a port.
fn values(path: &str, text: &str) -> String {
    let value = |line: &str| line.split_once(':').map_or_else(|| line.to_owned(), |(_, value)| value.to_owned());
    if path.ends_with(".ics") { text.lines().map(value).collect::<Vec<_>>().join("\n") } else { text.to_owned() }
}

#[test]
fn no_name_of_the_inside_is_in_any_public_byte() {
    assert_eq!(address("at 10.1.2.3, then"), Some("10.1.2.3"));
    assert_eq!(address("see x:18011/y"), Some("x:18011"));
    assert_eq!(address("10:41:20 of 23.11.2026, 99.91 %"), None);
    assert!(says("port 18002.", "18002") && says("18002", "18002") && says("xgw-ax", "gw-"));
    assert!(!says("\"a18002f\" 180021", "18002"));

    let scratch = Scratch::new("inside");
    let policy = policy(&scratch.0);
    let names = internal_names(&policy);
    let mut publisher = Publisher::open(Site::A, &scratch.0.join("publish.key"), &scratch.0.join("export")).unwrap();
    let mut replica = Replica::default();
    let (mut scanned, mut seen) = (0, Vec::new());
    for (index, tick) in log(&policy) {
        let before = replica.publication.sequence;
        replica.apply(index, &tick);
        let worst = public_model(&replica).map(|model| (model.services[0].status, model.incidents.len()));
        // Once per kind of page: every state, with and without an incident.
        if replica.publication.sequence == before || seen.contains(&worst) {
            continue;
        }
        seen.push(worst);
        publisher.publish(&replica, replica.wall).unwrap();
        for (path, body) in files(&scratch.0.join("export/current")) {
            let text = String::from_utf8(body).unwrap();
            for name in &names {
                assert!(!says(&text, name) && !says(&path, name), "`{name}` is in {path}");
            }
            assert_eq!(address(&values(&path, &text)), None, "in {path}");
            scanned += 1;
        }
    }
    // The state itself is full of them, so the scan has something to miss.
    let state = serde_json::to_string(&replica).unwrap();
    for name in ["rx-a-from-b", "host-a", "crac-a1", "10.20.30"] {
        assert!(state.contains(name), "{name}");
    }
    assert!(seen.len() >= 5 && scanned > 300, "{scanned} files of {seen:?}");
}
