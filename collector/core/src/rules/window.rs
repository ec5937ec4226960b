//! The recent past of one point, for averages, rates and forecasts.
//!
//! Samples are gathered into cells, so memory is bounded whatever the rate; a window's edge is exact to one cell.

use std::collections::VecDeque;

use crate::time::Mono;

/// Longest window, in milliseconds: a day. Longer questions go to history.
pub const MAX_WINDOW_MS: u64 = 86_400_000;
/// Cells of the shortest window asked of a point: its edge is exact to 1/64.
const CELLS_PER_WINDOW: u64 = 64;
/// Most cells of a point, about 100 KB.
const MAX_CELLS: u64 = 2_048;
/// A forecast is a straight line through at least this many cells.
const MIN_FORECAST_CELLS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    first_at: Mono,
    first: f64,
    last_at: Mono,
    last: f64,
    sum: f64,
    count: f64,
    min: f64,
    max: f64,
}

/// Samples of one point over its longest window.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    longest_ms: u64,
    cell_ms: u64,
    /// A value below the one before it is a reset, not a fall.
    counter: bool,
    cells: VecDeque<Cell>,
}

/// What is asked of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Over {
    Avg,
    Min,
    Max,
    /// Change per second.
    Rate,
}

impl Series {
    #[must_use]
    pub fn new(shortest_ms: u64, longest_ms: u64, counter: bool) -> Series {
        let cell_ms = (shortest_ms / CELLS_PER_WINDOW).max(longest_ms / MAX_CELLS).max(1);
        Series { longest_ms, cell_ms, counter, cells: VecDeque::new() }
    }

    #[must_use]
    pub const fn covers(&self, shortest_ms: u64, longest_ms: u64) -> bool {
        self.longest_ms >= longest_ms && (self.cell_ms <= 1 || self.cell_ms <= shortest_ms / CELLS_PER_WINDOW)
    }

    /// Takes in a good sample. One that is older than the last is ignored.
    pub fn push(&mut self, at: Mono, value: f64) {
        if let Some(last) = self.cells.back() {
            if at <= last.last_at {
                return;
            }
            if self.counter && value < last.last {
                self.cells.clear();
            }
        }
        match self.cells.back_mut() {
            Some(cell) if at.since(cell.first_at) < self.cell_ms => {
                cell.last_at = at;
                cell.last = value;
                cell.sum += value;
                cell.count += 1.0;
                cell.min = cell.min.min(value);
                cell.max = cell.max.max(value);
            }
            Some(_) | None => self.cells.push_back(Cell {
                first_at: at,
                first: value,
                last_at: at,
                last: value,
                sum: value,
                count: 1.0,
                min: value,
                max: value,
            }),
        }
        while self.cells.front().is_some_and(|cell| at.since(cell.last_at) > self.longest_ms) {
            self.cells.pop_front();
        }
    }

    fn cells(&self, now: Mono, window_ms: u64) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |cell| now.since(cell.last_at) <= window_ms)
    }

    /// The samples go back over at least half of the window: less is not an answer about the window.
    fn is_covered(&self, now: Mono, window_ms: u64) -> bool {
        self.cells.front().is_some_and(|cell| now.since(cell.first_at) >= window_ms / 2)
    }

    /// None where the window is not covered.
    #[must_use]
    pub fn over(&self, what: Over, now: Mono, window_ms: u64) -> Option<f64> {
        if !self.is_covered(now, window_ms) {
            return None;
        }
        let cells = || self.cells(now, window_ms);
        cells().next()?;
        let answer = match what {
            Over::Avg => cells().map(|cell| cell.sum).sum::<f64>() / cells().map(|cell| cell.count).sum::<f64>(),
            Over::Min => cells().map(|cell| cell.min).fold(f64::INFINITY, f64::min),
            Over::Max => cells().map(|cell| cell.max).fold(f64::NEG_INFINITY, f64::max),
            Over::Rate => {
                let first = cells().next()?;
                let last = cells().last()?;
                (last.last - first.first) / (seconds(last.last_at.since(first.first_at)))
            }
        };
        answer.is_finite().then_some(answer)
    }

    /// The value `horizon_ms` from now on the straight line of least squares through the window.
    #[must_use]
    pub fn forecast(&self, now: Mono, window_ms: u64, horizon_ms: u64) -> Option<f64> {
        if !self.is_covered(now, window_ms) {
            return None;
        }
        // Times are relative to now, in seconds: small numbers keep the sums exact.
        let points: Vec<(f64, f64)> = self
            .cells(now, window_ms)
            .map(|cell| {
                let middle = (now.since(cell.first_at) + now.since(cell.last_at)) / 2;
                (-seconds(middle), cell.sum / cell.count)
            })
            .collect();
        if points.len() < MIN_FORECAST_CELLS {
            return None;
        }
        let n = points.iter().map(|_| 1.0).sum::<f64>();
        let mean_t = points.iter().map(|(t, _)| t).sum::<f64>() / n;
        let mean_v = points.iter().map(|(_, v)| v).sum::<f64>() / n;
        let spread = points.iter().map(|(t, _)| (t - mean_t).powi(2)).sum::<f64>();
        let slope = points.iter().map(|(t, v)| (t - mean_t) * (v - mean_v)).sum::<f64>() / spread;
        let answer = mean_v + slope * (seconds(horizon_ms) - mean_t);
        answer.is_finite().then_some(answer)
    }
}

#[expect(clippy::cast_precision_loss, reason = "windows are below 2^53 ms by far")]
pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_has_its_mean_rate_and_forecast() {
        let mut series = Series::new(60_000, 60_000, false);
        for second in 0..=60_u32 {
            series.push(Mono(u64::from(second) * 1000), 20.0 + f64::from(second) * 0.1);
        }
        let now = Mono(60_000);
        let near = |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 0.01, "{got:?} {want}");
        near(series.over(Over::Avg, now, 60_000), 23.0);
        near(series.over(Over::Min, now, 60_000), 20.0);
        near(series.over(Over::Max, now, 60_000), 26.0);
        near(series.over(Over::Rate, now, 60_000), 0.1);
        near(series.forecast(now, 60_000, 100_000), 36.0);
    }

    #[test]
    fn half_a_window_is_needed_and_a_counter_reset_starts_anew() {
        let mut series = Series::new(10_000, 10_000, true);
        series.push(Mono(0), 100.0);
        series.push(Mono(4_000), 200.0);
        assert_eq!(series.over(Over::Rate, Mono(4_000), 10_000), None);
        series.push(Mono(6_000), 260.0);
        assert_eq!(series.over(Over::Rate, Mono(6_000), 10_000), Some(160.0 / 6.0));
        series.push(Mono(7_000), 5.0);
        assert_eq!(series.over(Over::Rate, Mono(7_000), 10_000), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut series = Series::new(1_000, MAX_WINDOW_MS, false);
        for at in 0..200_000 {
            series.push(Mono(at * 1_000), 1.0);
        }
        assert!(series.cells.len() as u64 <= MAX_CELLS + 2, "{}", series.cells.len());
    }
}
