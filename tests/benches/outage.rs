//! An outage of the broker, for the agent's publisher: memory while it lasts, bytes on the disk per reading, time until
//! everything is committed afterwards.
//!
//! `cargo bench -p bcp-tests --bench outage -- [--hours 1] [--spool-mib N] [--backlog-per-s N]`
//!
//! 50 devices of 20 points, sampled every second. The clock of the outage is accelerated: a process of its own takes the
//! batches of each second as fast as its disk does, with the sample times of the simulated hour; publisher, outbox and
//! spool are the agent's own. The time afterwards is real: mosquitto starts, a collector commits what comes and says so,
//! and the devices go on with their 1,000 readings a second. Pollers are not part of it.

#[path = "polling/collector.rs"]
mod collector;
#[path = "polling/process.rs"]
mod process;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bcp_agent::clock::wall_ms;
use bcp_agent::outbound::{Outbound, QUEUE, Sample};
use bcp_agent::publish::{PublishFigures, Publisher, PublisherSetup, Settings};
use bcp_agent::resolver::Resolver;
use bcp_agent::spool::SpoolConfig;
use bcp_wire::{ClockState, Site, Value};
use tokio::sync::{mpsc, watch};

use collector::{collect, mosquitto};
use process::{Ended, cpu_ms, memory_mb, private_mb};

