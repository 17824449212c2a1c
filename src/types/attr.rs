//! What `stat` shows of an inode.

use bincode::{Decode, Encode};

use super::{DataVersion, Ino, OpSeq, VolumeId};

/// A point in time as the filesystem stores it: seconds since 1970 (negative before) and nanoseconds
/// (0..1,000,000,000).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Encode, Decode)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanos: u32,
}

/// Type of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Attributes of an inode, as `stat` shows them.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits (0..=0o7777).
    pub mode: u16,
    /// Owner, unmapped.
    pub uid: u32,
    /// Group, unmapped.
    pub gid: u32,
    /// Bytes up to the end of file; of a symbolic link the length of its target; of a directory the number
    /// of its entries.
    pub size: u64,
    /// Bytes that extents cover (holes not counted): `st_blocks` × 512.
    pub stored: u64,
    /// Hard links; of a directory 2 + its subdirectories.
    pub nlink: u32,
    /// Device number of a device node, as in `st_rdev`.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// Creation.
    pub crtime: Timestamp,
    /// Version of the content: a cached map or block is valid for exactly this one.
    pub dv: DataVersion,
    /// When this record was last written; a directory's changes with every entry.
    pub birth: OpSeq,
    /// The volume it lies in.
    pub volume: VolumeId,
    /// MD5 of the whole content, where it is known for the current `dv`.
    pub md5: Option<[u8; 16]>,
    /// Bytes of the list of its extended attributes, as `listxattr` hands it out: 0 if it has none.
    pub xattrs: u32,
}

/// A file that is read and never changed shows so once in this time, in seconds.
const ACCESS_SHOWN_EVERY: i64 = 24 * 3600;

impl Attr {
    /// Whether a read at `now` is to be written down, as `relatime` has it: the last one that was is not after the
    /// last change, or a day ago.
    pub fn is_access_due(&self, now: Timestamp) -> bool {
        self.atime <= self.mtime
            || self.atime <= self.ctime
            || now.seconds.saturating_sub(self.atime.seconds) >= ACCESS_SHOWN_EVERY
    }
}
