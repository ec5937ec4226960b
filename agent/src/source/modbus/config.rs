//! How a Modbus device is reached: the `modbus = { ... }` of a device.
//!
//! Knows: addresses, framings, serial lines, and what devices on one line must agree on. Refuses to know: sockets.

use std::fmt;
use std::time::Duration;

use crate::config::{DeviceConfig, Link, address, timeout};
use crate::document::{KeyFault, Section};
use crate::span::Span;

use super::plan;
use super::timing::Share;

/// Speeds of serial lines.
const BAUD: std::ops::RangeInclusive<u32> = 300..=1_000_000;
/// Time a device takes to begin its answer, unless said otherwise; most take 2 to 20 ms.
const TURNAROUND_MS: u64 = 10;
const MAX_TURNAROUND_MS: u64 = 1_000;

/// One device behind an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModbusLink {
    /// `host:port`, or the path of a serial port. Devices with the same one share it and take turns.
    pub address: String,
    pub framing: Framing,
    pub unit: u8,
    pub timeout: Duration,
    /// Registers by which everything stands further on than the profile says, as models of SunSpec do.
    pub shift: i32,
}

/// What surrounds a request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Tcp,
    /// A converter that hands the bytes of a serial line on as they are; the line behind it, where it is known.
    RtuOverTcp(Option<SerialLine>),
    Serial(SerialLine),
}

impl Framing {
    /// The serial line, where one is known.
    #[must_use]
    pub const fn line(&self) -> Option<&SerialLine> {
        match self {
            Framing::Tcp | Framing::RtuOverTcp(None) => None,
            Framing::RtuOverTcp(Some(line)) | Framing::Serial(line) => Some(line),
        }
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Framing::Tcp => f.write_str("Modbus TCP"),
            Framing::RtuOverTcp(None) => f.write_str("RTU over TCP"),
            Framing::RtuOverTcp(Some(line)) => write!(f, "RTU over TCP, {line}"),
            Framing::Serial(line) => write!(f, "RTU, {line}"),
        }
    }
}

/// Speed and form of the characters of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerialLine {
    pub baud: u32,
    pub parity: Parity,
    pub stop_bits: u8,
    /// What a device takes to begin its answer.
    pub turnaround: Duration,
}

impl fmt::Display for SerialLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{} baud 8{parity}{}", self.baud, self.stop_bits)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parity {
    None,
    /// What the standard asks for.
    #[default]
    Even,
    Odd,
}

/// How bytes are framed at a network address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    #[default]
    Tcp,
    Rtu,
}

impl ModbusLink {
    /// A device of Modbus TCP.
    #[must_use]
    pub fn tcp(address: impl Into<String>, unit: u8, timeout: Duration) -> ModbusLink {
        ModbusLink { address: address.into(), framing: Framing::Tcp, unit, timeout, shift: 0 }
    }
}

