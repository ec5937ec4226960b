//! When a move happens.
//!
//! Knows: causes, what stands in the way, and what each mode does with them. Refuses to know: how a move goes on once it
//! has begun (that is `progress`). Invariants: off, observe and frozen change nothing; a cause needs two of three votes;
//! `w` is a target only of what two operators ask for; an automatic move is counted before it begins.

use std::collections::BTreeMap;

use bcp_wire::control::Phase;
use bcp_wire::{Epoch, Id, Site};

use super::State;
pub use super::block::Block;
pub use super::cause::Cause;
use super::event::{Happened, TicketEvent};
use super::force::{self, Lapse};
use super::freshness::{self, Freshness};
use super::intake::{gate_fresh_ms, system};
use super::observe::{Board, MAJORITY};
use super::progress::{self, Scene};
use super::require;
use super::saga::{Move, Stage};
use super::ticket::{MoveOutcome, Pending, Ticket};
use crate::policy::{Mode, MoveWhen, Policy, TicketPolicy, Timing};
use crate::status::ServiceStatus;
use crate::time::LogTime;

/// Window of the move budget.
pub const BUDGET_WINDOW_MS: u64 = 24 * 3_600_000;
/// Pause between grants to the same site: doubles up to the second figure.
pub const RESUME_FIRST_MS: u64 = 2_000;
pub const RESUME_MOST_MS: u64 = 60_000;
/// A site that held this long without a new grant starts again with the shortest pause.
pub const RESUME_FORGET_MS: u64 = 600_000;

/// Other reasons for the same inaction are noted this much later: a gate that flaps fills no ledger.
pub const NOTE_AGAIN_MS: u64 = 60_000;

/// Begins the note of a grant that only mode observe held back.
const RESUME_NOTE: &str = "would resume";

/// Everything a decision reads besides the ticket itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub id: &'a Id,
    pub now: LogTime,
    pub timing: &'a Timing,
    pub rule: &'a TicketPolicy,
    pub board: &'a Board,
    pub others: &'a BTreeMap<Id, Ticket>,
    pub policy: &'a Policy,
}

impl<'a> Facts<'a> {
    /// What the state says besides the ticket, which is taken out of it while it is judged.
    pub(super) const fn new(state: &'a State, policy: &'a Policy, id: &'a Id, rule: &'a TicketPolicy) -> Facts<'a> {
        let State { now, board, tickets, .. } = state;
        Facts { id, now: *now, timing: &policy.timing, rule, board, others: tickets, policy }
    }

    pub(super) fn scene(self) -> Scene<'a> {
        Scene { id: self.id, now: self.now, timing: self.timing, rpo: self.rule.rpo }
    }
}

/// Decides about a ticket in which nothing moves.
pub(super) fn decide(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    if ticket.moving.is_some() || ticket.retired {
        return;
    }
    lapse_question(ticket, facts, out);
    let Some(site) = ticket.holder_or_last() else {
        first_grant(ticket, facts, out);
        return;
    };
    if let Some(cause) = cause(ticket, site, facts) {
        on_cause(ticket, cause, facts, out);
    } else {
        withdraw(ticket, facts, out);
    }
    if ticket.phase == Phase::Free && ticket.moving.is_none() {
        resume(ticket, site, facts, out);
    }
}

fn first_grant(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let Some(to) = facts.rule.preferred.or(facts.rule.sites.first().copied()) else { return };
    if ticket.phase != Phase::Free || !may_start_at(ticket, to, facts) {
        return;
    }
    begin_by_mode(ticket, to, Cause::FirstGrant, facts, out);
}

