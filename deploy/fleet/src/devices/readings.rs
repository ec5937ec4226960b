//! What sensors of a device show, from the physics of its hall.

use super::ber;
use super::inventory::{Kind, Spec};
use super::map::{PointValue, Values};
use super::physics::{self, Hall, Output};
use super::snmp;

pub(super) fn readings(kind: Kind, hall: &Hall, noise: &mut impl FnMut(f64) -> f64) -> Values {
    let mut values = Values::new();
    let mut num = |name: &str, value: f64| drop(values.insert(name.to_owned(), PointValue::Num(value)));
    match kind {
        Kind::Ups(n) => ups_readings(&hall.upses[n], &mut num, noise),
        Kind::Crac(n) => crac_readings(&hall.cracs[n], hall.room, &mut num, noise),
        Kind::Meter => meter_readings(hall, &mut num, noise),
        Kind::Storage => storage_readings(hall, &mut num, noise),
    }
    let mut word = |name: &str, value: &str| drop(values.insert(name.to_owned(), PointValue::Word(value.to_owned())));
    match kind {
        Kind::Ups(n) => {
            let ups = &hall.upses[n];
            let source = match ups.output() {
                Output::Mains => "normal",
                Output::Battery => "battery",
                Output::Dead => "none",
            };
            word("output.source", source);
            let battery = match (ups.charge <= 0.0, ups.is_low()) {
                (true, _) => "depleted",
                (false, true) => "low",
                (false, false) => "normal",
            };
            word("battery.status", battery);
        }
        Kind::Crac(n) => {
            let fans = if hall.cracs[n].on { "on" } else { "off" };
            for fan in 1..=4 {
                word(&format!("fan.{fan}.state"), fans);
            }
            word("leak.1.state", "dry");
            word("airflow.failed", "no");
            word("critical.alarm", "no");
        }
        Kind::Meter | Kind::Storage => {}
    }
    values
}

fn ups_readings(ups: &physics::Ups, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    let volts_in = physics::input_voltage(ups);
    let volts_out = if ups.output() == Output::Dead { 0.0 } else { 230.0 };
    let per_line = ups.load_w / 3.0;
    num("battery.charge", ups.charge);
    // UPS-MIB counts whole minutes that are left: never more than there are.
    num("battery.runtime", (ups.runtime_s() / 60.0).floor() * 60.0);
    num("battery.ontime", ups.on_battery_s.floor());
    num("battery.voltage", 200.0 + 18.0 * ups.charge / 100.0 + noise(0.1));
    let current = match ups.output() {
        Output::Battery => -ups.load_w / 210.0,
        Output::Mains if ups.charge < 100.0 => 5.0,
        Output::Mains | Output::Dead => 0.0,
    };
    num("battery.current", current);
    num("battery.temperature", 23.0 + noise(0.2));
    for line in 1..=3 {
        let jitter = if ups.mains { noise(1.5) } else { 0.0 };
        num(&format!("input.l{line}.voltage"), volts_in + jitter);
        num(&format!("input.l{line}.frequency"), if ups.mains { 50.0 + noise(0.03) } else { 0.0 });
        num(&format!("input.l{line}.current"), if ups.mains { per_line / 0.95 / 230.0 } else { 0.0 });
        num(&format!("input.l{line}.realpower"), if ups.mains { per_line / 0.95 } else { 0.0 });
        num(&format!("output.l{line}.voltage"), volts_out);
        num(&format!("output.l{line}.current"), if volts_out > 0.0 { per_line / 230.0 } else { 0.0 });
        num(&format!("output.l{line}.realpower"), per_line + if per_line > 0.0 { noise(15.0) } else { 0.0 });
        num(&format!("output.l{line}.load"), ups.load_percent());
        num(&format!("bypass.l{line}.voltage"), volts_in + jitter);
        num(&format!("bypass.l{line}.current"), 0.0);
        num(&format!("bypass.l{line}.realpower"), 0.0);
    }
    num("alarms.present", if ups.output() == Output::Battery { 1.0 } else { 0.0 });
    num("output.frequency", if volts_out > 0.0 { 50.0 } else { 0.0 });
    num("bypass.frequency", if ups.mains { 50.0 } else { 0.0 });
}

fn crac_readings(crac: &physics::Crac, room: f64, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    num("supply.air.temperature", crac.supply + noise(0.1));
    num("return.air.temperature", room + noise(0.1));
    num("return.air.humidity", 45.0 + noise(0.5));
    num("supply.air.setpoint", 18.0);
    num("fan.1.speed", crac.fan_percent());
    num("valve.1.position", if crac.on { 100.0 * crac.output } else { 0.0 });
    num("water.supply.temperature", 9.0 + noise(0.1));
}

fn meter_readings(hall: &Hall, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    let total = hall.mains_w() * (1.0 + noise(0.005));
    let factor = 0.96;
    for line in 1..=3 {
        let volts = 230.0 + noise(1.0);
        num(&format!("meter.l{line}.voltage"), volts);
        num(&format!("meter.l{line}.current"), total / 3.0 / volts / factor);
        num(&format!("meter.l{line}.realpower"), total / 3.0);
        num(&format!("meter.l{line}.powerfactor"), factor);
    }
    num("meter.realpower", total);
    num("meter.power", total / factor);
    num("meter.reactivepower", total / factor * 0.28);
    num("meter.powerfactor", factor);
    num("meter.frequency", 50.0 + noise(0.02));
    num("meter.energy.import", hall.energy_wh);
    num("meter.energy.export", 0.0);
}

