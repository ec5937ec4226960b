//! States of tickets that an operator must see as alarms. They are agreed by construction, so no votes are needed.

use std::collections::BTreeMap;

use bcp_wire::control::Phase;
use bcp_wire::{Id, Site};

use super::decide::{Block, Facts};
use super::ticket::{MoveOutcome, Ticket};
use super::{Condition, State, show};
use crate::alarms::Priority;
use crate::policy::{Mode, Policy, TicketKind};

/// A title by language, in the order nl, fr, de, en. `{}` stands for the ticket or site.
type Titles = [(&'static str, &'static str); 4];

const SITE_LOST: Titles = [
    ("nl", "Datacenter {} is verloren"),
    ("fr", "Le centre de données {} est perdu"),
    ("de", "Rechenzentrum {} ist ausgefallen"),
    ("en", "Site {} is lost"),
];
const POLICY_DIFFERS: Titles = [
    ("nl", "Collector {} heeft een andere configuratie"),
    ("fr", "Le collecteur {} a une autre configuration"),
    ("de", "Kollektor {} hat eine andere Konfiguration"),
    ("en", "Collector {} runs another configuration"),
];
const UNTOLD: Titles = [
    ("nl", "Onbekend hoelang datacenter {} het volhoudt"),
    ("fr", "Autonomie du centre de données {} inconnue"),
    ("de", "Unbekannt, wie lange Rechenzentrum {} durchhält"),
    ("en", "How long site {} lasts is unknown"),
];
const FROZEN: Titles = [
    ("nl", "Ticket {} is bevroren"),
    ("fr", "Le ticket {} est gelé"),
    ("de", "Ticket {} ist eingefroren"),
    ("en", "Ticket {} is frozen"),
];
const FREE: Titles = [
    ("nl", "Dienst van ticket {} heeft geen actieve site"),
    ("fr", "Le service du ticket {} n'a pas de site actif"),
    ("de", "Der Dienst von Ticket {} hat keinen aktiven Standort"),
    ("en", "The service of ticket {} has no active site"),
];
const STUCK: Titles = [
    ("nl", "Verplaatsing van ticket {} is vastgelopen"),
    ("fr", "Le déplacement du ticket {} est bloqué"),
    ("de", "Der Wechsel von Ticket {} steckt fest"),
    ("en", "The move of ticket {} is stuck"),
];
const CONFIRM: Titles = [
    ("nl", "Ticket {} wacht op bevestiging"),
    ("fr", "Le ticket {} attend une confirmation"),
    ("de", "Ticket {} wartet auf eine Bestätigung"),
    ("en", "Ticket {} waits for a confirmation"),
];
const FORCE: Titles = [
    ("nl", "Ticket {} wacht op een tweede operator"),
    ("fr", "Le ticket {} attend un second opérateur"),
    ("de", "Ticket {} wartet auf einen zweiten Bediener"),
    ("en", "Ticket {} waits for a second operator"),
];
const OVERRULED: Titles = [
    ("nl", "Ticket {} werd zonder de collectors beslist"),
    ("fr", "Le ticket {} a été décidé sans les collecteurs"),
    ("de", "Ticket {} wurde ohne die Kollektoren entschieden"),
    ("en", "Ticket {} was decided without the collectors"),
];
const NO_FAILOVER: Titles = [
    ("nl", "Ticket {} kan nu niet overschakelen"),
    ("fr", "Le ticket {} ne peut pas basculer maintenant"),
    ("de", "Ticket {} kann jetzt nicht umschalten"),
    ("en", "Ticket {} cannot fail over now"),
];
const SHORT: Titles = [
    ("nl", "Te weinig servers voor ticket {}"),
    ("fr", "Trop peu de serveurs pour le ticket {}"),
    ("de", "Zu wenige Server für Ticket {}"),
    ("en", "Too few servers for ticket {}"),
];
const GATE_TROUBLE: Titles = [
    ("nl", "Poort van ticket {} meldt een probleem"),
    ("fr", "Une porte du ticket {} signale un problème"),
    ("de", "Ein Gate von Ticket {} meldet ein Problem"),
    ("en", "A gate of ticket {} reports trouble"),
];

impl State {
    /// Everything about tickets that an operator must see now. What is no longer in the list is over.
    #[must_use]
    pub fn alarm_conditions(&self, policy: &Policy) -> Vec<Condition> {
        let mut found = Vec::new();
        for site in Site::ALL {
            if self.board.silent(site, self.now) {
                let explain = format!("Two of three observers see neither control nor any fresh agent of site {site}");
                let lost = of_site("site-lost", Priority::Critical, site, &SITE_LOST, explain);
                found.push(Condition { causal: true, ..lost });
            }
        }
        for site in self.board.foreign_policies(&self.policy_hash, self.policy_since, self.now) {
            let named = self.board.sights.get(&site).map(|said| &said.policy_hash);
            let refused = self.refused_policy.as_ref().filter(|(hash, _)| Some(hash) == named);
            let refused = refused.map_or_else(String::new, |(_, reason)| format!(", and it was refused: {reason}"));
            let explain = format!("The collector of site {site} was given another policy than the agreed one{refused}");
            found.push(of_site("policy-differs", Priority::Medium, site, &POLICY_DIFFERS, explain));
        }
        for (site, supplies) in self.long_untold(policy) {
            let supplies = supplies.iter().map(|supply| supply.as_str()).collect::<Vec<_>>().join(" and ");
            let explain = format!(
                "Fewer than two observers know how long the {supplies} of site {site} would last: nothing would be moved \
                 before it ends"
            );
            let untold = of_site("runway-unknown", Priority::Medium, site, &UNTOLD, explain);
            found.push(Condition { needs: vec![site], runbook: Some("power/runway-unknown.md"), ..untold });
        }
        for id in policy.tickets.keys() {
            if let Some((ticket, facts)) = self.facts(policy, id) {
                of_ticket(ticket, facts, &mut found);
            }
        }
        found
    }
}

