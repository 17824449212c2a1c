//! Locks on a mount: what programs hold, wait for and give up, with monitors that do as the test says.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::fakes::{FakeMonitors, FakeShards};
use super::whole::{BOTH, client_info, config};
use crate::client::fs::{Caller, Fs, Handle, Lock};
use crate::client::link::{Monitors, Shards};
use crate::client::session::Session;
use crate::env::clock::{Clock, SystemClock};
use crate::types::{
    Errno, Incarnation, Ino, LockKind, LockMode, LockOwner, LockRange, LockRequest, SessionId,
};
use crate::wire::leases::Aftermath;
use crate::wire::locks::{Awaited, SetLock};
use crate::wire::metadata::{Notice, Op, Refusal, Reply, Request, Response};

const LONG: Duration = Duration::from_secs(30);
/// Somebody on another host.
const STRANGER: SessionId = SessionId(1000);

/// Monitors that know whole-file locks; everything else they leave to [`FakeMonitors`].
struct LockMonitors {
    rest: FakeMonitors,
    state: Mutex<State>,
    notices: mpsc::UnboundedSender<Notice>,
    /// While this is true, what is done is not answered.
    mute: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    locks: Vec<(SessionId, LockRequest)>,
    waits: Vec<(SessionId, u64, LockRequest)>,
    asked: usize,
}

impl State {
    fn set(&mut self, session: SessionId, request: LockRequest) -> Result<(), Errno> {
        self.asked += 1;
        let owner = |(session, lock): &(SessionId, LockRequest)| (*session, lock.owner, lock.kind);
        let ours = (session, request.owner, request.kind);
        if self.locks.iter().any(|lock| owner(lock) != ours && lock.1.excludes(&request)) {
            return Err(Errno::WouldBlock);
        }
        self.locks.retain(|lock| owner(lock) != ours);
        self.locks.extend(request.mode.map(|_| (session, request)));
        Ok(())
    }
}

impl LockMonitors {
    fn lock(&self, session: SessionId, lock: &SetLock) -> Result<Reply, Errno> {
        let done = self.state.lock().set(session, lock.request).map(|()| Reply::Done);
        if done.is_ok() && lock.request.mode.is_none() {
            self.free();
        }
        done
    }

    /// All may try.
    fn free(&self) {
        let tickets = self.state.lock().waits.iter().map(|(_, ticket, _)| *ticket).collect();
        self.notices.send(Notice::LocksFree(tickets)).unwrap();
    }

    fn unlock_by_stranger(&self, request: LockRequest) {
        self.state.lock().set(STRANGER, LockRequest { mode: None, ..request }).unwrap();
        self.free();
    }

    fn evict(&self) {
        self.rest.evict();
        let mut state = self.state.lock();
        state.locks.retain(|(session, _)| *session == STRANGER);
        state.waits.clear();
    }

    /// How each owner holds the lock.
    fn held(&self) -> Vec<(u64, LockMode)> {
        let state = self.state.lock();
        let held = state.locks.iter().map(|(_, lock)| (lock.owner.0, lock.mode.unwrap()));
        held.collect()
    }

    fn waits(&self) -> usize {
        self.state.lock().waits.len()
    }

    fn knows(&self, session: SessionId) -> bool {
        session == self.rest.session()
    }

    async fn speak(&self) {
        drop(self.mute.subscribe().wait_for(|mute| !mute).await);
    }
}

impl Monitors for LockMonitors {
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        async move {
            let answer = match request {
                Request::Mutate { session, mutations }
                    if self.knows(*session) && matches!(mutations[0].op, Op::Lock(_)) =>
                {
                    let replies = mutations.iter().map(|mutation| match &mutation.op {
                        Op::Lock(lock) => self.lock(*session, lock),
                        other => panic!("{other:?}"),
                    });
                    Response::Mutated(replies.collect(), Aftermath::default())
                }
                Request::AwaitLocks { session, .. } | Request::ForgetLocks { session, .. }
                    if !self.knows(*session) =>
                {
                    Response::Refused(Refusal::SessionClosed)
                }
                Request::AwaitLocks { session, waits } => {
                    let mut state = self.state.lock();
                    let waits: Vec<_> =
                        waits.iter().map(|wait| (*session, wait.ticket, wait.request)).collect();
                    state.waits.extend(&waits);
                    Response::LocksAwaited(vec![Awaited::Waiting; waits.len()])
                }
                Request::ForgetLocks { tickets, .. } => {
                    let gone = |ticket| tickets.iter().any(|(_, gone)| *gone == ticket);
                    self.state.lock().waits.retain(|(_, ticket, _)| !gone(*ticket));
                    Response::Done
                }
                other => return self.rest.call(other).await,
            };
            self.speak().await;
            answer
        }
        .boxed()
    }

    fn incarnation(&self) -> Incarnation {
        self.rest.incarnation()
    }
}

