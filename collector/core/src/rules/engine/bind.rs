//! Which rule applies to which asset, and which points it reads there.

use std::collections::{BTreeMap, HashMap};

use bcp_wire::{Id, names};

use super::instance::Instance;
use super::{Engine, VoteChange};
use crate::alarms::AlarmVote;
use crate::rules::ast::{Input, Scope, Whose};
use crate::rules::eval::{Bind, Member};
use crate::rules::load::RuleSet;
use crate::rules::point::{DEFAULT_INTERVAL_MS, Point};
use crate::rules::window::Series;
use crate::time::Mono;
use crate::topology::Asset;

/// Most points a pattern stands for on one device.
const MAX_PATTERN_POINTS: usize = 256;
/// Most rule instances; the goal is 20,000.
pub const MAX_INSTANCES: usize = 200_000;

impl Engine {
    pub(super) fn bind_all(&mut self, now: Mono, changes: &mut Vec<VoteChange>) {
        let ids: Vec<Id> = self.topology.iter().map(|asset| asset.id.clone()).collect();
        for id in ids {
            self.bind_asset(now, &id, changes);
        }
        self.rebind_counting(now, changes);
    }

    /// The device's asset, and assets that borrow its points, are bound anew; counts look again.
    pub(super) fn rebind_device(&mut self, now: Mono, device: &Id, changes: &mut Vec<VoteChange>) {
        let assets: Vec<Id> = self
            .topology
            .iter()
            .filter(|asset| asset.id == *device || asset.device.as_ref() == Some(device))
            .map(|asset| asset.id.clone())
            .collect();
        for id in assets {
            self.bind_asset(now, &id, changes);
        }
        self.rebind_soon(now);
    }

    /// Creates, renews or removes the instances of one asset. Latches survive.
    fn bind_asset(&mut self, now: Mono, id: &Id, changes: &mut Vec<VoteChange>) {
        let Some(asset) = self.topology.get(id.as_str()).cloned() else {
            self.unbind_asset(id, changes);
            return;
        };
        let fitting: Vec<usize> = (0..self.rules.rules.len())
            .filter(|rule| self.rules.rules[*rule].assets.fits(&asset, None) && self.is_measured(*rule, &asset))
            .collect();
        let mut old: HashMap<String, Instance> = HashMap::new();
        for at in self.by_asset.remove(id).unwrap_or_default() {
            if let Some(instance) = self.remove_instance(at) {
                old.insert(instance.key.clone(), instance);
            }
        }
        for rule in fitting {
            if self.by_key.len() >= MAX_INSTANCES {
                break;
            }
            let key = format!("{}/{id}", self.rules.rules[rule].id);
            let known = old.remove(&key);
            self.add_instance(now, rule, key, &asset, known, changes);
        }
        changes.extend(old.into_keys().map(|key| VoteChange { key, vote: None }));
    }

    pub(super) fn unbind_asset(&mut self, id: &Id, changes: &mut Vec<VoteChange>) {
        for at in self.by_asset.remove(id).unwrap_or_default() {
            if let Some(instance) = self.remove_instance(at) {
                changes.push(VoteChange { key: instance.key, vote: None });
            }
        }
    }

    /// Counts look at all assets anew; nothing else of their instances changes.
    pub(super) fn rebind_counting(&mut self, now: Mono, changes: &mut Vec<VoteChange>) {
        for at in self.counting.clone() {
            let Some(Some(instance)) = self.instances.get(at as usize) else { continue };
            let (rule, asset) = (instance.rule, instance.asset.clone());
            let Some(asset) = self.topology.get(asset.as_str()).cloned() else { continue };
            let counts = self.bind_counts(rule, &asset);
            let Some(Some(instance)) = self.instances.get_mut(at as usize) else { continue };
            if instance.counts == counts {
                continue;
            }
            instance.counts = counts;
            self.register(at);
            self.touch(now, at, changes);
        }
    }

    /// A device that said what it measures, and measures nothing that the rule asks of it, does not get the rule.
    fn is_measured(&self, rule: usize, asset: &Asset) -> bool {
        let Some(measured) = self.measured.get(asset.device()) else { return true };
        let own = |input: &&Input| input.whose == Whose::Own && !input.name.starts_with('@');
        let scope = &self.rules.rules[rule].scope;
        let mut asked = scope.inputs.iter().filter(own).peekable();
        if asked.peek().is_none() {
            return true;
        }
        asked.any(|input| measured.keys().any(|name| fits(&input.name, name.as_str())))
    }

