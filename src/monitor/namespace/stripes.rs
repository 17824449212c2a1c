//! The life of a stripe.
//!
//! It is born with the commit that names its pieces. While it lives, `F` records say which windows of which
//! files have bytes in it, and `S` counts those records. Files are overwritten and deleted; each time,
//! [`References`] gathers what an operation adds and takes and settles the balance at its end. When the last
//! `F` record goes, the stripe dies: `S` becomes a tombstone, and every shard gets a `G` record, the order to
//! its server to delete it. The server reports each shard gone, its `G` record goes, and with the last one
//! the tombstone too, unless the stripe's id lies in a range that its session has not closed: until then the
//! tombstone keeps a late retry of the commit from bringing back a stripe whose shards are gone.

use std::collections::BTreeMap;

use super::inodes::At;
use super::keys::{self, IdKind, WINDOW_BYTES};
use super::records::{DeadShard, Range, Reference, Shard, Stripe, StripeState};
use super::txn::{Txn, exists, get, scan};
use super::usage;
use crate::monitor::store::{Read, StoreError};
use crate::types::{
    Extent, Ino, ServerId, SessionId, ShardIndex, StripeId, StripeRecord, VolumeId, limits,
};
use crate::wire::shards::ShardId;

/// What an operation adds to and takes from the references of stripes.
#[derive(Default, Debug)]
pub(super) struct References {
    windows: BTreeMap<(StripeId, Ino, u64), i64>,
    stripes: BTreeMap<StripeId, i64>,
}

impl References {
    /// An extent was written.
    pub(super) fn add(&mut self, ino: Ino, extent: &Extent) {
        for (window, bytes) in windows(extent) {
            *self.window(ino, extent, window) += bytes;
        }
    }

    /// An extent went.
    pub(super) fn take(&mut self, ino: Ino, extent: &Extent) {
        for (window, bytes) in windows(extent) {
            *self.window(ino, extent, window) -= bytes;
        }
    }

    /// A stripe was born: it dies at once if nothing refers to it.
    pub(super) fn watch(&mut self, stripe: StripeId) {
        self.stripes.entry(stripe).or_default();
    }

    fn window(&mut self, ino: Ino, extent: &Extent, window: u64) -> &mut i64 {
        self.windows.entry((extent.stripe, ino, window)).or_default()
    }

    /// Writes the balance; what has no reference left dies.
    pub(super) fn settle(mut self, txn: &mut Txn<'_>, at: At) -> Result<(), StoreError> {
        for ((stripe, ino, window), change) in std::mem::take(&mut self.windows) {
            let records = settle_window(txn, at, &keys::reference(stripe, ino, window), change)?;
            *self.stripes.entry(stripe).or_default() += records;
        }
        for (id, change) in self.stripes {
            settle_stripe(txn, at, id, change)?;
        }
        Ok(())
    }
}

/// The bytes that an extent has in each window of its file.
pub(super) fn windows(extent: &Extent) -> impl Iterator<Item = (u64, i64)> + use<> {
    let (from, to) = (extent.offset, extent.end());
    (from / WINDOW_BYTES..to.div_ceil(WINDOW_BYTES)).map(move |window| {
        let first = from.max(window * WINDOW_BYTES);
        let last = to.min((window + 1) * WINDOW_BYTES);
        (window, (last - first).cast_signed())
    })
}

/// Returns by how many the `F` records of the stripe have become more.
fn settle_window(
    txn: &mut Txn<'_>,
    at: At,
    key: &keys::Key<Reference>,
    change: i64,
) -> Result<i64, StoreError> {
    let before = get(txn, key)?.map_or(0, |reference| reference.bytes);
    let bytes = before.saturating_add_signed(change);
    if bytes > 0 {
        let birth = at.op;
        txn.put(key, &Reference { bytes, birth });
    } else {
        txn.delete(key);
    }
    Ok(i64::from(bytes > 0) - i64::from(before > 0))
}

fn settle_stripe(txn: &mut Txn<'_>, at: At, id: StripeId, change: i64) -> Result<(), StoreError> {
    let Some(mut stripe) = get(txn, &keys::stripe(id))? else {
        return Ok(());
    };
    let StripeState::Live { references } = &mut stripe.state else {
        return Ok(());
    };
    let count = i64::from(*references) + change;
    *references = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
    if *references == 0 {
        return bury(txn, at, stripe);
    }
    if change != 0 {
        stripe.birth = at.op;
        txn.put(&keys::stripe(id), &stripe);
    }
    Ok(())
}

/// A stripe is born. The caller watches it: its references are settled at the end of the action.
pub(super) fn bear(
    txn: &mut Txn<'_>,
    at: At,
    record: &StripeRecord,
    volume: VolumeId,
) -> Result<(), StoreError> {
    let birth = at.op;
    let policy = get(txn, &keys::volume(volume))?;
    let thin = policy.is_some_and(|policy| record.width.parity < policy.policy.width.parity);
    for (shard, server) in shards(record) {
        let index = shard.index;
        txn.put(&keys::shard(server, record.id), &Shard { index, thin, birth });
    }
    let stripe = Stripe {
        record: record.clone(),
        volume,
        state: StripeState::Live { references: 0 },
        thin,
        birth,
    };
    txn.put(&keys::stripe(record.id), &stripe);
    usage::change(txn, volume, |usage| {
        usage.stripes += 1;
        usage.thin += u64::from(thin);
    })
}

