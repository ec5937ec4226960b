//! Process 1: the decision log, tickets and the control listener; nothing else.
//!
//! Knows: what was proposed, what was agreed, who leads, which sites it hears. Refuses to know: MQTT, history, rules, pages;
//! what follows from the agreed ticks is `bcp_core`'s business.
//!
//! Invariants:
//! * an answer goes out only after what it confirms is committed and applied;
//! * vote and log are on disk before anything is acknowledged;
//! * everything waits in bounded queues, ticket matters first.
//!
//! Tasks: the control listener, [`lead`] (elections and check-quorum), contact with the peers, [`tick`] (proposals) and
//! [`sight`] (observations); each ends with the shutdown, and [`run`] ends when the listener has drained.

pub mod control;
pub mod lead;
pub mod link;
pub mod log;
pub mod machine;
pub mod member;
pub mod memory;
pub mod network;
pub mod node;
mod pack;
pub mod raft;
pub mod raft_log;
pub mod replay;
pub mod restore;
pub mod sight;
pub mod store;
pub mod tick;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bcp_core::policy::Policy;
use bcp_identity::{Credentials, IdentityError};
use bcp_wire::{Id, Site};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::{Config, Shutdown};
use link::{Contacts, HttpPeers, Peers};
use log::DecisionLog;
use node::Node;
use raft_log::RaftLog;
use sight::Watchman;
use store::Store;
use tick::Queue;

#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    #[error("failed to listen on {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        cause: std::io::Error,
    },
    #[error("failed to use the control credentials")]
    Credentials(#[from] IdentityError),
    #[error("failed to open the decide database")]
    Store(#[from] store::StoreError),
    #[error("failed to start the decision log")]
    Open(#[from] raft_log::OpenError),
    #[error("the decision log ended")]
    Lead(#[from] lead::LeadError),
}

/// Everything one decide process needs; a test gives its own peers and listener.
#[derive(Debug)]
pub struct Setup<'a> {
    pub site: Site,
    pub dir: &'a Path,
    pub policy: Policy,
    pub credentials: &'a Credentials,
    pub take_back_after: Duration,
}

/// Runs until `shutdown`.
pub async fn run(config: Arc<Config>, shutdown: Shutdown) -> Result<(), DecideError> {
    let address = config.listen.control;
    let listener = TcpListener::bind(address).await.map_err(|cause| DecideError::Listen { address, cause })?;
    let contacts = Arc::new(Contacts::default());
    let peers: Arc<dyn Peers> = Arc::new(HttpPeers::new(&config.control, Arc::clone(&contacts))?);
    let setup = Setup {
        site: config.site,
        dir: &config.decide_dir(),
        policy: config.policy.clone(),
        credentials: &config.control.credentials,
        take_back_after: lead::TAKE_BACK_AFTER,
    };
    run_with(setup, listener, peers, contacts, shutdown).await
}

/// [`run`] with the way to the peers given.
pub async fn run_with(
    setup: Setup<'_>,
    listener: TcpListener,
    peers: Arc<dyn Peers>,
    contacts: Arc<Contacts>,
    mut shutdown: Shutdown,
) -> Result<(), DecideError> {
    let Setup { site, dir, policy, credentials, take_back_after } = setup;
    let parts = Parts { store: Store::open(dir)?, peers, contacts };
    let mut process = Process::start(site, policy, take_back_after, parts, shutdown.clone()).await?;
    let app = control::router(Arc::clone(&process.node));
    let ended = tokio::select! {
        served = bcp_identity::serve(listener, credentials, app, async move { shutdown.wait().await }) => {
            served.map_err(DecideError::from)
        }
        led = process.ended() => Err(DecideError::from(led)),
    };
    process.stop().await;
    ended
}

/// What a process has of its own.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub peers: Arc<dyn Peers>,
    pub contacts: Arc<Contacts>,
}

/// A decide process but for its listener: what is asked of it goes to [`control::router`].
#[derive(Debug)]
pub struct Process {
    pub node: Arc<Node<RaftLog>>,
    tasks: [JoinHandle<()>; 3],
    steward: JoinHandle<Result<(), lead::LeadError>>,
}

impl Process {
    /// Opens the log and starts what lives by it.
    ///
    /// # Errors
    /// The log does not open.
    pub async fn start(
        site: Site,
        policy: Policy,
        take_back_after: Duration,
        Parts { store, peers, contacts }: Parts,
        shutdown: Shutdown,
    ) -> Result<Process, DecideError> {
        let log = RaftLog::open(site, policy.timing, store, Arc::clone(&peers), Arc::clone(&contacts)).await?;
        let queue = Arc::new(Queue::default());
        let watchman = Watchman::new(&policy.timing);
        let gates = gates(&policy);
        let node =
            Arc::new(Node { site, log: Arc::clone(&log), queue: Arc::clone(&queue), peers, contacts, watchman, gates });
        let hash = policy.hash();
        tracing::info!(%site, policy = %hash, "decide");
        // Only the log can refuse it: what is known here at the start may be old.
        if let Some(fault) = log.applied().read(|replica| replica.policy_fault(&policy)) {
            tracing::error!(%fault, "as things stand here, the log will refuse this policy and go on with the agreed one");
        }
        let tasks = [
            tokio::spawn(lead::keep_contact(Arc::clone(&log), shutdown.clone())),
            tokio::spawn(tick::run(site, Arc::clone(&log), queue, policy, shutdown.clone())),
            tokio::spawn(sight::run(Arc::clone(&node), hash, shutdown.clone())),
        ];
        let steward = tokio::spawn(lead::run(log, take_back_after, shutdown));
        Ok(Process { node, tasks, steward })
    }

    /// Why it must end; never returns where it need not.
    pub async fn ended(&mut self) -> lead::LeadError {
        match (&mut self.steward).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => std::future::pending().await,
            Err(error) => lead::LeadError::Stopped { reason: error.to_string() },
        }
    }

    /// Ends it as it is: nothing is handed over.
    pub async fn stop(self) {
        self.steward.abort();
        for task in self.tasks {
            task.abort();
        }
        self.node.log.close().await;
    }
}

fn gates(policy: &Policy) -> BTreeSet<(Site, Id)> {
    let by_site = policy.tickets.values().flat_map(|ticket| &ticket.gates);
    by_site.flat_map(|(site, gates)| gates.iter().map(|gate| (*site, gate.clone()))).collect()
}
