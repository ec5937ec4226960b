//! Measures the way from MQTT into the store, through the embedded broker and through mosquitto, in one run.
//!
//! `cargo bench -p bcp-collector --bench mqtt -- [devices] [batches per device] [sessions]` (default 4000, 50 and 8).
//! Broker, serve and publishers are processes of this machine and share its cores. Each batch has 25 points; each
//! publisher is one agent with one session and, as an agent does, goes no further than a bounded number of payloads
//! beyond the watermark. A run ends when every sample is committed.
#![allow(clippy::unwrap_used)]

#[path = "../tests/site/mod.rs"]
mod site;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bcp_wire::Watermark;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions, QoS};
use site::{Running, SiteDir, wait_for};

const POINTS: usize = 25;
/// Payloads of one agent beyond its watermark; all sessions together stay below what a broker keeps for a subscriber.
const WINDOW: u64 = 3_000;
const START_MS: i64 = 1_790_000_000_000;
const READY: Duration = Duration::from_secs(20);
/// No sample more for so long: the run is stuck.
const STUCK: Duration = Duration::from_secs(20);

fn payload(seq: u64, round: usize, device: usize) -> String {
    use std::fmt::Write;
    let mut text = format!(r#"{{"v":1,"i":1,"s":{seq},"t":{},"vals":{{"#, START_MS + round as i64 * 1_000);
    for point in 1..=POINTS {
        let tenths = 100 + (device * 7 + point * 13) % 400 + (round * point + device) % 3;
        let comma = if point == 1 { "" } else { "," };
        let _ = write!(text, r#"{comma}"outlet.{point}.current":{}.{}"#, tenths / 10, tenths % 10);
    }
    text + "}}"
}

/// One agent: its devices' batches, oldest first, as fast as the broker takes them.
async fn publish(port: u16, agent: usize, devices: usize, rounds: usize) {
    let mut options = MqttOptions::new(format!("bench-{agent}"), ("127.0.0.1", port));
    options.set_keep_alive(30).set_max_request_batch(64).set_outgoing_inflight_upper_limit(200);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut events) = AsyncClient::builder(options).capacity(256).build();
    client.subscribe(format!("bcp/v1/a/bench-{agent}/ack/a"), QoS::AtLeastOnce).await.unwrap();
    let (committed_out, mut committed) = tokio::sync::watch::channel(0u64);
    let polling = tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::Publish(mark))) => {
                    let mark = Watermark::from_json(&mark.payload).unwrap();
                    committed_out.send_replace(mark.marks.first().map_or(0, |mark| mark.through));
                }
                Ok(_) => {}
                Err(error) => panic!("a publisher lost its session: {error}"),
            }
        }
    });
    let mut seq = 0;
    for round in 0..rounds {
        for device in 0..devices {
            seq += 1;
            let _ = committed.wait_for(|through| through + WINDOW >= seq).await.unwrap();
            let topic = format!("bcp/v1/a/bench-{agent}/data/dev-{agent}-{device}");
            let body = payload(seq, round, device);
            client.publish(topic, body, PublishOptions::at_least_once()).await.unwrap();
        }
    }
    let _ = committed.wait_for(|through| *through == seq).await.unwrap();
    polling.abort();
}

struct Load {
    devices: usize,
    rounds: usize,
    sessions: usize,
}

fn mosquitto(site: &SiteDir) -> Option<Running> {
    let config = site.dir.join("mosquitto.conf");
    let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\n{user}max_queued_messages 1000000\nmax_queued_bytes 0\n\
         max_inflight_messages 2000\nset_tcp_nodelay true\nlog_type error\n",
        site.mqtt.port()
    );
    std::fs::write(&config, text).unwrap();
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())?;
    let child = Command::new(program).arg("-c").arg(config).stderr(Stdio::null()).stdout(Stdio::null()).spawn();
    Some(Running(child.unwrap()))
}

fn run(name: &str, load: &Load) {
    let site = SiteDir::new(name);
    let broker = match name {
        "mosquitto" => match mosquitto(&site) {
            Some(broker) => broker,
            None => return println!("{name}: not installed, left out"),
        },
        _ => site.start("broker"),
    };
    let serve = site.start("serve");
    let up = || site.ingest().filter(|ingest| ingest["brokers"]["a"]["link"] == "up");
    assert!(wait_for(READY, up).is_some(), "serve does not see {name}: {}", site::read(&site.log("serve")));

    let devices = load.devices / load.sessions;
    let wanted = (devices * load.sessions * load.rounds * POINTS) as u64;
    let (cpu_broker, cpu_serve) = (broker.cpu_s(), serve.cpu_s());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let began = Instant::now();
    for agent in 0..load.sessions {
        runtime.spawn(publish(site.mqtt.port(), agent, devices, load.rounds));
    }
    let mut last = (0, Instant::now());
    let last_ingest = loop {
        let Some(ingest) = site.ingest() else { continue };
        let samples = ingest["samples"].as_u64().unwrap_or(0);
        if samples >= wanted && ingest["uncommitted"] == 0 {
            break ingest;
        }
        if samples > last.0 {
            last = (samples, Instant::now());
        }
        assert!(last.1.elapsed() < STUCK, "{name}: {samples} of {wanted} samples, then nothing: {ingest}");
        std::thread::park_timeout(Duration::from_millis(50));
    };
    let took = began.elapsed().as_secs_f64();
    let million = wanted as f64 / 1e6;
    println!(
        "{name}: {wanted} samples in {took:.1} s: {:.0} samples/s, {:.0} messages/s; CPU s per million samples: serve {:.2}, \
         broker {:.2}; RSS peak: serve {:.0} MB, broker {:.0} MB; refused {}, duplicates {}, last commit {} ms",
        wanted as f64 / took,
        wanted as f64 / took / POINTS as f64,
        (serve.cpu_s() - cpu_serve) / million,
        (broker.cpu_s() - cpu_broker) / million,
        serve.memory_mb("VmHWM"),
        broker.memory_mb("VmHWM"),
        last_ingest["refused"],
        last_ingest["duplicates"],
        last_ingest["commit_ms"],
    );
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let only = std::env::args().skip(1).find(|arg| arg == "embedded" || arg == "mosquitto");
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let load = Load { devices: number(0, 4_000), rounds: number(1, 50), sessions: number(2, 8) };
    println!(
        "{} devices of {POINTS} points, {} batches each, {} sessions, {} messages",
        load.devices,
        load.rounds,
        load.sessions,
        load.devices / load.sessions * load.sessions * load.rounds
    );
    for name in ["embedded", "mosquitto"] {
        if only.as_deref().is_none_or(|only| only == name) {
            run(name, &load);
        }
    }
}
