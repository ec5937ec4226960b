//! The consensus library's messages over [`Peers`].

use std::sync::Arc;
use std::time::Duration;

use bcp_wire::Site;
use bytes::Bytes;
use openraft::error::{
    Fatal, InstallSnapshotError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, SnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, EmptyNode, OptionalSend};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::link::{Call, Peers};
use super::member::Book;
use super::raft::{Snapshot, SnapshotMeta, Types, Vote};

/// Pause before the next try to reach a node that did not answer.
const BACK_OFF: Duration = Duration::from_millis(200);
/// A snapshot is the whole agreed state: some megabytes at most.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(20);

pub const APPEND: &str = "/raft/v1/append";
pub const VOTE: &str = "/raft/v1/vote";
pub const SNAPSHOT: &str = "/raft/v1/snapshot";

/// First line of a snapshot request; the data follows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub vote: Vote,
    pub meta: SnapshotMeta,
}

#[derive(Debug, Clone)]
pub struct Network {
    peers: Arc<dyn Peers>,
    book: Arc<Book>,
}

impl Network {
    pub fn new(peers: Arc<dyn Peers>, book: Arc<Book>) -> Network {
        Network { peers, book }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = ToNode;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> ToNode {
        ToNode { target, peers: Arc::clone(&self.peers), book: Arc::clone(&self.book) }
    }
}

#[derive(Debug)]
pub struct ToNode {
    target: u64,
    peers: Arc<dyn Peers>,
    book: Arc<Book>,
}

type RpcError<E> = RPCError<u64, EmptyNode, E>;

fn unreachable<E: std::error::Error>(error: impl std::error::Error + 'static) -> RpcError<E> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl ToNode {
    /// The site and the address of its member; none before that member was met.
    fn address(&self, path: &str) -> Result<(Site, String), std::io::Error> {
        let site = Site::from_node_id(self.target).ok_or_else(|| std::io::Error::other("no such node"))?;
        let query = self.book.query_to(site).ok_or_else(|| std::io::Error::other("its member was not met yet"))?;
        Ok((site, format!("{path}?{query}")))
    }

    async fn ask<T, E>(&self, path: &str, body: Vec<u8>, limit: Duration) -> Result<T, RpcError<E>>
    where
        T: DeserializeOwned,
        E: DeserializeOwned + std::error::Error,
    {
        let (site, path) = self.address(path).map_err(unreachable)?;
        let call = Call { path, body: Bytes::from(body), on_behalf: None, limit };
        let answer = self.peers.call(site, call).await.map_err(unreachable)?;
        let answer: Result<T, E> = serde_json::from_slice(&answer).map_err(unreachable)?;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }
}

impl RaftNetwork<Types> for ToNode {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError<RaftError<u64>>> {
        let body = serde_json::to_vec(&rpc).map_err(unreachable)?;
        self.ask(APPEND, body, option.hard_ttl()).await
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        // Snapshots go in one request, see `full_snapshot`.
        Err(unreachable(std::io::Error::from(std::io::ErrorKind::Unsupported)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError<RaftError<u64>>> {
        let body = serde_json::to_vec(&rpc).map_err(unreachable)?;
        self.ask(VOTE, body, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let lost = |error: &(dyn std::error::Error + 'static)| {
            StreamingError::Unreachable(Unreachable::new(&AnyError::error(error)))
        };
        let mut body = serde_json::to_vec(&SnapshotHead { vote, meta: snapshot.meta }).map_err(|error| lost(&error))?;
        body.push(b'\n');
        body.extend_from_slice(snapshot.snapshot.get_ref());
        let (site, path) = self.address(SNAPSHOT).map_err(|error| lost(&error))?;
        let call = Call { path, body: Bytes::from(body), on_behalf: None, limit: SNAPSHOT_LIMIT };
        let answer = tokio::select! {
            answer = self.peers.call(site, call) => answer.map_err(|error| lost(&error))?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let answer: Result<SnapshotResponse<u64>, Fatal<u64>> =
            serde_json::from_slice(&answer).map_err(|error| lost(&error))?;
        answer.map_err(|error| StreamingError::RemoteError(RemoteError::new(self.target, error)))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACK_OFF))
    }
}
