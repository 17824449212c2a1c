//! A file's map as far as it is known.
//!
//! Monitors tell a map in portions; each is true for one version of the content (`dv`). So this is a set of
//! extents together with the version they belong to and the ranges in which they are all there is. A commit
//! of our own changes it in step with what the monitors did.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::layers::{Layers, Source};
use super::shared;
use crate::types::{DataVersion, StripeId, StripePiece, StripeRecord};
use crate::wire::metadata::Extents;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct FileMap {
    dv: DataVersion,
    extents: BTreeMap<u64, Placed>,
    /// Disjoint, not adjacent: start → end.
    known: BTreeMap<u64, u64>,
}

#[derive(Clone, Debug)]
struct Placed {
    length: u64,
    stripe: Arc<StripeRecord>,
    stripe_offset: u32,
}

impl FileMap {
    /// The map of a file without any content.
    pub(crate) fn empty(dv: DataVersion) -> Self {
        Self { dv, extents: BTreeMap::new(), known: BTreeMap::from([(0, u64::MAX)]) }
    }

    /// The version it belongs to.
    pub(crate) fn dv(&self) -> DataVersion {
        self.dv
    }

    /// Makes it belong to `dv`: when that is another version, nothing is known any more.
    pub(crate) fn at_version(&mut self, dv: DataVersion) {
        if self.dv != dv {
            *self = Self { dv, ..Self::default() };
        }
    }

    /// The content is the same, its version is now this.
    pub(crate) fn advance(&mut self, dv: DataVersion) {
        self.dv = dv;
    }

    /// Whether it is known that there is no content at all.
    pub(crate) fn is_hole(&self) -> bool {
        self.extents.is_empty() && self.knows(&(0..u64::MAX))
    }

    /// Whether all of `range` is known.
    pub(crate) fn knows(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self
                .known
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, &end)| end >= range.end)
    }

    /// The first byte of `range` that is not known.
    pub(crate) fn first_unknown(&self, range: &Range<u64>) -> Option<u64> {
        let known = self.known.range(..=range.start).next_back();
        let from = known.map_or(range.start, |(_, &end)| end.max(range.start));
        (from < range.end).then_some(from)
    }

    /// Takes in a portion that is true for the version this map belongs to. `false` when it does not make
    /// sense: an extent names a stripe that is not told, or lies outside it.
    #[must_use]
    pub(crate) fn install(&mut self, told: Extents) -> bool {
        let stripes: BTreeMap<StripeId, Arc<StripeRecord>> =
            told.stripes.into_iter().map(|record| (record.id, Arc::new(record))).collect();
        self.clear(&(told.from..told.to));
        for extent in told.extents {
            let Some(stripe) = stripes.get(&extent.stripe) else {
                return false;
            };
            let fits = extent
                .stripe_offset
                .checked_add(extent.length)
                .is_some_and(|end| end <= stripe.length);
            let shaped = stripe.width.is_valid() && stripe.shards.len() == stripe.width.total();
            if !fits || !shaped || extent.offset.checked_add(u64::from(extent.length)).is_none() {
                return false;
            }
            self.place(extent.offset, extent.length, Arc::clone(stripe), extent.stripe_offset);
        }
        self.know(told.from..told.to);
        true
    }

    /// A piece was committed.
    pub(crate) fn commit(&mut self, piece: &StripePiece, stripe: &Arc<StripeRecord>) {
        let end = piece.file_offset + u64::from(piece.length);
        self.place(piece.file_offset, piece.length, Arc::clone(stripe), piece.stripe_offset);
        self.know(piece.file_offset..end);
    }

    /// A range has become a hole.
    pub(crate) fn punch(&mut self, range: &Range<u64>) {
        self.clear(range);
        self.know(range.clone());
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&mut self) {
        self.extents.clear();
        self.known.clear();
    }

    /// Lays the committed extents under what was laid before.
    pub(crate) fn lay(&self, layers: &mut Layers) {
        let range = layers.range();
        for (&start, placed) in self.from(range.start).take_while(|(start, _)| **start < range.end)
        {
            layers.add(start..start + placed.length, |part| {
                let skip = u32::try_from(part.start - start).expect("within an extent");
                Source::Stripe(Arc::clone(&placed.stripe), placed.stripe_offset + skip)
            });
        }
    }

    /// Extents that may touch `offset` and all after them.
    fn from(&self, offset: u64) -> impl Iterator<Item = (&u64, &Placed)> {
        let first = self.extents.range(..=offset).next_back().map_or(offset, |(&start, _)| start);
        self.extents.range(first..)
    }

    fn place(&mut self, offset: u64, length: u32, stripe: Arc<StripeRecord>, stripe_offset: u32) {
        let length = u64::from(length);
        self.clear(&(offset..offset + length));
        self.extents.insert(offset, Placed { length, stripe, stripe_offset });
    }

    /// Cuts `range` out of all extents.
    fn clear(&mut self, range: &Range<u64>) {
        let touched: Vec<u64> = self
            .from(range.start)
            .take_while(|(start, _)| **start < range.end)
            .filter(|(start, placed)| {
                !shared(&(**start..**start + placed.length), range).is_empty()
            })
            .map(|(&start, _)| start)
            .collect();
        for start in touched {
            let placed = self.extents.remove(&start).expect("it was just seen");
            let end = start + placed.length;
            if start < range.start {
                let head = Placed { length: range.start - start, ..placed.clone() };
                self.extents.insert(start, head);
            }
            if range.end < end {
                let skip = u32::try_from(range.end - start).expect("within an extent");
                let tail = Placed {
                    length: end - range.end,
                    stripe_offset: placed.stripe_offset + skip,
                    ..placed
                };
                self.extents.insert(range.end, tail);
            }
        }
    }

    fn know(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first =
            self.known.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        let touching: Vec<(u64, u64)> = self
            .known
            .range(first..=range.end)
            .map(|(&start, &end)| (start, end))
            .filter(|&(start, end)| start <= range.end && range.start <= end)
            .collect();
        for (start, end) in touching {
            self.known.remove(&start);
            range = range.start.min(start)..range.end.max(end);
        }
        self.known.insert(range.start, range.end);
    }
}
