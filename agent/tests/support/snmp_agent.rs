//! An SNMP agent inside a test: right by default, and as wrong as a test wants it.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bcp_agent::config::{Access, DeviceConfig, Link, SnmpLink};
use bcp_agent::oid::Oid;
use bcp_agent::profile;
use bcp_agent::source::snmp::SnmpDevice;
use bcp_agent::source::snmp::frame::{self, Letter, Stamp};
use bcp_agent::source::snmp::message::{self, Body, field, integer};
use bcp_agent::source::snmp::usm::{Keys, User};
use snmp2::snmp;
use tokio::net::UdpSocket;

pub const ROOT: &str = "1.3.6.1.4.1.4242.1";
pub const SYS_UPTIME: &str = "1.3.6.1.2.1.1.3.0";

/// One request, opened.
#[derive(Debug, Clone)]
pub struct Asked {
    pub kind: u8,
    pub id: i64,
    pub oids: Vec<Oid>,
    /// Repetitions of a GETBULK.
    pub second: u32,
    /// Requests before this one.
    pub number: usize,
    /// Its bytes, for answers that are built by hand.
    pub community: Vec<u8>,
    pub version: i64,
}

/// What an agent says.
#[derive(Debug, Clone)]
pub enum Say {
    /// These variables (encoded values).
    Values(Vec<(Oid, Vec<u8>)>),
    Error(u32, u32),
    /// These bytes as they are.
    Bytes(Vec<u8>),
    Nothing,
}

pub fn oid(text: &str) -> Oid {
    text.parse().unwrap()
}

/// An encoded number.
pub fn number(value: u32) -> Vec<u8> {
    integer(value)
}

pub fn text(value: &str) -> Vec<u8> {
    field(4, &[value.as_bytes()])
}

pub fn counter32(value: u32) -> Vec<u8> {
    field(snmp::TYPE_COUNTER32, &[&[&[0][..], &value.to_be_bytes()].concat()])
}

pub fn counter64(value: u64) -> Vec<u8> {
    field(snmp::TYPE_COUNTER64, &[&[&[0][..], &value.to_be_bytes()].concat()])
}

pub fn ticks(value: u32) -> Vec<u8> {
    field(snmp::TYPE_TIMETICKS, &[&[&[0][..], &value.to_be_bytes()].concat()])
}

pub const END_OF_VIEW: [u8; 2] = [snmp::SNMP_ENDOFMIBVIEW, 0];

impl Asked {
    /// Every value is the last number of its identifier.
    pub fn right(&self) -> Say {
        Say::Values(self.oids.iter().map(|oid| (oid.clone(), number(*oid.arcs().last().unwrap()))).collect())
    }

    pub fn is_uptime(&self) -> bool {
        self.oids.first().is_some_and(|first| *first == oid(SYS_UPTIME))
    }

    /// The PDU of an answer.
    pub fn pdu(&self, say: &Say) -> Option<Vec<u8>> {
        let (values, status, index) = match say {
            Say::Values(values) => (values.as_slice(), 0, 0),
            Say::Error(status, index) => (&[][..], *status, *index),
            Say::Bytes(_) | Say::Nothing => return None,
        };
        Some(pdu(snmp::MSG_RESPONSE, self.id, status, index, values))
    }

    /// A whole message of version 1 or 2c.
    pub fn message(&self, say: &Say) -> Option<Vec<u8>> {
        if let Say::Bytes(bytes) = say {
            return Some(bytes.clone());
        }
        let version = integer(u32::try_from(self.version).unwrap());
        Some(field(0x30, &[&version, &field(4, &[&self.community]), &self.pdu(say)?]))
    }
}

pub fn pdu(kind: u8, id: i64, status: u32, index: u32, values: &[(Oid, Vec<u8>)]) -> Vec<u8> {
    let list: Vec<u8> =
        values.iter().flat_map(|(oid, value)| field(0x30, &[&field(6, &[&oid.to_ber()]), value])).collect();
    let id = field(2, &[&i32::try_from(id).unwrap().to_be_bytes()]);
    field(kind, &[&id, &integer(status), &integer(index), &field(0x30, &[&list])])
}

fn asked(body: Body<'_>, community: &[u8], version: i64, number: usize) -> Option<Asked> {
    let Body::Pdu(pdu) = body else { return None };
    let oids = pdu.varbinds.map(|(oid, _)| Oid::from_ber(oid).unwrap()).collect();
    Some(Asked { kind: pdu.kind, id: pdu.id, oids, second: pdu.index, number, community: community.to_vec(), version })
}

/// A running agent.
pub struct Agent {
    pub address: String,
    pub requests: Arc<AtomicUsize>,
}

/// An agent of versions 1 and 2c. Several answers to one request are sent in their order, each after its delay.
pub async fn agent(behave: impl Fn(&Asked) -> Vec<(Duration, Say)> + Send + 'static) -> Agent {
    agent_at("127.0.0.1:0", behave).await
}

pub async fn agent_at(bind: &str, behave: impl Fn(&Asked) -> Vec<(Duration, Say)> + Send + 'static) -> Agent {
    let socket = Arc::new(UdpSocket::bind(bind).await.unwrap());
    let address = socket.local_addr().unwrap().to_string();
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let message = message::read_community(&buffer[..length]).unwrap();
            let Some(asked) = asked(message.body, message.community, message.version, number) else { continue };
            for (delay, say) in behave(&asked) {
                let Some(bytes) = asked.message(&say) else { continue };
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    let _ = socket.send_to(&bytes, from).await;
                });
            }
        }
    });
    Agent { address, requests }
}

