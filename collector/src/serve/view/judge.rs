//! What may be said of a point now. PURE.

use bcp_core::time::{Mono, Wall};
use bcp_wire::{Quality, Value};

use super::{DeviceView, PointState, PointView, QualityWord, STALE_TENTHS, SourceState};

impl PointState {
    /// Time since it was measured, milliseconds.
    #[must_use]
    pub const fn age_ms(&self, now: Mono) -> u64 {
        now.since(self.received)
    }

    /// True once older than 2.5 times its interval.
    #[must_use]
    pub fn is_old(&self, now: Mono) -> bool {
        self.age_ms(now) * 10 > self.info.interval_ms.saturating_mul(STALE_TENTHS)
    }

    /// What may be said of it now, and why if it is not good. The source's state outweighs everything.
    #[must_use]
    pub fn judge(&self, now: Mono, source: SourceState) -> (QualityWord, Option<&'static str>) {
        match (source, self.quality) {
            (SourceState::Fresh, Quality::Bad(reason)) if !self.is_old(now) => {
                (QualityWord::Bad, Some(reason.as_str()))
            }
            (SourceState::Fresh, Quality::Good) if !self.is_old(now) => (QualityWord::Good, None),
            (SourceState::Fresh, _) => (QualityWord::Stale, Some("old")),
            (away, _) => (QualityWord::Stale, Some(away.as_str())),
        }
    }

    /// The value, only where it may be taken as true now.
    #[must_use]
    pub fn good_value(&self, now: Mono, source: SourceState) -> Option<&Value> {
        match self.judge(now, source) {
            (QualityWord::Good, _) => self.value.as_ref(),
            _ => None,
        }
    }
}

impl DeviceView {
    /// The device's kind; `unknown` until its description arrives.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.meta.as_ref().map_or("unknown", |meta| &meta.kind)
    }

    #[must_use]
    pub fn point(&self, name: &str) -> Option<&PointState> {
        let at = self.points.binary_search_by(|point| point.info.name.as_str().cmp(name)).ok()?;
        self.points.get(at)
    }

    /// All points as shown, judged at `now`.
    pub fn judged_points(&self, now: Mono) -> impl Iterator<Item = PointView> + '_ {
        self.points.iter().map(move |point| self.judged(point, now))
    }

    /// One point as shown.
    #[must_use]
    pub fn judged(&self, point: &PointState, now: Mono) -> PointView {
        let (quality, reason) = point.judge(now, self.source);
        PointView {
            device: self.id.clone(),
            point: point.info.name.clone(),
            value: point.value.clone(),
            unit: point.info.unit.clone(),
            quality,
            reason,
            time: rfc3339(point.sampled),
            age_ms: point.age_ms(now),
            source: point.info.source.clone(),
            interval_ms: point.info.interval_ms,
        }
    }
}

/// `2026-11-21T22:03:18.123Z`; the number itself where it is outside the calendar.
#[must_use]
pub fn rfc3339(wall: Wall) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(wall.0) * 1_000_000)
        .ok()
        .and_then(|at| at.format(format).ok())
        .unwrap_or_else(|| wall.0.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::PointInfo;
    use super::*;

    fn point(quality: Quality) -> PointState {
        PointState {
            info: Arc::new(PointInfo {
                name: "supply.air.temperature".parse().unwrap(),
                unit: "Cel".into(),
                interval_ms: 1_000,
                source: None,
            }),
            value: Some(Value::Num(21.5)),
            quality,
            sampled: Wall(1_790_000_000_123),
            received: Mono(10_000),
        }
    }

    #[test]
    fn a_point_is_good_only_while_fresh_and_its_source_is_there() {
        let good = point(Quality::Good);
        assert_eq!(good.judge(Mono(12_500), SourceState::Fresh), (QualityWord::Good, None));
        assert_eq!(good.judge(Mono(12_501), SourceState::Fresh), (QualityWord::Stale, Some("old")));
        assert_eq!(good.judge(Mono(10_000), SourceState::BrokerAway), (QualityWord::Stale, Some("broker_away")));
        assert_eq!(good.good_value(Mono(10_000), SourceState::AgentLost), None);
        let bad = point(Quality::Bad(bcp_wire::BadReason::Timeout));
        assert_eq!(bad.judge(Mono(10_000), SourceState::Fresh), (QualityWord::Bad, Some("timeout")));
        assert_eq!(bad.judge(Mono(20_000), SourceState::Fresh), (QualityWord::Stale, Some("old")));
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(Wall(1_790_000_000_123)), "2026-09-21T14:13:20.123Z");
    }
}
