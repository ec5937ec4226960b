//! The policies and names that tests share; tests of `bcp-proof` read this file as well.

// Each test file uses a part of this, and a test may unwrap.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use bcp_core::policy::{LossPolicy, Mode, MoveWhen, Rpo, TicketKind, TicketPolicy};
use bcp_wire::{Id, Site};

/// # Panics
/// Never with the names used here.
#[must_use]
pub fn id(text: &str) -> Id {
    text.parse().unwrap_or_else(|error| unreachable!("{text} is a name: {error}"))
}

#[must_use]
pub fn rx() -> Id {
    id("rx")
}

/// An active-passive ticket with one gate at each site.
#[must_use]
pub fn passive() -> TicketPolicy {
    TicketPolicy {
        service: rx(),
        kind: TicketKind::ActivePassive,
        mode: Mode::Auto,
        sites: vec![Site::A, Site::B],
        preferred: Some(Site::A),
        rpo: Rpo::Zero,
        rto_ms: None,
        depends_on: Vec::new(),
        move_when: vec![MoveWhen::SiteLost, MoveWhen::ServiceDown { for_ms: 30_000 }],
        emergency: None,
        require: Vec::new(),
        pool: None,
        reserves: 0,
        priority: TicketPolicy::PRIORITY,
        loss: LossPolicy::Stop,
        gates: BTreeMap::from([(Site::A, vec![id("host-a")]), (Site::B, vec![id("host-b")])]),
        accept_unfenced: true,
        confirm_within_ms: 60_000,
        cooldown_ms: 3_600_000,
        move_budget: 2,
        stable_for_ms: 1_800_000,
    }
}
