//! The one loop of serve: waits for an event, takes it in, commits, acknowledges, judges, shows.
//!
//! Task: [`Driver::run`]. Commits run on a blocking thread, one at a time; while one runs the next group gathers. What
//! gathers is bounded: beyond [`MAX_GATHERED`] payloads the links wait, and with them the brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_core::failover::Sight;
use bcp_core::replica::Item;
use bcp_core::rules::Event;
use bcp_core::status::{ServiceSight, ServiceVotes};
use bcp_core::time::Mono;
use bcp_wire::presence::AgentRef;
use bcp_wire::topic::Leaf;
use bcp_wire::{Id, Site, Topic};
use rumqttc::{AsyncClient, ManualAck, PublishOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::decide_link::{Agreed, Tell};
use super::judge::Judge;
use super::show::{self, Shown};
use super::view::{BrokerView, IngestView, LinkState, ViewWriter};
use super::{checks, wall_now};
use crate::ingest::intake::{Intake, LinkHealth};
use crate::ingest::link::{FromLink, LinkNews, Session};
use crate::store::{Group, JournalError, Store};
use crate::{Config, Shutdown};

/// Payloads that wait for a commit before no more are taken.
const MAX_GATHERED: usize = 8_192;
/// A group waits at most this long for company.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// So many payloads are committed at once: brokers have as few as 20 under way per session.
const COMMIT_AT: usize = 16;
/// Pause after a commit that the disk refused.
const COMMIT_RETRY: Duration = Duration::from_secs(1);
/// Messages taken per turn.
const BATCH: usize = 256;
/// How often the loop looks at the clock.
const PULSE: Duration = Duration::from_millis(50);
const SHOW_EVERY_MS: u64 = 250;
const SECOND_MS: u64 = 1_000;
/// A watermark of one agent goes out at most this often.
const WATERMARK_EVERY_MS: u64 = 500;
/// A loop that comes round this much late was frozen: what it did not hear says nothing.
const FREEZE_GAP_MS: u64 = 2_000;

/// One broker, as the loop knows it.
#[derive(Debug)]
pub struct Link {
    /// Readings come in here, and are acknowledged.
    client: AsyncClient,
    /// States and metas come in here, and watermarks go out.
    retained: AsyncClient,
    health: LinkHealth,
    connection: u64,
    reconnects: u64,
    trouble: Option<String>,
}

impl Link {
    #[must_use]
    pub fn new(client: AsyncClient, retained: AsyncClient) -> Link {
        Link { client, retained, health: LinkHealth::default(), connection: 0, reconnects: 0, trouble: None }
    }
}

#[derive(Debug)]
struct Ack {
    broker: Site,
    connection: u64,
    ack: ManualAck,
}

/// Everything the loop owns.
#[derive(Debug)]
pub struct Driver {
    pub config: Arc<Config>,
    pub intake: Intake,
    pub store: Arc<Store>,
    pub judge: Judge,
    pub session: u64,
    pub links: BTreeMap<Site, Link>,
    pub arrivals: mpsc::Receiver<FromLink>,
    pub agreed: watch::Receiver<Agreed>,
    /// Counts votes that did not arrive.
    pub failed: watch::Receiver<u64>,
    pub votes: mpsc::Sender<Tell>,
    pub service_votes: mpsc::Sender<Tell>,
    pub sights: mpsc::Sender<Tell>,
    pub writer: ViewWriter,
}

type Committed = (Group, Duration, Result<(), JournalError>);

/// What the loop remembers from turn to turn.
#[derive(Debug)]
struct Turn {
    began: Instant,
    /// Acknowledgements of the group that gathers, and of the one being committed.
    acks: Vec<Ack>,
    running_acks: Vec<Ack>,
    running: Option<JoinHandle<Committed>>,
    gathered_since: Option<Instant>,
    retry_at: Option<Instant>,
    watermarks_due: BTreeSet<AgentRef>,
    watermarks_sent: Mono,
    shown: Mono,
    second: Mono,
    pulse: Mono,
    /// Since when the loop runs without a gap.
    listening: Mono,
    sights: BTreeMap<Id, ServiceSight>,
    last_shown: Shown,
    commit_ms: u64,
    store_trouble: Option<String>,
    unsent_acks: u64,
    is_broken: bool,
}

impl Driver {
    /// Runs until `shutdown`, then commits what it has within `drain`.
    ///
    /// # Errors
    /// A commit that neither succeeded nor failed: the process has to start anew.
    pub async fn run(mut self, shutdown: &mut Shutdown, drain: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut turn = Turn {
            began,
            acks: Vec::new(),
            running_acks: Vec::new(),
            running: None,
            gathered_since: None,
            retry_at: None,
            watermarks_due: BTreeSet::new(),
            watermarks_sent: Mono(0),
            shown: Mono(0),
            second: Mono(0),
            pulse: Mono(0),
            listening: Mono(0),
            sights: BTreeMap::new(),
            last_shown: Shown::default(),
            commit_ms: 0,
            store_trouble: None,
            unsent_acks: 0,
            is_broken: false,
        };
        let mut inbox = Vec::with_capacity(BATCH);
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let room = turn.acks.len() < MAX_GATHERED;
            tokio::select! {
                biased;
                () = shutdown.wait() => break,
                done = finished(&mut turn.running) => self.on_committed(&mut turn, done),
                _ = pulse.tick() => self.on_pulse(&mut turn),
                n = self.arrivals.recv_many(&mut inbox, BATCH), if room => {
                    if n == 0 {
                        break;
                    }
                    for from in inbox.drain(..) {
                        self.on_news(&mut turn, from);
                    }
                }
                Ok(()) = self.agreed.changed() => {
                    self.agreed.mark_unchanged();
                    self.show(&mut turn);
                }
                Ok(()) = self.failed.changed() => {
                    self.failed.mark_unchanged();
                    self.judge.not_delivered();
                }
            }
            if turn.is_broken {
                anyhow::bail!("a commit ended unexpectedly");
            }
            self.commit_if_due(&mut turn);
        }
        self.drain(turn, drain).await;
        Ok(())
    }

    fn on_news(&mut self, turn: &mut Turn, from: FromLink) {
        let now = mono(turn.began);
        let Some(link) = self.links.get_mut(&from.broker) else { return };
        match from.news {
            // The health of a broker is judged by the session that carries the readings.
            LinkNews::Connected | LinkNews::Lost { .. } | LinkNews::Alive if from.session == Session::Retained => {}
            LinkNews::Connected => {
                link.reconnects += u64::from(link.connection > 0);
                link.connection = from.connection;
                link.health = LinkHealth { connected: true, heard: Some(now), lost: now };
                link.trouble = None;
                tracing::info!(broker = %from.broker, "connected");
                // Acknowledgements of the connection before are void: the broker sends those payloads again.
                for acks in [&mut turn.acks, &mut turn.running_acks] {
                    acks.retain(|ack| ack.broker != from.broker);
                }
            }
            LinkNews::Lost { reason } => {
                if link.health.connected || link.trouble.is_none() {
                    tracing::warn!(broker = %from.broker, "not connected: {reason}");
                }
                if link.health.connected {
                    link.health.lost = now;
                }
                link.health.connected = false;
                link.trouble = Some(reason);
            }
            LinkNews::Alive => link.health.heard = Some(now),
            LinkNews::Arrived(publish) => {
                link.health.heard = Some(now);
                let ack = match from.session {
                    Session::Payloads => link.client.prepare_ack(&publish),
                    Session::Retained => None,
                };
                let wall = wall_now();
                let Driver { intake, judge, store, .. } = self;
                intake.arrive((now, wall), from.broker, (&publish.topic, &publish.payload), store, &mut |live| {
                    judge.on_live(now, wall, live);
                });
                if let Some(ack) = ack {
                    turn.acks.push(Ack { broker: from.broker, connection: from.connection, ack });
                }
                turn.gathered_since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn commit_if_due(&mut self, turn: &mut Turn) {
        let waited = turn.gathered_since.is_some_and(|since| since.elapsed() >= COMMIT_EVERY);
        let allowed = turn.running.is_none() && turn.retry_at.is_none_or(|at| at <= Instant::now());
        if allowed && turn.gathered_since.is_some() && (waited || turn.acks.len() >= COMMIT_AT) {
            self.commit(turn);
        }
    }

    fn commit(&mut self, turn: &mut Turn) {
        let group = std::mem::take(&mut self.intake.group);
        turn.running_acks.append(&mut turn.acks);
        turn.gathered_since = None;
        let store = Arc::clone(&self.store);
        turn.running = Some(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let done = if group.is_empty() { Ok(()) } else { store.commit(&group) };
            (group, began.elapsed(), done)
        }));
    }

    fn on_committed(&mut self, turn: &mut Turn, done: Option<Committed>) {
        turn.running = None;
        let Some((mut group, took, result)) = done else {
            // Its group is gone from memory and was never acknowledged: a new process gets it again from the brokers.
            turn.is_broken = true;
            return;
        };
        match result {
            Ok(()) => {
                if turn.store_trouble.take().is_some() {
                    tracing::info!("the store takes data again");
                }
                turn.retry_at = None;
                turn.commit_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                for Ack { broker, connection, ack } in turn.running_acks.drain(..) {
                    let Some(link) = self.links.get(&broker) else { continue };
                    // Not sent: the broker delivers it again at the next connection, where it is a duplicate.
                    if link.connection == connection && link.client.try_manual_ack(ack).is_err() {
                        turn.unsent_acks += 1;
                    }
                }
                turn.watermarks_due.append(&mut std::mem::take(&mut self.intake.touched));
                group.clear();
                if self.intake.group.is_empty() {
                    self.intake.group = group;
                }
            }
            Err(error) => {
                let reason = crate::ingest::link::chain(&error);
                if turn.store_trouble.is_none() {
                    tracing::error!("the store takes nothing: {reason}; nothing is acknowledged until it does");
                }
                turn.store_trouble = Some(reason);
                turn.retry_at = Some(Instant::now() + COMMIT_RETRY);
                // In front of what gathered since, in order.
                let newer = std::mem::replace(&mut self.intake.group, group);
                self.intake.group.samples.extend(newer.samples);
                self.intake.group.marks.extend(newer.marks);
                self.intake.group.events.extend(newer.events);
                let newer = std::mem::replace(&mut turn.acks, std::mem::take(&mut turn.running_acks));
                turn.acks.extend(newer);
                turn.gathered_since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn on_pulse(&mut self, turn: &mut Turn) {
        let now = mono(turn.began);
        if now.since(turn.pulse) > FREEZE_GAP_MS {
            tracing::warn!(gap_ms = now.since(turn.pulse), "this process did not run for a while");
            turn.listening = now;
        }
        turn.pulse = now;
        if self.judge.is_due(now) {
            self.judge.step(now, wall_now(), Event::Timer);
        }
        if now.since(turn.watermarks_sent) >= WATERMARK_EVERY_MS {
            turn.watermarks_sent = now;
            self.send_watermarks(turn);
        }
        if now.since(turn.second) >= SECOND_MS {
            turn.second = now;
            self.every_second(turn, now);
        }
        self.send_alarm_votes(now);
        if now.since(turn.shown) >= SHOW_EVERY_MS {
            self.show(turn);
        }
    }

    /// Tells agents what is committed. What cannot be sent now stays due.
    fn send_watermarks(&mut self, turn: &mut Turn) {
        let mut later = BTreeSet::new();
        for agent in std::mem::take(&mut turn.watermarks_due) {
            let Some(marks) = self.store.marks_of(&agent) else { continue };
            let mark = marks.watermark(self.config.site);
            if let Some((incarnation, ranges)) = marks.newest() {
                let through = mark.marks.iter().find(|m| m.i == incarnation).map_or(0, |m| m.through);
                self.intake.committed(&agent, through, ranges.missing());
            }
            let Some(link) = self.links.get(&agent.site).filter(|link| link.health.connected) else {
                later.insert(agent);
                continue;
            };
            let leaf = Leaf::Ack { collector: self.config.site };
            let topic = Topic::new(agent.site, agent.agent.clone(), leaf).to_string();
            let body = serde_json::to_vec(&mark).unwrap_or_default();
            if link.retained.try_publish(topic, body, PublishOptions::at_least_once().retained()).is_err() {
                later.insert(agent);
            }
        }
        turn.watermarks_due.append(&mut later);
    }

    fn every_second(&mut self, turn: &mut Turn, now: Mono) {
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
        let votes = ServiceVotes { observer: self.config.site, session: self.session, services: turn.sights.clone() };
        // A full queue means that the one before is still under way: this one's successor follows in a second.
        let _ = self.service_votes.try_send(Tell::Votes(vec![Item::ServiceVotes(votes)]));
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

    fn send_alarm_votes(&mut self, now: Mono) {
        // Taken out only where there is room: otherwise they wait, merged, for the next turn.
        let Ok(room) = self.votes.try_reserve() else { return };
        let agreed = self.agreed.borrow().replica.clone();
        let known = |key: &str| agreed.as_ref().is_some_and(|replica| replica.alarms.alarms.contains_key(key));
        if let Some(votes) = self.judge.votes(now, &known) {
            room.send(Tell::Votes(vec![Item::AlarmVotes(votes)]));
        }
    }

    fn show(&mut self, turn: &mut Turn) {
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
            unsent_acks: turn.unsent_acks,
        }
    }

    async fn drain(mut self, mut turn: Turn, limit: Duration) {
        let finish = async {
            if turn.running.is_some() {
                let done = finished(&mut turn.running).await;
                self.on_committed(&mut turn, done);
            }
            if !self.intake.group.is_empty() {
                self.commit(&mut turn);
                let done = finished(&mut turn.running).await;
                self.on_committed(&mut turn, done);
            }
            self.send_watermarks(&mut turn);
            for link in self.links.values() {
                let _ = link.client.try_disconnect();
            }
            // One turn of the links to send what was just asked of them.
            tokio::time::sleep(PULSE).await;
        };
        if tokio::time::timeout(limit, finish).await.is_err() {
            tracing::warn!("the last readings were not committed in time; the brokers keep them");
        }
    }
}

/// The result of the commit that runs; pending for ever where none does.
async fn finished(running: &mut Option<JoinHandle<Committed>>) -> Option<Committed> {
    match running {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

fn mono(began: Instant) -> Mono {
    Mono(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
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
