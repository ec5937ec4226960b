//! `prescriptions`: active-passive, no acknowledged write is ever lost to a move.
//!
//! Knows: its journal, whether it is active or standby, how far its peer is.
//! Refuses to know: leases and votes; its gate starts and stops it.
//! Tasks: the server; on the active copy one replicator. Both end with the process.
//! Invariants: a standby acknowledges nothing; an active copy acknowledges a write only after its peer has it on disk,
//! or after the log has latched "not in sync" (told by the gate on `/sync`); a peer that knows a higher epoch ends this
//! copy's activity at once.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | 200 `active`, or 503 `standby` |
//! | `GET /copy` | 200 `ok ...` from an active copy and from a standby that follows one; for the checks of a site |
//! | `GET /facts` | `ServiceFacts` for the gate |
//! | `POST /sync` | from the gate: what the log has latched, `{"peer_in_sync":false,"epoch":"1.3","wish":77}`; 409: not taken |
//! | `GET /` | a page of the service; 503 on a standby |
//! | `POST /write` | text in, `{"position":7,"epoch":"1.3"}` once it is safe, else 503 |
//! | `GET /entry?position=7` | one entry, on any copy |
//! | `POST /replica/append` | from the active copy |

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bcp_wire::control::{CopyRole, ServiceFacts};
use bcp_wire::{Epoch, Site};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::journal::{self, Entry, Journal, JournalError};
use super::requests::{self, Label, RequestLog};
use super::{ServiceError, Start, Want};
use crate::ports::Lane;

/// An idle active copy tells its standby that it is there.
const HEARTBEAT: Duration = Duration::from_millis(300);
/// Longest answer of the standby: a round trip over a national link and an fsync, with room.
const PEER_TIMEOUT: Duration = Duration::from_millis(800);
/// A peer that has not confirmed anything for this long counts as away.
const PEER_PATIENCE: Duration = Duration::from_millis(1_000);
/// A write that is not safe by then is answered "not acknowledged".
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// A standby that has heard nothing for this long follows nobody: a dozen heartbeats.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(4);
/// Entries of one append; a standby that was away for an hour is caught up in a few.
const MAX_ENTRIES_PER_APPEND: usize = 512;
/// Body limit of an append: so many entries of full length and their JSON.
const MAX_APPEND_BYTES: usize = MAX_ENTRIES_PER_APPEND * (journal::MAX_ENTRY_BYTES * 2 + 128);
/// Numbers up to this are exact in every JSON reader.
const MAX_WISH: u64 = (1 << 53) - 1;

/// What the active copy may acknowledge on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The peer must have it. Also while the log has not yet agreed to anything else.
    Synchronous,
    /// The log has latched that the peer is behind.
    Alone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Active(Epoch),
    Standby,
}

/// Decides what a copy may say; no I/O, no clock of its own.
#[derive(Debug)]
struct Handshake {
    mode: Mode,
    /// The standby has all of the journal, and synchronous mode is on.
    peer_in_sync: bool,
    /// The number of its wish to go on alone, while it has one. Random, so that no word to an earlier life grants it.
    wish: Option<u64>,
}

impl Handshake {
    const fn new() -> Handshake {
        Handshake { mode: Mode::Synchronous, peer_in_sync: false, wish: None }
    }

    /// The peer confirmed everything there is: from now on nothing is acknowledged without it.
    fn peer_caught_up(&mut self) {
        *self = Handshake { mode: Mode::Synchronous, peer_in_sync: true, wish: None };
    }

    /// The peer confirmed something, but has not all of it.
    fn peer_behind(&mut self) {
        if self.mode == Mode::Alone {
            self.peer_in_sync = false;
        }
    }

    /// `number` becomes the wish's, if this begins one.
    fn peer_away(&mut self, number: u64) {
        self.peer_in_sync = false;
        if self.mode == Mode::Synchronous {
            self.wish.get_or_insert(number);
        }
    }

    /// The gate says that the log has latched "not in sync" in answer to the wish of this number.
    fn granted(&mut self, wish: u64) {
        if self.wish == Some(wish) {
            *self = Handshake { mode: Mode::Alone, peer_in_sync: false, wish: None };
        }
    }
}

