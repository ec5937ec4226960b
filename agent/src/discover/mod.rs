//! `discover`: looks at addresses and proposes devices.
//!
//! | module | knows |
//! |---|---|
//! | [`target`], [`spec`] | which addresses, asked how |
//! | [`modbus`] | who a Modbus device says it is |
//! | [`propose`] | which profile fits, and how surely |
//!
//! Here: the asking, bounded in rate and number. It only reads devices, and writes nothing anywhere.

pub mod modbus;
pub mod propose;
pub mod spec;
pub mod target;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use crate::config::{DeviceConfig, Link, ModbusLink, SnmpLink};
use crate::profile::{self, Profile};
use crate::source::snmp::identify::identify;
use crate::source::{Polled, device_groups};
use propose::{Candidate, Proposal, confidence, id_for, modbus_candidates, snmp_candidates, sunspec_candidates};
use spec::{ModbusSpec, SnmpSpec};

/// Time for trying one profile on one device: its tables are walked too.
const TRY_BUDGET: Duration = Duration::from_secs(10);
/// Below this a proposal says so.
const UNSURE_BELOW: u32 = 60;

/// What to look for, where, and how fast.
#[derive(Debug)]
pub struct Search {
    pub addresses: Vec<IpAddr>,
    pub snmp: Vec<SnmpSpec>,
    pub modbus: Vec<ModbusSpec>,
    pub timeout: Duration,
    /// Addresses asked at one time.
    pub at_once: usize,
    /// Addresses asked a second.
    pub per_second: u32,
}

/// All profiles there are, of the directory and built in; those at fault are left out.
#[must_use]
pub fn profiles(dir: Option<&std::path::Path>) -> Vec<Arc<Profile>> {
    profile::embedded_ids()
        .filter_map(|id| match profile::load(id, dir) {
            Ok(profile) => Some(profile),
            Err(error) => {
                tracing::warn!(profile = id, %error, "left out");
                None
            }
        })
        .collect()
}

/// Looks at every address. Proposals in the order of addresses.
pub async fn search(search: &Search, profiles: &[Arc<Profile>]) -> Vec<Proposal> {
    let gap = Duration::from_secs(1) / search.per_second.max(1);
    let mut pace = tokio::time::interval(gap);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let paced = futures::stream::unfold((pace, search.addresses.iter().enumerate()), |(mut pace, mut rest)| async {
        let next = rest.next()?;
        pace.tick().await;
        Some((next, (pace, rest)))
    });
    let found = paced
        .map(|(place, address)| async move { (place, look_at(search, *address, profiles).await) })
        .buffer_unordered(search.at_once.max(1));
    let mut found: Vec<(usize, Vec<Found>)> = found.collect().await;
    found.sort_by_key(|(place, _)| *place);
    let mut taken = BTreeSet::new();
    found.into_iter().flat_map(|(_, found)| found).map(|found| found.propose(&mut taken)).collect()
}

/// A device that answered.
struct Found {
    ip: IpAddr,
    address: String,
    protocol: &'static str,
    name: String,
    says: String,
    /// Configuration of its address and credentials.
    link: String,
    best: Option<Best>,
}

struct Best {
    profile: Arc<Profile>,
    confidence: u32,
    read: (usize, usize),
    proven: Option<bool>,
    shift: i32,
}

impl Found {
    fn propose(self, taken: &mut BTreeSet<String>) -> Proposal {
        let config = self.best.as_ref().map(|best| {
            let id = id_for(&self.name, &best.profile.kind, self.ip, taken);
            let profile = &best.profile.reference.id;
            let unsure =
                if best.confidence < UNSURE_BELOW { "# not sure: compare with the device itself\n" } else { "" };
            format!("{unsure}[[device]]\nid = \"{id}\"\nprofile = \"{profile}\"\n{}\n", self.link)
        });
        Proposal {
            address: self.address,
            protocol: self.protocol,
            says: self.says,
            profile: self.best.as_ref().map(|best| best.profile.reference.id.clone()),
            confidence: self.best.as_ref().map_or(0, |best| best.confidence),
            read: self.best.as_ref().map(|best| best.read),
            firmware_proven: self.best.as_ref().and_then(|best| best.proven),
            config,
        }
    }
}

async fn look_at(search: &Search, ip: IpAddr, profiles: &[Arc<Profile>]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut answered = BTreeSet::new();
    for spec in &search.snmp {
        // Credentials are tried in their order; the first that works is proposed.
        if answered.contains(&spec.port) {
            continue;
        }
        if let Some(device) = look_at_snmp(search, ip, spec, profiles).await {
            answered.insert(spec.port);
            found.push(device);
        }
    }
    for spec in &search.modbus {
        for unit in &spec.units {
            found.extend(look_at_modbus(search, ip, spec.port, *unit, profiles).await);
        }
    }
    found
}

async fn look_at_snmp(search: &Search, ip: IpAddr, spec: &SnmpSpec, profiles: &[Arc<Profile>]) -> Option<Found> {
    let address = SocketAddr::new(ip, spec.port).to_string();
    let link = SnmpLink { address: address.clone(), access: spec.access.clone(), timeout: search.timeout, retries: 0 };
    let identity = match identify(&link).await {
        Ok(identity) => identity,
        Err(error) => {
            tracing::debug!(%address, %error, "no SNMP");
            return None;
        }
    };
    let candidates = snmp_candidates(profiles, identity.object_id.as_ref(), &identity.descr);
    let link = SnmpLink { retries: 1, ..link };
    let best = best_of(candidates, |candidate| device(&candidate.profile, Link::Snmp(link.clone()))).await;
    let object_id = identity.object_id.map(|oid| format!(" ({oid})")).unwrap_or_default();
    Some(Found {
        ip,
        link: format!("snmp = {{ address = \"{address}\", {} }}", spec.written),
        address,
        protocol: "snmp",
        name: identity.name,
        says: format!("{}{object_id}", one_line(&identity.descr)),
        best,
    })
}

