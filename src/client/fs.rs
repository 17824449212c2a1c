//! The filesystem as a client sees it: everything that the FUSE adapter may call.
//!
//! A change of names is one call to the monitors. What was asked before is answered here, under shared leases. A
//! change of a file's content goes by the exclusive grant: under it, size, mtime and content are what they are here;
//! without either nothing is answered that was not checked in the same operation. Each kind of operation has a file of
//! its own.

mod accessed;
mod attrs;
mod beliefs;
mod handles;
mod locks;
mod names;
mod ranges;
mod removed;
mod writing;
mod xattrs;

use std::fmt;
use std::sync::{Arc, OnceLock};

use self::removed::Removed;
use super::config::Config;
use super::counts::Counts;
use super::files::Files;
use super::flusher::Flusher;
use super::grants::Grants;
use super::locks::Locks;
use super::session::Session;
use super::view::Reader;
use crate::env::system::lock::RunLock;
use crate::types::{Errno, FileKind, Ino, Timestamp};
use crate::wire::metadata::DirEntry;

pub use locks::Lock;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Permissions that what they make does not get, unless a default ACL says otherwise.
    pub umask: u16,
}

/// An open file. Given by [`Fs::open`] and [`Fs::create`], ended by [`Fs::release`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end (`O_APPEND`).
    pub append: bool,
    /// Each write is durable when it returns (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    /// Reads are not written down (`O_NOATIME`).
    pub no_atime: bool,
}

/// What `setattr` changes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of content.
    pub mtime: Option<Timestamp>,
}

/// What a new inode is.
#[derive(Clone, Debug)]
pub struct NewInode {
    /// Its type.
    pub kind: FileKind,
    /// Permission bits, as asked for.
    pub mode: u16,
    /// Device number of a device node, else 0.
    pub rdev: u32,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
}

/// What `fallocate` does with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Make sure there is room (holes stay holes; the size grows unless `keep_size`).
    Reserve {
        /// Whether the size stays.
        keep_size: bool,
    },
    /// Make a hole; the size stays.
    Punch,
    /// Make it read as zeros.
    Zero {
        /// Whether the size stays.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// A part of a directory.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The directory's own parent.
    pub parent: Ino,
    /// Its entries; each says where to go on after it ([`DirEntry::next`], always above 2).
    pub entries: Vec<DirEntry>,
    /// Whether there are no more after them.
    pub end: bool,
}

/// A mounted filesystem.
pub struct Fs {
    pub(super) config: Config,
    pub(super) session: Arc<Session>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) grants: Arc<Grants>,
    pub(super) reader: Reader,
    pub(super) files: Arc<Files>,
    pub(super) counts: Arc<Counts>,
    pub(super) locks: Arc<Locks>,
    removed: Removed,
    started: OnceLock<Started>,
}

/// What is known once everything works.
struct Started {
    root: Ino,
    _run_lock: RunLock,
}

/// What a filesystem consists of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) session: Arc<Session>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) grants: Arc<Grants>,
    pub(super) reader: Reader,
    pub(super) files: Arc<Files>,
    pub(super) counts: Arc<Counts>,
    pub(super) locks: Arc<Locks>,
}

impl Fs {
    /// The inode that the mount shows as its root.
    pub fn root(&self) -> Ino {
        self.started.get().map_or(Ino::ROOT, |started| started.root)
    }

    /// Whether closing a file waits until it is durable.
    pub fn syncs_on_close(&self) -> bool {
        self.config.sync_on_close
    }

    pub(super) fn from_parts(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            config: parts.config,
            session: parts.session,
            flusher: parts.flusher,
            grants: parts.grants,
            reader: parts.reader,
            files: parts.files,
            counts: parts.counts,
            locks: parts.locks,
            removed: Removed::default(),
            started: OnceLock::new(),
        })
    }

    /// The root was found. The lock is kept for as long as the process lives.
    pub(super) fn started(&self, root: Ino, run_lock: RunLock) {
        self.started.get_or_init(|| Started { root, _run_lock: run_lock });
    }

    fn must_be_writable(&self) -> Result<(), Errno> {
        if self.config.read_only || self.session.read_only() {
            Err(Errno::ReadOnly)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fs").field("session", &self.session.id()).finish_non_exhaustive()
    }
}
