//! Other pollers beside the agent, on the same devices and the same broker: collectd and prometheus-snmp-exporter, both
//! from Debian.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rumqttc::{AsyncClient, MqttOptions, Packet, QoS};

use super::devices::SUBTREE;
use super::process::Ended;

/// Threads that read: enough for all devices to be asked within the second, also where answers take 20 ms.
const READ_THREADS: u64 = 32;
const EXPORTER_PORT: u16 = 25_985;

/// What the peers are given to do.
pub struct Task<'a> {
    pub is_snmp: bool,
    pub points: u64,
    pub addresses: &'a [String],
    pub dir: &'a Path,
    pub mqtt_port: u16,
}

/// A running peer and the count of samples that it delivered.
pub struct Peer {
    pub name: &'static str,
    pub process: Ended,
    pub samples: Arc<AtomicU64>,
    feed: tokio::task::JoinHandle<Result<()>>,
}

impl Peer {
    /// # Errors
    /// What takes its samples in, or asks for them, has ended.
    pub async fn end(self) -> Result<()> {
        if self.feed.is_finished() {
            self.feed.await??;
            bail!("{}: nothing takes its samples any more", self.name);
        }
        self.feed.abort();
        Ok(())
    }
}

/// How collectd is told to read SNMP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// A value list for each point, as its manual shows it.
    Plain,
    /// All points of a device as data sources of one type: one request, one message.
    Packed,
}

/// collectd with its snmp or modbus plugin, publishing over MQTT with QoS 1.
pub fn collectd(task: &Task<'_>, packing: Packing) -> Result<Peer> {
    let program = installed("collectd", "collectd-core")?;
    let dir = task.dir.join(if packing == Packing::Packed { "collectd-packed" } else { "collectd" });
    std::fs::create_dir_all(&dir)?;
    let config = collectd_config(task, packing, &dir)?;
    std::fs::write(dir.join("collectd.conf"), config)?;
    let sources: Vec<String> = (1..=task.points).map(|n| format!("p{n}:GAUGE:U:U")).collect();
    std::fs::write(dir.join("types.db"), format!("gauge value:GAUGE:U:U\nbench {}\n", sources.join(", ")))?;
    let process = Ended(
        Command::new(program)
            .args(["-f", "-C"])
            .arg(dir.join("collectd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log"))?)
            .spawn()?,
    );
    let samples = Arc::new(AtomicU64::new(0));
    let feed = tokio::spawn(count_messages(task.mqtt_port, Arc::clone(&samples)));
    let name = if packing == Packing::Packed { "collectd, packed" } else { "collectd" };
    Ok(Peer { name, process, samples, feed })
}

fn collectd_config(task: &Task<'_>, packing: Packing, dir: &Path) -> Result<String> {
    let plugin = if task.is_snmp { "snmp" } else { "modbus" };
    let mut text = format!(
        "Hostname \"bench\"\nFQDNLookup false\nInterval 1\nBaseDir \"{dir}\"\nPIDFile \"{dir}/pid\"\nTypesDB \"{dir}/types.db\"\n\
         ReadThreads {READ_THREADS}\nLoadPlugin mqtt\nLoadPlugin {plugin}\n<Plugin mqtt>\n<Publish \"bench\">\n\
         Host \"127.0.0.1\"\nPort {port}\nClientId \"collectd\"\nQoS 1\nPrefix \"collectd\"\n</Publish>\n</Plugin>\n\
         <Plugin {plugin}>\n",
        dir = dir.display(),
        port = task.mqtt_port,
    );
    let oid = |n: u64| format!("\"{SUBTREE}.{n}.0\"");
    let mut names: Vec<String> = (1..=task.points).map(|n| format!("\"p{n}\"")).collect();
    if !task.is_snmp {
        for n in 1..=task.points {
            writeln!(
                text,
                "<Data \"p{n}\">\nRegisterBase {}\nRegisterType Float\nRegisterCmd ReadInput\nType gauge\nInstance \"p{n}\"\n</Data>",
                (n - 1) * 2
            )?;
        }
    } else if packing == Packing::Packed {
        let oids: Vec<String> = (1..=task.points).map(oid).collect();
        writeln!(text, "<Data \"all\">\nTable false\nType \"bench\"\nValues {}\n</Data>", oids.join(" "))?;
        names = vec!["\"all\"".to_owned()];
    } else {
        for n in 1..=task.points {
            writeln!(
                text,
                "<Data \"p{n}\">\nTable false\nType \"gauge\"\nTypeInstance \"p{n}\"\nValues {}\n</Data>",
                oid(n)
            )?;
        }
    }
    // The modbus plugin takes one name a line, the snmp plugin as many as there are.
    let collect: String = names.iter().map(|name| format!("Collect {name}\n")).collect();
    for (n, address) in task.addresses.iter().enumerate() {
        let address: SocketAddr = address.parse()?;
        if task.is_snmp {
            writeln!(
                text,
                "<Host \"d{n}\">\nAddress \"{address}\"\nVersion 2\nCommunity \"public\"\nTimeout 0.5\nRetries 0\nInterval 1\n{collect}</Host>"
            )?;
        } else {
            writeln!(
                text,
                "<Host \"d{n}\">\nAddress \"{}\"\nPort \"{}\"\nInterval 1\n<Slave 1>\nInstance \"s\"\n{collect}</Slave>\n</Host>",
                address.ip(),
                address.port()
            )?;
        }
    }
    text.push_str("</Plugin>\n");
    Ok(text)
}

