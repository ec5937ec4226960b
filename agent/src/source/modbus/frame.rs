//! Frames of Modbus RTU (MODBUS over Serial Line 1.02, 2.5.1) and the requests inside them. Pure.
//!
//! Knows: checksums, how long an answer is, where one stands among noise. Refuses to know: sockets, time.
//!
//! Invariant: only bytes with a right checksum are a frame; no input panics.

use crate::plan::{Block, Space};

use super::line::{Data, ReadError};

/// Largest frame: unit, 253 bytes of PDU, checksum.
pub const MAX_FRAME_BYTES: usize = 256;
/// Smallest frame: unit, function, one byte, checksum.
pub const MIN_FRAME_BYTES: usize = 5;
/// Bytes of a read request.
pub const REQUEST_BYTES: usize = 8;

/// "Return query data": the one question whose answer can be no other one's.
const DIAGNOSTICS: u8 = 8;
/// Set in the function of an exception.
const EXCEPTION: u8 = 0x80;

/// An answer whose checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub unit: u8,
    /// Function and what follows, without the checksum.
    pub pdu: Vec<u8>,
}

impl Frame {
    #[must_use]
    pub fn function(&self) -> u8 {
        self.pdu.first().copied().unwrap_or(0) & !EXCEPTION
    }

    /// True of an answer to a read, be it an exception.
    #[must_use]
    pub fn is_of_read(&self) -> bool {
        matches!(self.function(), 1..=4)
    }

    /// True of an answer to [`echo_request`] with this number, or of a refusal to answer such questions.
    #[must_use]
    pub fn echoes(&self, number: u16) -> bool {
        match self.pdu.as_slice() {
            [DIAGNOSTICS, 0, 0, high, low] => u16::from_be_bytes([*high, *low]) == number,
            [function, _code] => *function == DIAGNOSTICS | EXCEPTION,
            _ => false,
        }
    }
}

/// CRC-16/MODBUS.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

/// A PDU as it goes over the line.
#[must_use]
pub fn sealed(unit: u8, pdu: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pdu.len() + 3);
    bytes.push(unit);
    bytes.extend_from_slice(pdu);
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

#[must_use]
pub const fn function_of(space: Space) -> u8 {
    match space {
        Space::Coil => 1,
        Space::Discrete => 2,
        Space::Holding => 3,
        Space::Input => 4,
    }
}

/// Asks for a block.
#[must_use]
pub fn read_request(block: &Block) -> [u8; 5] {
    let ([a1, a0], [c1, c0]) = (block.address.to_be_bytes(), block.count.to_be_bytes());
    [function_of(block.space), a1, a0, c1, c0]
}

/// Asks for this number back.
#[must_use]
pub const fn echo_request(number: u16) -> [u8; 5] {
    let [high, low] = number.to_be_bytes();
    [DIAGNOSTICS, 0, 0, high, low]
}

/// Data bytes of the right answer to a read.
#[must_use]
pub fn data_bytes(block: &Block) -> usize {
    let count = usize::from(block.count);
    if block.space.is_bits() { count.div_ceil(8) } else { 2 * count }
}

/// The first frame in these bytes and where it ends. Noise before it is passed over: lines pick some up whenever the
/// direction changes.
#[must_use]
pub fn find(bytes: &[u8]) -> Option<(Frame, usize)> {
    (0..bytes.len().saturating_sub(MIN_FRAME_BYTES - 1)).find_map(|from| {
        let rest = bytes.get(from..)?;
        let whole = rest.get(..length(rest)?)?;
        let (content, check) = whole.split_last_chunk::<2>()?;
        let (unit, pdu) = content.split_first()?;
        (checksum(content) == u16::from_le_bytes(*check))
            .then(|| (Frame { unit: *unit, pdu: pdu.to_vec() }, from + whole.len()))
    })
}

/// Length of the answer that begins here, if one does.
fn length(bytes: &[u8]) -> Option<usize> {
    match *bytes.get(1)? {
        1..=4 => Some(5 + usize::from(*bytes.get(2)?)).filter(|length| *length <= MAX_FRAME_BYTES),
        // Answers of fixed length that a confused device may give.
        5 | 6 | DIAGNOSTICS | 15 | 16 => Some(8),
        function if function & EXCEPTION != 0 => Some(MIN_FRAME_BYTES),
        _ => None,
    }
}

