//! An SNMP agent of versions 2c and 3: GET, GETNEXT, GETBULK over UDP.
//!
//! Knows: a tree of instances, as it is at the moment of the request. Refuses to know: where the values come from.
//! Task: one per device, which answers one datagram after the other.
//! Invariants: a wrong community or a broken datagram gets no answer; an answer never exceeds [`MAX_ANSWER_BYTES`].

use std::collections::BTreeMap;
use std::ops::Bound;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::ber::{self, Oid, Reader, Value};
use super::engine::Engine;
use super::fault::{Condition, Fault};

/// All instances of a device.
pub type Tree = BTreeMap<Oid, Value>;

/// One Ethernet frame, as many network cards of UPSs can do no more.
const MAX_ANSWER_BYTES: usize = 1_472;
/// Largest request that is looked at.
const MAX_REQUEST_BYTES: usize = 8_192;
/// What surrounds the variable bindings: headers, community, request id.
const ENVELOPE_BYTES: usize = 96;
/// Most variables of one request.
const MAX_VARIABLES: usize = 128;

const VERSION_2C: i32 = 1;
const GET: u8 = 0xa0;
const GET_NEXT: u8 = 0xa1;
const RESPONSE: u8 = 0xa2;
const SET: u8 = 0xa3;
const GET_BULK: u8 = 0xa5;
const TOO_BIG: i32 = 1;
const NOT_WRITABLE: i32 = 17;

/// What is asked.
#[derive(Debug)]
pub struct Request {
    verb: u8,
    id: i32,
    /// GETBULK: non-repeaters and max-repetitions; else 0.
    first: i32,
    second: i32,
    names: Vec<Oid>,
}

/// The community and the request of a message of version 2c.
fn parse(datagram: &[u8]) -> Option<(&[u8], Request)> {
    let mut message = Reader::new(Reader::new(datagram).element(ber::SEQUENCE)?);
    if message.integer()? != VERSION_2C {
        return None;
    }
    let community = message.element(ber::OCTET_STRING)?;
    Some((community, parse_pdu(&mut message)?))
}

/// The request that stands next.
pub(super) fn parse_pdu(message: &mut Reader<'_>) -> Option<Request> {
    let (verb, pdu) = message.any()?;
    if !matches!(verb, GET | GET_NEXT | GET_BULK | SET) {
        return None;
    }
    let mut pdu = Reader::new(pdu);
    let (id, first, second) = (pdu.integer()?, pdu.integer()?, pdu.integer()?);
    let mut list = Reader::new(pdu.element(ber::SEQUENCE)?);
    let mut names = Vec::new();
    while !list.is_empty() {
        if names.len() >= MAX_VARIABLES {
            return None;
        }
        names.push(Reader::new(list.element(ber::SEQUENCE)?).oid()?);
    }
    Some(Request { verb, id, first, second, names })
}

fn next<'t>(tree: &'t Tree, name: &Oid) -> Option<(&'t Oid, &'t Value)> {
    tree.range::<Oid, _>((Bound::Excluded(name), Bound::Unbounded)).next()
}

fn bind(list: &mut Vec<u8>, name: &[u32], value: &Value) -> bool {
    let mut pair = Vec::new();
    ber::put_oid(&mut pair, name);
    ber::put_value(&mut pair, value);
    if list.len() + pair.len() + 4 > MAX_ANSWER_BYTES - ENVELOPE_BYTES {
        return false;
    }
    ber::put(list, ber::SEQUENCE, &pair);
    true
}

fn bind_next(list: &mut Vec<u8>, tree: &Tree, name: &mut Oid) -> bool {
    match next(tree, name) {
        Some((found, value)) => {
            let fits = bind(list, found, value);
            name.clone_from(found);
            fits
        }
        None => bind(list, name, &Value::EndOfMibView),
    }
}

