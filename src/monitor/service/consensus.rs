//! What the service needs of Raft: three questions behind a trait, so that tests can change the leader as they
//! like and when they like.

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::monitor::namespace::command::{Action, Outcome};
use crate::monitor::raft::{self, Batcher, Leadership, ProposeError, Raft};

/// The log that all monitors apply, as one of them sees it.
pub(super) trait Consensus: Send + Sync + 'static {
    /// Who leads; changes are seen in the receiver.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// See [`Raft::confirm_leadership`].
    fn confirm(&self) -> BoxFuture<'_, Result<u64, ProposeError>>;

    /// See [`Raft::group`].
    fn group(&self) -> raft::Group;

    /// See [`Batcher::submit`]: it is in line when this returns.
    fn submit(
        &self,
        term: u64,
        action: Action,
    ) -> BoxFuture<'static, Result<Outcome, ProposeError>>;
}

/// The real one.
pub(super) struct Group {
    /// The member.
    pub(super) raft: Raft,
    /// Packs what goes into its log.
    pub(super) log: Batcher,
}

impl Consensus for Group {
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.raft.leadership()
    }

    fn confirm(&self) -> BoxFuture<'_, Result<u64, ProposeError>> {
        self.raft.confirm_leadership().boxed()
    }

    fn group(&self) -> raft::Group {
        self.raft.group()
    }

    fn submit(
        &self,
        term: u64,
        action: Action,
    ) -> BoxFuture<'static, Result<Outcome, ProposeError>> {
        self.log.submit(term, action).boxed()
    }
}
