//! How a ticket goes on by itself: expiry, and the stages of a move.
//!
//! Knows: what ends a stage. Refuses to know: why the move was started. Invariants: the epoch grows with every grant;
//! nothing is promoted before the grant is in effect and the losing side is sealed or covered by time; every stage ends.

use bcp_wire::control::{Phase, StepKind};
use bcp_wire::{Id, Site};

use super::decide::Cause;
use super::event::{Happened, TicketEvent};
use super::force::Guard;
use super::freshness::{self, Freshness};
use super::intake::system;
use super::lease::Lease;
use super::saga::{Move, Order, STAGE_LIMIT_MS, Stage, StepState, seal_limit_ms};
use super::ticket::{Freeze, MAX_HISTORY, MoveOutcome, MoveRecord, Ticket};
use crate::policy::{Rpo, Timing};
use crate::time::LogTime;

/// Stages one tick may pass through: all of them twice, for a move that is undone.
const MAX_STAGES_PER_TICK: usize = 12;
/// How long a ticket stays frozen after a move got stuck or the budget was used up, unless a human is quicker.
pub const SYSTEM_FREEZE_MS: u64 = 24 * 3_600_000;

/// What the machine of one ticket is given besides the ticket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub id: &'a Id,
    pub now: LogTime,
    pub timing: &'a Timing,
    pub rpo: Rpo,
}

/// Expiry first, then the stages of the move as far as they go now.
pub(super) fn advance(ticket: &mut Ticket, scene: Scene<'_>, out: &mut Vec<Happened>) {
    expire(ticket, scene, out);
    for _ in 0..MAX_STAGES_PER_TICK {
        let Some(moving) = ticket.moving.take() else { return };
        let stage = moving.stage;
        let went_on = match stage {
            Stage::Stopping { until } => stopping(ticket, moving, until, scene, out),
            Stage::Lapsing => lapsing(ticket, moving, scene, out),
            Stage::Sealing { effective_at, until } => sealing(ticket, moving, effective_at, until, scene, out),
            Stage::Promoting { until } => promoting(ticket, moving, until, scene, out),
            Stage::Publishing { until } => publishing(ticket, moving, until, scene, out),
        };
        if !went_on {
            return;
        }
    }
}

/// A held ticket whose lease ran out, or whose epoch every gate closed, is free.
fn expire(ticket: &mut Ticket, scene: Scene<'_>, out: &mut Vec<Happened>) {
    let (Phase::Held, Some(holder), Some(lease)) = (ticket.phase, ticket.holder, ticket.lease) else { return };
    let event = if lease.expired(scene.now) {
        TicketEvent::Expired { ticket: scene.id.clone(), holder, epoch: ticket.epoch }
    } else if all_closed(ticket, holder) {
        TicketEvent::Closed { ticket: scene.id.clone(), holder, epoch: ticket.epoch }
    } else {
        return;
    };
    out.push(system(event));
    if let Some(mut moving) = ticket.moving.take() {
        if never_began(ticket, &moving) {
            undo(ticket, &mut moving, format!("site {holder} never took up epoch {}", ticket.epoch), scene, out);
            grant(ticket, moving, false, scene, out);
            return;
        }
        end(ticket, moving, MoveOutcome::Lost, scene);
    }
    (ticket.phase, ticket.holder) = (Phase::Free, None);
    ticket.changed();
}

/// Held, and nothing ends that with this tick.
pub(super) fn stays_held(ticket: &Ticket, now: LogTime) -> bool {
    let lease_runs = ticket.lease.is_none_or(|lease| !lease.expired(now));
    ticket.phase == Phase::Held
        && !ticket.overruled()
        && lease_runs
        && !ticket.holder.is_some_and(|site| all_closed(ticket, site))
}

/// A planned move whose target never renewed: the copy it came from is still the last writer.
fn never_began(ticket: &Ticket, moving: &Move) -> bool {
    let planned = moving.cause.planned() && !moving.compensating;
    let from_is_last = ticket.latch.as_ref().is_some_and(|latch| Some(latch.active) == moving.from);
    planned && from_is_last && moving.from != Some(moving.to)
}

