//! What replies and notifications look like: from values to bytes. Nothing here waits or decides.

use std::time::Duration;

use super::abi::{self, Body, OUT_HEADER_BYTES};
use super::request::{Init, NodeId};
use crate::types::Timestamp;

/// Length of `struct fuse_entry_out`.
const ENTRY_BYTES: usize = 128;

/// The bits of a mode that are the type of a directory entry, and how far they stand to the left.
const TYPE_SHIFT: u32 = 12;

/// Attributes of an inode as the kernel takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct NodeAttr {
    /// The inode.
    pub(in crate::fuse) node: NodeId,
    /// Bytes.
    pub(in crate::fuse) size: u64,
    /// Units of 512 bytes that it takes.
    pub(in crate::fuse) blocks: u64,
    /// Last access.
    pub(in crate::fuse) atime: Timestamp,
    /// Last change of content.
    pub(in crate::fuse) mtime: Timestamp,
    /// Last change of anything.
    pub(in crate::fuse) ctime: Timestamp,
    /// Birth.
    pub(in crate::fuse) btime: Timestamp,
    /// Type and permissions, as `st_mode`.
    pub(in crate::fuse) mode: u32,
    /// Hard links.
    pub(in crate::fuse) nlink: u32,
    /// Owner.
    pub(in crate::fuse) uid: u32,
    /// Group.
    pub(in crate::fuse) gid: u32,
    /// Of a device node, as `st_rdev`.
    pub(in crate::fuse) rdev: u32,
    /// Best size for reading and writing, in bytes.
    pub(in crate::fuse) block_bytes: u32,
}

/// A name and its inode, and for how long the kernel may believe both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Entry {
    /// The inode.
    pub(in crate::fuse) attr: NodeAttr,
    /// How long the name may be believed to be that inode's.
    pub(in crate::fuse) entry_valid: Duration,
    /// How long the attributes may be believed.
    pub(in crate::fuse) attr_valid: Duration,
}

/// An open file as the kernel is to treat it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Opened {
    /// By which it names the file from now on.
    pub(in crate::fuse) handle: u64,
    /// How it is read and written.
    pub(in crate::fuse) pages: Pages,
}

/// What an open makes of the pages that the kernel keeps of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) enum Pages {
    /// Those of earlier opens go, and new ones are kept.
    Dropped,
    /// Those of earlier opens are right.
    Kept,
    /// It is read and written past them.
    Bypassed,
}

/// A lock that is in the way of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct FoundLock {
    /// First byte.
    pub(in crate::fuse) start: u64,
    /// Last byte.
    pub(in crate::fuse) end: u64,
    /// `F_RDLCK` or `F_WRLCK`.
    pub(in crate::fuse) kind: i32,
    /// The process, in our process namespace; 0 on another host.
    pub(in crate::fuse) pid: u32,
}

/// What `statfs` shows. Blocks are of `block_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Room {
    pub(in crate::fuse) blocks: u64,
    pub(in crate::fuse) blocks_free: u64,
    pub(in crate::fuse) inodes: u64,
    pub(in crate::fuse) inodes_free: u64,
    pub(in crate::fuse) block_bytes: u32,
    pub(in crate::fuse) name_bytes_max: u32,
}

/// Our side of the agreement at the beginning of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fuse) struct Agreement {
    /// What both sides can do and want ([`abi::init`]).
    pub(in crate::fuse) flags: u64,
    /// Requests that nobody waits for which the kernel may have in flight.
    pub(in crate::fuse) background_max: u16,
    /// How many of them make it hold back read-ahead.
    pub(in crate::fuse) congested_at: u16,
    /// Most bytes of one write request.
    pub(in crate::fuse) write_bytes_max: u32,
    /// Most pages of one request.
    pub(in crate::fuse) pages_max: u16,
}

/// The head of a reply; `error` is 0 or an errno. `None` if it is longer than can be said.
pub(super) fn reply_header(unique: u64, error: i32, body_bytes: usize) -> Option<Body> {
    out_header(unique, error.checked_neg()?, body_bytes)
}

