//! The decision log as the rest of the process sees it, whatever keeps it.

use std::future::Future;

use bcp_core::replica::Tick;
use bcp_wire::Site;
use tokio::sync::watch;

use super::machine::Agreed;

/// Who leads, as far as this node can tell now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// This node, and a quorum answers it.
    Leader { term: u64 },
    /// Another node, heard within the election time.
    Follower { leader: Site, term: u64 },
    /// Nobody that this node hears; or itself, without a quorum.
    Nobody { term: u64 },
}

impl Leadership {
    #[must_use]
    pub fn term(self) -> u64 {
        match self {
            Leadership::Leader { term } | Leadership::Follower { term, .. } | Leadership::Nobody { term } => term,
        }
    }
}

/// Why a tick did not get into the log, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("this node does not lead")]
    NotLeader,
    #[error("leadership was lost before it was committed; it may still be")]
    Lost,
    #[error("the log has stopped: {reason}")]
    Stopped { reason: String },
}

/// An ordered, durable, replicated sequence of ticks.
///
/// Promises: a tick for which `propose` returned an index is durable at a quorum and applied here; every node applies the
/// same ticks in the same order at the same index.
pub trait DecisionLog: std::fmt::Debug + Send + Sync + 'static {
    /// Appends a tick. Returns its index once it is committed and applied on this node. May take for ever without a quorum.
    fn propose(&self, tick: Tick) -> impl Future<Output = Result<u64, ProposeError>> + Send;
    /// The agreed state on this node.
    fn applied(&self) -> &Agreed;
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

#[cfg(test)]
pub(crate) mod suite {
    //! What every decision log must do; run over each implementation.

    use std::time::Duration;

    use bcp_core::time::Wall;

    use super::*;

    pub fn tick(leader: Site, term: u64, wall: i64) -> Tick {
        Tick { leader, term, elapsed_ms: 10, wall: Wall(wall), items: Vec::new() }
    }

    async fn leader<L: DecisionLog>(nodes: &[(Site, L)]) -> (Site, &L, u64) {
        loop {
            for (site, log) in nodes {
                if let Leadership::Leader { term } = *log.leadership().borrow() {
                    return (*site, log, term);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `nodes` form one cluster that has or will get a leader.
    pub async fn run<L: DecisionLog>(nodes: &[(Site, L)]) {
        let (site, log, term) = tokio::time::timeout(Duration::from_secs(20), leader(nodes)).await.expect("a leader");
        let mut last = 0;
        for wall in 1..=20 {
            let index = log.propose(tick(site, term, wall)).await.expect("committed");
            assert!(index > last, "indexes grow");
            assert!(log.applied().marks().borrow().index >= index || log.applied().read(|replica| replica.index) == 0);
            last = index;
        }
        for (other, log) in nodes.iter().filter(|(other, _)| *other != site) {
            assert_eq!(
                log.propose(tick(*other, term, 0)).await,
                Err(ProposeError::NotLeader),
                "only the leader appends"
            );
        }
    }
}
