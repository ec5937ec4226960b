//! Power and cooling of each site at a glance, from the last good values only.

use bcp_core::time::Mono;
use bcp_wire::{Site, Value};

use crate::serve::view::{DeviceView, SourceState, View};

#[derive(Debug)]
pub struct SiteCard {
    pub site: Site,
    pub lines: Vec<Line>,
    pub agents: usize,
    pub fresh: usize,
}

/// One figure: what, how much, and how old the oldest reading behind it is.
#[derive(Debug)]
pub struct Line {
    pub what: &'static str,
    pub text: String,
    pub class: &'static str,
    pub age_ms: Option<u64>,
}

#[must_use]
pub fn site_cards(view: &View) -> Vec<SiteCard> {
    Site::ALL.into_iter().map(|site| card(view, site)).collect()
}

fn card(view: &View, site: Site) -> SiteCard {
    let of_kind = |kind: &str| -> Vec<&DeviceView> {
        let found = view.devices.values().filter(|device| device.site == site && device.kind() == kind);
        found.map(AsRef::as_ref).collect()
    };
    let now = view.mono;
    let lines = [
        power(&of_kind("ups"), now),
        load(&of_kind("ups"), now),
        cooling(&of_kind("crac"), now),
        air(&of_kind("crac"), now),
        draw(&of_kind("meter"), now),
    ];
    let agents = view.agents.iter().filter(|agent| agent.site == site);
    SiteCard {
        site,
        lines: lines.into_iter().flatten().collect(),
        agents: agents.clone().count(),
        fresh: agents.filter(|agent| agent.source == SourceState::Fresh).count(),
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
    fn line(&self, what: &'static str, text: Option<String>, class: &'static str) -> Line {
        let missing = self.of - self.values.len();
        match text {
            None => Line { what, text: "unknown".to_owned(), class: "unknown", age_ms: None },
            Some(text) if missing > 0 => Line {
                what,
                text: format!("{text}, {missing} of {} unknown", self.of),
                class: "degraded",
                age_ms: self.age_ms,
            },
            Some(text) => Line { what, text, class, age_ms: self.age_ms },
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
    let runtime = find(ups, "battery.runtime", now).min().map(|s| format!("{:.0} min of battery", (s / 60.0).floor()));
    let left = runtime.unwrap_or_else(|| "battery time unknown".to_owned());
    let (text, class) = match on_battery {
        0 => (format!("{} UPS on mains, {left}", status.values.len()), "up"),
        some => (format!("{some} of {} UPS ON BATTERY, {left}", status.of), "down"),
    };
    let text = (!status.values.is_empty()).then_some(text);
    Some(status.line("power", text, class))
}

fn load(ups: &[&DeviceView], now: Mono) -> Option<Line> {
    let load = find(ups, "ups.load", now);
    let class = if load.max().is_some_and(|load| load > 80.0) { "degraded" } else { "up" };
    (!ups.is_empty()).then(|| load.line("UPS load", load.max().map(|max| format!("highest {max:.0}\u{202f}%")), class))
}

fn cooling(cracs: &[&DeviceView], now: Mono) -> Option<Line> {
    let state = find(cracs, "unit.state", now);
    let on = state.values.iter().filter(|value| value.as_text() == Some("on")).count();
    let class = if on == state.of { "up" } else { "degraded" };
    let text = (!state.values.is_empty()).then(|| format!("{on} of {} units run", state.of));
    (!cracs.is_empty()).then(|| state.line("cooling", text, class))
}

fn air(cracs: &[&DeviceView], now: Mono) -> Option<Line> {
    let air = find(cracs, "supply.air.temperature", now);
    let class = if air.max().is_some_and(|hottest| hottest > 27.0) { "degraded" } else { "up" };
    let text = air.max().map(|hottest| format!("hottest {hottest:.1}\u{202f}°C"));
    (!cracs.is_empty()).then(|| air.line("supply air", text, class))
}

fn draw(meters: &[&DeviceView], now: Mono) -> Option<Line> {
    let power = find(meters, "meter.realpower", now);
    let total: f64 = power.numbers().sum();
    let text = (!power.values.is_empty()).then(|| format!("{:.1}\u{202f}kW", total / 1000.0));
    (!meters.is_empty()).then(|| power.line("draw", text, "up"))
}
