//! Simulated devices: real Modbus and SNMP servers on simple physics, that can be given faults.
//!
//! Knows: which devices stand at a site, what an event does to one. Refuses to know: agents and collectors; it is asked
//! like any device.
//! Tasks: one server per device, one that advances the physics, one that takes orders on the site's simulator port.
//! Invariant: a pinned point is served as pinned until it is cleared, whatever the physics do.

pub mod ber;
pub mod engine;
pub mod fault;
pub mod inventory;
pub mod map;
pub mod modbus;
pub mod physics;
mod readings;
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
use bcp_agent::source::snmp::usm::{AuthProtocol, PrivProtocol, Secret, User};
use engine::Engine;
use fault::{Fault, Server, Switch};
use inventory::profile_text;
pub use inventory::{Kind, Spec, inventory, site_of};
use map::{Map, SetError, Values};
use physics::{Hall, Output};
use readings::{ALARM_DESCR, ON_BATTERY, fixed_instances, readings};

/// How often the physics advance and sensors see something new.
const STEP: Duration = Duration::from_millis(250);
/// Community of the simulated agents; the real thing keeps it in a file.
pub const COMMUNITY: &str = "public";
/// User and password of version 3, SHA-256 and AES-128.
pub const USER: &str = "operator";
pub const PASSWORD: &str = "simulated-devices-only";

fn user() -> User {
    let secret = || Secret::new(PASSWORD);
    let (auth, privacy) = ((AuthProtocol::Sha256, secret()), (PrivProtocol::Aes128, secret()));
    User::new(USER.to_owned(), String::new(), Some(auth), Some(privacy))
}

/// An order to the simulator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    Set { point: String, value: String },
    Clear { point: Option<String> },
    Event { event: String },
    Fault { fault: String },
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
    #[error("{device} cannot have the fault {fault}; it can have {known}")]
    NoFault { device: String, fault: String, known: String },
}

#[derive(Debug)]
struct Device {
    spec: Spec,
    map: Map,
    pinned: Values,
    /// What is served now.
    values: Values,
    switch: Switch,
}

/// Charge of a battery that has got old, in %.
const WEAK_CHARGE: f64 = 35.0;

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
            devices.insert(
                spec.id.clone(),
                Device { spec, map, pinned: Values::new(), values: Values::new(), switch: Switch::default() },
            );
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
        if order.device.contains('*') {
            let named: Vec<String> =
                self.devices.keys().filter(|id| inventory::names(&order.device, id)).cloned().collect();
            if !named.is_empty() {
                let one = |device| self.order(&Addressed { device, order: order.order.clone() });
                return named.into_iter().map(one).collect::<Result<Vec<_>, _>>().map(|said| said.join("\n"));
            }
        }
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
                let fault = device.switch.clear().map(|fault| format!(", and it is no longer {fault}"));
                Ok(format!("{name}: {count} points are free again{}", fault.unwrap_or_default()))
            }
            Order::Fault { fault } => {
                let server = device.spec.server();
                let Some(fault) = Fault::of(fault, server) else {
                    let fault = fault.chars().take(32).collect();
                    return Err(OrderError::NoFault { device: name.clone(), fault, known: fault::known(server) });
                };
                device.switch.set(fault);
                Ok(match fault {
                    Fault::Reboot | Fault::ClockStep | Fault::EngineChange => format!("{name}: {fault} done"),
                    _ => format!("{name} is {fault}; `fleet device {name} clear` ends it"),
                })
            }
            Order::Event { event } => match (device.spec.kind, event.as_str()) {
                (Kind::Ups(n), "mains-fail" | "mains-back") => {
                    let back = event == "mains-back";
                    self.hall.upses[n].mains = back;
                    Ok(format!("{name}: {}", if back { "mains are back" } else { "mains have failed" }))
                }
                (Kind::Ups(n), "weak-battery") => {
                    self.hall.upses[n].charge = WEAK_CHARGE;
                    let minutes = (self.hall.upses[n].runtime_s() / 60.0).floor();
                    Ok(format!("{name}: the battery lasts for {minutes} min at this load"))
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
        let uptime_s = device.switch.condition().borrow().uptime_s();
        let mut tree = fixed_instances(&device.spec, self.hall.elapsed_s, uptime_s);
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
        let Some(condition) = lock(&simulator).devices.get(&spec.id).map(|device| device.switch.condition()) else {
            continue;
        };
        let framing = match spec.server() {
            Server::ModbusTcp => modbus::Framing::Tcp,
            Server::ModbusRtu => modbus::Framing::Rtu,
            Server::Snmp => {
                let socket = UdpSocket::bind(loopback(port)).await.map_err(fault)?;
                let engine = Engine::new(&spec.id, user());
                tokio::spawn(snmp::serve(socket, COMMUNITY, engine, move || lock(&shared).tree(&id), condition));
                continue;
            }
        };
        let listener = TcpListener::bind(loopback(port)).await.map_err(fault)?;
        tokio::spawn(modbus::serve(listener, framing, move || lock(&shared).image(&id), condition));
    }
    tokio::spawn(advance(Arc::clone(&simulator)));
    let port = base.site(site, Port::Simulator);
    let listener = TcpListener::bind(loopback(port)).await.map_err(|source| DevicesError::Listen {
        port,
        device: "orders".to_owned(),
        source,
    })?;
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/power", get(power))
        .route("/order", post(order))
        .with_state(simulator);
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

/// Whether any UPS of the site gives power.
async fn power(State(simulator): State<Shared>) -> Json<bool> {
    Json(lock(&simulator).hall.upses.iter().any(|ups| ups.output() != Output::Dead))
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
mod tests;
