//! Two of three: service states from the observers' votes.

use std::collections::BTreeMap;

use bcp_wire::{Id, Site};

use super::{
    DISAGREE_MS, Intervention, Service, ServiceEvent, ServiceSight, ServiceStatus, SiteStatus, State, VOTE_EXPIRY_MS,
    intervention,
};
use crate::policy::Policy;
use crate::time::{LogTime, Wall};

/// What the known votes add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    Agreed(ServiceStatus),
    /// Two know, and they differ.
    Split,
    /// Fewer than two know.
    TooFew,
}

/// At least two of three say this or worse: the middle one of three, or both of two.
#[must_use]
pub fn agree(votes: &[ServiceStatus]) -> Agreement {
    let mut known: Vec<ServiceStatus> = votes.iter().copied().filter(|vote| *vote != ServiceStatus::Unknown).collect();
    known.sort_unstable();
    match known.as_slice() {
        [] | [_] => Agreement::TooFew,
        [one, other] if one == other => Agreement::Agreed(*one),
        [_, _] => Agreement::Split,
        [_, middle, ..] => Agreement::Agreed(*middle),
    }
}

pub(super) fn judge(state: &mut State, now: LogTime, wall: Wall, policy: &Policy, events: &mut Vec<ServiceEvent>) {
    state.services.retain(|id, _| policy.services.contains_key(id));
    state.votes.retain(|_, vote| now.since(vote.heard) < VOTE_EXPIRY_MS);
    for id in policy.services.keys() {
        let sights: BTreeMap<Site, &ServiceSight> =
            state.votes.iter().filter_map(|(site, vote)| Some((*site, vote.services.get(id)?))).collect();
        let service = state.services.entry(id.clone()).or_insert_with(|| Service {
            since: now,
            since_wall: wall,
            ..Service::default()
        });
        judge_service(id, service, &state.interventions, &sights, now, wall, events);
        for site in Site::ALL {
            judge_site(id, service, site, &sights, now, events);
        }
    }
}

fn judge_service(
    id: &Id,
    service: &mut Service,
    works: &BTreeMap<String, Intervention>,
    sights: &BTreeMap<Site, &ServiceSight>,
    now: LogTime,
    wall: Wall,
    events: &mut Vec<ServiceEvent>,
) {
    let votes: Vec<ServiceStatus> = sights.values().map(|sight| sight.status).collect();
    let known = votes.iter().filter(|vote| **vote != ServiceStatus::Unknown).count();
    service.known = u8::try_from(known).unwrap_or(u8::MAX);
    let to = match agree(&votes) {
        Agreement::Agreed(status) => {
            service.disagree_since = None;
            // What was an incident before the work began stays one.
            if service.incident.is_some() { status } else { intervention::shown(works, id, status) }
        }
        Agreement::Split => {
            let since = *service.disagree_since.get_or_insert(now);
            if now.since(since) < DISAGREE_MS { service.status } else { ServiceStatus::Unknown }
        }
        Agreement::TooFew => {
            service.disagree_since = None;
            ServiceStatus::Unknown
        }
    };
    if to == service.status {
        return;
    }
    let reason = reason(to, known, sights);
    let from = std::mem::replace(&mut service.status, to);
    service.since = now;
    service.since_wall = wall;
    service.reason.clone_from(&reason);
    events.push(ServiceEvent::Changed { service: id.clone(), from, to, reason });
}

/// Longest reason kept, in characters: three observers' explanations are short.
const MAX_REASON: usize = 600;

fn reason(to: ServiceStatus, known: usize, sights: &BTreeMap<Site, &ServiceSight>) -> String {
    // Observers that say the same are named together: the usual case is one short sentence.
    let mut groups: BTreeMap<(ServiceStatus, &str), Vec<&str>> = BTreeMap::new();
    for (site, sight) in sights {
        groups.entry((sight.status, sight.explain.trim_end_matches('.'))).or_default().push(site.as_str());
    }
    let said: Vec<String> = groups
        .into_iter()
        .map(|((status, explain), sites)| {
            let (say, dash) =
                (if sites.len() > 1 { "say" } else { "says" }, if explain.is_empty() { "" } else { ": " });
            format!("{} {say} {}{dash}{explain}", sites.join(", "), status.as_str())
        })
        .collect();
    let all = match to {
        ServiceStatus::Unknown if said.is_empty() => "no collector reports on it".to_owned(),
        ServiceStatus::Unknown => format!("{known} of 3 collectors know and do not agree; {}", said.join("; ")),
        ServiceStatus::Up | ServiceStatus::Planned | ServiceStatus::Degraded | ServiceStatus::Down => said.join("; "),
    };
    all.chars().take(MAX_REASON).collect()
}

fn judge_site(
    id: &Id,
    service: &mut Service,
    site: Site,
    sights: &BTreeMap<Site, &ServiceSight>,
    now: LogTime,
    events: &mut Vec<ServiceEvent>,
) {
    let votes: Vec<ServiceStatus> = sights.values().filter_map(|sight| sight.by_site.get(&site).copied()).collect();
    if votes.is_empty() && !service.by_site.contains_key(&site) {
        return;
    }
    let known = service.by_site.entry(site).or_insert(SiteStatus { status: ServiceStatus::Unknown, since: now });
    let to = match agree(&votes) {
        Agreement::Agreed(status) => status,
        // A site's own state has no patience: whoever acts on it measures its own time.
        Agreement::Split | Agreement::TooFew => ServiceStatus::Unknown,
    };
    if to != known.status {
        let from = std::mem::replace(&mut known.status, to);
        known.since = now;
        events.push(ServiceEvent::SiteChanged { service: id.clone(), site, from, to });
    }
}
