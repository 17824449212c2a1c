//! Who waits for which lock.
//!
//! Waiting is the leader's own knowledge, like pins: clients tell it again after a failover, and it can be lost
//! at any moment without harm. A waiter has a place in the queue of its file, in the order of coming. When a
//! lock was given up, those in front who could have what they want now are **woken**: told to try. Until it has
//! tried, what a woken one wants counts as taken, so that one lock wakes one waiter and not all of them, and a
//! newcomer who is willing to wait does not step in between. A woken one that does not come in [`PATIENCE`] loses
//! its place.
//!
//! ```text
//!             wake: nothing is in the way
//!   Waiting ─────────────────────────────▶ Woken ──▶ tried, done: leaves the queue
//!      ▲                                     │  └──▶ did not come: leaves the queue
//!      └─────────────────────────────────────┘ tried, somebody was faster
//! ```
//!
//! Nobody is held back for the sake of somebody who cannot be helped yet: readers pass a waiting writer, as on a
//! local filesystem. (Otherwise who holds one lock and asks for another could wait for who waits for it.)
//!
//! **Deadlocks.** A waiter waits for the owners of the locks in its way, and they may wait themselves. A wait that
//! would close such a circle is refused (EDEADLK). Only fcntl(2) promises that, so only its locks are looked at.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::types::{Ino, LockKind, LockOwner, LockRequest, SessionId};
use crate::wire::locks::LockWait;

/// How long a woken waiter may take until it tries.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Most waiters of one session: what a client could fill the leader's memory with.
const WAITERS_MAX: usize = 1 << 16;

/// Everybody who waits. Times are the leader's monotonic clock.
#[derive(Default, Debug)]
pub(super) struct Waits {
    queues: BTreeMap<Ino, Vec<Waiter>>,
    counts: BTreeMap<SessionId, usize>,
}

/// Who has locks.
pub(super) type Owner = (SessionId, LockOwner);

#[derive(Clone, Copy, Debug)]
struct Waiter {
    session: SessionId,
    wait: LockWait,
    /// Since when it may try.
    woken: Option<Duration>,
}

impl Waiter {
    fn owner(&self) -> Owner {
        (self.session, self.wait.request.owner)
    }

    fn is(&self, session: SessionId, ticket: u64) -> bool {
        self.session == session && self.wait.ticket == ticket
    }
}

impl Waits {
    /// Somebody waits. Who is in the queue already keeps its place. `false` when the session has too many.
    pub(super) fn enlist(&mut self, session: SessionId, wait: LockWait) -> bool {
        let queue = self.queues.entry(wait.request.ino).or_default();
        if queue.iter().any(|waiter| waiter.is(session, wait.ticket)) {
            return true;
        }
        let count = self.counts.entry(session).or_default();
        if *count >= WAITERS_MAX {
            return false;
        }
        *count += 1;
        queue.push(Waiter { session, wait, woken: None });
        true
    }

    /// It waits no more.
    pub(super) fn forget(&mut self, session: SessionId, ino: Ino, ticket: u64) {
        self.remove(ino, |waiter| waiter.is(session, ticket));
    }

    /// The session is gone; nobody of it waits.
    pub(super) fn closed(&mut self, session: SessionId) {
        for ino in self.files() {
            self.remove(ino, |waiter| waiter.session == session);
        }
    }

    /// It has tried. When it was done it leaves the queue, else it goes on waiting at its place.
    pub(super) fn tried(&mut self, session: SessionId, ino: Ino, ticket: u64, is_done: bool) {
        if is_done {
            self.forget(session, ino, ticket);
        } else if let Some(waiter) = self.find(session, ino, ticket) {
            waiter.woken = None;
        }
    }

    /// Files for which somebody waits.
    pub(super) fn files(&self) -> Vec<Ino> {
        self.queues.keys().copied().collect()
    }

    /// Whether anybody waits for a lock on that file.
    pub(super) fn is_awaited(&self, ino: Ino) -> bool {
        self.queues.contains_key(&ino)
    }

    /// Whether that ticket may try now.
    pub(super) fn is_woken(&self, session: SessionId, ino: Ino, ticket: u64) -> bool {
        let mut queue = self.queues.get(&ino).into_iter().flatten();
        queue.any(|waiter| waiter.is(session, ticket) && waiter.woken.is_some())
    }

