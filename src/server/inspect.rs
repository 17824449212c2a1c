//! Looking at a shard file or a pack segment offline: what it is, and whether it is whole.

use std::fmt;
use std::io;
use std::path::Path;

use super::store::segment::{self, ImageState};
use crate::codec::shard::{BadShard, HEAD_BYTES_MAX, Head, Header};
use crate::env::disk::DiskFile;
use crate::env::system::disk::SystemDisk;
use crate::types::limits::BLOCK;

/// What a file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// One shard.
    Shard(ShardReport),
    /// A pack segment.
    Segment {
        /// Its shards, in order.
        shards: Vec<ShardReport>,
        /// Deleted shards whose space has not been given back yet.
        dead: usize,
        /// Bytes that are no shard: debris of a crash, or damage.
        debris_bytes: u64,
        /// Whether it ends as a full segment does. One that does not is being written, or cut off.
        is_sealed: bool,
    },
}

/// A shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardReport {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// The fixed part of its head.
    pub header: Header,
    /// Its pieces and checksums, or what is wrong with them.
    pub head: Result<Head, BadShard>,
    /// Blocks of its data that are damaged.
    pub damaged_blocks: Vec<u32>,
}

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is no shard, or too damaged to say which.
    #[error(transparent)]
    Bad(#[from] BadShard),
}

/// Reads a shard file or a pack segment and checks every block of it.
///
/// # Errors
///
/// [`InspectError`], a sentence without the path.
pub fn inspect(path: &Path) -> Result<Report, InspectError> {
    let file = SystemDisk::open_to_look(path)?;
    let length = file.length()?;
    let start = file.read(0, length.min(u64::from(BLOCK)) as usize)?;
    if start.starts_with(&segment::MAGIC) {
        inspect_segment(&*file)
    } else {
        inspect_shard(&*file, length).map(Report::Shard)
    }
}

fn inspect_shard(file: &dyn DiskFile, length: u64) -> Result<ShardReport, InspectError> {
    let start = file.read(0, length.min(HEAD_BYTES_MAX as u64) as usize)?;
    let header = Header::parse(&start)?;
    let need = u64::from(header.image_bytes());
    if length < need {
        return Err(BadShard::CutOff { have: length, need }.into());
    }
    let head = Head::parse(&start);
    let damaged_blocks = match &head {
        Ok(head) => {
            let data = file.read(header.head_bytes().into(), header.shard_bytes as usize)?;
            head.damaged_blocks(0, &data)
        }
        Err(_) => Vec::new(),
    };
    Ok(ShardReport { offset: 0, header, head, damaged_blocks })
}

fn inspect_segment(file: &dyn DiskFile) -> Result<Report, InspectError> {
    let contents = segment::scan(file, true)?;
    let images = contents.images.len();
    let reports = contents.images.into_iter().filter_map(|image| {
        let (head, damaged_blocks) = match image.state {
            ImageState::Dead => return None,
            ImageState::Whole(head) => (Ok(*head), Vec::new()),
            ImageState::BadHead(error) => (Err(error), Vec::new()),
            ImageState::BadBlocks(head, blocks) => (Ok(*head), blocks),
        };
        Some(ShardReport { offset: image.offset, header: image.header, head, damaged_blocks })
    });
    let shards: Vec<ShardReport> = reports.collect();
    Ok(Report::Segment {
        dead: images - shards.len(),
        shards,
        is_sealed: contents.is_sealed,
        debris_bytes: contents.debris.iter().map(|range| range.end - range.start).sum(),
    })
}

impl Report {
    /// Its shards.
    pub fn shards(&self) -> &[ShardReport] {
        match self {
            Self::Shard(shard) => std::slice::from_ref(shard),
            Self::Segment { shards, .. } => shards,
        }
    }

    /// What is damaged, a sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> =
            self.shards().iter().filter_map(ShardReport::problem).collect();
        match self {
            Self::Segment { debris_bytes, .. } if *debris_bytes > 0 => problems.push(format!(
                "{debris_bytes} bytes of this segment are no shard: left by a crash, or damaged"
            )),
            _ => {}
        }
        problems
    }
}

impl ShardReport {
    /// What is wrong with it, in a sentence.
    pub fn problem(&self) -> Option<String> {
        let (index, stripe) = (self.header.index, self.header.ident.stripe);
        match &self.head {
            Err(error) => Some(format!("shard {index} of stripe {stripe}: {error}")),
            Ok(_) if self.damaged_blocks.is_empty() => None,
            Ok(_) => {
                let blocks: Vec<String> = self.damaged_blocks.iter().map(u32::to_string).collect();
                let blocks = blocks.join(", ");
                Some(format!(
                    "shard {index} of stripe {stripe}: damaged in block {blocks} of its data"
                ))
            }
        }
    }

    fn role(&self) -> &'static str {
        let width = self.header.ident.width;
        match self.header.index.0 < width.data {
            true if width.data == 1 => "the data",
            true => "data",
            false if width.data == 1 => "a copy",
            false => "parity",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard) => write!(f, "{shard}"),
            Self::Segment { shards, dead, is_sealed, .. } => {
                let end =
                    if *is_sealed { "sealed" } else { "not sealed: being written, or cut off" };
                writeln!(f, "pack segment: {} shards, {dead} deleted, {end}", shards.len())?;
                shards.iter().try_for_each(|shard| write!(f, "at byte {}: {shard}", shard.offset))
            }
        }
    }
}

