//! Orders on a running fleet: links, processes, devices, services.

use std::time::{Duration, Instant};

use bcp_wire::Site;
use rustix::process::Signal;

use super::{COLLECTOR_PARTS, Fleet};
use crate::api::{Action, Done, LinkOrder, PublishOrder, Refusal, ServiceDone, ServiceOrder, TargetOrder};
use crate::devices::{self, Addressed};
use crate::front::Published;
use crate::link::{Direction, MAX_DELAY_MS, MAX_LOSS_PERCENT};
use crate::ports::Port;
use crate::reference::{self, SITES};
use crate::service::{Service, Want};
use crate::units::{self, Health, Unit};

/// A service that does not answer by then is not up; a step has 3 s.
const SERVICE_READY: Duration = Duration::from_millis(2_500);
/// How often the UPSs of the sites are looked at.
const POWER_EVERY: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(25);

impl Fleet {
    /// # Errors
    /// A delay beyond the bound, or a link of a site to itself.
    pub fn link(&self, order: &LinkOrder) -> Result<Done, Refusal> {
        let both = |from: Site, to: Site, one_way: bool| -> Result<Vec<Direction>, Refusal> {
            if from == to {
                return Err(Refusal::new("a link joins two sites", "as in `fleet cut a-b`"));
            }
            let there = Direction { from, to };
            Ok(if one_way { vec![there] } else { vec![there, there.back()] })
        };
        let message = match *order {
            LinkOrder::Cut { from, to, one_way } => {
                for direction in both(from, to, one_way)? {
                    self.links.set(direction, |way| way.cut = true);
                }
                if one_way {
                    format!("nothing gets from {from} to {to} any more; the other direction is open")
                } else {
                    format!("{from}-{to} is cut")
                }
            }
            LinkOrder::Heal { link: Some((from, to)) } => {
                for direction in both(from, to, false)? {
                    self.links.set(direction, |way| *way = crate::link::Way::default());
                }
                format!("{from}-{to} is open, without delay or loss")
            }
            LinkOrder::Heal { link: None } => {
                for (direction, _) in self.links.state() {
                    self.links.set(direction, |way| *way = crate::link::Way::default());
                }
                "all links are open, without delay or loss".to_owned()
            }
            LinkOrder::Delay { from, to, ms, jitter_ms, one_way } => {
                if ms.saturating_add(jitter_ms) > MAX_DELAY_MS {
                    return Err(Refusal::new(
                        format!("a delay of {ms} ms with jitter {jitter_ms} ms is too long"),
                        format!("at most {MAX_DELAY_MS} ms together; `fleet cut` stops a link"),
                    ));
                }
                for direction in both(from, to, one_way)? {
                    self.links.set(direction, |way| (way.delay_ms, way.jitter_ms) = (ms, jitter_ms));
                }
                format!("{from}-{to} takes {ms} ms per direction, and up to {jitter_ms} ms more")
            }
            LinkOrder::Lose { from, to, percent, one_way } => {
                if percent > MAX_LOSS_PERCENT {
                    return Err(Refusal::new(
                        format!("a loss of {percent} % is too much"),
                        format!("at most {MAX_LOSS_PERCENT} %; `fleet cut` stops a link"),
                    ));
                }
                for direction in both(from, to, one_way)? {
                    self.links.set(direction, |way| way.loss_percent = percent);
                }
                let far = if one_way { format!("from {from} to {to}") } else { format!("between {from} and {to}") };
                format!("{percent} % of the packets {far} are lost, and sent again after a while")
            }
        };
        tracing::info!("{message}");
        Ok(Done { message })
    }

    /// # Errors
    /// There is no such target, or it is not in a state for it.
    pub async fn target(&self, order: &TargetOrder) -> Result<Done, Refusal> {
        if let Some(ordered) = self.reference.order(&order.target, order.action) {
            return ordered.map(|message| Done { message });
        }
        let (site, part) = match order.target.split_once('/') {
            Some((site, part)) => (site, Some(part)),
            None => (order.target.as_str(), None),
        };
        let site: Site =
            site.parse().map_err(|_| Refusal::new(format!("no site `{}`", clip(site)), "sites are a, b and w"))?;
        let message = match part {
            None => self.whole_site(site, order.action).await?,
            Some(part) => self.one_process(site, part, order.action)?,
        };
        tracing::info!("{message}");
        Ok(Done { message })
    }

