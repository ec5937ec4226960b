//! What this site's collector sees of each site's power, cooling and servers, from the readings of all agents. PURE.
//!
//! Knows: which devices the policy names, and which points of them are signs. Refuses to know: what the other collectors see,
//! and what follows from it (`bcp_core::site` and `failover` do).
//!
//! Invariants: only good, fresh readings are signs; a device that is not heard is unknown; a UPS counts as on battery only for
//! the time that this process itself has seen it so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bcp_core::policy::{Policy, PoolPolicy, SitePolicy};
use bcp_core::site::cooling::{self, Sample};
use bcp_core::site::pool::{Crowd, Follower, Glance};
use bcp_core::site::power::{self, Feed, UpsSight};
use bcp_core::site::{PoolWord, SiteWord};
use bcp_core::time::Mono;
use bcp_wire::{Id, Site, Value};

use super::view::{AgentView, DeviceView, SourceState};

/// A phase below this has no mains, whatever the country.
const NO_VOLTS: f64 = 50.0;
/// A battery that gives more than its own noise.
const GIVES_AMPERES: f64 = -0.5;
/// Temperatures are kept this often.
const SAMPLE_EVERY_MS: u64 = 5_000;
const ROOM_POINTS: [&str; 3] = ["room.air.temperature", "return.air.temperature", "ambient.temperature"];

type Devices = BTreeMap<Id, Arc<DeviceView>>;

/// What has to be remembered from second to second.
#[derive(Debug, Default)]
pub struct SiteWatch {
    on_battery: BTreeMap<Id, Mono>,
    rooms: BTreeMap<Id, VecDeque<(Mono, f64)>>,
    crowds: BTreeMap<Site, Crowd>,
    pools: BTreeMap<(Id, Site), Follower>,
}

impl SiteWatch {
    /// All sites as this collector sees them now. Called once a second.
    pub fn look(
        &mut self,
        policy: &Policy,
        devices: &Devices,
        agents: &[Arc<AgentView>],
        now: Mono,
    ) -> BTreeMap<Site, SiteWord> {
        self.pools.retain(|(id, _), _| policy.pools.contains_key(id));
        Site::ALL.into_iter().map(|site| (site, self.site(site, policy, devices, agents, now))).collect()
    }

    fn site(
        &mut self,
        site: Site,
        policy: &Policy,
        devices: &Devices,
        agents: &[Arc<AgentView>],
        now: Mono,
    ) -> SiteWord {
        let told = policy.sites.get(&site);
        let power = told.filter(|told| !told.ups.is_empty()).map(|told| self.power(told, devices, now));
        let heats = |told: &&SitePolicy| !told.cooling.is_empty() || !told.rooms.is_empty();
        let cooling = told.filter(heats).map(|told| self.cooling(told, devices, now));
        let of_site = agents.iter().filter(|agent| agent.site == site);
        let heard = of_site.map(|agent| (&agent.agent, agent.source == SourceState::Fresh));
        let mass_silence = self.crowds.entry(site).or_default().see(heard, now.0);
        let pools = policy.pools.iter().filter(|(_, pool)| pool.all(site).next().is_some());
        let pools = pools.map(|(id, pool)| (id.clone(), self.pool(id, pool, site, devices, now))).collect();
        SiteWord { power, cooling, mass_silence, pools }
    }

    fn power(&mut self, told: &SitePolicy, devices: &Devices, now: Mono) -> bcp_core::site::Runway {
        let upses: Vec<UpsSight> = told.ups.iter().map(|id| self.ups(id, devices.get(id), now)).collect();
        let gensets: Vec<Option<bool>> =
            told.gensets.iter().map(|id| devices.get(id).and_then(|genset| runs(genset, now))).collect();
        let genset = match (gensets.contains(&Some(true)), gensets.contains(&None)) {
            (true, _) => Some(true),
            (false, true) => None,
            (false, false) => Some(false),
        };
        power::runway(&upses, usize::try_from(told.ups_needed).unwrap_or(usize::MAX), genset)
    }