/// The ticket goes back to the site that had it: no other copy was active since, so this is no move.
fn resume(ticket: &mut Ticket, site: Site, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let due = facts.now >= ticket.resume_after && facts.rule.places().any(|place| place == site);
    // In mode observe, what the rules would do about a cause is the news; told in turns they would fill the ledger.
    let other_news = ticket.noted.as_ref().is_some_and(|note| !note.starts_with(RESUME_NOTE));
    if !due || !may_start_at(ticket, site, facts) || (facts.rule.mode == Mode::Observe && other_news) {
        return;
    }
    begin_by_mode(ticket, site, Cause::Resumed, facts, out);
    if ticket.moving.is_some() {
        let rested = facts.now.since(ticket.resume_after) >= RESUME_FORGET_MS;
        let times = if rested { 0 } else { ticket.resumes };
        let pause = RESUME_FIRST_MS.saturating_mul(1 << times.min(6)).min(RESUME_MOST_MS);
        ticket.resumes = times.saturating_add(1);
        ticket.resume_after = facts.now.plus(pause);
    }
}

fn may_start_at(ticket: &Ticket, site: Site, facts: Facts<'_>) -> bool {
    ticket.frozen.is_none() && missing_gates(ticket, site, facts).is_empty() && dependencies(facts).is_empty()
}

/// A grant that changes no active side: what each mode does with it.
fn begin_by_mode(ticket: &mut Ticket, to: Site, cause: Cause, facts: Facts<'_>, out: &mut Vec<Happened>) {
    match facts.rule.mode {
        Mode::Off => {}
        Mode::Observe => would(ticket, to, cause, facts, out),
        Mode::Confirm | Mode::Auto => begin(ticket, to, cause, super::event::SYSTEM.to_owned(), facts, out),
    }
}

/// Starts the move: a free ticket is granted, a held one drained first.
pub(super) fn begin(
    ticket: &mut Ticket,
    to: Site,
    cause: Cause,
    author: String,
    facts: Facts<'_>,
    out: &mut Vec<Happened>,
) {
    if cause.automatic() {
        ticket.automatic_moves.push(facts.now);
        ticket.cooldown_until = Some(facts.now.plus(facts.rule.cooldown_ms));
    }
    ticket.pending = None;
    force::drop_asked(ticket, Lapse::Moves, author.clone(), facts, out);
    if ticket.phase == Phase::Held {
        progress::drain(ticket, to, cause, author, facts.scene(), out);
    } else {
        // The stage is set by the grant itself.
        let moving = Move::new(ticket.holder_or_last(), to, cause, facts.now, Stage::Lapsing);
        progress::grant(ticket, moving, false, facts.scene(), out);
    }
}

/// The first configured reason to leave `site` that holds now.
pub(super) fn cause(ticket: &Ticket, site: Site, facts: Facts<'_>) -> Option<Cause> {
    let lease_out = ticket.phase == Phase::Free && ticket.lease.is_some_and(|lease| lease.expired(facts.now));
    facts.rule.move_when.iter().find_map(|when| match when {
        MoveWhen::SiteLost => (lease_out && facts.board.silent(site, facts.now)).then_some(Cause::SiteLost { site }),
        MoveWhen::ServiceDown { for_ms } => {
            let since = ticket.down_since.get(&site)?;
            let settled = if ticket.phase == Phase::Held { ticket.settled_at? } else { *since };
            let held = facts.now.since((*since).max(settled)) >= *for_ms;
            (held && movable(ticket, facts)).then_some(Cause::ServiceDown { site, for_ms: *for_ms })
        }
        MoveWhen::RunsOut { supply, under_ms } => {
            let soon = require::runs_out(*supply, site, *under_ms, facts) && movable(ticket, facts);
            soon.then_some(Cause::RunsOut { site, supply: *supply, under_ms: *under_ms })
        }
    })
}

/// A free ticket whose lease may still run cannot go to another site yet.
fn movable(ticket: &Ticket, facts: Facts<'_>) -> bool {
    match ticket.phase {
        Phase::Held => true,
        Phase::Free => ticket.lease.is_none_or(|lease| lease.expired(facts.now)),
        Phase::Granting | Phase::Draining => false,
    }
}

