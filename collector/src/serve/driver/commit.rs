//! Groups of readings on their way into the store, and what becomes of them where the store refuses.
//!
//! Invariant: an acknowledgement to a broker follows the commit, or the decision to leave the payload to its agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_core::alarms::{AlarmVote, Priority};
use bcp_wire::Site;
use rumqttc::ManualAck;
use tokio::task::JoinHandle;

use super::{Driver, Link, Turn};
use crate::Config;
use crate::export::Lines;
use crate::store::{Group, JournalError};

/// A group waits at most this long for company.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// So many payloads are committed at once: brokers have as few as 20 under way per session.
const COMMIT_AT: usize = 16;
/// Acknowledgements of one session that wait for room on their way out: as many as there are packet numbers.
const MAX_UNSENT: usize = 65_535;
/// Pause after a commit that the disk refused.
const COMMIT_RETRY: Duration = Duration::from_secs(1);

/// An acknowledgement that waits for its commit.
#[derive(Debug)]
pub(super) struct Ack {
    pub broker: Site,
    pub connection: u64,
    pub ack: ManualAck,
}

pub(super) type Committed = (Group, Duration, Result<(), JournalError>);

/// The result of the commit that runs; pending for ever where none does.
pub(super) async fn finished(running: &mut Option<JoinHandle<Committed>>) -> Option<Committed> {
    match running {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

/// What a collector says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Store,
    Influx,
    Certificate,
}

impl Own {
    const fn rule(self) -> &'static str {
        match self {
            Own::Store => "store-failing",
            Own::Influx => "influx-failing",
            Own::Certificate => "collector-certificate-expires",
        }
    }

    const fn title(self) -> [(&'static str, &'static str); 4] {
        match self {
            Own::Store => [
                ("en", "History is not stored"),
                ("nl", "Geschiedenis wordt niet opgeslagen"),
                ("fr", "L'historique n'est pas enregistré"),
                ("de", "Verlauf wird nicht gespeichert"),
            ],
            Own::Influx => [
                ("en", "Long-term database does not take readings"),
                ("nl", "Langetermijndatabank neemt geen metingen op"),
                ("fr", "La base à long terme n'accepte pas les mesures"),
                ("de", "Langzeitdatenbank nimmt keine Messwerte an"),
            ],
            Own::Certificate => [
                ("en", "A certificate of a collector expires within two weeks"),
                ("nl", "Een certificaat van een collector vervalt binnen twee weken"),
                ("fr", "Un certificat d'un collecteur expire dans deux semaines"),
                ("de", "Ein Zertifikat eines Kollektors läuft in zwei Wochen ab"),
            ],
        }
    }

    const fn priority(self) -> Priority {
        match self {
            Own::Store => Priority::High,
            Own::Influx | Own::Certificate => Priority::Medium,
        }
    }
}

/// This collector's vote on a part of itself: active where there is something to explain.
pub(super) fn own_alarm(config: &Config, own: Own, explain: Option<String>) -> (String, AlarmVote) {
    let asset = format!("collector-{}", config.site);
    let vote = AlarmVote {
        active: Some(explain.is_some()),
        priority: own.priority(),
        site: Some(config.site),
        title: BTreeMap::from(own.title().map(|(language, text)| (language.to_owned(), text.to_owned()))),
        runbook: Some(format!("monitoring/{}.md", own.rule())),
        explain: explain.unwrap_or_default(),
        asset: asset.clone(),
        ..AlarmVote::default()
    };
    (format!("{}/{asset}", own.rule()), vote)
}

impl Link {
    /// Hands over acknowledgements while there is room; the rest waits for the next turn. One that is lost is a place in the
    /// broker's window that is lost, until the next connection.
    pub(super) fn send_acks(&mut self) {
        while let Some(ack) = self.unsent.front() {
            if self.client.try_manual_ack(ack.clone()).is_err() {
                return;
            }
            self.unsent.pop_front();
        }
    }
}

