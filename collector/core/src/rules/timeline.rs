//! Replays a written timeline against rules: `at 0s set crac-a1 supply.air.temperature 35`,
//! `at 31s want alarm supply-air-hot/crac-a1`.
//!
//! | line | meaning |
//! |---|---|
//! | `asset ID KIND [site S] [parent ID] [location TEXT] [agent ID]` | a device; its points are those that are set |
//! | `at T set ID POINT VALUE` | read from then on, every second, until set again |
//! | `at T bad ID POINT REASON` | read without a value from then on: timeout, exception, range ... |
//! | `at T silent ID` | no readings any more |
//! | `at T reachable ID yes\|no` | its agent says so |
//! | `at T agent ID alive\|lost\|unknown` | state of an agent |
//! | `at T service ID up\|degraded\|down\|unknown` | state of a service |
//! | `at T want alarm\|no-alarm\|unknown RULE/ASSET` | what the vote must be then |

use std::collections::BTreeMap;

use bcp_wire::{BadReason, DeviceMeta, Id, PointMeta, PointName, Quality, Site, Value, WIRE_VERSION};

use super::ast::parse_duration_ms;
use super::engine::{Engine, Event};
use super::load::RuleSet;
use crate::status::ServiceStatus;
use crate::time::Mono;
use crate::topology::Asset;

/// Readings repeat this often.
const INTERVAL_MS: u64 = 1_000;
/// Longest timeline: a day.
pub const MAX_TIMELINE_MS: u64 = 86_400_000;
/// Most lines.
pub const MAX_LINES: usize = 10_000;

/// A checked timeline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timeline {
    devices: BTreeMap<Id, Device>,
    /// In order of time, then of lines.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
struct Device {
    kind: String,
    site: Site,
    parent: Option<Id>,
    location: Option<String>,
    agent: Id,
    points: BTreeMap<PointName, ()>,
}

#[derive(Debug, Clone, PartialEq)]
struct Step {
    at: Mono,
    line: usize,
    what: What,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Set { device: Id, point: PointName, value: Value },
    Bad { device: Id, point: PointName, reason: BadReason },
    Silent { device: Id },
    Reachable { device: Id, reachable: bool },
    Agent { agent: Id, alive: Option<bool> },
    Service { service: Id, status: ServiceStatus },
    Want { alarm: String, active: Option<bool> },
}

/// A line that cannot be read, or an expectation that was not met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct LineFault {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// What a run gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Every change of a vote: when, whose, what, why.
    pub votes: Vec<(Mono, String, Option<bool>, String)>,
    pub wanted: usize,
    pub unmet: Vec<LineFault>,
}

