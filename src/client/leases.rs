//! Shared leases: what this client believes, and giving them back when the monitors want them.
//!
//! What is believed is decided in [`core::beliefs`](super::core::beliefs); here it meets those who ask, recalls, and
//! the kernel. The life of a recall: the inodes are forgotten at once, so that from now on everybody asks the
//! monitors; the [`Kernel`] is told to forget what it may still believe; then the leases are given back, many in one
//! message, and with them goes word of which of these files are open, for under a lease a file is opened without
//! telling anybody.
//!
//! Leases are worth nothing to another leader, and all are given up before the session is attached to one: so a new
//! leader need not be told of them, and how long a failover takes does not depend on how many files anybody has looked
//! at. The price is that they are asked for again. They are suspended, and not lost, while the monitors cannot be
//! reached: whoever asks [`Session::lease_holds`] first sees to that.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::core::beliefs::{BELIEVED_BY_KERNEL, Beliefs, Consequences, Forgotten, Ticket};
use super::file::{File, Yielding};
use super::files::Files;
use super::session::Session;
use crate::types::{Attr, Errno, Ino, LeaseStamp};
use crate::wire::leases::{Aftermath, GiveBack, Leased};
use crate::wire::metadata::{Answer, Mutation, Op, PINS_MAX, Query, Reply, Request, Space};

/// How often is looked whether too much is believed.
const GIVE_UP_EVERY: Duration = Duration::from_secs(1);

/// The kernel's caches.
pub trait Kernel: Send + Sync {
    /// Has the kernel forget that. Resolves when it has, or would not believe it any more by itself.
    fn forget(&self, stale: Vec<Stale>) -> BoxFuture<'static, ()>;
}

/// What the kernel may believe of an inode and is about to be wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stale {
    /// The inode.
    pub ino: Ino,
    /// For so long it may believe the attributes that it was told.
    pub attr_for: Duration,
    /// For so long it may believe that these names are in the directory or are not.
    pub names_for: Duration,
    /// The names.
    pub names: Vec<Vec<u8>>,
    /// Its pages that have to go, by their bytes.
    pub pages: Vec<Range<u64>>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Leases {
    beliefs: Mutex<Beliefs>,
    kernel: OnceLock<Arc<dyn Kernel>>,
    returns: Mutex<Returns>,
    returned: Notify,
    recalls: AtomicU64,
    /// How full the root volume is, unless we have changed something since it was told.
    space: Mutex<Option<Space>>,
}

/// What is to be given back next.
#[derive(Default)]
struct Returns {
    leases: Vec<(Ino, LeaseStamp)>,
    pins: Vec<(Ino, u64)>,
}

/// A call to the monitors is under way.
pub(crate) struct Asking<'a> {
    leases: &'a Leases,
    ticket: Ticket,
    is_answered: bool,
}

impl Leases {
    /// From now on it is told what it has to forget.
    pub(crate) fn kernel_is(&self, kernel: Arc<dyn Kernel>) {
        assert!(self.kernel.set(kernel).is_ok(), "a filesystem is mounted once");
    }

