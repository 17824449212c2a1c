//! Rename: the one operation that can tie a knot into the tree.
//!
//! A directory must never come to lie below itself, so a directory that changes its parent is moved only
//! after a walk from its new parent up to the root did not meet it. Commands are applied one after another:
//! what the walk saw is still so when the move is made.

use super::fail::Fail;
use super::inodes::{At, change_directory, check_name, directory, entry, named};
use super::keys;
use super::records::Entry;
use super::tree::{Keepers, check_empty, enter, leave, remove, rename_link};
use super::txn::Txn;
use crate::monitor::store::Read;
use crate::types::{Attr, Errno, FileKind, Ino, limits};
use crate::wire::metadata::{Rename, RenameMode, Reply};

/// Renames. If that takes the last name of something, its keepers keep it until they have closed it.
pub(super) fn rename(
    txn: &mut Txn<'_>,
    at: At,
    rename: &Rename,
    keepers: Keepers<'_>,
) -> Result<Reply, Fail> {
    check_name(&rename.name)?;
    check_name(&rename.new_name)?;
    let from = directory(txn, rename.parent)?;
    let to = directory(txn, rename.new_parent)?;
    let moved = entry(txn, rename.parent, &rename.name)?.ok_or(Errno::NotFound)?;
    let there = entry(txn, rename.new_parent, &rename.new_name)?;
    if from.volume != to.volume {
        return Err(Errno::CrossVolume.into());
    }
    let (moved, replaced) = match (rename.mode, there) {
        (RenameMode::NoReplace, Some(_)) => return Err(Errno::Exists.into()),
        (RenameMode::Exchange, None) => return Err(Errno::NotFound.into()),
        // Two names of one file: POSIX lets both stay.
        (_, Some(there)) if there.ino == moved.ino => (Vec::new(), None),
        (RenameMode::Exchange, Some(there)) => (exchange(txn, at, rename, &moved, &there)?, None),
        (_, Some(there)) => {
            check_acyclic(txn, &moved, rename)?;
            check_replaceable(txn, &moved, &there)?;
            let name = (rename.new_parent, rename.new_name.as_slice());
            let replaced = remove(txn, at, name, &there, keepers)?;
            (vec![move_entry(txn, at, rename, &moved)?], Some(replaced))
        }
        (_, None) => {
            check_acyclic(txn, &moved, rename)?;
            (vec![move_entry(txn, at, rename, &moved)?], None)
        }
    };
    Ok(Reply::Renamed { moved, replaced })
}

fn check_replaceable(txn: &Txn<'_>, moved: &Entry, there: &Entry) -> Result<(), Fail> {
    let is_directory = |entry: &Entry| entry.kind == FileKind::Directory;
    match (is_directory(moved), is_directory(there)) {
        (false, false) => Ok(()),
        (false, true) => Err(Errno::IsDirectory.into()),
        (true, false) => Err(Errno::NotDirectory.into()),
        (true, true) => check_empty(txn, there.ino),
    }
}

fn check_acyclic(txn: &Txn<'_>, moved: &Entry, rename: &Rename) -> Result<(), Fail> {
    if moved.kind == FileKind::Directory && rename.parent != rename.new_parent {
        check_not_below(txn, rename.new_parent, moved.ino)?;
    }
    Ok(())
}

/// Refuses when `directory` is `ancestor` or lies below it.
fn check_not_below(read: &dyn Read, directory: Ino, ancestor: Ino) -> Result<(), Fail> {
    let mut at = directory;
    for _ in 0..limits::COMMAND_RECORDS_MAX {
        if at == ancestor {
            return Err(Errno::Invalid.into());
        }
        if at == Ino::ROOT {
            return Ok(());
        }
        at = named(read, at)?.parent;
    }
    Err(Errno::NameTooLong.into())
}

fn move_entry(txn: &mut Txn<'_>, at: At, rename: &Rename, moved: &Entry) -> Result<Attr, Fail> {
    let old = (rename.parent, rename.name.as_slice());
    let new = (rename.new_parent, rename.new_name.as_slice());
    leave(txn, at, old.0, old.1, moved.kind)?;
    enter(txn, at, new.0, new.1, moved.ino, moved.kind)?;
    rename_link(txn, at, moved.ino, old, new)
}

fn exchange(
    txn: &mut Txn<'_>,
    at: At,
    rename: &Rename,
    one: &Entry,
    other: &Entry,
) -> Result<Vec<Attr>, Fail> {
    let old = (rename.parent, rename.name.as_slice());
    let new = (rename.new_parent, rename.new_name.as_slice());
    if old.0 != new.0 {
        if one.kind == FileKind::Directory {
            check_not_below(txn, new.0, one.ino)?;
        }
        if other.kind == FileKind::Directory {
            check_not_below(txn, old.0, other.ino)?;
        }
    }
    put_in_place(txn, at, old, one, other)?;
    put_in_place(txn, at, new, other, one)?;
    Ok(vec![rename_link(txn, at, one.ino, old, new)?, rename_link(txn, at, other.ino, new, old)?])
}

/// What had that name makes room for `comes`.
fn put_in_place(
    txn: &mut Txn<'_>,
    at: At,
    (parent, name): (Ino, &[u8]),
    goes: &Entry,
    comes: &Entry,
) -> Result<(), Fail> {
    let entry = Entry { birth: at.op, ..comes.clone() };
    txn.put(&keys::entry(parent, name), &entry);
    let subdirectory = |entry: &Entry| u32::from(entry.kind == FileKind::Directory);
    change_directory(txn, at, parent, |directory| {
        let nlink = directory.nlink + subdirectory(comes);
        directory.nlink = nlink.saturating_sub(subdirectory(goes));
    })
}