impl fmt::Display for ShardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Header { ident, index, stripe_length, shard_bytes, hash, .. } = &self.header;
        writeln!(
            f,
            "shard {index} ({}) of stripe {}, {} wide, {stripe_length} bytes",
            self.role(),
            ident.stripe,
            ident.width
        )?;
        writeln!(f, "  cluster      {}, incarnation {}", ident.cluster, ident.incarnation)?;
        writeln!(f, "  data         {shard_bytes} bytes in {} blocks", self.header.blocks())?;
        writeln!(f, "  hash         {hash}")?;
        if let Ok(head) = &self.head {
            writeln!(f, "  pieces       {}", head.pieces.len())?;
            for piece in &head.pieces {
                writeln!(
                    f,
                    "    inode {}, {} bytes at {}: at {} of the stripe",
                    piece.ino, piece.length, piece.file_offset, piece.stripe_offset
                )?;
            }
        }
        match self.problem() {
            None => writeln!(f, "  state        whole"),
            Some(problem) => writeln!(f, "  state        DAMAGED: {problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::codec::shard::{StripeIdent, build};
    use crate::server::store::Store;
    use crate::types::{ClusterId, Incarnation, Ino, ShardIndex, StripeId, StripePiece, Width};
    use crate::wire::shards::ShardId;

    const CLUSTER: ClusterId = ClusterId(9);

    /// A store with the second shard of stripe `stripe`, of `length` bytes.
    fn put(store: &Store, stripe: u64, length: u32) {
        let ident = StripeIdent {
            cluster: CLUSTER,
            incarnation: Incarnation(0),
            stripe: StripeId(stripe),
            width: Width { data: 2, parity: 1 },
        };
        let piece = StripePiece { ino: Ino(42), file_offset: 8192, stripe_offset: 0, length };
        let payload = Bytes::from(vec![1; length as usize]);
        let image = build(ident, &payload, &[piece]).remove(1);
        let parts: Vec<Bytes> = std::iter::once(image.head).chain(image.data).collect();
        let index = ShardIndex(1);
        let stripe = StripeId(stripe);
        store.put(ShardId { stripe, index }, &parts.concat().into()).unwrap();
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_shard_file_says_what_it_is_and_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(SystemDisk::new(dir.path()));
        put(&Store::open(disk, CLUSTER, None).unwrap(), 5, 1 << 20);
        let path = dir.path().join("shards/00/0000000000000005-01.shard");
        let report = inspect(&path).unwrap();
        assert_eq!(report.problems(), [""; 0]);
        let text = report.to_string();
        assert!(text.starts_with("shard 1 (data) of stripe 5, 2+1 wide, 1048576 bytes"), "{text}");
        assert!(text.contains("inode 42, 1048576 bytes at 8192"), "{text}");

        flip(&path, 4096 + 3 * 4096);
        let problems = inspect(&path).unwrap().problems();
        assert_eq!(problems, ["shard 1 of stripe 5: damaged in block 3 of its data"]);
        flip(&path, 90);
        let problems = inspect(&path).unwrap().problems();
        assert!(problems[0].contains("table of checksums is damaged"), "{problems:?}");
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..9000]).unwrap();
        let error = inspect(&path).unwrap_err().to_string();
        assert_eq!(error, "the shard is cut off: 9000 bytes of 528384 are there");
        flip(&path, 30);
        let error = inspect(&path).unwrap_err().to_string();
        assert!(error.contains("header is damaged"), "{error}");
        for garbage in ["", "x", "no shard at all"] {
            std::fs::write(&path, garbage).unwrap();
            let error = inspect(&path).unwrap_err().to_string();
            assert!(error.contains("no OkapiFS shard"), "{error}");
        }
    }

    #[test]
    fn a_segment_says_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(SystemDisk::new(dir.path()));
        let store = Store::open(disk, CLUSTER, None).unwrap();
        for stripe in 1..=3 {
            put(&store, stripe, 20_000);
        }
        let path = dir.path().join("packs/00000000.pack");
        let report = inspect(&path).unwrap();
        assert_eq!((report.shards().len(), report.problems()), (3, vec![]));
        let image = report.shards()[1].header.image_bytes() as usize;
        flip(&path, 4096 + image + 4096);
        flip(&path, 4096 + 2 * image + 20);
        let report = inspect(&path).unwrap();
        assert_eq!(report.shards().len(), 2);
        assert_eq!(report.shards()[1].damaged_blocks, [0]);
        assert_eq!(report.problems().len(), 2);
        assert!(report.to_string().starts_with("pack segment: 2 shards, 0 deleted, not sealed"));

        // Cut off within the second image: it is named all the same.
        flip(&path, 4096 + image + 4096);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..4096 + image + 8192]).unwrap();
        let report = inspect(&path).unwrap();
        let problems = report.problems();
        assert!(problems[0].contains("shard 1 of stripe 2: the shard is cut off"), "{problems:?}");
        drop(store);
        let disk = Arc::new(SystemDisk::new(dir.path()));
        drop(Store::open(disk, CLUSTER, None).unwrap());
        assert!(inspect(&path).unwrap().to_string().contains("1 shards, 0 deleted, sealed"));
    }
}
