//! The agent as a device of its own: what it reports about itself.

use std::time::Duration;

use bcp_wire::{DeviceMeta, Id, PointMeta, PointName, Value, WIRE_VERSION};

use bcp_identity::{Credentials, Expiry};

use super::Board;
use crate::outbound::Sample;
use crate::schedule::Mono;
use crate::spool::SpoolFigures;

/// How often the agent reports about itself.
pub const SELF_INTERVAL: Duration = Duration::from_secs(10);

/// How often certificates are read again to see when they end.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(600);

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
    /// Everything the agent shows to others, or trusts them by.
    credentials: Vec<Credentials>,
    /// When those files were read, and what ends first.
    looked: Option<Mono>,
    expiry: Option<Expiry>,
}

impl SelfDevice {
    #[must_use]
    pub fn new(agent: Id, credentials: Vec<Credentials>, board: &Board) -> SelfDevice {
        SelfDevice { id: agent, last: (board.clock().now(), cpu_time()), credentials, looked: None, expiry: None }
    }

    /// Reads the files now and then: they are replaced while the agent runs.
    fn look_at_certificates(&mut self, now: Mono) {
        if self.looked.is_some_and(|looked| now.since(looked) < CERTIFICATES_EVERY) {
            return;
        }
        self.looked = Some(now);
        let read = |credentials: &Credentials| match credentials.expiry() {
            Ok(expiry) => Some(expiry),
            Err(cause) => {
                tracing::warn!(%cause, "it is not known when a certificate ends");
                None
            }
        };
        self.expiry = self.credentials.iter().filter_map(read).min_by_key(|expiry| expiry.not_after_s);
    }

    /// Its readings now.
    #[allow(clippy::cast_precision_loss)] // counters as doubles, as everywhere on the wire
    pub fn samples(&mut self, board: &Board, spool: &SpoolFigures) -> Vec<Sample> {
        let (now, cpu) = (board.clock().now(), cpu_time());
        let (then, before) = std::mem::replace(&mut self.last, (now, cpu));
        let elapsed = now.since(then).as_secs_f64();
        let report = board.report();
        self.look_at_certificates(now);
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
        number("agent.spool.read-errors", spool.read_errors as f64);
        let oldest_ms = spool.oldest_t_ms.map_or(0, |oldest| board.wall().stamp().t_ms.saturating_sub(oldest).max(0));
        number("agent.spool.oldest", (oldest_ms / 1_000) as f64);
        number("agent.polls.total", report.polls as f64);
        number("agent.polls.missed", report.missed as f64);
        number("agent.lateness.p99", (report.lateness_p99_ms * 10.0).round() / 10.0);
        if let Some(expiry) = &self.expiry {
            number("agent.certificate.days-left", expiry.days_left());
        }
        for device in &report.devices {
            if let Some(rtt) = device.rtt_p50_ms {
                number(&format!("agent.device.{}.rtt", device.id), rtt);
            }
        }
        for device in report.devices {
            // Before its first answer or its second failure nothing is known of a device, so nothing is said.
            if let Some(reachable) = device.reachable.word()
                && let Ok(name) = format!("agent.device.{}.reachable", device.id).parse()
            {
                samples.push((name, 0, Ok(Value::Text(reachable.to_owned()))));
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
    use crate::source::Clock;

    #[test]
    fn own_points_are_names_of_the_contract() {
        let board = Board::new(Clock::start());
        board.add(&"ups-a1".parse().unwrap(), Duration::from_secs(1), 1);
        let dir = std::env::temp_dir().join(format!("bcp-own-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        bcp_identity::pki::create_ca(&dir, "test").unwrap();
        let identity = "agent:a:gw-a".parse().unwrap();
        let credentials = bcp_identity::pki::issue(&dir, &identity, &["127.0.0.1".to_owned()]).unwrap();
        let mut device = SelfDevice::new("gw-a".parse().unwrap(), vec![credentials], &board);
        let samples = device.samples(&board, &SpoolFigures::default());
        assert!(samples.len() >= 5);
        let days = samples.iter().find(|(name, _, _)| name.as_str() == "agent.certificate.days-left").unwrap();
        assert!(matches!(days.2, Ok(Value::Num(days)) if (396.0..=397.0).contains(&days)), "{days:?}");
        let _ = std::fs::remove_dir_all(&dir);
        let told = |samples: &[Sample]| samples.iter().any(|(name, _, _)| name.as_str().ends_with("ups-a1.reachable"));
        assert!(!told(&samples), "nothing is known of it yet");
        for (name, _, _) in &samples {
            assert!(bcp_wire::names::lookup(name).is_some(), "{name}");
        }
        assert!(rss_bytes().unwrap() > 100_000);
    }
}
