//! What is found at the start: segments are read, damage is stepped over and told exactly.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use bcp_wire::Gap;

use super::segment::{self, HEADER_BYTES, Key, Scan, SegmentName};
use super::{Durability, Entry, Opened, Place, Segment, Spool, SpoolConfig, Stream};

/// Segments set aside for a human; older ones are deleted so that a failing disk does not fill itself.
const SET_ASIDE_MAX: usize = 4;

impl Spool {
    /// Reads what is there. `now_ms` is monotonic and only spaces retries of a refusing disk.
    #[must_use]
    pub fn open(dir: &Path, config: SpoolConfig, now_ms: u64) -> Opened {
        let mut spool = Spool {
            dir: dir.to_owned(),
            config,
            index: BTreeMap::new(),
            streams: [Stream::default(), Stream::default()],
            memory: [VecDeque::new(), VecDeque::new()],
            memory_bytes: 0,
            next_segment: 0,
            durability: Durability::Disk,
            dropped: 0,
            reader: None,
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
        spool.bound_set_aside();
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
        let Scan { records, faults, bytes } = match segment::scan(&path, name.first, next) {
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
        // Numbers grow within a segment as it was written; in one that was damaged they may stand in any order.
        let keys = || records.iter().map(|found| found.key);
        let (Some(first), Some(last)) = (keys().min(), keys().max()) else {
            if bytes > HEADER_BYTES {
                notes.push(format!("segment {} has no good record and was set aside", name.file_name()));
                set_aside(&path);
            } else if let Err(error) = fs::remove_file(&path) {
                notes.push(format!("empty segment {} stays: {error}", name.file_name()));
            }
            return;
        };
        let id = self.take_segment_id();
        self.streams[name.class.index()].segments.push_back(Segment {
            id,
            path,
            bytes,
            live: u32::try_from(records.len()).unwrap_or(u32::MAX),
            first,
            last,
            newest_t_ms: records.iter().map(|found| found.t_ms).max().unwrap_or(0),
        });
        for found in &records {
            let place = Place::Disk { segment: id, offset: found.offset };
            self.index.insert(
                found.key,
                Entry { place, class: name.class, samples: found.samples, bytes: found.bytes, t_ms: found.t_ms },
            );
        }
    }

    /// Turns suspected ranges into gaps: what is present after all is taken out.
    fn missing_of(&self, suspects: &[(Key, Option<u64>)]) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        for (from, through) in suspects {
            let known_last = self
                .index
                .range(*from..=Key { incarnation: from.incarnation, seq: u64::MAX })
                .next_back()
                .map_or(from.seq, |(key, _)| key.seq);
            let through = through.unwrap_or(known_last).max(from.seq);
            let last = Key { incarnation: from.incarnation, seq: through };
            let mut start = from.seq;
            let mut push = |from_seq: u64, through: u64| {
                if from_seq <= through {
                    gaps.push(Gap {
                        incarnation: from.incarnation,
                        from: from_seq,
                        through,
                        samples: None,
                        reason: "spool damaged".to_owned(),
                    });
                }
            };
            for (present, _) in self.index.range(*from..=last) {
                push(start, present.seq.saturating_sub(1));
                start = present.seq.saturating_add(1);
            }
            push(start, through);
        }
        gaps
    }

    fn bound_set_aside(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut aside: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "bad"))
            .collect();
        aside.sort();
        let surplus = aside.len().saturating_sub(SET_ASIDE_MAX);
        for path in &aside[..surplus] {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "a segment set aside cannot be deleted");
            }
        }
    }
}

fn set_aside(path: &Path) {
    if let Err(error) = fs::rename(path, path.with_extension("bad")) {
        tracing::warn!(%error, path = %path.display(), "a damaged segment cannot be set aside");
    }
}
