//! One running fleet.
//!
//! Knows: its units, links, doors and visitor, and carries out orders on them.
//! Refuses to know: the command line.
//! Tasks: the order server, one per link listener and front door, the visitor, and one per unit.
//! Invariant: when [`Fleet::end`] returns, no process of the fleet is left.

pub mod application;
mod orders;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bcp_wire::{Epoch, Site};
use rustix::process::Signal;
use tokio::net::TcpListener;

use self::application::Reference;
use crate::devices;
use crate::front::Doors;
use crate::layout::{Layout, LayoutError};
use crate::link::{Direction, Links};
use crate::ports::{Lane, Port, loopback};
use crate::reference;
use crate::servers;
use crate::service::{Service, Want};
use crate::units::{self, Health, Start, Unit};
use crate::visitor::Visitor;

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
    reference: Reference,
    units: BTreeMap<(Site, &'static str), Arc<Unit>>,
    /// Sites that were killed and not started since.
    dark: Mutex<BTreeSet<Site>>,
    http: reqwest::Client,
    begun: Instant,
    ready_after: Mutex<Option<Duration>>,
    /// One order per service at a time: a late start must not overtake a stop.
    turns: BTreeMap<(Service, Site), tokio::sync::Mutex<()>>,
    /// Services whose steps do not end.
    hanging: Mutex<BTreeSet<(Service, Site)>>,
}

fn unit_names(site: Site, layout: &Layout) -> Vec<&'static str> {
    let mut names = Vec::new();
    if layout.mosquitto.is_some() {
        names.push("broker");
    }
    names.extend(["devices", "collector", "gateway"]);
    if site != Site::W {
        names.extend(["prescriptions", "patient-portal", "warden"]);
        if layout.reference.is_some() {
            names.push("registry-copy");
        }
        if layout.with_servers {
            names.extend(servers::UNITS);
        }
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
        if layout.reference.is_some() {
            reference::SITES.iter().for_each(|site| reference::end(&layout, *site));
        }
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
            for name in unit_names(site, &layout) {
                let full = format!("{site}/{name}");
                let log = layout.log(&full);
                all.insert((site, name), Unit::new(full, site, log));
            }
        }
        let reference = Reference::start(&layout)?;
        let http = bcp_identity::plain_http().timeout(Duration::from_secs(1)).build().map_err(UpError::Http)?;
        let turns = Service::ALL
            .into_iter()
            .flat_map(|service| Site::ALL.map(|site| ((service, site), tokio::sync::Mutex::new(()))))
            .collect();
        let fleet = Arc::new(Fleet {
            layout,
            links,
            doors,
            visitor: Arc::default(),
            reference,
            units: all,
            dark: Mutex::default(),
            http,
            begun: Instant::now(),
            ready_after: Mutex::default(),
            turns,
            hanging: Mutex::default(),
        });
        let app = crate::api::router(Arc::clone(&fleet));
        tokio::spawn(async move { axum::serve(orders, app).await });
        for site in Site::ALL {
            fleet.start_site(site);
        }
        tokio::spawn(Arc::clone(&fleet).watch_power());
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
        if self.reference.writer.as_ref().is_some_and(|writer| writer.seen().acknowledged == 0) {
            waiting.push(format!("{} for its writer", reference::NAME));
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
            if matches!(unit.process().state, Health::Down) && !servers::RESERVE.contains(&name) {
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
            user: None,
        };
        match name {
            "broker" => Start {
                program: self.layout.mosquitto.clone().unwrap_or_default(),
                args: vec!["-c".into(), self.layout.mosquitto_config(site).into()],
                env: Vec::new(),
                user: None,
            },
            "collector" => own(&["collector", "run"], config("collector")),
            "gateway" => own(&["agent", "run"], config("gateway")),
            _ if servers::UNITS.contains(&name) => own(&["agent", "run"], config(name)),
            "host" => own(&["agent", "run"], config("host")),
            "warden" => own(&["agent", "warden"], config("host")),
            "registry-copy" => {
                let ticket = [OsString::from("--ticket"), reference::NAME.into()];
                own(&["agent", "postgres-copy"], config("host").into_iter().chain(ticket).collect())
            }
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
        Start { program: self.layout.executable.clone(), args, env: Vec::new(), user: None }
    }

    async fn end_reference(&self) {
        if self.layout.reference.is_none() {
            return;
        }
        let layout = self.layout.clone();
        let ending = tokio::task::spawn_blocking(move || {
            reference::SITES.iter().for_each(|site| reference::end(&layout, *site));
        });
        // A panic in there is said by itself.
        let _ = ending.await;
    }

    /// Ends every process; what does not go by itself is killed.
    pub async fn end(&self) {
        let roots: Vec<u32> = self.units.values().filter_map(|unit| unit.pid()).collect();
        let below = units::descendants(&roots);
        if let Some(writer) = &self.reference.writer {
            writer.end();
        }
        for unit in self.units.values().chain(self.reference.units()) {
            unit.down();
        }
        let all_down = async {
            for unit in self.units.values().chain(self.reference.units()) {
                unit.wait_down().await;
            }
        };
        if tokio::time::timeout(END_WITHIN, all_down).await.is_err() {
            for unit in self.units.values().chain(self.reference.units()) {
                unit.kill_and_stay_down();
            }
        }
        // Nothing is left that would start one again.
        self.end_reference().await;
        self.reference.let_go();
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
        if layout.reference.is_some() {
            ports.extend([(Port::Postgres, "PostgreSQL"), (Port::PostgresCopy, "its sidecar")]);
        }
        ports.extend(devices::inventory(site).into_iter().map(|spec| (spec.port, "simulated device")));
        for (port, what) in ports {
            let port = layout.base.site(site, port);
            if TcpListener::bind(loopback(port)).await.is_err() {
                return Err(UpError::Port { port, what: format!("{what} of site {site}") });
            }
        }
    }
    let beside = [(layout.base.reference_door(), "HAProxy"), (layout.base.reference_name(), "BIND")];
    for (port, what) in beside.into_iter().filter(|_| layout.reference.is_some()) {
        if TcpListener::bind(loopback(port)).await.is_err() {
            return Err(UpError::Port { port, what: what.to_owned() });
        }
    }
    Ok(())
}
