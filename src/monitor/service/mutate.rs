//! The life of a change.
//!
//! A change waits until nobody else holds an inode that it touches (the holder is asked to release it), then
//! goes into the log. What comes back may be *not yet*: somebody took a grant in between, or a truncate was
//! too long for one command and was done in part. Then it goes round again.
//!
//! The changes of one request reach the log in their order, but for what gives back what others may wait for
//! ([`order`]). None waits for the answer of the one before,
//! unless it has to wait for a holder, or the one before may take several commands.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::maybe_done;

use super::reign::{Reign, State};
use super::{order, room, unreadable};
use crate::monitor::namespace::caps;
use crate::monitor::namespace::command::{Action, Outcome, Removal};
use crate::monitor::store::StoreError;
use crate::types::{Errno, Ino, SessionId};
use crate::wire::encode;
use crate::wire::metadata::{Mutation, Notice, Op, Refusal, Reply};

/// Generation of the pin that comes with the creation of a file.
const CREATION: u64 = 1;

impl Reign {
    pub(super) async fn mutate(
        self: &Arc<Self>,
        session: SessionId,
        mutations: Vec<Mutation>,
    ) -> Result<Vec<Result<Reply, Errno>>, Refusal> {
        self.state.lock().sessions.progressed(session, self.clock.monotonic());
        let mut answers = Vec::with_capacity(mutations.len());
        for (place, mutation) in order::of_work(mutations) {
            self.wait_for_holders(session, || caps::touched_by_op(&*self.store, &mutation.op))
                .await?;
            // In line before the next one is looked at: tasks run in any order. Only the wait is spawned, so
            // that it goes on, and a fence falls, even if the client goes away.
            let proposed = self.propose(session, &mutation).await?;
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
            replies.push(answer.unwrap_or(Err(Refusal::NoLeader))?);
        }
        Ok(replies)
    }

    /// Puts a change into the log, behind all that were put there before. What is given back waits until it
    /// is applied, then lets the fence fall.
    async fn propose(
        self: &Arc<Self>,
        session: SessionId,
        mutation: &Mutation,
    ) -> Result<impl Future<Output = Result<Outcome, Refusal>> + Send + use<>, Refusal> {
        let fence = self.fence(&mutation.op).await?;
        let removes = fence.as_ref().map(|fence| fence.removal.clone());
        let is_full =
            room::grows(&mutation.op) && self.member.short_of_room.load(Ordering::Relaxed);
        let refused = is_full.then_some(Errno::NoSpace);
        let refused = refused.or_else(|| self.must_wait(session, &mutation.op));
        let Mutation { slot, seq, .. } = *mutation;
        let action = match self.forbidden(session, &mutation.op)?.or(refused) {
            Some(errno) => Action::Refuse { session, slot, seq, errno },
            None => Action::Mutate { session, mutation: mutation.clone(), removes },
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
            drop(fence);
            outcome
        })
    }

    /// Waits for a change that was proposed, and proposes it again and again until it is done or refused.
    async fn settle(
        self: Arc<Self>,
        session: SessionId,
        mutation: Mutation,
        proposed: impl Future<Output = Result<Outcome, Refusal>> + Send,
    ) -> Result<Result<Reply, Errno>, Refusal> {
        let mut outcome = proposed.await?;
        loop {
            match outcome {
                Outcome::Mutated(answer) => {
                    self.after(session, &mutation.op, answer.is_ok());
                    return Ok(answer);
                }
                Outcome::Partly => {}
                Outcome::Held(_) => {
                    self.wait_for_holders(session, || {
                        caps::touched_by_op(&*self.store, &mutation.op)
                    })
                    .await?;
                }
                _ => return Err(Refusal::SessionClosed),
            }
            outcome = self.propose(session, &mutation).await?.await?;
        }
    }

    /// What an applied change may set free.
    fn after(&self, session: SessionId, op: &Op, is_done: bool) {
        match op {
            Op::Lock(lock) => self.lock_tried(session, lock, is_done),
            Op::Release { .. } => self.changed.notify_waiters(),
            Op::Commit(commit) if commit.pieces.iter().any(|piece| piece.release) => {
                self.changed.notify_waiters();
            }
            Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename(_) => self.orphaned.notify_one(),
            _ => {}
        }
    }

    /// For a change that removes a name: which inode has it, and who has that open. Nobody new can open it
    /// until the fence falls. Waits while clients may have inodes open that this leader does not know of.
    async fn fence(self: &Arc<Self>, op: &Op) -> Result<Option<Fence>, Refusal> {
        if !caps::may_remove_name(op) {
            return Ok(None);
        }
        self.wait_until(|| Ok((!self.state.lock().sessions.in_grace()).then_some(()))).await?;
        let Some(ino) = caps::removed_by_op(&*self.store, op).map_err(unreadable)? else {
            return Ok(None);
        };
        let pinned_by = self.state.lock().pins.fence(ino);
        let removal = Removal { ino, pinned_by };
        Ok(Some(Fence { reign: Arc::clone(self), removal }))
    }

    /// Returns when no other session holds the exclusive grant of any of the inodes that `touched` names
    /// (names may move while this waits, so it is asked again each time).
    pub(super) async fn wait_for_holders(
        &self,
        session: SessionId,
        touched: impl Fn() -> Result<Vec<Ino>, StoreError>,
    ) -> Result<(), Refusal> {
        let mut waiting = Waiting { reign: self, recalled: Vec::new() };
        self.wait_until(|| {
            let inos = touched().map_err(unreadable)?;
            let held = caps::held_by_others(&*self.store, session, &inos).map_err(unreadable)?;
            let is_free = held.is_empty();
            waiting.recall(held);
            Ok(is_free.then_some(()))
        })
        .await
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
        _ => None,
    }
}

/// Nobody opens the inode while this lives.
struct Fence {
    reign: Arc<Reign>,
    removal: Removal,
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.reign.state.lock().pins.unfence(self.removal.ino);
        self.reign.changed.notify_waiters();
    }
}

/// A call that waits for holders. However its wait ends, they are not blamed for it any longer.
struct Waiting<'a> {
    reign: &'a Reign,
    recalled: Vec<(Ino, SessionId)>,
}

impl Waiting<'_> {
    /// Asks these holders, and no longer those before, to release.
    fn recall(&mut self, held: Vec<(Ino, SessionId)>) {
        if held.is_empty() && self.recalled.is_empty() {
            return;
        }
        let now = self.reign.clock.monotonic();
        let mut guard = self.reign.state.lock();
        let State { sessions, callers, .. } = &mut *guard;
        for &(ino, holder) in self.recalled.iter().filter(|gone| !held.contains(gone)) {
            sessions.settled(holder, ino);
        }
        for &(ino, holder) in held.iter().filter(|new| !self.recalled.contains(new)) {
            sessions.recalled(holder, ino, now);
        }
        for &(ino, holder) in &held {
            if let Some(caller) = callers.get(&holder)
                && sessions.wants_notice(holder, ino, now)
            {
                caller.notify(encode(&Notice::Recall(vec![ino])));
            }
        }
        self.recalled = held;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.recall(Vec::new());
    }
}
