//! What a seeded bug changes on the way between the shipped core, the shipped gates and the wires.

use bcp_core::failover::decide::Cause;
use bcp_core::failover::force::ForceAsked;
use bcp_core::failover::saga::{Move, Stage, StepState, step_key};
use bcp_core::failover::{TicketCommand, TicketEvent, ticket::Ticket};
use bcp_core::ledger::{LedgerEntry, LedgerEvent};
use bcp_core::policy::{Mode, Policy, Timing};
use bcp_core::replica::{CommandVerb, Item, OperatorCommand, Replica, Tick};
use bcp_core::time::LogTime;
use bcp_wire::control::{GateSync, Phase, StepKind, StepOrder, StepOutcome, TicketAnswer};
use bcp_wire::{Epoch, Site};

use crate::bug::Bug;
use crate::host::{Host, Play};

/// Applies a tick as the bug would have it.
pub fn apply(
    replica: &mut Replica,
    index: u64,
    tick: &Tick,
    policy: &mut Policy,
    bug: Option<Bug>,
) -> Vec<LedgerEntry> {
    let Some(bug) = bug else { return replica.apply(index, tick) };
    let mut tick = tick.clone();
    before(replica, &mut tick, policy, bug);
    let old = replica.clone();
    let entries = match bug {
        Bug::RenewalStampedBeforeTick => {
            let early = Tick { elapsed_ms: 0, ..tick.clone() };
            let late = Tick { items: Vec::new(), ..tick };
            let mut entries = replica.apply(index, &early);
            entries.extend(replica.apply(index, &late));
            entries
        }
        _ => replica.apply(index, &tick),
    };
    after(replica, &old, &tick_events(&entries), policy, bug);
    entries
}

fn tick_events(entries: &[LedgerEntry]) -> Vec<TicketEvent> {
    let event = |entry: &LedgerEntry| match &entry.what {
        LedgerEvent::Ticket { event } => Some(event.clone()),
        _ => None,
    };
    entries.iter().filter_map(event).collect()
}

fn before(replica: &mut Replica, tick: &mut Tick, policy: &mut Policy, bug: Bug) {
    let now = LogTime(replica.log_time.0 + tick.elapsed_ms);
    match bug {
        Bug::DependencyIgnored | Bug::ObserveActs => {
            for rule in policy.tickets.values_mut() {
                rule.depends_on.clear();
                if bug == Bug::ObserveActs && rule.mode == Mode::Observe {
                    rule.mode = Mode::Auto;
                }
            }
            for item in &mut tick.items {
                if let Item::Policy(proposed) = item {
                    **proposed = policy.clone();
                }
            }
        }
        Bug::OldWordCounted => {
            for item in &mut tick.items {
                if let Item::Observation(said) = item {
                    said.seq = 0;
                }
            }
        }
        Bug::OrdersDoNotCompare => {
            for item in &mut tick.items {
                if let Item::Command(OperatorCommand { verb: CommandVerb::Ticket { command, .. }, .. }) = item {
                    forget_what_was_seen(command);
                }
            }
        }
        Bug::ForceByOne => {
            for item in &mut tick.items {
                if let Item::Command(order) = item
                    && matches!(order.verb, CommandVerb::Ticket { command: TicketCommand::Force { .. }, .. })
                {
                    order.operator = order.key.clone();
                }
            }
        }
        Bug::SilenceGuardRemoved => {
            for item in &mut tick.items {
                if let Item::SiteVotes(votes) = item {
                    votes.sites.values_mut().for_each(|word| word.mass_silence = false);
                }
            }
        }
        Bug::PolicyTakesAway if tick.items.iter().any(|item| matches!(item, Item::Policy(_))) => replica.policy = None,
        Bug::ReelectedLeaderCounts => (replica.term, replica.leader) = (tick.term, Some(tick.leader)),
        Bug::FreezeEndsRenewals => {
            let frozen = |ticket: &bcp_wire::Id| {
                replica.failover.tickets.get(ticket).is_some_and(|ticket| ticket.frozen.is_some())
            };
            for item in &mut tick.items {
                if let Item::Gate(sync) = item {
                    for said in sync.tickets.iter_mut().filter(|said| frozen(&said.ticket)) {
                        said.renew = None;
                    }
                }
            }
        }
        Bug::ExpiredObservationCounted => {
            for sights in replica.failover.board.sights.values_mut() {
                sights.at = now;
            }
        }
        Bug::FreshObserverCounted => {
            for sights in replica.failover.board.sights.values_mut() {
                sights.since = LogTime(0);
            }
        }
        Bug::OneVoteIsEnough => {
            let board = &mut replica.failover.board;
            for site in Site::ALL {
                let votes: Vec<Site> = Site::ALL
                    .into_iter()
                    .filter(|observer| board.vote(*observer, site, now) == bcp_core::failover::observe::Vote::Lost)
                    .collect();
                if let [one] = votes.as_slice()
                    && let Some(said) = board.sights.get(one).cloned()
                {
                    for observer in Site::ALL {
                        board.sights.insert(observer, said.clone());
                    }
                }
            }
        }
        Bug::FreshnessAskedAfter => {
            for ticket in replica.failover.tickets.values_mut() {
                let gone = ticket.lease.is_some_and(|lease| lease.expired(now));
                if let Some(latch) = ticket.latch.as_mut().filter(|_| gone) {
                    latch.in_sync = Some(true);
                }
            }
        }
        // The freeze goes, the count stays.
        Bug::BudgetNotReset => tick.items.retain(|item| match item {
            Item::Command(OperatorCommand {
                verb: CommandVerb::Ticket { ticket, command: TicketCommand::Unfreeze { .. } },
                ..
            }) => {
                if let Some(ticket) = replica.failover.tickets.get_mut(ticket) {
                    ticket.frozen = None;
                }
                false
            }
            _ => true,
        }),
        Bug::MissingReportTakenClean => {
            for ticket in replica.failover.tickets.values_mut() {
                take_as_clean(ticket);
            }
        }
        _ => {}
    }
}

