//! The behaviours that SNMP has to show: 2, 9, 10, 11, 12. (1 needs to see request numbers and stands beside the
//! session.)

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test that cannot go on says so by panicking")]

#[path = "support/snmp_agent.rs"]
mod snmp_agent;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bcp_agent::config::Access;
use bcp_agent::schedule::Outcome;
use bcp_agent::source::Polled;
use bcp_agent::source::snmp::message::field;
use bcp_agent::source::snmp::usm::{AuthProtocol, PrivProtocol, Secret, User};
use bcp_wire::BadReason;
use snmp_agent::{
    Asked, END_OF_VIEW, Engine3, ROOT, Say, agent, counter32, counter64, device, link, number, oid, points, prompt,
    text, ticks,
};
use snmp2::snmp;

const TIMEOUT: Duration = Duration::from_millis(200);
const BUDGET: Duration = Duration::from_secs(3);

fn public() -> Access {
    Access::community("public")
}

fn bad(polled: &Polled) -> BTreeMap<String, BadReason> {
    polled.samples.iter().filter_map(|(name, _, v)| Some((name.to_string(), v.clone().err()?))).collect()
}

fn numbers(polled: &Polled) -> BTreeMap<String, f64> {
    polled.samples.iter().filter_map(|(name, _, v)| Some((name.to_string(), v.as_ref().ok()?.as_num()?))).collect()
}

/// Every good value is the number in its name.
fn assert_right(polled: &Polled) {
    for (name, value) in numbers(polled) {
        assert_eq!(name.split('.').nth(1).unwrap().parse(), Ok(value), "{name}");
    }
}

/// A way to be wrong: what is sent instead of the right answer.
type Lie = fn(&Asked, &[u8]) -> Vec<u8>;

const LIES: &[(&str, Lie)] = &[
    ("nothing", |_, _| Vec::new()),
    ("one byte", |_, _| vec![0x30]),
    ("cut in the middle", |_, right| right[..right.len() / 2].to_vec()),
    ("its last byte missing", |_, right| right[..right.len() - 1].to_vec()),
    ("a length that is too long", |_, right| [&[0x30, 0x84, 0x7F, 0xFF, 0xFF, 0xFF], &right[2..]].concat()),
    ("a length of lengths", |_, right| [&[0x30, 0xFF], &right[2..]].concat()),
    ("an indefinite length", |_, right| [&[0x30, 0x80], &right[2..], &[0, 0]].concat()),
    ("only tags", |_, _| vec![0x30; 2_000]),
    ("17 KiB of nothing", |_, _| vec![0; 17 * 1024]),
    ("60 KB", |_, right| [right, &vec![0xAA; 60_000]].concat()),
    ("another number", |asked, _| changed(asked, |asked| asked.id += 1)),
    ("a negative number", |asked, _| changed(asked, |asked| asked.id = -5)),
    ("another community", |asked, _| changed(asked, |asked| asked.community = b"private".to_vec())),
    ("another version", |asked, _| changed(asked, |asked| asked.version = 0)),
    ("other identifiers", |asked, _| changed(asked, |asked| asked.oids = vec![oid("1.3.6.1.2.1.1.5.0")])),
    ("no variables", |asked, _| changed(asked, |asked| asked.oids.clear())),
    ("a request", |asked, _| {
        let pdu = snmp_agent::pdu(snmp::MSG_GET, asked.id, 0, 0, &[]);
        field(0x30, &[&number(1), &text("public"), &pdu])
    }),
    ("a trap", |asked, _| {
        let pdu = snmp_agent::pdu(snmp::MSG_TRAP, asked.id, 0, 0, &[]);
        field(0x30, &[&number(1), &text("public"), &pdu])
    }),
    ("version 3", |_, _| field(0x30, &[&number(3), &field(0x30, &[&number(1)])])),
    ("a value of no type", |asked, _| values(asked, &[0xDF, 1, 1])),
    ("a value that is too long", |asked, _| values(asked, &[2, 0x7F, 1])),
    ("a number of no bytes", |asked, _| values(asked, &[2, 0])),
    ("a number of 200 bytes", |asked, _| values(asked, &field(2, &[&[1; 200]]))),
    ("a text of 9 KB", |asked, _| values(asked, &field(4, &[&[b'x'; 9_000]]))),
    ("an identifier without an end", |asked, _| values(asked, &field(6, &[&[0x2B, 0xFF, 0xFF]]))),
];