    async fn whole_site(&self, site: Site, action: Action) -> Result<String, Refusal> {
        Ok(match action {
            Action::Stop | Action::Hang => {
                let help = format!(
                    "a site can be killed or paused; as in `fleet stop {site}/collector`, `fleet hang {site}/prescriptions`"
                );
                return Err(Refusal::new("that is for one process", help));
            }
            Action::Kill => self.kill_site(site).await,
            Action::Start => {
                self.start_site(site);
                format!("site {site} is starting")
            }
            Action::Pause | Action::Resume => {
                let is_pause = action == Action::Pause;
                let mut count = 0;
                for (_, unit) in self.site_units(site) {
                    count += freeze(unit, is_pause);
                }
                if self.layout.reference.is_some() && SITES.contains(&site) {
                    let signal = if is_pause { Signal::STOP } else { Signal::CONT };
                    for pid in reference::processes(&self.layout, site) {
                        units::signal(pid, signal);
                        count += 1;
                    }
                }
                format!("site {site}: {count} processes {}", if is_pause { "stand still" } else { "go on" })
            }
        })
    }

    async fn kill_site(&self, site: Site) -> String {
        self.dark().insert(site);
        let roots: Vec<u32> = self.site_units(site).filter_map(|(_, unit)| unit.pid()).collect();
        let below = units::descendants(&roots);
        for (_, unit) in self.site_units(site) {
            unit.kill_and_stay_down();
        }
        below.iter().for_each(|pid| units::signal(*pid, Signal::KILL));
        // At once, for the power goes for all; and again when nobody is left who could start one.
        let servers = self.kill_reference(site);
        for (_, unit) in self.site_units(site) {
            unit.wait_down().await;
        }
        self.kill_reference(site);
        format!(
            "site {site} is dark: {} processes killed; `fleet start {site}` brings it back",
            roots.len() + below.len() + servers
        )
    }

    fn kill_reference(&self, site: Site) -> usize {
        let has_one = self.layout.reference.is_some() && SITES.contains(&site);
        if has_one { reference::kill(&self.layout, site) } else { 0 }
    }

