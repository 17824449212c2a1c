//! Who must let go of a file before somebody else may touch it.
//!
//! A session that holds the exclusive grant (`W`) of a file may have newer bytes, a newer size and newer times
//! than the monitors. So before an operation of another session changes or returns that inode, and before a
//! question about its attributes or map is answered, the holder has to commit everything and give the grant
//! back. The service asks here what an operation or a question touches and recalls what others hold; apply asks
//! again, because a grant may have been taken in between, and answers [`Outcome::Held`] then.
//!
//! Others may believe what they were told of an inode without asking, under shared leases (see
//! [`leases`](crate::monitor::leases)); which inodes an operation changes in their eyes is said here, too.
//!
//! [`Outcome::Held`]: super::command::Outcome::Held

use super::inodes;
use super::keys;
use super::query;
use super::txn::get;
use crate::monitor::store::{Read, StoreError};
use crate::types::{FileKind, Ino, SessionId};
use crate::wire::metadata::{Op, Query, Rename, RenameMode};

/// The session that holds a file exclusively.
///
/// # Errors
///
/// When the store fails.
pub fn holder(read: &dyn Read, ino: Ino) -> Result<Option<SessionId>, StoreError> {
    Ok(get(read, &keys::grant(ino))?.map(|grant| grant.session))
}

/// Of these inodes those that another session holds, and which.
///
/// # Errors
///
/// When the store fails.
pub fn held_by_others(
    read: &dyn Read,
    session: SessionId,
    inos: &[Ino],
) -> Result<Vec<(Ino, SessionId)>, StoreError> {
    let mut held = Vec::new();
    for &ino in inos {
        if let Some(holder) = holder(read, ino)?.filter(|&holder| holder != session) {
            held.push((ino, holder));
        }
    }
    Ok(held)
}