fn changed(asked: &Asked, change: impl Fn(&mut Asked)) -> Vec<u8> {
    let mut other = asked.clone();
    change(&mut other);
    other.message(&other.right()).unwrap()
}

fn values(asked: &Asked, value: &[u8]) -> Vec<u8> {
    asked.message(&Say::Values(asked.oids.iter().map(|oid| (oid.clone(), value.to_vec())).collect())).unwrap()
}

#[tokio::test]
async fn behaviour_02_hostile_answers_give_bad_quality_and_the_next_cycle_is_well() {
    for (what, lie) in LIES {
        let lying = Arc::new(AtomicUsize::new(0));
        let switch = Arc::clone(&lying);
        let agent = prompt(move |asked| {
            let right = asked.message(&asked.right()).unwrap();
            if switch.load(Ordering::SeqCst) == 1 && !asked.is_uptime() {
                Say::Bytes(lie(asked, &right))
            } else {
                Say::Bytes(right)
            }
        })
        .await;
        let mut device = device(link(&agent.address, public(), Duration::from_millis(40)), &points(3));
        assert_eq!(numbers(&device.poll(BUDGET).await).len(), 3, "{what}");
        lying.store(1, Ordering::SeqCst);
        for _ in 0..2 {
            let polled = device.poll(BUDGET).await;
            assert_eq!((numbers(&polled).len(), bad(&polled).len()), (0, 3), "{what}: {:?}", polled.samples);
        }
        lying.store(0, Ordering::SeqCst);
        let polled = device.poll(BUDGET).await;
        assert_right(&polled);
        assert_eq!(numbers(&polled).len(), 3, "{what}: {:?}", polled.trouble);
    }
}

/// Two counters of 32 and 64 bits that grow by what they are told, on a device of some uptime.
#[tokio::test]
async fn behaviour_09_a_wrap_is_a_rate_and_a_restart_is_none() {
    let (small, large, uptime) =
        (Arc::new(AtomicU32::new(u32::MAX - 1_000)), Arc::new(AtomicU64::new(5)), Arc::new(AtomicU32::new(90_000)));
    let (c32, c64, up) = (Arc::clone(&small), Arc::clone(&large), Arc::clone(&uptime));
    let began = Instant::now();
    let agent = prompt(move |asked| {
        let since = u32::try_from(began.elapsed().as_millis() / 10).unwrap();
        Say::Values(
            asked
                .oids
                .iter()
                .map(|oid| {
                    (
                        oid.clone(),
                        match oid.arcs().last() {
                            Some(1) => counter32(c32.load(Ordering::SeqCst)),
                            Some(2) => counter64(c64.load(Ordering::SeqCst)),
                            _ => ticks(up.load(Ordering::SeqCst) + since),
                        },
                    )
                })
                .collect(),
        )
    })
    .await;
    let rest = points(2).replace("read = ", "rate = true\nscale = 8\nread = ");
    let mut device = device(link(&agent.address, public(), TIMEOUT), &rest);
    assert_eq!(device.poll(BUDGET).await.samples.len(), 0, "one reading says nothing, and is no fault");
    let mut grow = async |by: u32| {
        small.fetch_add(by, Ordering::SeqCst);
        large.fetch_add(u64::from(by), Ordering::SeqCst);
        let polled = device.poll(BUDGET).await;
        (numbers(&polled), bad(&polled))
    };
    // Over the top of 32 bits, and on.
    for _ in 0..2 {
        let (rates, bad) = grow(4_000).await;
        assert!(bad.is_empty() && rates.len() == 2 && rates.values().all(|rate| *rate > 0.0), "{rates:?} {bad:?}");
        let most = rates.values().copied().fold(0.0, f64::max);
        assert!(rates.values().all(|rate| *rate > most / 10.0), "both grew by the same: {rates:?}");
    }
    // It restarts: counters and uptime begin anew.
    uptime.store(0, Ordering::SeqCst);
    small.store(10, Ordering::SeqCst);
    large.store(10, Ordering::SeqCst);
    let (rates, bad) = grow(0).await;
    assert!(rates.is_empty() && bad.is_empty(), "{rates:?} {bad:?}");
    let (rates, _) = grow(500).await;
    assert_eq!(rates.len(), 2);
}

