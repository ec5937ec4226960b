//! Which payloads of which agent are committed: dedup and watermark. PURE.
//!
//! Knows: per agent and incarnation, the ranges of sequence numbers that are in. Refuses to know: payloads, brokers,
//! disks. Bounded: a number that would need one range too many is refused, and the agent sends it again later.

use std::collections::{BTreeMap, BTreeSet};

use bcp_wire::presence::AgentRef;
use bcp_wire::{Site, WIRE_VERSION, Watermark, WatermarkMark};
use serde::{Deserialize, Serialize};

/// Ranges kept of one incarnation; an agent that skips more often than this loses no data, it is only told later.
pub const MAX_RANGES: usize = 1_024;
/// Starts kept of one agent. It sends payloads of [`Watermark::MAX_MARKS`] starts at once at most, so the others are there for
/// starts that pile up while those of an earlier one are still on their way.
pub const MAX_STARTS: usize = 64;
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

    fn is_whole(&self) -> bool {
        matches!(self.0[..], [(1, _)])
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
        if !self.0.contains_key(&incarnation) && self.0.len() >= MAX_STARTS {
            // Of whom nothing is missing nobody waits for anything. The newest stays in any case.
            let newest = self.0.keys().next_back().copied().unwrap_or(0);
            let whole = self.0.range(..newest).find(|(_, ranges)| ranges.is_whole()).map(|(start, _)| *start);
            let gone = whole.or_else(|| self.0.keys().next().copied()).unwrap_or(0);
            self.0.remove(&gone);
        }
        self.0.entry(incarnation).or_default().insert(first, last)
    }

    /// What the agent is told: of the newest start, of those it wants to know of, and of the next newest as far as there is
    /// room.
    #[must_use]
    pub fn watermark(&self, collector: Site, wanted: &BTreeSet<u64>) -> Watermark {
        let newest = self.newest().map(|(start, _)| start);
        let known = wanted.iter().rev().filter(|start| self.0.contains_key(start));
        let mut told = BTreeSet::new();
        for start in newest.iter().chain(known).chain(self.0.keys().rev()) {
            if told.len() < Watermark::MAX_MARKS {
                told.insert(*start);
            }
        }
        let marks = told
            .into_iter()
            .filter_map(|start| {
                let (through, holes) = self.0.get(&start)?.watermark();
                Some(WatermarkMark { i: start, through, holes })
            })
            .collect();
        Watermark { v: WIRE_VERSION, collector, marks }
    }

    #[must_use]
    pub fn knows(&self, incarnation: u64) -> bool {
        self.0.contains_key(&incarnation)
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
    fn starts_of_which_all_is_known_give_way_to_others() {
        let mut marks = AgentMarks::default();
        // Of the first two something is missing.
        for start in 10..=200 {
            assert_eq!(marks.insert(start, 1 + u64::from(start < 12), 5), Marked::New);
        }
        assert_eq!((marks.0.len(), marks.newest().map(|(start, _)| start)), (MAX_STARTS, Some(200)));
        assert!(marks.knows(10) && marks.knows(11));
        assert_eq!(marks.insert(3, 1, 1), Marked::New, "what is older than all of them gets in as well");
        assert_eq!(marks.insert(3, 1, 1), Marked::Duplicate);
    }

    #[test]
    fn an_agent_is_told_of_the_starts_that_it_sent_of() {
        let mut marks = AgentMarks::default();
        for start in 1..=60 {
            marks.insert(start, 1, start);
        }
        let told = |wanted: &[u64]| {
            let mark = marks.watermark(Site::A, &wanted.iter().copied().collect());
            assert!(mark.marks.is_sorted_by_key(|mark| mark.i) && mark.marks.len() == Watermark::MAX_MARKS);
            mark.marks.iter().map(|mark| mark.i).collect::<Vec<_>>()
        };
        assert_eq!(told(&[]), (45..=60).collect::<Vec<_>>());
        assert_eq!(told(&[3, 7, 99]), [3, 7].into_iter().chain(47..=60).collect::<Vec<_>>());
        assert_eq!(told(&(1..=30).collect::<Vec<_>>()), (16..=30).chain([60]).collect::<Vec<_>>());
    }
}
