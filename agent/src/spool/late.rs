//! Segments that were there at opening and that the system did not let be read: they are tried again, and nothing of them is
//! given up before the bounds of size and age drop them.
//!
//! Invariant: as long as there are such segments, nothing is told as lost of which they may have the numbers: a collector
//! refuses what it was told is lost.

use std::fs;
use std::io;
use std::time::UNIX_EPOCH;

use bcp_wire::Gap;

use super::bounds::delete;
use super::opening::Findings;
use super::segment::{self, Class, Key, SegmentName};
use super::{KeyRange, Spool};

/// First wait; it doubles up to 2^6 times this.
const RETRY_MS: u64 = 1_000;
const MAX_DOUBLINGS: u8 = 6;

#[derive(Debug)]
struct LateSegment {
    name: SegmentName,
    next: Option<Key>,
    bytes: u64,
    /// When the file was written last; nothing in it is newer.
    newest_t_ms: i64,
}

#[derive(Debug, Default)]
pub(super) struct Late {
    segments: Vec<LateSegment>,
    /// Of what else was found damaged: first number that may be missing and, where known, the last.
    suspects: Vec<(Key, Option<u64>)>,
    /// There may be more than was listed.
    list_again: bool,
    again_at_ms: u64,
    refused: u8,
}

/// What could be read at last.
#[derive(Debug, Default)]
pub struct FoundLate {
    pub owed: Vec<(KeyRange, Class)>,
    pub gaps: Vec<Gap>,
    pub notes: Vec<String>,
}

impl Late {
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|late| late.bytes).sum()
    }

    pub fn highest_incarnation(&self) -> Option<u64> {
        self.segments.iter().map(|late| late.name.first.incarnation).max()
    }

    pub const fn list_again(&mut self) {
        self.list_again = true;
    }

    pub const fn is_empty(&self) -> bool {
        self.segments.is_empty() && !self.list_again
    }
}

impl Spool {
    pub(super) fn read_it_later(&mut self, name: SegmentName, next: Option<Key>) {
        let found = fs::metadata(self.dir.join(name.file_name())).ok();
        let written = found.as_ref().and_then(|found| found.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        self.late.segments.push(LateSegment {
            name,
            next,
            bytes: found.map_or(0, |found| found.len()),
            newest_t_ms: written.and_then(|age| i64::try_from(age.as_millis()).ok()).unwrap_or(i64::MAX),
        });
    }

    /// Tries again what could not be read at opening, when it is time to. `None` where nothing came of it.
    pub fn read_late(&mut self, now_ms: u64) -> Option<FoundLate> {
        if self.late.is_empty() || now_ms < self.late.again_at_ms {
            return None;
        }
        let mut tried = std::mem::take(&mut self.late.segments);
        if std::mem::take(&mut self.late.list_again) {
            let listed = self.list();
            for (at, name) in listed.iter().enumerate() {
                let path = self.dir.join(name.file_name());
                let is_known = self.streams[name.class.index()].segments.iter().any(|segment| segment.path == path)
                    || tried.iter().any(|late| late.name == *name);
                if !is_known {
                    let next = segment::next_of(&listed, at);
                    tried.push(LateSegment { name: *name, next, bytes: 0, newest_t_ms: i64::MAX });
                }
            }
        }
        let mut findings = Findings::default();
        let mut found = FoundLate::default();
        for LateSegment { name, next, .. } in tried {
            let present = self.adopt(name, next, &mut findings, now_ms);
            found.owed.extend(present.iter().map(|range| (range, name.class)));
        }
        self.late.refused = if self.late.is_empty() { 0 } else { (self.late.refused + 1).min(MAX_DOUBLINGS) };
        self.late.again_at_ms = now_ms.saturating_add(RETRY_MS << self.late.refused);
        found.gaps = self.tell_when_known(findings.suspects);
        found.notes = findings.notes;
        let nothing = found.owed.is_empty() && found.gaps.is_empty() && found.notes.is_empty();
        (!nothing).then_some(found)
    }

    /// Tells what is missing, as soon as nothing that may have it is unread.
    pub(super) fn tell_when_known(&mut self, suspects: Vec<(Key, Option<u64>)>) -> Vec<Gap> {
        self.late.suspects.extend(suspects);
        if !self.late.is_empty() {
            return Vec::new();
        }
        let known = std::mem::take(&mut self.late.suspects);
        self.tell_missing(&known, "spool damaged")
    }

    /// The bounds hold for what cannot be read, too: it goes first, and all of it together.
    pub(super) fn drop_late(&mut self, oldest_t_ms: i64) -> Vec<Gap> {
        if self.late.segments.is_empty() || self.late.list_again {
            return Vec::new();
        }
        let reason = if self.late.segments.iter().all(|late| late.newest_t_ms < oldest_t_ms) {
            "older than max_age"
        } else if self.disk_bytes() > self.config.max_bytes {
            "spool full"
        } else {
            return Vec::new();
        };
        let mut suspects = Vec::new();
        for late in std::mem::take(&mut self.late.segments) {
            delete(&self.dir.join(late.name.file_name()));
            suspects.push((late.name.first, segment::end_before(late.name.first, late.next)));
        }
        let mut gaps = self.tell_missing(&suspects, reason);
        gaps.extend(self.tell_when_known(Vec::new()));
        gaps
    }

    /// What is in the directory; where that is not known to the end, it is looked at again.
    pub(super) fn list(&mut self) -> Vec<SegmentName> {
        let listed = segment::list(&self.dir);
        if let Some(first) = listed.first_foreign {
            tracing::warn!(dir = %self.dir.display(), count = listed.foreign, %first, "files that are not of the spool are left alone");
        }
        if let Some(error) = listed.cut_short.filter(|error| error.kind() != io::ErrorKind::NotADirectory) {
            tracing::warn!(dir = %self.dir.display(), %error, "the spool's directory cannot be listed to its end; it is tried again");
            self.late.list_again();
        }
        listed.names
    }
}
