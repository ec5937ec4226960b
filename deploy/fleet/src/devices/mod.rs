//! Simulated devices: real Modbus TCP and SNMP servers on simple physics.
//!
//! Knows: which devices stand at a site, what an event does to one. Refuses to know: agents and collectors; it is asked
//! like any device.
//! Tasks: one server per device, one that advances the physics, one that takes orders on the site's simulator port.
//! Invariant: a pinned point is served as pinned until it is cleared, whatever the physics do.

pub mod ber;
pub mod map;
pub mod modbus;
pub mod physics;
pub mod snmp;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bcp_wire::Site;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};

use crate::ports::{BasePort, Port, loopback};
use map::{Map, PointValue, SetError, Values};
use physics::{Hall, Output};

/// How often the physics advance and sensors see something new.
const STEP: Duration = Duration::from_millis(250);
/// Community of the simulated agents; the real thing keeps it in a file.
pub const COMMUNITY: &str = "public";

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Number of the unit within its hall.
    Crac(usize),
    Ups(usize),
    Meter,
    Storage,
}

/// One simulated device.
#[derive(Debug, Clone)]
pub struct Spec {
    pub id: String,
    pub kind: Kind,
    pub profile: &'static str,
    pub port: Port,
    pub location: String,
    /// What feeds it, in the topology.
    pub parent: Option<String>,
}

impl Spec {
    /// Kind as the contract names it.
    #[must_use]
    pub const fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Crac(_) => "crac",
            Kind::Ups(_) => "ups",
            Kind::Meter => "meter",
            Kind::Storage => "host",
        }
    }

    const fn events(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Crac(_) => &["stop", "start"],
            Kind::Ups(_) => &["mains-fail", "mains-back"],
            Kind::Meter | Kind::Storage => &[],
        }
    }
}

fn profile_text(profile: &str) -> &'static str {
    match profile {
        "ietf/ups-mib" => include_str!("../../../../firmware-configs/ietf/ups-mib.toml"),
        "airedale/pco-cooler" => include_str!("../../../../firmware-configs/airedale/pco-cooler.toml"),
        "eastron/sdm630" => include_str!("../../../../firmware-configs/eastron/sdm630.toml"),
        "schneider/iem3000" => include_str!("../../../../firmware-configs/schneider/iem3000.toml"),
        "net-snmp/host" => include_str!("../../../../firmware-configs/net-snmp/host.toml"),
        _ => "",
    }
}

/// The devices of a site.
#[must_use]
pub fn inventory(site: Site) -> Vec<Spec> {
    let (upses, cracs, hall) = match site {
        Site::A => (2, 2, "a/hall1"),
        Site::B => (2, 2, "b/hall1"),
        Site::W => (1, 1, "w/room"),
    };
    let meter = format!("meter-{site}1");
    let mut all = Vec::new();
    for n in 0..cracs {
        all.push(Spec {
            id: format!("crac-{site}{}", n + 1),
            kind: Kind::Crac(usize::from(n)),
            profile: "airedale/pco-cooler",
            port: Port::Device(n),
            location: hall.to_owned(),
            parent: None,
        });
    }
    all.push(Spec {
        id: meter.clone(),
        kind: Kind::Meter,
        profile: if matches!(site, Site::B) { "schneider/iem3000" } else { "eastron/sdm630" },
        port: Port::Device(5),
        location: hall.to_owned(),
        parent: None,
    });
    for n in 0..upses {
        all.push(Spec {
            id: format!("ups-{site}{}", n + 1),
            kind: Kind::Ups(usize::from(n)),
            profile: "ietf/ups-mib",
            port: Port::Device(10 + n),
            location: hall.to_owned(),
            parent: Some(meter.clone()),
        });
    }
    all.push(Spec {
        id: format!("nas-{site}1"),
        kind: Kind::Storage,
        profile: "net-snmp/host",
        port: Port::Device(15),
        location: hall.to_owned(),
        parent: Some(format!("ups-{site}1")),
    });
    all
}

/// The site a device stands at, by its name.
#[must_use]
pub fn site_of(device: &str) -> Option<Site> {
    Site::ALL.into_iter().find(|site| inventory(*site).iter().any(|spec| spec.id == device))
}

/// An order to the simulator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    Set { point: String, value: String },
    Clear { point: Option<String> },
    Event { event: String },
}

