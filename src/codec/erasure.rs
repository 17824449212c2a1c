//! Parity: how a stripe survives the loss of any m of its shards.
//!
//! A payload is cut into k data shards of s bytes; m parity shards are computed from them; any k of the k+m
//! bring everything back. Three codes, by shape (*format*, see [`crate::types::Codec`]):
//!
//! * k = 1: every parity shard is a copy (mirroring);
//! * m = 1: parity is the XOR of the data shards (RAID-5), which no code beats for speed;
//! * else: systematic Reed-Solomon over GF(2^8), Vandermonde, as `reed-solomon-erasure` 6 builds it.
//!
//! All three are linear and work byte by byte: bytes [a, b) of the lost shard depend only on bytes [a, b) of
//! the others, so a reader decodes just the range it wants, and the zeros after the payload's end contribute
//! nothing and are never touched.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parking_lot::Mutex;
use reed_solomon_erasure::galois_8::ReedSolomon;

use super::buffers::Buffer;
use crate::types::Width;

/// Bytes of parity computed at a time: small enough that it stays in the processor's first cache while all
/// data shards are added to it.
const STRIP: usize = 16 << 10;

/// Fewer shards than k: what is missing cannot be brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{present} shards of a stripe are there, {needed} are needed")]
pub struct TooFew {
    /// Shards that are there.
    pub present: usize,
    /// Shards that are needed: k.
    pub needed: usize,
}

/// The processor lacks what the compiled Reed-Solomon code uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "this processor has no AVX2, which this build of okapifs needs: build it from source on this machine with \
     RUST_REED_SOLOMON_ERASURE_ARCH=native in the environment"
)]
pub struct NoAvx2;

/// Whether this processor can run the codec: to be asked first thing, for the alternative is to die of an
/// illegal instruction in the middle of a write.
///
/// # Errors
///
/// [`NoAvx2`] on an x86-64 processor from before 2013, or one whose hypervisor hides AVX2.
pub fn check_cpu() -> Result<(), NoAvx2> {
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("avx2") {
        return Err(NoAvx2);
    }
    Ok(())
}

/// The parity shards of a payload: `width.parity` of them, [`Width::shard_bytes`] long. The payload is only
/// borrowed; its last shards count as filled up with zeros.
pub fn encode(width: Width, payload: &[u8]) -> Vec<Bytes> {
    let shard_bytes = payload.len().div_ceil(usize::from(width.data));
    let shard_bytes = shard_bytes.next_multiple_of(crate::types::limits::BLOCK as usize);
    let mut parity: Vec<Buffer> = (0..width.parity).map(|_| Buffer::take(shard_bytes)).collect();
    let mut strips: Vec<_> =
        parity.iter_mut().map(|shard| shard.bytes_mut().chunks_mut(STRIP)).collect();
    for at in (0..shard_bytes).step_by(STRIP) {
        let mut strip: Vec<&mut [u8]> = strips
            .iter_mut()
            .map(|strips| strips.next().expect("all parity shards are equally long"))
            .collect();
        encode_strip(width, &mut strip, |index, length| {
            let from = (index * shard_bytes + at).min(payload.len());
            let to = (from + length).min(payload.len());
            &payload[from..to]
        });
    }
    drop(strips);
    parity.into_iter().map(Buffer::freeze).collect()
}

/// Brings back what is missing. `shards` has an element for each of `width.total()` shards: the same range of
/// bytes of each, or `None` for those that are lost. At least `width.data` must be there.
///
/// # Errors
///
/// [`TooFew`]; nothing is changed then.
///
/// # Panics
///
/// When `shards` has another length than the stripe has shards, or the ranges differ in length.
pub fn reconstruct(width: Width, shards: &mut [Option<Vec<u8>>]) -> Result<(), TooFew> {
    assert_eq!(shards.len(), width.total(), "one element a shard");
    let needed = usize::from(width.data);
    let present = shards.iter().flatten().count();
    if present < needed {
        return Err(TooFew { present, needed });
    }
    let length = shards.iter().flatten().next().map_or(0, Vec::len);
    assert!(shards.iter().flatten().all(|shard| shard.len() == length), "ranges of equal length");
    if present == width.total() {
        return Ok(());
    }
    if width.data == 1 {
        let copy = shards.iter().flatten().next().cloned();
        shards.iter_mut().for_each(|shard| *shard = copy.clone());
    } else if width.parity == 1 {
        let lost = xor_all(shards.iter().flatten(), length);
        *shards.iter_mut().find(|shard| shard.is_none()).expect("not all are present") = Some(lost);
    } else if length > 0 {
        reed_solomon(width)
            .reconstruct(shards)
            .expect("shards are counted, enough and equally long");
    } else {
        shards.iter_mut().for_each(|shard| *shard = Some(Vec::new()));
    }
    Ok(())
}

/// Computes the same short range of all parity shards. `data(i, n)` gives those of the range's first `n` bytes
/// of data shard `i` that lie before the payload's end.
fn encode_strip<'a>(
    width: Width,
    parity: &mut [&mut [u8]],
    data: impl Fn(usize, usize) -> &'a [u8],
) {
    let Some(length) = parity.first().map(|strip| strip.len()) else {
        return;
    };
    let first = data(0, length);
    for strip in parity.iter_mut() {
        strip[first.len()..].fill(0);
    }
    if width.data == 1 || width.parity == 1 {
        for strip in parity.iter_mut() {
            strip[..first.len()].copy_from_slice(first);
        }
        for index in 1..usize::from(width.data) {
            xor(parity[0], data(index, length));
        }
        return;
    }
    let code = reed_solomon(width);
    for index in 0..usize::from(width.data) {
        let data = data(index, length);
        if data.is_empty() {
            continue;
        }
        let mut parity: Vec<&mut [u8]> =
            parity.iter_mut().map(|strip| &mut strip[..data.len()]).collect();
        code.encode_single_sep(index, data, &mut parity)
            .expect("the slices are equally long and not empty");
    }
}