    /// The locks on a file have changed: who may try now, as far as locks that are held are concerned (`is_free`)?
    pub(super) fn wake(
        &mut self,
        ino: Ino,
        now: Duration,
        is_free: impl Fn(SessionId, &LockRequest) -> bool,
    ) -> Vec<(SessionId, u64)> {
        let Some(queue) = self.queues.get_mut(&ino) else { return Vec::new() };
        let mut promised: Vec<(Owner, LockRequest)> = queue
            .iter()
            .filter(|waiter| waiter.woken.is_some())
            .map(|waiter| (waiter.owner(), waiter.wait.request))
            .collect();
        let mut woken = Vec::new();
        for waiter in queue.iter_mut().filter(|waiter| waiter.woken.is_none()) {
            let (owner, request) = (waiter.owner(), waiter.wait.request);
            if is_promised(&promised, owner, &request) || !is_free(waiter.session, &request) {
                continue;
            }
            waiter.woken = Some(now);
            promised.push((owner, request));
            woken.push((waiter.session, waiter.wait.ticket));
        }
        woken
    }

    /// Whether somebody else was told that it may have what excludes this: who is willing to wait does so.
    pub(super) fn comes_first(&self, session: SessionId, request: &LockRequest) -> bool {
        let queue = self.queues.get(&request.ino).into_iter().flatten();
        let mut woken = queue.filter(|waiter| waiter.woken.is_some());
        woken.any(|waiter| {
            waiter.owner() != (session, request.owner) && waiter.wait.request.excludes(request)
        })
    }

    /// Drops those that were woken and did not come. The files on which others may try now.
    pub(super) fn lapse(&mut self, now: Duration) -> Vec<Ino> {
        let is_late = |waiter: &Waiter| {
            waiter.woken.is_some_and(|since| now.saturating_sub(since) > PATIENCE)
        };
        let late = self.queues.iter().filter(|(_, queue)| queue.iter().any(is_late));
        let late: Vec<Ino> = late.map(|(ino, _)| *ino).collect();
        for &ino in &late {
            self.remove(ino, is_late);
        }
        late
    }

    /// Whether a wait would never end, because who is in its way waits, directly or through others, for who wants
    /// it. `in_the_way` says who holds what excludes a request.
    pub(super) fn would_deadlock<E>(
        &self,
        session: SessionId,
        request: &LockRequest,
        mut in_the_way: impl FnMut(SessionId, &LockRequest) -> Result<Vec<Owner>, E>,
    ) -> Result<bool, E> {
        if request.kind != LockKind::Posix {
            return Ok(false);
        }
        let mut waited_for = in_the_way(session, request)?;
        let mut seen = HashSet::new();
        while let Some(owner) = waited_for.pop() {
            if owner == (session, request.owner) {
                return Ok(true);
            }
            if !seen.insert(owner) {
                continue;
            }
            for waiter in self.queues.values().flatten() {
                let waits = waiter.owner() == owner && waiter.wait.request.kind == LockKind::Posix;
                if waits && waiter.woken.is_none() {
                    waited_for.extend(in_the_way(waiter.session, &waiter.wait.request)?);
                }
            }
        }
        Ok(false)
    }

    fn find(&mut self, session: SessionId, ino: Ino, ticket: u64) -> Option<&mut Waiter> {
        let queue = self.queues.get_mut(&ino)?;
        queue.iter_mut().find(|waiter| waiter.is(session, ticket))
    }

    fn remove(&mut self, ino: Ino, goes: impl Fn(&Waiter) -> bool) {
        let Self { queues, counts } = self;
        let Some(queue) = queues.get_mut(&ino) else { return };
        queue.retain(|waiter| {
            let goes = goes(waiter);
            if goes && let Some(count) = counts.get_mut(&waiter.session) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&waiter.session);
                }
            }
            !goes
        });
        if queue.is_empty() {
            queues.remove(&ino);
        }
    }
}

