//! What the agent knows of itself: every device's state, lateness of polls, its own memory and processor time.
//!
//! Knows: figures. Refuses to know: who reads them. One short lock per poll; nobody holds it while waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bcp_wire::{DeviceMeta, Id, PointMeta, PointName, Value, WIRE_VERSION};
use serde::Serialize;

use crate::clock::{self, WallClock};
use crate::outbound::Sample;
use crate::schedule::{Finished, Mono, Outcome, ReachChange};
use crate::source::{Clock, Polled};
use crate::spool::SpoolFigures;

/// Round trips of a device that its percentiles are taken of.
const RTT_WINDOW: usize = 64;
/// Lateness is kept in this many windows of [`LATENESS_WINDOW`]: the last minute.
const LATENESS_WINDOWS: usize = 6;
const LATENESS_WINDOW: Duration = Duration::from_secs(10);
/// Steps of the lateness histogram: the n-th holds up to 2^(n/4) - 1 tenths of a millisecond; the last one the rest.
const LATENESS_STEPS: usize = 80;
/// How often the agent reports about itself.
pub const SELF_INTERVAL: Duration = Duration::from_secs(10);

/// Live state of everything that is polled.
#[derive(Debug)]
pub struct Board {
    clock: Clock,
    wall: WallClock,
    started_ms: i64,
    polls: AtomicU64,
    missed: AtomicU64,
    failed: AtomicU64,
    samples: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    devices: BTreeMap<Id, Device>,
    lateness: VecDeque<(Mono, [u32; LATENESS_STEPS])>,
    /// SNMP engines of devices, to tell cloned ones.
    engines: BTreeMap<Id, Vec<u8>>,
}

#[derive(Debug)]
struct Device {
    interval: Duration,
    planned: usize,
    reachable: Option<bool>,
    polls: u64,
    missed: u64,
    failed: u64,
    last_good_ms: Option<i64>,
    trouble: Option<String>,
    next: Mono,
    rtt: VecDeque<Duration>,
}

/// One device, for people and for `status`.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct DeviceReport {
    pub id: Id,
    /// `yes`, `no`, or `unknown` before the first answer.
    pub reachable: String,
    pub interval_ms: u64,
    pub requests: usize,
    pub polls: u64,
    pub missed: u64,
    pub failed: u64,
    pub last_good_ms: Option<i64>,
    pub rtt_p50_ms: Option<f64>,
    pub rtt_p99_ms: Option<f64>,
    pub next_in_ms: u64,
    pub trouble: Option<String>,
}

/// Everything `GET /status` tells.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct Report {
    pub version: String,
    pub started_ms: i64,
    pub polls: u64,
    pub missed: u64,
    pub failed: u64,
    pub samples: u64,
    pub lateness_p99_ms: f64,
    pub rss_bytes: u64,
    pub devices: Vec<DeviceReport>,
}

impl Board {
    #[must_use]
    pub fn new(clock: Clock) -> Board {
        Board {
            clock,
            wall: WallClock::default(),
            started_ms: clock::wall_ms(),
            polls: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            inner: Mutex::default(),
        }
    }

    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The wall clock that labels samples.
    #[must_use]
    pub fn wall(&self) -> &WallClock {
        &self.wall
    }

    /// The device is no longer polled.
    pub fn remove(&self, id: &Id) {
        self.inner().devices.remove(id);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Figures stay usable whatever happened to the thread that held the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, id: &Id, interval: Duration, planned: usize) {
        let device = Device {
            interval,
            planned,
            reachable: None,
            polls: 0,
            missed: 0,
            failed: 0,
            last_good_ms: None,
            trouble: None,
            next: self.clock.now(),
            rtt: VecDeque::new(),
        };
        self.inner().devices.insert(id.clone(), device);
    }

