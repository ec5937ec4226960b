//! Measures the store: samples per second, bytes per sample, memory, query times, restart.
//!
//! `cargo bench -p bcp-collector --bench store -- [series] [samples per series]` (default 300000 and 600). Smooth data: each
//! series wanders by tenths around its own level, a quarter of them stands still, sampled every second.

use std::path::Path;
use std::time::{Duration, Instant};

use bcp_collector::store::{Group, Sample, SeriesId, Store};
use bcp_wire::{Id, PointName};

/// Samples of one commit: what arrives in about 100 ms at half a million per second.
const GROUP: usize = 50_000;
const START_MS: i64 = 1_790_000_000_000;
const POINTS_PER_DEVICE: usize = 30;
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

fn rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let series = args.next().unwrap_or(300_000);
    let rounds = args.next().unwrap_or(600);
    let dir = std::env::temp_dir().join(format!("bcp-bench-store-{}", std::process::id()));
    let store = Store::open(&dir, FOREVER)?;

    let point: Vec<PointName> =
        (1..=POINTS_PER_DEVICE).map(|n| format!("outlet.{n}.current").parse()).collect::<Result<_, _>>()?;
    let began = Instant::now();
    let mut ids: Vec<SeriesId> = Vec::with_capacity(series);
    for n in 0..series {
        let device: Id = format!("pdu-{}", n / POINTS_PER_DEVICE).parse()?;
        ids.extend(store.series(&device, &point[n % POINTS_PER_DEVICE], false));
    }
    println!("{series} series known after {:?}, RSS {:.0} MB", began.elapsed(), rss_mb());

    // The generator's own memory: one level in tenths per series.
    let mut level: Vec<i32> = (0..series).map(|n| 100 + (n % 400) as i32).collect();
    let mut dice = 0x9E37_79B9_7F4A_7C15u64;
    let mut group = Group::default();
    let (mut stored, mut peak, mut in_commit) = (0u64, 0f64, Duration::ZERO);
    let cpu = cpu_seconds();
    let began = Instant::now();
    for round in 0..rounds {
        for (n, id) in ids.iter().enumerate() {
            if n % 4 != 0 {
                level[n] += (roll(&mut dice) % 3) as i32 - 1;
            }
            let sample = Sample { t: START_MS + round as i64 * 1_000, v: f64::from(level[n]) / 10.0 };
            group.samples.push((*id, sample));
            if group.samples.len() == GROUP {
                let at = Instant::now();
                store.commit(&group)?;
                in_commit += at.elapsed();
                stored += group.samples.len() as u64;
                group.clear();
            }
        }
        peak = peak.max(rss_mb());
    }
    store.commit(&group)?;
    stored += group.samples.len() as u64;
    let took = began.elapsed();
    let rate = stored as f64 / took.as_secs_f64();
    println!(
        "{stored} samples in {took:.1?}: {rate:.0}/s, {:.2} CPU s per million, {in_commit:.1?} in commits, RSS peak {peak:.0} MB, {:?}",
        (cpu_seconds() - cpu) / (stored as f64 / 1e6),
        store.stats(),
    );

    let query = |store: &Store, what: &str| -> anyhow::Result<()> {
        let mut times = Vec::new();
        let mut found = 0;
        for n in 0..50usize {
            let id = ids[(n * 7_919) % ids.len()];
            let at = Instant::now();
            found = store.samples(id, 0, i64::MAX)?.len();
            times.push(at.elapsed());
        }
        times.sort();
        println!("{what}: {found} samples of one series, median {:?}, worst {:?}", times[25], times[49]);
        Ok(())
    };
    query(&store, "query, as written")?;
    let at = Instant::now();
    let used = store.settle()?;
    println!("sealed and folded in {:.1?}", at.elapsed());
    println!(
        "{:.3} bytes per sample in use ({:.3} on disk), RSS {:.0} MB",
        used as f64 / stored as f64,
        disk_bytes(&dir) as f64 / stored as f64,
        rss_mb()
    );
    query(&store, "query, folded")?;

    // A day of one point at one sample per second, in chunks as they come about.
    let day: Id = "day".parse()?;
    if let Some(id) = store.series(&day, &point[0], false) {
        for hour in 0..24 {
            group.clear();
            group.samples.extend((0..3_600i64).map(|k| {
                let t = START_MS + (hour * 3_600 + k) * 1_000;
                (id, Sample { t, v: 20.0 + f64::from((roll(&mut dice) % 9) as i32) / 10.0 })
            }));
            store.commit(&group)?;
            store.settle()?;
        }
        let mut times = Vec::new();
        let mut found = 0;
        for _ in 0..21 {
            let at = Instant::now();
            found = store.samples(id, START_MS, START_MS + 86_400_000)?.len();
            times.push(at.elapsed());
        }
        times.sort();
        println!("one point over 24 h: {found} samples, median {:?}, worst {:?}", times[10], times[20]);
    }

    group.clear();
    group.samples.extend(ids.iter().map(|id| (*id, Sample { t: START_MS - 1_000, v: 1.0 })));
    store.commit(&group)?;
    drop(store);
    let at = Instant::now();
    let store = Store::open(&dir, FOREVER)?;
    println!("restart to ready {:?}, {} series, RSS {:.0} MB", at.elapsed(), store.stats().series, rss_mb());
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
