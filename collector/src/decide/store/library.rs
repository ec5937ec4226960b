//! The store as the consensus library wants it.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader};

use super::{COMMITTED, End, MAX_ENTRIES_PER_READ, PURGED, Store, StoreError, VOTE, get_meta, last_of, put_meta};
use crate::decide::raft::{Entry, LogId, StorageError, StorageIOError, Types, Vote};

fn read_fault(error: StoreError) -> StorageError {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn write_fault(error: StoreError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}
impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            // SQLite integers are signed.
            Bound::Unbounded => i64::MAX as u64,
        };
        self.read_log(first, end).await.map_err(read_fault)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read_log(start, end.min(start + MAX_ENTRIES_PER_READ)).await.map_err(read_fault)
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let read = self.quick(|connection| {
            let purged: Option<LogId> = get_meta(connection, PURGED)?;
            Ok(LogState { last_purged_log_id: purged, last_log_id: last_of(connection)? })
        });
        read.await.map_err(read_fault)
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.keep_vote(vote).await.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.read_meta(VOTE).await.map_err(|error| StorageIOError::read_vote(AnyError::new(&error)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // Not durable by itself: an older mark only means that less is applied right after a restart.
        let value = serde_json::to_vec(&committed).map_err(|error| write_fault(error.into()))?;
        self.quick(move |connection| put_meta(connection, COMMITTED, &value)).await.map_err(write_fault)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.read_meta::<Option<LogId>>(COMMITTED).await.map_err(read_fault)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        match self.append_log(entries).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.to_string())));
                Err(write_fault(error))
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let cut = self.durable(End::Elsewhere, move |transaction| {
            transaction.execute("DELETE FROM log WHERE idx >= ?1", [log_id.index])?;
            Ok(())
        });
        cut.await.map_err(write_fault)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let cut = self.durable(End::Elsewhere, move |transaction| {
            put_meta(transaction, PURGED, &serde_json::to_vec(&log_id)?)?;
            transaction.execute("DELETE FROM log WHERE idx <= ?1", [log_id.index])?;
            Ok(())
        });
        cut.await.map_err(write_fault)
    }
}
