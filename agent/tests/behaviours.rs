//! Behaviours of the running agent and its outbox, one named test each. Those of protocols are in files of their own.
//!
//! Time: where a test says "a day", it counts payloads and gives them times of a day; nothing here waits longer than
//! seconds. Tests with a broker start mosquitto, and say so and pass where it is not installed (`BCP_STRICT=1`: fail).
#![allow(clippy::unwrap_used)]

mod support {
    pub mod agent_process;
    pub mod modbus_server;
    pub mod process;
}

use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bcp_agent::config;
use bcp_agent::outbound::Outbound;
use bcp_agent::resolver::Resolver;
use bcp_agent::self_stats::Board;
use bcp_agent::source::Clock;
use bcp_agent::source::tasks::Sources;
use bcp_agent::spool::{Class, Key, Opened, Record, Spool, SpoolConfig};
use bcp_wire::BadReason;
use support::agent_process::{Agent, free_tcp_port, meter};
use support::modbus_server::{Asked, server};
use support::process::{Peer, command, installed, scratch, wait_for};
use tokio::sync::mpsc;

const T0: i64 = 1_790_000_000_000;

fn record(seq: u64, class: Class, t_ms: i64) -> Record {
    let payload = format!("{{\"s\":{seq},\"fill\":\"{}\"}}", "x".repeat(500)).into_bytes();
    Record { key: Key { incarnation: 1, seq }, class, device: "ups-a1".parse().unwrap(), t_ms, samples: 20, payload }
}

