//! The task that owns the order of things on the way of written bytes: what is frozen, placed and committed next.
//! See [`super::flusher`] for the whole.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::commit::{self, Ready, Refused};
use super::core::commits::{CommitQueue, FreezeSeq};
use super::flusher::{Flusher, PRESSURE, STRIPE};
use super::freeze::{Collector, Frozen, Which};
use crate::types::Errno;

/// Dirty data is frozen when it is this old.
const AGE_MAX: Duration = Duration::from_millis(800);
/// Stripes being placed at a time; and when somebody waits for one.
const PLACING: usize = 4;
const PLACING_URGENT: usize = 8;

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

/// Does all the flusher's work, for ever.
pub(crate) async fn run(flusher: Arc<Flusher>) {
    let (events, mut happened) = mpsc::unbounded_channel();
    let queue = CommitQueue::default();
    let mut owner = Owner { flusher, queue, placing: 0, next_seq: 1, events };
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

impl Owner {
    fn freeze(&mut self) {
        while let Some(which) = self.what_to_freeze() {
            let Some(frozen) = self.freeze_one(which) else {
                continue;
            };
            let frozen = Arc::new(frozen);
            self.queue.frozen(frozen.seq, frozen.bytes, frozen.pieces().len());
            if frozen.urgent {
                self.queue.hurry(frozen.seq);
            }
            self.place(frozen);
        }
    }

    /// What should be frozen next, if anything.
    fn what_to_freeze(&mut self) -> Option<Which> {
        let oldest = self.oldest();
        let flusher = &self.flusher;
        let mut lists = flusher.lists.lock();
        if std::mem::take(&mut lists.commit_now) {
            self.queue.hurry(self.next_seq - 1);
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
        let oldest = oldest?;
        match lists.all {
            Some(moment) if oldest <= moment => return Some(Which::Older(moment)),
            _ => lists.all = None,
        }
        drop(lists);
        if flusher.totals.dirty.load(Ordering::Relaxed) > PRESSURE {
            return Some(Which::All);
        }
        if flusher.totals.small.load(Ordering::Relaxed) >= STRIPE {
            return Some(Which::Small);
        }
        // When the oldest is due, the younger go with it: if each waited for its own time, every small file
        // would become a stripe of its own.
        let now = flusher.session.monotonic();
        (oldest + AGE_MAX <= now).then_some(Which::Older(now))
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
        // Files go back to the end of their list if they do not fit: each is looked at once.
        let mut left = match which {
            Which::Full | Which::Urgent => usize::MAX,
            Which::Small | Which::Older(_) | Which::All => flusher.lists.lock().dirty.len(),
        };
        let mut collector = Collector::new(self.next_seq, which, flusher.pool());
        while !collector.is_done() && left > 0 {
            left -= 1;
            let Some(file) = flusher.next(which) else {
                break;
            };
            let mut state = file.state.lock();
            if state.gone && state.handles == 0 {
                flusher.discard(&file, &mut state);
            }
            let before = state.buffer.weight();
            collector.add(&file, &mut state);
            let now = state.buffer.weight();
            flusher.taken(before, now);
            flusher.list_again(&file, &mut state, which);
            drop(state);
            file.changed.notify_waiters();
        }
        // Data that is old, or waited for, is not to wait for company.
        let urgent = matches!(which, Which::Urgent | Which::Older(_));
        let frozen = collector.finish(urgent);
        self.next_seq += u64::from(frozen.is_some());
        frozen
    }

    fn place(&mut self, frozen: Arc<Frozen>) {
        self.placing += 1;
        let (flusher, events) = (Arc::clone(&self.flusher), self.events.clone());
        tokio::spawn(async move {
            let pieces = frozen.pieces();
            let placing = flusher.placer.place(frozen.volume, &frozen.payload, &pieces);
            let (placed, md5s) = tokio::join!(placing, frozen.md5s());
            let frozen_too = Arc::clone(&frozen);
            let ready = placed.map(|placed| Ready { frozen: frozen_too, placed, pieces, md5s });
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
                frozen.lose(errno, &self.flusher.session);
                self.flusher.frozen_done(&frozen);
            }
            Event::Answered(refused) => {
                self.queue.answered();
                for Refused(frozen) in refused.into_iter().rev() {
                    self.queue.refused(frozen.seq, frozen.bytes, frozen.pieces().len());
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