struct Mounted {
    fs: Arc<Fs>,
    monitors: Arc<LockMonitors>,
}

async fn mounted() -> Mounted {
    let (notices, told) = mpsc::unbounded_channel();
    let monitors = Arc::new(LockMonitors {
        rest: FakeMonitors::default(),
        state: Mutex::default(),
        notices,
        mute: watch::Sender::new(false),
    });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let asked = Arc::clone(&monitors) as Arc<dyn Monitors>;
    let (session, lost) = Session::open(asked, clock, client_info()).await.expect("a session");
    let servers = Arc::new(FakeShards::default()) as Arc<dyn Shards>;
    let fs = Fs::assemble(config(), session, (servers, Arc::default()), told, lost);
    Mounted { fs, monitors }
}

impl Mounted {
    async fn create(&self) -> (Ino, Handle) {
        let caller = Caller { uid: 0, gid: 0, umask: 0 };
        let created = self.fs.create(caller, Ino::ROOT, b"file", 0o644, BOTH).await;
        let (attr, handle) = created.expect("created");
        (attr.ino, handle)
    }

    fn set(&self, handle: Handle, lock: Lock, wait: bool) -> Setting {
        let fs = Arc::clone(&self.fs);
        tokio::spawn(async move { fs.set_lock(handle, lock, wait).await })
    }

