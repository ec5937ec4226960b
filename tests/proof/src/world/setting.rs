//! Policies that are played, and where a site stands in a row of three.

use std::collections::BTreeMap;

use bcp_core::policy::{Policy, ServicePolicy, TicketPolicy, Timing};
use bcp_wire::Site;

pub use sample::{id, passive, rx};

/// The sample policy of the core's own tests.
#[path = "../../../../collector/core/tests/sample/mod.rs"]
mod sample;

#[must_use]
pub const fn at(site: Site) -> usize {
    match site {
        Site::A => 0,
        Site::B => 1,
        Site::W => 2,
    }
}

/// The same with two gates at each site: every one has to report.
#[must_use]
pub fn two_gates() -> TicketPolicy {
    let gates = |site: Site| vec![id(&format!("host-{site}")), id(&format!("more-{site}"))];
    TicketPolicy { gates: [Site::A, Site::B].map(|site| (site, gates(site))).into_iter().collect(), ..passive() }
}

#[must_use]
pub fn policy(timing: Timing, tickets: &[(&str, TicketPolicy)]) -> Policy {
    Policy {
        timing,
        tickets: tickets.iter().map(|(name, ticket)| (id(name), ticket.clone())).collect(),
        services: BTreeMap::from([(rx(), ServicePolicy::default())]),
        sites: BTreeMap::new(),
        pools: BTreeMap::new(),
    }
}
