//! How a ticket stood at one moment of a drill: the evidence that no later entry tells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::control::{CopyRole, Phase};
use bcp_wire::{Epoch, Site};

use crate::failover::freshness::Freshness;
use crate::failover::view::GateView;
use crate::failover::{CanFailover, TicketView};
use crate::policy::Mode;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub holder: Option<Site>,
    pub epoch: Epoch,
    pub revision: u64,
    pub phase: Phase,
    pub mode: Mode,
    pub rule_hash: String,
    /// Latched: the standby of the active copy has everything; absent: nothing was said.
    pub in_sync: Option<bool>,
    pub latched_ago_ms: Option<u64>,
    pub freshness: BTreeMap<Site, Freshness>,
    pub copies: BTreeMap<Site, CopySeen>,
    pub gates: Vec<GateView>,
    pub can_failover_now: CanFailover,
}

/// What a copy of the data said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySeen {
    pub lineage: String,
    pub position: u64,
    pub role: CopyRole,
    pub age_ms: u64,
}

impl Standing {
    #[must_use]
    pub fn of(view: &TicketView) -> Standing {
        let copies = view.sync.copies.iter().map(|(site, copy)| {
            let facts = &copy.facts;
            let (lineage, position, role) = (facts.lineage.clone(), facts.position, facts.role);
            (*site, CopySeen { lineage, position, role, age_ms: copy.age_ms })
        });
        Standing {
            holder: view.holder,
            epoch: view.epoch,
            revision: view.revision,
            phase: view.phase,
            mode: view.mode,
            rule_hash: view.rule_hash.clone(),
            in_sync: view.sync.peer_in_sync,
            latched_ago_ms: view.sync.latched_ago_ms,
            freshness: view.sync.freshness.clone(),
            copies: copies.collect(),
            gates: view.gates.clone(),
            can_failover_now: view.can_failover_now.clone(),
        }
    }

    /// By how many positions the copy at `to` is behind the one at `from`, as both said last; unknown across histories.
    #[must_use]
    pub fn behind(&self, from: Site, to: Site) -> Option<u64> {
        let (active, standby) = (self.copies.get(&from)?, self.copies.get(&to)?);
        (active.lineage == standby.lineage).then(|| active.position.saturating_sub(standby.position))
    }
}
