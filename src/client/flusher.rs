//! Takes dirty data to the cluster.
//!
//! One task (`owner`) owns the order of things. It *freezes* dirty runs into stripes: a run that is a whole stripe at
//! once and without copying; small runs of many files together, once there is a stripe's worth of them, when
//! they are a second old, or when somebody waits. It has up to a few stripes *placed* at a time, in parallel;
//! and it *commits* them in the order of freezing, several in one request, because a later one may carry newer
//! bytes of the same blocks. Then the memory is free for more.
//!
//! Writers are held back while too much is on its way ([`admission`](super::admission)).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::core::buffer::Weight;
use super::core::pool::Pool;
use super::core::rooms::Rooms;
use super::core::stranded::{DIRTY, Stranded};
use super::file::{File, FileState};
use super::freeze::{Frozen, Which};
use super::placer::Placer;
use super::session::Session;
use crate::types::limits::STRIPE_BYTES_MAX;

/// A stripe's worth of bytes.
pub(super) const STRIPE: u64 = STRIPE_BYTES_MAX as u64;
/// Most bytes dirty or on their way.
pub(super) const BUDGET: u64 = 128 << 20;
/// With this much dirty, everything is frozen as fast as it can be placed.
pub(super) const PRESSURE: u64 = BUDGET / 2;
/// How often somebody who waits asks again.
const HURRY_AGAIN: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Flusher {
    pub(super) session: Arc<Session>,
    pub(super) placer: Placer,
    pool: Arc<Pool>,
    pub(super) totals: Totals,
    pub(super) lists: Mutex<Lists>,
    /// Something to freeze, or somebody waits.
    pub(super) kick: Notify,
    /// Something was committed or dropped.
    pub(super) freed: Notify,
    /// What may be buffered in each volume.
    pub(super) rooms: Arc<Mutex<Rooms>>,
    /// One reservation at a time: each names the whole sum.
    pub(super) reserving: tokio::sync::Mutex<()>,
    clean_files: mpsc::UnboundedSender<Arc<File>>,
}

/// Sums over all files.
#[derive(Default)]
pub(super) struct Totals {
    /// Bytes that are dirty.
    pub(super) dirty: AtomicU64,
    /// Of them, those in small runs.
    pub(super) small: AtomicU64,
    /// Bytes that are frozen and not committed.
    pub(super) frozen: AtomicU64,
    /// Files of which something is stranded.
    stranded: AtomicU64,
}

/// Files by why they want to be frozen.
#[derive(Default)]
pub(super) struct Lists {
    /// Have a run that is a whole stripe.
    pub(super) full: VecDeque<Arc<File>>,
    /// Somebody waits.
    pub(super) urgent: VecDeque<Arc<File>>,
    /// Have dirty data, each file once, by when the oldest of it was written.
    pub(super) dirty: VecDeque<(Duration, Arc<File>)>,
    /// Somebody waits for everything that was written up to then.
    pub(super) all: Option<Duration>,
    /// Somebody waits for what is frozen already.
    pub(super) commit_now: bool,
}

impl Flusher {
    /// A flusher; [`super::owner::run`] must be running. The receiver gets closed files that have become clean.
    pub(crate) fn new(
        session: Arc<Session>,
        placer: Placer,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<File>>) {
        let (clean_files, became_clean) = mpsc::unbounded_channel();
        let flusher = Arc::new(Self {
            session,
            placer,
            pool: Pool::new(usize::try_from(BUDGET / STRIPE).expect("small")),
            totals: Totals::default(),
            lists: Mutex::default(),
            kick: Notify::new(),
            freed: Notify::new(),
            rooms: Arc::default(),
            reserving: tokio::sync::Mutex::default(),
            clean_files,
        });
        (flusher, became_clean)
    }

    /// Where write buffers get their memory.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The dirty data of a file changed; `before` is how much there was. Called with its state locked.
    pub(crate) fn note(&self, file: &Arc<File>, state: &mut FileState, before: Weight) {
        let now = state.buffer.weight();
        self.totals.dirty.fetch_add(now.bytes.wrapping_sub(before.bytes), Ordering::Relaxed);
        self.totals.small.fetch_add(now.small.wrapping_sub(before.small), Ordering::Relaxed);
        if now.bytes != before.bytes {
            self.rooms.lock().buffered(state.volume(), before.bytes, now.bytes);
        }
        let newly_listed = now.bytes > 0 && !state.listed;
        let newly_full = now.full > before.full;
        if newly_listed || newly_full {
            let mut lists = self.lists.lock();
            if newly_listed {
                state.listed = true;
                lists.insert(state.buffer.oldest().unwrap_or_default(), file);
            }
            if newly_full {
                lists.full.push_back(Arc::clone(file));
            }
        }
        if newly_listed || newly_full || self.totals.small.load(Ordering::Relaxed) >= STRIPE {
            self.kick.notify_one();
        }
        if now.bytes < before.bytes {
            self.freed.notify_waiters();
        }
    }

    /// Starts taking everything of a file to the cluster.
    pub(crate) fn hurry(&self, file: &Arc<File>) {
        let mut lists = self.lists.lock();
        lists.urgent.push_back(Arc::clone(file));
        lists.commit_now = true;
        drop(lists);
        self.kick.notify_one();
    }

    /// Starts taking everything to the cluster.
    pub(crate) fn hurry_all(&self) {
        let mut lists = self.lists.lock();
        lists.all = Some(self.session.monotonic());
        lists.commit_now = true;
        drop(lists);
        self.kick.notify_one();
    }

