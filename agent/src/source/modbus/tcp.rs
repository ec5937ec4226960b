//! One read over Modbus TCP (MODBUS Messaging on TCP/IP 1.0b, 3.1).
//!
//! Knows: how a request is framed, and how an answer is matched to it: by its number, its unit and its function. Refuses
//! to know: when a connection is made or given up.
//!
//! Invariant: an answer is used only with the number of the request that is under way.

use std::{fmt, io};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{read_answer, read_request};
use super::line::{Asked, Data, ReadError};
use super::rtu::Stream;
use crate::plan::Block;

/// Number, protocol, length of what follows.
const PREFIX_BYTES: usize = 6;
/// Prefix and unit.
const HEADER_BYTES: usize = 7;
/// Header and 253 bytes of PDU.
const MAX_MESSAGE_BYTES: usize = 260;

/// A connection.
pub struct Tcp {
    stream: Box<dyn Stream>,
    next_number: u16,
    heard: Box<[u8; MAX_MESSAGE_BYTES]>,
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp").finish_non_exhaustive()
    }
}

impl Tcp {
    #[must_use]
    pub fn new(stream: impl Stream + 'static) -> Tcp {
        Tcp { stream: Box::new(stream), next_number: 0, heard: Box::new([0; MAX_MESSAGE_BYTES]) }
    }

    /// # Errors
    /// After anything but an exception the connection must not be used again.
    pub async fn read(&mut self, asked: Asked, block: &Block) -> Result<Data, ReadError> {
        tokio::time::timeout(asked.timeout, self.exchange(asked.unit, block))
            .await
            .unwrap_or(Err(ReadError::Timeout(asked.timeout)))
    }

    async fn exchange(&mut self, unit: u8, block: &Block) -> Result<Data, ReadError> {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.stream.write_all(&request(number, unit, block)).await.map_err(ReadError::Lost)?;
        // With room for more than the answer, one read tells as well that there is no more.
        let mut count = 0;
        loop {
            if let Some(message) = message(self.heard.get(..count).unwrap_or_default())? {
                return answer(message, number, unit, block);
            }
            match self.stream.read(self.heard.get_mut(count..).unwrap_or_default()).await {
                Ok(0) => return Err(ReadError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(more) => count += more,
                Err(error) => return Err(ReadError::Lost(error)),
            }
        }
    }
}

fn request(number: u16, unit: u8, block: &Block) -> [u8; 12] {
    let ([n1, n0], [function, a1, a0, c1, c0]) = (number.to_be_bytes(), read_request(block));
    [n1, n0, 0, 0, 0, 6, unit, function, a1, a0, c1, c0]
}

/// The message that begins these bytes, once all of it is there.
fn message(heard: &[u8]) -> Result<Option<&[u8]>, ReadError> {
    let Some([_, _, p1, p0, l1, l0]) = heard.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let (protocol, length) = (u16::from_be_bytes([*p1, *p0]), usize::from(u16::from_be_bytes([*l1, *l0])));
    if protocol != 0 {
        return Err(ReadError::Mismatch(format!("protocol {protocol}")));
    }
    // A unit, a function, and at least one byte: more than fits would never be complete.
    if !(3..=MAX_MESSAGE_BYTES - PREFIX_BYTES).contains(&length) {
        return Err(ReadError::Mismatch(format!("a message of {length} bytes")));
    }
    Ok(heard.get(..PREFIX_BYTES + length))
}

/// What a message says as the answer to a request.
fn answer(message: &[u8], number: u16, unit: u8, block: &Block) -> Result<Data, ReadError> {
    let Some(([n1, n0, _, _, _, _, from], pdu)) = message.split_first_chunk::<HEADER_BYTES>() else {
        return Err(ReadError::Mismatch("an empty message".to_owned()));
    };
    let got = u16::from_be_bytes([*n1, *n0]);
    if got != number {
        return Err(ReadError::Mismatch(format!("number {got} instead of {number}")));
    }
    if *from != unit {
        return Err(ReadError::Mismatch(format!("unit {from} answers instead of {unit}")));
    }
    read_answer(pdu, block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::Space;

    fn block() -> Block {
        Block { space: Space::Input, address: 0x6B, count: 2, items: 0..1 }
    }

    #[test]
    fn only_the_answer_with_our_number_and_unit_is_taken() {
        assert_eq!(request(0x1234, 9, &block()), [0x12, 0x34, 0, 0, 0, 6, 9, 4, 0, 0x6B, 0, 2]);
        let right = [0x12, 0x34, 0, 0, 0, 7, 9, 4, 4, 0xAE, 0x41, 0x56, 0x52];
        for cut in 0..right.len() {
            assert!(matches!(message(&right[..cut]), Ok(None)), "{cut} bytes are no message yet");
        }
        let longer = [&right[..], &[1, 2, 3]].concat();
        let read = |bytes: &[u8]| answer(message(bytes)?.unwrap(), 0x1234, 9, &block());
        for whole in [&right[..], &longer] {
            assert!(matches!(read(whole), Ok(Data::Words(words)) if words == [0xAE41, 0x5652]));
        }
        for (at, value) in [(1, 0x33), (2, 1), (4, 2), (5, 2), (6, 8), (7, 3)] {
            let mut wrong = right;
            wrong[at] = value;
            assert!(matches!(read(&wrong), Err(ReadError::Mismatch(_))), "byte {at}");
        }
        let refused = [0x12, 0x34, 0, 0, 0, 3, 9, 0x84, 2];
        assert!(matches!(read(&refused), Err(ReadError::Exception { code: 2 })));
    }

    #[tokio::test]
    async fn an_answer_may_come_in_pieces_and_what_follows_it_is_left() {
        let (ours, mut theirs) = tokio::io::duplex(1_024);
        let mut tcp = Tcp::new(ours);
        let asked = Asked { unit: 1, timeout: std::time::Duration::from_secs(20), pause: std::time::Duration::ZERO };
        let device = async {
            for number in 0..2_u8 {
                let mut request = [0; 12];
                theirs.read_exact(&mut request).await.unwrap();
                assert_eq!(request[1], number);
                for piece in [&[0, number, 0][..], &[0, 0, 7, 1], &[4, 4, 0, 1], &[0, 2, 0xFF]] {
                    theirs.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        };
        let block = block();
        let (first, ()) = tokio::join!(
            async {
                let first = tcp.read(asked, &block).await;
                // What came behind the first answer was read with it; behind the second nobody looks.
                (first, tcp.read(asked, &block).await)
            },
            device
        );
        assert!(matches!(&first.0, Ok(Data::Words(words)) if *words == [1, 2]));
        assert!(matches!(&first.1, Ok(Data::Words(words)) if *words == [1, 2]), "{:?}", first.1);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(whole)) = message(&bytes) {
                let _ = answer(whole, 0, 1, &block());
            }
        }
    }
}
