//! Lines that wait for the database, on the disk, in the order they came.
//!
//! Knows: segments of frames, and up to where they were delivered (`sent`: segment and offset). Refuses to know: what the
//! lines say and who takes them. Callers block.
//!
//! Invariants: never more than the bound and one segment on the disk: the oldest segment goes, and its lines are counted; a
//! place that was lost by a power cut is an older one, so lines go again and none is left out.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::frames::{self, FrameError, FrameLog};

/// A segment above this is followed by the next one.
pub const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Lines of one frame: a request is made of whole frames.
pub const FRAME_BYTES: usize = 128 * 1024;

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("failed to use {}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    File(#[from] FrameError),
}

/// What waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    pub bytes: u64,
    pub lines: u64,
    /// Lines, or places with an unknown number of them, that could not be read.
    pub damaged: u64,
}

/// The oldest lines, and the place after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub lines: Vec<u8>,
    segment: u64,
    end: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// Lines not delivered.
    lines: u64,
}

#[derive(Debug)]
struct Inner {
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    last: FrameLog,
    /// Delivered bytes of the oldest segment.
    sent: u64,
    damaged: u64,
}

impl Inner {
    fn stats(&self) -> QueueStats {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let lines = self.segments.iter().map(|segment| segment.lines).sum();
        QueueStats { bytes: bytes.saturating_sub(self.sent), lines, damaged: self.damaged }
    }
}

#[derive(Debug)]
pub struct Queue {
    dir: PathBuf,
    max_bytes: u64,
    inner: Mutex<Inner>,
    /// Kept apart: the lock above is held while the disk works.
    stats: Mutex<QueueStats>,
}

/// Lines in a text whose lines are all ended.
#[must_use]
pub fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