/// The head of a notification.
pub(super) fn notification_header(code: abi::Notification, body_bytes: usize) -> Option<Body> {
    out_header(0, code as i32, body_bytes)
}

fn out_header(unique: u64, error: i32, body_bytes: usize) -> Option<Body> {
    let length = u32::try_from(OUT_HEADER_BYTES + body_bytes).ok()?;
    Some(Body::new().u32(length).u32(error.cast_unsigned()).u64(unique))
}

/// `struct fuse_init_out`
pub(super) fn init(offer: &Init, agreed: &Agreement) -> Body {
    let (lower, upper) = halves(agreed.flags);
    Body::new()
        .u32(abi::MAJOR)
        .u32(abi::MINOR)
        .u32(offer.max_readahead)
        .u32(lower)
        .u16(agreed.background_max)
        .u16(agreed.congested_at)
        .u32(agreed.write_bytes_max)
        .u32(1) // Times are kept to the nanosecond.
        .u16(agreed.pages_max)
        .u16(0)
        .u32(upper)
        .zeros(28)
}

/// `struct fuse_init_out` for a kernel of a later major version, which then comes back with ours.
pub(super) fn init_version_only() -> Body {
    Body::new().u32(abi::MAJOR).u32(abi::MINOR).zeros(56)
}

fn halves(flags: u64) -> (u32, u32) {
    let lower = u32::try_from(flags & u64::from(u32::MAX)).expect("32 bits");
    (lower, u32::try_from(flags >> 32).expect("32 bits"))
}

/// `struct fuse_attr_out`
pub(super) fn attr(attr: &NodeAttr, valid: Duration) -> Body {
    let body = Body::new().u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0);
    put_attr(body, attr)
}

/// `struct fuse_entry_out`
pub(super) fn entry(entry: &Entry) -> Body {
    put_entry(Body::new(), entry)
}

/// `struct fuse_entry_out`, `struct fuse_open_out`
pub(super) fn created(entry: &Entry, opened: Opened) -> Body {
    put_opened(put_entry(Body::new(), entry), opened)
}

/// `struct fuse_open_out`
pub(super) fn opened(opened: Opened) -> Body {
    put_opened(Body::new(), opened)
}

fn put_opened(body: Body, opened: Opened) -> Body {
    let flags = match opened.pages {
        Pages::Dropped => 0,
        Pages::Kept => abi::FOPEN_KEEP_CACHE,
        Pages::Bypassed => abi::FOPEN_DIRECT_IO,
    };
    body.u64(opened.handle).u32(flags).u32(0)
}

fn put_entry(body: Body, entry: &Entry) -> Body {
    // Inode numbers are never used twice, so there are no generations of one.
    let generation = 0;
    let body = body
        .u64(entry.attr.node.0)
        .u64(generation)
        .u64(entry.entry_valid.as_secs())
        .u64(entry.attr_valid.as_secs())
        .u32(entry.entry_valid.subsec_nanos())
        .u32(entry.attr_valid.subsec_nanos());
    put_attr(body, &entry.attr)
}

fn put_attr(body: Body, attr: &NodeAttr) -> Body {
    body.u64(attr.node.0)
        .u64(attr.size)
        .u64(attr.blocks)
        .u64(attr.atime.seconds.cast_unsigned())
        .u64(attr.mtime.seconds.cast_unsigned())
        .u64(attr.ctime.seconds.cast_unsigned())
        .u32(attr.atime.nanos)
        .u32(attr.mtime.nanos)
        .u32(attr.ctime.nanos)
        .u32(attr.mode)
        .u32(attr.nlink)
        .u32(attr.uid)
        .u32(attr.gid)
        .u32(attr.rdev)
        .u32(attr.block_bytes)
        .u32(0)
}