#[derive(Debug)]
struct Copy {
    role: Role,
    lineage: String,
    journal: Journal,
    handshake: Handshake,
    /// When the active copy was last heard by a standby.
    heard_active: Option<Instant>,
}

/// What may be acknowledged, for the writes that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Safe {
    active: bool,
    /// Everything up to here is at the peer.
    peer_position: u64,
    alone: bool,
}

#[derive(Debug)]
struct Prescriptions {
    site: Site,
    directory: PathBuf,
    copy: Mutex<Copy>,
    safe: watch::Sender<Safe>,
    written: Notify,
    log: RequestLog,
}

#[derive(Debug, Serialize, Deserialize)]
struct Append {
    epoch: Epoch,
    lineage: String,
    /// Entry that the new ones follow; the standby must have the same one.
    after: u64,
    after_epoch: Epoch,
    entries: Vec<Entry>,
    /// The journal of the active copy ends here: anything more is a forked tail that was never acknowledged.
    complete: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Appended {
    Taken {
        position: u64,
    },
    /// Start again from here.
    Behind {
        position: u64,
    },
    /// A higher epoch is known here, or the histories differ.
    Refused {
        seen: Epoch,
        reason: String,
    },
}

impl Label for Prescriptions {
    fn label(&self) -> String {
        match self.lock().role {
            Role::Active(epoch) => format!("active {} {epoch}", self.site),
            Role::Standby => format!("standby {} -", self.site),
        }
    }
    fn requests(&self) -> &RequestLog {
        &self.log
    }
}

impl Prescriptions {
    fn open(start: &Start) -> Result<Prescriptions, ServiceError> {
        let directory = start.service.directory(&start.data_dir, start.site);
        let seen = journal::raise(&directory, start.epoch)?;
        let role = match start.want {
            Want::Active if seen > start.epoch => {
                return Err(ServiceError::Superseded { asked: start.epoch, seen });
            }
            Want::Active => Role::Active(start.epoch),
            Want::Standby => Role::Standby,
            Want::Stopped => return Err(ServiceError::NothingToRun),
        };
        let lineage = journal::update(&directory, |record| record.lineage.clone())?;
        let copy = Copy {
            role,
            lineage,
            journal: Journal::open(&directory)?,
            handshake: Handshake::new(),
            heard_active: None,
        };
        let safe = Safe { active: matches!(role, Role::Active(_)), peer_position: 0, alone: false };
        Ok(Prescriptions {
            site: start.site,
            log: RequestLog::new(&directory),
            directory,
            copy: Mutex::new(copy),
            safe: watch::channel(safe).0,
            written: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Copy> {
        // A panic while holding the lock leaves a copy that is consistent on disk; going on is safe.
        self.copy.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Safe)) {
        self.safe.send_if_modified(|safe| {
            let before = *safe;
            change(safe);
            before != *safe
        });
    }

    fn facts(&self) -> ServiceFacts {
        let copy = self.lock();
        ServiceFacts {
            lineage: copy.lineage.clone(),
            position: copy.journal.position(),
            role: match copy.role {
                Role::Active(_) => CopyRole::Active,
                Role::Standby => CopyRole::Standby,
            },
            peer_in_sync: copy.handshake.peer_in_sync,
            wants_alone: copy.handshake.wish.is_some(),
            wish: copy.handshake.wish.unwrap_or(0),
        }
    }

    fn write(&self, text: String) -> Result<(u64, Epoch), WriteRefused> {
        let mut copy = self.lock();
        let Role::Active(epoch) = copy.role else { return Err(WriteRefused::Standby) };
        let position = copy.journal.append([(epoch, text)]).map_err(WriteRefused::Journal)?;
        drop(copy);
        self.written.notify_one();
        Ok((position, epoch))
    }

    /// A standby takes entries from the active copy.
    fn append(&self, append: &Append) -> Result<Appended, JournalError> {
        let mut copy = self.lock();
        let refused = |seen, reason: &str| Ok(Appended::Refused { seen, reason: reason.to_owned() });
        let seen = journal::raise(&self.directory, append.epoch)?;
        if seen > append.epoch {
            return refused(seen, "a higher epoch is known here");
        }
        match copy.role {
            Role::Active(own) if own >= append.epoch => return refused(own, "this copy is active"),
            // Somebody was promoted after us: step down before anything else.
            Role::Active(_) => {
                copy.role = Role::Standby;
                self.tell(|safe| safe.active = false);
            }
            Role::Standby => {}
        }
        if copy.lineage != append.lineage {
            if copy.journal.position() > 0 {
                return refused(seen, "the histories differ: a person must choose one");
            }
            journal::update(&self.directory, |record| record.lineage.clone_from(&append.lineage))?;
            copy.lineage.clone_from(&append.lineage);
        }
        copy.heard_active = Some(Instant::now());
        if copy.journal.epoch_at(append.after) != Some(append.after_epoch) {
            // Both copies agree at 0, so this ends.
            let position = copy.journal.position().min(append.after.saturating_sub(1));
            return Ok(Appended::Behind { position });
        }
        let same = append.entries.iter().take_while(|entry| copy.journal.get(entry.position) == Some(entry)).count();
        let new = &append.entries[same..];
        let kept = append.after + same as u64;
        if kept < copy.journal.position() && (!new.is_empty() || append.complete) {
            copy.journal.keep(kept)?;
        }
        if !new.is_empty() {
            copy.journal.append(new.iter().map(|entry| (entry.epoch, entry.text.clone())))?;
        }
        Ok(Appended::Taken { position: append.after + append.entries.len() as u64 })
    }

    /// The next entries for a peer that has everything up to `peer`.
    fn next_append(&self, peer: u64) -> Option<Append> {
        let copy = self.lock();
        let Role::Active(epoch) = copy.role else { return None };
        let after = peer.min(copy.journal.position());
        let entries = copy.journal.after(after, MAX_ENTRIES_PER_APPEND);
        Some(Append {
            epoch,
            lineage: copy.lineage.clone(),
            after,
            after_epoch: copy.journal.epoch_at(after)?,
            complete: after + entries.len() as u64 == copy.journal.position(),
            entries,
        })
    }

    fn peer_confirmed(&self, position: u64) {
        let mut copy = self.lock();
        if position >= copy.journal.position() {
            copy.handshake.peer_caught_up();
        } else {
            copy.handshake.peer_behind();
        }
        let alone = copy.handshake.mode == Mode::Alone;
        self.tell(|safe| (safe.peer_position, safe.alone) = (safe.peer_position.max(position), alone));
    }

    fn peer_away(&self) {
        self.lock().handshake.peer_away(rand::random_range(1..=MAX_WISH));
    }

    fn superseded(&self, seen: Epoch, reason: &str) {
        let mut copy = self.lock();
        if let Role::Active(own) = copy.role
            && seen > own
        {
            tracing::warn!(%own, %seen, reason, "this copy steps down");
            copy.role = Role::Standby;
            self.tell(|safe| safe.active = false);
        }
    }
}

#[derive(Debug)]
enum WriteRefused {
    Standby,
    Journal(JournalError),
}

/// Serves until SIGTERM.
///
/// # Errors
/// The epoch is superseded, the journal cannot be opened, or the server failed.
pub async fn run(listener: TcpListener, start: &Start) -> Result<(), ServiceError> {
    let service = Arc::new(Prescriptions::open(start)?);
    let peer = match start.site {
        Site::A => Some(Site::B),
        Site::B => Some(Site::A),
        Site::W => None,
    };
    if let Some(peer) = peer {
        let url = format!("http://127.0.0.1:{}", start.base.link(start.site, peer, Lane::Prescriptions));
        tokio::spawn(replicate(Arc::clone(&service), url));
    }
    axum::serve(listener, router(service))
        .with_graceful_shutdown(crate::signals::stop())
        .await
        .map_err(ServiceError::Serve)
}

fn router(service: Arc<Prescriptions>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/copy", get(copy_state))
        .route("/facts", get(|State(service): State<Arc<Prescriptions>>| async move { Json(service.facts()) }))
        .route("/sync", post(sync))
        .route("/write", post(write).layer(DefaultBodyLimit::max(journal::MAX_ENTRY_BYTES)))
        .route("/entry", get(entry))
        .route("/replica/append", post(append).layer(DefaultBodyLimit::max(MAX_APPEND_BYTES)))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&service), requests::log::<Prescriptions>))
        .with_state(service)
}

