//! The sidecar: tells the gate how the data of this copy are, and takes the log's word about the standby.
//!
//! Knows: LSN, timeline, the state of replication, whom commits wait for. Refuses to know: leases, and who should be active.
//! Tasks: the server, one that looks at PostgreSQL, one checkpoint at a time. Cancelling any of them loses nothing: what counts is
//! in PostgreSQL's own settings and in [`super::marks`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /facts` | `ServiceFacts`; 503 where PostgreSQL does not say |
//! | `POST /sync` | the log's word, `{"peer_in_sync":false,"epoch":"1.3","wish":77}`; 409: nobody wished that |
//! | `GET /health` | 200 `active`, or 503 `standby` or `unknown` |
//! | `GET /copy` | 200 `ok ...` from an active copy and from a standby that streams, for the checks of a site |
//!
//! **Lineage** is system identifier and timeline. A standby has the timeline that it receives or, where nobody sends, the highest
//! of which it has WAL; so it is equal to its primary's as soon as it follows over a promotion, and a copy that stayed on the old
//! timeline is a fork. **Position** is the LSN flushed here.
//!
//! Why "in sync" is true (I9). It is said only while commits wait for the standby (`synchronous_standby_names` names it, and nobody
//! but this sidecar takes it out) and the standby has flushed everything from before that began. `pg_stat_replication` says `sync`
//! as soon as the sessions concerned have read the setting; commits wait once the *checkpointer* has. So after switching on, a
//! checkpoint is asked for: the postmaster hands a reload to all of its children at once, and the checkpointer takes it before it
//! begins what it is asked for later. What is flushed when that checkpoint has ended is the switch position. From then on what is
//! acknowledged is at the standby, also while it is away, for commits hang then.
//!
//! Why no write is acknowledged alone too early (I8). Commits that hang go on only when this sidecar empties the setting; it does
//! so only on a word that grants the wish it still has, by its number, and after the mark "took writes alone" is on the disk. A
//! wish ends when the standby has caught up, and its number never comes again; facts say "not in sync" as long as it stands.
//!
//! Not covered: sessions that set `synchronous_commit` lower, and a statement that is cancelled while it waits for the standby
//! (PostgreSQL then says "committed" with a warning). Both are the client's own doing; leave `statement_timeout` off for writers.

mod http;
mod look;
mod waiting;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bcp_wire::control::{CopyRole, ServiceFacts};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use self::look::Seen;
use self::waiting::{Order, Waiting};
use super::sql::Session;
use super::{Postgres, PostgresError, server};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// An older look is no fact.
const FRESH: Duration = Duration::from_millis(2_000);
/// Of a checkpoint; what it has to write may be much.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);
/// Numbers up to this are exact in every JSON reader.
const MAX_WISH: u64 = (1 << 53) - 1;

/// What was found at the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Server(Seen),
    /// No process of it is there.
    Stopped,
}

#[derive(Debug)]
struct State {
    found: Option<(Instant, Found)>,
    waiting: Waiting,
}

/// One running sidecar.
#[derive(Debug)]
pub struct Copy {
    postgres: Postgres,
    state: Mutex<State>,
    again: Notify,
}

/// Why the sidecar ended.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("failed to listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("failed to serve")]
    Serve(#[source] std::io::Error),
}

