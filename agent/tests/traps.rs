//! Traps and informs that net-snmp's own programs send, through the real listener.
//!
//! Not installed: skipped with a line that says so; with `BCP_STRICT=1` it fails instead.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "support/process.rs"]
mod process;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bcp_agent::config::{Access, DeviceConfig, Link, SnmpLink};
use bcp_agent::outbound::Outbound;
use bcp_agent::profile;
use bcp_agent::source::PollNow;
use bcp_agent::source::snmp::usm::{AuthProtocol as A, PrivProtocol as P, Secret, User};
use bcp_agent::source::traps::authority::Authority;
use bcp_agent::source::traps::config::TrapsConfig;
use bcp_agent::source::traps::desk::Verdict;
use bcp_agent::source::traps::{Listener, Outlets, TrapFigures};
use bcp_wire::envelope::EventKind;
use process::{command, installed, scratch, wait_for};
use tokio::sync::{mpsc, watch};

const PROFILE: &str = include_str!("support/ups-with-traps.toml");
const KEY: &str = "maplesyrup";
/// The engine that `snmptrap` says it is.
const SENDER_ENGINE: &str = "0x8000000001020304";

struct Bench {
    target: String,
    events: mpsc::Receiver<Outbound>,
    figures: Arc<TrapFigures>,
    /// What net-snmp's programs keep between runs; programs that share it at the same time spoil each other's.
    kept: PathBuf,
    _stop: watch::Sender<bool>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.kept);
    }
}

