//! The bytes of a segment file.
//!
//! ```text
//! segment   magic 8 | version u32 | CRC32C of the rest of the header u32 | index of the first entry u64
//!           then records, each begun on a multiple of 8, then zeros as far as the file was laid out ahead
//! record    length of the body u32 | CRC32C of all that follows u32
//!           | index u64 | term u64 | durable u64 | kind u8 | body | zeros up to a multiple of 8
//! ```
//!
//! Integers are little-endian. `durable`: all entries below this index were durable when the record was
//! written. A record of kind [`COMMITTED`] is no entry: it says that the entry that it names is committed.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use super::LogError;
use super::files::Files;
pub(crate) use crate::types::Position;

const MAGIC: &[u8; 8] = b"OKAPILOG";
const VERSION: u32 = 1;

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEAD: usize = 24;
const HEAD: usize = 33;
const DURABLE_AT: usize = 24;
const ALIGN: usize = 8;
/// No body is longer, in bytes: a command is bounded far below (one frame's header).
const BODY_MAX: usize = 64 << 20;

const ENTRY: u8 = 0;
const COMMITTED: u8 = 1;

/// An entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// Where it is.
    pub(crate) position: Position,
    /// What it says.
    pub(crate) body: Bytes,
}

/// The header of a segment.
pub(super) fn segment_head(first: u64) -> Vec<u8> {
    let mut rest = Vec::with_capacity(SEGMENT_HEAD);
    rest.extend_from_slice(&first.to_le_bytes());
    let mut head = Vec::with_capacity(SEGMENT_HEAD);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&crc(&rest).to_le_bytes());
    head.extend_from_slice(&rest);
    head
}

/// What the header of a segment says.
pub(super) enum SegmentHead {
    /// The index of its first entry.
    First(u64),
    /// It was written by a version that we do not know.
    Version(u32),
    /// It is no header.
    Bad,
}

/// Reads the header of a segment.
pub(super) fn parse_segment_head(bytes: &[u8]) -> SegmentHead {
    let Some((head, _)) = bytes.split_first_chunk::<SEGMENT_HEAD>() else {
        return SegmentHead::Bad;
    };
    let version = u32_at(head, 8);
    if &head[..8] != MAGIC {
        SegmentHead::Bad
    } else if version != VERSION {
        SegmentHead::Version(version)
    } else if u32_at(head, 12) == crc(&head[16..]) {
        SegmentHead::First(u64_at(head, 16))
    } else {
        SegmentHead::Bad
    }
}

/// Appends an entry to `out`; gives its span within `out`.
pub(super) fn write_entry(out: &mut Vec<u8>, record: &Record, durable: u64) -> (usize, usize) {
    write(out, record.position, durable, ENTRY, &record.body)
}

/// Appends, to `out`, that all up to `committed` is committed.
pub(super) fn write_committed(out: &mut Vec<u8>, committed: Position, durable: u64) {
    write(out, committed, durable, COMMITTED, &[]);
}

fn write(
    out: &mut Vec<u8>,
    position: Position,
    durable: u64,
    kind: u8,
    body: &[u8],
) -> (usize, usize) {
    let start = out.len();
    let length = u32::try_from(body.len()).expect("an entry is bounded by its proposer");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for number in [position.index, position.term, durable] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(kind);
    out.extend_from_slice(body);
    let crc = crc(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    let end = out.len();
    out.resize(end.next_multiple_of(ALIGN), 0);
    (start, end - start)
}

/// A record found in a segment.
pub(super) struct Found<'a> {
    /// The entry, or the one that is committed.
    pub(super) position: Position,
    /// The body of an entry; `None` for a record that says what is committed.
    pub(super) body: Option<&'a [u8]>,
    /// Bytes up to the next record.
    pub(super) bytes: usize,
    /// Bytes without the zeros at the end.
    pub(super) span: usize,
}

/// Reads the record at the beginning of `bytes`; `None` when there is no whole one.
pub(super) fn parse(bytes: &[u8]) -> Option<Found<'_>> {
    let head = bytes.first_chunk::<HEAD>()?;
    let length = u32_at(head, 0) as usize;
    if length > BODY_MAX {
        return None;
    }
    let span = HEAD + length;
    let checked = bytes.get(8..span)?;
    if crc(checked) != u32_at(head, 4) {
        return None;
    }
    let body = match head[HEAD - 1] {
        ENTRY => Some(&bytes[HEAD..span]),
        COMMITTED => None,
        _ => return None,
    };
    Some(Found {
        position: Position { index: u64_at(head, 8), term: u64_at(head, 16) },
        body,
        bytes: span.next_multiple_of(ALIGN),
        span,
    })
}

/// Looks, behind a place where no whole record is, for one that knows entry `index` to have been durable: then
/// the place is not the end of the log, but damage.
pub(super) fn witness(bytes: &[u8], index: u64) -> Option<u64> {
    (0..bytes.len())
        .step_by(ALIGN)
        .filter(|at| {
            // The cheap test first: this runs over every byte behind a torn end.
            let rest = &bytes[*at..];
            rest.len() >= HEAD && u64_at(rest, DURABLE_AT) > index
        })
        .find_map(|at| parse(&bytes[at..]).map(|found| found.position.index))
}

/// Where an entry's record is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// The entry.
    pub(super) position: Position,
    /// The segment.
    pub(super) segment: String,
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) length: usize,
}

/// Reads an entry back.
pub(super) fn read(files: &dyn Files, span: &Span) -> Result<Record, LogError> {
    let bytes = files.read_at(&span.segment, span.offset, span.length)?;
    match parse(&bytes) {
        Some(Found { position, body: Some(_), .. }) if position == span.position => {
            Ok(Record { position, body: Bytes::from(bytes).slice(HEAD..) })
        }
        _ => Err(LogError::Damaged(format!(
            "entry {} in {} does not match its checksum",
            span.position.index, span.segment
        ))),
    }
}

fn crc(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).expect("CRC32C has 32 bits")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes[at..].first_chunk().expect("within the header");
    u32::from_le_bytes(*bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes[at..].first_chunk().expect("within the header");
    u64::from_le_bytes(*bytes)
}
