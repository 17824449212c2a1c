//! What the programs of this mount hold of one file, mirrored.
//!
//! The monitors decide who has which lock. But when a program closes the file, what it held has to go, and when
//! a wait was broken off after all, what was before has to come back: that is known here, without asking.
//!
//! Two owners are behind a lock. The kernel names one (`LockOwner`: a process for fcntl(2) locks, an open file for
//! flock(2) and for open-file-description locks). It says when that one goes, but for open-file-description locks it
//! does not; so each lock also knows through which handles it was taken, and goes with the last of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::fs::Handle;
use crate::types::{HeldRanges, LockKind, LockMode, LockOwner, LockRange, LockRequest, SessionId};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct OwnLocks {
    holders: BTreeMap<(LockKind, LockOwner), Held>,
}

#[derive(Debug)]
struct Held {
    ranges: HeldRanges,
    /// The open files through which they were taken.
    handles: BTreeSet<Handle>,
    /// The session that they belong to: they end with it.
    session: SessionId,
}

impl OwnLocks {
    /// Whether that is so already.
    pub(crate) fn is_met(&self, request: &LockRequest) -> bool {
        match self.held(request) {
            Some(held) => held.ranges.is(request.range, request.mode),
            None => request.mode.is_none(),
        }
    }

    /// What the monitors have to be asked to do, in this order. A flock(2) lock becomes another kind of lock by being
    /// given up first: two who share it and both want it alone do not wait for one another.
    pub(crate) fn steps(&self, request: &LockRequest) -> Vec<LockRequest> {
        let gives_up_first = request.kind == LockKind::Flock
            && request.mode.is_some()
            && self.held(request).is_some();
        let unlock = gives_up_first.then_some(LockRequest { mode: None, ..*request });
        unlock.into_iter().chain([*request]).collect()
    }

    /// What would make it again as it is now, once `request` was done. Nobody can be in the way of that: first
    /// what was held is as weak again as it was, then the rest is given up.
    pub(crate) fn undo(&self, request: &LockRequest) -> Vec<LockRequest> {
        let mut before: Vec<(LockRange, Option<LockMode>)> = Vec::new();
        let mut left = HeldRanges::default();
        left.set(request.range, Some(LockMode::Exclusive));
        for (range, mode) in
            self.held(request).iter().flat_map(|held| held.ranges.within(request.range))
        {
            left.set(range, None);
            before.push((range, Some(mode)));
        }
        before.extend(left.within(request.range).map(|(range, _)| (range, None)));
        let back = |(range, mode)| LockRequest { range, mode, ..*request };
        before.into_iter().map(back).collect()
    }

    /// The monitors have done that, in that session, for the program that came through `handle`.
    pub(crate) fn done(&mut self, request: &LockRequest, handle: Handle, session: SessionId) {
        let key = (request.kind, request.owner);
        let new = || Held { ranges: HeldRanges::default(), handles: BTreeSet::new(), session };
        let held = self.holders.entry(key).or_insert_with(new);
        held.ranges.set(request.range, request.mode);
        held.session = session;
        if request.mode.is_some() {
            held.handles.insert(handle);
        }
        if held.ranges.is_empty() {
            self.holders.remove(&key);
        }
    }

    /// Whether that owner has any.
    pub(crate) fn has_any(&self, kind: LockKind, owner: LockOwner) -> bool {
        self.holders.contains_key(&(kind, owner))
    }

    /// A handle is closed: whose locks go with it, because no other handle of theirs is open.
    pub(crate) fn closed(&mut self, handle: Handle) -> Vec<(LockKind, LockOwner)> {
        let mut gone = Vec::new();
        for (key, held) in &mut self.holders {
            if held.handles.remove(&handle) && held.handles.is_empty() {
                gone.push(*key);
            }
        }
        gone
    }