/// One device, or one for each model of its SunSpec map that there is a profile for.
async fn look_at_modbus(search: &Search, ip: IpAddr, port: u16, unit: u8, profiles: &[Arc<Profile>]) -> Vec<Found> {
    let address = SocketAddr::new(ip, port).to_string();
    let Some(identity) = modbus::identify(&address, unit, search.timeout).await else { return Vec::new() };
    let link = ModbusLink::tcp(address.clone(), unit, search.timeout);
    let mut says = one_line(&identity.texts.join(", "));
    if let Some(map) = &identity.sunspec {
        let models: Vec<String> = map.models.iter().map(|(model, _)| model.to_string()).collect();
        let _ = write!(says, "{}SunSpec at {}", if says.is_empty() { "" } else { ", " }, map.base);
        if !models.is_empty() {
            let _ = write!(says, " with models {}", models.join(" "));
        }
    }
    if says.is_empty() {
        "does not say what it is".clone_into(&mut says);
    }
    let mut parts: Vec<(String, Vec<Candidate>)> = sunspec_candidates(profiles, &identity)
        .into_iter()
        .map(|((model, at), candidates)| (format!("{says}; model {model} at {at}"), candidates))
        .collect();
    if parts.is_empty() {
        parts.push((says, modbus_candidates(profiles, &identity)));
    }
    let mut found = Vec::new();
    for (says, candidates) in parts {
        let config = |candidate: &Candidate| {
            device(&candidate.profile, Link::Modbus(ModbusLink { shift: candidate.shift, ..link.clone() }))
        };
        let best = best_of(candidates, config).await;
        let shift = best.as_ref().map(|best| best.shift).filter(|shift| *shift != 0);
        let shift = shift.map(|shift| format!(", shift = {shift}")).unwrap_or_default();
        found.push(Found {
            ip,
            link: format!("modbus = {{ address = \"{address}\", unit = {unit}{shift} }}"),
            address: format!("{address} unit {unit}"),
            protocol: "modbus",
            name: String::new(),
            says,
            best,
        });
    }
    found
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect()
}

/// Tries candidates on the device, and keeps the one that reads best.
async fn best_of(candidates: Vec<Candidate>, config: impl Fn(&Candidate) -> Option<DeviceConfig>) -> Option<Best> {
    let mut best: Option<Best> = None;
    for candidate in candidates {
        let Some(config) = config(&candidate) else { continue };
        let Some(mut group) = device_groups([Arc::new(config)]).pop() else { continue };
        let polled: Polled = group.poll(0, TRY_BUDGET).await;
        let good = polled.samples.iter().filter(|(_, _, value)| value.is_ok()).count();
        let all = polled.samples.len();
        let confidence = confidence(candidate.sign, good, all);
        if best.as_ref().is_none_or(|best| confidence > best.confidence) {
            let proven = polled.meta.as_ref().filter(|meta| meta.firmware.is_some()).map(|meta| meta.firmware_proven);
            let Candidate { profile, shift, .. } = candidate;
            best = Some(Best { profile, confidence, read: (good, all), proven, shift });
        }
    }
    // A profile of which nothing can be read is no proposal.
    best.filter(|best| best.read.0 > 0)
}

fn device(profile: &Arc<Profile>, link: Link) -> Option<DeviceConfig> {
    Some(DeviceConfig {
        id: "discovered".parse().ok()?,
        kind: profile.kind.clone(),
        profile: Arc::clone(profile),
        location: None,
        parent: None,
        interval: TRY_BUDGET,
        link,
    })
}

/// Proposals for people: a line each, then the blocks.
#[must_use]
pub fn text(proposals: &[Proposal], looked_at: usize) -> String {
    let mut text = format!("{} of {looked_at} addresses answered\n", addresses(proposals));
    if proposals.is_empty() {
        return text;
    }
    let _ = writeln!(text, "\n{:<26}  {:<28}  {:>10}  {:>9}  says", "address", "profile", "confidence", "read");
    for proposal in proposals {
        let profile = proposal.profile.as_deref().unwrap_or("none fits");
        let read = proposal.read.map_or_else(String::new, |(good, all)| format!("{good}/{all}"));
        let says = &proposal.says;
        let proven = if proposal.firmware_proven == Some(false) { "  firmware not proven" } else { "" };
        let _ = writeln!(
            text,
            "{:<26}  {profile:<28}  {:>8} %  {read:>9}  {says}{proven}",
            proposal.address, proposal.confidence
        );
    }
    for config in proposals.iter().filter_map(|proposal| proposal.config.as_ref()) {
        let _ = write!(text, "\n{config}");
    }
    text
}

fn addresses(proposals: &[Proposal]) -> usize {
    let host = |proposal: &Proposal| {
        proposal.address.split(' ').next().and_then(|a| a.rsplit_once(':')).map(|a| a.0.to_owned())
    };
    proposals.iter().filter_map(host).collect::<BTreeSet<_>>().len()
}
