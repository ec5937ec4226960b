//! What the agent knows of itself: every device's state, lateness of polls, its own memory and processor time.
//!
//! Knows: figures. Refuses to know: who reads them. One short lock per poll; nobody holds it while waiting.

mod lateness;
mod own;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bcp_wire::{BadReason, Id};
use serde::Serialize;

use crate::clock::{self, WallClock};
use crate::schedule::{Finished, Mono, Outcome, ReachChange};
use crate::source::{Clock, Polled};
use lateness::Lateness;
pub use own::{SELF_INTERVAL, SelfDevice, rss_bytes};

/// Round trips of a device that its percentiles are taken of.
const RTT_WINDOW: usize = 64;

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
    /// Found at every poll, so by hash.
    devices: HashMap<Id, Device>,
    lateness: Lateness,
    /// SNMP engines of devices, to tell cloned ones.
    engines: BTreeMap<Id, Vec<u8>>,
}

#[derive(Debug)]
struct Device {
    interval: Duration,
    planned: usize,
    reachable: Reachable,
    polls: u64,
    missed: u64,
    failed: u64,
    /// Wall time as the label, monotonic time for the age.
    last_good: Option<(i64, Mono)>,
    error: Option<ErrorClass>,
    bad_points: usize,
    trouble: Option<String>,
    next: Mono,
    rtt: VecDeque<Duration>,
}

/// What is wrong with a poll, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorClass {
    /// The device, or what stands before it, said no at once.
    Refused,
    /// The reason of most of the points without a value.
    Bad(BadReason),
}

impl ErrorClass {
    /// The class of a poll, where anything is wrong with it, and how many of its points have no good value.
    fn of(polled: &Polled) -> (Option<ErrorClass>, usize) {
        let mut counts = [0_usize; BadReason::ALL.len()];
        for reason in polled.samples.iter().filter_map(|sample| sample.2.as_ref().err()) {
            if let Some(at) = BadReason::ALL.iter().position(|known| known == reason) {
                counts[at] += 1;
            }
        }
        let most = counts.iter().zip(BadReason::ALL).filter(|(count, _)| **count > 0).max_by_key(|(count, _)| **count);
        let class = match (polled.outcome, most) {
            (Outcome::Refused, _) => Some(ErrorClass::Refused),
            (_, Some((_, reason))) => Some(ErrorClass::Bad(reason)),
            (Outcome::Silent, None) => Some(ErrorClass::Bad(BadReason::Timeout)),
            (Outcome::Answered, None) => None,
        };
        (class, counts.iter().sum())
    }

    const fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Refused => "refused",
            ErrorClass::Bad(reason) => reason.as_str(),
        }
    }
}

/// One device, for people and for `status`.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct DeviceReport {
    pub id: Id,
    pub reachable: Reachable,
    pub interval_ms: u64,
    pub requests: usize,
    pub polls: u64,
    pub missed: u64,
    pub failed: u64,
    /// When it last gave a good value: milliseconds since 1970 UTC, and how long ago that is.
    pub last_good_ms: Option<i64>,
    pub last_good_ago_ms: Option<u64>,
    /// What is wrong with the last poll: `refused`, or the reason of most of its bad points.
    #[serde(default)]
    pub error: Option<String>,
    /// Points without a good value in the last poll.
    #[serde(default)]
    pub bad_points: usize,
    pub rtt_p50_ms: Option<f64>,
    pub rtt_p99_ms: Option<f64>,
    pub next_in_ms: u64,
    pub trouble: Option<String>,
}

/// Whether a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachable {
    Yes,
    No,
    /// It has neither answered yet nor failed twice.
    Unknown,
}

