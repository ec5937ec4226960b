//! From the active copy to its standby: one append at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::Epoch;
use serde::{Deserialize, Serialize};

use super::Prescriptions;
use crate::service::journal::Entry;

/// An idle active copy tells its standby that it is there.
const HEARTBEAT: Duration = Duration::from_millis(300);
/// Longest answer of the standby: a round trip over a national link and an fsync, with room.
const PEER_TIMEOUT: Duration = Duration::from_millis(800);
/// A peer that has not confirmed anything for this long counts as away.
const PEER_PATIENCE: Duration = Duration::from_millis(1_000);

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Append {
    pub(super) epoch: Epoch,
    pub(super) lineage: String,
    /// Entry that the new ones follow; the standby must have the same one.
    pub(super) after: u64,
    pub(super) after_epoch: Epoch,
    pub(super) entries: Vec<Entry>,
    /// The journal of the active copy ends here: anything more is a forked tail that was never acknowledged.
    pub(super) complete: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Appended {
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

/// The replicator of the active copy: one append at a time, at once after a write and at every heartbeat.
pub(super) async fn replicate(service: Arc<Prescriptions>, peer: String) {
    let Ok(client) = bcp_identity::plain_http().timeout(PEER_TIMEOUT).build() else {
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