fn all_closed(ticket: &Ticket, site: Site) -> bool {
    let epoch = ticket.epoch;
    let mut gates = ticket.listed_gates(site).peekable();
    gates.peek().is_some() && gates.all(|(_, gate)| gate.seen > epoch || (gate.seen == epoch && gate.closed))
}

/// Begins a planned move: the holder is asked to stop.
pub(super) fn drain(
    ticket: &mut Ticket,
    to: Site,
    cause: Cause,
    author: String,
    scene: Scene<'_>,
    out: &mut Vec<Happened>,
) {
    let Some(from) = ticket.holder else { return };
    let event =
        TicketEvent::DrainStarted { ticket: scene.id.clone(), from, to, epoch: ticket.epoch, cause: cause.clone() };
    out.push(Happened { author, event });
    let stage = Stage::Stopping { until: scene.now.plus(STAGE_LIMIT_MS) };
    let mut moving = Move::new(Some(from), to, cause, scene.now, stage);
    start_stopping(ticket, &mut moving, from, scene);
    ticket.moving = Some(moving);
}

fn start_stopping(ticket: &mut Ticket, moving: &mut Move, site: Site, scene: Scene<'_>) {
    ticket.phase = Phase::Draining;
    ticket.changed();
    let stage = Stage::Stopping { until: scene.now.plus(STAGE_LIMIT_MS) };
    let order = Order { epoch: ticket.epoch, revision: ticket.revision, now: scene.now };
    moving.enter(stage, StepKind::Stop, site, parties(ticket, site), order);
}

/// Gates that took part at a site: those of the policy, and those that left it but renewed the epoch of the lease.
fn parties(ticket: &Ticket, site: Site) -> Vec<Id> {
    let epoch = ticket.lease.map_or(ticket.epoch, |lease| lease.epoch);
    let took_part = |gate: &super::ticket::GateRecord| gate.listed || gate.renewals.iter().any(|r| r.epoch == epoch);
    let gates = ticket.gates.get(&site).into_iter().flatten();
    gates.filter(|(_, gate)| took_part(gate)).map(|(id, _)| id.clone()).collect()
}

fn stopping(ticket: &mut Ticket, mut moving: Move, until: LogTime, scene: Scene<'_>, out: &mut Vec<Happened>) -> bool {
    if stopped(ticket, &moving, scene, out) {
        grant_after_drain(ticket, moving, true, scene, out);
        return true;
    }
    if run_out(ticket, scene) {
        lost_while_draining(ticket, moving, scene, out);
        return true;
    }
    let refused = moving.given_up();
    if refused.is_none() && scene.now < until {
        ticket.moving = Some(moving);
        return false;
    }
    let reason = refused.unwrap_or_else(|| format!("no stop report from {}", list(&moving.missing())));
    let must_leave = moving.cause.must_leave();
    if !must_leave && !moving.compensating && !any_closed(ticket) {
        cancel_drain(ticket, moving, reason, scene, out);
        return false;
    }
    if !must_leave && !moving.compensating {
        undo(ticket, &mut moving, reason, scene, out);
    }
    lapse(ticket, &mut moving, scene, out);
    ticket.moving = Some(moving);
    true
}

fn any_closed(ticket: &Ticket) -> bool {
    let epoch = ticket.epoch;
    let holder = ticket.holder;
    holder.is_some_and(|site| ticket.listed_gates(site).any(|(_, gate)| gate.seen >= epoch && gate.closed))
}

/// Nothing was stopped yet: the holder goes on as it is. A stop that is late after all closes the epoch, and the ticket
/// then resumes at the same site.
fn cancel_drain(ticket: &mut Ticket, moving: Move, reason: String, scene: Scene<'_>, out: &mut Vec<Happened>) {
    let Some(holder) = ticket.holder else { return };
    let event = TicketEvent::DrainCancelled { ticket: scene.id.clone(), holder, epoch: ticket.epoch, reason };
    out.push(system(event));
    ticket.phase = Phase::Held;
    ticket.changed();
    end(ticket, moving, MoveOutcome::Compensated, scene);
}

