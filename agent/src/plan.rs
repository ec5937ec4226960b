//! Registers and OIDs to requests. Pure; learns what a device refuses.
//!
//! Knows: limits of a request, values that must not be split, holes found so far. Refuses to know: sockets, decoding.
//!
//! Invariants:
//! * a value of several registers lies in one request, so it is never torn;
//! * a value and the scale that goes with it lie in one request, where one request can hold both;
//! * every item is in exactly one block, or known as a hole;
//! * a block that a device refuses is halved until the item at fault stands alone: at most log2(items) extra rounds.

use std::ops::Range;

/// The four address spaces of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    Holding,
    Input,
    Coil,
    Discrete,
}

impl Space {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Space::Holding => "holding",
            Space::Input => "input",
            Space::Coil => "coil",
            Space::Discrete => "discrete",
        }
    }

    #[must_use]
    pub const fn is_bits(self) -> bool {
        matches!(self, Space::Coil | Space::Discrete)
    }
}

/// Something to read: `len` registers or bits from `address`, for the point `point`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    pub space: Space,
    pub address: u16,
    pub len: u16,
    pub point: usize,
}

impl Item {
    fn end(self) -> u32 {
        u32::from(self.address) + u32::from(self.len)
    }
}

/// What one request to a device may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_registers: u16,
    pub max_bits: u16,
    /// Unused registers read along rather than sending another request.
    pub max_gap: u16,
}

/// One request, and the items it serves (indexes into [`ReadPlan::items`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub space: Space,
    pub address: u16,
    pub count: u16,
    pub items: Range<usize>,
}

/// The requests of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPlan {
    limits: Limits,
    items: Vec<Item>,
    /// Per item: it is not to be parted from the one before it.
    joined: Vec<bool>,
    blocks: Vec<Block>,
    holes: Vec<usize>,
}

/// What became of a refused block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Two smaller blocks stand at this index and the next one: read them.
    Halved,
    /// This item cannot be read at all; its block is gone.
    Hole { point: usize },
}

impl ReadPlan {
    /// `together`: pairs of points that are to be of one moment.
    #[must_use]
    pub fn new(mut items: Vec<Item>, together: &[(usize, usize)], limits: Limits) -> ReadPlan {
        items.sort_unstable();
        let joined = joined(&items, together, limits);
        let mut plan = ReadPlan { limits, items, joined, blocks: Vec::new(), holes: Vec::new() };
        plan.group();
        plan
    }

    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Points that the device refused.
    pub fn holes(&self) -> impl Iterator<Item = usize> {
        self.holes.iter().filter_map(|item| self.items.get(*item)).map(|item| item.point)
    }

    /// True where something was learnt that may have changed since.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        !self.holes.is_empty() || self.blocks != grouped(&self.items, &self.joined, self.limits)
    }

    /// Forgets what was learnt: firmware changes, and a busy device refuses what it has.
    pub fn forget(&mut self) {
        self.holes.clear();
        self.group();
    }

    fn group(&mut self) {
        self.blocks = grouped(&self.items, &self.joined, self.limits);
    }

    /// The device answered block `index` with "illegal address" or "illegal value".
    ///
    /// # Panics
    /// Never: an index that is not a block's is a hole of no point.
    pub fn refused(&mut self, index: usize) -> Option<Refused> {
        let block = self.blocks.get(index)?.clone();
        let count = block.items.len();
        if count <= 1 {
            self.blocks.remove(index);
            let item = self.items.get(block.items.start)?;
            self.holes.push(block.items.start);
            return Some(Refused::Hole { point: item.point });
        }
        let half = block.items.start + count / 2;
        // Where pairs allow it, between them.
        let cuts =
            (block.items.start + 1..block.items.end).filter(|cut| !self.joined.get(*cut).copied().unwrap_or(false));
        let middle = cuts.min_by_key(|cut| cut.abs_diff(half)).unwrap_or(half);
        let halves = [block.items.start..middle, middle..block.items.end].map(|range| span(&self.items, range));
        if let [Some(first), Some(second)] = halves {
            self.blocks.splice(index..=index, [first, second]);
        }
        Some(Refused::Halved)
    }
}

/// The block that covers a range of items of one space.
fn span(items: &[Item], range: Range<usize>) -> Option<Block> {
    let covered = items.get(range.clone())?;
    let first = covered.first()?;
    let end = covered.iter().map(|item| item.end()).max()?;
    let count = u16::try_from(end - u32::from(first.address)).ok()?;
    Some(Block { space: first.space, address: first.address, count, items: range })
}

