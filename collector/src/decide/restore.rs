//! A decide database made from a backup.
//!
//! Knows: what a backup file holds, and how a log begins from it. Invariants: an existing database is never touched; the
//! incarnation is the second in which it is done, so the same backup restored twice gives two different ones; the other two
//! nodes begin empty and take everything from this one.

use std::path::{Path, PathBuf};

use bcp_core::replica::{Replica, RestoreFault};
use bcp_core::time::Wall;
use bcp_wire::Site;
use openraft::{CommittedLeaderId, EmptyNode, Membership};
use serde::{Deserialize, Serialize};

use super::raft::{LogId, SnapshotMeta, StoredMembership, Vote};
use super::store::{Store, StoreError};

const FORMAT: u32 = 1;
/// Term of what a restored log begins with; the first election is of the next one.
const TERM: u64 = 1;

/// What `bcpctl backup` writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Backup {
    pub format: u32,
    pub taken_at: Wall,
    pub replica: Replica,
}

impl Backup {
    #[must_use]
    pub fn of(replica: Replica, taken_at: Wall) -> Backup {
        Backup { format: FORMAT, taken_at, replica }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("failed to read {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{path} is no backup of this version", path = path.display())]
    Format {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    #[error("the backup has format {found}, this program reads {FORMAT}")]
    OtherFormat { found: u32 },
    #[error("{dir} has a decide database already: move it away first", dir = dir.display())]
    Exists { dir: PathBuf },
    #[error("this machine's clock is wrong")]
    Clock,
    #[error(transparent)]
    Fault(#[from] RestoreFault),
    #[error("failed to write the decide database")]
    Store(#[from] StoreError),
}

/// Makes the database of `site` in `dir` from a backup. Returns the incarnation that it begins.
///
/// # Errors
/// Nothing was changed, but for [`RestoreError::Store`]: then `dir` is to be emptied.
pub async fn restore(site: Site, dir: &Path, file: &Path, now: Wall) -> Result<u32, RestoreError> {
    let bytes = std::fs::read(file).map_err(|cause| RestoreError::Read { path: file.to_owned(), cause })?;
    let backup: Backup =
        serde_json::from_slice(&bytes).map_err(|cause| RestoreError::Format { path: file.to_owned(), cause })?;
    if backup.format != FORMAT {
        return Err(RestoreError::OtherFormat { found: backup.format });
    }
    if dir.join("decide.db").exists() {
        return Err(RestoreError::Exists { dir: dir.to_owned() });
    }
    let incarnation = u32::try_from(now.0 / 1_000).map_err(|_| RestoreError::Clock)?;
    let replica = backup.replica.restored(incarnation)?;
    let log_id = LogId::new(CommittedLeaderId::new(TERM, site.node_id()), replica.index);
    let members: std::collections::BTreeMap<u64, EmptyNode> =
        Site::ALL.into_iter().map(|site| (site.node_id(), EmptyNode {})).collect();
    let voters = members.keys().copied().collect();
    let membership = StoredMembership::new(Some(log_id), Membership::new(vec![voters], members));
    let snapshot_id = format!("restored-{incarnation}");
    let meta = SnapshotMeta { last_log_id: Some(log_id), last_membership: membership, snapshot_id };
    let store = Store::open(dir)?;
    store.save_snapshot(&meta, serde_json::to_vec(&replica).map_err(StoreError::Record)?).await?;
    store.keep_vote(&Vote::new(TERM, site.node_id())).await?;
    Ok(incarnation)
}
