//! The way to the devices at one address: made when needed, asked one question at a time.
//!
//! Knows: when a connection is given up, which silence a line needs. Refuses to know: what registers mean.
//!
//! Invariants:
//! * one request is under way at any time;
//! * over TCP a connection is dropped after a time-out or a broken frame, so a late answer reaches nobody; on a serial
//!   line, where nothing can be dropped, [`super::rtu`] sees to it;
//! * the number of registers of every answer is checked against the request before one is used.
//!
//! Cancel-safety: a dropped read leaves no connection with an answer under way, and a serial line that knows of it.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::config::Framing;
use super::rtu::{Owed, Rtu};
use super::serial::{self, PortError};
use super::tcp::Tcp;
use crate::plan::Block;
use crate::resolver::Resolver;

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it has not answered older questions yet")]
    Behind,
    #[error("connection lost: {0}")]
    Lost(#[source] io::Error),
    #[error("answer of another request or form: {0}")]
    Mismatch(String),
    #[error("answer with a wrong checksum or cut short ({bytes} bytes)")]
    Garbled { bytes: usize },
    #[error("answer of {got} instead of {want} values")]
    Length { got: usize, want: u16 },
    #[error("exception {code} ({})", exception_text(*code))]
    Exception { code: u8 },
}

const fn exception_text(code: u8) -> &'static str {
    match code {
        1 => "function not supported",
        2 => "illegal address",
        3 => "illegal value",
        4 => "device failure",
        5 => "acknowledged, takes longer",
        6 => "busy",
        8 => "memory parity",
        10 => "gateway has no path",
        11 => "device behind the gateway does not answer",
        _ => "unknown",
    }
}

/// Registers or bits of one block; bits come in whole bytes, up to seven more than were asked for.
#[derive(Debug)]
pub enum Data {
    Words(Vec<u16>),
    Bits(Vec<bool>),
}

/// Whom to ask, and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub unit: u8,
    pub timeout: Duration,
    /// Silence that the device needs between two requests, and after a connection was made.
    pub pause: Duration,
}

#[derive(Debug)]
enum Wire {
    Tcp(Tcp),
    Rtu(Box<Rtu>),
}

/// The connection or port, opened when needed.
pub struct Line {
    address: String,
    framing: Framing,
    wire: Option<Wire>,
    /// It has answered before: if it breaks now, it may merely have been idle for too long.
    proven: bool,
    quiet_since: Option<Instant>,
    owed: Owed,
    resolver: Resolver,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("address", &self.address)
            .field("framing", &self.framing)
            .field("connected", &self.wire.is_some())
            .finish_non_exhaustive()
    }
}

impl Line {
    #[must_use]
    pub fn new(address: String, framing: Framing) -> Line {
        Line {
            address,
            framing,
            wire: None,
            proven: false,
            quiet_since: None,
            owed: Owed::default(),
            resolver: Resolver::default(),
        }
    }

    pub fn find_with(&mut self, resolver: &Resolver) {
        self.resolver = resolver.clone();
    }

    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    #[must_use]
    pub const fn framing(&self) -> &Framing {
        &self.framing
    }

    /// One read. A connection that was idle for too long is made anew, once.
    ///
    /// # Errors
    /// Why there is no answer, or none that can be used.
    pub async fn read(&mut self, asked: Asked, block: &Block) -> Result<Data, ReadError> {
        let mut again = self.proven;
        loop {
            // Taken out: a read that is dropped half-way leaves no connection with an answer under way.
            let wire = match self.wire.take() {
                Some(wire) => wire,
                // Rare, and large: not a part of every poll.
                None => Box::pin(self.open(asked.timeout)).await?,
            };
            let silence = self.silence_left(asked.pause);
            if !silence.is_zero() {
                tokio::time::sleep(silence).await;
            }
            let (kept, read) = self.exchange(wire, asked, block).await;
            self.quiet_since = Some(Instant::now());
            self.wire = kept;
            self.proven = self.wire.is_some();
            match read {
                Err(ReadError::Lost(_)) if again => again = false,
                read => return read,
            }
        }
    }

    /// The answer, and the connection if it can be used again.
    async fn exchange(&mut self, wire: Wire, asked: Asked, block: &Block) -> (Option<Wire>, Result<Data, ReadError>) {
        match wire {
            Wire::Tcp(mut tcp) => {
                let read = tcp.read(asked, block).await;
                let sound = matches!(read, Ok(_) | Err(ReadError::Exception { .. }));
                (sound.then_some(Wire::Tcp(tcp)), read)
            }
            Wire::Rtu(mut rtu) => {
                let read = Box::pin(rtu.read(&mut self.owed, asked, block)).await;
                let sound = !matches!(read, Err(ReadError::Lost(_)));
                (sound.then_some(Wire::Rtu(rtu)), read)
            }
        }
    }

    async fn open(&mut self, timeout: Duration) -> Result<Wire, ReadError> {
        let wire = match &self.framing {
            Framing::Serial(line) => {
                let port = serial::open(&self.address, line)?;
                Wire::Rtu(Box::new(Rtu::new(Box::new(port), Some(*line))))
            }
            Framing::Tcp => Wire::Tcp(Tcp::new(connect(&self.address, &self.resolver, timeout).await?)),
            Framing::RtuOverTcp(line) => {
                let stream = connect(&self.address, &self.resolver, timeout).await?;
                Wire::Rtu(Box::new(Rtu::new(Box::new(stream), *line)))
            }
        };
        self.quiet_since = Some(Instant::now());
        Ok(wire)
    }

    /// What is left of the silence that the line, and the device, need.
    fn silence_left(&self, pause: Duration) -> Duration {
        let wanted = self.framing.line().map_or(pause, |line| pause.max(line.silence()));
        self.quiet_since.map_or(Duration::ZERO, |since| wanted.saturating_sub(since.elapsed()))
    }
}

/// A look-up has a time limit of its own: it comes before the device has been asked anything.
async fn connect(address: &str, resolver: &Resolver, timeout: Duration) -> Result<TcpStream, ReadError> {
    let addresses = resolver.addresses(address).await.map_err(|error| ReadError::Connect(error.into()))?;
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(ReadError::Connect(error)),
        Err(_) => return Err(ReadError::ConnectTimeout(timeout)),
    };
    stream.set_nodelay(true).map_err(ReadError::Connect)?;
    Ok(stream)
}
