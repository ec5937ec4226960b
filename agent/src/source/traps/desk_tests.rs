use std::sync::{LazyLock, Mutex};

use proptest::prelude::*;

use super::*;
use crate::config::SnmpLink;
use crate::oid::Oid;
use crate::profile;
use crate::source::snmp::usm::{AuthProtocol, PrivProtocol, Secret};

const PROFILE: &str = include_str!("../../../tests/support/ups-with-traps.toml");

fn sender(id: &str, address: &str, access: Access, text: &str) -> Arc<DeviceConfig> {
    let profile = profile::parse("t/t", "t", text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let link = SnmpLink { address: format!("{address}:161"), access, timeout: Duration::from_secs(1), retries: 0 };
    Arc::new(DeviceConfig {
        id: id.parse().unwrap(),
        kind: "ups".to_owned(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link: Link::Snmp(link),
    })
}

/// Users by key: stretching passwords costs a mebibyte of hashing each.
static USERS: LazyLock<Mutex<BTreeMap<String, Arc<User>>>> = LazyLock::new(Mutex::default);

fn user(key: &str) -> Arc<User> {
    let secret = || Secret::new(key);
    let (auth, privacy) = ((AuthProtocol::Sha256, secret()), (PrivProtocol::Aes128, secret()));
    let make = || Arc::new(User::new("op".to_owned(), String::new(), Some(auth), Some(privacy)));
    Arc::clone(USERS.lock().unwrap().entry(key.to_owned()).or_insert_with(make))
}

fn desk() -> Desk {
    let dir = std::env::temp_dir().join("bcp-desk-no-such-directory");
    let config = TrapsConfig { listen: "127.0.0.1:0".parse().unwrap(), communities: vec![], per_second: 1_000 };
    let plain = PROFILE.split("[[trap]]").next().unwrap();
    let devices = [
        sender("ups-1", "10.0.0.1", Access::community("public"), PROFILE),
        sender("ups-2", "10.0.0.2", Access::V3(user("maplesyrup")), PROFILE),
        sender("twin-1", "10.0.0.3", Access::community("public"), PROFILE),
        sender("twin-2", "10.0.0.3", Access::community("public"), PROFILE),
        sender("mixed-1", "10.0.0.4", Access::community("public"), PROFILE),
        sender("mixed-2", "10.0.0.4", Access::community("public"), plain),
    ];
    Desk::new(&config, &devices, Authority::open(&dir))
}

fn oid(text: &str) -> Vec<u8> {
    field(6, &[&text.parse::<Oid>().unwrap().to_ber()])
}

fn pdu(kind: u8, trap: &str) -> Vec<u8> {
    let pair = |name: &str, value: &[u8]| field(0x30, &[&oid(name), value]);
    let list = [
        pair("1.3.6.1.2.1.1.3.0", &field(snmp::TYPE_TIMETICKS, &[&[1]])),
        pair("1.3.6.1.6.3.1.1.4.1.0", &oid(trap)),
        pair("1.3.6.1.2.1.33.1.2.3.0", &integer(7)),
        pair("1.3.6.1.4.1.1.1", &field(4, &[b"text"])),
    ];
    field(kind, &[&integer(77), &integer(0), &integer(0), &field(0x30, &[&list.concat()])])
}

fn v2c(kind: u8, community: &str, trap: &str) -> Vec<u8> {
    field(0x30, &[&integer(1), &field(4, &[community.as_bytes()]), &pdu(kind, trap)])
}

const ON_BATTERY: &str = "1.3.6.1.2.1.33.2.1";

fn from(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 5_000))
}

fn receive(desk: &mut Desk, bytes: &[u8], host: u8) -> Handled {
    desk.receive(bytes, from(host), Instant::now())
}

