//! Names of everything measured, each with unit and kind. The registry of the contract.
//!
//! Power devices follow the Network UPS Tools naming (RFC 9271); cooling, gensets, transfer switches, meters and
//! environment probes have namespaces of their own; hosts are `host.*`, application checks `check.*`, the agent's own
//! figures `agent.*`. `{n}` stands for a number from 1, `{id}` for a label of `a-z 0-9 -`.

use crate::PointName;

/// How a point behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows, until it wraps or resets.
    Counter,
    /// One of a set of words, or flags.
    State,
}

/// One entry of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameDef {
    pub pattern: &'static str,
    /// As in the Unified Code for Units of Measure where it has one; empty for states.
    pub unit: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

/// Device kinds that profiles, metas and the topology may use.
pub const DEVICE_KINDS: &[&str] = &[
    "host",
    "agent",
    "check",
    "ups",
    "pdu",
    "ats",
    "crac",
    "chiller",
    "genset",
    "meter",
    "environment",
    "rectifier",
    "service",
    "switch",
];

const fn gauge(pattern: &'static str, unit: &'static str, help: &'static str) -> NameDef {
    NameDef { pattern, unit, kind: Kind::Gauge, help }
}
const fn counter(pattern: &'static str, unit: &'static str, help: &'static str) -> NameDef {
    NameDef { pattern, unit, kind: Kind::Counter, help }
}
const fn state(pattern: &'static str, help: &'static str) -> NameDef {
    NameDef { pattern, unit: "", kind: Kind::State, help }
}

