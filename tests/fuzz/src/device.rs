//! What devices answer and send: Modbus, SNMP, traps; and name servers.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bcp_agent::decode::{Decoder, Raw, RegisterType, WordOrder};
use bcp_agent::plan::{Block, Space};
use bcp_agent::source::modbus::frame::{checksum, sealed};
use bcp_agent::source::modbus::line::{Asked, Data};
use bcp_agent::source::snmp::message::{self, Body, Got, Varbinds};
use bcp_agent::source::snmp::usm::{AuthProtocol, PrivProtocol, Secret, User};
use bcp_agent::source::traps::notification::Notification;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Longer than any frame, and small enough that the far end never waits for room.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
}

const ASKED: Asked = Asked { unit: 1, timeout: Duration::from_secs(1), pause: Duration::ZERO };

fn block(pick: u8) -> Block {
    let space = [Space::Holding, Space::Input, Space::Coil, Space::Discrete][usize::from(pick & 3)];
    Block { space, address: 100, count: u16::from(pick >> 2 & 15) + 1, items: 0..1 }
}

/// Every way in which registers become a value.
fn decode(data: &Data) {
    let words = match data {
        Data::Words(words) => words,
        Data::Bits(bits) => {
            bits.iter().for_each(|bit| drop(Decoder::default().decode(Raw::Bit(*bit))));
            return;
        }
    };
    use RegisterType::{Bcd16, Bcd32, F32, F64, I16, I32, I64, String, U16, U32, U64};
    for kind in [U16, I16, U32, I32, U64, I64, F32, F64, Bcd16, Bcd32, String] {
        for order in [WordOrder::Abcd, WordOrder::Cdab, WordOrder::Badc, WordOrder::Dcba] {
            let decoder = Decoder { kind, order, ..Decoder::default() };
            let count = kind.registers().map_or(words.len(), usize::from).min(words.len());
            let _ = decoder.decode(Raw::Registers(&words[..count]));
        }
    }
}

/// Reads a request of so many bytes, gives the answer in two pieces, and closes the connection.
async fn answer<const REQUEST: usize>(mut far: DuplexStream, mut answer: Vec<u8>, is_tcp: bool) {
    let mut request = [0; REQUEST];
    if far.read_exact(&mut request).await.is_err() {
        return;
    }
    if is_tcp {
        // The right transaction number, so that the rest is looked at.
        answer.iter_mut().zip(&request[..2]).for_each(|(to, from)| *to = *from);
    }
    let (first, second) = answer.split_at(answer.len() / 2);
    let _ = far.write_all(first).await;
    tokio::task::yield_now().await;
    let _ = far.write_all(second).await;
}

/// First byte: what is asked for. The rest: the answer, whose transaction number is made right.
pub mod modbus_tcp {
    use bcp_agent::source::modbus::tcp::Tcp;

    use super::*;

    pub fn run(bytes: &[u8]) {
        let Some((pick, rest)) = bytes.split_first() else { return };
        let (block, rest) = (block(*pick), rest[..rest.len().min(MAX_ANSWER_BYTES)].to_vec());
        let read = RUNTIME.with(|runtime| {
            runtime.block_on(async {
                let (ours, far) = tokio::io::duplex(2 * MAX_ANSWER_BYTES);
                let mut tcp = Tcp::new(ours);
                tokio::join!(tcp.read(ASKED, &block), answer::<12>(far, rest, true)).0
            })
        });
        if let Ok(data) = read {
            let (got, wanted) = match &data {
                Data::Words(words) => (words.len(), usize::from(block.count)),
                Data::Bits(bits) => (bits.len(), usize::from(block.count).next_multiple_of(8)),
            };
            assert_eq!(got, wanted, "an answer of another length was taken");
            decode(&data);
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let whole = |pick: u8, pdu: &[u8]| {
            let length = u8::try_from(pdu.len() + 1).expect("a short answer");
            [&[pick, 0, 0, 0, 0, 0, length, 1], pdu].concat()
        };
        vec![
            whole(0b0000_1000, &[3, 6, 0, 1, 0, 2, 0, 3]),
            whole(0b0000_0101, &[4, 4, 0x42, 0xF6, 0xE9, 0x79]),
            whole(0b0010_0110, &[1, 2, 0xCD, 1]),
            whole(0b0001_1111, &[2, 1, 0x55]),
            whole(0, &[0x83, 2]),
        ]
    }
}

/// First byte: what is asked for, and (highest bit) whether the rest is a PDU, to be sealed, or bytes as they are.
pub mod modbus_rtu {
    use bcp_agent::source::modbus::frame::{find, read_answer};
    use bcp_agent::source::modbus::rtu::{Owed, Rtu};