    /// The monitors are about to be asked something.
    pub(crate) fn ask(&self) -> Asking<'_> {
        Asking { leases: self, ticket: self.beliefs.lock().begin(), is_answered: false }
    }

    /// The answer to a question, if it is known. To be asked only while the session's lease holds.
    pub(crate) fn answer(&self, query: &Query) -> Option<Result<Answer, Errno>> {
        self.beliefs.lock().answer(query)
    }

    /// Whether anything is believed of an inode.
    pub(crate) fn knows(&self, ino: Ino) -> bool {
        self.beliefs.lock().knows(ino)
    }

    /// An inode's attributes, if they are known. Likewise.
    pub(crate) fn attr(&self, ino: Ino) -> Option<Attr> {
        self.beliefs.lock().attr(ino).cloned()
    }

    /// How full the root volume was when our session was renewed last, if nothing of ours has changed that.
    pub(crate) fn space(&self) -> Option<Space> {
        *self.space.lock()
    }

    /// The root volume is so full.
    pub(crate) fn told_space(&self, space: Space) {
        *self.space.lock() = Some(space);
    }

    /// The monitors want these back.
    pub(crate) fn recalled(
        self: &Arc<Self>,
        mut inos: Vec<Ino>,
        heard: LeaseStamp,
        files: &Arc<Files>,
        now: Duration,
    ) {
        self.recalls.fetch_add(inos.len() as u64, Ordering::Relaxed);
        let mut open = Vec::new();
        inos.retain(|ino| match files.find(*ino).map(begin_to_yield) {
            // It is being given back already.
            Some(Yields::Already) => false,
            Some(Yields::Begins(file)) => {
                open.push(file);
                true
            }
            Some(Yields::IsClosed) | None => true,
        });
        let forgotten = self.beliefs.lock().recalled(&inos, now);
        let has_to_forget =
            self.kernel.get().is_some() && !(forgotten.is_empty() && open.is_empty());
        let (leases, files) = (Arc::clone(self), Arc::clone(files));
        let give_back = move |leases: &Self| {
            // Whoever opens one of them from now on tells the monitors.
            let pins = files.pins_of(&inos);
            leases.give_back(inos.into_iter().map(|ino| (ino, heard)), pins);
        };
        if has_to_forget {
            tokio::spawn(async move {
                leases.yield_pages(forgotten, &open, now).await;
                give_back(&leases);
                open.iter().for_each(|file| go_on(file));
            });
        } else {
            give_back(self);
            open.iter().for_each(|file| go_on(file));
        }
    }

    /// Has the kernel forget all of it, and the pages of open files in two steps (see [`Yielding`]).
    async fn yield_pages(&self, forgotten: Vec<Forgotten>, open: &[Arc<File>], now: Duration) {
        let whole = open.iter().map(|file| Stale::all_pages(file.ino));
        self.forget_in_kernel(forgotten, whole.collect(), now).await;
        let read_meanwhile = open.iter().filter_map(|file| {
            let yielding = std::mem::replace(&mut file.state.lock().yielding, Yielding::Holding);
            match yielding {
                Yielding::Draining(read) if !read.is_empty() => Some(Stale::pages(file.ino, read)),
                _ => None,
            }
        });
        self.forget_in_kernel(Vec::new(), read_meanwhile.collect(), now).await;
    }

    /// Believes nothing any more. Resolves when the kernel does not, either.
    pub(crate) async fn give_up_all(&self, files: &Files, now: Duration) {
        let forgotten = self.beliefs.lock().forget_all();
        *self.returns.lock() = Returns::default();
        let open = files.all().into_iter().filter(|file| file.state.lock().handles > 0);
        let pages = open.map(|file| Stale::all_pages(file.ino)).collect();
        self.forget_in_kernel(forgotten, pages, now).await;
    }

    /// Gives back what was used least lately when there is too much, for ever.
    pub(crate) async fn keep_small(self: Arc<Self>, session: Arc<Session>, files: Arc<Files>) {
        loop {
            tokio::time::sleep(GIVE_UP_EVERY).await;
            let is_open = |ino| files.find(ino).is_some_and(|file| file.state.lock().handles > 0);
            let given_up = self.beliefs.lock().give_up(session.monotonic(), is_open);
            let inos: Vec<Ino> = given_up.iter().map(|forgotten| forgotten.ino).collect();
            let leases = given_up.into_iter().map(|forgotten| (forgotten.ino, forgotten.heard));
            // One may have been opened meanwhile.
            self.give_back(leases, files.pins_of(&inos));
        }
    }

    /// Tells the monitors what is given back, for ever.
    pub(crate) async fn tell(self: Arc<Self>, session: Arc<Session>) {
        loop {
            self.returned.notified().await;
            let Returns { leases, pins } = std::mem::take(&mut *self.returns.lock());
            let mut pins = pins.chunks(PINS_MAX);
            for leases in leases.chunks(PINS_MAX) {
                let (leases, pins) = (leases.to_vec(), pins.next().unwrap_or_default().to_vec());
                let session_id = session.id();
                let back = GiveBack { session: session_id, leases, pins };
                session.tell(&Request::GiveBack(back)).await;
            }
        }
    }

    /// The kernel is told these attributes: for how long it may believe them.
    pub(crate) fn tell_attr(&self, attr: &Attr, now: Duration, lease_end: Duration) -> Duration {
        self.beliefs.lock().tell_attr(attr, now, lease_end)
    }

    /// The kernel is told where a name leads: for how long it may believe that.
    pub(crate) fn tell_name(
        &self,
        name: (Ino, &[u8]),
        ino: Option<Ino>,
        now: Duration,
        lease_end: Duration,
    ) -> Duration {
        self.beliefs.lock().tell_name(name, ino, now, lease_end)
    }

    /// Whether the kernel need not be told again that a name in `dir` leads to `ino`.
    pub(crate) fn is_told(&self, dir: Ino, ino: Ino, now: Duration) -> bool {
        self.beliefs.lock().is_told(dir, ino, now)
    }

    /// How many inodes are believed in, and how many were wanted back so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let believed = self.beliefs.lock().count() as u64;
        (believed, self.recalls.load(Ordering::Relaxed))
    }

    fn give_back(
        &self,
        leases: impl IntoIterator<Item = (Ino, LeaseStamp)>,
        pins: Vec<(Ino, u64)>,
    ) {
        let mut returns = self.returns.lock();
        returns.leases.extend(leases);
        returns.pins.extend(pins);
        if !returns.leases.is_empty() {
            self.returned.notify_one();
        }
    }

    /// Has the kernel forget what a change of ours has made stale that it takes for failed.
    pub(crate) fn forget_changed(&self, stale: Vec<Stale>) -> BoxFuture<'static, ()> {
        self.forget_in_kernel(Vec::new(), stale, Duration::ZERO)
    }

    /// Has the kernel forget that, and these pages.
    fn forget_in_kernel(
        &self,
        forgotten: Vec<Forgotten>,
        pages: Vec<Stale>,
        now: Duration,
    ) -> BoxFuture<'static, ()> {
        let beliefs = forgotten.into_iter().map(|forgotten| Stale::beliefs(forgotten, now));
        let stale: Vec<Stale> = beliefs.chain(pages).collect();
        match self.kernel.get().filter(|_| !stale.is_empty()) {
            Some(kernel) => kernel.forget(stale),
            None => std::future::ready(()).boxed(),
        }
    }
}

