//! Power and cooling of the sites at a glance, from the last good values only.

use bcp_core::time::Mono;
use bcp_wire::{Site, Value};

use super::model::{SiteDot, site_dot};
use crate::serve::query::Part;
use crate::serve::view::{DeviceView, View};

/// A row per figure, a column per site: what can be compared stands side by side.
#[derive(Debug)]
pub struct SiteTable {
    pub sites: Vec<SiteHead>,
    /// Figure, and its line per site; none where the site has no such device.
    pub rows: Vec<(&'static str, Vec<Option<Line>>)>,
}

#[derive(Debug)]
pub struct SiteHead {
    pub dot: SiteDot,
    pub agents: Part,
}

/// How much, and how old the oldest reading behind it is.
#[derive(Debug)]
pub struct Line {
    pub text: String,
    pub class: &'static str,
    pub age_ms: Option<u64>,
}

impl Line {
    /// Young enough that its age need not be seen: it is there on hover.
    #[must_use]
    pub fn old_ms(&self) -> Option<u64> {
        self.age_ms.filter(|age| *age >= NOTABLE_AGE_MS)
    }
}

/// Ages from here on are shown beside the figure.
const NOTABLE_AGE_MS: u64 = 10_000;

type Figure = fn(&[&DeviceView], Mono) -> Option<Line>;

const FIGURES: [(&str, &str, Figure); 5] = [
    ("power", "ups", power),
    ("UPS load", "ups", load),
    ("cooling", "crac", cooling),
    ("supply air", "crac", air),
    ("draw", "meter", draw),
];

impl SiteTable {
    #[must_use]
    pub fn of(view: &View) -> SiteTable {
        let line = |site: Site, kind: &str, figure: Figure| {
            let devices: Vec<&DeviceView> = view.devices_at(site).filter(|device| device.kind() == kind).collect();
            figure(&devices, view.mono)
        };
        let rows = FIGURES.map(|(what, kind, figure)| (what, Site::ALL.map(|site| line(site, kind, figure)).into()));
        let head = |site| SiteHead { dot: site_dot(view, site), agents: view.fresh_agents(site) };
        let heard = |(_, lines): &(&str, Vec<Option<Line>>)| lines.iter().any(Option::is_some);
        SiteTable { sites: Site::ALL.map(head).into(), rows: rows.into_iter().filter(heard).collect() }
    }
}

/// Good values of one point over several devices, and the age of the oldest.
struct Found<'a> {
    values: Vec<&'a Value>,
    age_ms: Option<u64>,
    of: usize,
}

fn find<'a>(devices: &[&'a DeviceView], point: &str, now: Mono) -> Found<'a> {
    let good = devices.iter().filter_map(|device| {
        let state = device.point(point)?;
        Some((state.good_value(now, device.source)?, state.age_ms(now)))
    });
    let (values, ages): (Vec<_>, Vec<_>) = good.unzip();
    Found { values, age_ms: ages.into_iter().max(), of: devices.len() }
}

impl Found<'_> {
    fn numbers(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().filter_map(|value| value.as_num())
    }

    fn max(&self) -> Option<f64> {
        self.numbers().reduce(f64::max)
    }

    fn min(&self) -> Option<f64> {
        self.numbers().reduce(f64::min)
    }

    /// A figure with too few good values behind it is marked, and without any it is unknown.
    fn line(&self, text: Option<String>, class: &'static str) -> Line {
        let missing = self.of - self.values.len();
        match text {
            None => Line { text: "unknown".to_owned(), class: "unknown", age_ms: None },
            Some(text) if missing > 0 => Line {
                text: format!("{text}, {missing} of {} unknown", self.of),
                class: if class == "up" { "degraded" } else { class },
                age_ms: self.age_ms,
            },
            Some(text) => Line { text, class, age_ms: self.age_ms },
        }
    }
}

fn power(ups: &[&DeviceView], now: Mono) -> Option<Line> {
    if ups.is_empty() {
        return None;
    }
    let status = find(ups, "ups.status", now);
    let on_battery = status
        .values
        .iter()
        .filter(|value| value.as_text().is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "OB")))
        .count();
    let runtime = find(ups, "battery.runtime", now).min().map(|s| format!("{:.0}\u{202f}min", (s / 60.0).floor()));
    let left = runtime.unwrap_or_else(|| "time unknown".to_owned());
    let (text, class) = match on_battery {
        0 => (format!("mains, {left} in reserve"), "up"),
        some => (format!("{some} of {} ON BATTERY, {left} left", status.of), "down"),
    };
    let text = (!status.values.is_empty()).then_some(text);
    Some(status.line(text, class))
}

fn load(ups: &[&DeviceView], now: Mono) -> Option<Line> {
    let load = find(ups, "ups.load", now);
    let class = if load.max().is_some_and(|load| load > 80.0) { "degraded" } else { "up" };
    (!ups.is_empty()).then(|| load.line(load.max().map(|max| format!("{max:.0}\u{202f}% highest")), class))
}

fn cooling(cracs: &[&DeviceView], now: Mono) -> Option<Line> {
    let state = find(cracs, "unit.state", now);
    let on = state.values.iter().filter(|value| value.as_text() == Some("on")).count();
    let class = if on == state.of { "up" } else { "degraded" };
    let text = (!state.values.is_empty()).then(|| format!("{on} of {} run", state.of));
    (!cracs.is_empty()).then(|| state.line(text, class))
}

fn air(cracs: &[&DeviceView], now: Mono) -> Option<Line> {
    let air = find(cracs, "supply.air.temperature", now);
    let class = if air.max().is_some_and(|hottest| hottest > 27.0) { "degraded" } else { "up" };
    let text = air.max().map(|hottest| format!("{hottest:.1}\u{202f}°C hottest"));
    (!cracs.is_empty()).then(|| air.line(text, class))
}

fn draw(meters: &[&DeviceView], now: Mono) -> Option<Line> {
    let power = find(meters, "meter.realpower", now);
    let total: f64 = power.numbers().sum();
    let text = (!power.values.is_empty()).then(|| format!("{:.1}\u{202f}kW", total / 1000.0));
    (!meters.is_empty()).then(|| power.line(text, "up"))
}
