//! The tasks that poll: started, changed by a new configuration, stopped.
//!
//! Knows: the loop of one task, and which tasks a configuration needs. Refuses to know: protocols.
//!
//! Invariants:
//! * a part of the configuration that is the same before and after a reload keeps its session, its place in the schedule
//!   and what was learnt about it;
//! * samples taken while the wall clock is in doubt are told as bad, and the schedule does not look at that clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bcp_wire::envelope::EventKind;
use bcp_wire::{BadReason, Id};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::checks::CheckError;
use super::{Group, Part, groups};
use crate::config::Config;
use crate::outbound::Outbound;
use crate::resolver::Resolver;
use crate::schedule::{ReachChange, Timetable, Turn};
use crate::self_stats::Board;

/// Orders waiting for one task. More wishes for a poll are refused: the device is being polled anyway.
const ORDERS: usize = 4;

/// What a task is told from outside.
#[derive(Debug)]
pub enum Order {
    PollNow(Id),
    /// In a box: each task has room for some orders.
    Become(Box<Group>),
    Stop,
}

#[derive(Debug)]
struct Running {
    orders: mpsc::Sender<Order>,
    parts: Vec<Part>,
}

/// What a new configuration changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    pub added: BTreeSet<Id>,
    pub removed: BTreeSet<Id>,
    /// In both, but not the same.
    pub changed: BTreeSet<Id>,
    pub same: usize,
}

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Changed { added, removed, changed, same } = self;
        write!(f, "{} added, {} removed, {} changed, {same} untouched", added.len(), removed.len(), changed.len())
    }
}

/// The running sources.
#[derive(Debug)]
pub struct Sources {
    tasks: JoinSet<()>,
    running: BTreeMap<String, Running>,
    poll_now: PollNow,
    outbound: mpsc::Sender<Outbound>,
    board: Arc<Board>,
    resolver: Resolver,
}

/// Lets others ask for a poll at once.
#[derive(Debug, Clone, Default)]
pub struct PollNow(Arc<Mutex<BTreeMap<Id, mpsc::Sender<Order>>>>);

impl PollNow {
    /// False where there is no such device, or its task has too many such wishes already.
    #[must_use]
    pub fn ask(&self, device: &Id) -> bool {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(device).is_some_and(|task| task.try_send(Order::PollNow(device.clone())).is_ok())
    }
}

impl Sources {
    /// None yet; [`Sources::apply`] starts them.
    #[must_use]
    pub fn new(outbound: mpsc::Sender<Outbound>, board: Arc<Board>, resolver: Resolver) -> Sources {
        Sources {
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            poll_now: PollNow::default(),
            outbound,
            board,
            resolver,
        }
    }

    /// Starts, changes and stops tasks until they are those of `config`.
    ///
    /// # Errors
    /// A check cannot be set up; nothing has changed then.
    pub async fn apply(&mut self, config: &Config) -> Result<Changed, CheckError> {
        let next: BTreeMap<String, Group> =
            groups(config, &self.resolver)?.into_iter().map(|group| (group.key(), group)).collect();
        let parts = |parts: &[Part]| parts.iter().map(|part| (part.id().clone(), part.clone())).collect::<Vec<_>>();
        let before: BTreeMap<Id, Part> = self.running.values().flat_map(|running| parts(&running.parts)).collect();
        let after: BTreeMap<Id, Part> = next.values().flat_map(|group| parts(&group.parts())).collect();
        let changed = compare(&before, &after);
        let gone: Vec<String> = self.running.keys().filter(|key| !next.contains_key(*key)).cloned().collect();
        for task in gone.into_iter().filter_map(|key| self.running.remove(&key)) {
            // A task that has ended needs no order.
            let _ = task.orders.send(Order::Stop).await;
        }
        for id in &changed.removed {
            self.board.remove(id);
            let _ = self.outbound.send(Outbound::Forget(id.clone())).await;
        }
        for (key, group) in next {
            let parts = group.parts();
            if self.running.get(&key).is_some_and(|task| task.parts == parts) {
                continue;
            }
            for (id, interval, planned) in group.slots() {
                if changed.added.contains(&id) || changed.changed.contains(&id) {
                    self.board.add(&id, interval, planned);
                }
            }
            if let Some(task) = self.running.get_mut(&key) {
                task.parts = parts;
                let _ = task.orders.send(Order::Become(Box::new(group))).await;
            } else {
                let orders = self.start(group);
                self.running.insert(key, Running { orders, parts });
            }
        }
        while self.tasks.try_join_next().is_some() {}
        let tasks = self.running.values();
        let asked = tasks.flat_map(|task| task.parts.iter().map(|part| (part.id().clone(), task.orders.clone())));
        *self.poll_now.0.lock().unwrap_or_else(PoisonError::into_inner) = asked.collect();
        Ok(changed)
    }

    fn start(&mut self, group: Group) -> mpsc::Sender<Order> {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let parts = group.parts();
        let seed = rand::random();
        let intervals = group.slots().into_iter().map(|slot| slot.1);
        let task = Task {
            timetable: Timetable::new(intervals, self.board.clock().now(), seed),
            slots: group.slots().into_iter().map(|(id, interval, _)| (id, interval)).collect(),
            parts,
            group,
            outbound: self.outbound.clone(),
            board: Arc::clone(&self.board),
            orders: receiver,
        };
        self.tasks.spawn(task.run());
        orders
    }

