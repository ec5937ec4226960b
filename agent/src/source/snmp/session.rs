//! One device's socket: which answer counts.
//!
//! Knows: request numbers, time limits, tries, what an answer must carry to be ours, when the engine has to be asked
//! again. Refuses to know: what is asked.
//!
//! Invariant: an answer is used only if it carries the number of the request that is waited for, which is never used
//! twice, and the same community, or a right signature where the user has a key.
//!
//! Cancel-safety: a dropped exchange leaves a request unanswered; its number is never used again.

use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::TOO_BIG;
use super::bulk::Repetitions;
use super::config::{Access, SnmpLink};
use super::engine::{AuthFault, Engine};
use super::frame::{self, Letter, Stamp};
use super::judge::{Progress, Received, judge_community, judge_frame};
use super::message::{self, Message, Pdu, REQUEST_IDS, V1};
use crate::resolver::Resolver;

/// Longest answer that is read; a longer one is cut by the socket, and asked again in halves.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// What version 3 lets us tell the device about that.
const MAX_MESSAGE_SIZE: u32 = 16 * 1024 - 1;
/// Answers that are not the one waited for, per request: more is an attack or a broken device.
const MAX_STRAYS: u32 = 64;
/// Corrections of identity or time per request. One each is normal after a restart of the device.
const MAX_CORRECTIONS: u32 = 3;

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
    #[error(transparent)]
    Auth(#[from] AuthFault),
    #[error("error {status} at variable {index}")]
    Status { status: u32, index: u32 },
}

/// What is kept between requests to one device.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Option<UdpSocket>,
    next_id: u32,
    engine: Option<Engine>,
    /// Identity and boots of the last engine that was proven.
    last_engine: Option<(Vec<u8>, u32)>,
    /// How often the device was seen to have started anew, or to have become another one.
    pub(super) restarts: u64,
    /// Rows it bears in one answer.
    pub(super) repetitions: Repetitions,
    salt: u64,
    pub(super) resolver: Resolver,
}

impl Channel {
    pub(super) fn new() -> Channel {
        Channel {
            socket: None,
            next_id: rand::random_range(REQUEST_IDS),
            engine: None,
            last_engine: None,
            restarts: 0,
            repetitions: Repetitions::default(),
            salt: rand::random(),
            resolver: Resolver::default(),
        }
    }

    /// Identity of the engine that answered with a right signature.
    pub(super) fn engine_id(&self) -> Option<&[u8]> {
        self.last_engine.as_ref().map(|(id, _)| id.as_slice())
    }

    fn number(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = if id + 1 < REQUEST_IDS.end { id + 1 } else { REQUEST_IDS.start };
        id
    }

    async fn send(&mut self, address: &str, bytes: &[u8]) -> Result<(), ReadError> {
        if self.socket.is_none() {
            // Rare, and large: not a part of every poll.
            self.socket = Some(Box::pin(connect(address, &self.resolver)).await?);
        }
        let Some(socket) = self.socket.as_ref() else { return Err(ReadError::Refused) };
        if let Err(error) = socket.send(bytes).await {
            self.socket = None;
            return Err(socket_error(address, error));
        }
        Ok(())
    }

    /// Compares an engine that just proved itself with the one before.
    fn remember_engine(&mut self) {
        let Some(engine) = &self.engine else { return };
        if let Some((id, boots)) = &mut self.last_engine
            && *id == engine.id
        {
            if std::mem::replace(boots, engine.boots()) != engine.boots() {
                self.restarts += 1;
            }
            return;
        }
        if self.last_engine.replace((engine.id.clone(), engine.boots())).is_some() {
            self.restarts += 1;
        }
    }
}

/// A device's way and what is kept for it, borrowed for a while.
pub(super) struct Session<'a> {
    pub(super) link: &'a SnmpLink,
    pub(super) channel: &'a mut Channel,
}

/// A prepared request for these identifiers.
pub(super) fn prepare(link: &SnmpLink, kind: u8, oids: &[&[u8]], first: u32, second: u32) -> Message {
    let pdu = message::request(kind, oids, first, second);
    match &link.access {
        Access::V1 { community } => pdu.in_community(0, community.as_bytes()),
        Access::V2c { community } => pdu.in_community(1, community.as_bytes()),
        Access::V3(_) => pdu,
    }
}

