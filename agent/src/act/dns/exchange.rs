//! Signed questions and updates to one name server, by TCP (RFC 1035 section 4.2.2).
//!
//! Knows: how an update and its prerequisites are written, and when an answer is the server's. Refuses to know: epochs.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use hickory_proto::op::update_message::UpdateMessage;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mark::Mark;
use super::{Algorithm, Dns, DnsError, name};

/// Seconds that the wall clocks may be apart (RFC 8945 section 10).
const FUDGE_S: u16 = 300;
/// A key file is one line.
const KEY_FILE_MAX: u64 = 4_096;

/// What `_bcp.NAME` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Nobody published yet.
    Nothing,
    Text(String),
}

/// A compare-and-set.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    pub name: &'a Name,
    pub mark_name: &'a Name,
    /// The mark as it was read.
    pub before: &'a Published,
    pub mark: &'a Mark,
}

/// A name server and the key by which we and it know each other.
pub struct Server {
    address: SocketAddr,
    zone: Name,
    signer: TSigner,
}

impl Server {
    /// # Errors
    /// The key cannot be used.
    pub fn new(config: &Dns) -> Result<Server, DnsError> {
        let path = || config.key_file.clone();
        let size =
            std::fs::metadata(&config.key_file).map_err(|source| DnsError::KeyFile { path: path(), source })?.len();
        if size > KEY_FILE_MAX {
            return Err(DnsError::KeyText { path: path() });
        }
        let text = std::fs::read_to_string(&config.key_file);
        let text = text.map_err(|source| DnsError::KeyFile { path: path(), source })?;
        let secret = base64::engine::general_purpose::STANDARD.decode(text.trim());
        let secret =
            secret.ok().filter(|secret| !secret.is_empty()).ok_or_else(|| DnsError::KeyText { path: path() })?;
        let algorithm = match config.algorithm {
            Algorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        };
        let signer = TSigner::new(secret, algorithm, name(&config.key)?, FUDGE_S);
        let signer = signer.map_err(|error| DnsError::Compose { why: error.to_string() })?;
        Ok(Server { address: config.server, zone: name(&config.zone)?, signer })
    }

    /// What is published at `at`.
    pub async fn mark(&self, at: &Name) -> Result<Published, DnsError> {
        let texts: Vec<String> = self.ask(at, RecordType::TXT).await?.into_iter().filter_map(text).collect();
        // More than one is nobody's mark; told as one text, it is foreign.
        Ok(if texts.is_empty() { Published::Nothing } else { Published::Text(texts.join(" | ")) })
    }

