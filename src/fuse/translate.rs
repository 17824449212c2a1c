//! The kernel's words into ours and back: flags, attributes, times. Nothing here waits or decides.
//!
//! One number needs a word: the kernel calls the root of every mount inode 1. A mount of a subdirectory has
//! another inode there, so the two change names at this border ([`Nodes`]).

use super::kernel::{self, FoundLock, NodeAttr, NodeId, Request, TimeOrNow};
use crate::client::fs::{Allocate, Caller, Lock, OpenMode, Seek, SetAttr};
use crate::env::clock::{Clock, SystemClock};
use crate::types::{
    Attr, Conflict, Errno, FileKind, Ino, LockKind, LockMode, LockOwner, LockRange, Timestamp,
};
use crate::wire::metadata::{RenameMode, XattrMode};

/// What `stat` shows as the best size for reading and writing, in bytes: one request of the kernel.
const BEST_IO_BYTES: u32 = super::mount::REQUEST_BYTES_MAX;

/// Unit of `st_blocks`, in bytes.
const STAT_BLOCK: u64 = 512;

const PERMISSIONS: u32 = 0o7777;

/// Translates inode numbers.
#[derive(Clone, Copy)]
pub(super) struct Nodes {
    /// The inode that is the root of the mount.
    pub root: Ino,
}

impl Nodes {
    /// Ours for the kernel's.
    pub(super) fn ino(self, node: NodeId) -> Ino {
        if node == NodeId::ROOT { self.root } else { Ino(node.0) }
    }

    /// The kernel's for ours.
    pub(super) fn node(self, ino: Ino) -> NodeId {
        if ino == self.root { NodeId::ROOT } else { NodeId(ino.0) }
    }

    /// Attributes as the kernel takes them.
    pub(super) fn attr(self, attr: &Attr) -> NodeAttr {
        NodeAttr {
            node: self.node(attr.ino),
            size: attr.size,
            blocks: attr.stored.div_ceil(STAT_BLOCK),
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.crtime,
            mode: type_bits(attr.kind) | u32::from(attr.mode),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            block_bytes: BEST_IO_BYTES,
        }
    }
}

/// Attributes of "." and ".." in a listing: the kernel looks at number and type only.
pub(super) fn bare_attr(node: NodeId, kind: FileKind) -> NodeAttr {
    NodeAttr {
        node,
        size: 0,
        blocks: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        btime: Timestamp::default(),
        mode: type_bits(kind),
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        block_bytes: BEST_IO_BYTES,
    }
}

/// The bits of `st_mode` that tell a type.
pub(super) fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

/// The type that `mknod` asks for.
pub(super) fn node_kind(mode: u32) -> Result<FileKind, Errno> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(FileKind::Regular),
        libc::S_IFIFO => Ok(FileKind::Fifo),
        libc::S_IFSOCK => Ok(FileKind::Socket),
        libc::S_IFCHR => Ok(FileKind::CharDevice),
        libc::S_IFBLK => Ok(FileKind::BlockDevice),
        _ => Err(Errno::Invalid),
    }
}

/// The permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & PERMISSIONS).expect("twelve bits")
}

/// Who asks.
pub(super) fn caller(request: &Request<'_>, umask: u32) -> Caller {
    Caller { uid: request.uid, gid: request.gid, umask: permissions(umask & 0o777) }
}

/// How `open` and `create` open. `O_SYNC` contains the bit of `O_DSYNC`.
pub(super) fn open_mode(flags: i32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    let has = |flag: i32| flags & flag != 0;
    OpenMode {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: has(libc::O_APPEND),
        sync: has(libc::O_DSYNC),
        no_atime: has(libc::O_NOATIME),
    }
}

/// A lock of flock(2) or fcntl(2).
pub(super) fn lock(asked: &kernel::Lock) -> Result<Lock, Errno> {
    let mode = match asked.kind {
        libc::F_RDLCK => Some(LockMode::Shared),
        libc::F_WRLCK => Some(LockMode::Exclusive),
        libc::F_UNLCK => None,
        _ => return Err(Errno::Invalid),
    };
    Ok(Lock {
        kind: if asked.is_flock { LockKind::Flock } else { LockKind::Posix },
        owner: LockOwner(asked.owner),
        pid: asked.pid,
        range: LockRange { start: asked.start, end: asked.end },
        mode,
    })
}

