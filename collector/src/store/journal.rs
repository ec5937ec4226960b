//! The append log between a payload's arrival and its place in the history: what is in it survives a kill.
//!
//! One file per head. A frame is `length u32, crc32c u32, payload`, little endian; everything of one frame becomes
//! visible together or not at all, so samples and the marks that say "committed" cannot part. A short frame at the end is
//! the one being written when the process died, and is cut off. A whole frame that does not match is damage: it is left
//! out, what follows it is read, and a copy of the file is kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bcp_wire::presence::AgentRef;
use bcp_wire::{Id, PointName};

use super::codec::Sample;
use super::head::SeriesId;

/// Largest frame; a larger length is damage, not data. A group is split above half of it.
pub const MAX_FRAME_BYTES: usize = 32 * 1024 * 1024;
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
    #[error("failed to open the journal {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to read the journal {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to write the journal {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to make the journal {} durable", path.display())]
    Sync { path: PathBuf, source: io::Error },
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
        for part in samples.chunks(MAX_FRAME_BYTES / 64) {
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
pub struct Journal {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// Bytes that are certainly on the disk.
    durable: u64,
}

/// What reading a journal came to.
#[derive(Debug, Default)]
struct Replayed {
    /// End of the last good frame.
    good: u64,
    /// Frames, or ends of the file, that are none.
    damaged: u64,
}

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
    let fault = |source| JournalError::Read { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("journal-")?.strip_suffix(".log")?.parse::<u64>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}

impl Journal {
    /// Opens the `n`-th journal for appending after its last whole frame, and gives each record of it to `each`. Returns
    /// also how many damaged places it has.
    ///
    /// # Errors
    /// The file cannot be opened, read or set aside.
    pub fn open(dir: &Path, n: u64, mut each: impl FnMut(Record)) -> Result<(Journal, u64), JournalError> {
        let path = path(dir, n);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| JournalError::Open { path: path.clone(), source })?;
        let Replayed { good, damaged } =
            replay(&mut file, &mut each).map_err(|source| JournalError::Read { path: path.clone(), source })?;
        if damaged > 0 {
            let aside = path.with_extension("damaged");
            if !aside.exists() {
                std::fs::copy(&path, &aside).map_err(|source| JournalError::Open { path: aside.clone(), source })?;
            }
            tracing::error!(path = %path.display(), copy = %aside.display(), damaged, "a journal is damaged; what can be read of it is kept");
        }
        file.set_len(good).map_err(|source| JournalError::Open { path: path.clone(), source })?;
        file.seek(SeekFrom::Start(good)).map_err(|source| JournalError::Open { path: path.clone(), source })?;
        Ok((Journal { file, path, bytes: good, durable: good }, damaged))
    }

    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes one frame. After a failure [`Journal::take_back`] is due.
    ///
    /// # Errors
    /// Disk full, read-only, gone.
    pub fn write(&mut self, frame: &Frame) -> Result<(), JournalError> {
        let len = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        let mut header = [0u8; 8];
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..].copy_from_slice(&crc32c::crc32c(&frame.bytes).to_le_bytes());
        let written = self.file.write_all(&header).and_then(|()| self.file.write_all(&frame.bytes));
        written.map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
        self.bytes += 8 + u64::from(len);
        Ok(())
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|source| JournalError::Sync { path: self.path.clone(), source })?;
        self.durable = self.bytes;
        Ok(())
    }

    /// Takes back what is not durable: the group it belongs to was refused and comes again.
    pub fn take_back(&mut self) {
        let done = self.file.set_len(self.durable).and_then(|()| self.file.seek(SeekFrom::Start(self.durable)));
        if let Err(error) = done {
            // What is left over is a frame whose group was never acknowledged: read again, it is a duplicate.
            tracing::warn!(path = %self.path.display(), %error, "a refused group could not be taken back");
        }
        self.bytes = self.durable;
    }
}

fn replay(file: &mut File, each: &mut impl FnMut(Record)) -> io::Result<Replayed> {
    let mut input = io::BufReader::with_capacity(1 << 20, file);
    let mut replayed = Replayed::default();
    let (mut at, mut unread) = (0u64, 0u64);
    let mut frame = Vec::new();
    loop {
        let mut header = [0u8; 8];
        if !read_whole(&mut input, &mut header)? {
            break;
        }
        let mut fields = Reader(&header);
        let (Some(len), Some(crc)) = (fields.u32(), fields.u32()) else { break };
        // An empty frame is never written; a run of zeroes after a power loss would read as one.
        if len == 0 || len as usize > MAX_FRAME_BYTES {
            replayed.damaged += unread + 1;
            return Ok(replayed);
        }
        frame.resize(len as usize, 0);
        if !read_whole(&mut input, &mut frame)? {
            break;
        }
        at += 8 + u64::from(len);
        if crc32c::crc32c(&frame) != crc {
            unread += 1;
            continue;
        }
        let mut records = Reader(&frame);
        while let Some(record) = records.record() {
            each(record);
        }
        replayed.damaged += std::mem::take(&mut unread);
        replayed.good = at;
    }
    replayed.damaged += unread;
    Ok(replayed)
}

/// False where the input ends before the buffer is full.
fn read_whole(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(fault) => Err(fault),
    }
}
