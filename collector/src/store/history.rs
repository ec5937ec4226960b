//! The history database: series, texts, chunks, runs, rollups, marks and events, in one SQLite file.
//!
//! Samples come from a sealed head. A series with enough of them gets a chunk at once; the others share a *run*: one row
//! per page of 128 neighbouring series, cheap to write. Runs of a page are folded once they hold enough: a series with
//! enough samples gets a chunk, the others lie on the page's *shelf* until the next folding.
//! The row id of a run is `page << 32 | run`, so all that is known of a page lies together.
//!
//! Invariants: a sample is in exactly one of journal, run, shelf, chunk after each transaction; rollups hold the samples
//! of chunks and no others; what cannot be decoded is
//! counted and left out of answers, and never stops the store.

use std::path::{Path, PathBuf};

use bcp_wire::Id;
use bcp_wire::presence::AgentRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

mod fold;
mod read;

pub use read::{merge, open_reader, read_events, read_loose, read_rollups, read_samples, roll_up};

use super::codec::{self, PAGE_SERIES};
use super::head::{Head, SeriesId};
use super::marks::{AgentMarks, Marks};
use fold::{count_run, write_chunks};

/// A chunk is written once it would hold this many samples: below it, per-chunk cost shows in bytes per sample.
pub const CHUNK_SAMPLES: usize = 512;
/// Runs of one page before they are folded whatever they hold: a query reads one row of each.
pub const MAX_RUNS_PER_PAGE: u32 = 64;
/// Length of a rollup's bucket.
pub const ROLLUP_MS: i64 = 3_600_000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS setting(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series(id INTEGER PRIMARY KEY, device TEXT NOT NULL, point TEXT NOT NULL, text INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS text(id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chunk(id INTEGER PRIMARY KEY, series INTEGER NOT NULL, t0 INTEGER NOT NULL, t1 INTEGER NOT NULL, data BLOB NOT NULL);
DROP INDEX IF EXISTS chunk_series;
CREATE INDEX IF NOT EXISTS chunk_span ON chunk(series, t0, t1);
CREATE TABLE IF NOT EXISTS shelf(page INTEGER PRIMARY KEY, t1 INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS run(id INTEGER PRIMARY KEY, n INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS run_n ON run(n);
CREATE TABLE IF NOT EXISTS rollup(series INTEGER NOT NULL, hour INTEGER NOT NULL, n INTEGER NOT NULL, sum REAL NOT NULL, min REAL NOT NULL, max REAL NOT NULL,
  PRIMARY KEY(series, hour)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark(site INTEGER NOT NULL, agent TEXT NOT NULL, marks TEXT NOT NULL, PRIMARY KEY(site, agent)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event(id INTEGER PRIMARY KEY, device TEXT NOT NULL, t INTEGER NOT NULL, kind TEXT NOT NULL, json TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS event_device ON event(device, t);
";

/// Form of the file. Another number is another program's file, and is left alone.
const FORM: i64 = 1;

/// Why the history database does not serve.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("failed to open the history database {}", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("the history database {} has form {found}, this program knows form {FORM}", path.display())]
    Form { path: PathBuf, found: i64 },
    #[error("failed to read the history database")]
    Read { source: rusqlite::Error },
    #[error("failed to write the history database")]
    Write { source: rusqlite::Error },
}

impl HistoryError {
    /// What the operator can do.
    #[must_use]
    pub fn help(&self) -> &'static str {
        let source = match self {
            HistoryError::Form { .. } => {
                return "start the version of this program that wrote it, or move the file aside to begin with an empty one";
            }
            HistoryError::Open { source, .. } | HistoryError::Read { source } | HistoryError::Write { source } => {
                source
            }
        };
        help_with_database(source)
    }
}

/// What the operator can do about a database that cannot be used.
pub(crate) fn help_with_database(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "it is damaged or not a database: put back a copy, or move it aside to begin with an empty one"
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            "give this process' user the right to read and write it and its directory"
        }
        Some(ErrorCode::DiskFull) => "make room on its file system",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "stop the other process that uses it",
        _ => "see to it that its directory is on a working disk",
    }
}

fn reading(source: rusqlite::Error) -> HistoryError {
    HistoryError::Read { source }
}
fn writing(source: rusqlite::Error) -> HistoryError {
    HistoryError::Write { source }
}

/// One hour of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rollup {
    /// Start of the hour, milliseconds since 1970 UTC.
    pub t: i64,
    pub n: u64,
    pub sum: f64,
    pub min: f64,
    pub max: f64,
}

/// A stored event, as JSON with its keys beside it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StoredEvent {
    pub agent: AgentRef,
    pub device: Id,
    /// Sample time, milliseconds since 1970 UTC.
    pub t: i64,
    pub kind: String,
    /// The contract's event.
    pub event: bcp_wire::Event,
}

/// A connection that writes. One exists, owned by the sealing thread.
#[derive(Debug)]
pub struct Writer {
    db: Connection,
    /// By page: runs and samples in them.
    runs: Vec<(u32, u64)>,
    next_run: u32,
    /// The series whose rollups are looked at next.
    rollups_seen: i64,
    /// Rows that could not be decoded.
    pub damaged: u64,
}

/// What is known at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Journals below this number are in the database.
    pub journal_floor: u64,
    pub series: Vec<(SeriesId, bool, String, String)>,
    pub texts: Vec<(u32, String)>,
    pub marks: Marks,
}

/// What one sealing moves from memory into the database.
#[derive(Debug, Default)]
pub struct Sealing {
    pub head: Head,
    pub new_series: Vec<(SeriesId, bool, String, String)>,
    pub new_texts: Vec<(u32, String)>,
    pub marks: Marks,
    pub events: Vec<StoredEvent>,
    pub journal_floor: u64,
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, HistoryError> {
    let fault = |source| HistoryError::Open { path: path.to_owned(), source };
    let db = Connection::open_with_flags(path, flags).map_err(fault)?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(fault)?;
    Ok(db)
}

fn check_form(db: &Connection, path: &Path) -> Result<(), HistoryError> {
    let fault = |source| HistoryError::Open { path: path.to_owned(), source };
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_master WHERE type='table' AND name='setting'", [], |row| row.get(0))
        .map_err(fault)?;
    if tables == 0 {
        let others: i64 = db.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(fault)?;
        return if others == 0 { Ok(()) } else { Err(HistoryError::Form { path: path.to_owned(), found: 0 }) };
    }
    let found: Option<i64> =
        db.query_row("SELECT value FROM setting WHERE key='form'", [], |row| row.get(0)).optional().map_err(fault)?;
    match found {
        None | Some(FORM) => Ok(()),
        Some(found) => Err(HistoryError::Form { path: path.to_owned(), found }),
    }
}

impl Writer {
    /// Opens or creates the file and reads what the store keeps in memory.
    ///
    /// # Errors
    /// Unreadable, of another form, or not a database.
    pub fn open(path: &Path) -> Result<(Writer, Loaded), HistoryError> {
        let fault = |source| HistoryError::Open { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = open(path, flags)?;
        // Before anything is written: what another program made is left as it is.
        check_form(&db, path)?;
        // FULL: a sealing deletes its journal, so it has to be on the disk before that.
        db.execute_batch(
            "PRAGMA page_size=4096; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16000; PRAGMA wal_autocheckpoint=4000;",
        )
        .map_err(fault)?;
        db.execute_batch(SCHEMA).map_err(fault)?;
        let mut writer = Writer { db, runs: Vec::new(), next_run: 1, rollups_seen: 0, damaged: 0 };
        writer.set("form", FORM)?;
        let loaded = writer.load()?;
        Ok((writer, loaded))
    }

    fn setting(&self, key: &str) -> Result<Option<i64>, HistoryError> {
        self.db.query_row("SELECT value FROM setting WHERE key=?1", [key], |row| row.get(0)).optional().map_err(reading)
    }

    fn set(&self, key: &str, value: i64) -> Result<(), HistoryError> {
        self.db
            .execute("INSERT OR REPLACE INTO setting(key, value) VALUES(?1, ?2)", params![key, value])
            .map(drop)
            .map_err(writing)
    }

    fn load(&mut self) -> Result<Loaded, HistoryError> {
        let mut loaded =
            Loaded { journal_floor: self.setting("journal_floor")?.unwrap_or(0).cast_unsigned(), ..Loaded::default() };
        let mut query = self.db.prepare("SELECT id, text, device, point FROM series ORDER BY id").map_err(reading)?;
        let rows = query
            .query_map([], |row| Ok((SeriesId(row.get(0)?), row.get(1)?, row.get(2)?, row.get(3)?)))
            .map_err(reading)?;
        loaded.series = rows.collect::<Result<_, _>>().map_err(reading)?;
        let mut query = self.db.prepare("SELECT id, text FROM text ORDER BY id").map_err(reading)?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(reading)?;
        loaded.texts = rows.collect::<Result<_, _>>().map_err(reading)?;
        let mut query = self.db.prepare("SELECT site, agent, marks FROM mark").map_err(reading)?;
        let rows = query
            .query_map([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))
            .map_err(reading)?;
        for row in rows {
            let (site, agent, marks) = row.map_err(reading)?;
            let parsed =
                (bcp_wire::Site::from_node_id(site), agent.parse(), serde_json::from_str::<AgentMarks>(&marks));
            match parsed {
                (Some(site), Ok(agent), Ok(marks)) => loaded.marks.restore(AgentRef { site, agent }, marks),
                _ => self.damaged += 1,
            }
        }
        drop(query);
        let mut query = self.db.prepare("SELECT id, n FROM run INDEXED BY run_n").map_err(reading)?;
        let rows = query.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).map_err(reading)?;
        for row in rows {
            let (id, n) = row.map_err(reading)?;
            let page = usize::try_from(id >> 32).unwrap_or(0);
            self.next_run = self.next_run.max((id & 0xFFFF_FFFF) as u32 + 1);
            count_run(&mut self.runs, page, n.cast_unsigned());
        }
        Ok(loaded)
    }

    /// Writes a sealed head and everything that belongs to it, in one transaction.
    ///
    /// # Errors
    /// The disk refuses; nothing of it is then written.
    pub fn seal(&mut self, sealing: &Sealing) -> Result<(), HistoryError> {
        let run = self.next_run;
        let tx = self.db.transaction().map_err(writing)?;
        let mut counted = Vec::new();
        write_definitions(&tx, sealing).map_err(writing)?;
        let mut batch = Vec::new();
        for page in 0..sealing.head.series().div_ceil(PAGE_SERIES) {
            batch.clear();
            let mut counts = [0u32; PAGE_SERIES];
            for (slot, count) in counts.iter_mut().enumerate() {
                let Ok(series) = u32::try_from(page * PAGE_SERIES + slot) else { continue };
                let samples = sealing.head.ordered(SeriesId(series));
                if samples.len() >= CHUNK_SAMPLES {
                    self.damaged += write_chunks(&tx, SeriesId(series), &samples).map_err(writing)?;
                } else {
                    *count = samples.len() as u32;
                    batch.extend(samples);
                }
            }
            if batch.is_empty() {
                continue;
            }
            let Ok(data) = codec::pack_page(&counts, &batch) else {
                self.damaged += 1;
                continue;
            };
            let id = ((page as i64) << 32) | i64::from(run);
            tx.prepare_cached("INSERT INTO run(id, n, data) VALUES(?1, ?2, ?3)")
                .and_then(|mut insert| insert.execute(params![id, batch.len(), data]))
                .map_err(writing)?;
            counted.push((page, batch.len() as u64));
        }
        tx.execute(
            "INSERT OR REPLACE INTO setting(key, value) VALUES('journal_floor', ?1)",
            [sealing.journal_floor.cast_signed()],
        )
        .map_err(writing)?;
        tx.commit().map_err(writing)?;
        self.next_run += 1;
        for (page, n) in counted {
            count_run(&mut self.runs, page, n);
        }
        Ok(())
    }

    /// Gives freed pages back to the file system, a bounded number at a time.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn shrink(&self, pages: u32) -> Result<(), HistoryError> {
        self.db.execute_batch(&format!("PRAGMA incremental_vacuum({pages})")).map_err(writing)
    }

    /// Bytes of the file in use, freed pages left out.
    ///
    /// # Errors
    /// Unreadable.
    pub fn bytes_used(&self) -> Result<u64, HistoryError> {
        let ask = |pragma: &str| self.db.query_row(pragma, [], |row| row.get::<_, u64>(0)).map_err(reading);
        Ok((ask("PRAGMA page_count")? - ask("PRAGMA freelist_count")?) * ask("PRAGMA page_size")?)
    }
}

fn write_definitions(tx: &Transaction<'_>, sealing: &Sealing) -> rusqlite::Result<()> {
    for (id, text, device, point) in &sealing.new_series {
        tx.prepare_cached("INSERT OR IGNORE INTO series(id, text, device, point) VALUES(?1, ?2, ?3, ?4)")?
            .execute(params![id.0, text, device, point])?;
    }
    for (id, text) in &sealing.new_texts {
        tx.prepare_cached("INSERT OR IGNORE INTO text(id, text) VALUES(?1, ?2)")?.execute(params![id, text])?;
    }
    for (agent, marks) in sealing.marks.iter() {
        let Ok(marks) = serde_json::to_string(marks) else { continue };
        tx.prepare_cached("INSERT OR REPLACE INTO mark(site, agent, marks) VALUES(?1, ?2, ?3)")?.execute(params![
            agent.site.node_id(),
            agent.agent.as_str(),
            marks
        ])?;
    }
    for event in &sealing.events {
        let Ok(json) = serde_json::to_string(event) else { continue };
        tx.prepare_cached("INSERT INTO event(device, t, kind, json) VALUES(?1, ?2, ?3, ?4)")?.execute(params![
            event.device.as_str(),
            event.t,
            event.kind,
            json
        ])?;
    }
    Ok(())
}
