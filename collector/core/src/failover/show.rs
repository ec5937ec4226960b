//! Tickets as views: the state, read once more in the operator's words. Changes nothing.

use bcp_wire::control::Phase;
use bcp_wire::{Id, Site};

use super::State;
use super::decide::{self, Block, Facts};
use super::freshness;
use super::intake::gate_fresh_ms;
use super::saga::{Stage, Step, StepState};
use super::ticket::Ticket;
use super::view::{
    BudgetView, CanFailover, ConfirmationView, CopyView, ForceView, GateView, StepView, SyncView, TicketView,
};
use super::weigh;
use crate::policy::{LossPolicy, Mode, Policy, TicketKind};

impl State {
    #[must_use]
    pub fn views(&self, policy: &Policy) -> Vec<TicketView> {
        policy.tickets.keys().filter_map(|id| self.view(policy, id)).collect()
    }

    #[must_use]
    pub fn view(&self, policy: &Policy, id: &Id) -> Option<TicketView> {
        let (ticket, facts) = self.facts(policy, id)?;
        let (countdown, countdown_ms) = countdown(ticket, facts).unzip();
        let moving = ticket.moving.as_ref();
        let rule = facts.rule;
        Some(TicketView {
            id: id.clone(),
            service: rule.service.clone(),
            kind: rule.kind,
            mode: rule.mode,
            sites: rule.sites.clone(),
            preferred: rule.preferred,
            holder: ticket.holder,
            last_holder: ticket.holder_or_last(),
            epoch: ticket.epoch,
            revision: ticket.revision,
            phase: ticket.phase,
            stage: moving.map(|m| m.stage.as_str().to_owned()),
            target: moving.map(|m| m.to).or(ticket.pending.as_ref().map(|p| p.to)),
            cause: moving.map(|m| m.cause.to_string()).or(ticket.pending.as_ref().map(|p| p.cause.to_string())),
            steps: moving.map(|m| m.steps.iter().map(step).collect()).unwrap_or_default(),
            countdown,
            countdown_ms,
            sync: sync(ticket, facts),
            gates: gates(ticket, facts),
            frozen: ticket.frozen.clone(),
            cooldown_ms: ticket.cooldown_until.map(|until| until.since(facts.now)),
            budget: BudgetView {
                used: u32::try_from(ticket.automatic_moves.len()).unwrap_or(u32::MAX),
                of: rule.move_budget,
            },
            awaiting_confirmation: ticket.pending.as_ref().map(|pending| ConfirmationView {
                to: pending.to,
                epoch: pending.epoch,
                within_ms: pending.until.since(facts.now),
            }),
            force_asked: ticket.force.as_ref().map(|asked| ForceView {
                to: asked.to,
                guard: asked.guard,
                by: asked.by.clone(),
                reason: asked.reason.clone(),
                ago_ms: facts.now.since(asked.at),
                within_ms: asked.until.since(facts.now),
            }),
            weights: ticket.weights.clone(),
            unfenced: rule.mode == Mode::Auto && rule.accept_unfenced && rule.loss != LossPolicy::Fence,
            can_failover_now: can_failover(ticket, facts),
            history: ticket.history.clone(),
            rule_hash: ticket.rule_hash.clone(),
        })
    }
}

pub(super) fn can_failover(ticket: &Ticket, facts: Facts<'_>) -> CanFailover {
    let (target, blocks) = failover_blocks(ticket, facts);
    CanFailover { ok: blocks.is_empty(), target, reasons: blocks.iter().map(Block::to_string).collect() }
}

pub(super) fn failover_blocks(ticket: &Ticket, facts: Facts<'_>) -> (Option<Site>, Vec<Block>) {
    match facts.rule.kind {
        TicketKind::ActivePassive => decide::failover_blocks(ticket, facts),
        TicketKind::ActiveActive => weigh::failover_blocks(ticket, facts),
    }
}

/// What the ticket waits for, and how long at most.
fn countdown(ticket: &Ticket, facts: Facts<'_>) -> Option<(String, u64)> {
    let now = facts.now;
    let lease = ticket.lease.as_ref();
    let found = match (ticket.moving.as_ref().map(|m| m.stage), ticket.phase) {
        (Some(Stage::Stopping { until }), _) => ("the stop is given up", until.since(now)),
        (Some(Stage::Lapsing), _) => ("the lease runs out", lease?.expires.since(now)),
        (Some(Stage::Sealing { effective_at, .. }), _) => ("the grant takes effect", effective_at.since(now)),
        (Some(Stage::Promoting { until }), _) => ("the promotion is given up", until.since(now)),
        (Some(Stage::Publishing { until }), _) => ("the publication is given up", until.since(now)),
        (None, _) if ticket.pending.is_some() => ("the confirmation lapses", ticket.pending.as_ref()?.until.since(now)),
        (None, Phase::Held) => ("the lease runs out", lease?.expires.since(now)),
        (None, Phase::Free | Phase::Granting | Phase::Draining) => return None,
    };
    Some((found.0.to_owned(), found.1))
}

fn step(step: &Step) -> StepView {
    let (state, detail, took_ms) = match &step.state {
        StepState::Ordered { .. } => ("ordered", None, None),
        StepState::Done { took_ms, .. } => ("done", None, Some(*took_ms)),
        StepState::CoveredByTime => ("covered by time", None, None),
        StepState::GivenUp { detail, .. } => ("given up", Some(detail.clone()), None),
    };
    StepView {
        kind: step.kind,
        site: step.site,
        gate: step.gate.clone(),
        epoch: step.epoch,
        attempt: step.attempt,
        state: state.to_owned(),
        detail,
        took_ms,
    }
}

fn sync(ticket: &Ticket, facts: Facts<'_>) -> SyncView {
    let latch = ticket.latch.as_ref();
    let others = facts.rule.sites.iter().filter(|site| Some(**site) != ticket.holder_or_last());
    let copies = ticket.copies.iter().map(|(site, copy)| {
        let view = CopyView { facts: copy.facts.clone(), gate: copy.gate.clone(), age_ms: facts.now.since(copy.at) };
        (*site, view)
    });
    SyncView {
        active: latch.map(|l| l.active),
        peer_in_sync: latch.and_then(|l| l.in_sync),
        latched_ago_ms: latch.map(|l| facts.now.since(l.at)),
        freshness: others.map(|site| (*site, freshness::of(ticket, *site, facts.rule.rpo))).collect(),
        copies: copies.collect(),
    }
}

fn gates(ticket: &Ticket, facts: Facts<'_>) -> Vec<GateView> {
    let fresh_ms = gate_fresh_ms(facts.timing);
    let all = ticket.gates.iter().flat_map(|(site, gates)| gates.iter().map(move |(id, gate)| (*site, id, gate)));
    all.filter(|(_, _, gate)| gate.listed)
        .map(|(site, id, gate)| GateView {
            site,
            gate: id.clone(),
            present: gate.present(facts.now, fresh_ms),
            heard_ago_ms: gate.heard.map(|heard| facts.now.since(heard)),
            seen: gate.seen,
            closed: gate.closed,
            trouble: gate.trouble.clone().or_else(|| gate.last_failure.clone()),
        })
        .collect()
}
