//! One sync for all who wait for one.
//!
//! A sync takes the disk a fraction of a millisecond, whether it makes one write durable or a hundred. So who
//! needs a sync while one is running waits for the next one together with all others who came meanwhile. (A sync
//! that is running already may have begun before one's own write: it proves nothing.)

use std::io;

use parking_lot::{Condvar, Mutex};

/// Shares the syncs of one file or directory among threads.
#[derive(Default)]
pub(super) struct GroupSync {
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Default)]
struct State {
    is_running: bool,
    /// Syncs are numbered from 1: the last one that began, the last that ended, the last that failed and how.
    begun: u64,
    ended: u64,
    failed: u64,
    failure: Option<(io::ErrorKind, String)>,
}

impl GroupSync {
    /// Returns when a sync that began after this call has ended. `sync` does it, for everybody, if it is this
    /// caller's turn.
    ///
    /// # Errors
    ///
    /// What `sync` said, whoever called it.
    pub(super) fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        let wanted = state.begun + 1;
        while state.is_running && state.ended < wanted {
            self.finished.wait(&mut state);
        }
        if state.ended >= wanted {
            return state.outcome(wanted);
        }
        state.is_running = true;
        state.begun += 1;
        let number = state.begun;
        drop(state);
        let outcome = sync();
        let mut state = self.state.lock();
        state.is_running = false;
        state.ended = number;
        if let Err(error) = &outcome {
            state.failed = number;
            state.failure = Some((error.kind(), error.to_string()));
        }
        self.finished.notify_all();
        outcome
    }
}

impl State {
    /// How the syncs from `wanted` on went, for somebody who waited.
    fn outcome(&self, wanted: u64) -> io::Result<()> {
        match &self.failure {
            Some((kind, text)) if self.failed >= wanted => Err(io::Error::new(*kind, text.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn every_write_is_covered_by_a_sync_that_began_after_it() {
        let group = GroupSync::default();
        let written = AtomicU64::new(0);
        let synced = AtomicU64::new(0);
        let syncs = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let sync = || {
                            let covered = written.load(Ordering::SeqCst);
                            std::thread::yield_now();
                            syncs.fetch_add(1, Ordering::SeqCst);
                            synced.fetch_max(covered, Ordering::SeqCst);
                            Ok(())
                        };
                        group.run(sync).unwrap();
                        assert!(synced.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(syncs.load(Ordering::SeqCst) <= 1600);
    }

    #[test]
    fn a_failure_reaches_the_caller_and_not_the_next_one() {
        let group = GroupSync::default();
        group.run(|| Err(io::Error::other("no"))).unwrap_err();
        group.run(|| Ok(())).unwrap();
    }
}
