//! Waiting for room.
//!
//! A log whose write failed is not written to again: nothing is known of the file's pages any more. But a disk that
//! is full will have room again, and a monitor that ended for it would be started again and end again. So the
//! thread waits, before a write for which there is no room, and with one that failed for want of it: that one is
//! then done anew, whole, so that it does not matter what became of its first half. Whoever waits for the entries
//! waits along; to the other members this one is slow.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::room::{Gauge, is_full};
use crate::types::DiskRoom;

/// How often is looked whether there is room.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Patience {
    pub(super) gauge: Arc<Gauge>,
    pub(super) is_closing: Arc<AtomicBool>,
}

impl Patience {
    /// Waits until the disk is not full.
    pub(super) fn wait_for_room(&self) {
        if self.gauge.seen() == DiskRoom::Full {
            self.wait_while(|| self.gauge.look() == DiskRoom::Full);
        }
    }

    /// Writes; again and again, if there is no room. `write` can be done twice.
    pub(super) fn write<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut written = write();
        if written.as_ref().is_err_and(is_full) {
            self.wait_while(|| {
                written = write();
                written.as_ref().is_err_and(is_full)
            });
        }
        written
    }

    fn wait_while(&self, mut is_full: impl FnMut() -> bool) {
        log::error!("the disk of the Raft log is full: nothing is added until there is room again");
        while !self.is_closing.load(Ordering::Relaxed) && is_full() {
            std::thread::sleep(LOOK);
        }
        log::info!("the Raft log is written again");
    }
}