    /// Writes down one poll.
    pub fn polled(&self, id: &Id, late: Duration, polled: &Polled, finished: &Finished, t_ms: i64) {
        let failed = u64::from(polled.outcome != Outcome::Answered);
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.missed.fetch_add(finished.missed, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
        self.samples.fetch_add(polled.samples.len() as u64, Ordering::Relaxed);
        let now = self.clock.now();
        let mut inner = self.inner();
        inner.late(now, late);
        let Some(device) = inner.devices.get_mut(id) else { return };
        device.polls += 1;
        device.missed += finished.missed;
        device.failed += failed;
        device.next = finished.next;
        if device.trouble != polled.trouble {
            device.trouble.clone_from(&polled.trouble);
        }
        if polled.outcome == Outcome::Answered {
            device.last_good_ms = Some(t_ms);
        }
        match finished.reach {
            ReachChange::BecameReachable => device.reachable = Some(true),
            ReachChange::BecameUnreachable => device.reachable = Some(false),
            ReachChange::Same => {}
        }
        if let Some(rtt) = polled.rtt {
            if device.rtt.len() == RTT_WINDOW {
                device.rtt.pop_front();
            }
            device.rtt.push_back(rtt);
        }
    }

    /// Writes down the SNMP engine of a device; gives another device that says it is the same one, once.
    #[must_use]
    pub fn engine_seen(&self, id: &Id, engine: &[u8]) -> Option<Id> {
        let mut inner = self.inner();
        if inner.engines.get(id).is_some_and(|known| known == engine) {
            return None;
        }
        let twin = inner.engines.iter().find(|(other, known)| *other != id && *known == engine);
        let twin = twin.map(|(other, _)| other.clone());
        inner.engines.insert(id.clone(), engine.to_vec());
        twin
    }

    #[must_use]
    pub fn report(&self) -> Report {
        let now = self.clock.now();
        let inner = self.inner();
        let devices = inner.devices.iter().map(|(id, device)| device.report(id, now)).collect();
        let lateness_p99_ms = inner.lateness_p99_ms();
        drop(inner);
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: self.started_ms,
            polls: self.polls.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            samples: self.samples.load(Ordering::Relaxed),
            lateness_p99_ms,
            rss_bytes: rss_bytes().unwrap_or(0),
            devices,
        }
    }
}

impl Inner {
    fn late(&mut self, now: Mono, late: Duration) {
        if self.lateness.back().is_none_or(|(since, _)| now.since(*since) >= LATENESS_WINDOW) {
            if self.lateness.len() == LATENESS_WINDOWS {
                self.lateness.pop_front();
            }
            self.lateness.push_back((now, [0; LATENESS_STEPS]));
        }
        if let Some((_, steps)) = self.lateness.back_mut()
            && let Some(count) = steps.get_mut(lateness_step(late))
        {
            *count = count.saturating_add(1);
        }
    }

    /// Upper end of the step that holds the 99th of 100 polls.
    fn lateness_p99_ms(&self) -> f64 {
        let count = |step: usize| -> u64 {
            self.lateness.iter().filter_map(|(_, steps)| steps.get(step)).map(|n| u64::from(*n)).sum()
        };
        let total: u64 = (0..LATENESS_STEPS).map(count).sum();
        let mut below = 0;
        for step in 0..LATENESS_STEPS {
            below += count(step);
            if total > 0 && below * 100 >= total * 99 {
                return lateness_upper_ms(step);
            }
        }
        0.0
    }
}

fn lateness_step(late: Duration) -> usize {
    let step = (4.0 * (late.as_secs_f64() * 10_000.0 + 1.0).log2()).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at least 0, and bounded just here
    let step = step as usize;
    step.min(LATENESS_STEPS - 1)
}

fn lateness_upper_ms(step: usize) -> f64 {
    let quarter = i32::try_from(step).unwrap_or(i32::MAX);
    (2_f64.powf(f64::from(quarter) / 4.0) - 1.0) / 10.0
}

impl Device {
    fn report(&self, id: &Id, now: Mono) -> DeviceReport {
        let mut sorted: Vec<Duration> = self.rtt.iter().copied().collect();
        sorted.sort_unstable();
        let percentile = |hundredth: usize| {
            sorted.get((sorted.len() * hundredth / 100).min(sorted.len().saturating_sub(1))).map(|rtt| millis(*rtt))
        };
        let reachable = match self.reachable {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        DeviceReport {
            id: id.clone(),
            reachable: reachable.to_owned(),
            interval_ms: u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            requests: self.planned,
            polls: self.polls,
            missed: self.missed,
            failed: self.failed,
            last_good_ms: self.last_good_ms,
            rtt_p50_ms: percentile(50),
            rtt_p99_ms: percentile(99),
            next_in_ms: u64::try_from(self.next.since(now).as_millis()).unwrap_or(u64::MAX),
            trouble: self.trouble.clone(),
        }
    }
}

/// Milliseconds with three digits after the point.
fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// Resident memory of this process.
#[must_use]
pub fn rss_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The agent as a device of its own.
#[derive(Debug)]
pub struct SelfDevice {
    id: Id,
    last: (Mono, Duration),
}

impl SelfDevice {
    #[must_use]
    pub fn new(agent: Id, board: &Board) -> SelfDevice {
        SelfDevice { id: agent, last: (board.clock().now(), cpu_time()) }
    }

