//! Assets, and what feeds them.
//!
//! Knows: which asset stands or falls with which: utility -> genset -> UPS -> PDU -> rack -> host -> service, chiller ->
//! CRAC -> room, site link -> site. Refuses to know: readings and alarms.
//!
//! Invariants: walks end, whatever cycles a configuration has, and visit at most [`MAX_ANCESTORS`] assets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use bcp_wire::names::DEVICE_KINDS;
use bcp_wire::{DeviceMeta, Id, Site};

/// Kinds of assets that are no device.
pub const PLAIN_KINDS: &[&str] = &["site", "building", "room", "rack", "utility", "link"];
/// Most assets above one: the longest real chain has about ten, twice over for redundant feeds.
pub const MAX_ANCESTORS: usize = 24;
/// Most assets one topology holds: the reference scale is 4,500 with their checks and services.
pub const MAX_ASSETS: usize = 50_000;

/// A thing in the topology. `device` has its points; by default the device of the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    pub id: Id,
    pub kind: String,
    #[serde(default)]
    pub site: Option<Site>,
    #[serde(default)]
    pub location: Option<String>,
    /// What it is part of, or fed by.
    #[serde(default)]
    pub parent: Option<Id>,
    /// Further feeds.
    #[serde(default)]
    pub fed_by: Vec<Id>,
    #[serde(default)]
    pub device: Option<Id>,
    /// The agent that polls it.
    #[serde(default)]
    pub agent: Option<Id>,
    #[serde(default)]
    pub profile: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
}

/// `[asset.ID]` as written in the policy file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAsset {
    pub kind: String,
    pub site: Option<Site>,
    pub location: Option<String>,
    pub parent: Option<Id>,
    #[serde(default)]
    pub fed_by: Vec<Id>,
    pub device: Option<Id>,
    pub owner: Option<String>,
}

/// All assets: configured ones, and devices that described themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    assets: BTreeMap<Id, Asset>,
}

/// Why an asset of the configuration cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssetFault {
    #[error("asset.{asset}.kind: `{kind}` is no kind of asset")]
    Kind { asset: Id, kind: String, nearest: Option<&'static str> },
    #[error("asset.{asset}: `{missing}` is no asset of this configuration and no device is known by that name")]
    Missing { asset: Id, missing: Id },
    #[error("asset.{asset}: it feeds itself, through {}", through.join(" -> "))]
    Cycle { asset: Id, through: Vec<String> },
}

/// Every kind an asset may have.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    DEVICE_KINDS.iter().chain(PLAIN_KINDS).copied()
}

/// Id of the asset that stands for a whole site.
#[must_use]
pub fn site_asset(site: Site) -> Id {
    match format!("site-{site}").parse() {
        Ok(id) => id,
        Err(_) => unreachable!("`site-` and a letter is an id"),
    }
}

impl Default for Topology {
    fn default() -> Topology {
        Topology::new()
    }
}

impl Topology {
    /// The three sites and nothing else.
    #[must_use]
    pub fn new() -> Topology {
        let sites = Site::ALL.map(|site| {
            let id = site_asset(site);
            (id.clone(), Asset { site: Some(site), ..Asset::plain(id, "site") })
        });
        Topology { assets: BTreeMap::from(sites) }
    }

    /// Adds or replaces. False where the topology is full.
    pub fn insert(&mut self, asset: Asset) -> bool {
        if self.assets.len() >= MAX_ASSETS && !self.assets.contains_key(&asset.id) {
            return false;
        }
        self.assets.insert(asset.id.clone(), asset);
        true
    }

    pub fn remove(&mut self, id: &Id) -> Option<Asset> {
        self.assets.remove(id)
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Asset> {
        self.assets.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Asset> {
        self.assets.values()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.assets.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.assets.is_empty()
    }

    /// Assets whose failure would explain a failure of `id`, nearest first, itself excluded. The sites of all of them come
    /// last: a check of one site, run from another, needs both.
    #[must_use]
    pub fn fed_by(&self, id: &Id) -> Vec<Id> {
        let mut found = Vec::new();
        let mut sites = Vec::new();
        let mut seen = BTreeSet::from([id.clone()]);
        let mut queue = VecDeque::from([id.clone()]);
        while let Some(at) = queue.pop_front() {
            let Some(asset) = self.assets.get(&at) else { continue };
            sites.extend(asset.site);
            for next in asset.parent.iter().chain(&asset.fed_by).chain(&asset.agent) {
                if found.len() + Site::ALL.len() < MAX_ANCESTORS && seen.insert(next.clone()) {
                    found.push(next.clone());
                    queue.push_back(next.clone());
                }
            }
        }
        found.extend(sites.into_iter().map(site_asset).filter(|site| seen.insert(site.clone())));
        found
    }

    /// Assets that stand or fall with `id`, itself excluded.
    #[must_use]
    pub fn feeds(&self, id: &Id) -> Vec<Id> {
        self.assets.keys().filter(|other| *other != id && self.fed_by(other).contains(id)).cloned().collect()
    }

    /// Faults of a configuration: unknown kinds, feeds that lead nowhere, cycles.
    #[must_use]
    pub fn faults(&self) -> Vec<AssetFault> {
        let mut faults = Vec::new();
        for asset in self.assets.values() {
            if !kinds().any(|kind| kind == asset.kind) {
                let nearest = kinds().min_by_key(|kind| bcp_wire::names::distance(kind, &asset.kind));
                let kind = asset.kind.chars().take(48).collect();
                faults.push(AssetFault::Kind { asset: asset.id.clone(), kind, nearest });
            }
            if let Some(through) = self.cycle(&asset.id) {
                faults.push(AssetFault::Cycle { asset: asset.id.clone(), through });
            }
        }
        faults
    }

    /// A way from `id` through parents and feeds back to itself.
    fn cycle(&self, id: &Id) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<Id, Id> = BTreeMap::new();
        let mut queue = VecDeque::from([id.clone()]);
        while let Some(at) = queue.pop_front() {
            let Some(asset) = self.assets.get(&at) else { continue };
            for next in asset.parent.iter().chain(&asset.fed_by) {
                if next == id {
                    let mut through = vec![id.to_string()];
                    let mut back = at.clone();
                    while back != *id {
                        through.push(back.to_string());
                        back = came_from.get(&back).cloned().unwrap_or_else(|| id.clone());
                    }
                    through.push(id.to_string());
                    through.reverse();
                    return Some(through);
                }
                if !came_from.contains_key(next) {
                    came_from.insert(next.clone(), at.clone());
                    queue.push_back(next.clone());
                }
            }
        }
        None
    }
}

impl Asset {
    #[must_use]
    pub fn plain(id: Id, kind: &str) -> Asset {
        Asset {
            id,
            kind: kind.to_owned(),
            site: None,
            location: None,
            parent: None,
            fed_by: Vec::new(),
            device: None,
            agent: None,
            profile: None,
            owner: None,
        }
    }

