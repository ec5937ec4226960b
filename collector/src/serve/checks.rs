//! What this site's collector sees of the services, from the check devices of all agents. PURE.
//!
//! Knows: which check looks at which service and from where at what. Refuses to know: what the other collectors see.
//!
//! Invariants: only a good, fresh `check.state` is a word; of several vantage points more than half of those that know
//! must agree before something is down; nobody knowing is unknown, never up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bcp_core::policy::{Policy, ServicePolicy};
use bcp_core::status::{ServiceSight, ServiceStatus};
use bcp_core::time::Mono;
use bcp_wire::{Id, Site, Value};

use super::view::DeviceView;

/// Checks named per word in an explanation; the rest is counted.
const MAX_NAMED: usize = 6;

/// What a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// The way users take.
    Users,
    Site(Site),
}

/// All services as this collector sees them now.
#[must_use]
pub fn sights(
    policy: &Policy,
    devices: &BTreeMap<Id, Arc<DeviceView>>,
    holders: &BTreeMap<Id, Option<Site>>,
    now: Mono,
) -> BTreeMap<Id, ServiceSight> {
    let mut checks: BTreeMap<&Id, BTreeSet<&Id>> =
        policy.services.iter().map(|(id, service)| (id, service.checks.iter().collect())).collect();
    for (id, device) in devices {
        let Some(meta) = device.meta.as_ref().filter(|meta| meta.kind == "check") else { continue };
        if let Some(listed) = meta.parent.as_ref().and_then(|service| checks.get_mut(service)) {
            listed.insert(id);
        }
    }
    policy
        .services
        .iter()
        .map(|(id, service)| {
            let holder = service.ticket.as_ref().and_then(|ticket| holders.get(ticket).copied().flatten());
            let listed = checks.get(id).into_iter().flatten().filter_map(|check| devices.get(*check));
            (id.clone(), sight(service, listed, holder, now))
        })
        .collect()
}

fn sight<'a>(
    service: &ServicePolicy,
    checks: impl Iterator<Item = &'a Arc<DeviceView>>,
    holder: Option<Site>,
    now: Mono,
) -> ServiceSight {
    let mut words: BTreeMap<Target, Vec<ServiceStatus>> = BTreeMap::new();
    let mut named: BTreeMap<ServiceStatus, Vec<&Id>> = BTreeMap::new();
    for check in checks {
        let target = match check.meta.as_ref().and_then(|meta| meta.location.as_deref()) {
            Some(place) => place.parse().map_or(Target::Users, Target::Site),
            None => Target::Users,
        };
        let status = word(check, now);
        words.entry(target).or_default().push(status);
        named.entry(status).or_default().push(&check.id);
    }
    let by_site: BTreeMap<Site, ServiceStatus> =
        Site::ALL.into_iter().filter_map(|site| Some((site, majority(words.get(&Target::Site(site))?)))).collect();
    let users = words.get(&Target::Users).map_or(ServiceStatus::Unknown, |words| majority(words));
    let status = match (users, service.ticket.is_some()) {
        (ServiceStatus::Unknown, true) => {
            holder.and_then(|site| by_site.get(&site).copied()).unwrap_or(ServiceStatus::Unknown)
        }
        // Active at several sites: as good as its best one.
        (ServiceStatus::Unknown, false) => best(by_site.values().copied()),
        (known, _) => known,
    };
    ServiceSight { status, by_site, explain: explain(&named) }
}

/// `9 of 9 checks up`, or what is not up by name: the good ones are only counted.
fn explain(named: &BTreeMap<ServiceStatus, Vec<&Id>>) -> String {
    let all: usize = named.values().map(Vec::len).sum();
    if all == 0 {
        return "no check looks at it".to_owned();
    }
    let up = named.get(&ServiceStatus::Up).map_or(0, Vec::len);
    let mut said = format!("{up} of {all} checks up");
    for (status, checks) in named.iter().filter(|(status, _)| **status != ServiceStatus::Up) {
        let names: Vec<&str> = checks.iter().take(MAX_NAMED).map(|id| id.as_str()).collect();
        said.push_str(&format!("; {} {}", names.join(", "), status.as_str()));
        if checks.len() > MAX_NAMED {
            said.push_str(&format!(" and {} more", checks.len() - MAX_NAMED));
        }
    }
    said
}

