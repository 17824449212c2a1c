//! What a file contains: truncate, punch and clone. All of them need the exclusive grant.
//!
//! A file may have more extents than one command may touch. Then the operation goes on in steps, from the end
//! of its range downwards, and each step leaves a consistent file: a truncate sets the size to what is left.

use super::extents::{RECORDS_PER_STEP, Surgery, clip, overlapping};
use super::fail::Fail;
use super::inodes::{At, live, regular, touch};
use super::keys;
use super::quota;
use super::records::{Grant, Inode};
use super::txn::{Txn, get};
use crate::monitor::store::Read;
use crate::types::{DataVersion, Errno, Extent, Ino, SessionId, Timestamp, limits};
use crate::wire::metadata::{CloneRange, Reply};

/// Most extents that one clone may copy. Each takes its own record and one or two `F` records.
const CLONE_EXTENTS_MAX: usize = 1000;

const BLOCK: u64 = limits::BLOCK as u64;

/// How far an operation came.
#[derive(Debug)]
pub(super) enum Step {
    /// It is done.
    Done(Reply),
    /// A part is done, which is to be kept; the same operation again goes on with it.
    Partly,
}

/// Refuses with [`Errno::Stale`] when the session does not hold the file's exclusive grant (any more).
pub(super) fn check_grant(read: &dyn Read, session: SessionId, ino: Ino) -> Result<(), Fail> {
    match get(read, &keys::grant(ino))? {
        Some(grant) if grant.session == session => Ok(()),
        _ => Err(Errno::Stale.into()),
    }
}

/// The content of a file is another now.
pub(super) fn changed(inode: &mut Inode, at: At, mtime: Option<Timestamp>) {
    touch(inode, at);
    inode.dv = inode.dv.next();
    inode.md5 = None;
    if let Some(mtime) = mtime {
        inode.mtime = mtime;
    }
}

/// Sets the size. What is beyond it goes; an extent that reaches over it ends there, and should the file
/// grow again, zeros follow.
pub(super) fn truncate(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    ino: Ino,
    (size, mtime): (u64, Option<Timestamp>),
) -> Result<Step, Fail> {
    let mut inode = regular(txn, ino)?;
    check_grant(txn, session, ino)?;
    if size > limits::FILE_BYTES_MAX {
        return Err(Errno::FileTooBig.into());
    }
    let mut surgery = Surgery::new(txn, at);
    let left = surgery.cut(ino, &mut inode, size, u64::MAX, Some(RECORDS_PER_STEP))?;
    surgery.finish()?;
    inode.size = left.unwrap_or(size);
    changed(&mut inode, at, mtime);
    txn.put(&keys::inode(ino), &inode);
    Ok(match left {
        Some(_) => Step::Partly,
        None => Step::Done(Reply::Inode(inode.attr(ino))),
    })
}

/// Makes a hole of whole blocks.
pub(super) fn punch(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    ino: Ino,
    (offset, length, mtime): (u64, u64, Timestamp),
) -> Result<Step, Fail> {
    let mut inode = regular(txn, ino)?;
    check_grant(txn, session, ino)?;
    let end = offset.checked_add(length).ok_or(Errno::FileTooBig)?;
    if !offset.is_multiple_of(BLOCK) || !length.is_multiple_of(BLOCK) || length == 0 {
        return Err(Errno::Invalid.into());
    }
    let mut surgery = Surgery::new(txn, at);
    let left = surgery.cut(ino, &mut inode, offset, end, Some(RECORDS_PER_STEP))?;
    surgery.finish()?;
    changed(&mut inode, at, Some(mtime));
    txn.put(&keys::inode(ino), &inode);
    Ok(match left {
        Some(_) => Step::Partly,
        None => Step::Done(Reply::Inode(inode.attr(ino))),
    })
}

