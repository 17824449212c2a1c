//! Parts of a file's map.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::extents::overlapping;
use super::super::fail::Fail;
use super::super::inodes::live;
use super::super::keys;
use super::super::txn::get;
use crate::monitor::store::Read;
use crate::types::{DataVersion, Errno, Extent, FileKind, Ino, StripeId, StripeRecord};
use crate::wire::metadata::{Extents, MapSlice};

const EXTENT_BYTES: usize = 40;
const STRIPE_BYTES: usize = 40;
const SHARD_BYTES: usize = 24;

/// The extents that touch a range, or the one after it when none does; none at all when the client knows the
/// current version.
pub(super) fn slice(
    read: &dyn Read,
    ino: Ino,
    range: Range<u64>,
    known: Option<DataVersion>,
    budget: usize,
) -> Result<MapSlice, Fail> {
    let inode = live(read, ino)?;
    let attr = inode.attr(ino);
    if inode.kind == FileKind::Regular && known == Some(inode.dv) {
        return Ok(MapSlice { attr, extents: None });
    }
    let extents = Some(extents(read, ino, range, budget)?);
    Ok(MapSlice { attr, extents })
}

fn extents(
    read: &dyn Read,
    ino: Ino,
    range: Range<u64>,
    mut budget: usize,
) -> Result<Extents, Fail> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut stripes: BTreeMap<StripeId, StripeRecord> = BTreeMap::new();
    let mut to = u64::MAX;
    for extent in overlapping(read, ino, range.start, u64::MAX)? {
        let extent = extent?;
        let is_wanted = extent.offset < range.end && budget > 0;
        if !extents.is_empty() && !is_wanted {
            to = extent.offset;
            break;
        }
        budget = budget.saturating_sub(EXTENT_BYTES);
        if let std::collections::btree_map::Entry::Vacant(place) = stripes.entry(extent.stripe) {
            // Every extent lies in a live stripe (an invariant).
            let stripe = get(read, &keys::stripe(extent.stripe))?.ok_or(Errno::Io)?;
            budget = budget.saturating_sub(STRIPE_BYTES + SHARD_BYTES * stripe.record.shards.len());
            place.insert(stripe.record);
        }
        extents.push(extent);
    }
    Ok(Extents { from: range.start, to, extents, stripes: stripes.into_values().collect() })
}
