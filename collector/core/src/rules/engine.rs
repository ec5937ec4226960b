//! The rule engine: readings in, changed votes out.
//!
//! Knows: which instance of which rule reads which point. A reading touches only its readers; time touches only what is
//! due. Refuses to know: the other collectors' votes.

mod bind;
mod instance;
mod intake;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use bcp_wire::{DeviceMeta, Id, PointName, Quality, Site, Value};

use self::instance::Instance;
use super::ast::{REACHABLE, SERVICE};
use super::eval::View;
use super::explain::Explanation;
use super::load::RuleSet;
use super::point::Point;
use crate::alarms::AlarmVote;
use crate::status::ServiceStatus;
use crate::time::Mono;
use crate::topology::{Asset, Topology};

/// Conditions that change with time alone (ages, windows) are looked at this often.
pub const REEVALUATE_MS: u64 = 1_000;
/// A count over many assets is evaluated at most this often, however many of them change.
pub const COALESCE_MS: u64 = 50;

/// What the driver tells the engine.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A live reading; backlog never comes here.
    Reading {
        device: &'a Id,
        point: &'a PointName,
        value: Option<&'a Value>,
        quality: Quality,
        sampled: Mono,
    },
    /// A device described itself.
    Device {
        site: Site,
        agent: &'a Id,
        meta: &'a DeviceMeta,
    },
    DeviceGone {
        device: &'a Id,
    },
    /// An agent's session: alive, lost, or not known.
    Agent {
        site: Site,
        agent: &'a Id,
        alive: Option<bool>,
    },
    /// An agent's event: a device became reachable, or stopped being so.
    Reachability {
        device: &'a Id,
        reachable: bool,
    },
    /// State of a service as its users see it.
    Service {
        service: &'a Id,
        status: ServiceStatus,
    },
    Timer,
}

/// A vote that changed. None: the instance is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct VoteChange {
    /// `rule/asset`.
    pub key: String,
    pub vote: Option<AlarmVote>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Point(u32),
    Instance(u32),
    /// Counts look at all assets again.
    Rebind,
}

/// All rules applied to all assets.
#[derive(Debug)]
pub struct Engine {
    rules: RuleSet,
    topology: Topology,
    /// Points each device said it measures, with their intervals.
    measured: HashMap<Id, BTreeMap<PointName, u64>>,
    points: Vec<Point>,
    /// Device, then point name.
    index: HashMap<String, HashMap<String, u32>>,
    instances: Vec<Option<Instance>>,
    free: Vec<u32>,
    by_key: BTreeMap<String, u32>,
    by_asset: HashMap<Id, Vec<u32>>,
    /// Instances with counts, which a new asset may concern.
    counting: Vec<u32>,
    rebind_at: Option<Mono>,
    timers: BinaryHeap<Reverse<(Mono, Due)>>,
    evaluations: u64,
}

impl Engine {
    /// `assets`: the configured ones; devices add themselves.
    #[must_use]
    pub fn new(rules: RuleSet, assets: Vec<Asset>) -> Engine {
        let mut engine = Engine {
            rules,
            topology: Topology::new(),
            measured: HashMap::new(),
            points: Vec::new(),
            index: HashMap::new(),
            instances: Vec::new(),
            free: Vec::new(),
            by_key: BTreeMap::new(),
            by_asset: HashMap::new(),
            counting: Vec::new(),
            rebind_at: None,
            timers: BinaryHeap::new(),
            evaluations: 0,
        };
        for asset in assets {
            engine.topology.insert(asset);
        }
        let mut changes = Vec::new();
        engine.bind_all(Mono::default(), &mut changes);
        engine
    }

    /// Takes in one event, and everything that is due by now.
    pub fn step(&mut self, now: Mono, event: Event<'_>) -> Vec<VoteChange> {
        let mut changes = Vec::new();
        match event {
            Event::Reading { device, point, value, quality, sampled } => {
                self.on_reading(now, device, point, value, quality, sampled, &mut changes);
            }
            Event::Device { site, agent, meta } => self.on_device(now, site, agent, meta, &mut changes),
            Event::DeviceGone { device } => {
                self.measured.remove(device);
                self.topology.remove(device);
                self.unbind_asset(device, &mut changes);
                self.rebind_soon(now);
            }
            Event::Agent { site, agent, alive } => self.on_agent(now, site, agent, alive, &mut changes),
            Event::Reachability { device, reachable } => {
                let word = if reachable { "yes" } else { "no" };
                self.set_state(now, device.as_str(), REACHABLE, Some(word), &mut changes);
            }
            Event::Service { service, status } => {
                let word = match status {
                    ServiceStatus::Unknown => None,
                    ServiceStatus::Up | ServiceStatus::Planned | ServiceStatus::Degraded | ServiceStatus::Down => {
                        Some(status.as_str())
                    }
                };
                self.set_state(now, service.as_str(), SERVICE, word, &mut changes);
            }
            Event::Timer => {}
        }
        self.run_due(now, &mut changes);
        changes
    }

    /// When [`Event::Timer`] is wanted at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Puts another rule set in force. Points keep their values, instances of unchanged rules their state.
    pub fn reload(&mut self, now: Mono, rules: RuleSet, assets: Vec<Asset>) -> Vec<VoteChange> {
        let mut changes = Vec::new();
        for asset in assets {
            self.topology.insert(asset);
        }
        let old = std::mem::replace(&mut self.rules, rules);
        let kept: BTreeMap<String, Instance> = self.take_instances(&old);
        self.bind_all(now, &mut changes);
        self.adopt(now, kept, &mut changes);
        changes
    }