impl Queue {
    /// Opens the queue in `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// The directory or a segment cannot be used.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<Queue, QueueError> {
        std::fs::create_dir_all(dir).map_err(|source| QueueError::Directory { path: dir.to_owned(), source })?;
        let (from, sent) = read_place(dir).unwrap_or((0, 0));
        let mut segments = VecDeque::new();
        let mut last = None;
        let mut damaged = 0;
        for number in frames::list(dir, "queue-", ".lines")? {
            if number < from {
                remove(dir, number);
                continue;
            }
            let mut lines = 0;
            let (log, bad) = FrameLog::open(path(dir, number), |at, frame| {
                if number > from || at >= sent {
                    lines += count_lines(frame);
                }
            })?;
            damaged += bad;
            segments.push_back(Segment { number, bytes: log.bytes(), lines });
            last = Some(log);
        }
        // A place behind the end of what can be read would hide the lines that come next.
        let sent = segments.front().filter(|first| first.number == from).map_or(0, |first| sent.min(first.bytes));
        let last = match last {
            Some(last) => last,
            None => {
                segments.push_back(Segment { number: from, bytes: 0, lines: 0 });
                FrameLog::open(path(dir, from), |_, _| {})?.0
            }
        };
        let inner = Inner { segments, last, sent, damaged };
        let stats = Mutex::new(inner.stats());
        Ok(Queue { dir: dir.to_owned(), max_bytes, inner: Mutex::new(inner), stats })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What waits. Never waits for the disk.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, inner: &Inner) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = inner.stats();
    }

    /// Makes lines durable, each ended by its newline; returns how many older ones had to go for them.
    ///
    /// # Errors
    /// The disk refuses; nothing of it is then queued.
    pub fn append(&self, lines: &[u8]) -> Result<u64, QueueError> {
        let mut inner = self.inner();
        let mut rest = lines;
        let mut written = Ok(());
        while !rest.is_empty() && written.is_ok() {
            let (part, more) = rest.split_at(end_of_part(rest));
            written = inner.last.write(part);
            rest = more;
        }
        if let Err(error) = written.and_then(|()| inner.last.sync()) {
            inner.last.take_back();
            return Err(error.into());
        }
        let bytes = inner.last.bytes();
        if let Some(segment) = inner.segments.back_mut() {
            segment.bytes = bytes;
            segment.lines += count_lines(lines);
        }
        // A segment that cannot be begun is tried again with the next lines; these are queued.
        if bytes >= SEGMENT_BYTES
            && let Err(error) = self.next_segment(&mut inner)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the next segment of the queue could not be begun"
            );
        }
        let dropped = self.bound(&mut inner);
        self.changed(&inner);
        Ok(dropped)
    }

    fn next_segment(&self, inner: &mut Inner) -> Result<(), QueueError> {
        let number = inner.segments.back().map_or(0, |last| last.number) + 1;
        (inner.last, _) = FrameLog::open(path(&self.dir, number), |_, _| {})?;
        inner.segments.push_back(Segment { number, bytes: inner.last.bytes(), lines: 0 });
        Ok(())
    }

    /// Drops the oldest segments above the bound; returns how many lines went undelivered.
    fn bound(&self, inner: &mut Inner) -> u64 {
        let mut dropped = 0;
        while inner.segments.len() > 1
            && inner.segments.iter().map(|segment| segment.bytes).sum::<u64>() > self.max_bytes
        {
            let Some(oldest) = inner.segments.pop_front() else { break };
            dropped += oldest.lines;
            inner.sent = 0;
            remove(&self.dir, oldest.number);
        }
        if dropped > 0 {
            self.keep_place(inner);
        }
        dropped
    }

    /// The oldest lines that are not delivered, about `max_bytes` of them, from one segment; none where nothing waits.
    ///
    /// # Errors
    /// The disk does not read.
    pub fn peek(&self, max_bytes: usize) -> Result<Option<Taken>, QueueError> {
        loop {
            let (number, sent, bytes, is_last) = {
                let inner = self.inner();
                let Some(first) = inner.segments.front() else { return Ok(None) };
                (first.number, inner.sent, first.bytes, inner.segments.len() == 1)
            };
            let path = path(&self.dir, number);
            let mut taken = Taken { lines: Vec::new(), segment: number, end: sent };
            if sent < bytes {
                let file = File::open(&path).map_err(|source| FrameError::Open { path: path.clone(), source })?;
                while taken.end < bytes && (taken.lines.is_empty() || taken.lines.len() + FRAME_BYTES <= max_bytes) {
                    let read = frames::read_at(&file, taken.end);
                    match read.map_err(|source| FrameError::Read { path: path.clone(), source })? {
                        Some((frame, next)) => {
                            taken.lines.extend_from_slice(&frame);
                            taken.end = next;
                        }
                        None => break,
                    }
                }
            }
            if !taken.lines.is_empty() {
                return Ok(Some(taken));
            }
            let is_damaged = sent < bytes;
            if is_last && !is_damaged {
                return Ok(None);
            }
            self.leave(number, is_damaged)?;
        }
    }

    /// Goes on behind a segment that is delivered, or that cannot be read any further.
    fn leave(&self, number: u64, is_damaged: bool) -> Result<(), QueueError> {
        let mut inner = self.inner();
        if inner.segments.front().is_none_or(|first| first.number != number) {
            return Ok(());
        }
        if is_damaged {
            inner.damaged += inner.segments.front().map_or(0, |first| first.lines).max(1);
            tracing::error!(path = %path(&self.dir, number).display(), "queued lines cannot be read; what follows them in this file is left out");
        }
        if inner.segments.len() == 1 {
            self.next_segment(&mut inner)?;
        }
        inner.segments.pop_front();
        inner.sent = 0;
        self.keep_place(&inner);
        self.changed(&inner);
        let path = path(&self.dir, number);
        if !is_damaged {
            remove(&self.dir, number);
        } else if let Err(error) = std::fs::rename(&path, path.with_extension("damaged")) {
            tracing::warn!(%error, "a damaged segment cannot be set aside");
        }
        Ok(())
    }

    /// What was taken is delivered. Returns how many of these lines had been dropped meanwhile to make room.
    pub fn delivered(&self, taken: &Taken) -> u64 {
        let lines = count_lines(&taken.lines);
        let mut inner = self.inner();
        let Some(first) = inner.segments.front_mut().filter(|first| first.number == taken.segment) else {
            return lines;
        };
        first.lines = first.lines.saturating_sub(lines);
        inner.sent = taken.end;
        self.keep_place(&inner);
        self.changed(&inner);
        0
    }

    /// An older place costs lines sent twice, so it need not be durable.
    fn keep_place(&self, inner: &Inner) {
        let number = inner.segments.front().map_or(0, |first| first.number);
        let new = self.dir.join("sent.new");
        let kept = std::fs::write(&new, format!("{number} {}\n", inner.sent))
            .and_then(|()| std::fs::rename(&new, self.dir.join("sent")));
        if let Err(error) = kept {
            tracing::debug!(%error, "the place in the queue was not kept: lines go again after a restart");
        }
    }
}

/// Whole lines, up to the size of a frame; a longer line is a frame of its own.
fn end_of_part(lines: &[u8]) -> usize {
    let head = &lines[..lines.len().min(FRAME_BYTES)];
    let end = match head.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => at,
        None => lines.iter().position(|byte| *byte == b'\n').unwrap_or(lines.len() - 1),
    };
    end + 1
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("queue-{number:08}.lines"))
}

fn remove(dir: &Path, number: u64) {
    let path = path(dir, number);
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(path = %path.display(), %error, "a delivered segment could not be removed");
    }
}