    /// Its readings now.
    #[allow(clippy::cast_precision_loss)] // counters as doubles, as everywhere on the wire
    pub fn samples(&mut self, board: &Board, spool: &SpoolFigures) -> Vec<Sample> {
        let (now, cpu) = (board.clock().now(), cpu_time());
        let (then, before) = std::mem::replace(&mut self.last, (now, cpu));
        let elapsed = now.since(then).as_secs_f64();
        let report = board.report();
        let mut samples = Vec::new();
        let mut number = |name: &str, value: f64| {
            if let (Ok(name), Some(value)) = (name.parse::<PointName>(), Value::num(value)) {
                samples.push((name, 0, Ok(value)));
            }
        };
        number("agent.rss", report.rss_bytes as f64);
        if elapsed > 0.0 {
            number("agent.cpu.used", (cpu.saturating_sub(before).as_secs_f64() / elapsed * 1e4).round() / 100.0);
        }
        number("agent.spool.bytes", (spool.disk_bytes + spool.memory_bytes) as f64);
        number("agent.spool.dropped", spool.dropped as f64);
        let oldest_ms = spool.oldest_t_ms.map_or(0, |oldest| board.wall().stamp().t_ms.saturating_sub(oldest).max(0));
        number("agent.spool.oldest", (oldest_ms / 1_000) as f64);
        number("agent.polls.total", report.polls as f64);
        number("agent.polls.missed", report.missed as f64);
        number("agent.lateness.p99", (report.lateness_p99_ms * 10.0).round() / 10.0);
        for device in &report.devices {
            if let Some(rtt) = device.rtt_p50_ms {
                number(&format!("agent.device.{}.rtt", device.id), rtt);
            }
        }
        for device in report.devices {
            if let Ok(name) = format!("agent.device.{}.reachable", device.id).parse() {
                let word = if device.reachable == "yes" { "yes" } else { "no" };
                samples.push((name, 0, Ok(Value::Text(word.to_owned()))));
            }
        }
        samples
    }

    /// What it is; the points are those of `samples`.
    #[must_use]
    pub fn meta(&self, samples: &[Sample]) -> DeviceMeta {
        let interval_ms = u64::try_from(SELF_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let point = |(name, _, _): &Sample| PointMeta {
            name: name.clone(),
            unit: bcp_wire::names::lookup(name).map_or("", |def| def.unit).to_owned(),
            interval_ms,
            source: None,
        };
        DeviceMeta {
            v: WIRE_VERSION,
            i: 0,
            device: self.id.clone(),
            kind: "agent".to_owned(),
            profile: None,
            firmware: Some(env!("CARGO_PKG_VERSION").to_owned()),
            firmware_proven: true,
            parent: None,
            location: None,
            points: samples.iter().map(point).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p99_of_lateness_ignores_one_of_a_hundred() {
        let mut inner = Inner::default();
        for i in 0..1_000 {
            let late = if i % 200 == 0 { 900 } else { 3 };
            inner.late(Mono(i * 1_000), Duration::from_millis(late));
        }
        let p99 = inner.lateness_p99_ms();
        assert!((3.0..4.0).contains(&p99), "{p99}");
        for i in 0..40 {
            inner.late(Mono(2_000_000 + i), Duration::from_millis(900));
        }
        assert!(inner.lateness_p99_ms() >= 900.0);
        assert_eq!(lateness_step(Duration::from_secs(1_000)), LATENESS_STEPS - 1);
    }

    #[test]
    fn own_points_are_names_of_the_contract() {
        let board = Board::new(Clock::start());
        board.add(&"ups-a1".parse().unwrap(), Duration::from_secs(1), 1);
        let mut device = SelfDevice::new("gw-a".parse().unwrap(), &board);
        let samples = device.samples(&board, &SpoolFigures::default());
        assert!(samples.len() >= 5);
        for (name, _, _) in &samples {
            assert!(bcp_wire::names::lookup(name).is_some(), "{name}");
        }
        assert!(rss_bytes().unwrap() > 100_000);
    }
}