impl Timeline {
    /// # Errors
    /// Every line that cannot be read.
    pub fn parse(text: &str) -> Result<Timeline, Vec<LineFault>> {
        let mut timeline = Timeline::default();
        let mut faults = Vec::new();
        for (number, line) in text.lines().enumerate().take(MAX_LINES) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if let Err(message) = timeline.line(number + 1, line) {
                faults.push(LineFault { line: number + 1, message });
            }
        }
        if text.lines().count() > MAX_LINES {
            faults.push(LineFault { line: MAX_LINES + 1, message: format!("more than {MAX_LINES} lines") });
        }
        timeline.steps.sort_by_key(|step| step.at);
        if faults.is_empty() { Ok(timeline) } else { Err(faults) }
    }

    fn line(&mut self, line: usize, text: &str) -> Result<(), String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["asset", id, kind, more @ ..] => self.asset(id, kind, more),
            ["at", time, rest @ ..] => {
                let at = parse_duration_ms(time)?;
                if at > MAX_TIMELINE_MS {
                    return Err("a timeline is at most 24h long".to_owned());
                }
                let what = self.what(rest)?;
                self.steps.push(Step { at: Mono(at), line, what });
                Ok(())
            }
            _ => Err("a line begins with `asset` or `at`".to_owned()),
        }
    }

    fn asset(&mut self, id: &str, kind: &str, more: &[&str]) -> Result<(), String> {
        let id: Id = parse(id)?;
        let mut device = Device {
            kind: kind.to_owned(),
            site: Site::A,
            parent: None,
            location: None,
            agent: parse("timeline")?,
            points: BTreeMap::new(),
        };
        for pair in more.chunks(2) {
            match pair {
                ["site", site] => device.site = parse(site)?,
                ["parent", parent] => device.parent = Some(parse(parent)?),
                ["location", location] => device.location = Some((*location).to_owned()),
                ["agent", agent] => device.agent = parse(agent)?,
                _ => return Err("after the kind come site, parent, location or agent, each with a value".to_owned()),
            }
        }
        self.devices.insert(id, device);
        Ok(())
    }

    fn what(&mut self, words: &[&str]) -> Result<What, String> {
        match words {
            ["set", device, point, value @ ..] if !value.is_empty() => {
                let (device, point) = self.point(device, point)?;
                let text = value.join(" ");
                let number = text.parse::<f64>().ok().and_then(Value::num);
                let value = number.or_else(|| Value::text(&text)).ok_or_else(|| format!("`{text}` is no value"))?;
                Ok(What::Set { device, point, value })
            }
            ["bad", device, point, reason] => {
                let (device, point) = self.point(device, point)?;
                let reason = BadReason::ALL
                    .into_iter()
                    .find(|known| known.as_str() == *reason)
                    .ok_or_else(|| format!("`{reason}` is no reason of a bad reading"))?;
                Ok(What::Bad { device, point, reason })
            }
            ["silent", device] => Ok(What::Silent { device: parse(device)? }),
            ["reachable", device, word @ ("yes" | "no")] => {
                Ok(What::Reachable { device: parse(device)?, reachable: *word == "yes" })
            }
            ["agent", agent, word] => {
                let alive = match *word {
                    "alive" => Some(true),
                    "lost" => Some(false),
                    "unknown" => None,
                    _ => return Err("an agent is alive, lost or unknown".to_owned()),
                };
                Ok(What::Agent { agent: parse(agent)?, alive })
            }
            ["service", service, word] => {
                let status = [
                    ServiceStatus::Up,
                    ServiceStatus::Planned,
                    ServiceStatus::Degraded,
                    ServiceStatus::Down,
                    ServiceStatus::Unknown,
                ]
                .into_iter()
                .find(|status| status.as_str() == *word)
                .ok_or_else(|| "a service is up, planned, degraded, down or unknown".to_owned())?;
                Ok(What::Service { service: parse(service)?, status })
            }
            ["want", wanted, alarm] => {
                let active = match *wanted {
                    "alarm" => Some(true),
                    "no-alarm" => Some(false),
                    "unknown" => None,
                    _ => return Err("wanted is alarm, no-alarm or unknown".to_owned()),
                };
                Ok(What::Want { alarm: (*alarm).to_owned(), active })
            }
            _ => Err("after the time comes set, bad, silent, reachable, agent, service or want".to_owned()),
        }
    }

    fn point(&mut self, device: &str, point: &str) -> Result<(Id, PointName), String> {
        let device: Id = parse(device)?;
        let point: PointName = parse(point)?;
        let known =
            self.devices.get_mut(&device).ok_or_else(|| format!("no line `asset {device} KIND` before this one"))?;
        known.points.insert(point.clone(), ());
        Ok((device, point))
    }

    /// Runs the rules through it.
    #[must_use]
    pub fn run(&self, rules: RuleSet, assets: Vec<Asset>) -> Report {
        let mut run = Run { engine: Engine::new(rules, assets), held: BTreeMap::new(), report: Report::default() };
        for (id, device) in &self.devices {
            let meta = device.meta(id);
            run.tell(Mono(0), Event::Device { site: device.site, agent: &device.agent, meta: &meta });
        }
        for step in &self.steps {
            run.advance(step.at);
            run.step(step);
        }
        run.report
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|cause: T::Err| cause.to_string())
}

