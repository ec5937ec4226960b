//! The decision log on consensus: opens the library, proposes, answers its messages.
//!
//! The library's own timer is off. [`super::lead`] decides when to elect, when to press an entry on, and when to step
//! aside, because the library has neither check-quorum nor pre-vote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bcp_core::policy::Timing;
use bcp_core::replica::Tick;
use bcp_wire::Site;
use openraft::ServerState;
use openraft::SnapshotPolicy;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::link::{Contacts, Peers};
use super::log::{DecisionLog, Leadership, ProposeError};
use super::machine::{Agreed, Machine};
use super::member::Book;
use super::network::Network;
use super::raft::{Raft, Types};
use super::store::{Store, StoreError};

/// A snapshot this many ticks after the last (about eight minutes at 250 ms).
const SNAPSHOT_EVERY: u64 = 2_000;
/// Entries kept behind the snapshot, so that a node that was away for a few minutes needs none.
const KEEP_BEHIND_SNAPSHOT: u64 = 2_000;
/// Farther behind than this, a node gets the snapshot.
const LAG_FOR_SNAPSHOT: u64 = 4_000;
/// The library waits for its disk when it stops; the process does not.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Ticks in one append request.
const MAX_ENTRIES_PER_APPEND: u64 = 64;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("failed to open the decide database")]
    Store(#[from] StoreError),
    #[error("timing does not fit the consensus library")]
    Timing(#[source] Box<openraft::ConfigError>),
    #[error("failed to start the consensus")]
    Start(#[source] Box<openraft::error::Fatal<u64>>),
}

/// What a node says of itself to a peer that asks whether it may elect itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    pub site: Site,
    pub member: String,
    /// It takes part in a cluster.
    pub initialised: bool,
    /// The leader it hears, itself included.
    pub hears: Option<Site>,
}

pub struct RaftLog {
    pub(super) site: Site,
    pub(super) timing: Timing,
    pub(super) raft: Raft,
    pub(super) store: Store,
    pub(super) book: Arc<Book>,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) contacts: Arc<Contacts>,
    pub(super) leadership: watch::Sender<Leadership>,
    agreed: Agreed,
    opened: Instant,
    /// Start of the proposal that is not committed yet, milliseconds since `opened` plus one; 0 where none is.
    pending_since: AtomicU64,
    /// Leadership is being handed over until then, in the same milliseconds.
    yields_until: AtomicU64,
    /// An operator said that two nodes are enough to found the cluster.
    pub(super) two_suffice: AtomicBool,
}

impl std::fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftLog")
            .field("site", &self.site)
            .field("leadership", &*self.leadership.borrow())
            .finish_non_exhaustive()
    }
}

