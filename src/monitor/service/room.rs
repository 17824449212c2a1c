//! The monitor's own disk is never filled to its last block.
//!
//! A log that cannot be appended to is a monitor that cannot go on, and what would make room, deleting, is a
//! command in the log like any other. So a part of the disk is kept for it: when only that is left, changes
//! that make the metadata grow are refused with ENOSPC, and all others go on.

use std::io;
use std::path::Path;

use crate::env::disk::{Disk, Room};
use crate::env::system::disk::SystemDisk;
use crate::wire::metadata::Op;

/// The part of the disk that is kept: one in so many bytes ...
const RESERVE_SHARE: u64 = 8;
/// ... but no more than this: log and journals at their longest.
const RESERVE_BYTES_MAX: u64 = 256 << 20;

/// Whether the disk of that directory has only its reserve left.
pub(super) fn is_short(dir: &Path) -> io::Result<bool> {
    SystemDisk::new(dir).room().map(only_reserve)
}

fn only_reserve(room: Room) -> bool {
    room.free_bytes < (room.total_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX)
}

/// Whether an operation adds names, attributes or extents. (A rename takes as much as it gives; what punches
/// or truncates may cut an extent in two, and frees.)
pub(super) fn grows(op: &Op) -> bool {
    match op {
        Op::Create(_) | Op::Link { .. } | Op::Clone(_) | Op::SetXattr { .. } | Op::Commit(_) => {
            true
        }
        Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename(_)
        | Op::SetAttr { .. }
        | Op::Truncate { .. }
        | Op::Punch { .. }
        | Op::RemoveXattr { .. }
        | Op::Acquire { .. }
        | Op::Release { .. }
        | Op::SetMd5 { .. }
        | Op::Reserve(_)
        | Op::LeaseInodes
        | Op::LeaseStripes { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_keeps_a_share_and_a_large_one_no_more_than_is_needed() {
        let room = |total_bytes, free_bytes| Room { total_bytes, free_bytes };
        assert!(only_reserve(room(80, 9)));
        assert!(!only_reserve(room(80, 10)));
        assert!(only_reserve(room(1 << 40, (256 << 20) - 1)));
        assert!(!only_reserve(room(1 << 40, 256 << 20)));
    }
}