/// The bindings of an answer, or the error status.
fn bindings(request: &Request, tree: &Tree) -> Result<Vec<u8>, i32> {
    let mut list = Vec::new();
    match request.verb {
        GET => {
            for name in &request.names {
                if !bind(&mut list, name, tree.get(name).unwrap_or(&Value::NoSuchObject)) {
                    return Err(TOO_BIG);
                }
            }
        }
        GET_NEXT => {
            for name in &request.names {
                if !bind_next(&mut list, tree, &mut name.clone()) {
                    return Err(TOO_BIG);
                }
            }
        }
        GET_BULK => {
            let once = usize::try_from(request.first).unwrap_or(0).min(request.names.len());
            for name in &request.names[..once] {
                if !bind_next(&mut list, tree, &mut name.clone()) {
                    return Ok(list);
                }
            }
            // A full answer simply ends: RFC 3416 section 4.2.3 lets the asker go on from there.
            let mut repeated = request.names[once..].to_vec();
            let mut rounds = if repeated.is_empty() { 0 } else { request.second.max(0) };
            while rounds > 0 {
                rounds -= 1;
                for name in &mut repeated {
                    if !bind_next(&mut list, tree, name) {
                        return Ok(list);
                    }
                }
                if repeated.iter().all(|name| next(tree, name).is_none()) {
                    rounds = rounds.min(1);
                }
            }
        }
        _ => return Err(NOT_WRITABLE),
    }
    Ok(list)
}

/// The PDU that answers a request.
fn respond(request: &Request, tree: &Tree) -> Vec<u8> {
    let (status, list) = match bindings(request, tree) {
        Ok(list) => (0, list),
        Err(status) => {
            let mut same = Vec::new();
            for name in &request.names {
                let mut pair = Vec::new();
                ber::put_oid(&mut pair, name);
                ber::put(&mut pair, ber::NULL, &[]);
                ber::put(&mut same, ber::SEQUENCE, &pair);
            }
            (status, if status == TOO_BIG { Vec::new() } else { same })
        }
    };
    let (mut pdu, mut whole) = (Vec::new(), Vec::new());
    ber::put_integer(&mut pdu, request.id);
    ber::put_integer(&mut pdu, status);
    ber::put_integer(&mut pdu, i32::from(status == NOT_WRITABLE));
    ber::put(&mut pdu, ber::SEQUENCE, &list);
    ber::put(&mut whole, RESPONSE, &pdu);
    whole
}

/// The answer to a datagram of version 2c; `None` where a real agent would stay silent.
#[must_use]
pub fn answer(datagram: &[u8], community: &[u8], tree: &Tree) -> Option<Vec<u8>> {
    let (_, request) = parse(datagram).filter(|(given, _)| *given == community)?;
    let mut message = Vec::new();
    ber::put_integer(&mut message, VERSION_2C);
    ber::put(&mut message, ber::OCTET_STRING, community);
    message.extend(respond(&request, tree));
    let mut out = Vec::new();
    ber::put(&mut out, ber::SEQUENCE, &message);
    Some(out)
}

