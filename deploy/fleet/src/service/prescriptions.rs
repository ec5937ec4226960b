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

mod handshake;
mod http;
mod replicate;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bcp_wire::control::{CopyRole, ServiceFacts};
use bcp_wire::{Epoch, Site};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use self::handshake::{Handshake, Mode};
use self::http::router;
use self::replicate::{Append, Appended, replicate};
use super::journal::{self, Journal, JournalError};
use super::requests::{Label, RequestLog};
use super::{ServiceError, Start, Want};
use crate::ports::Lane;

/// A standby that has heard nothing for this long follows nobody: a dozen heartbeats.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(4);
/// Entries of one append; a standby that was away for an hour is caught up in a few.
const MAX_ENTRIES_PER_APPEND: usize = 512;
/// Body limit of an append: so many entries of full length and their JSON.
const MAX_APPEND_BYTES: usize = MAX_ENTRIES_PER_APPEND * (journal::MAX_ENTRY_BYTES * 2 + 128);
/// Numbers up to this are exact in every JSON reader.
const MAX_WISH: u64 = (1 << 53) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Active(Epoch),
    Standby,
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
