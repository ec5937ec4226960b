//! One live reading of devices, as rows for people and scripts: `once` and `probe`. Also the request plan: `check`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::names::lookup;
use bcp_wire::{Id, Quality, Value};
use futures::StreamExt;
use serde::Serialize;

use crate::config::{Config, DeviceConfig, Link, ModbusLink};
use crate::derive::Reading;
use crate::outbound::Sample;
use crate::resolver::Resolver;
use crate::schedule::Outcome;
use crate::source::device::DeviceState;
use crate::source::snmp::SnmpDevice;
use crate::source::{Group, device_groups, modbus};

/// Groups read at the same time by `once`.
const CONCURRENT: usize = 64;
/// Longest time for one device: a person is waiting.
const BUDGET: Duration = Duration::from_secs(5);

/// Polls in which the tables of a device are looked for: a slow one with many rows takes more than one.
const MOST_LOOKS: usize = 6;

/// One point of one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub device: Id,
    pub point: String,
    pub value: Option<Value>,
    pub unit: &'static str,
    /// `good` or `bad`.
    pub quality: &'static str,
    /// Why it is bad.
    pub reason: Option<&'static str>,
    /// OID, register, URL or `derived`.
    pub source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// Rows of one device, and whether it answered.
#[derive(Debug)]
pub struct DeviceRows {
    pub device: Id,
    pub answered: bool,
    pub trouble: Option<String>,
    pub firmware: Option<String>,
    pub rtt: Option<Duration>,
    pub rows: Vec<Row>,
}

fn row(
    device: &Id,
    point: &str,
    reading: &Result<Value, bcp_wire::BadReason>,
    unit: &'static str,
    source: &str,
) -> Row {
    let (value, quality) = match reading {
        Ok(value) => (Some(value.clone()), Quality::Good),
        Err(reason) => (None, Quality::Bad(*reason)),
    };
    let reason = match quality {
        Quality::Bad(reason) => Some(reason.as_str()),
        Quality::Good | Quality::Stale => None,
    };
    Row {
        device: device.clone(),
        point: point.to_owned(),
        value,
        unit,
        quality: if quality.is_good() { "good" } else { "bad" },
        reason,
        source: source.to_owned(),
        raw: None,
    }
}

fn device_rows(state: &DeviceState, hidden: bool) -> Vec<Row> {
    let id = &state.config.id;
    state
        .rows()
        .filter(|(described, _)| described.publish || hidden)
        .filter_map(|(described, reading): (_, &Reading)| {
            let mut row = row(id, described.name.as_str(), reading.as_ref()?, described.unit, &described.source);
            row.raw.clone_from(&described.raw);
            Some(row)
        })
        .collect()
}

fn sample_rows(device: &Id, samples: &[Sample], source: &str) -> Vec<Row> {
    samples
        .iter()
        .map(|(name, _, reading)| row(device, name.as_str(), reading, lookup(name).map_or("", |def| def.unit), source))
        .collect()
}

/// Reads everything once, slow groups beside each other.
pub async fn read_all(groups: Vec<Group>) -> Vec<DeviceRows> {
    let mut all: Vec<DeviceRows> = futures::stream::iter(groups)
        .map(|group| read_group(group, false))
        .buffer_unordered(CONCURRENT)
        .flat_map(futures::stream::iter)
        .collect()
        .await;
    all.sort_by(|a, b| a.device.cmp(&b.device));
    all
}

/// Reads one device and keeps its bytes.
pub async fn probe(config: &Config, device: &Id) -> Option<DeviceRows> {
    let found = config.devices.iter().find(|found| found.id == *device)?;
    let mut group = device_groups([Arc::new(found.clone())]).pop()?;
    group.find_with(&Resolver::new(config.resolver.clone()));
    read_group(group, true).await.pop()
}

async fn read_group(mut group: Group, watched: bool) -> Vec<DeviceRows> {
    match &mut group {
        Group::Bus(bus) if watched => bus.watch(),
        Group::Snmp(device) if watched => device.watch(),
        _ => {}
    }
    let mut all = Vec::new();
    let slots: Vec<Id> = group.slots().into_iter().map(|slot| slot.0).collect();
    if let Group::Host(host) = &mut group {
        // Processor use is a difference: it takes two looks.
        host.poll(BUDGET).await;
        tokio::time::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL).await;
    }
    for (slot, device) in slots.into_iter().enumerate() {
        let mut polled = group.poll(slot, BUDGET).await;
        for _ in 1..MOST_LOOKS {
            if !matches!(&group, Group::Snmp(device) if device.is_discovering()) {
                break;
            }
            polled = group.poll(slot, BUDGET).await;
        }
        let (rows, firmware) = match &group {
            Group::Bus(bus) => bus
                .devices()
                .nth(slot)
                .map(|state| (device_rows(state, watched), state.firmware.clone()))
                .unwrap_or_default(),
            Group::Snmp(snmp) => (device_rows(&snmp.state, watched), snmp.state.firmware.clone()),
            Group::Check(check) => {
                let source = check.config().probe.target();
                (sample_rows(&device, &polled.samples, &source), None)
            }
            Group::Host(_) => (sample_rows(&device, &polled.samples, "host"), None),
        };
        all.push(DeviceRows {
            device,
            answered: polled.outcome == Outcome::Answered,
            trouble: polled.trouble,
            firmware,
            rtt: polled.rtt,
            rows,
        });
    }
    all
}

