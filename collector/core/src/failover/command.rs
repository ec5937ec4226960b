//! What operators may do to a ticket.
//!
//! Knows: when a command fits the present state. Invariants: every command compares (epoch, revision) before anything else,
//! unless its operator left them out on purpose; the answer is a sentence, also when it is no; nothing goes around a guard
//! but what two operators `force`.

use bcp_wire::{Epoch, Id, Site};

use super::decide::{self, Block, Cause, Facts};
use super::event::{Happened, SYSTEM, TicketEvent};
use super::force::{self, Guard, Lapse};
use super::intake::clip;
use super::saga::Stage;
use super::ticket::{Freeze, MoveOutcome, Pending, Ticket};
use super::{State, TicketCommand, progress, readmit, weigh};
use crate::policy::{Policy, TicketKind};

/// A freeze ends by itself: 30 days at most.
pub const MAX_FREEZE_MS: u64 = 30 * 24 * 3_600_000;

/// Why a command was not carried out; the sentence an operator reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no ticket {ticket}")]
    Unknown { ticket: Id },
    #[error("the ticket changed meanwhile: {ticket} is now at epoch {epoch}, revision {revision}")]
    Changed { ticket: Id, epoch: Epoch, revision: u64 },
    #[error("site {site} may not hold {ticket}")]
    NotASite { ticket: Id, site: Site },
    #[error("site {site} holds {ticket} already")]
    AlreadyThere { ticket: Id, site: Site },
    #[error("{ticket} cannot be moved now: {reasons}")]
    Blocked { ticket: Id, reasons: String },
    #[error("there is nothing of {ticket} to undo: {reason}")]
    NothingToUndo { ticket: Id, reason: &'static str },
    #[error("a freeze lasts between 1 ms and 30 days")]
    FreezeTime,
    #[error("a reason is needed")]
    NoReason,
    #[error("{ticket} is not frozen")]
    NotFrozen { ticket: Id },
    #[error("nothing of {ticket} waits for a confirmation of epoch {epoch}")]
    NothingToConfirm { ticket: Id, epoch: Epoch },
    #[error("{guard} does not stand in the way of {ticket} there; nothing has to be forced")]
    NothingToForce { ticket: Id, guard: Guard },
    #[error("{first} asked for this move of {ticket}; another operator has to confirm it")]
    OwnQuestion { ticket: Id, first: String },
    #[error("{ticket} was not decided without these collectors; nothing has to be readmitted")]
    NothingToReadmit { ticket: Id },
    #[error("no gate of site {site} is heard that was given {ticket} without a quorum")]
    NotForcedThere { ticket: Id, site: Site },
    #[error("a gate of site {site} runs {ticket} without a quorum: name that site as its holder")]
    ForcedThere { ticket: Id, site: Site },
    #[error("the last lease of {ticket} is of site {site}, which may run it for another {left_ms} ms")]
    LeaseRuns { ticket: Id, site: Site, left_ms: u64 },
    #[error("{first} has asked to force {ticket}; another operator has to ask the same")]
    SamePerson { ticket: Id, first: String },
}

impl State {
    /// Carries out a command, or says why not.
    pub(crate) fn on_command(
        &mut self,
        policy: &Policy,
        operator: &str,
        id: &Id,
        command: &TicketCommand,
        out: &mut Vec<Happened>,
    ) -> Result<String, Refusal> {
        let unknown = || Refusal::Unknown { ticket: id.clone() };
        let rule = policy.tickets.get(id).ok_or_else(unknown)?;
        let mut ticket = self.tickets.remove(id).ok_or_else(unknown)?;
        let facts = Facts::new(self, policy, id, rule);
        let result = carry_out(&mut ticket, operator, command, facts, out);
        self.tickets.insert(id.clone(), ticket);
        result
    }
}

