//! Why a ticket is granted or moved, and what follows from the reason alone.

use std::fmt;

use serde::{Deserialize, Serialize};

use bcp_wire::Site;

use super::force::Guard;
use crate::site::Supply;

/// Why a ticket was granted or moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// Never held before: the preferred site's gates are there.
    FirstGrant,
    /// Its own site is back before anything had to move.
    Resumed,
    SiteLost {
        site: Site,
    },
    ServiceDown {
        site: Site,
        for_ms: u64,
    },
    /// Power or cooling of its site ends soon: it leaves while it can.
    RunsOut {
        site: Site,
        supply: Supply,
        under_ms: u64,
    },
    Operator {
        name: String,
        reason: String,
    },
    /// An automatic decision that a human confirmed.
    Confirmed {
        name: String,
        cause: Box<Cause>,
    },
    /// Two operators went around a guard.
    Forced {
        first: String,
        second: String,
        guard: Guard,
        reason: String,
    },
    /// Back to where it came from.
    Undone {
        reason: String,
    },
}

impl Cause {
    /// Counts for the budget and starts a cool-down.
    #[must_use]
    pub const fn automatic(&self) -> bool {
        match self {
            Cause::SiteLost { .. } | Cause::ServiceDown { .. } | Cause::RunsOut { .. } => true,
            Cause::FirstGrant
            | Cause::Resumed
            | Cause::Operator { .. }
            | Cause::Confirmed { .. }
            | Cause::Forced { .. }
            | Cause::Undone { .. } => false,
        }
    }

    /// Goes around this guard.
    #[must_use]
    pub const fn forces(&self, guarded: Guard) -> bool {
        match (self, guarded) {
            (Cause::Forced { guard: Guard::Freshness, .. }, Guard::Freshness)
            | (Cause::Forced { guard: Guard::Dependency, .. }, Guard::Dependency) => true,
            (_, Guard::Freshness | Guard::Dependency) => false,
        }
    }

    /// People chose the moment. Where the old holder says that it could not stop, they are asked again instead of waiting: what
    /// time covers is a holder that is silent.
    #[must_use]
    pub const fn is_ordered(&self) -> bool {
        match self {
            Cause::Operator { .. } | Cause::Forced { .. } | Cause::Undone { .. } => true,
            Cause::FirstGrant
            | Cause::Resumed
            | Cause::SiteLost { .. }
            | Cause::ServiceDown { .. }
            | Cause::RunsOut { .. }
            | Cause::Confirmed { .. } => false,
        }
    }

    /// What a human confirmed, or the cause itself.
    #[must_use]
    pub fn root(&self) -> &Cause {
        match self {
            Cause::Confirmed { cause, .. } => cause.root(),
            other => other,
        }
    }

    /// The holder was well when it was told to leave: its copy is as good as it was, and can be gone back to.
    #[must_use]
    pub const fn planned(&self) -> bool {
        match self {
            Cause::Operator { .. } | Cause::RunsOut { .. } => true,
            Cause::FirstGrant
            | Cause::Resumed
            | Cause::SiteLost { .. }
            | Cause::ServiceDown { .. }
            | Cause::Confirmed { .. }
            | Cause::Forced { .. }
            | Cause::Undone { .. } => false,
        }
    }

    /// Nothing is left to go on with where it is: a stop that fails is waited out, not called off.
    #[must_use]
    pub fn must_leave(&self) -> bool {
        match self {
            Cause::SiteLost { .. } | Cause::ServiceDown { .. } | Cause::RunsOut { .. } | Cause::Forced { .. } => true,
            Cause::Confirmed { cause, .. } => cause.must_leave(),
            Cause::FirstGrant | Cause::Resumed | Cause::Operator { .. } | Cause::Undone { .. } => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::FirstGrant => f.write_str("first grant"),
            Cause::Resumed => f.write_str("its own site is back"),
            Cause::SiteLost { site } => write!(f, "site {site} is lost"),
            Cause::ServiceDown { site, for_ms } => {
                write!(f, "the service is down at site {site} for {} s", for_ms / 1_000)
            }
            Cause::RunsOut { site, supply, under_ms } => {
                write!(f, "{} of site {site} lasts for less than {} s", supply.as_str(), under_ms / 1_000)
            }
            Cause::Operator { name, reason } => write!(f, "asked by {name}: {reason}"),
            Cause::Confirmed { name, cause } => write!(f, "{cause}, confirmed by {name}"),
            Cause::Forced { first, second, guard, reason } => {
                write!(f, "forced around its {guard} by {first} and {second}: {reason}")
            }
            Cause::Undone { reason } => write!(f, "undone: {reason}"),
        }
    }
}
