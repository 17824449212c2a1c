//! Taking the exclusive grant of a file, and giving it back.
//!
//! Whoever changes a file does so under a [`Use`] of the grant. A recall sets a flag that lets no new use
//! begin, has everything dirty committed, waits for the uses under way, and releases. None of this waits for
//! [`File::order`], so that a recall never waits for somebody who waits for a grant.
//!
//! What was read under the grant is in pages that the kernel keeps beyond it. Of a file that is open for reading a shared
//! lease is taken before the grant is released: so the monitors ask for the pages, as they always do ([`leases`]), before
//! anybody else changes the file. (To leave it to the kernel would not do. It drops old pages when it sees another mtime;
//! but the second of two readers does so too and goes on while the first has only begun to, and nobody looks under a
//! mapping.)
//!
//! [`leases`]: super::leases
//!
//! A file of which something was written under a session that is lost is taken back ([`Grants::take_back`]): with the
//! grant comes its version, and by that is decided what becomes of it ([`super::core::stranded`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::core::map::FileMap;
use super::file::{File, FileState, Grant};
use super::flusher::Flusher;
use super::parking::Parking;
use super::session::Session;
use crate::types::{Attr, Errno, Ino, SessionId};
use crate::wire::metadata::{Op, Query, Reply};

/// A recall of something that we do not hold is remembered this long: its grant may be on the way to us.
const EARLY_RECALL: Duration = Duration::from_secs(10);
/// Releases of closed files gather this long.
const RELEASE_LINGER: Duration = Duration::from_millis(50);
/// A lease is refused while somebody changes attributes of the file: it is asked for again so often, and so much later.
const LEASE_TRIES: u32 = 100;
const LEASE_PAUSE: Duration = Duration::from_millis(5);

/// See the module.
pub(crate) struct Grants {
    session: Arc<Session>,
    flusher: Arc<Flusher>,
    parking: Parking,
    early: Mutex<HashMap<Ino, Duration>>,
}

/// The exclusive grant of a file is ours for as long as this lives.
#[derive(Debug)]
pub(crate) struct Use(Arc<File>);

impl Drop for Use {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.users -= 1;
        let awaited = state.users == 0;
        drop(state);
        if awaited {
            self.0.changed.notify_waiters();
        }
    }
}

/// What somebody who wants a grant does next.
enum Next {
    Go(Use),
    Acquire,
}

/// Why a grant that somebody else wants cannot be released yet.
enum Kept {
    /// It can.
    Not,
    /// There is dirty data.
    Dirty,
    /// The kernel keeps pages, and nobody would ask for them.
    Cached,
}

impl Grants {
    /// Nothing held.
    pub(crate) fn new(session: Arc<Session>, flusher: Arc<Flusher>, parking: Parking) -> Arc<Self> {
        Arc::new(Self { session, flusher, parking, early: Mutex::default() })
    }

    /// Takes the exclusive grant, unless it is held already, and keeps it while the result lives. Waits for
    /// other sessions to give it up.
    pub(crate) async fn hold(self: &Arc<Self>, file: &Arc<File>) -> Result<Use, Errno> {
        self.session.wait_for_lease().await;
        let next = file.when(|state| match state.grant {
            Grant::Held if !state.recalled => Some(Next::Go(begin_use(file, state))),
            Grant::Nothing => {
                state.grant = Grant::Acquiring;
                Some(Next::Acquire)
            }
            Grant::Held | Grant::Acquiring | Grant::Releasing => None,
        });
        match next.await {
            Next::Go(held) => Ok(held),
            Next::Acquire => self.acquire(file).await,
        }
    }

    /// The grant came together with a new file.
    pub(crate) fn created(self: &Arc<Self>, file: &Arc<File>, attr: Attr, creator: SessionId) {
        let mut state = file.state.lock();
        if state.grant != Grant::Nothing || self.session.id() != creator {
            // Somebody has found and opened it before the answer to its creator arrived here; or the session
            // was lost, and the grant with it.
            return;
        }
        state.map = FileMap::empty(attr.dv);
        state.granted(attr, creator);
        self.check_early_recall(file, &mut state);
    }

    /// Takes a file of which something is stranded.
    pub(crate) async fn take_back(self: Arc<Self>, file: Arc<File>) {
        // Without it what was stranded is settled, too.
        drop(self.hold(&file).await);
        if file.state.lock().may_release() {
            self.flusher.release_later(&file);
        }
    }

    /// Somebody else wants these: everything that is buffered is committed, and they are released.
    pub(crate) fn recall(self: &Arc<Self>, files: Vec<(Ino, Option<Arc<File>>)>) {
        for (ino, file) in files {
            let held = file.filter(|file| {
                let mut state = file.state.lock();
                let held = state.grant == Grant::Held;
                state.recalled |= held;
                held
            });
            match held {
                Some(file) => drop(tokio::spawn(Arc::clone(self).give_up(file))),
                None => drop(self.early.lock().insert(ino, self.session.monotonic())),
            }
        }
        self.flusher.hurry_all();
    }

    /// Releases files that were closed and are clean, many at a time, for ever.
    pub(crate) async fn release_clean(
        self: Arc<Self>,
        mut clean: mpsc::UnboundedReceiver<Arc<File>>,
    ) {
        while let Some(first) = clean.recv().await {
            tokio::time::sleep(RELEASE_LINGER).await;
            let mut files = vec![first];
            while let Ok(file) = clean.try_recv() {
                files.push(file);
            }
            self.release(files).await;
        }
    }

