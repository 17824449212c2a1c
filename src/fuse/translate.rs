//! The kernel's words into ours and back: flags, attributes, times. Nothing here waits or decides.
//!
//! One number needs a word: the kernel calls the root of every mount inode 1. A mount of a subdirectory has
//! another inode there, so the two change names at this border ([`Nodes`]).

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, OpenFlags, RenameFlags, TimeOrNow};

use crate::client::fs::{Allocate, Caller, OpenMode, Seek, SetAttr};
use crate::env::clock::{Clock, SystemClock};
use crate::types::{Attr, Errno, FileKind, Ino, Timestamp};
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
    pub(super) fn ino(self, node: INodeNo) -> Ino {
        if node == INodeNo::ROOT { self.root } else { Ino(node.0) }
    }

    /// The kernel's for ours.
    pub(super) fn node(self, ino: Ino) -> INodeNo {
        if ino == self.root { INodeNo::ROOT } else { INodeNo(ino.0) }
    }

    /// Attributes as the kernel takes them.
    pub(super) fn attr(self, attr: &Attr) -> FileAttr {
        FileAttr {
            ino: self.node(attr.ino),
            size: attr.size,
            blocks: attr.stored.div_ceil(STAT_BLOCK),
            atime: system_time(attr.atime),
            mtime: system_time(attr.mtime),
            ctime: system_time(attr.ctime),
            crtime: system_time(attr.crtime),
            kind: file_type(attr.kind),
            perm: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: BEST_IO_BYTES,
            flags: 0,
        }
    }
}

/// Attributes of "." and ".." in a listing: the kernel looks at number and type only.
pub(super) fn bare_attr(ino: INodeNo, kind: FileKind) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BEST_IO_BYTES,
        flags: 0,
    }
}

/// The type of a directory entry.
pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
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
pub(super) fn caller(request: &fuser::Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask: permissions(umask & 0o777) }
}

/// How `open` and `create` open. `O_SYNC` contains the bit of `O_DSYNC`.
pub(super) fn open_mode(flags: OpenFlags) -> OpenMode {
    let access = flags.0 & libc::O_ACCMODE;
    let has = |flag: i32| flags.0 & flag != 0;
    OpenMode {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: has(libc::O_APPEND),
        sync: has(libc::O_DSYNC),
        truncate: has(libc::O_TRUNC),
        no_atime: has(libc::O_NOATIME),
    }
}

/// What `setattr` changes.
pub(super) fn changes(
    mode: Option<u32>,
    owner: (Option<u32>, Option<u32>),
    size: Option<u64>,
    times: (Option<TimeOrNow>, Option<TimeOrNow>),
) -> SetAttr {
    SetAttr {
        mode: mode.map(permissions),
        uid: owner.0,
        gid: owner.1,
        size,
        atime: times.0.map(time_or_now),
        mtime: times.1.map(time_or_now),
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
        TimeOrNow::SpecificTime(time) => timestamp(time),
        TimeOrNow::Now => SystemClock::new().now(),
    }
}

/// Undoes what `fuser` does to the kernel's (seconds, nanoseconds): before 1970 it takes the nanoseconds off
/// instead of adding them.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => after_epoch(since),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            Timestamp { seconds, nanos: before.subsec_nanos() }
        }
    }
}

fn after_epoch(since: Duration) -> Timestamp {
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: since.subsec_nanos() }
}

/// The way back, which `fuser` gets right.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let seconds = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    seconds.and_then(|seconds| seconds.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What a rename does with what has the new name.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Errno> {
    match flags.bits() {
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
    fn times_survive_the_kernel_on_both_sides_of_1970() {
        for (seconds, nanos) in [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 800_000_000)] {
            let kept = Timestamp { seconds, nanos };
            // As `fuser` makes it of the kernel's two numbers.
            let from_kernel = if seconds >= 0 {
                SystemTime::UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanos)
            } else {
                SystemTime::UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanos)
            };
            assert_eq!(timestamp(from_kernel), kept);
            // As `fuser` gives it back: the nanoseconds are added, never taken off.
            let shown = system_time(kept);
            let whole = shown - Duration::new(0, nanos);
            let expected = Duration::new(seconds.unsigned_abs(), 0);
            match whole.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(since) => assert_eq!((since, seconds >= 0), (expected, true)),
                Err(before) => assert_eq!((before.duration(), seconds < 0), (expected, true)),
            }
        }
        let absurd = Timestamp { seconds: i64::MIN, nanos: 0 };
        let _shown_without_a_panic = system_time(absurd);
    }

    #[test]
    fn open_flags() {
        let mode = open_mode(OpenFlags(libc::O_RDWR | libc::O_APPEND | libc::O_SYNC));
        assert!(mode.read && mode.write && mode.append && mode.sync && !mode.truncate);
        let mode = open_mode(OpenFlags(libc::O_WRONLY | libc::O_TRUNC | libc::O_DSYNC));
        assert!(!mode.read && mode.write && !mode.append && mode.sync && mode.truncate);
        let mode = open_mode(OpenFlags(libc::O_RDONLY | libc::O_NONBLOCK));
        assert!(mode.read && !mode.write && !mode.sync);
    }

    #[test]
    fn setattr_takes_permission_bits_only_and_knows_now() {
        let before = SystemClock::new().now();
        let times = (Some(TimeOrNow::Now), None);
        let changes = changes(Some(libc::S_IFREG | 0o6644), (Some(3), None), None, times);
        assert_eq!(changes.mode, Some(0o6644));
        assert_eq!((changes.uid, changes.gid), (Some(3), None));
        assert!(changes.atime >= Some(before) && changes.mtime.is_none());
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
        let rename = |bits| rename_mode(RenameFlags::from_bits_retain(bits));
        assert_eq!(rename(0), Ok(RenameMode::Replace));
        assert_eq!(rename(libc::RENAME_NOREPLACE), Ok(RenameMode::NoReplace));
        assert_eq!(rename(libc::RENAME_EXCHANGE), Ok(RenameMode::Exchange));
        assert_eq!(rename(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE), Err(Errno::Invalid));
        assert_eq!(rename(libc::RENAME_WHITEOUT), Err(Errno::Invalid));
    }

    #[test]
    fn nodes_of_mknod() {
        assert_eq!(node_kind(0o644), Ok(FileKind::Regular));
        assert_eq!(node_kind(libc::S_IFIFO | 0o600), Ok(FileKind::Fifo));
        assert_eq!(node_kind(libc::S_IFCHR), Ok(FileKind::CharDevice));
        assert_eq!(node_kind(libc::S_IFDIR), Err(Errno::Invalid));
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
        assert_eq!(nodes.ino(INodeNo::ROOT), Ino(70));
        assert_eq!(nodes.node(Ino(70)), INodeNo::ROOT);
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
        assert_eq!((shown.ino, shown.blocks, shown.perm), (INodeNo::ROOT, 2, 0o1755));
    }
}
