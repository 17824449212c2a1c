//! Asking whoever leads: for those who have nothing to tell a new leader first.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{MonitorLinks, Pause, Target};
use crate::env::system::rpc::{CallError, ConnectError};
use crate::wire::metadata::{Refusal, Request, Response};
use crate::wire::{decode, encode};

/// Why monitors did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None is connected.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// The one that was asked is silent.
    #[error("the monitor does not answer: check that it is not overloaded, and its log")]
    Silent,
    /// They have not elected a leader.
    #[error("{}: check that most of them run", Refusal::NoLeader)]
    NoLeader,
    /// What was answered is no answer.
    #[error("the monitor's answer makes no sense: upgrade okapifs where it is older")]
    Garbage,
}

impl MonitorLinks {
    /// Asks whoever leads, again and again until there is an answer. A monitor that does not answer in `attempt` is
    /// left for another; while there is none to ask, or no leader, this goes on for `patience`. The answer is
    /// never `Refused(NoLeader)`.
    ///
    /// # Errors
    ///
    /// [`AskError`] when there was none in that time.
    pub async fn ask(
        &self,
        request: &Request,
        attempt: Duration,
        patience: Duration,
    ) -> Result<Response, AskError> {
        let (header, deadline) = (encode(request), Instant::now() + patience);
        let (mut targets, mut pause) = (self.target(), Pause::for_election());
        loop {
            let Some(target) = targets.borrow_and_update().clone() else {
                self.connected(deadline.saturating_duration_since(Instant::now())).await?;
                continue;
            };
            let answer = tokio::select! {
                biased;
                () = left(&mut targets, &target) => continue,
                answer = target.connection.call(header.clone(), Vec::new(), attempt) => answer,
            };
            let why = match answer {
                Ok((answer, _)) => match decode(&answer) {
                    Ok(Response::Refused(Refusal::NoLeader)) => {
                        tokio::select! {
                            () = changed(&mut targets) => {}
                            () = pause.rest() => self.refused(&target),
                        }
                        AskError::NoLeader
                    }
                    Ok(answer) => return Ok(answer),
                    Err(_) => return Err(AskError::Garbage),
                },
                Err(CallError::Timeout | CallError::Closed) => {
                    self.silent(&target);
                    AskError::Silent
                }
            };
            if Instant::now() >= deadline {
                return Err(why);
            }
        }
    }
}

/// Resolves when another is to be asked. Not when it only became known that the one that is asked leads, or leads
/// anew: the call is on its way there, and is answered, if only by a refusal. To send it twice would do it twice.
async fn left(targets: &mut watch::Receiver<Option<Target>>, asked: &Target) {
    loop {
        changed(targets).await;
        let same = |now: &Target| now.connection.is_same(&asked.connection);
        if !targets.borrow_and_update().as_ref().is_some_and(same) {
            return;
        }
    }
}

async fn changed(targets: &mut watch::Receiver<Option<Target>>) {
    if targets.changed().await.is_err() {
        // The sender is where the receiver was made: it does not go first.
        std::future::pending::<()>().await;
    }
}
