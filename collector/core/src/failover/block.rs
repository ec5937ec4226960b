//! What stands between a ticket and a move.

use std::fmt;

use bcp_wire::{Epoch, Id, Site};

use super::freshness::Freshness;
use super::require::Unmet;

/// Something that stands in the way of a move. Its text has no figures that run, so it is noted once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    Off,
    ObserveOnly,
    Frozen {
        owner: String,
        reason: String,
    },
    /// A move is under way, or the grant is not in effect yet.
    Busy,
    NoHolder,
    NoTarget,
    GateMissing {
        site: Site,
        gate: Id,
    },
    GateTrouble {
        site: Site,
        gate: Id,
        trouble: String,
    },
    NotFresh {
        site: Site,
        freshness: Freshness,
    },
    Dependency {
        ticket: Id,
    },
    CoolingDown,
    BudgetUsed {
        budget: u32,
    },
    /// Fewer than two observers besides the holder's own site: its loss could not be agreed.
    FewObservers {
        site: Site,
        heard: usize,
    },
    OnlyOneServing,
    /// The target lacks something that the policy asks for.
    Unmet(Unmet),
    /// It was decided without these collectors.
    Overruled {
        epoch: Epoch,
    },
    /// From a backup: what was given since may still be in force.
    Restored,
    /// The old holder is there, and could not verify that it stopped.
    Unstopped {
        site: Site,
        gate: Id,
    },
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Block::Off => f.write_str("its mode is off"),
            Block::ObserveOnly => f.write_str("its mode is observe"),
            Block::Frozen { owner, reason } => write!(f, "it is frozen by {owner}: {reason}"),
            Block::Busy => f.write_str("a move is under way"),
            Block::NoHolder => f.write_str("no site holds it"),
            Block::NoTarget => f.write_str("there is no other site that may hold it"),
            Block::GateMissing { site, gate } => write!(f, "gate {gate} of site {site} is not heard"),
            Block::GateTrouble { site, gate, trouble } => write!(f, "gate {gate} of site {site} reports: {trouble}"),
            Block::NotFresh { site, freshness } => match freshness {
                Freshness::Fresh => write!(f, "the copy at site {site} is fresh"),
                Freshness::Stale => write!(f, "the copy at site {site} lacks acknowledged data"),
                Freshness::Unknown => write!(f, "whether the copy at site {site} has everything is unknown"),
                Freshness::Forked => write!(f, "the copy at site {site} has a history of its own"),
            },
            Block::Dependency { ticket } => write!(f, "{ticket}, on which it depends, is not active"),
            Block::CoolingDown => f.write_str("it cools down after an automatic move"),
            Block::BudgetUsed { budget } => write!(f, "{budget} automatic moves within 24 h are used up"),
            Block::FewObservers { site, heard } => {
                write!(f, "only {heard} of the 2 other observers could tell that site {site} is lost")
            }
            Block::Unmet(unmet) => unmet.fmt(f),
            Block::Overruled { epoch } => {
                write!(f, "its gates were given epoch {epoch} without these collectors, which are not readmitted yet")
            }
            Block::Restored => f.write_str("it was restored from a backup, and what was decided since is waited out"),
            Block::OnlyOneServing => f.write_str("only one site serves"),
            Block::Unstopped { site, gate } => {
                write!(f, "gate {gate} of site {site} says that its stop is not verified: the service may run there")
            }
        }
    }
}
