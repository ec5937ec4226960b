//! Folding: runs become chunks, or lie on a shelf until there is enough for one; what is too old goes.
//!
//! Knows: when folding pays. Refuses to know: who asks for the samples.

use rusqlite::{OptionalExtension, Transaction, params};

use super::read::roll_up;
use super::{CHUNK_SAMPLES, HistoryError, MAX_RUNS_PER_PAGE, ROLLUP_MS, Writer, writing};
use crate::store::codec::{self, MAX_CHUNK_SAMPLES, PAGE_SERIES, Sample, order};
use crate::store::head::SeriesId;
use crate::store::shelf;

/// Rollups outlive the samples they were made of by this much: a report compares with the same month of the year before.
const ROLLUPS_KEPT_MS: i64 = 400 * 86_400_000;
/// Series whose rollups one turn looks at.
const ROLLUP_SERIES_STEP: i64 = 4_096;

impl Writer {
    /// Number of pages whose runs are due.
    #[must_use]
    pub fn due(&self) -> usize {
        self.runs.iter().filter(|run| is_due(run)).count()
    }

    /// Folds the runs of up to `pages` due pages into chunks. Returns how many it folded.
    ///
    /// # Errors
    /// The disk refuses; each page is folded wholly or not at all.
    pub fn fold(&mut self, pages: usize) -> Result<usize, HistoryError> {
        let due: Vec<usize> =
            self.runs.iter().enumerate().filter(|(_, run)| is_due(run)).map(|(page, _)| page).take(pages).collect();
        self.fold_pages(&due)?;
        Ok(due.len())
    }

    /// Folds everything, due or not: at the end of a measurement, or before a copy is handed over.
    ///
    /// # Errors
    /// As [`Writer::fold`].
    pub fn fold_all(&mut self) -> Result<(), HistoryError> {
        let all: Vec<usize> = self.runs.iter().enumerate().filter(|(_, run)| run.0 > 0).map(|(page, _)| page).collect();
        for part in all.chunks(64) {
            self.fold_pages(part)?;
        }
        Ok(())
    }

    fn fold_pages(&mut self, pages: &[usize]) -> Result<(), HistoryError> {
        if pages.is_empty() {
            return Ok(());
        }
        let tx = self.db.transaction().map_err(writing)?;
        for page in pages {
            self.damaged += fold_page(&tx, *page).map_err(writing)?;
        }
        tx.commit().map_err(writing)?;
        for page in pages {
            self.runs[*page] = (0, 0);
        }
        Ok(())
    }

    /// Drops chunks, shelves and events that ended before `cutoff`, at most `limit` rows of each, and the rollups of the
    /// next few series that are older than [`ROLLUPS_KEPT_MS`] before it; returns how many rows went.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn expire(&mut self, cutoff: i64, limit: usize) -> Result<usize, HistoryError> {
        // Row ids grow with time, so the oldest chunks are the first rows; backlog of an outage waits for its turn.
        let gone = self
            .db
            .prepare_cached("DELETE FROM chunk WHERE id IN (SELECT id FROM chunk ORDER BY id LIMIT ?1) AND t1 < ?2")
            .and_then(|mut delete| delete.execute(params![limit, cutoff]))
            .map_err(writing)?;
        let events = self
            .db
            .prepare_cached("DELETE FROM event WHERE id IN (SELECT id FROM event ORDER BY id LIMIT ?1) AND t < ?2")
            .and_then(|mut delete| delete.execute(params![limit, cutoff]))
            .map_err(writing)?;
        let shelves = self
            .db
            .prepare_cached("DELETE FROM shelf WHERE t1 < ?1")
            .and_then(|mut delete| delete.execute(params![cutoff]))
            .map_err(writing)?;
        Ok(gone + events + shelves + self.expire_rollups(cutoff)?)
    }

    /// Rollups lie by series, so a turn looks at some series and the next one at the next.
    fn expire_rollups(&mut self, cutoff: i64) -> Result<usize, HistoryError> {
        let from = self.rollups_seen;
        let hour = cutoff.saturating_sub(ROLLUPS_KEPT_MS).div_euclid(ROLLUP_MS);
        let gone = self
            .db
            .prepare_cached("DELETE FROM rollup WHERE series BETWEEN ?1 AND ?2 AND hour < ?3")
            .and_then(|mut delete| delete.execute(params![from, from + ROLLUP_SERIES_STEP - 1, hour]))
            .map_err(writing)?;
        let pages = i64::try_from(self.runs.len()).unwrap_or(0);
        let last = pages * PAGE_SERIES as i64;
        self.rollups_seen = if from + ROLLUP_SERIES_STEP > last { 0 } else { from + ROLLUP_SERIES_STEP };
        Ok(gone)
    }
}

