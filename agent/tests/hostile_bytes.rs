//! Every parser of bytes from outside, fed with random bytes and with valid ones that were changed: nothing panics,
//! and nothing takes long. Short by default; `BCP_LONG=1` tries fifty times as much.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bcp_agent::config::{self, DeviceConfig, Link, ModbusLink};
use bcp_agent::oid::Oid;
use bcp_agent::profile;
use bcp_agent::source::modbus::Bus;
use bcp_agent::source::snmp::frame::{self, Letter, Stamp};
use bcp_agent::source::snmp::message::{self, Body};
use bcp_agent::source::snmp::usm::{AuthProtocol, PrivProtocol, Secret, User};
use bcp_agent::source::traps::notification::Notification;
use bcp_agent::spool::{Spool, SpoolConfig};
use bcp_wire::{Command, CommandReply, Watermark};
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn cases(short: u32) -> ProptestConfig {
    let long = std::env::var("BCP_LONG").as_deref() == Ok("1");
    ProptestConfig { cases: if long { short * 50 } else { short }, ..ProptestConfig::default() }
}

/// How valid bytes become others.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    Cut(Index),
    /// A part once more, somewhere else.
    Copy(Index, Index, Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => at().prop_map(Change::Remove),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at(), at()).prop_map(|(from, to, at)| Change::Copy(from, to, at)),
    ];
    proptest::collection::vec(change, 1..5)
}

fn changed(valid: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        match change {
            Change::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Remove(at) => {
                bytes.remove(at.index(bytes.len()));
            }
            Change::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Change::Copy(from, to, at) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                let at = at.index(bytes.len());
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn random() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..400)
}

fn read_snmp(bytes: &[u8], user: &User) {
    let _ = message::version(bytes);
    if let Ok(read) = message::read_community(bytes) {
        match &read.body {
            Body::Pdu(pdu) => {
                let _ = (pdu.varbinds.clone().count(), pdu.varbinds.to_bytes(), Notification::of_pdu(pdu));
            }
            Body::TrapV1(trap) => {
                let _ = Notification::of_v1(trap);
            }
        }
    }
    if let Ok(frame) = frame::open(bytes) {
        let keys = user.keys(frame.engine);
        let _ = frame.is_signed_with(&keys);
        if let Ok(plain) = frame.plain(&keys) {
            let _ = frame::read_scoped(&plain);
        }
    }
    let _ = frame::read_scoped(bytes);
    let _ = Oid::from_ber(bytes);
}

/// Messages of every version, as answers and as traps.
fn valid_snmp(user: &User) -> Vec<Vec<u8>> {
    let oid = message::field(6, &[&[0x2B, 6, 1, 2, 1, 1, 3, 0]]);
    let values = [
        message::integer(5),
        message::field(4, &[b"text"]),
        message::field(0x41, &[&[0xFF; 4]]),
        message::field(0x46, &[&[0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]]),
        message::field(0x44, &[&[0x9F, 0x78, 4, 0x3F, 0x80, 0, 0]]),
        message::field(0x40, &[&[10, 0, 0, 1]]),
        vec![0x80, 0],
        oid.clone(),
    ];
    let list: Vec<u8> = values.iter().flat_map(|value| message::field(0x30, &[&oid, value])).collect();
    let answer = message::response(0x0102_0304, &list);
    let mut trap = answer.clone();
    trap[0] = 0xA7;
    let v1 = message::field(
        0xA4,
        &[
            &oid,
            &message::field(0x40, &[&[10, 0, 0, 1]]),
            &message::integer(6),
            &message::integer(1),
            &message::field(0x43, &[&[1]]),
            &message::field(0x30, &[&list]),
        ],
    );
    let community = |version, pdu: &[u8]| {
        message::field(0x30, &[&message::integer(version), &message::field(4, &[b"public"]), pdu])
    };
    let engine = [0x80, 0, 0, 0, 1, 2, 3];
    let letter = Letter {
        message_id: 0x0102_0304,
        stamp: Stamp { engine: &engine, boots: 1, time: 2 },
        user: user.name.as_bytes(),
        context_engine: &engine,
        context: b"",
        pdu: &answer,
        reportable: false,
        max_size: 65_507,
    };
    let sealed = frame::seal(&letter, &user.keys(&engine), 1).unwrap();
    vec![community(1, &answer), community(1, &trap), community(0, &v1), sealed]
}