    /// A session is gone, and its locks with it: the handles through which they were taken.
    pub(crate) fn lost(&mut self, session: SessionId) -> BTreeSet<Handle> {
        let mut handles = BTreeSet::new();
        self.holders.retain(|_, held| {
            let is_lost = held.session == session;
            if is_lost {
                handles.append(&mut held.handles);
            }
            !is_lost
        });
        handles
    }

    /// Whether locks of that owner ended with a session before this one.
    pub(crate) fn has_lost(&self, request: &LockRequest, session: SessionId) -> bool {
        self.held(request).is_some_and(|held| held.session != session)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    fn held(&self, request: &LockRequest) -> Option<&Held> {
        self.holders.get(&(request.kind, request.owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Ino;

    const SESSION: SessionId = SessionId(1);
    const HANDLE: Handle = Handle(1);

    fn request(kind: LockKind, start: u64, end: u64, mode: Option<LockMode>) -> LockRequest {
        let (ino, owner, range) = (Ino(7), LockOwner(9), LockRange { start, end });
        LockRequest { ino, kind, owner, pid: 1, range, mode }
    }

    fn posix(start: u64, end: u64, mode: Option<LockMode>) -> LockRequest {
        request(LockKind::Posix, start, end, mode)
    }

    #[test]
    fn what_is_undone_is_as_it_was() {
        use LockMode::{Exclusive, Shared};
        let mut own = OwnLocks::default();
        own.done(&posix(10, 19, Some(Shared)), HANDLE, SESSION);
        own.done(&posix(30, 49, Some(Exclusive)), HANDLE, SESSION);
        let upgrade = posix(5, 39, Some(Exclusive));
        let undo = own.undo(&upgrade);
        let expected = [
            posix(10, 19, Some(Shared)),
            posix(30, 39, Some(Exclusive)),
            posix(5, 9, None),
            posix(20, 29, None),
        ];
        assert_eq!(undo, expected);
        let before = format!("{own:?}");
        own.done(&upgrade, HANDLE, SESSION);
        undo.iter().for_each(|step| own.done(step, HANDLE, SESSION));
        assert_eq!(format!("{own:?}"), before);
    }

    #[test]
    fn a_flock_is_given_up_before_it_is_another() {
        let mut own = OwnLocks::default();
        let flock = |mode| request(LockKind::Flock, 0, LockRange::LAST, mode);
        let (shared, exclusive) = (flock(Some(LockMode::Shared)), flock(Some(LockMode::Exclusive)));
        assert_eq!(own.steps(&shared), [shared]);
        own.done(&shared, HANDLE, SESSION);
        assert!(own.is_met(&shared) && !own.is_met(&exclusive));
        assert_eq!(own.steps(&exclusive), [flock(None), exclusive]);
        let posix = posix(0, 9, Some(LockMode::Exclusive));
        assert_eq!(own.steps(&posix), [posix], "ranges change as one");
    }

    #[test]
    fn locks_go_with_the_last_handle_that_they_were_taken_through() {
        let mut own = OwnLocks::default();
        own.done(&posix(0, 0, Some(LockMode::Shared)), Handle(1), SESSION);
        own.done(&posix(5, 5, Some(LockMode::Shared)), Handle(2), SESSION);
        assert_eq!(own.closed(Handle(3)), []);
        assert_eq!(own.closed(Handle(1)), []);
        assert_eq!(own.closed(Handle(2)), [(LockKind::Posix, LockOwner(9))]);
        own.done(&posix(0, LockRange::LAST, None), HANDLE, SESSION);
        assert!(own.is_empty() && own.is_met(&posix(3, 4, None)));
    }

    #[test]
    fn locks_of_another_session_are_lost() {
        let mut own = OwnLocks::default();
        let lock = posix(0, 0, Some(LockMode::Shared));
        own.done(&lock, HANDLE, SESSION);
        assert!(own.has_lost(&lock, SessionId(2)) && !own.has_lost(&lock, SESSION));
        assert!(own.lost(SessionId(2)).is_empty());
        assert_eq!(own.lost(SESSION), BTreeSet::from([HANDLE]));
        assert!(own.is_empty());
    }
}
