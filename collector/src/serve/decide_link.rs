//! The way to this site's decide process: what was agreed comes in, votes and sights go out.
//!
//! Tasks, cancel-safe, ended with the process: [`follow`] long-polls the agreed state and copies the ledger; three of
//! [`tell`] deliver alarm votes, service votes and sights, so that none waits for another. Neither queues: what could not be delivered is said anew from the
//! present.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bcp_core::failover::Sight;
use bcp_core::ledger::LedgerEntry;
use bcp_core::replica::{Item, Replica};
use bcp_identity::{Identity, IdentityError};
use bcp_wire::Site;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::view::LEDGER_TAIL;
use crate::Config;
use crate::ingest::link::chain;
use crate::store::ledger::{Ledger, LedgerError, MAX_PAGE};

/// The answer to a long poll comes at least this often: its age shows whether decide lives.
const POLL_WAIT_MS: u64 = 1_000;
/// A request of one of the tasks ends after this.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
/// Ledger pages copied between two polls: a new collector catches up without going blind.
const PAGES_PER_POLL: usize = 20;

/// What decide last said.
#[derive(Debug, Clone, Default)]
pub struct Agreed {
    pub replica: Option<Arc<Replica>>,
    pub leader: Option<Site>,
    pub term: u64,
    pub quorum: bool,
    /// Since each was last heard by decide, milliseconds.
    pub members: BTreeMap<Site, Option<u64>>,
    /// When it said so.
    pub heard: Option<std::time::Instant>,
    /// Why it says nothing now.
    pub trouble: Option<String>,
    /// What is wrong with the copy of the ledger.
    pub ledger_trouble: Option<String>,
    pub ledger_tail: Arc<Vec<LedgerEntry>>,
}

#[derive(Debug, Deserialize)]
struct StateAnswer {
    index: u64,
    replica: Replica,
    leader: Option<Site>,
    term: u64,
    quorum: bool,
    #[serde(default)]
    members: BTreeMap<Site, Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    #[serde(default)]
    last_contact_ms: Option<u64>,
}

/// What is to be told; the newest counts.
#[derive(Debug)]
pub enum Tell {
    /// Votes of alarms and services.
    Votes(Vec<Item>),
    Sight(BTreeMap<Site, Sight>),
}

#[derive(Debug, Serialize)]
struct SightReport<'a> {
    agents: &'a BTreeMap<Site, Sight>,
}

/// Why a request had no use.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("decide does not answer")]
    Request(#[from] reqwest::Error),
    #[error("decide answered {status}: {body}")]
    Status { status: u16, body: String },
    #[error("decide's answer is not what it should be")]
    Form(#[from] serde_json::Error),
}

/// Clients of the control listeners.
#[derive(Debug, Clone)]
pub struct Decide {
    own: (String, reqwest::Client),
    peers: Vec<(Site, String, reqwest::Client)>,
}

impl Decide {
    /// # Errors
    /// The certificate cannot be used.
    pub fn new(config: &Config) -> Result<Decide, IdentityError> {
        let client =
            |site| bcp_identity::http_client(&config.control.credentials, &Identity::Collector { site }, REQUEST_LIMIT);
        let mut peers = Vec::new();
        for (site, url) in &config.control.peers {
            peers.push((*site, url.clone(), client(*site)?));
        }
        Ok(Decide { own: (format!("https://{}", reachable(config.listen.control)), client(config.site)?), peers })
    }

    async fn ask<T: for<'a> Deserialize<'a>>(request: reqwest::RequestBuilder) -> Result<T, AskError> {
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if !status.is_success() {
            let body = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            return Err(AskError::Status { status: status.as_u16(), body });
        }
        Ok(serde_json::from_slice(&body)?)
    }

    async fn state(&self, after: u64) -> Result<StateAnswer, AskError> {
        let (url, client) = &self.own;
        Self::ask(client.get(format!("{url}/control/v1/state?after={after}&wait_ms={POLL_WAIT_MS}"))).await
    }

    async fn post<T: Serialize + Sync>(&self, path: &str, body: &T) -> Result<(), AskError> {
        let (url, client) = &self.own;
        let answer = client.post(format!("{url}{path}")).json(body).send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = answer.text().await.unwrap_or_default().chars().take(200).collect();
        Err(AskError::Status { status: status.as_u16(), body })
    }
}

/// An address that listens on all interfaces is reached by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        _ => address,
    }
}

