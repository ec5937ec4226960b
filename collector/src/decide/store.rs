//! The decide database: vote, log, snapshot, tail of the ledger. One SQLite file of its own.
//!
//! Invariants: vote and appended entries are on disk (WAL, `synchronous=FULL`) before they are acknowledged; the log has
//! no hole; nothing is purged that is not in a durable snapshot; a database that is not what was acknowledged is refused when
//! it is opened ([`intact`]). The ledger tail and the committed mark need no fsync of their own: a replay makes them again.

mod fault;
mod intact;
mod library;
mod mark;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bcp_core::ledger::LedgerEntry;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use fault::StoreError;
use intact::{TALLY, Tally, last_of, seal, unseal};
use mark::Mark;

use super::pack::{pack, unpack};
use super::raft::{Entry, LogId, SnapshotMeta, Vote};

/// Ledger entries kept here; serve copies them within seconds, and a peer may be asked for older ones.
const LEDGER_TAIL: u64 = 20_000;
/// The tail is cut after this many new entries, not at each.
const LEDGER_CUT_EVERY: u64 = 1_000;
/// Entries handed to one replication request.
const MAX_ENTRIES_PER_READ: u64 = 64;
/// Another process must not hold this database; a backup may for a moment.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `synchronous=FULL`: a commit is on disk.
    durable: Mutex<Durable>,
    /// `synchronous=NORMAL`: for what a replay makes again. None: all of it is in memory.
    quick: Option<Mutex<Connection>>,
    opened: Instant,
    /// Start of the append that is running, milliseconds since `opened` plus one; 0 where none is.
    append_since: AtomicU64,
}

#[derive(Debug)]
struct Durable {
    connection: Connection,
    tally: Tally,
    /// None: all of it is in memory.
    mark: Option<Mark>,
}

impl Inner {
    fn quick<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &self.quick {
            Some(quick) => work(&mut quick.lock().unwrap_or_else(PoisonError::into_inner)),
            None => work(&mut self.durable.lock().unwrap_or_else(PoisonError::into_inner).connection),
        }
    }
}

/// Where the log ends after a transaction.
#[derive(Debug, Clone, Copy)]
enum End {
    AsBefore,
    At(LogId),
    Elsewhere,
}