    fn add_instance(
        &mut self,
        now: Mono,
        rule: usize,
        key: String,
        asset: &Asset,
        known: Option<Instance>,
        changes: &mut Vec<VoteChange>,
    ) {
        let scope = self.rules.rules[rule].scope.clone();
        let inputs = self.bind_scope(&scope, asset);
        let counts = self.bind_counts(rule, asset);
        let counting = !counts.is_empty();
        let instance = match known {
            Some(known) => known.rebound(rule, inputs, counts),
            None => Instance::new(rule, key, asset.id.clone(), inputs, counts),
        };
        let key = instance.key.clone();
        let at = match self.free.pop() {
            Some(at) => {
                self.instances[at as usize] = Some(instance);
                at
            }
            None => {
                self.instances.push(Some(instance));
                u32::try_from(self.instances.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_key.insert(key, at);
        self.by_asset.entry(asset.id.clone()).or_default().push(at);
        if counting {
            self.counting.push(at);
        }
        self.register(at);
        self.evaluate(now, at, changes);
    }

    fn remove_instance(&mut self, at: u32) -> Option<Instance> {
        let instance = self.instances.get_mut(at as usize)?.take()?;
        self.by_key.remove(&instance.key);
        self.counting.retain(|other| *other != at);
        for number in reads(&instance) {
            if let Some(point) = self.points.get_mut(number as usize) {
                point.readers.retain(|reader| *reader != at);
            }
        }
        self.free.push(at);
        Some(instance)
    }

    /// Makes the instance a reader of all its points, once each.
    fn register(&mut self, at: u32) {
        let Some(Some(instance)) = self.instances.get(at as usize) else { return };
        for number in reads(instance) {
            if let Some(point) = self.points.get_mut(number as usize)
                && !point.readers.contains(&at)
            {
                point.readers.push(at);
            }
        }
    }

    fn bind_scope(&mut self, scope: &Scope, asset: &Asset) -> Box<[Bind]> {
        scope.inputs.iter().map(|input| self.bind_input(input, asset)).collect()
    }

    fn bind_counts(&mut self, rule: usize, outer: &Asset) -> Box<[Box<[Member]>]> {
        let specs = self.rules.rules[rule].counts.clone();
        let mut counts = Vec::with_capacity(specs.len());
        for spec in specs {
            let assets: Vec<Asset> =
                self.topology.iter().filter(|asset| spec.assets.fits(asset, Some(outer))).cloned().collect();
            let members: Vec<Member> = assets
                .iter()
                .map(|asset| Member { asset: asset.id.to_string(), inputs: self.bind_scope(&spec.scope, asset) })
                .collect();
            counts.push(members.into_boxed_slice());
        }
        counts.into_boxed_slice()
    }

    fn bind_input(&mut self, input: &Input, asset: &Asset) -> Bind {
        let device = match &input.whose {
            Whose::Own => asset.device().clone(),
            Whose::Asset(id) => {
                self.topology.get(id.as_str()).map_or_else(|| id.clone(), |other| other.device().clone())
            }
            Whose::Agent if asset.kind == "agent" => asset.id.clone(),
            Whose::Agent => asset.agent.clone().unwrap_or_else(|| asset.id.clone()),
            Whose::Service(id) => id.clone(),
        };
        let absent =
            |points: &BTreeMap<_, _>| !input.name.starts_with('@') && !points.contains_key(input.name.as_str());
        if !input.is_pattern() {
            if self.measured.get(&device).is_some_and(absent) {
                return Bind::None;
            }
            return Bind::One(self.point(&device, &input.name, input));
        }
        let names: Vec<String> = self
            .measured
            .get(&device)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|name| fits(&input.name, name.as_str()))
            .take(MAX_PATTERN_POINTS)
            .map(ToString::to_string)
            .collect();
        if names.is_empty() {
            return Bind::None;
        }
        Bind::Many(names.iter().map(|name| self.point(&device, name, input)).collect())
    }

    /// The number of a point; it is made where nobody has asked for it before.
    fn point(&mut self, device: &Id, name: &str, input: &Input) -> u32 {
        let interval = self.measured.get(device).and_then(|points| points.get(name)).copied();
        let known = self.index.get(device.as_str()).and_then(|points| points.get(name)).copied();
        let at = known.unwrap_or_else(|| {
            let ages = !name.starts_with('@');
            let interval = ages.then(|| interval.unwrap_or(DEFAULT_INTERVAL_MS));
            self.points.push(Point::new(device.as_str(), name, input.unit(), interval));
            let at = u32::try_from(self.points.len() - 1).unwrap_or(u32::MAX);
            self.index.entry(device.to_string()).or_default().insert(name.to_owned(), at);
            at
        });
        if let Some(point) = self.points.get_mut(at as usize) {
            if let Some(interval) = interval {
                point.set_interval(interval);
            }
            if let Some((shortest, longest)) = input.windows
                && !point.series.as_ref().is_some_and(|series| series.covers(shortest, longest))
            {
                let counter = input.def.is_some_and(|def| def.kind == names::Kind::Counter);
                point.series = Some(Box::new(Series::new(shortest, longest, counter)));
            }
        }
        at
    }

    /// Takes all instances out, by key, for those rules that are word for word in the new set too.
    pub(super) fn take_instances(&mut self, old: &RuleSet) -> BTreeMap<String, Instance> {
        let mut kept = BTreeMap::new();
        let all: Vec<u32> = self.by_key.values().copied().collect();
        for at in all {
            let Some(instance) = self.remove_instance(at) else { continue };
            kept.insert(instance.key.clone(), instance);
        }
        self.by_asset.clear();
        self.counting.clear();
        let unchanged = |instance: &Instance| {
            old.rules.get(instance.rule).is_some_and(|was| {
                self.rules
                    .rules
                    .iter()
                    .any(|is| is.id == was.id && is.when == was.when && is.clear == was.clear && is.scope == was.scope)
            })
        };
        // What has changed starts anew; it is still listed, so that its going is told.
        for instance in kept.values_mut() {
            if !unchanged(instance) {
                instance.latch = super::instance::Latch::default();
            }
        }
        kept
    }

    /// Gives latches back to the instances that are still there, and tells of those that are not.
    pub(super) fn adopt(&mut self, now: Mono, kept: BTreeMap<String, Instance>, changes: &mut Vec<VoteChange>) {
        for (key, old) in kept {
            match self.by_key.get(&key).copied() {
                Some(at) => {
                    if let Some(Some(instance)) = self.instances.get_mut(at as usize) {
                        instance.latch = old.latch;
                    }
                    self.evaluate(now, at, changes);
                }
                None => changes.push(VoteChange { key, vote: None }),
            }
        }
    }

    pub(super) fn vote_of(&self, instance: &Instance) -> AlarmVote {
        let asset = self.topology.get(instance.asset.as_str());
        let Some(rule) = self.rules.rules.get(instance.rule) else { return AlarmVote::default() };
        AlarmVote {
            active: instance.active(),
            priority: rule.priority,
            asset: instance.asset.to_string(),
            site: asset.and_then(|asset| asset.site),
            title: rule.title.clone(),
            runbook: rule.runbook.clone(),
            explain: instance.explain.clone(),
            owner: rule.owner.clone().or_else(|| asset.and_then(|asset| asset.owner.clone())),
            fed_by: self.topology.fed_by(&instance.asset).iter().map(ToString::to_string).collect(),
            causal: rule.causal,
            suppressed: instance.suppressed(),
        }
    }
}

/// All points an instance reads.
fn reads(instance: &Instance) -> Vec<u32> {
    let of = |binds: &[Bind], into: &mut Vec<u32>| {
        for bind in binds {
            match bind {
                Bind::None => {}
                Bind::One(at) => into.push(*at),
                Bind::Many(all) => into.extend_from_slice(all),
            }
        }
    };
    let mut found = Vec::new();
    of(&instance.inputs, &mut found);
    for member in instance.counts.iter().flatten() {
        of(&member.inputs, &mut found);
    }
    found
}

/// True where a name is the input's, or fits its pattern: `*` is one part, or the digits at its end (`l*`).
fn fits(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == name;
    }
    let mut parts = name.split('.');
    let all = pattern.split('.').all(|want| {
        parts.next().is_some_and(|part| match want.strip_suffix('*') {
            Some(stem) => part.strip_prefix(stem).is_some_and(|rest| !rest.is_empty()),
            None => part == want,
        })
    });
    all && parts.next().is_none()
}