const TABLE: &str = "[snmp]\n[[table]]\nlabel = \"1.3.6.1.4.1.4242.1.2\"\nmax_rows = 50\n\
    [[table.point]]\nname = \"host.fs.{id}.size\"\ncolumn = \"1.3.6.1.4.1.4242.1.3\"\n";

fn row(n: u32) -> (bcp_agent::oid::Oid, Vec<u8>) {
    (oid(ROOT).below(&[2, n]), text(&format!("row {n}")))
}

/// Rows a device of [`TABLE`] shows when its walk is answered by `walk`, the requests it took, the time.
async fn walked(walk: impl Fn(&Asked) -> Vec<(Duration, Say)> + Send + 'static) -> (usize, usize, Duration) {
    let agent = agent(
        move |asked| {
            if asked.kind == snmp::MSG_GET { vec![(Duration::ZERO, asked.right())] } else { walk(asked) }
        },
    )
    .await;
    let mut device = device(link(&agent.address, public(), TIMEOUT), TABLE);
    let began = Instant::now();
    let polled = device.poll(BUDGET).await;
    (polled.samples.len(), agent.requests.load(Ordering::SeqCst), began.elapsed())
}

fn now(values: Vec<(bcp_agent::oid::Oid, Vec<u8>)>) -> Vec<(Duration, Say)> {
    vec![(Duration::ZERO, Say::Values(values))]
}

/// The rows after the one that was asked for, of `rows`.
fn following(asked: &Asked, rows: u32) -> Vec<(bcp_agent::oid::Oid, Vec<u8>)> {
    let count = if asked.kind == snmp::MSG_GET_BULK { asked.second } else { 1 };
    let after = oid(ROOT).below(&[2]).suffix_of(&asked.oids[0]).map_or(0, |index| index[0]);
    let mut found: Vec<_> = (after + 1..=rows).take(count as usize).map(row).collect();
    if found.len() < count as usize {
        found.push((oid(ROOT).below(&[3, 1]), number(1)));
    }
    found
}

#[tokio::test]
async fn behaviour_10_walks_end_at_every_guard() {
    let (rows, ..) = walked(|asked| now(following(asked, 7))).await;
    assert_eq!(rows, 7, "leaving the subtree");
    let (rows, ..) = walked(|asked| {
        let mut rows = following(asked, 3);
        rows.truncate(3);
        if let Some(last) = rows.last_mut() {
            last.1 = END_OF_VIEW.to_vec();
        }
        now(rows)
    })
    .await;
    assert_eq!(rows, 2, "end of the view");
    let (rows, requests, _) = walked(|_| now(vec![row(1), row(2), row(1), row(2)])).await;
    assert!(rows == 2 && requests < 6, "a circle within an answer");
    let (rows, requests, _) = walked(|_| now(vec![row(4), row(5)])).await;
    assert!(rows == 2 && requests < 6, "a circle over answers: {rows} {requests}");
    let (rows, requests, _) = walked(|asked| now(vec![(asked.oids[0].clone(), text("x"))])).await;
    assert!(rows == 0 && requests < 6, "an identifier that does not grow");
    let (rows, requests, _) = walked(|asked| now(following(asked, u32::MAX))).await;
    assert!(rows == 50 && requests < 230, "the bounds of rows shown and looked at: {rows} {requests}");
    let (rows, requests, _) = walked(|_| now(Vec::new())).await;
    assert!(rows == 0 && requests < 6, "an empty answer");
    // One row at a time, each after a tenth of the time there is.
    let (rows, _, took) = walked(|asked| {
        let next = following(asked, u32::MAX).remove(0);
        vec![(BUDGET / 10 / 2, Say::Values(vec![next]))]
    })
    .await;
    assert!(rows == 0 && took < BUDGET + TIMEOUT, "the budget: {took:?}");
}