/// Answers until the task is aborted.
pub async fn serve(
    socket: UdpSocket,
    community: &str,
    mut engine: Engine,
    tree: impl Fn() -> Tree,
    condition: watch::Receiver<Condition>,
) {
    let mut buffer = vec![0; MAX_REQUEST_BYTES];
    loop {
        // An error here is the echo of an earlier answer to a closed port.
        let Ok((count, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let now = *condition.borrow();
        if now.is_away() || now.fault == Some(Fault::HalfOpen) {
            continue;
        }
        let (datagram, tree) = (&buffer[..count], tree());
        let reply = answer(datagram, community.as_bytes(), &tree)
            .or_else(|| engine.answer(datagram, &now, |request| respond(request, &tree)));
        let Some(mut reply) = reply else { continue };
        match now.fault {
            Some(Fault::Late(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::Short) => reply.truncate(reply.len() / 2),
            Some(Fault::Long) => reply.extend([0; 64]),
            _ => {}
        }
        let _ = socket.send_to(&reply, peer).await;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use bcp_agent::source::snmp::usm::User;

    use super::super::fault::Switch;
    use super::*;

    fn tree() -> Tree {
        let mut tree: Tree = [
            ("1.3.6.1.2.1.1.1.0", Value::Text(b"a simulated device".to_vec())),
            ("1.3.6.1.2.1.1.2.0", Value::Oid(vec![1, 3, 6, 1, 2, 1, 33])),
            ("1.3.6.1.2.1.1.3.0", Value::TimeTicks(4_294_967_295)),
            ("1.3.6.1.2.1.33.1.2.4.0", Value::Integer(97)),
            ("1.3.6.1.2.1.33.1.2.6.0", Value::Integer(-125)),
            ("1.3.6.1.2.1.31.1.1.1.6.1", Value::Counter64(u64::MAX)),
            ("1.3.6.1.2.1.25.1.6.0", Value::Gauge32(4_000_000_000)),
        ]
        .into_iter()
        .map(|(name, value)| (ber::parse_oid(name).unwrap(), value))
        .collect();
        // A column long enough that one answer cannot hold it.
        for row in 1..=200 {
            tree.insert(vec![1, 3, 6, 1, 4, 1, 99, row], Value::Text(vec![b'x'; 20]));
        }
        tree
    }

    /// `snmpget` and its kin; `None` where they are not installed.
    fn net_snmp(command: &str, port: u16, rest: &[&str]) -> Option<String> {
        let ran = Command::new(command)
            .args(["-v2c", "-t", "2", "-r", "0", "-On", "-Oe", "-M", "/nonexistent", "-m", ""])
            .args(["-c", "public"])
            .arg(format!("127.0.0.1:{port}"))
            .args(rest)
            .output();
        match ran {
            Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(fault) if std::env::var("BCP_STRICT").is_ok_and(|strict| strict == "1") => {
                panic!("{command} cannot be run and BCP_STRICT=1: {fault}")
            }
            Err(fault) => {
                eprintln!("SKIPPED: {command} cannot be run ({fault}); install Debian's snmp");
                None
            }
        }
    }

    #[tokio::test]
    async fn net_snmp_reads_what_is_served() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let engine = Engine::new("device", User::new("nobody".to_owned(), String::new(), None, None));
        tokio::spawn(serve(socket, "public", engine, tree, Switch::default().condition()));
        tokio::task::spawn_blocking(move || {
            let get = |oid: &str| net_snmp("snmpget", port, &[oid]);
            let Some(charge) = get("1.3.6.1.2.1.33.1.2.4.0") else { return };
            assert_eq!(charge.trim(), ".1.3.6.1.2.1.33.1.2.4.0 = INTEGER: 97");
            assert_eq!(get("1.3.6.1.2.1.33.1.2.6.0").unwrap().trim(), ".1.3.6.1.2.1.33.1.2.6.0 = INTEGER: -125");
            assert!(get("1.3.6.1.2.1.31.1.1.1.6.1").unwrap().contains("Counter64: 18446744073709551615"));
            assert!(get("1.3.6.1.2.1.25.1.6.0").unwrap().contains("Gauge32: 4000000000"));
            assert!(get("1.3.6.1.2.1.1.3.0").unwrap().contains("(4294967295)"));
            assert!(get("1.3.6.1.2.1.1.2.0").unwrap().contains("OID: .1.3.6.1.2.1.33"));
            assert!(get("1.3.6.1.2.1.1.9.0").unwrap().contains("No Such"));
            for walk in ["snmpwalk", "snmpbulkwalk"] {
                let rows = net_snmp(walk, port, &["1.3.6.1.4.1.99"]).unwrap();
                assert_eq!(rows.matches("STRING").count(), 200, "{walk}");
            }
            assert_eq!(net_snmp("snmpbulkwalk", port, &["1.3.6.1.2"]).unwrap().lines().count(), 7);
        })
        .await
        .unwrap();
    }

    #[test]
    fn a_foreign_community_and_noise_get_no_answer() {
        let mut pair = Vec::new();
        ber::put_oid(&mut pair, &[1, 3, 6, 1, 2, 1, 1, 1, 0]);
        ber::put(&mut pair, ber::NULL, &[]);
        let (mut list, mut pdu, mut message, mut datagram) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        ber::put(&mut list, ber::SEQUENCE, &pair);
        [7, 0, 0].into_iter().for_each(|number| ber::put_integer(&mut pdu, number));
        ber::put(&mut pdu, ber::SEQUENCE, &list);
        ber::put_integer(&mut message, VERSION_2C);
        ber::put(&mut message, ber::OCTET_STRING, b"public");
        ber::put(&mut message, GET, &pdu);
        ber::put(&mut datagram, ber::SEQUENCE, &message);
        assert!(answer(&datagram, b"public", &tree()).is_some());
        assert!(answer(&datagram, b"private", &tree()).is_none());
        for end in 0..datagram.len() {
            assert!(answer(&datagram[..end], b"public", &tree()).is_none());
        }
    }
}
