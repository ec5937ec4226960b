//! The configuration that all three collectors must share: timing, tickets, services.
//!
//! It enters the log as an item, so every decision can be replayed with the rules that were in force.

mod check;
mod facts;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use bcp_wire::control::Loss;
use bcp_wire::{Id, Site};

pub use check::{Fault, MAX_DURATION_MS, Problem, RHO_PERCENT};
pub use facts::{PoolPolicy, Require, SitePolicy};

use crate::site::Supply;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub timing: Timing,
    #[serde(default)]
    pub tickets: BTreeMap<Id, TicketPolicy>,
    #[serde(default)]
    pub services: BTreeMap<Id, ServicePolicy>,
    /// What tells how long a site goes on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<Site, SitePolicy>,
    /// Servers that share work.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<Id, PoolPolicy>,
}

/// Milliseconds. See the table of profiles in ARCHITECTURE.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timing {
    pub tick_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    pub renew_ms: u64,
    pub ttl_holder_ms: u64,
    pub ttl_ms: u64,
    pub acquire_after_ms: u64,
    pub stop_max_ms: u64,
}

impl Timing {
    pub const METRO: Timing = Timing {
        tick_ms: 250,
        election_min_ms: 750,
        election_max_ms: 1_500,
        renew_ms: 1_000,
        ttl_holder_ms: 10_000,
        ttl_ms: 11_000,
        acquire_after_ms: 4_000,
        stop_max_ms: 4_000,
    };
    pub const WIDE: Timing = Timing {
        tick_ms: 500,
        election_min_ms: 1_500,
        election_max_ms: 3_000,
        renew_ms: 3_000,
        ttl_holder_ms: 20_000,
        ttl_ms: 22_000,
        acquire_after_ms: 10_000,
        stop_max_ms: 10_000,
    };
    pub const FAST: Timing = Timing {
        tick_ms: 100,
        election_min_ms: 300,
        election_max_ms: 600,
        renew_ms: 300,
        ttl_holder_ms: 3_000,
        ttl_ms: 3_200,
        acquire_after_ms: 1_500,
        stop_max_ms: 1_400,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Off,
    /// Decides and logs, does nothing.
    Observe,
    /// A human confirms within `confirm_within_ms`.
    Confirm,
    Auto,
}

impl Mode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Observe => "observe",
            Mode::Confirm => "confirm",
            Mode::Auto => "auto",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rpo", rename_all = "snake_case")]
pub enum Rpo {
    /// Moves only to a copy latched in sync.
    Zero,
    Bounded {
        positions: u64,
    },
    Availability,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TicketKind {
    ActivePassive,
    /// No lease; the ticket guards who may change the weights.
    ActiveActive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossPolicy {
    Freeze,
    Demote,
    Stop,
    Fence,
}

impl TicketPolicy {
    /// Where a gate would do something else than this when its lease runs out: then nobody may rely on it. Nothing of an
    /// active-active service is promoted, so nothing of it is lost.
    #[must_use]
    pub fn loss_differs(&self, said: Option<Loss>) -> Option<String> {
        let wanted = match self.loss {
            LossPolicy::Freeze => Loss::Freeze,
            LossPolicy::Demote => Loss::Demote,
            LossPolicy::Stop => Loss::Stop,
            LossPolicy::Fence => Loss::Fence,
        };
        // A gate that does not say is an older one, and stops.
        let does = said.unwrap_or_default();
        let differs = self.kind == TicketKind::ActivePassive && does != wanted;
        differs.then(|| {
            format!("the policy says loss = \"{}\", this gate is set to \"{}\"", wanted.as_str(), does.as_str())
        })
    }
}

impl fmt::Display for MoveWhen {
    /// As it is configured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MoveWhen::SiteLost => f.write_str("site_lost(holder)"),
            MoveWhen::ServiceDown { for_ms } if for_ms % 1_000 == 0 => {
                write!(f, "service_down(holder) for {}s", for_ms / 1_000)
            }
            MoveWhen::ServiceDown { for_ms } => write!(f, "service_down(holder) for {for_ms}ms"),
            MoveWhen::RunsOut { supply, under_ms } if under_ms % 60_000 == 0 => {
                write!(f, "{}_runway(holder) < duration(\"{}m\")", supply.as_str(), under_ms / 60_000)
            }
            MoveWhen::RunsOut { supply, under_ms } => {
                write!(f, "{}_runway(holder) < duration(\"{}s\")", supply.as_str(), under_ms / 1_000)
            }
        }
    }
}

/// Why a ticket may move by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "snake_case")]
pub enum MoveWhen {
    SiteLost,
    ServiceDown {
        for_ms: u64,
    },
    /// Power or cooling of the holder's site lasts for less than this: a planned switchover before the end.
    RunsOut {
        supply: Supply,
        under_ms: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TicketPolicy {
    pub service: Id,
    pub kind: TicketKind,
    pub mode: Mode,
    /// Sites that may hold it. Never `w`.
    pub sites: Vec<Site>,
    /// `w`, where it may hold this ticket in an emergency: asked by one operator, confirmed by another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<Site>,
    pub preferred: Option<Site>,
    #[serde(flatten)]
    pub rpo: Rpo,
    /// Within which a drill is to have users served at the other site; judged in its report, and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    pub depends_on: Vec<Id>,
    pub move_when: Vec<MoveWhen>,
    /// What must hold at a target besides everything else, before anything goes there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Require>,
    /// Servers that carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Id>,
    /// What it takes of a site's share of the pool, in the pool's unit.
    #[serde(default)]
    pub reserves: u64,
    /// Where several leave a site at once, lower numbers go first and take the room they need.
    #[serde(default = "middle_priority")]
    pub priority: u32,
    pub loss: LossPolicy,
    /// Gates that must be able to act, per site: every one renews, every one reports.
    pub gates: BTreeMap<Site, Vec<Id>>,
    /// `auto` without a fence outside the machine was accepted by the operator; shown on every page.
    pub accept_unfenced: bool,
    pub confirm_within_ms: u64,
    pub cooldown_ms: u64,
    /// Automatic moves within 24 h of log time before the ticket freezes.
    pub move_budget: u32,
    /// A target steady for this long may take over a lost site even while the ticket cools down.
    pub stable_for_ms: u64,
}

const fn middle_priority() -> u32 {
    TicketPolicy::PRIORITY
}

impl TicketPolicy {
    pub const PRIORITY: u32 = 100;

    /// Sites it may ever be at, the emergency site included.
    pub fn places(&self) -> impl Iterator<Item = Site> {
        self.sites.iter().copied().chain(self.emergency)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServicePolicy {
    /// Public names, by language (`nl fr de en`).
    pub title: BTreeMap<String, String>,
    /// What the service is for, in a sentence, by language.
    pub summary: BTreeMap<String, String>,
    /// Position on the page.
    pub order: u32,
    pub ticket: Option<Id>,
    /// Devices of kind `check` whose `check.state` says how it is: agent-side ids, at least one vantage each.
    pub checks: Vec<Id>,
    /// Effect per profession while it is down or degraded: profession -> language -> text.
    pub effect: BTreeMap<String, BTreeMap<String, String>>,
    /// The emergency (BCP) procedure: profession -> language -> text.
    pub procedure: BTreeMap<String, BTreeMap<String, String>>,
    /// What can still be done while it is down or degraded, by language.
    #[serde(default)]
    pub still_works: BTreeMap<String, String>,
    /// Whom to call, telephone number included, by language. Shown also where the state is unknown.
    #[serde(default)]
    pub contact: BTreeMap<String, String>,
}
