//! Why a ticket is where it is, in sentences.
//!
//! Knows: the same values the decision reads, at the same index. Changes nothing and decides nothing: it asks `decide`.

use bcp_wire::control::Phase;
use bcp_wire::{Id, Site};

use super::State;
use super::decide::{self, Block, Facts};
use super::observe::{Board, Vote};
use super::require;
use super::saga::{Step, StepState};
use super::show;
use super::ticket::Ticket;
use super::view::{Explanation, Input, RuleView, VoteView};
use crate::policy::{Mode, MoveWhen, Policy, Rpo, TicketKind};
use crate::status::ServiceStatus;

impl State {
    #[must_use]
    pub fn explain(&self, policy: &Policy, id: &Id) -> Option<Explanation> {
        let (ticket, facts) = self.facts(policy, id)?;
        let can = show::can_failover(ticket, facts);
        Some(Explanation {
            ticket: id.clone(),
            log_time_ms: self.now.0,
            decision: decision(ticket, facts),
            rule: RuleView {
                hash: ticket.rule_hash.clone(),
                move_when: facts.rule.move_when.iter().map(MoveWhen::to_string).collect(),
                rpo: rpo(facts.rule.rpo),
                mode: facts.rule.mode,
            },
            inputs: inputs(ticket, facts),
            votes: votes(&self.board, ticket, facts),
            did: did(ticket),
            did_not: did_not(ticket, facts),
            can_failover_now: can,
        })
    }
}

fn rpo(rpo: Rpo) -> String {
    match rpo {
        Rpo::Zero => "zero: only to a copy that was latched in sync before the fault".to_owned(),
        Rpo::Bounded { positions } => format!("bounded: to a copy at most {positions} positions behind"),
        Rpo::Availability => "availability: to any copy of the same history".to_owned(),
    }
}

fn decision(ticket: &Ticket, facts: Facts<'_>) -> String {
    let (id, epoch) = (facts.id, ticket.epoch);
    if facts.rule.kind == TicketKind::ActiveActive {
        let shares: Vec<String> = ticket.weights.iter().map(|(site, share)| format!("{site} {share} %")).collect();
        return match shares.is_empty() {
            true => format!("{id} has no weights yet: no gate of it was heard."),
            false => format!("The load of {id} is shared as {} under epoch {epoch}.", shares.join(", ")),
        };
    }
    if let Some(moving) = &ticket.moving {
        let stage = moving.stage.as_str();
        return format!("{id} goes to site {} as epoch {epoch}, now {stage}, because {}.", moving.to, moving.cause);
    }
    match (ticket.phase, ticket.holder, ticket.holder_or_last()) {
        (Phase::Held, Some(site), _) => format!("{id} stays at site {site} under epoch {epoch}."),
        (_, _, Some(site)) => {
            format!("{id} is free: site {site} had it until epoch {epoch}, and no site may run it now.")
        }
        (_, _, None) => format!("{id} was never granted."),
    }
}

