//! This host: processors, memory, load, pressure, disks, file systems, network interfaces, sensors, units, processes,
//! clock.
//!
//! | module | knows |
//! |---|---|
//! | [`config`] | the `[host]` section |
//! | [`kernel`] | what the kernel tells in `/proc` and `/sys` |
//! | [`disks`], [`processes`] | growth of counters between two looks |
//! | [`file_systems`] | sizes; a dead network mount costs only itself |
//! | [`units`], [`ntp`] | systemd; how far the clock is off |
//!
//! Refuses to know: thresholds. Whatever may wait has a time limit of its own and is asked beside the rest; what does
//! not come in time is told as bad, and not asked again before it is back.
//!
//! Tasks: one blocking read of the kernel's figures; one question each to systemd and to the time server; the threads of
//! [`file_systems`].

pub mod config;
pub mod disks;
pub mod file_systems;
pub mod kernel;
pub mod ntp;
pub mod processes;
pub mod units;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::presence::PointMeta;
use bcp_wire::{BadReason, ClockState, DeviceMeta, PointName, Value, WIRE_VERSION};
use sysinfo::System;
use tokio::task::JoinHandle;

use crate::clock::kernel_state;
use crate::config::HostConfig;
use crate::outbound::Sample;
use crate::resolver::Resolver;
use crate::schedule::Outcome;
use crate::source::Polled;
use file_systems::FileSystems;
use kernel::Kernel;

/// Time for one reading of the kernel's figures.
const FIGURES_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for asking every file system; one on a disk answers in microseconds.
const FILE_SYSTEMS_TIMEOUT: Duration = Duration::from_millis(500);
/// Time to wait for an answer of systemd or of the time server that is new; it is told with the next poll otherwise.
const ASIDE_TIMEOUT: Duration = Duration::from_millis(250);
/// systemd is asked this often: each time costs two processes.
const UNITS_EVERY: Duration = Duration::from_secs(15);
/// RFC 4330, 10: a time server is asked no more often than this.
const NTP_EVERY: Duration = Duration::from_secs(64);
/// An answer that is older than this many turns is no answer any more.
const TURNS_KEPT: u32 = 3;
/// Most file systems, disks, interfaces and sensors that are told.
const MAX_ROWS: usize = 32;

/// What is told of one thing.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Num(f64),
    Word(String),
}

impl From<f64> for Told {
    fn from(number: f64) -> Told {
        Told::Num(number)
    }
}

impl From<&str> for Told {
    fn from(word: &str) -> Told {
        Told::Word(word.to_owned())
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Num(number) => number.fmt(f),
            Told::Word(word) => word.fmt(f),
        }
    }
}

/// One figure by its name of the contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: String,
    pub value: Result<Told, BadReason>,
}

impl Figure {
    #[must_use]
    pub const fn new(name: String, value: Result<Told, BadReason>) -> Figure {
        Figure { name, value }
    }

    fn sample(self, offset_ms: i64) -> Option<Sample> {
        let name: PointName = self.name.parse().ok()?;
        let value = self.value.and_then(|told| match told {
            Told::Num(number) => Value::num(number).ok_or(BadReason::Range),
            Told::Word(word) => Value::text(&word).ok_or(BadReason::Decode),
        });
        Some((name, offset_ms, value))
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

/// Something that is asked beside the polls, and what it said last.
#[derive(Debug)]
struct Aside<T> {
    every: Duration,
    asked: Option<(Instant, JoinHandle<T>)>,
    last: Option<(Instant, T)>,
    due: Instant,
}

impl<T: Send + 'static> Aside<T> {
    fn new(every: Duration) -> Aside<T> {
        Aside { every, asked: None, last: None, due: Instant::now() }
    }

    /// The last answer and its age; asks where it is time to, and waits for `patience`.
    async fn read(
        &mut self,
        patience: Duration,
        ask: impl Future<Output = T> + Send + 'static,
    ) -> Option<(&T, Duration)> {
        if self.asked.is_none() && Instant::now() >= self.due {
            self.asked = Some((Instant::now(), tokio::spawn(ask)));
            self.due = Instant::now() + self.every;
        }
        if let Some((at, task)) = &mut self.asked
            && let Ok(ended) = tokio::time::timeout(patience, task).await
        {
            let at = *at;
            self.asked = None;
            self.last = ended.ok().map(|answer| (at, answer));
        }
        let most = self.every * TURNS_KEPT;
        self.last.as_ref().map(|(at, answer)| (answer, at.elapsed())).filter(|(_, age)| *age < most)
    }
}

/// This host as a device.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    /// Absent while it is away on its thread.
    kernel: Option<Box<Kernel>>,
    reading: Option<JoinHandle<(Box<Kernel>, Vec<Figure>)>>,
    file_systems: FileSystems,
    units: Aside<Result<Vec<Figure>, units::UnitsError>>,
    ntp: Aside<Result<f64, ntp::NtpError>>,
    told: Vec<PointName>,
    resolver: Resolver,
}

