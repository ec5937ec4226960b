//! What a site has left, and what it has: minutes of power and of cooling, servers that are up.
//!
//! Knows: how single signs become a runway or a count. Refuses to know: devices, topics and clocks; whoever observes hands in
//! what it measured. What one observer says is a word, never a decision: two of three have to agree (`failover::observe`).
//!
//! Invariants: unknown is a value of its own, neither endless nor short; one sign alone makes no runway; silence is not
//! counted as loss here, it is told as silence.

pub mod cooling;
pub mod pool;
pub mod power;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use bcp_wire::{Id, Site};

/// How long a site goes on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Runway {
    Unknown,
    /// Nothing runs out.
    Endless,
    Left {
        ms: u64,
    },
}

impl Runway {
    /// Surely shorter than this.
    #[must_use]
    pub const fn is_under(self, limit_ms: u64) -> bool {
        matches!(self, Runway::Left { ms } if ms < limit_ms)
    }

    /// The one that ends first. With one of them unknown nobody knows.
    #[must_use]
    pub fn shorter(self, other: Runway) -> Runway {
        match (self, other) {
            (Runway::Unknown, _) | (_, Runway::Unknown) => Runway::Unknown,
            (Runway::Endless, rest) | (rest, Runway::Endless) => rest,
            (Runway::Left { ms }, Runway::Left { ms: other }) => Runway::Left { ms: ms.min(other) },
        }
    }

    /// Surely longer than `other` by `margin_ms`.
    #[must_use]
    pub const fn exceeds(self, other: Runway, margin_ms: u64) -> bool {
        match (self, other) {
            (Runway::Endless, Runway::Left { .. }) => true,
            (Runway::Left { ms }, Runway::Left { ms: other }) => ms >= other.saturating_add(margin_ms),
            (Runway::Unknown, _) | (_, Runway::Unknown | Runway::Endless) => false,
        }
    }
}

impl std::fmt::Display for Runway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Runway::Unknown => f.write_str("unknown"),
            Runway::Endless => f.write_str("endless"),
            Runway::Left { ms } => write!(f, "{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        }
    }
}

/// What runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supply {
    Power,
    Cooling,
}

impl Supply {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Supply::Power => "power",
            Supply::Cooling => "cooling",
        }
    }
}

/// What one serve process sees of the sites; expires like an observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteVotes {
    pub observer: Site,
    pub session: u64,
    /// As of an observation: one that was overtaken is ignored.
    pub seq: u64,
    pub sites: BTreeMap<Site, SiteWord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SiteWord {
    /// Absent where the policy names nothing that would tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Runway>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooling: Option<Runway>,
    /// More than half of the site's agents vanished within one interval: seen from here it may be the network.
    #[serde(default)]
    pub mass_silence: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<Id, PoolWord>,
}

impl SiteWord {
    #[must_use]
    pub const fn runway(&self, supply: Supply) -> Option<Runway> {
        match supply {
            Supply::Power => self.power,
            Supply::Cooling => self.cooling,
        }
    }

    /// Whatever runs out first.
    #[must_use]
    pub fn shortest(&self) -> Option<Runway> {
        match (self.power, self.cooling) {
            (Some(power), Some(cooling)) => Some(power.shorter(cooling)),
            (one, other) => one.or(other),
        }
    }
}

/// Servers of a pool at one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolWord {
    pub up: u32,
    /// Something that looks at them says that they are down.
    pub down: u32,
    /// Their agent vanished; that is loss only where it is not the network.
    pub silent: u32,
    pub unknown: u32,
    /// What the servers that are up carry together, in the unit of the pool. Absent where one of them does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u64>,
}

impl PoolWord {
    /// As many as there can be at most, if what is silent counts as lost or does not.
    #[must_use]
    pub const fn at_most(&self, silence_is_loss: bool) -> u32 {
        let known = self.up.saturating_add(self.unknown);
        if silence_is_loss { known } else { known.saturating_add(self.silent) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_neither_short_nor_long() {
        let left = |ms| Runway::Left { ms };
        assert!(!Runway::Unknown.is_under(u64::MAX) && !Runway::Endless.is_under(u64::MAX));
        assert!(left(359_999).is_under(360_000) && !left(360_000).is_under(360_000));
        assert!(Runway::Endless.exceeds(left(1), 600_000));
        assert!(left(660_000).exceeds(left(60_000), 600_000) && !left(659_999).exceeds(left(60_000), 600_000));
        assert!(!Runway::Unknown.exceeds(left(0), 0) && !Runway::Endless.exceeds(Runway::Unknown, 0));
        assert_eq!(left(5).shorter(Runway::Unknown), Runway::Unknown);
        assert_eq!(left(5).shorter(Runway::Endless), left(5));
        assert_eq!(left(5).shorter(left(4)), left(4));
    }

    #[test]
    fn silence_counts_as_loss_only_where_it_is_said_so() {
        let word = PoolWord { up: 1, down: 1, silent: 2, unknown: 1, load: None };
        assert_eq!((word.at_most(true), word.at_most(false)), (2, 4));
    }
}