    use super::*;

    const SEAL: u8 = 0x80;

    pub fn run(bytes: &[u8]) {
        let Some((pick, rest)) = bytes.split_first() else { return };
        let (block, rest) = (block(*pick), &rest[..rest.len().min(MAX_ANSWER_BYTES)]);
        let rest = if pick & SEAL == 0 { rest.to_vec() } else { sealed(ASKED.unit, rest) };
        if let Some((frame, end)) = find(&rest) {
            assert_eq!(
                rest[..end].last_chunk().copied(),
                Some(checksum(&rest[end - frame.pdu.len() - 3..end - 2]).to_le_bytes())
            );
            let _ = read_answer(&frame.pdu, &block);
        }
        let read = RUNTIME.with(|runtime| {
            runtime.block_on(async {
                let (ours, far) = tokio::io::duplex(2 * MAX_ANSWER_BYTES);
                let (mut rtu, mut owed) = (Rtu::new(Box::new(ours), None), Owed::default());
                tokio::join!(rtu.read(&mut owed, ASKED, &block), answer::<8>(far, rest, false)).0
            })
        });
        if let Ok(data) = read {
            decode(&data);
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let plain = |pick: u8, pdu: &[u8]| [&[pick][..], &sealed(1, pdu)].concat();
        let stranger = [&[0b0000_0100, 0xFF][..], &sealed(7, &[3, 2, 0, 9]), &sealed(1, &[3, 4, 0, 1, 0, 2])].concat();
        vec![
            plain(0b0000_1000, &[3, 6, 0, 1, 0, 2, 0, 3]),
            plain(0b0010_0110, &[1, 2, 0xCD, 1]),
            plain(0, &[0x83, 2]),
            stranger,
            vec![SEAL | 0b0000_0100, 3, 4, 0, 1, 0, 2],
        ]
    }
}

/// Its passwords are stretched once: a mebibyte of hashing each.
static OPERATOR: LazyLock<Arc<User>> = LazyLock::new(|| {
    let secret = || Secret::new("maplesyrup");
    let (auth, privacy) = ((AuthProtocol::Sha1, secret()), (PrivProtocol::Aes128, secret()));
    Arc::new(User::new("op".to_owned(), String::new(), Some(auth), Some(privacy)))
});

/// Every way in which a value is used.
fn use_values(varbinds: &Varbinds<'_>) {
    let plain = Decoder::default();
    let leading = Decoder { leading: true, ..Decoder::default() };
    let character = Decoder { char_at: Some(2), ..Decoder::default() };
    for (_, value) in varbinds.clone() {
        let _ = (message::label(&value), message::shown(&value));
        let raw = match &value {
            Got::Int(n) => Raw::Int(*n),
            Got::Counter32(n) => Raw::Int(i64::from(*n)),
            Got::Counter(n) => Raw::Counter(*n),
            Got::Float(n) => Raw::Float(*n),
            Got::Bytes(bytes) => Raw::Bytes(bytes),
            Got::Oid(_) | Got::Ip(_) | Got::Missing | Got::Other => continue,
        };
        for decoder in [&plain, &leading, &character] {
            let _ = decoder.decode(raw);
        }
    }
    let _ = varbinds.to_bytes();
}

fn use_body(body: &Body<'_>) {
    match body {
        Body::Pdu(pdu) => {
            use_values(&pdu.varbinds);
            let _ = Notification::of_pdu(pdu);
        }
        Body::TrapV1(trap) => {
            use_values(&trap.varbinds);
            let _ = Notification::of_v1(trap);
        }
    }
}

fn oid(arcs: &[u8]) -> Vec<u8> {
    message::field(6, &[arcs])
}

/// A list of variables of every type.
fn variables() -> Vec<u8> {
    let name = oid(&[0x2B, 6, 1, 2, 1, 1, 3, 0]);
    let values = [
        message::integer(5),
        message::field(4, &[b"24.5 C"]),
        message::field(0x41, &[&[0xFF; 4]]),
        message::field(0x46, &[&[0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]]),
        message::field(0x44, &[&[0x9F, 0x78, 4, 0x3F, 0x80, 0, 0]]),
        message::field(0x40, &[&[10, 0, 0, 1]]),
        vec![0x80, 0],
        name.clone(),
    ];
    values.iter().flat_map(|value| message::field(0x30, &[&name, value])).collect()
}

/// A notification of version 2, as the inside of a message of this kind.
fn notification(kind: u8) -> Vec<u8> {
    let pair = |name: &[u8], value: &[u8]| message::field(0x30, &[&oid(name), value]);
    let trap_oid = [0x2B, 6, 1, 6, 3, 1, 1, 4, 1, 0];
    let list = [
        pair(&[0x2B, 6, 1, 2, 1, 1, 3, 0], &message::field(0x43, &[&[1]])),
        pair(&trap_oid, &oid(&[0x2B, 6, 1, 2, 1, 33, 2, 1])),
        variables(),
    ];
    let mut pdu = message::response(0x0102_0304, &list.concat());
    pdu[0] = kind;
    pdu
}

fn trap_v1() -> Vec<u8> {
    message::field(
        0xA4,
        &[
            &oid(&[0x2B, 6, 1, 2, 1, 33, 2]),
            &message::field(0x40, &[&[10, 0, 0, 1]]),
            &message::integer(6),
            &message::integer(1),
            &message::field(0x43, &[&[1]]),
            &message::field(0x30, &[&variables()]),
        ],
    )
}

fn community(version: u32, pdu: &[u8]) -> Vec<u8> {
    message::field(0x30, &[&message::integer(version), &message::field(4, &[b"public"]), pdu])
}

fn v3(pdu: &[u8], reportable: bool) -> Vec<u8> {
    use bcp_agent::source::snmp::frame::{self, Letter, Stamp};
    let engine = [0x80, 0, 0, 0, 1, 2, 3];
    let letter = Letter {
        message_id: 0x0102_0304,
        stamp: Stamp { engine: &engine, boots: 1, time: 2 },
        user: OPERATOR.name.as_bytes(),
        context_engine: &engine,
        context: b"",
        pdu,
        reportable,
        max_size: 65_507,
    };
    frame::seal(&letter, &OPERATOR.keys(&engine), 1).expect("a short message")
}

/// Messages of version 1 and 2c.
pub mod snmp_answer {
    use bcp_agent::oid::Oid;

