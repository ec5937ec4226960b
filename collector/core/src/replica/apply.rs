//! How a tick changes the state: the order is the contract.

use std::collections::BTreeSet;

use bcp_wire::{Id, Site};

use super::{
    CommandResult, CommandVerb, Item, MAX_ELAPSED_MS, MAX_ITEMS_PER_TICK, MAX_RESULTS, OperatorCommand,
    PUBLICATION_VALID_MS, PUBLISH_EVERY_MS, Publication, Replica, Tick,
};
use crate::alarms::{AgreedCondition, AlarmEvent, AlarmVote};
use crate::drill::DrillEvent;
use crate::failover::event::{Happened, Link, SYSTEM};
use crate::ledger::{LedgerEntry, LedgerEvent, Said, When};
use crate::policy::Policy;
use crate::status::{IncidentEvent, InterventionCommand, InterventionEvent, ServiceEvent, ServiceStatus};
use crate::time::Wall;
use crate::topology::site_asset;

/// What one tick writes, in order.
struct Writer {
    when: When,
    entries: Vec<LedgerEntry>,
    /// Something that the public page or a long poll shows has changed.
    changed: bool,
}

impl Replica {
    /// Applies one tick. Pure, total: no input makes it panic or stop.
    ///
    /// Order: elapsed time, policy, what arrived about tickets (renewals are stamped here), ticket commands, tickets
    /// judged, alarms, services and incidents, publication point.
    pub fn apply(&mut self, index: u64, tick: &Tick) -> Vec<LedgerEntry> {
        let new_term = tick.term != self.term || self.leader != Some(tick.leader);
        // A new term adds nothing, also for a node that is elected again: nobody measured the time between.
        let elapsed_ms = if new_term { 0 } else { tick.elapsed_ms.min(MAX_ELAPSED_MS) };
        self.log_time = self.log_time.plus(elapsed_ms);
        (self.index, self.wall) = (index, tick.wall);
        self.failover.set_now(self.log_time);
        let when = When { index, log_time: self.log_time, wall: tick.wall };
        let mut writer = Writer { when, entries: Vec::new(), changed: false };
        if new_term {
            (self.term, self.leader) = (tick.term, Some(tick.leader));
            self.write(&mut writer, leader(tick));
        }
        let items = || tick.items.iter().take(MAX_ITEMS_PER_TICK);
        for policy in items().filter_map(|item| if let Item::Policy(policy) = item { Some(policy) } else { None }) {
            self.adopt(policy, &mut writer);
        }
        self.take_in(items(), &mut writer);
        let commands =
            || items().filter_map(|item| if let Item::Command(command) = item { Some(command) } else { None });
        for command in commands().filter(|command| matches!(command.verb, CommandVerb::Ticket { .. })) {
            self.command(command, &mut writer);
        }
        self.judge_tickets(&mut writer);
        for command in commands().filter(|command| !matches!(command.verb, CommandVerb::Ticket { .. })) {
            self.command(command, &mut writer);
        }
        self.judge_alarms(&mut writer);
        self.judge_services(&mut writer);
        for event in self.overdue_drills() {
            self.write_drill(&mut writer, event, SYSTEM.to_owned(), None);
        }
        self.publish(&writer);
        if writer.changed || !writer.entries.is_empty() {
            self.changed_at = index;
        }
        writer.entries
    }

    fn write(&mut self, writer: &mut Writer, said: Said) -> u64 {
        let entry = self.ledger.append(writer.when, said);
        let seq = entry.seq;
        self.drills.hear(&entry);
        writer.entries.push(entry);
        seq
    }

    fn adopt(&mut self, policy: &Policy, writer: &mut Writer) {
        let hash = policy.hash();
        // A state of an older release may hold the same policy under the name that release gave it.
        if self.policy.as_ref() == Some(policy) && self.failover.policy_hash == hash {
            return;
        }
        if let Some(fault) = self.policy_fault(policy) {
            let reason = fault.to_string();
            // Once per policy and reason: it is proposed again and again, and what speaks against it may change.
            let known = (self.refused_policy.as_ref(), self.failover.refused_policy.as_ref());
            if known != (Some(&hash), Some(&(hash.clone(), reason.clone()))) {
                self.refused_policy = Some(hash.clone());
                self.failover.refused_policy = Some((hash.clone(), reason.clone()));
                let text = format!("A policy was refused: {reason}.");
                self.write(writer, system("policy", text, LedgerEvent::PolicyRefused { hash, reason }, None));
            }
            return;
        }
        let text = format!("The policy {} is in force from now on.", &hash[..hash.len().min(12)]);
        let seq = self.write(writer, system("policy", text, LedgerEvent::Policy { hash: hash.clone() }, None));
        let mut happened = Vec::new();
        self.failover.adopt(policy, &hash, &mut happened);
        (self.refused_policy, self.failover.refused_policy) = (None, None);
        self.policy = Some(policy.clone());
        self.write_tickets(writer, happened, Some(seq));
    }

