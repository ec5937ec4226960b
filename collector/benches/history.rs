//! Measures the history beside VictoriaMetrics, with the same samples, one after the other in one run.
//!
//! `cargo bench -p bcp-collector --bench history -- [series] [samples per series]` (default 300000 and 360: an hour at one
//! sample per 10 s). Each is a process of its own; memory and processor time are of that process. Ours gets groups of
//! samples by a function call and makes them itself, in the same process; VictoriaMetrics gets line protocol over HTTP, one
//! line of 30 values per device and time, from this one: its figures hold the reading of text, ours hold the making of
//! samples. Bytes per sample are of what is in use after all was merged, and of everything below the directory: ours
//! keeps pages that it freed, and writes into them again.
#![allow(clippy::unwrap_used)]

#[path = "../tests/site/mod.rs"]
mod site;
#[path = "../tests/tsdb/mod.rs"]
mod tsdb;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bcp_collector::ingest::intake::Intake;
use bcp_collector::store::{Group, Sample, SeriesId, Store};
use bcp_core::time::{Mono, Wall};
use bcp_wire::{Id, PointName, Site};
use serde::{Deserialize, Serialize};
use tsdb::Tsdb;

const POINTS: usize = 30;
const STEP_MS: i64 = 10_000;
const START_MS: i64 = 1_780_000_000_000;
/// Samples of one commit: what arrives in about 100 ms at half a million per second.
const GROUP: usize = 50_000;
/// Devices of one request, about 250 KB of text.
const DEVICES_PER_REQUEST: usize = 500;
/// Connections to the server: as many as this machine has cores.
const WRITERS: usize = 2;
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
const QUERIES: usize = 51;
const LAST_VALUES: usize = 1_000;
/// Marks the process that is ours.
const OURS: &str = "BCP_BENCH_OURS";

/// What one run came to.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Figures {
    samples: u64,
    seconds: f64,
    cpu_seconds: f64,
    peak_mb: f64,
    /// In use, and on the disk.
    bytes: u64,
    disk: u64,
    /// One point over everything, median.
    point_ms: f64,
    point_samples: usize,
    /// The last value of a thousand points, median.
    last_ms: f64,
    last_found: usize,
}

/// The value of a series at a round: tenths that wander around a level of their own; a quarter of them stands still.
struct Load {
    level: Vec<i32>,
    dice: u64,
}

impl Load {
    fn new(series: usize, offset: usize) -> Load {
        let level = (offset..offset + series).map(|n| 100 + (n % 400) as i32).collect();
        Load { level, dice: 0x9E37_79B9_7F4A_7C15 ^ offset as u64 }
    }

    fn next(&mut self, n: usize) -> i32 {
        if !n.is_multiple_of(4) {
            self.dice ^= self.dice << 13;
            self.dice ^= self.dice >> 7;
            self.dice ^= self.dice << 17;
            self.level[n] += (self.dice % 3) as i32 - 1;
        }
        self.level[n]
    }
}

fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// `VmRSS` or `VmHWM` of a process, MB.
fn memory_mb(pid: &str, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
}

