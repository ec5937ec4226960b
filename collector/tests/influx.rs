//! The way to the long-term database beside a real VictoriaMetrics: whatever happens to the requests, nothing is lost, nothing
//! is there twice, and what is refused for good is kept and named.
#![allow(clippy::unwrap_used)]

mod site;
mod tsdb;

use std::io::Write as _;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, MqttOptions, PublishOptions};
use serde_json::Value;
use site::{Running, SiteDir, read, wait_for};
use tsdb::{Fault, Proxy, Tsdb};

const READY: Duration = Duration::from_secs(30);
const DELIVERED: Duration = Duration::from_secs(90);
/// Payloads of one phase.
const PER_PHASE: u64 = 300;

/// How long the server is away: as the show asks where `BCP_LONG` is set.
fn outage() -> Duration {
    Duration::from_secs(if std::env::var_os("BCP_LONG").is_some() { 600 } else { 6 })
}

fn with_influx(name: &str, url: &str, more: &str) -> SiteDir {
    let site = SiteDir::new(name);
    let mut config = std::fs::OpenOptions::new().append(true).open(site.config()).unwrap();
    write!(config, "[influx]\nurl = \"{url}\"\norg = \"bcp\"\nbucket = \"bcp\"\ntimeout = \"1s\"\n{more}").unwrap();
    site
}

struct Agent {
    client: AsyncClient,
    seq: u64,
    began: u64,
}

impl Agent {
    fn connect(site: &SiteDir) -> Agent {
        let mut options = MqttOptions::new("gw-a", ("127.0.0.1", site.mqtt.port()));
        options.set_keep_alive(5).set_clean_start(true).set_outgoing_inflight_upper_limit(100);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
        tokio::spawn(async move { while events.poll().await.is_ok() {} });
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        Agent { client, seq: 0, began: u64::try_from(now).unwrap() - 3_600_000 }
    }

    /// Payload `n` was sampled at `began + n` and says `n`.
    async fn send(&mut self, status: &str) {
        self.seq += 1;
        let (n, t) = (self.seq, self.began + self.seq);
        let body = format!(
            r#"{{"v":1,"i":1,"s":{n},"t":{t},"vals":{{"battery.charge":{n},"input.voltage":230.5,"ups.status":"{status}"}}}}"#
        );
        let sent = self.client.publish("bcp/v1/a/gw-a/data/ups-a1", body, PublishOptions::at_least_once());
        sent.await.unwrap();
    }

