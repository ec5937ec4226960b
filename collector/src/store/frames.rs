//! An append-only file of checked frames. What is in a whole frame survives a kill; what is not is cut off.
//!
//! Knows: `length u32, crc32c u32, payload`, little endian, and what a torn or damaged file looks like. Refuses to know: what
//! a payload means. A short frame at the end is the one being written when the process died, and is cut off. A whole frame
//! that does not match is damage: it is left out, what follows it is read, and a copy of the file is kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Largest frame; a larger length is damage, not data.
pub const MAX_FRAME_BYTES: usize = 32 * 1024 * 1024;
/// Length and checksum before every payload.
pub const HEADER_BYTES: u64 = 8;

/// Why a file of frames cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("failed to open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to make {} durable", path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("a frame of {bytes} bytes does not fit {}", path.display())]
    TooLarge { path: PathBuf, bytes: usize },
}

impl FrameError {
    /// What the system said, where it was asked.
    #[must_use]
    pub const fn cause(&self) -> Option<&io::Error> {
        match self {
            FrameError::Open { source, .. }
            | FrameError::Read { source, .. }
            | FrameError::Write { source, .. }
            | FrameError::Sync { source, .. } => Some(source),
            FrameError::TooLarge { .. } => None,
        }
    }
}

/// An open file of frames.
#[derive(Debug)]
pub struct FrameLog {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// Bytes that are certainly on the disk.
    durable: u64,
}

/// What reading a file came to.
#[derive(Debug, Default)]
struct Replayed {
    /// End of the last good frame.
    good: u64,
    /// Frames, or ends of the file, that are none.
    damaged: u64,
}

/// Numbers of the files `PREFIXnnn.SUFFIX` of a directory, ascending.
///
/// # Errors
/// The directory cannot be read.
pub fn list(dir: &Path, prefix: &str, suffix: &str) -> Result<Vec<u64>, FrameError> {
    let fault = |source| FrameError::Read { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(suffix)?.parse::<u64>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}

impl FrameLog {
    /// Opens a file for appending after its last whole frame, and gives each good frame of it, with its offset, to `each`.
    /// Returns also how many damaged places it has.
    ///
    /// # Errors
    /// The file cannot be opened, read or set aside.
    pub fn open(path: PathBuf, mut each: impl FnMut(u64, &[u8])) -> Result<(FrameLog, u64), FrameError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| FrameError::Open { path: path.clone(), source })?;
        let Replayed { good, damaged } =
            replay(&mut file, &mut each).map_err(|source| FrameError::Read { path: path.clone(), source })?;
        if damaged > 0 {
            let aside = path.with_extension("damaged");
            if !aside.exists() {
                std::fs::copy(&path, &aside).map_err(|source| FrameError::Open { path: aside.clone(), source })?;
            }
            tracing::error!(path = %path.display(), copy = %aside.display(), damaged, "a file is damaged; what can be read of it is kept");
        }
        file.set_len(good).map_err(|source| FrameError::Open { path: path.clone(), source })?;
        file.seek(SeekFrom::Start(good)).map_err(|source| FrameError::Open { path: path.clone(), source })?;
        Ok((FrameLog { file, path, bytes: good, durable: good }, damaged))
    }

    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes one frame. After a failure [`FrameLog::take_back`] is due.
    ///
    /// # Errors
    /// Disk full, read-only, gone; or a frame that could not be read again.
    pub fn write(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        let len = u32::try_from(payload.len()).ok().filter(|len| *len > 0 && *len as usize <= MAX_FRAME_BYTES);
        let Some(len) = len else {
            return Err(FrameError::TooLarge { path: self.path.clone(), bytes: payload.len() });
        };
        let mut header = [0u8; HEADER_BYTES as usize];
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        let written = self.file.write_all(&header).and_then(|()| self.file.write_all(payload));
        written.map_err(|source| FrameError::Write { path: self.path.clone(), source })?;
        self.bytes += HEADER_BYTES + u64::from(len);
        Ok(())
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&mut self) -> Result<(), FrameError> {
        self.file.sync_data().map_err(|source| FrameError::Sync { path: self.path.clone(), source })?;
        self.durable = self.bytes;
        Ok(())
    }

    /// Takes back what is not durable: it was refused and comes again.
    pub fn take_back(&mut self) {
        let done = self.file.set_len(self.durable).and_then(|()| self.file.seek(SeekFrom::Start(self.durable)));
        if let Err(error) = done {
            // What is left over is a frame that was never acknowledged: read again, it is a duplicate.
            tracing::warn!(path = %self.path.display(), %error, "what was refused could not be taken back");
        }
        self.bytes = self.durable;
    }
}

