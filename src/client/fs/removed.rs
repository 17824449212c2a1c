//! Inodes that this mount took the last name of while the kernel still knows them.
//!
//! A program can have a directory or a FIFO open, or be in a directory, that another removes: on a local filesystem
//! it is there until they let go, with no links and, a directory, without entries. Regular files that are open stay
//! at the monitors for this. Of everything else nothing is left but attributes, so those are kept here, from the
//! removal until the kernel forgets the inode, which it does at once when nobody holds it. (What another host removes
//! is gone for such a program, as with NFS: it gets ESTALE.)

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::types::{Attr, Ino, Timestamp};
use crate::wire::metadata::AttrChanges;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Removed {
    inodes: Mutex<HashMap<Ino, Attr>>,
}

impl Removed {
    /// The last name of this inode is gone.
    pub(super) fn remember(&self, attr: Attr) {
        self.inodes.lock().insert(attr.ino, attr);
    }

    /// The kernel does not know it any more.
    pub(super) fn forget(&self, ino: Ino) {
        self.inodes.lock().remove(&ino);
    }

    /// What it was at last.
    pub(super) fn find(&self, ino: Ino) -> Option<Attr> {
        self.inodes.lock().get(&ino).cloned()
    }

    /// Changes what is left of it.
    pub(super) fn change(&self, ino: Ino, changes: &AttrChanges, now: Timestamp) -> Option<Attr> {
        let mut inodes = self.inodes.lock();
        let attr = inodes.get_mut(&ino)?;
        attr.mode = changes.mode.unwrap_or(attr.mode);
        attr.uid = changes.uid.unwrap_or(attr.uid);
        attr.gid = changes.gid.unwrap_or(attr.gid);
        attr.atime = changes.atime.unwrap_or(attr.atime);
        attr.mtime = changes.mtime.unwrap_or(attr.mtime);
        attr.ctime = now;
        Some(attr.clone())
    }
}