/// Back to where the move came from. Only before anything could be written at the target.
fn undo(ticket: &Ticket, moving: &mut Move, reason: String, scene: Scene<'_>, out: &mut Vec<Happened>) {
    let Some(back_to) = moving.from else { return };
    out.push(system(TicketEvent::Compensating {
        ticket: scene.id.clone(),
        back_to,
        epoch: ticket.epoch,
        reason: reason.clone(),
    }));
    moving.compensating = true;
    moving.to = back_to;
    moving.cause = Cause::Undone { reason };
}

fn lapse(ticket: &mut Ticket, moving: &mut Move, scene: Scene<'_>, out: &mut Vec<Happened>) {
    moving.stage = Stage::Lapsing;
    ticket.changed();
    if let Some(holder) = ticket.holder {
        out.push(system(TicketEvent::Lapsing {
            ticket: scene.id.clone(),
            holder,
            epoch: ticket.epoch,
            missing: moving.missing(),
        }));
    }
}

fn lapsing(ticket: &mut Ticket, moving: Move, scene: Scene<'_>, out: &mut Vec<Happened>) -> bool {
    if stopped(ticket, &moving, scene, out) {
        grant_after_drain(ticket, moving, true, scene, out);
        return true;
    }
    if run_out(ticket, scene) {
        lost_while_draining(ticket, moving, scene, out);
        return true;
    }
    ticket.moving = Some(moving);
    false
}

fn run_out(ticket: &Ticket, scene: Scene<'_>) -> bool {
    ticket.lease.is_none_or(|lease| lease.expired(scene.now))
}

/// Every stop was reported done, with the right key and revision: a clean release. An empty list proves nothing.
fn stopped(ticket: &Ticket, moving: &Move, scene: Scene<'_>, out: &mut Vec<Happened>) -> bool {
    let mut steps = moving.current().peekable();
    let clean = steps.peek().is_some() && steps.all(|step| matches!(step.state, StepState::Done { .. }));
    if let (true, Some(holder)) = (clean, ticket.holder) {
        out.push(system(TicketEvent::Released { ticket: scene.id.clone(), holder, epoch: ticket.epoch }));
    }
    clean
}

fn lost_while_draining(ticket: &mut Ticket, moving: Move, scene: Scene<'_>, out: &mut Vec<Happened>) {
    if let Some(holder) = ticket.holder {
        out.push(system(TicketEvent::Expired { ticket: scene.id.clone(), holder, epoch: ticket.epoch }));
    }
    grant_after_drain(ticket, moving, false, scene, out);
}

/// The standby may have fallen behind while the holder stopped: then the ticket goes back instead.
fn grant_after_drain(ticket: &mut Ticket, mut moving: Move, released: bool, scene: Scene<'_>, out: &mut Vec<Happened>) {
    let freshness = freshness::of(ticket, moving.to, scene.rpo);
    let forced = moving.cause.forces(Guard::Freshness);
    if freshness != Freshness::Fresh && !forced && moving.from.is_some_and(|from| from != moving.to) {
        let reason = format!("the copy at site {} is {} by now", moving.to, freshness.as_str());
        undo(ticket, &mut moving, reason, scene, out);
    }
    if let Some(reason) = unstopped(ticket, &moving, scene).filter(|_| !released) {
        still_runs(ticket, moving, reason, scene, out);
        return;
    }
    grant(ticket, moving, released, scene, out);
}

/// Why a move that people ordered must not rest on time: the side it leaves is there, and says that it could not stop.
fn unstopped(ticket: &Ticket, moving: &Move, scene: Scene<'_>) -> Option<String> {
    let fresh_ms = super::intake::gate_fresh_ms(scene.timing);
    let (site, gate) = ticket.unstopped(moving.to, scene.now, fresh_ms).filter(|_| moving.cause.is_ordered())?;
    Some(format!("gate {gate} of site {site} could not verify its stop"))
}

/// Nobody may run it until people have looked: the ticket is free and frozen.
fn still_runs(ticket: &mut Ticket, moving: Move, reason: String, scene: Scene<'_>, out: &mut Vec<Happened>) {
    (ticket.phase, ticket.holder) = (Phase::Free, None);
    stuck(ticket, moving, reason, scene, out);
}

