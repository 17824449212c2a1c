//! Locks of the programs on this mount.
//!
//! The monitors keep the locks; this asks for them, one change after another a file, and gives them up when a
//! program closes the file. **The life of a lock that has to be waited for**: it is tried, and refused because
//! somebody else holds it. The wait is announced ([`waits`]) and the program sleeps; no call is under way. When the
//! leader says that the lock is free it is tried again. A signal ends the wait at any moment: the future is
//! dropped, and with it the ticket. If a try was on its way just then and is granted after all, it is undone
//! ([`Granted`]), so that an interrupted program has what it had before.
//!
//! A program that ends must not wait for monitors that are away, so giving up takes [`PATIENCE`] at most as far
//! as the program is concerned. It goes on by itself, and whatever is done to the locks of that file comes after it.
//!
//! Locks end with their session. Programs that held one then do not know: every handle that a lock was taken
//! through fails from then on with EIO until it is closed, as NFS does it.

mod waits;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, ready};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::{OwnedMutexGuard, oneshot};

use self::waits::Waits;
use super::core::locks::OwnLocks;
use super::files::Files;
use super::fs::Handle;
use super::session::Session;
use crate::types::{Errno, Ino, LockKind, LockOwner, LockRange, LockRequest, SessionId};
use crate::wire::locks::SetLock;
use crate::wire::metadata::{Op, Reply};

/// How long closing a file waits until its locks are given up.
const PATIENCE: Duration = Duration::from_millis(400);

/// See the module.
pub(crate) struct Locks {
    session: Arc<Session>,
    files: Arc<Files>,
    waits: Arc<Waits>,
    /// Files on which somebody here holds or wants a lock.
    table: Mutex<HashMap<Ino, Arc<FileLocks>>>,
    runtime: runtime::Handle,
}

/// The locks on one file.
#[derive(Default)]
struct FileLocks {
    own: Mutex<OwnLocks>,
    /// Held while the monitors are asked to change something.
    order: Arc<tokio::sync::Mutex<()>>,
}

/// The place of somebody whose turn it is to change locks of a file.
type Turn = OwnedMutexGuard<()>;

impl Locks {
    /// None yet. Must be called in a tokio runtime.
    pub(crate) fn new(session: Arc<Session>, files: Arc<Files>) -> Arc<Self> {
        Arc::new(Self {
            waits: Waits::new(Arc::clone(&session)),
            session,
            files,
            table: Mutex::default(),
            runtime: runtime::Handle::current(),
        })
    }

    /// Does for ever what waits need.
    pub(crate) async fn keep_waits(self: Arc<Self>) {
        self.waits.keep().await;
    }

    /// A new leader has to hear who waits.
    pub(crate) fn attached(&self) {
        self.waits.say_again();
    }

    /// The monitors say that these tickets may try.
    pub(crate) fn free(&self, tickets: &[u64]) {
        self.waits.free(tickets);
    }