/// Copies the agreed state and the ledger.
pub async fn follow(decide: Decide, ledger: Arc<Mutex<Ledger>>, agreed: watch::Sender<Agreed>) {
    let tail = read_tail(&ledger).await;
    agreed.send_modify(|agreed| agreed.ledger_tail = tail);
    let mut after = 0;
    loop {
        match decide.state(after).await {
            Ok(answer) => {
                after = answer.index;
                let head = answer.replica.ledger.seq;
                let copied = copy_ledger(&decide, &ledger, head).await;
                let tail = if copied.changed { Some(read_tail(&ledger).await) } else { None };
                agreed.send_modify(|agreed| {
                    agreed.replica = Some(Arc::new(answer.replica));
                    agreed.leader = answer.leader;
                    agreed.term = answer.term;
                    agreed.quorum = answer.quorum;
                    agreed.members = answer.members.into_iter().map(|(site, m)| (site, m.last_contact_ms)).collect();
                    agreed.heard = Some(std::time::Instant::now());
                    agreed.trouble = None;
                    agreed.ledger_trouble = copied.trouble;
                    if let Some(tail) = tail {
                        agreed.ledger_tail = tail;
                    }
                });
                if agreed.is_closed() {
                    return;
                }
            }
            Err(error) => {
                after = 0;
                let reason = chain(&error);
                let first = agreed.borrow().trouble.is_none();
                if first {
                    tracing::warn!("nothing agreed is seen: {reason}");
                }
                agreed.send_modify(|agreed| {
                    agreed.trouble = Some(reason);
                    agreed.quorum = false;
                });
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn read_tail(ledger: &Arc<Mutex<Ledger>>) -> Arc<Vec<LedgerEntry>> {
    let ledger = Arc::clone(ledger);
    let read = tokio::task::spawn_blocking(move || {
        ledger.lock().unwrap_or_else(PoisonError::into_inner).tail(LEDGER_TAIL).unwrap_or_default()
    });
    Arc::new(read.await.unwrap_or_default())
}

#[derive(Debug, Default)]
struct Copied {
    changed: bool,
    trouble: Option<String>,
}

/// Brings the copy up to `head`, from the own decide or, where its ledger starts later, from another one's.
async fn copy_ledger(decide: &Decide, ledger: &Arc<Mutex<Ledger>>, head: u64) -> Copied {
    let mut copied = Copied::default();
    let mut sources: Vec<(&String, &reqwest::Client)> = vec![(&decide.own.0, &decide.own.1)];
    sources.extend(decide.peers.iter().map(|(_, url, client)| (url, client)));
    let mut sources = sources.into_iter();
    let Some(mut source) = sources.next() else { return copied };
    for _ in 0..PAGES_PER_POLL {
        let have = ledger.lock().unwrap_or_else(PoisonError::into_inner).head().seq;
        if have >= head {
            return copied;
        }
        let (url, client) = source;
        let asked = client.get(format!("{url}/control/v1/ledger?after={have}&limit={MAX_PAGE}"));
        let fault = match Decide::ask::<Vec<LedgerEntry>>(asked).await {
            Ok(entries) if entries.is_empty() => None,
            Ok(entries) => match append(ledger, entries).await {
                Ok(added) if added > 0 => {
                    copied.changed = true;
                    continue;
                }
                Ok(_) => None,
                Err(error) => Some(chain(&error)),
            },
            Err(error) => Some(chain(&error)),
        };
        copied.trouble = fault.or(copied.trouble);
        match sources.next() {
            Some(next) => source = next,
            None => return copied,
        }
    }
    copied
}

async fn append(ledger: &Arc<Mutex<Ledger>>, entries: Vec<LedgerEntry>) -> Result<usize, LedgerError> {
    let ledger = Arc::clone(ledger);
    let done =
        tokio::task::spawn_blocking(move || ledger.lock().unwrap_or_else(PoisonError::into_inner).append(&entries));
    done.await.unwrap_or(Ok(0))
}

/// Delivers what is told. `failed` is raised by one for each message of votes that did not arrive.
pub async fn tell(decide: Decide, mut told: mpsc::Receiver<Tell>, failed: watch::Sender<u64>) {
    while let Some(tell) = told.recv().await {
        match tell {
            Tell::Votes(items) => {
                if let Err(error) = decide.post("/control/v1/propose", &items).await {
                    tracing::debug!(reason = chain(&error), "votes were not taken; they are said anew");
                    failed.send_modify(|count| *count += 1);
                    tokio::time::sleep(RETRY).await;
                }
            }
            Tell::Sight(agents) => {
                // Said again in a second; decide holds an old word for unknown.
                let _ = decide.post("/control/v1/sight", &SightReport { agents: &agents }).await;
            }
        }
    }
}
