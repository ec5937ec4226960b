//! Who leads: elections, check-quorum, pressing on, and the way back to `w`.
//!
//! Rules, in the words of the design: a leader without a quorum's acknowledgement for [`QUORUM_LOSS`] steps aside; a node does not
//! elect itself while a reachable peer hears a leader, nor while it reaches no peer at all; `w` takes leadership back after
//! [`TAKE_BACK_AFTER`] of unbroken contact with both; a disk that does not finish an append in [`DISK_HANGS`] ends the
//! process. An a-b cut with the leader at `w` does nothing.
//!
//! One task ([`run`]); at rest it only looks at numbers, and asks each peer nothing unless it was silent for a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bcp_wire::Site;
use bytes::Bytes;
use openraft::EmptyNode;
use tokio::time::Instant;

use super::link::Call;
use super::log::Leadership;
use super::raft_log::{Hello, RaftLog};
use crate::Shutdown;

pub const QUORUM_LOSS: Duration = Duration::from_millis(1_500);
pub const DISK_HANGS: Duration = Duration::from_secs(3);
pub const TAKE_BACK_AFTER: Duration = Duration::from_secs(30);
/// Contact is broken when a peer was silent for this long; it is asked every [`PING_EVERY`].
const CONTACT_BREAKS: Duration = Duration::from_millis(2_500);
const PING_EVERY: Duration = Duration::from_secs(1);
/// Limit of a ping; a link slower than this is no contact.
const PING_LIMIT: Duration = Duration::from_secs(2);
/// Before the cluster exists the nodes look for each other this often.
const MEET_EVERY: Duration = Duration::from_millis(500);

pub const HELLO: &str = "/raft/v1/hello";
pub const YIELD: &str = "/raft/v1/yield";

#[derive(Debug, thiserror::Error)]
pub enum LeadError {
    #[error("the consensus stopped: {reason}")]
    Stopped { reason: String },
    #[error("the disk did not finish an append in {limit:?}", limit = DISK_HANGS)]
    DiskHangs,
}

/// What changes between two looks.
struct Steward {
    log: Arc<RaftLog>,
    /// Nobody led, or this node tried to, since then.
    quiet_since: Instant,
    election_timeout: Duration,
    /// Leads for the library, but no quorum answers.
    aside: bool,
    /// Unbroken contact with both since then.
    steady_since: Option<Instant>,
    met_at: Option<Instant>,
}

/// Runs until `shutdown`; an error means that the process must end.
pub async fn run(log: Arc<RaftLog>, take_back_after: Duration, mut shutdown: Shutdown) -> Result<(), LeadError> {
    let period = Duration::from_millis(log.timing.tick_ms / 2);
    let mut steward = Steward {
        election_timeout: election_timeout(&log),
        log,
        quiet_since: Instant::now(),
        aside: false,
        steady_since: None,
        met_at: None,
    };
    loop {
        tokio::select! {
            () = shutdown.wait() => return Ok(()),
            () = tokio::time::sleep(period) => {}
        }
        steward.look(take_back_after).await?;
    }
}

/// Each site has its own part of the range, so that two do not split the votes: `w` first, which saves a hand-over, then `a`.
fn election_timeout(log: &RaftLog) -> Duration {
    let (min, max) = (log.timing.election_min_ms, log.timing.election_max_ms);
    let part = (max - min) / 8;
    let first = match log.site {
        Site::W => min,
        Site::A => min + 3 * part,
        Site::B => min + 6 * part,
    };
    Duration::from_millis(first + rand::random_range(0..=part))
}

impl Steward {
    async fn look(&mut self, take_back_after: Duration) -> Result<(), LeadError> {
        if let Err(fatal) = &self.log.raft.metrics().borrow().running_state {
            return Err(LeadError::Stopped { reason: fatal.to_string() });
        }
        if self.log.store.append_stalled().is_some_and(|stalled| stalled >= DISK_HANGS) {
            return Err(LeadError::DiskHangs);
        }
        if !self.log.is_initialised() {
            self.meet().await;
            return Ok(());
        }
        match self.log.leads_in_library() {
            Some(term) => self.as_leader(term).await,
            None => self.as_follower(take_back_after).await,
        }
        Ok(())
    }

    /// Check-quorum: an entry that no quorum takes says that there is none.
    async fn as_leader(&mut self, term: u64) {
        self.steady_since = None;
        let pending = self.log.pending();
        match pending {
            Some(age) if age >= QUORUM_LOSS && !self.aside => {
                tracing::warn!(term, waited_ms = age.as_millis(), "no quorum answers: this leader steps aside");
                self.aside = true;
                self.quiet_since = Instant::now();
            }
            None if self.aside => {
                tracing::info!(term, "a quorum answers again");
                self.aside = false;
            }
            _ => {}
        }
        if self.aside {
            self.log.set_leadership(Leadership::Nobody { term });
            // Its log may be the longest, so that only it can lead: it tries again as a candidate would.
            if self.may_elect().await {
                self.press_on().await;
            }
        } else if self.log.is_yielding() {
            self.log.set_leadership(Leadership::Nobody { term });
        } else {
            self.quiet_since = Instant::now();
            self.log.set_leadership(Leadership::Leader { term });
            // The library sends a lost append again only with the next one or a heartbeat.
            if pending.is_some_and(|age| age >= Duration::from_millis(self.log.timing.tick_ms)) {
                self.press_on().await;
            }
        }
    }

    async fn press_on(&self) {
        if let Err(fatal) = self.log.raft.trigger().heartbeat().await {
            tracing::error!(%fatal, "the consensus takes no heartbeat");
        }
    }