/// An agent that answers everything at once.
pub async fn prompt(behave: impl Fn(&Asked) -> Say + Send + 'static) -> Agent {
    agent(move |asked| vec![(Duration::ZERO, behave(asked))]).await
}

/// An engine of version 3 whose identity, boots and time can be changed while it runs.
pub struct Engine3 {
    pub id: Mutex<Vec<u8>>,
    pub boots: AtomicU32,
    pub started: Mutex<Instant>,
    pub user: Mutex<Arc<User>>,
    /// Reports sent, by their counter.
    pub reports: Mutex<Vec<u32>>,
    pub requests: AtomicUsize,
}

impl Engine3 {
    pub fn new(id: &[u8], boots: u32, user: &Arc<User>) -> Arc<Engine3> {
        Arc::new(Engine3 {
            id: Mutex::new(id.to_vec()),
            boots: AtomicU32::new(boots),
            started: Mutex::new(Instant::now()),
            user: Mutex::new(Arc::clone(user)),
            reports: Mutex::default(),
            requests: AtomicUsize::new(0),
        })
    }

    fn report(&self, counter: u32, message_id: u32, keys: &Keys) -> Option<Vec<u8>> {
        self.reports.lock().unwrap().push(counter);
        let values = [(oid("1.3.6.1.6.3.15.1.1").below(&[counter, 0]), field(snmp::TYPE_COUNTER32, &[&[1]]))];
        self.seal(&pdu(snmp::MSG_REPORT, i64::from(message_id), 0, 0, &values), message_id, keys)
    }

    fn time(&self) -> u32 {
        u32::try_from(self.started.lock().unwrap().elapsed().as_secs()).unwrap()
    }

    fn seal(&self, pdu: &[u8], message_id: u32, keys: &Keys) -> Option<Vec<u8>> {
        let engine = self.id.lock().unwrap().clone();
        let user = Arc::clone(&self.user.lock().unwrap());
        let letter = Letter {
            message_id,
            stamp: Stamp { engine: &engine, boots: self.boots.load(Ordering::SeqCst), time: self.time() },
            user: user.name.as_bytes(),
            context_engine: &engine,
            context: b"",
            pdu,
            reportable: false,
            max_size: 65_507,
        };
        frame::seal(&letter, keys, u64::from(message_id))
    }

    /// As RFC 3414, 3.2 says.
    fn answer(&self, bytes: &[u8], behave: &impl Fn(&Asked) -> Say) -> Option<Vec<u8>> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let frame = frame::open(bytes).unwrap();
        let message_id = u32::try_from(frame.message_id).unwrap();
        let (engine, user) = (self.id.lock().unwrap().clone(), Arc::clone(&self.user.lock().unwrap()));
        let (nobody, keys) = (Keys::default(), user.keys(&engine));
        if frame.engine != engine {
            return self.report(4, message_id, &nobody);
        }
        if frame.user != user.name.as_bytes() {
            return self.report(3, message_id, &nobody);
        }
        if keys.signs() && !frame.is_signed_with(&keys) {
            return self.report(5, message_id, &nobody);
        }
        let boots = self.boots.load(Ordering::SeqCst);
        if keys.signs() && (frame.boots != boots || frame.time.abs_diff(self.time()) > 150) {
            let signing = User::new(user.name.clone(), String::new(), user.auth.clone(), None);
            return self.report(2, message_id, &signing.keys(&engine));
        }
        let Ok(plain) = frame.plain(&keys) else { return self.report(6, message_id, &nobody) };
        let scoped = frame::read_scoped(&plain).unwrap();
        let asked = asked(scoped.body, b"", 3, number)?;
        self.seal(&asked.pdu(&behave(&asked))?, message_id, &keys)
    }

    /// Answers on a port of its own.
    pub async fn serve(self: &Arc<Engine3>, behave: impl Fn(&Asked) -> Say + Send + 'static) -> String {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(bytes) = engine.answer(&buffer[..length], &behave) {
                    let _ = socket.send_to(&bytes, from).await;
                }
            }
        });
        address
    }
}

/// A device of the profile `rest`, which begins with `[snmp]`.
pub fn device(link: SnmpLink, rest: &str) -> SnmpDevice {
    let text = format!("format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"this test\"]\n{rest}");
    let profile = profile::parse("t/t", "t", &text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let config = DeviceConfig {
        id: "pdu".parse().unwrap(),
        kind: "pdu".to_owned(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link: Link::Snmp(link.clone()),
    };
    SnmpDevice::new(Arc::new(config), link)
}

/// Points 1 to `count` below [`ROOT`].
pub fn points(count: u32) -> String {
    use std::fmt::Write as _;
    let mut rest = "[snmp]\nmax_oids = 40\n".to_owned();
    for n in 1..=count {
        let _ = writeln!(rest, "[[point]]\nname = \"outlet.{n}.current\"\nread = \"{ROOT}.{n}\"");
    }
    rest
}

pub fn link(address: &str, access: Access, timeout: Duration) -> SnmpLink {
    SnmpLink { address: address.to_owned(), access, timeout, retries: 0 }
}

/// An encoded identifier.
pub fn field_oid(oid: &Oid) -> Vec<u8> {
    field(6, &[&oid.to_ber()])
}