/// An order and whom it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Addressed {
    pub device: String,
    #[serde(flatten)]
    pub order: Order,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("no device {device} at site {site}; there are {known}")]
    NoDevice { device: String, site: Site, known: String },
    #[error("{device}: {fault}")]
    Set { device: String, fault: SetError },
    #[error("{device} knows no event {event}; it knows {known}")]
    NoEvent { device: String, event: String, known: String },
}

#[derive(Debug)]
struct Device {
    spec: Spec,
    map: Map,
    pinned: Values,
    /// What is served now.
    values: Values,
}

/// Everything that is simulated at one site.
#[derive(Debug)]
pub struct Simulator {
    site: Site,
    hall: Hall,
    devices: BTreeMap<String, Device>,
}

impl Simulator {
    /// # Errors
    /// A profile says something that cannot be served.
    pub fn new(site: Site) -> Result<Simulator, map::MapError> {
        let hall = match site {
            Site::A | Site::B => Hall::new(24_000.0, 2, 20_000.0, 2, 20_000.0),
            Site::W => Hall::new(3_000.0, 1, 5_000.0, 1, 5_000.0),
        };
        let mut devices = BTreeMap::new();
        for spec in inventory(site) {
            let map = Map::read(spec.profile, profile_text(spec.profile))?;
            devices.insert(spec.id.clone(), Device { spec, map, pinned: Values::new(), values: Values::new() });
        }
        let mut simulator = Simulator { site, hall, devices };
        simulator.step(0.0, &mut |_| 0.0);
        Ok(simulator)
    }

