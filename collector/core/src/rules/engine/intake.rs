//! What each event changes before anything is evaluated.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bcp_wire::{DeviceMeta, Id, PointName, Quality, Site, Value};

use super::{Due, Engine, VoteChange};
use crate::rules::ast::{AGENT, REACHABLE};
use crate::time::Mono;
use crate::topology::Asset;

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    pub(super) fn on_reading(
        &mut self,
        now: Mono,
        device: &Id,
        name: &PointName,
        value: Option<&Value>,
        quality: Quality,
        sampled: Mono,
        changes: &mut Vec<VoteChange>,
    ) {
        if let Some(other) = name.as_str().strip_prefix("agent.device.").and_then(|n| n.strip_suffix(".reachable")) {
            let word = value.and_then(Value::as_text).filter(|_| quality.is_good());
            self.set_state(now, other, REACHABLE, word, changes);
        }
        let Some(at) = self.index.get(device.as_str()).and_then(|points| points.get(name.as_str())).copied() else {
            return;
        };
        let Some(point) = self.points.get_mut(at as usize) else { return };
        // A sample from the future is a clock that is wrong, not a reading that stays fresh for longer.
        let changed = point.read(now, value, quality, sampled.min(now));
        if point.timer.is_none()
            && let Some(stale_at) = point.stale_at()
            && stale_at > now
        {
            point.timer = Some(stale_at);
            self.timers.push(Reverse((stale_at, Due::Point(at))));
        }
        if changed {
            self.evaluate_readers(now, at, changes);
        }
    }

    pub(super) fn on_device(
        &mut self,
        now: Mono,
        site: Site,
        agent: &Id,
        meta: &DeviceMeta,
        changes: &mut Vec<VoteChange>,
    ) {
        let points: BTreeMap<PointName, u64> =
            meta.points.iter().map(|point| (point.name.clone(), point.interval_ms)).collect();
        let borrowed = self.topology.iter().find(|asset| asset.device.as_ref() == Some(&meta.device)).cloned();
        if let Some(borrower) = borrowed.filter(|borrower| borrower.id != meta.device) {
            // A configured asset has this device's points: the device is no second asset.
            let agent = Some(agent.clone());
            if borrower.agent != agent || self.measured.get(&meta.device) != Some(&points) {
                self.measured.insert(meta.device.clone(), points);
                self.topology.insert(Asset { agent, ..borrower });
                self.rebind_device(now, &meta.device, changes);
            }
            return;
        }
        let mut asset = Asset::described(site, agent, meta);
        if let Some(configured) = self.topology.get(meta.device.as_str()) {
            // The configuration knows the owner and the feeds; what it leaves open the device fills in.
            asset.owner.clone_from(&configured.owner);
            asset.fed_by.clone_from(&configured.fed_by);
            asset.parent = configured.parent.clone().or(asset.parent);
            asset.location = configured.location.clone().or(asset.location);
        }
        let same =
            self.topology.get(meta.device.as_str()) == Some(&asset) && self.measured.get(&meta.device) == Some(&points);
        if same {
            return;
        }
        self.measured.insert(meta.device.clone(), points);
        self.topology.insert(asset);
        self.rebind_device(now, &meta.device, changes);
    }

    pub(super) fn on_agent(
        &mut self,
        now: Mono,
        site: Site,
        agent: &Id,
        alive: Option<bool>,
        changes: &mut Vec<VoteChange>,
    ) {
        if self.topology.get(agent.as_str()).is_none() {
            self.topology.insert(Asset { site: Some(site), ..Asset::plain(agent.clone(), "agent") });
            self.rebind_device(now, agent, changes);
        }
        let word = alive.map(|alive| if alive { "alive" } else { "lost" });
        self.set_state(now, agent.as_str(), AGENT, word, changes);
        if alive != Some(true) {
            // What it last said about its devices is no longer known.
            let devices: Vec<Id> = self
                .topology
                .iter()
                .filter(|asset| asset.agent.as_ref() == Some(agent))
                .map(|asset| asset.device().clone())
                .collect();
            for device in devices {
                self.set_state(now, device.as_str(), REACHABLE, None, changes);
            }
        }
    }

    pub(super) fn set_state(
        &mut self,
        now: Mono,
        of: &str,
        name: &str,
        word: Option<&str>,
        changes: &mut Vec<VoteChange>,
    ) {
        let Some(at) = self.index.get(of).and_then(|points| points.get(name)).copied() else { return };
        let Some(point) = self.points.get_mut(at as usize) else { return };
        if point.set_state(now, word) {
            self.evaluate_readers(now, at, changes);
        }
    }
}
