//! Takes dirty data to the cluster.
//!
//! One task owns the order of things. It *freezes* dirty runs into stripes: a run that is a whole stripe at
//! once and without copying; small runs of many files together, once there is a stripe's worth of them, when
//! they are a second old, or when somebody waits. It has up to a few stripes *placed* at a time, in parallel;
//! and it *commits* them in the order of freezing, several in one request, because a later one may carry newer
//! bytes of the same blocks. Then the memory is free for more.
//!
//! Writers are held back while too much is on its way ([`Flusher::admit`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::commit::{self, Ready, Refused};
use super::core::buffer::Weight;
use super::core::commits::{CommitQueue, FreezeSeq};
use super::core::pool::Pool;
use super::file::{File, FileState};
use super::freeze::{Collector, Frozen, Which};
use super::placer::Placer;
use super::session::Session;
use crate::types::Errno;
use crate::types::limits::STRIPE_BYTES_MAX;

const STRIPE: u64 = STRIPE_BYTES_MAX as u64;
/// Most bytes dirty or on their way.
const BUDGET: u64 = 128 << 20;
/// From here on everything dirty is frozen as fast as it can be placed.
const PRESSURE: u64 = BUDGET / 2;
/// Dirty data is frozen when it is this old.
const AGE_MAX: Duration = Duration::from_millis(900);
/// How often somebody who waits asks again.
const HURRY_AGAIN: Duration = Duration::from_millis(500);
/// Stripes being placed at a time; and when somebody waits for one.
const PLACING: usize = 4;
const PLACING_URGENT: usize = 8;

/// See the module.
pub(crate) struct Flusher {
    session: Arc<Session>,
    placer: Placer,
    pool: Arc<Pool>,
    totals: Totals,
    lists: Mutex<Lists>,
    /// Something to freeze, or somebody waits.
    kick: Notify,
    /// Something was committed or dropped.
    freed: Notify,
    clean_files: mpsc::UnboundedSender<Arc<File>>,
}

/// Sums over all files.
#[derive(Default)]
struct Totals {
    dirty: AtomicU64,
    small: AtomicU64,
    frozen: AtomicU64,
}

/// Files by why they want to be frozen.
#[derive(Default)]
struct Lists {
    /// Have a run that is a whole stripe.
    full: VecDeque<Arc<File>>,
    /// Somebody waits.
    urgent: VecDeque<Arc<File>>,
    /// Have dirty data, each file once, by when the oldest of it was written.
    dirty: VecDeque<(Duration, Arc<File>)>,
    /// Somebody waits for everything.
    all: bool,
    /// Somebody waits for what is frozen already.
    commit_now: bool,
}

/// Whether more may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// Yes.
    Go,
    /// When something on its way has arrived.
    Wait,
    /// The cluster is full.
    NoSpace,
}

/// What happens to the owner.
enum Event {
    Placed(Arc<Frozen>, Result<Ready, Errno>),
    Answered(Vec<Refused>),
}

/// What only the owning task sees.
struct Owner {
    flusher: Arc<Flusher>,
    queue: CommitQueue<Ready>,
    placing: usize,
    next_seq: FreezeSeq,
    events: mpsc::UnboundedSender<Event>,
}