fn forget_what_was_seen(command: &mut TicketCommand) {
    match command {
        TicketCommand::Move { expect, .. }
        | TicketCommand::Abort { expect, .. }
        | TicketCommand::Freeze { expect, .. }
        | TicketCommand::Unfreeze { expect, .. }
        | TicketCommand::Confirm { expect, .. }
        | TicketCommand::Force { expect, .. }
        | TicketCommand::Readmit { expect, .. } => *expect = None,
    }
}

fn take_as_clean(ticket: &mut Ticket) {
    let Some(moving) = ticket.moving.as_mut().filter(|moving| matches!(moving.stage, Stage::Stopping { .. })) else {
        return;
    };
    let first = moving.first;
    let one = moving.steps.iter().skip(first).any(|step| matches!(step.state, StepState::Done { .. }));
    for step in moving.steps.iter_mut().skip(first).filter(|_| one) {
        step.state = StepState::Done { outcome: StepOutcome::Done, took_ms: 0 };
    }
}

fn after(replica: &mut Replica, old: &Replica, events: &[TicketEvent], policy: &mut Policy, bug: Bug) {
    match bug {
        Bug::MarginZero => {
            let timing = policy.timing;
            let bare = Timing { ttl_ms: timing.ttl_holder_ms, acquire_after_ms: 0, ..timing };
            (policy.timing, replica.failover.timing) = (bare, Some(bare));
            if let Some(agreed) = replica.policy.as_mut() {
                agreed.timing = bare;
            }
        }
        Bug::CapacityStepsNumberedAnew => {
            let all = replica.failover.tickets.values_mut().flat_map(|ticket| ticket.started.values_mut());
            for started in all.filter(|started| started.servers.is_empty() && started.running.is_none()) {
                started.steps = 0;
            }
        }
        Bug::CapacityWithoutCap => {
            let all = replica.failover.tickets.values_mut().flat_map(|ticket| ticket.started.values_mut());
            for started in all {
                started.servers.clear();
            }
        }
        Bug::BudgetNotCounted => {
            for ticket in replica.failover.tickets.values_mut() {
                ticket.automatic_moves.clear();
                ticket.cooldown_until = None;
            }
        }
        _ => {}
    }
    let timing = policy.timing;
    let (term, now) = (replica.term, replica.log_time);
    for (id, ticket) in &mut replica.failover.tickets {
        let granted = events.iter().any(|event| matches!(event, TicketEvent::Granted { ticket, .. } if ticket == id));
        let before = old.failover.tickets.get(id);
        match bug {
            Bug::EpochFromTerm if granted => reissue(ticket, Epoch { incarnation: 1, counter: term }),
            Bug::EpochReused if granted => reissue(ticket, before.map_or(Epoch::NONE, |before| before.epoch)),
            Bug::NoWaitOut => {
                if let Some(moving) = ticket.moving.as_mut()
                    && matches!(moving.stage, Stage::Sealing { .. })
                {
                    moving.stage = Stage::Sealing { effective_at: now, until: now };
                }
            }
            Bug::ForceWithoutWait => {
                let forced = |moving: &&mut Move| matches!(moving.cause, Cause::Forced { .. });
                if let Some(moving) = ticket.moving.as_mut().filter(forced) {
                    if matches!(moving.stage, Stage::Sealing { .. }) {
                        moving.stage = Stage::Sealing { effective_at: now, until: now };
                    }
                    if let Some(lease) = ticket.lease.as_mut() {
                        (lease.expires, lease.clear) = (now, now);
                    }
                }
            }
            Bug::ForceOutlivesEpoch => {
                let asked = before.and_then(|before| before.force.clone());
                let forced = |moving: &Move| matches!(moving.cause, Cause::Forced { .. });
                if let Some(asked) =
                    asked.filter(|_| ticket.force.is_none() && !ticket.moving.as_ref().is_some_and(forced))
                {
                    ticket.force = Some(ForceAsked { epoch: ticket.epoch, until: LogTime(u64::MAX), ..asked });
                } else if let Some(asked) = &mut ticket.force {
                    (asked.epoch, asked.until) = (ticket.epoch, LogTime(u64::MAX));
                }
            }
            Bug::WaitOfAcquireAfterOnly => {
                if let Some(lease) = ticket.lease.as_mut() {
                    let at = lease.renewed.plus(timing.acquire_after_ms);
                    (lease.expires, lease.clear) = (at, at);
                }
            }
            _ => {}
        }
    }
}