/// Grants the ticket to `moving.to` under the next epoch, and seals the side whose lease may still run.
pub(super) fn grant(ticket: &mut Ticket, mut moving: Move, released: bool, scene: Scene<'_>, out: &mut Vec<Happened>) {
    let to = moving.to;
    let old = ticket.lease.map(|lease| lease.site).filter(|site| *site != to);
    let losers = old.map(|site| parties(ticket, site)).unwrap_or_default();
    let now = scene.now;
    let effective_at = ticket.lease.map_or(now, |lease| lease.effective(to, released, now, scene.timing));
    let until = if effective_at > now { effective_at } else { now.plus(seal_limit_ms(scene.timing)) };
    ticket.epoch = ticket.next_epoch();
    (ticket.phase, ticket.holder, ticket.pending) = (Phase::Granting, Some(to), None);
    (ticket.noted, ticket.lapsed) = (None, false);
    ticket.changed();
    for gate in ticket.gates.values_mut().flat_map(|gates| gates.values_mut()) {
        (gate.says_in_sync, gate.attempt, gate.retry_at, gate.last_failure) = (None, 0, now, None);
    }
    let stage = Stage::Sealing { effective_at, until };
    let order = Order { epoch: ticket.epoch, revision: ticket.revision, now };
    moving.enter(stage, StepKind::Seal, old.unwrap_or(to), losers, order);
    out.push(system(TicketEvent::Granted {
        ticket: scene.id.clone(),
        holder: to,
        epoch: ticket.epoch,
        cause: moving.cause.clone(),
        effective_at,
    }));
    ticket.moving = Some(moving);
}

fn sealing(
    ticket: &mut Ticket,
    mut moving: Move,
    effective_at: LogTime,
    until: LogTime,
    scene: Scene<'_>,
    out: &mut Vec<Happened>,
) -> bool {
    if scene.now < effective_at || (scene.now < until && !moving.all_settled()) {
        ticket.moving = Some(moving);
        return false;
    }
    if let Some(reason) = unstopped(ticket, &moving, scene).filter(|_| !moving.all_done()) {
        still_runs(ticket, moving, reason, scene, out);
        return false;
    }
    let first = moving.first;
    for step in moving.steps.iter_mut().skip(first).filter(|step| !step.settled()) {
        step.state = StepState::CoveredByTime;
        out.push(system(TicketEvent::CoveredByTime {
            ticket: scene.id.clone(),
            epoch: step.epoch,
            site: step.site,
            gate: step.gate.clone(),
        }));
    }
    let to = moving.to;
    ticket.phase = Phase::Held;
    ticket.lease = Some(Lease::start(to, ticket.epoch, scene.now, scene.timing));
    ticket.changed();
    out.push(system(TicketEvent::Effective { ticket: scene.id.clone(), holder: to, epoch: ticket.epoch }));
    let stage = Stage::Promoting { until: scene.now.plus(STAGE_LIMIT_MS) };
    enter_at_holder(ticket, &mut moving, stage, StepKind::Promote, scene);
    ticket.moving = Some(moving);
    true
}

fn enter_at_holder(ticket: &Ticket, moving: &mut Move, stage: Stage, kind: StepKind, scene: Scene<'_>) {
    let gates = ticket.listed_gates(moving.to).map(|(id, _)| id.clone()).collect();
    let order = Order { epoch: ticket.epoch, revision: ticket.revision, now: scene.now };
    moving.enter(stage, kind, moving.to, gates, order);
}

fn promoting(ticket: &mut Ticket, mut moving: Move, until: LogTime, scene: Scene<'_>, out: &mut Vec<Happened>) -> bool {
    let refused = moving.given_up();
    if refused.is_none() && moving.all_settled() {
        let stage = Stage::Publishing { until: scene.now.plus(STAGE_LIMIT_MS) };
        enter_at_holder(ticket, &mut moving, stage, StepKind::Publish, scene);
        ticket.moving = Some(moving);
        return true;
    }
    if refused.is_none() && scene.now < until {
        ticket.moving = Some(moving);
        return false;
    }
    let certain = refused.is_some();
    let reason = refused.unwrap_or_else(|| format!("no promote report from {}", list(&moving.missing())));
    if !may_go_back(ticket, &moving, certain, scene) {
        stuck(ticket, moving, reason, scene, out);
        return false;
    }
    // Nothing was published at the target, so nothing was written there: the old copy is as good as it was.
    if let (true, Some(before)) = (certain, moving.before.take()) {
        ticket.latch = Some(before);
    }
    let at = moving.to;
    undo(ticket, &mut moving, reason, scene, out);
    start_stopping(ticket, &mut moving, at, scene);
    ticket.moving = Some(moving);
    true
}

