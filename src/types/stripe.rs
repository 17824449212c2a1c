//! Stripes and extents: where the bytes of a file are.
//!
//! A file is a list of [`Extent`]s; an extent is a piece of a stripe; a stripe is cut into k data shards
//! and m parity shards, each on a server of its own. A stripe belongs to whoever wrote it, not to a file:
//! it may carry pieces of thousands of small files (Zebra, Hartman & Ousterhout 1993).

use std::fmt;

use bincode::{Decode, Encode};

use super::{Ino, OpSeq, ServerId, StripeId, limits};

/// How many data and parity shards a stripe has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode)]
pub struct Width {
    /// Data shards (k'), 1..=[`limits::DATA_SHARDS_MAX`].
    pub data: u8,
    /// Parity shards (m), 0..=[`limits::PARITY_SHARDS_MAX`].
    pub parity: u8,
}

/// How the parity of a stripe is computed (*format*).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Encode, Decode)]
pub enum Codec {
    /// k' = 1: every parity shard is a copy. m = 1: XOR. Else systematic Reed-Solomon over GF(2^8)
    /// (Vandermonde, as the crate `reed-solomon-erasure` 6 builds it).
    ReedSolomon,
}

/// Identity of a shard's content: the first 128 bits of SHA-256 over its header and checksum table, which
/// in turn bind every block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Encode, Decode)]
pub struct ShardHash(pub [u8; 16]);

/// One shard of a stripe, and where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ShardPlace {
    /// The server that holds it.
    pub server: ServerId,
    /// What the shard there must be.
    pub hash: ShardHash,
}

/// All that is needed to read a stripe.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StripeRecord {
    /// Its id.
    pub id: StripeId,
    /// Its shape; `shards` has `width.total()` elements.
    pub width: Width,
    /// How parity was computed.
    pub codec: Codec,
    /// Bytes of payload, 1..=[`limits::STRIPE_BYTES_MAX`], padding to whole shards not counted.
    pub length: u32,
    /// By shard index.
    pub shards: Vec<ShardPlace>,
}

/// A piece of a stripe as its writer names it: these bytes of that file. Also the recovery hint in every
/// shard's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StripePiece {
    /// The file.
    pub ino: Ino,
    /// Where in the file, a multiple of [`limits::BLOCK`].
    pub file_offset: u64,
    /// Where in the stripe's payload, a multiple of [`limits::BLOCK`].
    pub stripe_offset: u32,
    /// Bytes; a multiple of [`limits::BLOCK`], or up to what was the end of file when it was written.
    pub length: u32,
}

/// One entry of a file's map: `length` bytes at `offset` of the file are at `stripe_offset` of `stripe`.
/// Extents of a file are disjoint; what none covers is a hole and reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Extent {
    /// Where in the file, a multiple of [`limits::BLOCK`].
    pub offset: u64,
    /// Bytes, 1..=[`limits::STRIPE_BYTES_MAX`].
    pub length: u32,
    /// The stripe.
    pub stripe: StripeId,
    /// Where in the stripe's payload, a multiple of [`limits::BLOCK`].
    pub stripe_offset: u32,
    /// When this value was written.
    pub birth: OpSeq,
}

impl Width {
    /// Data and parity shards together.
    pub fn total(self) -> usize {
        usize::from(self.data) + usize::from(self.parity)
    }

    /// Whether it is within the limits.
    pub fn is_valid(self) -> bool {
        (1..=limits::DATA_SHARDS_MAX).contains(&self.data)
            && self.parity <= limits::PARITY_SHARDS_MAX
    }

    /// Bytes of each shard of a stripe with `length` bytes of payload: equal for all its shards, a multiple
    /// of [`limits::BLOCK`]. Data shard i holds the payload's bytes [i·s, (i+1)·s), zeros after its end.
    pub fn shard_bytes(self, length: u32) -> u32 {
        length.div_ceil(u32::from(self.data)).next_multiple_of(limits::BLOCK)
    }
}

impl Extent {
    /// First byte of the file after it.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl fmt::Display for ShardHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ShardHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_whole_blocks_and_hold_the_payload() {
        for data in 1..=limits::DATA_SHARDS_MAX {
            let width = Width { data, parity: 1 };
            for length in [1, 4095, 4096, 4097, 100_000, limits::STRIPE_BYTES_MAX] {
                let shard = width.shard_bytes(length);
                assert_eq!(shard % limits::BLOCK, 0);
                assert!(u64::from(shard) * u64::from(data) >= u64::from(length));
            }
        }
    }
}
