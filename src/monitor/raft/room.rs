//! How much room a member's disk has, and what follows.
//!
//! What makes room, deleting, is a command in the log like any other: a log that cannot grow cannot be helped any
//! more. So a part of the disk is kept for it:
//!
//! * **enough**: all is well.
//! * **reserve**: each member tells the leader so with its answers to pulses. When it holds for so many voters that
//!   the rest is no majority, the service refuses what makes the state grow; all else goes on. A leader in that
//!   state lets another lead, if a majority is better off.
//! * **full**: others have filled the disk, so nothing of it is touched any more. Entries wait ([`super::log`]): the
//!   member answers pulses, and nothing else, and goes on by itself as soon as there is room. The store, which
//!   could not bear a write that fails, sees none of it.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::env::disk::{Disk, Room};
use crate::env::system::disk::SystemDisk;
use crate::types::DiskRoom;

/// The part of the disk that is kept: one in so many bytes ...
const RESERVE_SHARE: u64 = 8;
/// ... but no more than this: log and journals at their longest.
const RESERVE_BYTES_MAX: u64 = 256 << 20;
/// The part of the reserve that is never written to: what the store may write of what it was given before.
const UNTOUCHED_SHARE: u64 = 8;

/// Looks at a disk, and remembers what it saw.
pub struct Gauge {
    measure: Box<dyn Fn() -> io::Result<Room> + Send + Sync>,
    seen: AtomicU8,
}

impl Gauge {
    /// For the disk of that directory.
    pub fn of(dir: &Path) -> Self {
        let disk = SystemDisk::new(dir);
        Self::new(move || disk.room())
    }

    /// For a disk that is measured so.
    pub fn new(measure: impl Fn() -> io::Result<Room> + Send + Sync + 'static) -> Self {
        let gauge =
            Self { measure: Box::new(measure), seen: AtomicU8::new(DiskRoom::Enough as u8) };
        gauge.look();
        gauge
    }

    /// How much room there is. A disk that does not say has what it had: what is wrong with it, it says to whoever
    /// writes.
    pub fn look(&self) -> DiskRoom {
        if let Ok(room) = (self.measure)() {
            self.seen.store(judge(room) as u8, Ordering::Relaxed);
        }
        self.seen()
    }

    /// How much room there was when it was looked last.
    pub fn seen(&self) -> DiskRoom {
        let seen = self.seen.load(Ordering::Relaxed);
        let all = [DiskRoom::Enough, DiskRoom::Reserve, DiskRoom::Full];
        *all.iter().find(|room| **room as u8 == seen).expect("one of them was stored")
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gauge").field(&self.seen()).finish()
    }
}

fn judge(Room { total_bytes, free_bytes }: Room) -> DiskRoom {
    let reserve = (total_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
    match free_bytes {
        free if free < reserve / UNTOUCHED_SHARE => DiskRoom::Full,
        free if free < reserve => DiskRoom::Reserve,
        _ => DiskRoom::Enough,
    }
}

/// Whether a write failed only because there was no room for it.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_keeps_a_share_and_a_large_one_no_more_than_is_needed() {
        let judged = |total_bytes, free_bytes| judge(Room { total_bytes, free_bytes });
        assert_eq!(judged(640, 80), DiskRoom::Enough);
        assert_eq!(judged(640, 79), DiskRoom::Reserve);
        assert_eq!(judged(640, 10), DiskRoom::Reserve);
        assert_eq!(judged(640, 9), DiskRoom::Full);
        assert_eq!(judged(1 << 40, 256 << 20), DiskRoom::Enough);
        assert_eq!(judged(1 << 40, (256 << 20) - 1), DiskRoom::Reserve);
        assert_eq!(judged(1 << 40, (32 << 20) - 1), DiskRoom::Full);
    }

    #[test]
    fn a_disk_that_does_not_say_has_what_it_had() {
        let (tell, told) = std::sync::mpsc::channel();
        let told = parking_lot::Mutex::new(told);
        tell.send(Room { total_bytes: 80, free_bytes: 5 }).unwrap();
        let gauge = Gauge::new(move || told.lock().try_recv().map_err(io::Error::other));
        assert_eq!((gauge.seen(), gauge.look()), (DiskRoom::Reserve, DiskRoom::Reserve));
        tell.send(Room { total_bytes: 80, free_bytes: 50 }).unwrap();
        assert_eq!(gauge.look(), DiskRoom::Enough);
    }
}