fn on_cause(ticket: &mut Ticket, cause: Cause, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let site = ticket.holder_or_last();
    let target = facts.rule.sites.iter().copied().find(|to| Some(*to) != site && *to != Site::W);
    let mut blocks = match target {
        Some(to) => blocks(ticket, to, Some(&cause), facts),
        None => vec![Block::NoTarget],
    };
    if facts.rule.mode == Mode::Off {
        blocks.insert(0, Block::Off);
    }
    let (Some(to), true) = (target, blocks.is_empty()) else {
        withhold(ticket, cause, &blocks, facts, out);
        return;
    };
    match facts.rule.mode {
        Mode::Off => {}
        Mode::Observe => would(ticket, to, cause, facts, out),
        Mode::Confirm => ask(ticket, to, cause, facts, out),
        Mode::Auto if budget_used(ticket, facts) => {
            let budget = facts.rule.move_budget;
            withhold(ticket, cause, &[Block::BudgetUsed { budget }], facts, out);
            let reason = format!("{budget} automatic moves within 24 h are used up");
            progress::freeze(ticket, reason, facts.scene(), out);
        }
        Mode::Auto => begin(ticket, to, cause, super::event::SYSTEM.to_owned(), facts, out),
    }
}

fn budget_used(ticket: &Ticket, facts: Facts<'_>) -> bool {
    ticket.automatic_moves.len() >= usize::try_from(facts.rule.move_budget).unwrap_or(usize::MAX)
}

/// Everything between the ticket and a move to `to`. `cause` absent: an operator's own decision, which waits for no
/// cool-down and uses no budget.
pub(super) fn blocks(ticket: &Ticket, to: Site, cause: Option<&Cause>, facts: Facts<'_>) -> Vec<Block> {
    let mut blocks = Vec::new();
    if ticket.overruled() {
        blocks.push(Block::Overruled { epoch: ticket.floor });
    }
    if ticket.restored.is_some_and(|restored| !restored.asked) {
        blocks.push(Block::Restored);
    }
    if let Some(freeze) = &ticket.frozen {
        blocks.push(Block::Frozen { owner: freeze.owner.clone(), reason: freeze.reason.clone() });
    }
    if ticket.moving.is_some() {
        blocks.push(Block::Busy);
    }
    blocks.extend(missing_gates(ticket, to, facts));
    blocks.extend(dependencies(facts));
    let freshness = freshness::of(ticket, to, facts.rule.rpo);
    if freshness != Freshness::Fresh {
        blocks.push(Block::NotFresh { site: to, freshness });
    }
    blocks.extend(require::unmet(ticket, to, cause, facts));
    if cause.is_some_and(|cause| cooling(ticket, to, cause, facts)) {
        blocks.push(Block::CoolingDown);
    }
    blocks
}

/// Everything between the ticket and a move to `to` that operators order: the lease of the other side is waited out first.
pub(super) fn blocks_of_order(ticket: &Ticket, to: Site, facts: Facts<'_>) -> Vec<Block> {
    let mut blocks = blocks(ticket, to, None, facts);
    let lease_runs = ticket.lease.is_some_and(|lease| lease.site != to && !lease.expired(facts.now));
    if ticket.phase == Phase::Free && lease_runs {
        blocks.push(Block::Busy);
    }
    if let Some((site, gate)) = ticket.unstopped(to, facts.now, gate_fresh_ms(facts.timing)) {
        blocks.push(Block::Unstopped { site, gate: gate.clone() });
    }
    blocks
}

/// The cool-down does not hold back a move away from a site that is lost, or soon will be, if the target was steady.
fn cooling(ticket: &Ticket, to: Site, cause: &Cause, facts: Facts<'_>) -> bool {
    if ticket.cooldown_until.is_none_or(|until| facts.now >= until) {
        return false;
    }
    let steady = |since: LogTime| facts.now.since(since) >= facts.rule.stable_for_ms;
    let target_steady = ticket.listed_gates(to).all(|(_, gate)| gate.present_since.is_some_and(steady));
    !(matches!(cause, Cause::SiteLost { .. } | Cause::RunsOut { .. }) && target_steady)
}