fn carry_out(
    ticket: &mut Ticket,
    operator: &str,
    command: &TicketCommand,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> Result<String, Refusal> {
    compare(ticket, command.expect(), facts.id)?;
    if let TicketCommand::Readmit { holder, reason, expect: _ } = command {
        let who = Operator { name: operator, reason: given(reason)? };
        return readmit::readmit(ticket, *holder, who, facts, out);
    }
    if ticket.overruled() {
        return Err(blocked(facts.id, &[Block::Overruled { epoch: ticket.floor }]));
    }
    match command {
        TicketCommand::Readmit { .. } => Err(Refusal::NothingToReadmit { ticket: facts.id.clone() }),
        TicketCommand::Move { to, reason, expect: _ } => {
            let reason = given(reason)?;
            let who = Operator { name: operator, reason };
            match facts.rule.kind {
                TicketKind::ActivePassive => move_to(ticket, *to, who, facts, out),
                TicketKind::ActiveActive => weigh_to(ticket, *to, who, facts, out),
            }
        }
        TicketCommand::Abort { reason, expect: _ } => {
            abort(ticket, Operator { name: operator, reason: given(reason)? }, facts, out)
        }
        TicketCommand::Freeze { reason, for_ms, expect: _ } => {
            let who = Operator { name: operator, reason: given(reason)? };
            freeze(ticket, who, *for_ms, facts, out)
        }
        TicketCommand::Unfreeze { reason, expect: _ } => {
            let reason = given(reason)?;
            let Some(freeze) = ticket.frozen.take() else {
                return Err(Refusal::NotFrozen { ticket: facts.id.clone() });
            };
            if freeze.owner == SYSTEM {
                // The page that the freeze was about has reached a human: the count of automatic moves begins anew.
                // Otherwise the next tick would freeze it again, and nobody could move it for a day.
                ticket.automatic_moves.clear();
            }
            (ticket.noted, ticket.lapsed) = (None, false);
            ticket.changed();
            out.push(by(operator, TicketEvent::Unfrozen { ticket: facts.id.clone(), reason }));
            Ok(format!("{} is no longer frozen", facts.id))
        }
        TicketCommand::Force { to, guard, reason, expect: _ } => {
            let who = Operator { name: operator, reason: given(reason)? };
            force::force(ticket, (*to, *guard), who, facts, out)
        }
        TicketCommand::Confirm { epoch, expect: _ } => confirm(ticket, operator, *epoch, facts, out),
    }
}

pub(super) struct Operator<'a> {
    pub name: &'a str,
    pub reason: String,
}

fn given(reason: &str) -> Result<String, Refusal> {
    if reason.trim().is_empty() { Err(Refusal::NoReason) } else { Ok(clip(reason.trim())) }
}

pub(super) fn author(operator: &str) -> String {
    format!("operator:{operator}")
}

pub(super) fn by(operator: &str, event: TicketEvent) -> Happened {
    Happened { author: author(operator), event }
}

