//! The life of a change.
//!
//! A change waits until nobody else holds an inode that it touches (the holder is asked to release it), then
//! goes into the log. What comes back may be *not yet*: somebody took a grant in between, or a truncate was
//! too long for one command and was done in part. Then it goes round again.
//!
//! The changes of one request reach the log in their order. None waits for the answer of the one before,
//! unless it has to wait for a holder.

use std::sync::Arc;

use futures::future::join_all;

use super::{Monitor, unreadable};
use crate::monitor::namespace::caps;
use crate::monitor::namespace::command::{Action, Outcome, Removal};
use crate::types::{Errno, Ino, SessionId};
use crate::wire::encode;
use crate::wire::metadata::{Mutation, Notice, Op, Refusal, Reply};

impl Monitor {
    pub(super) async fn mutate(
        self: &Arc<Self>,
        session: SessionId,
        mutations: Vec<Mutation>,
    ) -> Result<Vec<Result<Reply, Errno>>, Refusal> {
        self.state.lock().sessions.progressed(session, self.clock.monotonic());
        let mut answers = Vec::with_capacity(mutations.len());
        for mutation in mutations {
            self.wait_for_holders(session, || caps::touched_by_op(&*self.store, &mutation.op))
                .await?;
            // Spawned, so that it is on its way before the next one is looked at, and so that a fence falls
            // even if the client goes away.
            answers.push(tokio::spawn(Arc::clone(self).settle(session, mutation)));
        }
        join_all(answers)
            .await
            .into_iter()
            .map(|answer| answer.unwrap_or(Err(Refusal::NoLeader)))
            .collect()
    }

    /// Puts a change into the log, again and again until it is done or refused.
    async fn settle(
        self: Arc<Self>,
        session: SessionId,
        mutation: Mutation,
    ) -> Result<Result<Reply, Errno>, Refusal> {
        loop {
            let removes = self.fence(&mutation.op).await?;
            let fenced = removes.as_ref().map(|removal| removal.ino);
            let action = Action::Mutate { session, mutation: mutation.clone(), removes };
            let outcome = self.submit(action).await;
            if let Some(ino) = fenced {
                self.state.lock().pins.unfence(ino);
                self.changed.notify_waiters();
            }
            match outcome? {
                Outcome::Mutated(answer) => {
                    self.after(&mutation.op);
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
        }
    }

    /// What an applied change may set free.
    fn after(&self, op: &Op) {
        match op {
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
    async fn fence(&self, op: &Op) -> Result<Option<Removal>, Refusal> {
        if !caps::may_remove_name(op) {
            return Ok(None);
        }
        self.wait_until(|| Ok((!self.state.lock().sessions.in_grace()).then_some(()))).await?;
        let Some(ino) = caps::removed_by_op(&*self.store, op).map_err(unreadable)? else {
            return Ok(None);
        };
        let pinned_by = self.state.lock().pins.fence(ino);
        Ok(Some(Removal { ino, pinned_by }))
    }

    /// Returns when no other session holds the exclusive grant of any of the inodes that `touched` names
    /// (names may move while this waits, so it is asked again each time).
    pub(super) async fn wait_for_holders(
        &self,
        session: SessionId,
        touched: impl Fn() -> Result<Vec<Ino>, crate::monitor::store::StoreError>,
    ) -> Result<(), Refusal> {
        let mut asked = Vec::new();
        self.wait_until(|| {
            let inos = touched().map_err(unreadable)?;
            let held = caps::held_by_others(&*self.store, session, &inos).map_err(unreadable)?;
            asked.extend(held.iter().map(|(_, holder)| *holder));
            self.recall(&held);
            Ok(held.is_empty().then_some(()))
        })
        .await?;
        if !asked.is_empty() {
            let mut state = self.state.lock();
            asked.drain(..).for_each(|holder| state.sessions.settled(holder));
        }
        Ok(())
    }

    /// Asks holders to release.
    fn recall(&self, held: &[(Ino, SessionId)]) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        for (ino, holder) in held {
            state.sessions.recalled(*holder, now);
            if let Some(caller) = state.callers.get(holder) {
                caller.notify(encode(&Notice::Recall(vec![*ino])));
            }
        }
    }
}
