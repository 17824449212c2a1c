//! Questions: what clients, the service and administrators ask of a state. All are pure reads.
//!
//! [`answer`] is for clients; it asks nobody to let go of anything: that whoever holds a file exclusively has
//! committed was seen to before (see [`caps`](super::caps)). The rest is for the service: `cluster` tells the
//! tables of members and the counters, `risk` how safe the stripes are, `shards` compares what a server has with
//! what it should have.

mod cluster;
mod listing;
mod map;
mod risk;
mod shards;
mod trust;

use super::fail::{Fail, answered};
use super::inodes::{directory, entry, live, named};
use super::keys;
pub use super::level::{level, programs};
use super::locks;
use super::txn::{get, scan};
use crate::monitor::store::{Read, StoreError};
use crate::types::{Errno, FileKind, Ino, StripeId, StripeRecord, limits};
use crate::wire::metadata::{Answer, MapSlice, Query};

pub use cluster::{
    cluster, doomed, evicted, is_orphan, monitors, old_replies, op_seq, orphans, server, servers,
    session, sessions, space, space_of, usage, volume,
};
pub(super) use listing::files_listed;
pub use risk::stripes_status;
pub use shards::{garbage, leased_stripes, missing, range_closed, reap_list};
pub use trust::{authority, client_policy, clients, may_monitor, member, tokens};

/// Most bytes that the parts of an answer that can be continued (maps and listings) take, unless the caller
/// says otherwise.
pub const ANSWER_BYTES: usize = 256 << 10;

/// Answers a client's question.
///
/// # Errors
///
/// Outside when the store fails; inside what the client is told.
pub fn answer(read: &dyn Read, query: &Query) -> Result<Result<Answer, Errno>, StoreError> {
    answer_within(read, query, ANSWER_BYTES)
}

/// [`answer`], with maps and listings cut off at about `budget` bytes: for many questions in one request.
/// Values of extended attributes and targets of links are answered whole.
///
/// # Errors
///
/// Outside when the store fails; inside what the client is told.
pub fn answer_within(
    read: &dyn Read,
    query: &Query,
    budget: usize,
) -> Result<Result<Answer, Errno>, StoreError> {
    answered(tell(read, query, budget))
}

fn tell(read: &dyn Read, query: &Query, budget: usize) -> Result<Answer, Fail> {
    Ok(match query {
        Query::Lookup { parent, name } => lookup(read, *parent, name)?,
        Query::Attr { ino } => Answer::Attr(live(read, *ino)?.attr(*ino)),
        Query::Open { ino, .. } => Answer::Map(map::slice(read, *ino, 0..1, None, budget)?),
        Query::Map { ino, offset, length, known } => {
            let range = *offset..offset.saturating_add(*length);
            Answer::Map(map::slice(read, *ino, range, *known, budget)?)
        }
        Query::ReadDir { dir, after, limit, attrs } => {
            listing::read_directory(read, *dir, *after, (*limit, *attrs), budget)?
        }
        Query::ReadLink { ino } => {
            let inode = live(read, *ino)?;
            match inode.kind {
                FileKind::Symlink => Answer::Bytes(inode.target),
                _ => return Err(Errno::Invalid.into()),
            }
        }
        Query::GetXattr { ino, name } => get_xattr(read, *ino, name)?,
        Query::ListXattr { ino } => list_xattrs(read, *ino)?,
        Query::Lock { session, request } => {
            Answer::Lock(locks::in_the_way(read, *session, request)?)
        }
        Query::Space => Answer::Space(cluster::space(read)?),
    })
}

fn lookup(read: &dyn Read, parent: Ino, name: &[u8]) -> Result<Answer, Fail> {
    if name.len() > limits::NAME_MAX {
        return Err(Errno::NameTooLong.into());
    }
    directory(read, parent)?;
    let entry = entry(read, parent, name)?.ok_or(Errno::NotFound)?;
    Ok(Answer::Attr(named(read, entry.ino)?.attr(entry.ino)))
}

