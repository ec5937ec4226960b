//! Traps and informs: what devices say by themselves.
//!
//! | module | knows |
//! |---|---|
//! | [`config`] | the `[traps]` section |
//! | [`limit`] | how much one sender may say |
//! | [`notification`] | what was said, whatever the version |
//! | [`desk`] | whose it is, whether to believe it, what it means |
//! | [`authority`] | our own engine, for informs of version 3 |
//!
//! Here: the socket, and what follows. A notification becomes an event on the device's own lane and a poll of the
//! device at once; it never becomes a reading. An inform is answered once its event is on its way.
//!
//! Tasks: one, which ends at shutdown between two datagrams. Queue: the socket's; what does not fit there the sender
//! repeats (inform) or loses (trap).

pub mod authority;
pub mod config;
pub mod desk;
pub mod limit;
pub mod notification;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bcp_wire::Id;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use crate::config::DeviceConfig;
use crate::outbound::Outbound;
use crate::resolver::Resolver;
use crate::source::{PollNow, wall_ms};
use authority::Authority;
use config::TrapsConfig;
use desk::{Desk, Handled, Verdict};

/// Longest datagram.
const MAX_BYTES: usize = 65_535;
/// Names of devices are looked up again this often.
const LOOK_UP_EVERY: Duration = Duration::from_secs(300);
/// Names looked up at one time: a dead name server holds up no notification.
const LOOK_UPS_AT_ONCE: usize = 2;
/// Most strangers and unnamed traps that are shown.
const MAX_SHOWN: usize = 32;
/// The log tells about trouble of one kind at most this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What `status` shows.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TrapReport {
    pub listen: String,
    pub counts: BTreeMap<Verdict, u64>,
    /// Where notifications without a device came from, and how often.
    pub strangers: BTreeMap<String, u64>,
    /// Notifications that no profile names, and how often.
    pub unnamed: BTreeMap<String, u64>,
}

/// Counts, shared with the status listener.
#[derive(Debug, Default)]
pub struct TrapFigures(Mutex<TrapReport>);

impl TrapFigures {
    #[must_use]
    pub fn report(&self) -> TrapReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, handled: &Handled, from: SocketAddr) {
        let mut report = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *report.counts.entry(handled.verdict).or_default() += 1;
        let (shown, key) = match handled.verdict {
            Verdict::UnknownSender | Verdict::Refused => (&mut report.strangers, Some(from.ip().to_string())),
            Verdict::Unnamed | Verdict::Ambiguous => (&mut report.unnamed, handled.oid.clone()),
            _ => return,
        };
        let Some(key) = key else { return };
        if shown.len() < MAX_SHOWN || shown.contains_key(&key) {
            *shown.entry(key).or_default() += 1;
        }
    }
}

/// Where notifications go.
#[derive(Debug, Clone)]
pub struct Outlets {
    pub outbound: mpsc::Sender<Outbound>,
    pub poll_now: PollNow,
    pub figures: Arc<TrapFigures>,
}

/// A bound socket and what decides about what comes.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    desk: Desk,
    figures: Arc<TrapFigures>,
    told: BTreeMap<Verdict, Instant>,
    resolver: Resolver,
    /// The devices of a configuration that was loaded since.
    devices: Option<watch::Receiver<Vec<Arc<DeviceConfig>>>>,
}

impl Listener {
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(
        config: &TrapsConfig,
        devices: &[Arc<DeviceConfig>],
        authority: Authority,
    ) -> std::io::Result<Listener> {
        let socket = UdpSocket::bind(config.listen).await?;
        let figures = Arc::new(TrapFigures::default());
        figures.0.lock().unwrap_or_else(PoisonError::into_inner).listen = socket.local_addr()?.to_string();
        Ok(Listener {
            socket,
            desk: Desk::new(config, devices, authority),
            figures,
            told: BTreeMap::new(),
            resolver: Resolver::default(),
            devices: None,
        })
    }

    #[must_use]
    pub fn figures(&self) -> Arc<TrapFigures> {
        Arc::clone(&self.figures)
    }

