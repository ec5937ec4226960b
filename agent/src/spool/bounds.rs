//! What leaves: payloads that are committed, and those that the bounds of size and age drop.

use std::fs;
use std::path::Path;

use bcp_wire::{Gap, Watermark};

use super::ranges::{KeyRange, Ranges};
use super::scan;
use super::segment::Key;
use super::{RAM_MAX_BYTES, Spool};

/// Beyond so many ranges, neighbours are merged where nothing between them is owed: what is between was delivered, and the
/// collector knows that. A payload that is still owed is never told as lost: the collector would refuse it when it comes.
const GAP_RANGES_MAX: usize = 64;

impl Spool {
    pub(super) fn enforce_bounds(&mut self, wall_ms: i64) -> Vec<Gap> {
        let max_age_ms = i64::try_from(self.config.max_age.as_millis()).unwrap_or(i64::MAX);
        let oldest_t_ms = wall_ms.saturating_sub(max_age_ms);
        let mut gaps = self.drop_late(oldest_t_ms);
        while self.memory_bytes > RAM_MAX_BYTES.min(self.config.max_bytes) {
            let class = usize::from(self.memory[0].is_empty());
            let Some((key, held)) = self.memory[class].pop_first() else { break };
            self.memory_bytes = self.memory_bytes.saturating_sub(held.encoded.len() as u64);
            if !self.owed[class].remove(key, key).is_empty() {
                self.dropped = self.dropped.saturating_add(1);
                let samples = Some(u64::from(held.samples));
                self.extend_gaps(&mut gaps, KeyRange::one(key), samples, "spool in memory full");
            }
        }
        while self.disk_bytes() > self.config.max_bytes {
            let class = usize::from(self.streams[0].segments.is_empty());
            if self.streams[class].segments.is_empty() {
                break;
            }
            gaps.extend(self.drop_oldest(class, "spool full"));
        }
        for class in 0..self.streams.len() {
            while self.streams[class].segments.len() > 1 && self.streams[class].segments[0].newest_t_ms < oldest_t_ms {
                gaps.extend(self.drop_oldest(class, "older than max_age"));
            }
        }
        gaps
    }

    fn drop_oldest(&mut self, class: usize, reason: &str) -> Vec<Gap> {
        let Some((first, last)) = self.streams[class].segments.front().map(|oldest| (oldest.first, oldest.last)) else {
            return Vec::new();
        };
        let mut lost = self.owed[class].remove(first, last);
        let samples = self.samples_of_oldest(class, &lost);
        let stream = &mut self.streams[class];
        let Some(segment) = stream.segments.pop_front() else { return Vec::new() };
        if stream.segments.is_empty() {
            stream.active = None;
        }
        let mut gaps = Vec::new();
        for (range, samples) in lost.drain(..).zip(samples) {
            self.dropped = self.dropped.saturating_add(range.count());
            self.extend_gaps(&mut gaps, range, samples, reason);
        }
        self.reader.forget(segment.id);
        delete(&segment.path);
        gaps
    }

    /// How many samples each of these ranges has, where all of it can be read: in memory they are not kept.
    fn samples_of_oldest(&mut self, class: usize, ranges: &[KeyRange]) -> Vec<Option<u64>> {
        // Payloads seen, and their samples.
        let mut sums = vec![(0_u64, 0_u64); ranges.len()];
        let stream = &self.streams[class];
        if let Some(segment) = stream.segments.front() {
            let active = stream.active.as_ref().filter(|_| stream.segments.len() == 1);
            for block in &segment.blocks {
                let Ok(raw) = self.reader.raw(segment, active, block) else { continue };
                for (_, view) in scan::records(&raw) {
                    let at = ranges.partition_point(|range| range.last() < view.key);
                    if ranges.get(at).is_some_and(|range| range.first() <= view.key) {
                        sums[at].0 += 1;
                        sums[at].1 += u64::from(view.samples);
                    }
                }
            }
        }
        let known = |(range, (seen, samples)): (&KeyRange, (u64, u64))| (seen == range.count()).then_some(samples);
        ranges.iter().zip(sums).map(known).collect()
    }

