//! A Modbus server (Modbus Messaging on TCP/IP 1.0b, MODBUS over Serial Line 1.02): functions 1 to 4, and 8, 0.
//!
//! Knows: four address spaces, as they are at the moment of the request, and faults. An address that is not mapped is answered with
//! exception 2, as a real device does. Refuses to know: where the values come from.
//! Tasks: one per listener, one per connection; a connection that says nothing for a minute is closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bcp_agent::source::modbus::frame::sealed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::fault::{Condition, Fault};

/// The mapped addresses of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    pub coils: BTreeMap<u16, bool>,
    pub discrete: BTreeMap<u16, bool>,
    pub holding: BTreeMap<u16, u16>,
    pub input: BTreeMap<u16, u16>,
}

/// Small field devices carry a handful of masters.
const MAX_CONNECTIONS: usize = 16;
/// A silent master is taken for gone.
const IDLE: Duration = Duration::from_secs(60);
/// Longest body behind the MBAP header: unit and PDU.
const MAX_BODY_BYTES: usize = 254;

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

/// The answer PDU to a request PDU.
#[must_use]
pub fn answer(request: &[u8], image: &Image) -> Vec<u8> {
    let function = request.first().copied().unwrap_or(0);
    if let [8, 0, 0, _, _] = request {
        return request.to_vec();
    }
    match read(request, image) {
        Ok(data) => {
            // At most 250 bytes: the counts are checked in `read`.
            let mut answer = vec![function, u8::try_from(data.len()).unwrap_or(0)];
            answer.extend(data);
            answer
        }
        Err(exception) => vec![function | 0x80, exception],
    }
}

fn read(request: &[u8], image: &Image) -> Result<Vec<u8>, u8> {
    let &[function, a1, a0, c1, c0] = request else {
        let known = matches!(request.first(), Some(1..=4));
        return Err(if known { ILLEGAL_VALUE } else { ILLEGAL_FUNCTION });
    };
    let (address, count) = (u16::from_be_bytes([a1, a0]), u16::from_be_bytes([c1, c0]));
    match function {
        1 => bits(&image.coils, address, count),
        2 => bits(&image.discrete, address, count),
        3 => registers(&image.holding, address, count),
        4 => registers(&image.input, address, count),
        _ => Err(ILLEGAL_FUNCTION),
    }
}

fn range(address: u16, count: u16, most: u16) -> Result<std::ops::RangeInclusive<u16>, u8> {
    if !(1..=most).contains(&count) {
        return Err(ILLEGAL_VALUE);
    }
    let last = address.checked_add(count - 1).ok_or(ILLEGAL_ADDRESS)?;
    Ok(address..=last)
}

fn registers(space: &BTreeMap<u16, u16>, address: u16, count: u16) -> Result<Vec<u8>, u8> {
    let mut data = Vec::new();
    for address in range(address, count, 125)? {
        data.extend(space.get(&address).ok_or(ILLEGAL_ADDRESS)?.to_be_bytes());
    }
    Ok(data)
}

fn bits(space: &BTreeMap<u16, bool>, address: u16, count: u16) -> Result<Vec<u8>, u8> {
    let mut data = vec![0; usize::from(count).div_ceil(8)];
    for (index, address) in range(address, count, 2_000)?.enumerate() {
        if *space.get(&address).ok_or(ILLEGAL_ADDRESS)? {
            data[index / 8] |= 1 << (index % 8);
        }
    }
    Ok(data)
}

/// How requests and answers are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Tcp,
    /// As a converter hands on the bytes of a serial line.
    Rtu,
}