/// One check's word.
fn word(check: &DeviceView, now: Mono) -> ServiceStatus {
    let state = check.point("check.state").and_then(|point| point.good_value(now, check.source));
    match state.and_then(Value::as_text) {
        Some("up") => ServiceStatus::Up,
        Some("down") => ServiceStatus::Down,
        Some("degraded") => ServiceStatus::Degraded,
        _ => ServiceStatus::Unknown,
    }
}

/// Down where more than half of those that know say so, up where all do, degraded between.
fn majority(words: &[ServiceStatus]) -> ServiceStatus {
    let count = |status| words.iter().filter(|word| **word == status).count();
    let (up, down, degraded) = (count(ServiceStatus::Up), count(ServiceStatus::Down), count(ServiceStatus::Degraded));
    let known = up + down + degraded;
    match known {
        0 => ServiceStatus::Unknown,
        // One of several vantage points alone may be the one that is cut off.
        1 if words.len() > 2 && down == 1 => ServiceStatus::Unknown,
        _ if down * 2 > known => ServiceStatus::Down,
        // Users of one vantage point not reaching it is what the majority is there to leave out.
        _ if up * 2 > known => ServiceStatus::Up,
        _ => ServiceStatus::Degraded,
    }
}

fn best(words: impl Iterator<Item = ServiceStatus>) -> ServiceStatus {
    let rank = |status: &ServiceStatus| match status {
        ServiceStatus::Up => 0,
        ServiceStatus::Degraded => 1,
        ServiceStatus::Planned => 2,
        ServiceStatus::Down => 3,
        ServiceStatus::Unknown => 4,
    };
    words.min_by_key(rank).unwrap_or(ServiceStatus::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ServiceStatus::{Degraded, Down, Unknown, Up};

    #[test]
    fn more_than_half_of_those_that_know_decide() {
        assert_eq!(majority(&[Up, Up, Down]), Up);
        assert_eq!(majority(&[Down, Up, Down]), Down);
        assert_eq!(majority(&[Down, Up]), Degraded);
        assert_eq!(majority(&[Down, Unknown, Unknown]), Unknown, "one of three may be the one that is cut off");
        assert_eq!(majority(&[Down]), Down);
        assert_eq!(majority(&[Down, Unknown]), Down);
        assert_eq!(majority(&[Unknown, Unknown]), Unknown);
        assert_eq!(majority(&[]), Unknown);
        assert_eq!(majority(&[Degraded, Degraded, Up]), Degraded);
        assert_eq!(best([Down, Up].into_iter()), Up);
        assert_eq!(best([].into_iter()), Unknown);
    }

    #[test]
    fn what_is_up_is_counted_and_the_rest_is_named() {
        let ids: Vec<Id> = (0..9).map(|n| format!("rx-{n}").parse().unwrap()).collect();
        let named =
            |split: usize| BTreeMap::from([(Up, ids[..split].iter().collect()), (Down, ids[split..].iter().collect())]);
        assert_eq!(explain(&BTreeMap::from([(Up, ids.iter().collect())])), "9 of 9 checks up");
        assert_eq!(explain(&named(7)), "7 of 9 checks up; rx-7, rx-8 down");
        assert_eq!(explain(&named(1)), "1 of 9 checks up; rx-1, rx-2, rx-3, rx-4, rx-5, rx-6 down and 2 more");
        assert_eq!(explain(&BTreeMap::new()), "no check looks at it");
    }
}
