//! Who a Modbus TCP device says it is: FC 0x2B/0x0E, and the header of SunSpec.
//!
//! Knows: these two questions and their answers. Refuses to know: profiles. Only reads.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer of Modbus TCP after its header.
const MAX_PDU_BYTES: usize = 253;
/// Texts of a device's identity that are kept.
const MAX_OBJECTS: usize = 8;
/// Where a SunSpec map may begin.
const SUNSPEC_BASES: [u16; 3] = [40_000, 0, 50_000];
const SUNSPEC_MARK: &[u8] = b"SunS";
/// Stands where the next model's number would.
const END_OF_MODELS: u16 = 0xFFFF;
/// Devices have up to some twenty; a longer chain is none.
const MAX_MODELS: usize = 64;
/// Registers from the mark to the end of the common model's texts: maker, model, options, version, serial number.
const SUNSPEC_COMMON: u16 = 2 + 2 + 16 + 16 + 8 + 8 + 16;

/// What a device says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor, product, revision and others, in the order of their object numbers.
    pub texts: Vec<String>,
    pub sunspec: Option<SunSpecMap>,
}

/// What stands where on a SunSpec device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SunSpecMap {
    /// Address of the mark.
    pub base: u16,
    /// Models in their order: number, and the address it stands at.
    pub models: Vec<(u16, u16)>,
}

/// Asks one unit. `None` where nothing answers in Modbus; an exception is an answer too.
pub async fn identify(address: &str, unit: u8, timeout: Duration) -> Option<Identity> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address)).await.ok()?.ok()?;
    let mut line = Line { stream, unit, timeout, number: 0 };
    let mut identity = Identity::default();
    let mut answered = false;
    if let Some(pdu) = line.ask(&[0x2B, 0x0E, 1, 0]).await {
        answered = true;
        identity.texts = read_identity(&pdu).unwrap_or_default();
    }
    for base in SUNSPEC_BASES {
        let [high, low] = base.to_be_bytes();
        let Some(pdu) = line.ask(&[3, high, low, 0, 2]).await else { break };
        answered = true;
        if pdu.get(2..) != Some(SUNSPEC_MARK) {
            continue;
        }
        let [_, count] = SUNSPEC_COMMON.to_be_bytes();
        if let Some(common) = line.ask(&[3, high, low, 0, count]).await {
            identity.texts.extend(read_common(&common));
        }
        identity.sunspec = Some(SunSpecMap { base, models: line.models(base).await });
        break;
    }
    answered.then_some(identity)
}

struct Line {
    stream: TcpStream,
    unit: u8,
    timeout: Duration,
    number: u16,
}

impl Line {
    /// Follows the chain of models behind the mark: each says how long it is.
    async fn models(&mut self, base: u16) -> Vec<(u16, u16)> {
        let mut models = Vec::new();
        let mut at = base.checked_add(2);
        while let Some(place) = at.filter(|_| models.len() < MAX_MODELS) {
            let [high, low] = place.to_be_bytes();
            let Some(pdu) = self.ask(&[3, high, low, 0, 2]).await else { break };
            let [3, 4, i1, i0, l1, l0] = pdu[..] else { break };
            let (model, length) = (u16::from_be_bytes([i1, i0]), u16::from_be_bytes([l1, l0]));
            if model == END_OF_MODELS {
                break;
            }
            models.push((model, place));
            at = place.checked_add(2).and_then(|place| place.checked_add(length));
        }
        models
    }

    /// One request and its answer, exceptions included. `None`: silence or nonsense, after which nothing is asked.
    async fn ask(&mut self, pdu: &[u8]) -> Option<Vec<u8>> {
        self.number += 1;
        let number = self.number.to_be_bytes();
        let length = u16::try_from(pdu.len() + 1).ok()?.to_be_bytes();
        let frame = [&number[..], &[0, 0], &length, &[self.unit], pdu].concat();
        let exchange = async {
            self.stream.write_all(&frame).await.ok()?;
            let mut header = [0; 7];
            self.stream.read_exact(&mut header).await.ok()?;
            let length = usize::from(u16::from_be_bytes([header[4], header[5]])).checked_sub(1)?;
            let sound = header[..2] == number && header[2..4] == [0, 0] && header[6] == self.unit;
            if !sound || length == 0 || length > MAX_PDU_BYTES {
                return None;
            }
            let mut answer = vec![0; length];
            self.stream.read_exact(&mut answer).await.ok()?;
            (answer.first().is_some_and(|function| function & 0x7F == pdu[0])).then_some(answer)
        };
        tokio::time::timeout(self.timeout, exchange).await.ok().flatten()
    }
}

/// Texts of an answer to FC 0x2B/0x0E.
#[must_use]
pub fn read_identity(pdu: &[u8]) -> Option<Vec<String>> {
    let [0x2B, 0x0E, _code, _level, _more, _next, count, rest @ ..] = pdu else { return None };
    let mut rest = rest;
    let mut texts = Vec::new();
    for _ in 0..usize::from(*count).min(MAX_OBJECTS) {
        let [_id, length, tail @ ..] = rest else { break };
        let Some(text) = tail.get(..usize::from(*length)) else { break };
        texts.push(printable(text));
        rest = tail.get(usize::from(*length)..).unwrap_or_default();
    }
    Some(texts)
}

/// Maker, model and version of a SunSpec common model, mark included.
#[must_use]
pub fn read_common(pdu: &[u8]) -> Vec<String> {
    let bytes = pdu.get(2..).unwrap_or_default();
    let text = |from: usize, registers: usize| bytes.get(2 * from..2 * (from + registers)).map(printable);
    // After mark, model number and length; options are left out.
    [text(4, 16), text(20, 16), text(44, 8)].into_iter().flatten().filter(|text| !text.is_empty()).collect()
}

fn printable(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    text.trim().chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identities_are_read() {
        let pdu = [&[0x2B, 0x0E, 1, 1, 0, 0, 2, 0, 4][..], b"ACME", &[1, 3], b"X-1"].concat();
        assert_eq!(read_identity(&pdu), Some(vec!["ACME".to_owned(), "X-1".to_owned()]));
        assert_eq!(read_identity(&[0xAB, 1]), None);
        let mut common = vec![3, 0];
        common.extend_from_slice(b"SunS");
        common.extend_from_slice(&[0, 1, 0, 66]);
        for text in ["Maker", "Model", "", "1.2"] {
            let registers = if text.is_empty() || text == "1.2" { 8 } else { 16 };
            let mut field = text.as_bytes().to_vec();
            field.resize(2 * registers, 0);
            common.extend(field);
        }
        assert_eq!(read_common(&common), ["Maker", "Model", "1.2"]);
    }

    proptest! {
        #[test]
        fn no_answer_panics(pdu in proptest::collection::vec(any::<u8>(), 0..260), tail in any::<bool>()) {
            let _ = read_common(&pdu);
            let _ = read_identity(&pdu);
            if tail {
                let _ = read_identity(&[&[0x2B, 0x0E, 1, 1, 0, 0], pdu.as_slice()].concat());
            }
        }
    }
}