    /// Everything that arrived but commands: stamped at the log time of this tick.
    fn take_in<'a>(&mut self, items: impl Iterator<Item = &'a Item>, writer: &mut Writer) {
        let now = self.log_time;
        let mut happened = Vec::new();
        for item in items {
            match item {
                Item::Gate(sync) => writer.changed |= self.failover.on_gate(sync, &mut happened),
                Item::Observation(seen) => writer.changed |= self.failover.board.observe(seen, now),
                Item::ServiceVotes(votes) => {
                    if self.failover.board.service_votes(votes, now) {
                        self.services.on_votes(now, votes);
                    }
                }
                Item::SiteVotes(votes) => {
                    self.failover.board.site_votes(votes, now);
                }
                Item::AlarmVotes(votes) => {
                    let events = self.alarms.on_votes(now, votes);
                    self.write_alarms(writer, events, None);
                }
                Item::Policy(_) | Item::Command(_) => {}
            }
        }
        self.write_tickets(writer, happened, None);
    }

    fn command(&mut self, command: &OperatorCommand, writer: &mut Writer) {
        if self.result_of(&command.key).is_some() {
            return;
        }
        let (now, wall) = (self.log_time, self.wall);
        let mut happened = Vec::new();
        let (mut alarms, mut incidents, mut interventions) = (Vec::new(), Vec::new(), Vec::new());
        let mut drill = None;
        let subject;
        let result = match &command.verb {
            CommandVerb::Ticket { ticket, command: verb } => {
                subject = format!("ticket:{ticket}");
                match &self.policy {
                    Some(policy) => self
                        .failover
                        .on_command(policy, &command.operator, ticket, verb, &mut happened)
                        .map_err(|refusal| refusal.to_string()),
                    None => Err("there is no agreed policy yet".to_owned()),
                }
            }
            CommandVerb::Alarm { alarm, command: verb } => {
                subject = format!("alarm:{alarm}");
                let result = self.alarms.on_command(now, wall, &command.operator, alarm, verb);
                result.map(|events| alarms = events).map(|()| "done".to_owned())
            }
            CommandVerb::Incident(verb) => {
                subject = "incident".to_owned();
                let result = self.services.on_command(now, wall, &command.operator, verb);
                result.map(|events| incidents = events).map(|()| "done".to_owned())
            }
            CommandVerb::Intervention(verb) => {
                subject = "intervention".to_owned();
                let result = self
                    .peer_is_well(verb)
                    .and_then(|()| self.services.on_intervention(now, wall, &command.operator, verb));
                // The first event names it: an operator needs the id of what was planned.
                let named = |events: &[InterventionEvent]| events.first().map(InterventionEvent::subject);
                result.map(|events| {
                    let about = named(&events);
                    interventions = events;
                    about.map_or_else(|| "done".to_owned(), |about| format!("done ({about})"))
                })
            }
            CommandVerb::Drill(verb) => {
                subject = "drill".to_owned();
                self.on_drill(&command.operator, verb, &mut drill)
            }
        };
        let ok = result.is_ok();
        let message = result.unwrap_or_else(|why| why);
        let seq = self.write(
            writer,
            Said {
                author: format!("operator:{}", command.operator),
                subject,
                text: match ok {
                    true => format!("{} gave a command: {message}.", command.operator),
                    false => format!("A command of {} was refused: {message}.", command.operator),
                },
                what: LedgerEvent::Command { key: command.key.clone(), ok },
                cause: None,
            },
        );
        if self.results.len() >= MAX_RESULTS {
            self.results.remove(0);
        }
        self.results.push(CommandResult { key: command.key.clone(), ok, message });
        self.write_tickets(writer, happened, Some(seq));
        self.write_alarms(writer, alarms, Some(seq));
        self.write_incidents(writer, incidents, Some(seq));
        self.write_interventions(writer, interventions, Some(seq));
        if let Some(event) = drill {
            self.write_drill(writer, event, format!("operator:{}", command.operator), Some(seq));
        }
    }

    /// The report follows the end of a drill.
    fn write_drill(&mut self, writer: &mut Writer, event: DrillEvent, author: String, cause: Option<u64>) {
        let (mut next, mut author, mut cause) = (Some(event), author, cause);
        while let Some(event) = next.take() {
            let (subject, text) = (format!("drill:{}", event.drill()), event.text());
            let what = LedgerEvent::Drill { event: event.clone() };
            let seq = self.write(writer, Said { author, subject, text, what, cause });
            if let Some(entry) = writer.entries.last() {
                next = self.after_drill_entry(entry, &event);
            }
            (author, cause) = (SYSTEM.to_owned(), Some(seq));
        }
    }

    /// Work on a datacenter does not begin while the other one is lost or disturbed: nothing could be moved out of the way.
    fn peer_is_well(&self, verb: &InterventionCommand) -> Result<(), String> {
        let (site, services) = match verb {
            InterventionCommand::Plan(plan) if plan.starts.0 <= self.wall.0 => (plan.site, plan.services.as_slice()),
            InterventionCommand::Start { intervention } => {
                let work = self.services.interventions.get(intervention);
                work.map_or((None, [].as_slice()), |work| (work.site, work.services.as_slice()))
            }
            InterventionCommand::Plan(_)
            | InterventionCommand::Extend { .. }
            | InterventionCommand::Update { .. }
            | InterventionCommand::Close { .. } => return Ok(()),
        };
        let peer = match site {
            Some(Site::A) => Site::B,
            Some(Site::B) => Site::A,
            Some(Site::W) | None => return Ok(()),
        };
        if self.failover.board.silent(peer, self.log_time) {
            return Err(format!("site {peer} is lost: nothing could be moved there"));
        }
        let bad =
            |id: &&Id| matches!(self.services.at_site(id, peer).status, ServiceStatus::Down | ServiceStatus::Degraded);
        match services.iter().find(bad) {
            Some(id) => Err(format!("service {id} is not well at site {peer}: it could not be moved there")),
            None => Ok(()),
        }
    }

    fn judge_tickets(&mut self, writer: &mut Writer) {
        let Some(policy) = self.policy.take() else { return };
        let mut happened = Vec::new();
        self.failover.judge(&policy, &mut happened);
        self.policy = Some(policy);
        self.write_tickets(writer, happened, None);
    }

    fn judge_alarms(&mut self, writer: &mut Writer) {
        let now = self.log_time;
        let found = self.policy.as_ref().map(|policy| self.failover.alarm_conditions(policy)).unwrap_or_default();
        let active: BTreeSet<String> = found.iter().map(|condition| condition.key.clone()).collect();
        let over = self.conditions.difference(&active).map(|key| AgreedCondition {
            alarm: key.clone(),
            vote: AlarmVote { active: Some(false), ..AlarmVote::default() },
        });
        let conditions: Vec<AgreedCondition> = over.chain(found.into_iter().map(agreed)).collect();
        let mut events = Vec::new();
        if !conditions.is_empty() {
            events = self.alarms.on_conditions(now, conditions);
        }
        self.conditions = active;
        events.extend(self.alarms.tick(now, self.wall));
        self.write_alarms(writer, events, None);
    }

    fn judge_services(&mut self, writer: &mut Writer) {
        let Some(policy) = self.policy.take() else { return };
        let judged = self.services.tick(self.log_time, self.wall, &policy);
        self.policy = Some(policy);
        self.write_interventions(writer, judged.interventions, None);
        for event in judged.services {
            self.write(writer, service(event));
        }
        self.write_incidents(writer, judged.incidents, None);
    }

    /// A publication point when something happened, and regularly so that the page does not expire.
    fn publish(&mut self, writer: &Writer) {
        let first = self.publication.sequence == 0;
        let by_log = self.log_time.since(self.publication.log_time);
        // After a time without a quorum the first tick refreshes the page, and with it the days that went by.
        let by_wall = u64::try_from(self.wall.0.saturating_sub(self.publication.as_of.0)).unwrap_or(0);
        let due = by_log.max(by_wall) >= PUBLISH_EVERY_MS;
        let public = writer.entries.iter().any(|entry| match &entry.what {
            LedgerEvent::Ticket { .. }
            | LedgerEvent::Service { .. }
            | LedgerEvent::Incident { .. }
            | LedgerEvent::Intervention { .. }
            | LedgerEvent::Policy { .. } => true,
            LedgerEvent::PolicyRefused { .. }
            | LedgerEvent::Leader { .. }
            | LedgerEvent::Alarm { .. }
            | LedgerEvent::Command { .. }
            | LedgerEvent::Drill { .. } => false,
        });
        if self.policy.is_some() && (first || due || public) {
            self.publication = Publication {
                sequence: self.index,
                as_of: self.wall,
                valid_until: Wall(self.wall.0.saturating_add(PUBLICATION_VALID_MS)),
                log_time: self.log_time,
                frozen: self.services.freeze(),
            };
            self.changed_at = self.index;
        }
    }

    fn write_tickets(&mut self, writer: &mut Writer, happened: Vec<Happened>, cause: Option<u64>) {
        for Happened { author, event } in happened {
            let id = event.ticket().clone();
            let link = event.link();
            let before = self.failover.tickets.get(&id).and_then(|ticket| ticket.last_entry);
            let cause = match link {
                Link::Follows => before.or(cause),
                Link::Begins | Link::Alone => cause,
            };
            let text = event.sentence();
            let subject = format!("ticket:{id}");
            let seq = self.write(writer, Said { author, subject, text, what: LedgerEvent::Ticket { event }, cause });
            if let (Link::Begins | Link::Follows, Some(ticket)) = (link, self.failover.tickets.get_mut(&id)) {
                ticket.last_entry = Some(seq);
            }
        }
    }

    fn write_alarms(&mut self, writer: &mut Writer, events: Vec<AlarmEvent>, cause: Option<u64>) {
        for event in events {
            let author = event.by().map_or_else(|| SYSTEM.to_owned(), |name| format!("operator:{name}"));
            let (subject, text) = (event.subject(), event.text());
            self.write(writer, Said { author, subject, text, what: LedgerEvent::Alarm { event }, cause });
        }
    }

    fn write_interventions(&mut self, writer: &mut Writer, events: Vec<InterventionEvent>, cause: Option<u64>) {
        for event in events {
            let author = event.by().map_or_else(|| SYSTEM.to_owned(), |name| format!("operator:{name}"));
            let (subject, text) = (event.subject(), event.text());
            self.write(writer, Said { author, subject, text, what: LedgerEvent::Intervention { event }, cause });
        }
    }

    fn write_incidents(&mut self, writer: &mut Writer, events: Vec<IncidentEvent>, cause: Option<u64>) {
        for event in events {
            let author = event.by().map_or_else(|| SYSTEM.to_owned(), |name| format!("operator:{name}"));
            let (subject, text) = (event.subject(), event.text());
            self.write(writer, Said { author, subject, text, what: LedgerEvent::Incident { event }, cause });
        }
    }
}