/// The frame at `offset` and where the next one begins; none at the end, or where what is there is no good frame.
///
/// # Errors
/// The file cannot be read.
pub fn read_at(file: &File, offset: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut header = [0u8; HEADER_BYTES as usize];
    if let Err(fault) = file.read_exact_at(&mut header, offset) {
        return if fault.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(fault) };
    }
    let (len, crc) = read_header(&header);
    if len == 0 || len as usize > MAX_FRAME_BYTES {
        return Ok(None);
    }
    let mut payload = vec![0; len as usize];
    match file.read_exact_at(&mut payload, offset + HEADER_BYTES) {
        Ok(()) if crc32c::crc32c(&payload) == crc => Ok(Some((payload, offset + HEADER_BYTES + u64::from(len)))),
        Ok(()) => Ok(None),
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(fault) => Err(fault),
    }
}

const fn read_header(header: &[u8; HEADER_BYTES as usize]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *header;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

fn replay(file: &mut File, each: &mut impl FnMut(u64, &[u8])) -> io::Result<Replayed> {
    let mut input = io::BufReader::with_capacity(1 << 20, file);
    let mut replayed = Replayed::default();
    let (mut at, mut unread) = (0u64, 0u64);
    let mut frame = Vec::new();
    loop {
        let mut header = [0u8; HEADER_BYTES as usize];
        if !read_whole(&mut input, &mut header)? {
            break;
        }
        let (len, crc) = read_header(&header);
        // An empty frame is never written; a run of zeroes after a power loss would read as one.
        if len == 0 || len as usize > MAX_FRAME_BYTES {
            replayed.damaged += unread + 1;
            return Ok(replayed);
        }
        frame.resize(len as usize, 0);
        if !read_whole(&mut input, &mut frame)? {
            break;
        }
        let began = at;
        at += HEADER_BYTES + u64::from(len);
        if crc32c::crc32c(&frame) != crc {
            unread += 1;
            continue;
        }
        each(began, &frame);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_could_not_be_read_again_is_not_written() {
        let path = std::env::temp_dir().join(format!("bcp-frames-{}.log", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (mut log, _) = FrameLog::open(path.clone(), |_, _| {}).unwrap();
        log.write(b"one").unwrap();
        assert!(matches!(log.write(&vec![0; MAX_FRAME_BYTES + 1]), Err(FrameError::TooLarge { .. })));
        assert!(matches!(log.write(b""), Err(FrameError::TooLarge { .. })));
        log.write(b"two").unwrap();
        log.sync().unwrap();
        let file = File::open(&path).unwrap();
        let (first, next) = read_at(&file, 0).unwrap().unwrap();
        let (second, end) = read_at(&file, next).unwrap().unwrap();
        assert_eq!((first.as_slice(), second.as_slice()), (b"one".as_slice(), b"two".as_slice()));
        assert!(read_at(&file, end).unwrap().is_none() && read_at(&file, 3).unwrap().is_none());
        drop(log);
        let mut found = Vec::new();
        let (_, damaged) = FrameLog::open(path.clone(), |at, frame| found.push((at, frame.to_vec()))).unwrap();
        assert_eq!((found, damaged), (vec![(0, b"one".to_vec()), (next, b"two".to_vec())], 0));
        std::fs::remove_file(path).unwrap();
    }
}