    /// An asset of the configuration. The site is taken from the location where it is not given.
    #[must_use]
    pub fn configured(id: Id, raw: &RawAsset) -> Asset {
        Asset {
            id,
            kind: raw.kind.clone(),
            site: raw.site.or_else(|| raw.location.as_deref().and_then(site_of)),
            location: raw.location.clone(),
            parent: raw.parent.clone(),
            fed_by: raw.fed_by.clone(),
            device: raw.device.clone(),
            agent: None,
            profile: None,
            owner: raw.owner.clone(),
        }
    }

    /// A device that described itself.
    #[must_use]
    pub fn described(site: Site, agent: &Id, meta: &DeviceMeta) -> Asset {
        // A check stands for the service it looks at, wherever it looks from; its parent says so.
        let own_site = if meta.kind == "check" { meta.location.as_deref().and_then(site_of) } else { Some(site) };
        Asset {
            id: meta.device.clone(),
            kind: meta.kind.clone(),
            site: own_site,
            location: meta.location.clone(),
            parent: meta.parent.clone().filter(|parent| *parent != meta.device),
            fed_by: Vec::new(),
            device: None,
            agent: Some(agent.clone()).filter(|agent| *agent != meta.device),
            profile: meta.profile.as_ref().map(|profile| profile.id.clone()),
            owner: None,
        }
    }

    /// The device whose points this asset has.
    #[must_use]
    pub fn device(&self) -> &Id {
        self.device.as_ref().unwrap_or(&self.id)
    }
}

fn site_of(location: &str) -> Option<Site> {
    location.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    fn fed(name: &str, kind: &str, by: &[&str]) -> Asset {
        let mut by = by.iter().map(|other| id(other));
        Asset { parent: by.next(), fed_by: by.collect(), site: Some(Site::A), ..Asset::plain(id(name), kind) }
    }

    #[test]
    fn feeds_are_found_nearest_first_and_end_at_the_site() {
        let mut topology = Topology::new();
        for asset in [
            fed("utility-a", "utility", &[]),
            fed("ups-a1", "ups", &["utility-a"]),
            fed("ups-a2", "ups", &["utility-a"]),
            fed("rack-7", "rack", &["ups-a1", "ups-a2"]),
            fed("srv-1", "host", &["rack-7"]),
        ] {
            assert!(topology.insert(asset));
        }
        let names: Vec<String> = topology.fed_by(&id("srv-1")).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["rack-7", "ups-a1", "ups-a2", "utility-a", "site-a"]);
        assert_eq!(topology.feeds(&id("ups-a2")), [id("rack-7"), id("srv-1")]);
        assert_eq!(topology.faults(), []);
    }

    #[test]
    fn a_check_needs_the_site_it_looks_at_and_the_one_it_looks_from() {
        let mut topology = Topology::new();
        let gateway = id("gw-a");
        topology.insert(Asset { site: Some(Site::A), ..Asset::plain(gateway.clone(), "agent") });
        topology.insert(Asset::plain(id("rx"), "service"));
        let check = Asset {
            site: Some(Site::B),
            parent: Some(id("rx")),
            agent: Some(gateway),
            ..Asset::plain(id("rx-b-from-a"), "check")
        };
        topology.insert(check);
        let names: Vec<String> = topology.fed_by(&id("rx-b-from-a")).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["rx", "gw-a", "site-b", "site-a"]);
    }

    #[test]
    fn a_cycle_is_reported_and_walks_end() {
        let mut topology = Topology::new();
        topology.insert(fed("a", "ups", &["b"]));
        topology.insert(fed("b", "pdu", &["c"]));
        topology.insert(fed("c", "pdx", &["a"]));
        assert_eq!(topology.fed_by(&id("a")), [id("b"), id("c"), id("site-a")]);
        let faults = topology.faults();
        assert!(faults.iter().any(|fault| matches!(fault, AssetFault::Cycle { .. })), "{faults:?}");
        assert!(faults.contains(&AssetFault::Kind { asset: id("c"), kind: "pdx".into(), nearest: Some("pdu") }));
    }
}
