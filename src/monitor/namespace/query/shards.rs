//! What a server has, against what it should have.
//!
//! A shard that no record names is not garbage for that alone: its commit may be on its way. It is garbage once
//! its stripe can never be committed any more, which is when the range that its id lies in is closed.

use std::collections::BTreeMap;

use super::super::keys::{self, IdKind};
use super::super::records::StripeState;
use super::super::stripes::{open_range, ranges_of};
use super::super::txn::{get, scan};
use crate::monitor::store::{Read, StoreError};
use crate::types::{OpSeq, ServerId, SessionId, ShardHash, StripeId};
use crate::wire::shards::ShardId;

/// Dead shards that a server is to delete, after that one, at most `limit`.
///
/// # Errors
///
/// When the store fails.
pub fn reap_list(
    read: &dyn Read,
    server: ServerId,
    after: Option<ShardId>,
    limit: usize,
) -> Result<Vec<ShardId>, StoreError> {
    let span = match after {
        Some(after) => keys::dead_shards_from(server, after),
        None => keys::dead_shards(server),
    };
    scan(read, &span)
        .map(|found| found.map(|((_, shard), _)| shard))
        .filter(|found| found.as_ref().map_or(true, |shard| Some(*shard) > after))
        .take(limit)
        .collect()
}

/// Whether no session can commit a stripe of that id any more. An id that was never given out (a server from
/// a later state may know it) is not closed.
///
/// # Errors
///
/// When the store fails.
pub fn range_closed(read: &dyn Read, stripe: StripeId) -> Result<bool, StoreError> {
    let next = get(read, &keys::next_id(IdKind::Stripes))?.map_or(0, |counter| counter.value);
    Ok(stripe.0 < next && open_range(read, stripe)?.is_none())
}

/// The stripe ids that are leased to a session, as spans from an id up to but without another, ascending. (Some
/// of them may be closed already.)
///
/// # Errors
///
/// When the store fails.
pub fn leased_stripes(
    read: &dyn Read,
    session: SessionId,
) -> Result<Vec<(StripeId, StripeId)>, StoreError> {
    let mut spans: Vec<(StripeId, StripeId)> = Vec::new();
    for (start, _) in ranges_of(read, session, IdKind::Stripes)? {
        let (from, to) = (StripeId(start), StripeId(start + IdKind::Stripes.range()));
        match spans.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => spans.push((from, to)),
        }
    }
    Ok(spans)
}

/// Of the shards that a server has: those it is to delete.
///
/// # Errors
///
/// When the store fails.
pub fn garbage(
    read: &dyn Read,
    server: ServerId,
    present: &[(ShardId, ShardHash)],
) -> Result<Vec<ShardId>, StoreError> {
    let mut garbage = Vec::new();
    for &(shard, _) in present {
        if is_garbage(read, server, shard)? {
            garbage.push(shard);
        }
    }
    Ok(garbage)
}

fn is_garbage(read: &dyn Read, server: ServerId, shard: ShardId) -> Result<bool, StoreError> {
    let Some(stripe) = get(read, &keys::stripe(shard.stripe))? else {
        return range_closed(read, shard.stripe);
    };
    let place = stripe.record.shards.get(usize::from(shard.index.0));
    Ok(match stripe.state {
        StripeState::Dead { .. } => true,
        StripeState::Live { .. } => place.is_none_or(|place| place.server != server),
    })
}

/// Shards `from <= shard < to` that a server should have and that are not among `present`, or not with the
/// content they should have. What was committed after `as_of` is left out: the list may be older.
///
/// # Errors
///
/// When the store fails.
pub fn missing(
    read: &dyn Read,
    server: ServerId,
    from: ShardId,
    to: Option<ShardId>,
    as_of: OpSeq,
    present: &[(ShardId, ShardHash)],
) -> Result<Vec<ShardId>, StoreError> {
    let present: BTreeMap<ShardId, ShardHash> = present.iter().copied().collect();
    let mut missing = Vec::new();
    for found in scan(read, &keys::shards_from(server, from.stripe)) {
        let ((_, stripe), record) = found?;
        let index = record.index;
        let shard = ShardId { stripe, index };
        if to.is_some_and(|to| shard >= to) {
            break;
        }
        if shard >= from
            && record.birth <= as_of
            && !is_as_committed(read, shard, present.get(&shard))?
        {
            missing.push(shard);
        }
    }
    Ok(missing)
}

fn is_as_committed(
    read: &dyn Read,
    shard: ShardId,
    hash: Option<&ShardHash>,
) -> Result<bool, StoreError> {
    let Some(hash) = hash else {
        return Ok(false);
    };
    let stripe = get(read, &keys::stripe(shard.stripe))?;
    let index = usize::from(shard.index.0);
    let place = stripe.and_then(|stripe| stripe.record.shards.get(index).copied());
    Ok(place.is_some_and(|place| place.hash == *hash))
}