    /// Advances the physics and takes new readings; `noise(size)` is what sensors add.
    pub fn step(&mut self, dt_s: f64, noise: &mut impl FnMut(f64) -> f64) {
        self.hall.step(dt_s);
        for device in self.devices.values_mut() {
            device.values = readings(device.spec.kind, &self.hall, noise);
            device.values.extend(device.pinned.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
    }

    /// # Errors
    /// Says what there is instead.
    pub fn order(&mut self, order: &Addressed) -> Result<String, OrderError> {
        if !self.devices.contains_key(&order.device) {
            let device = order.device.chars().take(32).collect();
            let known = self.devices.keys().cloned().collect::<Vec<_>>().join(" ");
            return Err(OrderError::NoDevice { device, site: self.site, known });
        }
        let device = self.devices.get_mut(&order.device).expect("its key was found just above");
        let name = &order.device;
        match &order.order {
            Order::Set { point, value } => {
                let value =
                    device.map.parse(point, value).map_err(|fault| OrderError::Set { device: name.clone(), fault })?;
                device.values.insert(point.clone(), value.clone());
                device.pinned.insert(point.clone(), value);
                Ok(format!("{name} {point} is pinned; `fleet device {name} clear {point}` lets it go"))
            }
            Order::Clear { point: Some(point) } => {
                let was = device.pinned.remove(point).is_some();
                Ok(format!("{name} {point} {}", if was { "is free again" } else { "was not pinned" }))
            }
            Order::Clear { point: None } => {
                let count = device.pinned.len();
                device.pinned.clear();
                Ok(format!("{name}: {count} points are free again"))
            }
            Order::Event { event } => match (device.spec.kind, event.as_str()) {
                (Kind::Ups(n), "mains-fail" | "mains-back") => {
                    let back = event == "mains-back";
                    self.hall.upses[n].mains = back;
                    Ok(format!("{name}: {}", if back { "mains are back" } else { "mains have failed" }))
                }
                (Kind::Crac(n), "stop" | "start") => {
                    let on = event == "start";
                    self.hall.cracs[n].on = on;
                    Ok(format!("{name}: {}", if on { "started" } else { "stopped" }))
                }
                _ => {
                    let known = match device.spec.events() {
                        [] => "none".to_owned(),
                        events => events.join(" "),
                    };
                    let event = event.chars().take(32).collect();
                    Err(OrderError::NoEvent { device: name.clone(), event, known })
                }
            },
        }
    }

    fn image(&self, device: &str) -> modbus::Image {
        self.devices.get(device).map(|device| device.map.image(&device.values)).unwrap_or_default()
    }

    fn tree(&self, device: &str) -> snmp::Tree {
        let Some(device) = self.devices.get(device) else { return snmp::Tree::new() };
        let mut tree = fixed_instances(&device.spec, self.hall.elapsed_s);
        if let Kind::Ups(n) = device.spec.kind
            && self.hall.upses[n].output() == Output::Battery
        {
            // upsAlarmTable: one row, upsAlarmOnBattery.
            tree.insert(ALARM_DESCR.to_vec(), ber::Value::Oid(ON_BATTERY.to_vec()));
        }
        device.map.tree(&device.values, &mut tree);
        tree
    }
}

fn readings(kind: Kind, hall: &Hall, noise: &mut impl FnMut(f64) -> f64) -> Values {
    let mut values = Values::new();
    let mut num = |name: &str, value: f64| drop(values.insert(name.to_owned(), PointValue::Num(value)));
    match kind {
        Kind::Ups(n) => ups_readings(&hall.upses[n], &mut num, noise),
        Kind::Crac(n) => crac_readings(&hall.cracs[n], hall.room, &mut num, noise),
        Kind::Meter => meter_readings(hall, &mut num, noise),
        Kind::Storage => storage_readings(hall, &mut num, noise),
    }
    let mut word = |name: &str, value: &str| drop(values.insert(name.to_owned(), PointValue::Word(value.to_owned())));
    match kind {
        Kind::Ups(n) => {
            let ups = &hall.upses[n];
            let source = match ups.output() {
                Output::Mains => "normal",
                Output::Battery => "battery",
                Output::Dead => "none",
            };
            word("output.source", source);
            let battery = match (ups.charge <= 0.0, ups.is_low()) {
                (true, _) => "depleted",
                (false, true) => "low",
                (false, false) => "normal",
            };
            word("battery.status", battery);
        }
        Kind::Crac(n) => {
            let fans = if hall.cracs[n].on { "on" } else { "off" };
            for fan in 1..=4 {
                word(&format!("fan.{fan}.state"), fans);
            }
            word("leak.1.state", "dry");
            word("airflow.failed", "no");
            word("critical.alarm", "no");
        }
        Kind::Meter | Kind::Storage => {}
    }
    values
}

fn ups_readings(ups: &physics::Ups, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    let volts_in = physics::input_voltage(ups);
    let volts_out = if ups.output() == Output::Dead { 0.0 } else { 230.0 };
    let per_line = ups.load_w / 3.0;
    num("battery.charge", ups.charge);
    // UPS-MIB counts whole minutes that are left: never more than there are.
    num("battery.runtime", (ups.runtime_s() / 60.0).floor() * 60.0);
    num("battery.ontime", ups.on_battery_s.floor());
    num("battery.voltage", 200.0 + 18.0 * ups.charge / 100.0 + noise(0.1));
    let current = match ups.output() {
        Output::Battery => -ups.load_w / 210.0,
        Output::Mains if ups.charge < 100.0 => 5.0,
        Output::Mains | Output::Dead => 0.0,
    };
    num("battery.current", current);
    num("battery.temperature", 23.0 + noise(0.2));
    for line in 1..=3 {
        let jitter = if ups.mains { noise(1.5) } else { 0.0 };
        num(&format!("input.l{line}.voltage"), volts_in + jitter);
        num(&format!("input.l{line}.frequency"), if ups.mains { 50.0 + noise(0.03) } else { 0.0 });
        num(&format!("input.l{line}.current"), if ups.mains { per_line / 0.95 / 230.0 } else { 0.0 });
        num(&format!("input.l{line}.realpower"), if ups.mains { per_line / 0.95 } else { 0.0 });
        num(&format!("output.l{line}.voltage"), volts_out);
        num(&format!("output.l{line}.current"), if volts_out > 0.0 { per_line / 230.0 } else { 0.0 });
        num(&format!("output.l{line}.realpower"), per_line + if per_line > 0.0 { noise(15.0) } else { 0.0 });
        num(&format!("output.l{line}.load"), ups.load_percent());
        num(&format!("bypass.l{line}.voltage"), volts_in + jitter);
        num(&format!("bypass.l{line}.current"), 0.0);
        num(&format!("bypass.l{line}.realpower"), 0.0);
    }
    num("alarms.present", if ups.output() == Output::Battery { 1.0 } else { 0.0 });
    num("output.frequency", if volts_out > 0.0 { 50.0 } else { 0.0 });
    num("bypass.frequency", if ups.mains { 50.0 } else { 0.0 });
}

fn crac_readings(crac: &physics::Crac, room: f64, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    num("supply.air.temperature", crac.supply + noise(0.1));
    num("return.air.temperature", room + noise(0.1));
    num("return.air.humidity", 45.0 + noise(0.5));
    num("supply.air.setpoint", 18.0);
    num("fan.1.speed", crac.fan_percent());
    num("valve.1.position", if crac.on { 100.0 * crac.output } else { 0.0 });
    num("water.supply.temperature", 9.0 + noise(0.1));
}

fn meter_readings(hall: &Hall, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    let total = hall.mains_w() * (1.0 + noise(0.005));
    let factor = 0.96;
    for line in 1..=3 {
        let volts = 230.0 + noise(1.0);
        num(&format!("meter.l{line}.voltage"), volts);
        num(&format!("meter.l{line}.current"), total / 3.0 / volts / factor);
        num(&format!("meter.l{line}.realpower"), total / 3.0);
        num(&format!("meter.l{line}.powerfactor"), factor);
    }
    num("meter.realpower", total);
    num("meter.power", total / factor);
    num("meter.reactivepower", total / factor * 0.28);
    num("meter.powerfactor", factor);
    num("meter.frequency", 50.0 + noise(0.02));
    num("meter.energy.import", hall.energy_wh);
    num("meter.energy.export", 0.0);
}

fn storage_readings(hall: &Hall, num: &mut impl FnMut(&str, f64), noise: &mut impl FnMut(f64) -> f64) {
    const GIB: f64 = 1_073_741_824.0;
    for window in ["1m", "5m", "15m"] {
        num(&format!("host.load.{window}"), 0.6 + noise(0.2));
    }
    num("host.cpu.used", 12.0 + noise(4.0));
    num("host.memory.total", 16.0 * GIB);
    num("host.memory.available", 9.0 * GIB + noise(0.1) * GIB);
    num("host.swap.total", 4.0 * GIB);
    num("swap.available", 4.0 * GIB);
    num("host.uptime", 864_000.0 + hall.elapsed_s);
    num("host.processes", 143.0 + noise(2.0));
}

/// upsAlarmDescr.1 and what it says of a UPS on battery (RFC 1628).
const ALARM_DESCR: [u32; 13] = [1, 3, 6, 1, 2, 1, 33, 1, 6, 2, 1, 2, 1];
const ON_BATTERY: [u32; 11] = [1, 3, 6, 1, 2, 1, 33, 1, 6, 3, 2];

/// What a device says about itself, and the tables of a storage host.
fn fixed_instances(spec: &Spec, elapsed_s: f64) -> snmp::Tree {
    use ber::Value;
    let text = |text: &str| Value::Text(text.as_bytes().to_vec());
    let whole = |number: f64| -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = number.max(0.0) as u64;
        whole
    };
    let ticks = Value::TimeTicks(u32::try_from(whole(elapsed_s * 100.0)).unwrap_or(u32::MAX));
    let mut rows: Vec<(&str, Value)> = vec![("1.3.6.1.2.1.1.3.0", ticks), ("1.3.6.1.2.1.1.5.0", text(&spec.id))];
    match spec.kind {
        Kind::Ups(_) => rows.extend([
            ("1.3.6.1.2.1.1.1.0", text("bcp-fleet simulated UPS, 20 kVA")),
            ("1.3.6.1.2.1.1.2.0", Value::Oid(vec![1, 3, 6, 1, 2, 1, 33])),
            ("1.3.6.1.2.1.33.1.1.1.0", text("bcp-fleet")),
            ("1.3.6.1.2.1.33.1.1.2.0", text("sim-20")),
            ("1.3.6.1.2.1.33.1.1.3.0", text("1.0")),
            ("1.3.6.1.2.1.33.1.1.4.0", text("sim 1.0")),
            ("1.3.6.1.2.1.33.1.3.2.0", Value::Integer(3)),
            ("1.3.6.1.2.1.33.1.4.3.0", Value::Integer(3)),
            ("1.3.6.1.2.1.33.1.5.2.0", Value::Integer(3)),
        ]),
        Kind::Storage => {
            let rx = whole(5e9 + elapsed_s * 1.2e6);
            let tx = whole(2e9 + elapsed_s * 4e5);
            rows.extend([
                ("1.3.6.1.2.1.1.1.0", text("Linux simulated storage host 6.1.0")),
                ("1.3.6.1.2.1.1.2.0", Value::Oid(vec![1, 3, 6, 1, 4, 1, 8072, 3, 2, 10])),
                // hrStorageTable: memory, and two file systems of 4 KiB blocks.
                ("1.3.6.1.2.1.25.2.3.1.1.1", Value::Integer(1)),
                ("1.3.6.1.2.1.25.2.3.1.1.31", Value::Integer(31)),
                ("1.3.6.1.2.1.25.2.3.1.1.36", Value::Integer(36)),
                ("1.3.6.1.2.1.25.2.3.1.2.1", Value::Oid(vec![1, 3, 6, 1, 2, 1, 25, 2, 1, 2])),
                ("1.3.6.1.2.1.25.2.3.1.2.31", Value::Oid(vec![1, 3, 6, 1, 2, 1, 25, 2, 1, 4])),
                ("1.3.6.1.2.1.25.2.3.1.2.36", Value::Oid(vec![1, 3, 6, 1, 2, 1, 25, 2, 1, 4])),
                ("1.3.6.1.2.1.25.2.3.1.3.1", text("Physical memory")),
                ("1.3.6.1.2.1.25.2.3.1.3.31", text("/")),
                ("1.3.6.1.2.1.25.2.3.1.3.36", text("/srv")),
                ("1.3.6.1.2.1.25.2.3.1.4.1", Value::Integer(1024)),
                ("1.3.6.1.2.1.25.2.3.1.4.31", Value::Integer(4096)),
                ("1.3.6.1.2.1.25.2.3.1.4.36", Value::Integer(4096)),
                ("1.3.6.1.2.1.25.2.3.1.5.1", Value::Integer(16_777_216)),
                ("1.3.6.1.2.1.25.2.3.1.5.31", Value::Integer(12_206_592)),
                ("1.3.6.1.2.1.25.2.3.1.5.36", Value::Integer(488_263_680)),
                ("1.3.6.1.2.1.25.2.3.1.6.1", Value::Integer(7_340_032)),
                ("1.3.6.1.2.1.25.2.3.1.6.31", Value::Integer(3_051_648)),
                ("1.3.6.1.2.1.25.2.3.1.6.36", Value::Integer(213_615_360)),
                // ifXTable
                ("1.3.6.1.2.1.31.1.1.1.1.1", text("lo")),
                ("1.3.6.1.2.1.31.1.1.1.1.2", text("eth0")),
                ("1.3.6.1.2.1.31.1.1.1.6.1", Value::Counter64(81_920)),
                ("1.3.6.1.2.1.31.1.1.1.6.2", Value::Counter64(rx)),
                ("1.3.6.1.2.1.31.1.1.1.10.1", Value::Counter64(81_920)),
                ("1.3.6.1.2.1.31.1.1.1.10.2", Value::Counter64(tx)),
            ]);
        }
        Kind::Crac(_) | Kind::Meter => {}
    }
    rows.into_iter().filter_map(|(name, value)| Some((ber::parse_oid(name)?, value))).collect()
}

/// Why the simulated devices of a site cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    #[error("failed to read a profile")]
    Profile(#[from] map::MapError),
    #[error("failed to listen on port {port} for {device}")]
    Listen {
        port: u16,
        device: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to serve orders")]
    Serve(#[source] std::io::Error),
}

type Shared = Arc<Mutex<Simulator>>;

fn lock(simulator: &Shared) -> MutexGuard<'_, Simulator> {
    simulator.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Serves the devices of a site until SIGTERM.
///
/// # Errors
/// A port is taken or a profile cannot be served.
pub async fn run(site: Site, base: BasePort) -> Result<(), DevicesError> {
    let simulator = Arc::new(Mutex::new(Simulator::new(site)?));
    for spec in inventory(site) {
        let port = base.site(site, spec.port);
        let fault = |source| DevicesError::Listen { port, device: spec.id.clone(), source };
        let (shared, id) = (Arc::clone(&simulator), spec.id.clone());
        let is_modbus = lock(&simulator).devices.get(&spec.id).is_some_and(|device| device.map.is_modbus());
        if is_modbus {
            let listener = TcpListener::bind(loopback(port)).await.map_err(fault)?;
            tokio::spawn(modbus::serve(listener, move || lock(&shared).image(&id)));
        } else {
            let socket = UdpSocket::bind(loopback(port)).await.map_err(fault)?;
            tokio::spawn(snmp::serve(socket, COMMUNITY.to_owned(), move || lock(&shared).tree(&id)));
        }
    }
    tokio::spawn(advance(Arc::clone(&simulator)));
    let port = base.site(site, Port::Simulator);
    let listener = TcpListener::bind(loopback(port)).await.map_err(|source| DevicesError::Listen {
        port,
        device: "orders".to_owned(),
        source,
    })?;
    let app =
        Router::new().route("/healthz", get(|| async { "ok" })).route("/order", post(order)).with_state(simulator);
    axum::serve(listener, app).with_graceful_shutdown(crate::signals::stop()).await.map_err(DevicesError::Serve)
}

async fn advance(simulator: Shared) {
    let mut last = tokio::time::Instant::now();
    let mut every = tokio::time::interval(STEP);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let now = tokio::time::Instant::now();
        let dt_s = (now - last).as_secs_f64();
        last = now;
        let mut rng = rand::rng();
        lock(&simulator).step(dt_s, &mut |size| rng.random_range(-size..=size));
    }
}

async fn order(State(simulator): State<Shared>, Json(order): Json<Addressed>) -> Response {
    let mut simulator = lock(&simulator);
    match simulator.order(&order) {
        Ok(done) => {
            // What was ordered is what the next request reads.
            simulator.step(0.0, &mut |_| 0.0);
            done.into_response()
        }
        Err(fault) => (StatusCode::UNPROCESSABLE_ENTITY, fault.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(simulator: &mut Simulator, device: &str, order: Order) -> Result<String, OrderError> {
        simulator.order(&Addressed { device: device.to_owned(), order })
    }

    #[test]
    fn every_point_of_every_profile_is_served() {
        let mut count = 0;
        for site in Site::ALL {
            let simulator = Simulator::new(site).unwrap();
            for (id, device) in &simulator.devices {
                let missing: Vec<&str> = device.map.names().filter(|name| !device.values.contains_key(*name)).collect();
                assert_eq!(missing, Vec::<&str>::new(), "{id}");
                if device.map.is_modbus() {
                    assert_ne!(simulator.image(id), modbus::Image::default());
                }
                count += 1;
            }
        }
        assert!(count >= 12, "{count} devices");
    }

    #[test]
    fn mains_failure_shows_in_the_mib_and_a_pin_outlives_the_physics() {
        let mut simulator = Simulator::new(Site::A).unwrap();
        let read = |simulator: &Simulator, oid: &str| {
            simulator.tree("ups-a1").get(&ber::parse_oid(oid).unwrap()).cloned().unwrap()
        };
        let (source, charge) = ("1.3.6.1.2.1.33.1.4.1.0", "1.3.6.1.2.1.33.1.2.4.0");
        assert_eq!(read(&simulator, source), ber::Value::Integer(3));
        order(&mut simulator, "ups-a1", Order::Event { event: "mains-fail".into() }).unwrap();
        simulator.step(60.0, &mut |_| 0.0);
        assert_eq!(read(&simulator, source), ber::Value::Integer(5));
        assert!(matches!(read(&simulator, charge), ber::Value::Integer(80..=99)));
        let pin = Order::Set { point: "battery.charge".into(), value: "42".into() };
        order(&mut simulator, "ups-a1", pin).unwrap();
        simulator.step(60.0, &mut |_| 0.0);
        assert_eq!(read(&simulator, charge), ber::Value::Integer(42));
        order(&mut simulator, "ups-a1", Order::Clear { point: None }).unwrap();
        simulator.step(1.0, &mut |_| 0.0);
        assert_ne!(read(&simulator, charge), ber::Value::Integer(42));
        let wrong = order(&mut simulator, "ups-a1", Order::Event { event: "stop".into() });
        assert_eq!(wrong.unwrap_err().to_string(), "ups-a1 knows no event stop; it knows mains-fail mains-back");
        assert!(order(&mut simulator, "ups-b1", Order::Clear { point: None }).is_err());
    }
}