const fn most(space: Space, limits: Limits) -> u16 {
    if space.is_bits() { limits.max_bits } else { limits.max_registers }
}

/// Which items are not to be parted from the one before them. A pair that no request can hold is let go.
fn joined(items: &[Item], together: &[(usize, usize)], limits: Limits) -> Vec<bool> {
    let mut joined = vec![false; items.len()];
    let place = |point: usize| items.iter().position(|item| item.point == point);
    for (one, other) in together {
        let (Some(a), Some(b)) = (place(*one), place(*other)) else { continue };
        let (first, last) = (a.min(b), a.max(b));
        let pair = items.get(first).zip(items.get(last));
        let fits = pair.is_some_and(|(low, high)| {
            let reach = items[first..=last].iter().map(|item| item.end()).max().unwrap_or(0) - u32::from(low.address);
            low.space == high.space && reach <= u32::from(most(low.space, limits))
        });
        if fits {
            joined[first + 1..=last].fill(true);
        }
    }
    joined
}

/// Sorted items to the fewest requests within the limits.
fn grouped(items: &[Item], joined: &[bool], limits: Limits) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut from = 0;
    while from < items.len() {
        let Some(next) = inseparable(items, joined, from, limits) else { break };
        from = next.items.end;
        match blocks.last_mut().and_then(|block| Some((merged(block, &next, limits)?, block))) {
            Some((merged, block)) => *block = merged,
            None => blocks.push(next),
        }
    }
    blocks
}

/// The item at `from` with those that are not to be parted from it, as far as a request reaches.
fn inseparable(items: &[Item], joined: &[bool], from: usize, limits: Limits) -> Option<Block> {
    let mut block = span(items, from..from + 1)?;
    let follow = joined.get(from + 1..).unwrap_or_default().iter().take_while(|joined| **joined).count();
    for end in from + 2..from + 2 + follow {
        match span(items, from..end) {
            Some(longer) if longer.count <= most(longer.space, limits) => block = longer,
            _ => break,
        }
    }
    Some(block)
}

/// Two blocks as one request, where that is allowed and worth it.
fn merged(block: &Block, next: &Block, limits: Limits) -> Option<Block> {
    let end = u32::from(block.address) + u32::from(block.count);
    let reach = end.max(u32::from(next.address) + u32::from(next.count)) - u32::from(block.address);
    let gap = u32::from(next.address).saturating_sub(end);
    // Bits travel sixteen to a register's two bytes.
    let most_gap = u32::from(limits.max_gap) * if block.space.is_bits() { 16 } else { 1 };
    let fits = block.space == next.space && reach <= u32::from(most(block.space, limits)) && gap <= most_gap;
    let count = u16::try_from(reach).ok().filter(|_| fits)?;
    Some(Block { space: block.space, address: block.address, count, items: block.items.start..next.items.end })
}

