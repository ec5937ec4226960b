//! Sources: everything that reads.
//!
//! Knows: which devices share a task, and the loop that polls them. Refuses to know: MQTT, files, protocols (those are
//! in the modules below).
//!
//! Tasks: one per Modbus address (its devices take turns on one connection), one per SNMP device, one per check, one
//! for the host. Each ends at shutdown between two polls or by dropping its poll, which leaves nothing half done: a
//! poll only reads.

pub mod checks;
pub mod device;
pub mod host;
pub mod modbus;
pub mod snmp;
pub mod traps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bcp_wire::envelope::EventKind;
use bcp_wire::{DeviceMeta, Id, Value};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{Config, DeviceConfig, Link};
use crate::outbound::{Outbound, Sample};
use crate::schedule::{Mono, Outcome, ReachChange, Timetable, Turn};
use crate::self_stats::Board;

/// Commands waiting for one task. More than these are refused: the device is being polled anyway.
const COMMANDS: usize = 4;

/// The two clocks: monotonic for the schedule, wall for sample times.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The tokio instant of a point on the monotonic clock.
    fn instant(&self, at: Mono) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_micros(at.0))
    }
}

/// Milliseconds since 1970 UTC.
#[must_use]
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How one poll went.
#[derive(Debug)]
pub struct Polled {
    pub outcome: Outcome,
    pub samples: Vec<Sample>,
    /// The device's description, where it changed.
    pub meta: Option<DeviceMeta>,
    /// What went wrong, in one line for people.
    pub trouble: Option<String>,
    /// Time until the last answer, where there was one.
    pub rtt: Option<Duration>,
    /// A state that changed and matters at once.
    pub transition: Option<EventKind>,
}

/// What one task polls, one at a time.
#[derive(Debug)]
pub enum Group {
    Bus(modbus::Bus),
    Snmp(Box<snmp::SnmpDevice>),
    Check(Box<checks::Check>),
    Host(Box<host::Host>),
}

impl Group {
    /// Polls one slot, at most for `budget`.
    pub async fn poll(&mut self, slot: usize, budget: Duration) -> Polled {
        match self {
            Group::Bus(bus) => bus.poll(slot, budget).await,
            Group::Snmp(device) => device.poll(budget).await,
            Group::Check(check) => check.poll().await,
            Group::Host(host) => host.poll(budget).await,
        }
    }

    fn metas(&self) -> Vec<DeviceMeta> {
        match self {
            Group::Bus(bus) => bus.devices().map(|device| device.meta()).collect(),
            Group::Snmp(device) => vec![device.state.meta()],
            Group::Check(check) => vec![check.meta()],
            Group::Host(host) => vec![host.meta()],
        }
    }

    /// Ids, intervals and numbers of planned requests, in the order of slots.
    #[must_use]
    pub fn slots(&self) -> Vec<(Id, Duration, usize)> {
        match self {
            Group::Bus(bus) => bus
                .devices()
                .zip(bus.planned())
                .map(|(device, planned)| (device.config.id.clone(), device.config.interval, planned))
                .collect(),
            Group::Snmp(device) => {
                vec![(device.state.config.id.clone(), device.state.config.interval, device.planned())]
            }
            Group::Check(check) => vec![(check.config().id.clone(), check.config().interval, 1)],
            Group::Host(host) => vec![(host.config().id.clone(), host.config().interval, 1)],
        }
    }
}

/// Sorts devices, checks and the host into tasks.
///
/// # Errors
/// A check cannot be set up.
pub fn groups(config: &Config) -> Result<Vec<Group>, checks::CheckError> {
    let mut groups = device_groups(config.devices.iter().cloned().map(Arc::new));
    let trust = checks::Trust::default();
    for check in &config.checks {
        groups.push(Group::Check(Box::new(checks::Check::new(check.clone(), &trust)?)));
    }
    if let Some(host) = &config.host {
        groups.push(Group::Host(Box::new(host::Host::new(host.clone()))));
    }
    Ok(groups)
}

/// Devices at one Modbus address share a task; every SNMP device has its own.
pub fn device_groups(devices: impl IntoIterator<Item = Arc<DeviceConfig>>) -> Vec<Group> {
    let mut buses: BTreeMap<String, Vec<(Arc<DeviceConfig>, crate::config::ModbusLink)>> = BTreeMap::new();
    let mut groups = Vec::new();
    for device in devices {
        match &device.link {
            Link::Modbus(link) => {
                let link = link.clone();
                buses.entry(link.address.clone()).or_default().push((device, link));
            }
            Link::Snmp(link) => {
                let link = link.clone();
                groups.push(Group::Snmp(Box::new(snmp::SnmpDevice::new(device, link))));
            }
        }
    }
    groups.extend(buses.into_iter().map(|(address, devices)| Group::Bus(modbus::Bus::new(address, devices))));
    groups
}

/// The running sources.
#[derive(Debug)]
pub struct Sources {
    tasks: JoinSet<()>,
    commands: PollNow,
}

/// Lets others ask for a poll at once.
#[derive(Debug, Clone, Default)]
pub struct PollNow(Arc<BTreeMap<Id, (mpsc::Sender<usize>, usize)>>);

impl PollNow {
    /// False where there is no such device, or its task has too many such wishes already.
    #[must_use]
    pub fn ask(&self, device: &Id) -> bool {
        self.0.get(device).is_some_and(|(commands, slot)| commands.try_send(*slot).is_ok())
    }
}

