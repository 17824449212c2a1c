//! The next segment, laid out ahead.
//!
//! When a file grows, an fdatasync has to bring its new length and its new blocks to the disk too. On ext4 that
//! is a commit of the filesystem's journal: a second write, a second wait, behind whatever else everybody has
//! changed on that filesystem, and a hop over a kernel thread. When an fdatasync finds the blocks there, it is one
//! write. So, while a segment is filled, a thread of ours writes the zeros of the next one.
//!
//! Zeros are no record, so that the end of the log is where it was (`recovery`). Nothing depends on the spare: a
//! segment for which there is none grows.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::files::Files;

/// The spare's name until it is a segment.
const NAME: &str = "spare";
/// Bytes between two syncs, so that nobody waits for many.
const PORTION: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    None,
    Wanted,
    Ready,
    /// It could not be made; the next is tried again.
    Failed,
    /// The log is closed.
    Closed,
}

/// The spare of a log.
pub(super) struct Spare {
    layer: Layer,
    /// Wakes the thread; without one, who wants a spare makes it.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread has.
#[derive(Clone)]
struct Layer {
    files: Arc<dyn Files>,
    bytes: u64,
    state: Arc<Mutex<State>>,
}

impl Spare {
    /// Spares of that many bytes, made by a thread.
    pub(super) fn ahead(files: Arc<dyn Files>, bytes: u64) -> io::Result<Self> {
        let layer = Layer { files, bytes, state: Arc::new(Mutex::new(State::None)) };
        let (wake, woken) = sync_channel(1);
        let thread = {
            let layer = layer.clone();
            std::thread::Builder::new()
                .name("raft-log-spare".into())
                .spawn(move || layer.run(&woken))?
        };
        Ok(Self { layer, wake: Some(wake), thread: Some(thread) })
    }

    /// Spares that are made in the moment in which they are wanted.
    #[cfg(test)]
    pub(super) fn at_once(files: Arc<dyn Files>, bytes: u64) -> Self {
        let layer = Layer { files, bytes, state: Arc::new(Mutex::new(State::None)) };
        Self { layer, wake: None, thread: None }
    }

    /// Has one made, unless that was tried.
    pub(super) fn want(&self) {
        {
            let mut state = self.layer.state.lock();
            if *state != State::None {
                return;
            }
            *state = State::Wanted;
        }
        match &self.wake {
            // A thread that is gone was told to end.
            Some(wake) => drop(wake.try_send(())),
            None => self.layer.lay_out(),
        }
    }

    /// Gives the spare the name of a segment, if there is one. The name is durable when the directory is.
    pub(super) fn become_segment(&self, name: &str) -> io::Result<()> {
        let is_ready = {
            let mut state = self.layer.state.lock();
            match *state {
                State::Ready | State::Failed => std::mem::replace(&mut *state, State::None),
                other => other,
            }
        };
        if is_ready == State::Ready { self.layer.files.rename(NAME, name) } else { Ok(()) }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        *self.layer.state.lock() = State::Closed;
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that lays out segments of the Raft log panicked");
        }
    }
}

impl Layer {
    fn run(&self, woken: &Receiver<()>) {
        while woken.recv().is_ok() {
            self.lay_out();
        }
    }

    fn lay_out(&self) {
        let result = self.write_zeros();
        let mut state = self.state.lock();
        match (result, *state) {
            (Ok(()), State::Wanted) => *state = State::Ready,
            (Err(error), State::Wanted) => {
                log::warn!("no segment of the Raft log could be laid out ahead: {error}");
                *state = State::Failed;
            }
            _ => {}
        }
    }

    fn write_zeros(&self) -> io::Result<()> {
        forget(self.files.as_ref())?;
        let zeros = vec![0; PORTION.min(usize::try_from(self.bytes).unwrap_or(PORTION))];
        let mut written = 0;
        while written < self.bytes && *self.state.lock() == State::Wanted {
            self.files.write_at(NAME, written, &zeros)?;
            self.files.sync(NAME)?;
            written += zeros.len() as u64;
        }
        Ok(())
    }
}

/// Removes a spare that another process has left.
pub(super) fn forget(files: &dyn Files) -> io::Result<()> {
    if files.list()?.iter().any(|name| name == NAME) { files.remove(NAME) } else { Ok(()) }
}