fn missing_gates(ticket: &Ticket, site: Site, facts: Facts<'_>) -> Vec<Block> {
    let fresh_ms = gate_fresh_ms(facts.timing);
    let mut gates = ticket.listed_gates(site).peekable();
    if gates.peek().is_none() {
        return vec![Block::NoTarget];
    }
    gates
        .filter_map(|(id, gate)| match &gate.trouble {
            _ if !gate.present(facts.now, fresh_ms) => Some(Block::GateMissing { site, gate: id.clone() }),
            Some(trouble) => Some(Block::GateTrouble { site, gate: id.clone(), trouble: trouble.clone() }),
            None => {
                let trouble = facts.rule.loss_differs(gate.loss);
                trouble.map(|trouble| Block::GateTrouble { site, gate: id.clone(), trouble })
            }
        })
        .collect()
}

/// A dependency is there once it is held and nothing of it moves any more, at a site that is not lost. It may be judged
/// later in this very tick: a lease that has run out or an epoch that is closed is not there either.
fn dependencies(facts: Facts<'_>) -> Vec<Block> {
    let there = |id: &&Id| {
        facts.others.get(*id).is_some_and(|other| {
            progress::stays_held(other, facts.now)
                && other.moving.is_none()
                && !other.holder.is_some_and(|site| facts.board.silent(site, facts.now))
                && other.history.last().is_none_or(|last| last.outcome != MoveOutcome::Stuck)
        })
    };
    let missing = facts.rule.depends_on.iter().filter(|id| !there(id));
    missing.map(|id| Block::Dependency { ticket: id.clone() }).collect()
}

fn withhold(ticket: &mut Ticket, cause: Cause, blocks: &[Block], facts: Facts<'_>, out: &mut Vec<Happened>) {
    let reasons: Vec<String> = blocks.iter().map(Block::to_string).collect();
    let note = format!("withheld {cause}: {}", reasons.join("; "));
    let soon = ticket.noted.as_ref().is_some_and(|known| known.starts_with("withheld"))
        && facts.now.since(ticket.noted_at) < NOTE_AGAIN_MS;
    if ticket.noted.as_ref() != Some(&note) && !soon {
        (ticket.noted, ticket.noted_at) = (Some(note), facts.now);
        out.push(system(TicketEvent::Withheld { ticket: facts.id.clone(), epoch: ticket.epoch, cause, reasons }));
    }
}

fn would(ticket: &mut Ticket, to: Site, cause: Cause, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let note = match cause {
        Cause::Resumed => format!("{RESUME_NOTE} at {to}"),
        _ => format!("would move to {to}: {cause}"),
    };
    if ticket.noted.as_ref() != Some(&note) {
        (ticket.noted, ticket.noted_at) = (Some(note), facts.now);
        out.push(system(TicketEvent::WouldMove { ticket: facts.id.clone(), to, epoch: ticket.epoch, cause }));
    }
}

fn ask(ticket: &mut Ticket, to: Site, cause: Cause, facts: Facts<'_>, out: &mut Vec<Happened>) {
    if ticket.lapsed {
        return;
    }
    let same = ticket.pending.as_ref().filter(|pending| pending.epoch == ticket.epoch && pending.to == to);
    if let Some(pending) = same {
        if facts.now >= pending.until {
            (ticket.pending, ticket.lapsed) = (None, true);
            ticket.changed();
            let event = TicketEvent::ConfirmationLapsed { ticket: facts.id.clone(), to, epoch: ticket.epoch };
            out.push(system(event));
        }
        return;
    }
    if let Some(other) = ticket.pending.take() {
        let (to, epoch) = (other.to, other.epoch);
        out.push(system(TicketEvent::ConfirmationWithdrawn { ticket: facts.id.clone(), to, epoch }));
    }
    let until = facts.now.plus(facts.rule.confirm_within_ms);
    let epoch: Epoch = ticket.epoch;
    ticket.pending = Some(Pending { asked_by: None, to, cause: cause.clone(), epoch, until });
    ticket.changed();
    out.push(system(TicketEvent::ConfirmationAsked { ticket: facts.id.clone(), to, epoch, cause, until }));
}