impl Device {
    fn meta(&self, id: &Id) -> DeviceMeta {
        let point = |name: &PointName| PointMeta {
            name: name.clone(),
            unit: bcp_wire::names::lookup(name).map_or("", |def| def.unit).to_owned(),
            interval_ms: INTERVAL_MS,
            source: None,
        };
        DeviceMeta {
            v: WIRE_VERSION,
            i: 1,
            device: id.clone(),
            kind: self.kind.clone(),
            profile: None,
            firmware: None,
            firmware_proven: true,
            parent: self.parent.clone(),
            location: self.location.clone(),
            points: self.points.keys().map(point).collect(),
        }
    }
}

/// A reading that is repeated.
type Held = Result<Value, BadReason>;

struct Run {
    engine: Engine,
    /// By device and point; with the time of the next reading.
    held: BTreeMap<(Id, PointName), (Mono, Held)>,
    report: Report,
}

impl Run {
    fn tell(&mut self, now: Mono, event: Event<'_>) {
        for change in self.engine.step(now, event) {
            let (active, why) = change.vote.map_or((None, "gone".to_owned()), |vote| (vote.active, vote.explain));
            self.report.votes.push((now, change.key, active, why));
        }
    }

    /// Repeats readings and lets timers run, in order of time, up to and including `until`.
    fn advance(&mut self, until: Mono) {
        let mut last = Mono(0);
        loop {
            let reading = self.held.values().map(|(next, _)| *next).min();
            let timer = self.engine.next_deadline();
            let Some(next) = reading.into_iter().chain(timer).min().filter(|next| *next <= until) else { break };
            let now = next.max(last);
            last = now;
            let due: Vec<(Id, PointName)> =
                self.held.iter().filter(|(_, (next, _))| *next <= now).map(|(key, _)| key.clone()).collect();
            if due.is_empty() {
                self.tell(now, Event::Timer);
            }
            for key in due {
                self.read(now, &key);
            }
        }
        self.tell(until, Event::Timer);
    }

    fn read(&mut self, now: Mono, key: &(Id, PointName)) {
        let Some((next, held)) = self.held.get_mut(key) else { return };
        *next = now.plus(INTERVAL_MS);
        let (value, quality) = match held.clone() {
            Ok(value) => (Some(value), Quality::Good),
            Err(reason) => (None, Quality::Bad(reason)),
        };
        let event = Event::Reading { device: &key.0, point: &key.1, value: value.as_ref(), quality, sampled: now };
        self.tell(now, event);
    }

    fn hold(&mut self, now: Mono, device: &Id, point: &PointName, held: Held) {
        let key = (device.clone(), point.clone());
        self.held.insert(key.clone(), (now, held));
        self.read(now, &key);
    }

    fn step(&mut self, step: &Step) {
        let now = step.at;
        match &step.what {
            What::Set { device, point, value } => self.hold(now, device, point, Ok(value.clone())),
            What::Bad { device, point, reason } => self.hold(now, device, point, Err(*reason)),
            What::Silent { device } => self.held.retain(|(of, _), _| of != device),
            What::Reachable { device, reachable } => {
                self.tell(now, Event::Reachability { device, reachable: *reachable });
            }
            What::Agent { agent, alive } => {
                self.tell(now, Event::Agent { site: Site::A, agent, alive: *alive });
            }
            What::Service { service, status } => self.tell(now, Event::Service { service, status: *status }),
            What::Want { alarm, active } => self.want(step.line, now, alarm, *active),
        }
    }