/// Serves until the task is aborted.
pub async fn serve<I>(listener: TcpListener, framing: Framing, image: I, condition: watch::Receiver<Condition>)
where
    I: Fn() -> Image + Send + Sync + 'static,
{
    let (image, open) = (Arc::new(image), Arc::new(AtomicUsize::new(0)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        // One that is away closes at once: what a converter does whose line is dead.
        if condition.borrow().is_away() {
            continue;
        }
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (image, open, mut condition) = (Arc::clone(&image), Arc::clone(&open), condition.clone());
        tokio::spawn(async move {
            let boots = condition.borrow().boots;
            let served = connection(stream, framing, &*image, condition.clone());
            tokio::select! {
                biased;
                _ = condition.wait_for(|now| now.boots != boots) => {}
                _ = served => {}
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// A request as it came: what it is answered with, by Modbus TCP the transaction, and whom it is for.
struct Request {
    transaction: [u8; 2],
    unit: u8,
    pdu: Vec<u8>,
}

async fn connection(
    mut stream: TcpStream,
    framing: Framing,
    image: &(impl Fn() -> Image + Sync),
    condition: watch::Receiver<Condition>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        // Where the framing is lost, a real device closes too.
        let Some(request) = tokio::time::timeout(IDLE, next(&mut stream, framing)).await?? else { return Ok(()) };
        let fault = condition.borrow().fault;
        if let Some(Fault::Late(delay)) = fault {
            tokio::time::sleep(delay).await;
        }
        if fault == Some(Fault::HalfOpen) {
            continue;
        }
        let pdu = spoilt(answer(&request.pdu, &image()), fault);
        let unit = if fault == Some(Fault::WrongUnit) { request.unit.wrapping_add(1) } else { request.unit };
        let out = match framing {
            Framing::Tcp => {
                let length = u16::try_from(pdu.len() + 1).unwrap_or(0).to_be_bytes();
                [&request.transaction[..], &[0, 0], &length, &[unit], &pdu].concat()
            }
            Framing::Rtu => {
                let mut bytes = sealed(unit, &pdu);
                if let Some(last) = bytes.last_mut().filter(|_| fault == Some(Fault::Crc)) {
                    *last ^= 0x55;
                }
                bytes
            }
        };
        stream.write_all(&out).await?;
    }
}

/// The next request; `None` where what came is none.
async fn next(stream: &mut TcpStream, framing: Framing) -> std::io::Result<Option<Request>> {
    match framing {
        Framing::Tcp => {
            let mut header = [0; 6];
            stream.read_exact(&mut header).await?;
            let [t1, t0, p1, p0, l1, l0] = header;
            let length = usize::from(u16::from_be_bytes([l1, l0]));
            if (p1, p0) != (0, 0) || !(2..=MAX_BODY_BYTES).contains(&length) {
                return Ok(None);
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            Ok(Some(Request { transaction: [t1, t0], unit: body[0], pdu: body[1..].to_vec() }))
        }
        Framing::Rtu => {
            // Reads and diagnostics are all of eight bytes.
            let mut request = [0; 8];
            stream.read_exact(&mut request).await?;
            let [unit, pdu @ .., _, _] = &request;
            let sound = sealed(*unit, pdu) == request;
            Ok(sound.then(|| Request { transaction: [0, 0], unit: *unit, pdu: pdu.to_vec() }))
        }
    }
}

/// An answer as a device with this fault gives it.
fn spoilt(mut pdu: Vec<u8>, fault: Option<Fault>) -> Vec<u8> {
    let is_data = matches!(pdu.first(), Some(1..=4));
    match fault {
        Some(Fault::Exception(code)) => vec![pdu.first().copied().unwrap_or(0) | 0x80, code],
        Some(Fault::WrongFunction) if is_data => {
            pdu[0] ^= 0b111;
            pdu
        }
        Some(Fault::Short) if is_data && pdu.len() > 3 => {
            pdu.truncate(pdu.len() - 2);
            pdu[1] -= 2;
            pdu
        }
        Some(Fault::Long) if is_data && pdu[1] <= 248 => {
            pdu.extend([0, 0]);
            pdu[1] += 2;
            pdu
        }
        _ => pdu,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Switch;
    use super::*;

    fn image() -> Image {
        Image {
            holding: [(2, 0x1234), (3, 0xffff)].into(),
            input: [(0, 1), (1, 2)].into(),
            coils: (0..10).map(|address| (address, address % 3 == 0)).collect(),
            discrete: BTreeMap::new(),
        }
    }

    #[test]
    fn mapped_addresses_are_read_and_others_are_exceptions() {
        assert_eq!(answer(&[3, 0, 2, 0, 2], &image()), [3, 4, 0x12, 0x34, 0xff, 0xff]);
        assert_eq!(answer(&[4, 0, 0, 0, 2], &image()), [4, 4, 0, 1, 0, 2]);
        assert_eq!(answer(&[1, 0, 0, 0, 10], &image()), [1, 2, 0b0100_1001, 0b10]);
        assert_eq!(answer(&[3, 0, 1, 0, 2], &image()), [0x83, ILLEGAL_ADDRESS]);
        assert_eq!(answer(&[3, 0xff, 0xff, 0, 2], &image()), [0x83, ILLEGAL_ADDRESS]);
        assert_eq!(answer(&[3, 0, 2, 0, 0], &image()), [0x83, ILLEGAL_VALUE]);
        assert_eq!(answer(&[3, 0, 2, 0, 126], &image()), [0x83, ILLEGAL_VALUE]);
        assert_eq!(answer(&[3, 0, 2], &image()), [0x83, ILLEGAL_VALUE]);
        assert_eq!(answer(&[6, 0, 2, 0, 1], &image()), [0x86, ILLEGAL_FUNCTION]);
        assert_eq!(answer(&[], &image()), [0x80, ILLEGAL_FUNCTION]);
    }

    #[tokio::test]
    async fn requests_are_answered_over_tcp_even_in_pieces() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let switch = Switch::default();
        tokio::spawn(serve(listener, Framing::Tcp, image, switch.condition()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        for piece in [&[0, 9, 0, 0][..], &[0, 6, 1, 3, 0], &[2, 0, 1]] {
            stream.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0, 9, 0, 0, 0, 5, 1, 3, 2, 0x12, 0x34]);
        stream.write_all(&[0, 9, 0, 1, 0, 6, 1, 3, 0, 2, 0, 1]).await.unwrap();
        let after = stream.read(&mut answer).await;
        assert!(matches!(after, Ok(0) | Err(_)), "a broken header closes the connection: {after:?}");
    }
}