    fn one_process(&self, site: Site, part: &str, action: Action) -> Result<String, Refusal> {
        let name = format!("{site}/{}", clip(part));
        if let Some(told) = self.hang(site, part, action) {
            return Ok(told);
        }
        if let Some((_, unit)) = self.site_units(site).find(|(name, _)| *name == part) {
            return match (action, unit.pid()) {
                (Action::Hang, _) => Err(Refusal::new(
                    format!("{name} has no steps"),
                    "there are a/prescriptions, b/prescriptions, a/patient-portal and b/patient-portal",
                )),
                (Action::Stop, _) => {
                    unit.kill_and_stay_down();
                    Ok(format!("{name} is down; `fleet start {name}` brings it back"))
                }
                (Action::Kill, Some(pid)) => {
                    units::signal(pid, Signal::KILL);
                    Ok(format!("{name} (process {pid}) was killed and will be restarted"))
                }
                (Action::Start, None) => {
                    unit.up(self.start_of(site, self.static_name(site, part)));
                    Ok(format!("{name} is starting"))
                }
                (Action::Start, Some(pid)) => Ok(format!("{name} runs already (process {pid})")),
                (Action::Pause | Action::Resume, Some(_)) => {
                    let is_pause = action == Action::Pause;
                    let count = freeze(unit, is_pause);
                    Ok(format!("{name}: {count} processes {}", if is_pause { "stand still" } else { "go on" }))
                }
                // A paused gate that holds its lock is killed by its warden; what comes up anew does not stand still.
                (Action::Kill | Action::Resume, None) if unit.process().state == Health::Restarting => {
                    Ok(format!("{name} has ended and is being restarted"))
                }
                (_, None) => Err(Refusal::new(format!("{name} is not running"), format!("`fleet start {site}`"))),
            };
        }
        if COLLECTOR_PARTS.contains(&part) {
            let found = self.collector_parts(site).into_iter().find(|(name, _)| name == part);
            let supervised = self.units.get(&(site, "collector")).is_some_and(|unit| unit.pid().is_some());
            let pid = match (found, action) {
                (Some((_, pid)), _) => pid,
                (None, Action::Kill | Action::Resume) if supervised => {
                    return Ok(format!("{name} has ended; its supervisor restarts it"));
                }
                (None, _) => {
                    return Err(Refusal::new(format!("{name} is not running"), format!("`fleet start {site}`")));
                }
            };
            let (signal, what) = match action {
                Action::Kill => (Signal::KILL, "was killed; its supervisor restarts it"),
                Action::Stop | Action::Hang => {
                    return Err(Refusal::new(
                        format!("{name} belongs to its supervisor, which would restart it"),
                        format!("`fleet stop {site}/collector`, or `fleet pause {name}`"),
                    ));
                }
                Action::Pause => (Signal::STOP, "stands still"),
                Action::Resume => (Signal::CONT, "goes on"),
                Action::Start => return Ok(format!("{name} runs already (process {pid})")),
            };
            units::signal(pid, signal);
            return Ok(format!("{name} (process {pid}) {what}"));
        }
        let mut known: Vec<String> = self.site_units(site).map(|(name, _)| format!("{site}/{name}")).collect();
        known.extend(COLLECTOR_PARTS.iter().map(|part| format!("{site}/{part}")));
        known.sort_unstable();
        known.dedup();
        Err(Refusal::new(format!("no process {name}"), format!("there are {}", known.join(" "))))
    }

    /// Lets steps of a demo service hang, or go on; none where that is not what was ordered.
    fn hang(&self, site: Site, part: &str, action: Action) -> Option<String> {
        let service: Service = part.parse().ok().filter(|_| site != Site::W)?;
        let mut hanging = self.hanging.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if action == Action::Hang {
            hanging.insert((service, site));
            return Some(format!("steps of {service} at {site} do not end; `fleet resume {site}/{service}` ends that"));
        }
        let did_hang = action == Action::Resume && hanging.remove(&(service, site));
        did_hang.then(|| format!("steps of {service} at {site} go on"))
    }