fn is_promised(promised: &[(Owner, LockRequest)], owner: Owner, request: &LockRequest) -> bool {
    promised.iter().any(|(other, theirs)| *other != owner && theirs.excludes(request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LockMode, LockRange};

    const FILE: Ino = Ino(7);
    const OTHER: Ino = Ino(8);
    const ONE: SessionId = SessionId(1);
    const TWO: SessionId = SessionId(2);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn request(ino: Ino, owner: u64, mode: LockMode) -> LockRequest {
        let (kind, range) = (LockKind::Posix, LockRange::WHOLE);
        LockRequest { ino, kind, owner: LockOwner(owner), pid: 1, range, mode: Some(mode) }
    }

    fn wait(ticket: u64, mode: LockMode) -> LockWait {
        LockWait { ticket, request: request(FILE, ticket, mode) }
    }

    fn free(_: SessionId, _: &LockRequest) -> bool {
        true
    }

    #[test]
    fn waiters_are_woken_in_their_order_and_only_those_who_fit_together() {
        use LockMode::{Exclusive, Shared};
        let mut waits = Waits::default();
        for (ticket, mode) in [(1, Shared), (2, Shared), (3, Exclusive), (4, Shared)] {
            assert!(waits.enlist(ONE, wait(ticket, mode)));
        }
        assert_eq!(waits.wake(FILE, at(0), free), [(ONE, 1), (ONE, 2), (ONE, 4)]);
        assert_eq!(waits.wake(FILE, at(0), free), []);
        for ticket in [1, 2, 4] {
            waits.tried(ONE, FILE, ticket, true);
        }
        assert_eq!(waits.wake(FILE, at(0), |_, _| false), []);
        assert_eq!(waits.wake(FILE, at(0), free), [(ONE, 3)]);
        waits.tried(ONE, FILE, 3, true);
        assert!(!waits.is_awaited(FILE) && waits.counts.is_empty());
    }

    #[test]
    fn who_was_woken_is_not_overtaken_by_who_would_wait() {
        let mut waits = Waits::default();
        waits.enlist(ONE, wait(1, LockMode::Exclusive));
        let newcomer = request(FILE, 9, LockMode::Shared);
        assert!(!waits.comes_first(TWO, &newcomer), "nobody can be helped by holding it back");
        waits.wake(FILE, at(0), free);
        assert!(waits.comes_first(TWO, &newcomer));
        assert!(!waits.comes_first(ONE, &request(FILE, 1, LockMode::Shared)), "its own");
        waits.tried(ONE, FILE, 1, false);
        assert!(!waits.comes_first(TWO, &newcomer));
        assert_eq!(waits.wake(FILE, at(0), free), [(ONE, 1)], "it has kept its place");
    }

    #[test]
    fn who_does_not_come_loses_its_place() {
        let mut waits = Waits::default();
        waits.enlist(ONE, wait(1, LockMode::Exclusive));
        waits.enlist(TWO, wait(2, LockMode::Exclusive));
        assert_eq!(waits.wake(FILE, at(0), free), [(ONE, 1)]);
        assert_eq!(waits.lapse(at(2000)), []);
        assert_eq!(waits.lapse(at(2001)), [FILE]);
        assert_eq!(waits.wake(FILE, at(2001), free), [(TWO, 2)]);
        waits.closed(TWO);
        assert_eq!(waits.files(), []);
    }

    /// Owners 1, 2, 3 ... hold files 1, 2, 3 ...
    #[expect(clippy::unnecessary_wraps, reason = "what is asked may fail")]
    fn holders(_: SessionId, request: &LockRequest) -> Result<Vec<Owner>, ()> {
        let holder = (ONE, LockOwner(request.ino.0));
        Ok(if holder.1 == request.owner { Vec::new() } else { vec![holder] })
    }

    #[test]
    fn a_circle_of_waiters_is_found() {
        let mut waits = Waits::default();
        let wants = |owner, file| request(Ino(file), owner, LockMode::Exclusive);
        for (ticket, (owner, file)) in [(1, 2), (2, 3), (3, 4), (5, 2)].into_iter().enumerate() {
            let (ticket, request) = (ticket as u64, wants(owner, file));
            assert_eq!(waits.would_deadlock(ONE, &request, holders), Ok(false));
            waits.enlist(ONE, LockWait { ticket, request });
        }
        assert_eq!(waits.would_deadlock(ONE, &wants(4, 1), holders), Ok(true));
        assert_eq!(waits.would_deadlock(ONE, &wants(4, 2), holders), Ok(true));
        assert_eq!(waits.would_deadlock(ONE, &wants(4, 5), holders), Ok(true));
        assert_eq!(waits.would_deadlock(ONE, &wants(4, 9), holders), Ok(false));
        assert_eq!(waits.would_deadlock(TWO, &wants(4, 1), holders), Ok(false), "another client's");
        let flock = LockRequest { kind: LockKind::Flock, ..wants(4, 1) };
        assert_eq!(waits.would_deadlock(ONE, &flock, holders), Ok(false));
        waits.forget(ONE, Ino(3), 1);
        assert_eq!(waits.would_deadlock(ONE, &wants(4, 1), holders), Ok(false));
    }

    #[test]
    fn no_session_fills_the_queues() {
        let mut waits = Waits::default();
        for ticket in 0..WAITERS_MAX as u64 {
            let request = request(Ino(ticket), 1, LockMode::Shared);
            assert!(waits.enlist(ONE, LockWait { ticket, request }));
        }
        let one_more = LockWait { ticket: u64::MAX, request: request(OTHER, 1, LockMode::Shared) };
        assert!(!waits.enlist(ONE, one_more));
        assert!(waits.enlist(TWO, one_more));
    }
}