/// What to do about the pages of a file whose lease is wanted back.
enum Yields {
    /// Drop them; reads are noted from now on.
    Begins(Arc<File>),
    /// That is being done.
    Already,
    /// Nobody looks at them.
    IsClosed,
}

fn begin_to_yield(file: Arc<File>) -> Yields {
    let mut state = file.state.lock();
    if state.yielding != Yielding::No {
        return Yields::Already;
    }
    if state.handles == 0 {
        return Yields::IsClosed;
    }
    state.yielding = Yielding::Draining(Vec::new());
    state.leased = false;
    drop(state);
    Yields::Begins(file)
}

fn go_on(file: &File) {
    file.state.lock().yielding = Yielding::No;
    file.changed.notify_waiters();
}

impl Stale {
    /// An inode and so many names in it, after a change of which the kernel knows nothing.
    pub(crate) fn changed(ino: Ino, names: Vec<Vec<u8>>) -> Self {
        let names_for = if names.is_empty() { Duration::ZERO } else { BELIEVED_BY_KERNEL };
        Self { ino, attr_for: BELIEVED_BY_KERNEL, names_for, names, pages: Vec::new() }
    }

    fn all_pages(ino: Ino) -> Self {
        Self::pages(ino, std::iter::once(0..u64::MAX).collect())
    }

    fn pages(ino: Ino, pages: Vec<Range<u64>>) -> Self {
        let (attr_for, names_for) = (Duration::ZERO, Duration::ZERO);
        Self { ino, attr_for, names_for, names: Vec::new(), pages }
    }

    fn beliefs(forgotten: Forgotten, now: Duration) -> Self {
        let names_for = forgotten.names_until.saturating_sub(now);
        Self {
            ino: forgotten.ino,
            attr_for: forgotten.attr_until.saturating_sub(now),
            names_for,
            names: if names_for.is_zero() { Vec::new() } else { forgotten.names },
            pages: Vec::new(),
        }
    }
}

impl Asking<'_> {
    /// The answers have come.
    pub(crate) fn answered(
        mut self,
        queries: &[Query],
        answers: &[Result<Answer, Errno>],
        leased: &Leased,
    ) {
        self.is_answered = true;
        let useless = self.leases.beliefs.lock().learn(&self.ticket, queries, answers, leased);
        self.leases.give_back(useless, Vec::new());
    }

    /// Changes of our own were answered.
    pub(crate) fn changed(
        mut self,
        mutations: &[Mutation],
        replies: &[Result<Reply, Errno>],
        after: &Aftermath,
        now: Duration,
    ) {
        self.is_answered = true;
        let leases = self.leases;
        if mutations.iter().any(|one| !matches!(one.op, Op::Accessed { .. })) {
            *leases.space.lock() = None;
        }
        let changes = mutations.iter().map(|one| &one.op).zip(replies);
        let Consequences { orphaned, useless } =
            leases.beliefs.lock().changed_all(&self.ticket, changes, after, now);
        leases.give_back(useless, Vec::new());
        if !orphaned.is_empty() {
            tokio::spawn(leases.forget_in_kernel(orphaned, Vec::new(), now));
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.leases.beliefs.lock().done(&self.ticket);
        }
    }
}
