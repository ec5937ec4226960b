//! The chart of a ticket: where it can stand, and what turns it.
//!
//! Knows: for every standing and every kind of ledger entry, where the ticket stands then, or that this entry cannot be
//! there. Refuses to know: why a turn is taken (that is `decide`, `progress` and the operators). Invariants: nothing is left
//! to a wildcard; the diagram of ARCHITECTURE.md is drawn from this table (a test compares them), and the proof follows
//! the ledger through it at every tick, so chart, diagram and shipped behaviour cannot drift apart.

use std::fmt::Write as _;

use bcp_wire::control::Phase;

use super::event::TicketEvent;
use super::saga::Stage;
use super::ticket::Ticket;

/// Where a ticket stands: its phase, and the stage of its move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    /// Nobody may run the service, or the last holder's time is being waited out.
    Free,
    Held,
    /// The holder was asked to stop.
    Stopping,
    /// A stop report is missing: nothing is renewed.
    Lapsing,
    /// Granted, and not yet in effect.
    Sealing,
    /// In effect; the gates of the holder promote.
    Promoting,
    Publishing,
}

/// What turns it. All but [`Turn::Promoted`] are entries of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Turn {
    Granted,
    Effective,
    /// Every promotion was reported done; the reports are in the ledger, the turn itself is not.
    Promoted,
    Finished,
    DrainStarted,
    DrainCancelled,
    Released,
    Lapsed,
    Expired,
    Closed,
    Compensating,
    Stuck,
    Weighed,
    Readmitted,
}

impl Standing {
    pub const ALL: [Standing; 7] = [
        Standing::Free,
        Standing::Held,
        Standing::Stopping,
        Standing::Lapsing,
        Standing::Sealing,
        Standing::Promoting,
        Standing::Publishing,
    ];

    /// None: the phase and the stage contradict each other, which no ticket may ever do.
    #[must_use]
    pub fn of(ticket: &Ticket) -> Option<Standing> {
        let stage = ticket.moving.as_ref().map(|moving| moving.stage);
        match (ticket.phase, stage) {
            (Phase::Free, None) => Some(Standing::Free),
            (Phase::Held, None) => Some(Standing::Held),
            (Phase::Held, Some(Stage::Promoting { .. })) => Some(Standing::Promoting),
            (Phase::Held, Some(Stage::Publishing { .. })) => Some(Standing::Publishing),
            (Phase::Draining, Some(Stage::Stopping { .. })) => Some(Standing::Stopping),
            (Phase::Draining, Some(Stage::Lapsing)) => Some(Standing::Lapsing),
            (Phase::Granting, Some(Stage::Sealing { .. })) => Some(Standing::Sealing),
            (
                Phase::Free | Phase::Granting | Phase::Draining,
                Some(Stage::Promoting { .. } | Stage::Publishing { .. }),
            )
            | (Phase::Free | Phase::Held | Phase::Granting, Some(Stage::Stopping { .. } | Stage::Lapsing))
            | (Phase::Free | Phase::Held | Phase::Draining, Some(Stage::Sealing { .. }))
            | (Phase::Granting | Phase::Draining, None) => None,
        }
    }