    /// The addresses at `at`.
    pub async fn addresses(&self, at: &Name) -> Result<BTreeSet<IpAddr>, DnsError> {
        let mut found = BTreeSet::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            found.extend(self.ask(at, kind).await?.into_iter().filter_map(|data| match data {
                RData::A(A(address)) => Some(IpAddr::V4(address)),
                RData::AAAA(AAAA(address)) => Some(IpAddr::V6(address)),
                _ => None,
            }));
        }
        Ok(found)
    }

    async fn ask(&self, at: &Name, kind: RecordType) -> Result<Vec<RData>, DnsError> {
        let mut message = Message::query();
        message.add_query(Query::query(at.clone(), kind));
        let answer = self.exchange(message).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError if !answer.metadata.authoritative => {
                Err(self.untrusted("it is not authoritative for the zone"))
            }
            ResponseCode::NoError => {
                let records =
                    answer.answers.into_iter().filter(|record| record.record_type() == kind && record.name == *at);
                Ok(records.map(|record| record.data).collect())
            }
            ResponseCode::NXDomain => Ok(Vec::new()),
            code => Err(DnsError::Refused { server: self.address, code }),
        }
    }

    /// The addresses and the mark, where the mark still is `before` (RFC 2136 sections 2.4 and 2.5).
    pub fn update(&self, update: &Update<'_>, addresses: &[IpAddr], ttl_s: u32) -> Result<Message, DnsError> {
        let Update { name: own_name, mark_name, before, mark } = *update;
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        let mut zone = Query::query(self.zone.clone(), RecordType::SOA);
        zone.set_query_class(DNSClass::IN);
        message.add_zone(zone);
        message.add_pre_requisite(match before {
            // Name is not in use.
            Published::Nothing => {
                let mut nothing = Record::update0(mark_name.clone(), 0, RecordType::ANY);
                nothing.dns_class = DNSClass::NONE;
                nothing
            }
            // RRset exists (value dependent).
            Published::Text(text) => txt(mark_name, 0, text)?,
        });
        for (at, kind) in [(mark_name, RecordType::TXT), (own_name, RecordType::A), (own_name, RecordType::AAAA)] {
            let mut delete = Record::update0(at.clone(), 0, kind);
            delete.dns_class = DNSClass::ANY;
            message.add_update(delete);
        }
        message.add_update(txt(mark_name, ttl_s, &mark.to_string())?);
        for address in addresses {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            };
            message.add_update(Record::from_rdata(own_name.clone(), ttl_s, data));
        }
        Ok(message)
    }

    /// Sends an update.
    ///
    /// # Errors
    /// No answer, or none that is the server's: whether the update was carried out is unknown.
    pub async fn send(&self, update: Message) -> Result<ResponseCode, DnsError> {
        Ok(self.exchange(update).await?.metadata.response_code)
    }

    async fn exchange(&self, mut message: Message) -> Result<Message, DnsError> {
        let compose = |error: hickory_proto::ProtoError| DnsError::Compose { why: error.to_string() };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut verifier = message.finalize(&self.signer, now_s).map_err(compose)?;
        let question = message.to_vec().map_err(compose)?;
        let bytes = self.talk(&question).await.map_err(|source| DnsError::Exchange { server: self.address, source })?;
        let answer = Message::from_vec(&bytes).map_err(|error| self.untrusted(&error.to_string()))?;
        if answer.metadata.id != message.metadata.id {
            return Err(self.untrusted("it answers another question"));
        }
        // A server that does not take the signature cannot sign its answer either.
        if let Some(error) = answer.signature().and_then(|signature| signature.data.error) {
            return Err(DnsError::Refused { server: self.address, code: code_of(error) });
        }
        let verifier = verifier.as_mut().ok_or_else(|| self.untrusted("it cannot be verified"))?;
        let verified = verifier.verify(&bytes).map_err(|error| self.untrusted(&error.to_string()))?;
        Ok(verified.into_message())
    }

    async fn talk(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(question);
        stream.write_all(&framed).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    fn untrusted(&self, why: &str) -> DnsError {
        DnsError::Answer { server: self.address, why: why.to_owned() }
    }
}

const fn code_of(error: TsigError) -> ResponseCode {
    match error {
        TsigError::BadSig => ResponseCode::BADSIG,
        TsigError::BadKey => ResponseCode::BADKEY,
        TsigError::BadTime => ResponseCode::BADTIME,
        TsigError::BadTrunc => ResponseCode::BADTRUNC,
        TsigError::Unknown(code) => ResponseCode::Unknown(code),
    }
}

/// A record of one text.
fn txt(at: &Name, ttl_s: u32, text: &str) -> Result<Record, DnsError> {
    // One character-string of the DNS; a mark is far shorter.
    if text.len() > 255 {
        return Err(DnsError::Compose { why: format!("a text of {} bytes does not fit in a record", text.len()) });
    }
    Ok(Record::from_rdata(at.clone(), ttl_s, RData::TXT(TXT::new(vec![text.to_owned()]))))
}

fn text(data: RData) -> Option<String> {
    let RData::TXT(txt) = data else { return None };
    let parts: Vec<String> = txt.txt_data.iter().map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    Some(parts.concat())
}