fn read_place(dir: &Path) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(dir.join("sent")).ok()?;
    let (number, sent) = text.trim().split_once(' ')?;
    Some((number.parse().ok()?, sent.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("bcp-queue-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            Dir(dir)
        }
        fn open(&self, max_bytes: u64) -> Queue {
            Queue::open(&self.0, max_bytes).unwrap()
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn lines(range: std::ops::Range<u64>) -> Vec<u8> {
        range.flat_map(|n| format!("bcp x={n} {n}{}\n", "0".repeat(100)).into_bytes()).collect()
    }

    fn drain(queue: &Queue) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(taken) = queue.peek(500_000).unwrap() {
            all.extend_from_slice(&taken.lines);
            assert_eq!(queue.delivered(&taken), 0);
        }
        all
    }

    #[test]
    fn lines_come_out_once_and_in_order_across_segments_and_restarts() {
        let dir = Dir::new("order");
        let queue = dir.open(1 << 30);
        let all = lines(0..150_000);
        queue.append(&all).unwrap();
        let first = queue.peek(300_000).unwrap().unwrap();
        assert!(first.lines.len() <= 300_000 && first.lines.ends_with(b"\n"));
        assert_eq!(queue.delivered(&first), 0);
        let second = queue.peek(300_000).unwrap().unwrap();
        drop(queue);
        let queue = dir.open(1 << 30);
        assert_eq!(queue.stats().lines, 150_000 - count_lines(&first.lines));
        assert_eq!(queue.peek(300_000).unwrap().unwrap(), second, "what was not delivered goes again");
        queue.append(&lines(150_000..150_010)).unwrap();
        let rest = drain(&queue);
        assert_eq!([first.lines, rest].concat(), lines(0..150_010));
        assert_eq!(queue.stats().lines, 0);
        assert!(queue.peek(1).unwrap().is_none());
        queue.append(b"bcp x=1 1\n").unwrap();
        assert_eq!(drain(&queue), b"bcp x=1 1\n");
    }

    #[test]
    fn the_bound_drops_the_oldest_and_counts_them() {
        let dir = Dir::new("bound");
        let queue = dir.open(2 * SEGMENT_BYTES);
        let (mut put, mut dropped) = (0, 0);
        let held = {
            queue.append(&lines(0..100)).unwrap();
            put += 100;
            queue.peek(1).unwrap().unwrap()
        };
        for _ in 0..6 {
            let part = lines(put..put + 40_000);
            put += 40_000;
            dropped += queue.append(&part).unwrap();
        }
        let stats = queue.stats();
        assert!(dropped > 0 && stats.bytes <= 2 * SEGMENT_BYTES + SEGMENT_BYTES, "{stats:?}");
        assert_eq!(stats.lines + dropped, put);
        assert_eq!(queue.delivered(&held), 100, "delivered after it was dropped: not lost after all");
        let left = drain(&queue);
        assert_eq!(left, lines(dropped..put), "the newest are all there");
    }

    #[test]
    fn a_torn_tail_and_a_lost_place_cost_no_line() {
        let dir = Dir::new("torn");
        let queue = dir.open(1 << 30);
        queue.append(&lines(0..10)).unwrap();
        let taken = queue.peek(1).unwrap().unwrap();
        assert_eq!(queue.delivered(&taken), 0);
        queue.append(&lines(10..20)).unwrap();
        drop(queue);
        let file = path(&dir.0, 0);
        let whole = std::fs::metadata(&file).unwrap().len();
        std::fs::write(dir.0.join("sent"), "").unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.extend_from_slice(&[9, 0, 0, 0, 1, 2]);
        std::fs::write(&file, bytes).unwrap();
        let queue = dir.open(1 << 30);
        assert_eq!(std::fs::metadata(&file).unwrap().len(), whole);
        assert_eq!(drain(&queue), lines(0..20), "sent again rather than left out");
    }

    #[test]
    fn a_place_behind_the_end_hides_nothing() {
        let dir = Dir::new("behind");
        let queue = dir.open(1 << 30);
        queue.append(&lines(0..10)).unwrap();
        let all = queue.peek(1 << 20).unwrap().unwrap();
        assert_eq!(queue.delivered(&all), 0);
        drop(queue);
        let file = std::fs::OpenOptions::new().write(true).open(path(&dir.0, 0)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        let queue = dir.open(1 << 30);
        assert_eq!(drain(&queue), b"", "what is left of it was delivered");
        queue.append(&lines(10..12)).unwrap();
        assert_eq!(drain(&queue), lines(10..12));
    }

    #[test]
    fn a_segment_that_cannot_be_read_any_more_is_left_and_counted() {
        let dir = Dir::new("damaged");
        let queue = dir.open(1 << 30);
        queue.append(&lines(0..10)).unwrap();
        let mut bytes = std::fs::read(path(&dir.0, 0)).unwrap();
        bytes[20] ^= 0xFF;
        std::fs::write(path(&dir.0, 0), bytes).unwrap();
        assert!(queue.peek(1).unwrap().is_none());
        assert_eq!(queue.stats().damaged, 10);
        queue.append(&lines(10..20)).unwrap();
        assert_eq!(drain(&queue), lines(10..20));
    }
}
