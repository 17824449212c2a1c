//! The image of a shard: what travels in a put and lies on the server's disk, byte for byte the same.
//!
//! A shard must explain itself. When everything else is lost (the monitors, the cluster's very name), a
//! directory of shards is still enough to say which bytes of which files these are, whether they are whole, and
//! what must be XORed with what. So in front of the data stands a *head*, and every number in it is little-endian:
//!
//! ```text
//!   0   8  magic "OKAPISHD" ("OKAPIDED" once the shard was deleted from a pack segment)
//!   8   2  version, 1
//!  10   1  index of the shard: data shards 0..k, parity k..k+m
//!  11   1  k      12  1  m      13  1  codec, 1      14  2  zero
//!  16  16  cluster
//!  32   8  stripe
//!  40   4  incarnation of the cluster
//!  44   4  bytes of the stripe's payload
//!  48   4  bytes of this shard's data
//!  52   4  how many pieces
//!  56  16  hash: the first 128 bits of SHA-256 over bytes 0..56, the pieces and the checksums
//!  72   4  zero
//!  76   4  CRC32C of bytes 8..76
//!  80      pieces, 24 bytes each: inode u64, file offset u64, stripe offset u32, length u32
//!   .      checksums, 4 bytes a block of the data (see `checksum`)
//!   .      zeros up to a whole block
//!   .      the shard's data, whole blocks
//! ```
//!
//! The order has reasons. What tells how long everything is comes first and has a CRC of its own, so that a
//! scan reads one block to know where the next image begins. The CRC leaves out the magic, so that writing
//! [`DEAD_MARK`] over it (eight bytes, never torn by a disk) deletes a shard and leaves it skippable. The hash
//! binds the checksums and they bind the blocks: two images with the same hash are the same shard.

#[cfg(test)]
mod tests;

use aws_lc_rs::digest;
use bytes::Bytes;

use super::{checksum, erasure};
use crate::types::limits::{BLOCK, STRIPE_BYTES_MAX, STRIPE_PIECES_MAX};
use crate::types::{
    ClusterId, Codec, Incarnation, Ino, ShardHash, ShardIndex, StripeId, StripePiece, Width,
};

/// Bytes of the fixed part of a head.
pub const HEADER_BYTES: usize = 80;
/// Most bytes of a head: every piece and every checksum that there can be.
pub const HEAD_BYTES_MAX: usize =
    (HEADER_BYTES + STRIPE_PIECES_MAX * PIECE_BYTES + (STRIPE_BYTES_MAX / BLOCK) as usize * 4)
        .next_multiple_of(BLOCK as usize);
/// What is written over the first bytes of an image that is deleted where it lies.
pub const DEAD_MARK: [u8; 8] = *b"OKAPIDED";

const MAGIC: [u8; 8] = *b"OKAPISHD";
const VERSION: u16 = 1;
const REED_SOLOMON: u8 = 1;
const PIECE_BYTES: usize = 24;
const HASHED: usize = 56;
const CRC_AT: usize = 76;

/// Zeros that pad the last shards of a stripe, shared by all: k shards are at most a block longer, each, than
/// the payload.
static ZEROS: [u8; BLOCK as usize * (crate::types::limits::DATA_SHARDS_MAX as usize + 1)] =
    [0; BLOCK as usize * (crate::types::limits::DATA_SHARDS_MAX as usize + 1)];

/// What all shards of a stripe have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StripeIdent {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The stripe.
    pub stripe: StripeId,
    /// Its shape.
    pub width: Width,
}

/// A shard, ready to be put: `head` and then all of `data` are the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardImage {
    /// Identity of the content.
    pub hash: ShardHash,
    /// Header, pieces and checksums, padded to whole blocks.
    pub head: Bytes,
    /// The shard's data, each part whole blocks; slices of the payload wherever possible.
    pub data: Vec<Bytes>,
}

