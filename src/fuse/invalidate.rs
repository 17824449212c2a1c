//! Drops pages from the kernel's cache after a write went past them (K6), on a thread of its own (K2).
//!
//! The kernel waits for the lock of each page, which a reader may hold until we have answered its read, and
//! writes dirty pages back to us. Called from a FUSE thread or from a task of the runtime, it could wait for
//! a request that only this thread would have answered: two Rust filesystems in production hung that way.
//! Here nothing but the writes that wait in this queue depends on it, and page write-back never joins it.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::kernel::{NodeId, Notifier, Reply};
use super::modes::StaleRange;

/// A write that is answered when no page of its range is cached any more.
pub(super) struct Invalidation {
    /// The file.
    pub node: NodeId,
    /// What was written.
    pub range: StaleRange,
    /// Bytes written.
    pub written: u32,
    /// Who waits.
    pub reply: Reply,
}

/// The queue into the thread, and the end that the thread takes from.
pub(super) fn queue() -> (Sender<Invalidation>, Receiver<Invalidation>) {
    channel()
}

/// Starts the thread. It ends when the last sender is gone.
pub(super) fn start(notifier: Notifier, queue: Receiver<Invalidation>) -> io::Result<()> {
    thread::Builder::new()
        .name("okapifs-inval".to_owned())
        .spawn(move || {
            for write in queue {
                serve(&notifier, write);
            }
        })
        .map(drop)
}

fn serve(notifier: &Notifier, write: Invalidation) {
    let StaleRange { offset, length } = write.range;
    if let Err(error) = notifier.inval_inode(write.node, clamp(offset), clamp(length)) {
        log::warn!("cached pages of inode {} may be stale: {error}", write.node);
    }
    write.reply.written(write.written);
}

/// Offsets of the kernel are signed.
pub(super) fn clamp(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
