//! Tickets: who serves, whether it could move, and why it is where it is.

use bcp_core::failover::view::StepView;
use bcp_core::failover::{Explanation, TicketView};
use bcp_core::policy::TicketKind;
use bcp_core::status::ServiceStatus;
use bcp_wire::Site;
use bcp_wire::control::Phase;

use super::words::status_word;
use crate::serve::view::View;

#[derive(Debug, Clone)]
pub struct TicketCard {
    pub id: String,
    pub class: &'static str,
    /// Active at several sites at once: there is no holder.
    pub shared: bool,
    pub holder: Option<Site>,
    /// Sites that may serve, those that do first.
    pub sides: Vec<Side>,
    pub epoch: String,
    pub phase: &'static str,
    pub stage: Option<String>,
    pub target: Option<String>,
    pub cause: Option<String>,
    pub countdown: Option<(String, u64)>,
    pub mode: String,
    pub sync: &'static str,
    pub can_move: bool,
    pub can_target: Option<String>,
    pub reasons: Vec<String>,
    pub frozen: Option<String>,
    pub asks: Vec<Ask>,
    pub unfenced: bool,
    pub steps: Vec<StepRow>,
    pub troubles: Vec<String>,
}

/// What waits for a person: the question, how long, and the orders that answer it.
#[derive(Debug, Clone)]
pub struct Ask {
    pub question: String,
    pub within_ms: u64,
    pub yes: String,
    pub no: String,
}

/// One site of a ticket.
#[derive(Debug, Clone)]
pub struct Side {
    pub site: Site,
    /// Percent of the load, where several sites share it.
    pub share: Option<u32>,
    pub serves: bool,
    pub class: &'static str,
    pub word: String,
}

#[derive(Debug, Clone)]
pub struct StepRow {
    pub kind: &'static str,
    pub place: String,
    pub state: String,
    pub detail: String,
}

#[derive(Debug)]
pub struct ExplainPage {
    pub card: TicketCard,
    pub explanation: Option<Explanation>,
    pub gates: Vec<GateRow>,
}

#[derive(Debug)]
pub struct GateRow {
    pub place: String,
    pub class: &'static str,
    pub heard: Option<u64>,
    pub seen: String,
    pub closed: bool,
    pub trouble: String,
}

pub fn card(ticket: &TicketView, view: &View) -> TicketCard {
    let moving = ticket.stage.is_some();
    let waits = moving || ticket.phase != Phase::Held || ticket.awaiting_confirmation.is_some();
    let shared = ticket.kind == TicketKind::ActiveActive;
    let sides = sides(ticket, view);
    let class = match (moving, ticket.frozen.is_some()) {
        (true, _) => "degraded",
        (false, frozen) => match (standing(shared, &sides), frozen) {
            ("up", true) => "planned",
            (class, _) => class,
        },
    };
    let site = |site: Site| site.to_string();
    TicketCard {
        id: ticket.id.to_string(),
        class,
        shared,
        holder: ticket.holder,
        sides,
        epoch: ticket.epoch.to_string(),
        phase: ticket.phase.as_str(),
        stage: ticket.stage.clone(),
        target: ticket.target.map(site),
        cause: ticket.cause.clone(),
        // A held lease is renewed all the time: its countdown matters only while something moves or waits for a person.
        countdown: ticket.countdown.clone().zip(ticket.countdown_ms).filter(|_| waits),
        mode: ticket.mode.as_str().to_owned(),
        sync: match ticket.sync.peer_in_sync {
            Some(true) => "standby in sync",
            Some(false) => "standby NOT in sync",
            None => "standby unknown",
        },
        can_move: ticket.can_failover_now.ok,
        can_target: ticket.can_failover_now.target.map(site),
        reasons: ticket.can_failover_now.reasons.clone(),
        frozen: ticket.frozen.as_ref().map(|freeze| format!("frozen: {}", freeze.reason)),
        asks: asks(ticket),
        unfenced: ticket.unfenced,
        steps: ticket.steps.iter().map(step_row).collect(),
        troubles: ticket
            .gates
            .iter()
            .filter_map(|gate| Some(format!("gate {} of site {}: {}", gate.gate, gate.site, gate.trouble.as_ref()?)))
            .collect(),
    }
}

