//! Brings fjall's journal to the disk a little at a time.
//!
//! Before fjall writes what it has in memory to a table, it syncs its journal, and holds the journal's lock while
//! it does: no batch can be written meanwhile. Everything since the last sync would go to the disk in that moment,
//! tens of megabytes, and everybody who waits for apply would wait for it. So a thread of ours syncs the journal
//! each time a portion was written, without the lock, and leaves fjall little to do.
//!
//! Nothing depends on it. An error of the disk is seen by fjall too, which has the file open since before.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::journal;

/// How much is written between two syncs, in bytes.
const PORTION: u64 = 4 << 20;

/// Syncs the journals in a directory, until it is dropped.
pub(super) struct Syncer {
    /// Bytes written so far.
    written: AtomicU64,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread.
    pub(super) fn start(dir: PathBuf) -> io::Result<Self> {
        // One wish is enough: who finds it waiting has nothing to add.
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("store-sync".into())
            .spawn(move || sync_when_woken(&dir, &woken))?;
        Ok(Self { written: AtomicU64::new(0), wake: Some(wake), thread: Some(thread) })
    }

    /// So many bytes more are in the journal.
    pub(super) fn written(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / PORTION != (before + bytes) / PORTION
            && let Some(wake) = &self.wake
        {
            wake.try_send(()).ok();
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that syncs the store's journal panicked");
        }
    }
}

fn sync_when_woken(dir: &Path, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        if let Err(error) = sync_journals(dir) {
            log::warn!("{}: the journal could not be synced ahead: {error}", dir.display());
        }
    }
}

/// Makes durable what has left fjall's own buffer.
pub(super) fn sync_journals(dir: &Path) -> io::Result<()> {
    for (_, path) in journal::journals(dir)? {
        match File::open(path) {
            Ok(file) => file.sync_data()?,
            // Its changes are in a table by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
