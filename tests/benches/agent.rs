//! What one gateway agent costs while it polls many devices: processor time, resident memory, lateness, misses.
//!
//! `cargo bench -p bcp-tests --bench agent -- [--protocol modbus|snmp] [--devices 50] [--points 20] [--seconds 30]
//! [--dead 10%] [--answer-ms 20] [--peers]`
//!
//! The devices are real Modbus TCP or SNMP servers in a process of their own, mosquitto is the broker, and this process
//! commits what arrives as a collector would. So the figures of the agent's process are the agent's alone. Dead devices
//! take requests and never answer; `--answer-ms` delays every answer. `--peers` measures collectd and, for SNMP,
//! prometheus-snmp-exporter after it, one at a time, on the same devices.

#[path = "polling/mod.rs"]
mod polling;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bcp_tests::{fleet, wait_for};

use polling::collector::{collect, mosquitto};
use polling::devices::{SUBTREE, play_devices};
use polling::peers::{Packing, Peer, Task, collectd, snmp_exporter};
use polling::process::{Ended, cpu_ms, memory_mb, private_mb};

/// Below the ports the system gives to outgoing connections.
const MQTT_PORT: u16 = 25_983;
const STATUS_PORT: u16 = 25_984;
const AGENT: &str = "gw-bench";
/// First argument of the process that plays the devices.
const PLAY_DEVICES: &str = "--play-devices";
/// What is learnt at the start (tables, dead devices) is over by then.
const WARM_UP: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Load {
    snmp: bool,
    devices: u64,
    points: u64,
    seconds: u64,
    dead: u64,
    answer_ms: u64,
    with_peers: bool,
}

impl Load {
    fn of_arguments() -> Result<Load> {
        let number = |name: &str, default: u64| match argument(name) {
            None => Ok(default),
            Some(text) => text.parse().with_context(|| format!("{name} takes a number, not `{text}`")),
        };
        let devices = number("--devices", 50)?;
        let dead = match argument("--dead") {
            None => 0,
            Some(text) => {
                let share: u64 = text.trim_end_matches('%').parse().context("--dead takes a share, as 10%")?;
                devices * share / 100
            }
        };
        let protocol = argument("--protocol").unwrap_or_else(|| "modbus".to_owned());
        ensure!(matches!(protocol.as_str(), "modbus" | "snmp"), "--protocol is modbus or snmp");
        let load = Load {
            snmp: protocol == "snmp",
            devices,
            points: number("--points", 20)?,
            seconds: number("--seconds", 30)?,
            dead,
            answer_ms: number("--answer-ms", 0)?,
            with_peers: std::env::args().any(|a| a == "--peers"),
        };
        ensure!((1..=60).contains(&load.points) && devices > load.dead, "1 to 60 points, and not all devices dead");
        Ok(load)
    }