/// The fixed part of a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which stripe, of which shape, of which cluster.
    pub ident: StripeIdent,
    /// Which of its shards.
    pub index: ShardIndex,
    /// How parity was computed.
    pub codec: Codec,
    /// Bytes of the stripe's payload.
    pub stripe_length: u32,
    /// Bytes of this shard's data.
    pub shard_bytes: u32,
    /// How many pieces follow.
    pub pieces: u32,
    /// Identity of the content.
    pub hash: ShardHash,
    /// Whether the image was deleted where it lies.
    pub dead: bool,
}

/// Everything before the data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The fixed part.
    pub header: Header,
    /// What the stripe holds: all its pieces, in every shard.
    pub pieces: Vec<StripePiece>,
    /// One a block of this shard's data.
    pub checksums: Vec<u32>,
}

/// Bytes that are no (whole, undamaged) shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadShard {
    /// They do not even begin like one.
    #[error("this is no OkapiFS shard: it does not begin like one")]
    NotAShard,
    /// They end too early.
    #[error("the shard is cut off: {have} bytes of {need} are there")]
    CutOff {
        /// Bytes that are there.
        have: u64,
        /// Bytes that should be.
        need: u64,
    },
    /// A later version.
    #[error("the shard has format version {0}, which this okapifs does not know")]
    Version(u16),
    /// The fixed part does not agree with its CRC.
    #[error("the shard's header is damaged: its checksum is wrong")]
    Header,
    /// The CRC is right, and yet the numbers make no sense.
    #[error("the shard's header contradicts itself: {0}")]
    Nonsense(&'static str),
    /// Pieces or checksums do not agree with the hash.
    #[error("the shard's list of pieces or its table of checksums is damaged")]
    Table,
    /// The disk does not give them back.
    #[error("the disk cannot read the shard any more")]
    Unreadable,
}

/// All shards of a stripe. `payload` is what the stripe holds, 1..=[`STRIPE_BYTES_MAX`] bytes; it is not copied,
/// except for the last, partly filled block.
///
/// # Panics
///
/// When payload, width or the number of pieces are out of their limits: the caller packs within them.
pub fn build(ident: StripeIdent, payload: &Bytes, pieces: &[StripePiece]) -> Vec<ShardImage> {
    let length = u32::try_from(payload.len()).expect("a payload within the limit");
    assert!((1..=STRIPE_BYTES_MAX).contains(&length) && ident.width.is_valid());
    assert!(pieces.len() <= STRIPE_PIECES_MAX);
    let mut sums = Vec::new();
    contents(ident.width, payload)
        .into_iter()
        .enumerate()
        .map(|(index, data)| {
            // Copies have the same blocks: their CRCs are computed once and bound to each place.
            if index == 0 || ident.width.data > 1 {
                sums = data.iter().flat_map(|part| checksum::unbound(part)).collect();
            }
            let index = ShardIndex(u8::try_from(index).expect("at most 40 shards"));
            let (head, hash) = draw_head(ident, index, length, pieces, &sums);
            ShardImage { hash, head, data }
        })
        .collect()
}

/// The data of every shard, parity last.
fn contents(width: Width, payload: &Bytes) -> Vec<Vec<Bytes>> {
    let shard_bytes = width.shard_bytes(payload.len() as u32) as usize;
    let mut shards: Vec<Vec<Bytes>> = (0..usize::from(width.data))
        .map(|index| data_shard(payload, index * shard_bytes, shard_bytes))
        .collect();
    if width.data == 1 {
        let copies = vec![shards[0].clone(); width.parity.into()];
        shards.extend(copies);
    } else {
        let parity = erasure::encode(width, payload);
        shards.extend(parity.into_iter().map(|shard| vec![shard]));
    }
    shards
}

