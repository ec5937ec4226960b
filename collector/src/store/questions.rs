//! Questions to the store: samples, hours, events, from wherever they are. Callers block.

use std::sync::MutexGuard;

use bcp_wire::{Id, PointName, Quality, Value};
use rusqlite::Connection;

use super::{HistoryError, HistorySample, Rollup, Sample, SeriesId, Store, StoredEvent, codec, history, lock};

/// A sealing that ends while the database is read would be counted twice; it takes seconds, and a read milliseconds.
const SEALING_RETRIES: usize = 3;

impl Store {
    /// Samples of a series with `from <= t <= to`, ascending, one per time.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn samples(&self, series: SeriesId, from: i64, to: i64) -> Result<Vec<Sample>, HistoryError> {
        // Memory first: what is sealed meanwhile is then seen twice, never missed. Older places come first in the list,
        // so that the last-written of equal times wins.
        let mut newest = Vec::new();
        let hot = lock(&self.shared.hot);
        let sealing = hot.sealing.clone();
        hot.head.samples_of(series, &mut newest);
        drop(hot);
        let mut out = Vec::new();
        let damaged = {
            let db = self.reader();
            history::read_samples(&db, series, from, to, &mut out)?
        };
        if let Some(sealing) = sealing {
            sealing.head.samples_of(series, &mut out);
        }
        out.append(&mut newest);
        out.retain(|sample| (from..=to).contains(&sample.t));
        codec::order(&mut out);
        if damaged > 0 {
            lock(&self.shared.hot).damaged += damaged;
        }
        Ok(out)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.shared
            .readers
            .iter()
            .find_map(|reader| reader.try_lock().ok())
            .unwrap_or_else(|| lock(&self.shared.readers[0]))
    }

    /// What a point was between two times; `None` for a point that was never stored.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn history(
        &self,
        device: &Id,
        point: &PointName,
        from: i64,
        to: i64,
    ) -> Result<Option<Vec<HistorySample>>, HistoryError> {
        let (numbers, texts) = lock(&self.shared.index).find(device.as_str(), point.as_str());
        if numbers.is_none() && texts.is_none() {
            return Ok(None);
        }
        let mut out = Vec::new();
        if let Some(series) = numbers {
            for sample in self.samples(series, from, to)? {
                let number = codec::number_or_quality(sample.v);
                out.push(HistorySample {
                    t: sample.t,
                    value: number.ok().map(Value::Num),
                    quality: number.err().unwrap_or(Quality::Good),
                });
            }
        }
        if let Some(series) = texts {
            let samples = self.samples(series, from, to)?;
            let index = lock(&self.shared.index);
            out.extend(samples.into_iter().map(|sample| HistorySample {
                t: sample.t,
                value: index.text_of(sample.v).map(Value::Text),
                quality: codec::number_or_quality(sample.v).err().unwrap_or(Quality::Good),
            }));
            drop(index);
            out.sort_by_key(|sample| sample.t);
        }
        Ok(Some(out))
    }

    /// Hourly figures of a point's numbers: from rollups, and from what is not yet in them.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn rollups(&self, device: &Id, point: &PointName, from: i64, to: i64) -> Result<Vec<Rollup>, HistoryError> {
        let (Some(series), _) = lock(&self.shared.index).find(device.as_str(), point.as_str()) else {
            return Ok(Vec::new());
        };
        let mut figures = Vec::new();
        for _ in 0..SEALING_RETRIES {
            let (seen, rollups) = self.rollups_once(series, from, to)?;
            figures = rollups;
            if seen == lock(&self.shared.hot).sealings {
                break;
            }
        }
        Ok(figures)
    }

    /// With the number of sealings at its start. Chunks are in the stored rollups; what is on a shelf, in a run or in
    /// memory is added as it is.
    fn rollups_once(&self, series: SeriesId, from: i64, to: i64) -> Result<(u64, Vec<Rollup>), HistoryError> {
        let mut newest = Vec::new();
        let hot = lock(&self.shared.hot);
        let (sealing, sealings) = (hot.sealing.clone(), hot.sealings);
        hot.head.samples_of(series, &mut newest);
        drop(hot);
        let mut loose = Vec::new();
        let stored = {
            let db = self.reader();
            let snapshot = db.unchecked_transaction().map_err(|source| HistoryError::Read { source })?;
            history::read_loose(&snapshot, series, &mut loose)?;
            history::read_rollups(&snapshot, series, from, to)?
        };
        if let Some(sealing) = sealing {
            sealing.head.samples_of(series, &mut loose);
        }
        loose.append(&mut newest);
        loose.retain(|sample| (from..=to).contains(&sample.t));
        codec::order(&mut loose);
        Ok((sealings, history::merge(stored, history::roll_up(&loose))))
    }

    /// Newest events of a device, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn events(&self, device: &Id, limit: usize) -> Result<Vec<StoredEvent>, HistoryError> {
        let mut out: Vec<StoredEvent> = {
            let hot = lock(&self.shared.hot);
            let sealing = hot.sealing.iter().flat_map(|sealing| &sealing.events);
            hot.events.iter().chain(sealing).filter(|event| event.device == *device).cloned().collect()
        };
        out.sort_by_key(|event| std::cmp::Reverse(event.t));
        let stored = history::read_events(&self.reader(), device, limit)?;
        out.extend(stored);
        out.truncate(limit);
        Ok(out)
    }
}
