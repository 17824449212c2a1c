//! What was written and not committed when the session was lost.
//!
//! A machine was cut off, or its mount stopped, for longer than its lease, and somebody wanted what it held: the
//! monitors have given its session up. When it is back, what its programs had written must not overwrite what others
//! have written since, and must not be lost where nobody has. So it is set aside here, together with the version of the
//! content that it was written over. The next session takes the exclusive grant of the file, and the version decides:
//!
//! ```text
//!   dirty, frozen ── session lost ──▶ set aside ── grant, same version ────▶ dirty
//!   commit sent ──▶ was it done? ──┬─no─▶  ▲   └── another version ────▶ kept for people, EIO
//!                                  └─yes─▶ the version it is based on
//! ```
//!
//! Until then nobody reads the file here: programs see what they wrote, or an error, never neither.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::commits::FreezeSeq;
use crate::types::{DataVersion, Timestamp};

/// Stands for what was not frozen yet: it is newer than whatever was.
pub(crate) const DIRTY: FreezeSeq = FreezeSeq::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Stranded {
    based_on: DataVersion,
    /// The size of the file, with all of it.
    pub(crate) size: u64,
    /// When a program last wrote, unless the mtime was set since.
    pub(crate) mtime: Option<Timestamp>,
    /// When the oldest of it was written, by the client's own clock.
    pub(crate) born: Duration,
    /// By offset in the file, each beginning on a block; later ones lie over earlier ones.
    layers: BTreeMap<FreezeSeq, Vec<(u64, Bytes)>>,
}

impl Stranded {
    /// Nothing yet, of a file of that version.
    pub(crate) fn new(
        based_on: DataVersion,
        size: u64,
        mtime: Option<Timestamp>,
        born: Duration,
    ) -> Self {
        Self { based_on, size, mtime, born, layers: BTreeMap::new() }
    }

    /// What was frozen as that number will not be committed.
    pub(crate) fn add(&mut self, seq: FreezeSeq, pieces: Vec<(u64, Bytes)>) {
        if !pieces.is_empty() {
            self.layers.entry(seq).or_default().extend(pieces);
        }
    }

    /// A commit of ours that was on its way was done: the rest lies over it.
    pub(crate) fn committed(&mut self, version: DataVersion) {
        self.based_on = self.based_on.max(version);
    }

    /// Whether it may be written over the content of that version: nobody else has changed it.
    pub(crate) fn is_based_on(&self, version: DataVersion) -> bool {
        self.based_on == version
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self) -> Self {
        let layers = std::mem::take(&mut self.layers);
        Self { layers, ..*self }
    }

    /// The pieces, those first over which others lie.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        self.layers.values().flatten().map(|(offset, bytes)| (*offset, bytes))
    }

    /// Which bytes of the file it has: ascending, neither overlapping nor adjacent.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        let mut all: Vec<Range<u64>> =
            self.pieces().map(|(offset, bytes)| offset..offset + bytes.len() as u64).collect();
        all.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in all {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        joined
    }

    /// How many bytes of the file it has.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges().iter().map(|range| range.end - range.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_comes_last_whenever_it_is_known_to_be_lost() {
        let mut stranded = Stranded::new(DataVersion(5), 9000, None, Duration::ZERO);
        assert!(stranded.is_empty() && stranded.bytes() == 0);
        let piece = |offset, byte| vec![(offset, Bytes::from(vec![byte; 4096]))];
        stranded.add(7, Vec::new());
        assert!(stranded.is_empty());
        stranded.add(DIRTY, piece(4096, 3));
        stranded.add(8, piece(0, 2));
        stranded.add(7, piece(0, 1));
        stranded.add(DIRTY, piece(20_480, 4));
        let order: Vec<u8> = stranded.pieces().map(|(_, bytes)| bytes[0]).collect();
        assert_eq!(order, [1, 2, 3, 4]);
        assert_eq!(stranded.ranges(), [0..8192, 20_480..24_576]);
        assert_eq!(stranded.bytes(), 12_288);
        let taken = stranded.take();
        assert!(stranded.is_empty() && taken.bytes() == 12_288 && taken.size == 9000);
    }

    #[test]
    fn a_commit_that_was_done_after_all_is_what_the_rest_lies_over() {
        let mut stranded = Stranded::new(DataVersion(5), 0, None, Duration::ZERO);
        assert!(stranded.is_based_on(DataVersion(5)));
        stranded.committed(DataVersion(6));
        assert!(stranded.is_based_on(DataVersion(6)));
        assert!(!stranded.is_based_on(DataVersion(5)) && !stranded.is_based_on(DataVersion(7)));
    }
}
