//! Waiting for locks, at the leader: the edge around [`waits`](super::waits).
//!
//! Whatever changes the locks on a file is followed by a look at its queue ([`Reign::wake_lockers`]), and whoever
//! begins to wait is in the queue before the locks are looked at: so no moment is left in which a lock could be
//! given up unnoticed.

use super::reign::{Reign, State};
use super::unreadable;
use super::waits::Owner;
use crate::monitor::namespace::locks;
use crate::monitor::store::StoreError;
use crate::types::{Errno, Ino, LockRequest, SessionId};
use crate::wire::encode;
use crate::wire::locks::{Awaited, Forgotten, LockWait, SetLock, WAITS_MAX};
use crate::wire::metadata::{Notice, Op, Refusal, Response};

impl Reign {
    /// Programs of a client wait for these locks.
    pub(super) async fn await_locks(
        &self,
        session: SessionId,
        waits: &[LockWait],
    ) -> Result<Response, Refusal> {
        check_count(waits.len())?;
        // Who does not lead any more may see circles where there are none.
        self.confirm_leadership().await?;
        let awaited: Result<_, _> =
            waits.iter().map(|wait| self.await_lock(session, wait)).collect();
        Ok(Response::LocksAwaited(awaited?))
    }

    fn await_lock(&self, session: SessionId, wait: &LockWait) -> Result<Awaited, Refusal> {
        let LockWait { ticket, request } = *wait;
        let op = Op::Lock(SetLock { request, ticket: Some(ticket) });
        if let Some(errno) = self.forbidden(session, &op)? {
            return Ok(Awaited::Refused(errno));
        }
        if !self.state.lock().waits.enlist(session, *wait) {
            return Ok(Awaited::Refused(Errno::NoLocks));
        }
        // Others that it wakes hear of it by a notice, and so does this one: saying it twice does no harm.
        self.wake_lockers(&[request.ino])?;
        let mut state = self.state.lock();
        if state.waits.is_woken(session, request.ino, ticket) {
            return Ok(Awaited::Free);
        }
        let in_the_way = |session: SessionId, request: &LockRequest| self.holders(session, request);
        if state.waits.would_deadlock(session, &request, in_the_way).map_err(unreadable)? {
            state.waits.forget(session, request.ino, ticket);
            return Ok(Awaited::Refused(Errno::Deadlock));
        }
        Ok(Awaited::Waiting)
    }

    /// Nobody waits with these tickets any more.
    pub(super) fn forget_locks(
        &self,
        session: SessionId,
        tickets: &[Forgotten],
    ) -> Result<Response, Refusal> {
        check_count(tickets.len())?;
        {
            let mut state = self.state.lock();
            tickets.iter().for_each(|(ino, ticket)| state.waits.forget(session, *ino, *ticket));
        }
        // One that was woken may have kept others waiting.
        let files: Vec<Ino> = tickets.iter().map(|(ino, _)| *ino).collect();
        self.wake_lockers(&files)?;
        Ok(Response::Done)
    }

    /// Whether who is willing to wait has to, because somebody else was told to try.
    pub(super) fn must_wait(&self, session: SessionId, op: &Op) -> Option<Errno> {
        let Op::Lock(SetLock { request, ticket: Some(_) }) = op else { return None };
        let comes_first = self.state.lock().waits.comes_first(session, request);
        comes_first.then_some(Errno::WouldBlock)
    }

    /// A lock was tried for, or given up.
    pub(super) fn lock_tried(&self, session: SessionId, lock: &SetLock, is_done: bool) {
        let ino = lock.request.ino;
        {
            let mut state = self.state.lock();
            if let Some(ticket) = lock.ticket {
                state.waits.tried(session, ino, ticket, is_done);
            }
            if !state.waits.is_awaited(ino) {
                return;
            }
        }
        self.wake_or_complain(&[ino]);
    }

    /// A session is gone, and its locks with it.
    pub(super) fn locker_gone(&self, session: SessionId) {
        let files = {
            let mut state = self.state.lock();
            state.waits.closed(session);
            state.waits.files()
        };
        self.wake_or_complain(&files);
    }

    /// Those that were told to try and did not come lose their places.
    pub(super) fn lapse_lockers(&self) {
        let files = self.state.lock().waits.lapse(self.clock.monotonic());
        self.wake_or_complain(&files);
    }

    fn wake_or_complain(&self, files: &[Ino]) {
        if let Err(refusal) = self.wake_lockers(files) {
            // Whoever waits asks again after a while.
            log::warn!("who waits for a lock was not looked at: {refusal}");
        }
    }

    /// Tells those who could have a lock on these files now to try.
    fn wake_lockers(&self, files: &[Ino]) -> Result<(), Refusal> {
        for &ino in files {
            let held = locks::of(&*self.store, ino).map_err(unreadable)?;
            let is_free = |session: SessionId, request: &LockRequest| {
                held.all_against(session, request).next().is_none()
            };
            let mut guard = self.state.lock();
            let State { waits, callers, .. } = &mut *guard;
            for (session, ticket) in waits.wake(ino, self.clock.monotonic(), is_free) {
                if let Some(caller) = callers.get(&session) {
                    caller.notify(encode(&Notice::LocksFree(vec![ticket])));
                }
            }
        }
        Ok(())
    }

    /// Who holds what excludes a request.
    fn holders(&self, session: SessionId, request: &LockRequest) -> Result<Vec<Owner>, StoreError> {
        let held = locks::of(&*self.store, request.ino)?;
        let conflicts = held.all_against(session, request);
        Ok(conflicts.map(|conflict| (conflict.session, conflict.owner)).collect())
    }
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count <= WAITS_MAX {
        return Ok(());
    }
    Err(Refusal::Malformed(format!(
        "{count} locks are waited for in one request, {WAITS_MAX} may be"
    )))
}