    fn ups(&mut self, id: &Id, device: Option<&Arc<DeviceView>>, now: Mono) -> UpsSight {
        let feed = device.map_or(Feed::Unknown, |ups| feed(ups, now));
        let on_battery_ms = if feed == Feed::Battery {
            now.since(*self.on_battery.entry(id.clone()).or_insert(now))
        } else {
            self.on_battery.remove(id);
            0
        };
        let number = |name: &str| device.and_then(|ups| number(ups, name, now));
        let dark = device.is_some_and(|ups| is_dark(ups, now));
        let gives = number("battery.current").is_some_and(|amperes| amperes < GIVES_AMPERES);
        let self_test = device.is_some_and(|ups| {
            flag(ups, "ups.status", "CAL", now)
                || text(ups, "ups.test.result", now).is_some_and(|said| said.contains("progress"))
        });
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let runtime_ms = number("battery.runtime").filter(|s| (0.0..1e9).contains(s)).map(|s| (s * 1_000.0) as u64);
        UpsSight { feed, on_battery_ms, self_test, confirmed: dark || gives, runtime_ms }
    }

    fn cooling(&mut self, told: &SitePolicy, devices: &Devices, now: Mono) -> bcp_core::site::Runway {
        let sensors: Vec<&Id> = told.cooling.iter().chain(&told.rooms).collect();
        self.rooms.retain(|id, kept| {
            kept.retain(|(at, _)| now.since(*at) <= cooling::WINDOW_MS);
            !kept.is_empty() || sensors.contains(&id)
        });
        let mut rooms = Vec::new();
        for id in sensors {
            let reading = devices.get(id).and_then(|device| {
                ROOM_POINTS.iter().find_map(|point| Some((number(device, point, now)?, device.received?)))
            });
            let kept = self.rooms.entry(id.clone()).or_default();
            if let Some((cel, _)) = reading
                && kept.back().is_none_or(|(at, _)| now.since(*at) >= SAMPLE_EVERY_MS)
            {
                kept.push_back((now, cel));
            }
            let samples: Vec<Sample> =
                kept.iter().map(|(at, cel)| Sample { age_ms: now.since(*at), cel: *cel }).collect();
            rooms.push(reading.and_then(|_| cooling::trend(&samples)));
        }
        let failed: Vec<Option<bool>> =
            told.cooling.iter().map(|id| devices.get(id).and_then(|unit| failed(unit, now))).collect();
        cooling::runway(&rooms, &failed, f64::from(told.too_hot))
    }

    fn pool(&mut self, id: &Id, pool: &PoolPolicy, site: Site, devices: &Devices, now: Mono) -> PoolWord {
        let follower = self.pools.entry((id.clone(), site)).or_default();
        follower.keep(|server| pool.all(site).any(|listed| listed == server));
        let mut word = PoolWord { load: pool.load.as_ref().map(|_| 0), ..PoolWord::default() };
        let reserve = pool.reserve.get(&site).map_or(&[][..], Vec::as_slice);
        for server in pool.all(site) {
            let device = devices.get(server);
            let glance = device.map_or(Glance::Unknown, |device| glance(device, now));
            let counted = follower.see(server, glance, now.0, pool.rise_ms, pool.fall_ms);
            let stands_by = reserve.contains(server);
            match counted {
                Glance::Up => word.up += 1,
                // A server that stands by is not there until it is up.
                Glance::Down | Glance::Silent | Glance::Unknown if stands_by => word.down += 1,
                Glance::Down => word.down += 1,
                Glance::Silent => word.silent += 1,
                Glance::Unknown => word.unknown += 1,
            }
            if counted == Glance::Up
                && let Some(point) = &pool.load
            {
                let carried = device.and_then(|device| number(device, point, now)).filter(|n| (0.0..1e15).contains(n));
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let carried = carried.map(|n| n.round() as u64);
                word.load = word.load.and_then(|sum| Some(sum.saturating_add(carried?)));
            }
        }
        word
    }
}

fn value<'a>(device: &'a DeviceView, name: &str, now: Mono) -> Option<&'a Value> {
    device.point(name)?.good_value(now, device.source)
}

fn number(device: &DeviceView, name: &str, now: Mono) -> Option<f64> {
    value(device, name, now).and_then(Value::as_num)
}

fn text<'a>(device: &'a DeviceView, name: &str, now: Mono) -> Option<&'a str> {
    value(device, name, now).and_then(Value::as_text)
}