/// A stripe dies.
fn bury(txn: &mut Txn<'_>, at: At, mut stripe: Stripe) -> Result<(), StoreError> {
    let id = stripe.record.id;
    let birth = at.op;
    let mut left = 0;
    for (shard, server) in shards(&stripe.record) {
        txn.delete(&keys::shard(server, id));
        txn.put(&keys::dead_shard(server, shard), &DeadShard { birth });
        left += 1;
    }
    stripe.state = StripeState::Dead { left };
    stripe.birth = birth;
    txn.put(&keys::stripe(id), &stripe);
    usage::change(txn, stripe.volume, |usage| {
        usage.stripes = usage.stripes.saturating_sub(1);
        usage.thin = usage.thin.saturating_sub(u64::from(stripe.thin));
    })
}

/// The shards of a stripe and where they lie.
pub(super) fn shards(record: &StripeRecord) -> impl Iterator<Item = (ShardId, ServerId)> {
    let stripe = record.id;
    (0..=u8::MAX).zip(&record.shards).map(move |(index, place)| {
        let index = ShardIndex(index);
        (ShardId { stripe, index }, place.server)
    })
}

/// A server says that these dead shards are gone for good. What is beyond the bound of a command is left for
/// the server's next report.
pub(super) fn reaped(
    txn: &mut Txn<'_>,
    at: At,
    server: ServerId,
    shards: &[ShardId],
) -> Result<(), StoreError> {
    for &shard in shards.iter().take(limits::COMMAND_RECORDS_MAX / 2) {
        let key = keys::dead_shard(server, shard);
        if exists(txn, &key)? {
            txn.delete(&key);
            one_less(txn, at, shard.stripe)?;
        }
    }
    Ok(())
}

fn one_less(txn: &mut Txn<'_>, at: At, id: StripeId) -> Result<(), StoreError> {
    let Some(mut stripe) = get(txn, &keys::stripe(id))? else {
        return Ok(());
    };
    if let StripeState::Dead { left } = &mut stripe.state {
        *left = left.saturating_sub(1);
        if *left == 0 && open_range(txn, id)?.is_none() {
            txn.delete(&keys::stripe(id));
        } else {
            stripe.birth = at.op;
            txn.put(&keys::stripe(id), &stripe);
        }
    }
    Ok(())
}

/// The range that a stripe's id lies in, if its session may still use the id.
pub(super) fn open_range(read: &dyn Read, id: StripeId) -> Result<Option<Range>, StoreError> {
    let start = id.0 - id.0 % IdKind::Stripes.range();
    let range = get(read, &keys::range(IdKind::Stripes, start))?;
    Ok(range.filter(|range| range.open_from <= id.0))
}

/// A session has given up every stripe id below `done_below`.
pub(super) fn close_ranges(
    txn: &mut Txn<'_>,
    at: At,
    session: SessionId,
    done_below: StripeId,
) -> Result<(), StoreError> {
    let mine: Vec<(u64, Range)> = ranges_of(txn, session, IdKind::Stripes)?;
    for (start, range) in mine {
        close_range(txn, at, start, range, done_below)?;
    }
    Ok(())
}

/// The ranges of one kind that a session has. There are few of them: a session holds one or two of each.
pub(super) fn ranges_of(
    read: &dyn Read,
    session: SessionId,
    kind: IdKind,
) -> Result<Vec<(u64, Range)>, StoreError> {
    let all = scan(read, &keys::ranges(kind))
        .map(|found| found.map(|((_, start), range)| (start, range)));
    all.filter(|found| found.as_ref().map_or(true, |(_, range)| range.session == session)).collect()
}

/// Closes a range up to `done_below`: tombstones there whose shards are gone have done their duty.
pub(super) fn close_range(
    txn: &mut Txn<'_>,
    at: At,
    start: u64,
    mut range: Range,
    done_below: StripeId,
) -> Result<(), StoreError> {
    let end = start + IdKind::Stripes.range();
    let to = done_below.0.min(end);
    if to <= range.open_from {
        return Ok(());
    }
    let closed = keys::stripes(StripeId(range.open_from), StripeId(to));
    let gone: Vec<StripeId> = scan(txn, &closed)
        .filter_map(|found| match found {
            Ok((id, stripe)) => {
                matches!(stripe.state, StripeState::Dead { left: 0 }).then_some(Ok(id))
            }
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_, _>>()?;
    for id in gone {
        txn.delete(&keys::stripe(id));
    }
    let key = keys::range(IdKind::Stripes, start);
    if to == end {
        txn.delete(&key);
    } else {
        range.open_from = to;
        range.birth = at.op;
        txn.put(&key, &range);
    }
    Ok(())
}