    fn want(&mut self, line: usize, now: Mono, alarm: &str, wanted: Option<bool>) {
        self.report.wanted += 1;
        let message = match self.engine.vote(alarm) {
            None => {
                let near =
                    self.engine.votes().map(|(key, _)| (bcp_wire::names::distance(key, alarm), key.to_owned())).min();
                let help = near.map_or_else(String::new, |(_, key)| format!("; did you mean `{key}`?"));
                format!("no rule instance `{alarm}`{help}")
            }
            Some(vote) if vote.active == wanted => return,
            Some(vote) => {
                let word = |active: Option<bool>| match active {
                    Some(true) => "alarm",
                    Some(false) => "no-alarm",
                    None => "unknown",
                };
                let why = self.engine.explain(now, alarm).map_or(vote.explain, |explanation| explanation.summary);
                format!("wanted {} of {alarm}, but it is {}: {why}", word(wanted), word(vote.active))
            }
        };
        self.report.unmet.push(LineFault { line, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::load::{RawRule, load};

    fn hot() -> RuleSet {
        let title = crate::status::LANGUAGES.iter().map(|l| ((*l).to_owned(), "hot".to_owned())).collect();
        let rule = RawRule {
            for_each: r#"kind == "crac""#.into(),
            when: r#"p("supply.air.temperature") > 27.0"#.into(),
            clear: Some(r#"p("supply.air.temperature") < 25.5"#.into()),
            hold: Some("30s".into()),
            priority: "high".into(),
            title,
            ..RawRule::default()
        };
        load(&BTreeMap::from([("supply-air-hot".to_owned(), rule)]), None).unwrap()
    }

    #[test]
    fn a_hot_unit_alarms_after_its_hold_and_clears_below_the_lower_threshold() {
        let story = "
            asset crac-a1 crac site a
            at 0s   set crac-a1 supply.air.temperature 22
            at 1s   want no-alarm supply-air-hot/crac-a1
            at 10s  set crac-a1 supply.air.temperature 35
            at 39s  want no-alarm supply-air-hot/crac-a1
            at 41s  want alarm supply-air-hot/crac-a1
            at 60s  set crac-a1 supply.air.temperature 26.5   # between the two
            at 120s want alarm supply-air-hot/crac-a1
            at 121s set crac-a1 supply.air.temperature 25
            at 122s want no-alarm supply-air-hot/crac-a1
            at 130s silent crac-a1
            at 131s want no-alarm supply-air-hot/crac-a1
            at 133s want unknown supply-air-hot/crac-a1
        ";
        let report = Timeline::parse(story).unwrap().run(hot(), Vec::new());
        assert_eq!(report.unmet, [], "{:#?}", report.votes);
        assert_eq!(report.wanted, 7);
    }

    #[test]
    fn a_spike_of_five_seconds_never_alarms() {
        let story = "
            asset crac-a1 crac
            at 0s  set crac-a1 supply.air.temperature 22
            at 10s set crac-a1 supply.air.temperature 45
            at 15s set crac-a1 supply.air.temperature 22
            at 90s want no-alarm supply-air-hot/crac-a1
        ";
        let report = Timeline::parse(story).unwrap().run(hot(), Vec::new());
        assert!(report.votes.iter().all(|(_, _, active, _)| *active != Some(true)), "{:#?}", report.votes);
        assert_eq!(report.unmet, []);
    }

    #[test]
    fn what_is_not_met_and_what_cannot_be_read_is_said() {
        let report = Timeline::parse(
            "asset crac-a1 crac\nat 0s set crac-a1 supply.air.temperature 22\nat 2s want alarm supply-air-hot/crac-a1",
        )
        .unwrap()
        .run(hot(), Vec::new());
        assert_eq!(report.unmet.len(), 1);
        assert_eq!(report.unmet[0].line, 3);
        assert!(report.unmet[0].message.contains("supply.air.temperature 22 Cel"), "{}", report.unmet[0].message);
        let faults = Timeline::parse("at 1s set x y z\nat one set\nwhat").unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