/// A planned move is undone when its promotion was refused; after a loss there is nothing to go back to.
fn may_go_back(ticket: &Ticket, moving: &Move, certain: bool, scene: Scene<'_>) -> bool {
    let planned = moving.cause.planned();
    let Some(from) = moving.from.filter(|from| *from != moving.to) else { return false };
    let fresh_ms = super::intake::gate_fresh_ms(scene.timing);
    let there = ticket.listed_gates(from).all(|(_, gate)| gate.present(scene.now, fresh_ms));
    planned && !moving.compensating && there && (certain || scene.rpo == Rpo::Availability)
}

fn publishing(ticket: &mut Ticket, moving: Move, until: LogTime, scene: Scene<'_>, out: &mut Vec<Happened>) -> bool {
    let refused = moving.given_up();
    if refused.is_none() && moving.all_settled() {
        out.push(system(TicketEvent::MoveFinished {
            ticket: scene.id.clone(),
            from: moving.from,
            to: moving.to,
            epoch: ticket.epoch,
            took_ms: scene.now.since(moving.started),
        }));
        let outcome = if moving.compensating { MoveOutcome::Compensated } else { MoveOutcome::Done };
        ticket.changed();
        end(ticket, moving, outcome, scene);
        return false;
    }
    if refused.is_none() && scene.now < until {
        ticket.moving = Some(moving);
        return false;
    }
    let reason = refused.unwrap_or_else(|| format!("no publish report from {}", list(&moving.missing())));
    stuck(ticket, moving, reason, scene, out);
    false
}

/// The move ends where it is. A ticket that changed its site is frozen for a human; one that did not may still move away.
fn stuck(ticket: &mut Ticket, moving: Move, reason: String, scene: Scene<'_>, out: &mut Vec<Happened>) {
    let (to, moved) = (moving.to, moving.from.is_some_and(|from| from != moving.to) || moving.compensating);
    out.push(system(TicketEvent::MoveStuck {
        ticket: scene.id.clone(),
        to,
        epoch: ticket.epoch,
        reason: reason.clone(),
    }));
    if moved && ticket.frozen.is_none() {
        freeze(ticket, format!("the move to site {to} got stuck: {reason}"), scene, out);
    }
    ticket.changed();
    end(ticket, moving, MoveOutcome::Stuck, scene);
}

pub(super) fn freeze(ticket: &mut Ticket, reason: String, scene: Scene<'_>, out: &mut Vec<Happened>) {
    let owner = super::event::SYSTEM.to_owned();
    let until = scene.now.plus(SYSTEM_FREEZE_MS);
    ticket.frozen = Some(Freeze { owner: owner.clone(), reason: reason.clone(), since: scene.now, until });
    ticket.changed();
    out.push(system(TicketEvent::Frozen { ticket: scene.id.clone(), owner, reason, until }));
}

fn end(ticket: &mut Ticket, moving: Move, outcome: MoveOutcome, scene: Scene<'_>) {
    ticket.settled_at = Some(scene.now);
    ticket.history.push(MoveRecord {
        from: moving.from,
        to: moving.to,
        epoch: ticket.epoch,
        cause: moving.cause,
        started: moving.started,
        ended: scene.now,
        outcome,
    });
    if ticket.history.len() > MAX_HISTORY {
        ticket.history.remove(0);
    }
}

fn list(ids: &[Id]) -> String {
    if ids.is_empty() { "any gate".to_owned() } else { ids.iter().map(Id::as_str).collect::<Vec<_>>().join(", ") }
}