#[test]
fn traps_are_matched_and_named() {
    let mut desk = desk();
    let handled = receive(&mut desk, &v2c(snmp::MSG_TRAP, "public", ON_BATTERY), 1);
    assert_eq!((handled.verdict, handled.reply.is_some()), (Verdict::Named, false));
    let (device, EventKind::Trap { name, severity, values, oid: told }) = handled.event.unwrap() else { panic!() };
    assert_eq!((device.as_str(), told.as_str()), ("ups-1", ON_BATTERY));
    assert_eq!((name.as_deref(), severity.as_deref()), (Some("on-battery"), Some("warning")));
    let want = [("1.3.6.1.4.1.1.1", "text"), ("battery.runtime", "7")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(values, BTreeMap::from(want));
    assert_eq!(handled.poll, ["ups-1".parse::<Id>().unwrap()], "and it is polled at once");

    // Version 1: enterprise, 0, specific number.
    let varbinds = field(0x30, &[]);
    let v1 = |generic, specific, agent: [u8; 4]| {
        let trap = field(
            snmp::MSG_TRAP_V1,
            &[
                &oid("1.3.6.1.2.1.33.2"),
                &field(snmp::TYPE_IPADDRESS, &[&agent]),
                &integer(generic),
                &integer(specific),
                &field(snmp::TYPE_TIMETICKS, &[&[1]]),
                &varbinds,
            ],
        );
        field(0x30, &[&integer(0), &field(4, &[b"public"]), &trap])
    };
    let handled = receive(&mut desk, &v1(6, 1, [10, 0, 0, 1]), 1);
    assert_eq!(handled.verdict, Verdict::Named);
    let handled = receive(&mut desk, &v1(0, 0, [10, 0, 0, 1]), 9);
    assert_eq!((handled.verdict, handled.oid.as_deref()), (Verdict::Unnamed, Some("1.3.6.1.6.3.1.1.5.1")));
    assert_eq!(handled.event.unwrap().0.as_str(), "ups-1", "passed on by somebody else");
}

#[test]
fn what_cannot_be_attributed_or_believed_is_told_apart() {
    let mut desk = desk();
    let trap = |community| v2c(snmp::MSG_TRAP, community, ON_BATTERY);
    for (bytes, host, want) in [
        (trap("public"), 9, Verdict::UnknownSender),
        (trap("private"), 1, Verdict::Refused),
        (trap("public"), 2, Verdict::Refused),
        (trap("public"), 3, Verdict::Ambiguous),
        (trap("public"), 4, Verdict::Named),
        (v2c(snmp::MSG_TRAP, "public", "1.3.6.1.4.1.5"), 1, Verdict::Unnamed),
        (v2c(snmp::MSG_GET, "public", ON_BATTERY), 1, Verdict::Malformed),
        (b"hello".to_vec(), 1, Verdict::Malformed),
        (vec![], 1, Verdict::Malformed),
    ] {
        let handled = receive(&mut desk, &bytes, host);
        assert_eq!(handled.verdict, want, "{host}");
        assert_eq!(handled.event.is_some(), matches!(want, Verdict::Named | Verdict::Unnamed));
    }
    let start = Instant::now();
    let many = (0..6_000).filter(|_| desk.receive(&trap("public"), from(1), start).verdict == Verdict::TooMany).count();
    assert!(many >= 900, "{many}");
    assert_eq!(receive(&mut desk, &trap("public"), 4).verdict, Verdict::Named, "others are heard");
}

#[test]
fn an_inform_is_answered_with_its_variables() {
    let mut desk = desk();
    let inform = v2c(snmp::MSG_INFORM, "public", ON_BATTERY);
    let handled = receive(&mut desk, &inform, 1);
    assert_eq!(handled.verdict, Verdict::Named);
    let reply = handled.reply.unwrap();
    // The answer was lost: it is answered again, and told only once.
    let again = receive(&mut desk, &inform, 1);
    assert_eq!((again.verdict, again.reply.as_ref(), again.event.is_none()), (Verdict::Repeated, Some(&reply), true));
    let Body::Pdu(answer) = message::read_community(&reply).unwrap().body else { panic!("a trap") };
    assert_eq!((answer.kind, answer.id, answer.status, answer.varbinds.count()), (snmp::MSG_RESPONSE, 77, 0, 4));
}

fn sealed(stamp: Stamp<'_>, key: &str, kind: u8, reportable: bool) -> Vec<u8> {
    let letter = Letter {
        message_id: 5,
        stamp,
        user: b"op",
        context_engine: stamp.engine,
        context: b"",
        pdu: &pdu(kind, ON_BATTERY),
        reportable,
        max_size: 65_507,
    };
    frame::seal(&letter, &user(key).keys(stamp.engine), 9).unwrap()
}

#[test]
fn a_trap_of_version_3_is_believed_once_and_with_the_right_key() {
    let mut desk = desk();
    let engine = [0x80, 0, 0, 0, 1, 1, 1, 1, 1];
    let trap = |boots, time, key| sealed(Stamp { engine: &engine, boots, time }, key, snmp::MSG_TRAP, false);
    for (bytes, want) in [
        (trap(4, 1_000, "maplesyrop"), Verdict::Refused),
        (trap(4, 1_000, "maplesyrup"), Verdict::Named),
        (trap(4, 1_100, "maplesyrup"), Verdict::Named),
        (trap(4, 900, "maplesyrup"), Verdict::Replayed),
        (trap(3, 9_000, "maplesyrup"), Verdict::Replayed),
        (trap(5, 1, "maplesyrup"), Verdict::Named),
    ] {
        assert_eq!(receive(&mut desk, &bytes, 2).verdict, want);
    }
    assert_eq!(receive(&mut desk, &trap(6, 1, "maplesyrup"), 1).verdict, Verdict::Refused, "another device's user");
}

#[test]
fn an_inform_of_version_3_finds_us_and_our_time() {
    let mut desk = desk();
    let inform =
        |engine: &[u8], boots, time| sealed(Stamp { engine, boots, time }, "maplesyrup", snmp::MSG_INFORM, true);
    // Who are you?
    let handled = receive(&mut desk, &inform(&[0x80, 0, 0, 0, 9, 9], 0, 0), 2);
    let reply = handled.reply.unwrap();
    let told = frame::open(&reply).unwrap();
    assert_eq!((handled.verdict, told.engine), (Verdict::Handshake, desk.authority.id.as_slice()));
    let (engine, boots, time) = (told.engine.to_vec(), told.boots, told.time);
    // What time do you have? The answer is signed.
    let reply = receive(&mut desk, &inform(&engine, 0, 0), 2).reply.unwrap();
    let told = frame::open(&reply).unwrap();
    assert!(told.is_signed_with(&user("maplesyrup").keys(&engine)) && told.boots == boots);
    // Then it is taken, and answered.
    let handled = receive(&mut desk, &inform(&engine, boots, time), 2);
    assert_eq!(handled.verdict, Verdict::Named);
    let reply = handled.reply.unwrap();
    let answer = frame::open(&reply).unwrap();
    let keys = user("maplesyrup").keys(&engine);
    let plain = answer.plain(&keys).unwrap();
    let Body::Pdu(response) = frame::read_scoped(&plain).unwrap().body else { panic!("a trap") };
    assert!(answer.is_signed_with(&keys) && response.kind == snmp::MSG_RESPONSE && response.id == 77);
    // A wrong key is told so, and a stranger nothing.
    let wrong = sealed(Stamp { engine: &engine, boots, time }, "maplesyrop", snmp::MSG_INFORM, true);
    assert!(receive(&mut desk, &wrong, 2).reply.is_some());
    assert!(receive(&mut desk, &wrong, 9).reply.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..600, value: u8, host in 1_u8..6) {
        let mut desk = desk();
        let _ = receive(&mut desk, &bytes, host);
        let engine = [0x80, 0, 0, 0, 1, 1];
        for mut valid in [
            v2c(snmp::MSG_TRAP, "public", ON_BATTERY),
            v2c(snmp::MSG_INFORM, "public", ON_BATTERY),
            sealed(Stamp { engine: &engine, boots: 1, time: 1 }, "maplesyrup", snmp::MSG_TRAP, false),
        ] {
            let length = valid.len();
            valid[at % length] = value;
            let _ = receive(&mut desk, &valid, host);
            valid.truncate(at % length);
            let _ = receive(&mut desk, &valid, host);
        }
    }
}