    /// Adds lost payloads to a list of ranges, joining neighbours.
    fn extend_gaps(&self, gaps: &mut Vec<Gap>, lost: KeyRange, samples: Option<u64>, reason: &str) {
        let crowded = gaps.len() >= GAP_RANGES_MAX;
        if let Some(last) = gaps.last_mut()
            && last.incarnation == lost.incarnation
            && last.through < lost.from
        {
            let between = (Key { seq: last.through + 1, ..lost.first() }, Key { seq: lost.from - 1, ..lost.first() });
            let owes = |owed: &Ranges| owed.within(between.0, between.1).next().is_some();
            if between.0 == lost.first() || crowded && self.late.is_empty() && !self.owed.iter().any(owes) {
                last.through = lost.through;
                last.samples = last.samples.zip(samples).map(|(known, more)| known + more);
                return;
            }
        }
        gaps.push(Gap {
            incarnation: lost.incarnation,
            from: lost.from,
            through: lost.through,
            samples,
            reason: reason.to_owned(),
        });
    }

    /// Drops one payload that can never be delivered; `None` where it is not owed.
    pub fn give_up(&mut self, key: Key, reason: &str) -> Option<Gap> {
        let class = (0..self.owed.len()).find(|class| self.owed[*class].contains(key))?;
        let samples = self.find(class, key).ok().map(|record| u64::from(record.samples));
        self.forget(class, key, key);
        self.sweep();
        self.dropped = self.dropped.saturating_add(1);
        Some(Gap { incarnation: key.incarnation, from: key.seq, through: key.seq, samples, reason: reason.to_owned() })
    }

    /// Drops what can never be read, and says what that was in as few gaps as can be.
    pub(super) fn give_up_damaged(&mut self, class: usize, lost: &Ranges) -> Vec<Gap> {
        for range in lost.iter() {
            self.forget(class, range.first(), range.last());
            self.dropped = self.dropped.saturating_add(range.count());
        }
        self.sweep();
        self.joined(lost, "spool damaged")
    }

    /// As few gaps as can be. Neighbours are joined where nothing between is owed: what is between was delivered or is lost too,
    /// and the collector knows the one and is told the other.
    pub(super) fn joined(&self, lost: &Ranges, reason: &str) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        for range in lost.iter() {
            if let Some(last) = gaps.last_mut().filter(|last| last.incarnation == range.incarnation) {
                let between = (Key { seq: last.through.saturating_add(1), ..range.first() }, range.first());
                // What could not be read yet may be between.
                if self.late.is_empty()
                    && !self.owed.iter().any(|owed| owed.within(between.0, between.1).next().is_some())
                {
                    last.through = range.through;
                    continue;
                }
            }
            gaps.push(Gap {
                incarnation: range.incarnation,
                from: range.from,
                through: range.through,
                samples: None,
                reason: reason.to_owned(),
            });
        }
        gaps
    }

    /// Frees everything the collector has committed, and says what that was.
    pub fn commit(&mut self, mark: &Watermark) -> Vec<KeyRange> {
        let mut freed = Vec::new();
        for one in &mark.marks {
            let mut committed = Ranges::default();
            committed.insert(KeyRange { incarnation: one.i, from: 0, through: one.through });
            for (from, through) in &one.holes {
                let key = |seq| Key { incarnation: one.i, seq };
                committed.remove(key(*from), key(*through));
            }
            for range in committed.iter() {
                for class in 0..self.owed.len() {
                    freed.extend(self.forget(class, range.first(), range.last()));
                }
            }
        }
        if !freed.is_empty() {
            self.sweep();
        }
        freed
    }

    fn forget(&mut self, class: usize, first: Key, last: Key) -> Vec<KeyRange> {
        let freed = self.owed[class].remove(first, last);
        for range in &freed {
            let held: Vec<Key> = self.memory[class].range(range.first()..=range.last()).map(|(key, _)| *key).collect();
            for key in held {
                if let Some(held) = self.memory[class].remove(&key) {
                    self.memory_bytes = self.memory_bytes.saturating_sub(held.encoded.len() as u64);
                }
            }
        }
        freed
    }

    /// Deletes the segments in which nothing is owed any more, but for those that are written to.
    fn sweep(&mut self) {
        for (stream, owed) in self.streams.iter_mut().zip(&self.owed) {
            let written_to = stream.segments.back().filter(|_| stream.active.is_some()).map(|segment| segment.id);
            stream.segments.retain(|segment| {
                let stays = written_to == Some(segment.id) || owed.within(segment.first, segment.last).next().is_some();
                if !stays {
                    self.reader.forget(segment.id);
                    delete(&segment.path);
                }
                stays
            });
        }
    }
}

pub(super) fn delete(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a delivered segment cannot be deleted");
    }
}