/// Starts every group.
pub fn spawn(
    groups: Vec<Group>,
    outbound: &mpsc::Sender<Outbound>,
    board: &Arc<Board>,
    shutdown: &watch::Receiver<bool>,
) -> Sources {
    let mut tasks = JoinSet::new();
    let mut commands = BTreeMap::new();
    for (number, group) in groups.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel(COMMANDS);
        let slots = group.slots();
        for (slot, (id, interval, planned)) in slots.iter().enumerate() {
            board.add(id, *interval, *planned);
            commands.insert(id.clone(), (sender.clone(), slot));
        }
        let seed = rand::random::<u64>() ^ number as u64;
        let task = Task {
            timetable: Timetable::new(slots.iter().map(|slot| slot.1), board.clock().now(), seed),
            ids: slots.into_iter().map(|(id, interval, _)| (id, interval)).collect(),
            group,
            outbound: outbound.clone(),
            board: Arc::clone(board),
            commands: receiver,
            shutdown: shutdown.clone(),
        };
        tasks.spawn(task.run());
    }
    Sources { tasks, commands: PollNow(Arc::new(commands)) }
}

impl Sources {
    #[must_use]
    pub fn poll_now(&self) -> PollNow {
        self.commands.clone()
    }

    /// Waits until all have ended, at most `grace`; then drops what is left.
    pub async fn drain(mut self, grace: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

struct Task {
    group: Group,
    timetable: Timetable,
    ids: Vec<(Id, Duration)>,
    outbound: mpsc::Sender<Outbound>,
    board: Arc<Board>,
    commands: mpsc::Receiver<usize>,
    shutdown: watch::Receiver<bool>,
}

/// What the loop was woken by.
enum Woken {
    Due,
    Asked(usize),
    Stop,
}

impl Task {
    async fn run(mut self) {
        for meta in self.group.metas() {
            if self.outbound.send(Outbound::Meta(Box::new(meta))).await.is_err() {
                return;
            }
        }
        loop {
            let clock = self.board.clock();
            match self.timetable.turn(clock.now()) {
                Turn::Empty => return,
                Turn::WaitUntil(at) => match self.wait(clock.instant(at)).await {
                    Woken::Due => {}
                    Woken::Asked(slot) => self.timetable.poll_now(slot, clock.now()),
                    Woken::Stop => return,
                },
                Turn::Poll { slot, late } => {
                    let mut shutdown = self.shutdown.clone();
                    tokio::select! {
                        biased;
                        _ = shutdown.wait_for(|stop| *stop) => return,
                        alive = self.poll(slot, late) => if !alive { return },
                    }
                }
            }
        }
    }

    async fn wait(&mut self, until: tokio::time::Instant) -> Woken {
        tokio::select! {
            biased;
            _ = self.shutdown.wait_for(|stop| *stop) => Woken::Stop,
            Some(slot) = self.commands.recv() => Woken::Asked(slot),
            () = tokio::time::sleep_until(until) => Woken::Due,
        }
    }

    /// One poll and everything that follows from it. False once nobody listens any more.
    async fn poll(&mut self, slot: usize, late: Duration) -> bool {
        let Some((id, interval)) = self.ids.get(slot).cloned() else { return false };
        let t_ms = wall_ms();
        // On the heap for as long as it lasts: what a poll needs is much more than what a task needs between two polls.
        let polled = Box::pin(self.group.poll(slot, interval)).await;
        let finished = self.timetable.finished(slot, self.board.clock().now(), polled.outcome);
        self.board.polled(&id, late, &polled, &finished, t_ms);
        let mut events = Vec::new();
        let reachability = match finished.reach {
            ReachChange::Same => None,
            ReachChange::BecameReachable => Some(EventKind::Reachability { reachable: true, reason: None }),
            ReachChange::BecameUnreachable => {
                Some(EventKind::Reachability { reachable: false, reason: polled.trouble.clone() })
            }
        };
        match finished.reach {
            ReachChange::Same => {}
            ReachChange::BecameReachable => tracing::info!(device = %id, "answers"),
            ReachChange::BecameUnreachable => {
                tracing::warn!(device = %id, reason = polled.trouble.as_deref().unwrap_or(""), "does not answer");
            }
        }
        events.extend(reachability);
        if let Group::Snmp(device) = &self.group
            && let Some(engine) = device.engine_id()
            && let Some(twin) = self.board.engine_seen(&id, engine)
        {
            tracing::warn!(device = %id, %twin, "both have the same SNMP engine id: one is a copy of the other");
            let text = format!("{id} and {twin} have the same SNMP engine id: one is a copy of the other");
            events.push(EventKind::Notice { text });
        }
        events.extend(polled.transition);
        if let Some(meta) = polled.meta
            && self.outbound.send(Outbound::Meta(Box::new(meta))).await.is_err()
        {
            return false;
        }
        let batch = Outbound::Batch { device: id.clone(), t_ms, points: polled.samples };
        if self.outbound.send(batch).await.is_err() {
            return false;
        }
        for kind in events {
            if self.outbound.send(Outbound::Event { device: id.clone(), t_ms, kind }).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// The event of a text state that changed, if it did.
fn transition(point: &bcp_wire::PointName, from: Option<&str>, to: &str) -> Option<EventKind> {
    let text = |word: &str| Value::Text(word.to_owned());
    (from != Some(to)).then(|| EventKind::Transition { point: point.clone(), from: from.map(text), to: text(to) })
}
