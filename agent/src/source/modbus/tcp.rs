//! One read over Modbus TCP.
//!
//! Knows: how an answer is matched to its request (the library does, by transaction number and unit). Refuses to know:
//! when a connection is made or given up.

use std::{fmt, io};

use tokio_modbus::client::{Client, Context, tcp};
use tokio_modbus::prelude::{Slave, SlaveContext};
use tokio_modbus::{Request, Response};

use super::line::{Asked, Data, ReadError};
use super::rtu::Stream;
use crate::plan::{Block, Space};

/// A connection.
pub struct Tcp {
    context: Context,
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp").finish_non_exhaustive()
    }
}

impl Tcp {
    #[must_use]
    pub fn new(stream: impl Stream + fmt::Debug + 'static) -> Tcp {
        Tcp { context: tcp::attach_slave(stream, Slave(0)) }
    }

    /// # Errors
    /// After anything but an exception the connection must not be used again.
    pub async fn read(&mut self, asked: Asked, block: &Block) -> Result<Data, ReadError> {
        self.context.set_slave(Slave(asked.unit));
        let (at, count) = (block.address, block.count);
        let request = match block.space {
            Space::Holding => Request::ReadHoldingRegisters(at, count),
            Space::Input => Request::ReadInputRegisters(at, count),
            Space::Coil => Request::ReadCoils(at, count),
            Space::Discrete => Request::ReadDiscreteInputs(at, count),
        };
        let answer = match tokio::time::timeout(asked.timeout, self.context.call(request)).await {
            Err(_) => return Err(ReadError::Timeout(asked.timeout)),
            Ok(Err(tokio_modbus::Error::Transport(error))) => return Err(broken(error)),
            Ok(Err(tokio_modbus::Error::Protocol(error))) => return Err(ReadError::Mismatch(error.to_string())),
            Ok(Ok(answer)) => answer,
        };
        match (block.space, answer) {
            (_, Err(code)) => Err(ReadError::Exception { code: u8::from(code) }),
            (Space::Holding, Ok(Response::ReadHoldingRegisters(words)))
            | (Space::Input, Ok(Response::ReadInputRegisters(words))) => {
                if words.len() != usize::from(count) {
                    return Err(ReadError::Length { got: words.len(), want: count });
                }
                Ok(Data::Words(words))
            }
            (Space::Coil, Ok(Response::ReadCoils(bits)))
            | (Space::Discrete, Ok(Response::ReadDiscreteInputs(bits))) => {
                if bits.len() != usize::from(count).next_multiple_of(8) {
                    return Err(ReadError::Length { got: bits.len(), want: count });
                }
                Ok(Data::Bits(bits))
            }
            (_, Ok(_)) => Err(ReadError::Mismatch("another function".to_owned())),
        }
    }
}

/// A frame that cannot be read is the device's fault, not the connection's.
fn broken(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => ReadError::Mismatch(error.to_string()),
        // The library reports an orderly close as "no error".
        _ if error.raw_os_error() == Some(0) => ReadError::Lost(io::ErrorKind::UnexpectedEof.into()),
        _ => ReadError::Lost(error),
    }
}
