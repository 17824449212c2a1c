//! Sessions: what a client has in the replicated state, and how it goes.
//!
//! A session owns its reply slots (`Q`), the ids it leased (`A`), the exclusive grants it holds (`W`), the
//! locks of its programs (in `K`) and the nameless inodes it keeps (`O`). Closing it clears all of that away. From the first step on the session is
//! marked as closing and changes nothing any more; what does not fit in one command is done by the next, and
//! the session's own record goes last, so that a new leader sees which are half closed.
//!
//! A session may be evicted by mistake, its process alive behind a cut cable. That process opens another, and asks
//! what became of what it had sent: so the slots of an evicted session are kept for [`REPLIES_KEPT`] (`J` says
//! since when). What was answered then is not done twice, and what was not can never be done any more.

use std::time::Duration;

use super::command::Outcome;
use super::fail::Fail;
use super::inodes::At;
use super::keys::{self, IdKind};
use super::level;
use super::locks;
use super::orphans;
use super::records::{Counter, Evicted, Range, Session};
use super::stripes;
use super::txn::{Txn, get, scan, take};
use crate::crypto::Role;
use crate::monitor::store::StoreError;
use crate::types::{Errno, Ino, SessionId, StripeId, limits};
use crate::wire::metadata::{ClientInfo, Reply};

/// How long the replies of an evicted session are kept.
pub const REPLIES_KEPT: Duration = Duration::from_secs(600);

/// Closing a session stops for breath after so many records; one of its steps touches at most a few
/// thousand more.
const RECORDS_PER_STEP: usize = 2048;

/// Up to where grants and locks were looked at when there are no more: no inode has this number.
const NO_MORE: Ino = Ino(u64::MAX);

// A range's numbers are the bits of `Range::used`.
const _: () = assert!(limits::INODE_RANGE == u64::BITS as u64);

/// A client begins, unless it was revoked: of the two commands the log has one first, and whoever revokes it closes
/// the sessions that it has by then. One that asks again with the nonce of a session that is open has missed the
/// answer.
pub(super) fn open(
    txn: &mut Txn<'_>,
    at: At,
    owner: &str,
    client: &ClientInfo,
    nonce: u128,
) -> Result<Outcome, StoreError> {
    if get(txn, &keys::member(Role::Client, owner))?.is_some_and(|member| member.revoked) {
        return Ok(Outcome::NoSession);
    }
    for found in scan(txn, &keys::all::<Session>()) {
        let (id, session) = found?;
        let is_same = session.nonce == nonce && session.owner == owner && session.client == *client;
        if is_same && session.closing.is_none() {
            return Ok(Outcome::Session(id));
        }
    }
    if let Some(refused) = level::too_old(txn, &client.program)? {
        return Ok(refused);
    }
    let id = SessionId(at.op.0);
    let (owner, client) = (owner.to_owned(), client.clone());
    let session = Session { owner, client, nonce, opened: at.time, closing: None };
    txn.put(&keys::session(id), &session);
    Ok(Outcome::Session(id))
}

/// A client ends, or is given up.
pub(super) fn close(
    txn: &mut Txn<'_>,
    at: At,
    id: SessionId,
    evicted: bool,
) -> Result<Outcome, StoreError> {
    let Some(mut session) = get(txn, &keys::session(id))? else {
        return Ok(Outcome::NoSession);
    };
    let mut closing = session.closing.unwrap_or_default();
    if closing.grants != NO_MORE {
        closing.grants = drop_grants(txn, id, closing.grants)?;
    }
    let are_next = closing.grants == NO_MORE && !is_breathless(txn);
    if are_next && closing.locks != NO_MORE {
        closing.locks = locks::drop_of(txn, at, id, closing.locks)?.unwrap_or(NO_MORE);
    }
    session.closing = Some(closing);
    txn.put(&keys::session(id), &session);
    let gone = closing.grants == NO_MORE
        && closing.locks == NO_MORE
        && close_ranges(txn, at, id)?
        && drop_orphans(txn, at, id)?;
    if !gone {
        return Ok(Outcome::Partly);
    }
    if evicted {
        let Session { owner, client, .. } = session;
        txn.put(&keys::evicted(id), &Evicted { owner, client, at: at.time });
    } else {
        drop_replies(txn, id)?;
    }
    txn.delete(&keys::session(id));
    Ok(Outcome::Done)
}