/// The replicator of the active copy: one append at a time, at once after a write and at every heartbeat.
async fn replicate(service: Arc<Prescriptions>, peer: String) {
    let Ok(client) = reqwest::Client::builder().timeout(PEER_TIMEOUT).no_proxy().build() else {
        tracing::error!("no HTTP client: writes will not be acknowledged");
        return;
    };
    let mut peer_position = service.lock().journal.position();
    let mut last_heard = Instant::now();
    loop {
        let Some(append) = service.next_append(peer_position) else {
            // A standby has nothing to send; it becomes active by a new process only.
            tokio::time::sleep(HEARTBEAT).await;
            continue;
        };
        let more = !append.complete;
        match send(&client, &peer, &append).await {
            Some(Appended::Taken { position }) => {
                (peer_position, last_heard) = (position, Instant::now());
                service.peer_confirmed(position);
                if more {
                    continue;
                }
            }
            Some(Appended::Behind { position }) => {
                (peer_position, last_heard) = (position, Instant::now());
                continue;
            }
            Some(Appended::Refused { seen, reason }) => {
                service.superseded(seen, &reason);
                service.peer_away();
                tokio::time::sleep(HEARTBEAT).await;
            }
            None => {
                if last_heard.elapsed() >= PEER_PATIENCE {
                    service.peer_away();
                }
                tokio::time::sleep(HEARTBEAT / 3).await;
            }
        }
        let _ = tokio::time::timeout(HEARTBEAT, service.written.notified()).await;
    }
}