    /// Waits until everything that was written to a file before is committed (or lost, which the file remembers).
    pub(crate) async fn flush(&self, file: &Arc<File>) {
        let moment = self.session.monotonic();
        while !file.state.lock().is_flushed(moment) {
            self.hurry(file);
            // Again after a while: what was hurried may have gone a way on which nobody hurries it.
            tokio::time::timeout(HURRY_AGAIN, file.when_flushed(moment)).await.ok();
        }
    }

    /// [`Self::flush`] for many files.
    pub(crate) async fn flush_all(&self, files: &[Arc<File>]) {
        let moment = self.session.monotonic();
        for file in files {
            while !file.state.lock().is_flushed(moment) {
                self.hurry_all();
                tokio::time::timeout(HURRY_AGAIN, file.when_flushed(moment)).await.ok();
            }
        }
    }

    /// Everything dirty of a file is to be forgotten. Called with its state locked.
    pub(crate) fn discard(&self, file: &Arc<File>, state: &mut FileState) {
        let before = state.buffer.weight();
        state.buffer.truncate(0);
        drop(self.take_stranded(state));
        self.note(file, state, before);
    }

    /// The session is lost: what is not committed is set aside, but for what is on its way. Called with the file's
    /// state locked.
    pub(crate) fn strand(&self, file: &Arc<File>, state: &mut FileState) {
        let before = state.buffer.weight();
        let frozen = state.frozen.iter().map(|part| part.born);
        let born = frozen.chain(state.buffer.oldest()).min().unwrap_or_default();
        let mut stranded = self
            .take_stranded(state)
            .unwrap_or_else(|| Stranded::new(state.map.dv(), state.size, state.mtime, born));
        for part in state.frozen.extract_if(.., |part| !part.sent) {
            stranded.add(part.seq, part.pieces);
        }
        stranded.add(DIRTY, state.buffer.take_all());
        state.stranded = Some(stranded);
        self.totals.stranded.fetch_add(1, Ordering::Relaxed);
        self.note(file, state, before);
    }

    /// What is stranded of a file is settled. Called with its state locked.
    pub(crate) fn take_stranded(&self, state: &mut FileState) -> Option<Stranded> {
        let stranded = state.stranded.take()?;
        self.totals.stranded.fetch_sub(1, Ordering::Relaxed);
        Some(stranded)
    }

    /// The file is held again, and nobody has changed it: what was stranded is dirty again. Called with its state
    /// locked.
    pub(crate) fn restore(&self, file: &Arc<File>, state: &mut FileState, stranded: &Stranded) {
        let before = state.buffer.weight();
        for (offset, bytes) in stranded.pieces() {
            state.buffer.write(offset, bytes, stranded.born, &self.pool);
        }
        state.size = state.size.max(stranded.size);
        state.mtime = stranded.mtime;
        self.note(file, state, before);
    }

    /// A closed file is clean: its grant goes back in time.
    pub(crate) fn release_later(&self, file: &Arc<File>) {
        // Nobody listens any more only while the mount ends, which releases everything.
        self.clean_files.send(Arc::clone(file)).ok();
    }

    /// Whether anything is dirty or on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.uncommitted() == 0 && self.totals.stranded.load(Ordering::Relaxed) == 0
    }

    /// What became of frozen bytes is settled.
    pub(crate) fn frozen_done(&self, frozen: &Frozen) {
        self.totals.frozen.fetch_sub(frozen.bytes, Ordering::Relaxed);
        self.rooms.lock().done(frozen.volume, frozen.bytes);
        self.freed.notify_waiters();
    }

    /// Bytes that are dirty or on their way.
    pub(super) fn uncommitted(&self) -> u64 {
        self.totals.dirty.load(Ordering::Relaxed) + self.totals.frozen.load(Ordering::Relaxed)
    }

    /// Some of what was dirty is frozen.
    pub(super) fn taken(&self, before: Weight, now: Weight) {
        self.totals.frozen.fetch_add(before.bytes - now.bytes, Ordering::Relaxed);
        self.totals.dirty.fetch_sub(before.bytes - now.bytes, Ordering::Relaxed);
        self.totals.small.fetch_sub(before.small - now.small, Ordering::Relaxed);
    }

    /// What is left of a file after some of it was taken is listed as it was before.
    pub(super) fn list_again(&self, file: &Arc<File>, state: &mut FileState, which: Which) {
        let now = state.buffer.weight();
        let mut lists = self.lists.lock();
        match which {
            Which::Full if now.full > 0 => lists.full.push_front(Arc::clone(file)),
            Which::Urgent if now.bytes > 0 => lists.urgent.push_front(Arc::clone(file)),
            Which::Full | Which::Urgent => {}
            Which::Small | Which::Older(_) | Which::All => match state.buffer.oldest() {
                Some(oldest) => lists.insert(oldest, file),
                None => state.listed = false,
            },
        }
    }

    /// The next file of a list.
    pub(super) fn next(&self, which: Which) -> Option<Arc<File>> {
        let mut lists = self.lists.lock();
        match which {
            Which::Full => lists.full.pop_front(),
            Which::Urgent => lists.urgent.pop_front(),
            Which::Small | Which::Older(_) | Which::All => Some(lists.dirty.pop_front()?.1),
        }
    }
}

impl Lists {
    /// A file has dirty data; since when.
    pub(super) fn insert(&mut self, oldest: Duration, file: &Arc<File>) {
        let at = self.dirty.partition_point(|(listed, _)| *listed <= oldest);
        self.dirty.insert(at, (oldest, Arc::clone(file)));
    }
}
