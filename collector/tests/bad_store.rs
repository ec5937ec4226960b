//! A store or a port that cannot be used gets one clear line; a disk that fills up under serve costs only the history.
#![allow(clippy::unwrap_used)]

mod site;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rumqttc::{AsyncClient, EventLoop, MqttOptions, PublishOptions};
use serde_json::Value;
use site::{Running, SiteDir, read, wait_for};

const READY: Duration = Duration::from_secs(30);

fn crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Exit 1 and one line with every word.
fn refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "one line: {said}");
    for word in words {
        assert!(lines[0].contains(word), "`{word}` is missing in: {}", lines[0]);
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// A store with a few readings in it.
fn used_store(site: &SiteDir) -> bcp_collector::store::Store {
    use bcp_collector::store::{Group, Sample, Store};
    let store = Store::open(&site.store(), Duration::from_secs(86_400)).unwrap();
    let series = store.series(&"ups-a1".parse().unwrap(), &"battery.charge".parse().unwrap(), false).unwrap();
    let mut group = Group::default();
    group.samples.extend((0..100).map(|k| (series, Sample { t: 1_790_000_000_000 + k, v: 98.5 })));
    store.commit(&group).unwrap();
    store
}

#[test]
fn garbage_in_place_of_the_database_is_named_and_left_alone() {
    crypto();
    let site = SiteDir::new("garbage");
    std::fs::create_dir_all(site.store()).unwrap();
    std::fs::write(
        site.store().join("history.db"),
        b"this is a letter to my aunt, and long enough for a page header".repeat(99),
    )
    .unwrap();
    let before = files(&site.store());
    refused(&site.output("serve"), &["history.db", "not a database", "move it aside"]);
    let after: Vec<_> = files(&site.store()).into_iter().filter(|(path, _)| !path.ends_with("lock")).collect();
    assert_eq!(before, after);
}

#[test]
fn another_programs_database_and_a_newer_form_are_left_alone() {
    crypto();
    let site = SiteDir::new("form");
    std::fs::create_dir_all(site.store()).unwrap();
    let path = site.store().join("history.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE aunt(letter TEXT)").unwrap();
    refused(&site.output("serve"), &["history.db", "form 0", "move the file aside"]);
    std::fs::remove_file(&path).unwrap();
    drop(used_store(&site));
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("UPDATE setting SET value = 9 WHERE key = 'form'", []).unwrap();
    drop(db);
    refused(&site.output("serve"), &["history.db", "form 9", "version of this program that wrote it"]);
}

#[test]
fn a_store_without_the_right_to_write_is_named() {
    crypto();
    if rustix::process::getuid().is_root() {
        // Root may write everywhere; a file in place of the directory is refused to root too.
        let site = SiteDir::new("rights");
        std::fs::create_dir_all(site.dir.join("data")).unwrap();
        std::fs::write(site.store(), b"").unwrap();
        refused(&site.output("serve"), &["data/serve", "data_dir is a directory"]);
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let site = SiteDir::new("rights");
    drop(used_store(&site));
    std::fs::set_permissions(site.store(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let output = site.output("serve");
    std::fs::set_permissions(site.store(), std::fs::Permissions::from_mode(0o700)).unwrap();
    refused(&output, &["data/serve", "right to read and write"]);
}

#[test]
fn a_second_serve_and_ports_in_use_are_named() {
    crypto();
    let site = SiteDir::new("ports");
    let taken = std::net::TcpListener::bind(site.console).unwrap();
    refused(&site.output("serve"), &["console cannot listen", &site.console.to_string(), "listen.console"]);
    drop(taken);
    let taken = std::net::TcpListener::bind(site.mqtt).unwrap();
    refused(&site.output("broker"), &["broker cannot listen", &site.mqtt.to_string(), "mqtt.embedded"]);
    drop(taken);
    let store = used_store(&site);
    refused(&site.output("serve"), &["another process", "data/serve", "stop the other one"]);
    drop(store);
}

#[test]
fn a_damaged_journal_loses_only_the_damaged_group_and_a_copy_is_kept() {
    use bcp_collector::store::{Group, Sample, Store};
    let site = SiteDir::new("journal");
    let (device, point) = ("ups-a1".parse().unwrap(), "battery.charge".parse().unwrap());
    let store = used_store(&site);
    let series = store.series(&device, &point, false).unwrap();
    let journal = site.store().join("journal-00000000.log");
    let first = std::fs::metadata(&journal).unwrap().len() as usize;
    for round in 1..3i64 {
        let mut group = Group::default();
        group.samples.push((series, Sample { t: 1_790_000_000_000 + round * 1_000, v: 1.0 }));
        store.commit(&group).unwrap();
    }
    drop(store);
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[first + 12] ^= 0xFF;
    std::fs::write(&journal, &bytes).unwrap();
    let store = Store::open(&site.store(), Duration::from_secs(86_400)).unwrap();
    assert_eq!(store.stats().damaged, 1);
    let history = store.history(&device, &point, 0, i64::MAX).unwrap().unwrap();
    assert_eq!(history.len(), 101, "100 of the first group, none of the damaged one, the last");
    assert_eq!(std::fs::read(journal.with_extension("damaged")).unwrap(), bytes);
}

/// A site whose store is on a file system of a few MB that only its serve sees.
struct SmallDisk {
    site: SiteDir,
    serve: Running,
    _broker: Running,
}

impl SmallDisk {
    /// None where this system does not let a process have a mount of its own.
    fn start(name: &str) -> Option<SmallDisk> {
        let allowed = Command::new("unshare").args(["-Urm", "true"]).stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("BCP_STRICT").is_none_or(|v| v != "1"), "no mount namespaces here");
            println!("skipped: this system does not let a process have a mount namespace");
            return None;
        }
        let site = SiteDir::new(name);
        std::fs::create_dir_all(site.store()).unwrap();
        let broker = site.start("broker");
        let log = std::fs::File::create(site.log("serve")).unwrap();
        let script = r#"mount -t tmpfs -o size=6m none "$1" && exec "$2" serve --config "$3""#;
        let serve = Command::new("unshare")
            .args(["-Urm", "sh", "-c", script, "sh"])
            .arg(site.store())
            .arg(env!("CARGO_BIN_EXE_bcp-collector"))
            .arg(site.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(SmallDisk { site, serve: Running(serve), _broker: broker })
    }

    /// The store as serve sees it.
    fn inside(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.serve.pid(), self.site.store().join(file).display()))
    }

    fn fill(&self) {
        let mut filler = std::fs::File::create(self.inside("filler")).unwrap();
        let block = vec![0u8; 4_096];
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
    }
}

struct Agent {
    client: AsyncClient,
    seq: u64,
    /// Sample times by number, no two alike: one that is sent again is the same sample.
    times: Vec<u64>,
}

impl Agent {
    fn connect(site: &SiteDir) -> (Agent, EventLoop) {
        let mut options = MqttOptions::new("gw-a", ("127.0.0.1", site.mqtt.port()));
        options.set_keep_alive(5).set_outgoing_inflight_upper_limit(100);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, events) = AsyncClient::builder(options).capacity(100).build();
        (Agent { client, seq: 0, times: Vec::new() }, events)
    }

    fn body(&self, seq: u64) -> String {
        let time = self.times[usize::try_from(seq).unwrap() - 1];
        let mut body = format!(r#"{{"v":1,"i":1,"s":{seq},"t":{time},"vals":{{"battery.charge":{seq}"#);
        for n in 0..20 {
            let _ = write!(body, r#","outlet.{}.current":{}"#, n + 1, n);
        }
        body + "}}"
    }

    async fn send(&mut self) {
        self.seq += 1;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let after_last = self.times.last().map_or(0, |last| last + 1);
        self.times.push(after_last.max(u64::try_from(now).unwrap()));
        self.resend(self.seq).await;
    }

    async fn resend(&self, seq: u64) {
        let sent = self.client.publish("bcp/v1/a/gw-a/data/ups-a1", self.body(seq), PublishOptions::at_least_once());
        sent.await.unwrap();
    }
}

/// Sends one reading after the other until serve says what is waited for.
async fn until(agent: &mut Agent, site: &SiteDir, what: &str, mut said: impl FnMut(&Value) -> bool) -> Value {
    let began = std::time::Instant::now();
    loop {
        agent.send().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let ingest = site.ingest().unwrap_or_default();
        if said(&ingest) {
            return ingest;
        }
        assert!(began.elapsed() < READY, "{what}: {ingest}\n{}", read(&site.log("serve")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_watermark_and_nothing_else_and_heals_by_itself() {
    crypto();
    let Some(disk) = SmallDisk::start("full") else { return };
    let site = &disk.site;
    let ready = || site.ingest().filter(|ingest| ingest["brokers"]["a"]["link"] == "up");
    assert!(wait_for(READY, ready).is_some(), "{}", read(&site.log("serve")));
    let (mut agent, mut events) = Agent::connect(site);
    let driver = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let through = |ingest: &Value| ingest["agents"][0]["through"].as_u64().unwrap_or(0);
    until(&mut agent, site, "a watermark", |ingest| through(ingest) >= 10).await;

    disk.fill();
    until(&mut agent, site, "the store to be in trouble", |ingest| ingest["store_trouble"].is_string()).await;
    // What is shown of the watermark follows within a second: until it covers what the store holds, 21 samples a payload.
    let settled = |ingest: &Value| through(ingest) * 21 == ingest["store"]["head_samples"].as_u64().unwrap_or(0);
    let stopped = through(&until(&mut agent, site, "the watermark to stand", settled).await);
    // Far more than a broker has under way unacknowledged: judging goes on all the same.
    let first_shed = agent.seq;
    for _ in 0..400 {
        agent.send().await;
    }
    let last = agent.seq;
    let shown = || {
        let points = site.get("/api/v1/points?device=ups-a1")?;
        let list = points["points"].as_array()?.clone();
        list.into_iter().find(|p| p["point"] == "battery.charge" && p["value"].as_f64() >= Some(last as f64))
    };
    let point = wait_for(READY, shown).expect("the newest reading is shown");
    assert_eq!(point["quality"], "good", "{point}");
    let ingest = site.ingest().unwrap();
    assert_eq!(through(&ingest), stopped, "the watermark stands: {ingest}");
    assert!(ingest["shed"].as_u64() > Some(0), "{ingest}");
    let failing = wait_for(READY, || {
        let alarms = site.get("/api/v1/alarms")?;
        alarms["alarms"].as_array()?.iter().find(|a| a["rule"] == "store-failing" && a["active"] == true).cloned()
    })
    .expect("an alarm");
    assert!(failing["explain"].as_str().unwrap().contains("No space left"), "{failing}");

    std::fs::remove_file(disk.inside("filler")).unwrap();
    until(&mut agent, site, "storing again", |ingest| ingest["store_trouble"].is_null()).await;
    assert!(read(&site.log("serve")).contains("takes data again"));
    // What an agent does with payloads no watermark covers.
    let last = agent.seq;
    for seq in stopped + 1..=last {
        agent.resend(seq).await;
    }
    until(&mut agent, site, "what was let go to be taken in", |ingest| {
        through(ingest) > last && ingest["agents"][0]["missing"] == 0
    })
    .await;
    let history = site.get("/api/v1/history?device=ups-a1&point=battery.charge").unwrap();
    let values: Vec<_> = history["samples"].as_array().unwrap().iter().map(|sample| &sample["value"]).collect();
    assert!(values.iter().any(|value| value.as_f64() == Some(first_shed as f64)), "{first_shed} is not in {values:?}");
    let cleared = || {
        let alarms = site.get("/api/v1/alarms")?;
        (!alarms["alarms"].as_array()?.iter().any(|a| a["rule"] == "store-failing" && a["active"] == true))
            .then_some(())
    };
    assert!(wait_for(READY, cleared).is_some(), "the alarm ends");
    driver.abort();
}