    /// Whoever asked has been killed by then: its gate gives a step 3 s.
    async fn while_hanging(&self, service: Service, site: Site) {
        let is_hanging =
            || self.hanging.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&(service, site));
        while is_hanging() {
            tokio::time::sleep(POLL).await;
        }
    }

    fn static_name(&self, site: Site, part: &str) -> &'static str {
        self.site_units(site).map(|(name, _)| name).find(|name| *name == part).unwrap_or("devices")
    }

    /// A site whose UPSs are empty is dark, until it is started again.
    pub(super) async fn watch_power(self: std::sync::Arc<Self>) {
        let mut every = tokio::time::interval(POWER_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            for site in Site::ALL {
                let url = format!("http://127.0.0.1:{}/power", self.layout.base.site(site, Port::Simulator));
                let Ok(answer) = self.http.get(url).send().await else { continue };
                if !self.dark().contains(&site) && answer.json().await.is_ok_and(|on: bool| !on) {
                    let said = self.kill_site(site).await;
                    tracing::warn!("the UPSs of site {site} are empty: {said}");
                }
            }
        }
    }

    /// # Errors
    /// No such device, or it refuses.
    pub async fn device(&self, order: &Addressed) -> Result<Done, Refusal> {
        let site = devices::site_of(&order.device).ok_or_else(|| {
            let known: Vec<String> = Site::ALL.into_iter().flat_map(devices::inventory).map(|spec| spec.id).collect();
            Refusal::new(format!("no device `{}`", clip(&order.device)), format!("there are {}", known.join(" ")))
        })?;
        let url = format!("http://127.0.0.1:{}/order", self.layout.base.site(site, Port::Simulator));
        let asked = self.http.post(url).json(order).send().await;
        let Ok(answer) = asked else {
            return Err(Refusal::new(
                format!("the devices of site {site} do not answer"),
                format!("`fleet start {site}` or `fleet resume {site}`"),
            ));
        };
        let is_done = answer.status().is_success();
        let text = answer.text().await.unwrap_or_default();
        if is_done {
            tracing::info!("{text}");
            Ok(Done { message: text })
        } else {
            Err(Refusal::new(text, "`fleet device --help` shows examples"))
        }
    }

    /// What an init system does for an actuator: stops a service for sure, or starts it as told and waits until it
    /// answers as that.
    ///
    /// # Errors
    /// The site is dark, or the service does not come up.
    pub async fn service(&self, order: &ServiceOrder) -> Result<ServiceDone, Refusal> {
        let ServiceOrder { service, site, want, epoch } = *order;
        let refused = |error: String| {
            Refusal::new(error, format!("see {}", self.layout.log(&format!("{site}/{service}")).display()))
        };
        if want != Want::Stopped {
            self.while_hanging(service, site).await;
        }
        let unit = self
            .units
            .get(&(site, service.as_str()))
            .ok_or_else(|| refused(format!("site {site} has no {service}")))?;
        let turn = self.turns.get(&(service, site)).ok_or_else(|| refused("no turn".to_owned()))?;
        let _turn = turn.lock().await;
        if self.dark().contains(&site) {
            return Err(refused(format!("site {site} is dark")));
        }
        if want == Want::Stopped {
            let was_already = unit.pid().is_none() && unit.process().state == Health::Down;
            unit.kill_and_stay_down();
            unit.wait_down().await;
            return Ok(ServiceDone { was_already });
        }
        let port = self.layout.base.site(site, service.port());
        // A standby of an older epoch is a standby all the same: it learns the epoch from the active copy.
        if want == Want::Standby && unit.pid().is_some() && self.health(port).await == Some(Want::Standby) {
            return Ok(ServiceDone { was_already: true });
        }
        let start = self.service_start(service, site, want, epoch);
        if unit.pid().is_some() && unit.is_wanted(&start) && self.health(port).await == Some(want) {
            return Ok(ServiceDone { was_already: true });
        }
        unit.kill_and_stay_down();
        unit.wait_down().await;
        unit.up(start);
        let begun = Instant::now();
        while begun.elapsed() < SERVICE_READY {
            if self.health(port).await == Some(want) {
                return Ok(ServiceDone { was_already: false });
            }
            tokio::time::sleep(POLL).await;
        }
        Err(refused(format!("{service} at {site} does not answer as {}", want.as_str())))
    }

    async fn health(&self, port: u16) -> Option<Want> {
        let answer = self.http.get(format!("http://127.0.0.1:{port}/health")).send().await.ok()?;
        match answer.text().await.ok()?.as_str() {
            "active" => Some(Want::Active),
            "standby" => Some(Want::Standby),
            _ => None,
        }
    }

    /// # Errors
    /// The route could not be kept.
    pub fn publish(&self, order: PublishOrder) -> Result<Published, Refusal> {
        let said = format!("{} is published under {} at {:?}", order.service, order.route.epoch, order.route.weights);
        let answer = self
            .doors
            .publish(order.service, order.route)
            .map_err(|fault| Refusal::new(fault.to_string(), "is the disk full?"))?;
        tracing::info!("{said}: {answer:?}");
        Ok(answer)
    }
}

pub(super) fn freeze(unit: &Unit, is_pause: bool) -> usize {
    let Some(pid) = unit.pid() else { return 0 };
    let mut all = vec![pid];
    all.extend(units::descendants(&[pid]));
    let signal = if is_pause { Signal::STOP } else { Signal::CONT };
    all.iter().for_each(|pid| units::signal(*pid, signal));
    unit.mark_paused(is_pause);
    all.len()
}

/// An error message never repeats more of what was typed.
fn clip(text: &str) -> String {
    text.chars().take(32).collect()
}
