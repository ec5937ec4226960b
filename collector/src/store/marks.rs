//! Which payloads of which agent are committed: dedup and watermark. PURE.
//!
//! Knows: per agent and incarnation, the ranges of sequence numbers that are in. Refuses to know: payloads, brokers,
//! disks. Bounded: a number that would need one range too many is refused, and the agent sends it again later.

use std::collections::BTreeMap;

use bcp_wire::presence::AgentRef;
use bcp_wire::{Site, WIRE_VERSION, Watermark, WatermarkMark};
use serde::{Deserialize, Serialize};

/// Ranges kept of one incarnation; an agent that skips more often than this loses no data, it is only told later.
pub const MAX_RANGES: usize = 1_024;
/// Agents known; far above a fleet of 1,500 hosts and 500 gateways at three sites.
pub const MAX_AGENTS: usize = 16_384;

/// Ascending, disjoint, not touching; first and last included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(Vec<(u64, u64)>);

/// What became of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    New,
    Duplicate,
    /// Too many holes: not taken in, to be sent again.
    NoRoom,
}

impl Ranges {
    #[must_use]
    pub fn contains(&self, seq: u64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < seq);
        self.0.get(at).is_some_and(|(first, _)| *first <= seq)
    }

    /// Takes in `first..=last`.
    pub fn insert(&mut self, first: u64, last: u64) -> Marked {
        if first == 0 || last < first {
            return Marked::Duplicate;
        }
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self.0.partition_point(|(start, _)| *start <= last.saturating_add(1));
        if from == to {
            if self.0.len() >= MAX_RANGES {
                return Marked::NoRoom;
            }
            self.0.insert(from, (first, last));
            return Marked::New;
        }
        let merged = (self.0[from].0.min(first), self.0[to - 1].1.max(last));
        if to - from == 1 && merged == self.0[from] {
            return Marked::Duplicate;
        }
        self.0.splice(from..to, [merged]);
        Marked::New
    }

    /// Highest number below which everything but at most [`Watermark::MAX_HOLES`] holes is in, and those holes.
    #[must_use]
    pub fn watermark(&self) -> (u64, Vec<(u64, u64)>) {
        let mut holes = Vec::new();
        let mut through = 0;
        for (first, last) in &self.0 {
            if *first > through + 1 {
                if holes.len() == Watermark::MAX_HOLES {
                    break;
                }
                holes.push((through + 1, first - 1));
            }
            through = *last;
        }
        (through, holes)
    }

    /// Numbers missing below the highest one.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let mut expected = 1u64;
        let mut missing = 0u64;
        for (first, last) in &self.0 {
            missing = missing.saturating_add(first.saturating_sub(expected));
            expected = last.saturating_add(1);
        }
        missing
    }
}

/// The incarnations of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentMarks(BTreeMap<u64, Ranges>);

impl AgentMarks {
    #[must_use]
    pub fn newest(&self) -> Option<(u64, &Ranges)> {
        self.0.last_key_value().map(|(incarnation, ranges)| (*incarnation, ranges))
    }

    fn insert(&mut self, incarnation: u64, first: u64, last: u64) -> Marked {
        if !self.0.contains_key(&incarnation) {
            let oldest = self.0.keys().next().copied().unwrap_or(0);
            if self.0.len() >= Watermark::MAX_MARKS {
                if incarnation < oldest {
                    // So old that nobody waits for it; taken in, it could not be told from a duplicate later.
                    return Marked::NoRoom;
                }
                self.0.remove(&oldest);
            }
        }
        self.0.entry(incarnation).or_default().insert(first, last)
    }

    /// What the agent is told.
    #[must_use]
    pub fn watermark(&self, collector: Site) -> Watermark {
        let marks = self
            .0
            .iter()
            .map(|(incarnation, ranges)| {
                let (through, holes) = ranges.watermark();
                WatermarkMark { i: *incarnation, through, holes }
            })
            .collect();
        Watermark { v: WIRE_VERSION, collector, marks }
    }
}

/// All agents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(BTreeMap<AgentRef, AgentMarks>);

impl Marks {
    /// Takes in payload `seq`.
    pub fn insert(&mut self, agent: &AgentRef, incarnation: u64, seq: u64) -> Marked {
        self.insert_range(agent, incarnation, seq, seq)
    }

    /// Takes in a range, as a gap record declares it: it will never come.
    pub fn insert_range(&mut self, agent: &AgentRef, incarnation: u64, first: u64, last: u64) -> Marked {
        if let Some(marks) = self.0.get_mut(agent) {
            return marks.insert(incarnation, first, last);
        }
        if self.0.len() >= MAX_AGENTS {
            return Marked::NoRoom;
        }
        self.0.entry(agent.clone()).or_default().insert(incarnation, first, last)
    }

    #[must_use]
    pub fn get(&self, agent: &AgentRef) -> Option<&AgentMarks> {
        self.0.get(agent)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&AgentRef, &AgentMarks)> {
        self.0.iter()
    }

    /// Puts back what was stored.
    pub fn restore(&mut self, agent: AgentRef, marks: AgentMarks) {
        self.0.insert(agent, marks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_are_a_set(numbers in prop::collection::vec((1u64..60, 0u64..6), 1..80)) {
            let mut set = BTreeSet::new();
            let mut ranges = Ranges::default();
            for (first, more) in numbers {
                let new = (first..=first + more).any(|n| !set.contains(&n));
                let marked = ranges.insert(first, first + more);
                prop_assert_eq!(marked, if new { Marked::New } else { Marked::Duplicate });
                set.extend(first..=first + more);
                prop_assert!((0..80).all(|n| ranges.contains(n) == set.contains(&n)));
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
                let (through, holes) = ranges.watermark();
                prop_assert_eq!(Some(&through), set.last());
                let told: BTreeSet<u64> = (1..=through).filter(|n| !holes.iter().any(|(a, z)| (a..=z).contains(&n))).collect();
                prop_assert_eq!(&told, &set);
                prop_assert_eq!(ranges.missing(), through - set.len() as u64);
            }
        }
    }

    #[test]
    fn holes_beyond_the_bound_lower_the_watermark() {
        let mut ranges = Ranges::default();
        for k in 1..=600u64 {
            ranges.insert(k * 2, k * 2);
        }
        let (through, holes) = ranges.watermark();
        assert_eq!((through, holes.len()), (512, Watermark::MAX_HOLES));
        for k in 601..=MAX_RANGES as u64 {
            ranges.insert(k * 2, k * 2);
        }
        assert_eq!(ranges.insert(9_999, 9_999), Marked::NoRoom);
        assert!(!ranges.contains(9_999));
        assert_eq!(ranges.insert(1, 1), Marked::New, "closing a hole is always possible");
    }

    #[test]
    fn old_incarnations_give_way_to_new_ones() {
        let mut marks = AgentMarks::default();
        for incarnation in 10..40 {
            assert_eq!(marks.insert(incarnation, 1, 1), Marked::New);
        }
        assert_eq!(marks.watermark(Site::A).marks.len(), Watermark::MAX_MARKS);
        assert_eq!(marks.insert(3, 1, 1), Marked::NoRoom);
        assert_eq!(marks.newest().map(|(i, _)| i), Some(39));
    }
}