    use super::*;

    pub fn run(bytes: &[u8]) {
        let _ = message::version(bytes);
        if let Some(oid) = Oid::from_ber(bytes) {
            assert_eq!(Oid::from_ber(&oid.to_ber()), Some(oid), "an identifier is written as another one");
        }
        let Ok(read) = message::read_community(bytes) else { return };
        use_body(&read.body);
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let answer = message::response(0x0102_0304, &variables());
        vec![
            community(1, &answer),
            community(0, &answer),
            community(1, &notification(0xA7)),
            community(0, &trap_v1()),
            vec![0x2B, 6, 1, 4, 1, 0x82, 0x3E],
        ]
    }
}

/// Messages of version 3, and what is inside them when it has been decrypted.
pub mod snmp_v3 {
    use bcp_agent::source::snmp::frame;

    use super::*;

    pub fn run(bytes: &[u8]) {
        if let Ok(scoped) = frame::read_scoped(bytes) {
            use_body(&scoped.body);
        }
        let Ok(frame) = frame::open(bytes) else { return };
        let keys = OPERATOR.keys(frame.engine);
        let _ = frame.is_signed_with(&keys);
        if let Ok(plain) = frame.plain(&keys)
            && let Ok(scoped) = frame::read_scoped(&plain)
        {
            use_body(&scoped.body);
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let pdu = message::response(0x0102_0304, &variables());
        let scoped =
            message::field(0x30, &[&message::field(4, &[&[0x80, 0, 0, 0, 1]]), &message::field(4, &[b""]), &pdu]);
        let question = frame::who_are_you(7, 65_507).expect("a short message");
        vec![v3(&pdu, false), v3(&notification(0xA6), true), scoped, question]
    }
}

/// Datagrams to the trap listener. First byte: who sends.
pub mod trap {
    use std::net::SocketAddr;
    use std::sync::{Mutex, PoisonError};
    use std::time::Instant;

