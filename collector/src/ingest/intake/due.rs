//! Which agents are to be told how far they are committed. PURE.
//!
//! Knows: whose payloads gather, whose are being committed, whose watermark is to go out. Refuses to know: payloads,
//! stores, brokers.
//!
//! Invariant: an agent whose payload was committed is due after that commit, also where the payload arrived while the
//! commit before was under way. Otherwise the last payload of a quiet agent is never confirmed.

use std::collections::BTreeSet;

use bcp_wire::presence::AgentRef;

/// Bounded by [`crate::store::marks::MAX_AGENTS`]: who is not in the marks is not taken in.
#[derive(Debug, Clone, Default)]
pub struct WatermarksDue {
    gathering: BTreeSet<AgentRef>,
    committing: BTreeSet<AgentRef>,
    due: BTreeSet<AgentRef>,
}

impl WatermarksDue {
    /// A payload arrived, new or not: who sends twice has missed its watermark.
    pub fn arrived(&mut self, agent: &AgentRef) {
        if !self.gathering.contains(agent) {
            self.gathering.insert(agent.clone());
        }
    }

    /// What gathered so far is on its way into the store.
    pub fn committing(&mut self) {
        self.committing.append(&mut self.gathering);
    }

    /// That is in the store now.
    pub fn committed(&mut self) {
        self.due.append(&mut self.committing);
    }

    /// Neither what gathered nor what was on its way is in the store.
    pub fn shed(&mut self) {
        self.gathering.clear();
        self.committing.clear();
    }

    /// Who is to be told now.
    pub fn take(&mut self) -> BTreeSet<AgentRef> {
        std::mem::take(&mut self.due)
    }

    /// It could not be told now.
    pub fn later(&mut self, agent: AgentRef) {
        self.due.insert(agent);
    }
}

#[cfg(test)]
mod tests {

    use bcp_wire::Site;

    use super::*;

    fn agent(name: &str) -> AgentRef {
        AgentRef { site: Site::A, agent: name.parse().unwrap() }
    }

    #[test]
    fn who_arrives_during_a_commit_is_due_after_the_next_one() {
        let mut due = WatermarksDue::default();
        due.arrived(&agent("one"));
        due.committing();
        due.arrived(&agent("one"));
        due.arrived(&agent("two"));
        due.committed();
        assert_eq!(due.take(), BTreeSet::from([agent("one")]));
        due.committing();
        assert!(due.take().is_empty(), "not before it is committed");
        due.committed();
        assert_eq!(due.take(), BTreeSet::from([agent("one"), agent("two")]));
        assert!(due.take().is_empty());
    }

    #[test]
    fn what_could_not_be_told_stays_due_and_what_was_shed_does_not() {
        let mut due = WatermarksDue::default();
        due.arrived(&agent("one"));
        due.committing();
        due.arrived(&agent("two"));
        due.shed();
        due.committed();
        assert!(due.take().is_empty());
        due.later(agent("one"));
        due.shed();
        assert_eq!(due.take(), BTreeSet::from([agent("one")]));
    }
}