fn of_ticket(ticket: &Ticket, facts: Facts<'_>, found: &mut Vec<Condition>) {
    let id = facts.id;
    let mut need = |needs: &[Site], by_design, rule, priority, titles, explain| {
        let runbook = (rule == "gate-trouble").then_some("monitoring/gate-trouble.md");
        let condition = of(rule, priority, id, titles, explain);
        found.push(Condition { needs: needs.to_vec(), by_design, runbook, ..condition });
    };
    // One alarm per ticket: the first gate stands for all, one of a site that is there if there is any; the ticket's page
    // lists them.
    let first = troubles(ticket).min_by_key(|(site, ..)| facts.board.silent(*site, facts.now));
    if let Some((site, gate, text)) = first {
        let explain = format!("Gate {gate} of site {site}: {text}");
        need(&[site], false, "gate-trouble", Priority::Medium, &GATE_TROUBLE, explain);
    }
    let wanted = matches!(facts.rule.mode, Mode::Auto | Mode::Confirm);
    if wanted && ticket.moving.is_none() && ticket.frozen.is_none() && ticket.phase == Phase::Held {
        let (_, blocks) = show::failover_blocks(ticket, facts);
        if !blocks.is_empty() {
            let reasons = blocks.iter().map(Block::to_string).collect::<Vec<_>>().join("; ");
            let explain = format!("If its site was lost now: {reasons}");
            // Two sites run it and three observe: with any of them gone it has nowhere to go.
            // The rest after an automatic move is what the policy wants; the ticket's card counts it down.
            let rests = blocks.iter().all(|block| matches!(block, Block::CoolingDown));
            need(&Site::ALL, rests, "ticket-no-failover", Priority::Medium, &NO_FAILOVER, explain);
        }
    }
    let mut add = |rule, priority, titles, explain| need(&[], false, rule, priority, titles, explain);
    if ticket.overruled() {
        let explain =
            format!("Its gates know epoch {}; nothing is renewed or moved until it is readmitted", ticket.floor);
        add("ticket-overruled", Priority::Critical, &OVERRULED, explain);
    }
    if let Some(freeze) = &ticket.frozen {
        add("ticket-frozen", Priority::Medium, &FROZEN, format!("Frozen by {}: {}", freeze.owner, freeze.reason));
    }
    if let Some(pending) = &ticket.pending {
        let explain = format!("{id} should move to site {}: {}", pending.to, pending.cause);
        add("ticket-confirm", Priority::Critical, &CONFIRM, explain);
    }
    if let Some(asked) = &ticket.force {
        let (by, to, guard, reason) = (&asked.by, asked.to, asked.guard, &asked.reason);
        let explain = format!("{by} asks to force {id} to site {to} around its {guard}: {reason}");
        add("ticket-force", Priority::High, &FORCE, explain);
    }
    if let Some((site, started)) = ticket.started.iter().find(|(_, started)| started.exhausted) {
        let count = started.servers.len();
        let explain = format!("Too few servers carry {id} at site {site}, and of {count} that stood by none is left");
        add("pool-short", Priority::High, &SHORT, explain);
    }
    let passive = facts.rule.kind == TicketKind::ActivePassive;
    if passive && ticket.phase == Phase::Free && ticket.lease.is_some() {
        let why = ticket.noted.as_deref().unwrap_or("its lease ran out");
        add("ticket-free", Priority::Critical, &FREE, format!("No site may run {id} now: {why}"));
    }
    let last = ticket.history.last().filter(|last| last.outcome == MoveOutcome::Stuck && last.epoch == ticket.epoch);
    if let (Some(last), None) = (last, &ticket.moving) {
        let explain = format!("The last move to site {} did not finish", last.to);
        add("ticket-stuck", Priority::High, &STUCK, explain);
    }
}

fn troubles(ticket: &Ticket) -> impl Iterator<Item = (Site, &Id, &str)> {
    ticket.gates.iter().flat_map(|(site, gates)| {
        gates.iter().filter(|(_, gate)| gate.listed).filter_map(move |(id, gate)| {
            let text = gate.trouble.as_deref().or(gate.last_failure.as_deref())?;
            Some((*site, id, text))
        })
    })
}

fn titles(templates: &Titles, about: &str) -> BTreeMap<String, String> {
    templates.iter().map(|(language, text)| ((*language).to_owned(), text.replace("{}", about))).collect()
}

fn of(rule: &str, priority: Priority, id: &Id, templates: &Titles, explain: String) -> Condition {
    Condition {
        key: format!("{rule}/{id}"),
        priority,
        site: None,
        ticket: Some(id.clone()),
        title: titles(templates, id.as_str()),
        explain,
        needs: Vec::new(),
        causal: false,
        by_design: false,
        runbook: None,
    }
}

fn of_site(rule: &str, priority: Priority, site: Site, templates: &Titles, explain: String) -> Condition {
    Condition {
        key: format!("{rule}/{site}"),
        priority,
        site: Some(site),
        ticket: None,
        title: titles(templates, site.as_str()),
        explain,
        needs: Vec::new(),
        causal: false,
        by_design: false,
        runbook: None,
    }
}