fn system(subject: &str, text: String, what: LedgerEvent, cause: Option<u64>) -> Said {
    Said { author: SYSTEM.to_owned(), subject: subject.to_owned(), text, what, cause }
}

fn leader(tick: &Tick) -> Said {
    let (site, term) = (tick.leader, tick.term);
    let text = format!("The collector of site {site} leads from term {term}.");
    system("cluster", text, LedgerEvent::Leader { site, term }, None)
}

fn service(event: ServiceEvent) -> Said {
    let (subject, text) = (event.subject(), event.text());
    system(&subject, text, LedgerEvent::Service { event }, None)
}

fn agreed(condition: crate::failover::Condition) -> AgreedCondition {
    let asset = match (&condition.ticket, condition.site) {
        (Some(ticket), _) => ticket.to_string(),
        (None, Some(site)) => site_asset(site).to_string(),
        (None, None) => String::new(),
    };
    AgreedCondition {
        alarm: condition.key,
        vote: AlarmVote {
            active: Some(true),
            priority: condition.priority,
            asset,
            site: condition.site,
            title: condition.title,
            explain: condition.explain,
            runbook: condition.runbook.map(str::to_owned),
            causal: condition.causal,
            suppressed: condition.by_design,
            fed_by: condition.needs.into_iter().map(|site| site_asset(site).to_string()).collect(),
            ..AlarmVote::default()
        },
    }
}
