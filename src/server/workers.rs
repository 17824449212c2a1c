//! Threads that wait for the disk, so that the network does not.
//!
//! A store's calls block. Kept threads with a queue before them cost a tenth of what handing each call to a
//! general-purpose pool does, and bound how many calls a disk is asked at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads; they end when it is dropped and the queue is empty.
pub(super) struct Workers {
    queue: mpsc::Sender<Job>,
}

/// The job panicked.
#[derive(Debug)]
pub(super) struct Panicked;

impl Workers {
    /// A pool of that many threads, named so.
    pub(super) fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads {
            let jobs = Arc::clone(&jobs);
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(move || {
                loop {
                    let job = jobs.lock().recv();
                    let Ok(job) = job else { return };
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        log::error!("a job of the server's store panicked");
                    }
                }
            })?;
        }
        Ok(Self { queue })
    }

    /// Does something on one of the threads. It is done even if the future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (reply, outcome) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody listens any more when the caller has given up.
            drop(reply.send(job()));
        });
        self.queue.send(job).map_err(|_| Panicked)?;
        outcome.await.map_err(|_| Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_job() {
        let workers = Workers::new("test", 1).unwrap();
        workers.run(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(workers.run(|| 7).await.unwrap(), 7);
    }
}