    /// # Errors
    /// As the socket says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Finds devices by their names with this.
    #[must_use]
    pub fn asking(self, resolver: Resolver) -> Listener {
        Listener { resolver, ..self }
    }

    /// Keeps to the devices of this channel from now on.
    #[must_use]
    pub fn following(mut self, devices: watch::Receiver<Vec<Arc<DeviceConfig>>>) -> Listener {
        self.devices = Some(devices);
        self
    }

    /// Other devices, once there are some; else it waits for ever.
    async fn other_devices(devices: &mut Option<watch::Receiver<Vec<Arc<DeviceConfig>>>>) -> Vec<Arc<DeviceConfig>> {
        if let Some(news) = devices
            && news.changed().await.is_ok()
        {
            return news.borrow_and_update().clone();
        }
        std::future::pending().await
    }

    /// Listens until shutdown.
    pub async fn run(mut self, outlets: Outlets, mut shutdown: watch::Receiver<bool>) {
        let mut buffer = vec![0; MAX_BYTES];
        let mut look_up = tokio::time::interval(LOOK_UP_EVERY);
        let mut found = addresses(Vec::new(), &self.resolver);
        loop {
            let received = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => return,
                devices = Listener::other_devices(&mut self.devices) => {
                    self.desk.set_devices(&devices);
                    found = addresses(self.desk.named_hosts(), &self.resolver);
                    None
                }
                _ = look_up.tick() => {
                    found = addresses(self.desk.named_hosts(), &self.resolver);
                    None
                }
                Some((device, addresses)) = found.next() => {
                    self.desk.set_addresses(&device, addresses);
                    None
                }
                received = self.socket.recv_from(&mut buffer) => Some(received),
            };
            match received {
                None => {}
                Some(Ok((length, from))) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let handled = self.desk.receive(bytes, from, Instant::now());
                    if !self.act(handled, from, &outlets).await {
                        return;
                    }
                }
                // Of an answer that found nobody: says nothing about this socket.
                Some(Err(error)) => tracing::debug!(%error, "receiving notifications"),
            }
        }
    }

    /// False once nobody listens to us any more.
    async fn act(&mut self, handled: Handled, from: SocketAddr, outlets: &Outlets) -> bool {
        outlets.figures.count(&handled, from);
        self.tell(&handled, from);
        for device in &handled.poll {
            // Refused while its last wish waits: then it is polled anyway.
            let _ = outlets.poll_now.ask(device);
        }
        if let Some((device, kind)) = handled.event
            && outlets.outbound.send(Outbound::Event { device, t_ms: wall_ms(), kind }).await.is_err()
        {
            return false;
        }
        if let Some(reply) = handled.reply
            && let Err(error) = self.socket.send_to(&reply, from).await
        {
            tracing::debug!(%from, %error, "an inform cannot be answered");
        }
        true
    }

    fn tell(&mut self, handled: &Handled, from: SocketAddr) {
        if matches!(handled.verdict, Verdict::Named | Verdict::Handshake | Verdict::Repeated) {
            return;
        }
        let now = Instant::now();
        let silent = self.told.get(&handled.verdict).is_some_and(|at| now.duration_since(*at) < TELL_EVERY);
        if !silent {
            self.told.insert(handled.verdict, now);
            tracing::warn!(%from, verdict = ?handled.verdict, oid = handled.oid.as_deref().unwrap_or(""), "notification");
        }
    }
}

/// Looks names up beside everything else; those that are not found are left out.
fn addresses(hosts: Vec<(Id, String)>, resolver: &Resolver) -> BoxStream<'static, (Id, Vec<IpAddr>)> {
    let resolver = resolver.clone();
    futures::stream::iter(hosts)
        .map(move |(device, address)| {
            let resolver = resolver.clone();
            async move {
                match resolver.addresses(&address).await {
                    Ok(found) => Some((device, found.iter().map(|at| at.ip().to_canonical()).collect())),
                    Err(error) => {
                        tracing::debug!(%device, %address, %error, "name not found");
                        None
                    }
                }
            }
        })
        .buffer_unordered(LOOK_UPS_AT_ONCE)
        .filter_map(std::future::ready)
        .boxed()
}
