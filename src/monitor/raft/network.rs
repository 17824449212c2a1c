//! openraft's messages on our [`Transport`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot, Vote};

use super::snapshot::{self, Transfers};
use super::transport::{Transport, Unreached};
use super::types::{self, Peer, TypeConfig};
use crate::types::MonitorId;
use crate::wire::peers::{Answer, Appended, Ask};

type RpcError = RPCError<u64, Peer, RaftError<u64>>;

/// How long replication to a member that could not be reached rests.
const REST: Duration = Duration::from_millis(200);

/// The ways to all members.
pub(super) struct Network {
    /// The way to them.
    pub(super) transport: Arc<dyn Transport>,
    /// The states that are sent.
    pub(super) transfers: Arc<Transfers>,
}

/// The way to one member.
#[derive(Clone)]
pub(super) struct Route {
    transport: Arc<dyn Transport>,
    transfers: Arc<Transfers>,
    to: MonitorId,
    /// Where the group saw it.
    hint: String,
}

impl Route {
    /// See [`Transport::ask`]; a member that says it cannot answer has not answered.
    pub(super) async fn ask(&self, ask: Ask, timeout: Duration) -> Result<Answer, Unreached> {
        match self.transport.ask(self.to, &self.hint, ask, timeout).await? {
            Answer::Unable(why) => Err(Unreached(format!("monitor {}: {why}", self.to))),
            answer => Ok(answer),
        }
    }

    /// The error for an answer that belongs to another question.
    pub(super) fn nonsense(&self) -> Unreached {
        Unreached(format!("the answer of monitor {} belongs to another question", self.to))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Route;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Route {
        let hint = node.address.clone();
        Route {
            transport: Arc::clone(&self.transport),
            transfers: Arc::clone(&self.transfers),
            to: MonitorId(target),
            hint,
        }
    }
}

impl RaftNetwork<TypeConfig> for Route {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let ask = Ask::Append {
            vote: types::vote(&request.vote),
            previous: request.prev_log_id.map(types::position),
            entries: request.entries.into_iter().map(types::sent_entry).collect(),
            committed: request.leader_commit.map(types::position),
        };
        match self.ask(ask, option.hard_ttl()).await.map_err(unreachable)? {
            Answer::Appended(Appended::Done) => Ok(AppendEntriesResponse::Success),
            Answer::Appended(Appended::Conflict) => Ok(AppendEntriesResponse::Conflict),
            Answer::Appended(Appended::Newer(vote)) => {
                Ok(AppendEntriesResponse::HigherVote(types::openraft_vote(vote)))
            }
            _ => Err(RPCError::Network(NetworkError::new(&self.nonsense()))),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        let last = request.last_log_id.map(types::position);
        let ask = Ask::Vote { vote: types::vote(&request.vote), last };
        match self.ask(ask, option.hard_ttl()).await.map_err(unreachable)? {
            Answer::Voted { vote, granted, last } => Ok(VoteResponse {
                vote: types::openraft_vote(vote),
                vote_granted: granted,
                last_log_id: last.map(types::log_id),
            }),
            _ => Err(RPCError::Network(NetworkError::new(&self.nonsense()))),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let sent = snapshot::send(self.clone(), &self.transfers, types::vote(&vote), snapshot);
        tokio::select! {
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(types::openraft_vote(vote))),
                Err(error) => {
                    log::warn!("the state could not be sent to monitor {}: {error}", self.to);
                    Err(StreamingError::Unreachable(Unreachable::new(&error)))
                }
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(REST))
    }
}

fn unreachable(error: Unreached) -> RpcError {
    RPCError::Unreachable(Unreachable::new(&error))
}