async fn send(client: &reqwest::Client, peer: &str, append: &Append) -> Option<Appended> {
    let answer = client.post(format!("{peer}/replica/append")).json(append).send().await.ok()?;
    answer.error_for_status().ok()?.json().await.ok()
}

async fn health(State(service): State<Arc<Prescriptions>>) -> (StatusCode, &'static str) {
    match service.lock().role {
        Role::Active(_) => (StatusCode::OK, "active"),
        Role::Standby => (StatusCode::SERVICE_UNAVAILABLE, "standby"),
    }
}

async fn copy_state(State(service): State<Arc<Prescriptions>>) -> (StatusCode, &'static str) {
    let copy = service.lock();
    let follows = copy.heard_active.is_some_and(|heard| heard.elapsed() < FOLLOWS_WITHIN);
    match (copy.role, follows) {
        (Role::Active(_), _) => (StatusCode::OK, "ok active"),
        (Role::Standby, true) => (StatusCode::OK, "ok standby"),
        (Role::Standby, false) => (StatusCode::SERVICE_UNAVAILABLE, "standby, and follows no active copy"),
    }
}

async fn page(State(service): State<Arc<Prescriptions>>) -> (StatusCode, String) {
    let copy = service.lock();
    let (site, position) = (service.site, copy.journal.position());
    match copy.role {
        Role::Active(epoch) => {
            (StatusCode::OK, format!("prescriptions at site {site}, epoch {epoch}, {position} entries\n"))
        }
        Role::Standby => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("prescriptions: site {site} is standby, {position} entries\n"))
        }
    }
}

#[derive(Debug, Deserialize)]
struct Latched {
    peer_in_sync: bool,
    epoch: Epoch,
    #[serde(default)]
    wish: u64,
}

async fn sync(State(service): State<Arc<Prescriptions>>, Json(latched): Json<Latched>) -> StatusCode {
    let mut copy = service.lock();
    if copy.role != Role::Active(latched.epoch) {
        return StatusCode::CONFLICT;
    }
    if !latched.peer_in_sync {
        copy.handshake.granted(latched.wish);
    }
    let alone = copy.handshake.mode == Mode::Alone;
    service.tell(|safe| safe.alone = alone);
    // Not taken: it grants a wish that this copy no longer has.
    if alone || latched.peer_in_sync { StatusCode::NO_CONTENT } else { StatusCode::CONFLICT }
}