    fn arguments(&self) -> [String; 5] {
        [
            if self.snmp { "snmp" } else { "modbus" }.to_owned(),
            self.devices.to_string(),
            self.points.to_string(),
            self.dead.to_string(),
            self.answer_ms.to_string(),
        ]
    }
}

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn main() -> Result<()> {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if std::env::args().nth(1).is_some_and(|a| a == PLAY_DEVICES) {
        return runtime.block_on(play_devices());
    }
    bcp_fleet::install_crypto();
    let load = Load::of_arguments()?;
    let dir = std::env::temp_dir().join(format!("bcp-bench-agent-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("profiles/bench"))?;
    let result = runtime.block_on(run(load, &dir));
    std::fs::remove_dir_all(&dir)?;
    result
}

/// A listener and a connection for each of 500 devices are more than the usual 1,024 files.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}

async fn run(load: Load, dir: &Path) -> Result<()> {
    let _broker = mosquitto(dir, MQTT_PORT)?;
    let mut devices = Ended(
        Command::new(std::env::current_exe()?)
            .arg(PLAY_DEVICES)
            .args(load.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let addresses: Vec<String> = BufReader::new(devices.0.stdout.take().context("no stdout")?)
        .lines()
        .take(usize::try_from(load.devices)?)
        .collect::<Result<_, _>>()?;
    ensure!(addresses.len() as u64 == load.devices, "the devices did not start");
    std::fs::write(dir.join("agent.toml"), agent_config(&load, dir, &addresses))?;
    std::fs::write(dir.join("profiles/bench/meter.toml"), profile(&load))?;
    println!(
        "{} devices by {}, {} dead, {} points each, every second; answers after {} ms",
        load.devices,
        if load.snmp { "SNMP" } else { "Modbus TCP" },
        load.dead,
        load.points,
        load.answer_ms
    );
    println!(
        "{:<18}{:>10}{:>10}{:>12}{:>12}{:>10}{:>10}",
        "", "samples/s", "of due", "% of a core", "CPU s/M", "RSS MB", "private"
    );
    measure_agent(&load, dir).await?;
    if !load.with_peers {
        return Ok(());
    }
    let task = Task { is_snmp: load.snmp, points: load.points, addresses: &addresses, dir, mqtt_port: MQTT_PORT };
    measure_peer(&load, collectd(&task, Packing::Plain)?).await?;
    if load.snmp {
        measure_peer(&load, collectd(&task, Packing::Packed)?).await?;
        measure_peer(&load, snmp_exporter(&task)?).await?;
    }
    Ok(())
}

async fn measure_agent(load: &Load, dir: &Path) -> Result<()> {
    let received = Arc::new(AtomicU64::new(0));
    let collector = tokio::spawn(collect(MQTT_PORT, AGENT.parse()?, Arc::clone(&received)));
    let (program, first) = agent_program();
    ensure!(program.exists(), "{} is not there: run `cargo build --release` first", program.display());
    let started = Instant::now();
    let agent = Ended(
        Command::new(&program)
            .args(first)
            .args(["run", "--config"])
            .arg(dir.join("agent.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("agent.log"))?)
            .spawn()?,
    );
    let alive = load.devices - load.dead;
    let began = wait_for("every device's points", Duration::from_secs(20), async || {
        (received.load(Ordering::Relaxed) >= alive * load.points).then_some(())
    })
    .await;
    if let Err(fault) = began {
        bail!("{fault}; the agent said:\n{}", std::fs::read_to_string(dir.join("agent.log"))?);
    }
    let all_read = started.elapsed();
    tokio::time::sleep(WARM_UP).await;
    let before = status().await?;
    measure("bcp-agent", load, agent.0.id(), &received).await?;
    let after = status().await?;
    let grown = |key: &str| after[key].as_u64().unwrap_or(0).saturating_sub(before[key].as_u64().unwrap_or(0));
    println!(
        "  {}: all devices read {:.2} s after its start; polls {}, missed {}, failed {}; lateness p99 {:.1} ms",
        program.display(),
        all_read.as_secs_f64(),
        grown("polls"),
        grown("missed"),
        grown("failed"),
        after["lateness_p99_ms"].as_f64().unwrap_or(f64::NAN)
    );
    // It ends only for a fault.
    ensure!(!collector.is_finished(), "the collector ended: {:?}", collector.await);
    collector.abort();
    Ok(())
}

async fn measure_peer(load: &Load, peer: Peer) -> Result<()> {
    tokio::time::sleep(WARM_UP).await;
    measure(peer.name, load, peer.process.0.id(), &peer.samples).await?;
    peer.end().await
}

/// Watches a process at work and prints its line of the table.
async fn measure(name: &str, load: &Load, pid: u32, samples: &AtomicU64) -> Result<()> {
    let before = (cpu_ms(pid)?, samples.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    let after = (cpu_ms(pid)?, samples.load(Ordering::Relaxed), Instant::now());
    let elapsed_s = after.2.duration_since(before.2).as_secs_f64();
    let cpu_s = (after.0 - before.0) as f64 / 1e3;
    let samples = (after.1 - before.1) as f64;
    let due = ((load.devices - load.dead) * load.points) as f64 * elapsed_s;
    println!(
        "{name:<18}{:>10.0}{:>9.1}%{:>12.2}{:>12.2}{:>10.1}{:>10.1}",
        samples / elapsed_s,
        samples / due * 100.0,
        cpu_s / elapsed_s * 100.0,
        cpu_s / samples * 1e6,
        memory_mb(pid, "Rss:")?,
        private_mb(pid)?
    );
    ensure!(samples > 0.0, "{name}: nothing arrived, so these figures say nothing");
    Ok(())
}

/// `BCP_AGENT_BIN`, the agent beside the fleet's binary, or else the agent within it.
fn agent_program() -> (PathBuf, &'static [&'static str]) {
    let fleet = fleet::binary();
    let beside = std::env::var_os("BCP_AGENT_BIN").map_or_else(|| fleet.with_file_name("bcp-agent"), PathBuf::from);
    if beside.exists() { (beside, &[]) } else { (fleet, &["agent"]) }
}

fn agent_config(load: &Load, dir: &Path, addresses: &[String]) -> String {
    let mut config = format!(
        "site = \"a\"\nagent = \"{AGENT}\"\nstate_dir = \"{dir}/state\"\nprofiles_dir = \"{dir}/profiles\"\n\
         status_listen = \"127.0.0.1:{STATUS_PORT}\"\n[mqtt]\nbroker = \"127.0.0.1:{MQTT_PORT}\"\n",
        dir = dir.display(),
    );
    for (n, address) in addresses.iter().enumerate() {
        let link = if load.snmp {
            format!("snmp = {{ address = \"{address}\", community = \"public\", timeout = \"500ms\", retries = 0 }}")
        } else {
            format!("modbus = {{ address = \"{address}\", unit = 1, timeout = \"500ms\" }}")
        };
        config.push_str(&format!(
            "[[device]]\nid = \"meter-x{n}\"\nkind = \"meter\"\nprofile = \"bench/meter\"\ninterval = \"1s\"\n{link}\n"
        ));
    }
    config
}

/// One block of input registers, or one request of identifiers.
fn profile(load: &Load) -> String {
    let head = "format = 1\ntitle = \"Bench meter\"\nkind = \"meter\"\nsources = [\"this bench\"]\n";
    let mut text = if load.snmp {
        format!("{head}[snmp]\nmax_oids = 60\n")
    } else {
        format!("{head}[modbus]\nmax_registers = 125\norder = \"abcd\"\n")
    };
    for n in 1..=load.points {
        let read = if load.snmp {
            format!("read = \"{SUBTREE}.{n}.0\"\n")
        } else {
            format!("read = \"input:{}\"\ntype = \"f32\"\n", (n - 1) * 2)
        };
        text.push_str(&format!("[[point]]\nname = \"outlet.{n}.current\"\n{read}"));
    }
    text
}

async fn status() -> Result<serde_json::Value> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    Ok(client.get(format!("http://127.0.0.1:{STATUS_PORT}/status")).send().await?.json().await?)
}