impl Flusher {
    /// A flusher; [`Self::run`] must be running. The receiver gets closed files that have become clean.
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
            clean_files,
        });
        (flusher, became_clean)
    }

    /// Where write buffers get their memory.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether `bytes` more may be written now.
    pub(crate) fn admit(&self, bytes: u64) -> Admission {
        let waiting = self.uncommitted();
        let copies = u64::from(self.session.placement().width.parity) + 1;
        if (waiting + bytes).saturating_mul(copies) > self.session.credit() {
            return if waiting == 0 {
                Admission::NoSpace
            } else {
                Admission::Wait
            };
        }
        if waiting > 0 && waiting + bytes > BUDGET {
            Admission::Wait
        } else {
            Admission::Go
        }
    }

    /// Waits until `bytes` more may be written.
    ///
    /// # Errors
    ///
    /// [`Errno::NoSpace`] when the cluster is full.
    pub(crate) async fn wait_for_room(&self, bytes: u64) -> Result<(), Errno> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.admit(bytes) {
                Admission::Go => return Ok(()),
                Admission::NoSpace => {
                    // The credit may have grown since it was told.
                    self.session.renew().await;
                    if self.admit(bytes) == Admission::NoSpace {
                        return Err(Errno::NoSpace);
                    }
                }
                Admission::Wait => {
                    self.lists.lock().all = true;
                    self.kick.notify_one();
                    freed.await;
                }
            }
        }
    }

    /// The dirty data of a file changed; `before` is how much there was. Called with its state locked.
    pub(crate) fn note(&self, file: &Arc<File>, state: &mut FileState, before: Weight) {
        let now = state.buffer.weight();
        self.totals
            .dirty
            .fetch_add(now.bytes.wrapping_sub(before.bytes), Ordering::Relaxed);
        self.totals
            .small
            .fetch_add(now.small.wrapping_sub(before.small), Ordering::Relaxed);
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
        self.lists.lock().all = true;
        self.kick.notify_one();
    }

    /// Waits until everything that was written to a file before is committed (or lost, which the file remembers).
    pub(crate) async fn flush(&self, file: &Arc<File>) {
        let moment = self.session.monotonic();
        while !file.state.lock().is_flushed(moment) {
            self.hurry(file);
            // Again after a while: what was hurried may have gone a way on which nobody hurries it.
            tokio::time::timeout(HURRY_AGAIN, file.when_flushed(moment))
                .await
                .ok();
        }
    }

    /// [`Self::flush`] for many files.
    pub(crate) async fn flush_all(&self, files: &[Arc<File>]) {
        let moment = self.session.monotonic();
        for file in files {
            while !file.state.lock().is_flushed(moment) {
                self.hurry_all();
                tokio::time::timeout(HURRY_AGAIN, file.when_flushed(moment))
                    .await
                    .ok();
            }
        }
    }

    /// Everything dirty of a file is to be forgotten. Called with its state locked.
    pub(crate) fn discard(&self, file: &Arc<File>, state: &mut FileState) {
        let before = state.buffer.weight();
        state.buffer.truncate(0);
        self.note(file, state, before);
    }

    /// A closed file is clean: its grant goes back in time.
    pub(crate) fn release_later(&self, file: &Arc<File>) {
        // Nobody listens any more only while the mount ends, which releases everything.
        self.clean_files.send(Arc::clone(file)).ok();
    }

    /// Whether anything is dirty or on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.uncommitted() == 0
    }

    /// Does all the work, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let (events, mut happened) = mpsc::unbounded_channel();
        let queue = CommitQueue::default();
        let mut owner = Owner {
            flusher: self,
            queue,
            placing: 0,
            next_seq: 1,
            events,
        };
        loop {
            owner.freeze();
            owner.commit();
            let pause = owner.pause();
            tokio::select! {
                Some(event) = happened.recv() => owner.on(event),
                () = owner.flusher.kick.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What became of frozen bytes is settled.
    pub(crate) fn frozen_done(&self, bytes: u64) {
        self.totals.frozen.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    fn uncommitted(&self) -> u64 {
        self.totals.dirty.load(Ordering::Relaxed) + self.totals.frozen.load(Ordering::Relaxed)
    }

    fn taken(&self, before: Weight, now: Weight) {
        self.totals
            .dirty
            .fetch_sub(before.bytes - now.bytes, Ordering::Relaxed);
        self.totals
            .small
            .fetch_sub(before.small - now.small, Ordering::Relaxed);
    }

    /// What is left of a file after some of it was taken is listed as it was before.
    fn list_again(&self, file: &Arc<File>, state: &mut FileState, which: Which) {
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

    fn next(list: &Mutex<Lists>, which: Which) -> Option<Arc<File>> {
        let mut lists = list.lock();
        match which {
            Which::Full => lists.full.pop_front(),
            Which::Urgent => lists.urgent.pop_front(),
            Which::Small | Which::Older(_) | Which::All => Some(lists.dirty.pop_front()?.1),
        }
    }
}

impl Lists {
    fn insert(&mut self, oldest: Duration, file: &Arc<File>) {
        let at = self.dirty.partition_point(|(listed, _)| *listed <= oldest);
        self.dirty.insert(at, (oldest, Arc::clone(file)));
    }
}

impl Owner {
    fn freeze(&mut self) {
        while let Some(which) = self.what_to_freeze() {
            let Some(frozen) = self.freeze_one(which) else {
                continue;
            };
            let frozen = Arc::new(frozen);
            self.queue
                .frozen(frozen.seq, frozen.bytes, frozen.pieces().len());
            if frozen.urgent {
                self.queue.hurry(frozen.seq);
            }
            self.place(frozen);
        }
    }

    /// What should be frozen next, if anything. Each answer is used up: it is not given twice in a row unless
    /// something was frozen.
    fn what_to_freeze(&mut self) -> Option<Which> {
        let flusher = &self.flusher;
        let mut lists = flusher.lists.lock();
        if lists.all || lists.commit_now {
            self.queue.hurry(self.next_seq - 1);
            lists.commit_now = false;
        }
        if !lists.urgent.is_empty() && self.placing < PLACING_URGENT {
            return Some(Which::Urgent);
        }
        if self.placing >= PLACING {
            return None;
        }
        if !lists.full.is_empty() {
            return Some(Which::Full);
        }
        if lists.dirty.is_empty() {
            lists.all = false;
            return None;
        }
        if lists.all || flusher.uncommitted() > PRESSURE {
            return Some(Which::All);
        }
        if flusher.totals.small.load(Ordering::Relaxed) >= STRIPE {
            return Some(Which::Small);
        }
        drop(lists);
        let cutoff = flusher.session.monotonic().checked_sub(AGE_MAX)?;
        (self.oldest()? <= cutoff).then_some(Which::Older(cutoff))
    }

    /// When the oldest dirty byte was written.
    fn oldest(&self) -> Option<Duration> {
        loop {
            let (listed, file) = self.flusher.lists.lock().dirty.front().cloned()?;
            let mut state = file.state.lock();
            let oldest = state.buffer.oldest();
            if oldest == Some(listed) {
                return oldest;
            }
            // Its older data was frozen by itself meanwhile.
            let mut lists = self.flusher.lists.lock();
            lists.dirty.pop_front();
            match oldest {
                Some(oldest) => lists.insert(oldest, &file),
                None => state.listed = false,
            }
        }
    }

    fn freeze_one(&mut self, which: Which) -> Option<Frozen> {
        let flusher = &self.flusher;
        let (urgent, mut left) = {
            let lists = flusher.lists.lock();
            let urgent = matches!(which, Which::Urgent) || lists.all;
            match which {
                Which::Full | Which::Urgent => (urgent, usize::MAX),
                Which::Small | Which::Older(_) | Which::All => (urgent, lists.dirty.len()),
            }
        };
        let mut collector = Collector::new(self.next_seq, which, &flusher.pool);
        while !collector.is_done() && left > 0 {
            left -= 1;
            let Some(file) = Flusher::next(&flusher.lists, which) else {
                break;
            };
            let mut state = file.state.lock();
            let before = state.buffer.weight();
            collector.add(&file, &mut state);
            flusher.taken(before, state.buffer.weight());
            flusher.list_again(&file, &mut state, which);
            drop(state);
            file.changed.notify_waiters();
        }
        let frozen = collector.finish(urgent)?;
        flusher
            .totals
            .frozen
            .fetch_add(frozen.bytes, Ordering::Relaxed);
        self.next_seq += 1;
        Some(frozen)
    }

    fn place(&mut self, frozen: Arc<Frozen>) {
        self.placing += 1;
        let (flusher, events) = (Arc::clone(&self.flusher), self.events.clone());
        tokio::spawn(async move {
            let pieces = frozen.pieces();
            let placing = flusher.placer.place(&frozen.payload, &pieces);
            let (placed, md5s) = tokio::join!(placing, frozen.md5s());
            let frozen_too = Arc::clone(&frozen);
            let ready = placed.map(|placed| Ready {
                frozen: frozen_too,
                placed,
                pieces,
                md5s,
            });
            // The owner ends only with the process.
            events.send(Event::Placed(frozen, ready)).ok();
        });
    }

    fn commit(&mut self) {
        let now = self.flusher.session.monotonic();
        let batch = self.queue.next_batch(now);
        if batch.is_empty() {
            return;
        }
        let batch: Vec<Ready> = batch.into_iter().map(|(_, ready)| ready).collect();
        let (flusher, events) = (Arc::clone(&self.flusher), self.events.clone());
        tokio::spawn(async move {
            let refused = commit::send(&flusher.session, &flusher, batch).await;
            // The owner ends only with the process.
            events.send(Event::Answered(refused)).ok();
        });
    }

    fn on(&mut self, event: Event) {
        let now = self.flusher.session.monotonic();
        match event {
            Event::Placed(frozen, Ok(ready)) => {
                self.placing -= 1;
                self.queue.ready(frozen.seq, now, ready);
            }
            Event::Placed(frozen, Err(errno)) => {
                self.placing -= 1;
                self.queue.drop_entry(frozen.seq);
                frozen.lose(errno);
                self.flusher.frozen_done(frozen.bytes);
            }
            Event::Answered(refused) => {
                self.queue.answered();
                for Refused(frozen) in refused.into_iter().rev() {
                    self.queue
                        .refused(frozen.seq, frozen.bytes, frozen.pieces().len());
                    self.place(frozen);
                }
            }
        }
    }

    /// How long nothing has to be done if nothing happens.
    fn pause(&self) -> Duration {
        let now = self.flusher.session.monotonic();
        let oldest = self.oldest().filter(|_| self.placing < PLACING);
        let due = oldest.map(|oldest| oldest + AGE_MAX);
        let due = due.into_iter().chain(self.queue.deadline()).min();
        due.map_or(Duration::from_secs(60), |due| {
            due.saturating_sub(now).max(Duration::from_millis(1))
        })
    }
}