fn inputs(ticket: &Ticket, facts: Facts<'_>) -> Vec<Input> {
    let mut inputs = Vec::new();
    let mut add = |name: &str, value: String| inputs.push(Input { name: name.to_owned(), value });
    if let Some(lease) = &ticket.lease {
        let ago = facts.now.since(lease.renewed);
        let left = match lease.expired(facts.now) {
            true => "run out".to_owned(),
            false => format!("runs for another {}", seconds(lease.expires.since(facts.now))),
        };
        let text = format!("site {}, epoch {}, renewed {} ago, {left}", lease.site, lease.epoch, seconds(ago));
        add("lease", text);
    }
    if let Some(latch) = &ticket.latch {
        let says = match latch.in_sync {
            Some(true) => "its standby has everything",
            Some(false) => "its standby lacks acknowledged data",
            None => "nothing was said about its standby",
        };
        let ago = seconds(facts.now.since(latch.at));
        add("latch", format!("site {} under epoch {}: {says} (for {ago})", latch.active, latch.epoch));
    }
    for (site, copy) in &ticket.copies {
        let (facts_of, age) = (&copy.facts, seconds(facts.now.since(copy.at)));
        let text = format!("history {}, position {}, {age} ago", facts_of.lineage, facts_of.position);
        add(&format!("copy at site {site}"), text);
    }
    for (site, since) in &ticket.down_since {
        add(&format!("service down at site {site}"), format!("for {}", seconds(facts.now.since(*since))));
    }
    let used = format!("{} of {} in 24 h", ticket.automatic_moves.len(), facts.rule.move_budget);
    add("automatic moves", used);
    for site in &facts.rule.sites {
        for (supply, said) in require::runways(*site, facts) {
            add(&format!("{} of site {site}", supply.as_str()), said);
        }
    }
    for require in &facts.rule.require {
        add("requirement", require.to_string());
    }
    for (observer, count) in &facts.board.ignored {
        add(&format!("words of the observer at site {observer}"), format!("{count} ignored: twice, or overtaken"));
    }
    if let Some(asked) = &ticket.force {
        let (ago, left) = (seconds(facts.now.since(asked.at)), seconds(asked.until.since(facts.now)));
        let asks = format!("{} asked {ago} ago for site {} around its {}", asked.by, asked.to, asked.guard);
        add("force", format!("{asks} ({}); another operator has {left}", asked.reason));
    }
    if let Some(until) = ticket.cooldown_until {
        add("cool-down", format!("another {}", seconds(until.since(facts.now))));
    }
    inputs
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

fn votes(board: &Board, ticket: &Ticket, facts: Facts<'_>) -> Vec<VoteView> {
    let mut votes = Vec::new();
    let about = match ticket.holder_or_last() {
        Some(site) => vec![site],
        None => facts.rule.sites.clone(),
    };
    for site in about {
        for observer in Site::ALL {
            votes.push(site_vote(board, observer, site, facts));
            votes.push(service_vote(board, observer, site, facts));
        }
    }
    votes
}

fn site_vote(board: &Board, observer: Site, about: Site, facts: Facts<'_>) -> VoteView {
    let vote = board.vote(observer, about, facts.now);
    let says = match vote {
        Vote::Lost => "sees neither control nor any fresh agent",
        Vote::There => "sees it",
        Vote::Unknown => "does not know",
    };
    VoteView {
        observer,
        about,
        what: "site".to_owned(),
        says: says.to_owned(),
        age_ms: board.sights.get(&observer).map(|sights| facts.now.since(sights.at)),
        counted: vote != Vote::Unknown,
    }
}

fn service_vote(board: &Board, observer: Site, about: Site, facts: Facts<'_>) -> VoteView {
    let status = board.service_word(observer, &facts.rule.service, about, facts.now);
    VoteView {
        observer,
        about,
        what: "service".to_owned(),
        says: format!("{status:?}").to_lowercase(),
        age_ms: board.services.get(&observer).map(|word| facts.now.since(word.at)),
        counted: status != ServiceStatus::Unknown,
    }
}

fn did(ticket: &Ticket) -> Vec<String> {
    let mut done: Vec<String> = ticket.history.iter().rev().take(3).map(past).collect();
    if let Some(moving) = &ticket.moving {
        done.extend(moving.steps.iter().map(step));
    }
    done
}

fn past(record: &super::ticket::MoveRecord) -> String {
    let from = record.from.map(|site| format!(" from site {site}")).unwrap_or_default();
    format!(
        "Epoch {}: granted{from} to site {} because {}; {:?} at log time {}.",
        record.epoch, record.to, record.cause, record.outcome, record.ended
    )
}

fn step(step: &Step) -> String {
    let state = match &step.state {
        StepState::Ordered { since } => format!("ordered at log time {since}"),
        StepState::Done { took_ms, .. } => format!("done in {took_ms} ms"),
        StepState::CoveredByTime => "not reachable, covered by the time waited out".to_owned(),
        StepState::GivenUp { detail, .. } => format!("given up: {detail}"),
    };
    let (kind, epoch) = (step.kind.as_str(), step.epoch);
    format!("Step {kind} of epoch {epoch} at gate {} of site {}: {state}.", step.gate, step.site)
}

fn did_not(ticket: &Ticket, facts: Facts<'_>) -> Vec<String> {
    let mut not = Vec::new();
    if facts.rule.kind == TicketKind::ActiveActive || ticket.moving.is_some() {
        return not;
    }
    let Some(site) = ticket.holder_or_last() else {
        let wanted = facts.rule.preferred.or(facts.rule.sites.first().copied());
        let wanted = wanted.map_or_else(String::new, |site| format!(" of site {site}"));
        return vec![format!("It is not granted yet: the gates{wanted}, or what it depends on, are not all there.")];
    };
    match decide::cause(ticket, site, facts) {
        Some(cause) => {
            let (_, blocks) = show::failover_blocks(ticket, facts);
            let reasons = blocks.iter().map(Block::to_string).collect::<Vec<_>>().join("; ");
            let reasons = match (reasons.is_empty(), facts.rule.mode) {
                (true, Mode::Confirm) => "a human has not confirmed it".to_owned(),
                (true, Mode::Off | Mode::Observe | Mode::Auto) => "it is decided with the next tick".to_owned(),
                (false, _) => reasons,
            };
            not.push(format!("It does not move although {cause}: {reasons}."));
        }
        None => not.extend(facts.rule.move_when.iter().map(|when| why_not(ticket, site, when, facts))),
    }
    if let Some(preferred) = facts.rule.preferred.filter(|preferred| *preferred != site) {
        not.push(format!("It does not go back to its preferred site {preferred} by itself: failback is manual."));
    }
    not
}

fn why_not(ticket: &Ticket, site: Site, when: &MoveWhen, facts: Facts<'_>) -> String {
    match when {
        MoveWhen::SiteLost => {
            let lost = Site::ALL.iter().filter(|o| facts.board.vote(**o, site, facts.now) == Vote::Lost).count();
            let lease = match (ticket.phase, &ticket.lease) {
                (Phase::Free, Some(lease)) if lease.expired(facts.now) => "the lease has run out",
                _ => "the lease is in force",
            };
            format!(
                "It does not move for `{when}`: {lease}, and {lost} of 3 observers call site {site} lost (2 needed)."
            )
        }
        MoveWhen::RunsOut { supply, .. } => {
            let said = require::runways(site, facts).into_iter().find(|(asked, _)| asked == supply);
            let said = said.map_or_else(String::new, |(_, said)| format!(" ({said})"));
            format!("It does not move for `{when}`: two of three observers do not say so of site {site}{said}.")
        }
        MoveWhen::ServiceDown { for_ms } => {
            let since = ticket.down_since.get(&site).map(|since| facts.now.since(*since));
            match since {
                Some(ms) => format!("It does not move for `{when}`: down for {} of {}.", seconds(ms), seconds(*for_ms)),
                None => {
                    format!("It does not move for `{when}`: two of three do not say that it is down at site {site}.")
                }
            }
        }
    }
}
