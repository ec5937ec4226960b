//! What the loop tells: watermarks to agents, votes and sights to decide, views to everybody who looks.

use std::collections::BTreeMap;

use bcp_core::failover::Sight;
use bcp_core::replica::Item;
use bcp_core::rules::Event;
use bcp_core::site::SiteVotes;
use bcp_core::status::ServiceVotes;
use bcp_core::time::Mono;
use bcp_wire::topic::Leaf;
use bcp_wire::{Id, Site, Topic};
use rumqttc::PublishOptions;

use super::commit::{Own, own_alarm};
use super::{Driver, Link, Turn, mono};
use crate::decide::sight::next_seq;
use crate::export::Export;
use crate::ingest::intake::LinkHealth;
use crate::serve::decide_link::Tell;
use crate::serve::view::{BrokerView, IngestView, LinkState};
use crate::serve::{checks, show, wall_now};

impl Driver {
    /// Tells agents what is committed. What cannot be sent now stays due.
    pub(super) fn send_watermarks(&mut self) {
        for (agent, mut starts) in self.intake.due.take() {
            let Some(marks) = self.store.marks_of(&agent) else { continue };
            let mark = marks.watermark(self.config.site, &starts);
            if let Some((incarnation, ranges)) = marks.newest() {
                let through = mark.marks.iter().find(|m| m.i == incarnation).map_or(0, |m| m.through);
                self.intake.committed(&agent, through, ranges.missing());
            }
            let Some(link) = self.links.get(&agent.site).filter(|link| link.health.connected) else {
                self.intake.due.later(agent, starts);
                continue;
            };
            let leaf = Leaf::Ack { collector: self.config.site };
            let topic = Topic::new(agent.site, agent.agent.clone(), leaf).to_string();
            let body = serde_json::to_vec(&mark).unwrap_or_default();
            if link.retained.try_publish(topic, body, PublishOptions::at_least_once().retained()).is_err() {
                self.intake.due.later(agent, starts);
                continue;
            }
            starts.retain(|start| marks.knows(*start) && mark.marks.iter().all(|mark| mark.i != *start));
            if !starts.is_empty() {
                self.intake.due.later(agent, starts);
            }
        }
    }

    pub(super) fn every_second(&mut self, turn: &mut Turn, now: Mono) {
        let health: BTreeMap<Site, LinkHealth> = self.links.iter().map(|(site, link)| (*site, link.health)).collect();
        let wall = wall_now();
        let Driver { intake, judge, .. } = self;
        intake.judge_sources(now, &health, &mut |live| judge.on_live(now, wall, live));

        let replica = self.agreed.borrow().replica.clone();
        let policy = replica.as_ref().and_then(|replica| replica.policy.as_ref()).unwrap_or(&self.config.policy);
        let holders: BTreeMap<Id, Option<Site>> = replica
            .as_ref()
            .map(|replica| replica.ticket_views().into_iter().map(|ticket| (ticket.id, ticket.holder)).collect())
            .unwrap_or_default();
        turn.sights = checks::sights(policy, &intake.devices(), &holders, now);
        for (service, sight) in &turn.sights {
            judge.step(now, wall, Event::Service { service, status: sight.status });
        }
        // Also where all is well: an alarm of the process before this one ends so.
        judge.say_own(wall, own_alarm(&self.config, Own::Store, turn.store_trouble.clone()));
        judge.say_own(wall, own_alarm(&self.config, Own::Certificate, self.certificates.trouble(now)));
        if let Some(export) = &self.export {
            judge.say_own(wall, own_alarm(&self.config, Own::Influx, export.alarm()));
        }
        let heard = replica.as_ref().and_then(|replica| replica.failover.board.services.get(&self.config.site));
        turn.service_seq = next_seq(turn.service_seq, heard.map(|own| own.seq));
        let (observer, session, seq) = (self.config.site, self.session, turn.service_seq);
        let votes = ServiceVotes { observer, session, seq, services: turn.sights.clone() };
        let mut items = vec![Item::ServiceVotes(votes)];
        if !policy.sites.is_empty() || !policy.pools.is_empty() {
            let sites = turn.sites.look(policy, &intake.devices(), &intake.agents(), now);
            items.push(Item::SiteVotes(SiteVotes { observer, session, seq, sites }));
        }
        // A full queue means that the one before is still under way: this one's successor follows in a second.
        let _ = self.service_votes.try_send(Tell::Votes(items));
        let _ = self.sights.try_send(Tell::Sight(self.sight(turn, now)));
    }

    /// Which sites' agents are heard.
    fn sight(&self, turn: &Turn, now: Mono) -> BTreeMap<Site, Sight> {
        let period = self.config.policy.timing.ttl_ms * 3 / 4;
        let judge = |site| match self.intake.site_heard(site) {
            Some(heard) if now.since(heard) < period => Sight::Seen,
            _ if now.since(turn.listening) >= period => Sight::Silent,
            _ => Sight::Unknown,
        };
        Site::ALL.into_iter().map(|site| (site, judge(site))).collect()
    }

    pub(super) fn send_alarm_votes(&mut self, now: Mono) {
        // Taken out only where there is room: otherwise they wait, merged, for the next turn.
        let Ok(room) = self.votes.try_reserve() else { return };
        let (agreed, led) = {
            let agreed = self.agreed.borrow();
            (agreed.replica.clone(), (agreed.leader, agreed.term))
        };
        if let Some(replica) = &agreed {
            self.judge.compare(now, led, &replica.alarms);
        }
        let known = |key: &str| agreed.as_ref().is_some_and(|replica| replica.alarms.alarms.contains_key(key));
        if let Some(votes) = self.judge.votes(now, &known) {
            room.send(Tell::Votes(vec![Item::AlarmVotes(votes)]));
        }
    }

    pub(super) fn show(&mut self, turn: &mut Turn) {
        let now = mono(turn.began);
        turn.shown = now;
        let brokers = self.links.iter().map(|(site, link)| (*site, broker_view(*site, link, now))).collect();
        let ingest = self.ingest_view(turn);
        let agreed = self.agreed.borrow().clone();
        let inputs = show::Inputs {
            config: &self.config,
            now,
            wall: wall_now(),
            agreed: &agreed,
            judge: &self.judge,
            sights: &turn.sights,
            brokers,
            ingest,
        };
        show::show(inputs, &mut self.intake, &self.writer, &mut turn.last_shown);
    }

    fn ingest_view(&self, turn: &Turn) -> IngestView {
        let intake = &self.intake;
        IngestView {
            payloads: intake.payloads,
            samples: intake.samples,
            duplicates: intake.duplicates,
            refused: intake.refused.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
            last_refused: intake.last_refused.clone(),
            uncommitted: turn.acks.len() + turn.running_acks.len(),
            commit_ms: turn.commit_ms,
            store_trouble: turn.store_trouble.clone(),
            unstored: intake.unstored,
            mistimed: intake.mistimed,
            unsent_acks: turn.unsent_acks,
            emptied: intake.emptied,
            shed: intake.shed,
            influx: self.export.as_deref().map(Export::view),
        }
    }
}

fn broker_view(site: Site, link: &Link, now: Mono) -> BrokerView {
    BrokerView {
        site,
        link: match (link.health.is_trusted(now), link.health.heard) {
            (true, _) => LinkState::Up,
            (false, None) if link.trouble.is_none() => LinkState::Connecting,
            (false, _) => LinkState::Away,
        },
        age_ms: link.health.heard.map(|heard| now.since(heard)),
        trouble: link.trouble.clone(),
        reconnects: link.reconnects,
    }
}