/// Counts the values of collectd's messages: `time:value[:value ...]`.
async fn count_messages(port: u16, samples: Arc<AtomicU64>) -> Result<()> {
    let mut options = MqttOptions::new("bench-counter", ("127.0.0.1", port));
    options.set_keep_alive(30);
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    loop {
        match events.poll().await? {
            rumqttc::Event::Incoming(Packet::ConnAck(_)) => client.try_subscribe("collectd/#", QoS::AtMostOnce)?,
            rumqttc::Event::Incoming(Packet::Publish(message)) => {
                let values = message.payload.iter().filter(|byte| **byte == b':').count();
                let absent = message.payload.windows(3).filter(|part| part.eq_ignore_ascii_case(b"nan")).count();
                samples.fetch_add((values - absent.min(values)) as u64, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// prometheus-snmp-exporter, every device scraped once a second.
pub fn snmp_exporter(task: &Task<'_>) -> Result<Peer> {
    ensure!(task.is_snmp, "snmp_exporter reads SNMP only");
    let program = installed("prometheus-snmp-exporter", "prometheus-snmp-exporter")?;
    let mut text = "bench:\n  version: 2\n  retries: 0\n  timeout: 500ms\n  max_repetitions: 60\n  auth:\n    community: public\n  get:\n".to_owned();
    for n in 1..=task.points {
        writeln!(text, "  - {SUBTREE}.{n}.0")?;
    }
    text.push_str("  metrics:\n");
    for n in 1..=task.points {
        writeln!(text, "  - name: p{n}\n    oid: {SUBTREE}.{n}\n    type: gauge\n    help: point {n}")?;
    }
    let config = task.dir.join("snmp.yml");
    std::fs::write(&config, text)?;
    let process = Ended(
        Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{EXPORTER_PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(task.dir.join("snmp_exporter.log"))?)
            .spawn()?,
    );
    let samples = Arc::new(AtomicU64::new(0));
    let feed = tokio::spawn(scrape(task.addresses.to_vec(), Arc::clone(&samples)));
    Ok(Peer { name: "snmp_exporter", process, samples, feed })
}

/// Asks for every device once a second, spread over the second, as Prometheus does.
async fn scrape(addresses: Vec<String>, samples: Arc<AtomicU64>) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
    let mut scrapes = tokio::task::JoinSet::new();
    for (n, address) in addresses.iter().enumerate() {
        let url = format!("http://127.0.0.1:{EXPORTER_PORT}/snmp?module=bench&target={address}");
        let (client, samples) = (client.clone(), Arc::clone(&samples));
        let phase = Duration::from_secs(1).mul_f64(n as f64 / addresses.len() as f64);
        scrapes.spawn(async move {
            let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + phase, Duration::from_secs(1));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                tick.tick().await;
                let Ok(answer) = client.get(&url).send().await.and_then(reqwest::Response::error_for_status) else {
                    continue;
                };
                let text = answer.text().await.unwrap_or_default();
                let points = text.lines().filter(|line| line.starts_with('p')).count();
                samples.fetch_add(points as u64, Ordering::Relaxed);
            }
        });
    }
    scrapes.join_all().await;
    bail!("all scrapes ended")
}

fn installed(program: &str, package: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .into_iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
        .with_context(|| format!("{program} is not installed (Debian: {package})"))
}