    /// Where the ticket stands after a turn. None: it cannot happen there.
    #[must_use]
    pub const fn next(self, turn: Turn) -> Option<Standing> {
        use Standing::{Free, Held, Lapsing, Promoting, Publishing, Sealing, Stopping};
        match turn {
            // An abort while sealing grants the next epoch to the site it came from.
            Turn::Granted => match self {
                Free | Sealing => Some(Sealing),
                Held | Stopping | Lapsing | Promoting | Publishing => None,
            },
            Turn::Effective => match self {
                Sealing => Some(Promoting),
                Free | Held | Stopping | Lapsing | Promoting | Publishing => None,
            },
            Turn::Promoted => match self {
                Promoting => Some(Publishing),
                Free | Held | Stopping | Lapsing | Sealing | Publishing => None,
            },
            Turn::Finished => match self {
                Publishing => Some(Held),
                Free | Held | Stopping | Lapsing | Sealing | Promoting => None,
            },
            Turn::DrainStarted => match self {
                Held => Some(Stopping),
                Free | Stopping | Lapsing | Sealing | Promoting | Publishing => None,
            },
            Turn::DrainCancelled => match self {
                Stopping => Some(Held),
                Free | Held | Lapsing | Sealing | Promoting | Publishing => None,
            },
            Turn::Released => match self {
                Stopping | Lapsing => Some(Free),
                Free | Held | Sealing | Promoting | Publishing => None,
            },
            Turn::Lapsed => match self {
                Stopping => Some(Lapsing),
                Free | Held | Lapsing | Sealing | Promoting | Publishing => None,
            },
            Turn::Expired => match self {
                Held | Stopping | Lapsing | Promoting | Publishing => Some(Free),
                Free | Sealing => None,
            },
            Turn::Closed => match self {
                Held | Promoting | Publishing => Some(Free),
                Free | Stopping | Lapsing | Sealing => None,
            },
            // From a promotion that was refused it goes back through a stop; from elsewhere as what follows says.
            Turn::Compensating => match self {
                Promoting => Some(Stopping),
                Free | Stopping | Lapsing | Sealing => Some(self),
                Held | Publishing => None,
            },
            // Promoted far enough to run, it stays where it is; before that nobody has it.
            Turn::Stuck => match self {
                Free | Sealing => Some(Free),
                Promoting | Publishing => Some(Held),
                Held | Stopping | Lapsing => None,
            },
            // Active-active: whoever may change the weights has it at once.
            Turn::Weighed => match self {
                Free | Held => Some(Held),
                Stopping | Lapsing | Sealing | Promoting | Publishing => None,
            },
            // Whatever these collectors believed was decided without them meanwhile.
            Turn::Readmitted => Some(Free),
        }
    }

    /// Where the ledger says that the ticket stands after an entry.
    ///
    /// # Errors
    /// The turn that cannot happen there.
    pub fn after(self, event: &TicketEvent) -> Result<Standing, Turn> {
        let Some(turn) = Turn::of(event) else { return Ok(self) };
        // The turn that is no entry of its own comes before the ones that need it.
        let from = match (turn, self) {
            (Turn::Finished, Standing::Promoting) => Standing::Publishing,
            (_, standing) => standing,
        };
        from.next(turn).ok_or(turn)
    }

    /// The ticket stands here, if the entries say that it stands `told`.
    #[must_use]
    pub fn agrees_with(self, told: Standing) -> bool {
        self == told || told.next(Turn::Promoted) == Some(self)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Standing::Free => "Free",
            Standing::Held => "Held",
            Standing::Stopping => "Stopping",
            Standing::Lapsing => "Lapsing",
            Standing::Sealing => "Sealing",
            Standing::Promoting => "Promoting",
            Standing::Publishing => "Publishing",
        }
    }
}

impl Turn {
    pub const ALL: [Turn; 14] = [
        Turn::Granted,
        Turn::Effective,
        Turn::Promoted,
        Turn::Finished,
        Turn::DrainStarted,
        Turn::DrainCancelled,
        Turn::Released,
        Turn::Lapsed,
        Turn::Expired,
        Turn::Closed,
        Turn::Compensating,
        Turn::Stuck,
        Turn::Weighed,
        Turn::Readmitted,
    ];

