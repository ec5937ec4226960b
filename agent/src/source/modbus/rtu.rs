//! One read over Modbus RTU, on a serial port or through a converter.
//!
//! An RTU answer carries no number: the answer to "read 100", if it comes late, looks like the answer to "read 200".
//! But a unit answers its questions in their order. So of each unit it is kept which questions it has not answered, and
//! none is asked while a read is among them: first its late answer has to be heard, or the answer to a question that was
//! asked after it and whose answer can be no other one's (function 8 with a number, or its refusal), or so much quiet
//! time has to pass that no answer will come.
//!
//! Knows: this, and when an answer counts as broken. Refuses to know: what registers mean.
//!
//! Invariants:
//! * of each unit at most one read and one other question are open, so every answer has one possible question;
//! * an answer is used only with a right checksum, of the unit and function that were asked;
//! * what is heard is bounded; whatever is no answer to the question under way is thrown away.
//!
//! Cancel-safety: a question is noted as open before it is sent.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::config::SerialLine;
use super::frame::{self, Frame, MAX_FRAME_BYTES, MIN_FRAME_BYTES, echo_request, read_request, sealed};
use super::line::{Asked, Data, ReadError};
use crate::plan::Block;

/// Silence within an answer after which it counts as over. Adapters and converters hand bytes on in lumps, up to
/// 16 ms apart; anything longer is not one frame.
const ANSWER_GAP: Duration = Duration::from_millis(50);
/// Bytes that are kept while waiting: a late answer, noise, and ours.
const MAX_HEARD_BYTES: usize = 4 * MAX_FRAME_BYTES;
/// An answer that is later than this many time limits, and this long, will not come at all.
const OWED_LIMITS: u32 = 4;
const OWED_AT_LEAST: Duration = Duration::from_secs(2);

/// Bytes to and from a line.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A question that a unit has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Read,
    Echo(u16),
}

/// Open questions of one unit, in their order, and when the last one was asked.
#[derive(Debug)]
struct Debt {
    open: Vec<Question>,
    asked: Instant,
}

/// Open questions of every unit. It outlives the connection: a converter hands late answers to the next one.
#[derive(Debug, Default)]
pub struct Owed(BTreeMap<u8, Debt>);

impl Owed {
    fn ask(&mut self, unit: u8, question: Question) {
        let now = Instant::now();
        let debt = self.0.entry(unit).or_insert_with(|| Debt { open: Vec::new(), asked: now });
        debt.open.push(question);
        debt.asked = now;
    }

    /// An answer settles its question and all before it: what was not answered in its turn never will be.
    fn answered(&mut self, frame: &Frame) {
        let Some(debt) = self.0.get_mut(&frame.unit) else { return };
        let settled = debt.open.iter().position(|question| match question {
            Question::Read => frame.is_of_read(),
            Question::Echo(number) => frame.echoes(*number),
        });
        if let Some(last) = settled {
            debt.open.drain(..=last);
        }
        if debt.open.is_empty() {
            self.0.remove(&frame.unit);
        }
    }

    /// Open questions, without those that nobody will answer any more.
    fn open(&mut self, unit: u8, timeout: Duration) -> &[Question] {
        let bound = (timeout * OWED_LIMITS).max(OWED_AT_LEAST);
        if self.0.get(&unit).is_some_and(|debt| debt.asked.elapsed() >= bound) {
            self.0.remove(&unit);
        }
        self.0.get(&unit).map(|debt| debt.open.as_slice()).unwrap_or_default()
    }
}

/// An open line.
pub struct Rtu {
    stream: Box<dyn Stream>,
    line: Option<SerialLine>,
    heard: Vec<u8>,
    next_number: u16,
}

impl fmt::Debug for Rtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtu").field("line", &self.line).finish_non_exhaustive()
    }
}

/// What came while waiting.
enum Heard {
    Frame(Frame),
    /// As many bytes that are no frame, and then nothing for a while.
    Garbled(usize),
    Nothing,
}

impl Rtu {
    #[must_use]
    pub fn new(stream: Box<dyn Stream>, line: Option<SerialLine>) -> Rtu {
        Rtu { stream, line, heard: Vec::with_capacity(MAX_FRAME_BYTES), next_number: rand::random() }
    }

