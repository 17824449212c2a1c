//! Inodes without a name.
//!
//! When the last name of an inode goes, the sessions that have it open keep it: each has an `O` record, the
//! inode counts them, and with the last one it is freed. Freeing a small inode is part of the command
//! that took its last hold. A big one would stall everybody behind it: it moves under session 0 instead, where
//! nobody can reach it, and whoever leads frees it in steps ([`free`]) until it is gone.
//!
//! A file may also begin without a name (`O_TMPFILE`): then its creator keeps it in the same way from the start, and
//! may give it one ([`link`]).

use super::extents::{RECORDS_PER_STEP, Surgery, more_than};
use super::fail::Fail;
use super::inodes::At;
use super::keys;
use super::records::{Inode, Orphan};
use super::txn::{Txn, exists, get, take};
use super::usage;
use crate::monitor::store::{Read, StoreError};
use crate::types::{Errno, Ino, SessionId};

/// Most extents, and most extended attributes, of an inode that is freed at once.
const FREED_AT_ONCE: usize = 64;

/// Most extended attributes that are freed in one step. They are read, and may be long.
const XATTRS_PER_STEP: usize = 768;

/// The session that keeps what is being freed.
pub(super) const NOBODY: SessionId = SessionId(0);

/// The last name of an inode is gone: it stays for the sessions that have it open, or goes.
pub(super) fn orphan(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    mut inode: Inode,
    pinned_by: &[SessionId],
) -> Result<(), StoreError> {
    let birth = at.op;
    for &session in pinned_by {
        let key = keys::orphan(session, ino);
        let is_open =
            get(txn, &keys::session(session))?.is_some_and(|session| session.closing.is_none());
        if is_open && !exists(txn, &key)? {
            txn.put(&key, &Orphan { linkable: false, birth });
            inode.pins += 1;
        }
    }
    if inode.pins == 0 {
        return discard(txn, at, ino, inode);
    }
    txn.put(&keys::inode(ino), &inode);
    Ok(())
}

/// An inode begins without a name: its creator keeps it.
pub(super) fn begin(
    txn: &mut Txn<'_>,
    at: At,
    creator: SessionId,
    (ino, inode): (Ino, &mut Inode),
    linkable: bool,
) {
    let birth = at.op;
    txn.put(&keys::orphan(creator, ino), &Orphan { linkable, birth });
    inode.nlink = 0;
    inode.pins = 1;
}

/// An inode that began without a name gets its first one, from its creator. Anybody else's has lost its last name
/// for good.
pub(super) fn link(
    txn: &mut Txn<'_>,
    session: SessionId,
    (ino, inode): (Ino, &mut Inode),
    (parent, name): (Ino, &[u8]),
) -> Result<(), Fail> {
    let key = keys::orphan(session, ino);
    if get(txn, &key)?.is_none_or(|orphan| !orphan.linkable) {
        return Err(Errno::NotFound.into());
    }
    txn.delete(&key);
    inode.pins = 0;
    inode.parent = parent;
    inode.name = name.to_vec();
    Ok(())
}

/// A session has closed an inode without a name.
pub(super) fn unpin(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    ino: Ino,
) -> Result<(), StoreError> {
    let key = keys::orphan(session, ino);
    if session == NOBODY || !exists(txn, &key)? {
        return Ok(());
    }
    txn.delete(&key);
    let Some(mut inode) = get(txn, &keys::inode(ino))? else {
        return Ok(());
    };
    inode.pins = inode.pins.saturating_sub(1);
    inode.birth = at.op;
    if inode.is_doomed() {
        return discard(txn, at, ino, inode);
    }
    txn.put(&keys::inode(ino), &inode);
    Ok(())
}

/// Nobody can reach the inode any more: free it, at once if it is small.
fn discard(txn: &mut Txn<'_>, at: At, ino: Ino, inode: Inode) -> Result<(), StoreError> {
    // Few files are held or locked when they go: a store remembers a removal even where nothing was.
    if exists(txn, &keys::grant(ino))? {
        txn.delete(&keys::grant(ino));
    }
    if exists(txn, &keys::locks(ino))? {
        txn.delete(&keys::locks(ino));
    }
    if is_small(txn, ino, &inode)? {
        free_step(txn, at, ino, inode)?;
    } else {
        let birth = at.op;
        txn.put(&keys::orphan(NOBODY, ino), &Orphan { linkable: false, birth });
        txn.put(&keys::inode(ino), &inode);
    }
    Ok(())
}

fn is_small(read: &dyn Read, ino: Ino, inode: &Inode) -> Result<bool, StoreError> {
    let many_extents = inode.stored > 0 && more_than(read, ino, FREED_AT_ONCE)?;
    // An attribute's name and its NUL are at least two bytes.
    let many_xattrs = inode.xattr_names as usize > 2 * FREED_AT_ONCE
        && take(read, &keys::xattrs(ino), FREED_AT_ONCE + 1)?.len() > FREED_AT_ONCE;
    Ok(!many_extents && !many_xattrs)
}

/// Goes on freeing an inode. Returns whether it is gone.
pub(super) fn free(txn: &mut Txn<'_>, at: At, ino: Ino) -> Result<bool, StoreError> {
    if !exists(txn, &keys::orphan(NOBODY, ino))? {
        return Ok(true);
    }
    let is_gone = match get(txn, &keys::inode(ino))? {
        Some(inode) => free_step(txn, at, ino, inode)?,
        None => true,
    };
    if is_gone {
        txn.delete(&keys::orphan(NOBODY, ino));
    }
    Ok(is_gone)
}

/// Returns whether the inode is gone.
fn free_step(txn: &mut Txn<'_>, at: At, ino: Ino, mut inode: Inode) -> Result<bool, StoreError> {
    inode.birth = at.op;
    if !free_extents(txn, at, ino, &mut inode)? || !free_xattrs(txn, ino, &mut inode)? {
        txn.put(&keys::inode(ino), &inode);
        return Ok(false);
    }
    txn.delete(&keys::inode(ino));
    usage::change(txn, inode.volume, |usage| {
        usage.inodes = usage.inodes.saturating_sub(1);
    })?;
    Ok(true)
}

/// Returns whether all of them are gone.
fn free_extents(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    inode: &mut Inode,
) -> Result<bool, StoreError> {
    if inode.stored == 0 {
        return Ok(true);
    }
    let mut surgery = Surgery::new(txn, at);
    let left = surgery.cut(ino, inode, 0, u64::MAX, Some(RECORDS_PER_STEP))?;
    surgery.finish()?;
    Ok(left.is_none())
}

/// Returns whether all of them are gone.
fn free_xattrs(txn: &mut Txn<'_>, ino: Ino, inode: &mut Inode) -> Result<bool, StoreError> {
    if inode.xattr_names == 0 {
        return Ok(true);
    }
    let found = take(txn, &keys::xattrs(ino), XATTRS_PER_STEP)?;
    for ((_, name), _) in &found {
        txn.delete(&keys::xattr(ino, name));
        inode.xattr_names = inode.xattr_names.saturating_sub(name.len() as u32 + 1);
    }
    Ok(found.len() < XATTRS_PER_STEP)
}
