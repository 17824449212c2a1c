//! Laying runs of many files out in one stripe.
//!
//! Every piece begins on a block of the payload. Runs that follow one another in a file, and would in the
//! payload too, become one piece: a file written in many places comes out of packing with fewer extents than
//! it had runs.

use std::ops::Range;

use super::BLOCK64;
use crate::types::limits::{BLOCK, STRIPE_BYTES_MAX, STRIPE_PIECES_MAX};
use crate::types::{Ino, StripePiece};

/// The pieces of a stripe that is being packed.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    pieces: Vec<StripePiece>,
    end: u32,
}

impl Packing {
    /// How many bytes still fit. Zero when no further piece does.
    pub(crate) fn room(&self) -> u32 {
        if self.pieces.len() >= STRIPE_PIECES_MAX {
            return 0;
        }
        STRIPE_BYTES_MAX - self.end.next_multiple_of(BLOCK).min(STRIPE_BYTES_MAX)
    }

    /// Adds a run of at most [`Self::room`] bytes; says where in the payload it goes. What is between the end
    /// of the payload so far and that place is to be filled with zeros.
    pub(crate) fn add(&mut self, ino: Ino, file_offset: u64, length: u32) -> u32 {
        debug_assert!(0 < length && length <= self.room());
        let stripe_offset = self.end.next_multiple_of(BLOCK);
        match self.pieces.last_mut() {
            Some(last)
                if last.ino == ino
                    && last.file_offset + u64::from(last.length) == file_offset
                    && last.stripe_offset + last.length == stripe_offset =>
            {
                last.length += length;
            }
            _ => self.pieces.push(StripePiece { ino, file_offset, stripe_offset, length }),
        }
        self.end = stripe_offset + length;
        stripe_offset
    }

    /// The pieces, in the order of the payload.
    pub(crate) fn into_pieces(self) -> Vec<StripePiece> {
        self.pieces
    }
}

/// What is left of `pieces` where newer data has been written over some of them. `newer` names ranges of
/// files that begin on blocks; each covers its last block whole.
pub(crate) fn without(pieces: &[StripePiece], newer: &[(Ino, Range<u64>)]) -> Vec<StripePiece> {
    let mut left = pieces.to_vec();
    for (ino, range) in newer {
        let range = range.start..range.end.next_multiple_of(BLOCK64);
        left = left.iter().flat_map(|piece| cut(piece, *ino, &range)).collect();
    }
    left
}

fn cut(piece: &StripePiece, ino: Ino, range: &Range<u64>) -> Vec<StripePiece> {
    let end = piece.file_offset + u64::from(piece.length);
    if piece.ino != ino || range.end <= piece.file_offset || end <= range.start {
        return vec![*piece];
    }
    let part = |keep: Range<u64>| {
        (keep.start < keep.end).then(|| StripePiece {
            ino,
            file_offset: keep.start,
            stripe_offset: piece.stripe_offset
                + u32::try_from(keep.start - piece.file_offset).expect("within a piece"),
            length: u32::try_from(keep.end - keep.start).expect("within a piece"),
        })
    };
    let head = part(piece.file_offset..end.min(range.start));
    let tail = part(piece.file_offset.max(range.end)..end);
    head.into_iter().chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(ino: u64, file_offset: u64, stripe_offset: u32, length: u32) -> StripePiece {
        StripePiece { ino: Ino(ino), file_offset, stripe_offset, length }
    }

    #[test]
    fn pieces_begin_on_blocks_and_neighbours_join() {
        let mut packing = Packing::default();
        assert_eq!(packing.add(Ino(2), 0, 100), 0);
        assert_eq!(packing.add(Ino(3), 8192, 4096), 4096);
        assert_eq!(packing.add(Ino(3), 12_288, 5), 8192);
        assert_eq!(packing.add(Ino(4), 0, 1), 12_288);
        let pieces = packing.into_pieces();
        let expected =
            vec![piece(2, 0, 0, 100), piece(3, 8192, 4096, 4101), piece(4, 0, 12_288, 1)];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn a_stripe_takes_as_many_blocks_as_it_has() {
        let mut packing = Packing::default();
        for at in 0..STRIPE_PIECES_MAX as u64 {
            assert!(packing.room() >= 1);
            packing.add(Ino(2), at * 2 * BLOCK64, 1);
        }
        assert_eq!(packing.room(), 0);
    }

    #[test]
    fn newer_data_is_cut_out_of_a_stripe_that_is_put_again() {
        let pieces = [piece(2, 0, 0, 40_960), piece(3, 0, 40_960, 100)];
        let newer = [(Ino(2), 4096..8192), (Ino(2), 36_864..37_000), (Ino(3), 0..50)];
        let left = without(&pieces, &newer);
        assert_eq!(left, vec![piece(2, 0, 0, 4096), piece(2, 8192, 8192, 28_672)]);
    }
}