impl Host {
    #[must_use]
    pub fn new(config: HostConfig) -> Host {
        let kernel = Some(Box::new(Kernel::new(config.processes.clone())));
        Host {
            config,
            kernel,
            reading: None,
            file_systems: FileSystems::new(Arc::new(file_systems::statvfs)),
            units: Aside::new(UNITS_EVERY),
            ntp: Aside::new(NTP_EVERY),
            told: Vec::new(),
            resolver: Resolver::default(),
        }
    }

    /// The time server is looked for with this, where it has a name.
    pub fn find_with(&mut self, resolver: &Resolver) {
        self.resolver = resolver.clone();
    }

    #[must_use]
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    #[must_use]
    pub fn meta(&self) -> DeviceMeta {
        let point = |name: &PointName| PointMeta {
            name: name.clone(),
            unit: bcp_wire::names::lookup(name).map_or("", |def| def.unit).to_owned(),
            interval_ms: u64::try_from(self.every(name).as_millis()).unwrap_or(u64::MAX),
            source: None,
        };
        DeviceMeta {
            v: WIRE_VERSION,
            i: 0,
            device: self.config.id.clone(),
            kind: "host".to_owned(),
            profile: None,
            firmware: System::kernel_version().ok(),
            firmware_proven: true,
            parent: self.config.parent.clone(),
            location: self.config.location.clone(),
            points: self.told.iter().map(point).collect(),
        }
    }

    /// How often a figure is new: what is asked aside is asked less often than the host is read.
    fn every(&self, name: &PointName) -> Duration {
        let name = name.as_str();
        let aside = if name.starts_with("host.unit.") || name.starts_with("host.units.") {
            UNITS_EVERY
        } else if name == "host.ntp.offset" && self.config.ntp.is_some() {
            NTP_EVERY
        } else {
            Duration::ZERO
        };
        aside.max(self.config.interval)
    }

    /// Reads everything once.
    pub async fn poll(&mut self, budget: Duration) -> Polled {
        let start = Instant::now();
        let left = |most: Duration| most.min(budget.saturating_sub(start.elapsed()));
        let mut samples: Vec<Sample> = Vec::with_capacity(64);
        let mut trouble = None;
        self.start_reading();
        // The table of mounts is the kernel's own: reading it asks no server.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let (figures, silent) = self.file_systems.read(&mounts, left(FILE_SYSTEMS_TIMEOUT)).await;
        trouble = silent.map(|path| format!("the file system at {path} does not answer")).or(trouble);
        samples.extend(figures.into_iter().filter_map(|figure| figure.sample(0)));
        match self.finish_reading(left(FIGURES_TIMEOUT)).await {
            Some(figures) => samples.extend(figures.into_iter().filter_map(|figure| figure.sample(0))),
            None => trouble = Some("the host's figures could not be read in time".to_owned()),
        }
        trouble = self.tell_units(left(ASIDE_TIMEOUT), &mut samples).await.or(trouble);
        trouble = self.tell_clock(left(ASIDE_TIMEOUT), &mut samples).await.or(trouble);
        let names = samples.iter().map(|(name, _, _)| name);
        let meta = if names.clone().eq(self.told.iter()) {
            None
        } else {
            self.told = names.cloned().collect();
            Some(Box::new(self.meta()))
        };
        // A host that reads itself is there.
        Polled { outcome: Outcome::Answered, samples, meta, trouble, rtt: None, transition: None }
    }

