//! PURE: sets of payload numbers as ranges, so that an hour of them costs no more than a minute of them.

use std::collections::BTreeMap;

use super::segment::Key;

/// Numbers of one incarnation, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange {
    pub incarnation: u64,
    pub from: u64,
    pub through: u64,
}

impl KeyRange {
    #[must_use]
    pub const fn one(key: Key) -> KeyRange {
        KeyRange { incarnation: key.incarnation, from: key.seq, through: key.seq }
    }

    #[must_use]
    pub const fn first(&self) -> Key {
        Key { incarnation: self.incarnation, seq: self.from }
    }

    #[must_use]
    pub const fn last(&self) -> Key {
        Key { incarnation: self.incarnation, seq: self.through }
    }

    pub fn keys(self) -> impl Iterator<Item = Key> {
        (self.from..=self.through).map(move |seq| Key { seq, incarnation: self.incarnation })
    }

    /// How many numbers it has; a damaged file may name more than can be counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.through.saturating_sub(self.from).saturating_add(1)
    }
}

/// A set of numbers. Its ranges are disjoint and do not touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    /// By the first number of a range: its last.
    ranges: BTreeMap<Key, u64>,
    count: u64,
}

impl Ranges {
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.within(key, key).next().is_some()
    }

    /// True where no number of the range is missing.
    #[must_use]
    pub fn covers(&self, range: &KeyRange) -> bool {
        self.within(range.first(), range.last()).next() == Some(*range)
    }

    #[must_use]
    pub fn first(&self) -> Option<Key> {
        self.ranges.first_key_value().map(|(first, _)| *first)
    }

    #[must_use]
    pub fn last(&self) -> Option<Key> {
        self.ranges.last_key_value().map(|(first, through)| Key { seq: *through, ..*first })
    }

    pub fn iter(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.ranges.iter().map(|(first, through)| range_of(*first, *through))
    }

    /// Every number, lowest first.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.iter().flat_map(KeyRange::keys)
    }

    /// What of the set lies between two numbers, both included.
    pub fn within(&self, first: Key, last: Key) -> impl Iterator<Item = KeyRange> + '_ {
        let reaching = self.ranges.range(..first).next_back();
        let inside = (first <= last).then(|| self.ranges.range(first..=last));
        reaching.into_iter().chain(inside.into_iter().flatten()).filter_map(move |(start, through)| {
            let from = if start.incarnation == first.incarnation { start.seq.max(first.seq) } else { start.seq };
            let to = if start.incarnation == last.incarnation { (*through).min(last.seq) } else { *through };
            let between = (first.incarnation..=last.incarnation).contains(&start.incarnation);
            (between && from <= to).then_some(KeyRange { incarnation: start.incarnation, from, through: to })
        })
    }

    pub fn insert(&mut self, range: KeyRange) {
        let KeyRange { incarnation, mut from, mut through } = range;
        if from > through {
            return;
        }
        // What it overlaps or touches becomes a part of it.
        if let Some((start, end)) = self.ranges.range(..range.first()).next_back()
            && start.incarnation == incarnation
            && end.saturating_add(1) >= from
        {
            from = start.seq;
        }
        while let Some((start, end)) = self.ranges.range(Key { incarnation, seq: from }..).next()
            && start.incarnation == incarnation
            && start.seq <= through.saturating_add(1)
        {
            let (start, end) = (*start, *end);
            through = through.max(end);
            self.take_out(start);
        }
        self.put_in(KeyRange { incarnation, from, through });
    }

    /// Takes out what lies between two numbers, both included, and says what that was.
    pub fn remove(&mut self, first: Key, last: Key) -> Vec<KeyRange> {
        let removed: Vec<KeyRange> = self.within(first, last).collect();
        for part in &removed {
            let Some(start) = self.ranges.range(..=part.first()).next_back().map(|(start, _)| *start) else { continue };
            let Some(whole) = self.take_out(start) else { continue };
            if whole.from < part.from {
                self.put_in(KeyRange { through: part.from - 1, ..whole });
            }
            if part.through < whole.through {
                self.put_in(KeyRange { from: part.through + 1, ..whole });
            }
        }
        removed
    }

    /// The lowest number that is not below this one.
    #[must_use]
    pub fn first_from(&self, from: Key) -> Option<Key> {
        let holds = |(start, through): (&Key, &u64)| start.incarnation == from.incarnation && *through >= from.seq;
        if self.ranges.range(..=from).next_back().is_some_and(holds) {
            return Some(from);
        }
        self.ranges.range(from..).next().map(|(first, _)| *first)
    }

    fn take_out(&mut self, start: Key) -> Option<KeyRange> {
        let range = range_of(start, self.ranges.remove(&start)?);
        self.count = self.count.saturating_sub(range.count());
        Some(range)
    }

    fn put_in(&mut self, range: KeyRange) {
        self.count = self.count.saturating_add(range.count());
        self.ranges.insert(range.first(), range.through);
    }
}

