//! Names: creating, linking and removing them.
//!
//! A directory's record counts its entries (`size`) and its subdirectories (`nlink` − 2); an inode knows
//! the directory and the name of its first link, and `LP` records tell its others, so that a path can be told
//! for every inode and the tree can be checked from both sides.

use super::acl;
use super::fail::Fail;
use super::inodes::{At, change_directory, check_name, directory, entry, live, named, touch};
use super::keys;
use super::orphans;
use super::quota;
use super::records::{Entry, Grant, Inode, LinkName};
use super::sessions;
use super::txn::{Txn, take};
use super::usage;
use crate::types::{Attr, DataVersion, Errno, FileKind, Ino, SessionId, limits};
use crate::wire::metadata::{Create, Removed, Reply, TmpFile};

const SETGID: u16 = 0o2000;

/// A new inode and its entry.
pub(super) fn create(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    create: &Create,
) -> Result<Reply, Fail> {
    check_name(&create.name)?;
    check_kind(create)?;
    let parent = directory(txn, create.parent)?;
    if entry(txn, create.parent, &create.name)?.is_some() {
        return Err(Errno::Exists.into());
    }
    quota::check_inode(txn, parent.volume)?;
    sessions::use_inode_number(txn, at, session, create.ino)?;

    let mut inode = new_inode(at, &parent, create);
    acl::inherit(txn, at, (create.parent, &parent), (create.ino, &mut inode), create.umask)?;
    txn.put(&keys::inode(create.ino), &inode);
    enter(txn, at, create.parent, &create.name, create.ino, create.kind)?;
    if create.open {
        let birth = at.op;
        txn.put(&keys::grant(create.ino), &Grant { session, birth });
    }
    usage::change(txn, inode.volume, |usage| usage.inodes += 1)?;
    Ok(Reply::Inode(inode.attr(create.ino)))
}

/// A new regular file without a name, which its creator has open.
pub(super) fn create_nameless(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    file: &TmpFile,
) -> Result<Reply, Fail> {
    let ino = file.ino;
    let parent = directory(txn, file.parent)?;
    quota::check_inode(txn, parent.volume)?;
    sessions::use_inode_number(txn, at, session, ino)?;

    let mut inode = new_inode(
        at,
        &parent,
        &Create {
            parent: file.parent,
            name: Vec::new(),
            ino,
            kind: FileKind::Regular,
            mode: file.mode,
            umask: file.umask,
            uid: file.uid,
            gid: file.gid,
            rdev: 0,
            target: Vec::new(),
            open: true,
        },
    );
    acl::inherit(txn, at, (file.parent, &parent), (ino, &mut inode), file.umask)?;
    orphans::begin(txn, at, session, (ino, &mut inode), file.linkable);
    txn.put(&keys::inode(ino), &inode);
    let birth = at.op;
    txn.put(&keys::grant(ino), &Grant { session, birth });
    usage::change(txn, inode.volume, |usage| usage.inodes += 1)?;
    Ok(Reply::Inode(inode.attr(ino)))
}

fn check_kind(create: &Create) -> Result<(), Errno> {
    let target_fits = match create.kind {
        FileKind::Symlink => {
            (1..=limits::SYMLINK_MAX).contains(&create.target.len()) && !create.target.contains(&0)
        }
        _ => create.target.is_empty(),
    };
    if !target_fits || create.open && create.kind != FileKind::Regular {
        return Err(Errno::Invalid);
    }
    Ok(())
}

/// Under a directory with the setgid bit the group comes from the directory, and directories hand the bit on.
fn new_inode(at: At, parent: &Inode, create: &Create) -> Inode {
    let inherits = parent.mode & SETGID != 0;
    let is_directory = create.kind == FileKind::Directory;
    let device = matches!(create.kind, FileKind::CharDevice | FileKind::BlockDevice);
    Inode {
        kind: create.kind,
        mode: create.mode & 0o7777 | if inherits && is_directory { SETGID } else { 0 },
        uid: create.uid,
        gid: if inherits { parent.gid } else { create.gid },
        size: create.target.len() as u64,
        stored: 0,
        nlink: if is_directory { 2 } else { 1 },
        rdev: if device { create.rdev } else { 0 },
        atime: at.time,
        mtime: at.time,
        ctime: at.time,
        crtime: at.time,
        dv: DataVersion(0),
        birth: at.op,
        volume: parent.volume,
        md5: None,
        parent: create.parent,
        name: create.name.clone(),
        target: create.target.clone(),
        xattr_names: 0,
        pins: 0,
    }
}

/// One more name for something that is not a directory, or the first for what its session has made without.
pub(super) fn link(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    ino: Ino,
    (parent, name): (Ino, &[u8]),
) -> Result<Reply, Fail> {
    check_name(name)?;
    let mut inode = live(txn, ino)?;
    let directory = directory(txn, parent)?;
    if inode.is_directory() {
        return Err(Errno::NotPermitted.into());
    }
    let is_first = inode.nlink == 0;
    if is_first {
        orphans::link(txn, session, (ino, &mut inode), (parent, name))?;
    }
    if inode.nlink >= limits::LINKS_MAX {
        return Err(Errno::TooManyLinks.into());
    }
    if inode.volume != directory.volume {
        return Err(Errno::CrossVolume.into());
    }
    if entry(txn, parent, name)?.is_some() {
        return Err(Errno::Exists.into());
    }
    if !is_first {
        let birth = at.op;
        txn.put(&keys::link_name(ino, parent, name), &LinkName { birth });
    }
    enter(txn, at, parent, name, ino, inode.kind)?;
    inode.nlink += 1;
    touch(&mut inode, at);
    txn.put(&keys::inode(ino), &inode);
    Ok(Reply::Inode(inode.attr(ino)))
}