impl RaftLog {
    pub async fn open(
        site: Site,
        timing: Timing,
        store: Store,
        peers: Arc<dyn Peers>,
        contacts: Arc<Contacts>,
    ) -> Result<Arc<RaftLog>, OpenError> {
        let agreed = Agreed::default();
        let machine = Machine::open(store.clone(), agreed.clone()).await?;
        let book = Arc::new(Book::open(store.clone()).await?);
        let network = Network::new(Arc::clone(&peers), Arc::clone(&book));
        let config = library_config(&timing).map_err(OpenError::Timing)?;
        let raft = Raft::new(site.node_id(), Arc::new(config), network, store.clone(), machine)
            .await
            .map_err(|error| OpenError::Start(Box::new(error)))?;
        Ok(Arc::new(RaftLog {
            site,
            timing,
            raft,
            store,
            book,
            peers,
            contacts,
            leadership: watch::channel(Leadership::Nobody { term: 0 }).0,
            agreed,
            opened: Instant::now(),
            pending_since: AtomicU64::new(0),
            yields_until: AtomicU64::new(0),
            two_suffice: AtomicBool::new(false),
        }))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// How long the oldest proposal has waited for its quorum.
    #[must_use]
    pub fn pending(&self) -> Option<Duration> {
        match self.pending_since.load(Ordering::Acquire) {
            0 => None,
            since => Some(Duration::from_millis(self.now_ms().saturating_sub(since))),
        }
    }

    #[must_use]
    pub fn is_yielding(&self) -> bool {
        self.now_ms() < self.yields_until.load(Ordering::Acquire)
    }

    /// Stops proposing for `length`, so that `w` can be elected with a full log. Returns once nothing is pending.
    pub async fn yield_leadership(&self, length: Duration) -> bool {
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(0);
        self.yields_until.store(self.now_ms() + length_ms, Ordering::Release);
        self.give_up_leadership();
        let limit = Instant::now() + length / 2;
        while self.pending().is_some() && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.pending().is_none()
    }

    fn give_up_leadership(&self) {
        // The guard of `borrow` must be gone before the write.
        let term = self.leadership.borrow().term();
        self.set_leadership(Leadership::Nobody { term });
    }

    pub(super) fn set_leadership(&self, now: Leadership) {
        let changed = self.leadership.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        if changed {
            match now {
                Leadership::Leader { term } => tracing::info!(term, "this collector leads"),
                Leadership::Follower { leader, term } => tracing::info!(%leader, term, "follows"),
                Leadership::Nobody { term } => tracing::warn!(term, "no leader: nothing is decided, nothing expires"),
            }
        }
    }

    /// The leader heard within `limit`; itself while it leads.
    #[must_use]
    pub fn hears(&self, limit: Duration) -> Option<Site> {
        match *self.leadership.borrow() {
            Leadership::Leader { .. } => Some(self.site),
            Leadership::Follower { leader, .. } if self.contacts.leader_age().is_some_and(|age| age <= limit) => {
                Some(leader)
            }
            _ => None,
        }
    }

    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.raft.metrics().borrow().membership_config.membership().voter_ids().next().is_some()
    }

    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            site: self.site,
            member: self.book.own(),
            initialised: self.is_initialised(),
            hears: self.hears(Duration::from_millis(self.timing.election_min_ms)),
        }
    }

    /// An append of the leader arrived.
    pub async fn on_append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<u64>, RaftError<u64>> {
        let answer = self.raft.append_entries(request).await?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.contacts.heard_leader();
        }
        Ok(answer)
    }

    #[must_use]
    pub(super) fn leads_in_library(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader).then_some(metrics.current_term)
    }

    /// Stops the library; nothing is proposed or answered afterwards.
    pub async fn close(&self) {
        self.give_up_leadership();
        if tokio::time::timeout(CLOSE_LIMIT, self.raft.shutdown()).await.is_err() {
            tracing::warn!(limit = ?CLOSE_LIMIT, "the consensus did not stop in time");
        }
    }
}

fn library_config(timing: &Timing) -> Result<openraft::Config, Box<openraft::ConfigError>> {
    // The library uses its heartbeat interval as the limit of an append, its longest election timeout as the leader's
    // lease, and its shortest as the limit of a vote request. Its timers are off.
    let append_limit = timing.tick_ms * 2;
    let lease = timing.election_min_ms;
    openraft::Config {
        cluster_name: "bcp-decide".to_owned(),
        heartbeat_interval: append_limit,
        election_timeout_min: append_limit.midpoint(lease).max(append_limit + 1),
        election_timeout_max: lease.max(append_limit + 2),
        install_snapshot_timeout: 20_000,
        max_payload_entries: MAX_ENTRIES_PER_APPEND,
        replication_lag_threshold: LAG_FOR_SNAPSHOT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        purge_batch_size: 256,
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        ..openraft::Config::default()
    }
    .validate()
    .map_err(Box::new)
}

/// Clears the mark however the proposal ends.
struct Pending<'a>(&'a AtomicU64);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

impl DecisionLog for RaftLog {
    async fn propose(&self, tick: Tick) -> Result<u64, ProposeError> {
        if *self.leadership.borrow() != (Leadership::Leader { term: tick.term }) {
            return Err(ProposeError::NotLeader);
        }
        self.pending_since.store(self.now_ms(), Ordering::Release);
        let _pending = Pending(&self.pending_since);
        match self.raft.client_write(tick).await {
            Ok(answer) => Ok(answer.log_id.index),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::Lost),
            Err(RaftError::APIError(other)) => Err(ProposeError::Stopped { reason: other.to_string() }),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped { reason: fatal.to_string() }),
        }
    }

    fn applied(&self) -> &Agreed {
        &self.agreed
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
