//! Policies that are played, and where a site stands in a row of three.

use std::collections::BTreeMap;

use bcp_core::policy::{Policy, PoolPolicy, ServicePolicy, TicketPolicy, Timing};
use bcp_wire::{Id, Site};

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

/// A service that a pool of servers carries.
#[must_use]
pub fn carried() -> TicketPolicy {
    TicketPolicy { pool: Some(id("app")), ..passive() }
}

/// Eight servers at each site, of which four are needed, and two that stand by: ten agents.
#[must_use]
pub fn pooled(timing: Timing, tickets: &[(&str, TicketPolicy)]) -> Policy {
    let some = |from: u32, to: u32| {
        let ids = |site: Site| (from..=to).map(|n| id(&format!("app-{site}{n}"))).collect::<Vec<Id>>();
        [Site::A, Site::B].map(|site| (site, ids(site))).into_iter().collect()
    };
    let pool = PoolPolicy {
        servers: some(1, 8),
        reserve: some(9, 10),
        min: 4,
        rise_ms: 5_000,
        fall_ms: 5_000,
        each: 0,
        load: None,
    };
    Policy { pools: BTreeMap::from([(id("app"), pool)]), ..policy(timing, tickets) }
}