/// The console changes nothing: it shows the order that an operator gives, with what it was decided on.
fn asks(ticket: &TicketView) -> Vec<Ask> {
    let id = &ticket.id;
    let seen = format!("--expect {},{}", ticket.epoch, ticket.revision);
    let no = format!("bcpctl abort {id} --reason '...' {seen}");
    let force = ticket.force_asked.as_ref().map(|asked| Ask {
        question: format!(
            "{} asks to force it to site {} around its {}: {}. Another operator has to ask the same.",
            asked.by, asked.to, asked.guard, asked.reason
        ),
        within_ms: asked.within_ms,
        yes: format!("bcpctl force {id} --to {} --guard {} --reason '...' {seen}", asked.to, asked.guard),
        no: no.clone(),
    });
    let confirm = ticket.awaiting_confirmation.as_ref().map(|asked| Ask {
        question: format!("It should move to site {}. An operator has to confirm.", asked.to),
        within_ms: asked.within_ms,
        yes: format!("bcpctl confirm {id} --epoch {} {seen}", asked.epoch),
        no,
    });
    force.into_iter().chain(confirm).collect()
}

/// With a holder, that decides. Shared: every side that should serve does, or one is out, or none is left.
fn standing(shared: bool, sides: &[Side]) -> &'static str {
    let serving: Vec<&Side> = sides.iter().filter(|side| side.serves).collect();
    let good = serving.iter().filter(|side| side.class == "up").count();
    match (serving.len(), shared) {
        (0, _) => "down",
        (_, false) => "up",
        (_, true) if good == sides.len() => "up",
        (_, true) => "degraded",
    }
}

fn sides(ticket: &TicketView, view: &View) -> Vec<Side> {
    let service = view.services.iter().find(|service| service.id == ticket.service);
    let mut sides: Vec<Side> = ticket
        .sites
        .iter()
        .map(|site| {
            let share = ticket.weights.get(site).copied();
            let serves = ticket.holder == Some(*site) || share.is_some_and(|share| share > 0);
            let status = service.and_then(|service| service.by_site.get(site)).copied();
            let gates = ticket.gates.iter().filter(|gate| gate.site == *site);
            let silent = gates.clone().count() > 0 && gates.clone().all(|gate| !gate.present);
            let (class, word) = match status.unwrap_or(ServiceStatus::Unknown) {
                _ if view.is_lost(*site) => ("down", "lost".to_owned()),
                _ if silent => ("unknown", "gate not heard".to_owned()),
                // Nobody checks this side by itself: its gate is there, which is all that is known.
                ServiceStatus::Unknown if status.is_none() && serves => ("up", "gate heard".to_owned()),
                status => (status.as_str(), status_word(status).to_owned()),
            };
            Side { site: *site, share, serves, class, word }
        })
        .collect();
    sides.sort_by_key(|side| (!side.serves, side.site));
    sides
}

fn step_row(step: &StepView) -> StepRow {
    let took = step.took_ms.map(|ms| format!("{ms} ms"));
    let attempt = (step.attempt > 1).then(|| format!("attempt {}", step.attempt));
    let detail: Vec<String> = [took, attempt, step.detail.clone()].into_iter().flatten().collect();
    StepRow {
        kind: step.kind.as_str(),
        place: format!("{} {}", step.site, step.gate),
        state: step.state.clone(),
        detail: detail.join(", "),
    }
}

impl ExplainPage {
    #[must_use]
    pub fn of(view: &View, id: &str) -> Option<ExplainPage> {
        let ticket = view.tickets.iter().find(|ticket| ticket.id.as_str() == id)?;
        let gates = ticket.gates.iter().map(|gate| GateRow {
            place: format!("{} {}", gate.site, gate.gate),
            class: if gate.present { "up" } else { "unknown" },
            heard: gate.heard_ago_ms,
            seen: gate.seen.to_string(),
            closed: gate.closed,
            trouble: gate.trouble.clone().unwrap_or_default(),
        });
        Some(ExplainPage {
            card: card(ticket, view),
            explanation: view.replica.as_ref().and_then(|replica| replica.explain(&ticket.id)),
            gates: gates.collect(),
        })
    }
}