/// Its passwords are stretched once: a mebibyte of hashing each.
static OPERATOR: LazyLock<User> = LazyLock::new(|| {
    let secret = || Secret::new("maplesyrup");
    let (auth, privacy) = ((AuthProtocol::Sha1, secret()), (PrivProtocol::Aes128, secret()));
    User::new("op".to_owned(), String::new(), Some(auth), Some(privacy))
});

/// One poll of a Modbus device whose answers are `answer`.
async fn poll_modbus(answer: Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 300];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    // With the right transaction number, so that the rest is looked at.
                    let mut answer = answer.clone();
                    for (to, from) in answer.iter_mut().zip(&buffer[..2]) {
                        *to = *from;
                    }
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let text = "format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"t\"]\n[modbus]\n\
        [[point]]\nname = \"outlet.1.current\"\nread = \"holding:0\"\n\
        [[point]]\nname = \"outlet.2.current\"\nread = \"holding:1\"\ntype = \"u32\"\n";
    let link = ModbusLink::tcp(address.clone(), 1, Duration::from_millis(20));
    let config = DeviceConfig {
        id: "fuzz".parse().unwrap(),
        kind: "pdu".to_owned(),
        profile: Arc::new(profile::parse("t/t", "t", text).unwrap()),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link: Link::Modbus(link.clone()),
    };
    let mut bus = Bus::new(address, vec![(Arc::new(config), link)]);
    let polled = bus.poll(0, Duration::from_millis(200)).await;
    assert!(polled.samples.len() <= 2);
    server.abort();
}

const AGENT: &str = r#"
site = "a"
agent = "gw-a"
state_dir = "/tmp/x"
[mqtt]
broker = "127.0.0.1:18003"
[traps]
listen = "127.0.0.1:9162"
communities = ["public"]
[[device]]
id = "ups-a1"
profile = "ietf/ups-mib"
interval = "1s"
snmp = { address = "127.0.0.1:18030", version = "2c", community = "public", timeout = "1s", retries = 1 }
[[check]]
id = "rx"
service = "prescriptions"
http = { url = "http://127.0.0.1:18011/health" }
"#;

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn snmp_answers_and_traps(bytes in random(), changes in changes()) {
        read_snmp(&bytes, &OPERATOR);
        for valid in valid_snmp(&OPERATOR) {
            read_snmp(&changed(&valid, &changes), &OPERATOR);
        }
    }

    #[test]
    fn command_payloads_and_watermarks(bytes in random(), changes in changes()) {
        let commands: [&[u8]; 3] = [
            br#"{"v":1,"id":"c1","cmd":"poll-now","device":"ups-a1"}"#,
            br#"{"v":1,"id":"c1","cmd":"log-level","level":"debug"}"#,
            br#"{"v":1,"collector":"a","marks":[{"i":1,"through":5,"holes":[[2,3]]}]}"#,
        ];
        for payload in commands.iter().map(|valid| changed(valid, &changes)).chain([bytes]) {
            let _ = Command::from_json(&payload);
            let _ = CommandReply::from_json(&payload);
            if let Ok(mark) = Watermark::from_json(&payload) {
                let _ = mark.covers(1, 3);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn profile_texts(text in ".{0,200}", changes in changes(), which: Index) {
        let _ = profile::parse("t/t", "t", &text);
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware-configs");
        let ids: Vec<&str> = profile::embedded_ids().collect();
        let valid = std::fs::read(dir.join(format!("{}.toml", which.get(&ids)))).unwrap();
        let text = String::from_utf8_lossy(&changed(&valid, &changes)).into_owned();
        let _ = profile::parse("t/t", "t", &text);
    }

    #[test]
    fn configuration_texts(text in ".{0,200}", changes in changes()) {
        let _ = config::parse("agent.toml", &text);
        let text = String::from_utf8_lossy(&changed(AGENT.as_bytes(), &changes)).into_owned();
        if let Err(faults) = config::parse("agent.toml", &text) {
            prop_assert!(!faults.0.is_empty());
            let _ = faults.to_string();
        }
    }

    #[test]
    fn spool_segments(bytes in random(), name in "[0-9a-f]{1,20}", ending in "(seg|bad|tmp)") {
        let dir = std::env::temp_dir().join(format!("bcp-hostile-spool-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.{ending}")), &bytes).unwrap();
        let _ = Spool::open(&dir, SpoolConfig::default(), 1_790_000_000_000);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn modbus_answers(bytes in random(), changes in changes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            poll_modbus(bytes).await;
            poll_modbus(changed(&[0, 0, 0, 0, 0, 9, 1, 3, 6, 0, 1, 0, 2, 0, 3], &changes)).await;
        });
    }
}
