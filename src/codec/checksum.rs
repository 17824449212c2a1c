//! The checksum of a block: CRC32C that also knows where the block belongs.
//!
//! A plain CRC says that a block is *a* good block. A disk that wrote to the wrong place, or a bug that read from
//! it, gives back a good block of somebody else. So the checksum is bound to (stripe, index, block): the CRC32C of
//! the bytes, XORed with a value drawn from those three numbers (*format*). For blocks of one size this finds
//! exactly what a CRC started from that value would find, and the CRC of a mirrored block is computed once
//! for all its copies.

use crate::types::limits::BLOCK;
use crate::types::{ShardIndex, StripeId};

/// Checksum of block number `block` of a shard. `data` is the whole block, [`BLOCK`] bytes.
pub fn block(stripe: StripeId, index: ShardIndex, block: u32, data: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(data) ^ place(stripe, index, block)
}

/// Numbers of the blocks of `data` whose checksum is not the one expected; `data` begins with block `first`
/// and has one block for each of `checksums`.
pub fn damaged_blocks(
    stripe: StripeId,
    index: ShardIndex,
    first: u32,
    data: &[u8],
    checksums: &[u32],
) -> Vec<u32> {
    data.chunks(BLOCK as usize)
        .zip(checksums)
        .zip(first..)
        .filter(|((data, expected), number)| block(stripe, index, *number, data) != **expected)
        .map(|(_, number)| number)
        .collect()
}

/// CRC32C of each block of `data`, not yet bound to a place.
pub(super) fn unbound(data: &[u8]) -> impl Iterator<Item = u32> {
    data.chunks(BLOCK as usize).map(crc_fast::crc32_iscsi)
}

/// The value that binds a checksum to its place: splitmix64's finish over the three numbers, folded (*format*).
pub(super) fn place(stripe: StripeId, index: ShardIndex, block: u32) -> u32 {
    let mut x = stripe
        .0
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(index.0) << 32 | u64::from(block));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    (x >> 32) as u32 ^ (x & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_stays_what_it_is() {
        // The check value of CRC32C, and places that must never change: they are on people's disks.
        assert_eq!(crc_fast::crc32_iscsi(b"123456789"), 0xe306_9283);
        let zeros = [0; BLOCK as usize];
        let of = |stripe, index, number| block(StripeId(stripe), ShardIndex(index), number, &zeros);
        assert_eq!(of(0, 0, 0), crc_fast::crc32_iscsi(&zeros));
        assert_eq!(of(1, 2, 3), 0x09b8_04c4);
    }

    #[test]
    fn a_block_in_another_place_has_another_checksum() {
        let data = [7; BLOCK as usize];
        let mut seen = std::collections::HashSet::new();
        for stripe in 0..20 {
            for index in 0..5 {
                for number in 0..50 {
                    let sum = block(StripeId(stripe), ShardIndex(index), number, &data);
                    assert!(seen.insert(sum), "{stripe}, {index}, {number}");
                }
            }
        }
    }
}