    /// Takes or gives up a lock for the program that came through `handle`; with `wait` for as long as it takes.
    /// When the future is dropped nothing has changed, or will have soon.
    pub(crate) async fn set(
        self: &Arc<Self>,
        handle: Handle,
        request: LockRequest,
        wait: bool,
    ) -> Result<(), Errno> {
        if !wait || request.mode.is_none() {
            return self.attempt(handle, request, None).await;
        }
        let mut waiter = self.waits.waiter(request);
        loop {
            match self.attempt(handle, request, Some(waiter.ticket())).await {
                Err(Errno::WouldBlock) => waiter.wait().await?,
                Ok(()) => {
                    waiter.is_done();
                    return Ok(());
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    /// A process closes a descriptor of the file: its fcntl(2) locks go.
    pub(crate) async fn process_closes(self: &Arc<Self>, ino: Ino, owner: LockOwner) {
        let Some(file) = self.find(ino) else { return };
        // Also those that it is just being given.
        self.give_up(ino, file, move |own| {
            let has_any = own.has_any(LockKind::Posix, owner);
            has_any.then_some((LockKind::Posix, owner)).into_iter().collect()
        })
        .await;
    }

    /// A handle is closed: the locks that belong to it go.
    pub(crate) async fn closed(self: &Arc<Self>, ino: Ino, handle: Handle) {
        let Some(file) = self.find(ino) else { return };
        self.give_up(ino, file, move |own| own.closed(handle)).await;
    }

    /// A session is gone, and its locks with it.
    pub(crate) fn lost(&self, session: SessionId) {
        let files: Vec<_> =
            self.table.lock().iter().map(|(ino, file)| (*ino, Arc::clone(file))).collect();
        for (ino, file) in files {
            for handle in file.own.lock().lost(session) {
                log::error!(
                    "inode {ino}: a program's lock is lost with the session; it is told EIO"
                );
                self.files.lose(handle);
            }
        }
        // Those whose handles are lost find out, the others wait on.
        self.waits.all_try();
    }

    /// Tries once.
    async fn attempt(
        self: &Arc<Self>,
        handle: Handle,
        request: LockRequest,
        ticket: Option<u64>,
    ) -> Result<(), Errno> {
        let file = self.of(request.ino);
        let turn = Arc::clone(&file.order).lock_owned().await;
        self.files.handle(handle)?;
        if file.own.lock().has_lost(&request, self.session.id()) {
            return Err(Errno::Io);
        }
        if file.own.lock().is_met(&request) {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        let change = Arc::clone(self).change(file, turn, handle, request, ticket);
        // By itself, so that it is carried through when the caller stops waiting. Then what was granted is
        // dropped unused, here or on the way.
        tokio::spawn(async move { drop(tell.send(change.await)) });
        told.await.unwrap_or(Err(Errno::Io))?.keep();
        Ok(())
    }

    /// Asks the monitors, and remembers what they have done.
    async fn change(
        self: Arc<Self>,
        file: Arc<FileLocks>,
        turn: Turn,
        handle: Handle,
        request: LockRequest,
        ticket: Option<u64>,
    ) -> Result<Granted, Errno> {
        let (steps, undo) = {
            let own = file.own.lock();
            (own.steps(&request), own.undo(&request))
        };
        let session = self.session.id();
        let replies = self.ask(session, &steps, ticket).await.ok_or(Errno::Io)?;
        for (step, reply) in steps.iter().zip(&replies) {
            if is_done(step, reply) {
                file.own.lock().done(step, handle, session);
            }
        }
        match replies.last() {
            Some(reply) if is_done(&request, reply) => {}
            Some(Err(errno)) => return Err(*errno),
            _ => return Err(Errno::Io),
        }
        let undo = if request.mode.is_some() { undo } else { Vec::new() };
        Ok(Granted { locks: self, file, turn: Some(turn), handle, session, undo })
    }

    /// Has the monitors do that in this session. `None` when it is over: then nothing is held.
    async fn ask(
        &self,
        session: SessionId,
        steps: &[LockRequest],
        ticket: Option<u64>,
    ) -> Option<Vec<Result<Reply, Errno>>> {
        if self.session.id() != session {
            return None;
        }
        let replies = self.mutate(steps, ticket).await;
        if self.session.id() == session {
            return Some(replies);
        }
        // In which session it was done is not known: it must be in none.
        let unlocks: Vec<LockRequest> =
            steps.iter().map(|step| LockRequest { mode: None, ..*step }).collect();
        self.mutate(&unlocks, None).await;
        None
    }

    async fn mutate(
        &self,
        steps: &[LockRequest],
        ticket: Option<u64>,
    ) -> Vec<Result<Reply, Errno>> {
        let set = |request: &LockRequest| {
            let ticket = ticket.filter(|_| request.mode.is_some());
            Op::Lock(SetLock { request: *request, ticket })
        };
        self.session.mutate_all(steps.iter().map(set).collect()).await
    }

    /// Gives up everything of those that `whose` names when it is their turn.
    async fn give_up(
        self: &Arc<Self>,
        ino: Ino,
        file: Arc<FileLocks>,
        whose: impl FnOnce(&mut OwnLocks) -> Vec<(LockKind, LockOwner)> + Send + 'static,
    ) {
        let mut turn = Box::pin(Arc::clone(&file.order).lock_owned());
        // In line from here on, whenever the task below begins.
        let turn = match futures::poll!(turn.as_mut()) {
            std::task::Poll::Ready(turn) => Either::Left(ready(turn)),
            std::task::Poll::Pending => Either::Right(turn),
        };
        let locks = Arc::clone(self);
        let work = tokio::spawn(async move {
            let turn = turn.await;
            let unlock = |(kind, owner)| {
                let (pid, range, mode) = (0, LockRange::WHOLE, None);
                LockRequest { ino, kind, owner, pid, range, mode }
            };
            let steps: Vec<LockRequest> =
                whose(&mut file.own.lock()).into_iter().map(unlock).collect();
            if !steps.is_empty() {
                locks.unlock(&file, &steps).await;
            }
            drop((turn, file));
            locks.tidy(ino);
        });
        // Longer than that nobody waits; the work goes on.
        drop(tokio::time::timeout(PATIENCE, work).await);
    }

    async fn unlock(&self, file: &FileLocks, steps: &[LockRequest]) {
        let session = self.session.id();
        let replies = self.ask(session, steps, None).await.into_iter().flatten();
        for (step, reply) in steps.iter().zip(replies) {
            if let Err(errno) = &reply {
                // The file is gone, or the session: so is the lock.
                log::debug!("inode {}: a lock was not given up: {errno}", step.ino);
            }
            file.own.lock().done(step, Handle(0), session);
        }
    }

    /// The locks on a file.
    fn of(&self, ino: Ino) -> Arc<FileLocks> {
        Arc::clone(self.table.lock().entry(ino).or_default())
    }

    fn find(&self, ino: Ino) -> Option<Arc<FileLocks>> {
        self.table.lock().get(&ino).map(Arc::clone)
    }

    /// Forgets a file of which nobody here wants anything.
    fn tidy(&self, ino: Ino) {
        let mut table = self.table.lock();
        // The table's lock is held, so nobody can take what only the table has.
        let is_idle = table
            .get(&ino)
            .is_some_and(|file| Arc::strong_count(file) == 1 && file.own.lock().is_empty());
        if is_idle {
            table.remove(&ino);
        }
    }
}

/// Whether a step was done: what is to be given up on a file that is gone is.
fn is_done(step: &LockRequest, reply: &Result<Reply, Errno>) -> bool {
    match reply {
        Ok(_) => true,
        Err(errno) => step.mode.is_none() && *errno == Errno::Stale,
    }
}

/// A lock that was granted. Unless its program hears of it ([`Self::keep`]) it is undone.
struct Granted {
    locks: Arc<Locks>,
    file: Arc<FileLocks>,
    turn: Option<Turn>,
    handle: Handle,
    session: SessionId,
    undo: Vec<LockRequest>,
}

impl Granted {
    fn keep(mut self) {
        self.undo.clear();
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        if undo.is_empty() {
            return;
        }
        let (locks, file) = (Arc::clone(&self.locks), Arc::clone(&self.file));
        let (turn, handle, session) = (self.turn.take(), self.handle, self.session);
        self.locks.runtime.spawn(async move {
            let replies = locks.ask(session, &undo, None).await.into_iter().flatten();
            for (step, _) in undo.iter().zip(replies).filter(|(step, reply)| is_done(step, reply)) {
                file.own.lock().done(step, handle, session);
            }
            drop(turn);
        });
    }
}
