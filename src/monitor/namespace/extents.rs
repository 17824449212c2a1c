//! Surgery on the map of a file.
//!
//! A map is a list of disjoint extents. Everything that changes content is one of two moves: **cut** a range
//! out of the map (what reaches over its ends stays, as new values with the birth of the cut), and **insert**
//! an extent where nothing is any more. Extents begin on a block and end on one or at a former end of file;
//! a cut keeps it so: it ends on a block, and it begins on one except where a truncate cuts the end of the
//! file itself.

use std::collections::BTreeSet;

use super::inodes::At;
use super::keys;
use super::records::{Inode, Piece};
use super::stripes::{References, windows};
use super::txn::{Txn, get, scan};
use super::usage;
use crate::monitor::store::{Read, StoreError};
use crate::types::{Extent, Ino, StripeId, limits};

/// Most records that one step of a long operation changes by cutting: half of what a command may, because others
/// wait while it is applied, and a clone puts new ones in their place.
pub(super) const RECORDS_PER_STEP: usize = limits::COMMAND_RECORDS_MAX / 2;

/// The extents that touch `from..to` of a file, ascending; the first may begin before `from`.
pub(super) fn overlapping<'a>(
    read: &'a dyn Read,
    ino: Ino,
    from: u64,
    to: u64,
) -> Result<impl DoubleEndedIterator<Item = Result<Extent, StoreError>> + use<'a>, StoreError> {
    let before = reaching_over(read, ino, from)?.map(Ok);
    Ok(before.into_iter().chain(beginning_in(read, ino, from, to)))
}

fn beginning_in(
    read: &dyn Read,
    ino: Ino,
    from: u64,
    to: u64,
) -> impl DoubleEndedIterator<Item = Result<Extent, StoreError>> {
    scan(read, &keys::pieces(ino, from, to))
        .map(|found| found.map(|((_, offset), piece)| piece.extent(offset)))
}

/// The extent that begins before `offset` and goes on beyond it. It begins within a stripe's length of it.
fn reaching_over(read: &dyn Read, ino: Ino, offset: u64) -> Result<Option<Extent>, StoreError> {
    let nearest = offset.saturating_sub(u64::from(limits::STRIPE_BYTES_MAX));
    let last = beginning_in(read, ino, nearest, offset).next_back();
    Ok(last.transpose()?.filter(|extent| extent.end() > offset))
}

/// An operation on the content of files: gathers what happens to stripes, to settle it at the end.
pub(super) struct Surgery<'t, 'a> {
    pub(super) txn: &'t mut Txn<'a>,
    pub(super) at: At,
    references: References,
}

impl<'t, 'a> Surgery<'t, 'a> {
    /// Begins an operation.
    pub(super) fn new(txn: &'t mut Txn<'a>, at: At) -> Self {
        Self { txn, at, references: References::default() }
    }

    /// What happens to stripes.
    pub(super) fn references(&mut self) -> &mut References {
        &mut self.references
    }

    /// Ends the operation.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        self.references.settle(self.txn, self.at)
    }

    /// Takes what lies in `from..to` out of the map: all of it, or, those at the end first, as far as `room` records
    /// go (but one extent at least).
    ///
    /// Returns where the part begins that is free now, if some of the range before it is still to be cut.
    pub(super) fn cut(
        &mut self,
        ino: Ino,
        inode: &mut Inode,
        from: u64,
        to: u64,
        room: Option<usize>,
    ) -> Result<Option<u64>, StoreError> {
        let mut found: Vec<Extent> = Vec::new();
        let mut stripes = BTreeSet::new();
        let (mut touched, mut is_more) = (0, false);
        for extent in overlapping(self.txn, ino, from, to)?.rev() {
            let extent = extent?;
            if let Some(room) = room {
                touched += touched_by_cut(self.txn, &mut stripes, &extent)?;
                is_more = touched > room && !found.is_empty();
            }
            if is_more {
                break;
            }
            found.push(extent);
        }
        for extent in &found {
            self.cut_one(ino, inode, extent, from, to)?;
        }
        Ok(found.last().filter(|_| is_more).map(|last| last.offset))
    }

    fn cut_one(
        &mut self,
        ino: Ino,
        inode: &mut Inode,
        extent: &Extent,
        from: u64,
        to: u64,
    ) -> Result<(), StoreError> {
        self.remove(ino, inode, extent)?;
        if let Some(left) = clip(extent, 0, from) {
            self.insert(ino, inode, left)?;
        }
        if let Some(right) = clip(extent, to, u64::MAX) {
            self.insert(ino, inode, right)?;
        }
        Ok(())
    }

    fn remove(&mut self, ino: Ino, inode: &mut Inode, extent: &Extent) -> Result<(), StoreError> {
        self.txn.delete(&keys::piece(ino, extent.offset));
        self.references.take(ino, extent);
        let bytes = u64::from(extent.length);
        inode.stored = inode.stored.saturating_sub(bytes);
        usage::change(self.txn, inode.volume, |usage| {
            usage.bytes = usage.bytes.saturating_sub(bytes);
        })
    }

    /// Puts an extent where the map is free; its birth is now.
    pub(super) fn insert(
        &mut self,
        ino: Ino,
        inode: &mut Inode,
        mut extent: Extent,
    ) -> Result<(), StoreError> {
        extent.birth = self.at.op;
        let key = keys::piece(ino, extent.offset);
        self.txn.put(&key, &Piece::from(extent));
        self.references.add(ino, &extent);
        let bytes = u64::from(extent.length);
        inode.stored += bytes;
        usage::change(self.txn, inode.volume, |usage| usage.bytes += bytes)
    }
}

/// How many records cutting an extent may change: its own, its `F` records, and, where it may be the last of its stripe, the stripe's own and two for each shard (`R` goes, `G`
/// comes). `stripes` are those that were counted already.
fn touched_by_cut(
    read: &dyn Read,
    stripes: &mut BTreeSet<StripeId>,
    extent: &Extent,
) -> Result<usize, StoreError> {
    let mut touched = 1 + windows(extent).count();
    if stripes.insert(extent.stripe)
        && let Some(stripe) = get(read, &keys::stripe(extent.stripe))?
    {
        touched += 1 + 2 * stripe.record.shards.len();
    }
    Ok(touched)
}

/// The part of an extent that lies in `from..to` of its file.
pub(super) fn clip(extent: &Extent, from: u64, to: u64) -> Option<Extent> {
    let first = extent.offset.max(from);
    let last = extent.end().min(to);
    if first >= last {
        return None;
    }
    let skipped = first - extent.offset;
    Some(Extent {
        offset: first,
        length: u32::try_from(last - first).expect("no longer than the whole extent"),
        stripe_offset: extent.stripe_offset
            + u32::try_from(skipped).expect("less than the whole extent"),
        ..*extent
    })
}

/// Whether a file has more than `limit` extents.
pub(super) fn more_than(read: &dyn Read, ino: Ino, limit: usize) -> Result<bool, StoreError> {
    let counted = beginning_in(read, ino, 0, u64::MAX).nth(limit);
    Ok(counted.transpose()?.is_some())
}
