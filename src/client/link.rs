//! What the client needs of the network: two small traits, so that tests can stand in for it.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::types::{Epoch, Incarnation, PlacementMap, ServerId, ShardHash};
use crate::wire::metadata::{Request, Response};
use crate::wire::shards::{Refusal, ShardId};

/// The monitors, whichever of them answers.
pub(crate) trait Monitors: Send + Sync + 'static {
    /// Asks until there is an answer: waits while no monitor can be reached or none leads, and asks again when
    /// a connection broke (so a request may arrive twice). Never answers `Refused(NoLeader)`.
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response>;

    /// The cluster's incarnation, as it was when a monitor last answered.
    fn incarnation(&self) -> Incarnation;
}

/// The storage servers.
pub(crate) trait Shards: Send + Sync + 'static {
    /// Stores a shard; `image` is its head and data. Resolves when the shard would survive a power cut.
    fn put(
        &self,
        server: ServerId,
        shard: ShardId,
        image: Vec<Bytes>,
    ) -> BoxFuture<'static, Result<(ShardHash, Epoch), ShardError>>;

    /// Reads `count` blocks from block `first` on; the blocks and their checksums, unverified.
    fn get(
        &self,
        server: ServerId,
        shard: ShardId,
        first: u32,
        count: u32,
    ) -> BoxFuture<'static, Result<(Vec<u32>, Bytes), ShardError>>;

    /// Whether the server answers.
    fn ping(&self, server: ServerId) -> BoxFuture<'static, Result<(), ShardError>>;

    /// Where the servers are now.
    fn update(&self, placement: &PlacementMap);
}

/// Why a server did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ShardError {
    /// It cannot be reached, or the connection broke.
    #[error("the server cannot be reached")]
    Unreachable,
    /// It did not answer in time.
    #[error("the server does not answer")]
    Silent,
    /// It said no.
    #[error("{0}")]
    Refused(Refusal),
    /// What it said makes no sense, or is not what was written.
    #[error("what the server sent is not what was written")]
    Damaged,
}
