//! The newest samples, in memory, until they are sealed. PURE.
//!
//! One flat list in order of arrival; each sample points back to the one before it of the same series. 20 bytes per
//! sample, nothing per series but 4 bytes, no allocation per sample: an append is four pushes.

use super::codec::{Sample, order};
use super::index::MAX_SERIES;

/// No earlier sample in this head.
const NONE: u32 = u32::MAX;
/// Most samples of one head: 40 MB. Two exist while one is being sealed.
pub const MAX_HEAD_SAMPLES: usize = 2_000_000;

/// Number of a series in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub u32);

#[derive(Debug, Default)]
pub struct Head {
    times: Vec<i64>,
    values: Vec<f64>,
    before: Vec<u32>,
    /// By series: its newest sample here.
    newest: Vec<u32>,
}

impl Head {
    #[must_use]
    pub const fn len(&self) -> usize {
        self.times.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Appends one sample. The caller seals at [`MAX_HEAD_SAMPLES`], far below the index's range. A series that the index
    /// would not give a number, as a damaged journal may name one, is passed over: its slot alone could fill the memory.
    pub fn push(&mut self, series: SeriesId, sample: Sample) {
        let slot = series.0 as usize;
        if slot >= MAX_SERIES {
            return;
        }
        if slot >= self.newest.len() {
            self.newest.resize(slot + 1, NONE);
        }
        let Ok(here) = u32::try_from(self.times.len()) else { return };
        self.before.push(self.newest[slot]);
        self.newest[slot] = here;
        self.times.push(sample.t);
        self.values.push(sample.v);
    }

    /// Number of series slots.
    #[must_use]
    pub const fn series(&self) -> usize {
        self.newest.len()
    }

    /// Appends the samples of one series in order of arrival.
    pub fn samples_of(&self, series: SeriesId, out: &mut Vec<Sample>) {
        let start = out.len();
        let mut at = self.newest.get(series.0 as usize).copied().unwrap_or(NONE);
        while at != NONE {
            let k = at as usize;
            out.push(Sample { t: self.times[k], v: self.values[k] });
            at = self.before[k];
        }
        out[start..].reverse();
    }

    /// As [`Head::samples_of`], ascending in time, one per time.
    pub fn ordered(&self, series: SeriesId) -> Vec<Sample> {
        let mut out = Vec::new();
        self.samples_of(series, &mut out);
        order(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_series_comes_back_in_order_of_arrival() {
        let mut head = Head::default();
        for k in 0..10u32 {
            head.push(SeriesId(k % 3), Sample { t: i64::from(k), v: f64::from(k) });
        }
        let times: Vec<i64> = head.ordered(SeriesId(1)).iter().map(|sample| sample.t).collect();
        assert_eq!(times, [1, 4, 7]);
        assert!(head.ordered(SeriesId(77)).is_empty());
        head.push(SeriesId(u32::MAX - 1), Sample { t: 0, v: 0.0 });
        assert_eq!((head.len(), head.series()), (10, 3), "a number that no series has");
    }
}
