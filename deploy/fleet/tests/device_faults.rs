//! Every fault of a simulated device, seen through the agent's own drivers: what is bad is told as bad, and the device
//! is well again once the fault is over.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bcp_agent::config::{Access, DeviceConfig, Link, ModbusLink, SnmpLink};
use bcp_agent::profile;
use bcp_agent::source::modbus::config::Framing as Line;
use bcp_agent::source::snmp::usm::{AuthProtocol, PrivProtocol, Secret, User};
use bcp_agent::source::{Group, Polled, device_groups};
use bcp_fleet::devices::engine::Engine;
use bcp_fleet::devices::fault::{Fault, Server, Switch};
use bcp_fleet::devices::modbus::{Framing, Image};
use bcp_fleet::devices::{ber, modbus, snmp};
use bcp_wire::{BadReason, Value};
use tokio::net::{TcpListener, UdpSocket};

const BUDGET: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_millis(250);
/// Longest time until a device is well again, with room for a busy machine.
const WELL_WITHIN: Duration = Duration::from_secs(30);
const POINTS: usize = 4;

fn group(read: &str, link: Link) -> Group {
    let protocol = if matches!(link, Link::Modbus(_)) { "modbus" } else { "snmp" };
    let points: String = (1..=POINTS)
        .map(|n| {
            let read = read.replace('N', &n.to_string());
            format!("[[point]]\nname = \"outlet.{n}.current\"\nread = \"{read}\"\n")
        })
        .collect();
    let text = format!("format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"t\"]\n[{protocol}]\n{points}");
    let profile = profile::parse("t/t", "t", &text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let config = DeviceConfig {
        id: "pdu-1".parse().unwrap(),
        kind: "pdu".to_owned(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link,
    };
    device_groups([Arc::new(config)]).pop().unwrap()
}

async fn modbus_device(framing: Framing) -> (Group, Switch) {
    let (listener, switch) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Switch::default());
    let address = listener.local_addr().unwrap().to_string();
    let image = || Image { holding: (0..20).map(|register| (register, register)).collect(), ..Image::default() };
    tokio::spawn(modbus::serve(listener, framing, image, switch.condition()));
    let line = match framing {
        Framing::Tcp => Line::Tcp,
        Framing::Rtu => Line::RtuOverTcp(None),
    };
    let link = ModbusLink { address, framing: line, unit: 1, timeout: TIMEOUT, shift: 0 };
    (group("holding:N", Link::Modbus(link)), switch)
}

fn user() -> User {
    let secret = || Secret::new("maplesyrup");
    let (auth, privacy) = ((AuthProtocol::Sha256, secret()), (PrivProtocol::Aes128, secret()));
    User::new("op".to_owned(), String::new(), Some(auth), Some(privacy))
}

async fn snmp_device(access: Access) -> (Group, Switch) {
    let (socket, switch) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), Switch::default());
    let address = socket.local_addr().unwrap().to_string();
    let tree = || {
        let row = |n: i32| (ber::parse_oid(&format!("1.3.6.1.4.1.99.{n}.0")).unwrap(), ber::Value::Integer(n));
        (1..=4).map(row).chain([(ber::parse_oid("1.3.6.1.2.1.1.3.0").unwrap(), ber::Value::TimeTicks(1))]).collect()
    };
    tokio::spawn(snmp::serve(socket, "public", Engine::new("pdu-1", user()), tree, switch.condition()));
    let link = SnmpLink { address, access, timeout: TIMEOUT, retries: 0 };
    (group("1.3.6.1.4.1.99.N.0", Link::Snmp(link)), switch)
}

/// How many points are right, and why the others are not; a wrong value is a failure.
fn judged(polled: &Polled) -> (usize, Vec<BadReason>) {
    let mut bad = Vec::new();
    for (name, _, value) in &polled.samples {
        let number: f64 = name.as_str().split('.').nth(1).unwrap().parse().unwrap();
        match value {
            Ok(value) => assert_eq!(value, &Value::Num(number), "{name}"),
            Err(reason) => bad.push(*reason),
        }
    }
    (polled.samples.len() - bad.len(), bad)
}

/// Polls until everything is good.
async fn well_again(group: &mut Group, what: &str) {
    let well = async {
        loop {
            let polled = group.poll(0, BUDGET).await;
            if judged(&polled) == (POINTS, vec![]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(WELL_WITHIN, well).await.is_ok(), "not well within {WELL_WITHIN:?} after {what}");
}

/// Gives a device one fault after the other. `bad`: what points are then; `None` where the agent copes with it.
async fn suffers(group: &mut Group, switch: &Switch, server: Server, faults: &[(&str, Option<BadReason>)]) {
    well_again(group, "the start").await;
    for (text, bad) in faults {
        switch.set(Fault::of(text, server).unwrap_or_else(|| panic!("{text}")));
        let polled = group.poll(0, BUDGET).await;
        match bad {
            Some(reason) => assert_eq!(judged(&polled), (0, vec![*reason; POINTS]), "{text}: {:?}", polled.trouble),
            None => drop(judged(&polled)),
        }
        switch.clear();
        well_again(group, text).await;
    }
}

/// 1, 2, 4: of a Modbus device.
#[tokio::test]
async fn faults_of_a_modbus_device_are_told_and_overcome() {
    for (framing, server) in [(Framing::Tcp, Server::ModbusTcp), (Framing::Rtu, Server::ModbusRtu)] {
        let (mut group, switch) = modbus_device(framing).await;
        let mut faults = vec![
            ("late-400", Some(BadReason::Timeout)),
            ("short", Some(BadReason::Decode)),
            ("long", Some(BadReason::Decode)),
            ("wrong-unit", Some(BadReason::Decode)),
            ("wrong-function", Some(BadReason::Decode)),
            ("exception-1", Some(BadReason::Config)),
            ("exception-4", Some(BadReason::Exception)),
            ("exception-6", Some(BadReason::Exception)),
            ("exception-11", Some(BadReason::Timeout)),
            ("half-open", Some(BadReason::Timeout)),
            ("reboot", Some(BadReason::Timeout)),
        ];
        if server == Server::ModbusRtu {
            faults.push(("crc", Some(BadReason::Decode)));
        }
        suffers(&mut group, &switch, server, &faults).await;
    }
}

/// 2, 11: of an SNMP device, with and without keys.
#[tokio::test]
async fn faults_of_an_snmp_device_are_told_and_overcome() {
    bcp_fleet::install_crypto();
    for access in [Access::community("public"), Access::V3(Arc::new(user()))] {
        let is_v3 = matches!(access, Access::V3(_));
        let (mut group, switch) = snmp_device(access).await;
        suffers(
            &mut group,
            &switch,
            Server::Snmp,
            &[
                ("late-400", Some(BadReason::Timeout)),
                ("short", Some(BadReason::Decode)),
                ("long", None),
                ("half-open", Some(BadReason::Timeout)),
                ("reboot", Some(BadReason::Timeout)),
                ("clock-step", None),
                ("engine-change", None),
            ],
        )
        .await;
        if let (true, Group::Snmp(device)) = (is_v3, &group) {
            assert_eq!(
                device.engine_id().and_then(|id| id.last()),
                Some(&b'1'),
                "the new engine is the one that counts"
            );
        }
    }
}
