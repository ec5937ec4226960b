//! Names of everything measured, each with unit and kind. The registry of the contract.
//!
//! Power devices follow the Network UPS Tools naming (RFC 9271); cooling, gensets, transfer switches, meters and
//! environment probes have namespaces of their own; hosts are `host.*`, application checks `check.*`, the agent's own
//! figures `agent.*`. `{n}` stands for a number from 1, `{id}` for a label of `a-z 0-9 -`.
//!
//! Where one address answers for several members of a chain or several units, each has its points below
//! `device.{id}.`, as Network UPS Tools does: `device.2.outlet.7.current`.

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
    "inverter",
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
    // More of power devices: RFC 9271 and the names of Network UPS Tools.
    state("ups.mode", "how the device feeds its output: online, eco, line-interactive, bypass ..."),
    gauge("battery.age", "a", "years since the battery was new"),
    gauge("battery.capacity", "Ah", "rated capacity"),
    gauge("battery.count", "1", "batteries"),
    gauge("battery.voltage.nominal", "V", "rated voltage"),
    state("battery.charger.status", "resting, charging, floating, discharging, off, fault"),
    state("battery.replace", "no, yes"),
    state("input.status", "state of the input in the device's words"),
    state("input.transfer.reason", "why the input was last left"),
    gauge("input.load", "%", "load of the inlet's rating"),
    gauge("input.neutral.current", "A", "neutral current"),
    gauge("input.residual.current", "A", "residual current"),
    gauge("input.unbalance", "%", "unbalance of the phases"),
    gauge("input.l{n}.power", "VA", "apparent power of a phase"),
    gauge("input.l{n}.powerfactor", "1", "power factor of a phase"),
    gauge("input.l{n}.load", "%", "load of a phase"),
    counter("input.l{n}.energy", "Wh", "energy of a phase"),
    gauge("input.l1-l2.voltage", "V", "phase to phase"),
    gauge("input.l2-l3.voltage", "V", "phase to phase"),
    gauge("input.l3-l1.voltage", "V", "phase to phase"),
    state("input.alarm", "normal, or what is out of its limits"),
    state("input.l{n}.alarm", "normal, or what is out of its limits"),
    state("inverter.status", "on, off, fault"),
    gauge("output.power", "VA", "apparent power"),
    gauge("output.powerfactor", "1", "power factor"),
    counter("output.energy", "Wh", "energy given"),
    gauge("output.l{n}.power", "VA", "apparent power of a phase"),
    gauge("output.l{n}.powerfactor", "1", "power factor of a phase"),
    gauge("output.l{n}.frequency", "Hz", "frequency of a phase"),
    gauge("output.l1-l2.voltage", "V", "phase to phase"),
    gauge("output.l2-l3.voltage", "V", "phase to phase"),
    gauge("output.l3-l1.voltage", "V", "phase to phase"),
    gauge("bypass.current", "A", "current"),
    gauge("bypass.l{n}.realpower", "W", "real power of a phase"),
    gauge("bypass.l{n}.frequency", "Hz", "frequency of a phase"),
    state("bypass.status", "active, inactive, fault"),
    gauge("outlet.{n}.voltage", "V", "voltage of an outlet"),
    gauge("outlet.{n}.frequency", "Hz", "frequency of an outlet"),
    gauge("outlet.{n}.power", "VA", "apparent power of an outlet"),
    gauge("outlet.{n}.powerfactor", "1", "power factor of an outlet"),
    counter("outlet.{n}.energy", "Wh", "energy of an outlet"),
    state("outlet.{n}.alarm", "normal, or what is out of its limits"),
    gauge("outlet.group.{n}.current", "A", "current of a bank or branch"),
    gauge("outlet.group.{n}.voltage", "V", "voltage of a bank or branch"),
    gauge("outlet.group.{n}.frequency", "Hz", "frequency of a bank or branch"),
    gauge("outlet.group.{n}.realpower", "W", "real power of a bank or branch"),
    gauge("outlet.group.{n}.power", "VA", "apparent power of a bank or branch"),
    gauge("outlet.group.{n}.powerfactor", "1", "power factor of a bank or branch"),
    counter("outlet.group.{n}.energy", "Wh", "energy of a bank or branch"),
    gauge("outlet.group.{n}.load", "%", "load of a bank or branch"),
    state("outlet.group.{n}.status", "on, off"),
    state("outlet.group.{n}.alarm", "normal, or what is out of its limits"),
    state("breaker.{n}.state", "closed, open, or normal and what is wrong"),
    gauge("breaker.{n}.current", "A", "current through a breaker"),
    gauge("breaker.{n}.load", "%", "load of a breaker"),
    state("ats.switch.state", "ok, fault"),
    state("ats.sync", "in, out: phases of both sources"),
    state("ats.input.{n}.state", "ok, fail: source a is 1, b is 2"),
    gauge("ats.input.{n}.voltage", "V", "voltage of a source"),
    gauge("ats.input.{n}.frequency", "Hz", "frequency of a source"),
    gauge("dc.voltage", "V", "voltage of the DC bus"),
    gauge("dc.current", "A", "current of the DC load"),
    gauge("dc.realpower", "W", "power of the DC load"),
    gauge("dc.{n}.voltage", "V", "voltage of a DC output"),
    gauge("dc.{n}.current", "A", "current of a DC output"),
    gauge("dc.{n}.realpower", "W", "power of a DC output"),
    gauge("rectifier.count", "1", "rectifier modules"),
    gauge("rectifier.voltage", "V", "output voltage of the rectifiers"),
    gauge("rectifier.voltage.nominal", "V", "rated output voltage"),
    gauge("rectifier.current", "A", "output current of all rectifiers"),
    state("rectifier.state", "on, off, fault"),
    gauge("rectifier.{n}.voltage", "V", "output voltage of a module"),
    gauge("rectifier.{n}.current", "A", "output current of a module"),
    state("rectifier.{n}.state", "on, off, fault"),
    gauge("lvd.{n}.voltage", "V", "voltage at which a load is shed"),
    gauge("psu.{n}.voltage", "V", "input voltage of a power supply"),
    gauge("psu.{n}.current", "A", "input current of a power supply"),
    gauge("psu.{n}.realpower", "W", "power of a power supply"),
    state("psu.{n}.state", "ok, or what is wrong"),
    // More of cooling.
    state("unit.mode", "what the unit is doing or is told to do"),
    state("unit.reason", "why the unit is in its state"),
    gauge("unit.current", "A", "current the unit takes"),
    gauge("unit.realpower", "W", "power the unit takes"),
    gauge("unit.eer", "1", "heat removed to power taken"),
    gauge("supply.air.flow", "m3/h", "air the unit moves"),
    gauge("return.air.setpoint", "Cel", "wanted return air temperature"),
    gauge("room.air.setpoint", "Cel", "wanted room temperature"),
    gauge("room.air.humidity", "%", "relative humidity of the room"),
    gauge("humidity.setpoint", "%", "wanted relative humidity"),
    gauge("rack.inlet.temperature", "Cel", "warmest air at the racks' inlets"),
    gauge("rack.{n}.inlet.temperature", "Cel", "air at a rack's inlet"),
    gauge("cooling.demand", "%", "cooling that is asked for"),
    gauge("cooling.demand.power", "W", "heat that is to be removed"),
    gauge("freecooling.capacity", "%", "free cooling in use"),
    gauge("freecooling.power", "W", "heat removed by free cooling"),
    gauge("compressor.cooling.power", "W", "heat removed by compressors"),
    gauge("humidifier.capacity", "%", "humidifier in use"),
    gauge("dehumidifier.capacity", "%", "dehumidifier in use"),
    gauge("fan.capacity", "%", "air flow in use"),
    state("cooling.state", "off, on"),
    state("freecooling.state", "off, on"),
    state("fan.state", "off, on"),
    state("humidifier.state", "off, on"),
    state("dehumidifier.state", "off, on"),
    state("heater.state", "off, on"),
    gauge("fan.{n}.rpm", "/min", "fan speed in turns"),
    gauge("condenser.fan.speed", "%", "speed of the condenser's fans"),
    gauge("condenser.{n}.pressure", "kPa", "condensation pressure of a circuit"),
    gauge("evaporator.{n}.pressure", "kPa", "suction pressure of a circuit"),
    gauge("compressor.{n}.speed", "%", "compressor speed"),
    gauge("compressor.{n}.runtime", "s", "run time of a compressor"),
    gauge("pump.{n}.speed", "%", "pump speed"),
    gauge("filter.{n}.pressure-drop", "kPa", "pressure lost in a filter"),
    gauge("water.supply.pressure", "kPa", "pressure of water going out"),
    gauge("water.return.pressure", "kPa", "pressure of water coming back"),
    gauge("water.supply.setpoint", "Cel", "wanted temperature of water going out"),
    gauge("water.{n}.supply.temperature", "Cel", "water of a circuit going to the load"),
    gauge("water.{n}.return.temperature", "Cel", "water of a circuit coming back"),
    gauge("server.{n}.supply.temperature", "Cel", "air to a row of server inlets"),
    gauge("server.{n}.return.temperature", "Cel", "air from a row of servers"),
    // More of the environment. `{id}` is the label of a probe.
    gauge("ambient.{n}.dewpoint", "Cel", "dew point of a probe"),
    state("ambient.{n}.state", "normal, or what is out of its limits"),
    gauge("probe.{id}.temperature", "Cel", "temperature of a labelled probe"),
    gauge("probe.{id}.humidity", "%", "relative humidity of a labelled probe"),
    gauge("probe.{id}.dewpoint", "Cel", "dew point of a labelled probe"),
    gauge("probe.{id}.pressure", "kPa", "pressure of a labelled probe"),
    gauge("probe.{id}.voltage", "V", "voltage of a labelled probe"),
    gauge("probe.{id}.current", "A", "current of a labelled probe"),
    gauge("probe.{id}.realpower", "W", "power of a labelled probe"),
    gauge("probe.{id}.energy", "Wh", "energy of a labelled probe"),
    gauge("probe.{id}.frequency", "Hz", "frequency of a labelled probe"),
    gauge("probe.{id}.flow", "m3/h", "flow of a labelled probe"),
    gauge("probe.{id}.speed", "/min", "turns of a labelled fan"),
    gauge("probe.{id}.share", "%", "share of a labelled probe"),
    gauge("probe.{id}.level", "1", "number of a labelled probe that has no unit"),
    state("probe.{id}.state", "state of a labelled probe"),
    state("door.{n}.state", "closed, open"),
    state("smoke.{n}.state", "clear, smoke"),
    state("relay.{n}.state", "closed, open"),
    // More of meters.
    gauge("meter.voltage", "V", "mean of the phases to neutral"),
    gauge("meter.current", "A", "current of all phases, or of the only one"),
    gauge("meter.neutral.current", "A", "neutral current"),
    gauge("meter.l1-l2.voltage", "V", "phase to phase"),
    gauge("meter.l2-l3.voltage", "V", "phase to phase"),
    gauge("meter.l3-l1.voltage", "V", "phase to phase"),
    gauge("meter.l{n}.power", "VA", "apparent power of a phase"),
    gauge("meter.l{n}.reactivepower", "var", "reactive power of a phase"),
    gauge("meter.l{n}.voltage.thd", "%", "harmonic distortion of a phase's voltage"),
    gauge("meter.l{n}.current.thd", "%", "harmonic distortion of a phase's current"),
    counter("meter.l{n}.energy.import", "Wh", "energy taken by a phase"),
    counter("meter.l{n}.energy.export", "Wh", "energy given back by a phase"),
    counter("meter.energy.reactive.import", "varh", "reactive energy taken"),
    counter("meter.energy.reactive.export", "varh", "reactive energy given back"),
    // More of gensets.
    gauge("genset.oil.temperature", "Cel", "oil"),
    gauge("genset.charger.voltage", "V", "charge alternator"),
    gauge("genset.earth.current", "A", "earth current"),
    gauge("genset.power", "VA", "apparent power given"),
    gauge("genset.powerfactor", "1", "power factor"),
    counter("genset.energy", "Wh", "energy given"),
    counter("genset.starts", "1", "starts"),
    gauge("genset.l{n}.realpower", "W", "real power of a phase"),
    gauge("genset.l1-l2.voltage", "V", "phase to phase"),
    gauge("genset.l2-l3.voltage", "V", "phase to phase"),
    gauge("genset.l3-l1.voltage", "V", "phase to phase"),
    state("genset.alarm", "none, warning, alarm"),
    gauge("mains.frequency", "Hz", "frequency of the mains"),
    gauge("mains.l{n}.voltage", "V", "mains, phase to neutral"),
    state("mains.state", "present, absent"),
    // Inverters.
    gauge("inverter.realpower", "W", "AC power given"),
    gauge("inverter.power", "VA", "apparent power given"),
    gauge("inverter.reactivepower", "var", "reactive power given"),
    gauge("inverter.powerfactor", "1", "power factor"),
    gauge("inverter.frequency", "Hz", "frequency"),
    gauge("inverter.temperature", "Cel", "temperature inside"),
    gauge("inverter.l{n}.voltage", "V", "phase to neutral"),
    gauge("inverter.l{n}.current", "A", "current of a phase"),
    gauge("inverter.dc.voltage", "V", "voltage of the DC side"),
    gauge("inverter.dc.current", "A", "current of the DC side"),
    gauge("inverter.dc.realpower", "W", "power of the DC side"),
    counter("inverter.energy", "Wh", "energy given"),
    state("inverter.state", "off, sleeping, starting, running, throttled, stopping, fault, standby"),
];

/// The definition a point name falls under, if the contract has one.
#[must_use]
pub fn lookup(name: &PointName) -> Option<&'static NameDef> {
    let own = own_name(name.as_str());
    NAMES.iter().find(|def| matches(def.pattern, own))
}

/// A name without the `device.{id}.` before it: the member of a chain, or a unit behind a gateway.
#[must_use]
pub fn own_name(name: &str) -> &str {
    let member = name.strip_prefix("device.").and_then(|rest| rest.split_once('.'));
    member.filter(|(id, own)| !id.is_empty() && !own.starts_with("device.")).map_or(name, |(_, own)| own)
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
        assert_eq!(found("device.2.outlet.7.current"), Some("outlet.{n}.current"));
        assert_eq!(found("device.1-4.supply.air.temperature"), Some("supply.air.temperature"));
        assert_eq!(found("device.1.device.2.ups.load"), None);
        assert_eq!(found("device.ups.load"), None);
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
