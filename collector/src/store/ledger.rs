//! This collector's copy of the ledger: append-only, hash-chained, the same on all three.
//!
//! Knows: entries in order and where the chain stands. Refuses to know: what they mean. An entry that does not follow
//! the last one is refused; an entry that is there already is left alone.

use std::path::{Path, PathBuf};

use bcp_core::ledger::{Head, LedgerEntry};
use rusqlite::{Connection, OptionalExtension, params};

use super::history::help_with_database;

/// Most entries of one answer.
pub const MAX_PAGE: usize = 1_000;

#[derive(Debug)]
pub struct Ledger {
    db: Connection,
    head: Head,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("failed to open the ledger {}", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("failed to read the ledger")]
    Read { source: rusqlite::Error },
    #[error("failed to write the ledger")]
    Write { source: rusqlite::Error },
    #[error("ledger entry {found} does not follow entry {have}")]
    Missing { have: u64, found: u64 },
    #[error("ledger entry {seq} does not continue the hash chain")]
    Chain { seq: u64 },
}

impl LedgerError {
    /// What the operator can do.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            LedgerError::Open { source, .. } | LedgerError::Read { source } | LedgerError::Write { source } => {
                help_with_database(source)
            }
            LedgerError::Missing { .. } | LedgerError::Chain { .. } => {
                "move the file aside: it is copied anew from the decision log"
            }
        }
    }
}

fn reading(source: rusqlite::Error) -> LedgerError {
    LedgerError::Read { source }
}
fn writing(source: rusqlite::Error) -> LedgerError {
    LedgerError::Write { source }
}

impl Ledger {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// It cannot be opened, or is no database.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let fault = |source| LedgerError::Open { path: path.to_owned(), source };
        let db = Connection::open(path).map_err(fault)?;
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
             CREATE TABLE IF NOT EXISTS entry(seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, json TEXT NOT NULL);",
        )
        .map_err(fault)?;
        let head = db
            .query_row("SELECT seq, hash FROM entry ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok(Head { seq: row.get(0)?, hash: row.get(1)? })
            })
            .optional()
            .map_err(fault)?
            .unwrap_or_default();
        Ok(Ledger { db, head })
    }

    /// Where the chain stands here.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Appends what follows the last entry; returns how many were new. All or none.
    ///
    /// # Errors
    /// A gap, a broken chain, or the disk.
    pub fn append(&mut self, entries: &[LedgerEntry]) -> Result<usize, LedgerError> {
        let mut head = self.head.clone();
        let tx = self.db.transaction().map_err(writing)?;
        let mut added = 0;
        for entry in entries {
            if entry.seq <= head.seq {
                continue;
            }
            if entry.seq != head.seq + 1 {
                return Err(LedgerError::Missing { have: head.seq, found: entry.seq });
            }
            if head.seq > 0 && entry.prev != head.hash {
                return Err(LedgerError::Chain { seq: entry.seq });
            }
            let Ok(json) = serde_json::to_string(entry) else { continue };
            tx.prepare_cached("INSERT INTO entry(seq, hash, json) VALUES(?1, ?2, ?3)")
                .and_then(|mut insert| insert.execute(params![entry.seq, entry.hash, json]))
                .map_err(writing)?;
            head = Head { seq: entry.seq, hash: entry.hash.clone() };
            added += 1;
        }
        tx.commit().map_err(writing)?;
        self.head = head;
        Ok(added)
    }

    /// Up to `limit` entries after `after`, oldest first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn page(&self, after: u64, limit: usize) -> Result<Vec<LedgerEntry>, LedgerError> {
        // No number is larger in a database.
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let mut query =
            self.db.prepare_cached("SELECT json FROM entry WHERE seq > ?1 ORDER BY seq LIMIT ?2").map_err(reading)?;
        let rows =
            query.query_map(params![after, limit.min(MAX_PAGE)], |row| row.get::<_, String>(0)).map_err(reading)?;
        let mut out = Vec::new();
        for row in rows {
            out.extend(serde_json::from_str(&row.map_err(reading)?).ok());
        }
        Ok(out)
    }

    /// The newest `limit` entries, oldest of them first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn tail(&self, limit: usize) -> Result<Vec<LedgerEntry>, LedgerError> {
        self.page(self.head.seq.saturating_sub(limit as u64), limit)
    }
}
