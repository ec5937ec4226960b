//! The one loop of serve: waits for an event, takes it in, commits, acknowledges, judges, shows.
//!
//! Task: [`Driver::run`]. Commits run on a blocking thread, one at a time; while one runs the next group gathers. What
//! gathers is bounded: beyond [`MAX_GATHERED`] payloads the links wait, and with them the brokers.

mod commit;
mod report;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_core::rules::Event;
use bcp_core::status::ServiceSight;
use bcp_core::time::Mono;
use bcp_wire::{Id, Site};
use rumqttc::{AsyncClient, ManualAck};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::certificates::Certificates;
use super::decide_link::{Agreed, Tell};
use super::judge::Judge;
use super::show::Shown;
use super::sites::SiteWatch;
use super::view::ViewWriter;
use super::wall_now;
use crate::export::Export;
use crate::ingest::intake::{Intake, LinkHealth};
use crate::ingest::link::{FromLink, LinkNews, Session};
use crate::store::Store;
use crate::{Config, Shutdown};
use commit::{Ack, Committed, finished};

/// Payloads that wait for a commit before no more are taken.
const MAX_GATHERED: usize = 8_192;
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
    /// Acknowledgements the client had no room for.
    unsent: VecDeque<ManualAck>,
    health: LinkHealth,
    connection: u64,
    reconnects: u64,
    trouble: Option<String>,
}

impl Link {
    #[must_use]
    pub fn new(client: AsyncClient, retained: AsyncClient) -> Link {
        Link {
            client,
            retained,
            unsent: VecDeque::new(),
            health: LinkHealth::default(),
            connection: 0,
            reconnects: 0,
            trouble: None,
        }
    }
}

/// Everything the loop owns.
#[derive(Debug)]
pub struct Driver {
    pub config: Arc<Config>,
    pub intake: Intake,
    pub store: Arc<Store>,
    /// The way to the long-term database, where there is one.
    pub export: Option<Arc<Export>>,
    pub judge: Judge,
    pub certificates: Certificates,
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
    watermarks_sent: Mono,
    shown: Mono,
    second: Mono,
    pulse: Mono,
    /// Since when the loop runs without a gap.
    listening: Mono,
    sights: BTreeMap<Id, ServiceSight>,
    sites: SiteWatch,
    /// Number of the last word about services.
    service_seq: u64,
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
            watermarks_sent: Mono(0),
            shown: Mono(0),
            second: Mono(0),
            pulse: Mono(0),
            listening: Mono(0),
            sights: BTreeMap::new(),
            sites: SiteWatch::default(),
            service_seq: 0,
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
                link.unsent.clear();
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
                link.send_acks();
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

    fn on_pulse(&mut self, turn: &mut Turn) {
        let now = mono(turn.began);
        if now.since(turn.pulse) > FREEZE_GAP_MS {
            tracing::warn!(gap_ms = now.since(turn.pulse), "this process did not run for a while");
            turn.listening = now;
        }
        turn.pulse = now;
        self.links.values_mut().for_each(Link::send_acks);
        if self.judge.is_due(now) {
            self.judge.step(now, wall_now(), Event::Timer);
        }
        if now.since(turn.watermarks_sent) >= WATERMARK_EVERY_MS {
            turn.watermarks_sent = now;
            self.send_watermarks();
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

    async fn drain(mut self, mut turn: Turn, limit: Duration) {
        let finish = async {
            self.finish_commits(&mut turn).await;
            self.send_watermarks();
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

fn mono(began: Instant) -> Mono {
    Mono(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
}