fn get_xattr(read: &dyn Read, ino: Ino, name: &[u8]) -> Result<Answer, Fail> {
    live(read, ino)?;
    if name.len() > limits::XATTR_NAME_MAX {
        return Err(Errno::NoAttribute.into());
    }
    let xattr = get(read, &keys::xattr(ino, name))?.ok_or(Errno::NoAttribute)?;
    Ok(Answer::Bytes(xattr.value))
}

fn list_xattrs(read: &dyn Read, ino: Ino) -> Result<Answer, Fail> {
    if live(read, ino)?.xattr_names == 0 {
        return Ok(Answer::Names(Vec::new()));
    }
    let names = scan(read, &keys::xattrs(ino)).map(|found| found.map(|((_, name), _)| name));
    Ok(Answer::Names(names.collect::<Result<_, _>>()?))
}

/// A part of a file's map from `offset` on; `None` when there is no such inode.
///
/// # Errors
///
/// When the store fails.
pub fn map_of(read: &dyn Read, ino: Ino, offset: u64) -> Result<Option<MapSlice>, StoreError> {
    let slice = map::slice(read, ino, offset..u64::MAX, None, ANSWER_BYTES);
    Ok(answered(slice)?.ok())
}

/// Live stripes above `after` in ascending order, at most `limit`, each with the inodes of files that have
/// bytes in it (at most 16); and whether there are no more after them.
///
/// # Errors
///
/// When the store fails.
#[expect(clippy::type_complexity, reason = "the shape of the wire's answer, which it becomes")]
pub fn live_stripes(
    read: &dyn Read,
    after: StripeId,
    limit: usize,
) -> Result<(Vec<(StripeRecord, Vec<Ino>)>, bool), StoreError> {
    let mut found = Vec::new();
    for next in scan(read, &keys::stripes_from(StripeId(after.0.saturating_add(1)))) {
        let (id, stripe) = next?;
        if !stripe.is_live() {
            continue;
        }
        if found.len() >= limit.max(1) {
            return Ok((found, false));
        }
        found.push((stripe.record, owners(read, id)?));
    }
    Ok((found, true))
}

const OWNERS_MAX: usize = 16;

fn owners(read: &dyn Read, stripe: StripeId) -> Result<Vec<Ino>, StoreError> {
    let mut owners: Vec<Ino> = Vec::new();
    for found in scan(read, &keys::references(stripe)) {
        let ((_, ino, _), _) = found?;
        if owners.last() != Some(&ino) {
            owners.push(ino);
        }
        if owners.len() == OWNERS_MAX {
            break;
        }
    }
    Ok(owners)
}

/// Whether an inode is that directory or lies below it. One without a name counts as if: only who had it open
/// knows of it. With no directory there is nothing else in it.
///
/// # Errors
///
/// When the store fails.
pub fn lies_in(read: &dyn Read, ino: Ino, dir: Option<Ino>) -> Result<bool, StoreError> {
    let mut at = ino;
    for _ in 0..limits::COMMAND_RECORDS_MAX {
        if Some(at) == dir {
            return Ok(true);
        }
        match get(read, &keys::inode(at))? {
            Some(inode) if inode.nlink > 0 && at != Ino::ROOT => at = inode.parent,
            Some(inode) if inode.nlink > 0 => return Ok(false),
            _ => return Ok(at == ino),
        }
    }
    Ok(false)
}

/// The path of an inode from the root (of its first name, if it has several); `None` when it has no name.
///
/// # Errors
///
/// When the store fails.
pub fn path(read: &dyn Read, ino: Ino) -> Result<Option<Vec<u8>>, StoreError> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut at = ino;
    while at != Ino::ROOT {
        match get(read, &keys::inode(at))? {
            Some(inode) if inode.nlink > 0 && names.len() < limits::COMMAND_RECORDS_MAX => {
                names.push(inode.name);
                at = inode.parent;
            }
            _ => return Ok(None),
        }
    }
    names.push(Vec::new());
    names.reverse();
    let path = names.join(&b'/');
    Ok(Some(if path.is_empty() { b"/".to_vec() } else { path }))
}