/// A lock in somebody's way.
pub(super) fn found_lock(conflict: Conflict) -> FoundLock {
    let Conflict { pid, range: LockRange { start, end }, .. } = conflict;
    let kind = match conflict.mode {
        LockMode::Shared => libc::F_RDLCK,
        LockMode::Exclusive => libc::F_WRLCK,
    };
    FoundLock { start, end, kind, pid }
}

/// What `setattr` changes.
pub(super) fn changes(asked: &kernel::SetAttr) -> SetAttr {
    SetAttr {
        mode: asked.mode.map(permissions),
        uid: asked.uid,
        gid: asked.gid,
        size: asked.size,
        atime: asked.atime.map(time_or_now),
        mtime: asked.mtime.map(time_or_now),
    }
}

/// Whether it changes nothing that is ours: the kernel may ask for a ctime alone.
pub(super) fn is_nothing(changes: &SetAttr) -> bool {
    matches!(
        changes,
        SetAttr { mode: None, uid: None, gid: None, size: None, atime: None, mtime: None }
    )
}

fn time_or_now(time: TimeOrNow) -> Timestamp {
    match time {
        TimeOrNow::Time(time) => time,
        TimeOrNow::Now => SystemClock::new().now(),
    }
}

/// What a rename does with what has the new name.
pub(super) fn rename_mode(flags: u32) -> Result<RenameMode, Errno> {
    match flags {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::Invalid),
    }
}

/// What `setxattr` does with a value that is there or not.
pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::Invalid),
    }
}

/// The names of extended attributes as `listxattr` returns them: each ended by a zero byte.
pub(super) fn xattr_names(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect()
}

/// What `fallocate` does.
pub(super) fn allocate(mode: i32) -> Result<Allocate, Errno> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Ok(Allocate::Reserve { keep_size: false }),
        KEEP => Ok(Allocate::Reserve { keep_size: true }),
        PUNCH => Ok(Allocate::Punch),
        ZERO => Ok(Allocate::Zero { keep_size: false }),
        ZERO_KEEP => Ok(Allocate::Zero { keep_size: true }),
        _ => Err(Errno::NotSupported),
    }
}