impl Reachable {
    /// The word of the contract, where anything is known.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Reachable::Yes => Some("yes"),
            Reachable::No => Some("no"),
            Reachable::Unknown => None,
        }
    }
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
        let mut inner = self.inner();
        inner.devices.remove(id);
        inner.engines.remove(id);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Figures stay usable whatever happened to the thread that held the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, id: &Id, interval: Duration, planned: usize) {
        let device = Device {
            interval,
            planned,
            reachable: Reachable::Unknown,
            polls: 0,
            missed: 0,
            failed: 0,
            last_good: None,
            error: None,
            bad_points: 0,
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
        inner.lateness.add(now, late);
        let Some(device) = inner.devices.get_mut(id) else { return };
        device.polls += 1;
        device.missed += finished.missed;
        device.failed += failed;
        device.next = finished.next;
        if device.trouble != polled.trouble {
            device.trouble.clone_from(&polled.trouble);
        }
        (device.error, device.bad_points) = ErrorClass::of(polled);
        if device.bad_points < polled.samples.len() {
            device.last_good = Some((t_ms, now));
        }
        match finished.reach {
            ReachChange::BecameReachable => device.reachable = Reachable::Yes,
            ReachChange::BecameUnreachable => device.reachable = Reachable::No,
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
        let mut devices: Vec<DeviceReport> = inner.devices.iter().map(|(id, device)| device.report(id, now)).collect();
        let lateness_p99_ms = inner.lateness.p99_ms();
        drop(inner);
        devices.sort_unstable_by(|a, b| a.id.cmp(&b.id));
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

impl Device {
    fn report(&self, id: &Id, now: Mono) -> DeviceReport {
        let mut sorted: Vec<Duration> = self.rtt.iter().copied().collect();
        sorted.sort_unstable();
        let percentile = |hundredth: usize| {
            sorted.get((sorted.len() * hundredth / 100).min(sorted.len().saturating_sub(1))).map(|rtt| millis(*rtt))
        };
        DeviceReport {
            id: id.clone(),
            reachable: self.reachable,
            interval_ms: whole_millis(self.interval),
            requests: self.planned,
            polls: self.polls,
            missed: self.missed,
            failed: self.failed,
            last_good_ms: self.last_good.map(|(t_ms, _)| t_ms),
            last_good_ago_ms: self.last_good.map(|(_, at)| whole_millis(now.since(at))),
            error: self.error.map(|class| class.as_str().to_owned()),
            bad_points: self.bad_points,
            rtt_p50_ms: percentile(50),
            rtt_p99_ms: percentile(99),
            next_in_ms: whole_millis(self.next.since(now)),
            trouble: self.trouble.clone(),
        }
    }
}

fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds with three digits after the point.
fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bcp_wire::Value;

    fn polled(outcome: Outcome, values: &[Result<f64, BadReason>]) -> Polled {
        let sample = |(n, value): (usize, &Result<f64, BadReason>)| {
            (format!("outlet.{}.current", n + 1).parse().unwrap(), 0, value.map(Value::Num))
        };
        let samples = values.iter().enumerate().map(sample).collect();
        Polled { outcome, samples, meta: None, trouble: None, rtt: None, transition: None }
    }

    #[test]
    fn an_error_has_a_class_and_only_a_good_value_is_a_last_good() {
        use BadReason as B;
        let board = Board::new(Clock::start());
        let id: Id = "ups-a1".parse().unwrap();
        board.add(&id, Duration::from_secs(1), 1);
        let finished = Finished { missed: 0, reach: ReachChange::Same, next: Mono(0) };
        let told = |polled: &Polled, t_ms: i64| {
            board.polled(&id, Duration::ZERO, polled, &finished, t_ms);
            let device = board.report().devices.remove(0);
            (device.last_good_ms, device.error, device.bad_points)
        };
        let class = |class: &str| Some(class.to_owned());
        assert_eq!(told(&polled(Outcome::Silent, &[Err(B::Timeout); 2]), 1), (None, class("timeout"), 2));
        assert_eq!(told(&polled(Outcome::Refused, &[Err(B::Timeout)]), 2), (None, class("refused"), 1));
        assert_eq!(
            told(&polled(Outcome::Answered, &[Err(B::Auth)]), 3),
            (None, class("auth"), 1),
            "answers, but no value"
        );
        assert_eq!(told(&polled(Outcome::Answered, &[Ok(1.0), Ok(2.0)]), 4), (Some(4), None, 0));
        let some = [Ok(1.0), Err(B::Range), Err(B::Exception), Err(B::Range)];
        assert_eq!(told(&polled(Outcome::Answered, &some), 5), (Some(5), class("range"), 3));
        assert_eq!(told(&polled(Outcome::Silent, &[Err(B::Timeout)]), 6), (Some(5), class("timeout"), 1));
    }

    #[test]
    fn a_device_that_is_gone_is_nobodys_twin() {
        let board = Board::new(Clock::start());
        let (old, new): (Id, Id) = ("ups-old".parse().unwrap(), "ups-new".parse().unwrap());
        assert_eq!(board.engine_seen(&old, b"engine"), None);
        assert_eq!(board.engine_seen(&new, b"engine"), Some(old.clone()));
        board.remove(&old);
        board.remove(&new);
        assert_eq!(board.engine_seen(&new, b"engine"), None);
    }
}