    async fn as_follower(&mut self, take_back_after: Duration) {
        self.aside = false;
        let (term, leader) = {
            let metrics = self.log.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_term, metrics.current_leader.and_then(Site::from_node_id))
        };
        let limit = Duration::from_millis(self.log.timing.election_max_ms);
        let heard = self.log.contacts.leader_age().is_some_and(|age| age < limit);
        match leader.filter(|leader| heard && *leader != self.log.site) {
            Some(leader) => {
                self.log.set_leadership(Leadership::Follower { leader, term });
                if self.log.site == Site::W {
                    self.take_back(leader, take_back_after).await;
                }
            }
            None => {
                self.log.set_leadership(Leadership::Nobody { term });
                self.steady_since = None;
            }
        }
        if self.may_elect().await {
            tracing::info!(term, "nobody leads: asking for votes");
            if let Err(fatal) = self.log.raft.trigger().elect().await {
                tracing::error!(%fatal, "the consensus holds no election");
            }
        }
    }

    /// Quiet for long enough, and no reachable peer hears a leader, and there is a reachable peer.
    async fn may_elect(&mut self) -> bool {
        let leader_age = self.log.contacts.leader_age().unwrap_or(Duration::MAX);
        if leader_age.min(self.quiet_since.elapsed()) < self.election_timeout {
            return false;
        }
        let hellos = self.ask_peers(Duration::from_millis(self.log.timing.tick_ms)).await;
        // A node that is new takes part too: after a restore, and where two founded the cluster. One that lost its disk is a
        // stranger and gives no answer.
        if hellos.is_empty() || hellos.values().any(|hello| hello.hears.is_some_and(|leader| leader != self.log.site)) {
            return false;
        }
        self.quiet_since = Instant::now();
        self.election_timeout = election_timeout(&self.log);
        true
    }

    async fn take_back(&mut self, leader: Site, after: Duration) {
        let contact = |site: Site| self.log.contacts.peer_age(site).is_some_and(|age| age < CONTACT_BREAKS);
        if !self.log.site.others().into_iter().all(contact) {
            self.steady_since = None;
            return;
        }
        if self.steady_since.get_or_insert_with(Instant::now).elapsed() < after {
            return;
        }
        self.steady_since = None;
        let limit = Duration::from_millis(self.log.timing.election_max_ms);
        let Some(query) = self.log.book.query_to(leader) else { return };
        let call = Call { path: format!("{YIELD}?{query}"), body: Bytes::from_static(b"{}"), on_behalf: None, limit };
        match self.log.peers.call(leader, call).await {
            Ok(_) => {
                tracing::info!(%leader, "takes leadership back");
                self.quiet_since = Instant::now();
                if let Err(fatal) = self.log.raft.trigger().elect().await {
                    tracing::error!(%fatal, "the consensus holds no election");
                }
            }
            Err(error) => tracing::warn!(%error, "leadership was not handed over"),
        }
    }

    /// Before the cluster exists: when all three are here and none takes part in one, `w` founds it. Two are enough, whichever
    /// an operator told: the third one takes part in nothing, so it can join when it comes.
    async fn meet(&mut self) {
        self.log.set_leadership(Leadership::Nobody { term: 0 });
        if self.met_at.is_some_and(|at| at.elapsed() < MEET_EVERY) {
            return;
        }
        self.met_at = Some(Instant::now());
        let hellos = self.ask_peers(PING_LIMIT).await;
        let all_new = hellos.len() == 2 && hellos.values().all(|hello| !hello.initialised);
        let all_met = self.log.site.others().into_iter().all(|site| self.log.book.query_to(site).is_some());
        let none_founded = hellos.values().all(|hello| !hello.initialised);
        let two_suffice = self.log.two_suffice.load(Ordering::Acquire) && !hellos.is_empty() && none_founded;
        if (self.log.site == Site::W && all_new && all_met) || two_suffice {
            let members: BTreeMap<u64, EmptyNode> =
                Site::ALL.into_iter().map(|site| (site.node_id(), EmptyNode {})).collect();
            match self.log.raft.initialize(members).await {
                Ok(()) => tracing::info!(with = ?hellos.keys(), "founded the cluster of a, b and w"),
                Err(error) => tracing::warn!(%error, "the cluster was not founded"),
            }
            self.quiet_since = Instant::now();
        }
    }

    async fn ask_peers(&self, limit: Duration) -> BTreeMap<Site, Hello> {
        let asked = self.log.site.others().map(|site| ask(&self.log, site, limit));
        futures::future::join_all(asked).await.into_iter().flatten().map(|hello| (hello.site, hello)).collect()
    }
}

/// Greets the collector of `site`; both write down each other's member.
async fn ask(log: &RaftLog, site: Site, limit: Duration) -> Option<Hello> {
    let body = serde_json::to_vec(&log.hello()).ok()?;
    let call = Call { path: HELLO.to_owned(), body: Bytes::from(body), on_behalf: None, limit };
    let answer = log.peers.call(site, call).await.ok()?;
    let hello: Hello = serde_json::from_slice(&answer).ok().filter(|hello: &Hello| hello.site == site)?;
    log.book.meet(site, &hello.member, !hello.initialised).await.ok()?;
    Some(hello)
}

/// Keeps contact with peers that have no other reason to talk; one task.
pub async fn keep_contact(log: Arc<RaftLog>, mut shutdown: Shutdown) {
    loop {
        let quiet = |site: &Site| log.contacts.peer_age(*site).is_none_or(|age| age >= PING_EVERY * 4 / 5);
        let asked = log.site.others().into_iter().filter(quiet).map(|site| ask(&log, site, PING_LIMIT));
        tokio::select! {
            () = shutdown.wait() => return,
            _ = futures::future::join_all(asked) => {}
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(PING_EVERY) => {}
        }
    }
}