fn reissue(ticket: &mut Ticket, epoch: Epoch) {
    ticket.epoch = epoch;
    for step in ticket.moving.iter_mut().flat_map(|moving| moving.steps.iter_mut()) {
        step.epoch = epoch;
    }
}

/// What the gates do wrong by themselves, after a tick.
pub fn gates(hosts: &mut [Host], replica: &Replica, play: &mut Play) {
    for host in hosts {
        let tickets: Vec<bcp_wire::Id> = host.posts.keys().cloned().collect();
        for id in tickets {
            let drained = replica.failover.tickets.get(&id).is_some_and(|ticket| {
                ticket.moving.as_ref().is_some_and(|moving| moving.from == Some(host.site) && !moving.compensating)
            });
            match play.bug {
                Some(Bug::ClosedEpochReopened) if !drained => host.reopen(&id, play),
                Some(Bug::DrainLeavesOpen) if drained => host.reopen(&id, play),
                _ => {}
            }
        }
    }
}

/// What the answers say wrong.
pub fn answers(answers: &mut [TicketAnswer], sync: &GateSync, replica: &Replica, bug: Option<Bug>) {
    if bug != Some(Bug::PromoteBeforeSeal) {
        return;
    }
    for answer in answers {
        let said = sync.tickets.iter().find(|said| said.ticket == answer.ticket);
        if answer.phase != Phase::Granting || answer.holder != Some(sync.site) || said.is_none() {
            continue;
        }
        answer.renewed = true;
        let key = step_key(&answer.ticket, answer.epoch, StepKind::Promote, sync.site, &sync.gate, 1);
        answer.order = Some(StepOrder {
            key,
            kind: StepKind::Promote,
            epoch: answer.epoch,
            revision: replica.failover.tickets.get(&answer.ticket).map_or(0, |ticket| ticket.revision),
            holder: sync.site,
            params: std::collections::BTreeMap::new(),
        });
    }
}
