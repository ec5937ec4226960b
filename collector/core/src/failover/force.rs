//! Break-glass: a move that a guard forbids, ordered by two people.
//!
//! Knows: who asked, for which epoch, until when. Invariants: two different operators; one ticket, one epoch, one target, one
//! guard by its name; it lapses by itself; nothing else is gone around, the wait for the old holder least of all.

use std::fmt;

use serde::{Deserialize, Serialize};

use bcp_wire::{Epoch, Site};

use super::command::{Operator, Refusal, author, blocked, by};
use super::decide::{self, Block, Cause, Facts};
use super::event::{Happened, SYSTEM, TicketEvent};
use super::ticket::Ticket;
use crate::policy::TicketKind;
use crate::time::LogTime;

/// The second operator has this long: enough to telephone, not enough to forget.
pub const FORCE_WITHIN_MS: u64 = 10 * 60_000;

/// What stands in the way, and may be gone around by two people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// The copy at the target may lack acknowledged data, or has a history of its own: that data is given up.
    Freshness,
    /// What the ticket depends on is not active.
    Dependency,
}

impl Guard {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Guard::Freshness => "freshness",
            Guard::Dependency => "dependency",
        }
    }

    pub(super) const fn is_of(self, block: &Block) -> bool {
        match self {
            Guard::Freshness => matches!(block, Block::NotFresh { .. }),
            Guard::Dependency => matches!(block, Block::Dependency { .. }),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Guard {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "freshness" => Ok(Guard::Freshness),
            "dependency" => Ok(Guard::Dependency),
            _ => Err(format!("`{text}` is no guard that can be gone around; freshness and dependency are")),
        }
    }
}

/// One operator has asked; another one has to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceAsked {
    pub to: Site,
    pub guard: Guard,
    /// Name of the first operator.
    pub by: String,
    pub reason: String,
    pub epoch: Epoch,
    pub at: LogTime,
    pub until: LogTime,
}

/// Why what one operator asked came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lapse {
    Late,
    OtherEpoch,
    TakenBack,
    /// An operator asked for another site, or to go around another guard.
    Replaced,
    /// The ticket moves for another reason.
    Moves,
}

impl Lapse {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Lapse::Late => "no other operator asked the same in time",
            Lapse::OtherEpoch => "its epoch changed",
            Lapse::TakenBack => "that was taken back",
            Lapse::Replaced => "something else is to be forced instead",
            Lapse::Moves => "it moves for another reason",
        }
    }
}

/// The first operator asks, a second and different one carries it out.
pub(super) fn force(
    ticket: &mut Ticket,
    (to, guard): (Site, Guard),
    who: Operator<'_>,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> Result<String, Refusal> {
    may_be_forced(ticket, to, guard, facts)?;
    let id = facts.id.clone();
    let over = lapse(ticket, facts.now).or_else(|| {
        let asked = ticket.force.as_ref()?;
        ((asked.to, asked.guard) != (to, guard)).then_some(Lapse::Replaced)
    });
    if let Some(why) = over {
        drop_asked(ticket, why, author(who.name), facts, out);
    }
    match ticket.force.take() {
        Some(asked) if asked.by == who.name => {
            let first = asked.by.clone();
            ticket.force = Some(asked);
            Err(Refusal::SamePerson { ticket: id, first })
        }
        Some(asked) => {
            let reason = format!("{}; {}", asked.reason, who.reason);
            let cause = Cause::Forced { first: asked.by, second: who.name.to_owned(), guard, reason };
            decide::begin(ticket, to, cause, author(who.name), facts, out);
            Ok(format!("{id} is forced to site {to}, around its {guard}"))
        }
        None => {
            let (epoch, at, until) = (ticket.epoch, facts.now, facts.now.plus(FORCE_WITHIN_MS));
            let (name, reason) = (who.name.to_owned(), who.reason.clone());
            ticket.force = Some(ForceAsked { to, guard, by: name, reason, epoch, at, until });
            ticket.changed();
            let event = TicketEvent::ForceAsked { ticket: id.clone(), to, epoch, guard, until, reason: who.reason };
            out.push(by(who.name, event));
            let minutes = FORCE_WITHIN_MS / 60_000;
            Ok(format!(
                "{id} goes to site {to} around its {guard} when another operator asks the same within {minutes} min"
            ))
        }
    }
}

/// Nothing but this one guard stands in the way, and it does.
fn may_be_forced(ticket: &Ticket, to: Site, guard: Guard, facts: Facts<'_>) -> Result<(), Refusal> {
    let id = facts.id.clone();
    if facts.rule.kind == TicketKind::ActiveActive {
        return Err(Refusal::NothingToForce { ticket: id, guard });
    }
    if !facts.rule.places().any(|place| place == to) {
        return Err(Refusal::NotASite { ticket: id, site: to });
    }
    if ticket.holder == Some(to) {
        return Err(Refusal::AlreadyThere { ticket: id, site: to });
    }
    let (passed, others): (Vec<Block>, Vec<Block>) =
        decide::blocks_of_order(ticket, to, facts).into_iter().partition(|block| guard.is_of(block));
    if !others.is_empty() {
        return Err(blocked(&id, &others));
    }
    if passed.is_empty() { Err(Refusal::NothingToForce { ticket: id, guard }) } else { Ok(()) }
}

fn lapse(ticket: &Ticket, now: LogTime) -> Option<Lapse> {
    let asked = ticket.force.as_ref()?;
    if asked.epoch != ticket.epoch {
        return Some(Lapse::OtherEpoch);
    }
    (now >= asked.until).then_some(Lapse::Late)
}

/// What was asked lapses with its time and with its epoch.
pub(super) fn forget(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    if let Some(why) = lapse(ticket, facts.now) {
        drop_asked(ticket, why, SYSTEM.to_owned(), facts, out);
    }
}

/// Drops what one operator asked, and says so. False: nobody had asked.
pub(super) fn drop_asked(
    ticket: &mut Ticket,
    why: Lapse,
    author: String,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> bool {
    let Some(asked) = ticket.force.take() else { return false };
    ticket.changed();
    let ForceAsked { to, guard, by, epoch, .. } = asked;
    let event = TicketEvent::ForceLapsed { ticket: facts.id.clone(), to, epoch, guard, by, why };
    out.push(Happened { author, event });
    true
}
