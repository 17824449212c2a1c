//! What a range of a file reads as.
//!
//! The newest bytes lie on top: dirty runs over frozen ones (the latest first) over the committed map over
//! nothing, which reads as zeros. Each layer is laid in that order and shows only where the layers before it
//! left a gap.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::shared;
use crate::types::StripeRecord;

/// Where bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// They are here.
    Bytes(Bytes),
    /// They are in a stripe, from this offset of its payload on.
    Stripe(Arc<StripeRecord>, u32),
    /// They are zeros.
    Zeros,
}

/// A part of a file and where its bytes come from.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Which bytes of the file.
    pub(crate) range: Range<u64>,
    /// Where they come from.
    pub(crate) source: Source,
}

/// A range of a file that is being composed.
#[derive(Debug)]
pub(crate) struct Layers {
    range: Range<u64>,
    gaps: Vec<Range<u64>>,
    segments: Vec<Segment>,
}

impl Layers {
    /// Nothing laid yet.
    pub(crate) fn new(range: Range<u64>) -> Self {
        Self { gaps: vec![range.clone()], range, segments: Vec::new() }
    }

    /// The range that is composed.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// What no layer has covered yet.
    pub(crate) fn gaps(&self) -> &[Range<u64>] {
        &self.gaps
    }

    /// Lays `range` under everything that was laid before; `source` says where a part of it comes from.
    pub(crate) fn add(&mut self, range: Range<u64>, source: impl Fn(&Range<u64>) -> Source) {
        if !self.gaps.iter().any(|gap| gap.start < range.end && range.start < gap.end) {
            return;
        }
        let mut gaps = Vec::with_capacity(self.gaps.len() + 1);
        for gap in self.gaps.drain(..) {
            let part = shared(&gap, &range);
            if part.is_empty() {
                gaps.push(gap);
                continue;
            }
            if gap.start < part.start {
                gaps.push(gap.start..part.start);
            }
            if part.end < gap.end {
                gaps.push(part.end..gap.end);
            }
            self.segments.push(Segment { source: source(&part), range: part });
        }
        self.gaps = gaps;
    }

    /// All of it, in the order of the file; what no layer covered is zeros.
    pub(crate) fn finish(mut self) -> Vec<Segment> {
        let zeros = self.gaps.into_iter().filter(|gap| !gap.is_empty());
        self.segments.extend(zeros.map(|range| Segment { range, source: Source::Zeros }));
        self.segments.sort_unstable_by_key(|segment| segment.range.start);
        self.segments
    }
}