fn storage_readings(hall: &Hall, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    const GIB: f64 = 1_073_741_824.0;
    for window in ["1m", "5m", "15m"] {
        num(&format!("host.load.{window}"), 0.6 + noise(0.2));
    }
    num("host.cpu.used", 12.0 + noise(4.0));
    num("host.memory.total", 16.0 * GIB);
    num("host.memory.available", 9.0 * GIB + noise(0.1) * GIB);
    num("host.swap.total", 4.0 * GIB);
    num("swap.available", 4.0 * GIB);
    num("host.uptime", 864_000.0 + hall.elapsed_s);
    num("host.processes", 143.0 + noise(2.0));
}

/// upsAlarmDescr.1 and what it says of a UPS on battery (RFC 1628).
pub(super) const ALARM_DESCR: [u32; 13] = [1, 3, 6, 1, 2, 1, 33, 1, 6, 2, 1, 2, 1];
pub(super) const ON_BATTERY: [u32; 11] = [1, 3, 6, 1, 2, 1, 33, 1, 6, 3, 2];

/// What a device says about itself, and the tables of a storage host.
pub(super) fn fixed_instances(spec: &Spec, elapsed_s: f64, uptime_s: u64) -> snmp::Tree {
    use ber::Value;
    let text = |text: &str| Value::Text(text.as_bytes().to_vec());
    let whole = |number: f64| -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = number.max(0.0) as u64;
        whole
    };
    let ticks = Value::TimeTicks(u32::try_from(uptime_s.saturating_mul(100)).unwrap_or(u32::MAX));
    let mut rows: Vec<(&str, Value)> = vec![("1.3.6.1.2.1.1.3.0", ticks), ("1.3.6.1.2.1.1.5.0", text(&spec.id))];
    match spec.kind {
        Kind::Ups(_) => rows.extend([
            ("1.3.6.1.2.1.1.1.0", text("bcp-fleet simulated UPS, 20 kVA")),
            ("1.3.6.1.2.1.1.2.0", Value::Oid(vec![1, 3, 6, 1, 2, 1, 33])),
            ("1.3.6.1.2.1.33.1.1.1.0", text("bcp-fleet")),
            ("1.3.6.1.2.1.33.1.1.2.0", text("sim-20")),
            ("1.3.6.1.2.1.33.1.1.3.0", text("1.0")),
            ("1.3.6.1.2.1.33.1.1.4.0", text("sim 1.0")),
            ("1.3.6.1.2.1.33.1.3.2.0", Value::Integer(3)),
            ("1.3.6.1.2.1.33.1.4.3.0", Value::Integer(3)),
            ("1.3.6.1.2.1.33.1.5.2.0", Value::Integer(3)),
        ]),
        Kind::Storage => {
            let rx = whole(5e9 + elapsed_s * 1.2e6);
            let tx = whole(2e9 + elapsed_s * 4e5);
            rows.extend([
                ("1.3.6.1.2.1.1.1.0", text("Linux simulated storage host 6.1.0")),
                ("1.3.6.1.2.1.1.2.0", Value::Oid(vec![1, 3, 6, 1, 4, 1, 8072, 3, 2, 10])),
                // hrStorageTable: memory, and two file systems of 4 KiB blocks.
                ("1.3.6.1.2.1.25.2.3.1.1.1", Value::Integer(1)),
                ("1.3.6.1.2.1.25.2.3.1.1.31", Value::Integer(31)),
                ("1.3.6.1.2.1.25.2.3.1.1.36", Value::Integer(36)),
                ("1.3.6.1.2.1.25.2.3.1.2.1", Value::Oid(vec![1, 3, 6, 1, 2, 1, 25, 2, 1, 2])),
                ("1.3.6.1.2.1.25.2.3.1.2.31", Value::Oid(vec![1, 3, 6, 1, 2, 1, 25, 2, 1, 4])),
                ("1.3.6.1.2.1.25.2.3.1.2.36", Value::Oid(vec![1, 3, 6, 1, 2, 1, 25, 2, 1, 4])),
                ("1.3.6.1.2.1.25.2.3.1.3.1", text("Physical memory")),
                ("1.3.6.1.2.1.25.2.3.1.3.31", text("/")),
                ("1.3.6.1.2.1.25.2.3.1.3.36", text("/srv")),
                ("1.3.6.1.2.1.25.2.3.1.4.1", Value::Integer(1024)),
                ("1.3.6.1.2.1.25.2.3.1.4.31", Value::Integer(4096)),
                ("1.3.6.1.2.1.25.2.3.1.4.36", Value::Integer(4096)),
                ("1.3.6.1.2.1.25.2.3.1.5.1", Value::Integer(16_777_216)),
                ("1.3.6.1.2.1.25.2.3.1.5.31", Value::Integer(12_206_592)),
                ("1.3.6.1.2.1.25.2.3.1.5.36", Value::Integer(488_263_680)),
                ("1.3.6.1.2.1.25.2.3.1.6.1", Value::Integer(7_340_032)),
                ("1.3.6.1.2.1.25.2.3.1.6.31", Value::Integer(3_051_648)),
                ("1.3.6.1.2.1.25.2.3.1.6.36", Value::Integer(213_615_360)),
                // ifXTable
                ("1.3.6.1.2.1.31.1.1.1.1.1", text("lo")),
                ("1.3.6.1.2.1.31.1.1.1.1.2", text("eth0")),
                ("1.3.6.1.2.1.31.1.1.1.6.1", Value::Counter64(81_920)),
                ("1.3.6.1.2.1.31.1.1.1.6.2", Value::Counter64(rx)),
                ("1.3.6.1.2.1.31.1.1.1.10.1", Value::Counter64(81_920)),
                ("1.3.6.1.2.1.31.1.1.1.10.2", Value::Counter64(tx)),
            ]);
        }
        Kind::Crac(_) | Kind::Meter => {}
    }
    rows.into_iter().filter_map(|(name, value)| Some((ber::parse_oid(name)?, value))).collect()
}