/// Every name of the contract. Append only.
pub const NAMES: &[NameDef] = &[
    // Power: RFC 9271.
    state("ups.status", "flags OL OB LB HB RB CHRG DISCHRG BYPASS CAL OFF OVER TRIM BOOST FSD"),
    state("ups.alarm", "alarm texts of the device"),
    gauge("ups.load", "%", "load of capacity"),
    gauge("ups.power", "VA", "apparent power"),
    gauge("ups.power.nominal", "VA", "rated apparent power"),
    gauge("ups.realpower", "W", "real power"),
    gauge("ups.realpower.nominal", "W", "rated real power"),
    gauge("ups.temperature", "Cel", "temperature inside"),
    gauge("ups.efficiency", "%", "output to input power"),
    state("ups.test.result", "result of the last self-test"),
    gauge("battery.charge", "%", "charge"),
    gauge("battery.runtime", "s", "time left at the present load"),
    gauge("battery.voltage", "V", "voltage"),
    gauge("battery.current", "A", "current, negative while discharging"),
    gauge("battery.temperature", "Cel", "temperature"),
    state("battery.status", "unknown, normal, low, depleted, replace"),
    gauge("battery.ontime", "s", "time on battery so far, 0 on mains"),
    gauge("input.voltage", "V", "voltage, or of the only phase"),
    gauge("input.current", "A", "current"),
    gauge("input.frequency", "Hz", "frequency"),
    gauge("input.realpower", "W", "real power"),
    gauge("input.power", "VA", "apparent power"),
    gauge("input.powerfactor", "1", "power factor"),
    gauge("input.energy", "Wh", "energy"),
    gauge("input.l{n}.voltage", "V", "voltage of a phase"),
    gauge("input.l{n}.current", "A", "current of a phase"),
    gauge("input.l{n}.frequency", "Hz", "frequency of a phase"),
    gauge("input.l{n}.realpower", "W", "real power of a phase"),
    gauge("output.voltage", "V", "voltage"),
    gauge("output.current", "A", "current"),
    gauge("output.frequency", "Hz", "frequency"),
    gauge("output.realpower", "W", "real power"),
    state("output.source", "other, none, normal, bypass, battery, booster, reducer"),
    gauge("output.l{n}.voltage", "V", "voltage of a phase"),
    gauge("output.l{n}.current", "A", "current of a phase"),
    gauge("output.l{n}.realpower", "W", "real power of a phase"),
    gauge("output.l{n}.load", "%", "load of a phase"),
    gauge("bypass.voltage", "V", "voltage"),
    gauge("bypass.frequency", "Hz", "frequency"),
    gauge("bypass.l{n}.voltage", "V", "voltage of a phase"),
    gauge("bypass.l{n}.current", "A", "current of a phase"),
    gauge("outlet.{n}.current", "A", "current of an outlet"),
    gauge("outlet.{n}.realpower", "W", "real power of an outlet"),
    state("outlet.{n}.status", "on, off"),
    // Cooling.
    gauge("supply.air.temperature", "Cel", "air the unit blows out"),
    gauge("return.air.temperature", "Cel", "air the unit takes in"),
    gauge("room.air.temperature", "Cel", "air of the room"),
    gauge("supply.air.humidity", "%", "relative humidity of the supply air"),
    gauge("return.air.humidity", "%", "relative humidity of the return air"),
    gauge("supply.air.setpoint", "Cel", "wanted supply air temperature"),
    gauge("outdoor.air.temperature", "Cel", "air outside"),
    gauge("fan.{n}.speed", "%", "fan speed"),
    state("fan.{n}.state", "off, on, fault"),
    state("compressor.{n}.state", "off, on, fault"),
    gauge("water.supply.temperature", "Cel", "water going out to the load"),
    gauge("water.return.temperature", "Cel", "water coming back"),
    gauge("water.flow", "l/min", "water flow"),
    gauge("valve.{n}.position", "%", "valve opening"),
    gauge("cooling.capacity", "%", "cooling output of the rated one"),
    gauge("cooling.power", "W", "heat removed"),
    state("unit.state", "off, on, standby, fault"),
    state("unit.alarm", "none, warning, alarm"),
    // Environment.
    gauge("ambient.temperature", "Cel", "temperature"),
    gauge("ambient.humidity", "%", "relative humidity"),
    gauge("ambient.{n}.temperature", "Cel", "temperature of a probe"),
    gauge("ambient.{n}.humidity", "%", "relative humidity of a probe"),
    state("contact.{n}.state", "open, closed"),
    state("leak.{n}.state", "dry, wet"),
    // Meters.
    gauge("meter.realpower", "W", "total real power"),
    gauge("meter.power", "VA", "total apparent power"),
    gauge("meter.reactivepower", "var", "total reactive power"),
    gauge("meter.powerfactor", "1", "total power factor"),
    gauge("meter.frequency", "Hz", "frequency"),
    gauge("meter.l{n}.voltage", "V", "phase to neutral"),
    gauge("meter.l{n}.current", "A", "current of a phase"),
    gauge("meter.l{n}.realpower", "W", "real power of a phase"),
    gauge("meter.l{n}.powerfactor", "1", "power factor of a phase"),
    counter("meter.energy.import", "Wh", "energy taken"),
    counter("meter.energy.export", "Wh", "energy given back"),
    // Gensets and transfer switches.
    state("genset.state", "stopped, starting, running, stopping, fault"),
    state("genset.mode", "stop, auto, manual, test"),
    gauge("genset.fuel.level", "%", "fuel in the tank"),
    gauge("genset.coolant.temperature", "Cel", "coolant"),
    gauge("genset.oil.pressure", "kPa", "oil pressure"),
    gauge("genset.speed", "/min", "engine speed"),
    gauge("genset.realpower", "W", "real power given"),
    gauge("genset.frequency", "Hz", "alternator frequency"),
    counter("genset.runtime", "s", "run time of the engine"),
    gauge("genset.battery.voltage", "V", "starter battery"),
    gauge("genset.l{n}.voltage", "V", "phase to neutral"),
    gauge("genset.l{n}.current", "A", "current of a phase"),
    state("ats.source", "a, b"),
    state("ats.redundancy", "redundant, lost"),
    // Hosts.
    gauge("host.cpu.used", "%", "processor time in use, all cores"),
    gauge("host.load.1m", "1", "load average over 1 minute"),
    gauge("host.load.5m", "1", "load average over 5 minutes"),
    gauge("host.load.15m", "1", "load average over 15 minutes"),
    gauge("host.memory.total", "By", "memory"),
    gauge("host.memory.used", "By", "memory in use"),
    gauge("host.memory.available", "By", "memory that can be had without swapping"),
    gauge("host.swap.total", "By", "swap"),
    gauge("host.swap.used", "By", "swap in use"),
    gauge("host.uptime", "s", "time since boot"),
    gauge("host.processes", "1", "processes"),
    gauge("host.fs.{id}.size", "By", "size of a file system"),
    gauge("host.fs.{id}.used", "By", "bytes in use in a file system"),
    gauge("host.fs.{id}.used-share", "%", "share of a file system in use"),
    counter("host.nic.{id}.rx", "By", "bytes received"),
    counter("host.nic.{id}.tx", "By", "bytes sent"),
    gauge("host.psi.cpu.some", "%", "time at least one task waited for a processor, last 10 s"),
    gauge("host.psi.memory.some", "%", "time at least one task waited for memory, last 10 s"),
    gauge("host.psi.memory.full", "%", "time all tasks waited for memory, last 10 s"),
    gauge("host.psi.io.some", "%", "time at least one task waited for a disk, last 10 s"),
    gauge("host.psi.io.full", "%", "time all tasks waited for a disk, last 10 s"),
    gauge("host.hwmon.{id}.temperature", "Cel", "temperature of a sensor chip"),
    // Application checks.
    state("check.state", "up, down, degraded: the last single result"),
    gauge("check.latency", "ms", "time to the complete answer"),
    gauge("check.http.status", "1", "status code of the answer"),
    gauge("check.tls.days-left", "d", "time until the certificate expires"),
    // The agent itself.
    gauge("agent.rss", "By", "resident memory"),
    gauge("agent.cpu.used", "%", "processor time, of one core"),
    gauge("agent.spool.bytes", "By", "undelivered data on disk"),
    gauge("agent.spool.oldest", "s", "age of the oldest undelivered payload"),
    counter("agent.spool.dropped", "1", "payloads dropped for want of space"),
    counter("agent.polls.total", "1", "polls done"),
    counter("agent.polls.missed", "1", "polls skipped because the device overran its budget"),
    gauge("agent.lateness.p99", "ms", "p99 of how late polls started, last minute"),
    gauge("agent.device.{id}.rtt", "ms", "last round trip of a device"),
    state("agent.device.{id}.reachable", "yes, no"),
];