/// `length` bytes of the payload from `from`, zeros after its end: whole blocks as they are, the block with the
/// end in it copied, the rest from the common zeros.
fn data_shard(payload: &Bytes, from: usize, length: usize) -> Vec<Bytes> {
    const BLOCK_BYTES: usize = BLOCK as usize;
    let from = from.min(payload.len());
    let real = payload.slice(from..(from + length).min(payload.len()));
    let whole = real.len() - real.len() % BLOCK_BYTES;
    let mut parts = Vec::with_capacity(3);
    if whole > 0 {
        parts.push(real.slice(..whole));
    }
    if whole < real.len() {
        let mut block = vec![0; BLOCK_BYTES];
        block[..real.len() - whole].copy_from_slice(&real[whole..]);
        parts.push(Bytes::from(block));
    }
    let zeros = length - real.len().next_multiple_of(BLOCK_BYTES);
    if zeros > 0 {
        parts.push(Bytes::from_static(&ZEROS[..zeros]));
    }
    parts
}

fn draw_head(
    ident: StripeIdent,
    index: ShardIndex,
    length: u32,
    pieces: &[StripePiece],
    sums: &[u32],
) -> (Bytes, ShardHash) {
    let used = HEADER_BYTES + pieces.len() * PIECE_BYTES + sums.len() * 4;
    let mut head = Vec::with_capacity(used.next_multiple_of(BLOCK as usize));
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend([index.0, ident.width.data, ident.width.parity, REED_SOLOMON, 0, 0]);
    head.extend(ident.cluster.0.to_le_bytes());
    head.extend(ident.stripe.0.to_le_bytes());
    head.extend(ident.incarnation.0.to_le_bytes());
    head.extend(length.to_le_bytes());
    head.extend(ident.width.shard_bytes(length).to_le_bytes());
    head.extend((pieces.len() as u32).to_le_bytes());
    head.resize(HEADER_BYTES, 0);
    for piece in pieces {
        head.extend(piece.ino.0.to_le_bytes());
        head.extend(piece.file_offset.to_le_bytes());
        head.extend(piece.stripe_offset.to_le_bytes());
        head.extend(piece.length.to_le_bytes());
    }
    for (block, sum) in (0..).zip(sums) {
        head.extend((sum ^ checksum::place(ident.stripe, index, block)).to_le_bytes());
    }
    let hash = hash(&head[..HASHED], &head[HEADER_BYTES..]);
    head[HASHED..HASHED + 16].copy_from_slice(&hash.0);
    let crc = crc_fast::crc32_iscsi(&head[MAGIC.len()..CRC_AT]);
    head[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    head.resize(used.next_multiple_of(BLOCK as usize), 0);
    (Bytes::from(head), hash)
}

fn hash(fixed: &[u8], tables: &[u8]) -> ShardHash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(fixed);
    context.update(tables);
    let digest = context.finish();
    ShardHash(digest.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes"))
}

impl Header {
    /// Reads the fixed part, from the first [`HEADER_BYTES`] bytes of an image; more may follow.
    ///
    /// # Errors
    ///
    /// [`BadShard`], never [`BadShard::Table`]. Every length is within its limit when there is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadShard> {
        let dead = bytes.starts_with(&DEAD_MARK);
        if !dead && !bytes.starts_with(&MAGIC) {
            return Err(BadShard::NotAShard);
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            let (have, need) = (bytes.len() as u64, HEADER_BYTES as u64);
            return Err(BadShard::CutOff { have, need });
        };
        if crc_fast::crc32_iscsi(&bytes[MAGIC.len()..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(BadShard::Header);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(BadShard::Version(version));
        }
        if bytes[13] != REED_SOLOMON {
            return Err(BadShard::Nonsense("its code is unknown"));
        }
        let header = Self {
            ident: StripeIdent {
                cluster: ClusterId(u128::from_le_bytes(
                    bytes[16..32].try_into().expect("sixteen bytes"),
                )),
                incarnation: Incarnation(u32_at(bytes, 40)),
                stripe: StripeId(u64_at(bytes, 32)),
                width: Width { data: bytes[11], parity: bytes[12] },
            },
            index: ShardIndex(bytes[10]),
            codec: Codec::ReedSolomon,
            stripe_length: u32_at(bytes, 44),
            shard_bytes: u32_at(bytes, 48),
            pieces: u32_at(bytes, 52),
            hash: ShardHash(bytes[56..72].try_into().expect("sixteen bytes")),
            dead,
        };
        header.check().map_err(BadShard::Nonsense)?;
        Ok(header)
    }

    /// Invariants of a header, as a list.
    fn check(&self) -> Result<(), &'static str> {
        let width = self.ident.width;
        let is_bounded = width.is_valid() && (1..=STRIPE_BYTES_MAX).contains(&self.stripe_length);
        let claims = [
            (is_bounded, "its width or its stripe's length is beyond the limits"),
            (usize::from(self.index.0) < width.total(), "its index is beyond its width"),
            (
                is_bounded && self.shard_bytes == width.shard_bytes(self.stripe_length),
                "its length does not fit its stripe's",
            ),
            (self.pieces as usize <= STRIPE_PIECES_MAX, "it has too many pieces"),
        ];
        let broken = claims.iter().find(|(holds, _)| !holds);
        broken.map_or(Ok(()), |(_, claim)| Err(claim))
    }

    /// Blocks of data.
    pub fn blocks(&self) -> u32 {
        self.shard_bytes / BLOCK
    }

    /// Bytes before the data: whole blocks.
    pub fn head_bytes(&self) -> u32 {
        let used = HEADER_BYTES as u32 + self.pieces * PIECE_BYTES as u32 + self.blocks() * 4;
        used.next_multiple_of(BLOCK)
    }

    /// Bytes of the whole image.
    pub fn image_bytes(&self) -> u32 {
        self.head_bytes() + self.shard_bytes
    }
}

