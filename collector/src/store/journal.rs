//! The journal between a payload's arrival and its place in the history: what is in it survives a kill.
//!
//! Knows: the records of a group. One file per head; everything of one frame becomes visible together or not at all, so
//! samples and the marks that say "committed" cannot part. Refuses to know: how frames lie in a file ([`super::frames`]).

use std::path::{Path, PathBuf};

use bcp_wire::presence::AgentRef;
use bcp_wire::{Id, PointName};

use super::codec::Sample;
use super::frames::{self, FrameError, FrameLog};
use super::head::SeriesId;

/// A frame is written once it has grown to this: far below what the file takes, whatever comes on top.
pub const FULL_FRAME_BYTES: usize = frames::MAX_FRAME_BYTES / 4;
/// Samples written into a frame at once.
pub const SAMPLES_PER_FRAME: usize = FULL_FRAME_BYTES / 20;
/// A journal above this is sealed: replay at start stays below a second or two.
pub const MAX_JOURNAL_BYTES: u64 = 256 * 1024 * 1024;

const SERIES: u8 = 1;
const TEXT: u8 = 2;
const SAMPLES: u8 = 3;
const MARK: u8 = 4;
const EVENT: u8 = 5;

/// One record of a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    Series {
        id: SeriesId,
        text: bool,
        device: Id,
        point: PointName,
    },
    Text {
        id: u32,
        text: String,
    },
    Samples(Vec<(SeriesId, Sample)>),
    /// First and last sequence number that are in.
    Mark {
        agent: AgentRef,
        incarnation: u64,
        first: u64,
        last: u64,
    },
    /// JSON of a stored event.
    Event(String),
}

/// Why the journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal cannot be used")]
    File(#[from] FrameError),
    #[error("memory is full and the history database does not take more: {reason}")]
    Behind { reason: String },
}

/// Builds the payload of one frame.
#[derive(Debug, Default)]
pub struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// True where it is time to write it.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_FRAME_BYTES
    }

    fn text(&mut self, text: &str) {
        let len = u32::try_from(text.len()).unwrap_or(0);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&text.as_bytes()[..len as usize]);
    }

    pub fn series(&mut self, id: SeriesId, text: bool, device: &str, point: &str) {
        self.bytes.push(SERIES);
        self.bytes.extend_from_slice(&id.0.to_le_bytes());
        self.bytes.push(u8::from(text));
        self.text(device);
        self.text(point);
    }

    pub fn text_value(&mut self, id: u32, text: &str) {
        self.bytes.push(TEXT);
        self.bytes.extend_from_slice(&id.to_le_bytes());
        self.text(text);
    }

    /// Samples, 20 bytes each.
    pub fn samples(&mut self, samples: &[(SeriesId, Sample)]) {
        for part in samples.chunks(SAMPLES_PER_FRAME) {
            self.bytes.push(SAMPLES);
            self.bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(0).to_le_bytes());
            self.bytes.reserve(part.len() * 20);
            for (series, sample) in part {
                self.bytes.extend_from_slice(&series.0.to_le_bytes());
                self.bytes.extend_from_slice(&sample.t.to_le_bytes());
                self.bytes.extend_from_slice(&sample.v.to_bits().to_le_bytes());
            }
        }
    }

    pub fn mark(&mut self, agent: &AgentRef, incarnation: u64, first: u64, last: u64) {
        self.bytes.push(MARK);
        self.bytes.push(agent.site.node_id() as u8);
        self.text(agent.agent.as_str());
        for n in [incarnation, first, last] {
            self.bytes.extend_from_slice(&n.to_le_bytes());
        }
    }

    pub fn event(&mut self, json: &str) {
        self.bytes.push(EVENT);
        self.text(json);
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn record(&mut self) -> Option<Record> {
        Some(match self.u8()? {
            SERIES => {
                let id = SeriesId(self.u32()?);
                let text = self.u8()? != 0;
                Record::Series { id, text, device: self.text()?.parse().ok()?, point: self.text()?.parse().ok()? }
            }
            TEXT => Record::Text { id: self.u32()?, text: self.text()?.to_owned() },
            SAMPLES => {
                let n = self.u32()? as usize;
                let bytes = self.take(n.checked_mul(20)?)?;
                let read = |b: &[u8]| {
                    let mut r = Reader(b);
                    let series = SeriesId(r.u32()?);
                    let t = r.u64()?.cast_signed();
                    Some((series, Sample { t, v: f64::from_bits(r.u64()?) }))
                };
                Record::Samples(bytes.chunks_exact(20).filter_map(read).collect())
            }
            MARK => {
                let site = bcp_wire::Site::from_node_id(u64::from(self.u8()?))?;
                let agent = AgentRef { site, agent: self.text()?.parse().ok()? };
                Record::Mark { agent, incarnation: self.u64()?, first: self.u64()?, last: self.u64()? }
            }
            EVENT => Record::Event(self.text()?.to_owned()),
            _ => return None,
        })
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal(FrameLog);

/// Path of the `n`-th journal.
#[must_use]
pub fn path(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("journal-{n:08}.log"))
}

/// Numbers of the journals in a directory, ascending.
///
/// # Errors
/// The directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<u64>, JournalError> {
    Ok(frames::list(dir, "journal-", ".log")?)
}

impl Journal {
    /// Opens the `n`-th journal for appending after its last whole frame, and gives each record of it to `each`. Returns
    /// also how many damaged places it has.
    ///
    /// # Errors
    /// The file cannot be opened, read or set aside.
    pub fn open(dir: &Path, n: u64, mut each: impl FnMut(Record)) -> Result<(Journal, u64), JournalError> {
        let (log, damaged) = FrameLog::open(path(dir, n), |_, frame| {
            let mut records = Reader(frame);
            while let Some(record) = records.record() {
                each(record);
            }
        })?;
        Ok((Journal(log), damaged))
    }

    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Writes one frame. After a failure [`Journal::take_back`] is due.
    ///
    /// # Errors
    /// Disk full, read-only, gone.
    pub fn write(&mut self, frame: &Frame) -> Result<(), JournalError> {
        Ok(self.0.write(&frame.bytes)?)
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        Ok(self.0.sync()?)
    }

    /// Takes back what is not durable: the group it belongs to was refused and comes again.
    pub fn take_back(&mut self) {
        self.0.take_back();
    }
}
