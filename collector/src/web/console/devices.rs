//! Devices and their points.

use bcp_wire::{Id, Site, Value};

use super::words::{unit, value_text, word_of};
use crate::serve::view::{DeviceView, PointView, QualityWord, SourceState, View};

/// Device rows in one list; the search narrows it.
pub const MAX_DEVICE_ROWS: usize = 500;

#[derive(Debug)]
pub struct DeviceRow {
    pub id: String,
    pub site: Site,
    pub kind: String,
    pub location: String,
    pub agent: String,
    pub class: &'static str,
    pub word: String,
    pub points: usize,
    pub age_ms: Option<u64>,
}

#[derive(Debug)]
pub struct DevicePage {
    pub row: DeviceRow,
    pub profile: Option<String>,
    pub firmware: Option<String>,
    pub firmware_proven: bool,
    pub parent: Option<String>,
    pub points: Vec<PointRow>,
    pub gaps: Vec<String>,
}

#[derive(Debug)]
pub struct PointRow {
    pub name: String,
    pub value: String,
    pub unit: String,
    pub class: &'static str,
    pub quality: String,
    pub age_ms: u64,
    pub time: String,
    pub source: String,
    pub interval: String,
    pub numeric: bool,
}

/// Devices whose id, kind, site, location or agent contains every word of `search`, worst first.
#[must_use]
pub fn device_rows(view: &View, search: &str) -> Vec<DeviceRow> {
    let words: Vec<String> = search.split_whitespace().map(str::to_lowercase).collect();
    let mut rows: Vec<DeviceRow> = view
        .devices
        .values()
        .map(|device| device_row(device, view))
        .filter(|row| {
            let all = format!("{} {} {} {} {}", row.id, row.kind, row.site, row.location, row.agent).to_lowercase();
            words.iter().all(|word| all.contains(word.as_str()))
        })
        .collect();
    rows.sort_by(|a, b| (a.class == "up").cmp(&(b.class == "up")).then(a.site.cmp(&b.site)).then(a.id.cmp(&b.id)));
    rows.truncate(MAX_DEVICE_ROWS);
    rows
}

fn device_row(device: &DeviceView, view: &View) -> DeviceRow {
    let not_good =
        device.points.iter().filter(|point| point.judge(view.mono, device.source).0 != QualityWord::Good).count();
    let (class, word) = match device.source {
        SourceState::Fresh if device.points.is_empty() => ("unknown", "no values yet".to_owned()),
        SourceState::Fresh if not_good == 0 => ("up", "good".to_owned()),
        SourceState::Fresh if not_good == device.points.len() => ("down", "no good value".to_owned()),
        SourceState::Fresh => ("degraded", format!("{not_good} not good")),
        away => ("unknown", away.as_str().replace('_', " ")),
    };
    DeviceRow {
        id: device.id.to_string(),
        site: device.site,
        kind: device.kind().to_owned(),
        location: device.location().unwrap_or("–").to_owned(),
        agent: device.agent.to_string(),
        class,
        word,
        points: device.points.len(),
        age_ms: device.age_ms(view.mono),
    }
}

impl DevicePage {
    #[must_use]
    pub fn of(view: &View, id: &str) -> Option<DevicePage> {
        let device = view.devices.get(id)?;
        let meta = device.meta.as_ref();
        Some(DevicePage {
            row: device_row(device, view),
            profile: meta.and_then(|meta| meta.profile.as_ref()).map(|profile| profile.id.clone()),
            firmware: meta.and_then(|meta| meta.firmware.clone()),
            firmware_proven: meta.is_none_or(|meta| meta.firmware_proven),
            parent: meta.and_then(|meta| meta.parent.as_ref()).map(Id::to_string),
            points: device.judged_points(view.mono).map(|point| point_row(&point)).collect(),
            gaps: device
                .gaps
                .iter()
                .map(|gap| {
                    format!("{} {}: {} to {} lost ({})", gap.agent, gap.incarnation, gap.from, gap.through, gap.reason)
                })
                .collect(),
        })
    }
}

fn point_row(point: &PointView) -> PointRow {
    let class = match point.quality {
        QualityWord::Good => "up",
        QualityWord::Stale => "unknown",
        QualityWord::Bad => "down",
    };
    let quality = word_of(&point.quality);
    PointRow {
        name: point.point.to_string(),
        value: point.value.as_ref().map_or_else(|| "–".to_owned(), value_text),
        unit: unit(&point.unit).to_owned(),
        class,
        quality: point
            .reason
            .map_or_else(|| quality.clone(), |reason| format!("{quality}: {}", reason.replace('_', " "))),
        age_ms: point.age_ms,
        time: point.time.clone(),
        source: point.source.clone().unwrap_or_else(|| "–".to_owned()),
        interval: format!("{} s", point.interval_ms as f64 / 1000.0),
        numeric: matches!(point.value, Some(Value::Num(_))),
    }
}