/// Where `lseek` begins and what it looks for; the kernel does the other kinds itself.
pub(super) fn seek(offset: i64, whence: i32) -> Result<(u64, Seek), Errno> {
    let offset = u64::try_from(offset).map_err(|_| Errno::NoSuchOffset)?;
    match whence {
        libc::SEEK_DATA => Ok((offset, Seek::Data)),
        libc::SEEK_HOLE => Ok((offset, Seek::Hole)),
        _ => Err(Errno::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DataVersion, OpSeq, VolumeId};

    #[test]
    fn open_flags() {
        let mode = open_mode(libc::O_RDWR | libc::O_APPEND | libc::O_SYNC);
        assert!(mode.read && mode.write && mode.append && mode.sync);
        let mode = open_mode(libc::O_WRONLY | libc::O_DSYNC);
        assert!(!mode.read && mode.write && !mode.append && mode.sync);
        let mode = open_mode(libc::O_RDONLY | libc::O_NONBLOCK);
        assert!(mode.read && !mode.write && !mode.sync);
    }

    #[test]
    fn setattr_takes_permission_bits_only_and_knows_now() {
        let before = SystemClock::new().now();
        let before_1970 = Timestamp { seconds: -2, nanos: 800_000_000 };
        let changes = changes(&kernel::SetAttr {
            mode: Some(libc::S_IFREG | 0o6644),
            uid: Some(3),
            gid: None,
            size: None,
            atime: Some(TimeOrNow::Now),
            mtime: Some(TimeOrNow::Time(before_1970)),
            takes_set_ids: true,
        });
        assert_eq!(changes.mode, Some(0o6644));
        assert_eq!((changes.uid, changes.gid), (Some(3), None));
        assert!(changes.atime >= Some(before) && changes.mtime == Some(before_1970));
        assert!(!is_nothing(&changes) && is_nothing(&SetAttr::default()));
    }

    #[test]
    fn modes_of_fallocate_that_would_move_data_are_refused() {
        let punch = libc::FALLOC_FL_PUNCH_HOLE;
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(allocate(0), Ok(Allocate::Reserve { keep_size: false }));
        assert_eq!(allocate(keep), Ok(Allocate::Reserve { keep_size: true }));
        assert_eq!(allocate(punch | keep), Ok(Allocate::Punch));
        assert_eq!(allocate(punch), Err(Errno::NotSupported));
        let zero = libc::FALLOC_FL_ZERO_RANGE;
        assert_eq!(allocate(zero), Ok(Allocate::Zero { keep_size: false }));
        assert_eq!(allocate(zero | keep), Ok(Allocate::Zero { keep_size: true }));
        assert_eq!(allocate(libc::FALLOC_FL_COLLAPSE_RANGE), Err(Errno::NotSupported));
        assert_eq!(allocate(libc::FALLOC_FL_INSERT_RANGE), Err(Errno::NotSupported));
    }

    #[test]
    fn flags_of_rename_exclude_one_another() {
        assert_eq!(rename_mode(0), Ok(RenameMode::Replace));
        assert_eq!(rename_mode(libc::RENAME_NOREPLACE), Ok(RenameMode::NoReplace));
        assert_eq!(rename_mode(libc::RENAME_EXCHANGE), Ok(RenameMode::Exchange));
        let both = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), Err(Errno::Invalid));
        assert_eq!(rename_mode(libc::RENAME_WHITEOUT), Err(Errno::Invalid));
    }

    #[test]
    fn nodes_of_mknod() {
        assert_eq!(node_kind(0o644), Ok(FileKind::Regular));
        assert_eq!(node_kind(libc::S_IFIFO | 0o600), Ok(FileKind::Fifo));
        assert_eq!(node_kind(libc::S_IFCHR), Ok(FileKind::CharDevice));
        assert_eq!(node_kind(libc::S_IFDIR), Err(Errno::Invalid));
    }

    #[test]
    fn locks() {
        let asked = |kind, is_flock| kernel::Lock {
            handle: 1,
            owner: 2,
            start: 3,
            end: 4,
            kind,
            pid: 5,
            is_flock,
        };
        let shared = lock(&asked(libc::F_RDLCK, false)).unwrap();
        assert_eq!((shared.kind, shared.mode), (LockKind::Posix, Some(LockMode::Shared)));
        assert_eq!((shared.owner, shared.range), (LockOwner(2), LockRange { start: 3, end: 4 }));
        let exclusive = lock(&asked(libc::F_WRLCK, true)).unwrap();
        assert_eq!((exclusive.kind, exclusive.mode), (LockKind::Flock, Some(LockMode::Exclusive)));
        assert_eq!(lock(&asked(libc::F_UNLCK, true)).unwrap().mode, None);
        assert_eq!(lock(&asked(9, true)).unwrap_err(), Errno::Invalid);
    }

    #[test]
    fn xattrs() {
        assert_eq!(xattr_names(&[b"user.a".to_vec(), b"user.bc".to_vec()]), b"user.a\0user.bc\0");
        assert_eq!(xattr_names(&[]), b"");
        assert_eq!(xattr_mode(3), Err(Errno::Invalid));
    }

    #[test]
    fn seeks() {
        assert_eq!(seek(5, libc::SEEK_DATA), Ok((5, Seek::Data)));
        assert_eq!(seek(5, libc::SEEK_HOLE), Ok((5, Seek::Hole)));
        assert_eq!(seek(-1, libc::SEEK_HOLE), Err(Errno::NoSuchOffset));
        assert_eq!(seek(0, libc::SEEK_SET), Err(Errno::Invalid));
    }

    #[test]
    fn the_root_of_a_mount_is_inode_1_to_the_kernel() {
        let nodes = Nodes { root: Ino(70) };
        assert_eq!(nodes.ino(NodeId::ROOT), Ino(70));
        assert_eq!(nodes.node(Ino(70)), NodeId::ROOT);
        assert_eq!(nodes.ino(nodes.node(Ino(71))), Ino(71));
        let time = Timestamp::default();
        let attr = Attr {
            ino: Ino(70),
            kind: FileKind::Directory,
            mode: 0o1755,
            uid: 1,
            gid: 2,
            size: 3,
            stored: 513,
            nlink: 2,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            dv: DataVersion(1),
            birth: OpSeq(1),
            volume: VolumeId::ROOT,
            md5: None,
            xattrs: 0,
        };
        let shown = nodes.attr(&attr);
        assert_eq!((shown.node, shown.blocks, shown.mode), (NodeId::ROOT, 2, 0o41755));
    }
}
