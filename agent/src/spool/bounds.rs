//! What leaves: payloads that are committed, and those that the bounds of size and age drop.

use std::fs;
use std::path::Path;

use bcp_wire::{Gap, Watermark};

use super::segment::Key;
use super::{Place, RAM_MAX_BYTES, Spool};

/// Beyond so many ranges, neighbours are merged where nothing between them is owed: what is between was delivered, and the
/// collector knows that. A payload that is still owed is never told as lost: the collector would refuse it when it comes.
const GAP_RANGES_MAX: usize = 64;

impl Spool {
    pub(super) fn enforce_bounds(&mut self, wall_ms: i64) -> Vec<Gap> {
        let mut gaps = Vec::new();
        while self.memory_bytes > RAM_MAX_BYTES.min(self.config.max_bytes) {
            let class = usize::from(self.memory[0].is_empty());
            let Some(key) = self.memory[class].pop_front() else { break };
            if let Some(entry) = self.index.remove(&key) {
                self.memory_bytes -= u64::from(entry.bytes);
                self.dropped = self.dropped.saturating_add(1);
                self.extend_gaps(&mut gaps, key, u64::from(entry.samples), "spool in memory full");
            }
        }
        while self.disk_bytes() > self.config.max_bytes {
            let class = usize::from(self.streams[0].segments.is_empty());
            if self.streams[class].segments.is_empty() {
                break;
            }
            gaps.extend(self.drop_oldest(class, "spool full"));
        }
        let max_age_ms = i64::try_from(self.config.max_age.as_millis()).unwrap_or(i64::MAX);
        for class in 0..self.streams.len() {
            while self.streams[class].segments.len() > 1
                && self.streams[class].segments[0].newest_t_ms < wall_ms.saturating_sub(max_age_ms)
            {
                gaps.extend(self.drop_oldest(class, "older than max_age"));
            }
        }
        gaps
    }

    fn drop_oldest(&mut self, class: usize, reason: &str) -> Vec<Gap> {
        let stream = &mut self.streams[class];
        let Some(segment) = stream.segments.pop_front() else { return Vec::new() };
        if stream.segments.is_empty() {
            stream.active = None;
        }
        let mut gaps = Vec::new();
        let owed: Vec<Key> = self
            .index
            .range(segment.first..=segment.last)
            .filter(|(_, entry)| matches!(entry.place, Place::Disk { segment: id, .. } if id == segment.id))
            .map(|(key, _)| *key)
            .collect();
        for key in owed {
            if let Some(entry) = self.index.remove(&key) {
                self.dropped = self.dropped.saturating_add(1);
                self.extend_gaps(&mut gaps, key, u64::from(entry.samples), reason);
            }
        }
        delete(&segment.path);
        gaps
    }

    /// Adds one lost payload to a list of ranges, joining neighbours.
    fn extend_gaps(&self, gaps: &mut Vec<Gap>, key: Key, samples: u64, reason: &str) {
        let crowded = gaps.len() >= GAP_RANGES_MAX;
        if let Some(last) = gaps.last_mut()
            && last.incarnation == key.incarnation
            && last.through < key.seq
        {
            let after_last = Key { seq: last.through + 1, ..key };
            if after_last == key || crowded && self.index.range(after_last..key).next().is_none() {
                last.through = key.seq;
                last.samples = last.samples.map(|known| known + samples);
                return;
            }
        }
        gaps.push(Gap {
            incarnation: key.incarnation,
            from: key.seq,
            through: key.seq,
            samples: Some(samples),
            reason: reason.to_owned(),
        });
    }

    /// Drops one payload that can never be delivered; `None` where it is not owed.
    pub fn give_up(&mut self, key: Key, reason: &str) -> Option<Gap> {
        let samples = self.index.get(&key).map(|entry| u64::from(entry.samples))?;
        self.forget(key);
        self.dropped = self.dropped.saturating_add(1);
        Some(Gap {
            incarnation: key.incarnation,
            from: key.seq,
            through: key.seq,
            samples: Some(samples),
            reason: reason.to_owned(),
        })
    }

    /// Frees everything the collector has committed.
    pub fn commit(&mut self, mark: &Watermark) -> Vec<Key> {
        let mut freed = Vec::new();
        for one in &mark.marks {
            let range = Key { incarnation: one.i, seq: 0 }..=Key { incarnation: one.i, seq: one.through };
            let covered = self.index.range(range).map(|(key, _)| *key);
            freed.extend(covered.filter(|key| !one.holes.iter().any(|(from, to)| (*from..=*to).contains(&key.seq))));
        }
        for key in &freed {
            self.forget(*key);
        }
        freed
    }

    fn forget(&mut self, key: Key) {
        let Some(entry) = self.index.remove(&key) else { return };
        match entry.place {
            Place::Ram(_) => {
                self.memory_bytes -= u64::from(entry.bytes);
                // Commits come in order, so this is at the front but for holes.
                let queue = &mut self.memory[entry.class.index()];
                if let Some(at) = queue.iter().position(|queued| *queued == key) {
                    queue.remove(at);
                }
            }
            Place::Disk { segment: id, .. } => {
                let stream = &mut self.streams[entry.class.index()];
                let newest = stream.active.is_some().then(|| stream.segments.back().map(|s| s.id)).flatten();
                let Some(at) = stream.segments.iter().position(|segment| segment.id == id) else { return };
                stream.segments[at].live = stream.segments[at].live.saturating_sub(1);
                if stream.segments[at].live == 0
                    && newest != Some(id)
                    && let Some(done) = stream.segments.remove(at)
                {
                    delete(&done.path);
                }
            }
        }
    }
}

pub(super) fn delete(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a delivered segment cannot be deleted");
    }
}
