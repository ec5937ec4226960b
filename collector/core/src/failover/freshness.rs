//! Which copy may become active without losing what was acknowledged.
//!
//! Knows: the latch (what the active copy committed about its peer before any fault) and the last facts of each copy.
//! Refuses to ask anybody now: after a fault an answer is worth nothing. Order: lineage, epoch, position.

use serde::{Deserialize, Serialize};

use bcp_wire::Site;
use bcp_wire::control::CopyRole;

use super::ticket::{Latch, Ticket};
use crate::policy::Rpo;

/// Three-valued; unknown is not fresh. A fork stops for a human.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Has everything the ticket's rpo asks for, and that was in the log before any fault.
    Fresh,
    Stale,
    Unknown,
    /// A history of its own: only a human can say which one counts.
    Forked,
}

impl Freshness {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Freshness::Fresh => "fresh",
            Freshness::Stale => "stale",
            Freshness::Unknown => "unknown",
            Freshness::Forked => "forked",
        }
    }
}

/// How fresh the copy at `target` is for this ticket.
#[must_use]
pub fn of(ticket: &Ticket, target: Site, rpo: Rpo) -> Freshness {
    // Nobody ever wrote: nothing can be lost.
    let Some(latch) = &ticket.latch else { return Freshness::Fresh };
    if latch.active == target {
        return Freshness::Fresh;
    }
    if forked(ticket, latch, target) {
        return Freshness::Forked;
    }
    // "In sync" is said of the standby; an emergency system at w is none.
    let in_sync = latch.in_sync.filter(|_| target != Site::W);
    match (rpo, in_sync) {
        (_, Some(true)) | (Rpo::Availability, _) => Freshness::Fresh,
        (Rpo::Zero, Some(false)) => Freshness::Stale,
        (Rpo::Zero, None) => Freshness::Unknown,
        (Rpo::Bounded { positions }, Some(false) | None) => bounded(ticket, latch, target, positions),
    }
}

/// A copy that says it stands by but has another lineage than the last writer went its own way.
fn forked(ticket: &Ticket, latch: &Latch, target: Site) -> bool {
    let (Some(ours), Some(theirs)) = (&latch.lineage, ticket.copies.get(&target)) else { return false };
    match theirs.facts.role {
        CopyRole::Standby | CopyRole::Active => theirs.facts.lineage != *ours,
        // A stopped copy has no history to show yet; it is judged by the latch alone.
        CopyRole::Stopped => !theirs.facts.lineage.is_empty() && theirs.facts.lineage != *ours,
    }
}

fn bounded(ticket: &Ticket, latch: &Latch, target: Site, positions: u64) -> Freshness {
    match (ticket.copies.get(&target), &latch.lineage) {
        (Some(copy), Some(lineage)) if copy.facts.lineage == *lineage => {
            // A copy only goes forward, so its last word is a lower bound.
            if latch.position.saturating_sub(copy.facts.position) <= positions {
                Freshness::Fresh
            } else {
                Freshness::Stale
            }
        }
        (Some(_) | None, Some(_) | None) => Freshness::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::ticket::CopyRecord;
    use crate::time::LogTime;
    use bcp_wire::Epoch;
    use bcp_wire::control::ServiceFacts;

    fn ticket(in_sync: Option<bool>, lineage: &str, position: u64) -> Ticket {
        let mut ticket = Ticket::new();
        ticket.latch = Some(Latch {
            active: Site::A,
            epoch: Epoch::NONE.next(),
            in_sync,
            lineage: Some("l1".to_owned()),
            position: 100,
            at: LogTime(0),
        });
        let facts = ServiceFacts {
            lineage: lineage.to_owned(),
            position,
            role: CopyRole::Standby,
            peer_in_sync: false,
            wants_alone: false,
            wish: 0,
        };
        ticket.copies.insert(Site::B, CopyRecord { facts, gate: "g".parse().unwrap(), at: LogTime(0) });
        ticket
    }

    #[test]
    fn freshness_is_three_valued_and_a_fork_stops_for_a_human() {
        use Freshness::{Forked, Fresh, Stale, Unknown};
        let bounded = Rpo::Bounded { positions: 10 };
        let table = [
            (Some(true), "l1", 100, Rpo::Zero, Fresh),
            (Some(false), "l1", 100, Rpo::Zero, Stale),
            (None, "l1", 100, Rpo::Zero, Unknown),
            (Some(true), "l2", 100, Rpo::Zero, Forked),
            (Some(false), "l1", 90, bounded, Fresh),
            (Some(false), "l1", 89, bounded, Stale),
            (None, "l2", 90, bounded, Forked),
            (None, "l1", 0, Rpo::Availability, Fresh),
            (None, "l2", 0, Rpo::Availability, Forked),
        ];
        for (in_sync, lineage, position, rpo, want) in table {
            assert_eq!(of(&ticket(in_sync, lineage, position), Site::B, rpo), want, "{in_sync:?} {lineage} {position}");
            assert_eq!(of(&ticket(in_sync, lineage, position), Site::A, rpo), Fresh, "the last writer itself");
        }
    }
}
