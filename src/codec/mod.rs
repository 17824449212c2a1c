//! What the bytes of a stripe become on their way to the servers: shards, parity, checksums.
//!
//! Everything here is a pure function. [`erasure`] makes parity and brings lost shards back, [`checksum`]
//! guards every block, [`shard`] draws the image of a shard that travels on the wire and lies on disk, byte for
//! byte the same.

mod buffers;
pub mod checksum;
pub mod erasure;
pub mod shard;

#[cfg(test)]
pub(crate) mod tests {
    /// Seeded bytes for tests (splitmix64).
    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = self.0;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        }

        pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
            let words = length.div_ceil(8);
            let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.next().to_le_bytes()).collect();
            bytes.truncate(length);
            bytes
        }
    }
}