impl Durable {
    /// One transaction; on disk, and marked as such, when this returns.
    fn commit<T>(
        &mut self,
        end: End,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = self.connection.transaction()?;
        let done = work(&transaction)?;
        let last = match end {
            End::AsBefore => self.tally.last,
            End::At(last) => Some(last),
            End::Elsewhere => last_of(&transaction)?,
        };
        let tally = Tally { commits: self.tally.commits + 1, last };
        put_meta(&transaction, TALLY, &serde_json::to_vec(&tally)?)?;
        transaction.commit()?;
        if let Some(mark) = &self.mark {
            mark.set(tally.commits).map_err(StoreError::Mark)?;
        }
        self.tally = tally;
        Ok(done)
    }
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
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where what was acknowledged is not there any more.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::Directory)?;
        Store::open_checked(dir).map_err(|error| match error.is_damage() {
            true => StoreError::Damaged { path: dir.join("decide.db"), cause: Box::new(error) },
            false => error,
        })
    }

    fn open_checked(dir: &Path) -> Result<Store, StoreError> {
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
        let (mark, known) = Mark::open(dir).map_err(StoreError::Mark)?;
        let tally = intact::check(&durable, known)?;
        // The next commit is not to be the first that anybody knows of.
        mark.begin(tally.commits).map_err(StoreError::Mark)?;
        let inner = Inner {
            durable: Mutex::new(Durable { connection: durable, tally, mark: Some(mark) }),
            quick: Some(Mutex::new(open("NORMAL")?)),
            opened: Instant::now(),
            append_since: AtomicU64::new(0),
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// For simulations: it lasts as long as this, and whoever asks it is answered at once.
    ///
    /// # Errors
    /// The database cannot be made.
    pub fn in_memory() -> Result<Store, StoreError> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(SCHEMA)?;
        let durable = Durable { connection, tally: Tally::default(), mark: None };
        let (durable, opened) = (Mutex::new(durable), Instant::now());
        Ok(Store { inner: Arc::new(Inner { durable, quick: None, opened, append_since: AtomicU64::new(0) }) })
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
        end: End,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        if inner.quick.is_none() {
            return inner.durable.lock().unwrap_or_else(PoisonError::into_inner).commit(end, work);
        }
        let done = move || inner.durable.lock().unwrap_or_else(PoisonError::into_inner).commit(end, work);
        tokio::task::spawn_blocking(done).await.map_err(|_| StoreError::Thread)?
    }

    async fn quick<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        if inner.quick.is_none() {
            return inner.quick(work);
        }
        let done = move || inner.quick(work);
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
        self.durable(End::AsBefore, move |transaction| put_meta(transaction, key, &value)).await
    }

    /// As [`openraft::storage::RaftLogStorage::save_vote`], before there is a consensus.
    pub async fn keep_vote(&self, vote: &Vote) -> Result<(), StoreError> {
        self.write_meta(VOTE, vote).await
    }

    pub async fn save_snapshot(&self, meta: &SnapshotMeta, data: Vec<u8>) -> Result<(), StoreError> {
        let meta = serde_json::to_vec(meta)?;
        self.durable(End::AsBefore, move |transaction| {
            // The one before is kept: what was decided lately can be replayed.
            transaction.execute("INSERT OR REPLACE INTO older_snapshot SELECT one, meta, data FROM snapshot", [])?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO snapshot (one, meta, data) VALUES (1, ?1, ?2)")?
                .execute(params![seal(&meta), seal(&data)])?;
            Ok(())
        })
        .await
    }

    /// The snapshots that are kept, newest first; `None` stands for the empty state, where nothing was ever cut.
    pub async fn kept_snapshots(&self) -> Result<Vec<Option<(SnapshotMeta, Vec<u8>)>>, StoreError> {
        self.quick(|connection| {
            let mut found = Vec::new();
            for table in ["snapshot", "older_snapshot"] {
                found.extend(snapshot_in(connection, table)?.map(Some));
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
        self.durable(End::Elsewhere, move |connection| {
            put_meta(connection, PURGED, b"{\"leader_id\":{\"term\":1,\"node_id\":3},\"index\":0}")?;
            connection.execute("DELETE FROM log WHERE idx <= ?1", [index])?;
            Ok(())
        })
        .await
    }

    pub async fn read_snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        self.quick(|connection| snapshot_in(connection, "snapshot")).await
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
            rows.map(|row| unpack(unseal(&row?)?)).collect()
        })
        .await
    }

    async fn append_log(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let now = self.inner.opened.elapsed().as_millis();
        self.inner.append_since.store(u64::try_from(now).unwrap_or(u64::MAX - 1) + 1, Ordering::Release);
        let end = entries.last().map_or(End::AsBefore, |last| End::At(last.log_id));
        let done = self
            .durable(end, move |transaction| {
                let mut insert =
                    transaction.prepare_cached("INSERT OR REPLACE INTO log (idx, entry) VALUES (?1, ?2)")?;
                for entry in &entries {
                    insert.execute(params![entry.log_id.index, seal(&pack(entry)?)])?;
                }
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
    value.map(|value| Ok(serde_json::from_slice(unseal(&value)?)?)).transpose()
}

fn put_meta(connection: &Connection, key: &str, value: &[u8]) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
        .execute(params![key, seal(value)])?;
    Ok(())
}

/// The snapshot in this table.
fn snapshot_in(connection: &Connection, table: &str) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
    let row: Option<(Vec<u8>, Vec<u8>)> = connection
        .query_row(&format!("SELECT meta, data FROM {table} WHERE one = 1"), [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    row.map(|(meta, data)| Ok((serde_json::from_slice(unseal(&meta)?)?, unseal(&data)?.to_vec()))).transpose()
}

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";
