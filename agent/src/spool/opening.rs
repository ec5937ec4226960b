//! What is found at the start: segments are read, damage is stepped over and told exactly.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use bcp_wire::Gap;

use super::packing::PART;
use super::ranges::{KeyRange, Ranges};
use super::reading::Reader;
use super::scan::{self, Scan};
use super::segment::{self, HEADER_BYTES, Key, SegmentName};
use super::{Durability, Opened, Segment, Spool, SpoolConfig, Stream};

/// Segments set aside for a human; older ones are deleted so that a failing disk does not fill itself.
const SET_ASIDE_MAX: usize = 4;

impl Spool {
    /// Reads what is there. `now_ms` is monotonic and only spaces retries of a refusing disk.
    #[must_use]
    pub fn open(dir: &Path, config: SpoolConfig, now_ms: u64) -> Opened {
        let mut spool = Spool {
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
            read_errors_said_until_ms: 0,
            reader: Reader::new(),
            ended_unsynced: Vec::new(),
            #[cfg(test)]
            refuse_writes: false,
        };
        let mut notes = Vec::new();
        if let Err(error) = fs::create_dir_all(dir) {
            notes.push(format!("spool directory cannot be made: {error}"));
            spool.fall_back(&error, now_ms);
            return Opened { spool, gaps: Vec::new(), notes };
        }
        let names = match segment::list(dir) {
            Ok(names) => names,
            Err(error) => {
                notes.push(format!("spool directory cannot be read: {error}"));
                Vec::new()
            }
        };
        let mut suspects = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let next = names.get(at + 1).filter(|next| next.class == name.class).map(|next| next.first);
            spool.adopt(name, next, &mut suspects, &mut notes);
        }
        spool.tidy();
        let gaps = spool.missing_of(&suspects);
        // Numbers of a damaged file may be anything.
        let lost = |gap: &Gap| gap.through.saturating_sub(gap.from).saturating_add(1);
        spool.dropped = gaps.iter().map(lost).fold(spool.dropped, u64::saturating_add);
        Opened { spool, gaps, notes }
    }

    fn adopt(
        &mut self,
        name: &SegmentName,
        next: Option<Key>,
        suspects: &mut Vec<(Key, Option<u64>)>,
        notes: &mut Vec<String>,
    ) {
        let path = self.dir.join(name.file_name());
        let Scan { blocks, present, faults, newest_t_ms, bytes } = match scan::scan(&path, name.first, next) {
            Ok(scan) => scan,
            Err(error) => {
                notes.push(format!("segment {} cannot be read and was set aside: {error}", name.file_name()));
                set_aside(&path);
                suspects.push((name.first, segment::end_before(name.first, next)));
                return;
            }
        };
        if !faults.is_empty() {
            notes.push(format!("segment {} has {} damaged places", name.file_name(), faults.len()));
        }
        suspects.extend(faults);
        let (Some(first), Some(last)) = (present.first(), present.last()) else {
            if bytes > HEADER_BYTES {
                notes.push(format!("segment {} has no good record and was set aside", name.file_name()));
                set_aside(&path);
            } else if let Err(error) = fs::remove_file(&path) {
                notes.push(format!("empty segment {} stays: {error}", name.file_name()));
            }
            return;
        };
        let id = self.take_segment_id();
        let packable = !blocks.iter().any(|block| block.packed);
        let segment = Segment { id, path, bytes, first, last, newest_t_ms, blocks, packable };
        self.streams[name.class.index()].segments.push_back(segment);
        for range in present.iter() {
            // A number is owed once, whatever a damaged file says.
            self.owed[1 - name.class.index()].remove(range.first(), range.last());
            self.owed[name.class.index()].insert(range);
        }
    }

    /// Turns suspected ranges into gaps: what is present after all is taken out.
    fn missing_of(&self, suspects: &[(Key, Option<u64>)]) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        for (from, through) in suspects {
            let end = Key { incarnation: from.incarnation, seq: u64::MAX };
            let known_last = || {
                let last = |owed: &Ranges| owed.within(*from, end).last().map(|range| range.through);
                self.owed.iter().filter_map(last).max()
            };
            let through = through.or_else(known_last).unwrap_or(from.seq).max(from.seq);
            let mut missing = Ranges::default();
            missing.insert(KeyRange { incarnation: from.incarnation, from: from.seq, through });
            for present in self.owed.iter().flat_map(|owed| owed.within(*from, Key { seq: through, ..*from })) {
                missing.remove(present.first(), present.last());
            }
            gaps.extend(missing.iter().map(|range| Gap {
                incarnation: range.incarnation,
                from: range.from,
                through: range.through,
                samples: None,
                reason: "spool damaged".to_owned(),
            }));
        }
        gaps
    }

    /// Removes what was not finished, and what was set aside beyond its bound.
    fn tidy(&self) {
        let with_extension = |wanted: &str| -> Vec<PathBuf> {
            let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
            let paths = entries.flatten().map(|entry| entry.path());
            paths.filter(|path| path.extension().is_some_and(|extension| extension == wanted)).collect()
        };
        let mut aside = with_extension("bad");
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
    if let Err(error) = fs::rename(path, path.with_extension("bad")) {
        tracing::warn!(%error, path = %path.display(), "a damaged segment cannot be set aside");
    }
}
