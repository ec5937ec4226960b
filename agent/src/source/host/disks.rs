//! Whole disks, from `/proc/diskstats` (Documentation/admin-guide/iostats.rst of the kernel).
//!
//! Knows: bytes, how busy a disk is, how long a request takes. Refuses to know: partitions and what stands on disks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Figure, MAX_ROWS, rounded};
use crate::profile::row_id;

/// The kernel counts in these, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;
/// Devices without a disk of their own behind them.
const SKIPPED: &[&str] = &["dm-", "fd", "loop", "nbd", "ram", "sr", "zram"];

/// Counters of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    requests: u64,
    read_sectors: u64,
    written_sectors: u64,
    /// Time of all requests added up.
    waited_ms: u64,
    /// Time with at least one request under way.
    busy_ms: u64,
}

/// Disks as they were at the last look.
#[derive(Debug, Default)]
pub struct Disks {
    before: BTreeMap<String, (Instant, Counters)>,
}

impl Disks {
    /// Figures of this text; `is_whole` says whether a name is a disk and not a part of one.
    pub fn read(&mut self, text: &str, now: Instant, is_whole: impl Fn(&str) -> bool) -> Vec<Figure> {
        let mut taken = BTreeSet::new();
        let mut figures = Vec::new();
        let mut seen = BTreeMap::new();
        let disks = text.lines().filter_map(counters);
        let disks = disks.filter(|(name, counters)| {
            counters.requests > 0 && !SKIPPED.iter().any(|skipped| name.starts_with(skipped)) && is_whole(name)
        });
        for (name, counters) in disks.take(MAX_ROWS) {
            let id = row_id(name, &mut taken);
            let mut add =
                |what: &str, value: f64| figures.push(Figure::new(format!("host.disk.{id}.{what}"), Ok(value.into())));
            add("read", counters.read_sectors.saturating_mul(SECTOR_BYTES) as f64);
            add("written", counters.written_sectors.saturating_mul(SECTOR_BYTES) as f64);
            if let Some((at, before)) = self.before.get(name) {
                let span_ms = now.saturating_duration_since(*at).as_secs_f64() * 1e3;
                // 32-bit kernels wrap, and a disk may be another one now: growth only.
                let busy = counters.busy_ms.checked_sub(before.busy_ms);
                if let Some(busy) = busy.filter(|_| span_ms >= 1.0) {
                    add("busy", rounded((100.0 * busy as f64 / span_ms).min(100.0), 2));
                }
                let requests = counters.requests.checked_sub(before.requests).filter(|requests| *requests > 0);
                if let Some((requests, waited)) = requests.zip(counters.waited_ms.checked_sub(before.waited_ms)) {
                    add("latency", rounded(waited as f64 / requests as f64, 3));
                }
            }
            seen.insert(name.to_owned(), (now, counters));
        }
        self.before = seen;
        figures
    }
}

fn counters(line: &str) -> Option<(&str, Counters)> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let name = fields.next()?;
    let numbers: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    let [reads, _, read_sectors, reading_ms, writes, _, written_sectors, writing_ms, _, busy_ms, ..] = numbers[..]
    else {
        return None;
    };
    let counters = Counters {
        requests: reads.saturating_add(writes),
        read_sectors,
        written_sectors,
        waited_ms: reading_ms.saturating_add(writing_ms),
        busy_ms,
    };
    Some((name, counters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(disks: &mut Disks, text: &str, now: Instant) -> Vec<(String, String)> {
        let figures = disks.read(text, now, |name| !name.ends_with('1'));
        figures.into_iter().map(|figure| (figure.name, figure.value.unwrap().to_string())).collect()
    }

    #[test]
    fn growth_between_two_looks() {
        let (mut disks, start) = (Disks::default(), Instant::now());
        let first = "   8  0 sda 100 0 2000 50 100 0 4000 150 0 120 200 0 0 0 0 0 0\n   8  1 sda1 9 0 9 9 9 0 9 9 0 9 9\n\
                     7 0 loop0 1 0 1 1 1 0 1 1 0 1 1\n 8 16 sdb 0 0 0 0 0 0 0 0 0 0 0\nnonsense\n";
        let told = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(a, b)| (format!("host.disk.sda.{a}"), (*b).to_owned())).collect()
        };
        assert_eq!(read(&mut disks, first, start), told(&[("read", "1024000"), ("written", "2048000")]));
        let second = "8 0 sda 110 0 2000 70 110 0 4000 170 0 620 200\n";
        let later = start + Duration::from_secs(1);
        let want = told(&[("read", "1024000"), ("written", "2048000"), ("busy", "50"), ("latency", "2")]);
        assert_eq!(read(&mut disks, second, later), want);
        // Another disk of that name: less than before is no growth.
        let third = "8 0 sda 10 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(read(&mut disks, third, later).len(), 2);
    }
}
