//! The life of a change.
//!
//! A change waits until nobody else holds an inode that it touches or believes to know one that it changes
//! ([`clearing`](super::clearing)), then goes into the log. What comes back may be *not yet*: somebody took a grant in between, or a truncate was
//! too long for one command and was done in part. Then it goes round again.
//!
//! The changes of one request reach the log in their order, but for what gives back what others may wait for
//! ([`order`]). None waits for the answer of the one before,
//! unless it has to wait for a holder, or the one before may take several commands.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::maybe_done;

use super::clearing::Cleared;
use super::reign::Reign;
use super::sessions::Wanted;
use super::{order, room};
use crate::monitor::namespace::command::{Action, Outcome};
use crate::types::{Errno, Ino, SessionId};
use crate::wire::leases::{Aftermath, left_by};
use crate::wire::metadata::{Mutation, Op, Refusal, Reply};

/// Generation of the pin that comes with the creation of a file.
const CREATION: u64 = 1;

impl Reign {
    pub(super) async fn mutate(
        self: &Arc<Self>,
        session: SessionId,
        mutations: Vec<Mutation>,
    ) -> Result<(Vec<Result<Reply, Errno>>, Aftermath), Refusal> {
        self.state.lock().sessions.progressed(session, self.clock.monotonic());
        let mut answers = Vec::with_capacity(mutations.len());
        let mut left = Vec::new();
        for (place, mutation) in order::of_work(mutations) {
            let cleared = self.clear(session, &mutation.op).await?;
            // In line before the next one is looked at: tasks run in any order. Only the wait is spawned, so
            // that it goes on, and a fence falls, even if the client goes away.
            let proposed = self.propose(session, &mutation, cleared)?;
            let in_steps = goes_in_steps(&mutation.op);
            let settling = tokio::spawn(Arc::clone(self).settle(session, mutation, proposed));
            let mut settled = Box::pin(maybe_done(settling));
            if in_steps {
                settled.as_mut().await;
            }
            answers.push((place, settled));
        }
        answers.sort_unstable_by_key(|(place, _)| *place);
        let mut replies = Vec::with_capacity(answers.len());
        for (_, mut settled) in answers {
            settled.as_mut().await;
            let answer = settled.as_mut().take_output().and_then(Result::ok);
            let (reply, inos) = answer.unwrap_or(Err(Refusal::NoLeader))?;
            replies.push(reply);
            left.extend(inos);
        }
        let after = self.tell_after(session, left)?;
        Ok((replies, after))
    }

    /// Puts a change into the log, behind all that were put there before. What is given back waits until it
    /// is applied, then lets the fences fall.
    fn propose(
        self: &Arc<Self>,
        session: SessionId,
        mutation: &Mutation,
        cleared: Cleared,
    ) -> Result<impl Future<Output = Result<Outcome, Refusal>> + Send + use<>, Refusal> {
        let (removes, moves) = (cleared.removes(), cleared.moves());
        let is_full =
            room::grows(&mutation.op) && self.member.short_of_room.load(Ordering::Relaxed);
        let refused = is_full.then_some(Errno::NoSpace);
        let refused = refused.or_else(|| self.must_wait(session, &mutation.op));
        let Mutation { slot, seq, .. } = *mutation;
        let action = match self.forbidden(session, &mutation.op)?.or(refused) {
            Some(errno) => Action::Refuse { session, slot, seq, errno },
            None => Action::Mutate { session, mutation: mutation.clone(), removes, moves },
        };
        // Before anybody can see the file, and remove it.
        let created = opened_by(&mutation.op);
        created.into_iter().for_each(|ino| self.state.lock().pins.restore(session, ino, CREATION));
        let submitted = self.submit(action);
        let reign = Arc::clone(self);
        Ok(async move {
            let outcome = submitted.await;
            if let Some(ino) = created
                && !matches!(outcome, Ok(Outcome::Mutated(Ok(_))))
            {
                reign.state.lock().pins.unpin(session, ino, CREATION);
            }
            drop(cleared);
            outcome
        })
    }

    /// Waits for a change that was proposed, and proposes it again and again until it is done or refused. Gives also
    /// what it [leaves](left_by).
    async fn settle(
        self: Arc<Self>,
        session: SessionId,
        mutation: Mutation,
        proposed: impl Future<Output = Result<Outcome, Refusal>> + Send,
    ) -> Result<(Result<Reply, Errno>, Vec<Ino>), Refusal> {
        let mut outcome = proposed.await?;
        loop {
            match outcome {
                Outcome::Mutated(answer) => {
                    self.after(session, &mutation.op, answer.is_ok());
                    let left = left_by(&mutation.op, &answer);
                    return Ok((answer, left));
                }
                Outcome::Partly | Outcome::Held(_) => {}
                _ => return Err(Refusal::SessionClosed),
            }
            let cleared = self.clear(session, &mutation.op).await?;
            outcome = self.propose(session, &mutation, cleared)?.await?;
        }
    }

    /// What an applied change may set free.
    fn after(&self, session: SessionId, op: &Op, is_done: bool) {
        match op {
            Op::Lock(lock) => self.lock_tried(session, lock, is_done),
            Op::Release { ino } => self.released(session, std::iter::once(*ino)),
            Op::Commit(commit) => {
                let released = commit.pieces.iter().filter(|piece| piece.release);
                self.released(session, released.map(|piece| piece.piece.ino));
            }
            Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename(_) => self.orphaned.notify_one(),
            _ => {}
        }
    }

    /// A client has given up its exclusive grants of these.
    fn released(&self, session: SessionId, inos: impl Iterator<Item = Ino>) {
        let mut any = false;
        for ino in inos {
            self.state.lock().sessions.gave_back(session, ino, Wanted::Grant);
            any = true;
        }
        if any {
            self.changed.notify_waiters();
        }
    }
}

/// Whether a change may take several commands, which none behind it may overtake.
fn goes_in_steps(op: &Op) -> bool {
    matches!(op, Op::Truncate { .. } | Op::Punch { .. })
}

/// The file that a change creates and opens at once.
fn opened_by(op: &Op) -> Option<Ino> {
    match op {
        Op::Create(create) if create.open => Some(create.ino),
        Op::TmpFile(file) => Some(file.ino),
        _ => None,
    }
}