impl Head {
    /// Reads and checks everything before the data; `bytes` begins with the head, more may follow.
    ///
    /// # Errors
    ///
    /// [`BadShard`] when any bit of it is not as it was written.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadShard> {
        let header = Header::parse(bytes)?;
        let need = header.head_bytes() as usize;
        if bytes.len() < need {
            let (have, need) = (bytes.len() as u64, need as u64);
            return Err(BadShard::CutOff { have, need });
        }
        let (pieces, rest) =
            bytes[HEADER_BYTES..need].split_at(header.pieces as usize * PIECE_BYTES);
        let (sums, padding) = rest.split_at(header.blocks() as usize * 4);
        let tables = &bytes[HEADER_BYTES..need - padding.len()];
        let whole = hash(&bytes[..HASHED], tables) == header.hash;
        if !whole || padding.iter().any(|byte| *byte != 0) {
            return Err(BadShard::Table);
        }
        let pieces: Vec<StripePiece> = pieces.chunks_exact(PIECE_BYTES).map(piece).collect();
        if !pieces.iter().all(|piece| is_inside(piece, header.stripe_length)) {
            return Err(BadShard::Nonsense("a piece lies outside its stripe"));
        }
        Ok(Self {
            header,
            pieces,
            checksums: sums.chunks_exact(4).map(|sum| u32_at(sum, 0)).collect(),
        })
    }

    /// Which blocks of the shard's data are damaged. `data` begins with block `first`.
    pub fn damaged_blocks(&self, first: u32, data: &[u8]) -> Vec<u32> {
        let expected = self.checksums.get(first as usize..).unwrap_or_default();
        checksum::damaged_blocks(self.header.ident.stripe, self.header.index, first, data, expected)
    }
}

fn piece(bytes: &[u8]) -> StripePiece {
    StripePiece {
        ino: Ino(u64_at(bytes, 0)),
        file_offset: u64_at(bytes, 8),
        stripe_offset: u32_at(bytes, 16),
        length: u32_at(bytes, 20),
    }
}

fn is_inside(piece: &StripePiece, stripe_length: u32) -> bool {
    let end = u64::from(piece.stripe_offset) + u64::from(piece.length);
    piece.stripe_offset.is_multiple_of(BLOCK) && piece.length > 0 && end <= u64::from(stripe_length)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
