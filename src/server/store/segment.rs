//! A pack segment: many small shards in one file.
//!
//! ```text
//! ┌────────┬─────────┬─────────┬─────────┬─ ─ ─┬──────┐
//! │ header │ image   │ dead    │ image   │     │ seal │     everything begins on a 4 KiB block
//! └────────┴─────────┴─────────┴─────────┴─ ─ ─┴──────┘
//! header: "OKAPIPAK", version u16, 6 zeros, cluster u128, number u32, CRC32C u32 of what is before, zeros
//! seal:   "OKAPIEND", version u16, 6 zeros, cluster u128, number u32, CRC32C u32 of what is before, zeros
//! ```
//!
//! A segment is only ever appended to, by the process that made it. When it is full (or found at a later start)
//! it is *sealed*: everything before the seal was synced when the seal was written. So the scan of a sealed
//! segment reads heads only. Without a seal the machine may have died while images were being written, heads
//! without their data included: every block is checked then, and what is torn is marked dead.
//!
//! Images begin on blocks, so a damaged one costs only itself: the scan goes on block by block until a valid
//! header follows. (Inside a damaged image there could be the bytes of a file that is itself a shard of this
//! cluster. It is taken for one: a true copy, which the monitors will call garbage.)

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::index::Record;
use crate::codec::shard::{BadShard, DEAD_MARK, Head, Header};
use crate::env::disk::{DiskFile, is_bad_sector};
use crate::types::ClusterId;
use crate::types::limits::BLOCK;

/// First bytes of a segment.
pub(in crate::server) const MAGIC: [u8; 8] = *b"OKAPIPAK";
const SEAL: [u8; 8] = *b"OKAPIEND";
const VERSION: u16 = 1;
const CRC_AT: usize = 36;
/// How much the scan reads at a time while it goes block by block.
const WINDOW: u64 = 1 << 20;

/// Everything that is in a segment.
#[derive(Default)]
pub(in crate::server) struct Contents {
    /// Whether its seal is in place.
    pub(in crate::server) is_sealed: bool,
    /// Its images, in order.
    pub(in crate::server) images: Vec<Image>,
    /// Ranges in between that hold something else than zeros: debris of a crash, or damage.
    pub(in crate::server) debris: Vec<Range<u64>>,
}

/// An image in a segment.
pub(in crate::server) struct Image {
    /// Where it begins.
    pub(in crate::server) offset: u64,
    /// The fixed part of its head.
    pub(in crate::server) header: Header,
    /// How it is.
    pub(in crate::server) state: ImageState,
}

/// How an image in a segment is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::server) enum ImageState {
    /// Deleted.
    Dead,
    /// Its head is good, and, if that was looked at, its data.
    Whole(Box<Head>),
    /// Its header is good; its tables are not, or the segment ends within it, or the disk cannot read it.
    BadHead(BadShard),
    /// These blocks of its data are not what was written.
    BadBlocks(Box<Head>, Vec<u32>),
}

impl Image {
    /// Where it lies, in the segment of that number.
    pub(super) fn record(&self, segment: u32) -> Record {
        Record {
            segment,
            offset: u32::try_from(self.offset).expect("segments are short"),
            length: self.header.image_bytes(),
        }
    }
}

/// The first block of a segment.
pub(super) fn header(cluster: ClusterId, number: u32) -> Vec<u8> {
    end_block(MAGIC, cluster, number)
}

/// The last block of a full segment.
pub(super) fn seal(cluster: ClusterId, number: u32) -> Vec<u8> {
    end_block(SEAL, cluster, number)
}

/// Whether that is a segment's first block, and of which cluster.
pub(in crate::server) fn parse_header(block: &[u8]) -> Option<ClusterId> {
    let cluster = u128::from_le_bytes(block.get(16..32)?.try_into().ok()?);
    is_end_block(block, MAGIC).then_some(ClusterId(cluster))
}

/// Kills the images at these places; durable on return.
pub(super) fn kill(file: &dyn DiskFile, records: &[Record]) -> io::Result<()> {
    for record in records {
        file.write(record.offset.into(), &DEAD_MARK)?;
    }
    file.sync()
}

