//! Shared leases: of which inodes an answer tells, and giving back what came with it.
//!
//! A client that has been told something may go on believing it only while it is not changed. So the leader notes
//! with each answer that the asking session has a **shared lease** of every inode that the answer tells of, and
//! before it changes an inode it has the lease taken back from everybody else ([`Notice::Invalidate`],
//! [`Request::GiveBack`]). Both sides must mean the same by "tells of":
//!
//! | what is believed | under the lease of |
//! |---|---|
//! | attributes (but for when others have read it), extended attributes, the target of a link, the map | the inode |
//! | that a name is in a directory, or is not; a listing | the directory |
//!
//! An exclusive holder may have newer attributes than the monitors: of a file that somebody else holds no lease is
//! given.
//!
//! [`Notice::Invalidate`]: super::metadata::Notice::Invalidate
//! [`Request::GiveBack`]: super::metadata::Request::GiveBack

use bincode::{Decode, Encode};

use super::metadata::{Answer, Op, Query, Reply};
use crate::types::{Attr, Errno, Ino, LeaseStamp, SessionId};

/// See [`Request::GiveBack`](super::metadata::Request::GiveBack).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct GiveBack {
    /// Whose they are.
    pub session: SessionId,
    /// Inodes, and when the client last heard of a lease of each: one that was given later stays. At most
    /// [`PINS_MAX`](super::metadata::PINS_MAX).
    pub leases: Vec<(Ino, LeaseStamp)>,
    /// Those of them that are open, which the lease made known so far, with a generation as in
    /// [`Query::Open`].
    pub pins: Vec<(Ino, u64)>,
}

/// What a client may believe of what it was answered. With each answer come **shared leases** of the inodes it
/// tells of ([`told_of`] says which): as long as a client has one, nobody changes that inode.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Leased {
    /// When the last of them was given.
    pub stamp: LeaseStamp,
    /// Inodes that came without a lease: they are being changed.
    pub except: Vec<Ino>,
}

/// What the author of changes may believe after them, so that it need not ask: how the inodes are now that they
/// [leave](left_by). What others have changed meanwhile is included.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Aftermath {
    /// Each inode once; none that is gone again.
    pub attrs: Vec<Attr>,
    /// With leases of these.
    pub leased: Leased,
}

/// The inodes of which the author of that change is told how they are now: directories in which it has changed
/// names, and what it has made, moved or changed.
pub fn left_by(op: &Op, reply: &Result<Reply, Errno>) -> Vec<Ino> {
    match (op, reply) {
        (Op::Create(create), Ok(Reply::Inode(attr))) => vec![create.parent, attr.ino],
        (Op::Link { parent, .. }, Ok(Reply::Inode(attr))) => vec![*parent, attr.ino],
        (Op::SetAttr { .. }, Ok(Reply::Inode(attr))) => vec![attr.ino],
        (Op::Unlink { parent, .. } | Op::Rmdir { parent, .. }, Ok(Reply::Removed(_))) => {
            vec![*parent]
        }
        (Op::Rename(rename), Ok(Reply::Renamed { moved, .. })) => {
            let moved = moved.iter().map(|attr| attr.ino);
            [rename.parent, rename.new_parent].into_iter().chain(moved).collect()
        }
        _ => Vec::new(),
    }
}

/// The inodes of which that answer to that question tells.
pub fn told_of(query: &Query, answer: &Result<Answer, Errno>) -> Vec<Ino> {
    match (query, answer) {
        (Query::Lookup { parent, .. }, Ok(Answer::Attr(attr))) => vec![*parent, attr.ino],
        (Query::Lookup { parent, .. }, Err(Errno::NotFound)) => vec![*parent],
        (_, Ok(Answer::Attr(attr))) => vec![attr.ino],
        (_, Ok(Answer::Map(slice))) => vec![slice.attr.ino],
        (Query::ReadDir { dir, .. }, Ok(Answer::Entries { entries, .. })) => {
            let attrs = entries.iter().filter_map(|entry| entry.attr.as_ref());
            std::iter::once(*dir).chain(attrs.map(|attr| attr.ino)).collect()
        }
        (
            Query::ReadLink { ino } | Query::GetXattr { ino, .. } | Query::ListXattr { ino },
            Ok(Answer::Bytes(_) | Answer::Names(_)),
        )
        | (Query::GetXattr { ino, .. }, Err(Errno::NoAttribute)) => vec![*ino],
        _ => Vec::new(),
    }
}