    /// # Errors
    /// Why there is no answer that can be used. Only after [`ReadError::Lost`] is the line to be opened anew.
    pub async fn read(&mut self, owed: &mut Owed, asked: Asked, block: &Block) -> Result<Data, ReadError> {
        self.throw_away(owed)?;
        if owed.open(asked.unit, asked.timeout).contains(&Question::Read) {
            self.catch_up(owed, asked).await?;
        }
        let transfer = self.line.map_or(Duration::ZERO, |line| line.transfer_time(block));
        owed.ask(asked.unit, Question::Read);
        let deadline = self.send(&sealed(asked.unit, &read_request(block)), asked.timeout + transfer).await?;
        let (mut stranger, mut garbled) = (None, None);
        loop {
            match self.listen(deadline).await? {
                Heard::Frame(frame) => {
                    owed.answered(&frame);
                    if frame.unit == asked.unit && frame.is_of_read() {
                        return frame::read_answer(&frame.pdu, block);
                    }
                    stranger = stranger.or((frame.unit != asked.unit).then_some(frame.unit));
                }
                // Less than a frame is what a line picks up while the direction changes: ours may still come.
                Heard::Garbled(bytes) if bytes < MIN_FRAME_BYTES => garbled = Some(bytes),
                Heard::Garbled(bytes) => return Err(ReadError::Garbled { bytes }),
                Heard::Nothing => break,
            }
        }
        Err(match (stranger, garbled) {
            (Some(unit), _) => ReadError::Mismatch(format!("unit {unit} answers instead of {}", asked.unit)),
            (None, Some(bytes)) => ReadError::Garbled { bytes },
            (None, None) => ReadError::Timeout(asked.timeout),
        })
    }

