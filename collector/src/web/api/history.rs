//! History of one point, and stored events of one device.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use bcp_core::time::Wall;
use bcp_wire::{Id, PointName, Quality, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::sources::no_device;
use super::{Answer, Api, Refused, answer, storage};
use crate::serve::view::rfc3339;
use crate::serve::wall_now;
use crate::store::{HistorySample, Rollup};

/// Samples or buckets of one answer.
const MAX_ROWS: usize = 20_000;
const DEFAULT_ROWS: usize = 2_000;
/// Longest range that is read sample by sample; beyond it, hourly figures.
const MAX_RAW_MS: i64 = 8 * 86_400_000;
const DEFAULT_RANGE_MS: i64 = 3_600_000;
const MAX_EVENTS: usize = 1_000;

#[derive(Debug, Deserialize)]
pub(super) struct HistoryQuery {
    device: Id,
    point: PointName,
    from: Option<String>,
    to: Option<String>,
    /// Most rows wanted.
    max: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Row {
    /// Milliseconds since 1970 UTC.
    t: i64,
    time: String,
    /// Null where the quality is not good.
    value: Option<Value>,
    quality: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Bucket {
    t: i64,
    time: String,
    avg: f64,
    min: f64,
    max: f64,
    n: u64,
}

enum Found {
    Samples(Vec<HistorySample>),
    Hours(Vec<Rollup>),
}

pub(super) async fn history(State(api): State<Api>, query: Result<Query<HistoryQuery>, QueryRejection>) -> Answer {
    let Query(query) = query?;
    let now = wall_now().0;
    let to = query.to.as_deref().map_or(Ok(now), |text| time(text, now, "to"))?;
    let from = query.from.as_deref().map_or(Ok(to - DEFAULT_RANGE_MS), |text| time(text, now, "from"))?;
    if from > to {
        return Err(Refused::bad(
            "`from` is after `to`",
            "both are times, as 2026-11-21T22:00:00Z, -1h or milliseconds",
        ));
    }
    let max = query.max.unwrap_or(DEFAULT_ROWS);
    if max == 0 || max > MAX_ROWS {
        return Err(Refused::bad(format!("max {max} is out of range"), format!("1 to {MAX_ROWS}")));
    }
    let store = Arc::clone(&api.store);
    let (device, point) = (query.device.clone(), query.point.clone());
    let read = api
        .read(move || {
            if to - from > MAX_RAW_MS {
                return store.rollups(&device, &point, from, to).map(|hours| Some(Found::Hours(hours)));
            }
            store.history(&device, &point, from, to).map(|found| found.map(Found::Samples))
        })
        .await?;
    let found = read.map_err(|error| storage(&error))?;
    let view = api.view.get();
    let known = view.devices.get(&query.device);
    let Some(found) = found else {
        if known.is_none() {
            return Err(no_device(&query.device));
        }
        let error = format!("{} has no history of {}", query.device, query.point);
        return Err(Refused::missing(error, format!("/api/v1/points?device={} lists its points", query.device)));
    };
    let mut body = json!({
        "device": query.device,
        "point": query.point,
        "unit": known.and_then(|device| device.point(query.point.as_str())).map(|point| point.info.unit.clone()),
        "from": rfc3339(Wall(from)),
        "to": rfc3339(Wall(to)),
        "gaps": known.map(|device| &device.gaps),
    });
    let (key, rows, resolution) = match found {
        Found::Samples(samples) if samples.len() <= max || samples.iter().any(is_text) => {
            let skip = samples.len().saturating_sub(max);
            body["left_out"] = json!(skip);
            let rows: Vec<Row> = samples.into_iter().skip(skip).map(row).collect();
            ("samples", json!(rows), 0)
        }
        Found::Samples(samples) => {
            let step = ((to - from) / i64::try_from(max).unwrap_or(1)).max(1) + 1;
            ("buckets", json!(buckets(&samples, from, step)), step)
        }
        Found::Hours(hours) => {
            let rows: Vec<Bucket> = hours.into_iter().filter(|hour| hour.n > 0).map(hour).collect();
            ("buckets", json!(rows), crate::store::history::ROLLUP_MS)
        }
    };
    body[key] = rows;
    body["resolution_ms"] = json!(resolution);
    Ok(answer(&view, body))
}

/// A time: RFC 3339, milliseconds since 1970, or back from now as `-15m`, `-1h`, `-7d`.
fn time(text: &str, now: i64, key: &str) -> Result<i64, Refused> {
    let relative = || {
        let back = text.strip_prefix('-')?;
        let (number, unit) = back.split_at_checked(back.len().checked_sub(1)?)?;
        let unit = match unit {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        // Never forward, and never before 1970: differences of two such times do not overflow.
        let back = number.parse::<u64>().ok()?.checked_mul(unit)?;
        Some(now.saturating_sub_unsigned(back).max(0))
    };
    let absolute = || {
        // A plus sign of an offset arrives as a space.
        let text = text.replace(' ', "+");
        let at = time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
    };
    let milliseconds = || text.parse::<i64>().ok().filter(|ms| (0..=4_102_444_800_000).contains(ms));
    milliseconds().or_else(relative).or_else(absolute).ok_or_else(|| {
        let help = "2026-11-21T22:00:00Z, milliseconds since 1970, or back from now as -15m, -1h, -7d";
        Refused::bad(format!("`{key}` is not a time"), help)
    })
}

fn is_text(sample: &HistorySample) -> bool {
    matches!(sample.value, Some(Value::Text(_)))
}

fn row(sample: HistorySample) -> Row {
    let (quality, reason) = match sample.quality {
        Quality::Good => ("good", None),
        Quality::Stale => ("stale", None),
        Quality::Bad(reason) => ("bad", Some(reason.as_str())),
    };
    Row { t: sample.t, time: rfc3339(Wall(sample.t)), value: sample.value, quality, reason }
}

fn hour(hour: Rollup) -> Bucket {
    Bucket {
        t: hour.t,
        time: rfc3339(Wall(hour.t)),
        avg: hour.sum / hour.n as f64,
        min: hour.min,
        max: hour.max,
        n: hour.n,
    }
}

/// Equal steps from `from`; a step without a good number is left out, so a gap stays a gap.
fn buckets(samples: &[HistorySample], from: i64, step: i64) -> Vec<Bucket> {
    let mut out: Vec<Bucket> = Vec::new();
    for sample in samples {
        let Some(number) = sample.value.as_ref().and_then(Value::as_num) else { continue };
        let t = from + (sample.t - from) / step * step;
        match out.last_mut() {
            Some(last) if last.t == t => {
                last.n += 1;
                // Mean so far: a sum of large counters would lose digits.
                last.avg += (number - last.avg) / last.n as f64;
                last.min = last.min.min(number);
                last.max = last.max.max(number);
            }
            _ => {
                out.push(Bucket { t, time: rfc3339(Wall(t)), avg: number, min: number, max: number, n: 1 });
            }
        }
    }
    out
}

#[derive(Debug, Deserialize)]
pub(super) struct EventQuery {
    device: Id,
    limit: Option<usize>,
}

pub(super) async fn events(State(api): State<Api>, query: Result<Query<EventQuery>, QueryRejection>) -> Answer {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(100);
    if limit == 0 || limit > MAX_EVENTS {
        return Err(Refused::bad(format!("limit {limit} is out of range"), format!("1 to {MAX_EVENTS}")));
    }
    let store = Arc::clone(&api.store);
    let read = api.read(move || store.events(&query.device, limit)).await?;
    let events = read.map_err(|error| storage(&error))?;
    Ok(answer(&api.view.get(), json!({ "events": events })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        let now = 1_790_000_000_000;
        let read = |text: &str| time(text, now, "from").ok();
        assert_eq!(read("1790000000000"), Some(now));
        assert_eq!(read("-1h"), Some(now - 3_600_000));
        assert_eq!(read("-7d"), Some(now - 7 * 86_400_000));
        assert_eq!(read("2026-09-21T14:13:20Z"), Some(now));
        assert_eq!(read("2026-09-21T16:13:20+02:00"), Some(now));
        assert_eq!(read("2026-09-21T16:13:20 02:00"), Some(now));
        assert_eq!(read("-9000000000000000s"), Some(0), "not before 1970");
        for wrong in ["", "-", "-h", "yesterday", "-1é", "1e9", "-99999999999999999999d", "--9000000000000000s"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn buckets_keep_gaps() {
        let sample = |t, v: Option<f64>| HistorySample { t, value: v.map(Value::Num), quality: Quality::Good };
        let samples = [sample(0, Some(1.0)), sample(5, Some(3.0)), sample(12, None), sample(25, Some(7.0))];
        let got: Vec<(i64, f64, u64)> = buckets(&samples, 0, 10).iter().map(|b| (b.t, b.avg, b.n)).collect();
        assert_eq!(got, [(0, 2.0, 2), (20, 7.0, 1)]);
    }
}