    /// Releases those of `files` that may be.
    pub(crate) async fn release(&self, files: Vec<Arc<File>>) {
        let releasing: Vec<Arc<File>> = files
            .into_iter()
            .filter(|file| {
                let mut state = file.state.lock();
                let may = state.may_release();
                if may {
                    state.grant = Grant::Releasing;
                }
                may
            })
            .collect();
        if releasing.is_empty() {
            return;
        }
        let ops = releasing.iter().map(|file| Op::Release { ino: file.ino }).collect();
        let replies = self.session.mutate_all(ops).await;
        for (file, reply) in releasing.iter().zip(replies) {
            if let Err(errno) = reply {
                log::debug!("inode {}: release: {errno}", file.ino);
            }
            // Released, or gone together with the file or the session.
            file.state.lock().ungranted();
            file.changed.notify_waiters();
        }
    }

    async fn acquire(self: &Arc<Self>, file: &Arc<File>) -> Result<Use, Errno> {
        let (done, result) = oneshot::channel();
        let (grants, file) = (Arc::clone(self), Arc::clone(file));
        // By itself, so that it is carried through even if the caller stops waiting.
        tokio::spawn(async move {
            let (reply, holder, mut state) = loop {
                if file.state.lock().stranded.is_some() {
                    // Commits that were on their way say first whether they were done.
                    file.when_settled().await;
                }
                let holder = grants.session.id();
                let reply = grants.session.mutate(Op::Acquire { ino: file.ino }).await;
                if grants.session.id() == holder {
                    grants.park_overtaken(&file, &reply).await;
                }
                let state = file.state.lock();
                if grants.session.id() == holder {
                    break (reply, holder, state);
                }
                // The session was lost meanwhile: what the answer says is of the past.
            };
            let result = match reply {
                Ok(Reply::Inode(attr)) => {
                    state.granted(attr, holder);
                    grants.restore(&file, &mut state);
                    let held = begin_use(&file, &mut state);
                    grants.check_early_recall(&file, &mut state);
                    Ok(held)
                }
                Ok(_) => Err(Errno::Io),
                Err(errno) => Err(errno),
            };
            if result.is_err() {
                drop(grants.flusher.take_stranded(&mut state));
                state.ungranted();
            }
            drop(state);
            file.changed.notify_waiters();
            // Nobody waits any more: the use ends at once.
            drop(done.send(result));
        });
        result.await.unwrap_or(Err(Errno::Io))
    }

    /// What is stranded of a file is kept for people if others have changed it, or it cannot be had, and the file's
    /// programs are told. Nobody wants what was written to a file without a name.
    async fn park_overtaken(&self, file: &Arc<File>, reply: &Result<Reply, Errno>) {
        let version = match reply {
            Ok(Reply::Inode(attr)) => Some(attr.dv),
            _ => None,
        };
        let (overtaken, is_gone) = {
            let mut state = file.state.lock();
            let is_gone = state.gone;
            let Some(stranded) = &mut state.stranded else { return };
            let may_follow = version.is_some_and(|version| stranded.is_based_on(version));
            if may_follow || stranded.is_empty() {
                return;
            }
            (stranded.take(), is_gone)
        };
        if !is_gone {
            self.parking.park(file.ino, overtaken).await;
        }
        file.state.lock().fail(Errno::Io);
    }

    /// What is stranded of a file that is held again is dirty again.
    fn restore(&self, file: &Arc<File>, state: &mut FileState) {
        let stranded = self.flusher.take_stranded(state);
        if let Some(stranded) = stranded.filter(|stranded| !stranded.is_empty()) {
            let (ino, bytes) = (file.ino, stranded.bytes());
            log::warn!("inode {ino}: {bytes} bytes that were written before are written again");
            self.flusher.restore(file, state, &stranded);
        }
    }

    fn check_early_recall(self: &Arc<Self>, file: &Arc<File>, state: &mut FileState) {
        let mut early = self.early.lock();
        let now = self.session.monotonic();
        early.retain(|_, since| now < *since + EARLY_RECALL);
        if early.remove(&file.ino).is_some() {
            state.recalled = true;
            tokio::spawn(Arc::clone(self).give_up(Arc::clone(file)));
        }
    }

    /// Commits what is dirty, waits for uses to end, and releases.
    async fn give_up(self: Arc<Self>, file: Arc<File>) {
        loop {
            self.flusher.flush(&file).await;
            let kept = file.when(|state| {
                if state.grant != Grant::Held || state.may_release() {
                    Some(Kept::Not)
                } else if !state.is_clean() {
                    Some(Kept::Dirty)
                } else {
                    (state.users == 0).then_some(Kept::Cached)
                }
            });
            match kept.await {
                Kept::Not => break,
                Kept::Dirty => {}
                Kept::Cached => self.lease(&file).await,
            }
        }
        self.release(vec![file]).await;
    }

    /// Takes a shared lease beside the grant.
    async fn lease(&self, file: &File) {
        let is_leased = || self.session.believed(file.ino).is_some();
        for _ in 0..LEASE_TRIES {
            let asked = self.session.query(Query::Attr { ino: file.ino }).await;
            // A recall of it may cross: it is forgotten from then on, and until it is over the file yields.
            file.leased(is_leased());
            if is_leased() {
                return;
            }
            if asked.is_err() {
                break;
            }
            tokio::time::sleep(LEASE_PAUSE).await;
        }
        // Without one too, after so long: others wait.
        file.leased(true);
    }
}

fn begin_use(file: &Arc<File>, state: &mut FileState) -> Use {
    state.users += 1;
    Use(Arc::clone(file))
}