#[tokio::test]
async fn behaviour_10_repetitions_are_halved_on_trouble_and_remembered() {
    for trouble in ["tooBig", "genErr", "silence", "too long an answer"] {
        let agent = agent(move |asked| {
            if asked.kind == snmp::MSG_GET {
                return vec![(Duration::ZERO, asked.right())];
            }
            let first = oid(ROOT).below(&[2]) == asked.oids[0];
            if asked.second > 4 && !(trouble == "silence" && first) {
                return match trouble {
                    "tooBig" => vec![(Duration::ZERO, Say::Error(1, 0))],
                    "genErr" => vec![(Duration::ZERO, Say::Error(5, 0))],
                    "silence" => vec![],
                    _ => vec![(Duration::ZERO, Say::Bytes(vec![0; 20_000]))],
                };
            }
            let mut rows = following(asked, 30);
            // In silence the first answer is short, so that the device is known to live.
            rows.truncate(if trouble == "silence" { 4 } else { usize::MAX });
            now(rows)
        })
        .await;
        let mut device = device(link(&agent.address, public(), TIMEOUT), TABLE);
        let polled = device.poll(BUDGET).await;
        assert_eq!(polled.samples.len(), 30, "{trouble}: {:?}", polled.trouble);
    }
}

#[tokio::test]
async fn version_1_walks_with_getnext_and_loses_one_point_for_a_missing_name() {
    let missing = oid(ROOT).below(&[2]);
    let agent = prompt(move |asked| {
        assert!(asked.version == 0 && asked.kind != snmp::MSG_GET_BULK);
        match asked.oids.iter().position(|oid| *oid == missing) {
            Some(at) => Say::Error(2, u32::try_from(at + 1).unwrap()),
            None => asked.right(),
        }
    })
    .await;
    let access = Access::V1 { community: "public".to_owned() };
    let mut device = device(link(&agent.address, access.clone(), TIMEOUT), &points(5));
    for _ in 0..2 {
        let polled = device.poll(BUDGET).await;
        assert_right(&polled);
        assert_eq!(bad(&polled), BTreeMap::from([("outlet.2.current".to_owned(), BadReason::Exception)]));
    }
    let agent = prompt(|asked| match asked.kind {
        snmp::MSG_GET => asked.right(),
        snmp::MSG_GET_NEXT => Say::Values(following(asked, 6)),
        _ => Say::Nothing,
    })
    .await;
    let mut device = self::device(link(&agent.address, access.clone(), TIMEOUT), TABLE);
    assert_eq!(device.poll(BUDGET).await.samples.len(), 6);
    // The table is the last thing the device has: noSuchName ends the walk.
    let agent = prompt(|asked| match asked.kind {
        snmp::MSG_GET => asked.right(),
        _ if asked.oids[0] == row(6).0 => Say::Error(2, 1),
        _ => Say::Values(following(asked, 6)),
    })
    .await;
    let mut device = self::device(link(&agent.address, access, TIMEOUT), TABLE);
    assert_eq!(device.poll(BUDGET).await.samples.len(), 6);
}

fn user(name: &str, auth_key: &str, priv_key: &str) -> Arc<User> {
    Arc::new(User::new(
        name.to_owned(),
        String::new(),
        Some((AuthProtocol::Sha1, Secret::new(auth_key))),
        Some((PrivProtocol::Aes128, Secret::new(priv_key))),
    ))
}

const ENGINE: [u8; 9] = [0x80, 0, 0, 0, 1, 10, 0, 0, 1];

/// One cycle; all three points must be right.
async fn well(device: &mut bcp_agent::source::snmp::SnmpDevice, what: &str) {
    let polled = device.poll(BUDGET).await;
    assert_right(&polled);
    assert_eq!(numbers(&polled).len(), 3, "{what}: {:?}", polled.trouble);
}