/// Below the ports the system gives to outgoing connections.
const MQTT_PORT: u16 = 25_985;
const AGENT: &str = "gw-bench";
const DEVICES: u64 = 50;
const POINTS: u64 = 20;
/// First argument of the process under measurement.
const PLAY_AGENT: &str = "--play-agent";
/// A line of figures after this much of the outage.
const REPORT_EVERY_S: u64 = 600;
/// Committed: what is owed then is of the last moment.
const DRAINED_PAYLOADS: u64 = 4 * DEVICES;
/// Longest wait for the end of the backlog.
const DRAIN_LIMIT: Duration = Duration::from_secs(3_600);
const TICK: Duration = Duration::from_millis(100);

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn number(name: &str, default: u64) -> Result<u64> {
    argument(name)
        .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} takes a number, not `{text}`")))
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(dir) = argument(PLAY_AGENT) {
        return runtime.block_on(play_agent(Path::new(&dir)));
    }
    let dir = std::env::temp_dir().join(format!("bcp-bench-outage-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = runtime.block_on(run(&dir));
    std::fs::remove_dir_all(&dir)?;
    result
}

// --- the process under measurement ---------------------------------------------------------------

/// Values that change as those of a meter do: most a little, some not at all.
fn batch(device: u64, second: u64, t_ms: i64) -> Outbound {
    let points: Vec<Sample> = (1..=POINTS)
        .map(|point| {
            let tenths = 1_000 + (device * 31 + point * 7 + second * (point % 4)) % 900;
            let name = format!("outlet.{point}.current").parse().expect("a name of the registry");
            (name, 0, Ok(Value::Num(tenths as f64 / 100.0)))
        })
        .collect();
    Outbound::Batch { device: format!("meter-x{device}").parse().expect("an id"), t_ms, points }
}

fn tell(what: &str, second: u64, figures: &PublishFigures) {
    let spool = figures.spool;
    println!("{what} {second} {} {} {} {}", spool.payloads, spool.disk_bytes, spool.dropped, figures.committed);
    let _ = std::io::stdout().flush();
}

/// Takes batches until it is ended: those of the outage as fast as it can, then those of each real second.
async fn play_agent(dir: &Path) -> Result<()> {
    let seconds = 3_600 * number("--hours", 1)?;
    // What is not asked for is the product's default.
    let mut spool = SpoolConfig::default();
    spool.max_bytes = number("--spool-mib", spool.max_bytes >> 20)? << 20;
    let mut mqtt = serde_json::json!({ "broker": format!("127.0.0.1:{MQTT_PORT}") });
    if argument("--backlog-per-s").is_some() {
        mqtt["backlog_per_s"] = number("--backlog-per-s", 0)?.into();
    }
    let setup = PublisherSetup {
        site: Site::A,
        agent: AGENT.parse()?,
        state_dir: dir.to_owned(),
        settings: Settings {
            mqtt: serde_json::from_value(mqtt)?,
            spool,
            allow: Vec::new(),
            config_hash: "00".to_owned(),
        },
        resolver: Resolver::default(),
    };
    let publisher = Publisher::open(setup, watch::channel(ClockState::Unknown).1);
    let figures = publisher.figures();
    let (sources, outbound) = mpsc::channel(QUEUE);
    let (_stop, stopping) = watch::channel(false);
    let running = tokio::spawn(publisher.run(outbound, mpsc::channel(1).0, stopping));
    let begins_ms = wall_ms() - i64::try_from(seconds)? * 1_000;
    for second in 0..seconds {
        if second % REPORT_EVERY_S == 0 {
            tell("away", second, &settled(&figures, second * DEVICES).await);
        }
        for device in 0..DEVICES {
            sources.send(batch(device, second, begins_ms + i64::try_from(second)? * 1_000)).await?;
        }
    }
    settled(&figures, seconds * DEVICES).await;
    tell("full", seconds, &packed(&figures).await);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for second in seconds.. {
        tick.tick().await;
        ensure!(!running.is_finished(), "the publisher ended: {:?}", running.await);
        tell("back", second, &figures.borrow().clone());
        for device in 0..DEVICES {
            sources.send(batch(device, second, wall_ms())).await?;
        }
    }
    Ok(())
}

/// The figures when everything that was handed over so far is in the spool.
async fn settled(figures: &watch::Receiver<PublishFigures>, handed_over: u64) -> PublishFigures {
    loop {
        let now = figures.borrow().clone();
        if now.spool.payloads + now.spool.dropped >= handed_over {
            return now;
        }
        tokio::time::sleep(TICK).await;
    }
}

/// The figures when full segments are packed, which in a real hour is done long before.
async fn packed(figures: &watch::Receiver<PublishFigures>) -> PublishFigures {
    loop {
        let before = figures.borrow().clone();
        tokio::time::sleep(20 * TICK).await;
        let now = figures.borrow().clone();
        if now.spool.disk_bytes == before.spool.disk_bytes {
            return now;
        }
    }
}

// --- the measurement -------------------------------------------------------------------------------

/// A line of the process under measurement.
struct Told {
    what: String,
    second: u64,
    payloads: u64,
    disk_bytes: u64,
    dropped: u64,
    committed: u64,
}

fn read(line: &str) -> Option<Told> {
    let mut words = line.split_whitespace();
    let what = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    Some(Told {
        what,
        second: number()?,
        payloads: number()?,
        disk_bytes: number()?,
        dropped: number()?,
        committed: number()?,
    })
}

fn show(told: &Told, pid: u32) -> Result<()> {
    println!(
        "{:<8}{:>8.0}{:>12}{:>12}{:>12.1}{:>10}{:>10.1}{:>10.1}{:>8.1}",
        told.what,
        told.second as f64 / 60.0,
        told.payloads,
        told.committed,
        told.disk_bytes as f64 / f64::from(1 << 20),
        told.dropped,
        memory_mb(pid, "Rss:")?,
        private_mb(pid)?,
        cpu_ms(pid)? as f64 / 1e3
    );
    Ok(())
}

async fn run(dir: &Path) -> Result<()> {
    let mut agent = Ended(
        Command::new(std::env::current_exe()?)
            .arg(PLAY_AGENT)
            .arg(dir)
            .args(std::env::args().skip(1))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let pid = agent.0.id();
    let mut lines = BufReader::new(agent.0.stdout.take().context("no stdout")?).lines();
    let mut next = move || -> Result<Told> {
        let line = lines.next().context("the agent's process ended")??;
        read(&line).with_context(|| format!("`{line}` is no line of figures"))
    };
    println!("{DEVICES} devices of {POINTS} points every second; the broker is away, its clock accelerated");
    println!(
        "{:<8}{:>8}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}{:>8}",
        "", "minute", "payloads", "committed", "disk MiB", "dropped", "RSS MB", "private", "CPU s"
    );
    let began = Instant::now();
    let full = loop {
        let told = next()?;
        show(&told, pid)?;
        if told.what == "full" {
            break told;
        }
    };
    let per_reading = full.disk_bytes as f64 / (full.payloads * POINTS) as f64;
    println!(
        "  {:.2} bytes on the disk per reading; taken in at {:.0} readings/s, {:.0} times the devices' pace",
        per_reading,
        (full.second * DEVICES * POINTS) as f64 / began.elapsed().as_secs_f64(),
        full.second as f64 / began.elapsed().as_secs_f64()
    );
    drain(dir, pid, &full, next).await
}

async fn drain(
    dir: &Path,
    pid: u32,
    full: &Told,
    mut next: impl FnMut() -> Result<Told> + Send + 'static,
) -> Result<()> {
    let _broker = mosquitto(dir, MQTT_PORT)?;
    let received = Arc::new(AtomicU64::new(0));
    let collector = tokio::spawn(collect(MQTT_PORT, AGENT.parse()?, Arc::clone(&received)));
    let began = Instant::now();
    // Lines are waited for on a thread, so that the collector goes on.
    let (sender, mut told) = mpsc::channel(4);
    std::thread::spawn(move || while sender.blocking_send(next()).is_ok() {});
    let mut shown = Instant::now();
    while began.elapsed() < DRAIN_LIMIT {
        let now = told.recv().await.context("the agent's process ended")??;
        ensure!(!collector.is_finished(), "the collector ended: {:?}", collector.await);
        let done = now.committed >= full.payloads && now.payloads < DRAINED_PAYLOADS;
        if done || shown.elapsed() > Duration::from_secs(60) {
            show(&now, pid)?;
            shown = Instant::now();
        }
        if done {
            let took = began.elapsed().as_secs_f64();
            println!(
                "  drained {:.0} s after the broker was back: {:.0} backlog payloads/s ({:.0} readings/s) beside {DEVICES} live ones",
                took,
                full.payloads as f64 / took,
                (full.payloads * POINTS) as f64 / took
            );
            return Ok(());
        }
    }
    bail!("the backlog is not gone after {DRAIN_LIMIT:?}")
}