/// Lets a range of one file share the extents of a range of another, or of the same further on.
///
/// Refuses with [`Errno::TooBig`] when either range has more extents than one command may change: the client
/// clones in portions.
pub(super) fn clone(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    range: &CloneRange,
) -> Result<Reply, Fail> {
    let from = regular(txn, range.from)?;
    let mut to = regular(txn, range.to)?;
    check_grant(txn, session, range.from)?;
    check_grant(txn, session, range.to)?;
    check_clone(range, &from, &to)?;
    if from.volume != to.volume {
        return Err(Errno::CrossVolume.into());
    }
    let copies = copies(txn, range)?;
    let before = to.stored;
    let end = range.to_offset + range.length;

    let mut surgery = Surgery::new(txn, at);
    let cut_to = end.next_multiple_of(BLOCK);
    let left = surgery.cut(range.to, &mut to, range.to_offset, cut_to, Some(RECORDS_PER_STEP))?;
    if left.is_some() {
        return Err(Errno::TooBig.into());
    }
    for copy in copies {
        surgery.insert(range.to, &mut to, copy)?;
    }
    surgery.finish()?;
    if to.stored > before {
        quota::check_bytes(txn, to.volume)?;
    }
    to.size = to.size.max(end);
    changed(&mut to, at, Some(range.mtime));
    txn.put(&keys::inode(range.to), &to);
    Ok(Reply::Inode(to.attr(range.to)))
}

fn check_clone(range: &CloneRange, from: &Inode, to: &Inode) -> Result<(), Errno> {
    let from_end = range.from_offset.checked_add(range.length);
    let to_end = range.to_offset.checked_add(range.length);
    let (from_end, to_end) = from_end.zip(to_end).ok_or(Errno::FileTooBig)?;
    if to_end > limits::FILE_BYTES_MAX {
        return Err(Errno::FileTooBig);
    }
    let aligned = range.from_offset.is_multiple_of(BLOCK) && range.to_offset.is_multiple_of(BLOCK);
    // A ragged end is one of both files: in the middle of `to` it would take the rest of its block along.
    let whole = range.length.is_multiple_of(BLOCK) || from_end == from.size && to_end >= to.size;
    let apart = range.from != range.to
        || from_end.next_multiple_of(BLOCK) <= range.to_offset
        || to_end.next_multiple_of(BLOCK) <= range.from_offset;
    if range.length == 0 || !aligned || !whole || !apart || from_end > from.size {
        return Err(Errno::Invalid);
    }
    Ok(())
}

/// The extents of the range, as they will be in the other file.
fn copies(read: &dyn Read, range: &CloneRange) -> Result<Vec<Extent>, Fail> {
    let end = range.from_offset + range.length;
    let found: Vec<Extent> = overlapping(read, range.from, range.from_offset, end)?
        .take(CLONE_EXTENTS_MAX + 1)
        .collect::<Result<_, _>>()?;
    if found.len() > CLONE_EXTENTS_MAX {
        return Err(Errno::TooBig.into());
    }
    let parts = found.iter().filter_map(|extent| clip(extent, range.from_offset, end));
    Ok(parts
        .map(|part| Extent { offset: part.offset - range.from_offset + range.to_offset, ..part })
        .collect())
}

/// Takes the exclusive grant of a file. That nobody else holds it was seen to before.
pub(super) fn acquire(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    ino: Ino,
) -> Result<Reply, Fail> {
    let inode = regular(txn, ino)?;
    let birth = at.op;
    txn.put(&keys::grant(ino), &Grant { session, birth });
    Ok(Reply::Inode(inode.attr(ino)))
}

/// Gives the exclusive grant back; one that is not held (any more) is as good as given back.
pub(super) fn release(txn: &mut Txn<'_>, session: SessionId, ino: Ino) -> Result<Reply, Fail> {
    let held = get(txn, &keys::grant(ino))?;
    if held.is_some_and(|grant| grant.session == session) {
        txn.delete(&keys::grant(ino));
    }
    Ok(Reply::Done)
}

/// Notes the MD5 of a content; one of another content is ignored.
pub(super) fn set_md5(
    txn: &mut Txn<'_>,
    at: At,
    ino: Ino,
    dv: DataVersion,
    md5: [u8; 16],
) -> Result<Reply, Fail> {
    let mut inode = live(txn, ino)?;
    if inode.dv == dv {
        inode.md5 = Some(md5);
        inode.birth = at.op;
        txn.put(&keys::inode(ino), &inode);
    }
    Ok(Reply::Done)
}
