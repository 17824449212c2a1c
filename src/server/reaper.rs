//! Deleting, without anybody noticing.
//!
//! A big file that goes leaves hundreds of shards to delete. They are deleted on a thread of their own, a few at a
//! time, with as long a rest after each batch as the batch took: puts and reads get at least half of the disk.
//! What is durably gone is reported with the next beat.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::service::Shared;
use crate::wire::shards::ShardId;

/// How many shards are deleted together, sharing syncs.
const BATCH: usize = 64;
/// How long it waits when nothing may be deleted, or something could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// Deletes shards in the background, until it is dropped.
pub(super) struct Reaper {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    doomed: BTreeSet<ShardId>,
    gone: BTreeSet<ShardId>,
    is_over: bool,
}

impl Reaper {
    /// Starts the thread.
    pub(super) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let inner = Arc::new(Inner { state: Mutex::default(), changed: Condvar::new() });
        let thread = std::thread::Builder::new().name("reaper".into());
        let background = Arc::clone(&inner);
        thread.spawn(move || background.run(&shared))?;
        Ok(Self { inner })
    }

    /// Deletes these, soon. What is gone already and not yet reported is not deleted a second time: the monitors
    /// told it before they could know.
    pub(super) fn doom(&self, mut shards: Vec<ShardId>) {
        let mut state = self.inner.state.lock();
        shards.retain(|shard| !state.gone.contains(shard));
        state.doomed.extend(shards);
        drop(state);
        self.inner.changed.notify_all();
    }

    /// Those that are durably gone since it was last asked.
    pub(super) fn take_gone(&self) -> Vec<ShardId> {
        let gone = std::mem::take(&mut self.inner.state.lock().gone);
        gone.into_iter().collect()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.inner.state.lock().is_over = true;
        self.inner.changed.notify_all();
    }
}

impl Inner {
    fn run(&self, shared: &Shared) {
        while let Some(batch) = self.next_batch() {
            if !shared.may_delete() {
                self.rest(PAUSE);
                continue;
            }
            let started = Instant::now();
            let deleted = catch_unwind(AssertUnwindSafe(|| shared.store.delete(&batch)));
            let gone = deleted.unwrap_or_else(|_| {
                log::error!(
                    "deleting panicked: {} shards stay until the monitors name them again",
                    batch.len()
                );
                Vec::new()
            });
            let is_complete = gone.len() == batch.len();
            let mut state = self.state.lock();
            // What could not be deleted is told again by the monitors, and holds nobody up meanwhile.
            for id in &batch {
                state.doomed.remove(id);
            }
            state.gone.extend(gone);
            drop(state);
            self.rest(if is_complete { started.elapsed().min(PAUSE) } else { PAUSE });
        }
    }

    /// Waits for something to delete; `None` when it is over.
    fn next_batch(&self) -> Option<Vec<ShardId>> {
        let mut state = self.state.lock();
        while state.doomed.is_empty() && !state.is_over {
            self.changed.wait(&mut state);
        }
        (!state.is_over).then(|| state.doomed.iter().take(BATCH).copied().collect())
    }

    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.is_over {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}