fn xor_all<'a>(shards: impl Iterator<Item = &'a Vec<u8>>, length: usize) -> Vec<u8> {
    let mut sum = vec![0; length];
    for shard in shards {
        xor(&mut sum, shard);
    }
    sum
}

/// Adds (in GF(2), so XOR) `data` to as many bytes of `sum`.
fn xor(sum: &mut [u8], data: &[u8]) {
    for (sum, data) in sum.iter_mut().zip(data) {
        *sum ^= data;
    }
}

/// The code of a shape. Building one inverts a matrix, so each is built once.
fn reed_solomon(width: Width) -> Arc<ReedSolomon> {
    static CODES: LazyLock<Mutex<HashMap<Width, Arc<ReedSolomon>>>> = LazyLock::new(Mutex::default);
    let mut codes = CODES.lock();
    let code = codes.entry(width).or_insert_with(|| {
        let code = ReedSolomon::new(width.data.into(), width.parity.into());
        Arc::new(code.expect("1 to 32 data and 1 to 8 parity shards make a code"))
    });
    Arc::clone(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::Random;

    /// All shards of a payload, data shards padded.
    fn shards(width: Width, payload: &[u8]) -> Vec<Vec<u8>> {
        let shard_bytes = width.shard_bytes(payload.len() as u32) as usize;
        let mut padded = payload.to_vec();
        padded.resize(shard_bytes * usize::from(width.data), 0);
        let data = padded.chunks(shard_bytes).map(<[u8]>::to_vec);
        let parity = encode(width, payload);
        data.chain(parity.iter().map(|shard| shard.to_vec())).collect()
    }

    #[test]
    fn any_loss_of_up_to_m_shards_is_brought_back() {
        let mut random = Random(0x5eed_0001);
        for (data, parity) in [(1, 1), (1, 3), (2, 1), (5, 1), (2, 2), (4, 2), (3, 3), (3, 0)] {
            let width = Width { data, parity };
            for length in [1, 4096, 5000, 50_000, 100_001] {
                let whole = shards(width, &random.bytes(length));
                for pattern in 0..1u32 << width.total() {
                    let mut some: Vec<Option<Vec<u8>>> = whole
                        .iter()
                        .enumerate()
                        .map(|(i, shard)| (pattern >> i & 1 == 1).then(|| shard.clone()))
                        .collect();
                    let present = pattern.count_ones() as usize;
                    let outcome = reconstruct(width, &mut some);
                    if present < usize::from(data) {
                        let needed = data.into();
                        assert_eq!(outcome, Err(TooFew { present, needed }));
                    } else {
                        assert_eq!(outcome, Ok(()), "{width}, {pattern:b}");
                        let back: Vec<Vec<u8>> = some.into_iter().flatten().collect();
                        assert!(back == whole, "{width}, {length} bytes, {pattern:b}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_range_decodes_by_itself() {
        let width = Width { data: 4, parity: 2 };
        let whole = shards(width, &Random(7).bytes(200_000));
        let range = 8192..12288;
        let mut some: Vec<_> =
            whole.iter().map(|shard| Some(shard[range.clone()].to_vec())).collect();
        some[1] = None;
        some[4] = None;
        reconstruct(width, &mut some).unwrap();
        assert_eq!(some[1].as_deref(), Some(&whole[1][range.clone()]));
        assert_eq!(some[4].as_deref(), Some(&whole[4][range]));
    }

    #[test]
    fn parity_is_what_the_format_says() {
        let mut random = Random(3);
        let payload = random.bytes(3 * 4096);
        let xor = encode(Width { data: 3, parity: 1 }, &payload);
        let expected: Vec<u8> =
            (0..4096).map(|i| payload[i] ^ payload[4096 + i] ^ payload[8192 + i]).collect();
        assert_eq!(xor, [Bytes::from(expected)]);
        let copies = encode(Width { data: 1, parity: 2 }, &payload);
        assert_eq!(copies, [&payload[..], &payload[..]]);
        let code = ReedSolomon::new(3, 2).unwrap();
        let mut both = [vec![0; 4096], vec![0; 4096]];
        let data: Vec<&[u8]> = payload.chunks(4096).collect();
        code.encode_sep(&data, &mut both).unwrap();
        assert_eq!(encode(Width { data: 3, parity: 2 }, &payload), both);
    }

    #[test]
    fn recycled_memory_leaves_no_trace() {
        let width = Width { data: 1, parity: 2 };
        let length = (1 << 20) + 1;
        drop(encode(width, &vec![0xff; 2 << 20]));
        for copy in encode(width, &vec![0xff; length]) {
            assert!(copy[length..].iter().all(|byte| *byte == 0));
        }
        let width = Width { data: 2, parity: 2 };
        drop(encode(width, &vec![0xff; 4 << 20]));
        let again = encode(width, &vec![0; 2 << 20]);
        assert!(again.iter().flatten().all(|byte| *byte == 0));
    }
}
