//! Finding inodes and names: what operations and questions both begin with.

use super::fail::Fail;
use super::keys;
use super::records::{Entry, Inode};
use super::txn::{Txn, get};
use crate::monitor::store::{Read, StoreError};
use crate::types::{Errno, FileKind, Ino, OpSeq, Timestamp, limits};

/// When an action happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// Its place in the history: the birth of all that it writes.
    pub(super) op: OpSeq,
    /// The time, by the leader's clock.
    pub(super) time: Timestamp,
}

/// An inode by its number.
///
/// Refuses with [`Errno::Stale`] when nobody can reach it any more.
pub(super) fn live(read: &dyn Read, ino: Ino) -> Result<Inode, Fail> {
    match get(read, &keys::inode(ino))? {
        Some(inode) if !inode.is_doomed() => Ok(inode),
        _ => Err(Errno::Stale.into()),
    }
}

/// A regular file by its number.
pub(super) fn regular(read: &dyn Read, ino: Ino) -> Result<Inode, Fail> {
    let inode = live(read, ino)?;
    match inode.kind {
        FileKind::Regular => Ok(inode),
        FileKind::Directory => Err(Errno::IsDirectory.into()),
        _ => Err(Errno::Invalid.into()),
    }
}

/// A directory in which names may be looked up and made.
///
/// Refuses with [`Errno::NotFound`] when it was removed.
pub(super) fn directory(read: &dyn Read, ino: Ino) -> Result<Inode, Fail> {
    match get(read, &keys::inode(ino))? {
        Some(inode) if !inode.is_directory() => Err(Errno::NotDirectory.into()),
        Some(inode) if inode.nlink > 0 => Ok(inode),
        _ => Err(Errno::NotFound.into()),
    }
}

/// The inode that a name leads to.
///
/// There always is one (an invariant); were there none, the answer is an I/O error on every monitor alike.
pub(super) fn named(read: &dyn Read, ino: Ino) -> Result<Inode, Fail> {
    get(read, &keys::inode(ino))?.ok_or(Fail::Refused(Errno::Io))
}

/// A name in a directory.
pub(super) fn entry(
    read: &dyn Read,
    parent: Ino,
    name: &[u8],
) -> Result<Option<Entry>, StoreError> {
    if name.len() > limits::NAME_MAX {
        // Nor may it become a key: a store takes no long ones.
        return Ok(None);
    }
    get(read, &keys::entry(parent, name))
}

/// Refuses what cannot be a name of a directory entry.
pub(super) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > limits::NAME_MAX {
        return Err(Errno::NameTooLong);
    }
    let special = name.is_empty() || name == b"." || name == b"..";
    if special || name.contains(&b'/') || name.contains(&0) {
        return Err(Errno::Invalid);
    }
    Ok(())
}

/// Changes what a directory says of its entries, and its times with it.
pub(super) fn change_directory(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    change: impl FnOnce(&mut Inode),
) -> Result<(), Fail> {
    let mut inode = named(txn, ino)?;
    change(&mut inode);
    inode.mtime = at.time;
    touch(&mut inode, at);
    txn.put(&keys::inode(ino), &inode);
    Ok(())
}

/// Attributes or content of an inode change now.
pub(super) fn touch(inode: &mut Inode, at: At) {
    inode.ctime = at.time;
    inode.birth = at.op;
}
