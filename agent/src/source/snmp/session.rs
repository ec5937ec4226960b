//! One device's socket: which answer counts.
//!
//! Knows: request numbers, time limits, tries, what an answer must carry to be ours. Refuses to know: what is asked.
//!
//! Cancel-safety: a dropped exchange leaves a request unanswered; its number is never used again.

use std::io;
use std::time::{Duration, Instant};

use snmp2::{MessageType, Pdu};
use tokio::net::{UdpSocket, lookup_host};

use super::TOO_BIG;
use super::message::{Message, REQUEST_IDS};
use crate::config::SnmpLink;

/// Longest answer that is read; a longer one is cut by the socket, and asked again in halves.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Answers that are not the one waited for, per request: more is an attack or a broken device.
const MAX_STRAYS: u32 = 64;
/// Error status of RFC 3416 that is treated by itself.
const AUTHORIZATION_ERROR: u32 = 16;

/// Why a request gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot reach {address}")]
    Connect {
        address: String,
        #[source]
        cause: io::Error,
    },
    #[error("refused by the device's host")]
    Refused,
    #[error("no answer to {tries} requests of {timeout:?} each")]
    Timeout { tries: u32, timeout: Duration },
    #[error("answer cannot be read: {0}")]
    Malformed(String),
    #[error("the device refuses our credentials")]
    Auth,
    #[error("error {status} at variable {index}")]
    Status { status: u32, index: u32 },
}

/// Socket and numbers of a device, borrowed for a while.
pub(super) struct Session<'a> {
    pub(super) link: &'a SnmpLink,
    pub(super) socket: &'a mut Option<UdpSocket>,
    pub(super) next_id: &'a mut u32,
}

impl Session<'_> {
    /// Sends a message until it is answered, and gives what `read` makes of the answer.
    pub(super) async fn exchange<T>(
        &mut self,
        message: &mut Message,
        left: Duration,
        mut read: impl FnMut(&Pdu<'_>) -> T,
    ) -> Result<T, ReadError> {
        let start = Instant::now();
        let tries = u32::from(self.link.retries) + 1;
        for _ in 0..tries {
            let timeout = self.link.timeout.min(left.saturating_sub(start.elapsed()));
            if timeout.is_zero() {
                break;
            }
            let id = self.number();
            message.renumber(id);
            if self.socket.is_none() {
                *self.socket = Some(connect(&self.link.address).await?);
            }
            let Some(socket) = self.socket.as_ref() else { break };
            if let Err(error) = socket.send(&message.bytes).await {
                *self.socket = None;
                return Err(socket_error(&self.link.address, error));
            }
            let community = self.link.community.as_bytes();
            match tokio::time::timeout(timeout, answer(socket, id, community, &mut read)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    if matches!(error, ReadError::Connect { .. } | ReadError::Refused) {
                        *self.socket = None;
                    }
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        Err(ReadError::Timeout { tries, timeout: self.link.timeout })
    }

    fn number(&mut self) -> u32 {
        let id = *self.next_id;
        *self.next_id = if id + 1 < REQUEST_IDS.end { id + 1 } else { REQUEST_IDS.start };
        id
    }
}

async fn connect(address: &str) -> Result<UdpSocket, ReadError> {
    let failed = |cause| ReadError::Connect { address: address.to_owned(), cause };
    let target = lookup_host(address).await.map_err(failed)?.next();
    let target = target.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.map_err(failed)?;
    // Connected: datagrams of other senders never arrive, and "port unreachable" does.
    socket.connect(target).await.map_err(failed)?;
    Ok(socket)
}

fn socket_error(address: &str, cause: io::Error) -> ReadError {
    if cause.kind() == io::ErrorKind::ConnectionRefused {
        ReadError::Refused
    } else {
        ReadError::Connect { address: address.to_owned(), cause }
    }
}

/// Waits for the answer with this number.
async fn answer<T>(
    socket: &UdpSocket,
    id: u32,
    community: &[u8],
    read: &mut impl FnMut(&Pdu<'_>) -> T,
) -> Result<T, ReadError> {
    let mut strays = 0;
    let mut malformed = None;
    while strays < MAX_STRAYS {
        socket.readable().await.map_err(|error| socket_error("the device", error))?;
        match receive(socket, id, community, read) {
            Ok(Received::Answer(result)) => return result,
            Ok(Received::Stray) => strays += 1,
            Ok(Received::Malformed(why)) => {
                strays += 1;
                malformed = Some(why);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(socket_error("the device", error)),
        }
    }
    Err(ReadError::Malformed(malformed.unwrap_or_else(|| "too many answers to other questions".to_owned())))
}

enum Received<T> {
    Answer(Result<T, ReadError>),
    /// Late, or not for us.
    Stray,
    Malformed(String),
}

fn receive<T>(
    socket: &UdpSocket,
    id: u32,
    community: &[u8],
    read: &mut impl FnMut(&Pdu<'_>) -> T,
) -> io::Result<Received<T>> {
    let mut buffer = [0_u8; MAX_ANSWER_BYTES];
    let length = socket.try_recv(&mut buffer)?;
    if length == MAX_ANSWER_BYTES {
        // Cut off, so its number cannot be trusted either; but only our own device writes to this socket.
        return Ok(Received::Answer(Err(ReadError::Status { status: TOO_BIG, index: 0 })));
    }
    let pdu = match Pdu::from_bytes(buffer.get(..length).unwrap_or_default()) {
        Ok(pdu) => pdu,
        Err(error) => return Ok(Received::Malformed(error.to_string())),
    };
    let ours =
        pdu.message_type == MessageType::Response && u32::try_from(pdu.req_id) == Ok(id) && pdu.community == community;
    Ok(match (ours, pdu.error_status) {
        (false, _) => Received::Stray,
        (true, 0) => Received::Answer(Ok(read(&pdu))),
        (true, AUTHORIZATION_ERROR) => Received::Answer(Err(ReadError::Auth)),
        (true, status) => Received::Answer(Err(ReadError::Status { status, index: pdu.error_index })),
    })
}