fn cpu_s(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Median time of a question in milliseconds, and its last answer.
fn median<T>(mut ask: impl FnMut(usize) -> T) -> (f64, T) {
    let mut times = Vec::with_capacity(QUERIES);
    let mut last = None;
    for n in 0..QUERIES {
        let at = Instant::now();
        last = Some(ask(n));
        times.push(at.elapsed().as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    (times[QUERIES / 2], last.unwrap())
}

fn device(n: usize) -> Id {
    format!("pdu-{n}").parse().unwrap()
}

fn points() -> Vec<PointName> {
    (1..=POINTS).map(|n| format!("outlet.{n}.current").parse().unwrap()).collect()
}

fn ours(series: usize, rounds: usize, dir: &Path) -> Figures {
    let store = Store::open(dir, FOREVER).unwrap();
    let points = points();
    let ids: Vec<SeriesId> =
        (0..series).map(|n| store.series(&device(n / POINTS), &points[n % POINTS], false).unwrap()).collect();
    let mut load = Load::new(series, 0);
    let mut group = Group::default();
    let mut figures = Figures::default();
    let (cpu, began) = (cpu_s("self"), Instant::now());
    for round in 0..rounds {
        let t = START_MS + round as i64 * STEP_MS;
        for (n, id) in ids.iter().enumerate() {
            group.samples.push((*id, Sample { t, v: f64::from(load.next(n)) / 10.0 }));
            if group.samples.len() == GROUP {
                store.commit(&group).unwrap();
                group.clear();
            }
        }
    }
    store.commit(&group).unwrap();
    figures.seconds = began.elapsed().as_secs_f64();
    figures.bytes = store.settle().unwrap();
    figures.cpu_seconds = cpu_s("self") - cpu;
    figures.samples = (series * rounds) as u64;
    figures.peak_mb = memory_mb("self", "VmHWM");
    let ask = |n: usize| store.samples(ids[(n * 7_919) % ids.len()], 0, i64::MAX).unwrap().len();
    (figures.point_ms, figures.point_samples) = median(ask);
    (figures.last_ms, figures.last_found) = last_values(&store, &points);
    drop(store);
    figures.disk = size_of(dir);
    figures
}

/// Last values lie in memory, put there by the intake: a thousand points of 34 devices.
fn last_values(store: &Store, points: &[PointName]) -> (f64, usize) {
    let mut intake = Intake::new(store.marks());
    let devices: Vec<Id> = (0..LAST_VALUES.div_ceil(POINTS)).map(device).collect();
    for (n, id) in devices.iter().enumerate() {
        let vals: Vec<String> = points.iter().map(|point| format!("\"{point}\":{n}.5")).collect();
        let body = format!(r#"{{"v":1,"i":1,"s":{},"t":{START_MS},"vals":{{{}}}}}"#, n + 1, vals.join(","));
        let topic = format!("bcp/v1/a/bench/data/{id}");
        let now = (Mono(1_000), Wall(START_MS));
        intake.arrive(now, Site::A, (topic.as_bytes(), body.as_bytes()), store, &mut |_| {});
    }
    median(|_| {
        let all = intake.devices();
        let values = devices.iter().filter_map(|id| all.get(id)).flat_map(|device| &device.points);
        values.filter(|point| point.value.is_some()).take(LAST_VALUES).count()
    })
}

/// One writer: its share of the devices, round by round.
fn write_lines(address: SocketAddr, devices: std::ops::Range<usize>, rounds: usize) {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut load = Load::new(devices.len() * POINTS, devices.start * POINTS);
    let mut body = Vec::new();
    for round in 0..rounds {
        let t = START_MS + round as i64 * STEP_MS;
        for (at, n) in devices.clone().enumerate() {
            write!(body, "bcp,agent=bench,device=pdu-{n},site=a").unwrap();
            for point in 0..POINTS {
                let tenths = load.next(at * POINTS + point);
                let separator = if point == 0 { ' ' } else { ',' };
                write!(body, "{separator}outlet.{}.current={}.{}", point + 1, tenths / 10, (tenths % 10).abs())
                    .unwrap();
            }
            writeln!(body, " {t}").unwrap();
            if (at + 1) % DEVICES_PER_REQUEST == 0 || n + 1 == devices.end {
                write!(
                    stream,
                    "POST /api/v2/write?precision=ms HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                )
                .unwrap();
                stream.write_all(&body).unwrap();
                body.clear();
                read_answer(&mut answers);
            }
        }
    }
}

fn read_answer(answers: &mut impl BufRead) {
    let mut status = String::new();
    answers.read_line(&mut status).unwrap();
    assert!(status.contains(" 204"), "{status}");
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(answers.read_line(&mut line).unwrap() > 0, "the server closed");
    }
}

fn theirs(series: usize, rounds: usize, dir: &Path) -> Option<Figures> {
    let server = Tsdb::start(dir)?;
    let pid = server.process.pid().to_string();
    let devices = series.div_ceil(POINTS);
    let mut figures = Figures { samples: (devices * POINTS * rounds) as u64, ..Figures::default() };
    let (cpu, began) = (cpu_s(&pid), Instant::now());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let share = devices * writer / WRITERS..devices * (writer + 1) / WRITERS;
            scope.spawn(|| write_lines(server.address, share, rounds));
        }
    });
    figures.seconds = began.elapsed().as_secs_f64();
    server.flush();
    let _ = tsdb::get(server.address, "/internal/force_merge");
    settle(&server);
    figures.cpu_seconds = cpu_s(&pid) - cpu;
    figures.peak_mb = memory_mb(&pid, "VmHWM");
    let (from, to) = (START_MS / 1_000, (START_MS + (rounds as i64 - 1) * STEP_MS) / 1_000);
    (figures.point_ms, figures.point_samples) = median(|n| {
        let at = (n * 7_919) % (devices * POINTS);
        let query = format!(
            "%7B__name__%3D%22bcp_outlet.{}.current%22%2Cdevice%3D%22pdu-{}%22%7D",
            at % POINTS + 1,
            at / POINTS
        );
        let text = tsdb::get(
            server.address,
            &format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=10s&nocache=1"),
        );
        count(&text.unwrap_or_default(), "values")
    });
    let names: Vec<String> = (0..LAST_VALUES.div_ceil(POINTS)).map(|n| format!("pdu-{n}")).collect();
    (figures.last_ms, figures.last_found) = median(|_| {
        let query = format!("%7Bdevice%3D~%22{}%22%7D", names.join("%7C"));
        let text = tsdb::get(server.address, &format!("/api/v1/query?query={query}&time={to}&nocache=1"));
        count(&text.unwrap_or_default(), "value").min(LAST_VALUES)
    });
    figures.disk = size_of(&server.dir.join("data"));
    figures.bytes = figures.disk;
    Some(figures)
}

/// Waits until the server has finished its merges: no more processor time is used.
fn settle(server: &Tsdb) {
    let pid = server.process.pid().to_string();
    let (mut last, mut still) = (cpu_s(&pid), 0);
    while still < 5 {
        std::thread::park_timeout(Duration::from_secs(1));
        let now = cpu_s(&pid);
        still = if now - last < 0.05 { still + 1 } else { 0 };
        last = now;
    }
}

/// Pairs of an answer: of its one series, or one per series.
fn count(text: &str, key: &str) -> usize {
    let Ok(answer) = serde_json::from_str::<serde_json::Value>(text) else { return 0 };
    let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    match key {
        "values" => series.iter().map(|one| one["values"].as_array().map_or(0, Vec::len)).sum(),
        _ => series.len(),
    }
}

fn print(name: &str, figures: &Figures) {
    let millions = figures.samples as f64 / 1e6;
    println!(
        "| {name} | {:.0} | {:.2} | {:.0} | {:.3} ({:.3}) | {:.2} ({} samples) | {:.2} ({} found) |",
        figures.samples as f64 / figures.seconds,
        figures.cpu_seconds / millions,
        figures.peak_mb,
        figures.bytes as f64 / figures.samples as f64,
        figures.disk as f64 / figures.samples as f64,
        figures.point_ms,
        figures.point_samples,
        figures.last_ms,
        figures.last_found,
    );
}

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let series = args.next().unwrap_or(300_000);
    let rounds = args.next().unwrap_or(360);
    if let Some(dir) = std::env::var_os(OURS) {
        println!("{}", serde_json::to_string(&ours(series, rounds, Path::new(&dir))).unwrap());
        return;
    }
    let dir: PathBuf = std::env::temp_dir().join(format!("bcp-bench-history-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    println!("{series} series, {rounds} samples each, 10 s apart");
    println!(
        "| | samples/s | CPU s per million | peak MB | bytes per sample (on disk) | one point over all, ms | last of 1,000, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([series.to_string(), rounds.to_string()])
        .env(OURS, dir.join("ours"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    print("bcp-collector's store", &serde_json::from_str(said.trim()).unwrap());
    if let Some(figures) = theirs(series, rounds, &dir) {
        print("VictoriaMetrics", &figures);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
