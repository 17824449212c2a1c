//! Locks of programs: flock(2) and fcntl(2), for all clients together.
//!
//! Who holds what of a file is one record (`K`), so that it outlives a leader and ends with its session. Taking a
//! lock is an operation like any other: done, or refused because of somebody else's lock. Nobody waits here:
//! who waits is the leader's own knowledge, which clients tell again after a failover (see the service's
//! `waits`).
//!
//! All locks of a file are one record, not one each (as DESIGN has it): whether a lock may be taken is asked of
//! all of them, locks come and go by thousands on the same few files, and a store remembers every removal for a
//! while. A record that is replaced costs one point read, however it grew and shrank.
//!
//! fcntl(2) and flock(2) locks do not see one another, as on a local filesystem. What both do to the ranges of
//! one owner is [`HeldRanges`].

use super::fail::Fail;
use super::inodes::{At, live};
use super::keys;
use super::records::{LockHolder, Locks};
use super::txn::{Txn, get, take};
use crate::monitor::store::{Read, StoreError};
use crate::types::{
    Conflict, Errno, HeldRanges, Ino, LockRange, LockRequest, OpSeq, SessionId, limits,
};
use crate::wire::metadata::Reply;

/// Files whose locks a session's end looks at in one command: a record of them may be long.
const FILES_PER_STEP: usize = 256;

/// Takes or gives up a lock.
///
/// Refuses with [`Errno::WouldBlock`] when somebody else's lock excludes it, [`Errno::NoLocks`] when the file has
/// too many.
pub(super) fn set(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    request: &LockRequest,
) -> Result<Reply, Fail> {
    if !request.range.is_sound() {
        return Err(Errno::Invalid.into());
    }
    live(txn, request.ino)?;
    let key = keys::locks(request.ino);
    let known = get(txn, &key)?;
    let had_any = known.is_some();
    let mut locks = known.unwrap_or_else(Locks::none);
    if locks.first_against(session, request).is_some() {
        return Err(Errno::WouldBlock.into());
    }
    locks.set(session, request);
    if locks.count() > limits::LOCKS_MAX {
        return Err(Errno::NoLocks.into());
    }
    locks.birth = at.op;
    match (locks.holders.is_empty(), had_any) {
        (false, _) => txn.put(&key, &locks),
        (true, true) => txn.delete(&key),
        (true, false) => {}
    }
    Ok(Reply::Done)
}

/// What keeps a lock from being taken.
pub(super) fn in_the_way(
    read: &dyn Read,
    session: SessionId,
    request: &LockRequest,
) -> Result<Option<Conflict>, Fail> {
    live(read, request.ino)?;
    Ok(of(read, request.ino)?.first_against(session, request))
}

/// The locks on a file.
///
/// # Errors
///
/// When the store fails.
pub fn of(read: &dyn Read, ino: Ino) -> Result<Locks, StoreError> {
    Ok(get(read, &keys::locks(ino))?.unwrap_or_else(Locks::none))
}

/// A session ends: drops its locks on the next few files from that one on. Where to go on; `None` at the end.
pub(super) fn drop_of(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    from: Ino,
) -> Result<Option<Ino>, StoreError> {
    let found = take(txn, &keys::locks_from(from), FILES_PER_STEP)?;
    let next = found.last().map(|(ino, _)| Ino(ino.0 + 1));
    let is_last = found.len() < FILES_PER_STEP;
    for (ino, mut locks) in found {
        let before = locks.holders.len();
        locks.holders.retain(|holder| holder.session != session);
        if locks.holders.is_empty() {
            txn.delete(&keys::locks(ino));
        } else if locks.holders.len() < before {
            locks.birth = at.op;
            txn.put(&keys::locks(ino), &locks);
        }
    }
    Ok(next.filter(|_| !is_last))
}

impl Locks {
    fn none() -> Self {
        Self { holders: Vec::new(), birth: OpSeq(0) }
    }

    /// The first lock of another owner that excludes what is wanted.
    pub fn first_against(&self, session: SessionId, request: &LockRequest) -> Option<Conflict> {
        let mut conflicts: Vec<Conflict> = self.all_against(session, request).collect();
        conflicts.sort_unstable_by_key(|conflict| conflict.range.start);
        conflicts.first().copied()
    }

    /// The first lock of each other owner that excludes what is wanted.
    pub fn all_against(
        &self,
        session: SessionId,
        request: &LockRequest,
    ) -> impl Iterator<Item = Conflict> {
        let (kind, owner, range) = (request.kind, request.owner, request.range);
        request.mode.into_iter().flat_map(move |mode| {
            let others = self.holders.iter().filter(move |holder| {
                holder.kind == kind && (holder.session, holder.owner) != (session, owner)
            });
            others.filter_map(move |holder| {
                let (range, mode) = holder.ranges.against(range, mode)?;
                let LockHolder { session, owner, pid, .. } = *holder;
                Some(Conflict { session, owner, pid, range, mode })
            })
        })
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.holders.iter().map(|holder| holder.ranges.count()).sum()
    }

    fn set(&mut self, session: SessionId, request: &LockRequest) {
        let LockRequest { kind, owner, pid, range, mode, .. } = *request;
        let is_theirs = |holder: &LockHolder| {
            (holder.session, holder.owner, holder.kind) == (session, owner, kind)
        };
        let place = self.holders.iter().position(is_theirs);
        let place = place.unwrap_or_else(|| {
            let ranges = HeldRanges::default();
            self.holders.push(LockHolder { session, owner, kind, pid, ranges });
            self.holders.len() - 1
        });
        let holder = &mut self.holders[place];
        holder.ranges.set(range, mode);
        if mode.is_some() {
            holder.pid = pid;
        }
        if holder.ranges.is_empty() {
            self.holders.remove(place);
        }
    }

    /// Whether no two locks exclude one another, and nobody is listed for nothing.
    pub(super) fn is_sound(&self) -> bool {
        self.holders.iter().all(|holder| {
            let LockHolder { session, owner, kind, pid, .. } = *holder;
            let mut ranges = holder.ranges.within(LockRange::WHOLE).peekable();
            ranges.peek().is_some()
                && ranges.all(|(range, mode)| {
                    let ino = Ino(0);
                    let own = LockRequest { ino, kind, owner, pid, range, mode: Some(mode) };
                    self.first_against(session, &own).is_none()
                })
        })
    }
}
