//! Modbus over TCP, over a serial line, and over a converter between the two.
//!
//! | module | knows |
//! |---|---|
//! | [`config`] | addresses, serial lines, and how busy devices keep one |
//! | [`line`], [`tcp`], [`rtu`], [`serial`] | the connection; which answer belongs to a request; the port |
//! | [`frame`], [`timing`] | bytes on a serial line, and how long they take |
//! | `unit` | a poll of one device; what exceptions mean |
//!
//! Here: who shares a line. One task owns a [`Bus`] and asks its devices one after the other, so one request is under
//! way per address at any time.

pub mod config;
pub mod frame;
pub mod line;
pub mod rtu;
pub mod serial;
pub mod tcp;
pub mod timing;
mod unit;

use std::sync::Arc;
use std::time::Duration;

use crate::config::{DeviceConfig, Link, ModbusLink};
use crate::plan::{Item, Limits, ReadPlan};
use crate::profile::{Address, Protocol};
use crate::resolver::Resolver;
use crate::schedule::Outcome;
use crate::source::Polled;
use crate::source::device::DeviceState;
use config::Framing;
use line::Line;
use unit::Unit;

/// One line and the devices behind it.
#[derive(Debug)]
pub struct Bus {
    line: Line,
    units: Vec<Unit>,
}

/// The plan of a profile's points.
#[must_use]
pub fn plan(device: &DeviceConfig) -> ReadPlan {
    let (limits, _) = limits_of(device);
    let points = &device.profile.points;
    let shift = match &device.link {
        Link::Modbus(link) => link.shift,
        Link::Snmp(_) => 0,
    };
    let items = points.iter().enumerate().filter_map(|(point, described)| match described.address.moved(shift)? {
        Address::Register { space, address, len } => Some(Item { space, address, len, point }),
        Address::Oid(_) => None,
    });
    // A value and the scale or unit that goes with it are of one moment.
    let together: Vec<(usize, usize)> = points
        .iter()
        .enumerate()
        .flat_map(|(point, described)| described.adjust.siblings().map(move |sibling| (point, *sibling)))
        .collect();
    ReadPlan::new(items.collect(), &together, limits)
}

fn limits_of(device: &DeviceConfig) -> (Limits, Duration) {
    match device.profile.protocol {
        Protocol::Modbus { limits, pause } => {
            let line = match &device.link {
                Link::Modbus(link) => link.framing.line(),
                Link::Snmp(_) => None,
            };
            (line.map_or(limits, |line| line.worth_reading_along(limits)), pause)
        }
        // The configuration refuses such a pair; an empty plan is what it would mean.
        Protocol::Snmp { .. } => (Limits { max_registers: 1, max_bits: 1, max_gap: 0 }, Duration::ZERO),
    }
}

impl Bus {
    /// A bus of devices at one address; the first says how it is framed.
    #[must_use]
    pub fn new(address: String, devices: Vec<(Arc<DeviceConfig>, ModbusLink)>) -> Bus {
        let framing = devices.first().map_or(Framing::Tcp, |(_, link)| link.framing);
        let units = devices.into_iter().map(|(device, link)| Unit::new(device, link)).collect();
        Bus { line: Line::new(address, framing), units }
    }

    #[must_use]
    pub fn address(&self) -> &str {
        self.line.address()
    }

    /// The address is looked for with this, where it is a name.
    pub fn find_with(&mut self, resolver: &Resolver) {
        self.line.find_with(resolver);
    }

    /// Takes over the devices of `next`. Those that are configured as before keep their plan and what was learnt, and the
    /// connection stays unless it is another kind of line now.
    pub fn adopt(&mut self, next: Bus) {
        let mut before = std::mem::take(&mut self.units);
        let kept = |unit: Unit| match before.iter().position(|old| old.state.config == unit.state.config) {
            Some(at) => before.swap_remove(at),
            None => unit,
        };
        self.units = next.units.into_iter().map(kept).collect();
        if self.line.framing() != next.line.framing() {
            self.line = next.line;
        }
    }

    pub fn devices(&self) -> impl Iterator<Item = &DeviceState> {
        self.units.iter().map(|unit| &unit.state)
    }

    pub fn planned(&self) -> impl Iterator<Item = usize> {
        self.units.iter().map(Unit::planned)
    }

    /// Keeps the bytes of every point from now on.
    pub fn watch(&mut self) {
        self.units.iter_mut().for_each(Unit::watch);
    }

    /// Polls one device, at most for `budget`.
    pub async fn poll(&mut self, slot: usize, budget: Duration) -> Polled {
        match self.units.get_mut(slot) {
            Some(unit) => unit.poll(&mut self.line, budget).await,
            None => Polled {
                outcome: Outcome::Refused,
                samples: Vec::new(),
                meta: None,
                trouble: None,
                rtt: None,
                transition: None,
            },
        }
    }
}
