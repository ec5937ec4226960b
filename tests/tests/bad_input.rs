//! Bad input gets a clear error and costs nothing else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bcp_tests::{Fleet, Options, wait_for};
use bcp_wire::Site;
use rumqttc::{AsyncClient, MqttOptions, PublishOptions};

const SECOND: Duration = Duration::from_secs(1);

/// Deterministic bytes: a failing run can be repeated.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn payload(&mut self) -> Vec<u8> {
        let length = (self.next() % 200) as usize;
        let valid = br#"{"v":1,"i":1,"s":1,"t":1790000000123,"vals":{"battery.charge":98.5}}"#;
        match self.next() % 4 {
            // Noise, truncated JSON, JSON with one byte flipped, a false deflate header.
            0 => (0..length).map(|_| self.next() as u8).collect(),
            1 => valid[..length.min(valid.len() - 1)].to_vec(),
            2 => {
                let mut bytes = valid.to_vec();
                bytes[3] = b'9';
                let at = (self.next() as usize) % bytes.len();
                bytes[at] = self.next() as u8 & 0x1F;
                bytes
            }
            _ => std::iter::once(0x78).chain((0..length).map(|_| self.next() as u8)).collect(),
        }
    }
}

/// Memory of serve may differ by this much between two moments of the same load: allocator, one head of history growing.
const GROWTH_MB: f64 = 12.0;

/// Resident memory of a site's process, MB.
fn rss_mb(fleet: &Fleet, site: Site, process: &str) -> Result<f64> {
    let config = fleet.data_dir().join(site.as_str()).join("collector.toml");
    for entry in std::fs::read_dir("/proc")? {
        let dir = entry?.path();
        let Ok(line) = std::fs::read(dir.join("cmdline")) else { continue };
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let config = config.as_os_str().as_encoded_bytes();
        if words.contains(&process.as_bytes()) && words.contains(&config) {
            let status = std::fs::read_to_string(dir.join("status"))?;
            let kb =
                status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
            return kb.map(|kb| kb / 1_024.0).context("no VmRSS");
        }
    }
    anyhow::bail!("no {process} of {site} runs")
}

#[tokio::test]
async fn ten_thousand_random_payloads_are_counted_and_change_nothing() -> Result<()> {
    const COUNT: u64 = 10_000;
    let fleet = Fleet::up(Options { base_port: 29000, ..Options::default() }).await?;
    // What is no payload of the contract is refused; an empty one on a retained topic takes the message back.
    let counted = async || -> Option<u64> {
        let ingest = fleet.api(Site::A, "ingest").await.ok()?;
        let refused: u64 = ingest["refused"].as_object()?.values().filter_map(serde_json::Value::as_u64).sum();
        Some(refused + ingest["emptied"].as_u64()?)
    };
    let (before, _) = wait_for("the ingest counters", 60 * SECOND, counted).await?;

    let mut options = MqttOptions::new("hostile", ("127.0.0.1", fleet.port(Site::A, 3)));
    options.set_keep_alive(30).set_max_request_batch(64).set_outgoing_inflight_upper_limit(100);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
    let driver = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let mut bytes = Bytes(0x9E37_79B9_7F4A_7C15);
    let lanes = ["data/ups-a1", "hist/ups-a1", "event/ups-a1", "meta/ups-a1", "state"];
    let mut memory = Vec::new();
    for round in 1..=2 {
        for n in 0..COUNT {
            let topic = format!("bcp/v1/a/intruder/{}", lanes[(n % 5) as usize]);
            client.publish(topic, bytes.payload(), PublishOptions::at_least_once()).await?;
        }
        let (all, took) = wait_for("all payloads to be counted", 60 * SECOND, async || {
            counted().await.map(|now| now - before).filter(|n| *n >= round * COUNT)
        })
        .await?;
        memory.push((rss_mb(&fleet, Site::A, "serve")?, rss_mb(&fleet, Site::A, "broker")?));
        println!("{all} payloads counted, the last of them after {took:?}; serve and broker (MB): {memory:?}");
    }
    let (first, second) = (memory[0].0, memory[1].0);
    ensure!(second - first <= GROWTH_MB, "serve grew from {first} to {second} MB with the second {COUNT}");
    driver.abort();
    let ingest = fleet.api(Site::A, "ingest").await?;
    ensure!(
        ingest["last_refused"]["topic"].as_str().is_some_and(|t| t.contains("intruder")),
        "no last offender: {ingest}"
    );
    let devices = fleet.api(Site::A, "devices").await?;
    let known = devices["devices"].as_array().context("a list of devices")?;
    ensure!(!known.iter().any(|d| d["agent"] == "intruder"), "a refused payload made a device");
    ensure!(fleet.point(Site::A, "ups-a1", "battery.charge").await?["quality"] == "good", "good data suffered");
    Ok(())
}

#[test]
fn five_faults_in_a_configuration_are_named_together() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("bcp-faults-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let agent = dir.join("agent.toml");
    std::fs::write(
        &agent,
        r#"site = "c"
agent = "GW A"
state_dir = "/tmp/x"
[mqtt]
broker = "127.0.0.1"
[[device]]
id = "ups-a1"
kind = "ups"
profile = "ietf/ups-mibb"
interval = "1 lightyear"
snmp = { address = "127.0.0.1:161", version = "2c", community = "public" }
"#,
    )?;
    let output = std::process::Command::new(bcp_tests::fleet::binary())
        .args(["agent", "check", "--config"])
        .arg(&agent)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    ensure!(output.status.code() == Some(64), "exit code {:?}", output.status.code());
    for (line, key) in [(1, "site"), (2, "agent"), (5, "mqtt.broker"), (9, "profile"), (10, "interval")] {
        ensure!(
            said.contains(&format!("agent.toml:{line}:")) && said.contains(key),
            "line {line} ({key}) is not named"
        );
    }
    for near in ["ietf/ups-mib", "127.0.0.1:1883"] {
        ensure!(said.contains(&format!("did you mean `{near}`?")), "`{near}` is not suggested");
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