/// Who has an inode open whose name goes, and who takes the name.
#[derive(Clone, Copy)]
pub(super) struct Keepers<'a> {
    pub(super) pinned_by: &'a [SessionId],
    pub(super) author: SessionId,
}

impl Keepers<'_> {
    fn are_others(self) -> bool {
        self.pinned_by.iter().any(|session| *session != self.author)
    }
}

/// Removes a name of something that is not a directory. If it was the last one, its keepers keep the inode until
/// they have closed it.
pub(super) fn unlink(
    txn: &mut Txn<'_>,
    at: At,
    parent: Ino,
    name: &[u8],
    keepers: Keepers<'_>,
) -> Result<Reply, Fail> {
    directory(txn, parent)?;
    let entry = entry(txn, parent, name)?.ok_or(Errno::NotFound)?;
    if entry.kind == FileKind::Directory {
        return Err(Errno::IsDirectory.into());
    }
    remove(txn, at, (parent, name), &entry, keepers).map(Reply::Removed)
}

/// Removes an empty directory.
pub(super) fn rmdir(
    txn: &mut Txn<'_>,
    at: At,
    parent: Ino,
    name: &[u8],
    keepers: Keepers<'_>,
) -> Result<Reply, Fail> {
    directory(txn, parent)?;
    let entry = entry(txn, parent, name)?.ok_or(Errno::NotFound)?;
    if entry.kind != FileKind::Directory {
        return Err(Errno::NotDirectory.into());
    }
    check_empty(txn, entry.ino)?;
    remove(txn, at, (parent, name), &entry, keepers).map(Reply::Removed)
}

/// Refuses when a directory has entries.
pub(super) fn check_empty(txn: &Txn<'_>, ino: Ino) -> Result<(), Fail> {
    match named(txn, ino)?.size {
        0 => Ok(()),
        _ => Err(Errno::NotEmpty.into()),
    }
}

/// Takes a name away from its directory and from its inode; the inode as it is then.
pub(super) fn remove(
    txn: &mut Txn<'_>,
    at: At,
    (parent, name): (Ino, &[u8]),
    entry: &Entry,
    keepers: Keepers<'_>,
) -> Result<Removed, Fail> {
    leave(txn, at, parent, name, entry.kind)?;
    let mut inode = named(txn, entry.ino)?;
    touch(&mut inode, at);
    inode.nlink = if inode.is_directory() { 0 } else { inode.nlink.saturating_sub(1) };
    let attr = inode.attr(entry.ino);
    if attr.nlink == 0 {
        orphans::orphan(txn, at, entry.ino, inode, keepers.pinned_by)?;
    } else {
        forget_name(txn, entry.ino, &mut inode, parent, name)?;
        txn.put(&keys::inode(entry.ino), &inode);
    }
    Ok(Removed { attr, open_elsewhere: keepers.are_others() })
}

/// One of several names goes: when it was the first, another takes its place.
fn forget_name(
    txn: &mut Txn<'_>,
    ino: Ino,
    inode: &mut Inode,
    parent: Ino,
    name: &[u8],
) -> Result<(), Fail> {
    if (inode.parent, inode.name.as_slice()) != (parent, name) {
        txn.delete(&keys::link_name(ino, parent, name));
        return Ok(());
    }
    let others = take(txn, &keys::link_names(ino), 1)?;
    if let Some(((_, parent, name), _)) = others.into_iter().next() {
        txn.delete(&keys::link_name(ino, parent, &name));
        inode.parent = parent;
        inode.name = name;
    }
    Ok(())
}

/// A directory gets an entry.
pub(super) fn enter(
    txn: &mut Txn<'_>,
    at: At,
    parent: Ino,
    name: &[u8],
    ino: Ino,
    kind: FileKind,
) -> Result<(), Fail> {
    let birth = at.op;
    txn.put(&keys::entry(parent, name), &Entry { ino, kind, birth });
    change_directory(txn, at, parent, |directory| {
        directory.size += 1;
        directory.nlink += u32::from(kind == FileKind::Directory);
    })
}

/// A directory loses an entry.
pub(super) fn leave(
    txn: &mut Txn<'_>,
    at: At,
    parent: Ino,
    name: &[u8],
    kind: FileKind,
) -> Result<(), Fail> {
    txn.delete(&keys::entry(parent, name));
    change_directory(txn, at, parent, |directory| {
        let subdirectory = u32::from(kind == FileKind::Directory);
        directory.size = directory.size.saturating_sub(1);
        directory.nlink = directory.nlink.saturating_sub(subdirectory);
    })
}

/// Lets an inode know that one of its names is another now; the inode as it is then.
pub(super) fn rename_link(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    old: (Ino, &[u8]),
    new: (Ino, &[u8]),
) -> Result<Attr, Fail> {
    let mut inode = named(txn, ino)?;
    if (inode.parent, inode.name.as_slice()) == old {
        inode.parent = new.0;
        inode.name = new.1.to_vec();
    } else {
        let birth = at.op;
        txn.delete(&keys::link_name(ino, old.0, old.1));
        txn.put(&keys::link_name(ino, new.0, new.1), &LinkName { birth });
    }
    touch(&mut inode, at);
    txn.put(&keys::inode(ino), &inode);
    Ok(inode.attr(ino))
}