/// What an operator asked to have confirmed ends with its time and with its epoch.
fn lapse_question(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    let over = |pending: &Pending| facts.now >= pending.until || pending.epoch != ticket.epoch;
    if ticket.pending.as_ref().is_some_and(|pending| pending.asked_by.is_some() && over(pending))
        && let Some(Pending { to, epoch, .. }) = ticket.pending.take()
    {
        ticket.changed();
        out.push(system(TicketEvent::ConfirmationLapsed { ticket: facts.id.clone(), to, epoch }));
    }
}

/// No cause any more: a question to a human is taken back.
fn withdraw(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    ticket.lapsed = false;
    let of_a_cause = ticket.noted.as_ref().is_some_and(|note| !note.starts_with(RESUME_NOTE));
    if of_a_cause && facts.now.since(ticket.noted_at) >= NOTE_AGAIN_MS {
        ticket.noted = None;
    }
    if let Some(pending) = ticket.pending.take_if(|pending| pending.asked_by.is_none()) {
        ticket.changed();
        let event =
            TicketEvent::ConfirmationWithdrawn { ticket: facts.id.clone(), to: pending.to, epoch: pending.epoch };
        out.push(system(event));
    }
}

/// What would keep the ticket where it is if its holder were lost now.
pub(super) fn failover_blocks(ticket: &Ticket, facts: Facts<'_>) -> (Option<Site>, Vec<Block>) {
    let mut found = match facts.rule.mode {
        Mode::Off => vec![Block::Off],
        Mode::Observe => vec![Block::ObserveOnly],
        Mode::Confirm | Mode::Auto => Vec::new(),
    };
    let Some(site) = ticket.holder_or_last() else {
        found.push(Block::NoHolder);
        return (None, found);
    };
    let target = facts.rule.sites.iter().copied().find(|to| *to != site && *to != Site::W);
    match target {
        Some(to) => found.extend(blocks(ticket, to, Some(&Cause::SiteLost { site }), facts)),
        None => found.push(Block::NoTarget),
    }
    let heard = facts.board.witnesses(site, facts.now);
    if heard < MAJORITY {
        found.push(Block::FewObservers { site, heard });
    }
    if facts.rule.mode == Mode::Auto && budget_used(ticket, facts) {
        found.push(Block::BudgetUsed { budget: facts.rule.move_budget });
    }
    (target, found)
}

/// Keeps the clocks of "down for" and "up for": they start with two of three and stop with anything else.
pub(super) fn watch_service(ticket: &mut Ticket, facts: Facts<'_>) {
    for site in &facts.rule.sites {
        let is = |status| facts.board.service_is(status, &facts.rule.service, *site, facts.now);
        keep_since(&mut ticket.down_since, *site, is(ServiceStatus::Down), facts.now);
        let up = is(ServiceStatus::Up) || is(ServiceStatus::Degraded);
        keep_since(&mut ticket.up_since, *site, up, facts.now);
    }
}

fn keep_since(clocks: &mut BTreeMap<Site, LogTime>, site: Site, running: bool, now: LogTime) {
    if running {
        clocks.entry(site).or_insert(now);
    } else {
        clocks.remove(&site);
    }
}

/// Freezes, cool-downs and budgets run out in log time.
pub(super) fn forget(ticket: &mut Ticket, facts: Facts<'_>, out: &mut Vec<Happened>) {
    force::forget(ticket, facts, out);
    if ticket.frozen.as_ref().is_some_and(|freeze| facts.now >= freeze.until) {
        ticket.frozen = None;
        ticket.changed();
        let reason = "its time is over".to_owned();
        out.push(system(TicketEvent::Unfrozen { ticket: facts.id.clone(), reason }));
    }
    if ticket.cooldown_until.is_some_and(|until| facts.now >= until) {
        ticket.cooldown_until = None;
    }
    ticket.automatic_moves.retain(|at| facts.now.since(*at) < BUDGET_WINDOW_MS);
}