/// Reads the `modbus` table of a device.
pub(crate) fn modbus_link(mut section: Section<'_, '_>) -> Option<ModbusLink> {
    let port: Option<String> = section.optional("serial");
    let framing: Option<Word> = section.optional("framing");
    let (address, framing) = if let Some(port) = port {
        for key in ["address", "framing"] {
            if section.has(key) {
                section.fault(key, format!("a serial port has no `{key}`"), None);
            }
        }
        section.knows(&["address"]);
        if !port.starts_with('/') {
            let help = Some(format!("did you mean `/dev/{port}`?"));
            section.fault("serial", format!("`{port}` is not the path of a serial port"), help);
        }
        if !section.has("baud") {
            section.fault("serial", "a serial port needs its speed", Some("add `baud = 9600`".to_owned()));
        }
        (Some(port), serial_line(&mut section).map(Framing::Serial))
    } else {
        let address = address(&mut section, 502);
        let framing = match framing.unwrap_or_default() {
            Word::Rtu if section.has("baud") => serial_line(&mut section).map(|line| Framing::RtuOverTcp(Some(line))),
            Word::Rtu => Some(Framing::RtuOverTcp(None)),
            Word::Tcp => Some(Framing::Tcp),
        };
        for key in ["baud", "parity", "stop_bits", "turnaround"] {
            if section.has(key) && framing.as_ref().is_none_or(|framing| framing.line().is_none()) {
                let help = Some("add `framing = \"rtu\"` and `baud` for a converter to a serial line".to_owned());
                section.fault(key, format!("`{key}` is of a serial line"), help);
            }
        }
        section.knows(&["baud", "parity", "stop_bits", "turnaround"]);
        (address, framing)
    };
    let unit: u8 = section.optional("unit").unwrap_or(1);
    match framing {
        Some(Framing::Tcp) if unit > 247 && unit != 255 => {
            section.fault("unit", "a unit is 0 to 247, or 255 for the device at the address itself", None);
        }
        Some(Framing::RtuOverTcp(_) | Framing::Serial(_)) if !(1..=247).contains(&unit) => {
            section.fault("unit", "a unit on a serial line is 1 to 247; 0 is for all, and nobody answers", None);
        }
        _ => {}
    }
    let timeout = timeout(&mut section, 500);
    let shift = section.optional("shift").unwrap_or(0);
    section.finish();
    Some(ModbusLink { address: address?, framing: framing?, unit, timeout, shift })
}

fn serial_line(section: &mut Section<'_, '_>) -> Option<SerialLine> {
    let baud: Option<u32> = section.optional("baud");
    if baud.is_some_and(|baud| !BAUD.contains(&baud)) {
        section.fault("baud", "a serial line has 300 to 1000000 baud", None);
    }
    let parity = section.optional("parity").unwrap_or_default();
    let stop_bits: u8 = section.optional("stop_bits").unwrap_or(1);
    if !(1..=2).contains(&stop_bits) {
        section.fault("stop_bits", "there are 1 or 2 stop bits", None);
    }
    let turnaround: Span = section.optional("turnaround").unwrap_or(Span::from_millis(TURNAROUND_MS));
    if turnaround.as_millis() > MAX_TURNAROUND_MS {
        section.fault("turnaround", "a device that takes more than 1s to begin its answer cannot be polled", None);
    }
    Some(SerialLine { baud: baud?, parity, stop_bits, turnaround: turnaround.get() })
}

/// What a device asks of its serial line, where one is known.
#[must_use]
pub fn share(device: &DeviceConfig) -> Option<Share> {
    let Link::Modbus(link) = &device.link else { return None };
    let line = link.framing.line()?;
    let pause = super::limits_of(device).1;
    let poll = plan(device).blocks().iter().map(|block| line.read_time(block, pause)).sum();
    Some(Share { poll, interval: device.interval })
}

/// Share of their line's time that all devices at an address need together.
#[must_use]
pub fn load<'d>(address: &str, devices: impl Iterator<Item = &'d DeviceConfig>) -> Option<f64> {
    let shares = devices.filter(|device| at(device).is_some_and(|link| link.address == address)).map(share);
    shares.fold(None, |sum, share| share.map(|share| sum.unwrap_or(0.0) + share.load()).or(sum))
}

fn at(device: &DeviceConfig) -> Option<&ModbusLink> {
    match &device.link {
        Link::Modbus(link) => Some(link),
        Link::Snmp(_) => None,
    }
}

