//! What is found at the start: segments are read, damage is stepped over and told exactly.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use bcp_wire::Gap;

use super::late::Late;
use super::ranges::{KeyRange, Ranges};
use super::reading::{Fault, Reader};
use super::scan::{self, Scan, Unfit};
use super::segment::{self, ASIDE, HEADER_BYTES, Key, PART, SegmentName};
use super::{Durability, Opened, Segment, Spool, SpoolConfig, Stream};

/// Segments set aside for a human; older ones are deleted so that a failing disk does not fill itself.
const SET_ASIDE_MAX: usize = 4;

/// What came to light in the files.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// First number that may be missing and, where known, the last.
    pub suspects: Vec<(Key, Option<u64>)>,
    pub notes: Vec<String>,
}

impl Spool {
    /// Reads what is there. `now_ms` is monotonic and only spaces retries of a refusing disk.
    #[must_use]
    pub fn open(dir: &Path, config: SpoolConfig, now_ms: u64) -> Opened {
        Spool::empty(dir, config).look(now_ms)
    }

    pub(super) fn empty(dir: &Path, config: SpoolConfig) -> Spool {
        Spool {
            dir: dir.to_owned(),
            config,
            owed: [Ranges::default(), Ranges::default()],
            streams: [Stream::default(), Stream::default()],
            memory: [BTreeMap::new(), BTreeMap::new()],
            memory_bytes: 0,
            recent: VecDeque::new(),
            next_segment: 0,
            durability: Durability::Disk,
            dropped: 0,
            read_errors: 0,
            packs_refused: 0,
            pack_again_at_ms: 0,
            late: Late::default(),
            read_errors_said_until_ms: 0,
            reader: Reader::new(),
            ended_unsynced: Vec::new(),
            #[cfg(test)]
            refuse_writes: false,
        }
    }

    pub(super) fn look(mut self, now_ms: u64) -> Opened {
        let mut findings = Findings::default();
        if let Err(error) = fs::create_dir_all(&self.dir) {
            findings.notes.push(format!("spool directory cannot be made: {error}"));
            self.fall_back(&error, now_ms);
            return Opened { spool: self, gaps: Vec::new(), notes: findings.notes };
        }
        let names = self.list();
        for (at, name) in names.iter().enumerate() {
            self.adopt(*name, segment::next_of(&names, at), &mut findings, now_ms);
        }
        self.tidy();
        let gaps = self.tell_when_known(findings.suspects);
        Opened { spool: self, gaps, notes: findings.notes }
    }

    /// Takes a file in; says which payloads are owed because of it.
    pub(super) fn adopt(
        &mut self,
        name: SegmentName,
        next: Option<Key>,
        findings: &mut Findings,
        now_ms: u64,
    ) -> Ranges {
        let path = self.dir.join(name.file_name());
        let Scan { blocks, present, faults, newest_t_ms, bytes } = match self.scan(&path, &name, next) {
            Ok(scan) => scan,
            Err(Unfit::Unread(Fault::Passing(error))) => {
                self.refused_read(&error, now_ms);
                self.read_it_later(name, next);
                return Ranges::default();
            }
            Err(Unfit::Unread(Fault::Damaged)) => {
                findings.notes.push(format!("segment {} is gone", name.file_name()));
                findings.suspects.push((name.first, segment::end_before(name.first, next)));
                return Ranges::default();
            }
            Err(Unfit::Foreign { reason, sealed }) => {
                findings.notes.push(format!("{} is no segment and was set aside: {reason}", name.file_name()));
                set_aside(&path);
                let end = sealed.map(|last| last.seq).or_else(|| segment::end_before(name.first, next));
                findings.suspects.push((name.first, end));
                return Ranges::default();
            }
        };
        if !faults.is_empty() && bytes > HEADER_BYTES {
            findings.notes.push(format!("segment {} has {} damaged places", name.file_name(), faults.len()));
        }
        findings.suspects.extend(faults);
        let (Some(first), Some(last)) = (present.first(), present.last()) else {
            if bytes > HEADER_BYTES {
                findings.notes.push(format!("segment {} has no good record and was set aside", name.file_name()));
                set_aside(&path);
            } else if let Err(error) = fs::remove_file(&path) {
                findings.notes.push(format!("empty segment {} stays: {error}", name.file_name()));
            }
            return present;
        };
        let id = self.take_segment_id();
        let packable = !blocks.iter().any(|block| block.packed);
        let name_key = name.first;
        let segment = Segment { id, path, bytes, name: name_key, first, last, newest_t_ms, blocks, packable };
        let Stream { segments, active } = &mut self.streams[name.class.index()];
        // What is found late goes where it belongs, and never behind the one that is written to.
        let at = segments.partition_point(|known| known.name < name_key);
        segments.insert(at.min(segments.len() - usize::from(active.is_some() && !segments.is_empty())), segment);
        for range in present.iter() {
            // A number is owed once, whatever a damaged file says.
            self.owed[1 - name.class.index()].remove(range.first(), range.last());
            self.owed[name.class.index()].insert(range);
        }
        present
    }

    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests let it fail"))]
    fn scan(&self, path: &Path, name: &SegmentName, next: Option<Key>) -> Result<Scan, Unfit> {
        #[cfg(test)]
        if let Some(error) = self.reader.refuse
            && self.reader.refuse_only.is_none_or(|class| class == name.class)
        {
            return Err(Unfit::Unread(Fault::Passing(std::io::Error::from_raw_os_error(error))));
        }
        scan::scan(path, name.first, next)
    }

    /// Turns suspected ranges into gaps, and counts them: what is present after all is taken out.
    pub(super) fn tell_missing(&mut self, suspects: &[(Key, Option<u64>)], reason: &str) -> Vec<Gap> {
        let mut missing = Ranges::default();
        for (from, through) in suspects {
            let end = Key { incarnation: from.incarnation, seq: u64::MAX };
            let known_last = || {
                let last = |owed: &Ranges| owed.within(*from, end).last().map(|range| range.through);
                self.owed.iter().filter_map(last).max()
            };
            let last = through.or_else(known_last).unwrap_or(from.seq).max(from.seq);
            let mut part = Ranges::default();
            part.insert(KeyRange { incarnation: from.incarnation, from: from.seq, through: last });
            for present in self.owed.iter().flat_map(|owed| owed.within(*from, Key { seq: last, ..*from })) {
                part.remove(present.first(), present.last());
            }
            if part.is_empty() && through.is_none() {
                // Something was there: it is behind all that is known.
                part.insert(KeyRange::one(Key { seq: last.saturating_add(1), ..*from }));
            }
            part.iter().for_each(|range| missing.insert(range));
        }
        // Numbers of a damaged file may be anything.
        self.dropped = self.dropped.saturating_add(missing.count());
        self.joined(&missing, reason)
    }

    /// Removes what was not finished, and what was set aside beyond its bound.
    fn tidy(&self) {
        let with_extension = |wanted: &str| -> Vec<PathBuf> {
            let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
            let paths = entries.flatten().map(|entry| entry.path());
            paths.filter(|path| path.extension().is_some_and(|extension| extension == wanted)).collect()
        };
        let mut aside = with_extension(ASIDE);
        aside.sort();
        aside.truncate(aside.len().saturating_sub(SET_ASIDE_MAX));
        for path in with_extension(PART).iter().chain(&aside) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "what is not needed any more cannot be deleted");
            }
        }
    }
}

fn set_aside(path: &Path) {
    if let Err(error) = fs::rename(path, path.with_extension(ASIDE)) {
        tracing::warn!(%error, path = %path.display(), "a damaged segment cannot be set aside");
    }
}
