//! One question to the majority for many readers.
//!
//! Before a leader answers a question it makes sure that it leads still (ReadIndex). That takes a message to
//! every voter and back. Questions that arrive while one round is under way share the next: under load a read
//! costs far less than a message.

use openraft::error::{CheckIsLeaderError, RaftError as CoreError};
use tokio::sync::{mpsc, oneshot};

use super::{Core, ProposeError, not_leader, stopped_proposal};

type Answer = Result<(), ProposeError>;

/// The queue of those who want to know. Ends with its last clone.
#[derive(Clone)]
pub(super) struct Confirm(mpsc::UnboundedSender<oneshot::Sender<Answer>>);

impl Confirm {
    /// Starts asking for `core`. Needs a tokio runtime.
    pub(super) fn start(core: Core) -> Self {
        let (queue, mut waiting) = mpsc::unbounded_channel::<oneshot::Sender<Answer>>();
        drop(tokio::spawn(async move {
            while let Some(first) = waiting.recv().await {
                let mut round = vec![first];
                while let Ok(another) = waiting.try_recv() {
                    round.push(another);
                }
                let answer = ask(&core).await;
                for waiting in round {
                    // Who has gone does not want to know any more.
                    drop(waiting.send(answer.clone()));
                }
            }
        }));
        Self(queue)
    }

    /// Resolves when a majority has confirmed, after the call, that this member leads, and all that was
    /// committed before the call is applied.
    pub(super) async fn confirm(&self) -> Answer {
        let (answer, waiting) = oneshot::channel();
        // When the task is gone, so is the answer.
        drop(self.0.send(answer));
        waiting.await.unwrap_or_else(|_| Err(ProposeError::Stopped("it was shut down".into())))
    }
}

async fn ask(core: &Core) -> Answer {
    match core.ensure_linearizable().await {
        Ok(_) => Ok(()),
        Err(CoreError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => Err(not_leader(to)),
        Err(CoreError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
            Err(ProposeError::NotLeader { leader: None })
        }
        Err(CoreError::Fatal(error)) => Err(stopped_proposal(error)),
    }
}
