//! When a move happens.

use serde::{Deserialize, Serialize};

use bcp_wire::Site;

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
    Operator {
        name: String,
        reason: String,
    },
    /// An automatic decision that a human confirmed.
    Confirmed {
        name: String,
        cause: Box<Cause>,
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
            Cause::SiteLost { .. } | Cause::ServiceDown { .. } => true,
            Cause::FirstGrant
            | Cause::Resumed
            | Cause::Operator { .. }
            | Cause::Confirmed { .. }
            | Cause::Undone { .. } => false,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::FirstGrant => f.write_str("first grant"),
            Cause::Resumed => f.write_str("its own site is back"),
            Cause::SiteLost { site } => write!(f, "site {site} is lost"),
            Cause::ServiceDown { site, for_ms } => {
                write!(f, "the service is down at site {site} for {} s", for_ms / 1_000)
            }
            Cause::Operator { name, reason } => write!(f, "asked by {name}: {reason}"),
            Cause::Confirmed { name, cause } => write!(f, "{cause}, confirmed by {name}"),
            Cause::Undone { reason } => write!(f, "undone: {reason}"),
        }
    }
}