/// Rows as a table; with bytes where they were kept.
#[must_use]
pub fn table(devices: &[DeviceRows]) -> String {
    let mut text = String::new();
    for device in devices {
        let rtt = device.rtt.map(|rtt| format!(", {:.1} ms", rtt.as_secs_f64() * 1e3)).unwrap_or_default();
        let firmware = device.firmware.as_ref().map(|f| format!(", firmware {f}")).unwrap_or_default();
        let trouble = device.trouble.as_ref().map(|t| format!(" ({t})")).unwrap_or_default();
        let answered = if device.answered { "answers" } else { "DOES NOT ANSWER" };
        let _ = writeln!(text, "{}: {answered}{rtt}{firmware}{trouble}", device.device);
        let watched = device.rows.iter().any(|row| row.raw.is_some());
        let mut lines = Vec::new();
        for row in &device.rows {
            let value =
                row.value.as_ref().map_or_else(|| format!("bad:{}", row.reason.unwrap_or("?")), ToString::to_string);
            lines.push([
                row.point.clone(),
                format!("{value} {}", row.unit).trim_end().to_owned(),
                row.raw.clone().unwrap_or_default(),
                row.source.clone(),
            ]);
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        for [point, value, raw, source] in &lines {
            let _ = write!(text, "  {point:<0$}  {value:<1$}", widths[0], widths[1]);
            if watched {
                let _ = write!(text, "  {raw:<0$}", widths[2]);
            }
            let _ = writeln!(text, "  {source}");
        }
    }
    text
}

/// How busy a device keeps its serial line, and all devices together.
fn line_time(config: &Config, device: &DeviceConfig, link: &ModbusLink) -> String {
    let (Some(share), Some(load)) =
        (modbus::config::share(device), modbus::config::load(&link.address, config.devices.iter()))
    else {
        return String::new();
    };
    let (own, all) = (share.load() * 100.0, load * 100.0);
    format!(", {}: {:.1?} of the line, {own:.1} %; the line is busy {all:.1} %", link.framing, share.poll)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What is asked of every device, for `check`.
#[must_use]
pub fn plans(config: &Config) -> String {
    let mut text = String::new();
    for device in &config.devices {
        let _ = write!(
            text,
            "{} ({}, {} every {:?}): ",
            device.id, device.kind, device.profile.reference.id, device.interval
        );
        match &device.link {
            Link::Modbus(link) => {
                let plan = modbus::plan(device);
                let _ = writeln!(
                    text,
                    "{} in {} to {} unit {}{}",
                    counted(plan.items().len(), "point"),
                    counted(plan.blocks().len(), "request"),
                    link.address,
                    link.unit,
                    line_time(config, device, link)
                );
                for block in plan.blocks() {
                    let _ = writeln!(
                        text,
                        "  {}:{}+{} for {}",
                        block.space.as_str(),
                        block.address,
                        block.count,
                        counted(block.items.len(), "point")
                    );
                }
            }
            Link::Snmp(link) => {
                let planned = SnmpDevice::new(Arc::new(device.clone()), link.clone());
                let sizes: Vec<usize> = planned.request_sizes().collect();
                let rows = match device.profile.tables.len() {
                    0 => String::new(),
                    tables => format!(", and the rows of {}", counted(tables, "table")),
                };
                let _ = writeln!(
                    text,
                    "{} in {} to {}{rows}",
                    counted(sizes.iter().sum(), "OID"),
                    counted(sizes.len(), "request"),
                    link.address
                );
                for size in sizes {
                    let _ = writeln!(text, "  GET of {}", counted(size, "OID"));
                }
            }
        }
    }
    for check in &config.checks {
        let _ = writeln!(text, "{} (check of {}, every {:?})", check.id, check.service, check.interval);
    }
    if let Some(host) = &config.host {
        let _ = writeln!(text, "{} (this host, every {:?})", host.id, host.interval);
    }
    text
}
