//! The SNMP source against agents that misbehave.

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test that cannot go on says so by panicking")]

#[path = "support/snmp_agent.rs"]
mod snmp_agent;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bcp_agent::config::{Access, SnmpLink};
use bcp_agent::oid::Oid;
use bcp_agent::schedule::Outcome;
use bcp_agent::source::Polled;
use bcp_agent::source::snmp::SnmpDevice;
use bcp_wire::{BadReason, Value};
use snmp2::{MessageType, Pdu};
use tokio::net::UdpSocket;

const TIMEOUT: Duration = Duration::from_millis(60);
const BUDGET: Duration = Duration::from_secs(2);
/// Points are `.N` below this, and the value of each is N.
const ROOT: &str = "1.3.6.1.4.1.4242.1";

/// One request as it came.
#[derive(Debug, Clone)]
struct Asked {
    id: i32,
    bulk: bool,
    oids: Vec<Oid>,
    number: usize,
}

/// An answer in the making.
#[derive(Debug, Clone)]
struct Answer {
    id: i32,
    community: &'static str,
    status: u8,
    index: u8,
    /// Identifier and encoded value.
    values: Vec<(Oid, Vec<u8>)>,
    delay: Duration,
}

impl Asked {
    fn right(&self) -> Answer {
        let values = self.oids.iter().map(|oid| (oid.clone(), int(*oid.arcs().last().unwrap()))).collect();
        Answer { id: self.id, community: "public", status: 0, index: 0, values, delay: Duration::ZERO }
    }

    fn error(&self, status: u8, index: u8) -> Answer {
        Answer { status, index, ..self.right() }
    }
}

fn field(tag: u8, contents: &[Vec<u8>]) -> Vec<u8> {
    let body = contents.concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [vec![tag, 0x82], length.to_vec(), body].concat()
}

fn int(value: u32) -> Vec<u8> {
    field(2, &[u64::from(value).to_be_bytes()[3..].to_vec()])
}

fn text(value: &str) -> Vec<u8> {
    field(4, &[value.as_bytes().to_vec()])
}

impl Answer {
    fn encode(&self) -> Vec<u8> {
        let list: Vec<Vec<u8>> =
            self.values.iter().map(|(oid, value)| field(0x30, &[field(6, &[oid.to_ber()]), value.clone()])).collect();
        let id = field(2, &[self.id.to_be_bytes().to_vec()]);
        let pdu = field(0xA2, &[id, int(self.status.into()), int(self.index.into()), field(0x30, &list)]);
        field(0x30, &[int(1), text(self.community), pdu])
    }
}

async fn agent(behave: impl Fn(&Asked) -> Vec<Answer> + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap().to_string();
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let pdu = Pdu::from_bytes(&buffer[..length]).unwrap();
            let oids = pdu.varbinds.map(|(oid, _)| Oid::from_ber(oid.as_bytes()).unwrap()).collect();
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let bulk = pdu.message_type == MessageType::GetBulkRequest;
            for answer in behave(&Asked { id: pdu.req_id, bulk, oids, number }) {
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    tokio::time::sleep(answer.delay).await;
                    let _ = socket.send_to(&answer.encode(), from).await;
                });
            }
        }
    });
    (address, requests)
}

fn device_of(address: &str, retries: u8, rest: &str) -> SnmpDevice {
    let access = Access::community("public");
    snmp_agent::device(SnmpLink { address: address.to_owned(), access, timeout: TIMEOUT, retries }, rest)
}

/// Points 1 to `count`.
fn device(address: &str, count: u16, max_oids: u16, retries: u8) -> SnmpDevice {
    let mut rest = format!("[snmp]\nmax_oids = {max_oids}\n");
    for n in 1..=count {
        let _ = writeln!(rest, "[[point]]\nname = \"outlet.{n}.current\"\nread = \"{ROOT}.{n}\"");
    }
    device_of(address, retries, &rest)
}

fn bad(polled: &Polled) -> BTreeMap<String, BadReason> {
    polled.samples.iter().filter_map(|(name, _, v)| Some((name.to_string(), v.clone().err()?))).collect()
}

/// Every good value is the number in its name.
fn assert_right(polled: &Polled) {
    for (name, _, value) in &polled.samples {
        let number: f64 = name.as_str().split('.').nth(1).unwrap().parse().unwrap();
        if let Ok(value) = value {
            assert_eq!(value, &Value::Num(number), "{name}");
        }
    }
}