/// The definition a point name falls under, if the contract has one.
#[must_use]
pub fn lookup(name: &PointName) -> Option<&'static NameDef> {
    NAMES.iter().find(|def| matches(def.pattern, name.as_str()))
}

/// True where `name` has the form of `pattern`.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = name.split('.');
    for want in pattern.split('.') {
        let Some(part) = parts.next() else { return false };
        let fits = match want {
            "{id}" => !part.is_empty(),
            "{n}" => is_number(part),
            _ => match want.strip_suffix("{n}") {
                Some(stem) => part.strip_prefix(stem).is_some_and(is_number),
                None => part == want,
            },
        };
        if !fits {
            return false;
        }
    }
    parts.next().is_none()
}

fn is_number(text: &str) -> bool {
    (1..=5).contains(&text.len()) && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
}

/// The pattern closest to a misspelt name, for "did you mean".
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    NAMES
        .iter()
        .map(|def| (distance(def.pattern, name), def.pattern))
        .min()
        .filter(|(distance, _)| *distance <= name.len() / 3 + 1)
        .map(|(_, pattern)| pattern)
}

/// Levenshtein distance over bytes, both texts bounded by the caller.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_are_found_and_others_are_not() {
        let found = |name: &str| lookup(&name.parse().unwrap()).map(|def| def.pattern);
        assert_eq!(found("fan.1.speed"), Some("fan.{n}.speed"));
        assert_eq!(found("input.l3.voltage"), Some("input.l{n}.voltage"));
        assert_eq!(found("input.l0.voltage"), None);
        assert_eq!(found("host.fs.root.used"), Some("host.fs.{id}.used"));
        assert_eq!(found("fan.1"), None);
        assert_eq!(nearest("batery.charge"), Some("battery.charge"));
        assert_eq!(nearest("zzzzzzzzzzzzzzzz"), None);
    }

    #[test]
    fn no_two_patterns_overlap() {
        for (i, a) in NAMES.iter().enumerate() {
            for b in &NAMES[i + 1..] {
                let sample = a.pattern.replace("{n}", "7").replace("{id}", "x");
                assert!(!matches(b.pattern, &sample), "{} and {} overlap", a.pattern, b.pattern);
            }
        }
    }
}
