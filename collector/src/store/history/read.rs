//! Questions to the history database. Any connection answers them.

use bcp_wire::Id;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::fold::run_ids;
use super::{HistoryError, ROLLUP_MS, Rollup, StoredEvent, open, reading};
use crate::store::codec::{self, PAGE_SERIES, Sample};
use crate::store::head::SeriesId;
use crate::store::shelf;

/// A connection for queries.
///
/// # Errors
/// The file is not there or not readable.
pub fn open_reader(path: &Path) -> Result<Connection, HistoryError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

/// Hourly figures of ordered samples; what is no number is left out.
#[must_use]
pub fn roll_up(samples: &[Sample]) -> Vec<Rollup> {
    let mut out: Vec<Rollup> = Vec::new();
    for sample in samples {
        if sample.v.is_nan() {
            continue;
        }
        // A damaged time must not end the sealer.
        let hour = sample.t.div_euclid(ROLLUP_MS).saturating_mul(ROLLUP_MS);
        match out.last_mut() {
            Some(last) if last.t == hour => {
                last.n += 1;
                last.sum += sample.v;
                last.min = last.min.min(sample.v);
                last.max = last.max.max(sample.v);
            }
            _ => out.push(Rollup { t: hour, n: 1, sum: sample.v, min: sample.v, max: sample.v }),
        }
    }
    out
}

/// Adds figures of further samples of the same series, hour by hour, ascending.
#[must_use]
pub fn merge(one: Vec<Rollup>, other: Vec<Rollup>) -> Vec<Rollup> {
    let mut all = one;
    all.extend(other);
    all.sort_by_key(|rollup| rollup.t);
    all.dedup_by(|later, kept| {
        let same = later.t == kept.t;
        if same {
            kept.n += later.n;
            kept.sum += later.sum;
            kept.min = kept.min.min(later.min);
            kept.max = kept.max.max(later.max);
        }
        same
    });
    all
}

/// Samples of one series with `from <= t <= to` from chunks, shelf and runs, oldest place first. Returns rows that were
/// damaged.
///
/// # Errors
/// Unreadable.
pub fn read_samples(
    db: &Connection,
    series: SeriesId,
    from: i64,
    to: i64,
    out: &mut Vec<Sample>,
) -> Result<u64, HistoryError> {
    let tx = db.unchecked_transaction().map_err(reading)?;
    let damaged = read_chunks(&tx, series, from, to, out)? + read_loose(&tx, series, out)?;
    out.retain(|sample| (from..=to).contains(&sample.t));
    Ok(damaged)
}

fn read_chunks(
    db: &Connection,
    series: SeriesId,
    from: i64,
    to: i64,
    out: &mut Vec<Sample>,
) -> Result<u64, HistoryError> {
    let mut damaged = 0;
    let mut query = db
        .prepare_cached("SELECT t0, data FROM chunk WHERE series=?1 AND t0 <= ?2 AND t1 >= ?3 ORDER BY t0")
        .map_err(reading)?;
    let mut rows = query.query(params![series.0, to, from]).map_err(reading)?;
    while let Some(row) = rows.next().map_err(reading)? {
        let t0 = row.get(0).map_err(reading)?;
        let fits = row.get_ref(1).map_err(reading)?.as_blob().map(|data| codec::unpack_chunk(t0, data, out));
        damaged += u64::from(!matches!(fits, Ok(Ok(()))));
    }
    Ok(damaged)
}

/// What is in no chunk, and so in no rollup: shelf and runs. Returns rows that were damaged.
///
/// # Errors
/// Unreadable.
pub fn read_loose(db: &Connection, series: SeriesId, out: &mut Vec<Sample>) -> Result<u64, HistoryError> {
    let mut damaged = 0;
    let page = series.0 as usize / PAGE_SERIES;
    let slot = series.0 as usize % PAGE_SERIES;
    let mut query = db.prepare_cached("SELECT data FROM shelf WHERE page=?1").map_err(reading)?;
    let shelf: Option<Vec<u8>> = query.query_row([page], |row| row.get(0)).optional().map_err(reading)?;
    if let Some(data) = shelf {
        damaged += u64::from(shelf::unpack_slot(&data, slot, out).is_err());
    }
    let (low, high) = run_ids(page);
    let mut query =
        db.prepare_cached("SELECT data FROM run WHERE id BETWEEN ?1 AND ?2 ORDER BY id").map_err(reading)?;
    let mut rows = query.query(params![low, high]).map_err(reading)?;
    while let Some(row) = rows.next().map_err(reading)? {
        let Ok(Ok((counts, samples))) = row.get_ref(0).map_err(reading)?.as_blob().map(codec::unpack_page) else {
            damaged += 1;
            continue;
        };
        let skip: usize = counts.iter().take(slot).map(|n| *n as usize).sum();
        let own = counts.get(slot).map_or(0, |n| *n as usize);
        out.extend(samples.into_iter().skip(skip).take(own));
    }
    Ok(damaged)
}

/// Hours of one series.
///
/// # Errors
/// Unreadable.
pub fn read_rollups(db: &Connection, series: SeriesId, from: i64, to: i64) -> Result<Vec<Rollup>, HistoryError> {
    let mut query = db
        .prepare_cached(
            "SELECT hour, n, sum, min, max FROM rollup WHERE series=?1 AND hour BETWEEN ?2 AND ?3 ORDER BY hour",
        )
        .map_err(reading)?;
    let rows = query
        .query_map(params![series.0, from.div_euclid(ROLLUP_MS), to.div_euclid(ROLLUP_MS)], |row| {
            Ok(Rollup {
                t: row.get::<_, i64>(0)?.saturating_mul(ROLLUP_MS),
                n: row.get(1)?,
                sum: row.get(2)?,
                min: row.get(3)?,
                max: row.get(4)?,
            })
        })
        .map_err(reading)?;
    rows.collect::<Result<_, _>>().map_err(reading)
}

/// Newest events of a device that are in the database, newest first.
///
/// # Errors
/// Unreadable.
pub fn read_events(db: &Connection, device: &Id, limit: usize) -> Result<Vec<StoredEvent>, HistoryError> {
    let mut query =
        db.prepare_cached("SELECT json FROM event WHERE device=?1 ORDER BY t DESC LIMIT ?2").map_err(reading)?;
    let rows = query.query_map(params![device.as_str(), limit], |row| row.get::<_, String>(0)).map_err(reading)?;
    let mut out = Vec::new();
    for row in rows {
        out.extend(serde_json::from_str(&row.map_err(reading)?).ok());
    }
    Ok(out)
}
