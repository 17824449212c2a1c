//! Which blocks of which shards hold a part of a stripe.
//!
//! Data shard i of a stripe with shards of s bytes holds the payload's bytes [i·s, (i+1)·s): a small read
//! needs one range of one shard, a long one at most one range of each.

use crate::types::limits::BLOCK;
use crate::types::{ShardIndex, StripeRecord};

/// Whole blocks of one data shard, and which of their bytes are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShardRange {
    /// The shard.
    pub(crate) index: ShardIndex,
    /// The first block.
    pub(crate) first: u32,
    /// How many blocks.
    pub(crate) count: u32,
    /// Bytes of the first block that are not wanted.
    pub(crate) skip: u32,
    /// Bytes wanted after them.
    pub(crate) length: u32,
}

/// The ranges that hold `length` bytes at `offset` of the payload, in order.
pub(crate) fn shard_ranges(record: &StripeRecord, offset: u32, length: u32) -> Vec<ShardRange> {
    let shard_bytes = record.width.shard_bytes(record.length);
    let mut ranges = Vec::with_capacity(2);
    let (mut at, end) = (offset, offset + length);
    while at < end {
        let index = at / shard_bytes;
        let start = at % shard_bytes;
        let stop = (end - index * shard_bytes).min(shard_bytes);
        let first = start / BLOCK;
        ranges.push(ShardRange {
            index: ShardIndex(u8::try_from(index).expect("at most 32 data shards")),
            first,
            count: stop.div_ceil(BLOCK) - first,
            skip: start % BLOCK,
            length: stop - start,
        });
        at += stop - start;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{Codec, StripeId, Width};

    fn record(data: u8, length: u32) -> StripeRecord {
        let width = Width { data, parity: 1 };
        StripeRecord { id: StripeId(1), width, codec: Codec::ReedSolomon, length, shards: vec![] }
    }

    #[test]
    fn a_block_is_one_range_of_one_shard() {
        let ranges = shard_ranges(&record(2, 8 << 20), (4 << 20) + 4096 + 10, 100);
        let expected =
            ShardRange { index: ShardIndex(1), first: 1, count: 1, skip: 10, length: 100 };
        assert_eq!(ranges, [expected]);
    }

    proptest! {
        #[test]
        fn ranges_name_exactly_the_wanted_bytes(
            data in 1u8..=8, length in 1u32..200_000, a in 0u32..200_000, b in 1u32..200_000,
        ) {
            let record = record(data, length);
            let offset = a % length;
            let wanted = 1 + (b - 1) % (length - offset);
            let s = record.width.shard_bytes(length);
            let payload: Vec<u32> = (0..s * u32::from(data)).collect();
            let mut read = Vec::new();
            for range in shard_ranges(&record, offset, wanted) {
                prop_assert!((range.first + range.count) * BLOCK <= s);
                let from = u32::from(range.index.0) * s + range.first * BLOCK;
                let blocks = &payload[from as usize..][..(range.count * BLOCK) as usize];
                read.extend_from_slice(&blocks[range.skip as usize..][..range.length as usize]);
            }
            prop_assert_eq!(read, &payload[offset as usize..][..wanted as usize]);
        }
    }
}
