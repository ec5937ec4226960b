//! How long a site's rooms stay cool enough.

use super::Runway;

/// Samples reach back this far.
pub const WINDOW_MS: u64 = 180_000;
/// Fewer, or over a shorter time, show no trend.
pub const LEAST_SPAN_MS: u64 = 60_000;
const LEAST_SAMPLES: usize = 6;
/// A room that gets warmer more slowly than this is not getting warm.
const RISE_LEAST_PER_MINUTE: f64 = 0.1;

/// A sample: how long ago, and what was measured, in Cel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub age_ms: u64,
    pub cel: f64,
}

/// Where a temperature goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    pub now: f64,
    pub per_minute: f64,
}

/// Least squares over the window; `None` where that is too little to tell.
#[must_use]
pub fn trend(samples: &[Sample]) -> Option<Trend> {
    let used: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| sample.age_ms <= WINDOW_MS && sample.cel.is_finite())
        .map(|sample| (-(as_f64(sample.age_ms)) / 60_000.0, sample.cel))
        .collect();
    let (first, last) = used.iter().fold((f64::MAX, f64::MIN), |(low, high), (at, _)| (low.min(*at), high.max(*at)));
    if used.len() < LEAST_SAMPLES || last - first < as_f64(LEAST_SPAN_MS) / 60_000.0 {
        return None;
    }
    let count = f64::from(u32::try_from(used.len()).ok()?);
    let mean = |pick: fn(&(f64, f64)) -> f64| used.iter().map(pick).sum::<f64>() / count;
    let (middle, level) = (mean(|(at, _)| *at), mean(|(_, cel)| *cel));
    let spread: f64 = used.iter().map(|(at, _)| (at - middle).powi(2)).sum();
    let along: f64 = used.iter().map(|(at, cel)| (at - middle) * (cel - level)).sum();
    let per_minute = along / spread;
    per_minute.is_finite().then_some(Trend { now: level - per_minute * middle, per_minute })
}

#[allow(clippy::cast_precision_loss)]
const fn as_f64(ms: u64) -> f64 {
    ms as f64
}

/// Until the room is at `too_hot` Cel. `rooms`: one trend per sensor (`None`: not known); `failed`: whether each cooling unit has failed.
///
/// Two signs have to agree: a unit that failed and a room that gets warmer, or two sensors that are too hot already.
#[must_use]
pub fn runway(rooms: &[Option<Trend>], failed: &[Option<bool>], too_hot: f64) -> Runway {
    let known: Vec<Trend> = rooms.iter().copied().flatten().collect();
    let hot = known.iter().filter(|room| room.now >= too_hot).count();
    if hot >= 2 || (hot == 1 && failed.contains(&Some(true))) {
        return Runway::Left { ms: 0 };
    }
    let rising: Vec<&Trend> = known.iter().filter(|room| room.per_minute >= RISE_LEAST_PER_MINUTE).collect();
    let fails = failed.contains(&Some(true));
    match (fails, rising.is_empty()) {
        (true, false) => rising.iter().map(|room| left(room, too_hot)).fold(Runway::Endless, Runway::shorter),
        (false, true) if known.len() == rooms.len() && !rooms.is_empty() && !failed.contains(&None) => Runway::Endless,
        (true | false, true) | (false, false) => Runway::Unknown,
    }
}

fn left(room: &Trend, too_hot: f64) -> Runway {
    let minutes = ((too_hot - room.now) / room.per_minute).clamp(0.0, 24.0 * 60.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let ms = (minutes * 60_000.0) as u64;
    Runway::Left { ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(now: f64, per_minute: f64) -> Vec<Sample> {
        let at = |n: u32| Sample { age_ms: u64::from(n) * 10_000, cel: now - per_minute * f64::from(n) / 6.0 };
        (0..12).map(at).collect()
    }

    fn steady(now: f64) -> Option<Trend> {
        Some(Trend { now, per_minute: 0.0 })
    }

    #[test]
    fn a_trend_is_a_line_through_enough_samples() {
        let found = trend(&series(30.0, 0.6)).unwrap();
        assert!((found.now - 30.0).abs() < 1e-9 && (found.per_minute - 0.6).abs() < 1e-9, "{found:?}");
        assert_eq!(trend(&series(30.0, 0.6)[..5]), None, "too few");
        assert_eq!(trend(&[Sample { age_ms: 0, cel: 30.0 }; 10]), None, "no time passed");
        assert_eq!(trend(&[Sample { age_ms: 0, cel: f64::NAN }; 10]), None);
    }

    #[test]
    fn two_signs_make_a_runway_and_one_does_not() {
        let rising = Some(Trend { now: 29.0, per_minute: 1.0 });
        assert_eq!(runway(&[rising], &[Some(true), Some(false)], 35.0), Runway::Left { ms: 360_000 });
        assert_eq!(runway(&[rising], &[Some(false)], 35.0), Runway::Unknown, "an open door");
        assert_eq!(runway(&[steady(24.0)], &[Some(true)], 35.0), Runway::Unknown, "a spare unit carries it");
        assert_eq!(runway(&[steady(24.0)], &[Some(false)], 35.0), Runway::Endless);
        assert_eq!(runway(&[steady(24.0), None], &[Some(false)], 35.0), Runway::Unknown);
        assert_eq!(runway(&[steady(24.0)], &[None], 35.0), Runway::Unknown);
        assert_eq!(runway(&[], &[], 35.0), Runway::Unknown);
        assert_eq!(runway(&[steady(36.0)], &[Some(false)], 35.0), Runway::Endless, "one sensor alone");
        assert_eq!(runway(&[steady(36.0), steady(35.0)], &[Some(false)], 35.0), Runway::Left { ms: 0 });
        assert_eq!(runway(&[steady(36.0)], &[Some(true)], 35.0), Runway::Left { ms: 0 });
    }
}