    /// All votes now: `(key, vote)`. For a full set, keep the true ones and those whose alarm exists.
    pub fn votes(&self) -> impl Iterator<Item = (&str, AlarmVote)> {
        self.instances.iter().flatten().map(|instance| (instance.key.as_str(), self.vote_of(instance)))
    }

    /// The votes that `wanted` picks by key and outcome.
    pub fn votes_where(&self, wanted: impl Fn(&str, Option<bool>) -> bool) -> impl Iterator<Item = (&str, AlarmVote)> {
        self.instances
            .iter()
            .flatten()
            .filter(move |instance| wanted(&instance.key, instance.active()))
            .map(|instance| (instance.key.as_str(), self.vote_of(instance)))
    }

    /// The present vote of one instance.
    #[must_use]
    pub fn vote(&self, key: &str) -> Option<AlarmVote> {
        self.instance(key).map(|instance| self.vote_of(instance))
    }

    /// Why one instance judges as it does.
    #[must_use]
    pub fn explain(&self, now: Mono, key: &str) -> Option<Explanation> {
        let instance = self.instance(key)?;
        let rule = self.rules.rules.get(instance.rule)?;
        let view =
            View { points: &self.points, now, inputs: &instance.inputs, specs: &rule.counts, counts: &instance.counts };
        Some(instance.explain(&view, rule, now))
    }

    /// Evaluations so far, to see that only touched instances are evaluated.
    #[must_use]
    pub const fn evaluations(&self) -> u64 {
        self.evaluations
    }

    #[must_use]
    pub fn instances(&self) -> usize {
        self.by_key.len()
    }

    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    #[must_use]
    pub const fn rules(&self) -> &RuleSet {
        &self.rules
    }

    fn instance(&self, key: &str) -> Option<&Instance> {
        let at = *self.by_key.get(key)?;
        self.instances.get(at as usize)?.as_ref()
    }

    fn evaluate_readers(&mut self, now: Mono, point: u32, changes: &mut Vec<VoteChange>) {
        let Some(readers) = self.points.get_mut(point as usize).map(|point| std::mem::take(&mut point.readers)) else {
            return;
        };
        for reader in &readers {
            self.touch(now, *reader, changes);
        }
        if let Some(point) = self.points.get_mut(point as usize) {
            point.readers = readers;
        }
    }

    /// Evaluates at once, or soon where a count gathers many changes.
    fn touch(&mut self, now: Mono, at: u32, changes: &mut Vec<VoteChange>) {
        let Some(instance) = self.instances.get_mut(at as usize).and_then(Option::as_mut) else { return };
        if instance.counts.is_empty() {
            self.evaluate(now, at, changes);
            return;
        }
        let soon = now.plus(COALESCE_MS);
        if instance.due.is_none_or(|due| due > soon) {
            instance.due = Some(soon);
            self.schedule(at);
        }
    }

    fn evaluate(&mut self, now: Mono, at: u32, changes: &mut Vec<VoteChange>) {
        let Engine { rules, points, instances, .. } = self;
        let Some(instance) = instances.get_mut(at as usize).and_then(Option::as_mut) else { return };
        let Some(rule) = rules.rules.get(instance.rule) else { return };
        self.evaluations += 1;
        let changed = instance.evaluate(points, rule, now);
        self.schedule(at);
        if changed && let Some(Some(instance)) = self.instances.get(at as usize) {
            changes.push(VoteChange { key: instance.key.clone(), vote: Some(self.vote_of(instance)) });
        }
    }

    /// Keeps at most one useful entry per instance in the queue; a later due time is found when the earlier one pops.
    fn schedule(&mut self, at: u32) {
        let Some(instance) = self.instances.get_mut(at as usize).and_then(Option::as_mut) else { return };
        let Some(due) = instance.due else { return };
        if instance.timer.is_none_or(|timer| due < timer) {
            instance.timer = Some(due);
            self.timers.push(Reverse((due, Due::Instance(at))));
        }
    }

    fn run_due(&mut self, now: Mono, changes: &mut Vec<VoteChange>) {
        while let Some(Reverse((at, due))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            match due {
                Due::Rebind => {
                    if self.rebind_at == Some(at) {
                        self.rebind_at = None;
                        self.rebind_counting(now, changes);
                    }
                }
                Due::Point(number) => self.run_point(now, at, number, changes),
                Due::Instance(number) => {
                    let Some(instance) = self.instances.get_mut(number as usize).and_then(Option::as_mut) else {
                        continue;
                    };
                    if instance.timer != Some(at) {
                        continue;
                    }
                    instance.timer = None;
                    if instance.due.is_some_and(|due| due <= now) {
                        self.evaluate(now, number, changes);
                    } else {
                        self.schedule(number);
                    }
                }
            }
        }
    }

    /// Many assets come at once at a start; the counts look once.
    fn rebind_soon(&mut self, now: Mono) {
        if self.rebind_at.is_none() {
            let at = now.plus(COALESCE_MS);
            self.rebind_at = Some(at);
            self.timers.push(Reverse((at, Due::Rebind)));
        }
    }

    fn run_point(&mut self, now: Mono, at: Mono, number: u32, changes: &mut Vec<VoteChange>) {
        let Some(point) = self.points.get_mut(number as usize) else { return };
        if point.timer != Some(at) {
            return;
        }
        point.timer = None;
        match point.stale_at() {
            Some(stale_at) if stale_at > now => {
                point.timer = Some(stale_at);
                self.timers.push(Reverse((stale_at, Due::Point(number))));
            }
            Some(_) => self.evaluate_readers(now, number, changes),
            None => {}
        }
    }
}
