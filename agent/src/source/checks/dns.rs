//! One question to one name server (RFC 1035), by UDP.
//!
//! Knows: the few forms of a question for addresses. Refuses to know: caches and recursion; it asks one server, because
//! that server is what is checked.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use tokio::net::UdpSocket;

use super::{Tried, cause};
use crate::config::DnsProbe;

/// RFC 1035 section 4.2.1; a longer answer says it is cut, and its addresses so far are good.
const MAX_ANSWER_BYTES: usize = 512;
const HEADER_BYTES: usize = 12;
/// Most datagrams of others that are passed over while waiting.
const MAX_STRAYS: usize = 16;
/// Most records of an answer that are looked at.
const MAX_RECORDS: usize = 64;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

pub(super) async fn try_once(probe: &DnsProbe) -> Tried {
    let start = Instant::now();
    let id: u16 = rand::random();
    let question = match question(id, &probe.name, if probe.ipv6 { TYPE_AAAA } else { TYPE_A }) {
        Some(question) => question,
        None => return Tried::down(format!("`{}` is no name of the DNS", probe.name)),
    };
    let exchange = async {
        let any = if probe.server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(probe.server).await?;
        socket.send(&question).await?;
        let mut buffer = [0; MAX_ANSWER_BYTES];
        for _ in 0..MAX_STRAYS {
            let length = socket.recv(&mut buffer).await?;
            if let Some(answer) = read(buffer.get(..length).unwrap_or_default(), &question) {
                return Ok(answer);
            }
        }
        Err(std::io::Error::other("only answers to other questions"))
    };
    let answer = match tokio::time::timeout(probe.timeout, exchange).await {
        Err(_) => return Tried::down(format!("no answer within {:?}", probe.timeout)),
        Ok(Err(error)) => return Tried::down(cause(&error)),
        Ok(Ok(answer)) => answer,
    };
    let latency = Some(start.elapsed());
    let trouble = judge(&answer, &probe.expect);
    Tried { latency, ..trouble.map_or_else(Tried::up, Tried::down) }
}

fn judge(answer: &Answer, expect: &BTreeSet<IpAddr>) -> Option<String> {
    let words = |addresses: &BTreeSet<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match answer {
        Answer::Refused(code) => Some(format!("the server says {}", code_text(*code))),
        Answer::Addresses(found) if found.is_empty() => Some("the name has no address".to_owned()),
        Answer::Addresses(found) if !expect.is_empty() && found != expect => {
            Some(format!("{} instead of {}", words(found), words(expect)))
        }
        Answer::Addresses(_) => None,
    }
}

const fn code_text(code: u8) -> &'static str {
    match code {
        1 => "the question is malformed",
        2 => "it failed",
        3 => "the name does not exist",
        4 => "it does not know such questions",
        5 => "it refuses",
        _ => "an error",
    }
}

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Addresses(BTreeSet<IpAddr>),
    Refused(u8),
}

/// A question with recursion desired; `None` for what is no name.
#[must_use]
pub fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + name.len() + 6);
    bytes.extend(id.to_be_bytes());
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    (bytes.len() <= HEADER_BYTES + 255 + 4).then_some(bytes)
}

fn be_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The answer to `question`; `None` where it is none.
#[must_use]
pub fn read(bytes: &[u8], question: &[u8]) -> Option<Answer> {
    let same_id = bytes.get(..2)? == question.get(..2)?;
    let asked = question.get(HEADER_BYTES..)?;
    let repeats = bytes.get(HEADER_BYTES..HEADER_BYTES + asked.len())?.eq_ignore_ascii_case(asked);
    let is_answer = bytes.get(2)? & 0x80 != 0;
    if !(same_id && repeats && is_answer && be_u16(bytes, 4)? == 1) {
        return None;
    }
    let code = bytes.get(3)? & 0x0F;
    if code != 0 {
        return Some(Answer::Refused(code));
    }
    let mut found = BTreeSet::new();
    let mut at = HEADER_BYTES + asked.len();
    for _ in 0..usize::from(be_u16(bytes, 6)?).min(MAX_RECORDS) {
        // What is cut off or broken ends the list; what came before it stands.
        let Some((kind, data, next)) = record(bytes, at) else { break };
        match kind {
            TYPE_A => found.extend(<[u8; 4]>::try_from(data).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))),
            TYPE_AAAA => found.extend(<[u8; 16]>::try_from(data).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))),
            _ => {}
        }
        at = next;
    }
    Some(Answer::Addresses(found))
}

/// Type and data of the record at `at`, and where the next one begins.
fn record(bytes: &[u8], at: usize) -> Option<(u16, &[u8], usize)> {
    let after_name = skip_name(bytes, at)?;
    let kind = be_u16(bytes, after_name)?;
    let from = after_name + 10;
    let until = from + usize::from(be_u16(bytes, after_name + 8)?);
    Some((kind, bytes.get(from..until)?, until))
}

/// A name ends with a zero or with a reference to another place, which need not be followed here.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            reference if reference & 0xC0 == 0xC0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An answer with these records to the question, by reference to its name.
    fn answer(question: &[u8], code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[2] |= 0x80;
        bytes[3] = code;
        bytes[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            bytes.extend([0xC0, 12]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60]);
            bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(*data);
        }
        bytes
    }

    fn probe(server: std::net::SocketAddr, expect: &[&str]) -> DnsProbe {
        DnsProbe {
            server,
            name: "Portal.Example.org".to_owned(),
            ipv6: false,
            expect: expect.iter().map(|text| text.parse().unwrap()).collect(),
            timeout: std::time::Duration::from_millis(300),
        }
    }

    /// Type and data of a resource record.
    type Record = (u16, &'static [u8]);

    #[tokio::test]
    async fn a_server_is_asked_and_its_answer_judged() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let replies: [(u8, Vec<Record>); 4] = [
                (0, vec![(5, &[1, b'x', 0]), (TYPE_A, &[10, 0, 0, 5])]),
                (0, vec![(TYPE_A, &[10, 0, 0, 6])]),
                (3, vec![]),
                (0, vec![]),
            ];
            for (code, records) in replies {
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                let mut stray = answer(&buffer[..length], 0, &[]);
                stray[0] ^= 1;
                server.send_to(&stray, from).await.unwrap();
                server.send_to(&answer(&buffer[..length], code, &records), from).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let good = try_once(&probe(address, &["10.0.0.5"])).await;
        assert!(good.trouble.is_none() && good.latency.is_some());
        for want in ["10.0.0.6 instead of 10.0.0.5", "does not exist", "has no address", "no answer within"] {
            let tried = try_once(&probe(address, &["10.0.0.5"])).await;
            assert!(tried.trouble.as_deref().is_some_and(|t| t.contains(want)), "{:?}", tried.trouble);
        }
    }

    #[test]
    fn hostile_answers_are_no_answers() {
        let question = question(7, "a.example", TYPE_A).unwrap();
        let whole = answer(&question, 0, &[(TYPE_A, &[10, 0, 0, 1]), (TYPE_AAAA, &[0; 16])]);
        assert!(matches!(read(&whole, &question), Some(Answer::Addresses(found)) if found.len() == 2));
        for cut in 0..whole.len() {
            let _ = read(&whole[..cut], &question);
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x40, 0x80, 0xFF] {
                let mut bad = whole.clone();
                bad[at] ^= flip;
                let _ = read(&bad, &question);
            }
        }
        assert_eq!(super::question(7, &"x".repeat(64), TYPE_A), None);
        assert_eq!(super::question(7, "a..b", TYPE_A), None);
    }
}