impl Session<'_> {
    pub(super) const fn is_v1(&self) -> bool {
        matches!(self.link.access, Access::V1 { .. })
    }

    /// Sends a message until it is answered, and gives what `read` makes of the answer.
    pub(super) async fn exchange<T>(
        &mut self,
        message: &mut Message,
        left: Duration,
        mut read: impl FnMut(&Pdu<'_>) -> T,
    ) -> Result<T, ReadError> {
        let start = Instant::now();
        let tries = u32::from(self.link.retries) + 1;
        let mut progress = Progress::default();
        let mut made = 0;
        while made < tries {
            let timeout = self.link.timeout.min(left.saturating_sub(start.elapsed()));
            if timeout.is_zero() {
                break;
            }
            let id = self.channel.number();
            let sent = self.frame(message, id)?;
            self.channel.send(&self.link.address, sent.as_deref().unwrap_or(&message.bytes)).await?;
            match tokio::time::timeout(timeout, self.answer(id, &mut progress, &mut read)).await {
                Ok(Ok(Some(value))) => return Ok(value),
                Ok(Ok(None)) => {
                    progress.corrections += 1;
                    if progress.corrections > MAX_CORRECTIONS {
                        self.channel.engine = None;
                        return Err(AuthFault::Unsettled.into());
                    }
                }
                Ok(Err(error)) => return Err(self.failed(error)),
                Err(_) => made += 1,
            }
        }
        Err(self.silent(tries, progress))
    }

    /// The bytes to send, where they are not those of the message: a question of who the engine is, or a sealed one.
    fn frame(&mut self, message: &mut Message, id: u32) -> Result<Option<Vec<u8>>, ReadError> {
        message.renumber(id);
        let Access::V3(user) = &self.link.access else { return Ok(None) };
        let Some(engine) = &self.channel.engine else {
            return Ok(frame::who_are_you(id, MAX_MESSAGE_SIZE));
        };
        let (boots, time) = engine.now();
        let letter = Letter {
            message_id: id,
            stamp: Stamp { engine: &engine.id, boots, time },
            user: user.name.as_bytes(),
            context_engine: &engine.id,
            context: user.context.as_bytes(),
            pdu: &message.bytes,
            reportable: true,
            max_size: MAX_MESSAGE_SIZE,
        };
        self.channel.salt = self.channel.salt.wrapping_add(1);
        let sealed = frame::seal(&letter, &engine.keys, self.channel.salt);
        sealed.map(Some).ok_or(ReadError::Auth(AuthFault::WrongPrivacyKey))
    }

    fn failed(&mut self, error: ReadError) -> ReadError {
        match &error {
            ReadError::Connect { .. } | ReadError::Refused => self.channel.socket = None,
            // The next poll begins anew: the device may have been given other users meanwhile.
            ReadError::Auth(_) => self.channel.engine = None,
            _ => {}
        }
        error
    }

    /// Nothing that counts came: what that means.
    fn silent(&mut self, tries: u32, progress: Progress) -> ReadError {
        let engine = self.channel.engine.take();
        if let Some(why) = progress.heard {
            return ReadError::Malformed(why);
        }
        // It says who it is, but does not answer what is encrypted for it.
        let mute = engine.is_some_and(|engine| engine.keys.encrypts() && !engine.proven);
        if progress.introduced && mute {
            return AuthFault::WrongPrivacyKey.into();
        }
        ReadError::Timeout { tries, timeout: self.link.timeout }
    }

    /// Waits for the answer with this number; `None` where the question has to be asked again.
    async fn answer<T>(
        &mut self,
        id: u32,
        progress: &mut Progress,
        read: &mut impl FnMut(&Pdu<'_>) -> T,
    ) -> Result<Option<T>, ReadError> {
        let mut strays = 0;
        while strays < MAX_STRAYS {
            let Some(socket) = self.channel.socket.as_ref() else { return Err(ReadError::Refused) };
            socket.readable().await.map_err(|error| socket_error(&self.link.address, error))?;
            let received = match self.receive(id, progress, read) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(socket_error(&self.link.address, error)),
            };
            match received {
                Received::Answer(value) => {
                    // Nothing more is expected: without this the next wait would begin with a look in vain. What comes
                    // after it wakes the socket again.
                    if let Some(socket) = &self.channel.socket {
                        let _: io::Result<()> =
                            socket.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
                    }
                    return Ok(Some(value));
                }
                Received::Corrected => return Ok(None),
                Received::Failed(error) => return Err(error),
                Received::Stray => strays += 1,
                Received::Malformed(why) => {
                    strays += 1;
                    progress.heard = Some(why);
                }
            }
        }
        Err(ReadError::Malformed(
            progress.heard.take().unwrap_or_else(|| "too many answers to other questions".to_owned()),
        ))
    }

    fn receive<T>(
        &mut self,
        id: u32,
        progress: &mut Progress,
        read: &mut impl FnMut(&Pdu<'_>) -> T,
    ) -> io::Result<Received<T>> {
        // On the stack, for no longer than this call; never written all over, because most answers are short.
        let mut buffer = [MaybeUninit::uninit(); MAX_ANSWER_BYTES];
        let Some(socket) = self.channel.socket.as_ref() else { return Err(io::ErrorKind::NotConnected.into()) };
        let ((bytes, _), length) =
            socket.try_io(Interest::READABLE, || Ok(recv(socket, &mut buffer[..], RecvFlags::empty())?))?;
        let bytes: &[u8] = bytes;
        if length >= MAX_ANSWER_BYTES {
            // Cut off, so its number cannot be trusted either; but only our own device writes to this socket.
            return Ok(Received::Failed(ReadError::Status { status: TOO_BIG, index: 0 }));
        }
        Ok(match &self.link.access {
            Access::V1 { community } => judge_community(bytes, id, V1, community, read),
            Access::V2c { community } => judge_community(bytes, id, message::V2C, community, read),
            Access::V3(user) => {
                let received = judge_frame(bytes, id, user, &mut self.channel.engine, progress, read);
                if matches!(received, Received::Answer(_)) {
                    self.channel.remember_engine();
                }
                received
            }
        })
    }
}

async fn connect(address: &str, resolver: &Resolver) -> Result<UdpSocket, ReadError> {
    let failed = |cause| ReadError::Connect { address: address.to_owned(), cause };
    let found = resolver.addresses(address).await.map_err(|error| failed(error.into()))?;
    let target = *found.first().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
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

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