    #[must_use]
    pub fn poll_now(&self) -> PollNow {
        self.poll_now.clone()
    }

    /// Ends all of them, in the middle of a poll as well.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

fn compare(before: &BTreeMap<Id, Part>, after: &BTreeMap<Id, Part>) -> Changed {
    let mut changed = Changed::default();
    for (id, part) in after {
        match before.get(id) {
            None => drop(changed.added.insert(id.clone())),
            Some(old) if old != part => drop(changed.changed.insert(id.clone())),
            Some(_) => changed.same += 1,
        }
    }
    changed.removed = before.keys().filter(|id| !after.contains_key(*id)).cloned().collect();
    changed
}

struct Task {
    group: Group,
    timetable: Timetable,
    slots: Vec<(Id, Duration)>,
    parts: Vec<Part>,
    outbound: mpsc::Sender<Outbound>,
    board: Arc<Board>,
    orders: mpsc::Receiver<Order>,
}

/// What the loop was woken by.
enum Woken {
    Due,
    Ordered(Order),
}

impl Task {
    async fn run(mut self) {
        let every: Vec<usize> = (0..self.parts.len()).collect();
        if !self.tell_metas(&every).await {
            return;
        }
        loop {
            let clock = self.board.clock();
            match self.timetable.turn(clock.now()) {
                Turn::Empty => return,
                Turn::WaitUntil(at) => match self.wait(clock.instant(at)).await {
                    Woken::Due => {}
                    Woken::Ordered(Order::PollNow(id)) => {
                        if let Some(slot) = self.slots.iter().position(|slot| slot.0 == id) {
                            self.timetable.poll_now(slot, clock.now());
                        }
                    }
                    Woken::Ordered(Order::Become(group)) => {
                        let new = self.become_group(*group);
                        if !self.tell_metas(&new).await {
                            return;
                        }
                    }
                    Woken::Ordered(Order::Stop) => return,
                },
                Turn::Poll { slot, late } => {
                    if !self.poll(slot, late).await {
                        return;
                    }
                }
            }
        }
    }

    async fn wait(&mut self, until: tokio::time::Instant) -> Woken {
        tokio::select! {
            biased;
            Some(order) = self.orders.recv() => Woken::Ordered(order),
            () = tokio::time::sleep_until(until) => Woken::Due,
        }
    }

    /// Changes to another group between two polls; gives the slots that are new or not as before.
    fn become_group(&mut self, group: Group) -> Vec<usize> {
        let parts = group.parts();
        let kept: Vec<Option<usize>> = parts.iter().map(|part| self.parts.iter().position(|old| old == part)).collect();
        let slots: Vec<_> = group.slots().into_iter().map(|(id, interval, _)| (id, interval)).collect();
        let now = self.board.clock().now();
        self.timetable.rearrange(slots.iter().map(|slot| slot.1).zip(kept.iter().copied()), now);
        self.group.become_group(group);
        (self.slots, self.parts) = (slots, parts);
        kept.iter().enumerate().filter(|(_, kept)| kept.is_none()).map(|(slot, _)| slot).collect()
    }

    /// False once nobody listens any more.
    fn tell_metas(&self, slots: &[usize]) -> impl Future<Output = bool> + Send + use<> {
        let metas: Vec<_> =
            self.group.metas().into_iter().enumerate().filter(|(slot, _)| slots.contains(slot)).collect();
        let outbound = self.outbound.clone();
        async move {
            for (_, meta) in metas {
                if outbound.send(Outbound::Meta(Box::new(meta))).await.is_err() {
                    return false;
                }
            }
            true
        }
    }

    /// One poll and everything that follows from it. False once nobody listens any more.
    async fn poll(&mut self, slot: usize, late: Duration) -> bool {
        let Some((id, interval)) = self.slots.get(slot).cloned() else { return false };
        let begun = self.board.wall().stamp();
        let mut polled = self.group.poll(slot, interval).await;
        let doubtful = self.board.wall().stamp().doubtful || begun.doubtful;
        let finished = self.timetable.finished(slot, self.board.clock().now(), polled.outcome);
        let t_ms = begun.t_ms;
        self.board.polled(&id, late, &polled, &finished, t_ms);
        if doubtful {
            for sample in &mut polled.samples {
                sample.2 = Err(BadReason::Clock);
            }
        }
        let mut events = Vec::new();
        match finished.reach {
            ReachChange::Same => {}
            ReachChange::BecameReachable => {
                tracing::info!(device = %id, "answers");
                events.push(EventKind::Reachability { reachable: true, reason: None });
            }
            ReachChange::BecameUnreachable => {
                tracing::warn!(device = %id, reason = polled.trouble.as_deref().unwrap_or(""), "does not answer");
                events.push(EventKind::Reachability { reachable: false, reason: polled.trouble.clone() });
            }
        }
        if let Group::Snmp(device) = &self.group
            && let Some(engine) = device.engine_id()
            && let Some(twin) = self.board.engine_seen(&id, engine)
        {
            tracing::warn!(device = %id, %twin, "both have the same SNMP engine id: one is a copy of the other");
            let text = format!("{id} and {twin} have the same SNMP engine id: one is a copy of the other");
            events.push(EventKind::Notice { text });
        }
        events.extend(polled.transition.map(|kind| *kind));
        if let Some(meta) = polled.meta
            && self.outbound.send(Outbound::Meta(meta)).await.is_err()
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