    /// Makes sure that the unit has no read to answer any more.
    async fn catch_up(&mut self, owed: &mut Owed, asked: Asked) -> Result<(), ReadError> {
        if owed.open(asked.unit, asked.timeout) != [Question::Read] {
            // It has been asked already. Asking again would only make it harder to tell answers apart.
            return Err(ReadError::Behind);
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let question = sealed(asked.unit, &echo_request(number));
        let transfer = self.line.map_or(Duration::ZERO, |line| line.bytes_time(2 * question.len()));
        owed.ask(asked.unit, Question::Echo(number));
        let deadline = self.send(&question, asked.timeout + transfer).await?;
        while owed.open(asked.unit, asked.timeout).contains(&Question::Read) {
            match self.listen(deadline).await? {
                Heard::Frame(frame) => owed.answered(&frame),
                Heard::Garbled(_) => {}
                Heard::Nothing => return Err(ReadError::Timeout(asked.timeout)),
            }
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8], patience: Duration) -> Result<tokio::time::Instant, ReadError> {
        let deadline = tokio::time::Instant::now() + patience;
        match tokio::time::timeout_at(deadline, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(deadline),
            Ok(Err(error)) => Err(ReadError::Lost(error)),
            // Half a request may be on its way: the line has to be opened anew.
            Err(_) => Err(ReadError::Lost(io::ErrorKind::TimedOut.into())),
        }
    }

    /// The next frame, or that there is none.
    async fn listen(&mut self, deadline: tokio::time::Instant) -> Result<Heard, ReadError> {
        loop {
            if let Some((frame, end)) = frame::find(&self.heard) {
                self.heard.drain(..end);
                return Ok(Heard::Frame(frame));
            }
            let gap = ANSWER_GAP + self.line.map_or(Duration::ZERO, |line| line.silence());
            let until = if self.heard.is_empty() { deadline } else { deadline.min(tokio::time::Instant::now() + gap) };
            let mut bytes = [0; MAX_FRAME_BYTES];
            match tokio::time::timeout_at(until, self.stream.read(&mut bytes)).await {
                Ok(Ok(0)) => return Err(ReadError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(count)) => self.keep(bytes.get(..count).unwrap_or_default()),
                Ok(Err(error)) => return Err(ReadError::Lost(error)),
                Err(_) if self.heard.is_empty() => return Ok(Heard::Nothing),
                Err(_) => return Ok(Heard::Garbled(std::mem::take(&mut self.heard).len())),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        let surplus = self.heard.len().saturating_sub(MAX_HEARD_BYTES);
        self.heard.drain(..surplus);
    }

    /// What came between two requests is an answer to none, but may settle what a unit owed.
    fn throw_away(&mut self, owed: &mut Owed) -> Result<(), ReadError> {
        use futures::FutureExt;
        let mut bytes = [0; MAX_FRAME_BYTES];
        for _ in 0..MAX_HEARD_BYTES / MAX_FRAME_BYTES {
            match self.stream.read(&mut bytes).now_or_never() {
                None => break,
                Some(Ok(0)) => return Err(ReadError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Some(Ok(count)) => self.keep(bytes.get(..count).unwrap_or_default()),
                Some(Err(error)) => return Err(ReadError::Lost(error)),
            }
        }
        while let Some((frame, end)) = frame::find(&self.heard) {
            self.heard.drain(..end);
            owed.answered(&frame);
        }
        self.heard.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Space;
    use tokio::io::DuplexStream;

    /// For answers that come, and for those that do not.
    const PATIENT: Asked = Asked { unit: 1, timeout: Duration::from_secs(5), pause: Duration::ZERO };
    const SHORT: Asked = Asked { timeout: Duration::from_millis(100), ..PATIENT };

    fn block(address: u16) -> Block {
        Block { space: Space::Holding, address, count: 1, items: 0..1 }
    }

    fn value(unit: u8, value: u16) -> Vec<u8> {
        let [high, low] = value.to_be_bytes();
        sealed(unit, &[3, 2, high, low])
    }

    fn words(read: Result<Data, ReadError>) -> Vec<u16> {
        match read {
            Ok(Data::Words(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    fn line() -> (Rtu, DuplexStream, Owed) {
        let (ours, theirs) = tokio::io::duplex(1_024);
        (Rtu::new(Box::new(ours), None), theirs, Owed::default())
    }

    async fn question(far: &mut DuplexStream) -> [u8; 8] {
        let mut request = [0; 8];
        far.read_exact(&mut request).await.unwrap();
        request
    }

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_the_next() {
        let (mut rtu, mut far, mut owed) = line();
        assert!(matches!(rtu.read(&mut owed, SHORT, &block(100)).await, Err(ReadError::Timeout(_))));
        // The unit is slow: it answers the old question only when the new one is under way.
        let device = tokio::spawn(async move {
            assert_eq!(question(&mut far).await[2..4], 100_u16.to_be_bytes());
            let echo = question(&mut far).await;
            assert_eq!(echo[1], 8, "it is asked to catch up first");
            far.write_all(&value(1, 1)).await.unwrap();
            assert_eq!(question(&mut far).await[2..4], 200_u16.to_be_bytes());
            far.write_all(&echo).await.unwrap();
            far.write_all(&value(1, 2)).await.unwrap();
            far
        });
        assert_eq!(words(rtu.read(&mut owed, PATIENT, &block(200)).await), [2]);
        drop(device.await.unwrap());
    }

    #[tokio::test]
    async fn a_late_answer_that_comes_between_two_requests_settles_the_matter() {
        let (mut rtu, mut far, mut owed) = line();
        assert!(matches!(rtu.read(&mut owed, SHORT, &block(100)).await, Err(ReadError::Timeout(_))));
        question(&mut far).await;
        far.write_all(&value(1, 1)).await.unwrap();
        let device = tokio::spawn(async move {
            assert_eq!(question(&mut far).await[1], 3, "there is nothing to catch up with");
            far.write_all(&value(1, 2)).await.unwrap();
            far
        });
        assert_eq!(words(rtu.read(&mut owed, PATIENT, &block(200)).await), [2]);
        drop(device.await.unwrap());
    }

    #[tokio::test]
    async fn a_unit_that_refuses_the_question_is_in_step_and_a_mute_one_is_left_alone_for_a_while() {
        let (mut rtu, mut far, mut owed) = line();
        assert!(rtu.read(&mut owed, SHORT, &block(100)).await.is_err());
        question(&mut far).await;
        let device = tokio::spawn(async move {
            assert_eq!(question(&mut far).await[1], 8);
            far.write_all(&sealed(1, &[0x88, 1])).await.unwrap();
            question(&mut far).await;
            far.write_all(&value(1, 2)).await.unwrap();
            far
        });
        assert_eq!(words(rtu.read(&mut owed, PATIENT, &block(200)).await), [2]);
        let mut far = device.await.unwrap();
        assert!(rtu.read(&mut owed, SHORT, &block(100)).await.is_err());
        question(&mut far).await;
        assert!(rtu.read(&mut owed, SHORT, &block(200)).await.is_err());
        assert_eq!(question(&mut far).await[1], 8, "no value is asked of a unit that may still owe one");
        assert!(matches!(rtu.read(&mut owed, SHORT, &block(200)).await, Err(ReadError::Behind)), "nor asked once more");
        owed.0.values_mut().for_each(|debt| debt.asked = debt.asked.checked_sub(OWED_AT_LEAST).unwrap());
        let device = tokio::spawn(async move {
            assert_eq!(question(&mut far).await[1], 3);
            far.write_all(&value(1, 3)).await.unwrap();
            far
        });
        assert_eq!(
            words(rtu.read(&mut owed, Asked { timeout: OWED_AT_LEAST / OWED_LIMITS, ..PATIENT }, &block(300)).await),
            [3]
        );
        drop(device.await.unwrap());
    }

    #[tokio::test]
    async fn a_refusal_settles_only_what_was_asked_before_its_question() {
        let (mut rtu, mut far, mut owed) = line();
        let (asked, first) = (SHORT, block(100));
        assert!(rtu.read(&mut owed, asked, &first).await.is_err());
        assert!(rtu.read(&mut owed, asked, &first).await.is_err());
        for function in [3, 8] {
            assert_eq!(question(&mut far).await[1], function);
        }
        // The late answer to the read; the refusal of the other question is still to come.
        far.write_all(&value(1, 1)).await.unwrap();
        assert!(matches!(rtu.read(&mut owed, asked, &block(200)).await, Err(ReadError::Timeout(_))));
        assert_eq!(question(&mut far).await[2..4], 200_u16.to_be_bytes());
        far.write_all(&sealed(1, &[0x88, 1])).await.unwrap();
        let device = tokio::spawn(async move {
            assert_eq!(question(&mut far).await[1], 8, "that refusal says nothing about the second read");
            far.write_all(&value(1, 2)).await.unwrap();
            assert_eq!(question(&mut far).await[2..4], 300_u16.to_be_bytes());
            far.write_all(&sealed(1, &[0x88, 1])).await.unwrap();
            far.write_all(&value(1, 3)).await.unwrap();
            far
        });
        assert_eq!(words(rtu.read(&mut owed, PATIENT, &block(300)).await), [3]);
        drop(device.await.unwrap());
    }

    #[tokio::test]
    async fn noise_foreign_units_and_broken_checksums() {
        let (mut rtu, mut far, mut owed) = line();
        // A stray byte, a late answer of another unit, and then ours.
        owed.ask(7, Question::Read);
        let device = tokio::spawn(async move {
            question(&mut far).await;
            far.write_all(&[0xFF]).await.unwrap();
            tokio::time::sleep(ANSWER_GAP * 2).await;
            far.write_all(&value(7, 9)).await.unwrap();
            far.write_all(&value(1, 5)).await.unwrap();
            far
        });
        assert_eq!(words(rtu.read(&mut owed, PATIENT, &block(1)).await), [5]);
        assert_eq!(owed.open(7, PATIENT.timeout), [], "unit 7 has answered, if late");
        let mut far = device.await.unwrap();
        let mut broken = value(1, 6);
        broken[3] ^= 1;
        for (bytes, wanted) in [
            (broken, "wrong checksum"),
            (value(1, 6)[..5].to_vec(), "wrong checksum or cut short"),
            (value(9, 6), "unit 9 answers instead of 1"),
            (sealed(1, &[4, 2, 0, 6]), "another function"),
            (sealed(1, &[3, 4, 0, 6, 0, 7]), "answer of 2 instead of 1"),
        ] {
            owed = Owed::default();
            let device = tokio::spawn(async move {
                question(&mut far).await;
                far.write_all(&bytes).await.unwrap();
                far
            });
            let error = rtu.read(&mut owed, SHORT, &block(1)).await.unwrap_err().to_string();
            assert!(error.contains(wanted), "{error} lacks {wanted}");
            far = device.await.unwrap();
        }
        drop(far);
        assert!(matches!(rtu.read(&mut Owed::default(), PATIENT, &block(1)).await, Err(ReadError::Lost(_))));
    }
}