/// What devices on one line contradict each other in, or ask too much of it together. The number is the device's
/// place in the file.
pub(crate) fn shared_faults(devices: &[(usize, DeviceConfig)]) -> Vec<KeyFault> {
    let mut faults = Vec::new();
    let mut seen: Vec<&ModbusLink> = Vec::new();
    for (place, device) in devices {
        let Some(link) = at(device) else { continue };
        if device.profile.points.iter().any(|point| point.address.moved(link.shift).is_none()) {
            faults.push(KeyFault {
                key: format!("device[{place}].modbus.shift"),
                message: format!("with a shift of {} a point lies outside of 0 to 65535", link.shift),
                help: None,
            });
        }
        let Some(first) = seen.iter().find(|first| first.address == link.address) else {
            seen.push(link);
            continue;
        };
        if first.framing != link.framing {
            faults.push(KeyFault {
                key: format!("device[{place}].modbus"),
                message: format!("`{}` is {} here and {} above", link.address, link.framing, first.framing),
                help: Some("all devices on one line have the same speed and form of characters".to_owned()),
            });
        }
    }
    for link in seen {
        let all = devices.iter().map(|(_, device)| device);
        let Some(load) = load(&link.address, all).filter(|load| *load > 1.0) else { continue };
        let on_it = devices.iter().filter(|(_, device)| at(device).is_some_and(|other| other.address == link.address));
        let (mut last, mut needs) = (0, Vec::new());
        for (place, device) in on_it {
            last = *place;
            if let Some(share) = share(device) {
                needs.push(format!("{} {:.0?} every {:?}", device.id, share.poll, share.interval));
            }
        }
        faults.push(KeyFault {
            key: format!("device[{last}].modbus"),
            message: format!(
                "the line {} ({}) would have to be busy {:.0} % of the time: {}",
                link.address,
                link.framing,
                load * 100.0,
                needs.join(", ")
            ),
            help: Some("poll less often, read fewer points, or put devices on another line".to_owned()),
        });
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn read(text: &str) -> (Option<ModbusLink>, Vec<String>) {
        let document = Document::new("f", text);
        let link = modbus_link(document.root());
        (link, document.into_faults().into_iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect())
    }

    #[test]
    fn each_transport_has_its_keys() {
        let line = SerialLine { baud: 9_600, parity: Parity::None, stop_bits: 2, turnaround: Duration::from_millis(5) };
        let written = "baud = 9600\nparity = 'none'\nstop_bits = 2\nturnaround = '5ms'";
        for (text, framing) in [
            ("address = 'h:502'".to_owned(), Framing::Tcp),
            ("address = 'h:4001'\nframing = 'rtu'".to_owned(), Framing::RtuOverTcp(None)),
            (format!("address = 'h:4001'\nframing = 'rtu'\n{written}"), Framing::RtuOverTcp(Some(line))),
            (format!("serial = '/dev/ttyUSB0'\n{written}"), Framing::Serial(line)),
        ] {
            let (link, faults) = read(&text);
            assert_eq!(faults, Vec::<String>::new(), "{text}");
            assert_eq!(link.unwrap().framing, framing, "{text}");
        }
        for (text, wanted) in [
            ("serial = 'ttyUSB0'\nbaud = 9600", "not the path of a serial port"),
            ("serial = '/dev/ttyUSB0'", "needs its speed"),
            ("serial = '/dev/ttyUSB0'\nbaud = 9600\naddress = 'h:502'", "has no `address`"),
            ("serial = '/dev/ttyUSB0'\nbaud = 9600\nunit = 0", "1 to 247"),
            ("serial = '/dev/ttyUSB0'\nbaud = 5", "300 to 1000000"),
            ("serial = '/dev/ttyUSB0'\nbaud = 9600\nstop_bits = 3", "1 or 2 stop bits"),
            ("serial = '/dev/ttyUSB0'\nbaud = 9600\nturnaround = '2s'", "more than 1s"),
            ("address = 'h:502'\nbaud = 9600", "of a serial line"),
            ("address = 'h:502'\nframing = 'rtu'\nunit = 0", "1 to 247"),
            ("address = 'h:502'\nframing = 'ascii'", "unknown variant"),
            ("address = 'h:502'\nunit = 250", "255 for the device"),
        ] {
            let (_, faults) = read(text);
            assert!(faults.iter().any(|fault| fault.contains(wanted)), "{text}: {faults:?}");
        }
    }
}