/// `struct fuse_statx_out`
pub(super) fn statx(attr: &NodeAttr, valid: Duration) -> Body {
    let body = Body::new().u64(valid.as_secs()).u32(valid.subsec_nanos()).zeros(4 + 16);
    let body = body
        .u32(libc::STATX_BASIC_STATS | libc::STATX_BTIME)
        .u32(attr.block_bytes)
        .u64(0) // None of the attributes that chattr(1) sets.
        .u32(attr.nlink)
        .u32(attr.uid)
        .u32(attr.gid)
        .u16(u16::try_from(attr.mode).expect("four bits of type and twelve of permissions"))
        .zeros(2)
        .u64(attr.node.0)
        .u64(attr.size)
        .u64(attr.blocks)
        .u64(0);
    [attr.atime, attr.btime, attr.ctime, attr.mtime]
        .into_iter()
        .fold(body, |body, time| body.u64(time.seconds.cast_unsigned()).u32(time.nanos).zeros(4))
        .u32(libc::major(attr.rdev.into()))
        .u32(libc::minor(attr.rdev.into()))
        .zeros(4 + 4 + 14 * 8)
}

/// `struct fuse_statfs_out`
pub(super) fn room(room: &Room) -> Body {
    Body::new()
        .u64(room.blocks)
        .u64(room.blocks_free)
        .u64(room.blocks_free)
        .u64(room.inodes)
        .u64(room.inodes_free)
        .u32(room.block_bytes)
        .u32(room.name_bytes_max)
        .u32(room.block_bytes)
        .zeros(4 + 24)
}

/// `struct fuse_lk_out`
pub(super) fn lock(found: Option<FoundLock>) -> Body {
    let (start, end, kind, pid) = match found {
        Some(FoundLock { start, end, kind, pid }) => (start, end, kind, pid),
        None => (0, 0, libc::F_UNLCK, 0),
    };
    let kind = u32::try_from(kind).expect("small and positive");
    Body::new().u64(start).u64(end).u32(kind).u32(pid)
}

/// `struct fuse_write_out`, `struct fuse_getxattr_out`
pub(super) fn size(size: u32) -> Body {
    Body::new().u32(size).u32(0)
}

/// `struct fuse_lseek_out`
pub(super) fn offset(offset: u64) -> Body {
    Body::new().u64(offset)
}

/// `struct fuse_notify_inval_inode_out`
pub(super) fn inval_inode(node: NodeId, offset: i64, length: i64) -> Body {
    Body::new().u64(node.0).u64(offset.cast_unsigned()).u64(length.cast_unsigned())
}

/// `struct fuse_notify_inval_entry_out`; the name and a zero byte follow.
pub(super) fn inval_entry(parent: NodeId, name_bytes: u32) -> Body {
    Body::new().u64(parent.0).u32(name_bytes).u32(abi::EXPIRE_ONLY)
}

/// `struct fuse_notify_delete_out`; the name and a zero byte follow.
pub(super) fn delete(parent: NodeId, child: NodeId, name_bytes: u32) -> Body {
    Body::new().u64(parent.0).u64(child.0).u32(name_bytes).u32(0)
}

/// Directory entries that together fit into a reply of a certain size.
#[derive(Debug)]
pub(in crate::fuse) struct Entries {
    bytes: Vec<u8>,
    room: usize,
}

impl Entries {
    /// None, with room for so many bytes.
    pub(in crate::fuse) fn new(room: u32) -> Self {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        Self { bytes: Vec::new(), room }
    }

    /// Adds a name (`struct fuse_dirent`); whether there was no room for it. `next` is where to go on after it,
    /// `mode` has its type.
    #[must_use]
    pub(in crate::fuse) fn add(&mut self, node: NodeId, mode: u32, next: u64, name: &[u8]) -> bool {
        self.put(&Body::new(), node, mode, next, name)
    }

    /// Adds a name with its attributes (`struct fuse_direntplus`); whether there was no room for it.
    #[must_use]
    pub(in crate::fuse) fn add_plus(&mut self, entry: &Entry, next: u64, name: &[u8]) -> bool {
        let NodeAttr { node, mode, .. } = entry.attr;
        self.put(&put_entry(Body::new(), entry), node, mode, next, name)
    }

    /// Adds a name without attributes among others with them: the kernel goes on believing what it believes of it, and
    /// looks it up when somebody wants more than the name.
    #[must_use]
    pub(in crate::fuse) fn add_bare(
        &mut self,
        node: NodeId,
        mode: u32,
        next: u64,
        name: &[u8],
    ) -> bool {
        self.put(&Body::new().zeros(ENTRY_BYTES), node, mode, next, name)
    }