const fn range_of(first: Key, through: u64) -> KeyRange {
    KeyRange { incarnation: first.incarnation, from: first.seq, through }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{Key, KeyRange, Ranges};

    fn set(ranges: &Ranges) -> BTreeSet<(u64, u64)> {
        ranges.keys().map(|key| (key.incarnation, key.seq)).collect()
    }

    proptest! {
        /// Against a plain set of numbers.
        #[test]
        fn ranges_are_a_set(steps in prop::collection::vec((any::<bool>(), 1..4_u64, 0..60_u64, 0..12_u64, 0..3_u64), 1..80)) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (add, incarnation, from, length, further) in steps {
                if add {
                    ranges.insert(KeyRange { incarnation, from, through: from + length });
                    model.extend((from..=from + length).map(|seq| (incarnation, seq)));
                } else {
                    let (first, last) = ((incarnation, from), (incarnation + further, from + length));
                    let key = |(incarnation, seq)| Key { incarnation, seq };
                    let inside: BTreeSet<_> = model.range(first..=last).copied().collect();
                    let within: Vec<KeyRange> = ranges.within(key(first), key(last)).collect();
                    let removed = ranges.remove(key(first), key(last));
                    prop_assert_eq!(&within, &removed);
                    prop_assert_eq!(removed.iter().map(KeyRange::count).sum::<u64>(), inside.len() as u64);
                    model = &model - &inside;
                }
                prop_assert_eq!(set(&ranges), model.clone());
                prop_assert_eq!(ranges.count(), model.len() as u64);
                let whole: Vec<KeyRange> = ranges.iter().collect();
                prop_assert!(whole.windows(2).all(|pair| pair[0].incarnation < pair[1].incarnation || pair[0].through + 1 < pair[1].from));
                prop_assert_eq!(ranges.first().map(|key| (key.incarnation, key.seq)), model.first().copied());
                prop_assert_eq!(ranges.last().map(|key| (key.incarnation, key.seq)), model.last().copied());
                for seq in 0..75 {
                    prop_assert_eq!(ranges.contains(Key { incarnation, seq }), model.contains(&(incarnation, seq)));
                }
            }
        }
    }

    #[test]
    fn the_highest_number_has_no_neighbour() {
        let mut ranges = Ranges::default();
        ranges.insert(KeyRange { incarnation: 1, from: 0, through: u64::MAX });
        ranges.insert(KeyRange { incarnation: 2, from: 0, through: 0 });
        assert_eq!((ranges.iter().count(), ranges.count()), (2, u64::MAX), "as far as it can be counted");
        ranges.remove(Key { incarnation: 1, seq: u64::MAX }, Key { incarnation: 1, seq: u64::MAX });
        assert!(ranges.contains(Key { incarnation: 1, seq: u64::MAX - 1 }));
        assert!(!ranges.contains(Key { incarnation: 1, seq: u64::MAX }));
    }
}