    /// None: an entry that turns nothing.
    #[must_use]
    pub const fn of(event: &TicketEvent) -> Option<Turn> {
        use TicketEvent as E;
        match event {
            E::Granted { .. } => Some(Turn::Granted),
            E::Effective { .. } => Some(Turn::Effective),
            E::MoveFinished { .. } => Some(Turn::Finished),
            E::DrainStarted { .. } => Some(Turn::DrainStarted),
            E::DrainCancelled { .. } => Some(Turn::DrainCancelled),
            E::Released { .. } => Some(Turn::Released),
            E::Lapsing { .. } => Some(Turn::Lapsed),
            E::Expired { .. } => Some(Turn::Expired),
            E::Closed { .. } => Some(Turn::Closed),
            E::Compensating { .. } => Some(Turn::Compensating),
            E::MoveStuck { .. } => Some(Turn::Stuck),
            E::Weighed { .. } => Some(Turn::Weighed),
            E::Readmitted { .. } => Some(Turn::Readmitted),
            E::StepDone { .. }
            | E::StepFailed { .. }
            | E::CoveredByTime { .. }
            | E::Latched { .. }
            | E::Frozen { .. }
            | E::Unfrozen { .. }
            | E::ConfirmationAsked { .. }
            | E::ConfirmationLapsed { .. }
            | E::ConfirmationWithdrawn { .. }
            | E::ForceAsked { .. }
            | E::ForceLapsed { .. }
            | E::WouldMove { .. }
            | E::Withheld { .. }
            | E::CapacityOrdered { .. }
            | E::CapacityExhausted { .. }
            | E::RulesChanged { .. }
            | E::Overruled { .. }
            | E::Retired { .. } => None,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Turn::Granted => "granted the next epoch",
            Turn::Effective => "released, or waited out",
            Turn::Promoted => "every promote reported",
            Turn::Finished => "every publish reported",
            Turn::DrainStarted => "a planned move",
            Turn::DrainCancelled => "no gate stopped",
            Turn::Released => "every stop reported",
            Turn::Lapsed => "a stop report is missing",
            Turn::Expired => "no renewal for a ttl",
            Turn::Closed => "its gates closed the epoch",
            Turn::Compensating => "goes back",
            Turn::Stuck => "stuck, frozen for people",
            Turn::Weighed => "weights set (active-active)",
            Turn::Readmitted => "readmitted",
        }
    }
}

/// The chart as a Mermaid state diagram. What changes no standing is left out, and so is `readmitted`, which leads from
/// everywhere to Free.
#[must_use]
pub fn mermaid() -> String {
    let mut out = "stateDiagram-v2\n    [*] --> Free\n".to_owned();
    for from in Standing::ALL {
        for turn in Turn::ALL.into_iter().filter(|turn| *turn != Turn::Readmitted) {
            if let Some(to) = from.next(turn).filter(|to| *to != from) {
                let _ = writeln!(out, "    {} --> {}: {}", from.as_str(), to.as_str(), turn.as_str());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_standing_can_be_reached_and_left() {
        let mut reached = BTreeSet::from([Standing::Free]);
        loop {
            let next = reached.iter().flat_map(|from| Turn::ALL.map(|turn| from.next(turn))).flatten();
            let grown: BTreeSet<Standing> = reached.iter().copied().chain(next).collect();
            if grown == reached {
                break;
            }
            reached = grown;
        }
        assert_eq!(reached.len(), Standing::ALL.len());
        for from in Standing::ALL {
            let exits = Turn::ALL.iter().filter(|turn| **turn != Turn::Readmitted);
            assert!(exits.filter_map(|turn| from.next(*turn)).any(|to| to != from), "{from:?} has no exit");
        }
    }

    #[test]
    fn the_diagram_of_the_architecture_is_this_chart() {
        let page = include_str!("../../../../ARCHITECTURE.md");
        let drawn = page.split("```mermaid\n").nth(1).and_then(|rest| rest.split("```").next());
        assert_eq!(drawn, Some(mermaid().as_str()), "put this into ARCHITECTURE.md:\n{}", mermaid());
    }

    #[test]
    fn a_promotion_needs_the_waiting_before_it() {
        assert_eq!(Standing::Free.next(Turn::Effective), None);
        assert_eq!(Standing::Stopping.next(Turn::Effective), None);
        assert_eq!(Standing::Held.next(Turn::Granted), None, "the old epoch has to end first");
    }
}