    /// Starts a reading, unless one is under way.
    fn start_reading(&mut self) {
        if self.reading.is_none() {
            let kernel = self.kernel.take().unwrap_or_else(|| Box::new(Kernel::new(self.config.processes.clone())));
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let mut kernel = kernel;
                let figures = kernel.read(Instant::now());
                (kernel, figures)
            }));
        }
    }

    /// The result of the reading, if it ends in time; else it stays under way.
    async fn finish_reading(&mut self, patience: Duration) -> Option<Vec<Figure>> {
        let done = tokio::time::timeout(patience, self.reading.as_mut()?).await.ok()?;
        self.reading = None;
        let (kernel, figures) = done.ok()?;
        self.kernel = Some(kernel);
        Some(figures)
    }

    async fn tell_units(&mut self, patience: Duration, samples: &mut Vec<Sample>) -> Option<String> {
        if !units::present() {
            return self.no_units(samples);
        }
        let watched = self.config.units.clone();
        let asked = self.units.read(patience, async move { units::read(&watched).await }).await;
        let (answer, age) = asked?;
        match answer {
            Ok(figures) => {
                let figures = figures.iter().cloned().filter_map(|figure| figure.sample(-millis(age)));
                samples.extend(figures);
                None
            }
            Err(error) => {
                let trouble = error.to_string();
                let failed = Figure::new("host.units.failed".to_owned(), Err(BadReason::Timeout));
                samples.extend(failed.sample(0));
                Some(trouble)
            }
        }
    }

    /// Units are watched on a host without systemd.
    fn no_units(&self, samples: &mut Vec<Sample>) -> Option<String> {
        if self.config.units.is_empty() {
            return None;
        }
        let failed = Figure::new("host.units.failed".to_owned(), Err(BadReason::Config));
        samples.extend(failed.sample(0));
        Some("units are watched, but systemd does not run this host".to_owned())
    }

    async fn tell_clock(&mut self, patience: Duration, samples: &mut Vec<Sample>) -> Option<String> {
        let (word, mut offset_ms) = match kernel_state() {
            ClockState::Synchronised { offset_ms } => (Some("synchronised"), Some(Ok((offset_ms, 0)))),
            ClockState::Unsynchronised => (Some("unsynchronised"), None),
            _ => (None, None),
        };
        let mut trouble = None;
        if let Some(server) = self.config.ntp.clone() {
            // The server's word is worth more than the kernel's: that one only knows what it still has to make up.
            let resolver = self.resolver.clone();
            let asked = async move { ntp::offset_ms(&server, &resolver).await };
            offset_ms = match self.ntp.read(patience, asked).await {
                Some((Ok(offset_ms), age)) => Some(Ok((*offset_ms, -millis(age)))),
                Some((Err(error), _)) => {
                    trouble = Some(error.to_string());
                    Some(Err(BadReason::Timeout))
                }
                None => None,
            };
        }
        if let Some(word) = word {
            samples.extend(Figure::new("host.ntp.state".to_owned(), Ok(word.into())).sample(0));
        }
        if let Some(told) = offset_ms {
            let at = told.map_or(0, |(_, at)| at);
            let value = told.map(|(offset_ms, _)| Told::Num(offset_ms));
            samples.extend(Figure::new("host.ntp.offset".to_owned(), value).sample(at));
        }
        trouble
    }
}

fn millis(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_host_is_read_by_names_of_the_contract() {
        let mut config = HostConfig::new("srv".parse().unwrap(), Duration::from_secs(1));
        config.processes = vec!["nosuchprogram".to_owned()];
        let mut host = Host::new(config);
        let budget = Duration::from_secs(10);
        let first = host.poll(budget).await;
        let second = host.poll(budget).await;
        assert!(first.meta.is_some());
        let names: Vec<String> = second.samples.iter().map(|(name, _, _)| name.to_string()).collect();
        for want in [
            "host.cpu.used",
            "host.load.1m",
            "host.memory.used",
            "host.uptime",
            "host.processes",
            "host.process.nosuchprogram.count",
            "host.boot.id",
            "host.fs.root.state",
        ] {
            assert!(names.iter().any(|name| name == want), "{want} of {names:?}");
        }
        for (name, _, value) in &second.samples {
            assert!(bcp_wire::names::lookup(name).is_some(), "{name}");
            assert!(value.is_ok(), "{name} {value:?}");
        }
    }

    #[test]
    fn what_is_asked_aside_is_not_expected_with_every_poll() {
        let mut config = HostConfig::new("srv".parse().unwrap(), Duration::from_secs(5));
        config.ntp = Some("127.0.0.1".to_owned());
        let mut host = Host::new(config);
        let names = ["host.cpu.used", "host.units.failed", "host.unit.nginx.state", "host.ntp.offset"];
        host.told = names.map(|name| name.parse().unwrap()).to_vec();
        let every: Vec<u64> = host.meta().points.iter().map(|point| point.interval_ms).collect();
        assert_eq!(every, [5_000, 15_000, 15_000, 64_000]);
    }

    #[tokio::test]
    async fn a_time_server_that_is_silent_costs_its_own_figure_only() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut config = HostConfig::new("srv".parse().unwrap(), Duration::from_secs(1));
        config.ntp = Some(silent.local_addr().unwrap().to_string());
        let mut host = Host::new(config);
        let budget = Duration::from_secs(10);
        let mut polled = host.poll(budget).await;
        for _ in 0..100 {
            if polled.trouble.is_some() {
                break;
            }
            polled = host.poll(budget).await;
        }
        assert!(polled.trouble.unwrap().contains("does not answer within"));
        let bad: Vec<String> =
            polled.samples.iter().filter(|sample| sample.2.is_err()).map(|sample| sample.0.to_string()).collect();
        assert_eq!(bad, ["host.ntp.offset"]);
    }

    #[tokio::test]
    async fn watched_units_without_systemd_are_a_fault_that_is_told() {
        if units::present() {
            return;
        }
        let mut config = HostConfig::new("srv".parse().unwrap(), Duration::from_secs(1));
        config.units = vec!["nginx.service".to_owned()];
        let polled = Host::new(config).poll(Duration::from_secs(10)).await;
        assert!(polled.trouble.unwrap().contains("systemd does not run this host"));
    }
}
