use std::path::PathBuf;
use std::time::Duration;

use bcp_wire::presence::PointMeta;
use bcp_wire::{AgentStatus, ClockState, WIRE_VERSION};

use bcp_wire::envelope::MAX_INFLATED_BYTES;

use super::*;
use crate::serve::view::QualityWord;

const T0: i64 = 1_790_000_000_000;

struct Bench {
    intake: Intake,
    store: Option<Store>,
    dir: PathBuf,
    live: Vec<String>,
    links: BTreeMap<Site, LinkHealth>,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let dir =
            std::env::temp_dir().join(format!("bcp-intake-{name}-{}-{:x}", std::process::id(), rand::random::<u64>()));
        let store = Store::open(&dir, Duration::from_secs(86_400 * 36_500)).unwrap();
        Bench { intake: Intake::new(store.marks()), store: Some(store), dir, live: Vec::new(), links: BTreeMap::new() }
    }

    fn at(&mut self, now: u64, topic: &str, payload: &[u8]) {
        let store = self.store.as_ref().unwrap();
        let live = &mut self.live;
        self.intake.arrive((Mono(now), Wall(T0)), Site::A, (topic.as_bytes(), payload), store, &mut |event| {
            live.push(match event {
                Live::Reading { device, point, value, quality, .. } => {
                    format!("{device} {point} {} {quality}", value.map_or("-".into(), ToString::to_string))
                }
                Live::Device { meta, .. } => format!("device {}", meta.device),
                Live::Agent { agent, source, .. } => format!("{agent} {}", source.as_str()),
                Live::Reachability { device, reachable } => format!("{device} {reachable}"),
            });
        });
    }

    fn batch(&mut self, now: u64, lane: &str, i: u64, s: u64, t: i64, charge: f64) {
        let json = format!(r#"{{"v":1,"i":{i},"s":{s},"t":{},"vals":{{"battery.charge":{charge}}}}}"#, T0 + t);
        self.at(now, &format!("bcp/v1/a/gw-a/{lane}/ups-a1"), json.as_bytes());
    }

    fn state(&mut self, now: u64, i: u64, status: AgentStatus) {
        let state = AgentState {
            v: WIRE_VERSION,
            i,
            status,
            t: T0,
            version: "0.1.0".into(),
            config_hash: "00".into(),
            clock: ClockState::Unknown,
            next_within_ms: 10_000,
            session: format!("s{i}"),
        };
        self.at(now, "bcp/v1/a/gw-a/state", &state.to_json());
    }

    fn judge(&mut self, now: u64) {
        let live = &mut self.live;
        self.intake.judge_sources(Mono(now), &self.links, &mut |event| {
            if let Live::Agent { agent, source, .. } = event {
                live.push(format!("{agent} {}", source.as_str()));
            }
        });
    }

    fn commit(&mut self) {
        self.store.as_ref().unwrap().commit(&self.intake.group).unwrap();
        self.intake.group.clear();
    }

    fn shown(&self, now: u64) -> (Option<Value>, QualityWord, Option<&'static str>) {
        let devices = self.intake.devices();
        let device = &devices["ups-a1"];
        let point = device.judged(device.point("battery.charge").unwrap(), Mono(now));
        (point.value, point.quality, point.reason)
    }

    fn history(&self) -> Vec<i64> {
        let (device, point) = ("ups-a1".parse().unwrap(), "battery.charge".parse().unwrap());
        let all = self.store.as_ref().unwrap().history(&device, &point, 0, i64::MAX).unwrap().unwrap_or_default();
        all.iter().map(|sample| sample.t - T0).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.store.take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_duplicate_changes_nothing_even_after_a_restart() {
    let mut bench = Bench::new("duplicates");
    bench.batch(1_000, "data", 7, 1, 0, 98.5);
    bench.batch(1_001, "data", 7, 1, 0, 98.5);
    bench.commit();
    assert_eq!((bench.intake.samples, bench.intake.duplicates), (1, 1));
    drop(bench.store.take());
    let store = Store::open(&bench.dir, Duration::from_secs(86_400 * 36_500)).unwrap();
    bench.intake = Intake::new(store.marks());
    bench.store = Some(store);
    bench.batch(2_000, "hist", 7, 1, 0, 98.5);
    bench.batch(2_000, "hist", 7, 3, 500, 97.0);
    bench.commit();
    assert_eq!(bench.history(), [0, 500]);
    let agent = AgentRef { site: Site::A, agent: "gw-a".parse().unwrap() };
    let mark =
        bench.store.as_ref().unwrap().marks_of(&agent).unwrap().watermark(Site::A, &std::collections::BTreeSet::new());
    assert!(mark.covers(7, 1) && !mark.covers(7, 2) && mark.covers(7, 3));
}

#[test]
fn backlog_is_stored_and_never_judged() {
    let mut bench = Bench::new("backlog");
    bench.batch(10_000, "data", 7, 10, 10_000, 90.0);
    bench.live.clear();
    bench.batch(10_100, "hist", 7, 3, 3_000, 99.0);
    bench.batch(10_200, "data", 7, 4, 4_000, 98.0);
    assert!(bench.live.is_empty(), "{:?}", bench.live);
    assert_eq!(bench.shown(10_200).0, Some(Value::Num(90.0)));
    bench.commit();
    assert_eq!(bench.history(), [3_000, 4_000, 10_000]);
}

#[test]
fn readings_that_waited_in_the_broker_are_old_when_they_arrive() {
    let mut bench = Bench::new("waited");
    bench.batch(100_000, "data", 7, 60, 59_000, 90.0);
    // A device whose batch waited for a minute, beside one that did not.
    let json = format!(r#"{{"v":1,"i":7,"s":61,"t":{T0},"vals":{{"ups.load":10}}}}"#);
    bench.at(100_010, "bcp/v1/a/gw-a/data/ups-a2", json.as_bytes());
    let devices = bench.intake.devices();
    let late = devices["ups-a2"].judged_points(Mono(100_010)).next().unwrap();
    assert_eq!((late.quality, late.reason), (QualityWord::Stale, Some("old")));
    assert_eq!(bench.shown(100_010).1, QualityWord::Good);
}

#[test]
fn sources_that_go_away_make_their_points_unknown() {
    let mut bench = Bench::new("sources");
    let up = LinkHealth { connected: true, heard: Some(Mono(1_000)), lost: Mono(0) };
    bench.links.insert(Site::A, up);
    bench.state(1_000, 7, AgentStatus::Online);
    bench.batch(1_000, "data", 7, 1, 0, 98.5);
    bench.judge(1_100);
    assert_eq!(bench.shown(1_100).1, QualityWord::Good);
    bench.state(1_200, 6, AgentStatus::Lost);
    assert_eq!(bench.shown(1_200).1, QualityWord::Good, "a will of an older incarnation is ignored");
    bench.state(1_300, 7, AgentStatus::Lost);
    assert_eq!(bench.shown(1_300), (Some(Value::Num(98.5)), QualityWord::Stale, Some("agent_lost")));
    bench.state(1_400, 8, AgentStatus::Online);
    assert_eq!(bench.shown(1_400).1, QualityWord::Good);
    bench.links.insert(Site::A, LinkHealth { connected: false, lost: Mono(1_500), ..up });
    bench.judge(1_500 + LINK_GRACE_MS);
    assert_eq!(bench.shown(3_500).1, QualityWord::Good, "a reconnect is no loss");
    bench.judge(1_501 + LINK_GRACE_MS);
    assert_eq!(bench.shown(3_501).2, Some("broker_away"));
    let said: Vec<&str> = bench.live.iter().filter(|l| l.starts_with("gw-a")).map(String::as_str).collect();
    assert_eq!(said, ["gw-a fresh", "gw-a agent_lost", "gw-a fresh", "gw-a broker_away"]);
}

#[test]
fn a_gap_closes_the_hole_and_is_shown() {
    let mut bench = Bench::new("gap");
    bench.batch(1_000, "data", 7, 5, 0, 98.5);
    let gap = format!(
        r#"{{"v":1,"i":7,"s":6,"t":{T0},"kind":"gap","incarnation":7,"from":1,"through":4,"samples":40,"reason":"spool full"}}"#
    );
    bench.at(1_100, "bcp/v1/a/gw-a/event/gw-a", gap.as_bytes());
    bench.commit();
    let agent = AgentRef { site: Site::A, agent: "gw-a".parse().unwrap() };
    let mark =
        bench.store.as_ref().unwrap().marks_of(&agent).unwrap().watermark(Site::A, &std::collections::BTreeSet::new());
    assert_eq!((mark.marks[0].through, mark.marks[0].holes.len()), (6, 0));
    assert_eq!(bench.intake.devices()["gw-a"].gaps[0].samples, Some(40));
    assert_eq!(bench.store.as_ref().unwrap().events(&"gw-a".parse().unwrap(), 10).unwrap()[0].kind, "gap");
}

#[test]
fn a_device_belongs_to_one_agent_at_a_time() {
    let mut bench = Bench::new("owner");
    bench.batch(1_000, "data", 7, 1, 0, 98.5);
    let thief = format!(r#"{{"v":1,"i":1,"s":1,"t":{T0},"vals":{{"battery.charge":1}}}}"#);
    bench.at(1_100, "bcp/v1/a/gw-x/data/ups-a1", thief.as_bytes());
    assert_eq!(bench.intake.refused.get("taken_device"), Some(&1));
    assert_eq!(bench.shown(1_100).0, Some(Value::Num(98.5)));
    bench.state(1_200, 7, AgentStatus::Offline);
    let moved = format!(r#"{{"v":1,"i":1,"s":2,"t":{T0},"vals":{{"battery.charge":2}}}}"#);
    bench.at(1_300, "bcp/v1/a/gw-x/data/ups-a1", moved.as_bytes());
    assert_eq!(bench.shown(1_300).0, Some(Value::Num(2.0)), "a device may move once its agent is gone");
}

#[test]
fn descriptions_give_units_intervals_and_deflated_payloads_are_read() {
    let mut bench = Bench::new("meta");
    let meta = DeviceMeta {
        v: WIRE_VERSION,
        i: 7,
        device: "ups-a1".parse().unwrap(),
        kind: "ups".into(),
        profile: None,
        firmware: None,
        firmware_proven: true,
        parent: None,
        location: None,
        points: vec![PointMeta {
            name: "battery.charge".parse().unwrap(),
            unit: "%".into(),
            interval_ms: 60_000,
            source: Some("1.3.6".into()),
        }],
    };
    let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut deflated, &meta.to_json()).unwrap();
    bench.batch(1_000, "data", 7, 1, 0, 98.5);
    bench.at(1_000, "bcp/v1/a/gw-a/meta/ups-a1", &deflated.finish().unwrap());
    assert!(bench.intake.refused.is_empty(), "{:?}", bench.intake.last_refused);
    assert_eq!(bench.shown(150_000).1, QualityWord::Good, "2.5 times a minute");
    let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![b' '; 2 * MAX_INFLATED_BYTES]).unwrap();
    bench.at(2_000, "bcp/v1/a/gw-a/meta/ups-a1", &bomb.finish().unwrap());
    assert_eq!(bench.intake.refused.get("too_large"), Some(&1));
}

#[test]
fn ten_thousand_random_payloads_are_counted_and_leave_nothing_behind() {
    let mut bench = Bench::new("random");
    bench.batch(1_000, "data", 7, 1, 0, 98.5);
    let valid = br#"{"v":1,"i":7,"s":2,"t":1790000000123,"vals":{"battery.charge":98.5}}"#;
    let leaves =
        ["state", "meta/ups-a1", "data/ups-a1", "hist/ups-a1", "event/ups-a1", "cmd", "ack/a", "x/y/z", "meta/UPS"];
    let mut dice = 0x9E37_79B9_7F4A_7C15u64;
    let mut roll = || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice
    };
    for _ in 0..10_000 {
        let leaf = leaves[roll() as usize % leaves.len()];
        let mut payload = match roll() % 3 {
            0 => (0..roll() % 300).map(|_| roll() as u8).collect::<Vec<u8>>(),
            1 => valid[..roll() as usize % valid.len()].to_vec(),
            _ => valid.to_vec(),
        };
        payload.insert(roll() as usize % (payload.len() + 1), (roll() % 32) as u8);
        bench.at(2_000, &format!("bcp/v1/a/intruder/{leaf}"), &payload);
    }
    let refused: u64 = bench.intake.refused.values().sum();
    assert!(refused > 9_900, "{refused} {:?}", bench.intake.refused);
    assert!(bench.intake.last_refused.as_ref().is_some_and(|offender| offender.head.len() <= 4 * OFFENDER_BYTES));
    assert_eq!(bench.intake.devices().len(), 1);
    assert_eq!(bench.shown(2_000).1, QualityWord::Good);
}

#[test]
fn samples_dated_far_ahead_or_long_before_are_shown_and_not_stored() {
    let mut bench = Bench::new("mistimed");
    bench.batch(1_000, "data", 7, 1, MAX_AHEAD_MS, 1.0);
    bench.batch(1_100, "data", 7, 2, MAX_AHEAD_MS + 1, 2.0);
    for (s, offset) in [(3, i64::MIN), (4, i64::MAX)] {
        let json = format!(
            r#"{{"v":1,"i":7,"s":{s},"t":{T0},"vals":{{"battery.charge":3,"input.voltage":4}},"dt":{{"battery.charge":{offset}}}}}"#
        );
        bench.at(1_200, "bcp/v1/a/gw-a/data/ups-a1", json.as_bytes());
    }
    assert_eq!((bench.intake.mistimed, bench.intake.samples), (3, 3));
    let stored: Vec<i64> = bench.intake.group.samples.iter().map(|(_, sample)| sample.t - T0).collect();
    assert_eq!(stored, [MAX_AHEAD_MS, 0, 0]);
    assert_eq!(bench.intake.group.marks.len(), 4, "their payloads are taken in, and do not come again");
    let device = bench.intake.devices()[&"ups-a1".parse::<Id>().unwrap()].clone();
    assert_eq!(device.points[0].value, Some(Value::Num(3.0)), "shown: whatever the clock says, it was just read");
}