impl Driver {
    pub(super) fn commit_if_due(&mut self, turn: &mut Turn) {
        let waited = turn.gathered_since.is_some_and(|since| since.elapsed() >= COMMIT_EVERY);
        let due = turn.gathered_since.is_some() && (waited || turn.acks.len() >= COMMIT_AT);
        if !due || turn.running.is_some() {
            return;
        }
        match turn.retry_at {
            Some(at) if at > Instant::now() => self.shed(turn),
            // Nothing to try the store with.
            Some(_) if self.intake.group.is_empty() => self.shed(turn),
            _ => self.commit(turn),
        }
    }

    /// The store takes nothing: what gathered is judged and shown, and is let go. Brokers stop sending once a few payloads
    /// are unacknowledged, and then nothing could be judged any more; the agents keep what no watermark covers.
    fn shed(&mut self, turn: &mut Turn) {
        self.intake.shed();
        self.intake.due.shed();
        turn.gathered_since = None;
        for ack in std::mem::take(&mut turn.acks) {
            self.acknowledge(turn, ack);
        }
    }

    fn acknowledge(&mut self, turn: &mut Turn, ack: Ack) {
        let Some(link) = self.links.get_mut(&ack.broker) else { return };
        if link.connection != ack.connection {
            return;
        }
        if link.unsent.len() >= MAX_UNSENT {
            // The broker delivers it again at the next connection, where it is a duplicate.
            turn.unsent_acks += 1;
            return;
        }
        link.unsent.push_back(ack.ack);
        link.send_acks();
    }

    pub(super) fn commit(&mut self, turn: &mut Turn) {
        let group = std::mem::take(&mut self.intake.group);
        self.intake.due.committing();
        turn.running_acks.append(&mut turn.acks);
        turn.gathered_since = None;
        let store = Arc::clone(&self.store);
        let lines = self.intake.lines.as_mut().map(Lines::take).unwrap_or_default();
        let export = self.export.clone();
        turn.running = Some(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            // First: a kill in between sends lines twice and loses none.
            if let Some(export) = export {
                export.put(&lines);
            }
            let done = if group.is_empty() { Ok(()) } else { store.commit(&group) };
            (group, began.elapsed(), done)
        }));
    }

    pub(super) fn on_committed(&mut self, turn: &mut Turn, done: Option<Committed>) {
        turn.running = None;
        let Some((mut group, took, result)) = done else {
            // Its group is gone from memory and was never acknowledged: a new process gets it again from the brokers.
            turn.is_broken = true;
            return;
        };
        match result {
            Ok(()) => {
                turn.retry_at = None;
                turn.commit_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                for ack in std::mem::take(&mut turn.running_acks) {
                    self.acknowledge(turn, ack);
                }
                self.intake.due.committed();
                if turn.store_trouble.take().is_some() {
                    tracing::info!("the store takes data again");
                    self.shed(turn);
                    self.intake.forget_all_but(self.store.marks());
                }
                group.clear();
                if self.intake.group.is_empty() {
                    self.intake.group = group;
                }
            }
            Err(error) => {
                let reason = crate::ingest::link::chain(&error);
                if turn.store_trouble.is_none() {
                    tracing::error!(
                        "the store takes nothing: {reason}; readings are judged and shown, agents keep them"
                    );
                }
                turn.store_trouble = Some(reason);
                turn.retry_at = Some(Instant::now() + COMMIT_RETRY);
                // What was refused and what gathered since, together: neither is in the store.
                self.intake.group.absorb(&mut group);
                turn.acks.splice(0..0, std::mem::take(&mut turn.running_acks));
                self.shed(turn);
            }
        }
    }

    /// Commits what is left at the end.
    pub(super) async fn finish_commits(&mut self, turn: &mut Turn) {
        if turn.running.is_some() {
            let done = finished(&mut turn.running).await;
            self.on_committed(turn, done);
        }
        if !self.intake.group.is_empty() {
            self.commit(turn);
            let done = finished(&mut turn.running).await;
            self.on_committed(turn, done);
        }
    }
}