    /// A line of 8 KB.
    async fn send_long(&mut self) {
        self.seq += 1;
        let texts: Vec<String> = (0..30).map(|n| format!("\"outlet.{n}.state\":\"{}\"", "x".repeat(250))).collect();
        let (n, t) = (self.seq, self.began + self.seq);
        let body = format!(r#"{{"v":1,"i":1,"s":{n},"t":{t},"vals":{{{}}}}}"#, texts.join(","));
        let sent = self.client.publish("bcp/v1/a/gw-a/data/ups-a1", body, PublishOptions::at_least_once());
        sent.await.unwrap();
    }

    async fn phase(&mut self) {
        for _ in 0..PER_PHASE {
            self.send("OL").await;
        }
    }
}

fn influx(site: &SiteDir) -> Value {
    site.ingest().map(|mut ingest| ingest["influx"].take()).unwrap_or_default()
}

/// Waits until what was sent is committed and nothing waits any more.
fn delivered(site: &SiteDir, sent: u64) -> Value {
    let done = || {
        let ingest = site.ingest()?;
        let through = ingest["agents"].as_array()?.iter().find(|a| a["agent"] == "gw-a")?["through"].as_u64()?;
        (through >= sent && ingest["influx"]["queue_lines"] == 0).then(|| ingest["influx"].clone())
    };
    wait_for(DELIVERED, done)
        .unwrap_or_else(|| panic!("{sent} sent: {:#}\n{}", site.ingest().unwrap_or_default(), read(&site.log("serve"))))
}

fn failures(site: &SiteDir, kind: &str) -> u64 {
    influx(site)["failures"][kind].as_u64().unwrap_or(0)
}

fn waits(site: &SiteDir, what: &str, holds: impl Fn() -> bool) {
    assert!(
        wait_for(READY, || holds().then_some(())).is_some(),
        "{what}: {:#}\n{}",
        influx(site),
        read(&site.log("serve"))
    );
}

/// Every payload from 1 to `sent` is there once, but for `without`.
fn exactly_once(server: &Tsdb, sent: u64, without: &[u64]) {
    let wanted: Vec<u64> = (1..=sent).filter(|n| !without.contains(n)).collect();
    let held = || -> Vec<u64> {
        let samples = server.samples("bcp_battery.charge").into_values().flatten();
        let mut values: Vec<u64> = samples.map(|(_, v)| v as u64).collect();
        values.sort_unstable();
        values
    };
    let found = wait_for(READY, || Some(held()).filter(|values| values.len() >= wanted.len())).unwrap_or_else(held);
    let lost: Vec<&u64> = wanted.iter().filter(|n| found.binary_search(n).is_err()).take(20).collect();
    let twice: Vec<u64> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).take(20).collect();
    assert!(lost.is_empty() && twice.is_empty(), "lost {lost:?}, twice {twice:?}");
    assert_eq!(found, wanted);
    println!(
        "{} samples at the server of {sent} sent: 0 lost, 0 twice, {} refused and kept",
        found.len(),
        without.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_twice_whatever_the_server_does() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = std::env::temp_dir().join(format!("bcp-influx-{}", std::process::id()));
    let Some(server) = Tsdb::start(&dir) else { return };
    let proxy = Proxy::start(server.address);
    let site = with_influx("influx", &format!("http://{}", proxy.address), "");
    let broker = site.start("broker");
    let mut serve = site.start("serve");
    let up = || site.ingest().filter(|ingest| ingest["brokers"]["a"]["link"] == "up");
    assert!(wait_for(READY, up).is_some(), "{}", read(&site.log("serve")));
    let mut agent = Agent::connect(&site);

    agent.phase().await;
    delivered(&site, agent.seq);
    println!("written");

    proxy.set(Fault::Down);
    agent.phase().await;
    waits(&site, "the connection to fail", || failures(&site, "connection") > 0);
    let away = Instant::now();
    while away.elapsed() < outage() {
        agent.send("OL").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(influx(&site)["queue_lines"].as_u64() >= Some(PER_PHASE), "{}", influx(&site));
    proxy.set(Fault::None);
    delivered(&site, agent.seq);
    println!("server away for {:?}: delivered", outage());

    let before = proxy.log.lock().unwrap().requests.len();
    proxy.set(Fault::Busy { seconds: 3 });
    agent.phase().await;
    waits(&site, "two refusals", || proxy.answered(429) >= 2);
    proxy.set(Fault::None);
    delivered(&site, agent.seq);
    let refused: Vec<Instant> = proxy.log.lock().unwrap().requests[before..]
        .iter()
        .filter(|(_, status)| *status == 429)
        .map(|(at, _)| *at)
        .collect();
    let apart = refused[1] - refused[0];
    assert!(apart >= Duration::from_millis(2_900), "asked again after {apart:?}, the server said 3 s");
    println!("429 with Retry-After 3: next request after {apart:?}");

    proxy.set(Fault::TooLarge { above: 700 });
    agent.phase().await;
    let after = delivered(&site, agent.seq);
    assert!(after["splits"].as_u64() > Some(0) && proxy.answered(413) > 0, "{after}");
    println!("413: {} splits", after["splits"]);

    let text = "poisoned, so that nobody takes it";
    proxy.set(Fault::Poison { text: text.to_owned() });
    agent.phase().await;
    agent.send(text).await;
    let poisoned = agent.seq;
    agent.phase().await;
    let after = delivered(&site, agent.seq);
    assert_eq!(after["quarantined"], 1, "{after}");
    let kept = read(&site.store().join("influx/quarantine.lines"));
    assert_eq!(kept.lines().count(), 2, "{kept}");
    assert!(kept.contains("HTTP 400") && kept.contains(text) && kept.contains("device=ups-a1"), "{kept}");
    assert!(kept.contains(&format!(" {}", agent.began + poisoned)), "{kept}");
    println!("400 on one line: {}", kept.trim_end().replace('\n', " | "));

    proxy.set(Fault::Hang);
    agent.phase().await;
    waits(&site, "a hang to be ended by the time limit", || failures(&site, "timeout") > 0);
    proxy.set(Fault::None);
    delivered(&site, agent.seq);
    println!("hang: ended after its limit, delivered");

    proxy.set(Fault::AnswerLost);
    agent.phase().await;
    waits(&site, "an answer to be lost", || failures(&site, "connection") + failures(&site, "timeout") > 2);
    serve.0.kill().unwrap();
    serve.0.wait().unwrap();
    agent.phase().await;
    proxy.set(Fault::None);
    serve = Running(site.command("serve").stderr(std::fs::File::create(site.log("serve-2")).unwrap()).spawn().unwrap());
    delivered(&site, agent.seq);
    println!("answers lost, serve killed: delivered");
    exactly_once(&server, agent.seq, &[poisoned]);
    drop((serve, broker));
    drop(server);
    let _ = std::fs::remove_dir_all(&dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_is_an_alarm_and_a_full_queue_drops_the_oldest_and_counts_them() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let nobody = site::free_address();
    let site = with_influx("influx-away", &format!("http://{nobody}"), "queue_mib = 16\n");
    let broker = site.start("broker");
    let serve = site.start("serve");
    let up = || site.ingest().filter(|ingest| ingest["brokers"]["a"]["link"] == "up");
    assert!(wait_for(READY, up).is_some(), "{}", read(&site.log("serve")));
    let mut agent = Agent::connect(&site);
    let mut dropped = 0;
    while dropped == 0 {
        assert!(agent.seq < 10_000, "{:#}\n{}", influx(&site), read(&site.log("serve")));
        for _ in 0..100 {
            agent.send_long().await;
        }
        let sent = agent.seq;
        let taken = || site.ingest().filter(|ingest| ingest["agents"][0]["through"].as_u64() >= Some(sent));
        let ingest = wait_for(READY, taken).expect("everything is stored all the same");
        dropped = ingest["influx"]["dropped"].as_u64().unwrap();
    }
    let settled = || {
        let ingest = site.ingest()?;
        (ingest["agents"][0]["through"] == agent.seq).then_some(ingest)
    };
    let ingest = wait_for(READY, settled).expect("everything is stored all the same");
    let influx = &ingest["influx"];
    assert!(influx["queue_bytes"].as_u64() <= Some(24 * 1024 * 1024), "{influx}");
    let all = influx["queue_lines"].as_u64().unwrap() + influx["dropped"].as_u64().unwrap();
    assert_eq!(all, agent.seq, "what waits and what was dropped is everything: {influx}");
    let alarm = || {
        let alarms = site.get("/api/v1/alarms")?;
        alarms["alarms"].as_array()?.iter().find(|a| a["rule"] == "influx-failing" && a["active"] == true).cloned()
    };
    let alarm = wait_for(READY, alarm).expect("an alarm");
    assert!(alarm["explain"].as_str().unwrap().contains("queue is full"), "{alarm}");
    drop((serve, broker));
}