/// SNMP: indexes `0..count` in requests of at most `most`.
#[must_use]
pub fn chunks(count: usize, most: usize) -> Vec<Range<usize>> {
    let most = most.max(1);
    (0..count).step_by(most).map(|start| start..(start + most).min(count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LIMITS: Limits = Limits { max_registers: 100, max_bits: 800, max_gap: 8 };

    fn item(space: Space, address: u16, len: u16, point: usize) -> Item {
        Item { space, address, len, point }
    }

    fn holding(addresses: &[(u16, u16)]) -> Vec<Item> {
        addresses.iter().enumerate().map(|(i, (a, l))| item(Space::Holding, *a, *l, i)).collect()
    }

    #[test]
    fn neighbours_share_a_request_and_far_ones_do_not() {
        let plan = ReadPlan::new(holding(&[(10, 2), (12, 1), (20, 1), (40, 2), (60_000, 1)]), &[], LIMITS);
        let seen: Vec<_> = plan.blocks().iter().map(|b| (b.address, b.count, b.items.clone())).collect();
        assert_eq!(seen, vec![(10, 11, 0..3), (40, 2, 3..4), (60_000, 1, 4..5)]);
    }

    #[test]
    fn spaces_are_never_mixed_and_overlaps_are_fine() {
        let items = vec![item(Space::Coil, 3, 1, 0), item(Space::Holding, 3, 4, 1), item(Space::Holding, 4, 1, 2)];
        let plan = ReadPlan::new(items, &[], LIMITS);
        assert_eq!(plan.blocks().len(), 2);
        assert_eq!(plan.blocks()[0].count, 4);
    }

    #[test]
    fn the_last_register_of_all_can_be_read() {
        let plan = ReadPlan::new(holding(&[(65_534, 2)]), &[], LIMITS);
        assert_eq!((plan.blocks()[0].address, plan.blocks()[0].count), (65_534, 2));
    }

    #[test]
    fn one_hole_among_64_is_found_in_6_rounds_and_costs_only_itself() {
        let bad = 37;
        let addresses: Vec<_> = (0..64).map(|i| (i, 1)).collect();
        let mut plan = ReadPlan::new(holding(&addresses), &[], LIMITS);
        let (mut rounds, mut read) = (0, BTreeSet::new());
        let mut index = 0;
        while index < plan.blocks().len() {
            let block = plan.blocks()[index].clone();
            if (block.address..block.address + block.count).contains(&bad) {
                rounds += 1;
                plan.refused(index);
            } else {
                read.extend(block.items);
                index += 1;
            }
        }
        assert_eq!(rounds, 7, "the full block and one per halving");
        assert_eq!(plan.holes().collect::<Vec<_>>(), vec![37]);
        assert_eq!(read.len(), 63);
        assert!(plan.is_learned());
        plan.forget();
        assert_eq!((plan.blocks().len(), plan.holes().count()), (1, 0));
        assert!(!plan.is_learned());
    }

    #[test]
    fn a_hole_between_values_costs_no_value() {
        let mut plan = ReadPlan::new(holding(&[(0, 1), (1, 1), (6, 1), (7, 1)]), &[], LIMITS);
        assert_eq!(plan.refused(0), Some(Refused::Halved));
        let seen: Vec<_> = plan.blocks().iter().map(|b| (b.address, b.count)).collect();
        assert_eq!(seen, vec![(0, 2), (6, 2)]);
    }

    #[test]
    fn a_value_and_its_scale_are_of_one_request() {
        // Values at 0, 60, 61 and 120; the scale of the one at 60 stands at 130.
        let items = holding(&[(0, 1), (60, 1), (61, 1), (120, 1), (130, 1)]);
        let spans = |plan: &ReadPlan| plan.blocks().iter().map(|b| (b.address, b.count)).collect::<Vec<_>>();
        let wide = Limits { max_gap: 124, ..LIMITS };
        assert_eq!(spans(&ReadPlan::new(items.clone(), &[], wide)), [(0, 62), (120, 11)]);
        let mut plan = ReadPlan::new(items.clone(), &[(1, 4)], wide);
        assert_eq!(spans(&plan), [(0, 1), (60, 71)], "the pair is not torn, though it means a longer request");
        plan.refused(1);
        assert_eq!(
            spans(&plan)[1..].iter().map(|span| span.1).sum::<u16>(),
            2 + 11,
            "a hole is looked for all the same"
        );
        let too_far = ReadPlan::new(items, &[(0, 4)], wide);
        assert_eq!(spans(&too_far), [(0, 62), (120, 11)], "what no request can hold is read in two");
    }

    #[test]
    fn chunks_cover_all() {
        assert_eq!(chunks(5, 2), vec![0..2, 2..4, 4..5]);
        assert_eq!(chunks(0, 2), Vec::<Range<usize>>::new());
    }

    proptest! {
        #[test]
        fn plans_keep_their_invariants(
            raw in proptest::collection::vec((0_u8..4, any::<u16>(), 1_u16..5), 1..80),
            max_registers in 4_u16..126, max_gap in 0_u16..64, refusals in proptest::collection::vec(0_usize..20, 0..40),
            together in proptest::collection::vec((0_usize..80, 0_usize..80), 0..20)
        ) {
            let items: Vec<_> = raw.iter().enumerate().map(|(i, (space, address, len))| {
                let space = [Space::Holding, Space::Input, Space::Coil, Space::Discrete][usize::from(*space)];
                let len = if space.is_bits() { 1 } else { *len };
                item(space, (*address).min(u16::MAX - 4), len, i)
            }).collect();
            let limits = Limits { max_registers, max_bits: 64, max_gap };
            let mut plan = ReadPlan::new(items, &together, limits);
            for refusal in refusals {
                plan.refused(refusal);
            }
            let mut covered = plan.holes.clone();
            for block in plan.blocks() {
                let most = if block.space.is_bits() { 64 } else { max_registers };
                prop_assert!(block.count <= most);
                for index in block.items.clone() {
                    let item = plan.items()[index];
                    prop_assert_eq!(item.space, block.space);
                    prop_assert!(item.address >= block.address);
                    prop_assert!(item.end() <= u32::from(block.address) + u32::from(block.count));
                    covered.push(index);
                }
            }
            covered.sort_unstable();
            prop_assert_eq!(covered, (0..plan.items().len()).collect::<Vec<_>>());
        }
    }
}
