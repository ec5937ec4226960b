//! Measures the rule engine: changed points per second against 20,000 rule instances, on one core.
//!
//! `cargo run --release -p bcp-core --example rules_rate`

use std::collections::BTreeMap;
use std::error::Error;

use bcp_core::rules::{Engine, Event, RawRule, load};
use bcp_core::time::Mono;
use bcp_wire::{DeviceMeta, Id, PointMeta, PointName, Quality, Site, Value, WIRE_VERSION};

const DEVICES: usize = 4_000;
const RULES: [(&str, &str, Option<&str>); 5] = [
    ("supply.air.temperature", r#"p("supply.air.temperature") > 27.0"#, Some(r#"p("supply.air.temperature") < 25.5"#)),
    ("return.air.temperature", r#"p("return.air.temperature") > 38.0 && p("supply.air.temperature") > 20.0"#, None),
    ("return.air.humidity", r#"p("return.air.humidity") > 70.0 || p("return.air.humidity") < 20.0"#, None),
    ("fan.1.speed", r#"p("fan.1.speed") > 98.0 && p("supply.air.temperature") > p("supply.air.setpoint") + 3.0"#, None),
    (
        "water.flow",
        r#"k_of_n(2, p("water.flow") < 5.0, p("valve.1.position") > 95.0, p("supply.air.temperature") > 26.0)"#,
        None,
    ),
];
const POINTS: [&str; 7] = [
    "supply.air.temperature",
    "return.air.temperature",
    "return.air.humidity",
    "fan.1.speed",
    "supply.air.setpoint",
    "water.flow",
    "valve.1.position",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut raw = BTreeMap::new();
    for (number, (_, when, clear)) in RULES.iter().enumerate() {
        let title = ["nl", "fr", "de", "en"].map(|language| (language.to_owned(), "rule".to_owned()));
        let rule = RawRule {
            for_each: r#"kind == "crac""#.into(),
            when: (*when).into(),
            clear: clear.map(str::to_owned),
            hold: Some("30s".into()),
            priority: "high".into(),
            title: title.into(),
            ..RawRule::default()
        };
        raw.insert(format!("rule-{number}"), rule);
    }
    let rules = load(&raw, None).map_err(|faults| format!("{faults:?}"))?;
    let mut engine = Engine::new(rules, Vec::new());
    let agent: Id = "gw-a".parse()?;
    let names: Vec<PointName> = POINTS.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let device: Id = format!("crac-{number}").parse()?;
        let point =
            |name: &PointName| PointMeta { name: name.clone(), unit: String::new(), interval_ms: 1_000, source: None };
        let meta = DeviceMeta {
            v: WIRE_VERSION,
            i: 1,
            device: device.clone(),
            kind: "crac".into(),
            profile: None,
            firmware: None,
            firmware_proven: true,
            parent: None,
            location: None,
            points: names.iter().map(point).collect(),
        };
        engine.step(Mono(0), Event::Device { site: Site::A, agent: &agent, meta: &meta });
        devices.push(device);
    }
    let total = 2_000_000_u64;
    let (mut seed, mut changes, mut worst) = (0x2545_F491_4F6C_DD1D_u64, 0, std::time::Duration::ZERO);
    let begun = now();
    for n in 0..total {
        // xorshift: the same run every time.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let device = &devices[(seed % DEVICES as u64) as usize];
        let point = &names[(seed / 7 % names.len() as u64) as usize];
        let value = Value::Num((seed % 6_000) as f64 / 100.0);
        let at = Mono(1 + n / 100);
        let event = Event::Reading { device, point, value: Some(&value), quality: Quality::Good, sampled: at };
        let one = now();
        changes += engine.step(at, event).len();
        worst = worst.max(one.elapsed());
    }
    let took = begun.elapsed();
    println!(
        "{} instances, {total} changed points in {:.2} s: {:.0} points/s, {} evaluations, {changes} changed votes, \
         slowest step {:.1} ms",
        engine.instances(),
        took.as_secs_f64(),
        total as f64 / took.as_secs_f64(),
        engine.evaluations(),
        worst.as_secs_f64() * 1_000.0,
    );
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock; the engine has none")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