fn flag(device: &DeviceView, name: &str, wanted: &str, now: Mono) -> bool {
    text(device, name, now).is_some_and(|flags| flags.split_whitespace().any(|flag| flag == wanted))
}

fn feed(ups: &DeviceView, now: Mono) -> Feed {
    if let Some(flags) = text(ups, "ups.status", now) {
        let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
        if has("OB") {
            return Feed::Battery;
        }
        if has("OL") || has("BYPASS") {
            return Feed::Mains;
        }
    }
    match text(ups, "output.source", now) {
        Some("battery") => Feed::Battery,
        Some("normal" | "bypass" | "booster" | "reducer") => Feed::Mains,
        _ => Feed::Unknown,
    }
}

/// Every phase that is measured has no voltage, and at least one is measured.
fn is_dark(ups: &DeviceView, now: Mono) -> bool {
    let is_input = |name: &str| name == "input.voltage" || (name.starts_with("input.l") && name.ends_with(".voltage"));
    let volts: Vec<f64> = ups
        .points
        .iter()
        .filter(|point| is_input(point.info.name.as_str()))
        .filter_map(|point| point.good_value(now, ups.source).and_then(Value::as_num))
        .collect();
    !volts.is_empty() && volts.iter().all(|volts| *volts < NO_VOLTS)
}

/// Whether a generator runs, or is about to.
fn runs(genset: &DeviceView, now: Mono) -> Option<bool> {
    if number(genset, "genset.speed", now).is_some_and(|speed| speed > 100.0) {
        return Some(true);
    }
    match text(genset, "genset.state", now) {
        Some("stopped" | "fault") => Some(false),
        Some(_) => Some(true),
        None => number(genset, "genset.speed", now).map(|_| false),
    }
}

/// Whether a cooling unit gives no cooling.
fn failed(unit: &DeviceView, now: Mono) -> Option<bool> {
    let mut known = false;
    for point in &unit.points {
        let name = point.info.name.as_str();
        let Some(said) = point.good_value(now, unit.source).and_then(Value::as_text) else { continue };
        let bad = match name {
            "airflow.failed" | "critical.alarm" => said == "yes",
            _ if name.starts_with("fan.") && name.ends_with(".state") => said == "off" || said == "failed",
            _ => continue,
        };
        known = true;
        if bad {
            return Some(true);
        }
    }
    known.then_some(false)
}

fn glance(device: &DeviceView, now: Mono) -> Glance {
    if device.kind() == "check" {
        return match text(device, "check.state", now) {
            Some("up" | "degraded") => Glance::Up,
            Some("down") => Glance::Down,
            _ => Glance::Unknown,
        };
    }
    match device.source {
        SourceState::Fresh if device.points.iter().any(|point| point.good_value(now, device.source).is_some()) => {
            Glance::Up
        }
        SourceState::Fresh | SourceState::BrokerAway => Glance::Unknown,
        SourceState::AgentLost | SourceState::AgentOffline | SourceState::AgentSilent => Glance::Silent,
    }
}

#[cfg(test)]
mod tests {
    use bcp_core::site::Runway;
    use bcp_core::time::Wall;
    use bcp_wire::{DeviceMeta, Quality};

    use super::super::view::{PointInfo, PointState};
    use super::*;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn device(name: &str, kind: &str, now: Mono, values: &[(&str, Value)]) -> (Id, Arc<DeviceView>) {
        let meta = serde_json::json!({ "v": 1, "i": 1, "device": name, "kind": kind, "points": [] });
        let mut points: Vec<PointState> = values
            .iter()
            .map(|(point, value)| PointState {
                info: Arc::new(PointInfo {
                    name: point.parse().unwrap(),
                    unit: String::new(),
                    interval_ms: 1_000,
                    source: None,
                }),
                value: Some(value.clone()),
                quality: Quality::Good,
                sampled: Wall(0),
                received: now,
            })
            .collect();
        points.sort_by(|one, other| one.info.name.as_str().cmp(other.info.name.as_str()));
        let view = DeviceView {
            id: id(name),
            site: Site::A,
            agent: id("gw-a"),
            source: SourceState::Fresh,
            meta: serde_json::from_value::<DeviceMeta>(meta).ok().map(Arc::new),
            points,
            gaps: Vec::new(),
            received: Some(now),
        };
        (id(name), Arc::new(view))
    }