async fn bench(name: &str, access: Access) -> Bench {
    let profile = profile::parse("t/t", "t", PROFILE).unwrap_or_else(|faults| panic!("{faults:?}"));
    let link = SnmpLink { address: "127.0.0.1:161".to_owned(), access, timeout: Duration::from_secs(1), retries: 0 };
    let device = DeviceConfig {
        id: "ups-1".parse().unwrap(),
        kind: "ups".to_owned(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link: Link::Snmp(link),
    };
    let config = TrapsConfig { listen: "127.0.0.1:0".parse().unwrap(), communities: vec![], per_second: 100 };
    let dir = scratch(name);
    let listener = Listener::bind(&config, &[Arc::new(device)], Authority::open(&dir)).await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let (outbound, events) = mpsc::channel(64);
    let (stop, shutdown) = watch::channel(false);
    let figures = listener.figures();
    let outlets = Outlets { outbound, poll_now: PollNow::default(), figures: Arc::clone(&figures) };
    tokio::spawn(listener.run(outlets, shutdown));
    Bench { target, events, figures, kept: dir, _stop: stop }
}

impl Bench {
    fn count(&self, verdict: Verdict) -> u64 {
        self.figures.report().counts.get(&verdict).copied().unwrap_or(0)
    }

    /// Runs a sender; true where it is content, which for an inform means that it was answered.
    async fn send(&self, program: &str, arguments: &[&str], rest: &[&str]) -> bool {
        let mut sender = command(program);
        sender.args(arguments).arg(&self.target).args(rest).env("SNMP_PERSISTENT_DIR", &self.kept);
        tokio::task::spawn_blocking(move || sender.output().unwrap().status.success()).await.unwrap()
    }

    async fn event(&mut self) -> EventKind {
        let event = tokio::time::timeout(Duration::from_secs(10), self.events.recv()).await.unwrap().unwrap();
        let Outbound::Event { device, kind, .. } = event else { panic!("{event:?}") };
        assert_eq!(device.as_str(), "ups-1");
        kind
    }

    async fn on_battery(&mut self) {
        let EventKind::Trap { name, severity, values, .. } = self.event().await else { panic!("no trap") };
        assert_eq!((name.as_deref(), severity.as_deref()), (Some("on-battery"), Some("warning")));
        assert_eq!(values.get("battery.runtime").map(String::as_str), Some("7"));
    }
}

/// What follows the target, of versions 2c and 3.
const V2_TRAP: [&str; 5] = ["", "1.3.6.1.2.1.33.2.1", "1.3.6.1.2.1.33.1.2.3.0", "i", "7"];

#[tokio::test]
async fn traps_and_informs_of_versions_1_and_2c_of_net_snmp() {
    if !installed("snmptrap", "snmp") {
        return;
    }
    let mut bench = bench("traps-2c", Access::community("public")).await;
    let v1 = ["1.3.6.1.2.1.33.2", "127.0.0.1", "6", "1", "", "1.3.6.1.2.1.33.1.2.3.0", "i", "7"];
    assert!(bench.send("snmptrap", &["-v1", "-c", "public"], &v1).await);
    bench.on_battery().await;
    assert!(bench.send("snmptrap", &["-v2c", "-c", "public"], &V2_TRAP).await);
    bench.on_battery().await;
    assert!(bench.send("snmpinform", &["-v2c", "-c", "public", "-r1"], &V2_TRAP).await, "the inform is not answered");
    bench.on_battery().await;
    // coldStart has no name in this profile.
    assert!(bench.send("snmptrap", &["-v2c", "-c", "public"], &["", "1.3.6.1.6.3.1.1.5.1"]).await);
    let EventKind::Trap { name: None, oid, .. } = bench.event().await else { panic!("named") };
    assert_eq!(oid, "1.3.6.1.6.3.1.1.5.1");
    assert_eq!(bench.figures.report().unnamed.get(&oid), Some(&1));
    let answered = bench.send("snmpinform", &["-v2c", "-c", "wrong", "-t1", "-r0"], &V2_TRAP).await;
    assert!(!answered, "a wrong community is not answered");
    assert_eq!((bench.count(Verdict::Named), bench.count(Verdict::Refused)), (3, 1));
}

#[tokio::test]
async fn traps_and_informs_of_version_3_of_net_snmp_with_every_algorithm() {
    if !installed("snmptrap", "snmp") {
        return;
    }
    let ciphers = [
        None,
        Some((P::Des, "DES")),
        Some((P::Aes128, "AES")),
        Some((P::Aes192, "AES-192")),
        Some((P::Aes256, "AES-256")),
    ];
    let auths = [
        (A::Md5, "MD5"),
        (A::Sha1, "SHA"),
        (A::Sha224, "SHA-224"),
        (A::Sha256, "SHA-256"),
        (A::Sha384, "SHA-384"),
        (A::Sha512, "SHA-512"),
    ];
    let mut tried = 0;
    for (auth, auth_word) in auths {
        for cipher in ciphers {
            let secret = || Secret::new(KEY);
            let privacy = cipher.map(|(cipher, _)| (cipher, secret()));
            let user = User::new("op".to_owned(), String::new(), Some((auth, secret())), privacy);
            let mut bench = bench("traps-3", Access::V3(Arc::new(user))).await;
            let mut arguments = vec!["-v3", "-u", "op", "-a", auth_word, "-A", KEY, "-t2", "-r1"];
            match cipher {
                Some((_, word)) => arguments.extend(["-l", "authPriv", "-x", word, "-X", KEY]),
                None => arguments.extend(["-l", "authNoPriv"]),
            }
            let informed = bench.send("snmpinform", &arguments, &V2_TRAP).await;
            println!(
                "inform  {auth_word:<8} {:<8} {}",
                cipher.map_or("-", |c| c.1),
                if informed { "answered" } else { "FAILED" }
            );
            assert!(informed, "{:?}", bench.figures.report());
            bench.on_battery().await;
            arguments.extend(["-e", SENDER_ENGINE]);
            assert!(bench.send("snmptrap", &arguments, &V2_TRAP).await);
            bench.on_battery().await;
            tried += 1;
            assert_eq!(bench.count(Verdict::Named), 2);
        }
    }
    println!("{tried} pairs: inform answered and trap believed");
    // A wrong key is refused, and the sender of an inform is told.
    let secret = || Secret::new("anotherkey");
    let user = User::new("op".to_owned(), String::new(), Some((A::Sha256, secret())), None);
    let bench = bench("traps-3-wrong", Access::V3(Arc::new(user))).await;
    let arguments = ["-v3", "-u", "op", "-a", "SHA-256", "-A", KEY, "-l", "authNoPriv", "-t1", "-r0"];
    assert!(!bench.send("snmpinform", &arguments, &V2_TRAP).await);
    wait_for("the refusal", async || bench.count(Verdict::Refused) > 0).await;
    assert_eq!(bench.count(Verdict::Named), 0);
}
