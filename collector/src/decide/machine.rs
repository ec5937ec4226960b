//! The state machine: applies ticks to the replica, keeps snapshots, appends to the ledger tail.
//!
//! Invariant: the replica changes only here, one committed entry after the other, in index order.

use std::io::Cursor;
use std::sync::{Arc, PoisonError, RwLock};

use bcp_core::replica::Replica;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::raft::{
    Applied, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Types,
};
use super::store::{Store, StoreError};

/// The agreed state as this node has it, readable by everything in the process.
#[derive(Debug, Clone)]
pub struct Agreed {
    inner: Arc<RwLock<Held>>,
    marks: watch::Sender<Marks>,
}

/// How far the agreed state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    pub index: u64,
    /// Index of the last tick that changed something worth telling.
    pub changed_at: u64,
}

#[derive(Debug, Default)]
struct Held {
    replica: Replica,
    last_applied: Option<LogId>,
    membership: StoredMembership,
}

impl Default for Agreed {
    fn default() -> Self {
        Agreed { inner: Arc::default(), marks: watch::channel(Marks::default()).0 }
    }
}

impl Agreed {
    /// Reads the replica; nothing is applied meanwhile, so `read` must be short.
    pub fn read<T>(&self, read: impl FnOnce(&Replica) -> T) -> T {
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner).replica)
    }

    #[must_use]
    pub fn marks(&self) -> watch::Receiver<Marks> {
        self.marks.subscribe()
    }

    /// Applies one tick. Returns the ledger entries it left.
    pub fn apply(&self, index: u64, tick: &bcp_core::replica::Tick) -> Vec<bcp_core::ledger::LedgerEntry> {
        self.write(|held| held.replica.apply(index, tick))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let out = write(&mut held);
        let index = held.last_applied.map_or(held.replica.index, |applied| applied.index);
        let marks = Marks { index, changed_at: held.replica.changed_at };
        drop(held);
        self.marks.send_if_modified(|seen| std::mem::replace(seen, marks) != marks);
        out
    }
}

/// The state machine as the consensus library wants it.
#[derive(Debug, Clone)]
pub struct Machine {
    store: Store,
    agreed: Agreed,
}

impl Machine {
    /// Loads the last snapshot; the log replays the rest.
    pub async fn open(store: Store, agreed: Agreed) -> Result<Machine, StoreError> {
        if let Some((meta, data)) = store.read_snapshot().await? {
            let replica = serde_json::from_slice(&data)?;
            agreed.write(|held| {
                *held = Held { replica, last_applied: meta.last_log_id, membership: meta.last_membership };
            });
        }
        Ok(Machine { store, agreed })
    }
}

fn fault(error: &(dyn std::error::Error + 'static)) -> StorageError {
    StorageIOError::write_state_machine(AnyError::error(error)).into()
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (data, last_log_id, last_membership) = {
            let held = self.agreed.inner.read().unwrap_or_else(PoisonError::into_inner);
            (serde_json::to_vec(&held.replica), held.last_applied, held.membership.clone())
        };
        let data = data.map_err(|error| fault(&error))?;
        let snapshot_id = last_log_id.map_or_else(|| "0".to_owned(), |id| format!("{}-{}", id.leader_id, id.index));
        let meta = SnapshotMeta { last_log_id, last_membership, snapshot_id };
        self.store.save_snapshot(&meta, data.clone()).await.map_err(|error| fault(&error))?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let held = self.agreed.inner.read().unwrap_or_else(PoisonError::into_inner);
        Ok((held.last_applied, held.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut ledger = Vec::new();
        let mut answers = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            let left = self.agreed.write(|held| {
                held.last_applied = Some(entry.log_id);
                match entry.payload {
                    EntryPayload::Blank => Vec::new(),
                    EntryPayload::Normal(tick) => held.replica.apply(index, &tick),
                    EntryPayload::Membership(membership) => {
                        held.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Vec::new()
                    }
                }
            });
            ledger.extend(left);
            answers.push(Applied { index });
        }
        if !ledger.is_empty() {
            self.store.append_ledger(ledger).await.map_err(|error| fault(&error))?;
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = snapshot.into_inner();
        let replica: Replica = serde_json::from_slice(&data).map_err(|error| fault(&error))?;
        self.store.save_snapshot(meta, data).await.map_err(|error| fault(&error))?;
        self.agreed.write(|held| {
            *held = Held { replica, last_applied: meta.last_log_id, membership: meta.last_membership.clone() };
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let read = self.store.read_snapshot().await.map_err(|error| fault(&error))?;
        Ok(read.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

#[cfg(test)]
mod tests {
    use openraft::testing::{StoreBuilder, Suite};

    use super::*;

    struct Dir(std::path::PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    struct Fresh;

    impl StoreBuilder<Types, Store, Machine, Dir> for Fresh {
        async fn build(&self) -> Result<(Dir, Store, Machine), StorageError> {
            let dir = Dir(std::env::temp_dir().join(format!("bcp-decide-{:016x}", rand::random::<u64>())));
            let store = Store::open(&dir.0).map_err(|error| fault(&error))?;
            let machine = Machine::open(store.clone(), Agreed::default()).await.map_err(|error| fault(&error))?;
            Ok((dir, store, machine))
        }
    }

    #[test]
    fn the_store_passes_the_suite_of_the_consensus_library() {
        Suite::test_all(Fresh).unwrap();
    }
}