/// Nobody will ask any more what became of an evicted session's changes.
pub(super) fn forget(txn: &mut Txn<'_>, id: SessionId) -> Result<Outcome, StoreError> {
    if get(txn, &keys::evicted(id))?.is_none() {
        return Ok(Outcome::NoSession);
    }
    drop_replies(txn, id)?;
    txn.delete(&keys::evicted(id));
    Ok(Outcome::Done)
}

fn drop_replies(txn: &mut Txn<'_>, id: SessionId) -> Result<(), StoreError> {
    for ((_, slot), _) in take(txn, &keys::slots(id), limits::SESSION_SLOTS.into())? {
        txn.delete(&keys::slot(id, slot));
    }
    Ok(())
}

fn is_breathless(txn: &Txn<'_>) -> bool {
    txn.touched() >= RECORDS_PER_STEP
}

/// Gives back what the session holds, from the inode `from` on, a portion at a time: returns up to where.
///
/// A session ends rarely, and grants and locks come and go with every file that is used. So its end looks at those
/// of all sessions, rather than that each of them had a second key.
fn drop_grants(txn: &mut Txn<'_>, id: SessionId, from: Ino) -> Result<Ino, StoreError> {
    let found = take(txn, &keys::grants(from), RECORDS_PER_STEP)?;
    for (ino, _) in found.iter().filter(|(_, grant)| grant.session == id) {
        txn.delete(&keys::grant(*ino));
    }
    let is_last = found.len() < RECORDS_PER_STEP;
    Ok(found.last().filter(|_| !is_last).map_or(NO_MORE, |(ino, _)| Ino(ino.0 + 1)))
}

fn close_ranges(txn: &mut Txn<'_>, at: At, id: SessionId) -> Result<bool, StoreError> {
    for (start, _) in stripes::ranges_of(txn, id, IdKind::Inodes)? {
        txn.delete(&keys::range(IdKind::Inodes, start));
    }
    for (start, range) in stripes::ranges_of(txn, id, IdKind::Stripes)? {
        if is_breathless(txn) {
            return Ok(false);
        }
        stripes::close_range(txn, at, start, range, StripeId(u64::MAX))?;
    }
    Ok(true)
}

fn drop_orphans(txn: &mut Txn<'_>, at: At, id: SessionId) -> Result<bool, StoreError> {
    loop {
        if is_breathless(txn) {
            return Ok(false);
        }
        let next = take(txn, &keys::orphans(id), 1)?;
        match next.first() {
            Some(((_, ino), _)) => orphans::unpin(txn, at, id, *ino)?,
            None => return Ok(true),
        }
    }
}

/// Leases a fresh range of ids.
fn lease(txn: &mut Txn<'_>, at: At, session: SessionId, kind: IdKind) -> Result<Reply, Fail> {
    let counter = keys::next_id(kind);
    let first = get(txn, &counter)?.ok_or(Errno::Io)?.value;
    let count = kind.range();
    let value = first + count;
    txn.put(&counter, &Counter { value });
    let range = Range { session, open_from: first, used: 0, birth: at.op };
    txn.put(&keys::range(kind, first), &range);
    Ok(Reply::Range { first, count })
}

/// Leases inode numbers.
pub(super) fn lease_inodes(txn: &mut Txn<'_>, at: At, session: SessionId) -> Result<Reply, Fail> {
    lease(txn, at, session, IdKind::Inodes)
}

/// Leases stripe ids, and closes what lies below `done_below`.
pub(super) fn lease_stripes(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    done_below: StripeId,
) -> Result<Reply, Fail> {
    stripes::close_ranges(txn, at, session, done_below)?;
    lease(txn, at, session, IdKind::Stripes)
}

/// Uses up an inode number; a range without unused ones goes.
///
/// Refuses with [`Errno::Invalid`] a number that is not the session's or was used before.
pub(super) fn use_inode_number(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    ino: Ino,
) -> Result<(), Fail> {
    let offset = ino.0 % IdKind::Inodes.range();
    let key = keys::range(IdKind::Inodes, ino.0 - offset);
    let bit = 1u64 << offset;
    let range = get(txn, &key)?.filter(|range| range.session == session && range.used & bit == 0);
    let mut range = range.ok_or(Errno::Invalid)?;
    range.used |= bit;
    range.birth = at.op;
    if range.used == u64::MAX {
        txn.delete(&key);
    } else {
        txn.put(&key, &range);
    }
    Ok(())
}