    async fn until(&self, what: &str, is: impl Fn(&LockMonitors) -> bool) {
        let waiting = async {
            while !is(&self.monitors) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never {what}"));
    }
}

type Setting = tokio::task::JoinHandle<Result<(), Errno>>;

fn lock(kind: LockKind, owner: u64, mode: Option<LockMode>) -> Lock {
    Lock { kind, owner: LockOwner(owner), pid: 5, range: LockRange::WHOLE, mode }
}

fn posix(owner: u64, mode: LockMode) -> Lock {
    lock(LockKind::Posix, owner, Some(mode))
}

fn strangers(ino: Ino) -> LockRequest {
    let (kind, range, owner) = (LockKind::Posix, LockRange::WHOLE, LockOwner(1));
    LockRequest { ino, kind, owner, pid: 1, range, mode: Some(LockMode::Exclusive) }
}

use LockMode::{Exclusive, Shared};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_waits_until_another_host_gives_the_lock_up() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create().await;
    mounted.monitors.state.lock().set(STRANGER, strangers(ino)).unwrap();
    let refused = mounted.fs.set_lock(handle, posix(1, Shared), false).await;
    assert_eq!(refused, Err(Errno::WouldBlock));
    let waiting = mounted.set(handle, posix(1, Shared), true);
    mounted.until("announced", |monitors| monitors.waits() == 1).await;
    assert!(!waiting.is_finished());
    mounted.monitors.unlock_by_stranger(strangers(ino));
    waiting.await.unwrap().unwrap();
    assert_eq!(mounted.monitors.held(), [(1, Shared)]);
    let asked = mounted.monitors.state.lock().asked;
    mounted.fs.set_lock(handle, posix(1, Shared), true).await.unwrap();
    assert_eq!(mounted.monitors.state.lock().asked, asked, "it has it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_broken_off_leaves_nothing_behind() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create().await;
    mounted.monitors.state.lock().set(STRANGER, strangers(ino)).unwrap();
    let waiting = mounted.set(handle, posix(1, Shared), true);
    mounted.until("announced", |monitors| monitors.waits() == 1).await;
    waiting.abort();
    mounted.until("forgotten", |monitors| monitors.waits() == 0).await;
    mounted.monitors.unlock_by_stranger(strangers(ino));
    mounted.fs.set_lock(handle, posix(2, Exclusive), false).await.expect("nobody has it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_granted_to_who_was_interrupted_is_undone() {
    let mounted = mounted().await;
    let (_, handle) = mounted.create().await;
    mounted.fs.set_lock(handle, posix(1, Shared), true).await.unwrap();
    mounted.monitors.mute.send_replace(true);
    let upgrade = mounted.set(handle, posix(1, Exclusive), true);
    mounted.until("granted", |monitors| monitors.held() == [(1, Exclusive)]).await;
    upgrade.abort();
    assert!(upgrade.await.unwrap_err().is_cancelled());
    mounted.monitors.mute.send_replace(false);
    mounted.until("as before", |monitors| monitors.held() == [(1, Shared)]).await;
    // And it is known here.
    mounted.fs.set_lock(handle, posix(2, Shared), false).await.unwrap();
    let refused = mounted.fs.set_lock(handle, posix(1, Exclusive), false).await;
    assert_eq!(refused, Err(Errno::WouldBlock));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_go_when_what_they_belong_to_is_closed() {
    let mounted = mounted().await;
    let (ino, one) = mounted.create().await;
    let two = mounted.fs.open(ino, BOTH).await.unwrap();
    let flock = lock(LockKind::Flock, 20, Some(Shared));
    mounted.fs.set_lock(one, posix(1, Shared), false).await.unwrap();
    mounted.fs.set_lock(two, flock, false).await.unwrap();
    // Of an open file, as fcntl(2) has them too: nobody says when such an owner goes.
    mounted.fs.set_lock(two, posix(21, Shared), false).await.unwrap();
    // The process closes a descriptor through which it has locked nothing.
    mounted.fs.drop_locks(ino, LockOwner(1)).await;
    assert_eq!(mounted.monitors.held(), [(20, Shared), (21, Shared)]);
    mounted.fs.release(one).await;
    assert_eq!(mounted.monitors.held(), [(20, Shared), (21, Shared)]);
    mounted.fs.release(two).await;
    assert_eq!(mounted.monitors.held(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_does_not_wait_for_monitors_that_are_away() {
    let mounted = mounted().await;
    let (ino, handle) = mounted.create().await;
    mounted.fs.set_lock(handle, posix(1, Exclusive), false).await.unwrap();
    mounted.monitors.mute.send_replace(true);
    tokio::time::timeout(LONG, mounted.fs.drop_locks(ino, LockOwner(1))).await.expect("it returns");
    // What comes later is done later.
    let next = mounted.set(handle, posix(2, Exclusive), false);
    tokio::task::yield_now().await;
    assert!(!next.is_finished());
    mounted.monitors.mute.send_replace(false);
    next.await.unwrap().expect("it is free by then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flock_that_becomes_another_is_given_up_first() {
    let mounted = mounted().await;
    let (_, handle) = mounted.create().await;
    let flock = |owner, mode| lock(LockKind::Flock, owner, Some(mode));
    mounted.fs.set_lock(handle, flock(1, Shared), true).await.unwrap();
    mounted.fs.set_lock(handle, flock(2, Shared), true).await.unwrap();
    let first = mounted.set(handle, flock(1, Exclusive), true);
    mounted.until("waiting", |monitors| monitors.waits() == 1).await;
    assert_eq!(mounted.monitors.held(), [(2, Shared)]);
    // Neither waits for the other: it finds nobody in its way, and the first one comes after it.
    mounted.fs.set_lock(handle, flock(2, Exclusive), true).await.unwrap();
    assert_eq!(mounted.monitors.held(), [(2, Exclusive)]);
    assert!(!first.is_finished());
    mounted.fs.set_lock(handle, lock(LockKind::Flock, 2, None), false).await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(mounted.monitors.held(), [(1, Exclusive)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_a_lock_with_the_session_is_told() {
    let mounted = mounted().await;
    let (ino, holder) = mounted.create().await;
    let other = mounted.fs.open(ino, BOTH).await.unwrap();
    mounted.fs.set_lock(holder, posix(1, Exclusive), false).await.unwrap();
    let waiting = mounted.set(other, posix(2, Exclusive), true);
    mounted.until("announced", |monitors| monitors.waits() == 1).await;
    mounted.monitors.evict();
    mounted.fs.getattr(ino).await.expect("it is noticed");
    waiting.await.unwrap().expect("who had none goes on");
    assert_eq!(mounted.fs.read(holder, 0, 1).await, Err(Errno::Io));
    assert_eq!(mounted.fs.set_lock(holder, posix(1, Shared), false).await, Err(Errno::Io));
    mounted.fs.read(other, 0, 1).await.expect("the file is well");
    mounted.fs.release(holder).await;
    mounted.fs.set_lock(other, posix(1, Shared), false).await.expect_err("somebody else has it");
    assert_eq!(mounted.monitors.held(), [(2, Exclusive)]);
}
