//! The in-memory twin of the log, for models and fast simulation: same promises, no disk, no network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bcp_core::replica::Tick;
use bcp_wire::Site;
use tokio::sync::watch;

use super::log::{DecisionLog, Leadership, ProposeError};
use super::machine::Agreed;

/// Nodes that share one log. A node that is cut applies nothing until it is joined again.
#[derive(Debug, Clone, Default)]
pub struct MemoryCluster {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    log: Vec<Tick>,
    term: u64,
    leader: Option<Site>,
    cut: BTreeSet<Site>,
    nodes: BTreeMap<Site, Node>,
}

#[derive(Debug)]
struct Node {
    agreed: Agreed,
    applied: usize,
    leadership: watch::Sender<Leadership>,
}

/// One node of a [`MemoryCluster`].
#[derive(Debug)]
pub struct MemoryLog {
    site: Site,
    cluster: MemoryCluster,
    agreed: Agreed,
    leadership: watch::Receiver<Leadership>,
}

impl MemoryCluster {
    /// Adds the node of `site`.
    pub fn join(&self, site: Site) -> MemoryLog {
        let (leadership, seen) = watch::channel(Leadership::Nobody { term: 0 });
        let agreed = Agreed::default();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.nodes.insert(site, Node { agreed: agreed.clone(), applied: 0, leadership });
        inner.spread();
        drop(inner);
        MemoryLog { site, cluster: self.clone(), agreed, leadership: seen }
    }

    /// Makes `site` the leader of a new term.
    pub fn elect(&self, site: Site) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.term += 1;
        inner.leader = Some(site);
        inner.spread();
    }

    /// Cuts `site` off, or joins it again.
    pub fn set_cut(&self, site: Site, cut: bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if cut {
            inner.cut.insert(site);
        } else {
            inner.cut.remove(&site);
        }
        inner.spread();
    }
}

impl Inner {
    fn spread(&mut self) {
        let quorum = 2 * (self.nodes.len() - self.cut.len().min(self.nodes.len())) > self.nodes.len();
        let (term, leader) = (self.term, self.leader);
        for (site, node) in &mut self.nodes {
            let cut = self.cut.contains(site);
            let now = match leader {
                Some(leader) if leader == *site && quorum && !cut => Leadership::Leader { term },
                Some(leader) if leader != *site && !cut && !self.cut.contains(&leader) => {
                    Leadership::Follower { leader, term }
                }
                _ => Leadership::Nobody { term },
            };
            node.leadership.send_if_modified(|seen| std::mem::replace(seen, now) != now);
            while !cut && let Some(tick) = self.log.get(node.applied) {
                node.applied += 1;
                node.agreed.apply(node.applied as u64, tick);
            }
        }
    }
}

impl DecisionLog for MemoryLog {
    async fn propose(&self, tick: Tick) -> Result<u64, ProposeError> {
        let mut inner = self.cluster.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*self.leadership.borrow(), Leadership::Leader { .. }) {
            return Err(ProposeError::NotLeader);
        }
        inner.log.push(tick);
        let index = inner.log.len() as u64;
        inner.spread();
        Ok(index)
    }

    fn applied(&self) -> &Agreed {
        &self.agreed
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}

impl MemoryLog {
    #[must_use]
    pub fn site(&self) -> Site {
        self.site
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_twin_passes_the_suite() {
        let cluster = MemoryCluster::default();
        let nodes: Vec<_> = Site::ALL.into_iter().map(|site| (site, cluster.join(site))).collect();
        cluster.elect(Site::W);
        super::super::log::suite::run(&nodes).await;
    }

    #[tokio::test]
    async fn a_leader_without_a_quorum_appends_nothing() {
        let cluster = MemoryCluster::default();
        let nodes: BTreeMap<_, _> = Site::ALL.into_iter().map(|site| (site, cluster.join(site))).collect();
        cluster.elect(Site::W);
        cluster.set_cut(Site::A, true);
        let tick = super::super::log::suite::tick(Site::W, 1, 1);
        assert_eq!(nodes[&Site::W].propose(tick.clone()).await, Ok(1));
        cluster.set_cut(Site::B, true);
        assert_eq!(nodes[&Site::W].propose(tick).await, Err(ProposeError::NotLeader));
    }
}
