//! Which agents are to be told how far they are committed. PURE.
//!
//! Knows: whose payloads gather, of which of their starts, whose are being committed, whose watermark is to go out. Refuses to
//! know: payloads, stores, brokers.
//!
//! Invariant: an agent whose payload was committed is due after that commit, also where the payload arrived while the
//! commit before was under way. Otherwise the last payload of a quiet agent is never confirmed.

use std::collections::{BTreeMap, BTreeSet};

use bcp_wire::Watermark;
use bcp_wire::presence::AgentRef;

/// Starts remembered of one agent, each with [`Watermark::MAX_MARKS`] of a few watermarks. Of others it is told when it sends
/// again.
const MAX_STARTS: usize = 4 * Watermark::MAX_MARKS;

type Starts = BTreeMap<AgentRef, BTreeSet<u64>>;

/// Bounded by [`crate::store::marks::MAX_AGENTS`]: who is not in the marks is not taken in.
#[derive(Debug, Clone, Default)]
pub struct WatermarksDue {
    gathering: Starts,
    committing: Starts,
    due: Starts,
}

impl WatermarksDue {
    /// A payload arrived, new or not: who sends twice has missed its watermark.
    pub fn arrived(&mut self, agent: &AgentRef, start: u64) {
        if let Some(starts) = self.gathering.get_mut(agent) {
            if starts.len() < MAX_STARTS || starts.contains(&start) {
                starts.insert(start);
            }
        } else {
            self.gathering.insert(agent.clone(), BTreeSet::from([start]));
        }
    }

    /// What gathered so far is on its way into the store.
    pub fn committing(&mut self) {
        join(&mut self.committing, std::mem::take(&mut self.gathering));
    }

    /// That is in the store now.
    pub fn committed(&mut self) {
        join(&mut self.due, std::mem::take(&mut self.committing));
    }

    /// Neither what gathered nor what was on its way is in the store.
    pub fn shed(&mut self) {
        self.gathering.clear();
        self.committing.clear();
    }

    /// Who is to be told now, and of which starts.
    pub fn take(&mut self) -> Starts {
        std::mem::take(&mut self.due)
    }

    /// It could not be told now, or not of these.
    pub fn later(&mut self, agent: AgentRef, starts: BTreeSet<u64>) {
        join(&mut self.due, BTreeMap::from([(agent, starts)]));
    }
}

fn join(into: &mut Starts, from: Starts) {
    for (agent, starts) in from {
        let known = into.entry(agent).or_default();
        let room = MAX_STARTS.saturating_sub(known.len());
        known.extend(starts.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {

    use bcp_wire::Site;

    use super::*;

    fn agent(name: &str) -> AgentRef {
        AgentRef { site: Site::A, agent: name.parse().unwrap() }
    }

    fn one(start: u64) -> BTreeSet<u64> {
        BTreeSet::from([start])
    }

    #[test]
    fn who_arrives_during_a_commit_is_due_after_the_next_one() {
        let mut due = WatermarksDue::default();
        due.arrived(&agent("one"), 1);
        due.committing();
        due.arrived(&agent("one"), 2);
        due.arrived(&agent("two"), 1);
        due.committed();
        assert_eq!(due.take(), BTreeMap::from([(agent("one"), one(1))]));
        due.committing();
        assert!(due.take().is_empty(), "not before it is committed");
        due.committed();
        assert_eq!(due.take(), BTreeMap::from([(agent("one"), one(2)), (agent("two"), one(1))]));
        assert!(due.take().is_empty());
    }

    #[test]
    fn what_could_not_be_told_stays_due_and_what_was_shed_does_not() {
        let mut due = WatermarksDue::default();
        due.arrived(&agent("one"), 1);
        due.committing();
        due.arrived(&agent("two"), 1);
        due.shed();
        due.committed();
        assert!(due.take().is_empty());
        due.later(agent("one"), one(7));
        due.later(agent("one"), one(8));
        due.shed();
        assert_eq!(due.take(), BTreeMap::from([(agent("one"), BTreeSet::from([7, 8]))]));
    }

    #[test]
    fn starts_without_end_are_not_remembered() {
        let mut due = WatermarksDue::default();
        (1..1_000).for_each(|start| due.arrived(&agent("one"), start));
        due.committing();
        due.committed();
        due.later(agent("one"), (1_000..2_000).collect());
        assert_eq!(due.take()[&agent("one")].len(), MAX_STARTS);
    }
}
