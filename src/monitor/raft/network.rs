//! How members reach one another: they do not yet. A group has one voter; openraft asks for the network only
//! when there are others.

use std::future::Future;

use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot, Vote};

use super::types::{Peer, TypeConfig};

type RpcError = RPCError<u64, Peer, RaftError<u64>>;

/// No way to anybody.
pub(super) struct NoNetwork;

/// No way to this member.
pub(super) struct NoRoute {
    target: u64,
    address: String,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "monitor {target} at {address} cannot be reached: this version runs groups of one monitor only"
)]
struct OneMonitorOnly {
    target: u64,
    address: String,
}

impl NoRoute {
    fn unreachable(&self) -> Unreachable {
        Unreachable::new(&OneMonitorOnly { target: self.target, address: self.address.clone() })
    }
}

impl RaftNetworkFactory<TypeConfig> for NoNetwork {
    type Network = NoRoute;

    async fn new_client(&mut self, target: u64, node: &Peer) -> NoRoute {
        NoRoute { target, address: node.address.clone() }
    }
}

impl RaftNetwork<TypeConfig> for NoRoute {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _: Vote<u64>,
        _: Snapshot<TypeConfig>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        Err(self.unreachable().into())
    }
}