#[tokio::test]
async fn behaviour_11_time_reboots_and_changed_identities_are_followed() {
    let op = user("operator", "maplesyrup", "maplesyrup");
    let engine = Engine3::new(&ENGINE, 7, &op);
    let address = engine.serve(Asked::right).await;
    let mut device = device(link(&address, Access::V3(Arc::clone(&op)), TIMEOUT), &points(3));
    well(&mut device, "first").await;
    assert_eq!(device.engine_id(), Some(&ENGINE[..]));
    // Who it is was asked once; everything else was believed at once.
    assert_eq!(*engine.reports.lock().unwrap(), [4]);
    well(&mut device, "known engine").await;
    assert_eq!(engine.reports.lock().unwrap().len(), 1);

    // Its clock runs away.
    *engine.started.lock().unwrap() -= Duration::from_secs(3_000);
    well(&mut device, "after resynchronisation").await;
    assert_eq!(*engine.reports.lock().unwrap(), [4, 2]);

    // It restarts: boots up, time from zero. The same cycle is well.
    engine.boots.fetch_add(1, Ordering::SeqCst);
    *engine.started.lock().unwrap() = Instant::now();
    well(&mut device, "after a reboot").await;
    assert_eq!(*engine.reports.lock().unwrap(), [4, 2, 2]);

    // It forgets its boots (battery empty), which the standard would not forgive.
    engine.boots.store(1, Ordering::SeqCst);
    well(&mut device, "after boots went back").await;

    // Another device takes its place.
    *engine.id.lock().unwrap() = vec![0x80, 0, 0, 0, 1, 10, 0, 0, 2];
    well(&mut device, "after an exchange").await;
    assert_eq!(device.engine_id().unwrap().last(), Some(&2));
}

#[tokio::test]
async fn behaviour_11_cloned_engine_ids_do_not_disturb_each_other() {
    let op = user("operator", "maplesyrup", "maplesyrup");
    let mut devices = Vec::new();
    let mut engines = Vec::new();
    for (boots, age) in [(3, 10), (900, 5_000)] {
        let engine = Engine3::new(&ENGINE, boots, &op);
        *engine.started.lock().unwrap() -= Duration::from_secs(age);
        let address = engine.serve(Asked::right).await;
        devices.push(device(link(&address, Access::V3(Arc::clone(&op)), TIMEOUT), &points(3)));
        engines.push(engine);
    }
    for _ in 0..3 {
        for device in &mut devices {
            well(device, "cloned").await;
        }
    }
    for engine in engines {
        assert_eq!(*engine.reports.lock().unwrap(), [4], "neither ever lost its time");
    }
}

#[tokio::test]
async fn behaviour_11_a_wrong_key_or_user_is_named_and_not_called_a_timeout() {
    let op = user("operator", "maplesyrup", "maplesyrup");
    let engine = Engine3::new(&ENGINE, 7, &op);
    let address = engine.serve(Asked::right).await;
    for (who, want) in [
        (user("operator", "maplesyrop", "maplesyrup"), "authentication failed"),
        (user("operater", "maplesyrup", "maplesyrup"), "unknown user"),
        (user("operator", "maplesyrup", "maplesyrop"), "privacy failed"),
    ] {
        let mut device = device(link(&address, Access::V3(who), TIMEOUT), &points(3));
        for _ in 0..2 {
            let polled = device.poll(BUDGET).await;
            let trouble = polled.trouble.clone().unwrap_or_default();
            assert!(trouble.contains(want), "{want}: {trouble}");
            assert!(bad(&polled).values().all(|reason| *reason == BadReason::Auth), "{:?}", polled.samples);
            assert_ne!(polled.outcome, Outcome::Silent);
        }
    }
    // The right key is given to the device later: the next cycle is well.
    let late = user("operator", "anotherone", "anotherone");
    let mut device = device(link(&address, Access::V3(Arc::clone(&late)), TIMEOUT), &points(3));
    assert_eq!(numbers(&device.poll(BUDGET).await).len(), 0);
    *engine.user.lock().unwrap() = late;
    well(&mut device, "keys changed at the device").await;
}

#[tokio::test]
async fn behaviour_12_a_slow_device_costs_its_budget_and_no_more() {
    let agent = agent(|asked| vec![(Duration::from_millis(150), asked.right())]).await;
    let rest = points(40).replace("max_oids = 40", "max_oids = 1");
    let mut device = device(link(&agent.address, public(), TIMEOUT), &rest);
    let budget = Duration::from_millis(700);
    let began = Instant::now();
    let polled = device.poll(budget).await;
    assert!(began.elapsed() < budget + TIMEOUT, "{:?}", began.elapsed());
    assert_right(&polled);
    let good = numbers(&polled).len();
    assert!(good > 0 && bad(&polled).len() == 40 - good, "what was read counts, the rest is bad");
    assert_eq!(polled.samples.iter().filter(|(_, _, v)| *v == Err(BadReason::Timeout)).count(), 40 - good);
}