#[derive(Debug, Serialize)]
struct Written {
    position: u64,
    epoch: Epoch,
}

async fn write(State(service): State<Arc<Prescriptions>>, text: String) -> Response {
    let mut safe = service.safe.subscribe();
    let (position, epoch) = match service.write(text) {
        Ok(written) => written,
        Err(WriteRefused::Standby) => {
            return (StatusCode::SERVICE_UNAVAILABLE, "standby: writes go to the other site\n").into_response();
        }
        Err(WriteRefused::Journal(fault)) => {
            return (StatusCode::INSUFFICIENT_STORAGE, format!("{fault}\n")).into_response();
        }
    };
    let is_safe = safe.wait_for(|safe| !safe.active || safe.alone || safe.peer_position >= position);
    match tokio::time::timeout(WRITE_TIMEOUT, is_safe).await {
        Ok(Ok(now)) if now.active => Json(Written { position, epoch }).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not acknowledged: the other site does not have it\n").into_response(),
    }
}

#[derive(Debug, Deserialize)]
struct Which {
    position: u64,
}

async fn entry(State(service): State<Arc<Prescriptions>>, Query(which): Query<Which>) -> Response {
    match service.lock().journal.get(which.position) {
        Some(entry) => Json(entry.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, "no such entry\n").into_response(),
    }
}

