//! The agreed state as it was at an earlier log index: a snapshot that is kept, and the entries after it, applied again.
//!
//! Invariant: what comes out is what every node had at that index, for `Replica::apply` is a function of both alone.

use bcp_core::replica::Replica;
use openraft::EntryPayload;

use super::raft::{Entry, SnapshotMeta};
use super::store::{Store, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("the log goes as far as index {last}")]
    Later { last: u64 },
    #[error(
        "the log here begins after index {first}: an earlier state is kept nowhere; the ledger tells what happened"
    )]
    Gone { first: u64 },
    #[error("failed to read the decide database")]
    Store(#[from] StoreError),
}

fn index(meta: &SnapshotMeta) -> u64 {
    meta.last_log_id.map_or(0, |log_id| log_id.index)
}

/// The state after the entry of this index. `last`: how far this node has applied.
///
/// # Errors
/// The log does not reach that far, in either direction.
pub async fn replay(store: &Store, at: u64, last: u64) -> Result<Replica, ReplayError> {
    if at > last {
        return Err(ReplayError::Later { last });
    }
    let mut first = None;
    for snapshot in store.kept_snapshots().await? {
        let (from, replica) = match snapshot {
            Some((meta, data)) => (index(&meta), serde_json::from_slice(&data).map_err(StoreError::Record)?),
            // Before the first snapshot the log is whole.
            None => (0, Replica::default()),
        };
        if from <= at
            && let Some(replica) = from_there(store, replica, from, at).await?
        {
            return Ok(replica);
        }
        first = Some(from);
    }
    Err(ReplayError::Gone { first: first.unwrap_or(0) })
}

/// None where an entry in between is gone.
async fn from_there(store: &Store, mut replica: Replica, from: u64, at: u64) -> Result<Option<Replica>, StoreError> {
    let mut next = from.saturating_add(1);
    // The founding entry has index 0, and no snapshot before it.
    if from == 0 && replica.index == 0 {
        next = 0;
    }
    while next <= at {
        let page = store.read_entries(next, at.saturating_add(1)).await?;
        if page.is_empty() {
            return Ok(None);
        }
        for entry in page {
            if entry.log_id.index != next {
                return Ok(None);
            }
            apply(&mut replica, &entry);
            next = next.saturating_add(1);
        }
    }
    Ok(Some(replica))
}

fn apply(replica: &mut Replica, entry: &Entry) {
    match &entry.payload {
        EntryPayload::Normal(tick) => {
            // Its ledger entries were written when it was applied first.
            let _ = replica.apply(entry.log_id.index, tick);
        }
        EntryPayload::Blank | EntryPayload::Membership(_) => {}
    }
}

#[cfg(test)]
#[path = "../../core/tests/sample/mod.rs"]
mod sample;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use bcp_core::policy::{Policy, ServicePolicy, Timing};
    use bcp_core::replica::{Item, Tick};
    use bcp_core::time::Wall;
    use bcp_wire::Site;
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::decide::raft::{LogId, StoredMembership};

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 3), index)
    }

    fn tick(index: u64) -> Tick {
        let policy = || Policy {
            timing: Timing::METRO,
            tickets: BTreeMap::from([(sample::id("rx"), sample::passive())]),
            services: BTreeMap::from([(sample::id("rx"), ServicePolicy::default())]),
            pools: BTreeMap::new(),
            sites: BTreeMap::new(),
        };
        let items = if index == 2 { vec![Item::Policy(Box::new(policy()))] } else { Vec::new() };
        Tick { leader: Site::W, term: 1, elapsed_ms: 250, wall: Wall(i64::try_from(index).unwrap()), items }
    }

    #[tokio::test]
    async fn every_index_that_is_kept_gives_the_state_and_the_explanation_of_then() {
        let dir = std::env::temp_dir().join(format!("bcp-replay-{:016x}", rand::random::<u64>()));
        let store = Store::open(&dir).unwrap();
        let (mut replica, mut states) = (Replica::default(), Vec::new());
        let mut entries = Vec::new();
        for index in 0..30 {
            let payload = if index == 0 { EntryPayload::Blank } else { EntryPayload::Normal(tick(index)) };
            let entry = Entry { log_id: log_id(index), payload };
            apply(&mut replica, &entry);
            states.push(replica.clone());
            entries.push(entry);
        }
        store.keep_entries(entries).await.unwrap();
        let ticket = sample::id("rx");
        let whole = |at: u64| {
            let (store, want) = (store.clone(), states[usize::try_from(at).unwrap()].clone());
            let ticket = ticket.clone();
            async move {
                let found = replay(&store, at, 29).await.unwrap();
                assert_eq!(found, want, "index {at}");
                assert_eq!(found.explain(&ticket), want.explain(&ticket));
                assert_eq!(found.explain(&ticket).is_some(), at >= 2);
            }
        };
        for at in 0..30 {
            whole(at).await;
        }
        for at in [10, 20] {
            let meta = SnapshotMeta {
                last_log_id: Some(log_id(at)),
                last_membership: StoredMembership::default(),
                snapshot_id: at.to_string(),
            };
            let data = serde_json::to_vec(&states[usize::try_from(at).unwrap()]).unwrap();
            store.save_snapshot(&meta, data).await.unwrap();
        }
        store.drop_entries_upto(10).await.unwrap();
        for at in 10..30 {
            whole(at).await;
        }
        assert!(matches!(replay(&store, 9, 29).await, Err(ReplayError::Gone { first: 10 })));
        assert!(matches!(replay(&store, 30, 29).await, Err(ReplayError::Later { last: 29 })));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
