//! One question to the majority for many readers.
//!
//! Before a leader answers a question it makes sure that it leads still (ReadIndex). That takes a message to
//! every voter and back. Questions that arrive while one round is under way share the next: under load a read
//! costs far less than a message.
//!
//! A leader that has just been elected waits for the first entry of its term. If it is deposed before that entry is
//! committed, it may never be: another leader's takes its place. So nobody waits beyond the leadership that they
//! asked, or all who ask later would wait behind them for ever.

use openraft::error::{CheckIsLeaderError, RaftError as CoreError};
use openraft::{LogId, ServerState};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Core, Metrics, ProposeError, not_leader, stopped_proposal, why_stopped};

/// The term in which this member leads.
type Answer = Result<u64, ProposeError>;

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
    /// committed before the call is applied. Gives the term in which it leads.
    pub(super) async fn confirm(&self) -> Answer {
        let (answer, waiting) = oneshot::channel();
        // When the task is gone, so is the answer.
        drop(self.0.send(answer));
        waiting.await.unwrap_or_else(|_| Err(ProposeError::Stopped("it was shut down".into())))
    }
}

async fn ask(core: &Core) -> Answer {
    match core.get_read_log_id().await {
        Ok((Some(read), _)) => applied(core.metrics(), read).await,
        // A leader has the first entry of its term.
        Ok((None, _)) | Err(CoreError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
            Err(ProposeError::NotLeader { leader: None })
        }
        Err(CoreError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => Err(not_leader(to)),
        Err(CoreError::Fatal(error)) => Err(stopped_proposal(error)),
    }
}

/// Waits until that entry of a leader, the first of its term or a later one, is applied, for as long as it leads.
async fn applied(mut metrics: watch::Receiver<Metrics>, read: LogId<u64>) -> Answer {
    let term = read.leader_id.term;
    let is_applied = |now: &Metrics| now.last_applied.is_some_and(|last| last.index >= read.index);
    // What is told lags behind a little: it may be a candidate still.
    let is_over = |now: &Metrics| {
        let leads = matches!(now.state, ServerState::Candidate | ServerState::Leader);
        now.current_term > term || (now.current_term == term && !leads)
    };
    let decided = metrics
        .wait_for(|now| is_over(now) || is_applied(now) || now.running_state.is_err())
        .await
        .map(|now| (is_over(&now), is_applied(&now)));
    match decided {
        Ok((true, _)) => Err(ProposeError::NotLeader { leader: None }),
        Ok((false, true)) => Ok(term),
        Ok((false, false)) | Err(_) => Err(why_stopped(&metrics.borrow())),
    }
}