async fn append(State(service): State<Arc<Prescriptions>>, Json(append): Json<Append>) -> Response {
    match service.append(&append) {
        Ok(answer) => Json(answer).into_response(),
        Err(fault) => (StatusCode::INSUFFICIENT_STORAGE, format!("{fault}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Service;

    fn epoch(counter: u64) -> Epoch {
        Epoch { incarnation: 1, counter }
    }

    /// A copy in a directory of its own.
    struct Place {
        data_dir: PathBuf,
    }

    impl Place {
        fn new(name: &str) -> Place {
            crate::install_crypto();
            let data_dir = std::env::temp_dir().join(format!("bcp-fleet-rx-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&data_dir);
            for site in [Site::A, Site::B] {
                let directory = Service::Prescriptions.directory(&data_dir, site);
                journal::update(&directory, |record| "seed".clone_into(&mut record.lineage)).unwrap();
            }
            Place { data_dir }
        }

        fn start(&self, site: Site, want: Want, counter: u64) -> Start {
            Start {
                service: Service::Prescriptions,
                site,
                base: "27000".parse().unwrap(),
                data_dir: self.data_dir.clone(),
                want,
                epoch: epoch(counter),
            }
        }

        fn open(&self, site: Site, want: Want, counter: u64) -> Arc<Prescriptions> {
            Arc::new(Prescriptions::open(&self.start(site, want, counter)).unwrap())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.data_dir);
        }
    }

    async fn served(service: &Arc<Prescriptions>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = router(Arc::clone(service));
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn put(url: &str, text: &str) -> StatusCode {
        let answer = reqwest::Client::new().post(format!("{url}/write")).body(text.to_owned()).send().await.unwrap();
        StatusCode::from_u16(answer.status().as_u16()).unwrap()
    }

    #[tokio::test]
    async fn a_write_is_acknowledged_only_when_the_standby_has_it() {
        let place = Place::new("sync");
        let (active, standby) = (place.open(Site::A, Want::Active, 1), place.open(Site::B, Want::Standby, 0));
        let (active_url, standby_url) = (served(&active).await, served(&standby).await);
        tokio::spawn(replicate(Arc::clone(&active), standby_url.clone()));
        assert_eq!(put(&active_url, "one").await, StatusCode::OK);
        assert_eq!(standby.lock().journal.get(1).unwrap().text, "one");
        assert_eq!(put(&standby_url, "no").await, StatusCode::SERVICE_UNAVAILABLE);
        wait_for("in sync", || active.facts().peer_in_sync).await;
        assert_eq!(standby.facts().role, CopyRole::Standby);
    }

    #[tokio::test]
    async fn without_its_peer_it_waits_until_the_log_has_latched_it() {
        let place = Place::new("alone");
        let active = place.open(Site::A, Want::Active, 3);
        let url = served(&active).await;
        tokio::spawn(replicate(Arc::clone(&active), "http://127.0.0.1:1".to_owned()));
        let writing = {
            let url = url.clone();
            tokio::spawn(async move { put(&url, "alone").await })
        };
        let client = reqwest::Client::new();
        wait_for("it asks", || active.facts().wants_alone).await;
        let say = |counter: u64, wish: u64| {
            client
                .post(format!("{url}/sync"))
                .json(&serde_json::json!({"peer_in_sync": false, "epoch": epoch(counter), "wish": wish}))
                .send()
        };
        let wish = active.facts().wish;
        assert_eq!(say(2, wish).await.unwrap().status().as_u16(), 409, "another epoch's word counts for nothing");
        assert_eq!(say(3, wish ^ 1).await.unwrap().status().as_u16(), 409, "so does a word to another wish");
        assert!(!writing.is_finished());
        assert_eq!(say(3, wish).await.unwrap().status().as_u16(), 204);
        assert_eq!(writing.await.unwrap(), StatusCode::OK);
        assert!(!active.facts().peer_in_sync);
        // The peer comes back and is caught up: nothing is acknowledged alone any more.
        let standby = place.open(Site::B, Want::Standby, 0);
        let standby_url = served(&standby).await;
        tokio::spawn(replicate(Arc::clone(&active), standby_url));
        wait_for("caught up", || active.facts().peer_in_sync).await;
        assert_eq!(standby.lock().journal.position(), 1);
        assert_eq!(active.lock().handshake.mode, Mode::Synchronous);
    }

    #[test]
    fn a_word_to_an_earlier_wish_is_not_believed() {
        let mut handshake = Handshake::new();
        handshake.peer_away(1);
        handshake.peer_away(2);
        assert_eq!(handshake.wish, Some(1), "one wish until it ends");
        handshake.peer_caught_up();
        handshake.granted(1);
        assert_eq!(handshake.mode, Mode::Synchronous, "the wish is gone");
        handshake.peer_away(3);
        handshake.granted(1);
        assert_eq!(handshake.mode, Mode::Synchronous);
        handshake.granted(3);
        assert_eq!(handshake.mode, Mode::Alone);
    }

    #[tokio::test]
    async fn an_old_active_copy_steps_down_and_its_unacknowledged_tail_is_replaced() {
        let place = Place::new("fork");
        let old = place.open(Site::A, Want::Active, 1);
        old.write("common".to_owned()).unwrap();
        let standby = place.open(Site::B, Want::Standby, 0);
        let appended = standby.append(&old.next_append(0).unwrap()).unwrap();
        assert!(matches!(appended, Appended::Taken { position: 1 }));
        old.write("never acknowledged".to_owned()).unwrap();
        drop(standby);
        let new = place.open(Site::B, Want::Active, 2);
        new.write("first of the new side".to_owned()).unwrap();
        let refused = new.append(&old.next_append(1).unwrap()).unwrap();
        assert!(matches!(refused, Appended::Refused { seen, .. } if seen == epoch(2)));
        let old_url = served(&old).await;
        tokio::spawn(replicate(Arc::clone(&new), old_url));
        wait_for("old follows", || new.facts().peer_in_sync).await;
        assert_eq!(old.facts().role, CopyRole::Standby);
        assert_eq!(old.lock().journal.get(2).unwrap().text, "first of the new side");
        assert!(old.write("late".to_owned()).is_err());
        drop(old);
        let again = Prescriptions::open(&place.start(Site::A, Want::Active, 1));
        assert!(matches!(again, Err(ServiceError::Superseded { .. })));
    }

    #[test]
    fn another_history_is_not_overwritten() {
        let place = Place::new("lineage");
        let standby = place.open(Site::B, Want::Standby, 0);
        let active = place.open(Site::A, Want::Active, 1);
        active.write("one".to_owned()).unwrap();
        standby.append(&active.next_append(0).unwrap()).unwrap();
        "other".clone_into(&mut active.lock().lineage);
        let answer = standby.append(&active.next_append(1).unwrap()).unwrap();
        assert!(matches!(answer, Appended::Refused { .. }));
    }
}