    fn word(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn ups(name: &str, now: Mono, source: &str, volts: f64) -> (Id, Arc<DeviceView>) {
        let values = [
            ("output.source", word(source)),
            ("input.l1.voltage", Value::Num(volts)),
            ("battery.runtime", Value::Num(240.0)),
        ];
        device(name, "ups", now, &values)
    }

    fn policy() -> Policy {
        let told =
            SitePolicy { ups: vec![id("ups-a1"), id("ups-a2")], ups_needed: 1, too_hot: 35, ..SitePolicy::default() };
        let pool = PoolPolicy {
            servers: BTreeMap::from([(Site::A, vec![id("app-a1"), id("app-a2")])]),
            reserve: BTreeMap::from([(Site::A, vec![id("app-a3")])]),
            min: 2,
            rise_ms: 0,
            fall_ms: 2_000,
            each: 10,
            load: Some("requests.rate".to_owned()),
        };
        Policy {
            timing: bcp_core::policy::Timing::METRO,
            tickets: BTreeMap::new(),
            services: BTreeMap::new(),
            sites: BTreeMap::from([(Site::A, told)]),
            pools: BTreeMap::from([(id("app"), pool)]),
        }
    }

    fn look(watch: &mut SiteWatch, devices: &[(Id, Arc<DeviceView>)], now: Mono) -> SiteWord {
        let devices = devices.iter().cloned().collect();
        watch.look(&policy(), &devices, &[], now).remove(&Site::A).unwrap()
    }

    #[test]
    fn batteries_count_after_30_s_that_this_process_has_seen() {
        let mut watch = SiteWatch::default();
        let both =
            |now, source: &str, volts| vec![ups("ups-a1", now, source, volts), ups("ups-a2", now, source, volts)];
        let at = |watch: &mut SiteWatch, ms: u64, source: &str, volts| {
            look(watch, &both(Mono(ms), source, volts), Mono(ms)).power.unwrap()
        };
        assert_eq!(at(&mut watch, 1_000, "normal", 230.0), Runway::Endless);
        assert_eq!(at(&mut watch, 2_000, "battery", 0.0), Runway::Unknown);
        assert_eq!(at(&mut watch, 31_999, "battery", 0.0), Runway::Unknown);
        assert_eq!(at(&mut watch, 32_000, "battery", 0.0), Runway::Left { ms: 240_000 });
        let one = [ups("ups-a1", Mono(33_000), "battery", 0.0)];
        assert_eq!(look(&mut watch, &one, Mono(33_000)).power, Some(Runway::Unknown), "the other one is not heard");
        assert_eq!(at(&mut watch, 34_000, "normal", 230.0), Runway::Endless);
        assert_eq!(at(&mut watch, 35_000, "battery", 0.0), Runway::Unknown, "it begins anew");
        let old = both(Mono(35_000), "battery", 0.0);
        assert_eq!(look(&mut watch, &old, Mono(99_000)).power, Some(Runway::Unknown), "stale readings");
    }

    #[test]
    fn servers_are_counted_with_what_they_carry() {
        let mut watch = SiteWatch::default();
        let server = |name: &str, now, state: &str| {
            device(name, "check", now, &[("check.state", word(state)), ("requests.rate", Value::Num(7.4))])
        };
        let now = Mono(1_000);
        let seen = look(&mut watch, &[server("app-a1", now, "up"), server("app-a2", now, "degraded")], now);
        let word = seen.pools[&id("app")];
        assert_eq!(
            (word.up, word.down, word.unknown, word.load),
            (2, 1, 0, Some(14)),
            "the one that stands by is not up"
        );
        let now = Mono(3_000);
        let seen = look(&mut watch, &[server("app-a1", now, "down")], now).pools[&id("app")];
        assert_eq!((seen.up, seen.load), (2, None), "both still count, and one does not say what it carries");
        let now = Mono(5_000);
        let seen = look(&mut watch, &[server("app-a1", now, "down")], now).pools[&id("app")];
        assert_eq!((seen.up, seen.down, seen.unknown), (0, 2, 1));
    }
}
