//! A journal of fjall that a power cut tore in its last, unsynced part is cut where it is whole.
//!
//! fjall writes each batch to its journal before it puts it into memory, and we let it do so without waiting
//! for the disk: the Raft log is what makes commands durable. What fjall then promises, read in its source
//! (3.1.13, `journal/`, `recovery.rs`, `worker_pool.rs`):
//!
//! * a batch is Start, items, End with a checksum over the items; a tail that ends in the middle of a batch, or
//!   in bytes that are no entry, is cut off at the end of the last whole batch;
//! * a batch never straddles two memtables, a memtable is written to a table only after the journal was synced,
//!   and a journal is synced before its successor is begun.
//!
//! So what is found again is always a prefix of what was written, at least up to the last sync, and only the
//! newest journal can be torn. There is one hole: the file is laid out ahead, pages reach the disk in any
//! order, and a page in the *middle* of a batch may be missing (zeros) while its End is there. fjall calls that
//! a checksum mismatch and refuses to open. Nothing after such a place can have been synced, so it is as good
//! a tail as any other, and [`mend`] cuts it. Were it damage to synced bytes instead, the state would be older
//! than the Raft log reaches back, and the monitor refuses to start with it (`raft::RaftError::StateTooOld`).

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// Cuts the newest journal in `dir` behind its last whole batch. Says how many bytes it cut off; 0 when
/// nothing was wrong with it (what lies behind may be zeros: the file is laid out ahead).
///
/// # Errors
///
/// When a file cannot be read or written.
pub(super) fn mend(dir: &Path) -> io::Result<u64> {
    let Some(path) = newest(dir)? else {
        return Ok(0);
    };
    let bytes = std::fs::read(&path)?;
    let whole = whole_batches(&bytes);
    if bytes[whole..].iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(whole as u64)?;
    file.sync_all()?;
    Ok((bytes.len() - whole) as u64)
}

/// All journals in `dir`, by their numbers.
pub(super) fn journals(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number =
            path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    Ok(found)
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    Ok(journals(dir)?.into_iter().max().map(|(_, path)| path))
}

/// How many bytes the whole batches at the beginning take.
fn whole_batches(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(after) = batch(rest) {
        rest = after;
    }
    bytes.len() - rest.len()
}

/// What follows a whole batch.
fn batch(bytes: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = bytes.split_first()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (_seqno, mut rest) = rest.split_first_chunk::<8>()?;
    if *tag != START {
        return None;
    }
    let mut checksum = Xxh3::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (item, after) = rest.split_at_checked(item_bytes(rest)?)?;
        checksum.update(item);
        rest = after;
    }
    let (tag, rest) = rest.split_first()?;
    let (expected, rest) = rest.split_first_chunk::<8>()?;
    let rest = rest.strip_prefix(TRAILER)?;
    (*tag == END && u64::from_le_bytes(*expected) == checksum.digest()).then_some(rest)
}

/// The length of the item at the beginning.
fn item_bytes(bytes: &[u8]) -> Option<usize> {
    const HEAD: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
    match *bytes.first()? {
        ITEM => {
            let head = bytes.first_chunk::<HEAD>()?;
            let key = u16::from_le_bytes([head[11], head[12]]);
            let value = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
            Some(HEAD + usize::from(key) + value as usize)
        }
        CLEAR => Some(9),
        _ => None,
    }
}
