//! The decide database: vote, log, snapshot, tail of the ledger. One SQLite file of its own.
//!
//! Invariants: vote and appended entries are on disk (WAL, `synchronous=FULL`) before they are acknowledged; the log has
//! no hole; nothing is purged that is not in a durable snapshot. The ledger tail and the committed mark need no fsync of
//! their own: a replay of the log makes them again.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bcp_core::ledger::LedgerEntry;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::pack::{pack, unpack};
use super::raft::{Entry, LogId, SnapshotMeta, StorageError, StorageIOError, Types, Vote};

/// Ledger entries kept here; serve copies them within seconds, and a peer may be asked for older ones.
const LEDGER_TAIL: u64 = 20_000;
/// The tail is cut after this many new entries, not at each.
const LEDGER_CUT_EVERY: u64 = 1_000;
/// Entries handed to one replication request.
const MAX_ENTRIES_PER_READ: u64 = 64;
/// Another process must not hold this database; a backup may for a moment.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("failed to create the directory of the decide database")]
    Directory(#[source] std::io::Error),
    #[error("the decide database failed")]
    Sqlite(#[from] rusqlite::Error),
    #[error("a record of the decide database cannot be read")]
    Record(#[from] serde_json::Error),
    #[error("a record of the decide database is damaged")]
    Deflated(#[source] std::io::Error),
    #[error("a record of the decide database unfolds to more than {most} bytes")]
    TooLong { most: u64 },
    #[error("the database thread ended")]
    Thread,
}

/// Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `synchronous=FULL`: a commit is on disk.
    durable: Mutex<Connection>,
    /// `synchronous=NORMAL`: for what a replay makes again.
    quick: Mutex<Connection>,
    opened: Instant,
    /// Start of the append that is running, milliseconds since `opened` plus one; 0 where none is.
    append_since: AtomicU64,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS log (idx INTEGER PRIMARY KEY, entry BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), meta BLOB NOT NULL, data BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS older_snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), meta BLOB NOT NULL, data BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS ledger (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL);
";

impl Store {
    /// Opens or creates `decide.db` in `dir`.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::Directory)?;
        let open = |synchronous: &str| -> Result<Connection, rusqlite::Error> {
            let connection = Connection::open(dir.join("decide.db"))?;
            connection.busy_timeout(BUSY_LIMIT)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", synchronous)?;
            connection.pragma_update(None, "wal_autocheckpoint", 2_000)?;
            Ok(connection)
        };
        let durable = open("FULL")?;
        durable.execute_batch(SCHEMA)?;
        let inner = Inner {
            durable: Mutex::new(durable),
            quick: Mutex::new(open("NORMAL")?),
            opened: Instant::now(),
            append_since: AtomicU64::new(0),
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// How long the append that is running has been running.
    #[must_use]
    pub fn append_stalled(&self) -> Option<Duration> {
        match self.inner.append_since.load(Ordering::Acquire) {
            0 => None,
            since => Some(self.inner.opened.elapsed().saturating_sub(Duration::from_millis(since - 1))),
        }
    }

    async fn durable<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let done = move || work(&mut inner.durable.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(done).await.map_err(|_| StoreError::Thread)?
    }

    async fn quick<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let done = move || work(&mut inner.quick.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(done).await.map_err(|_| StoreError::Thread)?
    }

    /// A small named record.
    pub async fn read_meta<T: DeserializeOwned + Send + 'static>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, StoreError> {
        self.quick(move |connection| get_meta(connection, key)).await
    }

    /// Writes a small named record; on disk when this returns.
    pub async fn write_meta<T: Serialize>(&self, key: &'static str, value: &T) -> Result<(), StoreError> {
        let value = serde_json::to_vec(value)?;
        self.durable(move |connection| put_meta(connection, key, &value)).await
    }

    /// As [`RaftLogStorage::save_vote`], before there is a consensus.
    pub async fn keep_vote(&self, vote: &Vote) -> Result<(), StoreError> {
        self.write_meta(VOTE, vote).await
    }

    pub async fn save_snapshot(&self, meta: &SnapshotMeta, data: Vec<u8>) -> Result<(), StoreError> {
        let meta = serde_json::to_vec(meta)?;
        self.durable(move |connection| {
            let transaction = connection.transaction()?;
            // The one before is kept: what was decided lately can be replayed.
            transaction.execute("INSERT OR REPLACE INTO older_snapshot SELECT one, meta, data FROM snapshot", [])?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO snapshot (one, meta, data) VALUES (1, ?1, ?2)")?
                .execute(params![meta, data])?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// The snapshots that are kept, newest first; `None` stands for the empty state, where nothing was ever cut.
    pub async fn kept_snapshots(&self) -> Result<Vec<Option<(SnapshotMeta, Vec<u8>)>>, StoreError> {
        self.quick(|connection| {
            let mut found = Vec::new();
            for table in ["snapshot", "older_snapshot"] {
                let row: Option<(Vec<u8>, Vec<u8>)> = connection
                    .query_row(&format!("SELECT meta, data FROM {table} WHERE one = 1"), [], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .optional()?;
                if let Some((meta, data)) = row {
                    found.push(Some((serde_json::from_slice(&meta)?, data)));
                }
            }
            let purged: Option<LogId> = get_meta(connection, PURGED)?;
            if purged.is_none() {
                found.push(None);
            }
            Ok(found)
        })
        .await
    }

    /// Entries from `first` on and before `end`, some of them.
    pub async fn read_entries(&self, first: u64, end: u64) -> Result<Vec<Entry>, StoreError> {
        self.read_log(first, end.min(first.saturating_add(MAX_ENTRIES_PER_READ))).await
    }

    #[cfg(test)]
    pub async fn keep_entries(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.append_log(entries).await
    }

    #[cfg(test)]
    pub async fn drop_entries_upto(&self, index: u64) -> Result<(), StoreError> {
        self.durable(move |connection| {
            put_meta(connection, PURGED, b"{\"leader_id\":{\"term\":1,\"node_id\":3},\"index\":0}")?;
            connection.execute("DELETE FROM log WHERE idx <= ?1", [index])?;
            Ok(())
        })
        .await
    }

    pub async fn read_snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        self.quick(|connection| {
            let row: Option<(Vec<u8>, Vec<u8>)> = connection
                .query_row("SELECT meta, data FROM snapshot WHERE one = 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            row.map(|(meta, data)| Ok((serde_json::from_slice(&meta)?, data))).transpose()
        })
        .await
    }

    /// Adds entries to the tail; those it has already (a replay) are left as they are.
    pub async fn append_ledger(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
        self.quick(move |connection| {
            let transaction = connection.transaction()?;
            {
                let mut insert =
                    transaction.prepare_cached("INSERT OR IGNORE INTO ledger (seq, entry) VALUES (?1, ?2)")?;
                for entry in &entries {
                    insert.execute(params![entry.seq, serde_json::to_vec(entry)?])?;
                    if entry.seq % LEDGER_CUT_EVERY == 0 && entry.seq > LEDGER_TAIL {
                        transaction.execute("DELETE FROM ledger WHERE seq <= ?1", [entry.seq - LEDGER_TAIL])?;
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// Up to `limit` entries after `seq`, oldest first.
    pub async fn read_ledger(&self, after: u64, limit: u32) -> Result<Vec<LedgerEntry>, StoreError> {
        // No number is larger in a database.
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.quick(move |connection| {
            let mut select =
                connection.prepare_cached("SELECT entry FROM ledger WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
            let rows = select.query_map(params![after, limit], |row| row.get::<_, Vec<u8>>(0))?;
            rows.map(|row| Ok(serde_json::from_slice(&row?)?)).collect()
        })
        .await
    }

    async fn read_log(&self, first: u64, end: u64) -> Result<Vec<Entry>, StoreError> {
        self.quick(move |connection| {
            let mut select =
                connection.prepare_cached("SELECT entry FROM log WHERE idx >= ?1 AND idx < ?2 ORDER BY idx")?;
            let rows = select.query_map(params![first, end], |row| row.get::<_, Vec<u8>>(0))?;
            rows.map(|row| unpack(&row?)).collect()
        })
        .await
    }

    async fn append_log(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let now = self.inner.opened.elapsed().as_millis();
        self.inner.append_since.store(u64::try_from(now).unwrap_or(u64::MAX - 1) + 1, Ordering::Release);
        let done = self
            .durable(move |connection| {
                let transaction = connection.transaction()?;
                {
                    let mut insert =
                        transaction.prepare_cached("INSERT OR REPLACE INTO log (idx, entry) VALUES (?1, ?2)")?;
                    for entry in &entries {
                        insert.execute(params![entry.log_id.index, pack(entry)?])?;
                    }
                }
                transaction.commit()?;
                Ok(())
            })
            .await;
        self.inner.append_since.store(0, Ordering::Release);
        done
    }
}

fn get_meta<T: DeserializeOwned>(connection: &Connection, key: &str) -> Result<Option<T>, StoreError> {
    let value: Option<Vec<u8>> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    Ok(value.map(|value| serde_json::from_slice(&value)).transpose()?)
}

fn put_meta(connection: &Connection, key: &str, value: &[u8]) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
        .execute(params![key, value])?;
    Ok(())
}

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";

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
            let last: Option<Vec<u8>> = connection
                .query_row("SELECT entry FROM log ORDER BY idx DESC LIMIT 1", [], |row| row.get(0))
                .optional()?;
            let last = last.map(|entry| unpack::<Entry>(&entry)).transpose()?;
            Ok(LogState { last_purged_log_id: purged, last_log_id: last.map(|entry| entry.log_id).or(purged) })
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
        let cut = self.durable(move |connection| {
            connection.execute("DELETE FROM log WHERE idx >= ?1", [log_id.index])?;
            Ok(())
        });
        cut.await.map_err(write_fault)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let cut = self.durable(move |connection| {
            let transaction = connection.transaction()?;
            put_meta(&transaction, PURGED, &serde_json::to_vec(&log_id)?)?;
            transaction.execute("DELETE FROM log WHERE idx <= ?1", [log_id.index])?;
            transaction.commit()?;
            Ok(())
        });
        cut.await.map_err(write_fault)
    }
}
