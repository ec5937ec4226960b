//! Sources: everything that reads.
//!
//! Knows: which devices share a task. Refuses to know: MQTT, files, protocols (those are in the modules below), and when
//! something is polled ([`tasks`]).
//!
//! Tasks: one per Modbus address (its devices take turns on one connection), one per SNMP device, one per check, one
//! for the host. Each is ended by dropping it, in the middle of a poll as well, which leaves nothing half done: a poll
//! only reads.

pub mod checks;
pub mod device;
pub mod host;
pub mod modbus;
pub mod snmp;
pub mod tasks;
pub mod traps;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::envelope::EventKind;
use bcp_wire::{DeviceMeta, Id, Value};

pub use crate::clock::wall_ms;
use crate::config::{CheckConfig, Config, DeviceConfig, HostConfig, Link};
use crate::outbound::Sample;
use crate::resolver::Resolver;
use crate::schedule::{Mono, Outcome};
pub use tasks::PollNow;

/// The two clocks: monotonic for the schedule, wall for sample times.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The tokio instant of a point on the monotonic clock.
    fn instant(&self, at: Mono) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_micros(at.0))
    }
}

/// How one poll went.
#[derive(Debug)]
pub struct Polled {
    pub outcome: Outcome,
    pub samples: Vec<Sample>,
    /// The device's description, where it changed.
    pub meta: Option<Box<DeviceMeta>>,
    /// What went wrong, in one line for people.
    pub trouble: Option<String>,
    /// Time until the last answer, where there was one.
    pub rtt: Option<Duration>,
    /// A state that changed and matters at once.
    pub transition: Option<Box<EventKind>>,
}

/// What is polled in one slot of a task. Two that are equal are polled alike.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Device(Arc<DeviceConfig>),
    Check(CheckConfig),
    Host(HostConfig),
}

impl Part {
    #[must_use]
    pub fn id(&self) -> &Id {
        match self {
            Part::Device(device) => &device.id,
            Part::Check(check) => &check.id,
            Part::Host(host) => &host.id,
        }
    }
}

/// What one task polls, one at a time.
#[derive(Debug)]
pub enum Group {
    Bus(modbus::Bus),
    Snmp(Box<snmp::SnmpDevice>),
    Check(Box<checks::Check>),
    Host(Box<host::Host>),
}

impl Group {
    /// Polls one slot, at most for `budget`. On the heap for as long as it lasts: what a poll needs is much more than
    /// what a task needs between two polls; and each kind for itself, because that of devices is the smallest.
    pub fn poll(&mut self, slot: usize, budget: Duration) -> Pin<Box<dyn Future<Output = Polled> + Send + '_>> {
        match self {
            Group::Bus(bus) => Box::pin(bus.poll(slot, budget)),
            Group::Snmp(device) => Box::pin(device.poll(budget)),
            Group::Check(check) => Box::pin(check.poll()),
            Group::Host(host) => Box::pin(host.poll(budget)),
        }
    }

    /// What stays the same while the devices of a task change: the address they share, or the only one there is.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Group::Bus(bus) => format!("bus {}", bus.address()),
            Group::Snmp(device) => format!("device {}", device.state.config.id),
            Group::Check(check) => format!("check {}", check.config().id),
            Group::Host(host) => format!("host {}", host.config().id),
        }
    }

    /// The parts, in the order of slots.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        match self {
            Group::Bus(bus) => bus.devices().map(|device| Part::Device(Arc::clone(&device.config))).collect(),
            Group::Snmp(device) => vec![Part::Device(Arc::clone(&device.state.config))],
            Group::Check(check) => vec![Part::Check(check.config().clone())],
            Group::Host(host) => vec![Part::Host(host.config().clone())],
        }
    }

    /// Devices that have a name are looked for with this.
    pub fn find_with(&mut self, resolver: &Resolver) {
        match self {
            Group::Bus(bus) => bus.find_with(resolver),
            Group::Snmp(device) => device.find_with(resolver),
            // Set up with it.
            Group::Check(_) => {}
            Group::Host(host) => host.find_with(resolver),
        }
    }

    /// Becomes `next`. Devices of a bus that are in both, unchanged, keep what they have learnt.
    pub fn become_group(&mut self, next: Group) {
        match (&mut *self, next) {
            (Group::Bus(bus), Group::Bus(next)) => bus.adopt(next),
            (_, next) => *self = next,
        }
    }

    fn metas(&self) -> Vec<DeviceMeta> {
        match self {
            Group::Bus(bus) => bus.devices().map(|device| device.meta()).collect(),
            Group::Snmp(device) => vec![device.state.meta()],
            Group::Check(check) => vec![check.meta()],
            Group::Host(host) => vec![host.meta()],
        }
    }

    /// Ids, intervals and numbers of planned requests, in the order of slots.
    #[must_use]
    pub fn slots(&self) -> Vec<(Id, Duration, usize)> {
        match self {
            Group::Bus(bus) => bus
                .devices()
                .zip(bus.planned())
                .map(|(device, planned)| (device.config.id.clone(), device.config.interval, planned))
                .collect(),
            Group::Snmp(device) => {
                vec![(device.state.config.id.clone(), device.state.config.interval, device.planned())]
            }
            Group::Check(check) => vec![(check.config().id.clone(), check.config().interval, 1)],
            Group::Host(host) => vec![(host.config().id.clone(), host.config().interval, 1)],
        }
    }
}

/// Sorts devices, checks and the host into tasks.
///
/// # Errors
/// A check cannot be set up.
pub fn groups(config: &Config, resolver: &Resolver) -> Result<Vec<Group>, checks::CheckError> {
    let mut groups = device_groups(config.devices.iter().cloned().map(Arc::new));
    let trust = checks::Trust::default();
    for check in &config.checks {
        groups.push(Group::Check(Box::new(checks::Check::new(check.clone(), &trust, resolver)?)));
    }
    if let Some(host) = &config.host {
        groups.push(Group::Host(Box::new(host::Host::new(host.clone()))));
    }
    groups.iter_mut().for_each(|group| group.find_with(resolver));
    Ok(groups)
}

/// Devices at one Modbus address share a task; every SNMP device has its own.
pub fn device_groups(devices: impl IntoIterator<Item = Arc<DeviceConfig>>) -> Vec<Group> {
    let mut buses: BTreeMap<String, Vec<(Arc<DeviceConfig>, crate::config::ModbusLink)>> = BTreeMap::new();
    let mut groups = Vec::new();
    for device in devices {
        match &device.link {
            Link::Modbus(link) => {
                let link = link.clone();
                buses.entry(link.address.clone()).or_default().push((device, link));
            }
            Link::Snmp(link) => {
                let link = link.clone();
                groups.push(Group::Snmp(Box::new(snmp::SnmpDevice::new(device, link))));
            }
        }
    }
    groups.extend(buses.into_iter().map(|(address, devices)| Group::Bus(modbus::Bus::new(address, devices))));
    groups
}

/// The event of a text state that changed, if it did.
fn transition(point: &bcp_wire::PointName, from: Option<&str>, to: &str) -> Option<Box<EventKind>> {
    let text = |word: &str| Value::Text(word.to_owned());
    (from != Some(to))
        .then(|| Box::new(EventKind::Transition { point: point.clone(), from: from.map(text), to: text(to) }))
}
