//! Waiting for locks: in order, across leaders, and not for ever.

use super::reigns::Monitors;
use super::*;
use crate::types::{LockKind, LockMode, LockOwner, LockRange, LockRequest};
use crate::wire::locks::{Awaited, LockWait, SetLock};

pub(super) fn exclusive(ino: Ino, owner: u64) -> LockRequest {
    let (kind, range) = (LockKind::Posix, LockRange::WHOLE);
    let mode = Some(LockMode::Exclusive);
    LockRequest { ino, kind, owner: LockOwner(owner), pid: 1, range, mode }
}

impl Client {
    pub(super) async fn lock(&mut self, request: LockRequest) -> Result<(), Errno> {
        self.mutate(Op::Lock(SetLock { request, ticket: None })).await.map(|_| ())
    }

    async fn unlock(&mut self, request: LockRequest) {
        self.lock(LockRequest { mode: None, ..request }).await.unwrap();
    }

    /// Tries with a ticket.
    async fn lock_as(&mut self, ticket: u64, request: LockRequest) -> Result<(), Errno> {
        self.mutate(Op::Lock(SetLock { request, ticket: Some(ticket) })).await.map(|_| ())
    }

    async fn await_lock(&self, ticket: u64, request: LockRequest) -> Awaited {
        let (session, waits) = (self.session, vec![LockWait { ticket, request }]);
        match self.peer.call(&Request::AwaitLocks { session, waits }).await {
            Response::LocksAwaited(answers) => answers[0],
            other => panic!("{other:?}"),
        }
    }

    async fn forget_lock(&self, ticket: u64, ino: Ino) {
        let (session, tickets) = (self.session, vec![(ino, ticket)]);
        let forget = Request::ForgetLocks { session, tickets };
        assert_eq!(self.peer.call(&forget).await, Response::Done);
    }

    async fn freed(&mut self) -> Vec<u64> {
        let notice = self.peer.noticed().await;
        match decode(&notice).unwrap() {
            Notice::LocksFree(tickets) => tickets,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_lock_is_told_in_turn_when_it_is_free() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let mut holder = monitors.client(0).await;
    let (mut first, mut second) = (monitors.client(1).await, monitors.client(0).await);
    let file = holder.create(b"file").await;
    let lock = exclusive(file, 1);
    holder.lock(lock).await.unwrap();
    for waiter in [&mut first, &mut second] {
        assert_eq!(waiter.lock_as(1, lock).await, Err(Errno::WouldBlock));
        assert_eq!(waiter.await_lock(1, lock).await, Awaited::Waiting);
    }
    holder.unlock(lock).await;
    assert_eq!(first.freed().await, [1]);
    // It was told first, and it has a moment.
    assert_eq!(second.lock_as(1, lock).await, Err(Errno::WouldBlock));
    assert_eq!(second.await_lock(1, lock).await, Awaited::Waiting);
    first.lock_as(1, lock).await.unwrap();
    first.unlock(lock).await;
    assert_eq!(second.freed().await, [1]);
    second.lock_as(1, lock).await.unwrap();
    assert_eq!(first.await_lock(2, exclusive(Ino(99), 1)).await, Awaited::Free, "it finds out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_and_does_not_come_keeps_nobody_waiting() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let mut holder = monitors.client(0).await;
    let (mut idle, mut gone, mut next) =
        (monitors.client(0).await, monitors.client(0).await, monitors.client(0).await);
    let file = holder.create(b"file").await;
    let lock = exclusive(file, 1);
    holder.lock(lock).await.unwrap();
    for waiter in [&idle, &gone, &next] {
        assert_eq!(waiter.await_lock(1, lock).await, Awaited::Waiting);
    }
    holder.unlock(lock).await;
    // The first of them was interrupted just then, the second dies, and the first waits once more.
    assert_eq!(idle.freed().await, [1]);
    idle.forget_lock(1, file).await;
    assert_eq!(gone.freed().await, [1]);
    assert_eq!(idle.await_lock(2, lock).await, Awaited::Waiting);
    let evict = Request::EvictDead { session: gone.session, node: "node".to_owned() };
    assert_eq!(holder.peer.call(&evict).await, Response::Done);
    assert_eq!(next.freed().await, [1]);
    // It says nothing at all.
    assert_eq!(idle.freed().await, [2]);
    idle.lock_as(2, lock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_held_through_a_change_of_leaders_and_waits_are_told_again() {
    let monitors = Monitors::start(2);
    monitors.group.elect(Some(0));
    let (mut holder, mut waiter) = (monitors.client(0).await, monitors.client(0).await);
    let file = holder.create(b"file").await;
    let lock = exclusive(file, 1);
    holder.lock(lock).await.unwrap();
    assert_eq!(waiter.await_lock(1, lock).await, Awaited::Waiting);
    monitors.group.elect(Some(1));
    monitors.attach(&mut waiter, 1, Vec::new()).await;
    assert_eq!(waiter.lock_as(1, lock).await, Err(Errno::WouldBlock));
    assert_eq!(waiter.await_lock(1, lock).await, Awaited::Waiting);
    monitors.attach(&mut holder, 0, vec![(file, 1)]).await;
    holder.unlock(lock).await;
    assert_eq!(waiter.freed().await, [1]);
    waiter.lock_as(1, lock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_end_with_their_session_and_who_waits_hears_of_it() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let (mut holder, mut waiter) = (monitors.client(0).await, monitors.client(0).await);
    let file = waiter.create(b"file").await;
    let lock = exclusive(file, 1);
    holder.lock(lock).await.unwrap();
    assert_eq!(waiter.await_lock(1, lock).await, Awaited::Waiting);
    let close = Request::CloseSession(holder.session);
    assert_eq!(holder.peer.call(&close).await, Response::Done);
    assert_eq!(waiter.freed().await, [1]);
    waiter.lock_as(1, lock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_would_never_end_is_refused() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let (mut one, mut two) = (monitors.client(0).await, monitors.client(0).await);
    let (x, y) = (one.create(b"x").await, two.create(b"y").await);
    one.lock(exclusive(x, 1)).await.unwrap();
    two.lock(exclusive(y, 1)).await.unwrap();
    assert_eq!(one.await_lock(1, exclusive(y, 1)).await, Awaited::Waiting);
    let deadlock = Awaited::Refused(Errno::Deadlock);
    assert_eq!(two.await_lock(1, exclusive(x, 1)).await, deadlock);
    assert_eq!(two.await_lock(2, exclusive(x, 2)).await, Awaited::Waiting, "another process");
    two.unlock(exclusive(y, 1)).await;
    assert_eq!(one.freed().await, [1]);
    one.lock_as(1, exclusive(y, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_waits_in_one_request_are_refused() {
    let monitors = Monitors::start(1);
    monitors.group.elect(Some(0));
    let mut client = monitors.client(0).await;
    let file = client.create(b"file").await;
    let waits = vec![LockWait { ticket: 1, request: exclusive(file, 1) }; 513];
    let request = Request::AwaitLocks { session: client.session, waits };
    let answer = client.peer.call(&request).await;
    assert!(matches!(answer, Response::Refused(Refusal::Malformed(_))), "{answer:?}");
}