    fn put(&mut self, before: &Body, node: NodeId, mode: u32, next: u64, name: &[u8]) -> bool {
        let name_bytes = u32::try_from(name.len()).expect("names are at most 255 bytes");
        let kind = (mode & libc::S_IFMT) >> TYPE_SHIFT;
        let fields = Body::new().u64(node.0).u64(next).u32(name_bytes).u32(kind);
        let parts = [before.as_slice(), fields.as_slice(), name];
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let end = self.bytes.len() + length.next_multiple_of(8);
        if end > self.room {
            return true;
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.bytes.resize(end, 0);
        false
    }

    /// All of them.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::kernel::abi::Fields;

    const fn at(seconds: i64, nanos: u32) -> Timestamp {
        Timestamp { seconds, nanos }
    }

    const ATTR: NodeAttr = NodeAttr {
        node: NodeId(11),
        size: 12,
        blocks: 13,
        atime: at(-14, 15),
        mtime: at(16, 17),
        ctime: at(18, 19),
        btime: at(20, 21),
        mode: 0o100_644,
        nlink: 22,
        uid: 23,
        gid: 24,
        rdev: 0,
        block_bytes: 25,
    };

    fn entry_of(attr: NodeAttr) -> Entry {
        Entry { attr, entry_valid: Duration::new(1, 2), attr_valid: Duration::new(3, 4) }
    }

    /// The numbers that a message consists of, by their widths.
    fn numbers(body: &[u8], widths: &[usize]) -> Vec<i64> {
        let mut fields = Fields(body);
        let numbers = widths.iter().map(|width| match width {
            4 => fields.i32().unwrap().into(),
            _ => fields.i64().unwrap(),
        });
        let numbers = numbers.collect();
        assert!(fields.0.is_empty(), "{} bytes are left", fields.0.len());
        numbers
    }

    const ATTR_WIDTHS: [usize; 16] = [8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4];
    const ATTR_NUMBERS: [i64; 16] =
        [11, 12, 13, -14, 16, 18, 15, 17, 19, 0o100_644, 22, 23, 24, 0, 25, 0];

    #[test]
    fn sizes_are_those_of_the_kernel() {
        let opened = Opened { handle: 1, pages: Pages::Dropped };
        let entry = entry_of(ATTR);
        assert_eq!(super::attr(&ATTR, Duration::ZERO).as_slice().len(), 104);
        assert_eq!(super::entry(&entry).as_slice().len(), ENTRY_BYTES);
        assert_eq!(created(&entry, opened).as_slice().len(), ENTRY_BYTES + 16);
        assert_eq!(statx(&ATTR, Duration::ZERO).as_slice().len(), 32 + 256);
        assert_eq!(init_version_only().as_slice().len(), 64);
        assert_eq!(inval_inode(NodeId(1), 0, 0).as_slice().len(), 24);
        assert_eq!(inval_entry(NodeId(1), 3).as_slice().len(), 16);
        assert_eq!(delete(NodeId(1), NodeId(2), 3).as_slice().len(), 24);
        let room = Room {
            blocks: 1,
            blocks_free: 2,
            inodes: 3,
            inodes_free: 4,
            block_bytes: 5,
            name_bytes_max: 255,
        };
        let widths = [8, 8, 8, 8, 8, 4, 4, 4, 4, 8, 8, 8];
        let shown = numbers(super::room(&room).as_slice(), &widths);
        assert_eq!(shown, [1, 2, 2, 3, 4, 5, 255, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn attributes_and_entries_have_their_fields_in_order() {
        let body = super::attr(&ATTR, Duration::new(3, 4));
        let widths = [&[8, 4, 4][..], &ATTR_WIDTHS].concat();
        assert_eq!(numbers(body.as_slice(), &widths), [&[3, 4, 0][..], &ATTR_NUMBERS].concat());

        let body = created(&entry_of(ATTR), Opened { handle: 9, pages: Pages::Bypassed });
        let widths = [&[8, 8, 8, 8, 4, 4][..], &ATTR_WIDTHS, &[8, 4, 4]].concat();
        let expected = [&[11, 0, 1, 3, 2, 4][..], &ATTR_NUMBERS, &[9, 1, 0]].concat();
        assert_eq!(numbers(body.as_slice(), &widths), expected);

        let body = super::opened(Opened { handle: 9, pages: Pages::Kept });
        assert_eq!(numbers(body.as_slice(), &[8, 4, 4]), [9, 2, 0]);
    }

    #[test]
    fn statx_tells_the_time_of_birth() {
        let body = statx(&NodeAttr { rdev: 0x0801, ..ATTR }, Duration::new(3, 4));
        let head = [8, 4, 4, 8, 8, 4, 4, 8, 4, 4, 4, 4, 8, 8, 8, 8];
        let widths = [&head[..], &[8, 4, 4].repeat(4), &[4; 4], &[8; 14]].concat();
        let shown = numbers(body.as_slice(), &widths);
        assert_eq!(shown[..5], [3, 4, 0, 0, 0]);
        assert_eq!(shown[5..12], [0xfff, 25, 0, 22, 23, 24, 0o100_644]);
        assert_eq!(shown[12..16], [11, 12, 13, 0]);
        assert_eq!(shown[16..28], [-14, 15, 0, 20, 21, 0, 18, 19, 0, 16, 17, 0]);
        assert_eq!(shown[28..32], [8, 1, 0, 0]);
    }

    #[test]
    fn the_agreement_has_its_flags_in_two_halves() {
        let offer = Init { major: 7, minor: 45, max_readahead: 77, flags: u64::MAX };
        let agreed = Agreement {
            flags: 5 << 32 | 3,
            background_max: 1,
            congested_at: 2,
            write_bytes_max: 99,
            pages_max: 3,
        };
        let body = init(&offer, &agreed);
        let shown = numbers(body.as_slice(), &[4; 16]);
        assert_eq!(shown[..4], [7, 39, 77, 3]);
        if cfg!(target_endian = "little") {
            assert_eq!(shown[4], 2 << 16 | 1);
            assert_eq!(shown[7], 3);
        }
        assert_eq!((shown[5], shown[6], shown[8]), (99, 1, 5));
        assert!(shown[9..].iter().all(|rest| *rest == 0));
    }

    #[test]
    fn heads() {
        let head = reply_header(7, libc::ENOENT, 0).unwrap();
        assert_eq!(numbers(head.as_slice(), &[4, 4, 8]), [16, -2, 7]);
        let head = notification_header(abi::Notification::InvalEntry, 20).unwrap();
        assert_eq!(numbers(head.as_slice(), &[4, 4, 8]), [36, 3, 0]);
        assert!(reply_header(7, 0, usize::try_from(u32::MAX).unwrap()).is_none());
    }

    #[test]
    fn directory_entries_fill_their_reply_to_the_byte_and_no_further() {
        // 24 bytes of fields, 3 of name, 5 of padding.
        let mut entries = Entries::new(64);
        assert!(!entries.add(NodeId(5), libc::S_IFDIR | 0o755, 1, b"abc"));
        assert!(!entries.add(NodeId(6), libc::S_IFREG, 2, b"12345678"));
        assert!(entries.add(NodeId(7), libc::S_IFREG, 3, b"x"));
        let (first, second) = entries.as_slice().split_at(32);
        assert_eq!(numbers(&first[..24], &[8, 8, 4, 4]), [5, 1, 3, 4]);
        assert_eq!(first[24..], *b"abc\0\0\0\0\0");
        assert_eq!(numbers(&second[..24], &[8, 8, 4, 4]), [6, 2, 8, 8]);
        assert_eq!(second[24..], *b"12345678");

        let mut entries = Entries::new(160);
        assert!(!entries.add_plus(&entry_of(ATTR), 9, b"a"));
        assert!(entries.add_plus(&entry_of(ATTR), 10, b"b"));
        assert_eq!(entries.as_slice().len(), 160);
        assert_eq!(entries.as_slice()[..128], *super::entry(&entry_of(ATTR)).as_slice());
    }
}
