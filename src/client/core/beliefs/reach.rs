//! Which inodes and names a question or a change is about.

use crate::types::{Errno, Ino};
use crate::wire::metadata::{Op, Query, Rename, RenameMode, Reply};

/// The inode whose lease covers what is asked, beside the attributes in the answer.
pub(super) fn subject_of(query: &Query) -> Option<Ino> {
    match query {
        Query::Lookup { parent, .. } => Some(*parent),
        Query::ReadDir { dir, .. } => Some(*dir),
        Query::ReadLink { ino } | Query::GetXattr { ino, .. } | Query::ListXattr { ino } => {
            Some(*ino)
        }
        Query::Attr { .. }
        | Query::Open { .. }
        | Query::Map { .. }
        | Query::Lock { .. }
        | Query::Space { .. } => None,
    }
}

/// The names that an operation makes, moves or removes.
pub(super) fn names_of(op: &Op) -> Vec<(Ino, &[u8])> {
    match op {
        Op::Create(create) => vec![(create.parent, &create.name)],
        Op::Link { parent, name, .. }
        | Op::Unlink { parent, name }
        | Op::Rmdir { parent, name } => vec![(*parent, name)],
        Op::Rename(rename) => {
            vec![(rename.parent, &rename.name), (rename.new_parent, &rename.new_name)]
        }
        _ => Vec::new(),
    }
}

/// Where the names lead that a change has made, moved or removed; `None`, to nothing.
pub(super) fn names_left<'a>(
    op: &'a Op,
    reply: &Result<Reply, Errno>,
) -> Vec<(Ino, &'a [u8], Option<Ino>)> {
    match (op, reply) {
        (Op::Create(create), Ok(Reply::Inode(attr))) => {
            vec![(create.parent, &create.name, Some(attr.ino))]
        }
        (Op::Link { parent, name, .. }, Ok(Reply::Inode(attr))) => {
            vec![(*parent, name, Some(attr.ino))]
        }
        (Op::Unlink { parent, name } | Op::Rmdir { parent, name }, Ok(Reply::Removed(_))) => {
            vec![(*parent, name, None)]
        }
        (Op::Rename(rename), Ok(Reply::Renamed { moved, .. })) => {
            let Rename { parent, name, new_parent, new_name, mode } = rename;
            match (&moved[..], mode) {
                ([attr], RenameMode::Replace | RenameMode::NoReplace) => {
                    vec![(*parent, name, None), (*new_parent, new_name, Some(attr.ino))]
                }
                // Names that changed places, or were of one inode: they are asked for again.
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// The inodes that an operation has changed, beside the directories of [`names_of`].
pub(super) fn inodes_of(op: &Op, reply: &Reply) -> Vec<Ino> {
    match (op, reply) {
        (_, Reply::Removed(removed)) => vec![removed.attr.ino],
        (_, Reply::Renamed { moved, replaced }) => {
            let replaced = replaced.iter().map(|removed| &removed.attr);
            moved.iter().chain(replaced).map(|attr| attr.ino).collect()
        }
        (Op::Commit(commit), _) => commit.pieces.iter().map(|piece| piece.piece.ino).collect(),
        (
            Op::Link { ino, .. }
            | Op::SetAttr { ino, .. }
            | Op::Truncate { ino, .. }
            | Op::Punch { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. }
            | Op::SetMd5 { ino, .. },
            _,
        ) => vec![*ino],
        (Op::Clone(range), _) => vec![range.from, range.to],
        _ => Vec::new(),
    }
}
