//! One running fleet.
//!
//! Knows: its units, links, doors and visitor, and carries out orders on them.
//! Refuses to know: the command line.
//! Tasks: the order server, one per link listener and front door, the visitor, and one per unit.
//! Invariant: when [`Fleet::end`] returns, no process of the fleet is left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bcp_wire::{Epoch, Site};
use rustix::process::Signal;
use tokio::net::TcpListener;

use crate::api::{
    Action, Done, LinkOrder, LinkState, PublishOrder, Refusal, ServiceDone, ServiceOrder, Status, TargetOrder,
};
use crate::devices::{self, Addressed};
use crate::front::{Doors, Published};
use crate::layout::{Layout, LayoutError};
use crate::link::{Direction, Links, MAX_DELAY_MS};
use crate::ports::{Lane, Port, loopback};
use crate::service::{Service, Want};
use crate::units::{self, Health, Process, Start, Unit};
use crate::visitor::Visitor;

/// A service that does not answer by then is not up; a step has 3 s.
const SERVICE_READY: Duration = Duration::from_millis(2_500);
/// A console that is slower than this is asked another time.
const CONSOLE_TIMEOUT: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(25);
/// From the order to end to the end of every process.
const END_WITHIN: Duration = Duration::from_millis(4_500);
/// Children of a collector, which its own supervisor restarts.
const COLLECTOR_PARTS: [&str; 4] = ["decide", "serve", "mirror", "broker"];