    use bcp_agent::config::{DeviceConfig, Link, SnmpLink};
    use bcp_agent::profile;
    use bcp_agent::source::snmp::config::Access;
    use bcp_agent::source::traps::authority::Authority;
    use bcp_agent::source::traps::config::TrapsConfig;
    use bcp_agent::source::traps::desk::Desk;

    use super::*;

    const PROFILE: &str = include_str!("../../../agent/tests/support/ups-with-traps.toml");

    fn sender(number: u8, access: Access) -> Arc<DeviceConfig> {
        let profile = profile::parse("t/t", "t", PROFILE).expect("a valid profile");
        let address = format!("10.0.0.{number}:161");
        Arc::new(DeviceConfig {
            id: format!("ups-{number}").parse().expect("an id"),
            kind: "ups".to_owned(),
            profile: Arc::new(profile),
            location: None,
            parent: None,
            interval: Duration::from_secs(1),
            link: Link::Snmp(SnmpLink { address, access, timeout: Duration::from_secs(1), retries: 0 }),
        })
    }

    static DESK: LazyLock<Mutex<Desk>> = LazyLock::new(|| {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let config = TrapsConfig { listen, communities: vec!["other".to_owned()], per_second: u32::MAX };
        let user = User::new("op".to_owned(), String::new(), None, None);
        let devices = [
            sender(1, Access::community("public")),
            sender(2, Access::V3(Arc::new(user))),
            sender(3, Access::V3(Arc::clone(&OPERATOR))),
        ];
        Mutex::new(Desk::new(&config, &devices, Authority::open(crate::scratch())))
    });

    pub fn run(bytes: &[u8]) {
        let Some((pick, datagram)) = bytes.split_first() else { return };
        let from = SocketAddr::from(([10, 0, 0, pick & 3], 162));
        let _ = DESK.lock().unwrap_or_else(PoisonError::into_inner).receive(datagram, from, Instant::now());
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let from = |pick: u8, datagram: Vec<u8>| [vec![pick], datagram].concat();
        vec![
            from(1, community(1, &notification(0xA7))),
            from(1, community(1, &notification(0xA6))),
            from(1, community(0, &trap_v1())),
            from(2, v3(&notification(0xA7), false)),
            from(3, v3(&notification(0xA7), false)),
            from(3, v3(&notification(0xA6), true)),
        ]
    }
}

/// Answers to the question that a check of a name server asks.
pub mod dns_answer {
    use bcp_agent::source::checks::dns::{question, read};

    use super::*;

    static QUESTION: LazyLock<Vec<u8>> = LazyLock::new(|| question(7, "a.example", 1).expect("a name"));

    pub fn run(bytes: &[u8]) {
        let _ = read(bytes, &QUESTION);
        // As an answer to the very question, which chance would not repeat.
        if let Some((head, records)) = bytes.split_first_chunk::<4>() {
            let mut answer = QUESTION.clone();
            answer[2] |= 0x80;
            [answer[6], answer[7]] = [head[0], head[1]];
            answer.extend(records);
            assert!(read(&answer, &QUESTION).is_some(), "an answer to the question was not taken for one");
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let records = [
            &[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1][..],
            &[1, b'x', 0, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16],
            &[0; 16],
        ]
        .concat();
        let mut whole = QUESTION.clone();
        whole[2] |= 0x80;
        whole[7] = 2;
        whole.extend(&records);
        vec![whole, [&[0, 2, 0, 0][..], &records].concat()]
    }
}
