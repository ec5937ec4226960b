//! The publisher against a real broker. Says so and passes where mosquitto is not installed; `BCP_STRICT=1` makes that a
//! failure.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bcp_agent::outbound::Outbound;
use bcp_agent::publish::{PublishError, PublishFigures, Publisher, PublisherSetup, Settings};
use bcp_agent::spool::SpoolConfig;
use bcp_wire::topic::Leaf;
use bcp_wire::{
    AgentState, AgentStatus, Batch, ClockState, DeviceMeta, Lane, Site, Topic, Value, Watermark, WatermarkMark,
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions, QoS};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(15);

struct Broker {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Broker {
    fn start(port: Option<u16>) -> Option<Broker> {
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let Some(program) = program else {
            assert!(std::env::var_os("BCP_STRICT").is_none_or(|v| v != "1"), "mosquitto is not installed");
            println!("SKIPPED: mosquitto is not installed");
            return None;
        };
        let port = port.unwrap_or_else(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let dir = scratch("mosquitto");
        let config = dir.join("mosquitto.conf");
        std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"))
            .unwrap();
        let child =
            Command::new(program).arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Broker { child, port, dir })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("bcp-{name}-{}-{:08x}", std::process::id(), rand::random::<u32>()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stands for the collector: hears everything, commits only when told.
struct Collector {
    client: AsyncClient,
    heard: mpsc::Receiver<(Topic, Vec<u8>)>,
    task: JoinHandle<()>,
    seen: BTreeMap<(u64, u64), (Lane, usize)>,
    states: Vec<AgentState>,
    metas: Vec<DeviceMeta>,
}

impl Collector {
    fn start(port: u16) -> Collector {
        let mut options = MqttOptions::new("collector", ("127.0.0.1", port));
        options.set_keep_alive(5);
        let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
        let (sender, heard) = mpsc::channel(10_000);
        let subscriber = client.clone();
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for filter in Topic::collector_filters(Site::A) {
                            subscriber.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let topic = String::from_utf8_lossy(&message.topic).parse().unwrap();
                        let _ = sender.send((topic, message.payload.to_vec())).await;
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Collector { client, heard, task, seen: BTreeMap::new(), states: Vec::new(), metas: Vec::new() }
    }

    fn listen(&mut self) {
        while let Ok((topic, payload)) = self.heard.try_recv() {
            match topic.leaf {
                Leaf::State => self.states.push(AgentState::from_json(&payload).unwrap()),
                Leaf::Meta { .. } => self.metas.push(DeviceMeta::from_json(&payload).unwrap()),
                Leaf::Batch { lane, .. } if lane != Lane::Event => {
                    let batch = Batch::from_json(&payload).unwrap();
                    let entry = self.seen.entry((batch.i, batch.s)).or_insert((lane, 0));
                    entry.1 += 1;
                }
                _ => {}
            }
        }
    }

    async fn commit(&self, i: u64, through: u64, holes: Vec<(u64, u64)>) {
        let mark = Watermark { v: 1, collector: Site::A, marks: vec![WatermarkMark { i, through, holes }] };
        let topic = "bcp/v1/a/gw-a/ack/a";
        let payload = serde_json::to_vec(&mark).unwrap();
        self.client.publish(topic, payload, PublishOptions::at_least_once().retained()).await.unwrap();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Agent {
    sources: mpsc::Sender<Outbound>,
    figures: watch::Receiver<PublishFigures>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), PublishError>>,
    incarnation: u64,
}

impl Agent {
    fn start(port: u16, dir: &Path) -> Agent {
        let mqtt =
            toml::from_str(&format!("broker = \"127.0.0.1:{port}\"\nresend_after = \"1s\"\nkeep_alive = \"2s\""))
                .unwrap();
        let publisher = Publisher::open(
            PublisherSetup {
                site: Site::A,
                agent: "gw-a".parse().unwrap(),
                state_dir: dir.to_owned(),
                settings: Settings {
                    mqtt,
                    spool: SpoolConfig::default(),
                    allow: Vec::new(),
                    config_hash: "00ff".to_owned(),
                },
            },
            watch::channel(ClockState::Unknown).1,
        );
        let figures = publisher.figures();
        let incarnation = publisher.incarnation();
        let (sources, outbound) = mpsc::channel(64);
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(publisher.run(outbound, mpsc::channel(1).0, stopping));
        Agent { sources, figures, stop, task, incarnation }
    }

    async fn measure(&self, count: usize) {
        for n in 0..count {
            let points = vec![("battery.charge".parse().unwrap(), 0, Ok(Value::Num(n as f64)))];
            let batch = Outbound::Batch { device: "ups-a1".parse().unwrap(), t_ms: 1_790_000_000_000, points };
            self.sources.send(batch).await.unwrap();
        }
    }

    async fn describe(&self) {
        let meta = r#"{"v":1,"i":1,"device":"ups-a1","kind":"ups","points":[]}"#;
        let meta = DeviceMeta::from_json(meta.as_bytes()).unwrap();
        self.sources.send(Outbound::Meta(Box::new(meta))).await.unwrap();
    }

    async fn until(&self, what: &str, condition: impl Fn(&PublishFigures) -> bool) {
        wait_for(what, || condition(&self.figures.borrow()).then_some(())).await;
    }
}

#[tokio::test]
async fn a_payload_is_owed_until_the_collector_has_it() {
    let Some(broker) = Broker::start(None) else { return };
    let (port, dir) = (broker.port, scratch("agent"));
    let mut collector = Collector::start(port);
    let agent = Agent::start(port, &dir);
    agent.describe().await;
    agent.until("a session", |f| f.connected).await;
    agent.measure(20).await;
    wait_for("20 live payloads, a description and a state", || {
        collector.listen();
        let live = collector.seen.values().filter(|(lane, _)| *lane == Lane::Data).count();
        (live == 20 && !collector.metas.is_empty() && !collector.states.is_empty()).then_some(())
    })
    .await;
    assert_eq!(collector.states[0].status, AgentStatus::Online);
    agent.until("acknowledged by the broker is not committed", |f| f.spool.payloads == 20 && f.in_flight == 0).await;
    collector.commit(1, 20, vec![(7, 8)]).await;
    agent.until("all but the holes is free", |f| f.spool.payloads == 2).await;
    wait_for("the holes come again as history", || {
        collector.listen();
        (collector.seen[&(1, 7)].1 > 1 && collector.seen[&(1, 8)].1 > 1).then_some(())
    })
    .await;
    collector.commit(1, 20, vec![]).await;
    agent.until("nothing owed", |f| f.spool.payloads == 0).await;

    // The broker dies and forgets everything; what was measured meanwhile arrives afterwards.
    drop(broker);
    agent.until("no session", |f| !f.connected).await;
    agent.measure(10).await;
    agent.until("ten owed", |f| f.spool.payloads == 10).await;
    let broker = Broker::start(Some(port)).unwrap();
    wait_for("the ten arrive", || {
        collector.listen();
        (21..=30).all(|seq| collector.seen.contains_key(&(1, seq))).then_some(())
    })
    .await;

    // It dies again with payloads that it had acknowledged: they come again.
    let before: usize = collector.seen[&(1, 25)].1;
    drop(broker);
    agent.until("no session", |f| !f.connected).await;
    let broker = Broker::start(Some(port)).unwrap();
    wait_for("sent again", || {
        collector.listen();
        (collector.seen[&(1, 25)].1 > before).then_some(())
    })
    .await;

    // Stopping on purpose says so; what is not committed is there after a restart.
    agent.stop.send(true).unwrap();
    agent.task.await.unwrap().unwrap();
    wait_for("offline", || {
        collector.listen();
        collector.states.iter().any(|state| state.status == AgentStatus::Offline).then_some(())
    })
    .await;
    let again = Agent::start(port, &dir);
    assert_eq!(again.incarnation, 2);
    // More than the ten: what shares a segment with them is owed again until the next watermark.
    again.until("the ten are still owed", |f| f.spool.payloads >= 10).await;
    again.until("a session", |f| f.connected).await;
    wait_for("online again", || {
        collector.listen();
        collector.states.iter().any(|state| state.i == 2 && state.status == AgentStatus::Online).then_some(())
    })
    .await;

    // Dying says so too.
    again.task.abort();
    wait_for("the will", || {
        collector.listen();
        collector.states.iter().any(|state| state.i == 2 && state.status == AgentStatus::Lost).then_some(())
    })
    .await;
    drop(broker);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_second_agent_is_refused_and_the_first_goes_on() {
    let Some(broker) = Broker::start(None) else { return };
    let (first_dir, second_dir) = (scratch("first"), scratch("second"));
    std::fs::write(second_dir.join("incarnation"), "5").unwrap();
    let first = Agent::start(broker.port, &first_dir);
    first.until("a session", |f| f.connected).await;
    first.measure(1).await;
    first.until("a payload is out", |f| f.handed_over == 1).await;
    let second = Agent::start(broker.port, &second_dir);
    let error = tokio::time::timeout(LIMIT, second.task).await.expect("the second gives up").unwrap().unwrap_err();
    assert!(error.to_string().contains("another agent runs under the id a/gw-a"), "{error}");
    assert!(first.figures.borrow().connected && first.figures.borrow().sessions == 1, "the first noticed nothing");
    for dir in [first_dir, second_dir] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test]
async fn two_that_start_at_once_do_not_both_go_on() {
    let Some(broker) = Broker::start(None) else { return };
    let (first_dir, second_dir) = (scratch("first"), scratch("second"));
    std::fs::write(second_dir.join("incarnation"), "5").unwrap();
    let first = Agent::start(broker.port, &first_dir);
    let second = Agent::start(broker.port, &second_dir);
    let ended = tokio::time::timeout(LIMIT, async {
        tokio::select! { one = first.task => one, two = second.task => two }
    });
    let error = ended.await.expect("one of them gives up").unwrap().unwrap_err();
    assert!(error.to_string().contains("another agent runs under the id a/gw-a"), "{error}");
    for dir in [first_dir, second_dir] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test]
async fn a_lost_start_counter_is_found_out() {
    let Some(broker) = Broker::start(None) else { return };
    let dir = scratch("counter");
    std::fs::write(dir.join("incarnation"), "41").unwrap();
    let agent = Agent::start(broker.port, &dir);
    agent.until("a session", |f| f.connected).await;
    agent.measure(1).await;
    agent.until("a payload is out", |f| f.handed_over == 1).await;
    agent.stop.send(true).unwrap();
    agent.task.await.unwrap().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let error = tokio::time::timeout(LIMIT, Agent::start(broker.port, &dir).task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, PublishError::CounterLost { ours: 1, seen: 42, .. }), "{error}");
    assert_eq!(Agent::start(broker.port, &dir).incarnation, 43);
    std::fs::remove_dir_all(dir).unwrap();
}