/// What the answer to the read of a block says.
///
/// # Errors
/// An exception, another function, or not as much as was asked for.
pub fn read_answer(pdu: &[u8], block: &Block) -> Result<Data, ReadError> {
    let function = function_of(block.space);
    let data = match pdu {
        [refused, code] if *refused == function | EXCEPTION => return Err(ReadError::Exception { code: *code }),
        [answered, _bytes, data @ ..] if *answered == function => data,
        _ => return Err(ReadError::Mismatch("another function".to_owned())),
    };
    if data.len() != data_bytes(block) {
        let got = if block.space.is_bits() { 8 * data.len() } else { data.len() / 2 };
        return Err(ReadError::Length { got, want: block.count });
    }
    Ok(if block.space.is_bits() {
        Data::Bits(data.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect())
    } else {
        Data::Words(data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(space: Space, count: u16) -> Block {
        Block { space, address: 0x6B, count, items: 0..1 }
    }

    #[test]
    fn frames_of_the_standard() {
        // MODBUS over Serial Line 1.02, 6.2.2: the checksum of 02 07 is 1241 on the wire (low byte 41 first).
        assert_eq!(sealed(2, &[7]), [2, 7, 0x41, 0x12]);
        assert_eq!(sealed(0x11, &read_request(&block(Space::Holding, 3))), [0x11, 3, 0, 0x6B, 0, 3, 0x76, 0x87]);
        let answer = sealed(0x11, &[3, 6, 0xAE, 0x41, 0x56, 0x52, 0x43, 0x40]);
        let (frame, end) = find(&answer).unwrap();
        assert_eq!((frame.unit, end), (0x11, answer.len()));
        assert!(matches!(read_answer(&frame.pdu, &block(Space::Holding, 3)),
            Ok(Data::Words(words)) if words == [0xAE41, 0x5652, 0x4340]));
        let bits = read_answer(&[1, 2, 0xCD, 0x01], &block(Space::Coil, 10)).unwrap();
        assert!(matches!(bits, Data::Bits(bits) if bits[..10].iter().filter(|bit| **bit).count() == 6 && bits[0]));
    }

    #[test]
    fn an_answer_is_found_behind_noise_and_never_with_a_wrong_checksum() {
        let answer = sealed(1, &[3, 2, 0x12, 0x34]);
        let noisy = [&[0x00, 0xFF, 1, 3][..], &answer, &[0]].concat();
        assert_eq!(find(&noisy).unwrap().1, 4 + answer.len());
        for at in 0..answer.len() {
            for bit in 0..8 {
                let mut broken = answer.clone();
                broken[at] ^= 1 << bit;
                assert_eq!(find(&broken), None, "bit {bit} of byte {at}");
            }
            assert_eq!(find(&answer[..at]), None);
        }
    }

    #[test]
    fn only_the_right_answer_is_taken() {
        let three = block(Space::Holding, 3);
        let fault = |pdu: &[u8]| read_answer(pdu, &three).unwrap_err();
        assert!(matches!(fault(&[0x83, 2]), ReadError::Exception { code: 2 }));
        assert!(matches!(fault(&[4, 6, 0, 0, 0, 0, 0, 0]), ReadError::Mismatch(_)));
        assert!(matches!(fault(&[3, 4, 0, 0, 0, 0]), ReadError::Length { got: 2, want: 3 }));
        assert!(matches!(fault(&[3, 8, 0, 0, 0, 0, 0, 0, 0, 0]), ReadError::Length { got: 4, want: 3 }));
        assert!(matches!(fault(&[]), ReadError::Mismatch(_)));
        let frame = |pdu: &[u8]| Frame { unit: 1, pdu: pdu.to_vec() };
        assert!(frame(&[8, 0, 0, 0x12, 0x34]).echoes(0x1234) && frame(&[0x88, 1]).echoes(7));
        assert!(!frame(&[8, 0, 0, 0x12, 0x34]).echoes(0x1235) && !frame(&[0x83, 1]).echoes(7));
        assert!(frame(&[0x83, 1]).is_of_read() && !frame(&[0x88, 1]).is_of_read());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_whatever_is_found_has_its_checksum(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some((frame, end)) = find(&bytes) {
                let whole = sealed(frame.unit, &frame.pdu);
                prop_assert_eq!(&bytes[end - whole.len()..end], &whole[..]);
                for space in [Space::Holding, Space::Coil] {
                    let _ = read_answer(&frame.pdu, &block(space, 2));
                }
            }
        }
    }
}