async fn broker(name: &str, port: u16) -> Option<Peer> {
    if !installed("mosquitto", "mosquitto") {
        return None;
    }
    let dir = scratch(name);
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n");
    std::fs::write(dir.join("mosquitto.conf"), text).unwrap();
    let child = command("mosquitto")
        .arg("-c")
        .arg(dir.join("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let peer = Peer { child, dir };
    wait_for("the broker", async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    Some(peer)
}

/// 14: a day without a broker costs bounded memory and disk, and what was dropped is told exactly.
#[test]
fn behaviour_14_a_day_without_a_broker_stays_within_its_bounds() {
    const COUNT: u64 = 86_400;
    let dir = scratch("away");
    let config: SpoolConfig = toml::from_str("max_bytes = 8388608\nmax_age = \"12h\"").unwrap();
    let mut spool = Spool::open(&dir, config, 0).spool;
    let mut lost = 0;
    for seq in 1..=COUNT {
        // One payload a second, for a day of the payloads' own time.
        let t_ms = T0 + i64::try_from(seq).unwrap() * 1_000;
        for gap in spool.append(&record(seq, Class::Data, t_ms), seq * 1_000, t_ms) {
            assert_eq!(gap.from, lost + 1, "gaps follow one another without a hole");
            lost = gap.through;
        }
        spool.flush(seq * 1_000);
    }
    let figures = spool.figures();
    assert!(figures.disk_bytes <= 8 << 20, "{figures:?}");
    assert_eq!((figures.dropped, figures.payloads), (lost, COUNT - lost));
    assert_eq!(spool.keys().next().unwrap().0.seq, lost + 1);
    drop(spool);
    std::fs::remove_dir_all(dir).unwrap();
}

/// 16: after a `kill -9`, everything that had a number is there, or was never sent.
#[tokio::test]
async fn behaviour_16_a_killed_agent_goes_on_without_a_hole() {
    let broker_port = free_tcp_port();
    let (port, _) = server(Asked::right);
    let rest = format!("[mqtt]\nbroker = \"127.0.0.1:{broker_port}\"\n{}", meter("meter-1", port, "100ms"));
    let mut agent = Agent::start("killed", &rest);
    let spooled = |agent: &Agent| agent.status().and_then(|s| s["delivery"]["spool"]["payloads"].as_u64()).unwrap_or(0);
    wait_for("30 payloads in the spool", async || spooled(&agent) >= 30).await;
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    let Opened { spool, gaps, notes } = Spool::open(&agent.dir.join("state/spool"), SpoolConfig::default(), 0);
    let keys: Vec<u64> = spool.keys().map(|(key, _)| key.seq).collect();
    assert!(gaps.is_empty() && notes.is_empty(), "{gaps:?} {notes:?}");
    assert_eq!(keys, (1..=keys.len() as u64).collect::<Vec<_>>(), "no number is missing");
    assert!(keys.len() >= 30);
    drop(spool);
    agent.child = Agent::spawn(&agent.dir);
    wait_for("the next start", async || {
        agent.status().is_some_and(|s| s["delivery"]["incarnation"] == 2 && spooled(&agent) > keys.len() as u64)
    })
    .await;
}

/// 17: garbage in the spool, and a spool that cannot be, are told and survived.
#[tokio::test]
async fn behaviour_17_a_damaged_spool_does_not_keep_the_agent_from_starting() {
    let (port, _) = server(Asked::right);
    let rest = format!("[mqtt]\nbroker = \"127.0.0.1:{}\"\n{}", free_tcp_port(), meter("meter-1", port, "100ms"));
    let mut agent = Agent::start("damaged", &rest);
    wait_for("a segment", async || agent.status().is_some_and(|s| s["delivery"]["spool"]["payloads"] != 0)).await;
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    let spool = agent.dir.join("state/spool");
    for entry in std::fs::read_dir(&spool).unwrap() {
        std::fs::write(entry.unwrap().path(), vec![0xAA; 4_096]).unwrap();
    }
    agent.child = Agent::spawn(&agent.dir);
    wait_for("polls after garbage", async || agent.device("meter-1").is_some_and(|d| d["polls"].as_u64() > Some(3)))
        .await;
    assert!(agent.log().contains("spool opened with faults"), "{}", agent.log());
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    std::fs::remove_dir_all(&spool).unwrap();
    std::fs::write(&spool, "not a directory").unwrap();
    agent.child = Agent::spawn(&agent.dir);
    wait_for("a spool in memory", async || {
        agent.status().is_some_and(|s| s["delivery"]["spool"]["in_memory_only"] == true)
    })
    .await;
}

/// 18: a full spool drops data before events, and counts what it drops.
#[test]
fn behaviour_18_a_full_spool_keeps_events_longest() {
    let dir = scratch("full");
    let config: SpoolConfig = toml::from_str("max_bytes = 1048576\nsegment_bytes = 65536").unwrap();
    let mut spool = Spool::open(&dir, config, 0).spool;
    let mut lost = 0;
    for seq in 1..=5_000 {
        let class = if seq % 100 == 0 { Class::Event } else { Class::Data };
        let gaps = spool.append(&record(seq, class, T0), 0, T0);
        lost += gaps.iter().map(|gap| gap.through - gap.from + 1).sum::<u64>();
    }
    let events = spool.keys().filter(|(_, class)| *class == Class::Event).count();
    assert_eq!(events, 50, "no event is lost while there is data to drop");
    assert_eq!(lost, spool.figures().dropped);
    assert_eq!(lost + spool.figures().payloads, 5_000);
    drop(spool);
    std::fs::remove_dir_all(dir).unwrap();
}

/// 21: a step of the wall clock moves no poll, and its samples are marked.
#[tokio::test]
async fn behaviour_21_a_clock_step_marks_samples_and_moves_no_poll() {
    let (port, _) = server(Asked::right);
    let dir = scratch("step");
    std::fs::create_dir_all(dir.join("test")).unwrap();
    let profile = "format = 1\ntitle = \"Meter\"\nkind = \"meter\"\nsources = [\"this test\"]\n[modbus]\n\
                   [[point]]\nname = \"meter.frequency\"\nread = \"input:0\"\ntype = \"u16\"\n";
    std::fs::write(dir.join("test/meter.toml"), profile).unwrap();
    let text = Agent::config(
        &dir,
        free_tcp_port(),
        &format!("[mqtt]\nbroker = \"127.0.0.1:1\"\n{}", meter("meter-1", port, "100ms")),
    );
    let config = config::parse("agent.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
    let board = Arc::new(Board::new(Clock::start()));
    let (outbound, mut heard) = mpsc::channel(64);
    let mut sources = Sources::new(outbound, Arc::clone(&board), Resolver::default());
    sources.apply(&config).await.unwrap();
    for step_ms in [3_600_000_i64, -7_200_000] {
        let mut next = async || loop {
            if let Outbound::Batch { t_ms, points, .. } = heard.recv().await.unwrap() {
                return (t_ms, points, board.clock().now());
            }
        };
        let (before_ms, _, began) = next().await;
        board.wall().shift(step_ms);
        let mut marked = 0;
        for _ in 0..5 {
            let (_, points, _) = next().await;
            marked += usize::from(points.iter().all(|point| point.2 == Err(BadReason::Clock)));
        }
        assert!(marked >= 4, "{marked} of 5 batches are marked");
        let (after_ms, _, ended) = next().await;
        let took = ended.since(began);
        assert!(took < Duration::from_secs(3), "six polls of 100 ms took {took:?}");
        let moved = after_ms - before_ms - i64::try_from(took.as_millis()).unwrap();
        assert!((moved - step_ms).abs() < 500, "the labels follow the clock: {moved} ms");
    }
    assert!(board.wall().take_step_ms().is_some());
    sources.stop().await;
    std::fs::remove_dir_all(dir).unwrap();
}

/// 22: a reload touches only what changed; a faulty file changes nothing and is told with every fault.
#[tokio::test]
async fn behaviour_22_a_reload_touches_only_what_changed() {
    let (same, same_seen) = server(Asked::right);
    let (other, _) = server(Asked::right);
    let broker = free_tcp_port();
    let mqtt = format!("[mqtt]\nbroker = \"127.0.0.1:{broker}\"\n");
    let before = format!("{mqtt}{}{}", meter("meter-1", same, "100ms"), meter("meter-2", other, "100ms"));
    let agent = Agent::start("reload", &before);
    let polls = |id: &str| agent.device(id).and_then(|device| device["polls"].as_u64()).unwrap_or(0);
    wait_for("polls of both", async || polls("meter-1") > 3 && polls("meter-2") > 3).await;
    let kept = polls("meter-1");

    let after = format!("{mqtt}{}{}", meter("meter-1", same, "100ms"), meter("meter-3", other, "200ms"));
    std::fs::write(agent.dir.join("agent.toml"), Agent::config(&agent.dir, agent.status, &after)).unwrap();
    agent.signal("-HUP");
    wait_for("the new device", async || polls("meter-3") > 3).await;
    assert!(agent.device("meter-2").is_none(), "what is gone is shown no more");
    assert!(polls("meter-1") > kept, "its count goes on");
    assert_eq!(same_seen.connections.load(Ordering::SeqCst), 1, "its connection was not touched");
    assert!(agent.log().contains("1 added, 1 removed, 0 changed, 1 untouched"), "{}", agent.log());

    let faulty = after.replace("200ms", "5 lightyears").replace("test/meter", "test/metre");
    std::fs::write(agent.dir.join("agent.toml"), Agent::config(&agent.dir, agent.status, &faulty)).unwrap();
    agent.signal("-HUP");
    wait_for("the refusal", async || agent.log().contains("configuration refused")).await;
    for fault in ["device[0].profile", "device[1].profile", "device[1].interval"] {
        assert!(agent.log().contains(fault), "{fault} is not named:\n{}", agent.log());
    }
    let (one, three) = (polls("meter-1"), polls("meter-3"));
    wait_for("polls to go on", async || polls("meter-1") > one && polls("meter-3") > three).await;
}

/// 22: what only a start can set is refused by name, and nothing else of that file is taken over.
#[tokio::test]
async fn behaviour_22_a_reload_refuses_what_only_a_start_can_set() {
    let (port, _) = server(Asked::right);
    let rest = format!("[mqtt]\nbroker = \"127.0.0.1:{}\"\n{}", free_tcp_port(), meter("meter-1", port, "100ms"));
    let agent = Agent::start("fixed", &rest);
    wait_for("the start", async || agent.device("meter-1").is_some()).await;
    let next = Agent::config(&agent.dir, agent.status, &rest.replace("meter-1", "meter-9"))
        .replace("agent = \"gw-a\"", "agent = \"gw-b\"");
    std::fs::write(agent.dir.join("agent.toml"), next).unwrap();
    agent.signal("-HUP");
    wait_for("the refusal", async || agent.log().contains("agent cannot change while the agent runs")).await;
    assert!(agent.device("meter-9").is_none() && agent.device("meter-1").is_some());
}

/// Commands are denied by default; an allowed one is carried out and answered, and noise is passed over.
#[tokio::test]
async fn commands_are_denied_by_default_and_answered() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions, QoS};
    let broker_port = free_tcp_port();
    let Some(_broker) = broker("commands", broker_port).await else { return };
    let (port, _) = server(Asked::right);
    let rest = format!(
        "[mqtt]\nbroker = \"127.0.0.1:{broker_port}\"\n[commands]\nallow = [\"reload\", \"poll-now\"]\n{}",
        meter("meter-1", port, "1h")
    );
    let agent = Agent::start("commanded", &rest);
    let mut options = MqttOptions::new("operator", ("127.0.0.1", broker_port));
    options.set_keep_alive(5);
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    client.subscribe("bcp/v1/a/gw-a/cmd/+/reply", QoS::AtLeastOnce).await.unwrap();
    let (sender, mut replies) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(message)) = event {
                let reply: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
                let _ = sender.send(reply).await;
            }
        }
    });
    let connected = async || agent.status().is_some_and(|s| s["delivery"]["connected"] == true);
    wait_for("the agent's session", connected).await;
    let send = async |payload: Vec<u8>| {
        client.publish("bcp/v1/a/gw-a/cmd", payload, PublishOptions::at_least_once()).await.unwrap();
    };
    for noise in [&b""[..], b"{", b"{\"v\":1}", &[0xFF; 300], &vec![b'['; 200_000]] {
        send(noise.to_vec()).await;
    }
    for (id, verb, ok) in [
        ("c1", "\"cmd\":\"log-level\",\"level\":\"trace\"", false),
        ("c2", "\"cmd\":\"poll-now\",\"device\":\"meter-1\"", true),
        ("c3", "\"cmd\":\"poll-now\",\"device\":\"nobody\"", false),
        ("c4", "\"cmd\":\"reload\"", true),
        ("c4", "\"cmd\":\"reload\"", true),
    ] {
        send(format!("{{\"v\":1,\"id\":\"{id}\",{verb}}}").into_bytes()).await;
        let reply = tokio::time::timeout(Duration::from_secs(20), replies.recv()).await.unwrap().unwrap();
        assert_eq!((reply["id"].as_str(), reply["ok"].as_bool()), (Some(id), Some(ok)), "{reply}");
    }
    assert_eq!(agent.log().matches("configuration loaded").count(), 1, "a repeated command is answered, not obeyed");
    wait_for("the poll that was asked for", async || agent.device("meter-1").is_some_and(|d| d["polls"] == 2)).await;
}