/// Serves until `shutdown`.
///
/// # Errors
/// It cannot listen or serve.
pub async fn run(postgres: Postgres, mut shutdown: watch::Receiver<bool>) -> Result<(), CopyError> {
    let address = postgres.copy_listen;
    let listener = TcpListener::bind(address).await.map_err(|source| CopyError::Listen { address, source })?;
    let patience = postgres.peer_patience.get();
    let state = Mutex::new(State { found: None, waiting: Waiting::new(patience) });
    let copy = Arc::new(Copy { postgres, state, again: Notify::new() });
    let looking = tokio::spawn(Arc::clone(&copy).keep_looking());
    let stopped = async move {
        // A closed channel means that the application is gone: stop as well.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    let served = axum::serve(listener, http::router(copy)).with_graceful_shutdown(stopped).await;
    looking.abort();
    served.map_err(CopyError::Serve)
}

impl Copy {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves a state that the next look mends.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is known at the moment; `None` where nothing is.
    fn facts(&self) -> Option<ServiceFacts> {
        let state = self.lock();
        let (at, found) = state.found.as_ref()?;
        if at.elapsed() > FRESH {
            return None;
        }
        Some(match found {
            Found::Stopped => ServiceFacts {
                lineage: String::new(),
                position: 0,
                role: CopyRole::Stopped,
                peer_in_sync: false,
                wants_alone: false,
                wish: 0,
            },
            Found::Server(seen) => ServiceFacts {
                lineage: seen.lineage(),
                position: seen.position,
                role: if seen.active { CopyRole::Active } else { CopyRole::Standby },
                peer_in_sync: seen.active && state.waiting.peer_in_sync(),
                wants_alone: state.waiting.wish().is_some(),
                wish: state.waiting.wish().unwrap_or(0),
            },
        })
    }

    fn found(&self) -> Option<Found> {
        let state = self.lock();
        state.found.as_ref().filter(|(at, _)| at.elapsed() <= FRESH).map(|(_, found)| found.clone())
    }

    /// True where that wish stood.
    fn granted(&self, wish: u64) -> bool {
        let taken = self.lock().waiting.granted(wish);
        if taken {
            tracing::warn!("the log has it that the standby is behind: going on without it");
            self.again.notify_one();
        }
        taken
    }

    async fn keep_looking(self: Arc<Self>) {
        let mut session = None;
        let (switched, mut switches) = tokio::sync::mpsc::channel(1);
        loop {
            tokio::select! {
                () = self.again.notified() => {}
                Some(position) = switches.recv() => self.lock().waiting.switched(position),
                () = tokio::time::sleep(LOOK) => {}
            }
            match self.look(&mut session).await {
                Ok(Some(order)) => self.carry_out(order, &mut session, &switched).await,
                Ok(None) => {}
                Err(error) => {
                    session = None;
                    tracing::debug!(error = %anyhow::Error::from(error), "PostgreSQL does not say how it is");
                    if !server::is_running(&self.postgres) {
                        let mut state = self.lock();
                        state.waiting.reset();
                        state.found = Some((Instant::now(), Found::Stopped));
                    }
                }
            }
        }
    }

    async fn look(&self, session: &mut Option<Session>) -> Result<Option<Order>, PostgresError> {
        let opened = match session {
            Some(session) => session,
            None => session.insert(Session::open(&self.postgres).await?),
        };
        let seen = Seen::of(opened, &self.postgres).await?;
        let mut state = self.lock();
        let before = state.waiting.clone();
        let order = state.waiting.saw(&seen, Instant::now(), rand::random_range(1..=MAX_WISH));
        if before.says() != state.waiting.says() {
            tracing::info!(now = state.waiting.says(), "the standby");
        }
        state.found = Some((Instant::now(), Found::Server(seen)));
        Ok(order)
    }

    async fn carry_out(
        &self,
        order: Order,
        session: &mut Option<Session>,
        switched: &tokio::sync::mpsc::Sender<(u64, u64)>,
    ) {
        let Some(open) = session.as_ref() else { return };
        let name = &self.postgres.peer_name;
        let marks = self.postgres.marks();
        let done = match order {
            Order::WaitForNobody => match marks.set_alone() {
                Ok(()) => open.wait_for_standby("").await,
                Err(error) => Err(error),
            },
            Order::WaitForPeer => open.wait_for_standby(name).await,
            Order::Checkpoint { round } => {
                let (postgres, switched) = (self.postgres.clone(), switched.clone());
                tokio::spawn(async move {
                    match checkpoint(&postgres).await {
                        // The loop is gone only when the sidecar ends.
                        Ok(position) => {
                            let _ = switched.send((round, position)).await;
                        }
                        Err(error) => {
                            tracing::warn!(error = %anyhow::Error::from(error), "a checkpoint failed; tried again");
                            let _ = switched.send((round, 0)).await;
                        }
                    }
                });
                Ok(())
            }
            Order::ForgetAlone => marks.clear_alone(),
        };
        if let Err(error) = done {
            tracing::warn!(?order, error = %anyhow::Error::from(error), "not done; tried again");
            *session = None;
        }
    }
}

/// What was flushed once commits wait for the standby for certain; never 0.
async fn checkpoint(postgres: &Postgres) -> Result<u64, PostgresError> {
    let session = Session::open(postgres).await?;
    session.row_within("CHECKPOINT", CHECKPOINT_LIMIT).await?;
    let position = session.text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").await?;
    position.parse().map_err(|_| PostgresError::Late { what: "say where it is" })
}