#[tokio::test]
async fn a_device_that_finds_requests_too_big_gets_smaller_ones_and_that_is_remembered() {
    let (address, requests) =
        agent(|asked| vec![if asked.oids.len() > 8 { asked.error(1, 0) } else { asked.right() }]).await;
    let mut device = device(&address, 40, 40, 0);
    let first = device.poll(BUDGET).await;
    assert_eq!((bad(&first), first.samples.len()), (BTreeMap::new(), 40));
    assert_right(&first);
    requests.store(0, Ordering::SeqCst);
    device.poll(BUDGET).await;
    assert_eq!(requests.load(Ordering::SeqCst), 8, "halved to 5 OIDs, 8 requests");
}

#[tokio::test]
async fn an_error_about_one_variable_costs_that_point_only() {
    let faulty: Oid = format!("{ROOT}.7").parse().unwrap();
    let (address, _) = agent(move |asked| {
        let at = asked.oids.iter().position(|oid| *oid == faulty);
        vec![at.map_or_else(|| asked.right(), |at| asked.error(5, u8::try_from(at + 1).unwrap()))]
    })
    .await;
    let mut device = device(&address, 20, 20, 0);
    for _ in 0..2 {
        let polled = device.poll(BUDGET).await;
        assert_eq!(bad(&polled), BTreeMap::from([("outlet.7.current".to_owned(), BadReason::Exception)]));
        assert_right(&polled);
    }
}

#[tokio::test]
async fn late_and_foreign_answers_are_never_used() {
    let (address, _) = agent(|asked| {
        let right = asked.right();
        let lie = |answer: Answer| {
            let values = answer.values.iter().map(|(oid, _)| (oid.clone(), int(9_999))).collect();
            Answer { values, ..answer }
        };
        let foreign = vec![
            lie(Answer { id: right.id.wrapping_add(1), ..right.clone() }),
            lie(Answer { community: "private", ..right.clone() }),
        ];
        // The first of each pair of requests is answered when the second one is waited for.
        let delay = if asked.number % 2 == 0 { TIMEOUT * 3 / 2 } else { Duration::from_millis(5) };
        let late = if asked.number % 2 == 0 { lie(right) } else { right };
        foreign.into_iter().chain([Answer { delay, ..late }]).collect()
    })
    .await;
    let mut device = device(&address, 5, 5, 1);
    for _ in 0..20 {
        let polled = device.poll(BUDGET).await;
        assert_eq!(bad(&polled), BTreeMap::new());
        assert_right(&polled);
    }
}

#[tokio::test]
async fn reordered_missing_and_strange_variables_are_told_apart() {
    let (address, _) = agent(|asked| {
        let mut answer = asked.right();
        answer.values.reverse();
        answer.values.retain(|(oid, _)| oid.arcs().last() != Some(&3));
        answer.values[0].1 = field(0x80, &[]);
        vec![answer]
    })
    .await;
    let polled = device(&address, 5, 5, 0).poll(BUDGET).await;
    assert_right(&polled);
    let bad = bad(&polled);
    assert_eq!(bad["outlet.5.current"], BadReason::Exception, "noSuchObject");
    assert!(bad.contains_key("outlet.3.current") && bad.len() == 2, "{bad:?}");
}

#[tokio::test]
async fn a_walk_that_runs_in_circles_ends() {
    let column: Oid = format!("{ROOT}.2").parse().unwrap();
    let (address, requests) = agent(move |asked| {
        if !asked.bulk {
            return vec![asked.right()];
        }
        // Two rows, and then the first one again, for ever.
        let row = |n: u32| (column.below(&[n]), text(&format!("row {n}")));
        vec![Answer { values: vec![row(1), row(2), row(1), row(2)], ..asked.right() }]
    })
    .await;
    let table = format!(
        "[snmp]\n[[table]]\nlabel = \"{ROOT}.2\"\n[[table.point]]\nname = \"host.fs.{{id}}.size\"\ncolumn = \"{ROOT}.3\"\n"
    );
    let start = Instant::now();
    let polled = device_of(&address, 0, &table).poll(BUDGET).await;
    assert!(start.elapsed() < BUDGET && requests.load(Ordering::SeqCst) < 5);
    let names: Vec<String> = polled.samples.iter().map(|(name, _, _)| name.to_string()).collect();
    assert_eq!(names, ["host.fs.row-1.size", "host.fs.row-2.size"]);
}

#[tokio::test]
async fn a_dead_device_costs_its_tries_and_a_closed_port_none() {
    let (address, requests) = agent(|_| vec![]).await;
    let start = Instant::now();
    let polled = device(&address, 40, 5, 1).poll(BUDGET).await;
    assert_eq!((polled.outcome, requests.load(Ordering::SeqCst)), (Outcome::Silent, 2));
    assert!(start.elapsed() < TIMEOUT * 4);
    assert!(bad(&polled).values().all(|reason| *reason == BadReason::Timeout));
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    assert_eq!(device(&closed, 1, 5, 1).poll(BUDGET).await.outcome, Outcome::Refused);
}