/// The inodes whose own content, attributes, grant or locks an operation is about.
pub fn subjects(op: &Op) -> Vec<Ino> {
    match op {
        Op::Create(create) => vec![create.ino],
        Op::TmpFile(file) => vec![file.ino],
        Op::Link { ino, .. }
        | Op::SetAttr { ino, .. }
        | Op::Accessed { ino, .. }
        | Op::Truncate { ino, .. }
        | Op::Punch { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::RemoveXattr { ino, .. }
        | Op::Acquire { ino }
        | Op::Release { ino }
        | Op::SetMd5 { ino, .. } => vec![*ino],
        Op::Lock(lock) => vec![lock.request.ino],
        Op::Clone(range) => vec![range.from, range.to],
        Op::Commit(commit) => commit.pieces.iter().map(|piece| piece.piece.ino).collect(),
        Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename(_)
        | Op::Reserve(_)
        | Op::LeaseInodes
        | Op::LeaseStripes { .. } => Vec::new(),
    }
}

/// The directories in which an operation names something.
pub fn directories(op: &Op) -> Vec<Ino> {
    match op {
        Op::Create(create) => vec![create.parent],
        Op::Link { parent, .. } | Op::Unlink { parent, .. } | Op::Rmdir { parent, .. } => {
            vec![*parent]
        }
        Op::Rename(rename) => vec![rename.parent, rename.new_parent],
        _ => Vec::new(),
    }
}

/// The inodes that nobody else may hold when that operation is applied.
///
/// Truncate, punch, clone and commit are not among them: they need the caller's own grant, and without it they
/// are refused rather than waited for.
///
/// # Errors
///
/// When the store fails.
pub fn touched_by_op(read: &dyn Read, op: &Op) -> Result<Vec<Ino>, StoreError> {
    match op {
        Op::Link { ino, .. }
        | Op::SetAttr { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::RemoveXattr { ino, .. }
        | Op::Acquire { ino } => Ok(vec![*ino]),
        Op::Unlink { parent, name } => named(read, &[(*parent, name)]),
        Op::Rename(rename) => {
            named(read, &[(rename.parent, &rename.name), (rename.new_parent, &rename.new_name)])
        }
        Op::Create(_)
        | Op::TmpFile(_)
        | Op::Accessed { .. }
        | Op::Rmdir { .. }
        | Op::Truncate { .. }
        | Op::Punch { .. }
        | Op::Clone(_)
        | Op::Commit(_)
        | Op::Release { .. }
        | Op::SetMd5 { .. }
        | Op::Reserve(_)
        | Op::Lock(_)
        | Op::LeaseInodes
        | Op::LeaseStripes { .. } => Ok(Vec::new()),
    }
}

/// The inodes that nobody else may hold when that question is answered.
///
/// # Errors
///
/// When the store fails.
pub fn touched_by_query(read: &dyn Read, query: &Query) -> Result<Vec<Ino>, StoreError> {
    match query {
        Query::Lookup { parent, name } => named(read, &[(*parent, name)]),
        Query::Attr { ino } | Query::Open { ino, .. } | Query::Map { ino, .. } => Ok(vec![*ino]),
        Query::ReadDir { dir, after, limit, attrs: true } => {
            query::files_listed(read, *dir, *after, *limit)
        }
        Query::ReadDir { attrs: false, .. }
        | Query::ReadLink { .. }
        | Query::GetXattr { .. }
        | Query::ListXattr { .. }
        | Query::Lock { .. }
        | Query::Space { .. } => Ok(Vec::new()),
    }
}

/// The inodes that an operation changes in the eyes of those who do not hold them exclusively: before it is applied
/// nobody else may have a shared lease of them.
///
/// Who commits, truncates, punches or clones holds the file exclusively, so nobody else has a lease of it; what an
/// operation creates nobody knows yet. A lock changes nothing of its file. And a file that many read would be wanted
/// back from all of them whenever one reads it: when others have read it is not believed to be known.
///
/// # Errors
///
/// When the store fails.
pub fn changed_by_op(read: &dyn Read, op: &Op) -> Result<Vec<Ino>, StoreError> {
    let mut changed = directories(op);
    changed.extend(touched_by_op(read, op)?);
    changed.extend(moved_by_op(read, op)?);
    changed.extend(removed_by_op(read, op)?);
    changed.sort_unstable();
    changed.dedup();
    Ok(changed)
}

/// The inodes that an operation, if it is done, leads away from the names they have.
///
/// # Errors
///
/// When the store fails.
pub fn moved_by_op(read: &dyn Read, op: &Op) -> Result<Vec<Ino>, StoreError> {
    let Op::Rename(rename) = op else { return Ok(Vec::new()) };
    let exchanged =
        (rename.mode == RenameMode::Exchange).then_some((rename.new_parent, &rename.new_name));
    let mut moved = Vec::new();
    for (parent, name) in std::iter::once((rename.parent, &rename.name)).chain(exchanged) {
        moved.extend(inodes::entry(read, parent, name)?.map(|entry| entry.ino));
    }
    Ok(moved)
}

/// Whether an operation changes what others may believe under leases that a new leader does not know of yet: it
/// waits until all sessions are attached. Who holds a file exclusively is known from the start.
pub fn waits_for_grace(op: &Op) -> bool {
    match op {
        Op::Create(_)
        | Op::Link { .. }
        | Op::Unlink { .. }
        | Op::Rmdir { .. }
        | Op::Rename(_)
        | Op::SetAttr { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::Acquire { .. } => true,
        Op::TmpFile(_)
        | Op::Accessed { .. }
        | Op::Truncate { .. }
        | Op::Punch { .. }
        | Op::Clone(_)
        | Op::Commit(_)
        | Op::Release { .. }
        | Op::SetMd5 { .. }
        | Op::Reserve(_)
        | Op::Lock(_)
        | Op::LeaseInodes
        | Op::LeaseStripes { .. } => false,
    }
}

/// Whether an operation has names that lead to inodes.
pub fn names_anything(op: &Op) -> bool {
    may_remove_name(op) || matches!(op, Op::Rename(_))
}

/// Whether an operation may take a name away from an inode.
pub fn may_remove_name(op: &Op) -> bool {
    matches!(
        op,
        Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename(Rename { mode: RenameMode::Replace, .. })
    )
}

/// The inode that loses a name by an operation, if it is done.
///
/// # Errors
///
/// When the store fails.
pub fn removed_by_op(read: &dyn Read, op: &Op) -> Result<Option<Ino>, StoreError> {
    let (parent, name) = match op {
        Op::Unlink { parent, name } | Op::Rmdir { parent, name } => (*parent, name),
        Op::Rename(rename) if rename.mode == RenameMode::Replace => {
            (rename.new_parent, &rename.new_name)
        }
        _ => return Ok(None),
    };
    Ok(inodes::entry(read, parent, name)?.map(|entry| entry.ino))
}

/// What others hold of what an operation touches.
pub(super) fn held_from(
    read: &dyn Read,
    session: SessionId,
    op: &Op,
) -> Result<Vec<Ino>, StoreError> {
    let touched = touched_by_op(read, op)?;
    let held = held_by_others(read, session, &touched)?;
    Ok(held.into_iter().map(|(ino, _)| ino).collect())
}

/// The regular files that have these names: nothing else can be held.
fn named(read: &dyn Read, names: &[(Ino, &Vec<u8>)]) -> Result<Vec<Ino>, StoreError> {
    let mut found = Vec::new();
    for (parent, name) in names {
        let entry = inodes::entry(read, *parent, name)?;
        found.extend(entry.filter(|entry| entry.kind == FileKind::Regular).map(|entry| entry.ino));
    }
    Ok(found)
}
