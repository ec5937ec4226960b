//! Load-time checks, holds, lasting unknown, counts, reload; and the engine against a naive evaluator.

use std::collections::BTreeMap;

use bcp_wire::{DeviceMeta, Id, PointMeta, PointName, Quality, Site, Value, WIRE_VERSION};
use proptest::prelude::*;

use super::{Engine, Event, VoteChange};
use crate::rules::load::{RawRule, RuleSet, load, load_tables};
use crate::status::{LANGUAGES, ServiceStatus};
use crate::time::Mono;

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn raw(for_each: &str, when: &str) -> RawRule {
    RawRule {
        for_each: for_each.into(),
        when: when.into(),
        priority: "high".into(),
        title: LANGUAGES.iter().map(|language| ((*language).to_owned(), "title".to_owned())).collect(),
        ..RawRule::default()
    }
}

fn set(rules: &[(&str, RawRule)]) -> RuleSet {
    let rules = rules.iter().map(|(id, rule)| ((*id).to_owned(), rule.clone())).collect();
    load(&rules, None).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn faults(rule: RawRule) -> Vec<String> {
    let found = load(&BTreeMap::from([("r".to_owned(), rule)]), None).map(|_| ()).unwrap_err();
    found.iter().map(ToString::to_string).collect()
}

fn meta(device: &str, kind: &str, points: &[&str]) -> DeviceMeta {
    let point =
        |name: &&str| PointMeta { name: name.parse().unwrap(), unit: String::new(), interval_ms: 1_000, source: None };
    DeviceMeta {
        v: WIRE_VERSION,
        i: 1,
        device: id(device),
        kind: kind.into(),
        profile: None,
        firmware: None,
        firmware_proven: true,
        parent: None,
        location: None,
        points: points.iter().map(point).collect(),
    }
}

struct Bench {
    engine: Engine,
    votes: BTreeMap<String, Option<bool>>,
}

impl Bench {
    fn new(rules: &[(&str, RawRule)]) -> Bench {
        Bench { engine: Engine::new(set(rules), Vec::new()), votes: BTreeMap::new() }
    }

    fn take(&mut self, changes: Vec<VoteChange>) {
        for VoteChange { key, vote } in changes {
            match vote {
                Some(vote) => self.votes.insert(key, vote.active),
                None => self.votes.remove(&key),
            };
        }
    }

    fn device(&mut self, at: u64, device: &str, kind: &str, points: &[&str]) {
        let meta = meta(device, kind, points);
        let changes = self.engine.step(Mono(at), Event::Device { site: Site::A, agent: &id("gw-a"), meta: &meta });
        self.take(changes);
    }

    fn read(&mut self, at: u64, device: &str, point: &str, value: Value) {
        let (device, point): (Id, PointName) = (id(device), point.parse().unwrap());
        let event = Event::Reading {
            device: &device,
            point: &point,
            value: Some(&value),
            quality: Quality::Good,
            sampled: Mono(at),
        };
        let changes = self.engine.step(Mono(at), event);
        self.take(changes);
    }

    fn num(&mut self, at: u64, device: &str, point: &str, value: f64) {
        self.read(at, device, point, Value::Num(value));
    }

    fn text(&mut self, at: u64, device: &str, point: &str, value: &str) {
        self.read(at, device, point, Value::Text(value.into()));
    }

    fn until(&mut self, at: u64) {
        while let Some(due) = self.engine.next_deadline().filter(|due| due.0 <= at) {
            let changes = self.engine.step(due, Event::Timer);
            self.take(changes);
        }
        let changes = self.engine.step(Mono(at), Event::Timer);
        self.take(changes);
    }

    fn vote(&self, key: &str) -> Option<bool> {
        self.engine.vote(key).unwrap_or_else(|| panic!("no instance {key}")).active
    }
}

#[test]
fn misspelt_names_words_and_units_are_faults_with_suggestions() {
    let ups = r#"kind == "ups""#;
    for (when, wanted) in [
        (r#"p("batery.charge") < 20"#, "did you mean `battery.charge`?"),
        (r#"p("battery.charge") < p("battery.runtime")"#, "a number in % and a number in s cannot be compared"),
        (r#"p("battery.runtime") < duration("6m") && p("battery.charge") > 5000"#, "5000 cannot be a value in %"),
        (r#"p("ups.status") > 5"#, "a text has no order"),
        (r#"p("battery.status") == "lo""#, "did you mean `low`?"),
        (r#"flag("ups.status", "OBB")"#, "did you mean `OB`?"),
        (r#"p("battery.charge")"#, "a condition is wanted here"),
        (r#"avg("battery.charge") < 20"#, "write avg(\"point\", \"10m\")"),
        (r#"mx("battery.charge", "10m") < 20"#, "did you mean `max`?"),
        (r#"avg("battery.charge", "10 minutes") < 20"#, "is no duration"),
        (r#"avg("ups.status", "10m") < 20"#, "is a state, not a number"),
        (r#"k_of_n(3, p("battery.charge") < 20)"#, "from 1 to 1"),
        (r#"p("battery.charge") < "#, "not CEL"),
        (r#"battery.charge < 20"#, "a point is read with p("),
        (r#"count('kind == "crca"', p("battery.charge") < 20) > 1"#, "did you mean `crac`?"),
    ] {
        let found = faults(raw(ups, when));
        assert!(found.iter().any(|fault| fault.contains(wanted)), "{when}: {found:?}");
        assert!(found.iter().all(|fault| fault.starts_with("rule.r.when: ")), "{found:?}");
    }
    let found = faults(raw(r#"knd == "ups""#, "true"));
    assert!(found[0].contains("rule.r.for_each") && found[0].contains("did you mean `kind`?"), "{found:?}");
    let mut rule = raw(ups, "true");
    rule.title.remove("fr");
    rule.priority = "hihg".into();
    rule.hold = Some("30".into());
    let found = faults(rule);
    assert_eq!(found.len(), 3, "all at once: {found:?}");
}

#[test]
fn a_fault_points_into_the_text() {
    let text = r#"p("battery.charge") < 20 || p("batery.runtime") < 5"#;
    let rule = raw(r#"kind == "ups""#, text);
    let found = load(&BTreeMap::from([("r".to_owned(), rule)]), None).unwrap_err();
    let (from, to) = found[0].span.unwrap();
    assert_eq!(&text[from..to], r#""batery.runtime""#);
}

#[test]
fn misspelt_keys_are_told() {
    let table = serde_json::json!({"for_each": "true", "wen": "true", "priority": "low"});
    let tables = BTreeMap::from([("r".to_owned(), table.as_object().unwrap().clone())]);
    let found: Vec<String> = load_tables(&tables, None).unwrap_err().iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|fault| fault.contains("rule.r.wen") && fault.contains("`when`")), "{found:?}");
}

#[test]
fn unknown_pauses_a_hold_and_never_raises_or_clears() {
    let rule = RawRule { hold: Some("10s".into()), ..raw(r#"kind == "ups""#, r#"p("battery.charge") < 20.0"#) };
    let mut bench = Bench::new(&[("low", rule)]);
    bench.device(0, "ups-1", "ups", &["battery.charge"]);
    assert_eq!(bench.vote("low/ups-1"), None);
    bench.num(0, "ups-1", "battery.charge", 90.0);
    assert_eq!(bench.vote("low/ups-1"), Some(false));
    for second in 1..=6 {
        bench.num(second * 1_000, "ups-1", "battery.charge", 10.0);
    }
    // 6 s of truth (its last reading is good for 2.5 s), then silence: the vote is unknown, the hold waits.
    bench.until(30_000);
    assert_eq!(bench.vote("low/ups-1"), None);
    bench.num(30_000, "ups-1", "battery.charge", 10.0);
    assert_eq!(bench.vote("low/ups-1"), Some(false));
    bench.num(32_000, "ups-1", "battery.charge", 10.0);
    assert_eq!(bench.vote("low/ups-1"), Some(false));
    bench.until(33_000);
    assert_eq!(bench.vote("low/ups-1"), Some(true));
    // Unknown: the vote says so, and what was latched is not lost.
    bench.until(60_000);
    assert_eq!(bench.vote("low/ups-1"), None);
    bench.num(60_000, "ups-1", "battery.charge", 10.0);
    assert_eq!(bench.vote("low/ups-1"), Some(true));
}

#[test]
fn lasting_unknown_is_an_alarm_where_the_rule_says_so() {
    let rule = RawRule {
        unknown: Some("alarm".into()),
        unknown_after: Some("60s".into()),
        ..raw(r#"kind == "ups""#, r#"p("battery.charge") < 20.0"#)
    };
    let mut bench = Bench::new(&[("low", rule)]);
    bench.device(0, "ups-1", "ups", &["battery.charge"]);
    bench.num(0, "ups-1", "battery.charge", 90.0);
    bench.until(62_000);
    assert_eq!(bench.vote("low/ups-1"), None);
    bench.until(62_500);
    assert_eq!(bench.vote("low/ups-1"), Some(true));
    let explain = bench.engine.vote("low/ups-1").unwrap().explain;
    assert!(explain.starts_with("unknown for 1m: battery.charge unknown (stale, last good"), "{explain}");
    bench.num(63_000, "ups-1", "battery.charge", 90.0);
    assert_eq!(bench.vote("low/ups-1"), Some(false));
}

#[test]
fn between_the_thresholds_a_fresh_start_does_not_pretend_to_know() {
    let rule = RawRule {
        clear: Some(r#"p("battery.charge") > 30.0"#.into()),
        ..raw(r#"kind == "ups""#, r#"p("battery.charge") < 20.0"#)
    };
    let mut bench = Bench::new(&[("low", rule)]);
    bench.device(0, "ups-1", "ups", &["battery.charge"]);
    bench.num(0, "ups-1", "battery.charge", 25.0);
    assert_eq!(bench.vote("low/ups-1"), None);
    bench.num(1, "ups-1", "battery.charge", 35.0);
    assert_eq!(bench.vote("low/ups-1"), Some(false));
    bench.num(2, "ups-1", "battery.charge", 25.0);
    assert_eq!(bench.vote("low/ups-1"), Some(false));
}

#[test]
fn counts_are_spans_and_gather_changes() {
    let when = r#"count('kind == "crac" && site == asset.site', p("supply.air.temperature") > 27.0) >= 2"#;
    let mut bench = Bench::new(&[("hot", raw(r#"kind == "site" && id == "site-a""#, when))]);
    for unit in ["crac-1", "crac-2", "crac-3"] {
        bench.device(0, unit, "crac", &["supply.air.temperature"]);
    }
    bench.until(100);
    assert_eq!(bench.vote("hot/site-a"), None, "three unknown units may be two hot ones");
    bench.num(200, "crac-1", "supply.air.temperature", 20.0);
    bench.num(210, "crac-2", "supply.air.temperature", 20.0);
    bench.until(300);
    assert_eq!(bench.vote("hot/site-a"), Some(false), "one unknown unit cannot be two hot ones");
    let before = bench.engine.evaluations();
    for at in 400..420 {
        bench.num(at, "crac-2", "supply.air.temperature", at as f64 / 10.0);
    }
    bench.num(430, "crac-3", "supply.air.temperature", 40.0);
    bench.until(500);
    assert_eq!(bench.vote("hot/site-a"), Some(true));
    assert!(bench.engine.evaluations() - before <= 2, "gathered");
    let tree = bench.engine.explain(Mono(500), "hot/site-a").unwrap();
    let named: Vec<&str> = tree.when.parts[0].parts.iter().map(|part| part.text.split(':').next().unwrap()).collect();
    assert_eq!(named, ["crac-2", "crac-3"]);
}

#[test]
fn states_of_devices_agents_and_services_are_asked_by_name() {
    let rules = [
        ("device-unreachable", raw(r#"kind == "ups""#, "!reachable()")),
        ("agent-lost", raw(r#"kind == "agent""#, "agent_lost()")),
        ("rx-down", raw(r#"kind == "site" && id == "site-a""#, r#"service_down("prescriptions")"#)),
        ("on-battery", raw(r#"kind == "ups""#, r#"flag("ups.status", "OB")"#)),
        ("disk", raw(r#"kind == "host""#, r#"highest("host.fs.*.used-share") > 90"#)),
    ];
    let mut bench = Bench::new(&rules);
    bench.device(0, "ups-1", "ups", &["ups.status"]);
    bench.device(0, "srv-1", "host", &["host.fs.root.used-share", "host.fs.data.used-share"]);
    bench.device(0, "gw-a", "agent", &["agent.device.ups-1.reachable"]);
    let agent = |alive| Event::Agent { site: Site::A, agent: Box::leak(Box::new(id("gw-a"))), alive };
    bench.engine.step(Mono(0), agent(Some(true)));
    bench.text(0, "gw-a", "agent.device.ups-1.reachable", "no");
    bench.text(0, "ups-1", "ups.status", "OB DISCHRG");
    bench.num(0, "srv-1", "host.fs.root.used-share", 95.0);
    assert_eq!(bench.vote("device-unreachable/ups-1"), Some(true));
    assert_eq!(bench.vote("agent-lost/gw-a"), Some(false));
    assert_eq!(bench.vote("on-battery/ups-1"), Some(true));
    assert_eq!(bench.vote("disk/srv-1"), Some(true), "one full file system is enough, the other is unknown");
    bench.num(0, "srv-1", "host.fs.root.used-share", 50.0);
    assert_eq!(bench.vote("disk/srv-1"), None, "the other may be full");
    bench.engine.step(Mono(1), agent(Some(false)));
    assert_eq!(bench.vote("agent-lost/gw-a"), Some(true));
    assert_eq!(bench.vote("device-unreachable/ups-1"), None, "nobody is there who could say");
    bench.engine.step(Mono(2), Event::Service { service: &id("prescriptions"), status: ServiceStatus::Down });
    assert_eq!(bench.vote("rx-down/site-a"), Some(true));
    assert_eq!(bench.engine.vote("on-battery/ups-1").unwrap().fed_by, ["gw-a", "site-a"]);
}

#[test]
fn a_device_that_does_not_measure_it_does_not_get_the_rule_and_one_that_goes_is_told() {
    let mut bench = Bench::new(&[("low", raw(r#"kind == "ups""#, r#"p("battery.charge") < 20.0"#))]);
    bench.device(0, "ups-1", "ups", &["ups.load"]);
    assert_eq!(bench.engine.instances(), 0);
    bench.device(1, "ups-1", "ups", &["battery.charge"]);
    assert_eq!(bench.engine.instances(), 1);
    let gone = bench.engine.step(Mono(2), Event::DeviceGone { device: &id("ups-1") });
    assert_eq!(gone, [VoteChange { key: "low/ups-1".into(), vote: None }]);
}

#[test]
fn a_reload_keeps_what_did_not_change() {
    let low = RawRule {
        clear: Some(r#"p("battery.charge") > 30.0"#.into()),
        ..raw(r#"kind == "ups""#, r#"p("battery.charge") < 20.0"#)
    };
    let load_rule = raw(r#"kind == "ups""#, r#"p("ups.load") > 90.0"#);
    let mut bench = Bench::new(&[("low", low.clone()), ("load", load_rule)]);
    bench.device(0, "ups-1", "ups", &["battery.charge", "ups.load"]);
    bench.num(0, "ups-1", "battery.charge", 10.0);
    bench.num(1, "ups-1", "battery.charge", 25.0);
    assert_eq!(bench.vote("low/ups-1"), Some(true));
    let changes = bench.engine.reload(Mono(2), set(&[("low", low)]), Vec::new());
    assert_eq!(bench.vote("low/ups-1"), Some(true), "latched between the thresholds");
    assert!(changes.contains(&VoteChange { key: "load/ups-1".into(), vote: None }), "{changes:?}");
}

#[test]
fn only_readers_of_a_point_are_evaluated() {
    let mut bench = Bench::new(&[
        ("low", raw(r#"kind == "ups""#, r#"p("battery.charge") < 20.0"#)),
        ("load", raw(r#"kind == "ups""#, r#"p("ups.load") > 90.0"#)),
    ]);
    for ups in ["ups-1", "ups-2", "ups-3"] {
        bench.device(0, ups, "ups", &["battery.charge", "ups.load"]);
    }
    let before = bench.engine.evaluations();
    bench.num(1, "ups-2", "ups.load", 50.0);
    assert_eq!(bench.engine.evaluations(), before + 1);
    bench.num(2, "ups-2", "ups.load", 50.0);
    assert_eq!(bench.engine.evaluations(), before + 1, "the same value again changes nothing");
}

/// A condition over three points, written as CEL and evaluated naively beside it.
#[derive(Debug, Clone)]
enum Naive {
    Above(usize, i32),
    Below(usize, i32),
    Not(Box<Naive>),
    And(Box<Naive>, Box<Naive>),
    Or(Box<Naive>, Box<Naive>),
    Two(Box<Naive>, Box<Naive>, Box<Naive>),
}

const POINTS: [&str; 3] = ["battery.charge", "ups.load", "ups.efficiency"];

impl Naive {
    fn cel(&self) -> String {
        match self {
            Naive::Above(point, limit) => format!("p(\"{}\") > {limit}", POINTS[*point]),
            Naive::Below(point, limit) => format!("{limit} >= p(\"{}\")", POINTS[*point]),
            Naive::Not(a) => format!("!({})", a.cel()),
            Naive::And(a, b) => format!("({}) && ({})", a.cel(), b.cel()),
            Naive::Or(a, b) => format!("({}) || ({})", a.cel(), b.cel()),
            Naive::Two(a, b, c) => format!("k_of_n(2, {}, {}, {})", a.cel(), b.cel(), c.cel()),
        }
    }

    /// By trying both values for everything unknown: what is the same either way is known.
    fn truth(&self, values: &[Option<f64>; 3]) -> Option<bool> {
        match self {
            Naive::Above(point, limit) => values[*point].map(|value| value > f64::from(*limit)),
            Naive::Below(point, limit) => values[*point].map(|value| value <= f64::from(*limit)),
            Naive::Not(a) => a.truth(values).map(|known| !known),
            Naive::And(a, b) => vote(&[a.truth(values), b.truth(values)], 2),
            Naive::Or(a, b) => vote(&[a.truth(values), b.truth(values)], 1),
            Naive::Two(a, b, c) => vote(&[a.truth(values), b.truth(values), c.truth(values)], 2),
        }
    }
}

fn vote(of: &[Option<bool>], k: usize) -> Option<bool> {
    let at_best = of.iter().filter(|vote| **vote != Some(false)).count() >= k;
    let at_worst = of.iter().filter(|vote| **vote == Some(true)).count() >= k;
    (at_best == at_worst).then_some(at_best)
}

fn naive() -> impl Strategy<Value = Naive> {
    let leaf = (0..3_usize, 0..100_i32, any::<bool>())
        .prop_map(|(point, limit, above)| if above { Naive::Above(point, limit) } else { Naive::Below(point, limit) });
    leaf.prop_recursive(4, 24, 3, |inner| {
        let inner = inner.prop_map(Box::new);
        prop_oneof![
            inner.clone().prop_map(Naive::Not),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Naive::And(a, b)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Naive::Or(a, b)),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| Naive::Two(a, b, c)),
        ]
    })
}

/// What happens to a device: a point read, a point read badly, or nothing for a while.
#[derive(Debug, Clone)]
enum Happens {
    Read(usize, u8),
    Bad(usize),
    Wait(u16),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0..3_usize, 0..100_u8).prop_map(|(point, value)| Happens::Read(point, value)),
        1 => (0..3_usize).prop_map(Happens::Bad),
        1 => (0..4_000_u16).prop_map(Happens::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The incremental engine says at every moment what a naive evaluation of all values says.
    #[test]
    fn the_engine_agrees_with_a_naive_evaluator(rule in naive(), story in prop::collection::vec(happens(), 1..60)) {
        let rule_text = raw(r#"kind == "ups""#, &rule.cel());
        let mut bench = Bench::new(&[("r", rule_text)]);
        bench.device(0, "ups-1", "ups", &POINTS);
        let mut now = 1;
        let mut samples: [Option<(u64, Option<f64>)>; 3] = [None; 3];
        for event in story {
            match event {
                Happens::Read(point, value) => {
                    bench.num(now, "ups-1", POINTS[point], f64::from(value));
                    samples[point] = Some((now, Some(f64::from(value))));
                }
                Happens::Bad(point) => {
                    let (device, name): (Id, PointName) = (id("ups-1"), POINTS[point].parse().unwrap());
                    let quality = Quality::Bad(bcp_wire::BadReason::Timeout);
                    let event =
                        Event::Reading { device: &device, point: &name, value: None, quality, sampled: Mono(now) };
                    let changes = bench.engine.step(Mono(now), event);
                    bench.take(changes);
                    samples[point] = Some((now, None));
                }
                Happens::Wait(ms) => {
                    now += u64::from(ms);
                    bench.until(now);
                }
            }
            let values = samples.map(|sample| sample.filter(|(at, _)| now - at < 2_500).and_then(|(_, value)| value));
            let want = rule.truth(&values);
            prop_assert_eq!(bench.vote("r/ups-1"), want, "at {} of {}", now, rule.cel());
            prop_assert_eq!(bench.votes.get("r/ups-1").copied().flatten(), want, "changes tell the same story");
        }
    }
}