fn compare(ticket: &Ticket, expect: Option<(Epoch, u64)>, id: &Id) -> Result<(), Refusal> {
    match expect {
        Some(expected) if expected != (ticket.epoch, ticket.revision) => {
            Err(Refusal::Changed { ticket: id.clone(), epoch: ticket.epoch, revision: ticket.revision })
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) fn blocked(id: &Id, blocks: &[Block]) -> Refusal {
    let reasons = blocks.iter().map(Block::to_string).collect::<Vec<_>>().join("; ");
    Refusal::Blocked { ticket: id.clone(), reasons }
}

fn move_to(
    ticket: &mut Ticket,
    to: Site,
    who: Operator<'_>,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> Result<String, Refusal> {
    let emergency = facts.rule.emergency == Some(to);
    if !emergency && (to == Site::W || !facts.rule.sites.contains(&to)) {
        return Err(Refusal::NotASite { ticket: facts.id.clone(), site: to });
    }
    let stuck = ticket.history.last().is_some_and(|last| last.outcome == MoveOutcome::Stuck);
    if ticket.holder == Some(to) && !stuck {
        return Err(Refusal::AlreadyThere { ticket: facts.id.clone(), site: to });
    }
    let blocks = decide::blocks_of_order(ticket, to, facts);
    if !blocks.is_empty() {
        return Err(blocked(facts.id, &blocks));
    }
    let cause = Cause::Operator { name: who.name.to_owned(), reason: who.reason };
    if emergency {
        return Ok(ask_emergency(ticket, to, cause, who.name, facts, out));
    }
    decide::begin(ticket, to, cause, author(who.name), facts, out);
    Ok(format!("{} moves to site {to}", facts.id))
}

/// The third site takes a service over only when two people say so.
fn ask_emergency(
    ticket: &mut Ticket,
    to: Site,
    cause: Cause,
    name: &str,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> String {
    let (epoch, until) = (ticket.epoch, facts.now.plus(force::FORCE_WITHIN_MS));
    let asked_by = Some(name.to_owned());
    ticket.pending = Some(Pending { asked_by, to, cause: cause.clone(), epoch, until });
    ticket.changed();
    out.push(by(name, TicketEvent::ConfirmationAsked { ticket: facts.id.clone(), to, epoch, cause, until }));
    format!("another operator has to confirm that {} goes to site {to}", facts.id)
}

fn weigh_to(
    ticket: &mut Ticket,
    to: Site,
    who: Operator<'_>,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> Result<String, Refusal> {
    if !facts.rule.sites.contains(&to) {
        return Err(Refusal::NotASite { ticket: facts.id.clone(), site: to });
    }
    if let Some(freeze) = &ticket.frozen {
        let block = Block::Frozen { owner: freeze.owner.clone(), reason: freeze.reason.clone() };
        return Err(blocked(facts.id, &[block]));
    }
    let weights = weigh::shares(&facts.rule.sites, &[to]);
    if ticket.weights == weights {
        return Err(Refusal::AlreadyThere { ticket: facts.id.clone(), site: to });
    }
    let gate = ticket.listed_gates(to).map(|(id, _)| id.clone()).next();
    if let (false, Some(gate)) = (weigh::present(ticket, to, facts), gate) {
        return Err(blocked(facts.id, &[Block::GateMissing { site: to, gate }]));
    }
    ticket.weights_held = true;
    let reason = format!("asked by {}: {}", who.name, who.reason);
    weigh::set(ticket, weights, reason, author(who.name), facts, out);
    Ok(format!("all load of {} goes to site {to}; abort gives the weights back to the rules", facts.id))
}

/// Undoes a planned move that has not promoted yet, drops a question or what one operator asked to force, or gives weights
/// back to the rules.
fn abort(ticket: &mut Ticket, who: Operator<'_>, facts: Facts<'_>, out: &mut Vec<Happened>) -> Result<String, Refusal> {
    let id = facts.id.clone();
    if ticket.weights_held {
        ticket.weights_held = false;
        ticket.changed();
        return Ok(format!("the weights of {id} follow the rules again"));
    }
    if force::drop_asked(ticket, Lapse::TakenBack, author(who.name), facts, out) {
        return Ok(format!("{id} is not forced"));
    }
    if let Some(pending) = ticket.pending.take() {
        ticket.lapsed = true;
        ticket.changed();
        let event = TicketEvent::ConfirmationWithdrawn { ticket: id.clone(), to: pending.to, epoch: pending.epoch };
        out.push(by(who.name, event));
        return Ok(format!("{id} is not moved"));
    }
    let Some(mut moving) = ticket.moving.take() else {
        return Err(Refusal::NothingToUndo { ticket: id, reason: "nothing moves" });
    };
    let early = matches!(moving.stage, Stage::Stopping { .. } | Stage::Lapsing | Stage::Sealing { .. });
    let back_to = moving.from.filter(|from| *from != moving.to);
    let (true, Some(back_to)) = (early && !moving.compensating, back_to) else {
        ticket.moving = Some(moving);
        return Err(Refusal::NothingToUndo { ticket: id, reason: "it is too late, or there is nowhere to go back to" });
    };
    let reason = format!("asked by {}: {}", who.name, who.reason);
    let epoch = ticket.epoch;
    out.push(by(who.name, TicketEvent::Compensating { ticket: id.clone(), back_to, epoch, reason: reason.clone() }));
    (moving.compensating, moving.to, moving.cause) = (true, back_to, Cause::Undone { reason });
    if matches!(moving.stage, Stage::Sealing { .. }) {
        progress::grant(ticket, moving, false, facts.scene(), out);
    } else {
        // The stop that was ordered goes on; the ticket then comes back as the next epoch.
        ticket.moving = Some(moving);
        ticket.changed();
    }
    Ok(format!("{id} goes back to site {back_to}"))
}

fn freeze(
    ticket: &mut Ticket,
    who: Operator<'_>,
    for_ms: u64,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> Result<String, Refusal> {
    if for_ms == 0 || for_ms > MAX_FREEZE_MS {
        return Err(Refusal::FreezeTime);
    }
    let (owner, until) = (author(who.name), facts.now.plus(for_ms));
    let reason = who.reason;
    ticket.frozen = Some(Freeze { owner: owner.clone(), reason: reason.clone(), since: facts.now, until });
    ticket.changed();
    out.push(by(who.name, TicketEvent::Frozen { ticket: facts.id.clone(), owner, reason, until }));
    Ok(format!("{} is frozen; its holder keeps renewing", facts.id))
}

fn confirm(
    ticket: &mut Ticket,
    operator: &str,
    epoch: Epoch,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) -> Result<String, Refusal> {
    let id = facts.id.clone();
    let waiting = ticket.pending.clone().filter(|p| p.epoch == epoch && ticket.epoch == epoch && facts.now < p.until);
    let Some(pending) = waiting else { return Err(Refusal::NothingToConfirm { ticket: id, epoch }) };
    let to = pending.to;
    if pending.asked_by.as_deref() == Some(operator) {
        return Err(Refusal::OwnQuestion { ticket: id, first: operator.to_owned() });
    }
    if facts.rule.kind == TicketKind::ActiveActive {
        let (weights, reason, _) = weigh::wanted(ticket, facts);
        if weights.is_empty() || weights == ticket.weights {
            return Err(Refusal::NothingToConfirm { ticket: id, epoch });
        }
        weigh::set(ticket, weights, format!("{reason}, confirmed by {operator}"), author(operator), facts, out);
        return Ok(format!("the weights of {id} are changed"));
    }
    let blocks = match pending.asked_by {
        Some(_) => decide::blocks_of_order(ticket, to, facts),
        None => decide::blocks(ticket, to, Some(&pending.cause), facts),
    };
    if !blocks.is_empty() {
        return Err(blocked(&id, &blocks));
    }
    let cause = Cause::Confirmed { name: operator.to_owned(), cause: Box::new(pending.cause) };
    decide::begin(ticket, to, cause, author(operator), facts, out);
    Ok(format!("{id} moves to site {to}"))
}
