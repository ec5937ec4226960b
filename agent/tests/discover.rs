//! `discover` over a loopback network with a device of each kind in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "support/snmp_agent.rs"]
mod snmp_agent;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_agent::discover::spec::SnmpSpec;
use bcp_agent::discover::{Search, search, target, text};
use bcp_agent::profile::{self, Profile};
use bcp_wire::Id;
use snmp_agent::{Asked, Say, agent_at, field_oid, number, oid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn profile(id: &str, text: &str) -> Arc<Profile> {
    let text = format!("format = 1\ntitle = \"Acme meter X-1\"\nkind = \"pdu\"\nsources = [\"this test\"]\n{text}");
    Arc::new(profile::parse(id, id, &text).unwrap_or_else(|faults| panic!("{faults:?}")))
}

fn profiles() -> Vec<Arc<Profile>> {
    let points = |root: &str| {
        (1..=4)
            .map(|n| format!("[[point]]\nname = \"outlet.{n}.current\"\nread = \"{root}.{n}\"\n"))
            .collect::<String>()
    };
    let snmp = |id: &str, object_id: &str, root: &str| {
        profile(id, &format!("[snmp]\n[fingerprint]\nsys_object_id = [\"{object_id}\"]\n{}", points(root)))
    };
    vec![
        snmp("acme/other", "1.3.6.1.4.1.4242", "1.3.6.1.4.1.4242.9"),
        snmp("acme/pdu", "1.3.6.1.4.1.4242.7.1", "1.3.6.1.4.1.4242.1"),
        snmp("apex/pdu", "1.3.6.1.4.1.4243.7.1", "1.3.6.1.4.1.4242.1"),
        profile("acme/x-1", "[modbus]\n[[point]]\nname = \"input.power\"\nread = \"holding:10\"\n"),
    ]
}

fn device(asked: &Asked) -> Vec<(Duration, Say)> {
    let value = |at: &bcp_agent::oid::Oid| match at.to_string().as_str() {
        "1.3.6.1.2.1.1.1.0" => snmp_agent::text("Acme PDU firmware 2.1"),
        "1.3.6.1.2.1.1.2.0" => field_oid(&oid("1.3.6.1.4.1.4242.7.1")),
        "1.3.6.1.2.1.1.5.0" => snmp_agent::text("PDU Row 3"),
        known if known.starts_with("1.3.6.1.4.1.4242.1.") => number(5),
        _ => vec![0x80, 0],
    };
    vec![(Duration::ZERO, Say::Values(asked.oids.iter().map(|oid| (oid.clone(), value(oid))).collect()))]
}

/// Says who it is, and has one register.
async fn meter() -> u16 {
    let listener = TcpListener::bind("127.0.0.4:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut header = [0; 7];
                while stream.read_exact(&mut header).await.is_ok() {
                    let mut pdu = vec![0; usize::from(header[5]) - 1];
                    stream.read_exact(&mut pdu).await.unwrap();
                    let answer = match pdu.as_slice() {
                        [0x2B, ..] => [&[0x2B, 0x0E, 1, 1, 0, 0, 2, 0, 4][..], b"Acme", &[1, 3], b"X-1"].concat(),
                        [3, 0, 10, 0, 1] => vec![3, 2, 0, 77],
                        [function, ..] => vec![function | 0x80, 2],
                        [] => return,
                    };
                    let length = u16::try_from(answer.len() + 1).unwrap().to_be_bytes();
                    let frame = [&header[..4], &length, &header[6..], &answer].concat();
                    stream.write_all(&frame).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_network_is_looked_at_and_every_device_is_proposed_with_its_profile() {
    let agent = agent_at("127.0.0.3:0", device).await;
    let snmp_port: u16 = agent.address.rsplit_once(':').unwrap().1.parse().unwrap();
    let modbus_port = meter().await;
    let wanted = Search {
        addresses: target::addresses("127.0.0.0/28").unwrap(),
        snmp: ["private", "public"]
            .map(|community| format!("community={community},port={snmp_port}").parse::<SnmpSpec>().unwrap())
            .to_vec(),
        modbus: vec![format!("port={modbus_port}").parse().unwrap()],
        timeout: Duration::from_millis(300),
        at_once: 8,
        per_second: 1_000,
    };
    let began = Instant::now();
    let found = search(&wanted, &profiles()).await;
    println!("{:.1?}\n{}", began.elapsed(), text(&found, 16));
    assert_eq!(found.len(), 2, "{found:?}");
    let (pdu, meter) = (&found[0], &found[1]);
    assert_eq!((pdu.profile.as_deref(), pdu.confidence, pdu.read), (Some("acme/pdu"), 100, Some((4, 4))));
    assert!(pdu.says.contains("Acme PDU firmware 2.1"));
    assert_eq!((meter.profile.as_deref(), meter.read), (Some("acme/x-1"), Some((1, 1))));
    assert!(meter.confidence >= 60 && meter.confidence < 100, "{}", meter.confidence);

    // The blocks can be pasted as they are.
    #[derive(serde::Deserialize)]
    struct Pasted {
        device: Vec<Device>,
    }
    #[derive(serde::Deserialize)]
    struct Device {
        id: Id,
        profile: String,
        snmp: Option<toml::Table>,
        modbus: Option<toml::Table>,
    }
    let blocks: String = found.iter().filter_map(|proposal| proposal.config.clone()).collect();
    let pasted: Pasted = toml::from_str(&blocks).unwrap();
    assert_eq!(pasted.device[0].id.as_str(), "pdu-row-3");
    assert_eq!((pasted.device[0].profile.as_str(), pasted.device[1].profile.as_str()), ("acme/pdu", "acme/x-1"));
    let snmp = pasted.device[0].snmp.as_ref().unwrap();
    // The tests' agent answers any community: the first one given is proposed.
    assert_eq!(snmp["address"].as_str(), Some(agent.address.as_str()));
    assert!(pasted.device[1].modbus.as_ref().unwrap().contains_key("unit"));
}

/// A SunSpec map at 50000 with a common model of 66 registers, an inverter and a meter.
fn sunspec_registers() -> std::collections::BTreeMap<u16, u16> {
    let mut registers = std::collections::BTreeMap::new();
    let mut put = |at: u16, words: &[u16]| registers.extend((at..).zip(words.iter().copied()));
    put(50_000, &[0x5375, 0x6E53, 1, 66]);
    put(50_004, &[0; 66]);
    put(50_004, &[u16::from_be_bytes(*b"Ac"), u16::from_be_bytes(*b"me")]);
    put(50_070, &[103, 50]);
    put(50_072, &[0x8000; 50]);
    put(50_084, &[4_321]); // watts, and their power of ten
    put(50_085, &[1]);
    put(50_122, &[203, 105]);
    put(50_124, &[0x8000; 105]);
    put(50_122 + 18, &[65_036]); // -500, ten times
    put(50_122 + 22, &[1]);
    put(50_229, &[0xFFFF, 0]);
    registers
}

async fn sunspec_device() -> u16 {
    let listener = TcpListener::bind("127.0.0.5:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let registers = sunspec_registers();
                let mut request = [0; 12];
                while stream.read_exact(&mut request[..7]).await.is_ok() {
                    let mut pdu = vec![0; usize::from(request[5]) - 1];
                    stream.read_exact(&mut pdu).await.unwrap();
                    let answer = match pdu.as_slice() {
                        [3, a1, a0, 0, count] => {
                            let from = u16::from_be_bytes([*a1, *a0]);
                            let words: Option<Vec<u16>> = (from..=from.saturating_add(u16::from(*count) - 1))
                                .map(|at| registers.get(&at).copied())
                                .collect();
                            match words {
                                Some(words) => [3, 2 * count]
                                    .into_iter()
                                    .chain(words.into_iter().flat_map(u16::to_be_bytes))
                                    .collect(),
                                None => vec![0x83, 2],
                            }
                        }
                        other => vec![other[0] | 0x80, 1],
                    };
                    let length = u16::try_from(answer.len() + 1).unwrap().to_be_bytes();
                    stream.write_all(&[&request[..4], &length, &request[6..7], &answer].concat()).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn models_of_sunspec_are_found_wherever_they_stand() {
    let port = sunspec_device().await;
    let wanted = Search {
        addresses: target::addresses("127.0.0.5").unwrap(),
        snmp: vec![],
        modbus: vec![format!("port={port}").parse().unwrap()],
        timeout: Duration::from_secs(5),
        at_once: 1,
        per_second: 1_000,
    };
    let profiles: Vec<Arc<Profile>> = ["sunspec/inverter", "sunspec/meter", "solaredge/inverter", "eastron/sdm630"]
        .iter()
        .map(|id| profile::load(id, None).unwrap())
        .collect();
    let found = search(&wanted, &profiles).await;
    println!("{}", text(&found, 1));
    let told: Vec<Option<&str>> = found.iter().map(|proposal| proposal.profile.as_deref()).collect();
    assert_eq!(told, [Some("sunspec/inverter"), Some("sunspec/meter")]);
    assert!(found[0].says.contains("SunSpec at 50000 with models 1 103 203; model 103 at 50070"), "{}", found[0].says);
    // The proposed blocks are a configuration, and what it reads stands where the device has it.
    let blocks: String = found.iter().filter_map(|proposal| proposal.config.clone()).collect();
    assert!(blocks.contains("shift = 10001") && blocks.contains("shift = 10053"), "{blocks}");
    let head = "site = \"a\"\nagent = \"gw-a\"\nstate_dir = \"/tmp/x\"\n[mqtt]\nbroker = \"127.0.0.1:1\"\n";
    let config = bcp_agent::config::parse("f", &format!("{head}{blocks}")).unwrap_or_else(|faults| panic!("{faults}"));
    let devices = config.devices.iter().cloned().map(Arc::new);
    let rows = bcp_agent::reading_table::read_all(bcp_agent::source::device_groups(devices)).await;
    let row = |point: &str| {
        let row = rows.iter().flat_map(|device| &device.rows).find(|row| row.point == point).unwrap();
        (row.value.as_ref().and_then(bcp_wire::Value::as_num), row.source.clone())
    };
    assert_eq!(row("inverter.realpower"), (Some(43_210.0), "holding:50084".to_owned()));
    assert_eq!(row("meter.realpower"), (Some(-5_000.0), "holding:50140".to_owned()));
    let beyond = blocks.replace("shift = 10001", "shift = 60000");
    let faults = bcp_agent::config::parse("f", &format!("{head}{beyond}")).unwrap_err().to_string();
    assert!(faults.contains("device[0].modbus.shift"), "{faults}");
}