/// Goes through a segment. `deep` checks every block of every image, seal or not; without it, only those of
/// a segment that was not sealed are.
///
/// # Errors
///
/// What the disk says.
pub(in crate::server) fn scan(file: &dyn DiskFile, deep: bool) -> io::Result<Contents> {
    let block = u64::from(BLOCK);
    let length = file.length()? / block * block;
    let mut contents = Contents::default();
    let mut end = length;
    if length > 0 && is_end_block(&file.read(length - block, BLOCK as usize)?, SEAL) {
        contents.is_sealed = true;
        end -= block;
    }
    let deep = deep || !contents.is_sealed;
    let mut blocks = Blocks::new(file, end);
    let mut at = 0;
    while at < end {
        let Some(bytes) = blocks.at(at)? else {
            contents.add_debris(at);
            at += block;
            continue;
        };
        match Header::parse(&bytes) {
            Ok(header) if at + u64::from(header.image_bytes()) <= end => {
                let state = match examine(file, at, &header, deep) {
                    Err(error) if is_bad_sector(&error) => {
                        ImageState::BadHead(BadShard::Unreadable)
                    }
                    state => state?,
                };
                contents.images.push(Image { offset: at, header, state });
                at += u64::from(header.image_bytes());
            }
            parsed => {
                let is_header = at == 0 && is_end_block(&bytes, MAGIC);
                if !is_header && bytes.iter().any(|byte| *byte != 0) {
                    contents.add_debris(at);
                }
                if let Ok(header) = parsed
                    && !header.dead
                {
                    let (have, need) = (end - at, u64::from(header.image_bytes()));
                    let state = ImageState::BadHead(BadShard::CutOff { have, need });
                    contents.images.push(Image { offset: at, header, state });
                }
                at += block;
            }
        }
    }
    Ok(contents)
}

fn examine(file: &dyn DiskFile, at: u64, header: &Header, deep: bool) -> io::Result<ImageState> {
    if header.dead {
        return Ok(ImageState::Dead);
    }
    let head_bytes = header.head_bytes();
    let head = match Head::parse(&file.read(at, head_bytes as usize)?) {
        Ok(head) => Box::new(head),
        Err(error) => return Ok(ImageState::BadHead(error)),
    };
    if deep {
        let data = file.read(at + u64::from(head_bytes), header.shard_bytes as usize)?;
        let damaged = head.damaged_blocks(0, &data);
        if !damaged.is_empty() {
            return Ok(ImageState::BadBlocks(head, damaged));
        }
    }
    Ok(ImageState::Whole(head))
}

impl Contents {
    fn add_debris(&mut self, at: u64) {
        let block = u64::from(BLOCK);
        match self.debris.last_mut() {
            Some(range) if range.end == at => range.end += block,
            _ => self.debris.push(at..at + block),
        }
    }
}

/// Reads single blocks in ascending order, many at a time.
struct Blocks<'a> {
    file: &'a dyn DiskFile,
    end: u64,
    from: u64,
    window: Bytes,
}

impl<'a> Blocks<'a> {
    fn new(file: &'a dyn DiskFile, end: u64) -> Self {
        let window = Bytes::new();
        let from = 0;
        Self { file, end, from, window }
    }

    /// The block at that offset; `None` when the disk cannot read it any more.
    fn at(&mut self, at: u64) -> io::Result<Option<Bytes>> {
        let block = u64::from(BLOCK);
        if at < self.from || at + block > self.from + self.window.len() as u64 {
            let read = |length: u64| self.file.read(at, length as usize);
            let window = match read(WINDOW.min(self.end - at)) {
                Err(error) if is_bad_sector(&error) => read(block),
                window => window,
            };
            self.window = match window {
                Err(error) if is_bad_sector(&error) => return Ok(None),
                window => window?,
            };
            self.from = at;
        }
        let from = (at - self.from) as usize;
        Ok(Some(self.window.slice(from..from + BLOCK as usize)))
    }
}

fn end_block(magic: [u8; 8], cluster: ClusterId, number: u32) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK as usize);
    block.extend(magic);
    block.extend(VERSION.to_le_bytes());
    block.extend([0; 6]);
    block.extend(cluster.0.to_le_bytes());
    block.extend(number.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&block);
    block.extend(crc.to_le_bytes());
    block.resize(BLOCK as usize, 0);
    block
}

fn is_end_block(block: &[u8], magic: [u8; 8]) -> bool {
    block.len() >= CRC_AT + 4
        && block.starts_with(&magic)
        && crc_fast::crc32_iscsi(&block[..CRC_AT]).to_le_bytes() == block[CRC_AT..CRC_AT + 4]
}
