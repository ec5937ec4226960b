//! Registers and OIDs to requests. Pure; learns what a device refuses.
//!
//! Knows: limits of a request, values that must not be split, holes found so far. Refuses to know: sockets, decoding.
//!
//! Invariants:
//! * a value of several registers lies in one request, so it is never torn;
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
    #[must_use]
    pub fn new(mut items: Vec<Item>, limits: Limits) -> ReadPlan {
        items.sort_unstable();
        let mut plan = ReadPlan { limits, items, blocks: Vec::new(), holes: Vec::new() };
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
        !self.holes.is_empty() || self.blocks != grouped(&self.items, self.limits)
    }

    /// Forgets what was learnt: firmware changes, and a busy device refuses what it has.
    pub fn forget(&mut self) {
        self.holes.clear();
        self.group();
    }

    fn group(&mut self) {
        self.blocks = grouped(&self.items, self.limits);
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
        let middle = block.items.start + count / 2;
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

/// Sorted items to the fewest requests within the limits.
fn grouped(items: &[Item], limits: Limits) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let most = if item.space.is_bits() { limits.max_bits } else { limits.max_registers };
        if let Some(block) = blocks.last_mut() {
            let end = u32::from(block.address) + u32::from(block.count);
            let reach = item.end().max(end) - u32::from(block.address);
            let gap = u32::from(item.address).saturating_sub(end);
            // Bits travel eight to a byte: a gap of them costs an eighth.
            let most_gap = u32::from(limits.max_gap) * if item.space.is_bits() { 16 } else { 1 };
            if block.space == item.space && reach <= u32::from(most) && gap <= most_gap {
                block.count = u16::try_from(reach).unwrap_or(block.count);
                block.items.end = index + 1;
                continue;
            }
        }
        blocks.push(Block { space: item.space, address: item.address, count: item.len, items: index..index + 1 });
    }
    blocks
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
        let plan = ReadPlan::new(holding(&[(10, 2), (12, 1), (20, 1), (40, 2), (60_000, 1)]), LIMITS);
        let seen: Vec<_> = plan.blocks().iter().map(|b| (b.address, b.count, b.items.clone())).collect();
        assert_eq!(seen, vec![(10, 11, 0..3), (40, 2, 3..4), (60_000, 1, 4..5)]);
    }

    #[test]
    fn spaces_are_never_mixed_and_overlaps_are_fine() {
        let items = vec![item(Space::Coil, 3, 1, 0), item(Space::Holding, 3, 4, 1), item(Space::Holding, 4, 1, 2)];
        let plan = ReadPlan::new(items, LIMITS);
        assert_eq!(plan.blocks().len(), 2);
        assert_eq!(plan.blocks()[0].count, 4);
    }

    #[test]
    fn the_last_register_of_all_can_be_read() {
        let plan = ReadPlan::new(holding(&[(65_534, 2)]), LIMITS);
        assert_eq!((plan.blocks()[0].address, plan.blocks()[0].count), (65_534, 2));
    }

    #[test]
    fn one_hole_among_64_is_found_in_6_rounds_and_costs_only_itself() {
        let bad = 37;
        let addresses: Vec<_> = (0..64).map(|i| (i, 1)).collect();
        let mut plan = ReadPlan::new(holding(&addresses), LIMITS);
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
        let mut plan = ReadPlan::new(holding(&[(0, 1), (1, 1), (6, 1), (7, 1)]), LIMITS);
        assert_eq!(plan.refused(0), Some(Refused::Halved));
        let seen: Vec<_> = plan.blocks().iter().map(|b| (b.address, b.count)).collect();
        assert_eq!(seen, vec![(0, 2), (6, 2)]);
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
            max_registers in 4_u16..126, max_gap in 0_u16..64, refusals in proptest::collection::vec(0_usize..20, 0..40)
        ) {
            let items: Vec<_> = raw.iter().enumerate().map(|(i, (space, address, len))| {
                let space = [Space::Holding, Space::Input, Space::Coil, Space::Discrete][usize::from(*space)];
                let len = if space.is_bits() { 1 } else { *len };
                item(space, (*address).min(u16::MAX - 4), len, i)
            }).collect();
            let limits = Limits { max_registers, max_bits: 64, max_gap };
            let mut plan = ReadPlan::new(items, limits);
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