fn is_due(run: &(u32, u64)) -> bool {
    run.0 >= MAX_RUNS_PER_PAGE || run.1 >= (PAGE_SERIES * CHUNK_SAMPLES) as u64
}

pub(super) fn count_run(runs: &mut Vec<(u32, u64)>, page: usize, n: u64) {
    if page >= runs.len() {
        runs.resize(page + 1, (0, 0));
    }
    runs[page].0 += 1;
    runs[page].1 += n;
}

/// Writes ordered samples as chunks with their rollups; returns how many chunks could not be packed.
pub(super) fn write_chunks(tx: &Transaction<'_>, series: SeriesId, samples: &[Sample]) -> rusqlite::Result<u64> {
    let mut damaged = 0;
    for part in samples.chunks(MAX_CHUNK_SAMPLES) {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
        let Ok(data) = codec::pack_chunk(part) else {
            damaged += 1;
            continue;
        };
        tx.prepare_cached("INSERT INTO chunk(series, t0, t1, data) VALUES(?1, ?2, ?3, ?4)")?
            .execute(params![series.0, first.t, last.t, data])?;
        for rollup in roll_up(part) {
            tx.prepare_cached(
                "INSERT INTO rollup(series, hour, n, sum, min, max) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT(series, hour) DO UPDATE SET n = n + excluded.n, sum = sum + excluded.sum,
                   min = min(min, excluded.min), max = max(max, excluded.max)",
            )?
            .execute(params![
                series.0,
                rollup.t / ROLLUP_MS,
                rollup.n,
                rollup.sum,
                rollup.min,
                rollup.max
            ])?;
        }
    }
    Ok(damaged)
}

/// Everything of a page that is in no chunk yet, by slot, oldest place first.
fn gather(tx: &Transaction<'_>, page: usize, damaged: &mut u64) -> rusqlite::Result<Vec<Vec<Sample>>> {
    let (low, high) = run_ids(page);
    let mut gathered: Vec<Vec<Sample>> = vec![Vec::new(); PAGE_SERIES];
    let shelf: Option<Vec<u8>> =
        tx.prepare_cached("SELECT data FROM shelf WHERE page=?1")?.query_row([page], |row| row.get(0)).optional()?;
    if let Some(data) = shelf {
        *damaged += shelf::unpack(&data, &mut gathered).unwrap_or(1);
    }
    let mut query = tx.prepare_cached("SELECT data FROM run WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
    let mut rows = query.query(params![low, high])?;
    while let Some(row) = rows.next()? {
        let Ok((counts, samples)) = codec::unpack_page(row.get_ref(0)?.as_blob()?) else {
            *damaged += 1;
            continue;
        };
        let mut rest = samples.as_slice();
        for (slot, count) in counts.into_iter().enumerate() {
            let Some((own, more)) = rest.split_at_checked(count as usize) else { break };
            gathered[slot].extend_from_slice(own);
            rest = more;
        }
    }
    Ok(gathered)
}

/// Row ids of a page's runs, first and last.
pub(super) const fn run_ids(page: usize) -> (i64, i64) {
    let low = (page as i64) << 32;
    (low, low + 0xFFFF_FFFF)
}

fn fold_page(tx: &Transaction<'_>, page: usize) -> rusqlite::Result<u64> {
    let mut damaged = 0;
    let mut gathered = gather(tx, page, &mut damaged)?;
    for (slot, samples) in gathered.iter_mut().enumerate() {
        let Ok(series) = u32::try_from(page * PAGE_SERIES + slot) else { continue };
        order(samples);
        if samples.len() >= CHUNK_SAMPLES {
            damaged += write_chunks(tx, SeriesId(series), samples)?;
            samples.clear();
        }
    }
    let (low, high) = run_ids(page);
    tx.prepare_cached("DELETE FROM run WHERE id BETWEEN ?1 AND ?2")?.execute(params![low, high])?;
    match gathered.iter().filter_map(|samples| samples.last()).map(|sample| sample.t).max() {
        None => drop(tx.prepare_cached("DELETE FROM shelf WHERE page=?1")?.execute([page])?),
        Some(t1) => match shelf::pack(&gathered) {
            Ok(data) => drop(
                tx.prepare_cached("INSERT OR REPLACE INTO shelf(page, t1, data) VALUES(?1, ?2, ?3)")?
                    .execute(params![page, t1, data])?,
            ),
            Err(_) => damaged += 1,
        },
    }
    Ok(damaged)
}