/// Why a fleet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error("a fleet is already running on base port {base}")]
    Running { base: crate::ports::BasePort },
    #[error("port {port} ({what}) is taken by another program")]
    Port { port: u16, what: String },
    #[error("failed to listen on port {port}")]
    Listen {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to prepare {data_dir}")]
    Layout {
        data_dir: String,
        #[source]
        source: LayoutError,
    },
    #[error("failed to make an HTTP client")]
    Http(#[source] reqwest::Error),
}

/// All its parts.
#[derive(Debug)]
pub struct Fleet {
    layout: Layout,
    links: Arc<Links>,
    doors: Arc<Doors>,
    visitor: Arc<Visitor>,
    units: BTreeMap<(Site, &'static str), Arc<Unit>>,
    /// Sites that were killed and not started since.
    dark: Mutex<BTreeSet<Site>>,
    http: reqwest::Client,
    begun: Instant,
    ready_after: Mutex<Option<Duration>>,
    /// One order per service at a time: a late start must not overtake a stop.
    turns: BTreeMap<(Service, Site), tokio::sync::Mutex<()>>,
}

fn unit_names(site: Site, is_external_broker: bool) -> Vec<&'static str> {
    let mut names = Vec::new();
    if is_external_broker {
        names.push("broker");
    }
    names.extend(["devices", "collector", "gateway"]);
    if site != Site::W {
        names.extend(["prescriptions", "patient-portal", "warden"]);
    }
    names.push("host");
    names
}

async fn listen(port: u16) -> Result<TcpListener, UpError> {
    TcpListener::bind(loopback(port)).await.map_err(|source| UpError::Listen { port, source })
}

impl Fleet {
    /// Takes the fleet's own ports, writes the configurations and starts everything.
    ///
    /// # Errors
    /// Nothing is left running then.
    pub async fn up(layout: Layout, is_fresh: bool) -> Result<Arc<Fleet>, UpError> {
        let base = layout.base;
        let orders = match TcpListener::bind(loopback(base.fleet())).await {
            Ok(listener) => listener,
            Err(fault) if fault.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(match crate::api::Client::new(base) {
                    Ok(client) if client.status().await.is_ok() => UpError::Running { base },
                    _ => UpError::Port { port: base.fleet(), what: "orders to the fleet".to_owned() },
                });
            }
            Err(source) => return Err(UpError::Listen { port: base.fleet(), source }),
        };
        check_ports(&layout).await?;
        let fault = |source| UpError::Layout { data_dir: layout.data_dir.display().to_string(), source };
        if is_fresh {
            crate::layout::own_dir(&layout.data_dir).map_err(fault)?;
            let cleared = std::fs::remove_dir_all(&layout.data_dir);
            cleared.map_err(|source| fault(LayoutError::Io { path: layout.data_dir.clone(), source }))?;
        }
        layout.prepare().map_err(fault)?;
        let doors = Arc::new(Doors::open(&layout.data_dir));
        for service in Service::ALL {
            let listener = listen(base.front(service)).await?;
            tokio::spawn(Arc::clone(&doors).serve(listener, service, base));
        }
        let links = Arc::new(Links::default());
        for from in Site::ALL {
            for to in from.others() {
                for lane in Lane::ALL {
                    let listener = listen(base.link(from, to, lane)).await?;
                    let target = loopback(base.site(to, lane.port()));
                    tokio::spawn(Arc::clone(&links).serve(listener, Direction { from, to }, target));
                }
            }
        }
        let mut all = BTreeMap::new();
        for site in Site::ALL {
            for name in unit_names(site, layout.mosquitto.is_some()) {
                let full = format!("{site}/{name}");
                let log = layout.log(&full);
                all.insert((site, name), Unit::new(full, site, log));
            }
        }
        let http =
            reqwest::Client::builder().timeout(Duration::from_secs(1)).no_proxy().build().map_err(UpError::Http)?;
        let turns = Service::ALL
            .into_iter()
            .flat_map(|service| Site::ALL.map(|site| ((service, site), tokio::sync::Mutex::new(()))))
            .collect();
        let fleet = Arc::new(Fleet {
            layout,
            links,
            doors,
            visitor: Arc::default(),
            units: all,
            dark: Mutex::default(),
            http,
            begun: Instant::now(),
            ready_after: Mutex::default(),
            turns,
        });
        let app = crate::api::router(Arc::clone(&fleet));
        tokio::spawn(async move { axum::serve(orders, app).await });
        for site in Site::ALL {
            fleet.start_site(site);
        }
        fleet.visitor.start(base.front(Service::Prescriptions)).map_err(UpError::Http)?;
        Ok(fleet)
    }

    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What is not ready yet; empty when all is.
    pub async fn not_ready(&self) -> Vec<String> {
        let base = self.layout.base;
        let mut waiting = Vec::new();
        for site in Site::ALL {
            for (what, port, path) in [("console", Port::Console, "/readyz"), ("public page", Port::Public, "/healthz")]
            {
                if !self.answers(base.site(site, port), path).await {
                    waiting.push(format!("{what} of {site}"));
                }
            }
        }
        for service in Service::ALL {
            if !self.answers(base.front(service), "/health").await {
                waiting.push(format!("{service} for its users"));
            }
        }
        waiting
    }

    /// Notes how long it took.
    pub fn note_ready(&self) -> Duration {
        let took = self.begun.elapsed();
        if let Ok(mut ready) = self.ready_after.lock() {
            ready.get_or_insert(took);
        }
        took
    }

    async fn answers(&self, port: u16, path: &str) -> bool {
        let asked = self.http.get(format!("http://127.0.0.1:{port}{path}")).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    fn dark(&self) -> MutexGuard<'_, BTreeSet<Site>> {
        self.dark.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn site_units(&self, site: Site) -> impl Iterator<Item = (&'static str, &Arc<Unit>)> {
        self.units.iter().filter(move |((at, _), _)| *at == site).map(|((_, name), unit)| (*name, unit))
    }

    fn start_site(&self, site: Site) {
        self.dark().remove(&site);
        for (name, unit) in self.site_units(site) {
            if matches!(unit.process().state, Health::Down) {
                unit.up(self.start_of(site, name));
            }
        }
    }

    /// How a unit is started when its machine boots.
    fn start_of(&self, site: Site, name: &str) -> Start {
        let config = |what: &str| -> Vec<OsString> { vec!["--config".into(), self.layout.config(site, what).into()] };
        let own = |args: &[&str], rest: Vec<OsString>| Start {
            program: self.layout.executable.clone(),
            args: args.iter().map(OsString::from).chain(rest).collect(),
            env: vec![("BCP_SELF_ARGS".to_owned(), args[0].into())],
        };
        match name {
            "broker" => Start {
                program: self.layout.mosquitto.clone().unwrap_or_default(),
                args: vec!["-c".into(), self.layout.mosquitto_config(site).into()],
                env: Vec::new(),
            },
            "collector" => own(&["collector", "run"], config("collector")),
            "gateway" => own(&["agent", "run"], config("gateway")),
            "host" => own(&["agent", "run"], config("host")),
            "warden" => own(&["agent", "warden"], config("host")),
            "prescriptions" => self.service_start(Service::Prescriptions, site, Want::Standby, Epoch::NONE),
            "patient-portal" => self.service_start(Service::PatientPortal, site, Want::Active, Epoch::NONE),
            _ => own(
                &["devices"],
                vec!["--site".into(), site.as_str().into(), "--base-port".into(), self.layout.base.to_string().into()],
            ),
        }
    }

    fn service_start(&self, service: Service, site: Site, want: Want, epoch: Epoch) -> Start {
        let args: Vec<OsString> = vec![
            "service".into(),
            "--service".into(),
            service.as_str().into(),
            "--site".into(),
            site.as_str().into(),
            "--as".into(),
            want.as_str().into(),
            "--epoch".into(),
            epoch.to_string().into(),
            "--base-port".into(),
            self.layout.base.to_string().into(),
            "--data-dir".into(),
            self.layout.data_dir.clone().into(),
        ];
        Start { program: self.layout.executable.clone(), args, env: Vec::new() }
    }

    // --- orders ---

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
                format!("{from}-{to} is open, without delay")
            }
            LinkOrder::Heal { link: None } => {
                for (direction, _) in self.links.state() {
                    self.links.set(direction, |way| *way = crate::link::Way::default());
                }
                "all links are open, without delay".to_owned()
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
        };
        tracing::info!("{message}");
        Ok(Done { message })
    }

    /// # Errors
    /// There is no such target, or it is not in a state for it.
    pub async fn target(&self, order: &TargetOrder) -> Result<Done, Refusal> {
        let (site, part) = match order.target.split_once('/') {
            Some((site, part)) => (site, Some(part)),
            None => (order.target.as_str(), None),
        };
        let site: Site =
            site.parse().map_err(|_| Refusal::new(format!("no site `{}`", clip(site)), "sites are a, b and w"))?;
        let message = match part {
            None => self.whole_site(site, order.action).await,
            Some(part) => self.one_process(site, part, order.action)?,
        };
        tracing::info!("{message}");
        Ok(Done { message })
    }

    async fn whole_site(&self, site: Site, action: Action) -> String {
        match action {
            Action::Kill => {
                self.dark().insert(site);
                let roots: Vec<u32> = self.site_units(site).filter_map(|(_, unit)| unit.pid()).collect();
                let below = units::descendants(&roots);
                for (_, unit) in self.site_units(site) {
                    unit.kill_and_stay_down();
                }
                below.iter().for_each(|pid| units::signal(*pid, Signal::KILL));
                for (_, unit) in self.site_units(site) {
                    unit.wait_down().await;
                }
                format!(
                    "site {site} is dark: {} processes killed; `fleet start {site}` brings it back",
                    roots.len() + below.len()
                )
            }
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
                format!("site {site}: {count} processes {}", if is_pause { "stand still" } else { "go on" })
            }
        }
    }

    fn one_process(&self, site: Site, part: &str, action: Action) -> Result<String, Refusal> {
        let name = format!("{site}/{}", clip(part));
        if let Some((_, unit)) = self.site_units(site).find(|(name, _)| *name == part) {
            return match (action, unit.pid()) {
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
            let pid = self
                .collector_parts(site)
                .into_iter()
                .find(|(name, _)| name == part)
                .map(|(_, pid)| pid)
                .ok_or_else(|| Refusal::new(format!("{name} is not running"), format!("`fleet start {site}`")))?;
            let (signal, what) = match action {
                Action::Kill => (Signal::KILL, "was killed; its supervisor restarts it"),
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

    fn static_name(&self, site: Site, part: &str) -> &'static str {
        self.site_units(site).map(|(name, _)| name).find(|name| *name == part).unwrap_or("devices")
    }

    fn collector_parts(&self, site: Site) -> Vec<(String, u32)> {
        let root = self.units.get(&(site, "collector")).and_then(|unit| unit.pid());
        let below = root.map(|root| units::descendants(&[root])).unwrap_or_default();
        below
            .into_iter()
            .filter_map(|pid| {
                let arguments = units::arguments(pid);
                let part = COLLECTOR_PARTS.iter().find(|part| arguments.iter().any(|argument| argument == *part))?;
                Some(((*part).to_owned(), pid))
            })
            .collect()
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

    /// Tickets as the first console says that answers, the witness first: it is the last to go.
    async fn tickets(&self) -> Vec<serde_json::Value> {
        for site in [Site::W, Site::A, Site::B] {
            let url = format!("http://127.0.0.1:{}/api/v1/tickets", self.layout.base.site(site, Port::Console));
            let Ok(answer) = self.http.get(url).timeout(CONSOLE_TIMEOUT).send().await else { continue };
            let Ok(mut body) = answer.json::<serde_json::Value>().await else { continue };
            if let Some(serde_json::Value::Array(tickets)) = body.get_mut("tickets").map(serde_json::Value::take) {
                return tickets;
            }
        }
        Vec::new()
    }

    pub async fn status(&self) -> Status {
        let base = self.layout.base;
        let mut processes = Vec::new();
        for site in Site::ALL {
            for (_, unit) in self.site_units(site) {
                processes.push(unit.process());
            }
            for (part, pid) in self.collector_parts(site) {
                let is_paused = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
                    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
                });
                let state = if is_paused { Health::Paused } else { Health::Running };
                processes.push(Process { name: format!("{site}/{part}"), site, state, pid: Some(pid), restarts: 0 });
            }
        }
        let links = self
            .links
            .state()
            .into_iter()
            .map(|(direction, way)| LinkState {
                from: direction.from,
                to: direction.to,
                cut: way.cut,
                delay_ms: way.delay_ms,
                jitter_ms: way.jitter_ms,
            })
            .collect();
        let mut urls = BTreeMap::new();
        for site in Site::ALL {
            urls.insert(format!("{site} public page"), format!("http://127.0.0.1:{}/", base.site(site, Port::Public)));
            urls.insert(format!("{site} console"), format!("http://127.0.0.1:{}/", base.site(site, Port::Console)));
        }
        for service in Service::ALL {
            urls.insert(service.to_string(), format!("http://127.0.0.1:{}/", base.front(service)));
        }
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Status {
            base_port: base.number(),
            data_dir: self.layout.data_dir.display().to_string(),
            up_ms: ms(self.begun.elapsed()),
            ready_after_ms: self.ready_after.lock().ok().and_then(|ready| *ready).map(ms),
            processes,
            links,
            front: self.doors.routes(),
            visitor: self.visitor.seen(),
            tickets: self.tickets().await,
            urls,
        }
    }

    /// Ends every process; what does not go by itself is killed.
    pub async fn end(&self) {
        let roots: Vec<u32> = self.units.values().filter_map(|unit| unit.pid()).collect();
        let below = units::descendants(&roots);
        for unit in self.units.values() {
            unit.down();
        }
        let all_down = async {
            for unit in self.units.values() {
                unit.wait_down().await;
            }
        };
        if tokio::time::timeout(END_WITHIN, all_down).await.is_err() {
            for unit in self.units.values() {
                unit.kill_and_stay_down();
            }
        }
        // Children of a unit die with it; these are the ones that a paused or broken supervisor left behind.
        for pid in below.into_iter().chain(roots) {
            let is_ours = units::arguments(pid)
                .first()
                .is_some_and(|program| std::path::Path::new(program) == self.layout.executable);
            if is_ours {
                units::signal(pid, Signal::KILL);
            }
        }
    }
}

fn freeze(unit: &Unit, is_pause: bool) -> usize {
    let Some(pid) = unit.pid() else { return 0 };
    let mut all = vec![pid];
    all.extend(units::descendants(&[pid]));
    let signal = if is_pause { Signal::STOP } else { Signal::CONT };
    all.iter().for_each(|pid| units::signal(*pid, signal));
    unit.mark_paused(is_pause);
    all.len()
}

/// Names the first port that another program holds, before anything is started.
async fn check_ports(layout: &Layout) -> Result<(), UpError> {
    for site in Site::ALL {
        let mut ports = vec![
            (Port::Public, "public page"),
            (Port::Console, "console"),
            (Port::Control, "control"),
            (Port::Mqtt, "MQTT"),
            (Port::Gate, "gate"),
            (Port::Prescriptions, "prescriptions"),
            (Port::Portal, "patient-portal"),
            (Port::HostStatus, "host agent"),
            (Port::GatewayStatus, "gateway agent"),
            (Port::Simulator, "simulator"),
        ];
        ports.extend(devices::inventory(site).into_iter().map(|spec| (spec.port, "simulated device")));
        for (port, what) in ports {
            let port = layout.base.site(site, port);
            if TcpListener::bind(loopback(port)).await.is_err() {
                return Err(UpError::Port { port, what: format!("{what} of site {site}") });
            }
        }
    }
    Ok(())
}

/// An error message never repeats more of what was typed.
fn clip(text: &str) -> String {
    text.chars().take(32).collect()
}
