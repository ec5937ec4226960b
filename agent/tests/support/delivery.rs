//! A broker, a collector and a publisher, for tests of what goes between them.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bcp_agent::clock::wall_ms;
use bcp_agent::outbound::Outbound;
use bcp_agent::publish::{PublishError, PublishFigures, Publisher, PublisherSetup, Settings};
use bcp_agent::spool::SpoolConfig;
use bcp_wire::topic::Leaf;
use bcp_wire::{
    AgentState, Batch, ClockState, DeviceMeta, EventKind, Lane, Site, Topic, Value, Watermark, WatermarkMark,
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions, QoS};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub const LIMIT: Duration = Duration::from_secs(15);

pub struct Broker {
    pub child: Child,
    pub port: u16,
    pub dir: PathBuf,
}

impl Broker {
    pub fn start(port: Option<u16>) -> Option<Broker> {
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

pub fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("bcp-{name}-{}-{:08x}", std::process::id(), rand::random::<u32>()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A data payload or an event as it came.
#[derive(Debug)]
pub struct Arrived {
    pub key: (u64, u64),
    pub lane: Lane,
    pub at: Instant,
    /// The number it carries; of events none.
    pub value: Option<f64>,
    pub payload: Vec<u8>,
}

/// Stands for the collector: hears everything, commits only when told.
pub struct Collector {
    pub client: AsyncClient,
    pub heard: mpsc::Receiver<(Topic, Vec<u8>)>,
    pub task: JoinHandle<()>,
    pub seen: BTreeMap<(u64, u64), (Lane, usize)>,
    /// Every payload in the order of arrival, duplicates too.
    pub arrived: Vec<Arrived>,
    pub gaps: usize,
    pub states: Vec<AgentState>,
    pub metas: Vec<DeviceMeta>,
}

impl Collector {
    pub fn start(port: u16) -> Collector {
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
        Collector {
            client,
            heard,
            task,
            seen: BTreeMap::new(),
            arrived: Vec::new(),
            gaps: 0,
            states: Vec::new(),
            metas: Vec::new(),
        }
    }

    pub fn listen(&mut self) {
        while let Ok((topic, payload)) = self.heard.try_recv() {
            match topic.leaf {
                Leaf::State => self.states.push(AgentState::from_json(&payload).unwrap()),
                Leaf::Meta { .. } => self.metas.push(DeviceMeta::from_json(&payload).unwrap()),
                Leaf::Batch { lane, .. } => {
                    let (key, value) = if lane == Lane::Event {
                        let event = bcp_wire::Event::from_json(&payload).unwrap();
                        self.gaps += usize::from(matches!(event.kind, EventKind::Gap(_)));
                        ((event.i, event.s), None)
                    } else {
                        let batch = Batch::from_json(&payload).unwrap();
                        ((batch.i, batch.s), batch.vals.values().next().and_then(Value::as_num))
                    };
                    self.seen.entry(key).or_insert((lane, 0)).1 += 1;
                    self.arrived.push(Arrived { key, lane, at: Instant::now(), value, payload });
                }
                _ => {}
            }
        }
    }

    /// Commits all that was heard, as a collector would: up to the last number, but for what is missing.
    pub async fn commit_all(&self) {
        let mut marks: BTreeMap<u64, WatermarkMark> = BTreeMap::new();
        for (i, seq) in self.seen.keys().copied() {
            let mark = marks.entry(i).or_insert(WatermarkMark { i, through: 0, holes: Vec::new() });
            if seq > mark.through + 1 {
                mark.holes.push((mark.through + 1, seq - 1));
            }
            mark.through = seq;
        }
        self.say(marks.into_values().collect()).await;
    }

    pub async fn commit(&self, i: u64, through: u64, holes: Vec<(u64, u64)>) {
        self.say(vec![WatermarkMark { i, through, holes }]).await;
    }

    async fn say(&self, marks: Vec<WatermarkMark>) {
        let mark = Watermark { v: 1, collector: Site::A, marks };
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

pub struct Agent {
    pub sources: mpsc::Sender<Outbound>,
    pub figures: watch::Receiver<PublishFigures>,
    pub stop: watch::Sender<bool>,
    pub task: JoinHandle<Result<(), PublishError>>,
    pub incarnation: u64,
}

impl Agent {
    pub fn start(port: u16, dir: &Path) -> Agent {
        Agent::paced(port, dir, 500)
    }

    /// One that sends at most so much backlog a second.
    pub fn paced(port: u16, dir: &Path, backlog_per_s: u32) -> Agent {
        let mqtt = format!(
            "broker = \"127.0.0.1:{port}\"\nresend_after = \"1s\"\nkeep_alive = \"2s\"\nbacklog_per_s = {backlog_per_s}"
        );
        let mqtt = toml::from_str(&mqtt).unwrap();
        let publisher = Publisher::open(
            PublisherSetup {
                site: Site::A,
                agent: "gw-a".parse().unwrap(),
                state_dir: dir.to_owned(),
                resolver: bcp_agent::resolver::Resolver::default(),
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

    pub async fn measure(&self, count: usize) {
        self.measure_from(0, count).await;
    }

    /// Payloads with the values `first` and up.
    pub async fn measure_from(&self, first: usize, count: usize) {
        for n in first..first + count {
            let points = vec![("battery.charge".parse().unwrap(), 0, Ok(Value::Num(n as f64)))];
            let batch = Outbound::Batch { device: "ups-a1".parse().unwrap(), t_ms: wall_ms(), points };
            self.sources.send(batch).await.unwrap();
        }
    }

    pub async fn describe(&self) {
        let meta = r#"{"v":1,"i":1,"device":"ups-a1","kind":"ups","points":[]}"#;
        let meta = DeviceMeta::from_json(meta.as_bytes()).unwrap();
        self.sources.send(Outbound::Meta(Box::new(meta))).await.unwrap();
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&PublishFigures) -> bool) {
        wait_for(what, || condition(&self.figures.borrow()).then_some(())).await;
    }
}
